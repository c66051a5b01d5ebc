//! `lvsd --offline IN OUT`: the production path over a capture file, without devices, kernel or privileges.
//!
//! In:  a configuration and a pcap or pcapng of frames as a director received them. Out: a pcapng of the frames that it
//! sends for them, each with a comment, and a summary. Time is that of the capture: connections expire between its frames.
//! [`network`] learns the network from the capture. Never: opens a device or a socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lvs_core::arena::{Arena, ArenaError};
use lvs_core::config::Config;
use lvs_core::counters::WorkerCounters;
use lvs_core::frame::Frame;
use lvs_core::frame::vec::VecFrame;
use lvs_core::ipvs::desired::ServiceError;
use lvs_core::l3::{DeviceId, L3};
use lvs_core::limits::REAL_SERVERS_MAX;
use lvs_core::path;
use lvs_core::single_writer::SingleWriter;
use lvs_core::snapshot::Snapshot;
use lvs_core::tick::Tick;
use lvs_core::verdict::{DropReason, Verdict, WorkerId};
use lvs_core::worker_state::{Arrival, WorkerSettings, WorkerState};

mod files;
mod network;

pub(crate) use files::interface as pcapng_interface;
use files::{Captured, Output};

/// Virtual milliseconds between two housekeeping passes while time advances.
const HOUSEKEEPING_PERIOD_MS: u32 = 50;
/// A longer gap between two frames counts as this one, because everything has expired by then.
const GAP_MAX_MS: u64 = 24 * 3_600 * 1_000;

/// Why a capture cannot be processed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The input.
    #[error("{path}: {source}")]
    Input {
        /// Which file.
        path: PathBuf,
        /// The cause.
        source: pcap_file::PcapError,
    },
    /// The input does not hold Ethernet frames.
    #[error("{path}: frame {frame} is of link type {link}; only Ethernet can be processed")]
    NotEthernet {
        /// Which file.
        path: PathBuf,
        /// Its number, from 1.
        frame: usize,
        /// As the file says.
        link: u32,
    },
    /// The output.
    #[error("{path}: {source}")]
    Output {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: pcap_file::PcapError,
    },
    /// The services of the configuration.
    #[error("{0}")]
    Services(#[from] ServiceError),
    /// Too little memory for connections.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// How many frames had which result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Frames of the input.
    pub read: u64,
    /// Frames of the output.
    pub sent: u64,
    /// Frames for the kernel.
    pub punted: u64,
    /// Frames that wait for a neighbour, which nobody resolves here.
    pub held: u64,
    /// Frames that the path consumed.
    pub consumed: u64,
    /// Dropped frames by reason. Only reasons that occurred.
    pub drops: Vec<(DropReason, u64)>,
    /// Scheduled connections.
    pub connections: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dropped: u64 = self.drops.iter().map(|(_, packets)| packets).sum();
        writeln!(
            formatter,
            "{} frames read, {} sent, {} left to the kernel, {} held, {} consumed, {dropped} dropped, {} connections",
            self.read, self.sent, self.punted, self.held, self.consumed, self.connections
        )?;
        for (reason, packets) in &self.drops {
            writeln!(formatter, "drop {} {packets}", reason.name())?;
        }
        Ok(())
    }
}

/// Processes `input` as a director of this configuration would, into `output`.
///
/// # Errors
/// A file cannot be read or written, or services contradict each other.
pub fn run(config: &Config, input: &Path, output: &Path) -> Result<Summary, OfflineError> {
    let frames = files::read(input)?;
    let l3 = network::learn(config, &frames);
    let names: Vec<String> = config.devices.iter().map(|device| device.name.clone()).collect();
    let out = Output::create(output, &names)?;
    let mut director = OfflineDirector::new(config, l3, out)?;
    let first_ns = frames.first().map_or(0, |frame| frame.time_ns);
    let mut before_ns = first_ns;
    for (index, frame) in frames.iter().enumerate() {
        let gap_ms = (frame.time_ns.saturating_sub(first_ns) / 1_000_000)
            .saturating_sub(before_ns.saturating_sub(first_ns) / 1_000_000);
        before_ns = before_ns.max(frame.time_ns);
        director.advance(gap_ms.min(GAP_MAX_MS) as u32)?;
        director.frame(index + 1, frame)?;
    }
    director.finish()
}

/// The workers of a director in virtual time, and its output.
struct OfflineDirector {
    workers: Vec<WorkerState>,
    counters: Arc<[Arc<WorkerCounters>]>,
    now: Tick,
    out: Output,
    /// The current frame's number and time.
    cause: (usize, u64),
    summary: Summary,
}

impl OfflineDirector {
    fn new(config: &Config, l3: L3, out: Output) -> Result<Self, OfflineError> {
        let count = config.workers.count;
        let snapshot = Arc::new(Snapshot {
            services: Arc::new(config.desired_services()?.build()),
            l3: Arc::new(l3),
            timeouts: config.timeouts,
            marks: Arc::new(config.marks.clone()),
            sysctls: config.sysctls,
            workers_count: count,
            ..Snapshot::default()
        });
        let counters: Arc<[Arc<WorkerCounters>]> = (0..count)
            .map(|_| Arc::new(WorkerCounters::new(REAL_SERVERS_MAX)))
            .collect();
        let mut workers = Vec::with_capacity(counters.len());
        for (number, own) in counters.iter().enumerate() {
            let settings = WorkerSettings {
                id: WorkerId(number as u8),
                workers_count: count,
                conns4_max: config.connections.ipv4_max as usize,
                conns6_max: config.connections.ipv6_max as usize,
                local_port_rest_ms: config.connections.local_port_rest_sec * 1_000,
                // Fixed, so that every run gives the same frames.
                secret: [1, 2, 3, 4],
                seed: number as u64 + 1,
            };
            let mut arena = Arena::in_memory(WorkerState::arena_bytes(&settings));
            let (snapshot, all) = (Arc::clone(&snapshot), Arc::clone(&counters));
            workers.push(WorkerState::new(settings, &mut arena, snapshot, all, Arc::clone(own))?);
        }
        Ok(Self {
            workers,
            counters,
            now: Tick(1_000),
            out,
            cause: (0, 0),
            summary: Summary::default(),
        })
    }

    /// Lets virtual time pass.
    fn advance(&mut self, ms: u32) -> Result<(), OfflineError> {
        let mut left_ms = ms;
        while left_ms > 0 {
            let period_ms = left_ms.min(HOUSEKEEPING_PERIOD_MS);
            left_ms -= period_ms;
            self.now = self.now.plus_ms(period_ms);
            for worker in 0..self.workers.len() {
                path::housekeeping::run(&mut self.workers[worker], self.now);
                self.send_generated(worker, DeviceId(0))?;
            }
        }
        Ok(())
    }

    /// Processes one frame of the capture. The first worker receives it, the owner of its connection processes it.
    fn frame(&mut self, number: usize, captured: &Captured) -> Result<(), OfflineError> {
        self.cause = (number, captured.time_ns);
        self.summary.read += 1;
        let mut frame = VecFrame::new(&captured.bytes);
        let mut verdicts = [Verdict::Punt];
        let frames = std::slice::from_mut(&mut frame);
        path::process(
            &mut self.workers[0],
            Arrival::at(captured.device, self.now),
            frames,
            &mut verdicts,
        );
        self.send_generated(0, captured.device)?;
        self.dispatch(0, captured.device, frame, verdicts[0])
    }

    fn dispatch(
        &mut self,
        worker: usize,
        device: DeviceId,
        mut frame: VecFrame,
        verdict: Verdict,
    ) -> Result<(), OfflineError> {
        match verdict {
            Verdict::Transmit(to) => {
                let (number, time_ns) = self.cause;
                self.summary.sent += 1;
                let comment = format!("worker {worker}, for frame {number}");
                self.out.write(to, time_ns, frame.bytes(), &comment)?;
            }
            Verdict::Handoff(owner) => {
                let owner = usize::from(owner.0);
                let mut verdicts = [Verdict::Punt];
                let frames = std::slice::from_mut(&mut frame);
                path::process(
                    &mut self.workers[owner],
                    Arrival::handoff(device, self.now),
                    frames,
                    &mut verdicts,
                );
                self.send_generated(owner, device)?;
                // A frame is handed off once at most.
                if !matches!(verdicts[0], Verdict::Handoff(_)) {
                    return self.dispatch(owner, device, frame, verdicts[0]);
                }
            }
            Verdict::Punt => self.summary.punted += 1,
            Verdict::Hold(_) => self.summary.held += 1,
            Verdict::Consumed => self.summary.consumed += 1,
            Verdict::Drop(reason) => self.counters[worker].drop_packet(reason),
        }
        Ok(())
    }

    /// Dispatches the frames that the path generated.
    fn send_generated(&mut self, worker: usize, device: DeviceId) -> Result<(), OfflineError> {
        while let Some((verdict, bytes)) = self.workers[worker].next_generated() {
            let frame = VecFrame::new(bytes);
            self.dispatch(worker, device, frame, verdict)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Summary, OfflineError> {
        self.out.finish()?;
        let dropped = |reason: &DropReason| {
            let packets = self.counters.iter().map(|of| of.drops_of(*reason)).sum();
            (packets > 0).then_some((*reason, packets))
        };
        self.summary.drops = DropReason::ALL.iter().filter_map(dropped).collect();
        let servers = self.counters.iter().flat_map(|of| of.servers.iter());
        self.summary.connections = servers.map(|server| server.connections.get()).sum();
        Ok(self.summary)
    }
}
