//! An explanation of the path in the words of the API: names for ids, loads for the scheduler's servers.

use std::net::SocketAddr;

use lvs_api::{Why, WhyHop, WhyServer, WhyVerdict};
use lvs_core::explain::{End, Explanation, Left};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::real_server::{RealServer, RealServerId};
use lvs_core::ipvs::service::ServiceId;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;

use super::{Director, convert, counts};

impl Director {
    /// The device of that name; without a name the first one. If no device has that name, the error lists the names of
    /// all.
    pub fn device_named(&self, name: Option<&str>) -> Result<DeviceId, Vec<String>> {
        let Some(name) = name else {
            return Ok(DeviceId(0));
        };
        let position = self.desired.devices.iter().position(|known| known == name);
        let id = position.and_then(|position| u8::try_from(position).ok());
        id.map(DeviceId).ok_or_else(|| self.desired.devices.to_vec())
    }

    /// By device: its name.
    pub fn device_names(&self) -> &[String] {
        &self.desired.devices
    }

    /// The explanation by `worker` of `packet`, in words.
    pub fn in_words(&mut self, packet: String, worker: usize, explanation: &Explanation) -> Why {
        let table = self.current_table();
        let service = explanation.service.and_then(|id| table.service(id));
        let slot = explanation.server.and_then(|id| table.real_server(id));
        let mode = explanation
            .conn
            .map_or_else(|| slot.map(|slot| slot.server.mode), |conn| Some(conn.mode));
        let (verdict, reason) = verdict(&explanation.end);
        Why {
            packet,
            worker: u8::try_from(worker).unwrap_or(u8::MAX),
            connection: explanation.conn.and_then(|conn| convert::conn_record(&conn, worker)),
            must_reschedule: explanation.must_reschedule,
            is_reply: explanation.is_reply,
            mark: explanation.mark,
            service: service.map(|service| convert::id(&service.key)),
            scheduler: service.map(|service| service.scheduler.name().to_owned()),
            template_expires_in_ms: explanation.template.map(|template| template.expires_in_ms),
            servers: explanation
                .service
                .map_or_else(Vec::new, |id| self.seen_by_scheduler(id, explanation.server)),
            server: slot.map(|slot| SocketAddr::new(slot.server.addr, explanation.port)),
            forward: mode
                .filter(|_| slot.is_some())
                .map(|mode: ForwardingMode| mode.name().to_owned()),
            local: explanation.local.map(SocketAddr::from),
            next_hop: self.hop(&explanation.end),
            verdict,
            reason,
        }
    }

    fn seen_by_scheduler(&mut self, service: ServiceId, chosen: Option<RealServerId>) -> Vec<WhyServer> {
        let table = self.current_table();
        let Some(service) = table.service(service) else {
            return Vec::new();
        };
        let seen = |server: &RealServer| {
            let load = counts::load(&self.workers, server.id);
            let mut workers = self.workers.iter();
            let was = workers.any(|worker| worker.counters().server(server.id).overloaded.get() != 0);
            WhyServer {
                server: SocketAddr::new(server.addr, server.port),
                weight: server.weight,
                active_conns: load.active,
                inactive_conns: load.inactive,
                is_overloaded: was && server.overloaded(true, load.active.wrapping_add(load.inactive)),
                is_chosen: chosen == Some(server.id),
            }
        };
        service.servers.iter().map(seen).collect()
    }

    fn hop(&self, end: &End) -> Option<WhyHop> {
        let name = |device: DeviceId| {
            let known = self.desired.devices.get(usize::from(device.0));
            known.cloned().unwrap_or_else(|| device.0.to_string())
        };
        match end {
            End::Transmit(hop) => Some(WhyHop {
                device: name(hop.device),
                vlan: hop.vlan,
                waits_for: None,
                mac: Some(hop.dst_mac.map(|byte| format!("{byte:02x}")).join(":")),
                mtu: hop.mtu,
            }),
            End::Hold(neighbour) => Some(WhyHop {
                device: name(neighbour.device),
                vlan: self.l3.interface_of(neighbour.interface).map_or(0, |known| known.vlan),
                waits_for: Some(neighbour.addr),
                mac: None,
                mtu: 0,
            }),
            _ => None,
        }
    }
}

fn verdict(end: &End) -> (WhyVerdict, Option<String>) {
    let punt = |why: &str| (WhyVerdict::Punt, Some(why.to_owned()));
    match end {
        End::Transmit(_) => (WhyVerdict::Transmit, None),
        End::Hold(_) => (WhyVerdict::Hold, None),
        End::Drop(reason) => (WhyVerdict::Drop, Some(reason.name().to_owned())),
        End::Reset => (
            WhyVerdict::Drop,
            Some("a TCP reset answers it (reset_unknown)".to_owned()),
        ),
        End::Nonsense => punt("its addresses are of two families"),
        End::Handoff(_) => punt("no worker owns it"),
        End::Punt(Left::NoServices) => punt("there are no services"),
        End::Punt(Left::NoService) => punt("no service is for this protocol, destination and mark"),
        End::Punt(Left::NotLocal) => punt("the director does not have the destination's address"),
        End::Punt(Left::StartsNothing) => punt("it belongs to no connection and may not start one"),
        End::Punt(Left::NoServer) => punt("no real server may take it, and the kernel knows where it belongs"),
        End::Punt(Left::LocalServer) => punt("the real server is the director itself"),
        End::Punt(Left::RouteElsewhere) => punt("the kernel's route to the real server is not followed"),
        End::Punt(Left::ReplyElsewhere) => punt("the kernel's route to the client is not followed"),
    }
}
