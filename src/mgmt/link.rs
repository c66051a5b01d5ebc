//! Watches the devices' links: each kernel twin has a carrier while its device's link is up.
//!
//! So keepalived, which watches the twin, gives the VIP up when a cable comes off, as with any NIC.
//! In:  the link of each device, looked at every [`PERIOD`]. Out: its twin's carrier, a line in the log.
//! Never: touches routes or addresses; what a missing carrier means to them is the kernel's to say.
//! Ref:  Linux net/core/rtnetlink.c `IFLA_CARRIER`, drivers/net/tun.c `tun_net_change_carrier` (Linux 5.0).

use std::time::{Duration, Instant};

use lvs_core::l3::DeviceId;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tokio::time::{MissedTickBehavior, interval};

use crate::mgmt::twin::Twin;

/// How often it looks at the links: a tenth of VRRP's default advertisement interval.
const PERIOD: Duration = Duration::from_millis(100);

/// How long a link that has not been up since the start may take: NICs negotiate anew when they are started. A twin that
/// kept its carrier over a restart keeps it meanwhile.
const NEGOTIATION: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct LinkWatch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    device: DeviceId,
    name: String,
    ifindex: u32,
    /// What the twin's carrier says. `None`: what the lvsd before left.
    up: Option<bool>,
    /// A link that has not been up is not believed to be down before.
    negotiates_until: Option<Instant>,
}

impl LinkWatch {
    /// The state of twins that have just been opened. The kernel gives a carrier to those whose descriptor nobody held.
    pub fn new(twins: &[Twin]) -> Self {
        let watched = |twin: &Twin| Watched {
            device: twin.device,
            name: twin.name.clone(),
            ifindex: twin.ifindex,
            up: (!twin.was_held).then_some(true),
            negotiates_until: twin.was_held.then(|| Instant::now() + NEGOTIATION),
        };
        Self(twins.iter().map(watched).collect())
    }

    /// Looks at the links every [`PERIOD`] until the future is dropped. `is_up` says whether a device's link is up now.
    pub async fn watch(mut self, is_up: impl Fn(DeviceId) -> bool) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for watched in &mut self.0 {
                watched.look(is_up(watched.device)).await;
            }
        }
    }
}

impl Watched {
    /// A twin may have been made again.
    fn index(&self) -> u32 {
        if_nametoindex(self.name.as_str()).unwrap_or(self.ifindex)
    }

    async fn look(&mut self, up: bool) {
        if up {
            self.negotiates_until = None;
        }
        let negotiates = self.negotiates_until.is_some_and(|until| Instant::now() < until);
        if self.up == Some(up) || negotiates {
            return;
        }
        let is_first_look = self.up.replace(up).is_none();
        let name = &self.name;
        if up && is_first_look {
            log::debug!("device \"{name}\": its link is up");
        } else if up {
            log::info!("device \"{name}\": its link is up");
        } else {
            log::warn!("device \"{name}\": its link is down: look at the cable and at the switch's port");
        }
        if let Err(error) = set_carrier(self.index(), up).await {
            log::warn!(
                "device \"{name}\": its kernel twin cannot be changed ({error}); what watches the interface does not notice"
            );
        }
    }
}

/// As `ip link set dev … carrier on` does; links change so seldom that each change may open a socket.
async fn set_carrier(ifindex: u32, up: bool) -> Result<(), Box<dyn std::error::Error>> {
    let (connection, kernel, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let carrier = LinkMessageBuilder::<LinkUnspec>::default()
        .index(ifindex)
        .append_extra_attribute(LinkAttribute::Carrier(u8::from(up)));
    let changed = kernel.link().change(carrier.build()).execute().await;
    connection.abort();
    Ok(changed?)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::mgmt::namespace::{in_namespace, ip};
    use crate::mgmt::twin;

    /// Watches until the twin is as `ip` is to show it.
    async fn shows(links: LinkWatch, is_up: impl Fn(DeviceId) -> bool, expected: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let seen = async {
            while !ip("-o link show lan").contains(expected) {
                assert!(Instant::now() < deadline, "{expected}: {}", ip("-o link show lan"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = links.watch(is_up) => {}
            () = seen => {}
        }
    }

    #[test]
    fn a_twin_that_lost_its_carrier_before_a_restart_gets_it_back_when_its_link_is_up() {
        in_namespace(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let mut twins = [twin::open_alone(DeviceId(1), "lan", [2, 0, 0, 0, 0x11, 0x22], 1500).unwrap()];
            ip("link set lan carrier off");
            twins[0].was_held = true;
            let looked = Cell::new(0);
            let comes_late = |_| {
                looked.set(looked.get() + 1);
                looked.get() > 3
            };
            runtime.block_on(shows(LinkWatch::new(&twins), comes_late, ",UP,LOWER_UP"));
            runtime.block_on(shows(LinkWatch::new(&twins), |_| false, "<NO-CARRIER,"));
        });
    }

    #[test]
    fn a_twin_has_a_carrier_while_its_device_has_a_link() {
        in_namespace(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let twins = [twin::open_alone(DeviceId(1), "lan", [2, 0, 0, 0, 0x11, 0x22], 1500).unwrap()];
            let looked = Cell::new(0);
            let comes_back = |device| {
                assert_eq!(device, DeviceId(1));
                looked.set(looked.get() + 1);
                looked.get() > 3
            };
            runtime.block_on(shows(LinkWatch::new(&twins), |_| false, "<NO-CARRIER,"));
            runtime.block_on(shows(LinkWatch::new(&twins), comes_back, ",UP,LOWER_UP"));
            assert!(looked.get() > 3, "down before it is up");
        });
    }
}
