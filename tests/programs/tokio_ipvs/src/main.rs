//! Lists IPVS services by rust-netlink on tokio: the socket is registered with epoll before the first request.
//!
//! In:  nothing. Out: a line `ADDRESS:PORT` for each IPv4 service.

use std::net::Ipv4Addr;

use futures_util::StreamExt;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

const GET_SERVICE: u8 = 4;
const ATTRIBUTE_SERVICE: u16 = 1;
const ATTRIBUTE_ADDRESS: u16 = 3;
const ATTRIBUTE_PORT: u16 = 4;

/// A message of IPVS, its attributes as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ipvs(Vec<u8>);

impl GenlFamily for Ipvs {
    fn family_name() -> &'static str {
        "IPVS"
    }

    fn command(&self) -> u8 {
        GET_SERVICE
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Ipvs {
    fn buffer_len(&self) -> usize {
        self.0.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Ipvs {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self(bytes.to_vec()))
    }
}

/// The payload of an attribute.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let [a, b, c, d, ..] = *bytes {
        let len = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) & 0x3FFF == wanted {
            return bytes.get(4..len);
        }
        bytes = bytes.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

fn line(message: &Ipvs) -> Option<String> {
    let service = attribute(&message.0, ATTRIBUTE_SERVICE)?;
    let address = Ipv4Addr::from(*attribute(service, ATTRIBUTE_ADDRESS)?.first_chunk::<4>()?);
    let port = u16::from_be_bytes(*attribute(service, ATTRIBUTE_PORT)?.first_chunk()?);
    Some(format!("{address}:{port}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (connection, mut handle, _) = genetlink::new_connection()?;
    tokio::spawn(connection);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let request = NetlinkMessage::new(header, GenlMessage::from_payload(Ipvs(Vec::new())).into());
    let mut answers = handle.request(request).await?;
    while let Some(answer) = answers.next().await {
        match answer?.payload {
            NetlinkPayload::InnerMessage(message) => line(&message.payload).iter().for_each(|line| println!("{line}")),
            NetlinkPayload::Error(error) => return Err(format!("{error:?}").into()),
            _ => {}
        }
    }
    Ok(())
}
