//! Which system calls of a supervised program are brought to the supervisor: one list for both sides.
//!
//! In:  nothing. Out: a loaded filter with its listener; for the supervisor, what a call's number means.
//! All others, and those of foreign architectures, go their way at full speed. Ref: seccomp(2).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use crate::lvs_run::raw_calls;

/// The low 32 bits: C's int in a register has anything above.
const INT: u64 = 0xffff_ffff;
/// `sizeof(struct sockaddr_nl)`; no other family's name is that long.
const NETLINK_NAME_BYTES: u64 = 12;
/// `IP_VS_BASE_CTL` and the fifteen behind it.
const KERNEL_IPVS: (u64, u64) = (0xffff_fff0, 1152);

/// What a call that was brought here wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Wish {
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

fn rules() -> Vec<(Wish, &'static str, Conditions)> {
    let option = |level, name| vec![equal(1, number(level)), equal(2, number(name))];
    let readable = masked(1, number(libc::O_ACCMODE), number(libc::O_RDONLY));
    let readable_at = masked(2, number(libc::O_ACCMODE), number(libc::O_RDONLY));
    let generic = vec![
        equal(0, number(libc::AF_NETLINK)),
        equal(2, number(libc::NETLINK_GENERIC)),
    ];
    let named = vec![ScmpArgCompare::new(4, ScmpCompareOp::NotEqual, 0)];
    vec![
        (Wish::Socket, "socket", generic),
        (Wish::Bind, "bind", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Wish::Connect, "connect", vec![equal(2, NETLINK_NAME_BYTES)]),
        (Wish::SocketName, "getsockname", vec![]),
        (Wish::SetOption, "setsockopt", vec![equal(1, number(libc::SOL_NETLINK))]),
        (Wish::GetOption, "getsockopt", vec![equal(1, number(libc::SOL_NETLINK))]),
        (Wish::GetOption, "getsockopt", option(libc::SOL_SOCKET, libc::SO_DOMAIN)),
        (
            Wish::GetOption,
            "getsockopt",
            option(libc::SOL_SOCKET, libc::SO_PROTOCOL),
        ),
        (Wish::GetOption, "getsockopt", option(libc::SOL_SOCKET, libc::SO_TYPE)),
        (Wish::ReceiveFrom, "recvfrom", named),
        (Wish::ReceiveMessage, "recvmsg", vec![]),
        (Wish::Open, "open", vec![readable]),
        (Wish::OpenAt, "openat", vec![readable_at]),
        (Wish::Execute, "execve", vec![]),
    ]
}

/// What the numbers of calls mean on this machine.
pub(crate) fn wishes() -> HashMap<ScmpSyscall, Wish> {
    let rules = rules().into_iter();
    rules
        .filter_map(|(wish, name, _)| Some((ScmpSyscall::from_name(name).ok()?, wish)))
        .collect()
}

/// Puts the filter on this process and all it will start. The context must outlive the listener's use.
pub(crate) fn load() -> Result<(ScmpFilterContext, BorrowedFd<'static>), SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    filter.set_act_badarch(ScmpAction::Allow)?;
    // Without privileges the kernel takes a filter only from who gives up gaining any.
    filter.set_ctl_nnp(!rustix::process::geteuid().is_root())?;
    for (_, name, conditions) in rules() {
        filter.add_rule_conditional(ScmpAction::Notify, ScmpSyscall::from_name(name)?, &conditions)?;
    }
    // No way round lvsd: the options by which old tools program the kernel's IPVS.
    let kernel_ipvs = [equal(1, 0), masked(2, KERNEL_IPVS.0, KERNEL_IPVS.1)];
    for name in ["getsockopt", "setsockopt"] {
        let refusal = ScmpAction::Errno(libc::ENOPROTOOPT);
        filter.add_rule_conditional(refusal, ScmpSyscall::from_name(name)?, &kernel_ipvs)?;
    }
    filter.load()?;
    let listener = filter.get_notify_fd()?;
    Ok((filter, raw_calls::listener(listener)))
}
