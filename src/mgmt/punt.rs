//! The thread between the workers and the kernel twins: punted frames to the kernel, the kernel's to a worker.
//!
//! In:  frames in the workers' rings, written to the TAP of the device they came from; frames read from a TAP,
//! put into the ring of the worker that transmits for its device.
//! Workers never wake this thread (that would be a system call); it looks by itself. While frames flow it looks
//! every [`BRISK`], otherwise every [`QUIET`]: the longest a punted frame waits. A frame from the kernel wakes
//! it at once.
//! Never: touches a frame's content; drops without a count.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;
use nix::poll::{PollFd, PollFlags, ppoll};

use crate::dpdk::Mempool;
use crate::dpdk::lcore::Registration;
use crate::mgmt::lock::lock;
use crate::worker::assignment::TwinEnds;
use crate::worker::punt::{TwinEnd, TwinFrame};

/// How often the thread looks into the rings for [`BRISK_FOR`] after a frame.
const BRISK: Duration = Duration::from_micros(200);

/// How long after the last frame the thread looks into the rings every [`BRISK`].
const BRISK_FOR: Duration = Duration::from_millis(20);

/// How often the thread looks into the rings otherwise. 500 wake-ups a second cost about 1 % of a CPU.
const QUIET: Duration = Duration::from_millis(2);

/// How many frames the thread moves for one worker or twin before it turns to the next.
const FRAMES_PER_TURN_MAX: usize = 64;

/// The kernel twin of a device.
#[derive(Debug)]
pub struct TwinDescriptor {
    /// Whose twin.
    pub device: DeviceId,
    /// A TAP, opened with `IFF_NO_PI` and non-blocking.
    pub fd: OwnedFd,
}

/// Twins that are to take the place of others; the thread takes them when it looks next.
#[derive(Clone, Debug, Default)]
pub struct TwinExchange(Arc<Mutex<Vec<TwinDescriptor>>>);

impl TwinExchange {
    /// Gives the thread another twin of a device.
    pub fn put(&self, twin: TwinDescriptor) {
        lock(&self.0).push(twin);
    }

    pub(crate) fn take(&self) -> Vec<TwinDescriptor> {
        std::mem::take(&mut lock(&self.0))
    }
}

/// The running thread. Stops when dropped.
#[derive(Debug)]
pub struct PuntThread {
    stop: Arc<AtomicBool>,
    counters: Arc<WorkerCounters>,
    exchange: TwinExchange,
    thread: Option<JoinHandle<()>>,
}

impl PuntThread {
    /// What the thread counts: punted and injected frames by device, and the drop `twin_write_failed`.
    pub fn counters(&self) -> &Arc<WorkerCounters> {
        &self.counters
    }

    /// By which it gets other twins.
    pub const fn exchange(&self) -> &TwinExchange {
        &self.exchange
    }
}

impl Drop for PuntThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the twin thread panicked");
        }
    }
}

/// Starts the thread. It takes buffers for the kernel's frames from `pool`.
pub fn start(ends: TwinEnds, twins: Vec<TwinDescriptor>, pool: Mempool) -> std::io::Result<PuntThread> {
    let stop = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(WorkerCounters::new(0));
    let exchange = TwinExchange::default();
    let carrier = Carrier {
        exchange: exchange.clone(),
        rings: ends.rings,
        transmitters: ends.transmitters,
        twins: twins
            .into_iter()
            .map(|twin| Twin {
                device: twin.device,
                tap: File::from(twin.fd),
            })
            .collect(),
        pool,
        counters: Arc::clone(&counters),
    };
    let stopped = Arc::clone(&stop);
    let thread = std::thread::Builder::new()
        .name("lvsd-twins".to_owned())
        .spawn(move || carrier.run(&stopped))?;
    Ok(PuntThread {
        stop,
        counters,
        exchange,
        thread: Some(thread),
    })
}

struct Twin {
    device: DeviceId,
    tap: File,
}

/// All that the thread owns.
struct Carrier {
    rings: Vec<TwinEnd>,
    transmitters: Vec<usize>,
    twins: Vec<Twin>,
    pool: Mempool,
    counters: Arc<WorkerCounters>,
    exchange: TwinExchange,
}

impl Carrier {
    fn run(mut self, stop: &AtomicBool) {
        // DPDK gives the thread a number. Without one the thread works too, but more slowly.
        let _registration = Registration::of_this_thread(&self.pool);
        let mut last_frame = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let punted = self.carry_to_kernel();
            let injected = self.carry_from_kernel();
            if punted + injected > 0 {
                last_frame = Instant::now();
                continue;
            }
            self.change_twins();
            let pause = if last_frame.elapsed() < BRISK_FOR { BRISK } else { QUIET };
            self.wait(pause);
        }
        self.carry_to_kernel();
    }

    /// Between two frames there is time for it.
    fn change_twins(&mut self) {
        for TwinDescriptor { device, fd } in self.exchange.take() {
            self.twins.retain(|known| known.device != device);
            let tap = File::from(fd);
            self.twins.push(Twin { device, tap });
        }
    }

    /// Writes to the twins what the workers punted. Returns how many frames it took.
    fn carry_to_kernel(&mut self) -> usize {
        let mut carried = 0;
        for line in 0..self.rings.len() {
            for _ in 0..FRAMES_PER_TURN_MAX {
                let Some(frame) = self.rings.get_mut(line).and_then(TwinEnd::take) else {
                    break;
                };
                self.write(&frame);
                carried += 1;
            }
        }
        carried
    }

    fn write(&mut self, frame: &TwinFrame) {
        let twin = self.twins.iter_mut().find(|twin| twin.device == frame.device);
        let written = twin.map(|twin| twin.tap.write(frame.mbuf.bytes()));
        match written {
            None => self.counters.drop_packet(DropReason::NoTwin),
            // The interface is down, or the kernel has no memory. The interface's own counters show which.
            Some(Err(_)) => self.counters.drop_packet(DropReason::TwinWriteFailed),
            Some(Ok(count)) => {
                let device = self.counters.device(frame.device);
                device.punted_packets.add(1);
                device.punted_bytes.add(count as u64);
            }
        }
    }

    /// Reads what the kernel sends. Returns how many frames it read. Without a buffer or space in the ring a frame
    /// stays in the TAP, whose own queue is bounded and counted by the kernel.
    fn carry_from_kernel(&mut self) -> usize {
        let mut carried = 0;
        for twin in &mut self.twins {
            let transmitter = self.transmitters.get(usize::from(twin.device.0)).copied().unwrap_or(0);
            let Some(line) = self.rings.get_mut(transmitter) else {
                continue;
            };
            for _ in 0..FRAMES_PER_TURN_MAX {
                if !line.has_space() {
                    break;
                }
                let Some(mut mbuf) = self.pool.alloc() else { break };
                let count = match mbuf.fill(|buffer| twin.tap.read(buffer)) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                let device = self.counters.device(twin.device);
                device.injected_packets.add(1);
                device.injected_bytes.add(count as u64);
                carried += 1;
                // There was space, and this thread is the ring's only producer.
                let _ = line.send(TwinFrame {
                    mbuf,
                    device: twin.device,
                });
            }
        }
        carried
    }

    /// Sleeps until the kernel sends something, at most `pause`.
    fn wait(&self, pause: Duration) {
        let mut taps: Vec<_> = self
            .twins
            .iter()
            .map(|twin| PollFd::new(twin.tap.as_fd(), PollFlags::POLLIN))
            .collect();
        let frame_waits = ppoll(&mut taps, Some(pause.into()), None).is_ok_and(|ready| ready > 0);
        // A frame that could not be taken (no buffer, no space) or a dead TAP must not make this a busy loop.
        if frame_waits && !self.can_read(&taps) {
            std::thread::sleep(pause);
        }
    }

    fn can_read(&self, taps: &[PollFd<'_>]) -> bool {
        let alive = taps.iter().any(|tap| {
            tap.revents().is_some_and(|events| {
                events.contains(PollFlags::POLLIN) && !events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP)
            })
        });
        alive && self.rings.iter().all(TwinEnd::has_space) && self.pool.alloc().is_some()
    }
}
