//! A kernel twin that somebody deletes or moves to another namespace is made again.
//!
//! In:  each new [`L3`]: a device without an interface has lost its twin. Out: a line in the log, a new TAP of the same
//! name, MAC address and MTU, in the hands of the twin thread and the mirror.
//! Never: gives it addresses; those are the operator's, as they were of the first.

use std::sync::Arc;
use std::time::Duration;

use lvs_core::l3::{DeviceId, L3};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::mgmt::kernel::{KernelMirror, MirroredTwin};
use crate::mgmt::punt::{TwinDescriptor, TwinExchange};
use crate::mgmt::twin;

/// Between two attempts while the kernel refuses.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What a twin must be like.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose twin.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its MTU.
    pub mtu: u16,
}

/// See the module.
#[derive(Debug)]
pub struct TwinKeeper {
    /// All twins, in the order of their devices.
    pub twins: Vec<Wanted>,
    /// The kernel's network, as it changes.
    pub l3: watch::Receiver<Arc<L3>>,
    /// To the twin thread.
    pub exchange: TwinExchange,
}

impl TwinKeeper {
    /// Looks after the twins, for ever.
    pub async fn keep(mut self, mirror: &KernelMirror) {
        loop {
            let newest = Arc::clone(&self.l3.borrow_and_update());
            let mut is_complete = true;
            for wanted in &self.twins {
                match newest.interface(wanted.device, 0) {
                    Some(interface) if interface.name != wanted.name => self.say_renamed(wanted, &interface.name),
                    Some(_) => {}
                    None => is_complete &= self.make(wanted, mirror),
                }
            }
            if is_complete {
                if self.l3.changed().await.is_err() {
                    return std::future::pending().await;
                }
            } else {
                sleep(RETRY_PAUSE).await;
            }
        }
    }

    fn say_renamed(&self, wanted: &Wanted, name: &str) {
        log::warn!(
            "kernel twin {}: it is called {name} now; what is configured for the old name does not find it, and a restart \
             makes another one",
            wanted.name
        );
    }

    /// Whether there is one again.
    fn make(&self, wanted: &Wanted, mirror: &KernelMirror) -> bool {
        let Wanted { device, name, mac, mtu } = wanted;
        match twin::open(*device, name, *mac, *mtu) {
            Ok(made) => {
                log::error!(
                    "kernel twin {name}: it was deleted or moved away; it is made again, without its addresses and routes: \
                     configure them again"
                );
                mirror.replace_twin(MirroredTwin {
                    device: *device,
                    ifindex: made.ifindex,
                    name: name.clone(),
                });
                self.exchange.put(TwinDescriptor {
                    device: *device,
                    fd: made.fd,
                });
                true
            }
            Err(error) => {
                log::error!("{error}; it was deleted or moved away, and the device forwards nothing without it");
                false
            }
        }
    }
}
