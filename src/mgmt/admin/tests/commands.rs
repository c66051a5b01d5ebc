//! What operators type, and what scripts send.

use std::process::Output;

use super::*;

/// Whether a program ended with this exit code and said this.
fn assert_fails(output: Output, code: i32, words: &str) {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "{message}");
}

#[test]
fn a_nat_service_is_built_listed_changed_and_deleted() {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.run_silently(&[
        "service add tcp:192.0.2.10:80 --scheduler wrr",
        "server add tcp:192.0.2.10:80 198.51.100.1:80 --mode nat --weight 3",
        "server add -t 192.0.2.10:80 -r 198.51.100.2:8080 -m",
        "service add udp:[2001:db8::10]:53 -s rr",
        "server add udp:[2001:db8::10]:53 2001:db8::1 -g",
    ]);
    let listing = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  192.0.2.10:80 wrr
  -> 198.51.100.1:80              Masq    3      0          0         \n  \
  -> 198.51.100.2:8080            Masq    1      0          0         \nUDP  [2001:db8::10]:53 rr
  -> [2001:db8::1]:53             Route   1      0          0         \n";
    assert_eq!(testbed.printed("list"), listing);

    testbed.printed("server edit tcp:192.0.2.10:80 198.51.100.1:80 -w 0");
    testbed.printed("local-address set tcp:192.0.2.10:80 198.51.100.250 198.51.100.251");
    let one = testbed.printed("list tcp:192.0.2.10:80");
    assert!(
        one.contains("  -> 198.51.100.1:80              FullNat 0      0          0         \n"),
        "{one}"
    );
    testbed.printed("local-address clear tcp:192.0.2.10:80");
    assert!(testbed.printed("list").contains(" Masq "));

    testbed.printed("server delete tcp:192.0.2.10:80 198.51.100.2:8080");
    testbed.printed("service edit tcp:192.0.2.10:80 -s sh -b sh-port,sh-fallback");
    let one = testbed.printed("list tcp:192.0.2.10:80");
    assert!(one.contains("TCP  192.0.2.10:80 sh (sh-fallback,sh-port)\n"), "{one}");
    testbed.printed("service delete udp:[2001:db8::10]:53");
    testbed.printed("flush");
    assert_eq!(testbed.printed("list").lines().count(), 3);
    assert!(testbed.workers[1].snapshot().services.is_empty());
}

#[test]
fn persistence_marks_and_tunnels_are_typed_listed_and_edited() {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.run_silently(&[
        "service add fwm:66 --scheduler rr --persistent 360 --netmask 255.255.255.0",
        "server add fwm:66 198.51.100.1 --tunnel-type gue --tunnel-port 6080 --tunnel-checksum",
        "server add -f 66 -r 198.51.100.2 --tunnel-type gre",
        "service add fwm6:66 --one-packet",
    ]);
    let listing = testbed.printed("list --tunnel-info");
    assert_contains_all(
        &listing,
        &[
            "FWM  66 rr persistent 360 mask 255.255.255.0\n",
            "  -> 198.51.100.1:0               Tunnel  gue:6080:+c   1      0          0         \n",
            "  -> 198.51.100.2:0               Tunnel  gre:-c        1      0          0         \n",
            "FWM  66 IPv6 wlc ops\n",
        ],
    );
    testbed.printed("service edit fwm:66 --scheduler wrr");
    assert!(
        testbed
            .printed("list fwm:66")
            .contains("FWM  66 wrr persistent 360 mask")
    );
    testbed.printed("service edit fwm:66 --not-persistent");
    testbed.printed("service edit fwm6:66 --not-one-packet");
    let listing = testbed.printed("list");
    assert!(
        listing.contains("FWM  66 wrr\n") && listing.contains("FWM  66 IPv6 wlc\n"),
        "{listing}"
    );
    let wrong = "server add fwm:66 198.51.100.3 --tunnel-type gre --tunnel-port 1";
    assert_eq!(testbed.lvsctl(wrong).status.code(), Some(2));
}

#[test]
fn settings_are_shown_all_or_one() {
    let testbed = Testbed::new(AdminLimits::default());
    let all = testbed.printed("sysctl");
    assert!(
        all.starts_with("net.ipv4.vs.am_droprate = 10\nnet.ipv4.vs.amemthresh = 1024\n"),
        "{all}"
    );
    assert_eq!(testbed.printed("sysctl drop_entry"), "net.ipv4.vs.drop_entry = 0\n");
    assert_eq!(testbed.lvsctl("sysctl nonsense").status.code(), Some(2));
}

#[test]
fn settings_are_set_by_name_all_of_them_or_none_and_reach_the_workers() {
    let testbed = Testbed::new(AdminLimits::default());
    for name in lvs_core::ipvs::sysctl::Sysctls::NAMES {
        let shown = testbed.printed(&format!("sysctl {name}"));
        let value = shown.trim().split_once(" = ").map_or("", |(_, value)| value);
        let body = format!(r#"{{"{name}": {}}}"#, serde_json::to_string(value).unwrap());
        assert_eq!(testbed.ask("PATCH", "/v1/sysctls", &body).0, 204, "{body}");
    }
    assert_eq!(testbed.printed("sysctl drop_entry=3 net.ipv4.vs.sloppy_tcp=1"), "");
    assert_eq!(
        testbed
            .ask("PATCH", "/v1/sysctls", r#"{"drop_packet": 2, "sloppy_sctp": true}"#)
            .0,
        204
    );
    let sysctls = testbed.workers[1].snapshot().sysctls;
    assert_eq!((sysctls.drop_entry, sysctls.drop_packet), (3, 2));
    assert!(sysctls.sloppy_tcp && sysctls.sloppy_sctp);
    assert_eq!(testbed.printed("sysctl drop_entry sloppy_tcp").lines().count(), 2);

    for (body, status, place) in [
        (r#"{"drop_packet": 0, "drop_entry": 4}"#, 422, "drop_entry"),
        (r#"{"drop_entri": 1}"#, 422, "drop_entri"),
        (r#"{"drop_entry": [1]}"#, 400, "drop_entry"),
    ] {
        let (answered, error) = testbed.refused("PATCH", "/v1/sysctls", body);
        assert_eq!((answered, error.place.as_deref()), (status, Some(place)), "{error}");
    }
    assert_eq!(testbed.workers[0].snapshot().sysctls, sysctls);
    assert_fails(testbed.lvsctl("sysctl drop_entry=4"), 1, "3 (always)");
}

#[test]
fn mark_rules_are_added_in_order_listed_deleted_and_refused_with_their_place() {
    let testbed = Testbed::new(AdminLimits::default());
    assert_eq!(testbed.printed("mark list"), "there are no mark rules\n");
    testbed.run_silently(&[
        "mark add 66 --protocol tcp --destination 192.0.2.100 --destination-ports 80,443-444",
        "mark add 67 --source 198.51.100.0/24 --divert",
        "mark add 68 --protocol udp --source-ports 53 --number 1",
    ]);
    let listing = testbed.printed("mark list");
    let words: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[1], ["1", "68", "udp", "any", "53", "any", "any", "any", "no"]);
    assert_eq!(
        words[2],
        [
            "2",
            "66",
            "tcp",
            "any",
            "any",
            "192.0.2.100/32",
            "80,443-444",
            "any",
            "no"
        ]
    );
    assert_eq!(
        words[3],
        ["3", "67", "any", "198.51.100.0/24", "any", "any", "any", "any", "yes"]
    );
    let marks = || {
        let snapshot = testbed.workers[1].snapshot();
        snapshot.marks.rules().iter().map(|rule| rule.mark).collect::<Vec<_>>()
    };
    assert_eq!(marks(), [68, 66, 67]);
    for (method, path, body, status, place) in [
        ("POST", "/v1/marks", r#"{"mark": 0}"#, 422, Some("mark")),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "device": "dp9"}"#,
            422,
            Some("device"),
        ),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "protocol": "udp", "source_ports": ["53"]}"#,
            422,
            None,
        ),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "protocol": "icmp", "source_ports": ["53"]}"#,
            422,
            Some("protocol"),
        ),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "source": "2001:db8::/32", "destination": "192.0.2.1"}"#,
            422,
            Some("source"),
        ),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "source_ports": ["2-1"]}"#,
            422,
            None,
        ),
        (
            "POST",
            "/v1/marks",
            r#"{"mark": 9, "source": "192.0.2.0/33"}"#,
            400,
            Some("source"),
        ),
        ("POST", "/v1/marks?number=9", r#"{"mark": 9}"#, 422, Some("number")),
        ("POST", "/v1/marks?number=0", r#"{"mark": 9}"#, 400, Some("number")),
        (
            "PUT",
            "/v1/marks",
            r#"[{"mark": 9}, {"mark": 9, "device": "dp9"}]"#,
            422,
            Some("[1].device"),
        ),
        ("PUT", "/v1/marks", r#"[{"mark": 9}, {"mark": 8}]"#, 422, Some("[1]")),
        (
            "PUT",
            "/v1/state",
            r#"{"marks": [{"mark": 9}, {"mark": 0, "source": "192.0.2.1"}]}"#,
            422,
            Some("marks[1].mark"),
        ),
        (
            "PUT",
            "/v1/state",
            r#"{"sysctls": {"drop_entry": 4}}"#,
            422,
            Some("sysctls.drop_entry"),
        ),
        ("DELETE", "/v1/marks/4", "", 404, Some("number")),
    ] {
        let (answered, error) = testbed.refused(method, path, body);
        assert_eq!(
            (answered, error.place.as_deref()),
            (status, place),
            "{method} {path} {body}: {error}"
        );
        assert_eq!(marks(), [68, 66, 67]);
    }
    testbed.printed("mark del 2");
    assert_eq!(marks(), [68, 67]);
    testbed.printed("mark clear");
    assert_eq!(marks(), [0u32; 0]);
    assert_eq!(testbed.lvsctl("mark delete 1").status.code(), Some(1));
    assert_eq!(testbed.lvsctl("mark add 0").status.code(), Some(2));
}

#[test]
fn exit_codes_tell_refused_from_wrong_usage_from_unreachable() {
    let testbed = Testbed::new(AdminLimits::default());
    let code = |arguments: &str| testbed.lvsctl(arguments).status.code();
    assert_eq!(code("service add tcp:192.0.2.10:80"), Some(0));
    assert_eq!(code("service add tcp:192.0.2.10:80"), Some(1));
    assert_eq!(code("server edit tcp:192.0.2.10:80 198.51.100.1:80 -w 1"), Some(1));
    assert_eq!(code("reload"), Some(1));
    assert_eq!(code("service add 192.0.2.10:80"), Some(2));
    assert_eq!(code("state apply /no/such/file"), Some(2));
    let refused = testbed.lvsctl("server add tcp:192.0.2.10:80 198.51.100.1:80 -w 2147483648");
    assert_fails(refused, 1, "0 (no new connections) to 2147483647");

    let gone = lvsctl(Path::new("/no/such/lvsd.sock"), "list").output().unwrap();
    assert_fails(gone, 3, "systemctl start lvsd");
}

#[test]
fn a_saved_state_is_applied_again_after_a_dry_run_that_changes_nothing() {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.printed("service add tcp:192.0.2.10:80 -s rr");
    testbed.printed("server add tcp:192.0.2.10:80 198.51.100.1:80 -m -x 100 -y 50");
    testbed.printed("timeouts --set 100 0 10");
    testbed.printed("sysctl drop_entry=3");
    testbed.printed("mark add 66 --protocol tcp");
    let saved = testbed.printed("state get");
    let file = testbed._directory.path().join("state.json");
    std::fs::write(&file, &saved).unwrap();
    testbed.printed("flush");
    testbed.printed("timeouts --set 900 120 300");
    testbed.printed("sysctl drop_entry=0 sloppy_tcp=1");
    testbed.printed("mark clear");

    let dry = testbed.printed(&format!("state apply {} --dry-run", file.display()));
    let changes = "+ service tcp:192.0.2.10:80\n+ server 198.51.100.1:80 of tcp:192.0.2.10:80\n~ timeouts\n\
        ~ sysctl drop_entry\n~ sysctl sloppy_tcp\n~ marks\n";
    assert_eq!(dry, format!("{changes}dry run: nothing was changed\n"));
    assert_eq!(testbed.printed("list").lines().count(), 3);
    assert_eq!(testbed.printed(&format!("state apply {}", file.display())), changes);
    assert_eq!(testbed.printed("state get"), saved);
    assert_eq!(testbed.printed("timeouts"), "Timeout (tcp tcpfin udp): 100 120 10\n");
    assert_eq!(
        testbed.printed(&format!("state apply {}", file.display())),
        "nothing differs\n"
    );
}

#[test]
fn every_table_prints_and_every_answer_is_json_on_demand() {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.printed("service add tcp:192.0.2.10:80");
    testbed.workers[0]
        .counters
        .drop_packet(lvs_core::verdict::DropReason::NoRoute);
    for command in [
        "workers",
        "drops",
        "stats",
        "timeouts",
        "version",
        "devices",
        "list",
        "list tcp:192.0.2.10:80",
    ] {
        assert!(!testbed.printed(command).is_empty(), "{command}");
        let json = testbed.printed(&format!("{command} --json"));
        assert!(
            serde_json::from_str::<serde_json::Value>(&json).is_ok(),
            "{command}: {json}"
        );
    }
    assert!(testbed.printed("drops").contains("no_route"));
    assert_eq!(testbed.printed("workers").lines().count(), 3);
    for option in ["--stats", "--rate", "--thresholds", "--exact", "--nosort"] {
        assert!(
            testbed.printed(&format!("list {option}")).contains("192.0.2.10:80"),
            "{option}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            testbed
                .printed(&format!("completion {shell}"))
                .contains("local-address"),
            "{shell}"
        );
    }
    testbed.printed("stats zero");
}

#[test]
fn the_state_stays_when_one_object_in_the_middle_is_wrong() {
    let testbed = Testbed::new(AdminLimits::default());
    testbed.printed("service add tcp:192.0.2.10:80");
    let before = testbed.ask("GET", "/v1/state", "");
    for (body, status, place) in [
        (
            r#"{"services": [{"service": "tcp:192.0.2.1:80"}, {"service": "tcp:192.0.2.2:80", "servers":
                [{"server": "198.51.100.1:80", "lower_threshold_conns": 2}]}, {"service": "tcp:192.0.2.3:80"}]}"#,
            422,
            "services[1].servers[0].lower_threshold_conns",
        ),
        (
            r#"{"services": [{"service": "tcp:192.0.2.1:80"}, {"service": "tcp:192.0.2.1:80"}]}"#,
            409,
            "services[1]",
        ),
        (
            r#"{"services": [{"service": "tcp:192.0.2.1:80", "wieght": 1}]}"#,
            400,
            "services[0].wieght",
        ),
        (
            r#"{"services": [{"service": "tcp:192.0.2.1:80", "servers": 1}]}"#,
            400,
            "services[0].servers",
        ),
        (r#"{"services": [{"service": 7}]}"#, 400, "services[0].service"),
    ] {
        let (answered, error) = testbed.refused("PUT", "/v1/state", body);
        assert_eq!((answered, error.place.as_deref()), (status, Some(place)), "{error}");
        assert_eq!(testbed.ask("GET", "/v1/state", ""), before);
    }
}

#[test]
fn paths_methods_ids_and_queries_that_do_not_exist_are_refused_in_json() {
    let testbed = Testbed::new(AdminLimits::default());
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/v2/services", 404),
        ("PATCH", "/v1/services", 405),
        ("GET", "/v1/services/tcp:192.0.2.1", 400),
        ("GET", "/v1/services/tcp:192.0.2.1:80", 404),
        ("GET", "/v1/services/%ff", 400),
        ("DELETE", "/v1/services/tcp:192.0.2.1:80/servers/198.51.100.1", 400),
        ("DELETE", "/v1/services/tcp:192.0.2.1:80/servers/198.51.100.1:80", 404),
        ("GET", "/v1/connections?colour=blue", 400),
        ("GET", "/v1/connections?state=ESTABLISH", 400),
        ("GET", "/v1/connections?limit=-1", 400),
        ("PUT", "/v1/state?dry_run=maybe", 400),
    ] {
        assert_eq!(testbed.refused(method, path, "").0, status, "{method} {path}");
    }
    assert_eq!(
        testbed.ask("GET", "/v1/openapi.json", "").1,
        super::super::routes::openapi()
    );
}

#[test]
fn everything_can_be_done_with_plain_http() {
    let testbed = Testbed::new(AdminLimits::default());
    let service = "/v1/services/udp:[2001:db8::1]:53";
    let server = format!("{service}/servers/[2001:db8::9]:53");
    let steps = [
        (
            "POST",
            "/v1/services",
            r#"{"service": "udp:[2001:db8::1]:53", "scheduler": "rr"}"#,
            201,
        ),
        (
            "POST",
            &format!("{service}/servers"),
            r#"{"server": "[2001:db8::9]:53", "mode": "nat"}"#,
            201,
        ),
        ("PUT", &server, r#"{"weight": 7}"#, 204),
        ("PATCH", &server, r#"{"mode": "nat"}"#, 204),
        (
            "PUT",
            &format!("{service}/local-addresses"),
            r#"{"addresses": ["2001:db8::fe"]}"#,
            204,
        ),
        ("PUT", service, r#"{"scheduler": "wrr"}"#, 204),
        ("PUT", "/v1/timeouts", r#"{"udp_sec": 5}"#, 204),
        ("POST", "/v1/stats/zero", "", 204),
        ("DELETE", &format!("{service}/local-addresses"), "", 204),
    ];
    for (method, path, body, status) in steps {
        assert_eq!(testbed.ask(method, path, body).0, status, "{method} {path}");
    }
    let (_, state) = testbed.ask("GET", "/v1/state", "");
    let expected = r#"{"services":[{"service":"udp:[2001:db8::1]:53","scheduler":"wrr","scheduler_flags":[],"one_packet":false,"client_address":"none","mss_max":0,"established_timeout_sec":0,"reset_unknown":false,"local_addresses":[],"servers":[{"server":"[2001:db8::9]:53","mode":"nat","tunnel":{"kind":"ipip"},"weight":7,"upper_threshold_conns":0,"lower_threshold_conns":0}]}],"timeouts":{"tcp_sec":900,"tcp_fin_sec":120,"udp_sec":5},"sysctls":{},"marks":[],"sync_daemons":[]}"#;
    assert_eq!(state, expected);
    assert_eq!(testbed.ask("DELETE", &server, "").0, 204);
    assert_eq!(
        testbed.ask("GET", &format!("{service}/servers"), ""),
        (200, "[]".to_owned())
    );
    assert_eq!(testbed.ask("DELETE", service, "").0, 204);
}

#[test]
fn four_thousand_services_are_added_over_the_socket_in_well_under_two_seconds() {
    let mut testbed = Testbed::new(AdminLimits::default());
    let mut stream = testbed.connect();
    for index in 0..4_000u32 {
        let body = format!(r#"{{"service": "tcp:192.0.{}.{}:80"}}"#, index / 250, index % 250 + 1);
        let length = body.len();
        let request = format!("POST /v1/services HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 1_024];
        let count = stream.read(&mut answer).unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 201"),
            "{}",
            String::from_utf8_lossy(&answer[..count])
        );
    }
    let begun = Instant::now();
    while testbed.workers[0].snapshot().services.services().len() < 4_000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "never published");
        std::thread::yield_now();
    }
    // What the server itself took: how long all of it lasts depends on what else the machine does.
    let taken = testbed.stop().expect("the server did not panic");
    println!("4,000 services take {taken:?}");
    assert!(taken < Duration::from_secs(2), "{taken:?}");
}

#[test]
fn a_sync_daemon_that_cannot_be_started_or_stopped_is_refused_by_name() {
    let testbed = Testbed::new(AdminLimits::default());
    assert_eq!(testbed.printed("sync"), "");
    for (method, path, body, status, place) in [
        (
            "POST",
            "/v1/sync-daemons",
            r#"{"role": "master", "interface": "nowhere0"}"#,
            422,
            Some("interface"),
        ),
        (
            "POST",
            "/v1/sync-daemons",
            r#"{"role": "master", "interface": "lo", "group": "192.0.2.1"}"#,
            422,
            Some("group"),
        ),
        (
            "POST",
            "/v1/sync-daemons",
            r#"{"role": "both", "interface": "lo"}"#,
            400,
            Some("role"),
        ),
        ("DELETE", "/v1/sync-daemons/backup", "", 404, None),
        ("DELETE", "/v1/sync-daemons/both", "", 400, Some("role")),
    ] {
        let (found, answer) = testbed.ask(method, path, body);
        let error: ApiError = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            (found, error.place.as_deref()),
            (status, place),
            "{method} {path} {body}: {answer}"
        );
    }
    assert_eq!(testbed.ask("GET", "/v1/sync-daemons", ""), (200, "[]".to_owned()));
}
