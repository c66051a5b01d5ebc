//! Many routes: none is lost, and with a whole Internet of them changes and neighbours do not wait.

use std::process::{Child, Command, Stdio};

use super::*;

#[test]
fn a_hundred_thousand_routes_come_and_go_and_none_is_lost() {
    const MANY: u32 = 100_000;
    with_director(|mut director| async move {
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:33:44 dev lan nud permanent");
        let prefix = |low: u32| format!("{}/25", IpAddr::from((0x0a00_0000 + (low << 7)).to_be_bytes()));
        let count = |l3: &L3| {
            let mut count = 0;
            l3.fib()
                .for_each(|_, prefix, _| count += u32::from(prefix.prefix_len() == 25));
            count
        };
        let mut took = Vec::new();
        for verb in ["add", "del"] {
            batch(MANY, &|low| format!("route {verb} {} via 192.0.2.254\n", prefix(low)));
            let said = Instant::now();
            let last = IpAddr::from((0x0a00_0001 + ((MANY - 1) << 7)).to_be_bytes()).to_string();
            let is_done = |l3: &L3| hop(l3, &last).is_some() == (verb == "add");
            let l3 = director.until("the last of many routes", is_done).await;
            took.push(said.elapsed());
            assert_eq!(count(&l3), if verb == "add" { MANY } else { 0 }, "{verb}");
        }
        println!(
            "{MANY} routes are in use {:?} after the kernel had them, and gone {:?} after",
            took[0], took[1]
        );
    });
}

/// IPv4 routes, without another number in `LVS_ROUTES`. A fifth as many IPv6 routes come with them.
const ROUTES: u32 = 10_000;
const ROUTERS: u32 = 8;
/// Neighbours and requests while everything is listed again.
const ASKED: u32 = 20;
/// Between two neighbours.
const PAUSE: Duration = Duration::from_millis(100);

fn prefix_v4(number: u32) -> String {
    format!("{}/24", IpAddr::from((0x1000_0000 + (number << 8)).to_be_bytes()))
}

fn prefix_v6(number: u32) -> String {
    format!("2001:{:x}:{:x}::/48", 0x4000 + (number >> 16), number & 0xFFFF)
}

/// `ip` with a batch of commands, which goes on beside the test.
fn start_batch(lines: impl Iterator<Item = String>) -> Child {
    let path = std::env::temp_dir().join(format!("lvsd-routes-{}", std::process::id()));
    std::fs::write(&path, lines.collect::<String>()).unwrap();
    let mut command = Command::new("ip");
    command.arg("-batch").arg(&path).stdin(Stdio::null()).spawn().unwrap()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// The longest that something took, of many.
#[derive(Debug, Default)]
struct Longest {
    count: u32,
    time: Duration,
}

impl Longest {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time = self.time.max(time);
    }
}

impl Director {
    /// How long it takes until the published L3 is as `expected`.
    async fn time_until(&self, what: &str, expected: impl Fn(&L3) -> bool) -> Duration {
        const PATIENCE: Duration = Duration::from_secs(600);
        let began = Instant::now();
        while !expected(&self.latest()) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come about");
            sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    /// A neighbour comes; how long until it is in use.
    async fn time_of_neighbour(&self, number: u32) -> Duration {
        let addr = IpAddr::from((0xc612_0000 + number).to_be_bytes()).to_string();
        ip(&format!(
            "neigh replace {addr} lladdr 02:00:00:00:33:44 dev lan nud permanent"
        ));
        self.time_until("a neighbour", |l3| hop(l3, &addr).is_some()).await
    }

    /// A worker asks for a neighbour; how long until the kernel asks for it on the wire.
    async fn time_of_request(&mut self, number: u32) -> Duration {
        let addr = 0xc612_8000 + number;
        let began = Instant::now();
        self.mirror
            .resolve(on_lan(&IpAddr::from(addr.to_be_bytes()).to_string()));
        self.arp_request_for(addr.to_be_bytes()).await;
        let took = began.elapsed();
        // Hundreds that fail would be asked for again and again, up to the limit for scans.
        ip(&format!("neigh del {} dev lan", IpAddr::from(addr.to_be_bytes())));
        took
    }

    /// Until all of a batch is in use; how long its last route took, neighbours and requests meanwhile.
    async fn follow(&mut self, name: &str, mut batch: Child, numbers: u32, is_done: impl Fn(&L3) -> bool) {
        let (mut neighbours, mut requests) = (Longest::default(), Longest::default());
        let (began, before) = (Instant::now(), self.count());
        let mut number = numbers;
        while batch.try_wait().unwrap().is_none() {
            neighbours.add(self.time_of_neighbour(number).await);
            requests.add(self.time_of_request(number).await);
            number += 1;
            sleep(PAUSE).await;
        }
        let kernel = began.elapsed();
        let late = self.time_until("the last route", is_done).await;
        println!(
            "{name}: the kernel had them after {kernel:.1?}, in use {late:.1?} later, {} L3; \
             {} neighbours in use within {:.1?}, {} asked for within {:.1?}; {} MiB resident",
            self.count() - before,
            neighbours.count,
            neighbours.time,
            requests.count,
            requests.time,
            resident_mib()
        );
    }

    /// A route of the many changes; how long until that is in use.
    async fn time_of_changes(&self, count: u32, routes: u32) -> Longest {
        let mut changes = Longest::default();
        for number in 0..count {
            let number = number * 7_919 % routes;
            let prefix = prefix_v4(number);
            let dst = prefix.replace(".0/24", ".9");
            ip(&format!("route replace {prefix} via 192.0.2.250"));
            changes.add(self.time_until("a route", |l3| hop(l3, &dst).is_none()).await);
            ip(&format!(
                "route replace {prefix} via 192.0.2.{}",
                200 + number % ROUTERS
            ));
            changes.add(self.time_until("a route", |l3| hop(l3, &dst).is_some()).await);
        }
        changes
    }
}

/// How many routes of the batches there are, of IPv4 and of IPv6.
fn counts(l3: &L3) -> (u32, u32) {
    let mut counts = (0, 0);
    l3.fib().for_each(|_, prefix, _| match prefix.prefix_len() {
        24 if prefix.addr() >= IpAddr::from([16, 0, 0, 0]) && prefix.addr() < IpAddr::from([64, 0, 0, 0]) => {
            counts.0 += 1;
        }
        48 => counts.1 += 1,
        _ => {}
    });
    counts
}

/// `LVS_ROUTES=1000000` for as many as the Internet has, with `--nocapture` for the times.
#[test]
fn neighbours_and_requests_go_on_while_many_routes_come_and_go_and_none_is_lost() {
    let routes = std::env::var("LVS_ROUTES").map_or(ROUTES, |text| text.parse().expect("a number of routes"));
    let routes_v6 = routes / 5;
    with_director(move |mut director| async move {
        ip("addr add 198.18.255.254/15 dev lan");
        for router in 0..ROUTERS {
            ip(&format!(
                "neigh add 192.0.2.{} lladdr 02:00:00:00:33:44 dev lan nud permanent",
                200 + router
            ));
            ip(&format!(
                "-6 neigh add 2001:db8:2::{router:x}f lladdr 02:00:00:00:33:44 dev lan nud permanent"
            ));
        }
        println!("nothing: {} MiB resident", resident_mib());
        let v4 = |verb: &'static str| {
            move |number| {
                format!(
                    "route {verb} {} via 192.0.2.{}\n",
                    prefix_v4(number),
                    200 + number % ROUTERS
                )
            }
        };
        let v6 = |number| {
            let router = number % ROUTERS;
            format!("route add {} via 2001:db8:2::{router:x}f\n", prefix_v6(number))
        };
        let last_v4 = prefix_v4(routes - 1).replace(".0/24", ".9");
        let last_v6 = prefix_v6(routes_v6 - 1).replace("/48", "1");
        let batch = start_batch((0..routes).map(v4("add")));
        director
            .follow("routes of IPv4", batch, 0, |l3| hop(l3, &last_v4).is_some())
            .await;
        let batch = start_batch((0..routes_v6).map(v6));
        director
            .follow("routes of IPv6", batch, 10_000, |l3| hop(l3, &last_v6).is_some())
            .await;
        assert_eq!(counts(&director.latest()), (routes, routes_v6));

        let changes = director.time_of_changes(50, routes).await;
        println!(
            "{} changes of a route in use within {:.1?}",
            changes.count, changes.time
        );

        let began = Instant::now();
        let before = resident_mib();
        let twins = [MirroredTwin {
            device: LAN,
            ifindex: on_lan("192.0.2.1").interface.0,
            name: "lan".to_owned(),
        }];
        let latest = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&latest);
        let other = KernelMirror::start(&twins, move |l3| *lock(&sink) = Some(l3))
            .await
            .unwrap();
        let listed = lock(&latest).take().expect("the first L3 comes with the start");
        assert_eq!(counts(&listed), (routes, routes_v6), "of a second mirror");
        println!(
            "a second mirror: loaded after {:.1?}, {} MiB more resident",
            began.elapsed(),
            resident_mib() - before
        );
        drop((other, listed));

        // An address goes, and everything is listed again.
        ip("addr add 203.0.113.1/32 dev lan");
        director
            .time_until("an address", |l3| is_local::<Addr4>(l3, "203.0.113.1"))
            .await;
        ip("addr del 203.0.113.1/32 dev lan");
        let (mut neighbours, mut requests) = (Longest::default(), Longest::default());
        for number in 20_000..20_000 + ASKED {
            neighbours.add(director.time_of_neighbour(number).await);
            requests.add(director.time_of_request(number).await);
            sleep(PAUSE).await;
        }
        director
            .time_until("no address", |l3| !is_local::<Addr4>(l3, "203.0.113.1"))
            .await;
        assert_eq!(counts(&director.latest()), (routes, routes_v6), "listed again");
        let changes = director.time_of_changes(5, routes).await;
        println!("after an address has gone: neighbours {neighbours:?}, requests {requests:?}, changes {changes:?}");

        let batch = start_batch((0..routes).map(v4("del")));
        director
            .follow("routes of IPv4 gone", batch, 30_000, |l3| hop(l3, &last_v4).is_none())
            .await;
        assert_eq!(counts(&director.latest()), (0, routes_v6));
    });
}
