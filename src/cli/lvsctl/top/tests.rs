//! Samples in, screens out.

use std::time::Duration;

use lvs_api::{DropCount, Stats, Version, Worker};
use ratatui::crossterm::event::{KeyCode, KeyEvent};

use super::*;

fn sample(taken: Instant, rx_packets: u64) -> Sample {
    let worker = |number: u8| Worker {
        worker: number,
        rx_packets: rx_packets * u64::from(number + 1),
        busy_cycles: rx_packets * 250,
        idle_cycles: rx_packets * 750,
        conns4: 1_000 * u64::from(number),
        ..Worker::default()
    };
    let drop = |reason: &str, packets| DropCount {
        reason: reason.to_owned(),
        packets,
        meaning: String::new(),
    };
    Sample {
        taken,
        version: Version {
            api: "v1".to_owned(),
            lvsd: "0.1.0".to_owned(),
            revision: String::new(),
            pid: 1,
            conns4_max: 262_144,
            conns6_max: 65_536,
        },
        stats: Stats::default(),
        workers: (0..3).map(worker).collect(),
        services: Vec::new(),
        drops: vec![
            drop("no_route", rx_packets / 10),
            drop("truncated", 7),
            drop("malformed", 0),
        ],
        devices: Vec::new(),
        buffers: lvs_api::Buffers::default(),
    }
}

fn screen() -> Screen {
    let begun = Instant::now();
    let mut screen = Screen::new("", None);
    screen.show(sample(begun, 0));
    screen.show(sample(begun + Duration::from_secs(2), 4_000));
    screen
}

fn press(screen: &mut Screen, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            other => KeyCode::Char(other),
        };
        assert_eq!(screen.key(KeyEvent::from(code)), KeyOutcome::Stay);
    }
}

/// First words of the lines of a table.
fn first_words(text: &str) -> Vec<&str> {
    text.lines()
        .skip(5)
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

#[test]
fn rates_are_growth_by_time_and_shares_are_of_the_interval() {
    let text = screen().text(80);
    let row: Vec<_> = text.lines().nth(5).unwrap().split_whitespace().collect();
    assert_eq!(row[..5], ["0", "25", "2.0k", "0", "250"], "{text}");
    assert!(
        text.starts_with("lvsd 0.1.0: 0 services, 0 servers, 3.0k of 328k connections"),
        "{text}"
    );
    assert!(text.contains("dropped 200 p/s"), "{text}");
}

#[test]
fn keys_sort_by_a_column_reverse_and_filter() {
    let mut screen = screen();
    assert_eq!(first_words(&screen.text(80)), ["0", "1", "2"]);
    // Worker, Busy%, Rx/s.
    press(&mut screen, "sss");
    assert_eq!(first_words(&screen.text(80)), ["2", "1", "0"]);
    assert!(screen.text(80).contains("Workers by Rx/s\n"));
    press(&mut screen, "r");
    assert_eq!(first_words(&screen.text(80)), ["0", "1", "2"]);
    press(&mut screen, "4/trunc\n");
    let text = screen.text(80);
    assert!(text.contains("truncated") && !text.contains("no_route"), "{text}");
    assert_eq!(screen.key(KeyEvent::from(KeyCode::Char('q'))), KeyOutcome::Leave);
}

#[test]
fn numbers_stay_within_five_characters() {
    for (number, shown) in [
        (0.0, "0"),
        (0.26, "0.3"),
        (42.4, "42"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (12_345.0, "12k"),
        (9_960_000.0, "10M"),
        (1.5e12, "1.5T"),
    ] {
        assert_eq!(tables::short(number), shown, "{number}");
    }
}
