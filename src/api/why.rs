//! `GET /v1/why`: where a packet would go and why, without sending it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{ConnRecord, Protocol, ServiceId};

/// The packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WhyAsked {
    /// The client's address.
    #[param(value_type = String)]
    pub client: IpAddr,
    /// The client's port; 40000 if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
    /// The destination: the VIP and its port.
    #[param(value_type = String, example = "192.0.2.1:80")]
    pub virt: SocketAddr,
    /// Its protocol.
    #[param(inline)]
    pub protocol: Protocol,
    /// Name of the device where it arrives; left out: the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// It begins no connection (TCP without SYN, SCTP without INIT).
    #[serde(default)]
    pub established: bool,
}

/// What would become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhyVerdict {
    /// It leaves.
    Transmit,
    /// It waits until the kernel has resolved the next hop.
    Hold,
    /// It is left to the kernel.
    Punt,
    /// It is dropped, or answered by an ICMP error or a TCP reset.
    Drop,
}

/// The answer: what does not come up is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The packet in words.
    pub packet: String,
    /// The worker that has, or would have, its connection.
    pub worker: u8,
    /// The connection that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnRecord>,
    /// Whether that connection is finished and the packet is rescheduled.
    pub must_reschedule: bool,
    /// Whether it is a reply of a real server.
    pub is_reply: bool,
    /// The mark that the rules give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// The service that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceId>,
    /// How that service picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<String>,
    /// The client's persistence template: milliseconds until it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_expires_in_ms: Option<u32>,
    /// What the scheduler sees, in its order: newest first.
    pub servers: Vec<WhyServer>,
    /// The real server that gets it, or sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub server: Option<SocketAddr>,
    /// How the director reaches that server: `Masq`, `FullNat`, `Tunnel` or `Route`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<String>,
    /// The address and port from which it is reached (FULLNAT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// The next hop by which it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<WhyHop>,
    /// What the director does with it.
    pub verdict: WhyVerdict,
    /// Why it does not leave: the name of the drop, or why the kernel gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A real server as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyServer {
    /// Its address and port.
    #[schema(value_type = String)]
    pub server: SocketAddr,
    /// Its weight; 0 takes no new connections.
    pub weight: u32,
    /// Connections in an active state, over all workers.
    pub active_conns: u32,
    /// Its other connections.
    pub inactive_conns: u32,
    /// Whether its upper threshold keeps it from new connections.
    pub is_overloaded: bool,
    /// Whether it gets the packet.
    pub is_chosen: bool,
}

/// The next hop by which it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyHop {
    /// The device that it leaves by.
    pub device: String,
    /// VLAN; 0 for untagged.
    pub vlan: u16,
    /// The neighbour that must be resolved first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub waits_for: Option<IpAddr>,
    /// The next hop's MAC address; absent while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Bytes of the largest IP packet that way; 0 while it waits.
    pub mtu: u16,
}
