//! The mirror against a real kernel: an operator types `ip`, the L3 follows. The test is the wire behind
//! the twin, so it answers ARP itself.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::sync::Mutex;

use lvs_core::address::{Addr4, Addr6, Address};
use lvs_core::l3::{Hop, InterfaceId, Route};

use super::*;
use crate::mgmt::lock::lock;
use crate::mgmt::namespace::{add_ipv6_address, in_namespace, ip};
use crate::mgmt::twin;

mod scale;

const LAN: DeviceId = DeviceId(0);
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0x11, 0x22];
const RS_MAC: [u8; 6] = [2, 0, 0, 0, 0x33, 0x44];
const PATIENCE: Duration = Duration::from_secs(60);

/// What the mirror has handed out. Only the last one is kept, as by workers.
#[derive(Default)]
struct Published {
    count: usize,
    latest: Option<Arc<L3>>,
}

/// A director with one device, `lan`: 192.0.2.1/24 and 2001:db8:2::1/64.
struct Director {
    mirror: KernelMirror,
    published: Arc<Mutex<Published>>,
    wire: File,
}

impl Director {
    async fn start() -> Self {
        let twin = twin::open_alone(LAN, "lan", LAN_MAC, 1500).unwrap();
        ip("addr add 192.0.2.1/24 dev lan");
        add_ipv6_address("2001:db8:2::1/64", "lan");
        let published = Arc::new(Mutex::new(Published::default()));
        let sink = Arc::clone(&published);
        let twins = [MirroredTwin {
            device: LAN,
            ifindex: twin.ifindex,
            name: twin.name.clone(),
        }];
        let publish = move |l3| {
            let mut published = lock(&sink);
            published.count += 1;
            published.latest = Some(l3);
        };
        let mirror = KernelMirror::start(&twins, publish).await.unwrap();
        Self {
            mirror,
            published,
            wire: File::from(twin.fd),
        }
    }

    fn latest(&self) -> Arc<L3> {
        let published = lock(&self.published);
        Arc::clone(published.latest.as_ref().expect("the first L3 comes with the start"))
    }

    fn count(&self) -> usize {
        lock(&self.published).count
    }

    /// Waits until the published L3 is as `expected`.
    async fn until(&mut self, what: &str, expected: impl Fn(&L3) -> bool) -> Arc<L3> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let l3 = self.latest();
            if expected(&l3) {
                return l3;
            }
            assert!(Instant::now() < deadline, "{what} did not come about: {l3:#?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the kernel asks by ARP for `target`, as seen on the wire.
    async fn arp_request_for(&mut self, target: [u8; 4]) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut frame = vec![0; 2048];
        loop {
            match self.wire.read(&mut frame) {
                Ok(len) if frame[12..14] == [8, 6] && frame[38..42] == target => {
                    frame.truncate(len);
                    return frame;
                }
                Ok(_) => continue,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            assert!(Instant::now() < deadline, "the kernel does not ask for {target:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Answers an ARP request as `RS_MAC` (RFC 826: swap the two ends, opcode 2).
    fn answer(&mut self, request: &[u8]) {
        let mut reply = request.to_vec();
        reply[..6].copy_from_slice(&request[6..12]);
        reply[6..12].copy_from_slice(&RS_MAC);
        reply[21] = 2;
        reply[22..28].copy_from_slice(&RS_MAC);
        reply[28..32].copy_from_slice(&request[38..42]);
        reply[32..42].copy_from_slice(&request[22..32]);
        self.wire.write_all(&reply).unwrap();
    }
}

fn on_lan(addr: &str) -> NeighbourKey {
    let ifindex = nix::net::if_::if_nametoindex("lan").unwrap();
    NeighbourKey {
        device: LAN,
        interface: InterfaceId(ifindex),
        addr: addr.parse().unwrap(),
    }
}

/// Runs `test` on a runtime of one thread in a namespace of its own.
fn with_director<T: Future<Output = ()>>(test: impl FnOnce(Director) -> T + Send + 'static) {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { test(Director::start().await).await });
    });
}

fn route(l3: &L3, dst: &str) -> Route {
    match dst.parse().unwrap() {
        IpAddr::V4(addr) => l3.route(Addr4(addr.octets())),
        IpAddr::V6(addr) => l3.route(Addr6(addr.octets())),
    }
}

fn hop(l3: &L3, dst: &str) -> Option<Hop> {
    match route(l3, dst) {
        Route::Hop(id) => Some(*l3.hop(id)),
        _ => None,
    }
}

fn is_local<A: Address>(l3: &L3, addr: &str) -> bool {
    l3.is_local(A::from_ip(addr.parse().unwrap()).unwrap())
}

#[test]
fn the_first_l3_holds_what_was_there_before() {
    with_director(|director| async move {
        let l3 = director.latest();
        assert_eq!(l3.generation, 1);
        let interface = l3.interface(LAN, 0).unwrap();
        assert_eq!(
            (interface.mac, interface.mtu, interface.name.as_str()),
            (LAN_MAC, 1500, "lan")
        );
        assert!(is_local::<Addr4>(&l3, "192.0.2.1") && is_local::<Addr6>(&l3, "2001:db8:2::1"));
        assert_eq!(route(&l3, "192.0.2.11"), Route::Unresolved(on_lan("192.0.2.11")));
        assert_eq!(
            route(&l3, "2001:db8:2::11"),
            Route::Unresolved(on_lan("2001:db8:2::11"))
        );
        assert_eq!(route(&l3, "192.0.2.255"), Route::Local, "a broadcast is the kernel's");
        assert_eq!(route(&l3, "203.0.113.1"), Route::Unreachable);
        assert_eq!(l3.source_address(LAN), Some(Addr4([192, 0, 2, 1])));
    });
}

#[test]
fn routes_are_followed_as_they_come_change_and_go() {
    with_director(|mut director| async move {
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:33:44 dev lan nud permanent");
        ip("neigh add 192.0.2.253 lladdr 02:00:00:00:33:55 dev lan nud permanent");
        ip("route add 203.0.113.0/24 via 192.0.2.254 mtu 1400");
        let l3 = director.until("a route", |l3| hop(l3, "203.0.113.7").is_some()).await;
        let expected = Hop {
            device: LAN,
            mtu: 1400,
            vlan: 0,
            src_mac: LAN_MAC,
            dst_mac: RS_MAC,
        };
        assert_eq!(hop(&l3, "203.0.113.7"), Some(expected));

        ip("route replace 203.0.113.0/24 via 192.0.2.253");
        let mac = |l3: &L3, dst| hop(l3, dst).map(|hop| hop.dst_mac[5]);
        let l3 = director
            .until("the other gateway", |l3| mac(l3, "203.0.113.7") == Some(0x55))
            .await;
        assert_eq!(hop(&l3, "203.0.113.7").unwrap().mtu, 1500);

        ip("route add 203.0.113.0/24 via 192.0.2.254 metric 50");
        ip("route add blackhole 203.0.113.64/26");
        ip("route add unreachable 203.0.113.128/26");
        ip("route add prohibit 203.0.113.192/26");
        director
            .until("a prohibition", |l3| route(l3, "203.0.113.200") == Route::Unreachable)
            .await;
        let l3 = director
            .until("a blackhole", |l3| route(l3, "203.0.113.65") == Route::Blackhole)
            .await;
        assert_eq!(mac(&l3, "203.0.113.7"), Some(0x55), "metric 0 goes before metric 50");

        ip("route del 203.0.113.0/24 metric 0");
        director
            .until("the next metric", |l3| mac(l3, "203.0.113.7") == Some(0x44))
            .await;
        ip("route flush 203.0.113.0/24");
        director
            .until("no route", |l3| route(l3, "203.0.113.7") == Route::Unreachable)
            .await;
    });
}

#[test]
fn ipv6_routes_and_equal_paths_are_followed() {
    with_director(|mut director| async move {
        ip("-6 neigh add 2001:db8:2::fe lladdr 02:00:00:00:33:44 dev lan nud permanent");
        ip("-6 neigh add 2001:db8:2::fd lladdr 02:00:00:00:33:55 dev lan nud permanent");
        ip("-6 route add default via 2001:db8:2::fe");
        director
            .until("a default route", |l3| hop(l3, "2001:db8:9::1").is_some())
            .await;
        ip("-6 route replace default nexthop via 2001:db8:2::fe nexthop via 2001:db8:2::fd");
        let macs = |l3: &L3| -> std::collections::BTreeSet<u8> {
            (0..64)
                .filter_map(|low| hop(l3, &format!("2001:db8:9::{low:x}")))
                .map(|hop| hop.dst_mac[5])
                .collect()
        };
        director
            .until("two equal paths", |l3| macs(l3) == [0x44, 0x55].into())
            .await;
        ip("route add 203.0.113.0/24 via inet6 2001:db8:2::fe dev lan");
        director
            .until("IPv4 by an IPv6 router", |l3| hop(l3, "203.0.113.7").is_some())
            .await;
    });
}

#[test]
fn addresses_are_local_while_they_exist_wherever_they_are() {
    with_director(|mut director| async move {
        ip("addr add 203.0.113.80/32 dev lo");
        ip("addr add 2001:db8:80::1/128 dev lo");
        director
            .until("a VIP on lo", |l3| is_local::<Addr4>(l3, "203.0.113.80"))
            .await;
        director
            .until("an IPv6 VIP on lo", |l3| is_local::<Addr6>(l3, "2001:db8:80::1"))
            .await;
        ip("route add local 198.51.100.0/24 dev lo");
        director
            .until("a whole local network", |l3| is_local::<Addr4>(l3, "198.51.100.200"))
            .await;
        ip("addr del 203.0.113.80/32 dev lo");
        director
            .until("the VIP gone", |l3| !is_local::<Addr4>(l3, "203.0.113.80"))
            .await;
        // The kernel drops the IPv4 routes of an address without a word.
        ip("addr del 192.0.2.1/24 dev lan");
        director
            .until("the network gone", |l3| route(l3, "192.0.2.11") == Route::Unreachable)
            .await;
        director
            .until("its address gone", |l3| l3.source_address::<Addr4>(LAN).is_none())
            .await;
    });
}

#[test]
fn a_link_that_goes_down_takes_its_routes_along_and_comes_back_as_it_then_is() {
    with_director(|mut director| async move {
        ip("link set lan down");
        director
            .until("no way out", |l3| route(l3, "192.0.2.11") == Route::Unreachable)
            .await;
        assert!(
            is_local::<Addr4>(&director.latest(), "192.0.2.1"),
            "the kernel still answers for it"
        );
        ip("link set lan address 02:00:00:00:77:88 mtu 1280");
        ip("link set lan up");
        director
            .until("a way out", |l3| {
                matches!(route(l3, "192.0.2.11"), Route::Unresolved(_))
            })
            .await;
        let l3 = director.until("the new MTU", |l3| l3.mtu(LAN) == 1280).await;
        assert_eq!(l3.interface(LAN, 0).unwrap().mac, [2, 0, 0, 0, 0x77, 0x88]);
    });
}

#[test]
fn permanent_neighbours_are_followed_and_a_refresh_of_nothing_publishes_nothing() {
    with_director(|mut director| async move {
        ip("neigh add 192.0.2.11 lladdr 02:00:00:00:33:44 dev lan nud permanent");
        ip("-6 neigh add 2001:db8:2::11 lladdr 02:00:00:00:33:44 dev lan nud permanent");
        director
            .until("a neighbour", |l3| hop(l3, "192.0.2.11").is_some())
            .await;
        director
            .until("an IPv6 neighbour", |l3| hop(l3, "2001:db8:2::11").is_some())
            .await;

        let before = director.count();
        ip("neigh replace 192.0.2.11 lladdr 02:00:00:00:33:44 dev lan nud stale");
        ip("neigh replace 192.0.2.11 lladdr 02:00:00:00:33:44 dev lan nud reachable");
        ip("link add elsewhere type veth peer name beyond");
        ip("addr add 198.51.100.1/24 dev elsewhere");
        ip("neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev elsewhere nud permanent");
        // A change that counts comes after them: what came before it has then been seen.
        ip("neigh replace 192.0.2.12 lladdr 02:00:00:00:33:66 dev lan nud permanent");
        director
            .until("another neighbour", |l3| hop(l3, "192.0.2.12").is_some())
            .await;
        // The address of the veth is local to the host, which is one more thing that counts.
        director
            .until("a foreign address", |l3| is_local::<Addr4>(l3, "198.51.100.1"))
            .await;
        let more = director.count() - before;
        assert!(more <= 3, "{more} new L3 for two changes");

        ip("neigh replace 192.0.2.11 lladdr 02:00:00:00:33:77 dev lan nud permanent");
        director
            .until("a new MAC", |l3| {
                hop(l3, "192.0.2.11").is_some_and(|hop| hop.dst_mac[5] == 0x77)
            })
            .await;
        ip("neigh del 192.0.2.11 dev lan");
        director
            .until("no neighbour", |l3| {
                matches!(route(l3, "192.0.2.11"), Route::Unresolved(_))
            })
            .await;
    });
}

#[test]
fn a_neighbour_a_worker_asks_for_is_resolved_by_the_kernel() {
    with_director(|mut director| async move {
        director.mirror.resolve(on_lan("192.0.2.11"));
        let request = director.arp_request_for([192, 0, 2, 11]).await;
        assert_eq!(request[6..12], LAN_MAC);
        director.answer(&request);
        let l3 = director
            .until("the neighbour", |l3| hop(l3, "192.0.2.11").is_some())
            .await;
        assert_eq!(hop(&l3, "192.0.2.11").unwrap().dst_mac, RS_MAC);
    });
}

#[test]
fn a_silent_neighbour_fails_and_recovers_when_it_speaks() {
    with_director(|mut director| async move {
        let failed = Route::NeighbourFailed(on_lan("192.0.2.11"));
        director.mirror.resolve(on_lan("192.0.2.11"));
        director.until("failure", |l3| route(l3, "192.0.2.11") == failed).await;
        let before = director.count();
        // While the kernel asks again, nothing changes for packets.
        while director.wire.read(&mut [0; 2048]).is_ok() {}
        director.mirror.resolve(on_lan("192.0.2.11"));
        let request = director.arp_request_for([192, 0, 2, 11]).await;
        assert_eq!(director.count(), before);
        assert_eq!(route(&director.latest(), "192.0.2.11"), failed);
        director.answer(&request);
        director.until("recovery", |l3| hop(l3, "192.0.2.11").is_some()).await;
    });
}

#[test]
fn a_stale_neighbour_is_probed_though_no_packet_of_the_kernel_uses_it() {
    with_director(|mut director| async move {
        std::fs::write("/proc/sys/net/ipv4/neigh/lan/delay_first_probe_time", "0").unwrap();
        ip("neigh add 192.0.2.11 lladdr 02:00:00:00:33:44 dev lan nud stale");
        director
            .until("the neighbour", |l3| hop(l3, "192.0.2.11").is_some())
            .await;
        let probe = director.arp_request_for([192, 0, 2, 11]).await;
        assert_eq!(probe[..6], RS_MAC, "a unicast probe");
        director
            .until("its failure seen", |l3| {
                matches!(route(l3, "192.0.2.11"), Route::NeighbourFailed(_))
            })
            .await;
    });
}

/// Runs so many commands of `ip` at once.
fn batch(count: u32, line: &dyn Fn(u32) -> String) {
    let path = std::env::temp_dir().join(format!("lvsd-batch-{}-{count}", std::process::id()));
    std::fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
    ip(&format!("-batch {}", path.display()));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn lost_events_are_made_good_by_a_new_listing() {
    const MANY: u32 = 4_000;
    with_director(|mut director| async move {
        let address = |low: u32| IpAddr::from((0xc612_0000 + low).to_be_bytes());
        ip("addr add 198.18.255.254/16 dev lan");
        // The socket may overflow many times over.
        batch(MANY, &|low| {
            format!(
                "neigh add {} lladdr 02:00:00:00:33:44 dev lan nud permanent\n",
                address(low)
            )
        });
        director
            .until("all neighbours", |l3| l3.hops_count() == MANY as usize)
            .await;
        batch(MANY, &|low| format!("neigh del {} dev lan\n", address(low)));
        director.until("no neighbours", |l3| l3.hops_count() == 0).await;
    });
}

#[test]
fn the_mirror_ends_when_it_is_dropped() {
    with_director(|director| async move {
        let Director {
            mirror,
            published,
            wire,
        } = director;
        drop(mirror);
        ip("addr add 203.0.113.80/32 dev lo");
        let ended = Instant::now() + PATIENCE;
        while Arc::strong_count(&published) > 1 {
            assert!(Instant::now() < ended, "the task still holds its callback");
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(lock(&published).count, 1);
        drop(wire);
    });
}
