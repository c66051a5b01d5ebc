//! The list of system calls that a filter brings from a supervised program to the supervisor.
//!
//! In:  nothing. Out: a loaded filter with its listener; for the supervisor, the meaning of each call's number.
//! The kernel runs all other calls, and those of foreign architectures, at full speed. Ref: seccomp(2).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use crate::lvs_run::raw_calls;

/// The low 32 bits. The upper bits of a register that holds a C int are undefined.
const INT: u64 = 0xffff_ffff;
/// `sizeof(struct sockaddr_nl)`; no other family's name is that long.
const NETLINK_NAME_BYTES: u64 = 12;
/// `IP_VS_BASE_CTL` and the next fifteen options.
const KERNEL_IPVS: (u64, u64) = (0xffff_fff0, 1152);

/// The kinds of intercepted calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Intercepted {
    Socket,
    Bind,
    Connect,
    SocketName,
    SetOption,
    GetOption,
    ReceiveFrom,
    ReceiveMessage,
    Open,
    OpenAt,
    Execute,
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
    let option = |level, name| vec![equal(1, number(level)), equal(2, number(name))];
    let readable = masked(1, number(libc::O_ACCMODE), number(libc::O_RDONLY));
    let readable_at = masked(2, number(libc::O_ACCMODE), number(libc::O_RDONLY));
    let generic = vec![
        equal(0, number(libc::AF_NETLINK)),
        equal(2, number(libc::NETLINK_GENERIC)),
    ];
    let named = vec![ScmpArgCompare::new(4, ScmpCompareOp::NotEqual, 0)];
    vec![
        (Intercepted::Socket, "socket", generic),
        (Intercepted::Bind, "bind", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Intercepted::Connect, "connect", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Intercepted::SocketName, "getsockname", vec![]),
        (
            Intercepted::SetOption,
            "setsockopt",
            vec![equal(1, number(libc::SOL_NETLINK))],
        ),
        (
            Intercepted::GetOption,
            "getsockopt",
            vec![equal(1, number(libc::SOL_NETLINK))],
        ),
        (
            Intercepted::GetOption,
            "getsockopt",
            option(libc::SOL_SOCKET, libc::SO_DOMAIN),
        ),
        (
            Intercepted::GetOption,
            "getsockopt",
            option(libc::SOL_SOCKET, libc::SO_PROTOCOL),
        ),
        (
            Intercepted::GetOption,
            "getsockopt",
            option(libc::SOL_SOCKET, libc::SO_TYPE),
        ),
        (Intercepted::ReceiveFrom, "recvfrom", named),
        (Intercepted::ReceiveMessage, "recvmsg", vec![]),
        (Intercepted::Open, "open", vec![readable]),
        (Intercepted::OpenAt, "openat", vec![readable_at]),
        (Intercepted::Execute, "execve", vec![]),
    ]
}

/// The intercepted calls by their numbers on this machine.
pub(crate) fn intercepted_calls() -> HashMap<ScmpSyscall, Intercepted> {
    let rules = rules().into_iter();
    rules
        .filter_map(|(kind, name, _)| Some((ScmpSyscall::from_name(name).ok()?, kind)))
        .collect()
}

/// Puts the filter on this process and all processes that it starts. The context must outlive the use of the listener.
pub(crate) fn load() -> Result<(ScmpFilterContext, BorrowedFd<'static>), SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::Allow)?;
    // From an unprivileged process the kernel accepts a filter only if the process gives up gaining privileges.
    filter.set_ctl_nnp(!rustix::process::geteuid().is_root())?;
    for (_, name, conditions) in rules() {
        filter.add_rule_conditional(ScmpAction::Notify, ScmpSyscall::from_name(name)?, &conditions)?;
    }
    // Refuses the options by which old tools program the kernel's IPVS, so that no tool bypasses lvsd.
    let kernel_ipvs = [equal(1, 0), masked(2, KERNEL_IPVS.0, KERNEL_IPVS.1)];
    for name in ["getsockopt", "setsockopt"] {
        let refusal = ScmpAction::Errno(libc::ENOPROTOOPT);
        filter.add_rule_conditional(refusal, ScmpSyscall::from_name(name)?, &kernel_ipvs)?;
    }
    filter.load()?;
    let listener = filter.get_notify_fd()?;
    Ok((filter, raw_calls::listener(listener)))
}
