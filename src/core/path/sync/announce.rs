//! Stage 6, after tracking: decides whether the worker must sync a connection out now. Runs while a master daemon runs.
//!
//! In:  a client's packet of a known connection, counted and tracked; a reply that changed its state; a template whose
//!      timeout was extended.
//! Out: at most the connection and its template in the worker's outbox.
//! Never: does more than one check while no master daemon runs; waits for the thread that empties the outbox.
//! Ref: Linux ip_vs_sync.c `ip_vs_sync_conn()`, `ip_vs_sync_conn_needed()`, for [`SyncMode::Kernel`].

use crate::address::Address;
use crate::ipvs::conn::table::ConnTable;
use crate::ipvs::conn::{ColdConn, Conn, ConnFlags, ConnIndex, ConnMut};
use crate::ipvs::protocol::sctp::SctpState;
use crate::ipvs::protocol::tcp::TcpState;
use crate::ipvs::sync::SyncConn;
use crate::ipvs::sync::policy::SyncMode;
use crate::ipvs::sysctl::Sysctls;
use crate::single_writer::SingleWriter;
use crate::tick::Tick;
use crate::wire::{sctp, tcp};
use crate::worker_state::context::Context;

/// Least half of a timeout that a refresh looks at, in milliseconds.
const REFRESH_HALF_MIN_MS: u32 = 10_000;
/// A refresh is repeated after one part in so many of its period.
const RETRY_PARTS_SHIFT: u32 = 3;
/// The bits of `synced_until` that count repetitions.
const RETRIES: u32 = 3;
/// With [`SyncMode::Every`] a connection is synced out again when its copy would expire this part of its timeout too early.
/// The copy gets as much more time, so it never does.
const BEHIND_PARTS: u32 = 4;

/// Connections that are not synced out: those that end with their packet, and copies, which another worker syncs out.
pub(super) const SILENT: ConnFlags = ConnFlags::ONE_PACKET.union(ConnFlags::REPLIES_ONLY);

/// See the module.
#[inline(always)]
pub(crate) fn packet<A: Address>(ctx: &Context<'_>, table: &mut ConnTable<A>, index: ConnIndex) {
    if ctx.snapshot.sync.master {
        conn_and_template(ctx, table, index);
    }
}

#[inline(never)]
fn conn_and_template<A: Address>(ctx: &Context<'_>, table: &mut ConnTable<A>, index: ConnIndex) {
    let sysctls = &ctx.snapshot.sysctls;
    let mut conn = table.both_mut(index);
    let was_synced = !conn.flags.contains(ConnFlags::ONE_PACKET) && sync_out(ctx, &mut conn);
    if !conn.flags.contains(ConnFlags::CONTROLLED) || (sysctls.sync_version == 0 && !was_synced) {
        return;
    }
    let template = ConnIndex(conn.cold.control);
    let mut template = table.both_mut(template);
    template.in_packets = template.in_packets.wrapping_add(1);
    sync_out(ctx, &mut template);
}

/// A reply has passed. Where every connection is synced out, one whose state the reply changed does not wait for its
/// client's next packet: the real server ends the handshake of SCTP.
#[inline(always)]
pub(crate) fn reply<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>) {
    let is_every = ctx.snapshot.sync.master && ctx.snapshot.sync_policy.mode == SyncMode::Every;
    if is_every && conn.state != conn.synced_state && !conn.flags.intersects(SILENT) {
        sync_out(ctx, conn);
    }
}

/// Syncs out a template that this director keeps because connections still use it: the other director must keep it, too.
pub(crate) fn extension<A: Address>(ctx: &Context<'_>, template: &mut ConnMut<'_, A>) {
    if ctx.snapshot.sync.master {
        sync_out_as(ctx, template, ctx.snapshot.sysctls.sync_threshold[0]);
    }
}

/// Syncs `conn` out if that is due with the packet that was counted last. Returns whether it was due.
fn sync_out<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>) -> bool {
    let packets = conn.in_packets;
    sync_out_as(ctx, conn, packets)
}

/// Syncs `conn` out if that is due with the packet of this number. Returns whether it was due.
fn sync_out_as<A: Address>(ctx: &Context<'_>, conn: &mut ConnMut<'_, A>, packets: u32) -> bool {
    let sysctls = &ctx.snapshot.sysctls;
    let mode = ctx.snapshot.sync_policy.mode;
    let is_due = match mode {
        SyncMode::Kernel => is_due(sysctls, conn, packets, ctx.now),
        SyncMode::Every => is_news(sysctls, conn, ctx.now),
    };
    if !is_due {
        return false;
    }
    if let Some(synced) = entry(mode, (&**conn, &*conn.cold)) {
        let counter = if ctx.out.outbox.push(synced) {
            &ctx.own.synced_out
        } else {
            &ctx.own.synced_out_dropped
        };
        counter.add(1);
    }
    true
}

/// What another director gets of a connection; `None` when no message can say it.
pub(super) fn entry<A: Address>(mode: SyncMode, both: (&Conn<A>, &ColdConn)) -> Option<SyncConn> {
    let mut synced = SyncConn::of(both)?;
    if mode == SyncMode::Every {
        synced.timeout_sec += synced.timeout_sec.div_ceil(BEHIND_PARTS);
    }
    Some(synced)
}

/// Whether a connection in this state is synced out at all.
pub(super) fn is_synced_out<A: Address>(sysctls: &Sysctls, conn: &Conn<A>) -> bool {
    let is_left_to_template = sysctls.sync_persist_mode && conn.flags.contains(ConnFlags::CONTROLLED);
    conn.flags.contains(ConnFlags::TEMPLATE) || !is_left_to_template && !matches!(urgency(conn), Urgency::Never)
}

/// Decides by the kernel's settings whether `conn` is due. Remembers in `conn` that it was synced out when it is.
fn is_due<A: Address>(sysctls: &Sysctls, conn: &mut ConnMut<'_, A>, packets: u32, now: Tick) -> bool {
    let is_template = conn.flags.contains(ConnFlags::TEMPLATE);
    if !is_template && sysctls.sync_persist_mode && conn.flags.contains(ConnFlags::CONTROLLED) {
        return false;
    }
    let until = now.plus_ms(conn.timeout_ms).0 & !RETRIES;
    match urgency(conn) {
        _ if is_template => {}
        Urgency::Never => return false,
        Urgency::AtOnce if conn.state != conn.synced_state => {
            remember(conn, until);
            return true;
        }
        Urgency::AtOnce | Urgency::ByPackets => {}
    }
    let [threshold, period] = sysctls.sync_threshold;
    let is_counted = match packets.checked_rem(period) {
        Some(phase) => is_template || phase == threshold,
        None => sysctls.sync_refresh_period > 0 || packets == threshold,
    };
    if !is_counted {
        return false;
    }
    let Some(until) = refreshed(sysctls, conn, until, now) else {
        return false;
    };
    remember(conn, until);
    true
}

/// Decides whether the other directors know less of `conn` than they must with [`SyncMode::Every`]. Remembers in `conn`
/// that it was synced out when they do.
fn is_news<A: Address>(sysctls: &Sysctls, conn: &mut ConnMut<'_, A>, now: Tick) -> bool {
    if !is_synced_out(sysctls, conn) {
        return false;
    }
    // 0 means that it was never synced out.
    let until = (now.plus_ms(conn.timeout_ms).0 & !RETRIES).max(RETRIES + 1);
    let behind_ms = until
        .wrapping_sub(conn.cold.synced_until & !RETRIES)
        .cast_signed()
        .unsigned_abs();
    let behind_max_ms = match sysctls.sync_refresh_period {
        0 => conn.timeout_ms / BEHIND_PARTS,
        sec => sec.saturating_mul(1_000).min(conn.timeout_ms / BEHIND_PARTS),
    };
    let is_known = conn.cold.synced_until != 0 && conn.state == conn.synced_state && behind_ms < behind_max_ms;
    if !is_known {
        remember(conn, until);
    }
    !is_known
}

fn remember<A: Address>(conn: &mut ConnMut<'_, A>, until: u32) {
    conn.synced_state = conn.state;
    conn.cold.synced_until = until;
}

enum Urgency {
    /// Not in this state.
    Never,
    /// As soon as it has come to this state.
    AtOnce,
    /// As packets come.
    ByPackets,
}

fn urgency<A: Address>(conn: &Conn<A>) -> Urgency {
    match conn.protocol {
        tcp::PROTOCOL => match conn.tcp_state() {
            Some(TcpState::Established) => Urgency::ByPackets,
            Some(TcpState::FinWait | TcpState::Close | TcpState::CloseWait | TcpState::TimeWait) => Urgency::AtOnce,
            _ => Urgency::Never,
        },
        sctp::PROTOCOL => match conn.sctp_state() {
            Some(SctpState::Established) => Urgency::ByPackets,
            Some(
                SctpState::ShutdownSent | SctpState::ShutdownReceived | SctpState::ShutdownAckSent | SctpState::Closed,
            ) => Urgency::AtOnce,
            _ => Urgency::Never,
        },
        _ => Urgency::ByPackets,
    }
}

/// `sync_refresh_period`: until when the others know it then; `None` when what they know is fresh enough.
fn refreshed<A: Address>(sysctls: &Sysctls, conn: &ConnMut<'_, A>, until: u32, now: Tick) -> Option<u32> {
    let period_ms = sysctls.sync_refresh_period.saturating_mul(1_000);
    let (told_until, retries) = (conn.cold.synced_until & !RETRIES, conn.cold.synced_until & RETRIES);
    if period_ms == 0 || told_until == 0 {
        return Some(until);
    }
    let grown = until.wrapping_sub(told_until).cast_signed().unsigned_abs();
    if grown >= period_ms.min((conn.timeout_ms / 2).max(REFRESH_HALF_MIN_MS)) {
        return Some(until);
    }
    let told_at = Tick(told_until.wrapping_sub(conn.timeout_ms));
    let may_repeat = retries < sysctls.sync_retries && now.reached(told_at.plus_ms(period_ms >> RETRY_PARTS_SHIFT));
    may_repeat.then_some(until | (retries + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Addr4;

    fn conn(protocol: u8, state: u8) -> Conn<Addr4> {
        Conn {
            protocol,
            state,
            timeout_ms: 900_000,
            ..Conn::default()
        }
    }

    fn sysctls(settings: &[(&str, &str)]) -> Sysctls {
        let mut sysctls = Sysctls::default();
        settings
            .iter()
            .for_each(|(name, value)| sysctls.set(name, value).unwrap());
        sysctls
    }

    /// Returns the numbers of the packets that make an unchanged connection due, with one packet a second.
    fn due_packets(sysctls: &Sysctls, conn: &mut Conn<Addr4>, packets: u32) -> Vec<u32> {
        let mut cold = ColdConn::default();
        let mut conn = ConnMut::of(conn, &mut cold);
        let due = |&packet: &u32| is_due(sysctls, &mut conn, packet, Tick(packet * 1_000));
        (1..=packets).filter(due).collect()
    }

    #[test]
    fn the_third_packet_and_then_every_fiftieth_tell_of_an_open_connection() {
        for mut conn in [
            conn(tcp::PROTOCOL, TcpState::Established as u8),
            conn(17, 0),
            conn(132, 8),
        ] {
            assert_eq!(due_packets(&sysctls(&[]), &mut conn, 110), [3, 53, 103]);
        }
    }

    #[test]
    fn opening_connections_are_never_due_and_closing_ones_once_and_then_by_packets() {
        for state in [TcpState::None, TcpState::SynRecv, TcpState::SynSent, TcpState::LastAck] {
            assert!(due_packets(&sysctls(&[]), &mut conn(tcp::PROTOCOL, state as u8), 110).is_empty());
        }
        for state in [
            TcpState::FinWait,
            TcpState::Close,
            TcpState::CloseWait,
            TcpState::TimeWait,
        ] {
            let mut conn = conn(tcp::PROTOCOL, state as u8);
            assert_eq!(due_packets(&sysctls(&[]), &mut conn, 60), [1, 3, 53], "{state:?}");
        }
        assert_eq!(
            due_packets(&sysctls(&[]), &mut conn(132, SctpState::Closed as u8), 60),
            [1, 3, 53]
        );
        assert!(due_packets(&sysctls(&[]), &mut conn(132, SctpState::Init as u8), 60).is_empty());
    }

    #[test]
    fn threshold_0_with_period_0_syncs_only_changes_and_n_with_period_0_once() {
        let only_changes = sysctls(&[("sync_threshold", "0 0")]);
        assert!(due_packets(&only_changes, &mut conn(tcp::PROTOCOL, 1), 200).is_empty());
        assert_eq!(
            due_packets(&only_changes, &mut conn(tcp::PROTOCOL, TcpState::Close as u8), 200),
            [1]
        );
        let once = sysctls(&[("sync_threshold", "4 0")]);
        assert_eq!(due_packets(&once, &mut conn(tcp::PROTOCOL, 1), 200), [4]);
        let every = sysctls(&[("sync_threshold", "0 1")]);
        assert_eq!(due_packets(&every, &mut conn(17, 0), 4), [1, 2, 3, 4]);
    }

    #[test]
    fn a_template_is_due_whenever_its_connections_are_checked_unless_the_period_is_0() {
        let mut template = conn(6 ^ 0x80, 0);
        template.flags = ConnFlags::TEMPLATE;
        assert_eq!(due_packets(&sysctls(&[]), &mut template, 3), [1, 2, 3]);
        assert!(due_packets(&sysctls(&[("sync_threshold", "0 0")]), &mut template, 60).is_empty());
    }

    #[test]
    fn with_a_refresh_period_nothing_is_due_again_before_it_is_over() {
        let every_10_s = [("sync_threshold", "0 1"), ("sync_refresh_period", "10")];
        let mut established = conn(tcp::PROTOCOL, 1);
        assert_eq!(
            due_packets(&sysctls(&every_10_s), &mut established, 40),
            [1, 11, 21, 31]
        );
        let without_period = [("sync_threshold", "0 0"), ("sync_refresh_period", "10")];
        assert_eq!(
            due_packets(&sysctls(&without_period), &mut conn(tcp::PROTOCOL, 1), 25),
            [1, 11, 21]
        );
    }

    #[test]
    fn a_refresh_is_repeated_so_often_an_eighth_of_its_period_apart() {
        let repeated = [
            ("sync_threshold", "0 1"),
            ("sync_refresh_period", "16"),
            ("sync_retries", "2"),
        ];
        let mut established = conn(tcp::PROTOCOL, 1);
        assert_eq!(
            due_packets(&sysctls(&repeated), &mut established, 30),
            [1, 3, 5, 21, 23, 25]
        );
    }

    /// The same with every connection being synced out.
    fn news_packets(sysctls: &Sysctls, conn: &mut Conn<Addr4>, packets: u32) -> Vec<u32> {
        let mut cold = ColdConn::default();
        let mut conn = ConnMut::of(conn, &mut cold);
        let is_news = |&packet: &u32| is_news(sysctls, &mut conn, Tick(packet * 1_000));
        (1..=packets).filter(is_news).collect()
    }

    #[test]
    fn every_connection_is_news_when_it_is_established_and_each_quarter_of_its_timeout() {
        for mut conn in [
            conn(tcp::PROTOCOL, TcpState::Established as u8),
            conn(17, 0),
            conn(132, SctpState::Established as u8),
            conn(6 ^ 0x80, 0),
        ] {
            if conn.protocol == 6 ^ 0x80 {
                conn.flags = ConnFlags::TEMPLATE;
            }
            assert_eq!(news_packets(&sysctls(&[]), &mut conn, 500), [1, 226, 451]);
        }
        let refreshed = sysctls(&[("sync_refresh_period", "10")]);
        let mut established = conn(tcp::PROTOCOL, TcpState::Established as u8);
        assert_eq!(news_packets(&refreshed, &mut established, 25), [1, 11, 21]);
        let persist_mode = sysctls(&[("sync_persist_mode", "1")]);
        established.flags = ConnFlags::CONTROLLED;
        assert!(news_packets(&persist_mode, &mut established, 500).is_empty());
    }

    #[test]
    fn every_change_of_state_is_news_but_for_those_of_a_handshake() {
        let sysctls = sysctls(&[]);
        let (mut conn, mut cold) = (conn(tcp::PROTOCOL, TcpState::SynRecv as u8), ColdConn::default());
        let mut conn = ConnMut::of(&mut conn, &mut cold);
        let mut news = |state: TcpState| {
            conn.state = state as u8;
            is_news(&sysctls, &mut conn, Tick(1_000))
        };
        assert!(!news(TcpState::SynRecv) && news(TcpState::Established) && !news(TcpState::Established));
        assert!(news(TcpState::FinWait) && news(TcpState::TimeWait) && !news(TcpState::TimeWait));
    }

    #[test]
    fn a_connection_whose_copy_expires_as_the_clock_begins_anew_is_known() {
        let (mut conn, mut cold) = (conn(tcp::PROTOCOL, TcpState::Established as u8), ColdConn::default());
        let mut conn = ConnMut::of(&mut conn, &mut cold);
        let now = Tick(0u32.wrapping_sub(conn.timeout_ms));
        assert!(is_news(&sysctls(&[]), &mut conn, now) && !is_news(&sysctls(&[]), &mut conn, now));
    }

    #[test]
    fn in_persist_mode_controlled_connections_are_left_to_their_template() {
        let persist_mode = sysctls(&[("sync_persist_mode", "1")]);
        let mut controlled = conn(tcp::PROTOCOL, TcpState::Close as u8);
        controlled.flags = ConnFlags::CONTROLLED;
        assert!(due_packets(&persist_mode, &mut controlled, 60).is_empty());
        assert_eq!(due_packets(&persist_mode, &mut conn(tcp::PROTOCOL, 1), 60), [3, 53]);
    }
}
