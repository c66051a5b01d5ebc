//! `[sync]` of the configuration with the key that it names: what every sync daemon of this director follows.

use std::net::IpAddr;

use lvs_core::config::SyncConfig;
use lvs_core::ipvs::sync::policy::SyncPolicy;

use super::auth::{self, MessageEnds, MessageRefusal, SyncKey, SyncKeyError};
use super::replay::{Senders, Sequence};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct SyncSettings {
    /// What workers need to know of it.
    pub policy: SyncPolicy,
    /// Connections a second that a bulk sync sends at most; 0 for no bulk sync.
    pub bulk_rate: u32,
    /// The directors whose messages are taken; empty for all.
    pub peers: Vec<IpAddr>,
    /// What signs messages.
    pub key: Option<SyncKey>,
}

impl SyncSettings {
    /// What `config` says.
    ///
    /// # Errors
    /// The key's file cannot be used.
    pub fn read(config: &SyncConfig) -> Result<Self, SyncKeyError> {
        Ok(Self {
            policy: config.policy,
            bulk_rate: config.bulk_rate,
            peers: config.peers.clone(),
            key: config.key_file.as_deref().map(SyncKey::read).transpose()?,
        })
    }

    /// Bytes of a message in the kernel's form, so that a datagram has at most `max_len` bytes.
    pub fn message_max(&self, max_len: u16) -> u16 {
        match self.key {
            Some(_) => max_len.saturating_sub(auth::OVERHEAD),
            None => max_len,
        }
    }

    /// The datagram of a message.
    pub fn datagram(&self, ends: &MessageEnds, message: Vec<u8>, sequence: &mut Sequence, clock_ns: u64) -> Vec<u8> {
        match &self.key {
            Some(key) => key.sign(ends, sequence.next(clock_ns), &message),
            None => message,
        }
    }

    /// The message of a datagram.
    ///
    /// # Errors
    /// It comes from none of the peers, is not signed as it must be, or has come before.
    pub fn message<'d>(
        &self,
        ends: &MessageEnds,
        datagram: &'d [u8],
        senders: &mut Senders,
        clock_ns: u64,
    ) -> Result<&'d [u8], MessageRefusal> {
        if !self.peers.is_empty() && !self.peers.contains(&ends.source) {
            return Err(MessageRefusal::OtherPeer);
        }
        match &self.key {
            Some(key) => {
                let (sequence, message) = key.verify(ends, datagram)?;
                senders.take(ends.source, sequence, clock_ns)?;
                Ok(message)
            }
            None if auth::is_signed(datagram) => Err(MessageRefusal::Signed),
            None => Ok(datagram),
        }
    }
}
