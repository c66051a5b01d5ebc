//! Programs that load the kernel's IPVS before they use it: they hear of success, and the kernel loads nothing.
//!
//! In:  an execve. Out: the program's own arguments, changed in its memory for the moment of the call: another program
//! instead of modprobe, or modprobe without the modules of IPVS. They are put back afterwards, because a parent that waits
//! in vfork has the same memory. Never: leaves a call without its result.

use std::time::Duration;

use rustix::io::Errno;
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::notification::Notification;
use super::target::Memory;

/// The most arguments of a command that are checked, and the most bytes of each.
const ARGUMENTS_MAX: u64 = 256;
const ARGUMENT_MAX_BYTES: usize = 256;
/// Ends with success and does nothing.
const NOTHING: &[u8] = b"/bin/true\0";
/// Stands where the name of a module was.
const NO_MODULE: &[u8] = b"-q\0";
/// How often, and how many times, it is checked whether the program runs.
const PULSE: Duration = Duration::from_millis(1);
const PULSES_MAX: u32 = 1_000;

/// What becomes of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has nothing to do with IPVS.
    Run,
    /// It would remove IPVS.
    Refuse,
    /// All that it would do is load modules of IPVS.
    Succeed,
    /// These of its arguments are modules of IPVS, others are not.
    Without(Vec<usize>),
}

/// Judges a command line: the path, then all arguments from `argv[0]`.
pub(super) fn judge(path: &[u8], arguments: &[Vec<u8>]) -> Verdict {
    let base = |path: &[u8]| path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let names = [base(path), arguments.first().map(|name| base(name)).unwrap_or_default()];
    let is = |name: &[u8]| names.iter().any(|found| found == name);
    // busybox modprobe ip_vs
    let first = match arguments.get(1) {
        Some(applet) if is(b"busybox") && applet == b"modprobe" => 2,
        _ if is(b"modprobe") => 1,
        _ => return Verdict::Run,
    };
    let rest = arguments.get(first..).unwrap_or_default();
    let mut positions = (first..).zip(rest).filter(|(_, word)| !word.starts_with(b"-"));
    let is_ipvs = |word: &[u8]| {
        let word: Vec<u8> = base(word)
            .iter()
            .map(|byte| if *byte == b'-' { b'_' } else { *byte })
            .collect();
        let rest = word.strip_prefix(b"ip_vs");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"_") || rest.starts_with(b".ko"))
    };
    let removes = rest
        .iter()
        .any(|word| matches!(word.as_slice(), b"-r" | b"--remove") || is_short_remove(word));
    let is_all = rest
        .iter()
        .any(|word| matches!(word.as_slice(), b"-a" | b"--all") || is_short(word, b'a'));
    let ours: Vec<usize> = if is_all || removes {
        positions
            .clone()
            .filter(|(_, word)| is_ipvs(word))
            .map(|(index, _)| index)
            .collect()
    } else {
        // What follows the first name are parameters of the module.
        positions
            .next()
            .filter(|(_, word)| is_ipvs(word))
            .map(|(index, _)| index)
            .into_iter()
            .collect()
    };
    match (ours.is_empty(), removes) {
        (true, _) => Verdict::Run,
        (false, true) => Verdict::Refuse,
        (false, false) if is_all && positions.any(|(_, word)| !is_ipvs(word)) => Verdict::Without(ours),
        (false, false) => Verdict::Succeed,
    }
}

fn is_short(word: &[u8], letter: u8) -> bool {
    matches!(word, [b'-', second, ..] if *second != b'-') && word.contains(&letter)
}

fn is_short_remove(word: &[u8]) -> bool {
    is_short(word, b'r')
}

/// Answers an execve whose path and arguments are these of the call's arguments.
pub(super) fn answer(call: Notification, path: usize, arguments: usize) {
    match plan(&call, path, arguments) {
        Ok(None) | Err(_) => call.proceed(),
        Ok(Some(Plan::Refuse)) => call.fail(Errno::NOENT),
        Ok(Some(Plan::Change(changes, memory))) => {
            let thread = call.thread;
            let before = program_of(thread);
            let mut made = Vec::new();
            for (address, bytes) in changes {
                let mut old = vec![0; bytes.len()];
                if memory.read(address, &mut old).is_ok() && memory.write(address, &bytes).is_ok() {
                    made.push((address, old));
                }
            }
            call.proceed();
            spawn_local(async move {
                for _ in 0..PULSES_MAX {
                    if program_of(thread) != before {
                        break;
                    }
                    sleep(PULSE).await;
                }
                for (address, old) in made {
                    // The memory is gone unless another process has it as well.
                    let _ = memory.write(address, &old);
                }
            });
        }
    }
}

enum Plan {
    Refuse,
    /// What is written where, in a memory that stays open.
    Change(Vec<(u64, Vec<u8>)>, Memory),
}

fn plan(call: &Notification, path: usize, arguments: usize) -> Result<Option<Plan>, Errno> {
    let address = |index: usize| call.arguments.get(index).copied().unwrap_or(0);
    let memory = call.memory()?;
    let text = |at: u64| memory.text(at, ARGUMENT_MAX_BYTES).ok_or(Errno::FAULT);
    let program = text(address(path))?;
    let may = |word: &[u8]| word.ends_with(b"modprobe") || word.ends_with(b"busybox");
    let list = address(arguments);
    let first = if list == 0 {
        0
    } else {
        call.layout.read_word(&memory, list)?
    };
    if !may(&program) && (first == 0 || !may(&text(first)?)) {
        return Ok(None);
    }
    let (mut places, mut words) = (Vec::new(), Vec::new());
    for index in 0..ARGUMENTS_MAX {
        let place = call
            .layout
            .read_word(&memory, list.wrapping_add(index * call.layout.word()))?;
        if place == 0 {
            break;
        }
        words.push(text(place)?);
        places.push(place);
    }
    let changes = match judge(&program, &words) {
        Verdict::Run => return Ok(None),
        Verdict::Refuse => return Ok(Some(Plan::Refuse)),
        Verdict::Succeed if program.len() + 1 >= NOTHING.len() => vec![(address(path), NOTHING.to_vec())],
        // A shorter path leaves no place for another program's.
        Verdict::Succeed => return Ok(Some(Plan::Refuse)),
        Verdict::Without(ours) => {
            let places = ours.into_iter().filter_map(|index| places.get(index));
            places.map(|place| (*place, NO_MODULE.to_vec())).collect()
        }
    };
    Ok(Some(Plan::Change(changes, memory)))
}

/// The file that a thread runs.
fn program_of(thread: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{thread}/exe")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(line: &str) -> Verdict {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        judge(&words[0], &words)
    }

    #[test]
    fn loading_ipvs_succeeds_and_other_modules_are_loaded() {
        for line in [
            "/sbin/modprobe ip_vs",
            "/usr/sbin/modprobe -q ip_vs_rr",
            "/sbin/modprobe -va ip_vs ip_vs_wrr",
            "/sbin/modprobe -s -- ip_vs",
            "/sbin/modprobe ip-vs conn_tab_bits=15",
            "/bin/busybox modprobe ip_vs",
        ] {
            assert_eq!(judged(line), Verdict::Succeed, "{line}");
        }
        for line in [
            "/sbin/modprobe dummy",
            "/sbin/modprobe nf_conntrack ip_vs=1",
            "/sbin/modprobe -a nf_conntrack xt_ipvs",
            "/bin/grep ip_vs",
            "/bin/busybox grep ip_vs",
        ] {
            assert_eq!(judged(line), Verdict::Run, "{line}");
        }
        assert_eq!(
            judged("/sbin/modprobe -a ip_vs nf_conntrack ip_vs_sh"),
            Verdict::Without(vec![2, 4])
        );
        assert_eq!(judged("/sbin/modprobe -r ip_vs"), Verdict::Refuse);
    }
}
