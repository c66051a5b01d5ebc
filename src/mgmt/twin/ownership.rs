//! Which TAPs lvsd has made, so that it gives back those and no others: their alias says so (`ip link` shows it).
//!
//! In:  the path of the admin socket, which one lvsd at a time has. Out: the mark, links that bear it, links deleted.
//! A mark lives and dies with its interface. An operator who sets another alias takes the interface as their own.
//! Never: deletes an interface without the mark of this lvsd.
//! Ref:  rtnetlink(7) `IFLA_IFALIAS`.

use std::fmt::Display;
use std::io;
use std::path::Path;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{LinkHandle, LinkMessageBuilder, LinkUnspec};

/// Whose twins they are.
#[derive(Clone, Debug)]
pub struct Owner(String);

/// An interface with a mark of the owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) mark: String,
}

impl Owner {
    /// The lvsd with this admin socket.
    pub fn new(socket: &Path) -> Self {
        Self(format!("kernel twin of lvsd at {},", socket.display()))
    }

    /// The mark of a twin that was made with these.
    pub(super) fn mark(&self, mac: [u8; 6], mtu: u16) -> String {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        format!("{} MAC {mac}, MTU {mtu}", self.0)
    }

    /// The owner's twin that is called `name`.
    pub(super) fn twin(&self, name: &str) -> io::Result<Option<Marked>> {
        Ok(self.twins()?.into_iter().find(|twin| twin.name == name))
    }

    fn twins(&self) -> io::Result<Vec<Marked>> {
        let owner = self.0.clone();
        with_links(async move |links| {
            let (mut listed, mut found) = (Box::pin(links.get().execute()), Vec::new());
            while let Some(link) = listed.try_next().await? {
                let (mut name, mut alias) = (String::new(), String::new());
                for attribute in link.attributes {
                    match attribute {
                        LinkAttribute::IfName(text) => name = text,
                        LinkAttribute::IfAlias(text) => alias = text,
                        _ => {}
                    }
                }
                if alias.starts_with(&owner) {
                    found.push(Marked {
                        ifindex: link.header.index,
                        name,
                        mark: alias,
                    });
                }
            }
            Ok(found)
        })
    }

    /// Deletes the owner's twins but for those with these names. The names of those that went.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn give_back_but(&self, wanted: &[&str]) -> io::Result<Vec<String>> {
        let mut gone = Vec::new();
        for twin in self.twins()? {
            if !wanted.contains(&twin.name.as_str()) {
                delete(twin.ifindex)?;
                gone.push(twin.name);
            }
        }
        Ok(gone)
    }
}

pub(super) fn set_mark(ifindex: u32, mark: String) -> io::Result<()> {
    with_links(async move |links| {
        let marked = LinkMessageBuilder::<LinkUnspec>::default()
            .index(ifindex)
            .append_extra_attribute(LinkAttribute::IfAlias(mark));
        links.change(marked.build()).execute().await
    })
}

pub(super) fn delete(ifindex: u32) -> io::Result<()> {
    with_links(async move |links| links.del(ifindex).execute().await)
}

/// Asks the kernel from a thread of its own, because the caller may be a task of a runtime or have none.
fn with_links<T: Send>(ask: impl AsyncFnOnce(LinkHandle) -> Result<T, rtnetlink::Error> + Send) -> io::Result<T> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, kernel, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let answer = ask(kernel.link()).await;
            connection.abort();
            answer.map_err(other)
        })
    };
    let answer = std::thread::scope(|scope| scope.spawn(work).join());
    answer.unwrap_or_else(|_| Err(other("the thread that asks the kernel panicked")))
}

fn other(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}
