//! `lvsctl service` and `lvsctl local-address` on the command line.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use lvs_api::{Netmask, Persistence, Protocol, ServiceId, ServicePatch};

/// `lvsctl service`.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Add a virtual service (`ipvsadm -A`).
    Add {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
        /// How.
        #[command(flatten)]
        options: ServiceOptions,
    },
    /// Change what is given, keep the other options; connections stay (`ipvsadm -E`).
    Edit {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
        /// How.
        #[command(flatten)]
        options: ServiceOptions,
    },
    /// Delete a virtual service (`ipvsadm -D`).
    Delete {
        /// Which one.
        #[command(flatten)]
        name: ServiceName,
    },
}

/// Names a virtual service.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ServiceName {
    /// The virtual service: tcp:192.0.2.10:80.
    service: Option<ServiceId>,
    /// The virtual service, TCP: 192.0.2.10:80.
    #[arg(short = 't', long, value_name = "VIP:PORT")]
    tcp_service: Option<SocketAddr>,
    /// The virtual service, UDP: 192.0.2.10:53.
    #[arg(short = 'u', long, value_name = "VIP:PORT")]
    udp_service: Option<SocketAddr>,
    /// The virtual service of packets with this mark, IPv4: 66; write fwm6:66 for IPv6.
    #[arg(short = 'f', long, value_name = "MARK", value_parser = clap::value_parser!(u32).range(1..))]
    fwmark_service: Option<u32>,
}

impl ServiceName {
    /// The service that was named.
    pub fn id(&self) -> ServiceId {
        let of = |protocol, end: SocketAddr| ServiceId::Address {
            protocol,
            addr: end.ip(),
            port: end.port(),
        };
        let tcp = self.tcp_service.map(|end| of(Protocol::Tcp, end));
        let udp = self.udp_service.map(|end| of(Protocol::Udp, end));
        let fwmark = self
            .fwmark_service
            .map(|mark| ServiceId::Fwmark { mark, is_ipv6: false });
        let letters = tcp.or(udp).or(fwmark);
        self.service.or(letters).expect("clap requires one of the four")
    }
}

/// How a service is balanced.
#[derive(Debug, Args)]
pub struct ServiceOptions {
    #[command(flatten)]
    patch: ServicePatch,
    /// Clients stick to their real servers for so many seconds; without a number 360.
    #[arg(short = 'p', long, value_name = "SEC", num_args = 0..=1, default_missing_value = "360")]
    persistent: Option<u32>,
    /// Clients of one network stick together: 255.255.255.0 or, for IPv6, 64; without it each is on its own.
    #[arg(short = 'M', long, value_name = "MASK", requires = "persistent")]
    netmask: Option<Netmask>,
    /// Clients no longer stick to their real servers.
    #[arg(long, conflicts_with = "persistent")]
    not_persistent: bool,
    /// Every UDP datagram is scheduled on its own.
    #[arg(short = 'o', long = "one-packet")]
    one_packet_on: bool,
    /// UDP datagrams of one client belong together again.
    #[arg(long = "not-one-packet", conflicts_with = "one_packet_on")]
    one_packet_off: bool,
}

impl ServiceOptions {
    /// The options that the command line gives.
    pub fn patch(self) -> ServicePatch {
        let netmask = self.netmask.and_then(Netmask::narrowed);
        let begun = self
            .persistent
            .map(|timeout_sec| Some(Persistence { timeout_sec, netmask }));
        ServicePatch {
            persistence: begun.or(self.not_persistent.then_some(None)),
            one_packet: (self.one_packet_on || self.one_packet_off).then_some(self.one_packet_on),
            ..self.patch
        }
    }
}

/// `lvsctl local-address`.
#[derive(Debug, Subcommand)]
pub enum LocalAddressCommand {
    /// Set the whole pool: masquerading servers of the service are reached by FULLNAT.
    Set {
        /// The virtual service: tcp:192.0.2.10:80.
        service: ServiceId,
        /// The pool.
        #[arg(required = true)]
        addresses: Vec<IpAddr>,
    },
    /// Empty the pool: FULLNAT becomes NAT again.
    Clear {
        /// The virtual service: tcp:192.0.2.10:80.
        service: ServiceId,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::lvsctl::command::{Command, LvsctlArguments};

    fn service_add(words: &str) -> (ServiceId, ServicePatch) {
        let arguments =
            LvsctlArguments::try_parse_from(["lvsctl", "service", "add"].into_iter().chain(words.split(' ')));
        match arguments.unwrap().command {
            Command::Service(ServiceCommand::Add { name, options }) => (name.id(), options.patch()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn persistence_is_named_by_words_or_letters_and_has_ipvsadms_default() {
        let (id, options) = service_add("fwm:66 --persistent --netmask 255.255.255.0 --one-packet");
        assert_eq!((id.to_string(), options.one_packet), ("fwm:66".to_owned(), Some(true)));
        let netmask = Some(Netmask::Ipv4("255.255.255.0".parse().unwrap()));
        let timeout_sec = Persistence::TIMEOUT_DEFAULT_SEC;
        assert_eq!(options.persistence, Some(Some(Persistence { timeout_sec, netmask })));
        let (id, options) = service_add("-f 66 -p 10 -M 255.255.255.255");
        assert_eq!((id.to_string(), options.one_packet), ("fwm:66".to_owned(), None));
        let (timeout_sec, netmask) = (10, None);
        assert_eq!(options.persistence, Some(Some(Persistence { timeout_sec, netmask })));
        assert_eq!(service_add("fwm:66").1.persistence, None);
        assert_eq!(service_add("fwm:66 --not-persistent").1.persistence, Some(None));
    }
}
