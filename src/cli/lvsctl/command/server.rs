//! `lvsctl server` on the command line.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use lvs_api::{GueChecksum, Mode, ServerPatch, Tunnel};

use super::service::ServiceName;

/// `lvsctl server`.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Add a real server (`ipvsadm -a`).
    Add {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
        /// How.
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Change what is given, keep the other options; connections stay (`ipvsadm -e`).
    Edit {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
        /// How.
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Delete a real server (`ipvsadm -d`).
    Delete {
        /// Which one.
        #[command(flatten)]
        name: ServerName,
    },
}

/// A real server. Without a port it has the port of the service.
#[derive(Clone, Copy, Debug)]
pub struct ServerEnd {
    addr: IpAddr,
    port: Option<u16>,
}

impl FromStr for ServerEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(addr) = bare.parse() {
            return Ok(Self { addr, port: None });
        }
        let end: SocketAddr = text.parse().map_err(
            |_| "write ADDRESS:PORT, as in 198.51.100.1:80 or [2001:db8::1]:80; without :PORT it is the service's",
        )?;
        Ok(Self {
            addr: end.ip(),
            port: Some(end.port()),
        })
    }
}

/// Names a real server of a virtual service.
#[derive(Debug, Args)]
pub struct ServerName {
    /// Of which service.
    #[command(flatten)]
    pub service: ServiceName,
    #[command(flatten)]
    end: ServerEndName,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ServerEndName {
    /// The real server: 198.51.100.1:80.
    server: Option<ServerEnd>,
    /// The real server, as ipvsadm writes it.
    #[arg(short = 'r', long, value_name = "ADDRESS:PORT")]
    real_server: Option<ServerEnd>,
}

impl ServerName {
    /// The server that was named.
    pub fn end(&self) -> SocketAddr {
        let end = self
            .end
            .server
            .or(self.end.real_server)
            .expect("clap requires one of the two");
        SocketAddr::new(end.addr, end.port.unwrap_or(self.service.id().port()))
    }
}

/// The encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TunnelType {
    Ipip,
    Gre,
    Gue,
}

/// The checksum of an encapsulated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TunnelChecksum {
    No,
    Full,
    Remote,
}

/// How a real server is used.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// How it is reached; default for a new server: dr.
    #[arg(long, value_parser = parse_mode, value_name = "nat|tunnel|dr|local|bypass", conflicts_with_all = ["masquerading", "ipip", "gatewaying"])]
    mode: Option<Mode>,
    /// Like --mode nat.
    #[arg(short = 'm', long, conflicts_with_all = ["ipip", "gatewaying"])]
    masquerading: bool,
    /// Like --mode tunnel.
    #[arg(short = 'i', long, conflicts_with = "gatewaying")]
    ipip: bool,
    /// Like --mode dr.
    #[arg(short = 'g', long)]
    gatewaying: bool,
    /// Encapsulation of packets; implies --mode tunnel.
    #[arg(long, visible_alias = "tun-type", value_name = "ipip|gre|gue", conflicts_with_all = ["masquerading", "gatewaying"])]
    tunnel_type: Option<TunnelType>,
    /// UDP port of GUE.
    #[arg(long, visible_alias = "tun-port", value_name = "PORT", requires = "tunnel_type",
          required_if_eq("tunnel_type", "gue"), value_parser = clap::value_parser!(u16).range(1..))]
    tunnel_port: Option<u16>,
    /// Checksum of GRE (no, full) or GUE (no, full, remote); without a word full. Default: no.
    #[arg(long, value_name = "no|full|remote", requires = "tunnel_type", num_args = 0..=1,
          default_missing_value = "full")]
    tunnel_checksum: Option<TunnelChecksum>,
    #[command(flatten)]
    patch: ServerPatch,
}

impl ServerOptions {
    /// The options that the command line gives.
    ///
    /// # Errors
    /// Options contradict each other.
    pub fn patch(self) -> Result<ServerPatch, String> {
        Ok(ServerPatch {
            mode: self.mode(),
            tunnel: self.tunnel()?,
            ..self.patch
        })
    }

    /// The mode, however it was written.
    fn mode(&self) -> Option<Mode> {
        let letters = [
            (self.masquerading, Mode::Nat),
            (self.ipip, Mode::Tunnel),
            (self.gatewaying, Mode::Dr),
        ];
        self.mode
            .or_else(|| letters.iter().find(|(given, _)| *given).map(|(_, mode)| *mode))
            .or(self.tunnel_type.map(|_| Mode::Tunnel))
    }

    /// The tunnel. `None` when the command line says nothing about it.
    fn tunnel(&self) -> Result<Option<Tunnel>, String> {
        let Some(kind) = self.tunnel_type else {
            return Ok(None);
        };
        let (port, checksum) = (self.tunnel_port, self.tunnel_checksum);
        if self.mode.is_some_and(|mode| mode != Mode::Tunnel) {
            return Err("--tunnel-type is for --mode tunnel".to_owned());
        }
        match (kind, port, checksum.unwrap_or(TunnelChecksum::No)) {
            (TunnelType::Ipip, None, TunnelChecksum::No) => Ok(Some(Tunnel::Ipip)),
            (TunnelType::Ipip, ..) => Err("ipip has neither port nor checksum; use gre or gue".to_owned()),
            (TunnelType::Gre, None, TunnelChecksum::No) => Ok(Some(Tunnel::Gre { checksum: false })),
            (TunnelType::Gre, None, TunnelChecksum::Full) => Ok(Some(Tunnel::Gre { checksum: true })),
            (TunnelType::Gre, ..) => Err("gre has no port, and its checksum is no or full".to_owned()),
            (TunnelType::Gue, None, _) => Err("gue wants --tunnel-port".to_owned()),
            (TunnelType::Gue, Some(port), checksum) => {
                let checksum = match checksum {
                    TunnelChecksum::No => GueChecksum::No,
                    TunnelChecksum::Full => GueChecksum::Full,
                    TunnelChecksum::Remote => GueChecksum::Remote,
                };
                Ok(Some(Tunnel::Gue { port, checksum }))
            }
        }
    }
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "nat" | "fullnat" | "masq" => Ok(Mode::Nat),
        "tunnel" | "tun" => Ok(Mode::Tunnel),
        "dr" | "route" => Ok(Mode::Dr),
        "local" => Ok(Mode::Local),
        "bypass" => Ok(Mode::Bypass),
        _ => Err("use nat (FULLNAT when the service has local addresses), tunnel, dr, local or bypass".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lvs_api::ServiceId;

    use super::*;
    use crate::lvsctl::command::{Command, LvsctlArguments};

    fn server_add(words: &str) -> (ServiceId, SocketAddr, ServerOptions) {
        let arguments =
            LvsctlArguments::try_parse_from(["lvsctl", "server", "add"].into_iter().chain(words.split(' ')));
        match arguments.unwrap().command {
            Command::Server(ServerCommand::Add { name, options }) => (name.service.id(), name.end(), options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn readable_flags_and_ipvsadm_letters_mean_the_same() {
        let readable = server_add("tcp:192.0.2.10:80 198.51.100.1:8080 --mode nat --weight 3");
        for letters in [
            "tcp:192.0.2.10:80 198.51.100.1:8080 -m -w 3",
            "-t 192.0.2.10:80 -r 198.51.100.1:8080 -m -w 3",
        ] {
            let letters = server_add(letters);
            assert_eq!((letters.0, letters.1), (readable.0, readable.1));
            assert_eq!((letters.2.mode(), letters.2.patch.weight), (Some(Mode::Nat), Some(3)));
        }
    }

    #[test]
    fn a_server_without_a_port_has_the_services() {
        assert_eq!(
            server_add("tcp:192.0.2.10:80 198.51.100.1").1.to_string(),
            "198.51.100.1:80"
        );
        assert_eq!(
            server_add("tcp:[2001:db8::10]:443 2001:db8::1").1.to_string(),
            "[2001:db8::1]:443"
        );
    }

    #[test]
    fn a_tunnel_type_makes_the_mode_tunnel_and_refuses_what_it_has_not() {
        let tunnel = |words: &str| server_add(&format!("fwm:66 198.51.100.1 {words}")).2;
        let gue = tunnel("--tunnel-type gue --tunnel-port 6080 --tunnel-checksum");
        let (port, checksum) = (6080, GueChecksum::Full);
        assert_eq!(gue.mode(), Some(Mode::Tunnel));
        assert_eq!(gue.tunnel(), Ok(Some(Tunnel::Gue { port, checksum })));
        assert_eq!(
            tunnel("-i --tun-type gre").tunnel(),
            Ok(Some(Tunnel::Gre { checksum: false }))
        );
        assert_eq!(tunnel("-i").tunnel(), Ok(None));
        for wrong in [
            "--tunnel-type ipip --tunnel-port 1",
            "--tunnel-type gre --tunnel-checksum remote",
            "--tunnel-type gre --mode nat",
        ] {
            assert!(tunnel(wrong).tunnel().is_err(), "{wrong}");
        }
    }

    #[test]
    fn two_modes_at_once_are_wrong_usage() {
        let words = "lvsctl server add tcp:192.0.2.10:80 198.51.100.1:80";
        for modes in ["-m -g", "--mode nat -i"] {
            let error = LvsctlArguments::try_parse_from(words.split(' ').chain(modes.split(' '))).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{modes}");
        }
    }
}
