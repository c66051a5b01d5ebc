//! Timers against the clock.

use super::*;

#[test]
fn timeout_of_any_length_fires_on_time_and_at_most_64_ms_late() {
    let day = 86_400_000;
    for start in [0, 1, 63, 64, 12_345_678, u32::MAX, u32::MAX - 5_000, u32::MAX / 2] {
        for timeout_ms in [
            0,
            1,
            63,
            64,
            65,
            1_000,
            16_383,
            16_384,
            60_000,
            900_000,
            1_048_576,
            day,
            20 * day,
        ] {
            let mut table = table::<Addr4>(1, [0; 4]);
            let start = Tick(start);
            table
                .insert(
                    Conn {
                        timeout_ms,
                        ..fullnat(1)
                    },
                    start,
                )
                .unwrap();
            let gone = |_: ConnMut<'_, Addr4>| Expiry::Remove;
            if timeout_ms > 0 {
                assert_eq!(
                    table.expire(start.plus_ms(timeout_ms - 1), usize::MAX, gone),
                    0,
                    "{timeout_ms} early"
                );
            }
            assert_eq!(
                table.expire(start.plus_ms(timeout_ms + 63), usize::MAX, gone),
                1,
                "{timeout_ms} late"
            );
        }
    }
}

#[test]
fn longer_timeout_than_the_clock_can_tell_is_cut_to_20_days() {
    let mut table = table::<Addr4>(1, [0; 4]);
    table
        .insert(
            Conn {
                timeout_ms: u32::MAX,
                ..fullnat(1)
            },
            Tick(5),
        )
        .unwrap();
    let days = 20 * 86_400_000;
    assert_eq!(table.expire(Tick(4 + days), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(Tick(5 + days + 63), usize::MAX, |_| Expiry::Remove), 1);
}

#[test]
fn packets_keep_a_connection_without_touching_its_timer() {
    let mut table = table::<Addr4>(4, [0; 4]);
    let index = table
        .insert(
            Conn {
                timeout_ms: 10_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let armed = table.cold(index).timer;
    let mut now = Tick(0);
    for _ in 0..10 {
        now = now.plus_ms(900);
        table.conn_mut(index).last_seen = now;
        assert_eq!(table.expire(now, usize::MAX, |_| Expiry::Remove), 0);
        assert_eq!(table.cold(index).timer, armed);
    }
    assert_eq!(table.expire(now.plus_ms(9_999), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(now.plus_ms(10_063), usize::MAX, |_| Expiry::Remove), 1);
}

#[test]
fn shorter_timeout_is_armed_at_once_and_a_longer_one_lazily() {
    let mut table = table::<Addr4>(4, [0; 4]);
    let index = table
        .insert(
            Conn {
                timeout_ms: 60_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let armed = table.cold(index).timer;
    table.set_timeout(index, 900_000, Tick(1_000));
    assert_eq!(table.cold(index).timer, armed);
    assert_eq!(table.expire(Tick(100_000), usize::MAX, |_| Expiry::Remove), 0);
    table.set_timeout(index, 10_000, Tick(100_000));
    assert_eq!(table.expire(Tick(109_999), usize::MAX, |_| Expiry::Remove), 0);
    assert_eq!(table.expire(Tick(110_063), usize::MAX, |_| Expiry::Remove), 1);
    assert!(table.is_empty());
}

#[test]
fn kept_connection_is_asked_about_again() {
    let mut table = table::<Addr4>(4, [0; 4]);
    table
        .insert(
            Conn {
                timeout_ms: 1_000,
                ..fullnat(1)
            },
            Tick(0),
        )
        .unwrap();
    let stay = |_: ConnMut<'_, Addr4>| Expiry::Rearm { ms: 60_000 };
    assert_eq!(table.expire(Tick(1_100), usize::MAX, stay), 1);
    assert_eq!(table.expire(Tick(61_000), usize::MAX, stay), 0);
    assert_eq!(table.expire(Tick(61_200), usize::MAX, stay), 1);
    // Not even 0 ms makes it spin.
    assert_eq!(table.expire(Tick(122_000), usize::MAX, |_| Expiry::Rearm { ms: 0 }), 1);
    assert_sound(&table);
}

#[test]
fn expired_connection_is_free_at_once_for_the_same_key() {
    let mut table = table::<Addr4>(1, [0; 4]);
    table.insert(fullnat(1), Tick(0)).unwrap();
    assert_eq!(table.insert(fullnat(2), Tick(0)), Err(InsertError::Full));
    assert_eq!(table.expire(Tick(60_100), 10_000, |_| Expiry::Remove), 1);
    assert_eq!(find(&table, &fullnat(1).inbound_key()), None);
    assert_eq!(find(&table, &fullnat(1).outbound_key()), None);
    let index = table.insert(fullnat(1), Tick(60_100)).unwrap();
    assert_eq!(table.conn(index).last_seen, Tick(60_100));
}

#[test]
fn after_a_pause_of_minutes_timers_catch_up_in_bounded_calls() {
    let (capacity, budget) = (20_000, 128);
    let start = Tick(u32::MAX - 300_000);
    let mut table = table::<Addr4>(capacity, [0; 4]);
    for n in 0..capacity as u32 {
        table
            .insert(
                Conn {
                    timeout_ms: n * 25,
                    ..fullnat(n)
                },
                start,
            )
            .unwrap();
    }
    let now = start.plus_ms(600_000);
    let (mut calls, mut last) = (0, 0);
    while !table.is_empty() {
        let mut asked = 0;
        table.expire(now, budget, |conn| {
            asked += 1;
            assert!(conn.timeout_ms + 64 > last, "in the order of their timeouts");
            last = conn.timeout_ms;
            Expiry::Remove
        });
        assert!(asked <= budget);
        calls += 1;
        // 9,375 units passed; each timer fires once, after it came down two levels at most.
        assert!(
            calls <= (9_400 + 3 * capacity) / budget + 1,
            "{} left after {calls} calls",
            table.len()
        );
    }
    assert_sound(&table);
}
