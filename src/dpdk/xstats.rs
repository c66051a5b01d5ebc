//! A driver's own counters, by the driver's names. For the management core, never for the path.

use std::ffi::CStr;

use crate::dpdk::device::Device;

/// One counter of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xstat {
    /// As the driver calls it: `rx_good_packets`, `rx_missed_errors`, …
    pub name: String,
    /// Its value since the device was started.
    pub value: u64,
}

/// All counters of `device`. Empty where the driver has none.
pub fn read(device: &Device) -> Vec<Xstat> {
    let port = device.number();
    // SAFETY: without an array the call only returns how many there are.
    let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(port, std::ptr::null_mut(), 0) };
    let Ok(count) = usize::try_from(count) else {
        return Vec::new();
    };
    let mut names = vec![dpdk_sys::rte_eth_xstat_name { name: [0; 64] }; count];
    let mut values = vec![dpdk_sys::rte_eth_xstat { id: 0, value: 0 }; count];
    // SAFETY: both arrays hold `count` entries, and the calls get that number.
    let (named, valued) = unsafe {
        (
            dpdk_sys::rte_eth_xstats_get_names(port, names.as_mut_ptr(), count as u32),
            dpdk_sys::rte_eth_xstats_get(port, values.as_mut_ptr(), count as u32),
        )
    };
    let filled = usize::try_from(named.min(valued)).unwrap_or(0).min(count);
    values
        .iter()
        .take(filled)
        .filter_map(|entry| {
            let name = names.get(usize::try_from(entry.id).ok()?)?;
            // SAFETY: DPDK terminates each name within its 64 bytes.
            let name = unsafe { CStr::from_ptr(name.name.as_ptr()) };
            Some(Xstat {
                name: name.to_string_lossy().into_owned(),
                value: entry.value,
            })
        })
        .collect()
}
