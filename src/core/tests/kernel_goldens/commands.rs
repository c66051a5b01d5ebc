//! The ipvsadm commands of recordings, applied to a director's desired state.

use std::net::IpAddr;

use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::protocol::Timeouts;
use lvs_core::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::testing::director::TestDirector;

/// Options of one ipvsadm command.
#[derive(Default)]
struct Options {
    command: Option<char>,
    service: Option<ServiceKey>,
    scheduler: Option<String>,
    flags: Option<String>,
    server: Option<String>,
    mode: Option<ForwardingMode>,
    tunnel_type: Option<String>,
    tunnel_port: u16,
    tunnel_checksum: Option<String>,
    weight: Option<u32>,
    upper_threshold: u32,
    lower_threshold: u32,
    timeouts: Option<[u32; 3]>,
}

/// A shell command of an `exec` step.
pub fn run_shell(director: &mut TestDirector, line: &str) -> Result<(), String> {
    match line.strip_prefix("ipvsadm ") {
        Some(arguments) => run(director, arguments),
        None => Err("only ipvsadm is understood".into()),
    }
}

/// One line as `ipvsadm -R` reads it. What the director refuses, the kernel refused too: the recording
/// shows it, so it is no failure here.
pub fn run(director: &mut TestDirector, line: &str) -> Result<(), String> {
    let options = parse(line)?;
    if let Some([tcp, fin, udp]) = options.timeouts {
        let mut timeouts = Timeouts::default();
        timeouts.set(tcp, fin, udp).map_err(|error| error.to_string())?;
        director.set_timeouts(timeouts);
        return Ok(());
    }
    let key = options.service.ok_or("no service");
    let refused = match options.command.ok_or("no command")? {
        'A' => director.change(|desired| {
            desired
                .add_service(service_spec(&options, key?)?)
                .map(drop)
                .map_err(text)
        }),
        'E' => director.change(|desired| desired.edit_service(service_spec(&options, key?)?).map_err(text)),
        'D' => director.change(|desired| desired.delete_service(&key?).map_err(text)),
        'C' => {
            director.change(|desired| desired.flush());
            Ok(())
        }
        'a' => director.change(|desired| {
            desired
                .add_server(&key?, server_spec(&options, key?)?)
                .map(drop)
                .map_err(text)
        }),
        'e' => director.change(|desired| desired.edit_server(&key?, server_spec(&options, key?)?).map_err(text)),
        'd' => {
            let spec = server_spec(&options, key?)?;
            director.change(|desired| desired.delete_server(&key?, spec.addr, spec.port).map_err(text))
        }
        other => return Err(format!("command -{other} is not understood")),
    };
    refused
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn parse(line: &str) -> Result<Options, String> {
    let mut options = Options::default();
    let mut words = line.split_whitespace();
    let value = |words: &mut std::str::SplitWhitespace<'_>| words.next().ok_or("a value is missing").map(str::to_owned);
    while let Some(word) = words.next() {
        match word {
            "-A" | "-E" | "-D" | "-C" | "-a" | "-e" | "-d" => options.command = word.chars().nth(1),
            "-t" => options.service = Some(service_key(ServiceProtocol::Tcp, &value(&mut words)?)?),
            "-u" => options.service = Some(service_key(ServiceProtocol::Udp, &value(&mut words)?)?),
            "--sctp-service" => options.service = Some(service_key(ServiceProtocol::Sctp, &value(&mut words)?)?),
            "-s" => options.scheduler = Some(value(&mut words)?),
            "-b" => options.flags = Some(value(&mut words)?),
            "-r" => options.server = Some(value(&mut words)?),
            "-m" => options.mode = Some(ForwardingMode::Nat),
            "-g" => options.mode = Some(ForwardingMode::DirectRouting),
            "-i" => options.mode = Some(ForwardingMode::Tunnel),
            "--tun-type" => options.tunnel_type = Some(value(&mut words)?),
            "--tun-port" => options.tunnel_port = number(&value(&mut words)?)? as u16,
            "--tun-csum" | "--tun-nocsum" | "--tun-remcsum" => options.tunnel_checksum = Some(word.to_owned()),
            "-w" => options.weight = Some(number(&value(&mut words)?)?),
            "-x" => options.upper_threshold = number(&value(&mut words)?)?,
            "-y" => options.lower_threshold = number(&value(&mut words)?)?,
            "--set" => {
                let mut three = [0; 3];
                for one in &mut three {
                    *one = number(&value(&mut words)?)?;
                }
                options.timeouts = Some(three);
            }
            other => return Err(format!("option {other} is not understood")),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn service_key(protocol: ServiceProtocol, text: &str) -> Result<ServiceKey, String> {
    let (addr, port) = end(text)?;
    Ok(ServiceKey::Address {
        protocol,
        addr,
        port: port.ok_or("a service without a port")?,
    })
}

/// `10.0.0.1:80`, `10.0.0.1`, `[fd00::1]:80`, `[fd00::1]`.
fn end(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    let (addr, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (addr, port) = rest.split_once(']').ok_or("no closing bracket")?;
            (addr, port.strip_prefix(':'))
        }
        None => text
            .split_once(':')
            .map_or((text, None), |(addr, port)| (addr, Some(port))),
    };
    let addr = addr.parse().map_err(|_| format!("{addr} is not an address"))?;
    let port = port
        .map(|port| port.parse().map_err(|_| format!("{port} is not a port")))
        .transpose()?;
    Ok((addr, port))
}

fn service_spec(options: &Options, key: ServiceKey) -> Result<ServiceSpec, String> {
    let name = options.scheduler.as_deref().unwrap_or("wlc");
    let scheduler = SchedulerKind::parse(name).ok_or_else(|| format!("scheduler {name} is not known"))?;
    let mut scheduler_flags = SchedulerFlags(0);
    for flag in options.flags.iter().flat_map(|flags| flags.split(',')) {
        let bit = scheduler.flag_names().iter().position(|name| *name == flag);
        scheduler_flags.0 |= 1 << bit.ok_or_else(|| format!("scheduler flag {flag} is not known"))?;
    }
    Ok(ServiceSpec {
        scheduler_flags,
        ..ServiceSpec::new(key, scheduler)
    })
}

fn tunnel_kind(options: &Options) -> Result<TunnelKind, String> {
    let checksum = options.tunnel_checksum.as_deref();
    match options.tunnel_type.as_deref() {
        None | Some("ipip") => Ok(TunnelKind::IpIp),
        Some("gre") => Ok(TunnelKind::Gre {
            checksum: checksum == Some("--tun-csum"),
        }),
        Some("gue") => Ok(TunnelKind::Gue {
            port: options.tunnel_port,
            checksum: match checksum {
                Some("--tun-csum") => GueChecksum::Full,
                Some("--tun-remcsum") => GueChecksum::RemoteOffload,
                _ => GueChecksum::No,
            },
        }),
        Some(other) => Err(format!("tunnel type {other} is not known")),
    }
}

fn server_spec(options: &Options, key: ServiceKey) -> Result<ServerSpec, String> {
    let (addr, port) = end(options.server.as_deref().ok_or("no server")?)?;
    let ServiceKey::Address { port: service_port, .. } = key;
    let mode = options.mode.unwrap_or(ForwardingMode::DirectRouting);
    // ipvsadm gives DR and TUN servers the service's port when it adds or edits them.
    let port = if mode == ForwardingMode::Nat {
        port.unwrap_or(service_port)
    } else {
        service_port
    };
    Ok(ServerSpec {
        tunnel: tunnel_kind(options)?,
        upper_threshold: options.upper_threshold,
        lower_threshold: options.lower_threshold,
        ..ServerSpec::new(addr, port, mode, options.weight.unwrap_or(1))
    })
}
