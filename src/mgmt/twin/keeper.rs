//! Makes a kernel twin again that somebody deletes or moves to another namespace.
//!
//! In:  each new [`L3`]: a device without an interface has lost its twin. Out: a line in the log, a new TAP of the same
//! name, MAC address and MTU, in the hands of the twin thread and the mirror.
//! Never: gives it addresses; those are the operator's, as they were of the first.

use std::sync::Arc;
use std::time::Duration;

use lvs_core::l3::L3;
use nix::net::if_::if_nametoindex;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::mgmt::kernel::{KernelMirror, MirroredTwin};
use crate::mgmt::punt::{TwinDescriptor, TwinExchange};
use crate::mgmt::twin::fd_store::Inherited;
use crate::mgmt::twin::{self, TwinSpec};

/// The pause between two attempts while the kernel refuses.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct TwinKeeper {
    twins: Vec<Kept>,
    l3: watch::Receiver<Arc<L3>>,
    exchange: TwinExchange,
}

/// A twin and what has become of it.
#[derive(Debug)]
struct Kept {
    wanted: TwinSpec,
    /// Its present name, as last logged.
    name: String,
    /// The kernel's index of the interface that was made last.
    made: Option<u32>,
    /// Whether its loss is in the log.
    is_missed: bool,
}

impl TwinKeeper {
    /// All twins in the order of their devices, the kernel's network as it changes, and the way to the twin thread.
    pub fn new(twins: Vec<TwinSpec>, l3: watch::Receiver<Arc<L3>>, exchange: TwinExchange) -> Self {
        let kept = |wanted: TwinSpec| Kept {
            name: wanted.name.clone(),
            wanted,
            made: None,
            is_missed: false,
        };
        Self {
            twins: twins.into_iter().map(kept).collect(),
            l3,
            exchange,
        }
    }

    /// Looks after the twins, for ever.
    pub async fn keep(mut self, mirror: &KernelMirror) {
        loop {
            let newest = Arc::clone(&self.l3.borrow_and_update());
            let mut is_complete = true;
            for kept in &mut self.twins {
                match newest.interface(kept.wanted.device, 0) {
                    Some(interface) => kept.is_called(&interface.name),
                    // The mirror has not seen the new one yet.
                    None if kept.is_there() => {}
                    None => is_complete &= kept.make(mirror, &self.exchange),
                }
            }
            if is_complete {
                if self.l3.changed().await.is_err() {
                    return std::future::pending().await;
                }
            } else {
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

impl Kept {
    fn is_called(&mut self, name: &str) {
        self.is_missed = false;
        if self.name == name {
            return;
        }
        name.clone_into(&mut self.name);
        let configured = &self.wanted.name;
        if name == configured {
            log::info!("kernel twin {configured}: it has its name again");
        } else {
            log::warn!(
                "kernel twin {configured}: it is called {name} now; what is configured for {configured} does not find it, and \
                 a restart makes another one: ip link set {name} name {configured}"
            );
        }
    }

    fn is_there(&self) -> bool {
        self.made.is_some() && if_nametoindex(self.wanted.name.as_str()).ok() == self.made
    }

    /// Whether there is one again.
    fn make(&mut self, mirror: &KernelMirror, exchange: &TwinExchange) -> bool {
        let TwinSpec { device, name, .. } = &self.wanted;
        match twin::open(&self.wanted, &mut Inherited::default()) {
            Ok(made) => {
                log::error!(
                    "kernel twin {name}: it was deleted or moved away; it is made again, without its addresses and routes: \
                     configure them again"
                );
                mirror.replace_twin(MirroredTwin {
                    device: *device,
                    ifindex: made.ifindex,
                    name: name.clone(),
                });
                self.made = Some(made.ifindex);
                exchange.put(TwinDescriptor {
                    device: *device,
                    fd: made.fd,
                });
                true
            }
            Err(error) => {
                if !self.is_missed {
                    log::error!("{error}; it was deleted or moved away, and the device forwards nothing without it");
                }
                self.is_missed = true;
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use lvs_core::l3::DeviceId;

    use super::*;
    use crate::mgmt::namespace::{in_namespace, ip};
    use crate::mgmt::twin::ownership::Owner;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// `lose` takes the twin away.
    async fn is_made_again(lose: impl FnOnce()) {
        let wanted = TwinSpec {
            device: DeviceId(0),
            name: "wan".to_owned(),
            mac: [2, 0, 0, 0, 0x11, 0x22],
            mtu: 1_400,
            owner: Owner::new(Path::new("/run/lvsd/api.sock")),
        };
        let first = twin::open(&wanted, &mut Inherited::default()).unwrap();
        let mirrored = MirroredTwin {
            device: wanted.device,
            ifindex: first.ifindex,
            name: wanted.name.clone(),
        };
        let (sender, mut l3) = watch::channel(Arc::new(L3::default()));
        let mirror = KernelMirror::start(&[mirrored], move |l3| drop(sender.send(l3)))
            .await
            .unwrap();
        let exchange = TwinExchange::default();
        let keeper = TwinKeeper::new(vec![wanted], l3.clone(), exchange.clone());
        let seen = async {
            lose();
            let is_new = |l3: &Arc<L3>| {
                let interface = l3.interface(DeviceId(0), 0);
                interface.is_some_and(|interface| interface.id.0 != first.ifindex && interface.mtu == 1_400)
            };
            let begun = Instant::now();
            while !is_new(&l3.borrow_and_update()) {
                assert!(begun.elapsed() < PATIENCE, "{}", ip("-o link show"));
                let _ = tokio::time::timeout(RETRY_PAUSE, l3.changed()).await;
            }
        };
        tokio::select! {
            () = keeper.keep(&mirror) => {}
            () = seen => {}
        }
        assert_eq!(exchange.take().len(), 1, "the twin thread gets one descriptor");
    }

    fn block_on(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_twin_that_is_deleted_is_made_again() {
        in_namespace(|| {
            block_on(is_made_again(|| drop(ip("link del wan"))));
        });
    }

    #[test]
    fn a_twin_that_is_moved_to_another_namespace_is_made_again() {
        in_namespace(|| {
            let mut elsewhere = Command::new("unshare")
                .args(["--net", "cat"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
            let pid = elsewhere.id().to_string();
            let begun = Instant::now();
            while namespace(&pid) == namespace("thread-self") {
                assert!(begun.elapsed() < PATIENCE, "it stays in its namespace");
                std::thread::yield_now();
            }
            block_on(is_made_again(|| drop(ip(&format!("link set wan netns {pid}")))));
            // It ends with its standard input.
            drop(elsewhere.stdin.take());
            elsewhere.wait().unwrap();
        });
    }
}
