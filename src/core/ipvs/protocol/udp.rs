//! UDP has one state.

/// The only state.
pub const NORMAL: u8 = 0;

/// Its name as `ipvsadm -Lnc` prints it.
pub const NAME: &str = "UDP";

/// Idle timeout in seconds (Linux ip_vs_proto_udp.c).
pub const DEFAULT_TIMEOUT_SEC: u32 = 300;
