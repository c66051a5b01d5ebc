//! The socket beside those of a daemon: a master hears asks by it, a backup sends them.
//!
//! In:  datagrams of backups, of which only those that can be an ask are looked at; an ask. Out: asks; a datagram.
//! The socket is opened when it is needed, and again after a second if the machine refuses: a daemon does without it.

use std::net::UdpSocket;

use lvs_core::ipvs::sync::daemon::SyncDaemon;
use lvs_core::ipvs::sync::notice::{ASK_LEN, Ask, Notice};

use super::auth::{self, MessageRefusal};
use super::replay::Senders;
use super::settings::SyncSettings;
use super::{RECEIVED_PER_PASS_MAX, Signing, clock_ns, ends, sockets};

/// When a socket that could not be opened is tried again, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// An ask that is signed.
const SIGNED_LEN: usize = ASK_LEN + auth::OVERHEAD as usize;

/// See the module.
#[derive(Debug, Default)]
pub struct Notices {
    socket: Option<UdpSocket>,
    retry_ms: u64,
    /// Whose asks a master has heard.
    senders: Senders,
}

impl Notices {
    /// Over a socket that is open.
    #[cfg(test)]
    pub fn over(socket: UdpSocket) -> Self {
        Self {
            socket: Some(socket),
            ..Self::default()
        }
    }

    fn open(&mut self, daemon: &SyncDaemon, now_ms: u64) -> Option<&UdpSocket> {
        if self.socket.is_none() && now_ms >= self.retry_ms {
            self.retry_ms = now_ms + RETRY_MS;
            match sockets::open_notices(daemon) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => log::debug!("bulk sync on {}: {error}", daemon.interface),
            }
        }
        self.socket.as_ref()
    }

    /// Passes what backups ask the master `daemon`, and refusals, to `take`.
    pub fn hear(
        &mut self,
        daemon: &SyncDaemon,
        settings: &SyncSettings,
        now_ms: u64,
        mut take: impl FnMut(Result<Ask, MessageRefusal>),
    ) {
        self.open(daemon, now_ms);
        let Self { socket, senders, .. } = self;
        let Some(socket) = socket else { return };
        // Longer datagrams are cut, and still too long for an ask.
        let mut buffer = [0; SIGNED_LEN + 1];
        for _ in 0..RECEIVED_PER_PASS_MAX {
            let Ok((len, source)) = socket.recv_from(&mut buffer) else {
                return;
            };
            if len != ASK_LEN && len != SIGNED_LEN {
                continue;
            }
            let datagram = buffer.get(..len).unwrap_or_default();
            match settings.message(&ends(daemon, 0, source.ip()), datagram, senders, clock_ns()) {
                Ok(message) => {
                    if let Some((sync_id, Notice::Ask(ask))) = Notice::read(message)
                        && sync_id == daemon.sync_id
                    {
                        take(Ok(ask));
                    }
                }
                Err(refusal) => take(Err(refusal)),
            }
        }
    }

    /// Sends what the backup `daemon` asks. What cannot be sent is asked again after the next offer.
    pub fn send(&mut self, daemon: &SyncDaemon, message: Vec<u8>, signing: &mut Signing<'_>, now_ms: u64) {
        let Some(socket) = self.open(daemon, now_ms) else {
            return;
        };
        let sent = socket.local_addr().and_then(|own| {
            let datagram = signing.datagram(&ends(daemon, 0, own.ip()), message);
            socket.send(&datagram)
        });
        if let Err(error) = sent {
            log::debug!("bulk sync on {}: {error}", daemon.interface);
            self.socket = None;
        }
    }
}
