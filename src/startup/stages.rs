//! How long the stages of the start took, for the log and the API: a restart's gap is their sum.

use std::fmt;
use std::time::{Duration, Instant};

use lvs_api::StartStage;

/// Stages in their order, and a clock that runs.
#[derive(Debug)]
pub struct Stages {
    began: Instant,
    last: Instant,
    ended: Vec<(&'static str, Duration)>,
}

impl Stages {
    /// The first stage begins now.
    pub fn begin() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            ended: Vec::new(),
        }
    }

    /// The stage `name` ends now, and the next one begins.
    pub fn end(&mut self, name: &'static str) {
        let now = Instant::now();
        self.ended.push((name, now - self.last));
        self.last = now;
    }

    /// For the API.
    pub fn listed(&self) -> Vec<StartStage> {
        let stages = self.ended.iter().map(|(stage, time)| StartStage {
            stage: (*stage).to_owned(),
            ms: time.as_millis() as u64,
        });
        stages.collect()
    }
}

impl fmt::Display for Stages {
    /// `started in 120 ms: DPDK 70, devices 30, connections 20`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "started in {} ms", (self.last - self.began).as_millis())?;
        for (number, (name, time)) in self.ended.iter().enumerate() {
            let before = if number == 0 { ": " } else { ", " };
            write!(formatter, "{before}{name} {}", time.as_millis())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_shown_in_their_order_with_their_milliseconds() {
        let began = Instant::now();
        let stages = Stages {
            began,
            last: began + Duration::from_millis(120),
            ended: vec![
                ("DPDK", Duration::from_micros(70_900)),
                ("devices", Duration::from_millis(50)),
            ],
        };
        assert_eq!(stages.to_string(), "started in 120 ms: DPDK 70, devices 50");
        assert_eq!(Stages::begin().to_string(), "started in 0 ms");
    }
}
