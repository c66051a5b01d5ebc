//! What clients and the daemon say to each other on `/run/lvsd/api.sock`: HTTP/1.1 with these types as JSON;
//! and on `/run/lvsd/ipvs.sock`: the kernel's IPVS protocol, in [`netlink`].
//!
//! Plain data with units in the names; unknown fields are refused everywhere. Never names lvs-core: the
//! daemon converts by hand, exhaustively, so that neither side can change without the other noticing.

/// Converts a type to text by `Display` and from text by `FromStr`, as serde's `into` and `try_from` need it.
macro_rules! string_conversions {
    ($name:ty, $error:ty) => {
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
    };
}

mod action;
mod capture;
mod error;
mod id;
pub mod ipvsadm_text;
pub mod kernel_files;
pub mod kernel_options;
mod mark;
pub mod netlink;
mod options;
pub mod proc_text;
mod service;
mod state;
mod status;
mod sync;
mod why;

pub use action::Action;
pub use capture::{CaptureAsked, CaptureDirection, EndPattern};
pub use error::{ApiError, ErrorCode};
pub use id::{IdError, Protocol, ServiceId, endpoint};
pub use mark::{MarkProtocol, MarkRule, PortRange, Prefix};
pub use service::{
    ClientAddress, GueChecksum, Mode, Netmask, Persistence, Server, ServerPatch, ServerSettings, Service, ServicePatch,
    ServiceSettings, ServiceStatus, Tunnel, UnusedPersistence,
};
pub use state::{LocalAddresses, SettingValue, Settings, State, Timeouts, TimeoutsPatch};
pub use status::{
    Buffers, ConnFilter, ConnRecord, Device, DropCount, JournalStatus, Latency, Rates, ReloadReport, RestartStatus,
    RssState, ServerOfService, ServerStatus, StartStage, StateDiff, Stats, TakenOver, Totals, Version, Worker,
};
pub use sync::{SyncBulk, SyncBulkState, SyncDaemon, SyncDaemonStatus, SyncRole};
pub use why::{Why, WhyAsked, WhyHop, WhyServer, WhyVerdict};

/// First segment of every path. It changes when an old client could misread a new daemon.
pub const API_VERSION: &str = "v1";

/// Where the daemon listens unless the configuration says otherwise.
pub const SOCKET_DEFAULT: &str = "/run/lvsd/api.sock";
