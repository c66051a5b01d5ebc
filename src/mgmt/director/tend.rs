//! What the director needs done in the background, on the management core's runtime.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::Director;
use crate::mgmt::lock::lock;

/// The period in which publications are tried again. Changes that are put off may wait this long.
const TICK: Duration = Duration::from_millis(2);

/// Journal records that were written within this time share one `fdatasync`.
const SYNC_PERIOD: Duration = Duration::from_millis(100);

const TRASH_PERIOD: Duration = Duration::from_secs(1);

/// The estimator's own period (spec: `est_timer` 2 s).
const SAMPLE_PERIOD: Duration = Duration::from_secs(lvs_core::ipvs::stats::ESTIMATION_PERIOD_SEC);

/// Runs until dropped.
pub async fn tend(director: Arc<Mutex<Director>>) {
    let begun = Instant::now();
    let every = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut tick, mut sync) = (every(TICK), every(SYNC_PERIOD));
    let (mut trash, mut sample) = (every(TRASH_PERIOD), every(SAMPLE_PERIOD));
    loop {
        tokio::select! {
            _ = tick.tick() => lock(&director).tick(Instant::now()),
            _ = sync.tick() => sync_journal(&director).await,
            _ = trash.tick() => {
                lock(&director).collect_trash(begun.elapsed().as_secs(), Instant::now());
            }
            _ = sample.tick() => lock(&director).sample(),
        }
    }
}

async fn sync_journal(director: &Mutex<Director>) {
    let Some(files) = lock(director).unsynced() else { return };
    let synced = tokio::task::spawn_blocking(move || files.iter().try_for_each(std::fs::File::sync_data)).await;
    match synced {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            log::error!("journal: fdatasync failed: {error}; the last changes may not survive a power cut")
        }
        Err(error) => log::error!("journal: {error}"),
    }
}
