//! `[[sync_daemon]]`: which daemons of connection synchronisation run, and how.

use toml::Spanned;

use super::error::{ConfigProblem, Invalid};
use super::raw::{RawRole, RawSyncDaemon};
use super::validate::in_range;
use crate::ipvs::sync::daemon::{SyncDaemon, SyncDaemonError, SyncRole};

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
