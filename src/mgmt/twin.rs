//! The kernel twin of a device: a TAP through which the kernel's stack sees and sends what is not ours.
//!
//! In:  a device's name, MAC and MTU; descriptors that an earlier lvsd left with systemd.
//! Out: an interface, and the descriptor that carries its raw Ethernet frames, one a read or write, without packet
//!      information or offloads.
//! A twin outlives lvsd (`TUNSETPERSIST`), and the next one takes it over as it is. While systemd holds its descriptor its
//! carrier stays too. A TAP of that name that an operator has made (`ip tuntap add dev NAME mode tap`) is used as well.
//! Never: addresses or routes; those are the operator's, by `ip`.
//! Ref:  Linux Documentation/networking/tuntap.rst.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use lvs_core::l3::DeviceId;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use thiserror::Error;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use fd_store::Inherited;
use ownership::{Marked, Owner};

/// Longest name of a kernel interface in bytes (`IFNAMSIZ` without the terminator).
const NAME_MAX_BYTES: usize = 15;

/// A kernel twin.
#[derive(Debug)]
pub struct Twin {
    /// Whose twin it is.
    pub device: DeviceId,
    /// The interface's name.
    pub name: String,
    /// The kernel's index of it.
    pub ifindex: u32,
    /// Frames in and out; non-blocking.
    pub fd: OwnedFd,
    /// Whether systemd held its descriptor, so that its carrier is as it was.
    pub was_held: bool,
}

/// What a twin must be like.
#[derive(Clone, Debug)]
pub struct TwinSpec {
    /// Whose twin.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU in bytes of IP.
    pub mtu: u16,
    /// Which lvsd gives it back one day.
    pub owner: Owner,
}

/// Why a twin could not be made.
#[derive(Debug, Error)]
pub enum TwinError {
    /// Not a name the kernel takes.
    #[error(
        "kernel twin {name:?}: not an interface name; use 1 to {NAME_MAX_BYTES} characters without space, '/', ':' or '%'"
    )]
    BadName {
        /// As configured.
        name: String,
    },
    /// An interface that is no TAP has this name.
    #[error(
        "kernel twin {name}: an interface of another kind has this name; rename it, or give the device another kernel name in lvsd.toml"
    )]
    NameTaken {
        /// As configured.
        name: String,
    },
    /// Another process holds the TAP.
    #[error(
        "kernel twin {name}: another process holds it, perhaps a second lvsd; stop that one, or choose another name"
    )]
    Busy {
        /// As configured.
        name: String,
    },
    /// Not allowed.
    #[error("kernel twin {name}: no permission; run lvsd as root or with CAP_NET_ADMIN")]
    NoPermission {
        /// As configured.
        name: String,
    },
    /// The kernel has no TUN/TAP driver.
    #[error("kernel twin {name}: /dev/net/tun is missing or dead ({source}); load the driver: modprobe tun")]
    NoDriver {
        /// As configured.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("kernel twin {name}: cannot {step}: {source}")]
    Io {
        /// As configured.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Takes over the TAP of this name, or makes it. A new one gets its MAC address and MTU and is brought up, as does one that
/// was made for another MAC address or MTU, or by an operator. Otherwise whatever was set by `ip` stays.
///
/// # Errors
/// See [`TwinError`]. An interface of somebody else stays as it is.
pub fn open(wanted: &TwinSpec, inherited: &mut Inherited) -> Result<Twin, TwinError> {
    let TwinSpec {
        device,
        name,
        mac,
        mtu,
        owner,
    } = wanted;
    if !is_interface_name(name) {
        return Err(TwinError::BadName { name: name.clone() });
    }
    let failed = |step| {
        move |source| TwinError::Io {
            name: name.clone(),
            step,
            source,
        }
    };
    let earlier = owner.twin(name).map_err(failed("look for it"))?;
    let Attached { tap, is_new, was_held } = attach(name, earlier.as_ref(), inherited)?;
    let ifindex = if_nametoindex(name.as_str()).map_err(|errno| failed("find its index")(errno.into()))?;
    let mark = owner.mark(*mac, *mtu);
    let is_as_wanted = !is_new && earlier.as_ref().is_some_and(|earlier| earlier.mark == mark);
    if !is_as_wanted {
        set_up(&tap, wanted)?;
        if is_new || earlier.is_some() {
            ownership::set_mark(ifindex, mark).map_err(failed("mark it as lvsd's own"))?;
        }
    }
    if is_new {
        tap.persist().map_err(failed("let it outlive lvsd"))?;
    }
    if !was_held {
        fd_store::keep(name, tap.as_fd());
    }
    tap.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
    let fd = tap
        .as_fd()
        .try_clone_to_owned()
        .map_err(failed("keep its descriptor"))?;
    Ok(Twin {
        device: *device,
        name: name.clone(),
        ifindex,
        fd,
        was_held,
    })
}

fn set_up(tap: &SyncDevice, wanted: &TwinSpec) -> Result<(), TwinError> {
    let failed = |step| {
        move |source| TwinError::Io {
            name: wanted.name.clone(),
            step,
            source,
        }
    };
    // The kernel forgets all neighbours, permanent ones too, when an address is set, even the same one.
    if !tap.mac_address().is_ok_and(|present| present == wanted.mac) {
        tap.set_mac_address(wanted.mac).map_err(failed("set its MAC address"))?;
    }
    tap.set_mtu(wanted.mtu).map_err(failed("set its MTU"))?;
    tap.enabled(true).map_err(failed("bring it up"))
}

struct Attached {
    tap: SyncDevice,
    is_new: bool,
    was_held: bool,
}

fn attach(name: &str, earlier: Option<&Marked>, inherited: &mut Inherited) -> Result<Attached, TwinError> {
    let existed = if_nametoindex(name).is_ok();
    let free = |tap, is_new| Attached {
        tap,
        is_new,
        was_held: false,
    };
    match (attach_by_name(name, existed), earlier) {
        (Ok(tap), _) => Ok(free(tap, !existed)),
        // The one descriptor of the TAP is in systemd's hands, or of a process that uses it.
        (Err(TwinError::Busy { name }), _) => match inherited.take(&name) {
            Some(tap) => Ok(Attached {
                tap,
                is_new: false,
                was_held: true,
            }),
            None => Err(TwinError::Busy { name }),
        },
        (Err(TwinError::NameTaken { .. }), Some(earlier)) => {
            log::warn!("kernel twin {name}: another version of lvsd made it of another kind; it is made anew");
            ownership::delete(earlier.ifindex).map_err(|source| TwinError::Io {
                name: name.to_owned(),
                step: "make it anew",
                source,
            })?;
            Ok(free(attach_by_name(name, false)?, true))
        }
        (Err(error), _) => Err(error),
    }
}

fn attach_by_name(name: &str, existed: bool) -> Result<SyncDevice, TwinError> {
    let built = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .inherit_enable_state()
        .build_sync();
    built.map_err(|source| explain(name, existed, source))
}

/// TUNSETIFF (drivers/net/tun.c `tun_set_iff`) refuses a foreign interface by EINVAL and a held TAP by EBUSY.
fn explain(name: &str, existed: bool, source: io::Error) -> TwinError {
    let name = name.to_owned();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EINVAL) if existed => TwinError::NameTaken { name },
        Some(Errno::EBUSY) => TwinError::Busy { name },
        Some(Errno::EPERM | Errno::EACCES) => TwinError::NoPermission { name },
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => TwinError::NoDriver { name, source },
        _ => TwinError::Io {
            name,
            step: "create it",
            source,
        },
    }
}

/// The kernel's `dev_valid_name`, and no `%`, which it would read as a template.
fn is_interface_name(name: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '%' | '\0');
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && name != "." && name != ".." && !name.contains(forbidden)
}

pub mod fd_store;
pub mod keeper;
pub mod ownership;
#[cfg(test)]
pub(crate) use tests::open_alone;
#[cfg(test)]
mod tests;
