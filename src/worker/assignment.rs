//! Which worker polls which queue: assigns the devices' queues to workers and creates the rings between workers and the
//! twin thread.
//!
//! Runs on the management core before the workers start.

use std::sync::Arc;

use lvs_core::counters::WorkerCounters;
use lvs_core::l3::DeviceId;

use crate::dpdk::device::Queues;
use crate::dpdk::{Clock, Mempool, RxQueue};
use crate::worker::dispatch::Dispatcher;
use crate::worker::handoff::{self, HandoffReceivers};
use crate::worker::idle::IdlePolicy;
use crate::worker::mailbox::Mailbox;
use crate::worker::punt::{self, InjectedFrames, TwinEnd};
use crate::worker::tx::{TxBuffer, TxRoute};

/// Everything that a worker needs: [`crate::worker::Worker::new`].
#[derive(Debug)]
pub struct WorkerResources {
    pub(super) clock: Clock,
    pub(super) rx_queues: Vec<RxQueue>,
    pub(super) handoffs: HandoffReceivers,
    pub(super) injected: InjectedFrames,
    pub(super) dispatcher: Dispatcher,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) pool: Mempool,
    pub(super) idle: IdlePolicy,
}

impl WorkerResources {
    /// Takes buffers from a pool that is nearer to this worker.
    pub const fn use_pool(&mut self, pool: Mempool) {
        self.pool = pool;
    }
}

/// Everything that the workers and the twin thread need.
#[derive(Debug)]
pub struct Assignment {
    /// By worker.
    pub workers: Vec<WorkerResources>,
    /// By worker: its mailbox, for the management core.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// For [`crate::mgmt::punt::start`].
    pub twin_ends: TwinEnds,
}

/// The twin thread's side of all rings.
#[derive(Debug)]
pub struct TwinEnds {
    /// By worker.
    pub rings: Vec<TwinEnd>,
    /// By device: the worker that transmits the frames of its twin.
    pub transmitters: Vec<usize>,
}

/// What [`assemble`] needs to know.
#[derive(Debug)]
pub struct AssignmentSettings<'a> {
    /// By worker: its counters.
    pub counters: &'a [Arc<WorkerCounters>],
    /// Devices that have a kernel twin.
    pub twins: &'a [DeviceId],
    /// What workers do when no frame arrives.
    pub idle: IdlePolicy,
    /// The clock of all workers.
    pub clock: Clock,
    /// The pool of buffers for frames that the path generates.
    pub pool: Mempool,
}

/// Assigns the queues of all devices, in the order of their ids, to as many workers as there are counters.
pub fn assemble(devices: Vec<Queues>, settings: &AssignmentSettings<'_>) -> Assignment {
    let count = settings.counters.len();
    let mut shares: Vec<Share> = (0..count).map(|_| Share::default()).collect();
    let mut transmitters = Vec::with_capacity(devices.len());
    for (number, queues) in devices.into_iter().enumerate() {
        transmitters.push(owner(0, number, queues.tx.len(), count));
        assign(&mut shares, number, queues);
    }
    let twins = settings
        .twins
        .iter()
        .fold(0u32, |bits, device| bits | 1u32.wrapping_shl(u32::from(device.0)));
    let mut assignment = Assignment {
        workers: Vec::with_capacity(count),
        mailboxes: Vec::with_capacity(count),
        twin_ends: TwinEnds {
            rings: Vec::with_capacity(count),
            transmitters,
        },
    };
    let handoffs = handoff::mesh(count);
    for ((share, (receivers, senders)), counters) in shares.into_iter().zip(handoffs).zip(settings.counters) {
        let (punted, injected, end) = punt::rings();
        let mailbox = Arc::new(Mailbox::new());
        let dispatcher = Dispatcher::new(share.tx_routes, senders, punted, twins, Arc::clone(counters));
        assignment.twin_ends.rings.push(end);
        assignment.mailboxes.push(Arc::clone(&mailbox));
        assignment.workers.push(WorkerResources {
            clock: settings.clock,
            rx_queues: share.rx_queues,
            handoffs: receivers,
            injected,
            dispatcher,
            mailbox,
            pool: settings.pool,
            idle: settings.idle,
        });
    }
    assignment
}

/// One worker's queues.
#[derive(Debug, Default)]
struct Share {
    rx_queues: Vec<RxQueue>,
    tx_routes: Vec<TxRoute>,
}

/// The worker of queue `queue`. A device that has fewer queues than there are workers starts at its own number: two
/// devices with one queue each keep two workers busy.
const fn owner(queue: usize, device: usize, queues_count: usize, workers_count: usize) -> usize {
    let first = if queues_count < workers_count { device } else { 0 };
    (first + queue) % workers_count
}

fn assign(shares: &mut [Share], device: usize, Queues { rx, tx }: Queues) {
    let (workers_count, rx_count, tx_count) = (shares.len(), rx.len(), tx.len());
    for (queue, rx) in rx.into_iter().enumerate() {
        shares[owner(queue, device, rx_count, workers_count)].rx_queues.push(rx);
    }
    for (worker, share) in shares.iter_mut().enumerate() {
        share.tx_routes.push(TxRoute::Via(owner(
            worker % tx_count.max(1),
            device,
            tx_count,
            workers_count,
        )));
    }
    for (queue, tx) in tx.into_iter().enumerate().take(workers_count) {
        shares[owner(queue, device, tx_count, workers_count)].tx_routes[device] =
            TxRoute::Own(Box::new(TxBuffer::new(tx)));
    }
}

#[cfg(test)]
mod tests {
    use lvs_core::limits::WORKERS_MAX;
    use lvs_core::worker_state::WorkerState;

    use super::*;
    use crate::worker::Worker;
    use crate::worker::handoff::Handoff;

    /// Two cache lines, because processors fetch them in pairs.
    const APART: usize = 128;

    #[test]
    fn a_worker_writes_to_no_cache_line_that_another_one_uses() {
        assert_eq!(align_of::<Worker<WorkerState>>(), APART);
        assert_eq!(align_of::<WorkerCounters>(), APART);
        assert_eq!(align_of::<TxBuffer>(), APART);
        assert!(
            size_of::<HandoffReceivers>() >= WORKERS_MAX * size_of::<rtrb::Consumer<Handoff>>(),
            "a worker holds its ends of the rings itself"
        );
    }

    #[test]
    fn as_many_queues_as_workers_go_one_to_one() {
        assert_eq!(
            (0..4).map(|queue| owner(queue, 3, 4, 4)).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
    }

    #[test]
    fn one_queue_devices_keep_different_workers_busy() {
        assert_eq!(
            (0..4).map(|device| owner(0, device, 1, 2)).collect::<Vec<_>>(),
            [0, 1, 0, 1]
        );
    }
}
