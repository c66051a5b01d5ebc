//! `lvsctl top`: shows the director live on a terminal of 80 × 24 or more. `--once` prints the same as text.
//!
//! In:  two reports of the daemon, an interval apart, and keys. Out: rates, loads, tables, drops.
//! [`sample`] asks the daemon, [`tables`] computes what is shown, [`screen`] draws it.

use std::io::{self, IsTerminal};
use std::time::Instant;

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::lvsctl::client::Client;
use crate::lvsctl::command::top::Top;
use crate::lvsctl::run::{Failure, put};

pub mod sample;
mod screen;
mod tables;
#[cfg(test)]
mod tests;

use sample::Sample;
use screen::{KeyOutcome, Screen};
use tables::View;

/// Columns of the text that `--once` prints.
const ONCE_WIDTH: u16 = 100;

/// Carries the command out.
pub async fn run(client: &Client, wanted: &Top) -> Result<(), Failure> {
    if wanted.once {
        return once(client, wanted).await;
    }
    if !io::stdout().is_terminal() {
        return Err(Failure::Usage("top needs a terminal; --once prints text".to_owned()));
    }
    let first = Sample::take(client).await?;
    let mut terminal = ratatui::init();
    let outcome = watch(client, wanted, first, &mut terminal).await;
    ratatui::restore();
    outcome
}

async fn once(client: &Client, wanted: &Top) -> Result<(), Failure> {
    let before = Sample::take(client).await?;
    tokio::time::sleep(wanted.interval).await;
    let now = Sample::take(client).await?;
    let mut screen = Screen::new(&wanted.filter, wanted.sort.as_deref());
    screen.show(before);
    screen.show(now);
    let mut text = String::new();
    for view in View::ALL {
        screen.switch_to(view);
        text += &screen.text(ONCE_WIDTH);
    }
    put(&text)
}

async fn watch(
    client: &Client,
    wanted: &Top,
    first: Sample,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Failure> {
    let mut screen = Screen::new(&wanted.filter, wanted.sort.as_deref());
    screen.show(first);
    let mut next = Instant::now() + wanted.interval;
    loop {
        terminal
            .draw(|frame| screen.draw(frame.area(), frame.buffer_mut()))
            .map_err(Failure::Output)?;
        if event::poll(next.saturating_duration_since(Instant::now())).map_err(Failure::Output)? {
            if let Event::Key(key) = event::read().map_err(Failure::Output)?
                && key.kind == KeyEventKind::Press
                && screen.key(key) == KeyOutcome::Leave
            {
                return Ok(());
            }
            continue;
        }
        next = Instant::now() + wanted.interval;
        if screen.is_paused() {
            continue;
        }
        match Sample::take(client).await {
            Ok(sample) => screen.show(sample),
            // The daemon may come back.
            Err(failure) => screen.complain(failure.to_string()),
        }
    }
}
