//! RSS, by which a device distributes flows over its receive queues: hash functions, key and redirection table.
//!
//! In:  the driver's abilities and the key. Out: settings for the device, and whether the device distributes flows as
//! [`lvs_core::rss`] computes it. A driver may claim RSS and put all frames into one queue, which DPDK does not report.

use lvs_core::rss;

/// Entries of the redirection table in one of DPDK's groups.
const GROUP_LEN: u16 = 64;

/// The RSS settings of one device.
#[derive(Debug)]
pub(super) struct Rss {
    queues: u16,
    /// Hash functions; 0 for none.
    functions: u64,
    /// Padded to the length that the device takes.
    key: Option<Vec<u8>>,
    table_len: u16,
}

impl Rss {
    /// For a device with this many receive queues. One queue needs no RSS. Software devices distribute flows by other means
    /// (packet fanout, memif rings).
    pub(super) fn of(info: &dpdk_sys::rte_eth_dev_info, queues: u16, key: Option<&[u8; rss::KEY_LEN]>) -> Self {
        let wanted = dpdk_sys::SHIM_RSS_IP | dpdk_sys::SHIM_RSS_TCP | dpdk_sys::SHIM_RSS_UDP | dpdk_sys::SHIM_RSS_SCTP;
        let functions = if queues > 1 {
            info.flow_type_rss_offloads & wanted
        } else {
            0
        };
        let len = usize::from(info.hash_key_size);
        let fits = functions & dpdk_sys::SHIM_RSS_PORTS == dpdk_sys::SHIM_RSS_PORTS
            && len >= rss::KEY_LEN
            && agrees(info.reta_size, queues);
        let filled = |key: &[u8; rss::KEY_LEN]| {
            let mut filled = key.to_vec();
            filled.resize(len, 0);
            filled
        };
        Self {
            queues,
            functions,
            key: key.filter(|_| fits).map(filled),
            table_len: info.reta_size,
        }
    }

    /// Whether the device uses RSS at all.
    pub(super) fn is_on(&self) -> bool {
        self.functions != 0
    }

    /// Writes the settings into the configuration, which must not outlive `self`.
    pub(super) fn write(&mut self, conf: &mut dpdk_sys::rte_eth_conf) {
        if self.functions == 0 {
            return;
        }
        conf.rxmode.mq_mode = dpdk_sys::SHIM_MQ_RX_RSS;
        let rss_conf = &mut conf.rx_adv_conf.rss_conf;
        rss_conf.rss_hf = self.functions;
        if let Some(key) = &mut self.key {
            rss_conf.rss_key = key.as_mut_ptr();
            rss_conf.rss_key_len = key.len() as u8;
        }
    }

    /// Fills the redirection table of a started device. Returns whether flows now go where [`lvs_core::rss`] says.
    pub(super) fn redirect(&self, number: u16) -> bool {
        if self.key.is_none() {
            return false;
        }
        let mut groups =
            vec![dpdk_sys::rte_eth_rss_reta_entry64::default(); usize::from(self.table_len.div_ceil(GROUP_LEN))];
        for (entry, queue) in table(self.table_len, self.queues) {
            let group = &mut groups[usize::from(entry / GROUP_LEN)];
            group.mask |= 1 << (entry % GROUP_LEN);
            group.reta[usize::from(entry % GROUP_LEN)] = queue;
        }
        // SAFETY: the port is started; the groups hold `table_len` entries and are read during the call.
        unsafe { dpdk_sys::rte_eth_dev_rss_reta_update(number, groups.as_mut_ptr(), self.table_len) == 0 }
    }
}

/// Whether a table of this length can send every hash where the table of [`rss::TABLE_LEN`] entries sends it.
fn agrees(table_len: u16, queues: u16) -> bool {
    table_len.is_power_of_two() && (table_len >= rss::TABLE_LEN || queues.is_power_of_two() && table_len >= queues)
}

/// Entries of the table with their queues.
fn table(table_len: u16, queues: u16) -> impl Iterator<Item = (u16, u16)> {
    (0..table_len).map(move |entry| (entry, rss::queue_of_entry(entry, queues)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(functions: u64, key_len: u8, table_len: u16) -> dpdk_sys::rte_eth_dev_info {
        dpdk_sys::rte_eth_dev_info {
            flow_type_rss_offloads: functions,
            hash_key_size: key_len,
            reta_size: table_len,
            ..Default::default()
        }
    }

    #[test]
    fn a_table_length_that_claims_to_agree_does() {
        for queues in 1..=64_u16 {
            for table_len in [0_u16, 2, 32, 64, 128, 512, 2048] {
                let agree = (0..=u16::MAX).all(|hash| {
                    let entry = hash & table_len.wrapping_sub(1);
                    table_len > 0 && rss::queue_of_entry(entry, queues) == rss::queue_of_entry(hash, queues)
                });
                assert!(
                    agree || !agrees(table_len, queues),
                    "{queues} queues, {table_len} entries"
                );
            }
            assert!(agrees(128, queues) && agrees(512, queues));
        }
        assert!(agrees(64, 4) && !agrees(64, 3) && !agrees(2, 4));
    }

    #[test]
    fn the_key_is_filled_up_to_what_the_device_takes() {
        let all = dpdk_sys::SHIM_RSS_PORTS | dpdk_sys::SHIM_RSS_IP;
        let of = |info: &dpdk_sys::rte_eth_dev_info, queues| Rss::of(info, queues, Some(&[7; rss::KEY_LEN]));
        assert_eq!(of(&info(all, 40, 128), 4).key.unwrap(), [7; 40]);
        let longer = of(&info(all, 52, 512), 4).key.unwrap();
        assert_eq!((&longer[..40], &longer[40..]), (&[7; 40][..], &[0; 12][..]));
        assert!(of(&info(all, 0, 128), 4).key.is_none());
        assert!(of(&info(all, 40, 0), 4).key.is_none());
        assert!(
            of(&info(dpdk_sys::SHIM_RSS_IP, 40, 128), 4).key.is_none(),
            "no ports in the hash"
        );
        let one = of(&info(all, 40, 128), 1);
        assert!(!one.is_on() && one.key.is_none());
    }
}
