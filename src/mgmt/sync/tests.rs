//! Daemons between fake workers and real sockets; what is missing, full or malformed is named.

use std::collections::HashSet;
use std::net::UdpSocket;

use lvs_api::SyncBulkState;
use lvs_core::ipvs::conn::ConnFlags;
use lvs_core::ipvs::sync::policy::SyncMode;

use super::auth::SyncKey;
use super::*;
use crate::mgmt::fake_worker::FakeWorker;

pub(super) fn conn(port: u16) -> SyncConn {
    let end = |addr: &str, port| (addr.parse().unwrap(), port);
    SyncConn {
        protocol: 6,
        flags: u32::from(ConnFlags::INACTIVE),
        state: 5,
        client: end("198.51.100.7", port),
        virt: end("192.0.2.1", 80),
        real: end("203.0.113.1", 80),
        local: None,
        fwmark: 0,
        timeout_sec: 120,
        shifts: None,
    }
}

fn master() -> SyncDaemon {
    SyncDaemon {
        sync_id: 3,
        ..SyncDaemon::new(SyncRole::Master, "no-such-interface"[..15].trim_end_matches('-'))
    }
}

/// A daemon whose sockets are ends of the loopback interface.
fn running(daemon: SyncDaemon, sockets: Vec<UdpSocket>) -> Running {
    let max_len = daemon.effective_max_len(1_500);
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let source = sockets[0].local_addr().unwrap().ip();
    Running {
        assemblies: sockets.iter().map(|_| Assembly::new(daemon.sync_id, max_len)).collect(),
        daemon,
        sockets: Sockets {
            sockets,
            max_len,
            source,
        },
        unsent: VecDeque::new(),
        bulk: Bulk::new(1, 5, 0),
        heard: Heard::default(),
        notices: Notices::default(),
        tally: Tally::default(),
    }
}

fn pair() -> (UdpSocket, UdpSocket) {
    let (one, other) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    one.connect(other.local_addr().unwrap()).unwrap();
    other.connect(one.local_addr().unwrap()).unwrap();
    (one, other)
}

#[test]
fn a_missing_interface_is_named_and_looked_for_again_after_a_second() {
    let mut sync = SyncDaemons::new();
    let (daemon, sysctls, now) = (master(), Sysctls::default(), Instant::now());
    let error = sync.start(&daemon, &sysctls).unwrap_err();
    assert!(error.to_string().contains(&daemon.interface), "{error}");
    sync.follow(std::slice::from_ref(&daemon), &sysctls, now);
    assert_eq!((sync.running.len(), sync.retry_at), (0, Some(now + RETRY)));
    sync.follow(std::slice::from_ref(&daemon), &sysctls, now + RETRY);
    assert_eq!(sync.retry_at, Some(now + 2 * RETRY));
}

#[test]
fn what_all_workers_tell_travels_in_one_message_to_every_worker_of_the_other_director() {
    let (sender, receiver) = pair();
    let senders = [FakeWorker::new(), FakeWorker::new()];
    for (teller, port) in senders.iter().zip([1_000, 2_000]) {
        teller.synced.lock().unwrap().push(conn(port));
    }
    let senders: Vec<Arc<dyn WorkerHandle>> = senders.into_iter().map(|worker| worker as _).collect();
    let mut master = running(master(), vec![sender]);
    let (settings, mut sequence) = (SyncSettings::default(), Sequence::default());
    let mut signing = Signing {
        settings: &settings,
        sequence: &mut sequence,
    };
    master.sync_out(&senders, &Sysctls::default(), &mut signing, 0);
    assert_eq!(master.tally.messages, 0, "it waits for more");
    master.sync_out(&senders, &Sysctls::default(), &mut signing, 2_000);
    assert_eq!((master.tally.messages, master.tally.connections), (1, 2));

    let mut there = SyncDaemons::new();
    let backup = SyncDaemon {
        role: SyncRole::Backup,
        ..master.daemon.clone()
    };
    receiver.set_nonblocking(false).unwrap();
    receiver.peek(&mut [0]).unwrap();
    there.running.push(running(backup, vec![receiver]));
    let takers = [FakeWorker::new(), FakeWorker::new()];
    let ports: Vec<Arc<dyn WorkerHandle>> = takers.iter().map(|worker| Arc::clone(worker) as _).collect();
    there.tend(&ports, &Sysctls::default());
    for taker in takers {
        assert_eq!(*taker.taken_over.lock().unwrap(), [conn(1_000), conn(2_000)]);
    }
    let (_, tally) = there.status(SyncRole::Backup).unwrap();
    assert_eq!((tally.messages, tally.connections), (1, 2));
    assert!(tally.refused.is_empty());
}

#[test]
fn what_is_malformed_or_of_another_id_is_counted_by_name() {
    let (sender, receiver) = pair();
    let backup = SyncDaemon {
        role: SyncRole::Backup,
        sync_id: 9,
        ..master()
    };
    for message in [&b"x"[..], b"\0\x07\0\x08\0\x01\0\0", b"\0\x09\0\x09\0\x01\0\0"] {
        sender.send(message).unwrap();
    }
    receiver.peek(&mut [0]).unwrap();
    let mut backup = running(backup, vec![receiver]);
    while backup.tally.messages < 3 {
        let mut signing = Signing {
            settings: &SyncSettings::default(),
            sequence: &mut Sequence::default(),
        };
        backup.receive(&mut signing, &mut [Senders::default()], (&mut Vec::new(), &mut []), 0);
    }
    let refused: Vec<_> = backup.tally.refused.into_iter().collect();
    assert_eq!(
        refused,
        [("message_short", 1), ("message_size", 1), ("other_sync_id", 1)]
    );
}

#[test]
fn a_worker_that_takes_nothing_costs_a_bounded_number_of_batches() {
    let mut waiting = vec![VecDeque::new()];
    let mut tally = Tally::default();
    for _ in 0..BATCHES_WAITING_MAX + 2 {
        hand_out(&mut vec![conn(1), conn(2)], &mut waiting, &mut tally);
    }
    assert_eq!(
        (waiting[0].len(), tally.refused["worker_behind"]),
        (BATCHES_WAITING_MAX, 4)
    );
}

#[test]
fn what_a_backup_took_reaches_workers_after_it_has_stopped() {
    let mut here = SyncDaemons::new();
    let worker = FakeWorker::new();
    here.waiting = vec![VecDeque::new()];
    hand_out(&mut vec![conn(1)], &mut here.waiting, &mut Tally::default());
    let workers: Vec<Arc<dyn WorkerHandle>> = vec![Arc::clone(&worker) as _];
    here.tend(&workers, &Sysctls::default());
    assert_eq!(*worker.taken_over.lock().unwrap(), [conn(1)]);
    assert!(here.waiting[0].is_empty());
}

#[test]
fn without_room_in_the_queue_messages_are_dropped_by_name() {
    let (sender, _receiver) = pair();
    let mut master = running(master(), vec![sender]);
    let mut sysctls = Sysctls::default();
    sysctls.set("sync_qlen_max", "1").unwrap();
    let (settings, mut sequence) = (SyncSettings::default(), Sequence::default());
    let mut signing = Signing {
        settings: &settings,
        sequence: &mut sequence,
    };
    master.queue(0, vec![1], &sysctls, &mut signing);
    master.queue(0, vec![2], &sysctls, &mut signing);
    assert_eq!(master.tally.refused["queue_full"], 1);
}

/// Settings with a key of this letter.
fn signed_by(letter: u8) -> SyncSettings {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sync.key");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .unwrap();
    std::io::Write::write_all(&mut file, &[letter; 40]).unwrap();
    SyncSettings {
        key: Some(SyncKey::read(&path).unwrap()),
        ..SyncSettings::default()
    }
}

/// The ends of a message from `socket` on the master's first port.
fn ends_of(socket: &UdpSocket) -> MessageEnds {
    ends(&master(), 0, socket.local_addr().unwrap().ip())
}

/// What a backup with `settings` counts and takes of these datagrams, which `sender` sends.
fn received(
    settings: &SyncSettings,
    (sender, receiver): (UdpSocket, UdpSocket),
    datagrams: &[Vec<u8>],
) -> (Vec<(&'static str, u64)>, Vec<SyncConn>) {
    let daemon = SyncDaemon {
        role: SyncRole::Backup,
        ..master()
    };
    let mut backup = running(daemon, vec![receiver]);
    let mut senders = [Senders::default()];
    let (mut batch, mut waiting) = (Vec::new(), vec![VecDeque::new()]);
    for datagram in datagrams {
        sender.send(datagram).unwrap();
        let before = backup.tally.messages;
        while backup.tally.messages == before {
            let mut signing = Signing {
                settings,
                sequence: &mut Sequence::default(),
            };
            backup.receive(&mut signing, &mut senders, (&mut batch, &mut waiting), 0);
        }
    }
    let taken = waiting[0].iter().flat_map(|batch| batch.to_vec()).collect();
    (backup.tally.refused.into_iter().collect(), taken)
}

/// A message with the connection of each client port.
fn message_of(ports: &[u16]) -> Vec<u8> {
    let mut assembly = Assembly::new(3, 1_424);
    for port in ports {
        assert_eq!(assembly.add(&conn(*port), 1, 0), None);
    }
    assembly.due(SyncMode::Every, 1_000).unwrap()
}

#[test]
fn with_a_key_only_signed_messages_are_taken_each_once_and_in_any_order() {
    let (settings, pair) = (signed_by(b'k'), pair());
    let ends = ends_of(&pair.0);
    let now = clock_ns();
    let sign = |settings: &SyncSettings, sequence, port| {
        settings
            .key
            .as_ref()
            .unwrap()
            .sign(&ends, sequence, &message_of(&[port]))
    };
    let mut changed = sign(&settings, now + 4, 4);
    changed[40] ^= 1;
    let other_port = MessageEnds { port: 1, ..ends };
    let elsewhere = settings
        .key
        .as_ref()
        .unwrap()
        .sign(&other_port, now + 5, &message_of(&[5]));
    let (refused, taken) = received(
        &settings,
        pair,
        &[
            sign(&settings, now + 2, 2),
            sign(&settings, now + 2, 2),
            sign(&settings, now + 1, 1),
            sign(&settings, now + 3, 3),
            sign(&settings, now + 1, 1),
            message_of(&[9]),
            sign(&signed_by(b'x'), now + 6, 6),
            changed,
            elsewhere,
            vec![0; 20],
        ],
    );
    assert_eq!(
        refused,
        [
            ("message_replayed", 2),
            ("message_signature", 3),
            ("message_unsigned", 2)
        ]
    );
    assert_eq!(taken, [conn(2), conn(1), conn(3)]);
}

#[test]
fn what_was_recorded_long_ago_is_not_taken_by_a_backup_that_begins() {
    let (settings, pair) = (signed_by(b'k'), pair());
    let an_hour_ago = clock_ns() - 3_600_000_000_000;
    let key = settings.key.as_ref().unwrap();
    let recorded = key.sign(&ends_of(&pair.0), an_hour_ago, &message_of(&[1]));
    let (refused, taken) = received(&settings, pair, &[recorded]);
    assert_eq!((refused, taken), (vec![("message_stale", 1)], vec![]));
}

#[test]
fn without_a_key_signed_messages_are_named() {
    let pair = pair();
    let key = signed_by(b'k').key.unwrap();
    let signed = key.sign(&ends_of(&pair.0), clock_ns(), &message_of(&[1]));
    let (refused, taken) = received(&SyncSettings::default(), pair, &[signed, message_of(&[2])]);
    assert_eq!((refused, taken), (vec![("message_signed", 1)], vec![conn(2)]));
}

#[test]
fn messages_of_other_directors_than_the_peers_are_dropped() {
    let peers = |peer: &str| SyncSettings {
        peers: vec![peer.parse().unwrap()],
        ..SyncSettings::default()
    };
    let (refused, taken) = received(&peers("192.0.2.3"), pair(), &[message_of(&[1])]);
    assert_eq!((refused, taken), (vec![("other_peer", 1)], vec![]));
    let (refused, taken) = received(&peers("127.0.0.1"), pair(), &[message_of(&[1])]);
    assert_eq!((refused, taken), (vec![], vec![conn(1)]));
}

#[test]
fn what_a_master_signs_fits_the_link_and_its_backup_takes_it() {
    let settings = signed_by(b'k');
    let (sender, receiver) = pair();
    let worker = FakeWorker::new();
    worker.synced.lock().unwrap().extend((0..60).map(conn));
    let workers: Vec<Arc<dyn WorkerHandle>> = vec![worker];
    let mut here = SyncDaemons::new();
    here.running.push(running(master(), vec![sender.try_clone().unwrap()]));
    let _ = here.configure(settings.clone());
    let SyncDaemons { running, sequence, .. } = &mut here;
    let mut signing = Signing {
        settings: &settings,
        sequence,
    };
    running[0].sync_out(&workers, &Sysctls::default(), &mut signing, 0);
    running[0].sync_out(&workers, &Sysctls::default(), &mut signing, 2_000);
    let mut datagrams = Vec::new();
    for _ in 0..running[0].tally.messages {
        let mut buffer = vec![0; 2_000];
        receiver.set_nonblocking(false).unwrap();
        let len = receiver.recv(&mut buffer).unwrap();
        assert!(len <= 1_472, "{len} bytes");
        buffer.truncate(len);
        datagrams.push(buffer);
    }
    assert_eq!(datagrams.len(), 2);
    let (refused, taken) = received(&settings, (sender, receiver), &datagrams);
    assert_eq!((refused, taken.len()), (vec![], 60));
}

#[test]
fn a_message_of_every_connection_leaves_after_milliseconds() {
    let (sender, _receiver) = pair();
    let worker = FakeWorker::new();
    worker.synced.lock().unwrap().push(conn(1));
    let workers: Vec<Arc<dyn WorkerHandle>> = vec![worker];
    let mut master = running(master(), vec![sender]);
    let mut settings = SyncSettings::default();
    settings.policy.mode = SyncMode::Every;
    let mut sequence = Sequence::default();
    let mut signing = Signing {
        settings: &settings,
        sequence: &mut sequence,
    };
    for (now_ms, messages) in [(0, 0), (9, 0), (10, 1)] {
        master.sync_out(&workers, &Sysctls::default(), &mut signing, now_ms);
        assert_eq!(master.tally.messages, messages, "after {now_ms} ms");
    }
}

#[test]
fn a_backup_that_follows_another_takes_no_message_again_until_there_is_another_key() {
    let (sender, receiver) = pair();
    receiver.set_nonblocking(true).unwrap();
    let mut here = SyncDaemons::new();
    let settings = signed_by(b'k');
    let mut every = settings.clone();
    every.policy.mode = SyncMode::Every;
    assert!(
        here.configure(every) && here.configure(settings.clone()),
        "workers follow the mode"
    );
    let recorded = settings
        .key
        .as_ref()
        .unwrap()
        .sign(&ends_of(&sender), clock_ns(), &message_of(&[1]));
    let heard = |here: &mut SyncDaemons, datagram: &[u8]| {
        let daemon = SyncDaemon {
            role: SyncRole::Backup,
            ..master()
        };
        here.running.clear();
        here.running.push(running(daemon, vec![receiver.try_clone().unwrap()]));
        sender.send(datagram).unwrap();
        while here.status(SyncRole::Backup).unwrap().1.messages == 0 {
            here.tend(&[], &Sysctls::default());
        }
        let (_, tally) = here.status(SyncRole::Backup).unwrap();
        (tally.connections, tally.refused.keys().copied().collect::<Vec<_>>())
    };
    assert_eq!(heard(&mut here, &recorded), (1, vec![]));
    assert_eq!(heard(&mut here, &recorded), (0, vec!["message_replayed"]));
    assert!(!here.configure(settings), "nothing differs");
    assert_eq!(heard(&mut here, &recorded), (0, vec!["message_replayed"]));
    assert!(!here.configure(signed_by(b'l')), "workers see no key");
    assert!(here.senders.is_empty());
    assert_eq!(heard(&mut here, &recorded), (0, vec!["message_signature"]));
}

/// A master with connections and a backup without, in the same time.
struct BulkPair {
    settings: SyncSettings,
    numbers: [Sequence; 2],
    workers: Vec<Arc<dyn WorkerHandle>>,
    master: Running,
    backup: Running,
    /// The other handle of what the backup hears.
    line: UdpSocket,
    senders: Vec<Senders>,
    known: Vec<SyncConn>,
    now_ms: u64,
}

impl BulkPair {
    fn new(mut settings: SyncSettings, conns: u16) -> Self {
        settings.bulk_rate = 100_000;
        let worker = FakeWorker::new();
        worker.table.lock().unwrap().extend((0..conns).map(conn));
        let ((sender, receiver), (asker, hearer)) = (pair(), pair());
        [&asker, &hearer]
            .iter()
            .for_each(|socket| socket.set_nonblocking(true).unwrap());
        let line = receiver.try_clone().unwrap();
        let (mut master, mut backup) = (
            running(master(), vec![sender]),
            running(
                SyncDaemon {
                    role: SyncRole::Backup,
                    ..master()
                },
                vec![receiver],
            ),
        );
        (master.notices, backup.notices) = (Notices::over(hearer), Notices::over(asker));
        let message_max = settings.message_max(master.sockets.max_len);
        master.assemblies[0].set_max_len(message_max);
        Self {
            settings,
            numbers: [Sequence::default(), Sequence::default()],
            workers: vec![worker],
            master,
            backup,
            line,
            senders: vec![Senders::default()],
            known: Vec::new(),
            now_ms: 0,
        }
    }

    /// A pass of both; what `loses` says of the backup's datagrams is lost.
    fn pass(&mut self, loses: bool) {
        self.now_ms += 1;
        let [of_master, of_backup] = &mut self.numbers;
        let mut signing = Signing {
            settings: &self.settings,
            sequence: of_master,
        };
        self.master
            .sync_out(&self.workers, &Sysctls::default(), &mut signing, self.now_ms);
        if loses {
            while self.line.recv(&mut [0; 2_000]).is_ok() {}
        }
        let mut signing = Signing {
            settings: &self.settings,
            sequence: of_backup,
        };
        let (mut batch, mut waiting) = (Vec::new(), vec![VecDeque::new()]);
        self.backup
            .receive(&mut signing, &mut self.senders, (&mut batch, &mut waiting), self.now_ms);
        self.known
            .extend(waiting[0].iter().flat_map(|batch: &Arc<[SyncConn]>| batch.to_vec()));
    }

    fn completes(&mut self) {
        self.pass(false);
        while self.backup.heard.status().state != SyncBulkState::Complete {
            self.pass(false);
        }
    }
}

#[test]
fn a_backup_asks_for_all_connections_of_its_master_and_gets_them_signed_or_not() {
    for settings in [SyncSettings::default(), signed_by(b'k')] {
        let mut pair = BulkPair::new(settings, 1_000);
        pair.completes();
        let known: HashSet<u16> = pair.known.iter().map(|conn| conn.client.1).collect();
        assert_eq!(known.len(), 1_000);
        assert!(pair.now_ms < 5_000, "{} ms", pair.now_ms);
        let (copied, heard) = (pair.master.bulk.status(), pair.backup.heard.status());
        assert_eq!((copied.runs, copied.connections), (1, 1_000));
        assert_eq!((heard.runs, heard.connections), (1, 1_000));
        assert_eq!(
            pair.master.tally.messages, pair.backup.tally.messages,
            "notices are not counted"
        );
        assert!(pair.master.tally.refused.is_empty() && pair.backup.tally.refused.is_empty());
    }
}

#[test]
fn after_a_partition_the_backup_knows_that_it_lacks_messages_and_asks_again() {
    let mut pair = BulkPair::new(SyncSettings::default(), 40);
    pair.completes();
    (0..3_000).for_each(|_| pair.pass(true));
    assert_eq!(
        pair.backup.heard.status().state,
        SyncBulkState::Complete,
        "nothing was sent"
    );
    let news = FakeWorker::new();
    news.synced.lock().unwrap().push(conn(7));
    let [worker] = &pair.workers[..] else {
        panic!("there is one")
    };
    let worker_before = Arc::clone(worker);
    pair.workers = vec![news];
    (0..3_000).for_each(|_| pair.pass(true));
    pair.workers = vec![worker_before];
    pair.known.clear();
    while pair.backup.heard.status().runs < 2 {
        pair.pass(false);
    }
    assert_eq!(pair.backup.tally.refused["message_lost"], 1);
    assert_eq!(pair.known.len(), 40);
}

#[test]
fn without_bulk_sync_nothing_is_sent_besides_messages() {
    let mut pair = BulkPair::new(SyncSettings::default(), 10);
    pair.settings.bulk_rate = 0;
    (0..3_000).for_each(|_| pair.pass(false));
    assert!(pair.line.recv(&mut [0; 100]).is_err() && pair.master.unsent.is_empty());
    let mut here = SyncDaemons::new();
    here.running.push(pair.master);
    assert_eq!(here.bulk_status(SyncRole::Master).state, SyncBulkState::Off);
}
