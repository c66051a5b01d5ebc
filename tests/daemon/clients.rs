//! Clients of the real daemon that are wrong, rude or many: each gets an error, and what runs stays as it was.

use std::io::Write;
use std::time::Duration;

use lvs_api::{ServiceStatus, State};
use lvs_test_support::daemon::{Daemon, Testbed};
use lvs_test_support::http::{garbage, half_open_clients, read_all};
use lvs_test_support::waits::takes_less_than;

const CONFIG: &str = "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = 80\n\
                      [[service.real_server]]\naddress = \"198.51.100.11\"\nmode = \"nat\"\n";

/// Runs `body` against a daemon with one service, whose state must be the same afterwards.
fn unchanged_after(body: impl FnOnce(&Daemon<'_>)) {
    let testbed = Testbed::create();
    testbed.configure(CONFIG);
    let mut daemon = testbed.start();
    let before: State = daemon.get("/v1/state");
    assert_eq!((before.services.len(), before.services[0].servers.len()), (1, 1));
    body(&daemon);
    assert_eq!(daemon.get::<State>("/v1/state"), before);
    assert!(daemon.is_alive());
    daemon.stop();
}

#[test]
fn wrong_requests_are_told_place_cause_and_cure() {
    unchanged_after(|daemon| {
        let services = "/v1/services";
        let servers = "/v1/services/tcp:192.0.2.100:80/servers";
        for (method, path, body, status, expected) in [
            (
                "POST",
                services,
                r#"{"service": "tcp:192.0.2.100:80"}"#,
                409,
                "service: service tcp:192.0.2.100:80 exists already: edit it instead of adding it",
            ),
            (
                "POST",
                services,
                r#"{"service": "tcp:192.0.2.100:81", "sheduler": "rr"}"#,
                400,
                "sheduler: unknown field `sheduler`, expected one of `service`, `scheduler`, `scheduler_flags`, \
             `persistence`, `unused_persistence`, `one_packet`, \
             `client_address`, `mss_max`, `established_timeout_sec`, `reset_unknown`, `local_addresses`, \
             `servers` at line 1 column 44",
            ),
            (
                "POST",
                services,
                r#"{"service": "tcp:192.0.2.100:81", "scheduler": "best"}"#,
                422,
                "scheduler: there is no scheduler \"best\"; choose one of rr, wrr, lc, wlc, lblc, lblcr, sh, dh, mh, conhash, sed, nq, \
             fo, ovf, twos, lt, wlt, wrt",
            ),
            (
                "POST",
                services,
                r#"{"service": 80}"#,
                400,
                "service: invalid type: integer `80`, expected a string at line 1 column 14",
            ),
            ("POST", services, "garbage", 400, "expected value at line 1 column 1"),
            (
                "POST",
                services,
                "",
                400,
                "the body is empty; send JSON (GET /v1/openapi.json)",
            ),
            (
                "POST",
                servers,
                r#"{"server": "198.51.100.12:80", "weight": 2147483648}"#,
                422,
                "weight: weight 2147483648 of real server 198.51.100.12:80 is out of range: give 0 (no new \
             connections) to 2147483647",
            ),
            (
                "POST",
                servers,
                r#"{"server": "198.51.100.12:80", "weight": "1"}"#,
                400,
                "weight: invalid type: string \"1\", expected a whole number from 0 to 4294967295 at line 1 column 44",
            ),
            (
                "POST",
                servers,
                r#"{"server": "[2001:db8::1]:80", "mode": "nat"}"#,
                422,
                "server: real server [2001:db8::1]:80 is of another address family than service \
             tcp:192.0.2.100:80: give an address of the service's family, or use tunnel mode",
            ),
            (
                "POST",
                servers,
                r#"{"server": "198.51.100.11:80"}"#,
                409,
                "server: real server 198.51.100.11:80 of service tcp:192.0.2.100:80 exists already: edit it \
             instead of adding it",
            ),
            (
                "DELETE",
                "/v1/services/tcp:192.0.2.101:80",
                "",
                404,
                "service: there is no service tcp:192.0.2.101:80: add it first, or check protocol, address and \
             port",
            ),
            (
                "DELETE",
                "/v1/services/nonsense",
                "",
                400,
                "service: \"nonsense\": \"nonsense\" names no virtual service: write PROTOCOL:ADDRESS:PORT, as \
             in tcp:192.0.2.1:80 or udp:[2001:db8::1]:53, or fwm:MARK, as in fwm:66, or fwm6:66 for IPv6",
            ),
            (
                "PUT",
                "/v1/services/tcp:192.0.2.100:80/local-addresses",
                r#"{"addresses": ["2001:db8::1"]}"#,
                422,
                "local_addresses: local address 2001:db8::1 is of another address family than service \
             tcp:192.0.2.100:80: give addresses of the service's family",
            ),
            (
                "GET",
                "/v1/nothing",
                "",
                404,
                "there is no /v1/nothing; GET /v1/openapi.json lists what there is",
            ),
            (
                "PATCH",
                "/v1/version",
                "",
                405,
                "/v1/version has no such method; GET /v1/openapi.json lists what there is",
            ),
        ] {
            assert_eq!(
                daemon.refusal(method, path, body),
                (status, expected.to_owned()),
                "{method} {path} {body}"
            );
        }
    });
}

#[test]
fn an_empty_local_pool_is_nat_and_a_filled_one_fullnat() {
    unchanged_after(|daemon| {
        let pool = "/v1/services/tcp:192.0.2.100:80/local-addresses";
        let forward = || {
            daemon.get::<ServiceStatus>("/v1/services/tcp:192.0.2.100:80").servers[0]
                .forward
                .clone()
        };
        assert_eq!(daemon.ask("PUT", pool, r#"{"addresses": ["198.51.100.200"]}"#).0, 204);
        assert_eq!(forward(), "FullNat");
        assert_eq!(daemon.ask("PUT", pool, r#"{"addresses": []}"#).0, 204);
        assert_eq!(forward(), "Masq");
    });
}

#[test]
fn lvsctl_says_on_stderr_what_was_refused() {
    unchanged_after(|daemon| {
        let output = daemon.lvsctl("service add tcp:192.0.2.100:80");
        assert_eq!(output.status.code(), Some(1));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            stderr,
            "lvsctl: service: service tcp:192.0.2.100:80 exists already: edit it instead of adding it\n"
        );
        let output = daemon.lvsctl("server add tcp:192.0.2.100:80 198.51.100.12:80 --weight 2147483648");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "lvsctl: weight: weight 2147483648 of real server 198.51.100.12:80 is out of range: \
             give 0 (no new connections) to 2147483647\n"
        );
    });
}

#[test]
fn garbage_is_no_request_and_the_next_client_is_served() {
    unchanged_after(|daemon| {
        for garbage in garbage() {
            let mut stream = daemon.connect();
            let _ = stream.write_all(garbage.as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let answer = read_all(&mut stream);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    });
}

#[test]
fn an_oversized_body_is_refused() {
    unchanged_after(|daemon| {
        let body = format!("{{\"service\": \"tcp:192.0.2.100:81\"{}}}", " ".repeat(1 << 20));
        assert_eq!(
            daemon.refusal("POST", "/v1/services", &body),
            (
                413,
                "the body is larger than 1048576 bytes; send it in parts".to_owned()
            )
        );
    });
}

#[test]
fn a_hundred_half_open_clients_delay_nobody() {
    // The daemon closes a half-open connection after this time. A client that those delay would wait as long.
    const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
    unchanged_after(|daemon| {
        let delay_nobody = takes_less_than(HEAD_TIMEOUT, || {
            let half_open = half_open_clients(|| daemon.connect());
            for _ in 0..10 {
                assert_eq!(daemon.ask("GET", "/v1/services", "").0, 200);
            }
            drop(half_open);
        });
        assert!(delay_nobody);
    });
}
