//! What the kernel's stack is set to refuse: `rp_filter` and forwarding, on the slow and on the fast path.

use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::l3::{InterfaceId, ReversePath, Stack, StackInterface};
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN, director_mac, network};
use lvs_core::testing::tcp4;
use lvs_core::verdict::DropReason;

use super::{director, service};

/// The same settings of both interfaces.
fn stack(reverse_path: ReversePath, forwards_v4: bool) -> Stack {
    let of = |device| StackInterface {
        interface: InterfaceId::of(device, 0),
        reverse_path,
        forwards_v4,
        accepts_local: false,
    };
    Stack {
        interfaces: vec![of(WAN), of(LAN)],
        forwards_v6: true,
    }
}

fn set(director: &mut TestDirector, stack: Stack, generation: u32) {
    let mut builder = network();
    for (device, address) in [(WAN, "192.0.2.1/24"), (LAN, "198.51.100.1/24")] {
        builder.address(device, 0, address.parse().unwrap());
    }
    let mut l3 = builder.build(generation);
    l3.set_stack(stack);
    director.set_l3(l3);
}

fn director_of(mode: ForwardingMode) -> TestDirector {
    let key = service(ServiceProtocol::Tcp, "192.0.2.100", 80);
    director(1, key, mode, &["198.51.100.11"], 80)
}

const REFUSED: Outcome = Outcome::Dropped(DropReason::ReversePath);

#[test]
fn rp_filter_holds_new_and_established_connections_to_the_way_back() {
    for mode in [
        ForwardingMode::Nat,
        ForwardingMode::DirectRouting,
        ForwardingMode::Tunnel,
    ] {
        let mut director = director_of(mode);
        set(&mut director, stack(ReversePath::Strict, true), 2);
        let syn = tcp4("192.0.2.2:1000 > 192.0.2.100:80").syn();
        let ack = tcp4("192.0.2.2:1000 > 192.0.2.100:80").ack();
        let on_lan = |packet: &lvs_core::testing::PacketBuilder| packet.clone().dst_mac(director_mac(LAN)).build();
        assert_eq!(director.inject(LAN, &on_lan(&syn)), REFUSED, "{mode:?}");
        director.inject(WAN, &syn.build()).transmitted();
        for _ in 0..4 {
            director.inject(WAN, &ack.build()).transmitted();
            assert_eq!(
                director.inject(LAN, &on_lan(&ack)),
                REFUSED,
                "{mode:?}: established, by the other side"
            );
        }
        set(&mut director, stack(ReversePath::Loose, true), 3);
        director.inject(LAN, &on_lan(&ack)).transmitted();
        set(&mut director, stack(ReversePath::Off, true), 4);
        director.inject(LAN, &on_lan(&ack)).transmitted();
    }
}

#[test]
fn rp_filter_leaves_what_is_of_no_service_to_the_kernel() {
    let mut director = director_of(ForwardingMode::Nat);
    set(&mut director, stack(ReversePath::Strict, true), 2);
    let other = tcp4("192.0.2.2:1000 > 192.0.2.1:22")
        .syn()
        .dst_mac(director_mac(LAN))
        .build();
    assert_eq!(director.inject(LAN, &other), Outcome::Punted(other.clone()));
}

#[test]
fn replies_are_forwarded_only_while_the_stack_forwards() {
    let mut director = director_of(ForwardingMode::Nat);
    let reply = tcp4("198.51.100.11:80 > 192.0.2.2:1000").syn().ack();
    let reply = reply.dst_mac(director_mac(LAN)).build();
    set(&mut director, stack(ReversePath::Off, false), 2);
    director
        .inject(WAN, &tcp4("192.0.2.2:1000 > 192.0.2.100:80").syn().build())
        .transmitted();
    assert_eq!(
        director.inject(LAN, &reply),
        Outcome::Dropped(DropReason::NotForwarding)
    );
    set(&mut director, stack(ReversePath::Off, true), 3);
    director.inject(LAN, &reply).transmitted();
    set(&mut director, stack(ReversePath::Off, false), 4);
    assert_eq!(
        director.inject(LAN, &reply),
        Outcome::Dropped(DropReason::NotForwarding)
    );
}

#[test]
fn a_fullnat_reply_to_the_director_itself_needs_no_forwarding() {
    let mut director = director_of(ForwardingMode::FullNat);
    set(&mut director, stack(ReversePath::Off, false), 2);
    let syn = tcp4("192.0.2.2:1000 > 192.0.2.100:80").syn().build();
    let (_, out) = director.inject(WAN, &syn).transmitted();
    let port = u16::from_be_bytes([out[34], out[35]]);
    let reply = tcp4(&format!("198.51.100.11:80 > 198.51.100.200:{port}")).syn().ack();
    let reply = reply.dst_mac(director_mac(LAN)).build();
    let outcome = director.inject(LAN, &reply);
    assert!(
        !matches!(outcome, Outcome::Dropped(DropReason::NotForwarding)),
        "{outcome:?}"
    );
}

#[test]
fn under_a_strict_filter_replies_are_forwarded_no_sooner_than_the_stack_forwards() {
    let mut director = director_of(ForwardingMode::Nat);
    set(&mut director, stack(ReversePath::Strict, false), 2);
    let syn = tcp4("192.0.2.2:1000 > 192.0.2.100:80").syn().build();
    let data = tcp4("198.51.100.11:80 > 192.0.2.2:1000").ack();
    let data = data.dst_mac(director_mac(LAN)).build();
    let ack = tcp4("192.0.2.2:1000 > 192.0.2.100:80").ack().build();
    for packet in [&syn, &ack, &ack] {
        director.inject(WAN, packet).transmitted();
        assert_eq!(director.inject(LAN, &data), Outcome::Dropped(DropReason::NotForwarding));
    }
}
