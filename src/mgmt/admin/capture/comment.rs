//! What became of a frame, in one line: `received verdict=transmit to=lan worker=0 frame=tcp:203.0.113.7:40000>…`.
//!
//! In:  a record. Out: words of the form `name=value`, so that `tshark -Y 'frame.comment contains "…"'` finds them.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use lvs_core::capture::VerdictName;
use lvs_core::verdict::Verdict;

use crate::worker::capture::{Kind, Record};

/// See the module.
pub(super) fn comment(record: &Record, worker: usize, devices: &[String]) -> String {
    let mut text = format!(
        "{} verdict={}",
        kind(record.kind),
        VerdictName::of(record.verdict).name()
    );
    match record.verdict {
        Verdict::Transmit(to) => {
            let name = devices.get(usize::from(to.0)).map_or("?", String::as_str);
            let _ = write!(text, " to={name}");
        }
        Verdict::Handoff(to) => {
            let _ = write!(text, " to_worker={}", to.0);
        }
        Verdict::Drop(reason) => {
            let _ = write!(text, " reason={}", reason.name());
        }
        Verdict::Punt | Verdict::Hold(_) | Verdict::Consumed => {}
    }
    let _ = write!(text, " worker={worker}");
    if let Some(ends) = &record.ends {
        let _ = write!(
            text,
            " frame={}:{}>{}",
            protocol(ends.protocol),
            end(ends.src),
            end(ends.dst)
        );
    }
    if let Some(conn) = &record.conn {
        let _ = write!(
            text,
            " mode={} state={} client={} vip={} local={} real={}",
            conn.mode.name(),
            conn.state_name(),
            end(conn.client),
            end(conn.virt),
            end(conn.local),
            end(conn.real)
        );
    }
    text
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Received => "received",
        Kind::Handoff => "handed_over",
        Kind::Forwarded => "forwarded",
        Kind::Generated => "generated",
        Kind::Held => "held",
        Kind::FromKernel => "from_kernel",
        Kind::Lost => "lost",
    }
}

fn protocol(number: u8) -> String {
    let name = match number {
        1 => "icmp",
        4 | 41 => "ipip",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        58 => "icmp6",
        132 => "sctp",
        other => return other.to_string(),
    };
    name.to_owned()
}

/// Without the port where there is none.
fn end((addr, port): (IpAddr, u16)) -> String {
    if port == 0 {
        addr.to_string()
    } else {
        SocketAddr::new(addr, port).to_string()
    }
}
