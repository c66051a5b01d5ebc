//! Rings of frames between one worker and the thread that serves the kernel twins.
//!
//! The worker never makes a system call for them, because the thread polls the rings.
//! Control frames (ARP, neighbour discovery, VRRP, routing protocols) have a ring of their own. The thread empties it
//! first, so a flood of other frames never starves the control frames.

use lvs_core::frame::Frame;
use lvs_core::headers::Flow;
use lvs_core::l3::DeviceId;
use lvs_core::path::parse::{Parsed, parse};
use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::dpdk::Mbuf;

/// The most frames that may wait for the twin thread: those of the millisecond that it may sleep, at 1 Mpps.
pub const PUNTED_SLOTS: usize = 1_024;

/// The most control frames that may wait for the twin thread.
pub const CONTROL_SLOTS: usize = 256;

/// The most frames from the twins that may wait for a worker.
pub const INJECTED_SLOTS: usize = 512;

/// A frame on its way to or from the kernel twin of `device`.
#[derive(Debug)]
pub struct TwinFrame {
    /// The frame, unchanged.
    pub mbuf: Mbuf,
    /// The device to which the twin belongs.
    pub device: DeviceId,
}

/// The worker's side: it sends punted frames here.
#[derive(Debug)]
pub struct PuntedFrames {
    control: Producer<TwinFrame>,
    other: Producer<TwinFrame>,
}

/// The worker's side: it receives frames from the twins here.
#[derive(Debug)]
pub struct InjectedFrames(Consumer<TwinFrame>);

/// The twin thread's side of one worker's rings.
#[derive(Debug)]
pub struct TwinEnd {
    control: Consumer<TwinFrame>,
    other: Consumer<TwinFrame>,
    injected: Producer<TwinFrame>,
}

/// Both sides of one worker's rings.
pub fn rings() -> (PuntedFrames, InjectedFrames, TwinEnd) {
    let (control_sender, control) = RingBuffer::new(CONTROL_SLOTS);
    let (other_sender, other) = RingBuffer::new(PUNTED_SLOTS);
    let (injected, injected_receiver) = RingBuffer::new(INJECTED_SLOTS);
    let punted = PuntedFrames {
        control: control_sender,
        other: other_sender,
    };
    let end = TwinEnd {
        control,
        other,
        injected,
    };
    (punted, InjectedFrames(injected_receiver), end)
}

impl PuntedFrames {
    /// Sends a frame to the twin thread. Returns it when its ring is full.
    pub fn send(&mut self, mbuf: Mbuf, device: DeviceId) -> Result<(), Mbuf> {
        let ring = if is_control(mbuf.bytes()) {
            &mut self.control
        } else {
            &mut self.other
        };
        ring.push(TwinFrame { mbuf, device })
            .map_err(|PushError::Full(frame)| frame.mbuf)
    }
}

impl InjectedFrames {
    /// The next frame from a twin.
    #[inline]
    pub fn take(&mut self) -> Option<TwinFrame> {
        self.0.pop().ok()
    }
}

impl TwinEnd {
    /// The next frame for a twin, control frames first.
    pub fn take(&mut self) -> Option<TwinFrame> {
        self.control.pop().or_else(|_| self.other.pop()).ok()
    }

    /// Whether the worker can take another frame.
    pub fn has_space(&self) -> bool {
        !self.injected.is_full()
    }

    /// Sends the worker a frame to transmit. Returns it when the ring is full.
    pub fn send(&mut self, frame: TwinFrame) -> Result<(), TwinFrame> {
        self.injected.push(frame).map_err(|PushError::Full(frame)| frame)
    }
}

/// Whether this is a control frame, without which the network stops working: everything that is not IP (ARP, LACP, LLDP),
/// multicast and neighbour management, VRRP, OSPF, PIM, BGP and BFD.
fn is_control(frame: &[u8]) -> bool {
    let (headers, flow) = match parse(frame) {
        Ok(Parsed::Ip(headers, flow)) => (headers, flow),
        Ok(Parsed::Other) => return true,
        Err(_) => return false,
    };
    let (src, dst) = match flow {
        Flow::V4(key) => (key.src.port, key.dst.port),
        Flow::V6(key) => (key.src.port, key.dst.port),
    };
    match headers.protocol {
        // IGMP, OSPF, PIM, VRRP (IANA protocol numbers).
        2 | 89 | 103 | 112 => true,
        // ICMPv6: multicast listeners (130-132, 143) and neighbour discovery (133-137).
        58 => frame
            .get(usize::from(headers.l4_offset))
            .is_some_and(|kind| matches!(kind, 130..=137 | 143)),
        // BGP over TCP.
        6 => src == 179 || dst == 179,
        // BFD over UDP, one hop and several (RFC 5881, RFC 5883).
        17 => matches!(dst, 3784 | 4784),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use lvs_core::testing::{icmp6, tcp4, udp4, udp6};

    use super::is_control;

    #[test]
    fn routing_and_neighbour_protocols_are_control_and_services_are_not() {
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(is_control(&arp));
        assert!(is_control(&tcp4("198.51.100.1:40000 > 192.0.2.1:179").syn().build()));
        assert!(is_control(&tcp4("198.51.100.1:179 > 192.0.2.1:40000").ack().build()));
        assert!(is_control(&udp6("[2001:db8::1]:49152 > [2001:db8::2]:3784").build()));
        assert!(is_control(&icmp6("2001:db8::1 > 2001:db8::2").icmp(135, 0, 0).build()));
        assert!(!is_control(&icmp6("2001:db8::1 > 2001:db8::2").icmp(128, 0, 0).build()));
        assert!(!is_control(&tcp4("198.51.100.1:40000 > 192.0.2.1:22").syn().build()));
        assert!(!is_control(&udp4("198.51.100.1:3784 > 192.0.2.1:53").build()));
        assert!(!is_control(&[0; 10]), "too short to be anything");
    }
}
