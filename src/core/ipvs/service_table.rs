//! Finds the virtual service of a packet.

/// All services, immutable.
#[derive(Clone, Debug, Default)]
pub struct ServiceTable {}
