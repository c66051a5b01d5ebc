//! A recording of a real kernel, as read from its JSON file.

use std::fs;
use std::iter::Peekable;
use std::path::Path;

use serde::Deserialize;

/// One recording.
#[derive(Debug, Deserialize)]
pub struct Scenario {
    /// File name without extension.
    pub name: String,
    /// What was fed to `ipvsadm -R`.
    pub config_in: String,
    /// Whether the machine had IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// sysctls set before.
    #[serde(default)]
    pub sysctls: serde_json::Map<String, serde_json::Value>,
    /// Shell commands run before.
    #[serde(default)]
    pub setup: Vec<String>,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// Which of the director's two interfaces.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// eth0.
    Client,
    /// eth1.
    Rs,
}

/// One step of a recording.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Step {
    /// A frame put on the wire.
    Inject {
        /// Towards which interface.
        iface: Side,
        /// Hexadecimal.
        frame: String,
        /// What it is.
        summary: String,
        /// Seconds since the start.
        t: f64,
    },
    /// A frame that came out.
    Expect {
        /// The interface that it left by.
        iface: Side,
        /// Hexadecimal.
        frame: String,
        /// What it is.
        summary: String,
        /// Offsets that differed between two runs.
        #[serde(default)]
        volatile: Vec<usize>,
    },
    /// A command whose text was recorded.
    Listing(Command),
    /// A command that changed something.
    Exec(Command),
    /// Nothing was done for so long.
    Sleep {
        /// How long.
        seconds: f64,
        /// When it began, in seconds since the start.
        t: Option<f64>,
    },
    /// A remark, perhaps about a frame that was injected many times.
    Note {
        /// What.
        #[serde(default)]
        text: String,
        /// Hexadecimal.
        frame: Option<String>,
    },
}

impl Step {
    /// When it was done, where the recording says so and the step does not take time itself.
    pub const fn time(&self) -> Option<f64> {
        match self {
            Self::Inject { t, .. } => Some(*t),
            Self::Listing(command) | Self::Exec(command) => command.t,
            Self::Expect { .. } | Self::Sleep { .. } | Self::Note { .. } => None,
        }
    }
}

/// A frame that a recording says came out.
#[derive(Debug)]
pub struct Expected {
    /// The interface that it left by.
    pub side: Side,
    /// The frame.
    pub bytes: Vec<u8>,
    /// Offsets that differed between two runs.
    pub volatile: Vec<usize>,
    /// What it is.
    pub summary: String,
}

/// The expectations that come next.
pub fn expectations<'s>(steps: &mut Peekable<impl Iterator<Item = &'s Step>>) -> Vec<Expected> {
    std::iter::from_fn(|| {
        while matches!(steps.peek(), Some(Step::Note { frame: None, .. })) {
            steps.next();
        }
        match steps.peek() {
            Some(Step::Expect { .. }) => steps.next().and_then(expectation),
            _ => None,
        }
    })
    .collect()
}

/// What an `expect` step says.
pub fn expectation(step: &Step) -> Option<Expected> {
    let Step::Expect {
        iface,
        frame,
        summary,
        volatile,
    } = step
    else {
        return None;
    };
    Some(Expected {
        side: *iface,
        bytes: bytes(frame),
        volatile: volatile.clone(),
        summary: summary.clone(),
    })
}

/// A command and what it printed.
#[derive(Debug, Deserialize)]
pub struct Command {
    /// As typed.
    pub command: String,
    /// What it printed.
    pub output: String,
    /// What it said besides.
    #[serde(default)]
    pub stderr: String,
    /// Exit code.
    pub rc: i32,
    /// Seconds since the start.
    pub t: Option<f64>,
}

/// Reads a recording.
pub fn read(path: &Path) -> Scenario {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Bytes of a hexadecimal frame.
pub fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("a hexadecimal frame"))
        .collect()
}
