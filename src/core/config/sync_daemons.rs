//! `[sync]` and `[[sync_daemon]]`: what is synced out and believed, which daemons run, and how.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::Spanned;

use super::SyncConfig;
use super::error::{ConfigProblem, Invalid};
use super::raw::{RawAccept, RawMode, RawRole, RawSync, RawSyncDaemon};
use super::validate::{absolute, in_range, invalid};
use crate::ipvs::sync::daemon::{SyncDaemon, SyncDaemonError, SyncRole};
use crate::ipvs::sync::policy::{SyncAccept, SyncMode, SyncPolicy};
use crate::limits::{SYNC_BULK_RATE_DEFAULT, SYNC_BULK_RATE_RANGE};

pub(super) fn sync(raw: RawSync) -> Result<SyncConfig, Invalid> {
    let default = SyncPolicy::default();
    let key_file = match raw.key_file {
        Some(path) if !path.get_ref().is_empty() => Some(absolute(Some(path), PathBuf::new())?),
        _ => None,
    };
    Ok(SyncConfig {
        policy: SyncPolicy {
            mode: match raw.mode.map(Spanned::into_inner) {
                Some(RawMode::Every) => SyncMode::Every,
                Some(RawMode::Kernel) | None => SyncMode::Kernel,
            },
            accept: match raw.accept.map(Spanned::into_inner) {
                Some(RawAccept::Kernel) => SyncAccept::Kernel,
                Some(RawAccept::Configured) | None => SyncAccept::Configured,
            },
            is_authenticated: key_file.is_some(),
            table_percent: in_range(&raw.table_percent, 1..=100, default.table_percent)?,
        },
        bulk_rate: in_range(&raw.bulk_rate, SYNC_BULK_RATE_RANGE, SYNC_BULK_RATE_DEFAULT)?,
        peers: peers(raw.peers.map(Spanned::into_inner).unwrap_or_default())?,
        key_file,
    })
}

fn peers(raw: Vec<Spanned<String>>) -> Result<Vec<IpAddr>, Invalid> {
    let mut peers: Vec<IpAddr> = Vec::new();
    for one in raw {
        let value = one.get_ref().clone();
        match value.parse() {
            Ok(peer) if peers.contains(&peer) => {
                let cure = "name every director once";
                let what = "peer";
                return invalid(&one, ConfigProblem::Duplicate { what, value, cure });
            }
            Ok(peer) => peers.push(peer),
            Err(_) => {
                let cure = "write one like \"192.0.2.3\" or \"2001:db8::3\"".into();
                let wanted = "an address";
                return invalid(&one, ConfigProblem::NotA { value, wanted, cure });
            }
        }
    }
    Ok(peers)
}

pub(super) fn sync_daemons(raw: &[RawSyncDaemon]) -> Result<Vec<SyncDaemon>, Invalid> {
    let mut daemons: Vec<SyncDaemon> = Vec::new();
    for one in raw {
        let daemon = sync_daemon(one)?;
        if daemons.iter().any(|other| other.role == daemon.role) {
            let problem = ConfigProblem::Duplicate {
                what: "sync daemon",
                value: daemon.role.name().to_owned(),
                cure: "at most one of each role runs",
            };
            let span = one.role.span();
            return Err(Invalid { span, problem });
        }
        daemons.push(daemon);
    }
    daemons.sort_by_key(|daemon| daemon.role);
    Ok(daemons)
}

fn sync_daemon(raw: &RawSyncDaemon) -> Result<SyncDaemon, Invalid> {
    let role = match raw.role.get_ref() {
        RawRole::Master => SyncRole::Master,
        RawRole::Backup => SyncRole::Backup,
    };
    let default = SyncDaemon::new(role, raw.interface.get_ref());
    let daemon = SyncDaemon {
        sync_id: in_range(&raw.sync_id, 0..=255, u16::from(default.sync_id))? as u8,
        max_len: in_range(&raw.max_len_bytes, 0..=65_507, u32::from(default.max_len))? as u16,
        group: raw.group.as_ref().map_or(default.group, |group| *group.get_ref()),
        port: in_range(&raw.port, 1..=65_535, default.port)?,
        ttl: in_range(&raw.ttl, 1..=255, u16::from(default.ttl))? as u8,
        ..default
    };
    daemon.check().map_err(|error| {
        let group = raw.group.as_ref().map(Spanned::span);
        let at = match error {
            SyncDaemonError::Group { .. } => group,
            _ => None,
        };
        Invalid {
            span: at.unwrap_or_else(|| raw.interface.span()),
            problem: ConfigProblem::SyncDaemon(error),
        }
    })?;
    Ok(daemon)
}
