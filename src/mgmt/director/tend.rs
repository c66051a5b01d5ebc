//! What the director needs done in the background, on the management core's runtime.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::{Director, standstill};
use crate::mgmt::lock::lock;

/// The period in which publications are tried again. Changes that are put off may wait this long.
const TICK: Duration = Duration::from_millis(2);

/// Journal records that were written within this time share one `fdatasync`.
const SYNC_PERIOD: Duration = Duration::from_millis(100);

const TRASH_PERIOD: Duration = Duration::from_secs(1);

/// The estimator's own period (spec: `est_timer` 2 s).
const SAMPLE_PERIOD: Duration = Duration::from_secs(lvs_core::ipvs::stats::ESTIMATION_PERIOD_SEC);

/// How long the disk may be silent before the journal counts as stale.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How long the end of the director waits for the disk. What has not ended by then is left behind with its thread.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Runs until dropped. A disk that hangs holds up nothing but the journal.
pub async fn tend(director: Arc<Mutex<Director>>) {
    tokio::join!(carry_on(&director), keep_journal(&director));
}

async fn carry_on(director: &Mutex<Director>) {
    let begun = Instant::now();
    let (mut tick, mut looks) = (every(TICK), every(standstill::LOOK_PERIOD));
    let (mut trash, mut sample) = (every(TRASH_PERIOD), every(SAMPLE_PERIOD));
    loop {
        tokio::select! {
            _ = tick.tick() => lock(director).tick(Instant::now()),
            _ = looks.tick() => lock(director).look_for_standstill(Instant::now()),
            _ = trash.tick() => {
                lock(director).collect_trash(begun.elapsed().as_secs(), Instant::now());
            }
            _ = sample.tick() => lock(director).sample(),
        }
    }
}

async fn keep_journal(director: &Mutex<Director>) {
    lock(director).begin_service();
    let mut ticks = every(SYNC_PERIOD);
    loop {
        ticks.tick().await;
        let unsynced = lock(director).unsynced();
        if let Some(unsynced) = unsynced {
            let synced = on_disk(director, move || unsynced.run()).await;
            if let Err(error) = synced {
                lock(director).journal_not_synced(&error.to_string(), Instant::now());
            }
        }
        let rewrite = lock(director).rewrite_journal(Instant::now());
        if let Some(rewrite) = rewrite {
            let written = on_disk(director, move || rewrite.run()).await;
            lock(director).journal_rewritten(written, Instant::now());
        }
    }
}

/// Tries once more to write a stale journal, when the director ends.
pub async fn leave_journal(director: &Mutex<Director>) {
    let rewrite = lock(director).last_rewrite();
    if let Some(rewrite) = rewrite {
        let working = tokio::task::spawn_blocking(move || rewrite.run());
        if let Ok(Ok(written)) = timeout(LAST_PATIENCE, working).await {
            lock(director).journal_rewritten(written, Instant::now());
        }
    }
    let status = lock(director).journal_status();
    if status.stale {
        log::error!(
            "journal {}: {}; the next start restores an older state",
            status.path,
            status.reason
        );
    }
}

/// Runs work that waits for the disk, on another thread.
async fn on_disk<T: Send + 'static>(
    director: &Mutex<Director>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let mut working = tokio::task::spawn_blocking(work);
    let done = match timeout(DISK_PATIENCE, &mut working).await {
        Ok(done) => done,
        Err(_) => {
            let reason = format!("the disk has been silent for {DISK_PATIENCE:?}");
            lock(director).journal_not_synced(&reason, Instant::now());
            working.await
        }
    };
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
