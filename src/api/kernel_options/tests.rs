//! The structs of the old socket options, byte for byte.

use super::*;
use crate::netlink::Granularity;

fn call(is_64_bit: bool, is_set: bool, index: u16, len: usize, data: &[u8]) -> Call {
    Call {
        is_64_bit,
        is_set,
        option: BASE + index,
        len: u32::try_from(len).unwrap(),
        data: data.to_vec(),
    }
}

fn row() -> ServiceRow {
    ServiceRow {
        key: ServiceKey::Address {
            protocol: 6,
            addr: IpAddr::from([192, 0, 2, 1]),
            port: 80,
        },
        scheduler: "wrr".into(),
        engine: None,
        flags: 3,
        timeout_sec: 300,
        granularity: Granularity::V4(Ipv4Addr::BROADCAST),
        statistics: Statistics::default(),
    }
}

#[test]
fn the_structs_have_the_sizes_of_either_abi() {
    for (is_64_bit, service, server) in [(true, 104, 96), (false, 96, 84)] {
        let mut answer = Answer::new(&call(is_64_bit, false, 3, 0, &[]));
        answer.service(&row(), 2);
        let bytes = answer.into_bytes();
        assert_eq!(bytes.len(), service, "struct ip_vs_service_entry");
        let read = ServiceCall::read(&bytes);
        assert_eq!((read.key, read.scheduler.as_str(), read.flags), (row().key, "wrr", 3));
        let layout = Layout::of(is_64_bit);
        assert_eq!((layout.service_bytes(), layout.server_bytes()), (service, server));
    }
}

#[test]
fn a_buffer_of_another_length_is_refused_as_the_kernel_refuses_it() {
    assert_eq!(call(true, true, 2, 43, &[0; 43]).asked(), Err(Errno::Invalid));
    assert_eq!(call(true, true, 2, 45, &[0; 45]).asked(), Err(Errno::Invalid));
    assert!(call(true, true, 2, 44, &[0; 44]).asked().is_ok());
    assert_eq!(call(true, true, 5, 1, &[0]).asked(), Err(Errno::Invalid));
    assert_eq!(call(true, true, 5, 0, &[]).asked(), Ok(Asked::Flush));
    for index in [0, 1, 6, 13, 14] {
        assert_eq!(call(true, true, index, 0, &[]).asked(), Err(Errno::Invalid), "{index}");
    }
    let two = Asked::Services { count: 2 };
    assert!(call(true, false, 2, 8 + 2 * 104, &[]).fits(&two));
    assert!(!call(true, false, 2, 8 + 104, &[]).fits(&two));
    assert!(call(false, false, 2, 4 + 2 * 96, &[]).fits(&two));
    assert_eq!(call(true, false, 5, 4096, &[]).asked(), Err(Errno::Invalid), "GET_DEST");
}

#[test]
fn a_call_travels_as_it_is() {
    let sent = call(false, true, 7, 68, &[7; 68]);
    assert_eq!(Call::parse(&sent.to_bytes()), Some(sent));
    assert_eq!(Call::parse(&[1; 7]), None);
}
