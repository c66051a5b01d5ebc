//! A service's own timeout of established connections, beside the director's.

use lvs_core::ipvs::desired::ServiceSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::protocol::Timeouts;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{tcp4, udp4};

use super::{director, service};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const FIN: u8 = 0x11;

struct Bench {
    director: TestDirector,
    key: ServiceKey,
}

impl Bench {
    fn new(protocol: ServiceProtocol) -> Self {
        let key = service(protocol, "192.0.2.100", 80);
        Self {
            director: director(1, key, ForwardingMode::Nat, &["198.51.100.11"], 80),
            key,
        }
    }

    /// A director with one established TCP connection.
    fn established(own_sec: u32) -> Self {
        let mut bench = Self::new(ServiceProtocol::Tcp);
        bench.set_own(own_sec);
        bench.client_sends(SYN);
        let reply = tcp4("198.51.100.11:80 > 192.0.2.2:40000").tcp_flags(SYN | ACK);
        bench
            .director
            .inject(LAN, &reply.dst_mac(director_mac(LAN)).build())
            .transmitted();
        bench.client_sends(ACK);
        bench
    }

    fn set_own(&mut self, established_timeout_sec: u32) {
        let spec = ServiceSpec {
            established_timeout_sec,
            ..ServiceSpec::new(self.key, SchedulerKind::Rr)
        };
        self.director
            .change(|desired| desired.edit_service(spec))
            .expect("the service is there");
    }

    fn set_common(&mut self, tcp_sec: u32) {
        let mut timeouts = Timeouts::default();
        timeouts.set(tcp_sec, 0, 0).expect("a timeout");
        self.director.set_timeouts(timeouts);
    }

    fn client_sends(&mut self, tcp_flags: u8) {
        let packet = tcp4("192.0.2.2:40000 > 192.0.2.100:80").tcp_flags(tcp_flags);
        let frame = packet.dst_mac(director_mac(WAN)).build();
        self.director.inject(WAN, &frame).transmitted();
    }

    /// Seconds that the connection lives on without packets, as `ipvsadm -Lnc` shows them.
    fn rest_sec(&self) -> u32 {
        let [conn] = self.director.conns()[..] else {
            panic!("not one connection");
        };
        conn.expires_in_ms.div_ceil(1_000)
    }
}

#[test]
fn an_established_connection_expires_after_the_timeout_of_its_service() {
    let mut bench = Bench::established(20);
    assert_eq!(bench.rest_sec(), 20);
    bench.director.advance_ms(15_000);
    bench.client_sends(ACK);
    bench.director.advance_ms(15_000);
    assert_eq!(bench.rest_sec(), 5);
    bench.director.advance_ms(7_000);
    assert!(bench.director.conns().is_empty());
}

#[test]
fn the_timeout_of_a_service_is_longer_than_the_directors_too() {
    let mut bench = Bench::established(7_200);
    bench.director.advance_ms(3_600_000);
    assert_eq!(bench.rest_sec(), 3_600);
}

#[test]
fn a_connection_has_another_timeout_with_its_first_packet_after_the_edit() {
    let mut bench = Bench::established(0);
    assert_eq!(bench.rest_sec(), 900);
    for (own_sec, common_sec, rest_sec) in [
        (60, 900, 60),
        (90, 900, 90),
        (90, 300, 90),
        (0, 300, 300),
        (300, 300, 300),
        (300, 900, 300),
        (0, 900, 900),
    ] {
        bench.set_own(own_sec);
        bench.set_common(common_sec);
        bench.client_sends(ACK);
        assert_eq!(
            bench.rest_sec(),
            rest_sec,
            "own {own_sec} s, the director's {common_sec} s"
        );
    }
}

#[test]
fn other_states_and_udp_have_the_directors_timeouts() {
    let mut bench = Bench::established(20);
    bench.client_sends(FIN);
    assert_eq!(bench.rest_sec(), 60, "CLOSE_WAIT");
    let mut bench = Bench::new(ServiceProtocol::Udp);
    let datagram = udp4("192.0.2.2:40000 > 192.0.2.100:80")
        .dst_mac(director_mac(WAN))
        .build();
    bench.director.inject(WAN, &datagram).transmitted();
    assert_eq!(bench.rest_sec(), 300);
}

#[test]
fn a_timeout_of_31_days_is_listed_and_runs_as_long_as_it_says() {
    const DAY_SEC: u32 = 86_400;
    let mut bench = Bench::established(0);
    let mut timeouts = Timeouts::default();
    timeouts.set(31 * DAY_SEC, 0, 0).unwrap();
    bench.director.set_timeouts(timeouts);
    bench.client_sends(ACK);
    let left_sec = |bench: &Bench| bench.director.conns().first().map(|conn| conn.expires_in_ms / 1_000);
    assert_eq!(left_sec(&bench), Some(31 * DAY_SEC));
    for days in [10, 15] {
        bench.director.skip_ms(days * DAY_SEC * 1_000);
    }
    assert_eq!(left_sec(&bench).map(|sec| sec.div_ceil(DAY_SEC)), Some(6));
    bench.client_sends(ACK);
    assert_eq!(left_sec(&bench), Some(31 * DAY_SEC), "a packet begins anew");
    for _ in 0..4 {
        bench.director.skip_ms(8 * DAY_SEC * 1_000);
    }
    assert_eq!(left_sec(&bench), None);
}
