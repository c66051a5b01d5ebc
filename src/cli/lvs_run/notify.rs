//! Starts a program that cannot be preloaded: first a supervisor, then a filter on this process, then the program.
//!
//! In:  a program and its arguments. Out: this process becomes the program, so its id, signals, exit code and terminal are
//! the same as without `lvs-run`. The supervisor is no child of the program and ends with the program's last process.
//! Never: starts the program when the supervisor is not ready.

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::ValueEnum;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::lvs_run::arguments::Part;
use crate::lvs_run::{filter, raw_calls};

/// This program, even if its file has been replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// A supervised program that opens this gets the path of the supervisor's lvsd. No kernel has a file of this name.
pub(crate) const SUPERVISION_FILE: &str = "/proc/net/ip_vs_supervisor";
/// The supervisor sends this when it is ready.
pub(crate) const READY: &[u8] = b"+";

/// How the supervisor reaches lvsd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Director<'a> {
    pub(crate) socket: &'a Path,
    /// The longest time that an answer may take; 0 for as long as lvsd lives.
    pub(crate) timeout_sec: f64,
}

impl Director<'_> {
    /// The longest time that an answer may take.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        (self.timeout_sec > 0.0).then(|| Duration::from_secs_f64(self.timeout_sec))
    }
}

/// The program that this process becomes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool<'a> {
    pub(crate) path: &'a Path,
    /// Its `argv[0]`, where it differs from the path.
    pub(crate) name: Option<&'a OsStr>,
    pub(crate) arguments: &'a [OsString],
}

fn supervision(part: Part, director: Director<'_>) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    let name = part
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned());
    command
        .arg0("lvs-run")
        .args(["--supervise", &name, "--socket"])
        .arg(director.socket)
        .args(["--timeout", &director.timeout_sec.to_string()]);
    command
}

/// Why a tool was not started.
#[derive(Debug)]
pub(crate) enum LaunchFailure {
    /// It cannot be supervised here. This process is as it was.
    Unavailable(String),
    /// It was to be started, and that failed. This process may have a filter by now.
    Broken(String),
}

impl LaunchFailure {
    /// Exit code and message of `lvs-run`.
    pub(crate) fn into_words(self) -> (u8, String) {
        let (Self::Unavailable(reason) | Self::Broken(reason)) = self;
        (super::EXIT_NOT_EXECUTABLE, reason)
    }
}

/// The socket of the lvsd to which a supervisor leads this process already, if there is one.
pub(crate) fn existing_supervision() -> Option<PathBuf> {
    let socket = std::fs::read(SUPERVISION_FILE).ok()?;
    Some(PathBuf::from(OsString::from_vec(socket)))
}

/// Becomes `tool`, supervised. Returns only when that fails.
pub(crate) fn become_supervised(tool: Tool<'_>, director: Director<'_>) -> LaunchFailure {
    let named = |reason| format!("{} cannot be supervised: {reason}", tool.path.display());
    match prepare(director) {
        Ok(()) => become_tool(tool),
        Err(LaunchFailure::Unavailable(reason)) => LaunchFailure::Unavailable(named(reason)),
        Err(LaunchFailure::Broken(reason)) => LaunchFailure::Broken(named(reason)),
    }
}

/// Becomes `tool`. Returns only when that fails.
pub(crate) fn become_tool(tool: Tool<'_>) -> LaunchFailure {
    let name = tool.name.unwrap_or(tool.path.as_os_str());
    let error = Command::new(tool.path).arg0(name).args(tool.arguments).exec();
    LaunchFailure::Broken(format!("{}: {error}", tool.path.display()))
}

fn prepare(director: Director<'_>) -> Result<(), LaunchFailure> {
    let failed =
        |what: &'static str| move |error: std::io::Error| LaunchFailure::Unavailable(format!("{what}: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(failed("no socket"))?;
    let status = supervision(Part::Launcher, director)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(failed("the supervisor does not start"))?;
    if !status.success() {
        let reason = format!("the supervisor does not start: {status}");
        return Err(LaunchFailure::Unavailable(reason));
    }
    let (context, listener) = filter::load().map_err(|error| {
        LaunchFailure::Unavailable(format!(
            "the kernel takes no filter ({error}); user notification needs Linux 5.14 and a container that allows it"
        ))
    })?;
    // The context keeps the listener open until this process becomes the program.
    std::mem::forget(context);
    let descriptors = [listener];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let gone = |reason: String| LaunchFailure::Broken(format!("the supervisor is gone: {reason}"));
    sendmsg(ours.as_fd(), &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL)
        .map_err(|error| gone(error.to_string()))?;
    let mut word = Vec::new();
    ours.read_to_end(&mut word).map_err(|error| gone(error.to_string()))?;
    match word.as_slice() {
        READY => Ok(()),
        [] => Err(LaunchFailure::Broken("the supervisor ended".into())),
        word => Err(LaunchFailure::Broken(String::from_utf8_lossy(word).into_owned())),
    }
}

/// The launcher: starts the supervisor, for which nobody waits afterwards.
pub(crate) fn launch(director: Director<'_>) -> std::io::Result<()> {
    // The supervisor must not keep pipes of the program's parent open.
    raw_calls::close_others_on_exec()?;
    supervision(Part::Supervisor, director)
        .stdin(Stdio::inherit())
        .current_dir("/")
        .spawn()
        .map(|_| ())
}
