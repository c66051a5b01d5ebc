//! Any bytes as what an IPVS tool sends: each message becomes a request or an error number, and answers are messages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lvs_api::netlink::{Errno, Messages, Opening, Request, acknowledge, cancelled_sequence, refuse};

const PORT_ID: u32 = 7;

fn assert_answers(request_sequence: u32, datagram: &[u8]) {
    let mut answers = Messages::new(datagram);
    let answer = answers.next().expect("an answer is a message");
    assert_eq!(answer.bytes, datagram, "an answer is one message");
    assert_eq!(answer.sequence, request_sequence);
}

fuzz_target!(|datagram: &[u8]| {
    if let Some(Opening::Netlink(hello)) = Opening::parse(datagram) {
        assert!(Opening::parse(&hello.to_bytes()).is_some(), "{hello:?}");
    }
    let _ = cancelled_sequence(datagram);
    for message in Messages::new(datagram) {
        let _ = (message.is_request(), message.wants_acknowledgement());
        match Request::parse(&message) {
            Ok(_) => assert_answers(message.sequence, &acknowledge(&message, PORT_ID)),
            Err(errno) => assert_answers(message.sequence, &refuse(&message, PORT_ID, errno)),
        }
        assert_answers(message.sequence, &refuse(&message, PORT_ID, Errno::Exists));
    }
});
