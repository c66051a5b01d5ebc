//! Twins in network namespaces of their own.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::mgmt::namespace::{in_namespace, ip};

const MAC: [u8; 6] = [2, 0, 0, 0, 0x11, 0x22];

/// A twin of which systemd has nothing.
pub(crate) fn open_alone(device: DeviceId, name: &str, mac: [u8; 6], mtu: u16) -> Result<Twin, TwinError> {
    let wanted = TwinSpec {
        device,
        name: name.to_owned(),
        mac,
        mtu,
        owner: owner(),
    };
    open(&wanted, &mut Inherited::default())
}

fn owner() -> Owner {
    Owner::new(Path::new("/run/lvsd/api.sock"))
}

fn open_lan() -> Result<Twin, TwinError> {
    open_alone(DeviceId(0), "lan", MAC, 1500)
}

#[test]
fn a_twin_has_the_devices_name_mac_and_mtu_and_is_up() {
    in_namespace(|| {
        let twin = open_alone(DeviceId(3), "lan", MAC, 9000).unwrap();
        assert_eq!((twin.device, twin.name.as_str()), (DeviceId(3), "lan"));
        let shown = ip("-o link show lan");
        assert!(shown.starts_with(&format!("{}: lan:", twin.ifindex)), "{shown}");
        for expected in ["mtu 9000", "link/ether 02:00:00:00:11:22", ",UP,LOWER_UP"] {
            assert!(shown.contains(expected), "{expected}: {shown}");
        }
        drop(twin);
        assert!(
            ip("-o link show lan").contains("NO-CARRIER"),
            "it stays, without a carrier"
        );
    });
}

#[test]
fn a_twin_made_in_advance_with_its_mac_keeps_its_permanent_neighbours() {
    in_namespace(|| {
        ip("tuntap add dev lan mode tap");
        ip("link set lan address 02:00:00:00:11:22 up");
        ip("addr add 192.0.2.1/24 dev lan");
        ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lan nud permanent");
        let _twin = open_lan().unwrap();
        let neighbours = ip("neigh show dev lan");
        assert!(
            neighbours.contains("192.0.2.9 lladdr 02:00:00:00:00:09 PERMANENT"),
            "{neighbours}"
        );
    });
}

#[test]
fn what_the_kernel_sends_is_read_as_bare_frames_without_blocking() {
    in_namespace(|| {
        let twin = open_lan().unwrap();
        ip("addr add 192.0.2.1/24 dev lan");
        ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lan nud permanent");
        let mut wire = File::from(twin.fd);
        let mut frame = [0; 2048];
        while wire.read(&mut frame).is_ok() {}
        assert_eq!(wire.read(&mut frame).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let socket = std::net::UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.send_to(b"hello", "192.0.2.9:7").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let len = loop {
            // The kernel's own IPv6 multicast may come in between.
            match wire.read(&mut frame) {
                Ok(len) if frame[12..14] == [0x08, 0x00] => break len,
                _ => assert!(Instant::now() < deadline, "no datagram came out"),
            }
        };
        assert_eq!(len, 14 + 20 + 8 + 5);
        assert_eq!(frame[..6], [2, 0, 0, 0, 0, 9]);
        assert_eq!(frame[6..12], MAC);
    });
}

#[test]
fn a_tap_the_operator_made_is_taken_over_and_keeps_its_addresses() {
    in_namespace(|| {
        ip("tuntap add dev lan mode tap");
        ip("addr add 192.0.2.1/24 dev lan");
        drop(open_lan().unwrap());
        let twin = open_lan().unwrap();
        let shown = ip("-o addr show dev lan");
        assert!(shown.contains("192.0.2.1/24"), "{shown}");
        assert!(ip("-o link show lan").contains("02:00:00:00:11:22"));
        drop(twin);
    });
}

#[test]
fn a_name_that_another_interface_has_is_refused_with_the_cure() {
    in_namespace(|| {
        ip("link add lan type veth peer name other");
        let error = open_lan().unwrap_err();
        assert!(matches!(error, TwinError::NameTaken { .. }), "{error:?}");
        assert!(error.to_string().contains("another kernel name"), "{error}");
    });
}

#[test]
fn a_twin_that_another_process_holds_is_busy() {
    in_namespace(|| {
        let _held = open_lan().unwrap();
        let error = open_lan().unwrap_err();
        assert!(matches!(error, TwinError::Busy { .. }), "{error:?}");
    });
}

#[test]
fn names_the_kernel_would_not_take_are_refused_before_it_is_asked() {
    for name in ["", "a name", "tap%d", "a/b", "sixteen-letters-", "..", "eth0:1"] {
        let error = open_alone(DeviceId(0), name, MAC, 1500).unwrap_err();
        assert!(matches!(error, TwinError::BadName { .. }), "{name}: {error:?}");
    }
}

#[test]
fn each_refusal_of_the_kernel_is_explained() {
    let explained = |errno: Errno| explain("lan", false, io::Error::from_raw_os_error(errno as i32)).to_string();
    assert!(explained(Errno::EPERM).contains("CAP_NET_ADMIN"));
    assert!(explained(Errno::ENOENT).contains("modprobe tun"));
    assert!(explained(Errno::EBUSY).contains("second lvsd"));
    assert!(explained(Errno::ENOMEM).contains("cannot create it"));
}

#[test]
fn a_twin_of_the_lvsd_before_is_taken_over_as_the_operator_left_it() {
    in_namespace(|| {
        let first = open_lan().unwrap();
        ip("link set lan mtu 1400 address 02:00:00:00:33:44 down");
        let index = first.ifindex;
        drop(first);
        let again = open_lan().unwrap();
        assert_eq!((again.ifindex, again.was_held), (index, false));
        let shown = ip("-o link show lan");
        assert!(
            shown.contains("mtu 1400") && shown.contains("02:00:00:00:33:44"),
            "{shown}"
        );
        assert!(!shown.contains(",UP"), "{shown}");
        drop(again);
        drop(open_alone(DeviceId(0), "lan", MAC, 1450).unwrap());
        let shown = ip("-o link show lan");
        assert!(
            shown.contains("mtu 1450") && shown.contains("02:00:00:00:11:22"),
            "the device has changed: {shown}"
        );
    });
}

#[test]
fn a_twin_of_another_kind_is_made_anew_and_what_others_made_stays() {
    in_namespace(|| {
        ip("tuntap add dev lan mode tap multi_queue");
        assert!(matches!(open_lan(), Err(TwinError::NameTaken { .. })));
        let made = ip("-o link show lan");
        ownership::set_mark(if_nametoindex("lan").unwrap(), owner().mark(MAC, 1500)).unwrap();
        let twin = open_lan().unwrap();
        assert!(!made.starts_with(&format!("{}:", twin.ifindex)), "{made}");
    });
}

#[test]
fn only_own_twins_are_given_back_and_only_those_that_nobody_wants() {
    in_namespace(|| {
        drop(open_lan().unwrap());
        drop(open_alone(DeviceId(1), "wan", MAC, 1500).unwrap());
        ip("tuntap add dev theirs mode tap");
        drop(open_alone(DeviceId(2), "theirs", MAC, 1500).unwrap());
        let another = Owner::new(Path::new("/run/lvsd/api.sock2"));
        assert_eq!(another.give_back_but(&[]).unwrap(), Vec::<String>::new());
        assert_eq!(owner().give_back_but(&["lan"]).unwrap(), ["wan"]);
        assert_eq!(owner().give_back_but(&[]).unwrap(), ["lan"]);
        assert!(ip("-o link").contains("theirs"));
    });
}
