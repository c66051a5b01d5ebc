//! The testbed of worker loops: workers on ring devices. The test holds the other ends: a worker receives what the test
//! sends, and the reverse.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::{DeviceId, NeighbourKey};
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use lvs_core::verdict::DropReason;
use lvsd::dpdk::device::{Device, DeviceSettings, Queues};
use lvsd::dpdk::lcore::{self, LcoreHandle};
use lvsd::dpdk::{Burst, Clock, Eal, Mempool, RxQueue, TxQueue};
use lvsd::mgmt::punt::{self, PuntThread, TwinDescriptor};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, Mailbox, Reply};

use crate::dpdk::{device_settings, pool, start_eal};
use crate::scripted_path::ScriptedPath;
use crate::waits::{PATIENCE, wait_until};

/// The test's end of one device.
pub struct FarEnd {
    to_worker: Vec<TxQueue>,
    from_worker: Vec<RxQueue>,
    _device: Device,
}

/// Workers under test.
pub struct WorkersTestbed {
    /// Of all frames.
    pub pool: Mempool,
    /// By device.
    pub far_ends: Vec<FarEnd>,
    /// By worker.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// By worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// The kernel's ends of the twins.
    pub twins: Vec<UnixDatagram>,
    /// The twin thread, where there are twins.
    pub punt: Option<PuntThread>,
    handles: Vec<LcoreHandle>,
    _eal: Eal,
}

/// How to build a testbed of workers.
pub struct WorkersSettings {
    /// How many workers there are.
    pub workers: usize,
    /// How many devices they share.
    pub devices: usize,
    /// Transmit queues that each device gives the workers.
    pub tx_queues: usize,
    /// How many devices, beginning with the first, have a kernel twin.
    pub twins: usize,
    /// What workers do when no frame arrives.
    pub idle: IdlePolicy,
}

impl WorkersSettings {
    /// One worker with a device, its twin and a transmit queue. It shares its CPU with the test.
    pub const ONE: Self = Self {
        workers: 1,
        devices: 1,
        tx_queues: 1,
        twins: 1,
        idle: IdlePolicy::Sleep {
            after_polls: 100,
            us: 20,
        },
    };
}

impl WorkersTestbed {
    /// Starts the workers.
    pub fn start(settings: &WorkersSettings) -> Self {
        let eal = start_eal(settings.workers);
        let pool = pool(&eal, 8_191);
        let counters: Vec<_> = (0..settings.workers)
            .map(|_| Arc::new(WorkerCounters::new(1)))
            .collect();
        let (near_ends, far_ends): (Vec<_>, Vec<_>) = (0..settings.devices)
            .map(|number| ring_device(&eal, pool, number, settings))
            .unzip();
        let twin_ids: Vec<_> = (0..settings.twins).map(|number| DeviceId(number as u8)).collect();
        let assignment_settings = AssignmentSettings {
            counters: &counters,
            twins: &twin_ids,
            idle: settings.idle,
            clock: Clock::start(&eal),
            pool,
        };
        let assignment = assemble(near_ends, &assignment_settings);
        let (twins, descriptors): (Vec<_>, Vec<_>) = twin_ids.iter().map(|&device| twin(device)).unzip();
        let punt = (settings.twins > 0).then(|| punt::start(assignment.twin_ends, descriptors, pool).unwrap());
        let handles = assignment
            .workers
            .into_iter()
            .enumerate()
            .map(|(number, resources)| {
                let mut worker = Worker::new(resources, ScriptedPath::default());
                lcore::launch(&eal, number, move || worker.run()).unwrap()
            })
            .collect();
        Self {
            pool,
            far_ends,
            mailboxes: assignment.mailboxes,
            counters,
            twins,
            punt,
            handles,
            _eal: eal,
        }
    }

    /// Sends `count` frames of `len` bytes that begin with `start` to `worker` through `device`.
    pub fn send(&mut self, device: usize, worker: usize, start: &[u8], count: usize) {
        let mut burst = Burst::new();
        for _ in 0..count {
            let mut mbuf = self.pool.alloc().unwrap();
            assert!(mbuf.append(60));
            mbuf.bytes_mut().fill(0);
            mbuf.bytes_mut()[..start.len()].copy_from_slice(start);
            if burst.is_full() {
                self.far_ends[device].to_worker[worker].transmit(&mut burst);
            }
            burst.push(mbuf).unwrap();
        }
        assert_eq!(self.far_ends[device].to_worker[worker].transmit(&mut burst).refused, 0);
    }

    /// Receives the frames that arrived at the far end of `device`: at least `count`, or fewer when no more come.
    pub fn receive(&mut self, device: usize, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        wait_until(|| {
            for queue in &mut self.far_ends[device].from_worker {
                let mut burst = Burst::new();
                queue.receive(&mut burst);
                frames.extend(burst.as_slice().iter().map(|mbuf| mbuf.bytes().to_vec()));
            }
            frames.len() >= count
        });
        frames
    }

    /// Sends `worker` a snapshot.
    pub fn publish(&self, worker: usize, snapshot: Arc<Snapshot>) {
        self.mailboxes[worker]
            .commands
            .push(Command::Publish(snapshot))
            .unwrap();
    }

    /// The next reply of a worker.
    pub fn reply(&self, worker: usize) -> Option<Reply> {
        let mut reply = None;
        wait_until(|| {
            reply = self.mailboxes[worker].replies.pop();
            reply.is_some()
        });
        reply
    }

    /// The neighbour that the next reply asks for.
    pub fn asked(&self, worker: usize) -> Option<NeighbourKey> {
        match self.reply(worker) {
            Some(Reply::Resolve(neighbour)) => Some(neighbour),
            _ => None,
        }
    }

    /// The snapshot that a worker sends back, and the neighbours that it asks for until then: how often it asks
    /// depends on how long the test takes.
    pub fn retired(&self, worker: usize) -> (Arc<Snapshot>, Vec<NeighbourKey>) {
        let mut asked = Vec::new();
        loop {
            match self.reply(worker) {
                Some(Reply::Resolve(neighbour)) => asked.push(neighbour),
                Some(Reply::Retired(old)) => return (old, asked),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Over all workers and the twin thread.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.all_counters().map(|counters| counters.drops_of(reason)).sum()
    }

    fn all_counters(&self) -> impl Iterator<Item = &WorkerCounters> {
        self.counters
            .iter()
            .map(Arc::as_ref)
            .chain(self.punt.iter().map(|punt| punt.counters().as_ref()))
    }

    /// The sum of received and injected frames, and the sum of transmitted, punted, dropped and held ones. They are equal
    /// when no frame is in transit.
    pub fn account(&self) -> (u64, u64) {
        let (mut came, mut went) = (0, 0);
        for counters in self.all_counters() {
            for device in &counters.devices {
                came += device.rx_packets.get() + device.injected_packets.get();
                went += device.tx_packets.get();
            }
            went += counters.drops.iter().map(SingleWriter::get).sum::<u64>() + counters.held.get();
        }
        // Punted frames are in transit until the twin thread has written them to the kernel.
        let twins = self.punt.iter().flat_map(|punt| &punt.counters().devices);
        went += twins.map(|device| device.punted_packets.get()).sum::<u64>();
        (came, went)
    }

    /// Waits for `expected` frames. Returns whether they came and all of them are counted.
    pub fn settles_at(&self, expected: u64) -> bool {
        wait_until(|| self.account() == (expected, expected))
    }

    /// Stops workers and twin thread. Afterwards only buffers in the ring devices are in use.
    pub fn stop(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.commands.push(Command::Stop).unwrap();
        }
        for handle in self.handles.drain(..) {
            handle.join().unwrap();
        }
        self.punt = None;
    }

    /// Stops workers and twin thread.
    ///
    /// # Panics
    /// When a buffer is still in use.
    pub fn stop_empty(&mut self) {
        self.stop();
        assert_eq!(self.pool.in_use(), 0, "a buffer is still in use");
    }
}

/// A ring device loops each queue to itself: the workers get receive queues 0.. and transmit queues after
/// them, the test gets the others.
fn ring_device(eal: &Eal, pool: Mempool, number: usize, settings: &WorkersSettings) -> (Queues, FarEnd) {
    let queues = (settings.workers + settings.tx_queues) as u16;
    let device_settings = DeviceSettings {
        rx_queues: queues,
        tx_queues: queues,
        ..device_settings(number as u8, &format!("net_ring{number}"))
    };
    let (device, Queues { mut rx, mut tx }) = Device::open(eal, &device_settings, pool).unwrap();
    assert_eq!((rx.len(), tx.len()), (usize::from(queues), usize::from(queues)));
    let from_worker = rx.split_off(settings.workers);
    let worker_tx = tx.split_off(settings.workers);
    (
        Queues { rx, tx: worker_tx },
        FarEnd {
            to_worker: tx,
            from_worker,
            _device: device,
        },
    )
}

/// A datagram socket pair behaves like a TAP: one frame a read or write.
fn twin(device: DeviceId) -> (UnixDatagram, TwinDescriptor) {
    let (kernel, director) = UnixDatagram::pair().unwrap();
    kernel.set_read_timeout(Some(PATIENCE)).unwrap();
    director.set_nonblocking(true).unwrap();
    (
        kernel,
        TwinDescriptor {
            device,
            fd: OwnedFd::from(director),
        },
    )
}
