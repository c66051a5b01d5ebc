//! A running worker as the management core sees it: a [`WorkerPort`] over its mailbox.
//!
//! In:  the worker's replies, collected every [`COLLECT_PERIOD`] (a worker cannot wake anybody).
//! Out: retired snapshots are freed here, dumps go to who asked, neighbours to the kernel mirror.
//! Never: waits for a worker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lvs_core::counters::WorkerCounters;
use lvs_core::l3::NeighbourKey;
use lvs_core::snapshot::Snapshot;
use lvs_core::worker_state::{ConnRecord, DumpCursor};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use crate::mgmt::worker_port::{ConnChunk, WorkerPort};
use crate::worker::mailbox::{Command, ConnDump, Mailbox, Reply};

/// How often replies are collected: what resolving a neighbour waits for at most.
const COLLECT_PERIOD: Duration = Duration::from_millis(1);

/// See the module.
pub struct MailboxPort {
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    cpu: u16,
    /// Who waits for which dump.
    askers: Mutex<HashMap<u64, oneshot::Sender<ConnChunk>>>,
    next_ticket: AtomicU64,
}

impl MailboxPort {
    /// The port of the worker that has this mailbox and these counters and runs on `cpu`.
    pub fn new(mailbox: Arc<Mailbox>, counters: Arc<WorkerCounters>, cpu: u16) -> Self {
        Self {
            mailbox,
            counters,
            cpu,
            askers: Mutex::default(),
            next_ticket: AtomicU64::new(0),
        }
    }

    /// Tells the worker to leave its loop. Tries again while its mailbox is full.
    pub fn stop(&self) {
        while self.mailbox.commands.push(Command::Stop).is_err() {
            self.collect(&|_| {});
            std::thread::yield_now();
        }
    }

    /// Takes all replies there are.
    fn collect(&self, resolve: &impl Fn(NeighbourKey)) {
        while let Some(reply) = self.mailbox.replies.pop() {
            match reply {
                Reply::Retired(snapshot) => drop(snapshot),
                Reply::Resolve(neighbour) => resolve(neighbour),
                Reply::ConnDump(dump) => {
                    if let Some(asker) = self.askers().remove(&dump.ticket) {
                        // Whoever asked may have given up.
                        let _ = asker.send(ConnChunk {
                            records: dump.records,
                            next: dump.cursor,
                        });
                    }
                }
            }
        }
    }

    fn askers(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<ConnChunk>>> {
        // Inserting and removing leave the map whole, whatever happens.
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerPort for MailboxPort {
    fn publish(&self, snapshot: Arc<Snapshot>) -> bool {
        self.mailbox.commands.push(Command::Publish(snapshot)).is_ok()
    }

    fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn lcore(&self) -> Option<u32> {
        Some(u32::from(self.cpu))
    }

    fn dump_conns(&self, cursor: DumpCursor, room: Vec<ConnRecord>) -> oneshot::Receiver<ConnChunk> {
        let (answer, receiver) = oneshot::channel();
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.askers().insert(ticket, answer);
        let dump = Box::new(ConnDump {
            cursor: Some(cursor),
            records: room,
            ticket,
        });
        if self.mailbox.commands.push(Command::DumpConns(dump)).is_err() {
            // Dropping the sender tells the asker that there is no answer.
            self.askers().remove(&ticket);
        }
        receiver
    }
}

/// Collects the replies of all workers until dropped.
pub async fn collect(ports: Vec<Arc<MailboxPort>>, resolve: impl Fn(NeighbourKey)) {
    let mut ticks = interval(COLLECT_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for port in &ports {
            port.collect(&resolve);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> (Arc<Mailbox>, MailboxPort) {
        let mailbox = Arc::new(Mailbox::new());
        let port = MailboxPort::new(Arc::clone(&mailbox), Arc::new(WorkerCounters::new(1)), 0);
        (mailbox, port)
    }

    #[test]
    fn a_dump_reaches_who_asked_for_it() {
        let (mailbox, port) = port();
        let mut answers: Vec<_> = (0..2).map(|_| port.dump_conns(DumpCursor::V4(0), Vec::new())).collect();
        // The worker answers in its own order.
        let mut asked: Vec<_> = std::iter::from_fn(|| mailbox.commands.pop()).collect();
        asked.reverse();
        for command in asked {
            let Command::DumpConns(mut dump) = command else {
                panic!("only dumps were asked for")
            };
            dump.cursor = Some(DumpCursor::V6(dump.ticket as u32));
            mailbox.replies.push(Reply::ConnDump(dump)).expect("there is room");
        }
        port.collect(&|_| panic!("no neighbour was asked for"));
        let nexts: Vec<_> = answers
            .iter_mut()
            .map(|answer| answer.try_recv().expect("answered").next)
            .collect();
        assert_eq!(nexts, [Some(DumpCursor::V6(0)), Some(DumpCursor::V6(1))]);
    }

    #[test]
    fn a_full_mailbox_is_told_and_nobody_waits() {
        let (_mailbox, port) = port();
        while port.publish(Arc::new(Snapshot::default())) {}
        let mut answer = port.dump_conns(DumpCursor::V4(0), Vec::new());
        assert!(answer.try_recv().is_err());
        assert!(port.askers().is_empty());
    }
}
