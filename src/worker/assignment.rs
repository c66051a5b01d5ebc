//! Who polls what: shares devices' queues out to workers and lays the rings between them and the twin thread.
//!
//! On the management core, before the workers start.

use std::sync::Arc;

use lvs_core::counters::WorkerCounters;
use lvs_core::l3::DeviceId;

use crate::dpdk::device::Queues;
use crate::dpdk::{Clock, Mempool, RxQueue};
use crate::worker::dispatch::Dispatcher;
use crate::worker::handoff::{self, Inbox};
use crate::worker::idle::IdlePolicy;
use crate::worker::mailbox::Mailbox;
use crate::worker::punt::{self, InjectedFrames, TwinEnd};
use crate::worker::tx::{TxBuffer, TxRoute};

/// What a worker is made of: [`crate::worker::Worker::new`].
#[derive(Debug)]
pub struct WorkerParts {
    pub(super) clock: Clock,
    pub(super) rx: Vec<RxQueue>,
    pub(super) inbox: Inbox,
    pub(super) injected: InjectedFrames,
    pub(super) dispatcher: Dispatcher,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) pool: Mempool,
    pub(super) idle: IdlePolicy,
}

impl WorkerParts {
    /// Takes buffers from a pool nearer to this worker.
    pub const fn use_pool(&mut self, pool: Mempool) {
        self.pool = pool;
    }
}

/// Everything that the workers and the twin thread are made of.
#[derive(Debug)]
pub struct Assignment {
    /// By worker.
    pub workers: Vec<WorkerParts>,
    /// By worker: the management core's end of its mailbox.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// For [`crate::mgmt::punt::start`].
    pub twin_ends: TwinEnds,
}

/// The twin thread's ends of all rings.
#[derive(Debug)]
pub struct TwinEnds {
    /// By worker.
    pub rings: Vec<TwinEnd>,
    /// By device: the worker that transmits what its twin sends.
    pub transmitters: Vec<usize>,
}

/// What a assignment is to be.
#[derive(Debug)]
pub struct AssignmentSettings<'a> {
    /// By worker: what it counts.
    pub counters: &'a [Arc<WorkerCounters>],
    /// Devices that have a kernel twin.
    pub twins: &'a [DeviceId],
    /// What workers do when there is nothing to do.
    pub idle: IdlePolicy,
    /// The clock of all.
    pub clock: Clock,
    /// Where workers get buffers for frames that the path makes.
    pub pool: Mempool,
}

/// Shares out the queues of all devices, in the order of their ids, to as many workers as there are counters.
pub fn assemble(devices: Vec<Queues>, settings: &AssignmentSettings<'_>) -> Assignment {
    let count = settings.counters.len();
    let mut shares: Vec<Share> = (0..count).map(|_| Share::default()).collect();
    let mut transmitters = Vec::with_capacity(devices.len());
    for (number, queues) in devices.into_iter().enumerate() {
        transmitters.push(owner(0, number, queues.tx.len(), count));
        share_out(&mut shares, number, queues);
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
    for ((share, (inbox, outbox)), counters) in shares.into_iter().zip(handoff::mesh(count)).zip(settings.counters) {
        let (punted, injected, end) = punt::rings();
        let mailbox = Arc::new(Mailbox::new());
        let dispatcher = Dispatcher::new(share.tx_routes, outbox, punted, twins, Arc::clone(counters));
        assignment.twin_ends.rings.push(end);
        assignment.mailboxes.push(Arc::clone(&mailbox));
        let (clock, idle, rx) = (settings.clock, settings.idle, share.rx);
        assignment.workers.push(WorkerParts {
            clock,
            rx,
            inbox,
            injected,
            dispatcher,
            mailbox,
            pool: settings.pool,
            idle,
        });
    }
    assignment
}

/// One worker's queues.
#[derive(Debug, Default)]
struct Share {
    rx: Vec<RxQueue>,
    tx_routes: Vec<TxRoute>,
}

/// The worker of queue `queue`. A device with fewer queues than there are workers starts at its own number, so
/// that two one-queue devices keep two workers busy.
const fn owner(queue: usize, device: usize, queues_count: usize, workers_count: usize) -> usize {
    let first = if queues_count < workers_count { device } else { 0 };
    (first + queue) % workers_count
}

fn share_out(shares: &mut [Share], device: usize, Queues { rx, tx }: Queues) {
    let (workers_count, rx_count, tx_count) = (shares.len(), rx.len(), tx.len());
    for (queue, rx) in rx.into_iter().enumerate() {
        shares[owner(queue, device, rx_count, workers_count)].rx.push(rx);
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

    /// Two lines: processors fetch them together.
    const APART: usize = 128;

    #[test]
    fn what_workers_write_all_the_time_shares_no_line_with_what_others_do() {
        assert_eq!(align_of::<Worker<WorkerState>>(), APART);
        assert_eq!(align_of::<WorkerCounters>(), APART);
        assert_eq!(align_of::<TxBuffer>(), APART);
        assert!(
            size_of::<Inbox>() >= WORKERS_MAX * size_of::<rtrb::Consumer<Handoff>>(),
            "the ends of the rings are within the worker"
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
