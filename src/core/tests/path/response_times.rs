//! wrt measures how long a real server takes to answer: once a connection, and only where the answer is certain.

use lvs_core::ipvs::desired::ServiceSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::single_writer::SingleWriter;
use lvs_core::testing::director::TestDirector;
use lvs_core::testing::network::{LAN, WAN, director_mac};
use lvs_core::testing::{PacketBuilder, tcp4, udp4};

use super::{director, service};

const IN: &str = "192.0.2.2:1024 > 192.0.2.100:80";
const OUT: &str = "198.51.100.11:80 > 192.0.2.2:1024";

fn director_of(protocol: ServiceProtocol, mode: ForwardingMode, kind: SchedulerKind) -> TestDirector {
    let key = service(protocol, "192.0.2.100", 80);
    let mut director = director(1, key, mode, &["198.51.100.11"], 80);
    director.change(|desired| desired.edit_service(ServiceSpec::new(key, kind)).unwrap());
    director
}

fn reply(director: &mut TestDirector, packet: PacketBuilder) {
    director
        .inject(LAN, &packet.dst_mac(director_mac(LAN)).build())
        .transmitted();
}

fn measured_us(director: &TestDirector) -> u32 {
    director.counters[0].measured(RealServerId(0)).response_us.get()
}

#[test]
fn from_a_syn_to_its_syn_ack_and_never_again_for_this_connection() {
    let mut director = director_of(ServiceProtocol::Tcp, ForwardingMode::Nat, SchedulerKind::Wrt);
    director.inject(WAN, &tcp4(IN).syn().build()).transmitted();
    director.advance_us(350);
    reply(&mut director, tcp4(OUT).syn().ack());
    assert_eq!(measured_us(&director), 350);
    director.advance_us(9_000);
    reply(&mut director, tcp4(OUT).syn().ack());
    director.inject(WAN, &tcp4(IN).ack().build()).transmitted();
    reply(&mut director, tcp4(OUT).ack());
    assert_eq!(measured_us(&director), 350);
}

#[test]
fn not_when_the_client_had_to_repeat_its_syn() {
    let mut director = director_of(ServiceProtocol::Tcp, ForwardingMode::Nat, SchedulerKind::Wrt);
    director.inject(WAN, &tcp4(IN).syn().build()).transmitted();
    director.advance_us(1_000_000);
    director.inject(WAN, &tcp4(IN).syn().build()).transmitted();
    director.advance_us(300);
    reply(&mut director, tcp4(OUT).syn().ack());
    assert_eq!(measured_us(&director), 0);
}

#[test]
fn from_the_first_datagram_to_the_first_reply() {
    let mut director = director_of(ServiceProtocol::Udp, ForwardingMode::Nat, SchedulerKind::Wrt);
    director.inject(WAN, &udp4(IN).build()).transmitted();
    director.advance_us(120);
    director.inject(WAN, &udp4(IN).build()).transmitted();
    director.advance_us(130);
    reply(&mut director, udp4(OUT));
    assert_eq!(measured_us(&director), 250);
}

#[test]
fn in_fullnat_too_but_not_in_direct_routing_and_not_for_schedulers_that_do_not_ask() {
    let mut director = director_of(ServiceProtocol::Tcp, ForwardingMode::FullNat, SchedulerKind::Wrt);
    director.inject(WAN, &tcp4(IN).syn().build()).transmitted();
    let local = director.conns()[0].local;
    director.advance_us(40);
    reply(
        &mut director,
        tcp4(&format!("198.51.100.11:80 > {}:{}", local.0, local.1)).syn().ack(),
    );
    assert_eq!(measured_us(&director), 40);
    for (mode, kind) in [
        (ForwardingMode::DirectRouting, SchedulerKind::Wrt),
        (ForwardingMode::Nat, SchedulerKind::Wlc),
    ] {
        let mut director = director_of(ServiceProtocol::Tcp, mode, kind);
        director.inject(WAN, &tcp4(IN).syn().build()).transmitted();
        director.advance_us(40);
        director.inject(WAN, &tcp4(IN).ack().build()).transmitted();
        if mode.sees_replies() {
            reply(&mut director, tcp4(OUT).syn().ack());
        }
        assert_eq!(measured_us(&director), 0, "{mode:?}");
    }
}
