//! A worker with its real state on repeated captures: it allocates nothing, and it survives an empty pool.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use lvs_core::arena::Arena;
use lvs_core::conn_record::DumpCursor;
use lvs_core::counters::WorkerCounters;
use lvs_core::ipvs::desired::DesiredServices;
use lvs_core::ipvs::protocol::Timeouts;
use lvs_core::ipvs::sync::{SyncConn, SyncRoles};
use lvs_core::ipvs::sysctl::Sysctls;
use lvs_core::l3::{DeviceId, L3};
use lvs_core::random::Random;
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use lvs_core::testing::mutate::{add_services, arbitrary, seeds};
use lvs_core::testing::network::{LAN, director_mac, network};
use lvs_core::testing::{CapturedFrame, tcp4, tcp6, write_pcap};
use lvs_core::verdict::WorkerId;
use lvs_core::worker_state::{WorkerSettings, WorkerState};
use lvs_test_support::dpdk::{open, pool, start_eal};
use lvs_test_support::process::in_own_process;
use lvs_test_support::waits::PATIENCE;
use lvsd::dpdk::device::Device;
use lvsd::dpdk::lcore::LcoreHandle;
use lvsd::dpdk::{Clock, Eal, Mempool, lcore};
use lvsd::worker::Worker;
use lvsd::worker::assignment::{AssignmentSettings, TwinEnds, assemble};
use lvsd::worker::idle::IdlePolicy;
use lvsd::worker::mailbox::{Command, ConnDump, CopyConns, Mailbox, Reply};

const CONNS_MAX: usize = 2_048;
const SERVERS_MAX: usize = 64;

/// A worker on its lcore, and the test as its management core.
struct Running {
    pool: Mempool,
    counters: Arc<WorkerCounters>,
    mailbox: Arc<Mailbox>,
    twin_ends: TwinEnds,
    desired: DesiredServices,
    l3: Arc<L3>,
    handle: LcoreHandle,
    counted: mpsc::Receiver<allocation_counter::AllocationInfo>,
    /// Batches of connections that the worker is still to import and for which no flow follows.
    passing: u32,
    _devices: Vec<Device>,
    _eal: Eal,
}

fn snapshot(desired: &DesiredServices, l3: &Arc<L3>) -> Arc<Snapshot> {
    let mut timeouts = Timeouts::default();
    timeouts.set(1, 1, 1).unwrap();
    let mut sysctls = Sysctls::default();
    sysctls.set("sync_threshold", "0 1").unwrap();
    Arc::new(Snapshot {
        services: Arc::new(desired.build()),
        l3: Arc::clone(l3),
        timeouts,
        sysctls,
        sync: SyncRoles {
            master: true,
            backup: true,
        },
        workers_count: 1,
        ..Snapshot::default()
    })
}

impl Running {
    /// Polls the two captures again and again.
    fn start(captures: [&Path; 2]) -> Self {
        let eal = start_eal(1);
        let pool = pool(&eal, 16_383);
        let replay = |(number, capture): (usize, &Path)| {
            let driver = format!("net_pcap{number},rx_pcap={},infinite_rx=1", capture.display());
            open(&eal, pool, number as u8, &driver)
        };
        let (devices, queues): (Vec<_>, Vec<_>) = captures.into_iter().enumerate().map(replay).unzip();
        let counters = [Arc::new(WorkerCounters::new(SERVERS_MAX))];
        let assignment_settings = AssignmentSettings {
            counters: &counters,
            twins: &[DeviceId(0), DeviceId(1)],
            idle: IdlePolicy::Pause,
            clock: Clock::start(&eal),
            pool,
        };
        let mut assignment = assemble(queues, &assignment_settings);
        let mut desired = DesiredServices::default();
        add_services(&mut desired);
        let l3 = Arc::new(network().build(1));
        let settings = WorkerSettings {
            id: WorkerId(0),
            workers_count: 1,
            conns4_max: CONNS_MAX,
            conns6_max: CONNS_MAX,
            local_port_rest_ms: 60_000,
            secret: [1, 2, 3, 4],
            seed: 5,
        };
        let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
        let [own] = &counters;
        let first = snapshot(&desired, &l3);
        let state = WorkerState::new(
            settings,
            &mut arena,
            first,
            Arc::new([Arc::clone(own)]),
            Arc::clone(own),
        );
        let mut worker = Worker::new(assignment.workers.remove(0), state.unwrap());
        let (sender, counted) = mpsc::channel();
        let handle = lcore::launch(&eal, 0, move || {
            sender.send(allocation_counter::measure(|| worker.run())).unwrap();
        })
        .unwrap();
        Self {
            pool,
            counters: Arc::clone(own),
            mailbox: assignment.mailboxes.remove(0),
            twin_ends: assignment.twin_ends,
            desired,
            l3,
            handle,
            counted,
            passing: 20,
            _devices: devices,
            _eal: eal,
        }
    }

    fn received(&self) -> u64 {
        self.counters.devices.iter().map(|device| device.rx_packets.get()).sum()
    }

    /// Plays the management core until the worker has received more frames.
    fn receives_more_than(&mut self, before: u64) {
        let end = Instant::now() + PATIENCE;
        while self.received() <= before {
            assert!(Instant::now() < end, "it receives nothing after {before} frames");
            self.manage(Duration::from_millis(5));
        }
    }

    /// Plays the management core for a while: empties the rings, answers, and continues dumps.
    fn manage(&mut self, time: Duration) -> Managed {
        let end = Instant::now() + time;
        let mut managed = Managed::default();
        while Instant::now() < end {
            while self.twin_ends.rings[0].take().is_some() {}
            while let Some(reply) = self.mailbox.replies.pop() {
                match reply {
                    Reply::Retired(_) => managed.snapshots += 1,
                    Reply::ConnDump(dump) => managed.records += dump.records.len(),
                    Reply::ImportedSynced(conns) => managed.imported += conns.len(),
                    Reply::CopiedConns(copied) => managed.copied += copied.slice.copied as usize,
                    Reply::Resolve(_) | Reply::Explained(_) | Reply::Tap(_) => {}
                }
            }
            // The connections that it syncs out come back as those of another director, with other clients.
            let synced_out = std::iter::from_fn(|| self.mailbox.synced.pop());
            let other = |conn: SyncConn| SyncConn {
                client: (conn.client.0, conn.client.1 ^ 0x8000),
                ..conn
            };
            let passing = |conn: &SyncConn| SyncConn {
                client: (conn.client.0, conn.client.1 ^ 0x4000),
                timeout_sec: 1,
                ..*conn
            };
            let conns: Arc<[SyncConn]> = synced_out.take(128).map(other).collect();
            if !conns.is_empty() {
                if let Some(left) = self.passing.checked_sub(1) {
                    self.passing = left;
                    self.ask(Command::ImportSynced(conns.iter().map(passing).collect()));
                }
                self.ask(Command::ImportSynced(conns));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        managed
    }

    fn ask(&self, command: Command) {
        let _ = self.mailbox.commands.push(command);
    }

    /// Ends the worker. Returns what it allocated.
    fn stop(self) -> allocation_counter::AllocationInfo {
        self.mailbox.commands.force_push(Command::Stop);
        self.handle.join().unwrap();
        self.counted.recv().unwrap()
    }
}

#[derive(Debug, Default)]
struct Managed {
    snapshots: usize,
    records: usize,
    imported: usize,
    copied: usize,
}

/// Two captures: from clients and from real servers.
struct Captures {
    directory: tempfile::TempDir,
}

impl Captures {
    fn new() -> Self {
        let captures = Self {
            directory: tempfile::TempDir::new().unwrap(),
        };
        let (mut random, seeds) = (Random::new(7), seeds());
        let mut from_clients: Vec<Vec<u8>> = Vec::new();
        for port in 80..84 {
            for client in 0..100 {
                let ends4 = format!("192.0.2.3:{} > 192.0.2.100:{port}", 20_000 + client);
                let ends6 = format!("[2001:db8:a::3]:{} > [2001:db8:a::100]:{port}", 20_000 + client);
                from_clients.push(tcp4(&ends4).syn().mss(1_460).build());
                from_clients.push(tcp4(&ends4).ack().payload(b"data").build());
                from_clients.push(tcp6(&ends6).syn().mss(1_440).build());
                from_clients.push(tcp6(&ends6).ack().payload(b"data").build());
                from_clients.push(tcp4(&ends4).fin().ack().build());
                from_clients.push(tcp6(&ends6).fin().ack().build());
            }
        }
        // Each frame of a repeated capture must fit into one buffer.
        let arbitrary = std::iter::repeat_with(|| arbitrary(&mut random, &seeds)).filter(|frame| frame.len() <= 1_514);
        from_clients.extend(arbitrary.take(1_000));
        captures.write("wan", from_clients);
        let replies = (0..100).flat_map(|client| {
            (11..14).map(move |server| {
                tcp4(&format!("198.51.100.{server}:80 > 192.0.2.3:{}", 20_000 + client))
                    .ack()
                    .payload(b"answer")
                    .dst_mac(director_mac(LAN))
                    .build()
            })
        });
        captures.write("lan", replies);
        captures
    }

    fn write(&self, name: &str, frames: impl IntoIterator<Item = Vec<u8>>) {
        let captured: Vec<_> = frames.into_iter().map(CapturedFrame::of).collect();
        std::fs::write(self.path(name), write_pcap(&captured)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.pcap"))
    }
}

#[test]
fn a_worker_with_its_real_state_allocates_nothing() {
    in_own_process("a_worker_with_its_real_state_allocates_nothing", || {
        let captures = Captures::new();
        let mut running = Running::start([&captures.path("wan"), &captures.path("lan")]);
        let mut managed = Managed::default();
        let counters = Arc::clone(&running.counters);
        let wan = &counters.devices[0];
        let end = Instant::now() + Duration::from_secs(120);
        for round in 0u32.. {
            // What it must do without an allocation. There are far more picks than flows, so all the time ports are
            // reused, connections are removed and created, and others get no packets any more.
            let is_enough = managed.snapshots >= 50
                && managed.records > 5_000
                && managed.imported > 1_000
                // New connections fill the queue nearly always, and copies wait behind them.
                && managed.copied > 0
                && wan.rx_packets.get() > 100_000
                && wan.punted_packets.get() > 0
                && counters.scheduler_picks.get() > 1_000
                && counters.conns_expired.get() > 100
                && counters.drops.iter().filter(|drops| drops.get() > 0).count() >= 5;
            if round >= 60 && is_enough {
                break;
            }
            assert!(Instant::now() < end, "{managed:?}, {counters:?}");
            // Another scheduler, another network, all connections.
            let keys: Vec<_> = running.desired.services().map(|listing| *listing.spec).collect();
            for mut spec in keys {
                spec.scheduler = lvs_core::ipvs::scheduler::SchedulerKind::ALL[round as usize % 12];
                spec.scheduler_flags = Default::default();
                running.desired.edit_service(spec).unwrap();
            }
            running.l3 = Arc::new(network().build(round + 2));
            running.ask(Command::Publish(snapshot(&running.desired, &running.l3)));
            for cursor in [DumpCursor::V4(0), DumpCursor::V6(0)] {
                running.ask(Command::DumpConns(Box::new(ConnDump {
                    cursor: Some(cursor),
                    records: Vec::with_capacity(256),
                    ticket: 0,
                })));
                running.ask(Command::CopyConns(CopyConns {
                    from: cursor,
                    conns_max: 512,
                    ticket: 0,
                }));
            }
            let of_round = running.manage(Duration::from_millis(50));
            managed.snapshots += of_round.snapshots;
            managed.records += of_round.records;
            managed.imported += of_round.imported;
            managed.copied += of_round.copied;
        }
        let counted = running.stop();
        println!("{managed:?}, {} frames, {counted:?}", wan.rx_packets.get());
        assert_eq!((counted.count_total, counted.bytes_total), (0, 0), "{counted:?}");
    });
}

#[test]
fn a_worker_outlives_an_empty_pool() {
    in_own_process("a_worker_outlives_an_empty_pool", || {
        let captures = Captures::new();
        let mut running = Running::start([&captures.path("wan"), &captures.path("lan")]);
        running.receives_more_than(0);

        // The test keeps all punted frames, so the worker runs out of buffers one by one.
        let mut taken = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut starved = 0;
        let mut passes = 0;
        // The worker runs a pass for each snapshot that it sends back.
        while running.pool.available() > 0 || running.received() > starved || passes == 0 {
            assert!(Instant::now() < end, "{} buffers are left", running.pool.available());
            starved = running.received();
            taken.extend(std::iter::from_fn(|| running.pool.alloc()));
            running.ask(Command::Publish(snapshot(&running.desired, &running.l3)));
            passes = running.manage(Duration::from_millis(5)).snapshots;
        }

        drop(taken);
        running.receives_more_than(starved);
        running.stop();
    });
}
