//! Starts a program that cannot be preloaded: a supervisor beside it, a filter on it, then the program itself.
//!
//! In:  a program and its arguments. Out: the program in this process' place, so that its id, its signals, its
//! exit code and its terminal are as without `lvs-run`; the supervisor is nobody's child and ends with the last
//! process of the program. Never: starts the program when the supervisor is not ready.

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::ValueEnum;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::lvs_run::arguments::Stage;
use crate::lvs_run::{filter, raw_calls};

/// This program, even when its file was replaced meanwhile.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// What the supervisor says when it is ready.
pub(crate) const READY: &[u8] = b"+";

/// How the supervisor reaches lvsd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Director<'a> {
    pub(crate) socket: &'a Path,
    /// For an answer.
    pub(crate) timeout_sec: f64,
}

/// The program to become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool<'a> {
    pub(crate) path: &'a Path,
    /// What it is told that it is called.
    pub(crate) name: Option<&'a OsStr>,
    pub(crate) arguments: &'a [OsString],
}

fn supervisor(stage: Stage, director: Director<'_>) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    let name = stage
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    command
        .arg0("lvs-run")
        .args(["--supervise", &name, "--socket"])
        .arg(director.socket)
        .args(["--timeout", &director.timeout_sec.to_string()]);
    command
}

/// Becomes `tool`, supervised. Returns only when that failed, with what was in the way.
pub(crate) fn become_supervised(tool: Tool<'_>, director: Director<'_>) -> String {
    match prepare(director) {
        Ok(()) => {
            let name = tool.name.unwrap_or(tool.path.as_os_str());
            let error = Command::new(tool.path).arg0(name).args(tool.arguments).exec();
            format!("{}: {error}", tool.path.display())
        }
        Err(message) => format!("{} cannot be supervised: {message}", tool.path.display()),
    }
}

fn prepare(director: Director<'_>) -> Result<(), String> {
    let said = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let (mut ours, theirs) = UnixStream::pair().map_err(said("no socket"))?;
    let status = supervisor(Stage::Leave, director)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(said("the supervisor does not start"))?;
    if !status.success() {
        return Err(format!("the supervisor does not start: {status}"));
    }
    let (context, listener) = filter::load().map_err(|error| {
        format!(
            "the kernel takes no filter ({error}); user notification needs Linux 5.14 and a container that allows it"
        )
    })?;
    // Its listener is open until this process becomes the program.
    std::mem::forget(context);
    let descriptors = [listener];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(ours.as_fd(), &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)
        .map_err(|error| format!("the supervisor is gone: {error}"))?;
    let mut word = Vec::new();
    ours.read_to_end(&mut word).map_err(said("the supervisor is gone"))?;
    if word == READY {
        Ok(())
    } else if word.is_empty() {
        Err("the supervisor ended".into())
    } else {
        Err(String::from_utf8_lossy(&word).into_owned())
    }
}

/// The first of two steps: starts the second, which nobody waits for then.
pub(crate) fn leave(director: Director<'_>) -> std::io::Result<()> {
    // Pipes of whoever started the program must not stay open with the supervisor.
    raw_calls::close_others_on_exec()?;
    supervisor(Stage::Stay, director)
        .stdin(Stdio::inherit())
        .current_dir("/")
        .spawn()
        .map(|_| ())
}
