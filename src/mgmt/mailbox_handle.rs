//! A worker's mailbox as the director and the admin socket see it.
//!
//! In:  snapshots and questions about connections. Out: each reply of the worker, to the asker that waits for it.
//! The management core drops retired snapshots here, because it must free them, not the worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use lvs_core::conn_record::{ConnRecord, DumpCursor};
use lvs_core::counters::WorkerCounters;
use lvs_core::explain::{Explanation, Question};
use lvs_core::ipvs::sync::SyncConn;
use lvs_core::l3::NeighbourKey;
use lvs_core::snapshot::Snapshot;
use tokio::sync::oneshot;

use crate::mgmt::lock::lock;
use crate::mgmt::worker_handle::{ConnChunk, WorkerHandle};
use crate::worker::capture::Tap;
use crate::worker::mailbox::{Command, ConnDump, CopiedConns, CopyConns, ExplainRequest, Mailbox, Reply};

/// See the module.
pub struct MailboxHandle {
    mailbox: Arc<Mailbox>,
    counters: Arc<WorkerCounters>,
    lcore: Option<u32>,
    cycles_per_sec: u64,
    asks: Mutex<Asks>,
}

/// Questions that the worker has not answered.
#[derive(Default)]
struct Asks {
    dumps: Askers<ConnChunk>,
    explanations: Askers<Explanation>,
    /// What became of the last slice of a bulk sync, until it is looked at.
    copied: Option<CopiedConns>,
}

/// Those who wait for answers of one kind, by the tickets of their questions.
struct Askers<T> {
    last_ticket: u64,
    waiting: HashMap<u64, oneshot::Sender<T>>,
}

impl<T> Default for Askers<T> {
    fn default() -> Self {
        Self {
            last_ticket: 0,
            waiting: HashMap::new(),
        }
    }
}

impl<T> Askers<T> {
    /// Asks a question under a ticket of its own. `push` returns whether the mailbox took the question; if not, the
    /// receiver ends at once.
    fn ask(&mut self, push: impl FnOnce(u64) -> bool) -> oneshot::Receiver<T> {
        let (answer, receiver) = oneshot::channel();
        // An asker may have given up on a worker that hangs.
        self.waiting.retain(|_, asker| !asker.is_closed());
        self.last_ticket += 1;
        if push(self.last_ticket) {
            self.waiting.insert(self.last_ticket, answer);
        }
        receiver
    }

    /// Sends the answer to its asker, which may be gone. Without an answer the asker's receiver ends.
    fn answer(&mut self, ticket: u64, answer: Option<T>) {
        if let (Some(asker), Some(answer)) = (self.waiting.remove(&ticket), answer) {
            let _ = asker.send(answer);
        }
    }
}

impl MailboxHandle {
    /// The management core's end of `mailbox`.
    pub fn new(mailbox: Arc<Mailbox>, counters: Arc<WorkerCounters>, lcore: Option<u32>, cycles_per_sec: u64) -> Self {
        Self {
            mailbox,
            counters,
            lcore,
            cycles_per_sec,
            asks: Mutex::default(),
        }
    }

    /// Takes every reply there is; neighbours that the worker wants resolved go to `resolve`. To be called
    /// every few milliseconds: a worker whose replies are not taken takes no commands.
    pub fn take_replies(&self, mut resolve: impl FnMut(NeighbourKey)) {
        while let Some(reply) = self.mailbox.replies.pop() {
            match reply {
                Reply::Retired(snapshot) => drop(snapshot),
                Reply::ImportedSynced(conns) => drop(conns),
                Reply::Tap(tap) => drop(tap),
                Reply::CopiedConns(copied) => self.asks().copied = Some(copied),
                Reply::Resolve(neighbour) => resolve(neighbour),
                Reply::ConnDump(dump) => {
                    let ConnDump {
                        cursor,
                        records,
                        ticket,
                    } = *dump;
                    self.asks()
                        .dumps
                        .answer(ticket, Some(ConnChunk { records, next: cursor }));
                }
                Reply::Explained(ask) => {
                    self.asks().explanations.answer(ask.ticket, ask.answer);
                }
            }
        }
    }

    /// Makes the worker leave its loop, however full its mailbox is.
    pub fn stop(&self) {
        while self.mailbox.commands.push(Command::Stop).is_err() {
            self.take_replies(drop);
            std::thread::yield_now();
        }
    }

    fn asks(&self) -> MutexGuard<'_, Asks> {
        lock(&self.asks)
    }
}

impl WorkerHandle for MailboxHandle {
    fn publish(&self, snapshot: Arc<Snapshot>) -> bool {
        self.mailbox.commands.push(Command::Publish(snapshot)).is_ok()
    }

    fn is_asleep(&self) -> bool {
        self.mailbox.is_asleep()
    }

    fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    fn lcore(&self) -> Option<u32> {
        self.lcore
    }

    fn cycles_per_sec(&self) -> u64 {
        self.cycles_per_sec
    }

    fn dump_conns(&self, cursor: DumpCursor, buffer: Vec<ConnRecord>) -> oneshot::Receiver<ConnChunk> {
        self.asks().dumps.ask(|ticket| {
            let dump = Box::new(ConnDump {
                cursor: Some(cursor),
                records: buffer,
                ticket,
            });
            self.mailbox.commands.push(Command::DumpConns(dump)).is_ok()
        })
    }

    fn tap(&self, tap: Box<Tap>) -> bool {
        self.mailbox.commands.push(Command::Tap(tap)).is_ok()
    }

    fn explain(&self, question: Question) -> oneshot::Receiver<Explanation> {
        self.asks().explanations.ask(|ticket| {
            let request = Box::new(ExplainRequest {
                question,
                answer: None,
                ticket,
            });
            self.mailbox.commands.push(Command::Explain(request)).is_ok()
        })
    }

    fn next_synced(&self) -> Option<SyncConn> {
        self.mailbox.synced.pop()
    }

    fn copy_conns(&self, request: CopyConns) -> bool {
        self.mailbox.commands.push(Command::CopyConns(request)).is_ok()
    }

    fn copied_conns(&self) -> Option<CopiedConns> {
        self.asks().copied.take()
    }

    fn import_synced(&self, conns: Arc<[SyncConn]>) -> bool {
        // Half of the mailbox is left to snapshots.
        let commands = &self.mailbox.commands;
        commands.len() < commands.capacity() / 2 && commands.push(Command::ImportSynced(conns)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mgmt::fake_worker::conn;

    fn port() -> (MailboxHandle, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::new());
        (
            MailboxHandle::new(Arc::clone(&mailbox), Arc::new(WorkerCounters::new(1)), None, 1),
            mailbox,
        )
    }

    fn answer(mailbox: &Mailbox, records: usize) {
        let Some(Command::DumpConns(mut dump)) = mailbox.commands.pop() else {
            panic!("nothing was asked")
        };
        dump.records.extend((0..records as u32).map(conn));
        dump.cursor = Some(DumpCursor::V6(7));
        mailbox.replies.push(Reply::ConnDump(dump)).unwrap();
    }

    #[test]
    fn every_answer_goes_to_who_asked() {
        let (port, mailbox) = port();
        let mut first = port.dump_conns(DumpCursor::V4(0), Vec::with_capacity(4));
        let mut second = port.dump_conns(DumpCursor::V4(9), Vec::with_capacity(4));
        answer(&mailbox, 1);
        answer(&mailbox, 2);
        port.take_replies(|_| panic!("no neighbour was asked for"));
        let second = second.try_recv().unwrap();
        assert_eq!((first.try_recv().unwrap().records.len(), second.records.len()), (1, 2));
        assert_eq!(second.next, Some(DumpCursor::V6(7)));
    }

    #[test]
    fn a_full_mailbox_fails_the_question_at_once_and_the_publication_too() {
        let (port, mailbox) = port();
        while mailbox.commands.push(Command::Stop).is_ok() {}
        assert!(port.dump_conns(DumpCursor::V4(0), Vec::new()).try_recv().is_err());
        assert!(port.asks().dumps.waiting.is_empty());
    }

    #[test]
    fn askers_that_gave_up_are_forgotten() {
        let (port, _mailbox) = port();
        for _ in 0..3 {
            drop(port.dump_conns(DumpCursor::V4(0), Vec::new()));
        }
        assert_eq!(port.asks().dumps.waiting.len(), 1);
    }
}
