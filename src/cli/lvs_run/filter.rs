//! The list of system calls that a filter brings from a supervised program to the supervisor.
//!
//! In:  nothing. Out: a loaded filter with its listener; for the supervisor, the meaning of each call's number.
//! The filter covers this machine's programs of 64 and of 32 bits. The kernel runs all other calls at full speed.
//! io_uring is refused as by a kernel without it, because its requests pass no filter; so are calls of foreign ABIs.
//! Ref: seccomp(2), socketcall(2).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use crate::lvs_run::raw_calls;

/// The low 32 bits. The upper bits of a register that holds a C int are undefined.
const INT: u64 = 0xffff_ffff;
/// `sizeof(struct sockaddr_nl)`; no other family's name is that long.
const NETLINK_NAME_BYTES: u64 = 12;
/// `IP_VS_BASE_CTL` and the next fifteen options.
const KERNEL_IPVS: (u64, u64) = (0xffff_fff0, 1152);

/// The 32-bit programs that this machine runs.
#[cfg(target_arch = "x86_64")]
pub(crate) const COMPANION: ScmpArch = ScmpArch::X86;
/// The 32-bit programs that this machine runs.
#[cfg(target_arch = "aarch64")]
pub(crate) const COMPANION: ScmpArch = ScmpArch::Arm;

/// The kinds of intercepted calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Intercepted {
    Socket,
    Bind,
    Connect,
    SocketName,
    PeerName,
    Shutdown,
    SetOption,
    GetOption,
    ReceiveFrom,
    ReceiveMessage,
    ReceiveMessages,
    Open,
    OpenAt,
    OpenAt2,
    Create,
    Stat,
    LinkStat,
    StatAt,
    StatX,
    Access,
    AccessAt,
    ReadLink,
    ReadLinkAt,
    /// An extended attribute, or the list of them.
    Attribute,
    Execute,
    ExecuteAt,
    /// 32-bit programs pack the socket calls into one.
    SocketCall,
}

type Conditions = Vec<ScmpArgCompare>;

fn equal(argument: u32, value: u64) -> ScmpArgCompare {
    masked(argument, INT, value)
}

fn masked(argument: u32, mask: u64, value: u64) -> ScmpArgCompare {
    ScmpArgCompare::new(argument, ScmpCompareOp::MaskedEqual(mask), value)
}

fn number(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

fn rules() -> Vec<(Intercepted, &'static str, Conditions)> {
    let generic = vec![
        equal(0, number(libc::AF_NETLINK)),
        equal(2, number(libc::NETLINK_GENERIC)),
    ];
    let named = vec![ScmpArgCompare::new(4, ScmpCompareOp::NotEqual, 0)];
    let kernel_ipvs = || vec![equal(1, 0), masked(2, KERNEL_IPVS.0, KERNEL_IPVS.1)];
    let netlink = || vec![equal(1, number(libc::SOL_NETLINK))];
    let mut rules = vec![
        (Intercepted::Socket, "socket", generic),
        (Intercepted::Bind, "bind", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Intercepted::Connect, "connect", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Intercepted::SocketName, "getsockname", vec![]),
        (Intercepted::PeerName, "getpeername", vec![]),
        (Intercepted::Shutdown, "shutdown", vec![]),
        (Intercepted::SetOption, "setsockopt", netlink()),
        (Intercepted::SetOption, "setsockopt", kernel_ipvs()),
        (Intercepted::GetOption, "getsockopt", netlink()),
        (Intercepted::GetOption, "getsockopt", kernel_ipvs()),
        (Intercepted::ReceiveFrom, "recvfrom", named),
    ];
    for option in [libc::SO_DOMAIN, libc::SO_PROTOCOL, libc::SO_TYPE] {
        let of_socket = vec![equal(1, number(libc::SOL_SOCKET)), equal(2, number(option))];
        rules.push((Intercepted::GetOption, "getsockopt", of_socket));
    }
    let whole = [
        (Intercepted::ReceiveMessage, "recvmsg"),
        (Intercepted::ReceiveMessages, "recvmmsg"),
        (Intercepted::ReceiveMessages, "recvmmsg_time64"),
        (Intercepted::Open, "open"),
        (Intercepted::OpenAt, "openat"),
        (Intercepted::OpenAt2, "openat2"),
        (Intercepted::Create, "creat"),
        (Intercepted::Stat, "stat"),
        (Intercepted::Stat, "stat64"),
        (Intercepted::LinkStat, "lstat"),
        (Intercepted::LinkStat, "lstat64"),
        (Intercepted::StatAt, "newfstatat"),
        (Intercepted::StatAt, "fstatat64"),
        (Intercepted::StatX, "statx"),
        (Intercepted::Access, "access"),
        (Intercepted::AccessAt, "faccessat"),
        (Intercepted::AccessAt, "faccessat2"),
        (Intercepted::ReadLink, "readlink"),
        (Intercepted::ReadLinkAt, "readlinkat"),
        (Intercepted::Attribute, "getxattr"),
        (Intercepted::Attribute, "lgetxattr"),
        (Intercepted::Attribute, "listxattr"),
        (Intercepted::Attribute, "llistxattr"),
        (Intercepted::Execute, "execve"),
        (Intercepted::ExecuteAt, "execveat"),
    ];
    rules.extend(whole.map(|(kind, name)| (kind, name, vec![])));
    rules
}

/// The intercepted calls by ABI and number.
pub(crate) fn intercepted_calls() -> HashMap<(ScmpArch, ScmpSyscall), Intercepted> {
    let mut calls = HashMap::new();
    for arch in [ScmpArch::native(), COMPANION] {
        let names = rules().into_iter().map(|(kind, name, _)| (kind, name));
        for (kind, name) in names.chain([(Intercepted::SocketCall, "socketcall")]) {
            let number = ScmpSyscall::from_name_by_arch(name, arch);
            // Negative numbers stand for calls that this ABI does not have.
            if let Ok(number) = number
                && number.as_raw_syscall() >= 0
            {
                calls.insert((arch, number), kind);
            }
        }
    }
    calls
}

/// `SYS_SENDMMSG`, the last call that socketcall packs.
const SOCKET_CALLS_MAX: u64 = 20;

/// What a socketcall asks for, and how many arguments it has.
pub(crate) fn socket_call(number: u64) -> Option<(Intercepted, usize)> {
    Some(match number {
        1 => (Intercepted::Socket, 3),
        2 => (Intercepted::Bind, 3),
        3 => (Intercepted::Connect, 3),
        6 => (Intercepted::SocketName, 3),
        7 => (Intercepted::PeerName, 3),
        12 => (Intercepted::ReceiveFrom, 6),
        13 => (Intercepted::Shutdown, 2),
        14 => (Intercepted::SetOption, 5),
        15 => (Intercepted::GetOption, 5),
        17 => (Intercepted::ReceiveMessage, 3),
        19 => (Intercepted::ReceiveMessages, 5),
        _ => return None,
    })
}

/// Puts the filter on this process and all processes that it starts. The context must outlive the use of the listener.
pub(crate) fn load() -> Result<(ScmpFilterContext, BorrowedFd<'static>), SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::Errno(libc::ENOSYS))?;
    filter.add_arch(COMPANION)?;
    // From an unprivileged process the kernel accepts a filter only if the process gives up gaining privileges.
    filter.set_ctl_nnp(!rustix::process::geteuid().is_root())?;
    for (_, name, conditions) in rules() {
        filter.add_rule_conditional(ScmpAction::Notify, ScmpSyscall::from_name(name)?, &conditions)?;
    }
    // The arguments of a packed call lie in memory, where no filter looks.
    for packed in (0..=SOCKET_CALLS_MAX).filter(|number| socket_call(*number).is_some()) {
        let call = ScmpSyscall::from_name("socketcall")?;
        filter.add_rule_conditional(ScmpAction::Notify, call, &[equal(0, packed)])?;
    }
    without_io_uring(&mut filter)?;
    filter.load()?;
    let listener = filter.get_notify_fd()?;
    Ok((filter, raw_calls::listener(listener)))
}

fn without_io_uring(filter: &mut ScmpFilterContext) -> Result<(), SeccompError> {
    let call = ScmpSyscall::from_name("io_uring_setup")?;
    filter.add_rule(ScmpAction::Errno(libc::ENOSYS), call)?;
    Ok(())
}

/// Puts a filter on this process that refuses io_uring and nothing else, for programs with the library.
pub(crate) fn refuse_io_uring() -> Result<(), SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::Allow)?;
    filter.add_arch(COMPANION)?;
    filter.set_ctl_nnp(false)?;
    without_io_uring(&mut filter)?;
    filter.load()
}
