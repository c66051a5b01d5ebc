//! Plays one recording on a [`TestDirector`] with the recordings' network.

use lvs_core::ipvs::scheduler::Overhead;
use lvs_core::l3::DeviceId;
use lvs_core::testing::director::TestDirector;

use crate::commands;
use crate::daemons::{self, Daemons};
use crate::frames::{self, Identities};
use crate::host;
use crate::listing::{GRID_MS, Listings};
use crate::machine::{Machine, Outcomes};
use crate::scenario::{Command, Expected, Scenario, Side, Step, bytes, expectations};
use crate::setup::Setup;

const CONNS_MAX: usize = 16_384;

impl Side {
    pub const fn device(self) -> DeviceId {
        match self {
            Self::Client => DeviceId(0),
            Self::Rs => DeviceId(1),
        }
    }

    pub const fn of(device: DeviceId) -> Self {
        match device {
            DeviceId(0) => Self::Client,
            _ => Self::Rs,
        }
    }
}

/// Plays `scenario`.
///
/// # Errors
/// The first difference, readable.
pub fn play(scenario: &Scenario) -> Result<(), String> {
    let mut setup = Setup::read(&scenario.setup)?;
    for (name, value) in &scenario.sysctls {
        setup.set_sysctl(name, value.as_str().unwrap_or_default());
    }
    let mut director = TestDirector::new(1, CONNS_MAX, setup.network());
    director.set_marks(setup.marks()?);
    director.desired.set_overhead(Overhead::Current);
    for (name, value) in &scenario.sysctls {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        commands::set_sysctl(&mut director, name, &value)?;
    }
    for line in scenario.config_in.lines() {
        // What the kernel refused, as the recording's later listings show, the director refuses too.
        match commands::run(&mut director, line) {
            Err(commands::Failure::NotUnderstood(why)) => return Err(format!("config: {line}: {why}")),
            Err(commands::Failure::Unreadable(_)) => break,
            Ok(()) | Err(commands::Failure::Refused(_)) => {}
        }
    }
    let mut machine = Machine::new(director, setup);
    let mut clock = Clock {
        ms: 0,
        listings: Listings::new(),
        daemons: Daemons::default(),
    };
    let mut identities = Identities::default();
    let mut steps = scenario.steps.iter().peekable();
    while let Some(step) = steps.next() {
        if let Some(t) = step.time() {
            clock.reach(&mut machine, t);
        }
        match step {
            Step::Inject {
                iface, frame, summary, ..
            } => {
                let (bytes, early) = (bytes(frame), machine.take());
                let was_punted = machine.receive(*iface, &bytes);
                let expected = expectations(&mut steps);
                let outcomes = early.followed_by(machine.take());
                clock.daemons.gather(&mut machine.director, clock.ms);
                if was_punted {
                    clock.daemons.receive(&mut machine.director, *iface, &bytes);
                }
                let expected = clock.left_out(expected)?;
                compare(&bytes, outcomes, &expected, &mut identities)
                    .map_err(|why| format!("inject {summary}\n{why}"))?;
            }
            Step::Exec(command) => {
                clock.listings.collect(&machine.director);
                execute(&mut machine, &mut clock, command).map_err(|why| format!("exec {}: {why}", command.command))?;
            }
            Step::Listing(command) => {
                clock
                    .listing(&machine.director, command)
                    .map_err(|why| format!("listing {}\n{why}", command.command))?;
            }
            Step::Sleep { seconds, .. } => {
                clock.pass(&mut machine, *seconds);
                let expected = expectations(&mut steps);
                let expected = clock.left_out(expected)?;
                compare(&[], machine.take(), &expected, &mut identities)
                    .map_err(|why| format!("sleep {seconds}\n{why}"))?;
            }
            Step::Expect { frame, .. } if frames::is_membership(&bytes(frame)) => {}
            Step::Expect { frame, summary, .. } if frames::is_sync_message(&bytes(frame)) => {
                let outcome = clock.daemons.expect(&bytes(frame));
                outcome.map_err(|why| format!("{summary}\n{why}"))?;
            }
            Step::Expect { summary, .. } => return Err(format!("came out without a packet going in: {summary}")),
            Step::Note {
                text,
                frame: Some(frame),
            } => inject_unlisted(&mut machine.director, text, frame)?,
            Step::Note { .. } => {}
        }
    }
    clock.daemons.finish(clock.ms)
}

/// "12500 times this frame injected on client": whose outcomes are not recorded.
fn inject_unlisted(director: &mut TestDirector, text: &str, frame: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let times = match words[..] {
        [times, "times", "this", "frame", "injected", "on", "client", ..] => times.parse().ok(),
        _ => None,
    };
    let times: u32 = times.ok_or_else(|| format!("note with a frame not understood: {text}"))?;
    let bytes = bytes(frame);
    for _ in 0..times {
        director.inject(Side::Client.device(), &bytes);
    }
    Ok(())
}

/// Runs a command that changes something; it must succeed or be refused as it was then.
fn execute(machine: &mut Machine, clock: &mut Clock, command: &Command) -> Result<(), String> {
    if let Some(done) = clock.daemons.run(&mut machine.director, &command.command) {
        return match (done, command.rc) {
            (Ok(()), 0) => Ok(()),
            (Err(_), rc) if rc != 0 => Ok(()),
            (Ok(()), rc) => Err(format!("the kernel refused it ({rc}), lvsd takes it")),
            (Err(why), _) => Err(why),
        };
    }
    if clock.daemons.refuse_mixed(&command.command) && command.rc != 0 {
        return Ok(());
    }
    // What the kernel wrote into its log.
    if command.command.starts_with("dmesg ") {
        return Ok(());
    }
    let zero = command.command.strip_prefix("ipvsadm -Z");
    if let Some(service) = zero.map(str::trim) {
        let key = if service.is_empty() {
            None
        } else {
            Some(commands::service_of(service)?)
        };
        clock.listings.zero(&machine.director, key.as_ref());
        return Ok(());
    }
    if machine.setup.run(&command.command).is_ok() {
        machine.change_network();
        return Ok(());
    }
    match (commands::run_shell(&mut machine.director, &command.command), command.rc) {
        (Ok(()), 0) => Ok(()),
        (Err(commands::Failure::Refused(_) | commands::Failure::Unreadable(_)), rc) if rc != 0 => Ok(()),
        (Ok(()), rc) => Err(format!("the kernel refused it ({rc}), lvsd takes it")),
        (Err(failure), _) => Err(failure.into_text()),
    }
}

/// Brings virtual time to the recording's time stamps.
struct Clock {
    ms: u64,
    listings: Listings,
    daemons: Daemons,
}

impl Clock {
    fn reach(&mut self, machine: &mut Machine, t: f64) {
        let until = (t * 1_000.0) as u64;
        while self.ms < until {
            let grid = (self.ms / GRID_MS + 1) * GRID_MS;
            let next = grid.min(until);
            machine.advance((next - self.ms) as u32);
            self.ms = next;
            self.daemons.gather(&mut machine.director, next);
            if next == grid {
                self.listings.tick(&machine.director, grid / GRID_MS);
            }
        }
    }

    /// What else came out, once the sync messages among it are compared; reports of membership are the stack's.
    fn left_out(&mut self, expected: Vec<Expected>) -> Result<Vec<Expected>, String> {
        let mut others = Vec::new();
        for one in expected {
            if frames::is_sync_message(&one.bytes) {
                self.daemons
                    .expect(&one.bytes)
                    .map_err(|why| format!("{}\n{why}", one.summary))?;
            } else if !frames::is_membership(&one.bytes) {
                others.push(one);
            }
        }
        Ok(others)
    }

    fn listing(&mut self, director: &TestDirector, command: &Command) -> Result<(), String> {
        match self.daemons.listing(director, &command.command) {
            Some(ours) if daemons::same_lines(&ours, &command.output) => Ok(()),
            Some(ours) => Err(format!("  kernel:\n{}  lvsd:\n{ours}", command.output)),
            None => self.listings.compare(director, command),
        }
    }

    fn pass(&mut self, machine: &mut Machine, seconds: f64) {
        let until = self.ms as f64 / 1_000.0 + seconds;
        self.reach(machine, until);
    }
}

/// What the machine did must be what the kernel did, frame by frame.
fn compare(
    injected: &[u8],
    outcomes: Outcomes,
    expected: &[Expected],
    identities: &mut Identities,
) -> Result<(), String> {
    let with_drops = |why: String| {
        let names: Vec<_> = outcomes.dropped.iter().map(|reason| reason.name()).collect();
        let drops = if names.is_empty() {
            String::new()
        } else {
            format!("\n  lvsd drops: {}", names.join(", "))
        };
        format!("{why}{drops}")
    };
    if !outcomes.is_unsure {
        return same_frames(injected, &outcomes.frames, expected, identities).map_err(with_drops);
    }
    // What the kernel's stack would add is not known to the last byte.
    let mut ours = outcomes.frames.iter().peekable();
    for one in expected {
        let is_ours = ours
            .peek()
            .is_some_and(|(side, bytes)| frames::same_frame(injected, *side, bytes, one, identities).is_ok());
        if is_ours {
            ours.next();
        } else if !host::plausible(injected, &one.bytes) {
            return Err(with_drops(frames::both_lists(&outcomes.frames, expected)));
        }
    }
    match ours.next() {
        Some(_) => Err(with_drops(frames::both_lists(&outcomes.frames, expected))),
        None => Ok(()),
    }
}

/// Frames that came out of an interface and those that were to come, in order.
///
/// # Errors
/// Both lists, or the first frame that differs.
fn same_frames(
    injected: &[u8],
    ours: &[(Side, Vec<u8>)],
    expected: &[Expected],
    identities: &mut Identities,
) -> Result<(), String> {
    if ours.len() != expected.len() {
        return Err(frames::both_lists(ours, expected));
    }
    for ((side, bytes), one) in ours.iter().zip(expected) {
        frames::same_frame(injected, *side, bytes, one, identities)?;
    }
    Ok(())
}
