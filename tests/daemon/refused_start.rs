//! What lvsd refuses to start with: each message names the cause and the cure, and what already runs goes on.

use std::os::unix::net::UnixListener;

use lvs_api::State;
use lvs_test_support::daemon::Testbed;

const DEVICE: &str = "[[device]]\nname = \"wan\"\ndpdk = \"net_null0,no-rx=1\"\n";
const SERVICE: &str = "[[service]]\nprotocol = \"tcp\"\naddress = \"192.0.2.100\"\nport = 80\n";

/// The message for a configuration, without the file's place.
fn refused_with(rest: &str) -> String {
    let testbed = Testbed::create();
    testbed.configure(rest);
    let message = testbed.refused();
    let directory = testbed.path("");
    message.replace(&directory.display().to_string(), "")
}

#[test]
fn a_wrong_configuration_names_line_key_cause_and_cure() {
    let server = |text: &str| format!("{SERVICE}[[service.real_server]]\n{text}\n");
    for (rest, expected) in [
        (
            "[timeouts]\ntcp_sek = 900\n".to_owned(),
            "lvsd.toml:16:1: timeouts.tcp_sek: unknown field `tcp_sek`, expected one of `tcp_sec`, \
             `tcp_fin_sec`, `udp_sec`: correct its name or remove it; lvsd.reference.toml lists every key",
        ),
        (
            "[timeouts]\ntcp_sec = \"900\"\n".to_owned(),
            "lvsd.toml:16:11: timeouts.tcp_sec: invalid type: string \"900\", expected u32: give a value as \
             lvsd.reference.toml describes it",
        ),
        (
            format!("{SERVICE}{SERVICE}"),
            "lvsd.toml:21:11: service.address: service tcp:192.0.2.100:80 exists already: edit it instead of \
             adding it",
        ),
        (
            server("address = \"198.51.100.11\"\nweight = 2147483648"),
            "lvsd.toml:21:10: service.real_server.weight: weight 2147483648 of real server 198.51.100.11:80 is \
             out of range: give 0 (no new connections) to 2147483647",
        ),
        (
            server("address = \"2001:db8:b::11\"\nmode = \"nat\""),
            "lvsd.toml:20:11: service.real_server.address: real server [2001:db8:b::11]:80 is of another \
             address family than service tcp:192.0.2.100:80: give an address of the service's family, or use \
             tunnel mode",
        ),
        (
            format!("{SERVICE}local_addresses = [\"2001:db8:b::1\"]\n"),
            "lvsd.toml:19:20: service.local_addresses: local address 2001:db8:b::1 is of another address \
             family than service tcp:192.0.2.100:80: give addresses of the service's family",
        ),
        (
            format!("{DEVICE}{DEVICE}"),
            "lvsd.toml:19:8: device.name: device wan is there twice: give every device a name of its own",
        ),
    ] {
        assert_eq!(refused_with(&rest), expected);
    }
}

#[test]
fn a_device_that_cannot_be_had_is_named() {
    let device = |dpdk: &str| format!("[[device]]\nname = \"wan\"\ndpdk = \"{dpdk}\"\n");
    for (dpdk, expected) in [
        (
            "net_af_packet0,iface=nowhere0",
            "device \"wan\": there is no interface \"nowhere0\" here; `ip link` shows those there are",
        ),
        (
            "0000:99:00.0",
            "device \"wan\": DPDK cannot open \"0000:99:00.0\": No such device; check the address (lspci -D) \
             and that the NIC is bound: dpdk-devbind.py -b vfio-pci ADDRESS",
        ),
        (
            "net_nonsense0",
            "device \"wan\": DPDK cannot open \"net_nonsense0\": there is no such driver; check the driver's \
             name and arguments and that its package is installed (dpkg -l 'librte-net-*')",
        ),
        (
            "net_pcap0,rx_pcap=/nowhere.pcap",
            "device \"wan\": DPDK cannot open \"net_pcap0,rx_pcap=/nowhere.pcap\": refused by its driver; \
             check the driver's name and arguments and that its package is installed (dpkg -l \
             'librte-net-*')",
        ),
    ] {
        assert_eq!(refused_with(&device(dpdk)), expected);
    }
}

#[test]
fn a_device_that_somebody_else_has_is_busy() {
    let testbed = Testbed::create();
    testbed.inside("ip link add cable type veth peer name end");
    testbed.inside("ip link set cable up");
    testbed.configure(
        "[[device]]\nname = \"wan\"\ndpdk = \"net_af_xdp0,iface=cable\"\n\
         [[device]]\nname = \"lan\"\ndpdk = \"net_af_xdp1,iface=cable\"\n",
    );
    assert_eq!(
        testbed.refused(),
        "device \"lan\": a receive queue refused: Invalid argument; another program may have it, or rx_queue_size or \
         tx_queue_size is not what it takes; RUST_LOG=debug shows what its driver says"
    );
}

#[test]
fn a_twin_whose_name_is_taken_is_named() {
    let testbed = Testbed::create();
    testbed.inside("ip link add wan type bridge");
    testbed.configure(DEVICE);
    assert_eq!(
        testbed.refused(),
        "kernel twin wan: an interface of another kind has this name; rename it, or give the device another kernel \
         name in lvsd.toml"
    );
    assert!(
        testbed.inside("ip -d link show wan").contains("bridge"),
        "it is left alone"
    );
}

#[test]
fn a_second_director_on_the_same_device_is_refused_and_the_first_goes_on() {
    let testbed = Testbed::create();
    testbed.configure(&format!("{DEVICE}{SERVICE}"));
    let mut first = testbed.start();
    let before: State = first.get("/v1/state");
    assert_eq!(
        testbed.refused(),
        format!(
            "lvsd (pid {}) answers on {}; stop it first, or give this lvsd another path",
            first.pid(),
            testbed.socket().display()
        )
    );
    // Another socket and journal, but the same twin.
    let text = std::fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    let other = text
        .replace("api.sock", "other.sock")
        .replace("/journal", "/other-journal");
    testbed.write_config(&other);
    let expected = "another lvsd (DPDK's file prefix \"lvsd\") runs in this network namespace; stop it, or start this \
                    one in a namespace of its own (ip netns exec)";
    assert_eq!(testbed.refused(), expected);
    assert!(first.is_alive());
    assert_eq!(first.get::<State>("/v1/state"), before);
    first.stop();
}

#[test]
fn a_socket_path_in_use_is_left_to_its_owner() {
    let testbed = Testbed::create();
    testbed.configure("");
    let listener = UnixListener::bind(testbed.socket()).unwrap();
    let message = testbed.refused();
    let expected = format!(
        "(pid {}) answers on {}; stop it first",
        std::process::id(),
        testbed.socket().display()
    );
    assert!(message.contains(&expected), "{message}");
    drop(listener);

    std::fs::remove_file(testbed.socket()).unwrap();
    std::fs::write(testbed.socket(), "notes").unwrap();
    assert_eq!(
        testbed.refused(),
        format!(
            "{} exists and is no socket; move it away or set another socket path",
            testbed.socket().display()
        )
    );
    assert_eq!(std::fs::read(testbed.socket()).unwrap(), b"notes");
}

#[test]
fn hugepages_that_are_required_but_absent_are_asked_for() {
    let testbed = Testbed::create();
    testbed.write_config(&format!(
        "[eal]\nhugepages = \"require\"\nmemory_mb = 1000000\n[api]\nsocket = {:?}\n[journal]\npath = {:?}\n",
        testbed.socket(),
        testbed.path("journal")
    ));
    let message = testbed.refused();
    assert!(
        message.starts_with("1000000 MiB of hugepages are needed but "),
        "{message}"
    );
    let cure = "reserve them with `echo 500000 > /proc/sys/vm/nr_hugepages`, or set hugepages = \"auto\" or \"never\"";
    assert!(message.ends_with(cure), "{message}");
}

#[test]
fn a_journal_that_cannot_be_written_is_named() {
    let testbed = Testbed::create();
    testbed.configure("");
    std::fs::create_dir(testbed.path("journal")).unwrap();
    let message = testbed.refused();
    assert!(message.contains("/journal: Is a directory"), "{message}");

    let text = std::fs::read_to_string(testbed.path("lvsd.toml")).unwrap();
    testbed.write_config(&text.replace("/journal", "/nowhere/journal"));
    assert_eq!(
        testbed.refused(),
        format!(
            "journal {}: No such file or directory (os error 2); \
             check that the directory exists, is writable and has space",
            testbed.path("nowhere/journal").display()
        )
    );
}

#[test]
fn without_root_the_missing_right_is_named() {
    let testbed = Testbed::create();
    testbed.configure(DEVICE);
    assert_eq!(
        testbed.refused_as_nobody(),
        "kernel twin wan: no permission; run lvsd as root or with CAP_NET_ADMIN"
    );
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let testbed = Testbed::create();
    assert_eq!(
        testbed.refused(),
        format!(
            "cannot read {}: No such file or directory (os error 2); give the right file with --config",
            testbed.path("lvsd.toml").display()
        )
    );
}
