//! The ipvsadm commands of recordings, applied to a director's desired state.

use std::net::IpAddr;

use lvs_core::address::AddressFamily;
use lvs_core::ipvs::desired::{ServerSpec, ServiceSpec};
use lvs_core::ipvs::forwarding::ForwardingMode;
use lvs_core::ipvs::persistence::{ClientMask, Persistence};
use lvs_core::ipvs::scheduler::{SchedulerFlags, SchedulerKind};
use lvs_core::ipvs::service::{ServiceKey, ServiceProtocol};
use lvs_core::ipvs::tunnel_kind::{GueChecksum, TunnelKind};
use lvs_core::testing::director::TestDirector;

/// Why a command did nothing.
pub enum Failure {
    /// As the kernel or ipvsadm would refuse it.
    Refused(String),
    /// As ipvsadm would refuse to read it, which ends an `ipvsadm -R`.
    Unreadable(String),
    /// The player does not know it.
    NotUnderstood(String),
}

impl Failure {
    /// Why.
    pub fn into_text(self) -> String {
        match self {
            Self::Refused(why) | Self::Unreadable(why) | Self::NotUnderstood(why) => why,
        }
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        Self::NotUnderstood(why.to_owned())
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::NotUnderstood(why)
    }
}

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
    persistence_sec: Option<u32>,
    mask: Option<String>,
    one_packet: bool,
    is_ipv6: bool,
}

/// A shell command of an `exec` step.
pub fn run_shell(director: &mut TestDirector, line: &str) -> Result<(), Failure> {
    for line in line.split(';').map(str::trim) {
        match line.split_once(' ') {
            Some(("ipvsadm", arguments)) => run(director, arguments)?,
            Some(("echo", arguments)) => {
                let (value, file) = arguments
                    .split_once(" > ")
                    .ok_or("only echo VALUE > FILE is understood")?;
                let name = file
                    .strip_prefix("/proc/sys/")
                    .ok_or("only files below /proc/sys are understood")?;
                set_sysctl(director, &name.replace('/', "."), value)?;
            }
            Some(("sysctl", arguments)) => {
                let (name, value) = arguments
                    .strip_prefix("-w ")
                    .and_then(|setting| setting.split_once('='))
                    .ok_or("only sysctl -w NAME=VALUE is understood")?;
                set_sysctl(director, name, value)?;
            }
            _ => return Err("only ipvsadm, sysctl and echo are understood".into()),
        }
    }
    Ok(())
}

/// A kernel setting; those of the stack beside IPVS are the stack's.
pub fn set_sysctl(director: &mut TestDirector, name: &str, value: &str) -> Result<(), String> {
    if !name.starts_with("net.ipv4.vs.") {
        return Ok(());
    }
    let mut sysctls = *director.sysctls();
    sysctls.set(name, value).map_err(text)?;
    director.set_sysctls(sysctls);
    Ok(())
}

/// The service that a command names: `-t 10.0.0.100:80`, `-f 66 -6`.
pub fn service_of(text: &str) -> Result<ServiceKey, String> {
    parse(text)?.service.ok_or_else(|| "no service".to_owned())
}

/// One line as `ipvsadm -R` reads it.
pub fn run(director: &mut TestDirector, line: &str) -> Result<(), Failure> {
    let options = parse(line)?;
    if let Some([tcp, fin, udp]) = options.timeouts {
        let mut timeouts = *director.timeouts();
        timeouts.set(tcp, fin, udp).map_err(refused)?;
        director.set_timeouts(timeouts);
        return Ok(());
    }
    let command = options.command.ok_or("no command")?;
    if command == 'C' {
        director.change(|desired| desired.flush());
        return Ok(());
    }
    let key = options.service.ok_or("no service")?;
    match command {
        'A' => {
            let spec = service_spec(&options, key)?;
            director
                .change(|desired| desired.add_service(spec).map(drop))
                .map_err(refused)
        }
        'E' => {
            let spec = service_spec(&options, key)?;
            director.change(|desired| desired.edit_service(spec)).map_err(refused)
        }
        'D' => director.change(|desired| desired.delete_service(&key)).map_err(refused),
        'a' | 'e' | 'd' => {
            let spec = server_spec(&options, key)?;
            let changed = director.change(|desired| match command {
                'a' => desired.add_server(&key, spec).map(drop),
                'e' => desired.edit_server(&key, spec),
                _ => desired.delete_server(&key, spec.addr, spec.port),
            });
            changed.map_err(refused)
        }
        other => Err(Failure::NotUnderstood(format!("command -{other} is not understood"))),
    }
}

fn refused(error: impl std::fmt::Display) -> Failure {
    Failure::Refused(error.to_string())
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
            "-f" => {
                let mark = number(&value(&mut words)?)?;
                let family = AddressFamily::Ipv4;
                options.service = Some(ServiceKey::Fwmark { mark, family });
            }
            "-6" => options.is_ipv6 = true,
            "-p" => {
                // Without a value: six minutes, whatever the man page says.
                let sec = words.clone().next().and_then(|word| word.parse().ok());
                words.by_ref().take(usize::from(sec.is_some())).for_each(drop);
                options.persistence_sec = Some(sec.unwrap_or(360));
            }
            "-M" => options.mask = Some(value(&mut words)?),
            "-o" => options.one_packet = true,
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
    if options.is_ipv6 {
        match &mut options.service {
            Some(ServiceKey::Fwmark { family, .. }) => *family = AddressFamily::Ipv6,
            _ => return Err("-6 is for fwmark services only".into()),
        }
    }
    Ok(options)
}

fn persistence(options: &Options, key: &ServiceKey) -> Result<Option<Persistence>, String> {
    let Some(timeout_sec) = options.persistence_sec else {
        return Ok(None);
    };
    let mask = match (&options.mask, key.family()) {
        (None, family) => ClientMask::whole(family),
        (Some(mask), AddressFamily::Ipv4) => {
            ClientMask::Ipv4(mask.parse().map_err(|_| format!("{mask} is not a netmask"))?)
        }
        (Some(len), AddressFamily::Ipv6) => {
            ClientMask::Ipv6(len.parse().map_err(|_| format!("{len} is not a prefix length"))?)
        }
    };
    Ok(Some(Persistence { timeout_sec, mask }))
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
    // ipvsadm's default, for editing too.
    let name = options.scheduler.as_deref().unwrap_or("wlc");
    let scheduler = SchedulerKind::parse(name).ok_or_else(|| format!("scheduler {name} is not known"))?;
    let mut scheduler_flags = SchedulerFlags(0);
    for flag in options.flags.iter().flat_map(|flags| flags.split(',')) {
        let bit = scheduler.flag_bit(flag);
        scheduler_flags.0 |= 1 << bit.ok_or_else(|| format!("scheduler flag {flag} is not known"))?;
    }
    Ok(ServiceSpec {
        scheduler_flags,
        persistence: persistence(options, &key)?,
        one_packet: options.one_packet,
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

fn server_spec(options: &Options, key: ServiceKey) -> Result<ServerSpec, Failure> {
    let (addr, port) = end(options.server.as_deref().ok_or("no server")?)?;
    if addr.is_ipv6() && port.is_none() {
        return Err(Failure::Unreadable(
            "illegal real server address[:port] specified".to_owned(),
        ));
    }
    let service_port = key.port();
    let mode = options.mode.unwrap_or(ForwardingMode::DirectRouting);
    // ipvsadm gives DR and TUN servers the service's port when it adds or edits them.
    let is_marked = matches!(key, ServiceKey::Fwmark { .. });
    let port = if mode == ForwardingMode::Nat || is_marked || options.command == Some('d') {
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
