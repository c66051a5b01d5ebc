//! The netlink sockets: one listens, one asks, so that a flood of events never disturbs a dump.
//!
//! In:  RTM_NEW/DEL LINK, ADDR, ROUTE and NEIGH messages.
//! Out: [`Event`]s, and whole listings as plain records.
//! Never: decides what matters; see `network`.
//! Ref:  netlink(7), rtnetlink(7).

use std::net::IpAddr;

use futures_util::{Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Error, Handle, MulticastGroup};
use tokio::task::AbortHandle;

use super::network::{NeighbourRecord, Network};
use super::{KernelError, MirroredTwin, parse};

/// Buffer for a burst of events, in bytes (a neighbour event takes about 1 KiB of it).
const EVENTS_BUFFER_BYTES: usize = 4 << 20;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];

type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// What happened in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Neighbour(NeighbourRecord),
    /// A link, an address or a route came, went or changed.
    Network,
    /// The socket overflowed.
    Lost,
    /// The socket is dead.
    Closed,
    Irrelevant,
}

/// Both sockets; their tasks end with it.
#[derive(Debug)]
pub(super) struct Subscription {
    handle: Handle,
    events: futures_channel::mpsc::UnboundedReceiver<Message>,
    tasks: [AbortHandle; 2],
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Subscription {
    pub(super) fn open() -> Result<Self, KernelError> {
        let (mut listening, _, events) = rtnetlink::new_multicast_connection(&GROUPS)?;
        listening.socket_mut().socket_mut().set_rx_buf_sz(EVENTS_BUFFER_BYTES)?;
        let (asking, handle, _) = rtnetlink::new_connection()?;
        let tasks = [
            tokio::spawn(listening).abort_handle(),
            tokio::spawn(asking).abort_handle(),
        ];
        Ok(Self { handle, events, tasks })
    }

    pub(super) async fn next(&mut self) -> Event {
        match self.events.next().await {
            Some((message, _)) => classify(message.payload),
            None => Event::Closed,
        }
    }

    /// Links, addresses and the routes of both families, as far as they concern `twins`.
    pub(super) async fn dump_network(&self, twins: &[MirroredTwin]) -> Result<Network, KernelError> {
        let mut network = Network::new(twins);
        let links = collect("links", self.handle.link().get().execute()).await?;
        links
            .iter()
            .filter_map(parse::link)
            .for_each(|link| network.add_link(link));
        let addresses = collect("addresses", self.handle.address().get().execute()).await?;
        addresses
            .iter()
            .filter_map(parse::address)
            .for_each(|address| network.add_address(address));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let routes = collect("routes", self.handle.route().get(request).execute()).await?;
            routes
                .iter()
                .filter_map(parse::route)
                .for_each(|route| network.add_route(route));
        }
        Ok(network)
    }

    pub(super) async fn dump_neighbours(&self) -> Result<Vec<NeighbourRecord>, KernelError> {
        let listed = collect("neighbours", self.handle.neighbours().get().execute()).await?;
        Ok(listed
            .iter()
            .filter_map(|message| parse::neighbour(message, false))
            .collect())
    }

    /// NTF_USE, as a packet to this neighbour would do: an unknown or failed one is asked for, a stale one
    /// probed (`neigh_add`, `neigh_event_send`).
    pub(super) async fn probe(&self, ifindex: u32, addr: IpAddr) {
        let request = self.handle.neighbours().add(ifindex, addr).replace();
        let asked = request
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .execute()
            .await;
        if let Err(error) = asked {
            log::debug!("kernel mirror: cannot ask for neighbour {addr}: {error}");
        }
    }
}

async fn collect<T>(what: &'static str, stream: impl Stream<Item = Result<T, Error>>) -> Result<Vec<T>, KernelError> {
    let mut stream = std::pin::pin!(stream);
    let mut listed = Vec::new();
    while let Some(item) = stream.next().await {
        listed.push(item.map_err(|source| KernelError::Dump { what, source })?);
    }
    Ok(listed)
}

fn classify(payload: NetlinkPayload<RouteNetlinkMessage>) -> Event {
    use RouteNetlinkMessage as Route;
    let neighbour = |message, gone| parse::neighbour(message, gone).map_or(Event::Irrelevant, Event::Neighbour);
    match payload {
        NetlinkPayload::InnerMessage(Route::NewNeighbour(message)) => neighbour(&message, false),
        NetlinkPayload::InnerMessage(Route::DelNeighbour(message)) => neighbour(&message, true),
        NetlinkPayload::InnerMessage(
            Route::NewLink(_)
            | Route::DelLink(_)
            | Route::NewAddress(_)
            | Route::DelAddress(_)
            | Route::NewRoute(_)
            | Route::DelRoute(_),
        ) => Event::Network,
        NetlinkPayload::Overrun(_) => Event::Lost,
        _ => Event::Irrelevant,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_of_the_socket_is_told() {
        assert_eq!(classify(NetlinkPayload::Overrun(Vec::new())), Event::Lost);
    }
}
