//! `lvs-run`: starts an unmodified IPVS tool so that it drives lvsd instead of the kernel.
//!
//! In:  a command line. Out: this process becomes the tool, with `liblvs_ipvs.so` in front of its C library. Where no
//! library can be loaded, a supervisor answers its system calls instead.
//! Never: starts a tool while lvsd does not listen. The tool would say that the kernel has no IPVS.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

pub mod arguments;
mod elf;
mod filter;
mod notify;
mod program;
mod raw_calls;
mod supervisor;

use arguments::{Mode, Part, RunArguments};
use notify::{Director, LaunchFailure, Tool};
use program::Program;

/// The library's file.
const LIBRARY: &str = "liblvs_ipvs.so";
/// lvsd does not answer.
const EXIT_NO_DIRECTOR: u8 = 3;
/// The library is not there.
const EXIT_NO_LIBRARY: u8 = 4;
/// The tool cannot be led to lvsd, so it is not started.
const EXIT_NOT_LED: u8 = 5;
/// The exit code of shells for a program that was found but cannot be executed.
const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The exit code of shells for a program that was not found.
const EXIT_NOT_FOUND: u8 = 127;

/// The whole program.
pub fn main() -> ExitCode {
    if let Some(others) = preloads_without_library() {
        let error = without_library(&others);
        eprintln!("lvs-run: cannot start itself without the library: {error}");
        return ExitCode::from(EXIT_NOT_EXECUTABLE);
    }
    let arguments = RunArguments::parse();
    if let Some(part) = arguments.supervise {
        return supervise(part, &arguments);
    }
    match run(&arguments) {
        Ok(never) => match never {},
        Err((code, message)) => {
            eprintln!("lvs-run: {message}");
            ExitCode::from(code)
        }
    }
}

/// What else is preloaded, when the library is in front of this program's own C library. A preloaded program has started
/// it then, and the library would start the launcher in place of the tool again.
fn preloads_without_library() -> Option<OsString> {
    let preload = env::var_os("LD_PRELOAD")?;
    let is_library = |path: &&[u8]| path.ends_with(LIBRARY.as_bytes());
    let paths = || preload.as_bytes().split(|byte| matches!(byte, b':' | b' '));
    paths().any(|path| is_library(&path)).then(|| {
        let others: Vec<&[u8]> = paths().filter(|path| !is_library(path)).collect();
        OsString::from_vec(others.join(&b':'))
    })
}

fn without_library(others: &OsStr) -> std::io::Error {
    let mut again = Command::new("/proc/self/exe");
    again.arg0("lvs-run").args(env::args_os().skip(1));
    if others.is_empty() {
        again.env_remove("LD_PRELOAD");
    } else {
        again.env("LD_PRELOAD", others);
    }
    again.exec()
}

fn run(arguments: &RunArguments) -> Result<Infallible, (u8, String)> {
    let [name, tool_arguments @ ..] = arguments.command.as_slice() else {
        return Err((2, "no command: give a tool, for example lvs-run ipvsadm -Ln".into()));
    };
    let program = Program::find(name).ok_or_else(|| {
        let name = Path::new(name).display();
        (
            EXIT_NOT_FOUND,
            format!("{name}: there is no such program in PATH; install it or give its path"),
        )
    })?;
    // The tool may change its folder.
    let socket = std::path::absolute(&arguments.socket).unwrap_or_else(|_| arguments.socket.clone());
    await_director(&socket, Duration::from_secs_f64(arguments.wait))?;
    let launch = Launch {
        tool: Tool {
            path: &program.path,
            name: arguments.name.as_deref(),
            arguments: tool_arguments,
        },
        director: director(&socket, arguments),
        library: arguments.library.as_deref(),
        typed: name,
    };
    match (arguments.mode, program.obstacle()) {
        (Mode::Preload, Some(obstacle)) => Err(refusal(
            &program,
            &format!("{obstacle}, so no library can lead it to lvsd"),
            "leave --mode away, or give --mode notify",
        )),
        (_, Some(obstacle)) if obstacle.bars_supervisor() => Err(refusal(
            &program,
            &format!("{obstacle}, whose system calls no supervisor answers"),
            "use a build of it for this machine's usual ABI",
        )),
        (Mode::Preload, None) => launch.preload(),
        (Mode::Notify, _) => launch.supervise().map_err(LaunchFailure::into_words),
        (Mode::Auto, None) if prefers_library(&program) => launch.preload(),
        (Mode::Auto, None) => match launch.supervise() {
            // The library leads it as well, if less completely.
            Err(LaunchFailure::Unavailable(_)) => launch.preload(),
            outcome => outcome.map_err(LaunchFailure::into_words),
        },
        (Mode::Auto, Some(obstacle)) => match launch.supervise() {
            Err(LaunchFailure::Unavailable(reason)) => Err(refusal(
                &program,
                &format!("{obstacle}, so no library can lead it to lvsd, and no supervisor either: {reason}"),
                "use a dynamically linked program, or allow user notification (see seccomp_unotify(2))",
            )),
            outcome => outcome.map_err(LaunchFailure::into_words),
        },
    }
}

/// Whether the library is as good as a supervisor and cheaper. It knows how libnl's tools work. Whoever is not root can
/// neither use the kernel's IPVS by accident nor, without further rights, read the memory of a supervised program.
fn prefers_library(program: &Program) -> bool {
    program.is_libnl_tool() || !rustix::process::geteuid().is_root()
}

/// A program that is not started, because it would talk to the host's kernel.
fn refusal(program: &Program, reason: &str, cure: &str) -> (u8, String) {
    let path = program.path.display();
    (EXIT_NOT_LED, format!("{path} is not started: {reason}; {cure}"))
}

/// Everything that starting a tool needs.
#[derive(Clone, Copy)]
struct Launch<'a> {
    tool: Tool<'a>,
    director: Director<'a>,
    library: Option<&'a Path>,
    /// The tool's name as it was typed.
    typed: &'a OsStr,
}

impl Launch<'_> {
    fn supervise(self) -> Result<Infallible, LaunchFailure> {
        match notify::existing_supervision() {
            None => Err(notify::become_supervised(self.tool, self.director)),
            // A program that a supervised one starts has the same supervisor.
            Some(socket) if socket == self.director.socket => Err(notify::become_tool(self.tool)),
            Some(socket) => Err(LaunchFailure::Unavailable(format!(
                "this process is supervised already, for the lvsd on {}",
                socket.display()
            ))),
        }
    }

    fn preload(self) -> Result<Infallible, (u8, String)> {
        // What uses io_uring passes the library by. Who is not root cannot program the kernel's IPVS in any way.
        if rustix::process::geteuid().is_root() {
            let _ = filter::refuse_io_uring();
        }
        let mut preload = find_library(self.library)?.into_os_string();
        if let Some(others) = env::var_os("LD_PRELOAD").filter(|others| !others.is_empty()) {
            preload.push(":");
            preload.push(others);
        }
        let error = Command::new(self.tool.path)
            .arg0(self.tool.name.unwrap_or(self.typed))
            .args(self.tool.arguments)
            .env("LD_PRELOAD", preload)
            .env("LVS_IPVS_SOCK", self.director.socket)
            .env("LVS_IPVS_RUN", own_path())
            .env("LVS_IPVS_TIMEOUT", self.director.timeout_sec.to_string())
            .exec();
        Err((EXIT_NOT_EXECUTABLE, format!("{}: {error}", self.tool.path.display())))
    }
}

/// This program, for what a preloaded program starts and the library cannot follow.
fn own_path() -> PathBuf {
    env::current_exe().unwrap_or_else(|_| "/usr/bin/lvs-run".into())
}

fn director<'a>(socket: &'a Path, arguments: &RunArguments) -> Director<'a> {
    Director {
        socket,
        timeout_sec: arguments.timeout,
    }
}

fn supervise(part: Part, arguments: &RunArguments) -> ExitCode {
    let director = director(&arguments.socket, arguments);
    let outcome = match part {
        Part::Launcher => notify::launch(director),
        Part::Supervisor => supervisor::run(director),
    };
    if outcome.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Finds the library beside this program (a build tree), below it (a prefix), or where packages install it.
fn find_library(given: Option<&Path>) -> Result<PathBuf, (u8, String)> {
    const NAME: &str = LIBRARY;
    let mut places = Vec::new();
    if let Some(given) = given {
        places.push(given.to_owned());
    } else {
        if let Some(folder) = env::current_exe().ok().as_deref().and_then(Path::parent) {
            places.push(folder.join(NAME));
            places.push(folder.join("../lib/lvsd").join(NAME));
        }
        places.push(Path::new("/usr/lib/lvsd").join(NAME));
    }
    // The loader needs an absolute path, because the tool may change its folder.
    let found = places.iter().find_map(|place| place.canonicalize().ok());
    found.ok_or_else(|| {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        let message = format!(
            "no {NAME} in {}; install lvsd's library or name it with --library",
            places.join(", ")
        );
        (EXIT_NO_LIBRARY, message)
    })
}

fn await_director(path: &Path, wait: Duration) -> Result<(), (u8, String)> {
    const PAUSE: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    loop {
        match probe(path) {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() >= wait => return Err((EXIT_NO_DIRECTOR, absence(path, error))),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn probe(path: &Path) -> rustix::io::Result<()> {
    let address = SocketAddrUnix::new(path)?;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&probe, &address)
}

fn absence(path: &Path, error: rustix::io::Errno) -> String {
    let path = path.display();
    match error {
        rustix::io::Errno::ACCESS => {
            format!("you may not use {path}: be root or a member of the group lvsd")
        }
        rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED => format!(
            "lvsd is not running: nobody answers on {path}. Start it with: systemctl start lvsd. \
             If it runs with another socket, name that one with --socket"
        ),
        error => format!("lvsd cannot be reached on {path}: {error}"),
    }
}

#[cfg(test)]
mod tests;
