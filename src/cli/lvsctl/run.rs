//! Turns a command into requests, and answers into output.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use http_body_util::BodyExt;
use hyper::Method;
use lvs_api::{
    API_VERSION, ApiError, ConnRecord, LocalAddresses, Server, ServerSettings, Service, ServiceId, ServiceSettings,
    ServiceStatus, State, Stats, SyncDaemon, Timeouts, TimeoutsPatch, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::lvsctl::client::{Client, escape, read};
use crate::lvsctl::command::server::ServerCommand;
use crate::lvsctl::command::service::{LocalAddressCommand, ServiceCommand};
use crate::lvsctl::command::{Command, Connections, List, LvsctlArguments, StateCommand, StatsCommand, SyncCommand};
use crate::lvsctl::listing::{self, Columns, Style};
use crate::lvsctl::{capture, proc_files, status, table, top, why};

mod settings;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The daemon refused it.
    Refused(ApiError),
    /// The command itself is wrong.
    Usage(String),
    /// Nobody answers on the socket.
    Unreachable {
        /// Which one.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The answer is incomplete, or this version does not understand it.
    Misunderstood(String),
    /// The output could not be written.
    Output(io::Error),
}

impl Failure {
    /// The exit code, as `lvsctl --help` lists it.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Misunderstood(_) | Self::Output(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(formatter),
            Self::Usage(message) => formatter.write_str(message),
            Self::Unreachable { socket, error } if error.kind() == io::ErrorKind::PermissionDenied => write!(
                formatter,
                "{}: {error}; be root or a member of the group that owns the socket",
                socket.display()
            ),
            Self::Unreachable { socket, error } => write!(
                formatter,
                "lvsd does not answer on {}: {error}; start it with `systemctl start lvsd` or `lvsd --config FILE`, \
                 or name its socket with --socket",
                socket.display()
            ),
            Self::Misunderstood(message) => write!(formatter, "answer not understood: {message}"),
            Self::Output(error) => write!(formatter, "output: {error}"),
        }
    }
}

struct Session {
    client: Client,
    json: bool,
}

/// Runs one command line.
pub async fn run(arguments: LvsctlArguments) -> Result<(), Failure> {
    let LvsctlArguments { socket, json, command } = arguments;
    let session = Session {
        client: Client::new(&socket),
        json,
    };
    match command {
        Command::List(list) => session.list(&list).await,
        Command::Service(command) => session.service(command).await,
        Command::Server(command) => session.server(command).await,
        Command::LocalAddress(command) => session.local_address(command).await,
        Command::Connections(filter) => session.connections(filter).await,
        Command::Status => status::run(&session.client).await,
        Command::Workers => session.show("/workers", table::workers).await,
        Command::Devices => session.show("/devices", table::devices).await,
        Command::Buffers => session.show("/buffers", table::buffers).await,
        Command::Drops => session.show("/drops", table::drops).await,
        Command::Stats { command: None } => session.show("/stats", |stats: Stats| table::stats(&stats)).await,
        Command::Stats {
            command: Some(StatsCommand::Zero),
        } => session.change(Method::POST, "/stats/zero", None::<&()>).await,
        Command::Timeouts { set: None } => session.show("/timeouts", timeouts_line).await,
        Command::Timeouts { set: Some(values) } => {
            let [tcp_sec, tcp_fin_sec, udp_sec] = values[..] else {
                return Err(Failure::Usage("--set wants three numbers of seconds".to_owned()));
            };
            let patch = TimeoutsPatch {
                tcp_sec,
                tcp_fin_sec,
                udp_sec,
            };
            session.change(Method::PUT, "/timeouts", Some(&patch)).await
        }
        Command::Capture(wanted) => capture::run(&session.client, &wanted).await,
        Command::Top(wanted) => top::run(&session.client, &wanted).await,
        Command::Why(wanted) => session.print(&why::ask(&session.client, &wanted).await?, why::text),
        Command::Proc(wanted) => proc_files::run(&session.client, &wanted).await,
        Command::Sysctl { words } => session.sysctl(&words).await,
        Command::Mark(command) => session.mark(command).await,
        Command::Sync { command } => session.sync(command).await,
        Command::State(command) => session.state(command).await,
        Command::Flush => session.change(Method::DELETE, "/services", None::<&()>).await,
        Command::Reload => {
            let answer = session.client.send(Method::POST, "/reload", None).await?;
            session.print(&read(answer).await?, table::reload)
        }
        Command::Version => session.version().await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut LvsctlArguments::command(), "lvsctl", &mut script);
            io::stdout().write_all(&script).map_err(Failure::Output)
        }
    }
}

fn timeouts_line(timeouts: Timeouts) -> String {
    let Timeouts {
        tcp_sec,
        tcp_fin_sec,
        udp_sec,
    } = timeouts;
    format!("Timeout (tcp tcpfin udp): {tcp_sec} {tcp_fin_sec} {udp_sec}\n")
}

fn service_path(id: &ServiceId) -> String {
    format!("/services/{}", escape(&id.to_string()))
}

/// Writes `text` to standard output.
pub fn put(text: &str) -> Result<(), Failure> {
    io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
}

impl Session {
    fn print<T: Serialize>(&self, value: &T, shown: impl Fn(&T) -> String) -> Result<(), Failure> {
        if !self.json {
            return put(&shown(value));
        }
        let text = serde_json::to_string_pretty(value).expect("plain data");
        put(&(text + "\n"))
    }

    async fn show<T>(&self, path: &str, shown: impl Fn(T) -> String) -> Result<(), Failure>
    where
        T: Serialize + DeserializeOwned + Clone,
    {
        let value: T = self.client.get(path).await?;
        self.print(&value, |value| shown(value.clone()))
    }

    /// Sends a change. A successful one prints nothing, unless the user wants JSON.
    async fn change(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<(), Failure> {
        let answer = self.client.change(method, path, body).await?;
        if self.json && !answer.is_empty() {
            put(&(answer + "\n"))
        } else {
            Ok(())
        }
    }

    async fn list(&self, list: &List) -> Result<(), Failure> {
        let columns = match (list.stats, list.rate, list.thresholds) {
            (true, ..) => Columns::Stats,
            (_, true, _) => Columns::Rate,
            (.., true) => Columns::Thresholds,
            _ if list.persistent_conns => Columns::PersistentConns,
            _ if list.tunnel_info => Columns::TunnelInfo,
            _ => Columns::Conns,
        };
        let style = Style {
            columns,
            exact: list.exact,
            sorted: !list.nosort,
        };
        if let Some(service) = &list.service {
            let status: ServiceStatus = self.client.get(&service_path(service)).await?;
            return self.print(&status, |status| listing::print(vec![status.clone()], None, style));
        }
        let services: Vec<ServiceStatus> = self.client.get("/services").await?;
        if self.json {
            return self.print(&services, |_| String::new());
        }
        let version: Version = self.client.get("/version").await?;
        put(&listing::print(services, Some(version.conns4_max), style))
    }

    async fn service(&self, command: ServiceCommand) -> Result<(), Failure> {
        match command {
            ServiceCommand::Add { name, options } => {
                let settings = ServiceSettings::default().patched(options.patch());
                let service = Service::new(settings, name.id(), Vec::new(), Vec::new());
                self.change(Method::POST, "/services", Some(&service)).await
            }
            ServiceCommand::Edit { name, options } => {
                let patch = options.patch();
                self.change(Method::PATCH, &service_path(&name.id()), Some(&patch))
                    .await
            }
            ServiceCommand::Delete { name } => {
                self.change(Method::DELETE, &service_path(&name.id()), None::<&()>)
                    .await
            }
        }
    }

    async fn server(&self, command: ServerCommand) -> Result<(), Failure> {
        match command {
            ServerCommand::Add { name, options } => {
                let patch = options.patch().map_err(Failure::Usage)?;
                let server = Server::new(ServerSettings::default().patched(patch), name.end());
                let path = format!("{}/servers", service_path(&name.service.id()));
                self.change(Method::POST, &path, Some(&server)).await
            }
            ServerCommand::Edit { name, options } => {
                let patch = options.patch().map_err(Failure::Usage)?;
                let path = format!(
                    "{}/servers/{}",
                    service_path(&name.service.id()),
                    escape(&name.end().to_string())
                );
                self.change(Method::PATCH, &path, Some(&patch)).await
            }
            ServerCommand::Delete { name } => {
                let path = format!(
                    "{}/servers/{}",
                    service_path(&name.service.id()),
                    escape(&name.end().to_string())
                );
                self.change(Method::DELETE, &path, None::<&()>).await
            }
        }
    }

    async fn local_address(&self, command: LocalAddressCommand) -> Result<(), Failure> {
        match command {
            LocalAddressCommand::Set { service, addresses } => {
                let path = format!("{}/local-addresses", service_path(&service));
                self.change(Method::PUT, &path, Some(&LocalAddresses { addresses }))
                    .await
            }
            LocalAddressCommand::Clear { service } => {
                let path = format!("{}/local-addresses", service_path(&service));
                self.change(Method::DELETE, &path, None::<&()>).await
            }
        }
    }

    /// Prints records as they arrive, so that a table of any size needs little memory.
    async fn connections(&self, filter: Connections) -> Result<(), Failure> {
        let Connections {
            service,
            client,
            server,
            state,
            limit,
        } = filter;
        let given = [
            ("service", service.map(|service| service.to_string())),
            ("client", client.map(|client| client.to_string())),
            ("server", server.map(|server| server.to_string())),
            ("state", state.map(|state| state.to_uppercase())),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let query: Vec<_> = given
            .iter()
            .filter_map(|(key, value)| value.as_deref().map(|value| format!("{key}={}", escape(value))))
            .collect();
        let path = format!("/connections?{}", query.join("&"));
        let mut body = self.client.send(Method::GET, &path, None).await?.into_body();
        let mut out = io::BufWriter::new(io::stdout().lock());
        if !self.json {
            out.write_all(table::CONNECTIONS_TITLE.as_bytes())
                .map_err(Failure::Output)?;
        }
        let mut pending = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Misunderstood(format!("the daemon broke off: {error}")))?;
            pending.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
            let complete = pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            for line in pending[..complete].split_inclusive(|byte| *byte == b'\n') {
                self.connection(&mut out, line)?;
            }
            pending.drain(..complete);
        }
        out.flush().map_err(Failure::Output)
    }

    fn connection(&self, out: &mut impl Write, line: &[u8]) -> Result<(), Failure> {
        if self.json {
            return out.write_all(line).map_err(Failure::Output);
        }
        let record: ConnRecord =
            serde_json::from_slice(line).map_err(|error| Failure::Misunderstood(error.to_string()))?;
        out.write_all(table::connection(&record).as_bytes())
            .map_err(Failure::Output)
    }

    async fn state(&self, command: StateCommand) -> Result<(), Failure> {
        match command {
            StateCommand::Get => {
                let state: State = self.client.get("/state").await?;
                put(&(serde_json::to_string_pretty(&state).expect("plain data") + "\n"))
            }
            StateCommand::Forget => self.change(Method::POST, "/restart/forget", None::<&()>).await,
            StateCommand::Apply { file, dry_run } => {
                // The file is sent unchanged, because the daemon names the place of a mistake.
                let mut body = Vec::new();
                let read_file = if file.as_os_str() == "-" {
                    io::stdin().read_to_end(&mut body)
                } else {
                    std::fs::File::open(&file).and_then(|mut opened| opened.read_to_end(&mut body))
                };
                read_file.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
                let path = if dry_run { "/state?dry_run=true" } else { "/state" };
                let answer = self.client.send(Method::PUT, path, Some(body)).await?;
                self.print(&read(answer).await?, table::diff)
            }
        }
    }

    async fn sync(&self, command: Option<SyncCommand>) -> Result<(), Failure> {
        let daemon = match command {
            None => return self.show("/sync-daemons", table::sync_daemons).await,
            Some(SyncCommand::Stats) => return self.show("/sync-daemons", table::sync_stats).await,
            Some(SyncCommand::Stop { role }) => {
                let path = format!("/sync-daemons/{role}");
                return self.change(Method::DELETE, &path, None::<&()>).await;
            }
            Some(SyncCommand::Start {
                role,
                interface,
                sync_id,
                max_len,
                group,
                port,
                ttl,
            }) => SyncDaemon {
                role,
                interface,
                sync_id,
                max_len_bytes: max_len,
                group,
                port,
                ttl,
            },
        };
        self.change(Method::POST, "/sync-daemons", Some(&daemon)).await
    }

    async fn version(&self) -> Result<(), Failure> {
        let mine = env!("CARGO_PKG_VERSION");
        let version: Result<Version, Failure> = self.client.get("/version").await;
        if let Ok(version) = &version {
            return self.print(version, |version| {
                let Version {
                    api,
                    lvsd,
                    revision,
                    pid,
                    ..
                } = version;
                format!(
                    "lvsctl {mine} (API {API_VERSION})\nlvsd   {lvsd} (API {api}), revision {revision}, pid {pid}\n"
                )
            });
        }
        put(&format!("lvsctl {mine} (API {API_VERSION})\n"))?;
        version.map(|_| ())
    }
}
