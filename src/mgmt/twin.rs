//! The kernel twin of a device: a TAP through which the kernel's stack sees and sends what is not ours.
//!
//! In:  a device's name, MAC and MTU.
//! Out: an interface that is up, and the descriptor that carries its raw Ethernet frames, one a read or
//!      write, without packet information or offloads.
//! A TAP of that name that nobody holds is opened, so an operator may make it in advance
//! (`ip tuntap add dev NAME mode tap`) and its addresses survive a restart of the daemon; with the right MAC
//! address its neighbours do too.
//! Never: addresses or routes; those are the operator's, by `ip`.
//! Ref:  Linux Documentation/networking/tuntap.rst.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use lvs_core::l3::DeviceId;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use thiserror::Error;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Longest name of a kernel interface in bytes (`IFNAMSIZ` without the terminator).
const NAME_MAX_BYTES: usize = 15;

/// A kernel twin. The interface lives as long as `fd`, longer if the operator made it persistent.
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

/// Makes (or opens) the TAP `name`, gives it `mac` and `mtu` (bytes of IP) and brings it up.
pub fn open(device: DeviceId, name: &str, mac: [u8; 6], mtu: u16) -> Result<Twin, TwinError> {
    if !is_interface_name(name) {
        return Err(TwinError::BadName { name: name.to_owned() });
    }
    let tap = attach(name)?;
    let failed = |step| {
        move |source| TwinError::Io {
            name: name.to_owned(),
            step,
            source,
        }
    };
    // The kernel forgets all neighbours, permanent ones too, when an address is set, even the same one.
    if !tap.mac_address().is_ok_and(|present| present == mac) {
        tap.set_mac_address(mac).map_err(failed("set its MAC address"))?;
    }
    tap.set_mtu(mtu).map_err(failed("set its MTU"))?;
    tap.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
    tap.enabled(true).map_err(failed("bring it up"))?;
    let ifindex = if_nametoindex(name).map_err(|errno| failed("find its index")(errno.into()))?;
    let fd = tap
        .as_fd()
        .try_clone_to_owned()
        .map_err(failed("keep its descriptor"))?;
    Ok(Twin {
        device,
        name: name.to_owned(),
        ifindex,
        fd,
    })
}

fn attach(name: &str) -> Result<SyncDevice, TwinError> {
    let existed = if_nametoindex(name).is_ok();
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

pub mod keeper;
#[cfg(test)]
mod tests;
