//! A pair whose master syncs every connection out: what the backup knows milliseconds after a handshake.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::protocol::sctp::SctpState;
use lvs_core::ipvs::protocol::tcp::TcpState;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::sync::assembly::Assembly;
use lvs_core::ipvs::sync::policy::{SyncMode, SyncPolicy};
use lvs_core::ipvs::sync::{SyncConn, SyncRoles, message};
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{sctp4, tcp4, udp4};

use super::{director, packet, service};

const SERVERS: [&str; 2] = ["198.51.100.11", "198.51.100.12"];
const MODES: [ForwardingMode; 3] = [
    ForwardingMode::Nat,
    ForwardingMode::FullNat,
    ForwardingMode::DirectRouting,
];
/// Within so many milliseconds the backup knows what the master established.
const PROMISED_MS: u32 = 20;

/// Two directors in the same time. Worker, management core and wire each take what there is once a millisecond.
struct Pair {
    master: TestDirector,
    backup: TestDirector,
    assembly: Assembly,
    mode: SyncMode,
    given: Vec<SyncConn>,
    sent: Vec<Vec<u8>>,
    now_ms: u64,
}

impl Pair {
    fn new(mode: SyncMode, key: ServiceKey, forwarding: ForwardingMode) -> Self {
        let of = |is_master| {
            let mut one = director(1, key, forwarding, &SERVERS, 80);
            one.set_sync(SyncRoles {
                master: is_master,
                backup: !is_master,
            });
            one.set_sync_policy(SyncPolicy {
                mode,
                ..SyncPolicy::default()
            });
            one
        };
        Self {
            master: of(true),
            backup: of(false),
            assembly: Assembly::new(7, 1_472),
            mode,
            given: Vec::new(),
            sent: Vec::new(),
            now_ms: 0,
        }
    }

    fn advance_ms(&mut self, ms: u32) {
        for _ in 0..ms {
            self.now_ms += 1;
            self.master.advance_us(1_000);
            self.backup.advance_us(1_000);
            let mut arrived = Vec::new();
            for datagram in std::mem::take(&mut self.sent) {
                message::read(&datagram, 7, |entry| arrived.extend(entry)).unwrap();
            }
            self.backup.import_synced(&arrived);
            for conn in std::mem::take(&mut self.given) {
                self.sent.extend(self.assembly.add(&conn, 1, self.now_ms));
            }
            self.sent.extend(self.assembly.due(self.mode, self.now_ms));
            self.given = self.master.take_synced();
        }
    }

    /// The client's and the server's part of a TCP handshake, and nothing more. Returns the ACK as the server got it.
    fn handshake(&mut self, ends: &str) -> Vec<u8> {
        let (_, syn) = self.master.inject(WAN, &tcp4(ends).syn().build()).transmitted();
        if let Some(reply) = reply_to(&syn) {
            let reply = tcp4(&reply).syn().ack().dst_mac(director_mac(LAN)).build();
            self.master.inject(LAN, &reply).transmitted();
        }
        self.master.inject(WAN, &tcp4(ends).ack().build()).transmitted().1
    }

    /// State and remaining seconds of the backup's connections.
    fn known(&self) -> Vec<(u8, u32)> {
        let conns = self.backup.conns();
        conns
            .iter()
            .map(|conn| (conn.state, conn.expires_in_ms.div_ceil(1_000)))
            .collect()
    }
}

/// Ends of the answer to a frame that reached a server by NAT or FULLNAT; nothing for DR.
pub(super) fn reply_to(to_server: &[u8]) -> Option<String> {
    let shown = packet(to_server);
    let words: Vec<&str> = shown.split(' ').collect();
    (!words[4].starts_with("192.0.2.100")).then(|| format!("{} > {}", words[4], words[2]))
}

fn web() -> ServiceKey {
    service(ServiceProtocol::Tcp, "192.0.2.100", 80)
}

#[test]
fn a_connection_that_made_its_handshake_only_goes_on_through_the_backup_within_20_ms() {
    for forwarding in MODES {
        let mut pair = Pair::new(SyncMode::Every, web(), forwarding);
        let ends = "192.0.2.2:10000 > 192.0.2.100:80";
        let ack = pair.handshake(ends);
        pair.advance_ms(PROMISED_MS);
        // A quarter more than 900 s, less the milliseconds since.
        assert_eq!(pair.known(), [(TcpState::Established as u8, 1_125)], "{forwarding:?}");
        let (_, there) = pair.backup.inject(WAN, &tcp4(ends).ack().build()).transmitted();
        assert_eq!(there, ack, "{forwarding:?}: the server sees no difference");
    }
}

#[test]
fn as_the_kernel_does_it_a_handshake_alone_is_unknown() {
    for forwarding in MODES {
        let mut pair = Pair::new(SyncMode::Kernel, web(), forwarding);
        pair.handshake("192.0.2.2:10000 > 192.0.2.100:80");
        pair.advance_ms(3_000);
        assert_eq!(pair.known(), [], "{forwarding:?}");
    }
}

#[test]
fn a_half_open_connection_is_nobodys_news() {
    let mut pair = Pair::new(SyncMode::Every, web(), ForwardingMode::Nat);
    let ends = "192.0.2.2:10000 > 192.0.2.100:80";
    let (_, syn) = pair.master.inject(WAN, &tcp4(ends).syn().build()).transmitted();
    let reply = tcp4(&reply_to(&syn).unwrap()).syn().ack().dst_mac(director_mac(LAN));
    pair.master.inject(LAN, &reply.build()).transmitted();
    pair.advance_ms(100);
    assert_eq!(pair.known(), []);
}

#[test]
fn a_datagram_of_udp_is_enough() {
    let key = service(ServiceProtocol::Udp, "192.0.2.100", 53);
    let mut pair = Pair::new(SyncMode::Every, key, ForwardingMode::Nat);
    let query = udp4("192.0.2.2:10000 > 192.0.2.100:53").build();
    pair.master.inject(WAN, &query).transmitted();
    pair.advance_ms(PROMISED_MS);
    assert_eq!(pair.known(), [(0, 375)]);
}

#[test]
fn the_servers_end_of_an_sctp_handshake_is_enough() {
    let key = service(ServiceProtocol::Sctp, "192.0.2.100", 80);
    let mut pair = Pair::new(SyncMode::Every, key, ForwardingMode::Nat);
    let chunk = |kind: u8| [kind, 0, 0, 4];
    let ends = "192.0.2.2:10000 > 192.0.2.100:80";
    let (init, init_ack, cookie_echo, cookie_ack) = (chunk(1), chunk(2), chunk(10), chunk(11));
    for (from_client, from_server) in [(init, init_ack), (cookie_echo, cookie_ack)] {
        pair.master
            .inject(WAN, &sctp4(ends).payload(&from_client).build())
            .transmitted();
        let (addr, port) = pair.master.conns()[0].real;
        let reply = sctp4(&format!("{addr}:{port} > 192.0.2.2:10000")).payload(&from_server);
        pair.master
            .inject(LAN, &reply.dst_mac(director_mac(LAN)).build())
            .transmitted();
    }
    pair.advance_ms(PROMISED_MS);
    let states: Vec<u8> = pair.known().into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, [SctpState::Established as u8]);
}

#[test]
fn the_backup_follows_each_state_and_keeps_a_quiet_connection_as_long_as_its_master() {
    let mut pair = Pair::new(SyncMode::Every, web(), ForwardingMode::Nat);
    let ends = "192.0.2.2:10000 > 192.0.2.100:80";
    pair.handshake(ends);
    pair.advance_ms(PROMISED_MS);
    // The last packet comes just before the connection would be synced out again.
    for director in [&mut pair.master, &mut pair.backup] {
        director.advance_ms(224_000);
    }
    pair.master.inject(WAN, &tcp4(ends).ack().build()).transmitted();
    for director in [&mut pair.master, &mut pair.backup] {
        director.advance_ms(895_000);
    }
    assert_eq!((pair.master.conns().len(), pair.backup.conns().len()), (1, 1));
    pair.now_ms += 224_000 + 895_000;
    pair.master.inject(WAN, &tcp4(ends).fin().ack().build()).transmitted();
    pair.advance_ms(PROMISED_MS);
    assert_eq!(pair.known(), [(TcpState::CloseWait as u8, 75)]);
    pair.master.inject(WAN, &tcp4(ends).rst().build()).transmitted();
    pair.advance_ms(PROMISED_MS);
    assert_eq!(pair.known()[0].0, TcpState::Close as u8);
}
