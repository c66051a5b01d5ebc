//! Plays one recording on a [`TestDirector`] with the recordings' network.

use std::iter::Peekable;

use lvs_core::ipvs::scheduler::Overhead;
use lvs_core::l3::DeviceId;
use lvs_core::testing::describe;
use lvs_core::testing::director::{Outcome, TestDirector};

use crate::commands;
use crate::daemons::{self, Daemons};
use crate::listing::{GRID_MS, Listings};
use crate::scenario::{Command, Scenario, Side, Step, octets};
use crate::setup::Setup;
use crate::stack;

const CONNS_MAX: usize = 16_384;

/// A frame that a recording says came out.
struct Expected {
    side: Side,
    bytes: Vec<u8>,
    volatile: Vec<usize>,
    summary: String,
}

impl Side {
    const fn device(self) -> DeviceId {
        match self {
            Self::Client => DeviceId(0),
            Self::Rs => DeviceId(1),
        }
    }
}

/// Plays `scenario`.
///
/// # Errors
/// The first difference, readable.
pub fn play(scenario: &Scenario) -> Result<(), String> {
    let mut setup = Setup::read(&scenario.setup)?;
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
            Ok(()) | Err(commands::Failure::Refused(_)) => {}
        }
    }
    let mut clock = Clock {
        ms: 0,
        listings: Listings::new(),
        daemons: Daemons::default(),
    };
    let mut steps = scenario.steps.iter().peekable();
    while let Some(step) = steps.next() {
        match step {
            Step::Inject {
                iface,
                frame,
                summary,
                t,
            } => {
                clock.reach(&mut director, *t);
                let expected = expectations(&mut steps);
                let bytes = octets(frame);
                let mut outcomes = vec![director.inject(iface.device(), &bytes)];
                outcomes.append(&mut director.take_made());
                clock.daemons.gather(&mut director, clock.ms);
                if matches!(outcomes[0], Outcome::Punted(_)) {
                    clock.daemons.receive(&mut director, *iface, &bytes);
                }
                let expected = clock.left_out(expected)?;
                compare(&bytes, outcomes, &expected).map_err(|why| format!("inject {summary}\n{why}"))?;
            }
            Step::Exec(command) => {
                if let Some(t) = command.t {
                    clock.reach(&mut director, t);
                }
                execute(&mut director, &mut setup, &mut clock, command)
                    .map_err(|why| format!("exec {}: {why}", command.command))?;
            }
            Step::Listing(command) => {
                if let Some(t) = command.t {
                    clock.reach(&mut director, t);
                }
                clock
                    .listing(&director, command)
                    .map_err(|why| format!("listing {}\n{why}", command.command))?;
            }
            Step::Sleep { seconds } => {
                clock.pass(&mut director, *seconds);
                let (expected, made) = (expectations(&mut steps), director.take_made());
                let expected = clock.left_out(expected)?;
                compare(&[], made, &expected).map_err(|why| format!("sleep {seconds}\n{why}"))?;
            }
            Step::Expect { frame, .. } if daemons::is_membership(&octets(frame)) => {}
            Step::Expect { frame, summary, .. } if daemons::is_message(&octets(frame)) => {
                let told = clock.daemons.expect(&octets(frame));
                told.map_err(|why| format!("{summary}\n{why}"))?;
            }
            Step::Expect { summary, .. } => return Err(format!("came out without a packet going in: {summary}")),
            Step::Note {
                text,
                frame: Some(frame),
            } => inject_unlisted(&mut director, text, frame)?,
            Step::Note { .. } => {}
        }
    }
    clock.daemons.finish(clock.ms)
}

/// The expectations that come next.
fn expectations<'s>(steps: &mut Peekable<impl Iterator<Item = &'s Step>>) -> Vec<Expected> {
    std::iter::from_fn(|| {
        while matches!(steps.peek(), Some(Step::Note { frame: None, .. })) {
            steps.next();
        }
        match steps.peek() {
            Some(Step::Expect { .. }) => steps.next().and_then(expectation),
            _ => None,
        }
    })
    .collect()
}

fn expectation(step: &Step) -> Option<Expected> {
    let Step::Expect {
        iface,
        frame,
        summary,
        volatile,
    } = step
    else {
        return None;
    };
    Some(Expected {
        side: *iface,
        bytes: octets(frame),
        volatile: volatile.clone(),
        summary: summary.clone(),
    })
}

/// "12500 times this frame injected on client": whose outcomes are not recorded.
fn inject_unlisted(director: &mut TestDirector, text: &str, frame: &str) -> Result<(), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let times = match words[..] {
        [times, "times", "this", "frame", "injected", "on", "client", ..] => times.parse().ok(),
        _ => None,
    };
    let times: u32 = times.ok_or_else(|| format!("note with a frame not understood: {text}"))?;
    let bytes = octets(frame);
    for _ in 0..times {
        director.inject(Side::Client.device(), &bytes);
    }
    Ok(())
}

/// Runs a command that changes something; it must succeed or be refused as it was then.
fn execute(director: &mut TestDirector, setup: &mut Setup, clock: &mut Clock, command: &Command) -> Result<(), String> {
    if let Some(done) = clock.daemons.run(director, &command.command) {
        return done;
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
        clock.listings.zero(director, key.as_ref());
        return Ok(());
    }
    if setup.run(&command.command).is_ok() {
        director.set_l3(setup.network());
        return Ok(());
    }
    match (commands::run_shell(director, &command.command), command.rc) {
        (Ok(()), 0) => Ok(()),
        (Err(commands::Failure::Refused(_)), rc) if rc != 0 => Ok(()),
        (Ok(()), rc) => Err(format!("the kernel refused it ({rc}), lvsd takes it")),
        (Err(commands::Failure::Refused(why) | commands::Failure::NotUnderstood(why)), _) => Err(why),
    }
}

/// Brings virtual time to the recording's time stamps.
struct Clock {
    ms: u64,
    listings: Listings,
    daemons: Daemons,
}

impl Clock {
    fn reach(&mut self, director: &mut TestDirector, t: f64) {
        let until = (t * 1_000.0) as u64;
        while self.ms < until {
            let grid = (self.ms / GRID_MS + 1) * GRID_MS;
            let next = grid.min(until);
            director.advance_ms((next - self.ms) as u32);
            self.ms = next;
            self.daemons.gather(director, next);
            if next == grid {
                self.listings.tick(director, grid / GRID_MS);
            }
        }
    }

    /// What else came out, once the sync messages among it are compared; reports of membership are the stack's.
    fn left_out(&mut self, expected: Vec<Expected>) -> Result<Vec<Expected>, String> {
        let mut others = Vec::new();
        for one in expected {
            if daemons::is_message(&one.bytes) {
                self.daemons
                    .expect(&one.bytes)
                    .map_err(|why| format!("{}\n{why}", one.summary))?;
            } else if !daemons::is_membership(&one.bytes) {
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

    fn pass(&mut self, director: &mut TestDirector, seconds: f64) {
        let until = self.ms as f64 / 1_000.0 + seconds;
        self.reach(director, until);
    }
}

/// What a director did with a frame must be what the kernel did, frame by frame.
fn compare(injected: &[u8], mut outcomes: Vec<Outcome>, expected: &[Expected]) -> Result<(), String> {
    let shown = || {
        let lines: Vec<String> = expected
            .iter()
            .map(|one| format!("  kernel: {}", one.summary))
            .collect();
        lines.join("\n")
    };
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Punted(_))) {
        return match expected.iter().find(|one| !stack::plausible(injected, &one.bytes)) {
            Some(_) => Err(format!(
                "  lvsd leaves it to the kernel's stack, which does not do this:\n{}",
                shown()
            )),
            None => Ok(()),
        };
    }
    outcomes.retain(|outcome| *outcome != Outcome::Kept);
    if expected.is_empty() {
        outcomes.retain(|outcome| !matches!(outcome, Outcome::Dropped(_)));
    }
    if outcomes.len() != expected.len() {
        let ours: Vec<String> = outcomes
            .iter()
            .map(|one| format!("  lvsd:   {}", in_words(one)))
            .collect();
        return Err(format!("{}\n{}", ours.join("\n"), shown()));
    }
    for (outcome, one) in outcomes.into_iter().zip(expected) {
        match outcome {
            Outcome::Transmitted(device, bytes) => same_frame(device, &bytes, one)?,
            other => return Err(format!("  lvsd:   {}\n{}", in_words(&other), shown())),
        }
    }
    Ok(())
}

fn in_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Transmitted(_, bytes) => describe(bytes),
        Outcome::Dropped(reason) => format!("drops it: {}", reason.name()),
        Outcome::Held(key, _) => format!("waits for {key:?}"),
        Outcome::Punted(_) | Outcome::Kept => format!("{outcome:?}"),
    }
}

fn same_frame(device: DeviceId, bytes: &[u8], expected: &Expected) -> Result<(), String> {
    let mut ours = bytes.to_vec();
    let mut theirs = expected.bytes.clone();
    for &at in &expected.volatile {
        if let (Some(ours), Some(theirs)) = (ours.get_mut(at), theirs.get_mut(at)) {
            *ours = 0;
            *theirs = 0;
        }
    }
    stack::blank_random_fields(&mut ours);
    stack::blank_random_fields(&mut theirs);
    if stack::made_by_director(&theirs) {
        stack::blank_identification(&mut ours);
        stack::blank_identification(&mut theirs);
    }
    if device == expected.side.device() && ours == theirs {
        return Ok(());
    }
    let at = ours
        .iter()
        .zip(&theirs)
        .position(|(ours, theirs)| ours != theirs)
        .unwrap_or(ours.len().min(theirs.len()));
    Err(format!(
        "  kernel: {:?} {}\n  lvsd:   {device:?} {}\n  first difference at octet {at}\n  kernel: {}\n  lvsd:   {}",
        expected.side,
        describe(&theirs),
        describe(&ours),
        hex(&theirs),
        hex(&ours)
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|octet| format!("{octet:02x}")).collect()
}
