//! Finds the NUMA nodes of CPUs and NICs, so that buffers and tables lie where they are used.
//!
//! In:  the kernel's `/sys`. Out: the node of each worker and device, the nodes that need buffers, NICs on a node without
//! workers. Where the kernel names no node (one node, software devices, emulated machines) the node is `None`.
//! Ref:  Linux Documentation/ABI/stable/sysfs-devices-node, testing/sysfs-bus-pci `numa_node`.

use std::fs;
use std::path::Path;

/// Number of a NUMA node. DPDK calls it a socket.
pub type Node = u16;

/// The nodes of CPUs and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// The node of the main core.
    pub main: Option<Node>,
    /// By worker.
    pub workers: Vec<Option<Node>>,
    /// By device.
    pub devices: Vec<Option<Node>>,
}

impl Nodes {
    /// Looks up the CPUs and the devices below `root`. A device is a PCI address or a software device, as configured.
    pub fn look_up<'a>(
        root: &Path,
        main_cpu: u16,
        worker_cpus: &[u16],
        devices: impl Iterator<Item = &'a str>,
    ) -> Self {
        let cpus = cpus_by_node(root);
        let of_cpu = |cpu: u16| {
            let found = cpus.iter().find(|(_, cpus)| cpus.contains(&cpu));
            // A machine with one node has no remote memory.
            found.map(|(node, _)| *node).filter(|_| cpus.len() > 1)
        };
        let of_device = |device: &str| {
            let text = fs::read_to_string(root.join("sys/bus/pci/devices").join(device).join("numa_node")).ok()?;
            text.trim().parse().ok().filter(|_| cpus.len() > 1)
        };
        Self {
            main: of_cpu(main_cpu),
            workers: worker_cpus.iter().map(|cpu| of_cpu(*cpu)).collect(),
            devices: devices.map(of_device).collect(),
        }
    }

    /// Every node with a worker or a device. The node of the first worker comes first. One `None` where no node is known.
    pub fn used(&self) -> Vec<Option<Node>> {
        let mut used: Vec<_> = Vec::new();
        for node in self.workers.iter().chain(&self.devices).filter(|node| node.is_some()) {
            if !used.contains(node) {
                used.push(*node);
            }
        }
        if used.is_empty() {
            used.push(None);
        }
        used
    }

    /// The node of a device, if no worker is on that node.
    pub fn far(&self, device: usize) -> Option<Node> {
        let node = *self.devices.get(device)?;
        node.filter(|_| !self.workers.contains(&node))
    }
}

/// Each node with its CPUs.
fn cpus_by_node(root: &Path) -> Vec<(Node, Vec<u16>)> {
    let Ok(folders) = fs::read_dir(root.join("sys/devices/system/node")) else {
        return Vec::new();
    };
    let node = |folder: fs::DirEntry| {
        let number = folder.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let list = fs::read_to_string(folder.path().join("cpulist")).ok()?;
        Some((number, cpus(&list)))
    };
    folders.flatten().filter_map(node).collect()
}

/// The numbers in a list such as `0,2-4`. Other words are ignored.
fn cpus(list: &str) -> Vec<u16> {
    let part = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of four CPUs with a NIC each, and a NIC without a node.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("devices/system/node/node0/cpulist", "0-2,6\n"),
            ("devices/system/node/node1/cpulist", "3-5,7\n"),
            ("devices/system/node/online", "0-1\n"),
            ("bus/pci/devices/0000:01:00.0/numa_node", "0\n"),
            ("bus/pci/devices/0000:81:00.0/numa_node", "1\n"),
            ("bus/pci/devices/0000:02:00.0/numa_node", "-1\n"),
        ] {
            let path = root.path().join("sys").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn nodes(root: &tempfile::TempDir, workers: &[u16], devices: &[&str]) -> Nodes {
        Nodes::look_up(root.path(), 0, workers, devices.iter().copied())
    }

    #[test]
    fn every_worker_and_nic_is_found_on_its_node() {
        let devices = [
            "0000:01:00.0",
            "0000:81:00.0",
            "0000:02:00.0",
            "net_af_packet0,iface=eth1",
        ];
        let nodes = nodes(&machine(), &[7, 1, 6, 99], &devices);
        assert_eq!(nodes.main, Some(0));
        assert_eq!(nodes.workers, [Some(1), Some(0), Some(0), None]);
        assert_eq!(nodes.devices, [Some(0), Some(1), None, None]);
        assert_eq!(nodes.used(), [Some(1), Some(0)], "that of the first worker first");
        assert_eq!((0..5).map(|device| nodes.far(device)).collect::<Vec<_>>(), [None; 5]);
    }

    #[test]
    fn a_nic_on_a_node_without_workers_is_far_and_has_its_buffers_there() {
        let nodes = nodes(&machine(), &[1, 2], &["0000:01:00.0", "0000:81:00.0"]);
        assert_eq!((nodes.far(0), nodes.far(1)), (None, Some(1)));
        assert_eq!(nodes.used(), [Some(0), Some(1)]);
    }

    #[test]
    fn a_machine_of_one_node_or_without_the_kernels_word_has_no_nodes() {
        let root = machine();
        fs::remove_dir_all(root.path().join("sys/devices/system/node/node1")).unwrap();
        let one = nodes(&root, &[1, 2], &["0000:01:00.0"]);
        assert_eq!((one.used(), one.far(0)), (vec![None], None));
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(nodes(&empty, &[1], &["0000:01:00.0"]).used(), [None]);
    }
}
