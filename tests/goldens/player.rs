//! Plays one recording in real time, never ahead of it and behind it as little as may be: the time between two frames
//! decides what rate limits and timers do. Where the machine kept the player or the director waiting, a difference says
//! nothing yet, and the recording is played again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lvs_test_support::daemon::Testbed;
use lvs_test_support::namespace::Namespace;

use crate::frames::{self, Identities};
use crate::messages::Messages;
use crate::scenario::{Command, Expected, Scenario, Side, Step, bytes, expectation, expectations};
use crate::testbed::{self, GoldenTestbed, Printed};
use crate::text::{self, EXPIRY_TOLERANCE_SEC};
use crate::wire::Wire;

/// Commands about the kernel's own modules and routes, not about IPVS.
const NOT_ASKED: [&str; 5] = ["dmesg", "modprobe", "ls ", "cat /proc/net/ip_vs_app", "ip route get"];

/// A machine that stood still for longer than this goes on from there: pauses are not made up for.
const LATE_MAX: Duration = Duration::from_millis(20);

/// The recorded time of a command is that of its end. Changes are begun as soon as all before them is done.
const LISTING_TAKES_SEC: f64 = 0.06;

/// The clocks of both machines.
struct Clock {
    begun: Instant,
    /// By which this machine has fallen behind.
    late: Duration,
}

impl Clock {
    /// Seconds by which this machine is behind the recorded one at its `t`.
    fn lag(&self, t: f64) -> f64 {
        (self.begun.elapsed().as_secs_f64() - t).abs() + self.late.as_secs_f64()
    }

    /// Until the recorded machine's `t`.
    fn wait(&mut self, t: f64, wire: &mut Wire) {
        let (now, then) = (self.begun.elapsed(), Duration::from_secs_f64(t.max(0.0)));
        if now < then {
            wire.pass(then - now);
        } else if now > then + LATE_MAX {
            self.begun += now - then;
            self.late += now - then;
        }
    }
}

/// A recording that differs while the machine was late is played so often.
const PLAYS_MAX: u32 = 6;

/// Plays `scenario`, again where the machine was late and something differed.
///
/// # Errors
/// The first difference, readable, and how late the machine was in the last play.
pub fn play(scenario: &Scenario) -> Result<(), String> {
    let mut plays = 1;
    loop {
        let mut late = Duration::ZERO;
        match play_once(scenario, &mut late) {
            Err(difference) if late > LATE_MAX && plays == PLAYS_MAX => {
                return Err(format!(
                    "  the machine was late by {late:?}, as in {PLAYS_MAX} plays\n{difference}"
                ));
            }
            Err(_) if late > LATE_MAX => {
                println!("again  {}: the machine was late by {late:?}", scenario.name);
                plays += 1;
            }
            result => return result,
        }
    }
}

/// One play; `late` becomes how long at most the machine kept the player or the director waiting.
fn play_once(scenario: &Scenario, late: &mut Duration) -> Result<(), String> {
    let (director, far) = (Testbed::create(), Namespace::create());
    testbed::lay(&director, &far, scenario.ipv6);
    let mut testbed = GoldenTestbed::start(&director, &far, scenario)?;
    testbed.wire.settle(Side::Client, 0);
    let first = scenario.steps.iter().find_map(Step::time).unwrap_or(0.0);
    let mut clock = Clock {
        begun: Instant::now() - Duration::from_secs_f64(first),
        late: Duration::ZERO,
    };
    let result = play_steps(scenario, &mut testbed, &mut clock);
    *late = clock.late.max(testbed.wire.slowest());
    result?;
    let log = testbed.daemon.stop();
    if log.contains("ERROR") {
        return Err(log);
    }
    Ok(())
}

/// Everything from the first frame on.
fn play_steps(scenario: &Scenario, testbed: &mut GoldenTestbed<'_>, clock: &mut Clock) -> Result<(), String> {
    let (mut identities, mut questions) = (Identities::default(), Questions::default());
    let mut messages = Messages::default();
    // The recorded machine had no names; what follows on a table to which a name was given differs.
    let mut steps = scenario.steps.iter().peekable();
    while let Some(step) = steps.next() {
        if let Some(t) = step.time() {
            match step {
                Step::Exec(_) => {}
                Step::Listing(_) => clock.wait(t - LISTING_TAKES_SEC, &mut testbed.wire),
                _ => clock.wait(t, &mut testbed.wire),
            }
        }
        match step {
            Step::Inject {
                iface, frame, summary, ..
            } => {
                let bytes = bytes(frame);
                let expected = expectations(&mut steps);
                if testbed.is_let_in(&bytes) {
                    testbed.wire.send(*iface, &bytes);
                }
                let arrived = testbed.wire.settle(*iface, messages.others(&expected));
                let arrived = questions.without_repeated(messages.take_from(arrived), &expected);
                let expected = messages.expect_all(&mut testbed.wire, expected)?;
                compare(&bytes, arrived, &expected, &mut identities)
                    .map_err(|why| format!("inject {summary}\n{why}"))?;
            }
            Step::Sleep { seconds, t } => {
                if let Some(t) = t {
                    clock.wait(*t, &mut testbed.wire);
                }
                testbed.wire.pass(Duration::from_secs_f64(*seconds));
                let expected = expectations(&mut steps);
                let arrived = if messages.others(&expected) == 0 {
                    testbed.wire.take()
                } else {
                    testbed.wire.settle(Side::Client, messages.others(&expected))
                };
                let arrived = questions.without_repeated(messages.take_from(arrived), &expected);
                let expected = messages.expect_all(&mut testbed.wire, expected)?;
                compare(&[], arrived, &expected, &mut identities).map_err(|why| format!("sleep {seconds}\n{why}"))?;
            }
            Step::Listing(command) | Step::Exec(command) => {
                if NOT_ASKED.iter().any(|name| command.command.starts_with(name)) {
                    continue;
                }
                let printed = testbed.run(&command.command)?;
                let lag = command.t.map_or(0.0, |t| clock.lag(t));
                same_text(command, &printed, matches!(step, Step::Listing(_)), lag)
                    .map_err(|why| format!("{}\n{why}", command.command))?;
            }
            Step::Expect { summary, .. } => {
                let left = messages.expect_all(&mut testbed.wire, expectation(step).into_iter().collect())?;
                if !left.is_empty() {
                    return Err(format!("came out without a packet going in: {summary}"));
                }
            }
            Step::Note { text, frame: None } => {
                if let Some(rules) = text.strip_prefix("table reset to: ") {
                    testbed.reset(rules);
                }
            }
            Step::Note {
                text,
                frame: Some(frame),
            } => inject_unlisted(testbed, text, frame)?,
        }
    }
    messages.finish()
}

/// The kernel asks for a silent neighbour when a packet is for it; lvsd asks again from time to time, so that one
/// that comes back is found before the next packet.
#[derive(Default)]
struct Questions(HashMap<Vec<u8>, usize>);

impl Questions {
    const PROBES: usize = 3;

    /// The frames that arrived, without questions that nobody expects and that have been asked in vain.
    fn without_repeated(&mut self, arrived: Vec<(Side, Vec<u8>)>, expected: &[Expected]) -> Vec<(Side, Vec<u8>)> {
        let target = |frame: &[u8]| {
            let is_question = frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 1]);
            frame.get(38..42).filter(|_| is_question).map(<[u8]>::to_vec)
        };
        let mut wanted: HashMap<Vec<u8>, usize> = HashMap::new();
        for one in expected.iter().filter_map(|one| target(&one.bytes)) {
            *wanted.entry(one).or_default() += 1;
        }
        let mut keep = |(_, frame): &(Side, Vec<u8>)| {
            let Some(target) = target(frame) else { return true };
            let asked = self.0.entry(target.clone()).or_default();
            *asked += 1;
            let left = wanted.entry(target).or_default();
            let is_wanted = *left > 0;
            *left = left.saturating_sub(1);
            is_wanted || *asked <= Self::PROBES
        };
        arrived.into_iter().filter(|one| keep(one)).collect()
    }
}

/// "12500 times this frame injected on client": whose outcomes are not recorded.
fn inject_unlisted(testbed: &mut GoldenTestbed<'_>, text: &str, frame: &str) -> Result<(), String> {
    let times: u32 = text
        .split_once(" times this frame injected on client")
        .and_then(|(times, _)| times.parse().ok())
        .ok_or_else(|| format!("note with a frame not understood: {text}"))?;
    let bytes = bytes(frame);
    for sent in 1..=times {
        testbed.wire.send(Side::Client, &bytes);
        // No faster than the software device takes them.
        if sent % 100 == 0 {
            testbed.wire.settle(Side::Client, 0);
        }
    }
    Ok(())
}

/// In order; but frames of the two sides have none between them.
fn compare(
    injected: &[u8],
    arrived: Vec<(Side, Vec<u8>)>,
    expected: &[Expected],
    identities: &mut Identities,
) -> Result<(), String> {
    if arrived.len() != expected.len() {
        return Err(frames::both_lists(&arrived, expected));
    }
    for wanted in [Side::Client, Side::Rs] {
        let ours = arrived.iter().filter(|(side, _)| *side == wanted);
        let theirs = expected.iter().filter(|one| one.side == wanted);
        if ours.clone().count() != theirs.clone().count() {
            return Err(frames::both_lists(&arrived, expected));
        }
        for ((side, bytes), one) in ours.zip(theirs) {
            frames::same_frame(injected, *side, bytes, one, identities)?;
        }
    }
    Ok(())
}

fn same_text(command: &Command, printed: &Printed, is_listing: bool, lag_sec: f64) -> Result<(), String> {
    let tolerance_sec = EXPIRY_TOLERANCE_SEC + lag_sec.ceil() as u32;
    // When within two seconds the estimator looks is another moment in every run: rates are compared in the core.
    let is_rate = command.command.contains("--rate") || command.command.contains("ip_vs_stats");
    let (ours, theirs) = if is_rate {
        (without_rates(&printed.output), without_rates(&command.output))
    } else {
        (printed.output.clone(), command.output.clone())
    };
    let same = text::is_same(&command.command, &ours, &theirs, tolerance_sec);
    // What the shell's other programs print is theirs.
    let is_judged = is_listing || command.command.starts_with("ipvsadm");
    let same_errors = printed.errors == command.stderr || !command.command.starts_with("ipvsadm");
    if (same || !is_judged) && same_errors && (printed.code == command.rc || !is_judged) {
        return Ok(());
    }
    Err(format!(
        "  kernel ({}):\n{}{}  lvsd ({}):\n{}{}",
        command.rc, command.output, command.stderr, printed.code, printed.output, printed.errors
    ))
}

/// The text without rates: of `--rate` all but the numbers, of `/proc/net/ip_vs_stats` all above the rates.
fn without_rates(text: &str) -> String {
    let is_number = |word: &&str| word.parse::<u64>().is_ok();
    let totals = text.split("Conns/s").next().unwrap_or(text);
    let lines = totals.lines().map(|line| {
        let is_rate = text == totals;
        let words = line.split_whitespace().filter(|word| !is_rate || !is_number(word));
        words.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}
