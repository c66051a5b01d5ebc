//! The screen: handles keys and draws.

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Row, Table, Widget};

use super::sample::Sample;
use super::tables::{self, Cell, View};

const KEYS: &str = "q quit  1-5 tab view  s sort  r reverse  / filter  up down scroll  p pause";

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOutcome {
    Stay,
    Leave,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Screen {
    before: Option<Sample>,
    now: Option<Sample>,
    view: View,
    /// The column to sort by. `None` for the daemon's order.
    sort: Option<String>,
    is_reversed: bool,
    filter: String,
    is_typing: bool,
    is_paused: bool,
    scrolled: usize,
    complaint: Option<String>,
}

impl Screen {
    pub(super) fn new(filter: &str, sort: Option<&str>) -> Self {
        Self {
            before: None,
            now: None,
            view: View::Workers,
            sort: sort.map(str::to_owned),
            is_reversed: false,
            filter: filter.to_owned(),
            is_typing: false,
            is_paused: false,
            scrolled: 0,
            complaint: None,
        }
    }

    /// Shows a newer sample.
    pub(super) fn show(&mut self, sample: Sample) {
        self.before = self.now.replace(sample);
        self.complaint = None;
    }

    /// Shows why there is no newer sample.
    pub(super) fn complain(&mut self, complaint: String) {
        self.complaint = Some(complaint);
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.is_paused
    }

    pub(super) const fn switch_to(&mut self, view: View) {
        self.view = view;
        self.scrolled = 0;
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> KeyOutcome {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return KeyOutcome::Leave;
        }
        if self.is_typing {
            match key.code {
                KeyCode::Char(letter) => self.filter.push(letter),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Enter => self.is_typing = false,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.is_typing = false;
                }
                _ => {}
            }
            return KeyOutcome::Stay;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return KeyOutcome::Leave,
            KeyCode::Char(digit @ '1'..='5') => self.switch_to(View::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right => self.switch_by(1),
            KeyCode::BackTab | KeyCode::Left => self.switch_by(View::ALL.len() - 1),
            KeyCode::Char('s') => self.sort_by_next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Down => self.scrolled += 1,
            KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown => self.scrolled += 10,
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            _ => {}
        }
        KeyOutcome::Stay
    }

    fn switch_by(&mut self, count: usize) {
        let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
        self.switch_to(View::ALL[(at + count) % View::ALL.len()]);
    }

    /// Sorts by the next column. After the last one it restores the daemon's order.
    fn sort_by_next(&mut self) {
        let columns = self.view.columns();
        let next = self.sorted_column().map_or(0, |at| at + 1);
        self.sort = columns.get(next).map(|(name, _)| (*name).to_owned());
    }

    fn sorted_column(&self) -> Option<usize> {
        let wanted = self.sort.as_deref()?;
        let mut columns = self.view.columns().iter();
        columns.position(|(name, _)| name.eq_ignore_ascii_case(wanted))
    }

    fn rows(&self) -> Vec<Vec<Cell>> {
        let Some(now) = &self.now else {
            return Vec::new();
        };
        let mut rows = tables::rows(self.view, self.before.as_ref().unwrap_or(now), now);
        if !self.filter.is_empty() {
            rows.retain(|row| row.iter().any(|cell| cell.text().contains(&self.filter)));
        }
        if let Some(at) = self.sorted_column() {
            // Numbers begin with the largest, text with the first in the alphabet.
            rows.sort_by(|a, b| match (a[at].number(), b[at].number()) {
                (Some(a), Some(b)) => b.total_cmp(&a),
                _ => a[at].text().cmp(&b[at].text()),
            });
        }
        if self.is_reversed {
            rows.reverse();
        }
        rows
    }

    /// Draws everything.
    pub(super) fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let rows = self.rows();
        let parts = Layout::vertical([Constraint::Length(3), Constraint::Min(1), Constraint::Length(1)]);
        let [head, body, foot] = parts.areas(area);
        Text::from(self.head_lines()).render(head, buffer);
        self.table(&rows, usize::from(body.height.saturating_sub(1)))
            .render(body, buffer);
        Line::from(self.foot_line()).render(foot, buffer);
    }

    /// The table of the view as text, all its rows.
    pub(super) fn text(&self, width: u16) -> String {
        let rows = self.rows();
        let height = u16::try_from(rows.len() + 1).unwrap_or(u16::MAX);
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        self.table(&rows, rows.len()).render(area, &mut buffer);
        let mut text = match self.view {
            View::Workers => self.summary().join("\n") + "\n",
            _ => String::new(),
        };
        text += &format!("\n{}{}\n", self.view.name(), self.order());
        for y in 0..height {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn summary(&self) -> [String; 2] {
        match &self.now {
            Some(now) => tables::summary(self.before.as_ref().unwrap_or(now), now),
            None => Default::default(),
        }
    }

    fn head_lines(&self) -> Vec<Line<'static>> {
        let [first, second] = self.summary();
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let views = View::ALL.iter().enumerate().map(|(index, view)| {
            let name = format!("{}:{}", index + 1, view.name());
            if *view == self.view {
                format!("[{name}]")
            } else {
                format!(" {name} ")
            }
        });
        vec![
            Line::from(first),
            Line::from(second),
            Line::styled(views.collect::<String>() + &self.order(), bold),
        ]
    }

    /// The column by which rows are sorted. Empty for the daemon's order.
    fn order(&self) -> String {
        let column = self.sorted_column().and_then(|at| self.view.columns().get(at));
        column.map_or_else(String::new, |(name, _)| format!(" by {name}"))
    }

    fn foot_line(&self) -> String {
        if self.is_typing {
            return format!("filter: {}_", self.filter);
        }
        if let Some(complaint) = &self.complaint {
            return complaint.clone();
        }
        let mut line = String::new();
        if self.is_paused {
            line += "paused  ";
        }
        if !self.filter.is_empty() {
            line += &format!("filter: {}  ", self.filter);
        }
        line + KEYS
    }

    fn table(&self, rows: &[Vec<Cell>], visible: usize) -> Table<'static> {
        let columns = self.view.columns();
        let header = columns.iter().enumerate().map(|(at, (name, _))| {
            let alignment = if is_text(rows, at) {
                Alignment::Left
            } else {
                Alignment::Right
            };
            Text::from(*name).alignment(alignment)
        });
        let scrolled = self.scrolled.min(rows.len().saturating_sub(visible));
        let lines = rows.iter().skip(scrolled).take(visible).map(|row| {
            Row::new(row.iter().map(|cell| {
                let alignment = if cell.number().is_none() {
                    Alignment::Left
                } else {
                    Alignment::Right
                };
                Text::from(cell.text()).alignment(alignment)
            }))
        });
        let widths = columns.iter().enumerate().map(|(at, (_, width))| match at {
            0 => Constraint::Min(*width),
            _ => Constraint::Length(*width),
        });
        Table::new(lines.collect::<Vec<_>>(), widths.collect::<Vec<_>>())
            .header(Row::new(header.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::REVERSED)))
            .column_spacing(1)
    }
}

/// Whether a column holds words. Without rows this is true for the first column.
fn is_text(rows: &[Vec<Cell>], at: usize) -> bool {
    match rows.first().and_then(|row| row.get(at)) {
        Some(cell) => cell.number().is_none(),
        None => at == 0,
    }
}
