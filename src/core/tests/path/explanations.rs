//! What is explained is what happens, and asking leaves no trace.

use lvs_core::explain::{End, Explanation, Left, Question, explain};
use lvs_core::ipvs::desired::ServiceSpec;
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::SchedulerKind;
use lvs_core::ipvs::service::ServiceProtocol;
use lvs_core::testing::director::{Outcome, TestDirector};
use lvs_core::testing::network::{LAN, WAN};
use lvs_core::testing::tcp4;
use lvs_core::verdict::{DropReason, WorkerId};

use super::{addr, director, service};

const SERVERS: [&str; 3] = ["198.51.100.11", "198.51.100.12", "198.51.100.13"];
const VIP: &str = "192.0.2.100";

fn question(client: u8, port: u16, begins: bool) -> Question {
    Question {
        device: WAN,
        protocol: 6,
        src: (addr(&format!("192.0.2.{client}")), port),
        dst: (addr(VIP), 80),
        begins,
        is_handoff: false,
    }
}

fn ask(director: &mut TestDirector, worker: usize, question: Question) -> Explanation {
    let now = director.now();
    explain(&mut director.workers[worker], now, &question)
}

fn syn(director: &mut TestDirector, client: u8, port: u16) -> Outcome {
    let ends = format!("192.0.2.{client}:{port} > {VIP}:80");
    director.inject(WAN, &tcp4(&ends).syn().build())
}

/// With the scheduler given, persistent or not.
fn balanced(kind: SchedulerKind, mode: ForwardingMode, persistent: bool) -> TestDirector {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, mode, &SERVERS, 8_080);
    let persistence = Persistence {
        timeout_sec: 300,
        mask: ClientMask::Ipv4("255.255.255.255".parse().expect("a mask")),
    };
    let spec = ServiceSpec {
        persistence: persistent.then_some(persistence),
        ..ServiceSpec::new(key, kind)
    };
    director
        .change(|desired| desired.edit_service(spec))
        .expect("the service is there");
    director
}

#[test]
fn with_every_scheduler_the_next_packet_goes_where_it_was_said_to_go_however_often_one_asks() {
    for kind in SchedulerKind::ALL {
        for (mode, persistent) in [
            (ForwardingMode::Nat, false),
            (ForwardingMode::FullNat, false),
            (ForwardingMode::Nat, true),
        ] {
            let mut asked = balanced(*kind, mode, persistent);
            let mut silent = balanced(*kind, mode, persistent);
            for number in 0..60u16 {
                let (client, port) = (2 + (number % 8) as u8, 10_000 + number);
                let first = ask(&mut asked, 0, question(client, port, true));
                for _ in 0..number % 3 {
                    assert_eq!(
                        ask(&mut asked, 0, question(client, port, true)),
                        first,
                        "{}",
                        kind.name()
                    );
                }
                let went = syn(&mut asked, client, port);
                assert_eq!(went, syn(&mut silent, client, port), "{}", kind.name());
                let conn = asked.conns().into_iter().find(|conn| conn.client.1 == port);
                let Some(conn) = conn else {
                    assert!(matches!(first.end, End::Drop(DropReason::NoRealServer)), "{first:?}");
                    continue;
                };
                assert_eq!(first.server, Some(conn.real_server), "{}", kind.name());
                assert_eq!(first.port, conn.real.1);
                let local = (mode == ForwardingMode::FullNat).then_some(conn.local);
                assert_eq!(first.local, local);
                assert_eq!(first.template.is_some(), persistent && number >= 8, "{number}");
                let End::Transmit(hop) = first.end else {
                    panic!("{first:?}")
                };
                assert!(matches!(went, Outcome::Transmitted(LAN, frame) if frame[..6] == hop.dst_mac));

                let known = ask(&mut asked, 0, question(client, port, false));
                assert_eq!(known.conn, Some(conn));
                assert_eq!((known.end, known.server), (first.end, first.server));
            }
            assert_eq!(asked.conns(), silent.conns(), "{}", kind.name());
        }
    }
}

#[test]
fn what_does_not_leave_is_explained_by_the_name_that_its_drop_has() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(1, key, ForwardingMode::Nat, &SERVERS[..1], 80);
    assert_eq!(
        ask(&mut director, 0, question(2, 1, false)).end,
        End::Punt(Left::StartsNothing)
    );
    let other = Question {
        dst: (addr(VIP), 81),
        ..question(2, 1, true)
    };
    assert_eq!(ask(&mut director, 0, other).end, End::Punt(Left::NoService));
    let mixed = Question {
        src: (addr("2001:db8:a::2"), 1),
        ..question(2, 1, true)
    };
    assert_eq!(ask(&mut director, 0, mixed).end, End::Nonsense);

    assert!(matches!(syn(&mut director, 2, 1), Outcome::Transmitted(..)));
    director
        .change(|desired| desired.delete_server(&key, addr(SERVERS[0]), 80))
        .expect("it is there");
    let gone = ask(&mut director, 0, question(2, 1, false));
    assert_eq!(gone.end, End::Drop(DropReason::RealServerGone));
    assert_eq!(
        ask(&mut director, 0, question(3, 1, true)).end,
        End::Drop(DropReason::NoRealServer)
    );

    director
        .change(|desired| desired.delete_service(&key))
        .expect("it is there");
    assert_eq!(
        ask(&mut director, 0, question(2, 1, true)).end,
        End::Punt(Left::NoServices)
    );
}

#[test]
fn each_worker_names_the_owner_and_the_owner_the_server() {
    let key = service(ServiceProtocol::Tcp, VIP, 80);
    let mut director = director(4, key, ForwardingMode::Nat, &SERVERS, 80);
    let mut owners = Vec::new();
    for port in 1_000..1_040 {
        let ends: Vec<End> = (0..4)
            .map(|worker| ask(&mut director, worker, question(5, port, true)).end)
            .collect();
        let own = ends
            .iter()
            .position(|end| matches!(end, End::Transmit(_)))
            .expect("one owns it");
        let others = ends.iter().enumerate().filter(|(worker, _)| *worker != own);
        for (_, end) in others {
            assert_eq!(*end, End::Handoff(WorkerId(own as u8)));
        }
        owners.push(own);
        assert!(matches!(syn(&mut director, 5, port), Outcome::Transmitted(..)));
        assert!(ask(&mut director, own, question(5, port, false)).conn.is_some());
    }
    owners.sort_unstable();
    owners.dedup();
    assert_eq!(owners, [0, 1, 2, 3]);
}
