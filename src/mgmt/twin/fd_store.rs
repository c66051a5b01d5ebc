//! systemd's descriptor store: it holds the twins' descriptors while no lvsd runs, so that the twins keep their carrier.
//!
//! In:  the descriptors that systemd passed (`LISTEN_FDS`). Out: the TAPs among them by name; new ones for the store.
//! Does nothing where systemd did not start the daemon.
//! Ref:  sd_notify(3) `FDSTORE=1`, sd_listen_fds(3), systemd.service(5) `FileDescriptorStoreMax=`.

use std::os::fd::{BorrowedFd, RawFd};

use sd_notify::NotifyState;
use tun_rs::SyncDevice;

/// Twins that an earlier lvsd left in the store, by their names there.
#[derive(Default)]
pub struct Inherited(Vec<(String, SyncDevice)>);

impl Inherited {
    /// What systemd passed to this process. Call it once: each descriptor has one owner.
    pub fn receive() -> Self {
        let passed: Vec<(RawFd, String)> = match sd_notify::listen_fds_with_names() {
            Ok(passed) => passed.collect(),
            Err(error) => {
                log::warn!("the kernel twins' descriptors that systemd kept cannot be used: {error}");
                Vec::new()
            }
        };
        let mut inherited = Self::default();
        for (fd, stored_as) in passed {
            match adopt(fd) {
                Ok(tap) => inherited.0.push((stored_as, tap)),
                Err(error) => {
                    log::warn!(
                        "kernel twin {stored_as}: the descriptor that systemd kept is no TAP's any more: {error}"
                    );
                    forget(&stored_as);
                }
            }
        }
        inherited
    }

    /// The TAP that is called `name` now.
    pub(super) fn take(&mut self, name: &str) -> Option<SyncDevice> {
        let is_called = |(_, tap): &(String, SyncDevice)| tap.name().is_ok_and(|present| present == name);
        let found = self.0.iter().position(is_called)?;
        Some(self.0.swap_remove(found).1)
    }
}

impl Drop for Inherited {
    /// Nobody wanted what is left.
    fn drop(&mut self) {
        for (stored_as, _) in &self.0 {
            forget(stored_as);
        }
    }
}

/// Gives systemd a copy of a twin's descriptor, in place of one that it may have under this name.
pub(super) fn keep(name: &str, tap: BorrowedFd<'_>) {
    forget(name);
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[tap]) {
        log::warn!("kernel twin {name}: systemd does not keep its descriptor, its carrier will go with lvsd: {error}");
    }
}

fn forget(name: &str) {
    // A store that still has it only holds an unused descriptor.
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

#[expect(unsafe_code, reason = "a descriptor arrives as a number")]
fn adopt(fd: RawFd) -> std::io::Result<SyncDevice> {
    // SAFETY: systemd passed this descriptor to this process, which asks once and so is its only owner. lvsd stores TAPs
    // with IFF_NO_PI and without IFF_VNET_HDR only; a descriptor of another kind is refused and closed.
    unsafe { SyncDevice::from_fd(fd) }
}
