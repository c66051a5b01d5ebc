//! Daemons between fake workers and real sockets; what is missing, full or malformed is named.

use std::net::UdpSocket;

use lvs_core::ipvs::conn::ConnFlags;

use super::*;
use crate::mgmt::fake_worker::FakeWorker;

fn conn(port: u16) -> SyncConn {
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
    Running {
        assemblies: sockets.iter().map(|_| Assembly::new(daemon.sync_id, max_len)).collect(),
        daemon,
        sockets: Sockets { sockets, max_len },
        unsent: VecDeque::new(),
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
    master.sync_out(&senders, &Sysctls::default(), 0);
    assert_eq!(master.tally.messages, 0, "it waits for more");
    master.sync_out(&senders, &Sysctls::default(), 2_000);
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
        backup.receive(&mut Vec::new(), &mut []);
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
fn without_room_in_the_queue_messages_are_dropped_by_name() {
    let (sender, _receiver) = pair();
    let mut master = running(master(), vec![sender]);
    let mut sysctls = Sysctls::default();
    sysctls.set("sync_qlen_max", "1").unwrap();
    master.queue(0, vec![1], &sysctls);
    master.queue(0, vec![2], &sysctls);
    assert_eq!(master.tally.refused["queue_full"], 1);
}
