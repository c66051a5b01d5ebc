//! Compares what commands printed with what a recording says they printed.
//!
//! Left out is what no run of a kernel repeats: the order of connections and, where a listing is not sorted, of
//! services (both follow hashes of a secret or of addresses in memory), and a second in timers.

/// The recorded timers are whole seconds of a machine whose clock is not ours.
pub const EXPIRY_TOLERANCE_SEC: u32 = 1;

/// Whether `ours` is what `command` printed then, timers aside that differ by at most `tolerance_sec`.
pub fn is_same(command: &str, ours: &str, theirs: &str, tolerance_sec: u32) -> bool {
    let words: Vec<&str> = command.split_whitespace().collect();
    let has = |word: &str| words.contains(&word);
    if has("-Lnc") || has("-Lc") || command.contains("ip_vs_conn") {
        return is_same_but_for_time(ours, theirs, tolerance_sec);
    }
    if command.starts_with("sysctl -a") {
        return is_same_settings(ours, theirs);
    }
    if has("--nosort") || command.starts_with("cat /proc/net/ip_vs") {
        return blocks(ours) == blocks(theirs);
    }
    ours == theirs
}

/// One setting the kernel derives from its memory; lvsd has some of later kernels besides.
fn is_same_settings(ours: &str, theirs: &str) -> bool {
    let mut compared = theirs.lines().filter(|line| !line.contains("sync_qlen_max"));
    compared.all(|line| ours.lines().any(|own| own == line))
}

/// Services with their servers, as a set.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.lines() {
        match blocks.last_mut() {
            Some(block) if line.starts_with("  ->") => block.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
    }
    blocks.sort();
    blocks
}

/// Words of a line and its seconds.
type Parts<'a> = (Vec<&'a str>, Option<u32>);

/// Protocol, state and ends of a line, and its seconds; titles have none. In `/proc/net/ip_vs_conn` the seconds
/// come last.
fn parts_of(line: &str) -> Parts<'_> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let minutes = words.get(1).and_then(|word| {
        let (minutes, seconds) = word.split_once(':')?;
        Some(minutes.parse::<u32>().ok()? * 60 + seconds.parse::<u32>().ok()?)
    });
    if minutes.is_some() {
        words.remove(1);
        return (words, minutes);
    }
    // `ip_vs_conn_sync` has one more: the origin.
    const PROC_COLUMNS: [usize; 2] = [9, 10];
    let last = words.last().and_then(|word| word.parse().ok());
    if PROC_COLUMNS.contains(&words.len()) && last.is_some() {
        words.pop();
        return (words, last);
    }
    (words, None)
}

/// Without what was about to expire and may have gone on the other machine.
fn lasting<'a>(own: &[Parts<'a>], others: &[Parts<'_>], tolerance_sec: u32) -> Vec<Parts<'a>> {
    let is_gone = |one: &Parts<'_>| {
        let is_due = one.1.is_some_and(|sec| sec <= tolerance_sec);
        is_due && !others.iter().any(|other| other.0 == one.0)
    };
    own.iter().filter(|one| !is_gone(one)).cloned().collect()
}

fn is_same_but_for_time(ours: &str, theirs: &str, tolerance_sec: u32) -> bool {
    let sorted = |text| {
        let mut lines: Vec<_> = str::lines(text).map(parts_of).collect();
        lines.sort();
        lines
    };
    let (all_ours, all_theirs) = (sorted(ours), sorted(theirs));
    let (ours, theirs) = (
        lasting(&all_ours, &all_theirs, tolerance_sec),
        lasting(&all_theirs, &all_ours, tolerance_sec),
    );
    let is_near = |ours: Option<u32>, theirs: Option<u32>| match (ours, theirs) {
        (Some(ours), Some(theirs)) => ours.abs_diff(theirs) <= tolerance_sec,
        (ours, theirs) => ours == theirs,
    };
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(&theirs)
            .all(|(ours, theirs)| ours.0 == theirs.0 && is_near(ours.1, theirs.1))
}
