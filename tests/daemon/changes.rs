//! Changes while lvsd runs, while it is down, and while it dies: none is lost, none is half done.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use lvs_api::{ServiceStatus, State};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::namespace::Namespace;
use lvs_test_support::waits::until;
use nix::sys::signal::Signal;

fn service(port: u16, servers: &[(u8, u16)]) -> String {
    let mut text = format!("[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = {port}\n");
    for (server, weight) in servers {
        text += &format!("[[service.real_server]]\naddress = \"198.51.100.{server}\"\nweight = {weight}\n");
    }
    text
}

/// `80: 11=1 12=3` for each service, in order.
fn summary(daemon: &Daemon<'_>) -> Vec<String> {
    let state: State = daemon.get("/v1/state");
    let line = |service: &lvs_api::Service| {
        let servers = service.servers.iter().map(|server| {
            let addr = server.server.ip().to_string();
            format!(" {}={}", addr.rsplit('.').next().unwrap(), server.weight)
        });
        format!("{}:{}", service.service.port(), servers.collect::<String>())
    };
    state.services.iter().map(line).collect()
}

#[test]
fn hangup_applies_only_what_changed_in_the_file() {
    let testbed = Testbed::create();
    testbed.configure(&(service(80, &[(11, 1), (12, 1)]) + &service(81, &[(11, 1)])));
    let daemon = testbed.start();
    daemon.printed("server edit tcp:192.0.2.100:80 198.51.100.11:80 --weight 7");
    daemon.printed("service add tcp:192.0.2.100:90");
    testbed.configure(&(service(80, &[(11, 1), (12, 5), (13, 2)]) + &service(82, &[(11, 1)])));
    daemon.signal(Signal::SIGHUP);
    until("the file is applied", || daemon.log().contains("reloaded: "));
    assert_eq!(summary(&daemon), ["80: 11=7 12=5 13=2", "90:", "82: 11=1"]);

    // A broken file changes nothing.
    let before = summary(&daemon);
    testbed.configure(&(service(80, &[]) + "weight = \n"));
    daemon.signal(Signal::SIGHUP);
    until("the fault is logged", || daemon.log().contains("nothing was changed"));
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("nothing was changed")).unwrap();
    assert!(line.contains("ERROR") && line.contains("lvsd.toml:"), "{line}");
    assert_eq!(summary(&daemon), before);

    // What needs a restart is named.
    testbed.configure_with_conns4_max(8_192, &service(80, &[(11, 1), (12, 5), (13, 2)]));
    let answer = daemon.printed("reload");
    assert!(answer.contains("- service tcp:192.0.2.100:82"), "{answer}");
    assert!(answer.contains("needs a restart: connections.ipv4_max"), "{answer}");
    daemon.stop();
}

#[test]
fn a_restart_restores_run_time_changes_and_takes_in_what_was_edited_meanwhile() {
    let testbed = Testbed::create();
    testbed.configure(&(service(80, &[(11, 1), (12, 1)]) + &service(81, &[(11, 1)])));
    let daemon = testbed.start();
    daemon.printed("server edit tcp:192.0.2.100:80 198.51.100.12:80 --weight 0");
    daemon.printed("service delete tcp:192.0.2.100:81");
    daemon.printed("service add tcp:192.0.2.100:90 --scheduler sh");
    let before: State = daemon.get("/v1/state");
    daemon.stop();

    let daemon = testbed.start();
    assert_eq!(daemon.get::<State>("/v1/state"), before);
    daemon.stop();

    testbed.configure(&(service(80, &[(11, 4), (12, 1)]) + &service(81, &[(11, 9)]) + &service(82, &[(13, 1)])));
    let daemon = testbed.start();
    assert_eq!(summary(&daemon), ["80: 11=4 12=0", "90:", "82: 13=1"]);
    let log = daemon.stop();
    let left_out =
        "configuration: service tcp:192.0.2.100:81 was deleted at run time; add it again to use its new settings";
    assert!(log.contains(left_out), "{log}");
}

#[test]
fn settings_and_mark_rules_survive_a_kill_and_take_in_only_edits_of_the_file() {
    let testbed = Testbed::create();
    let file = "[sysctl]\nsloppy_tcp = 1\n[[mark]]\nmark = 66\nprotocol = \"tcp\"\n";
    testbed.configure(file);
    let daemon = testbed.start();
    assert_eq!(daemon.printed("sysctl sloppy_tcp"), "net.ipv4.vs.sloppy_tcp = 1\n");
    daemon.printed("sysctl drop_entry=3 sloppy_tcp=0");
    daemon.printed("mark add 67 --protocol udp --destination-ports 53 --number 1");
    let wrong = daemon.lvsctl("mark add 68 --device dp9");
    let message = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        wrong.status.code() == Some(1) && message.contains("no device \"dp9\""),
        "{message}"
    );
    let (settings, rules) = (daemon.printed("sysctl"), daemon.printed("mark list"));
    assert_eq!(rules.lines().count(), 3);
    daemon.signal(Signal::SIGKILL);
    drop(daemon);

    let daemon = testbed.start();
    assert_eq!(daemon.printed("sysctl"), settings);
    assert_eq!(daemon.printed("mark list"), rules);
    testbed.configure(
        &file
            .replace("mark = 66", "mark = 69")
            .replace("sloppy_tcp = 1", "sloppy_sctp = 1"),
    );
    let answer = daemon.printed("reload");
    assert_eq!(answer, "~ sysctl sloppy_sctp\n~ marks\n");
    let rules = daemon.printed("mark list");
    let marks: Vec<_> = rules
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(marks, ["67", "69"]);
    daemon.stop();
}

#[test]
fn a_daemon_killed_in_a_stream_of_changes_keeps_every_answered_one() {
    let testbed = Testbed::create();
    testbed.configure("");
    let mut answered = 0;
    for round in 0..3 {
        let daemon = testbed.start();
        assert_ports(&daemon, answered);
        // It is killed while the next change is under way, wherever in it that is.
        let done = Arc::new(AtomicU32::new(0));
        let killer = {
            let pid = nix::unistd::Pid::from_raw(daemon.pid() as i32);
            let changes = Arc::clone(&done);
            std::thread::spawn(move || {
                while changes.load(Ordering::Relaxed) < 20 + 37 * round {
                    std::thread::yield_now();
                }
                nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
            })
        };
        // The one that was under way when the daemon died may be there or not: it is asked for again.
        let mut changes = 0;
        loop {
            let port = answered + 1;
            let body = format!("{{\"service\": \"tcp:192.0.2.100:{port}\", \"scheduler\": \"rr\"}}");
            let Some((status, _)) = daemon.try_ask("POST", "/v1/services", &body) else {
                break;
            };
            assert!(status == 201 || (status == 409 && changes == 0), "{status}");
            answered = port;
            changes += 1;
            done.store(changes, Ordering::Relaxed);
        }
        killer.join().unwrap();
    }
    assert_ports(&testbed.start(), answered);
}

/// Services on ports 1 to `answered`, in order, and at most the one that was under way.
fn assert_ports(daemon: &Daemon<'_>, answered: u16) {
    let state: State = daemon.get("/v1/state");
    let ports: Vec<u16> = state.services.iter().map(|service| service.service.port()).collect();
    assert!(
        ports.len() == usize::from(answered) || ports.len() == usize::from(answered) + 1,
        "{answered}: {ports:?}"
    );
    assert!(ports.iter().copied().eq(1..=ports.len() as u16), "{ports:?}");
}

/// Sends one datagram to each port that comes, from a host behind `far`.
fn client_in(namespace: &Namespace) -> (Sender<u16>, Receiver<()>) {
    let (ports, asked) = channel::<u16>();
    let (sent, done) = channel();
    namespace.spawn(move || {
        let socket = UdpSocket::bind("192.0.2.9:0").unwrap();
        for port in asked {
            socket.send_to(b"now?", ("192.0.2.100", port)).unwrap();
            sent.send(()).unwrap();
        }
    });
    (ports, done)
}

#[test]
fn a_packet_that_follows_the_answer_to_a_change_is_judged_by_it() {
    const SERVICES: u16 = 40;
    let (testbed, far) = (Testbed::create(), Namespace::create());
    testbed.twin("wan", "02:00:00:00:00:01");
    testbed.address("wan", "192.0.2.1/24");
    testbed.address("wan", "192.0.2.100/32");
    testbed.inside("ip neigh add 192.0.2.5 lladdr 02:00:00:00:01:05 dev wan nud permanent");
    let name = far.name();
    testbed.inside(&format!("ip link add near type veth peer name far netns {name}"));
    testbed.inside("ip link set near up");
    far.address("far", "192.0.2.9/24");
    far.inside("ip link set far up");
    far.inside("ip neigh add 192.0.2.100 lladdr 02:00:00:00:00:01 dev far nud permanent");
    testbed.configure(
        "[[device]]\nname = \"wan\"\npromiscuous = true\nmac = \"02:00:00:00:00:01\"\n\
         dpdk = \"net_af_packet0,iface=near\"\n",
    );
    // A worker that sleeps finds the packet before it looks into its mailbox.
    let text = std::fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("idle = \"sleep\"", "idle = \"sleep\"\nidle_sleep_us = 1000"));
    let daemon = testbed.start();
    let (ports, sent) = client_in(&far);
    for port in 1..=SERVICES {
        let body = format!(
            "{{\"service\": \"udp:192.0.2.100:{port}\", \"scheduler\": \"rr\", \
             \"servers\": [{{\"server\": \"192.0.2.5:{port}\", \"mode\": \"dr\"}}]}}"
        );
        assert_eq!(daemon.ask("POST", "/v1/services", &body).0, 201);
        ports.send(port).unwrap();
        sent.recv().unwrap();
    }
    until("every datagram has come to its service", || {
        let services: Vec<ServiceStatus> = daemon.get("/v1/services");
        services.len() == usize::from(SERVICES) && services.iter().all(|service| service.totals.connections == 1)
    });
    daemon.stop();
}
