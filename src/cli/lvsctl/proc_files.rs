//! `lvsctl proc`: prints the texts of `/proc/net/ip_vs*` or writes them as files for programs that read a procfs.

use std::fs;
use std::io;
use std::path::Path;

use hyper::Method;
use lvs_api::proc_text;

use crate::lvsctl::client::{Client, collect, escape};
use crate::lvsctl::command::Proc;
use crate::lvsctl::run::{Failure, put};

/// Runs the command.
pub async fn run(client: &Client, wanted: &Proc) -> Result<(), Failure> {
    let Some(folder) = &wanted.to else {
        let file = wanted.file.as_deref().unwrap_or_default();
        return put(&text(client, file).await?);
    };
    let net = folder.join("net");
    let failed = |path: &Path, error: io::Error| Failure::Usage(format!("{}: {error}", path.display()));
    fs::create_dir_all(&net).map_err(|error| failed(&net, error))?;
    for name in proc_text::NAMES {
        let text = text(client, name).await?;
        // Replaced by one rename, so a reader sees the old file or the new one.
        let (path, fresh) = (net.join(name), net.join(format!(".{name}")));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

async fn text(client: &Client, file: &str) -> Result<String, Failure> {
    let answer = client
        .send(Method::GET, &format!("/proc/{}", escape(file)), None)
        .await?;
    Ok(String::from_utf8_lossy(&collect(answer).await?).into_owned())
}
