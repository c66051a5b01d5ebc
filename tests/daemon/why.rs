//! What a real daemon says of packets that nobody sends.

use lvs_api::{Stats, Why, WhyVerdict};
use lvs_test_support::daemon::Testbed;

const SERVICES: &str = "
[[device]]
name = \"wan\"
dpdk = \"net_null0,no-rx=1\"
mac = \"02:00:00:00:00:01\"
[[device]]
name = \"lan\"
dpdk = \"net_null1,no-rx=1\"
mac = \"02:00:00:00:00:02\"
[[mark]]
mark = 7
destination = \"192.0.2.101/32\"
[[service]]
protocol = \"tcp\"
address = \"192.0.2.100\"
port = 80
scheduler = \"wrr\"
local_addresses = [\"198.51.100.200\"]
[[service.real_server]]
address = \"198.51.100.11\"
mode = \"nat\"
weight = 0
[[service.real_server]]
address = \"198.51.100.12\"
mode = \"nat\"
weight = 3
[[service]]
fwmark = 7
scheduler = \"rr\"
";

fn lay_network(testbed: &Testbed) {
    testbed.wan_and_lan();
    testbed.address("wan", "192.0.2.101/32");
    testbed.inside("ip neigh add 198.51.100.12 lladdr 02:00:00:00:02:12 dev lan nud permanent");
}

#[test]
fn every_decision_is_told_and_nothing_is_counted() {
    let testbed = Testbed::create();
    lay_network(&testbed);
    testbed.configure(SERVICES);
    let daemon = testbed.start();

    let answer = daemon.printed("why 192.0.2.7 tcp:192.0.2.100:80");
    for line in [
        "packet      tcp 192.0.2.7:40000 -> 192.0.2.100:80, first of a connection\n",
        "connection  none\n",
        "service     tcp:192.0.2.100:80 wrr\n",
        "198.51.100.12:80       weight 3     active 0        inactive 0  <- chosen\n",
        "198.51.100.11:80       weight 0     active 0        inactive 0  quiesced\n",
        "real server 198.51.100.12:80 FullNat\n",
        "from        198.51.100.200:",
        "next hop    02:00:00:00:02:12 on lan, MTU 1500\n",
        "verdict     transmit\n",
    ] {
        assert!(answer.contains(line), "{line}: {answer}");
    }
    assert_eq!(
        daemon.printed("why 192.0.2.7 192.0.2.100:80"),
        answer,
        "asking changes nothing"
    );
    let why: Why = serde_json::from_str(&daemon.printed("--json why 192.0.2.7 192.0.2.100:80")).unwrap();
    assert_eq!((why.verdict, why.servers.len()), (WhyVerdict::Transmit, 2));

    for (asked, line) in [
        (
            "192.0.2.7 192.0.2.100:81",
            "verdict     punt to the kernel: no service is for",
        ),
        (
            "192.0.2.7 192.0.2.100:80 --established",
            "verdict     punt to the kernel: it belongs to no connection",
        ),
        ("192.0.2.7 udp:192.0.2.101:53 --device lan", "mark        7\n"),
        ("192.0.2.7 udp:192.0.2.101:53", "verdict     drop: no_real_server\n"),
    ] {
        let answer = daemon.printed(&format!("why {asked}"));
        assert!(answer.contains(line), "{asked}: {answer}");
    }
    let refused = daemon.lvsctl("why 192.0.2.7 192.0.2.100:80 --device dmz");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("there are wan, lan"));
    assert_eq!(daemon.get::<Stats>("/v1/stats"), Stats::default());
    let picks = daemon.get::<Vec<lvs_api::Worker>>("/v1/workers")[0].scheduler_picks;
    assert_eq!(picks, 0);
    daemon.stop();
}
