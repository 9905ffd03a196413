//! A build's log as its stages and steps write it.

use std::sync::{Arc, Mutex};

use super::diagnose::{NumberedLine, first_error};
use super::ports::{LineSink, Lines};
use super::unpoisoned;
use crate::domain::pipeline::Stage;
use crate::store::LogWriter;

/// How many lines of a step are kept in memory to find the one that says what failed.
const REMEMBERED: usize = 2000;
/// How much of a line is remembered, in bytes.
const REMEMBERED_BYTES: usize = 400;

/// The part of a build's log that belongs to one stage or one step of it.
pub(super) struct StepLog {
    writer: Arc<LogWriter>,
    stage: Stage,
    step: Option<u32>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    lines: std::collections::VecDeque<NumberedLine>,
}

impl StepLog {
    pub(super) fn new(writer: &Arc<LogWriter>, stage: Stage, step: Option<u32>) -> Arc<Self> {
        Arc::new(Self { writer: Arc::clone(writer), stage, step, seen: Mutex::default() })
    }

    /// The same log, as ports take it.
    pub(super) fn lines(self: &Arc<Self>) -> Lines {
        Arc::clone(self) as Lines
    }

    /// A line of factoryd's own.
    pub(super) fn say(&self, text: &str) {
        self.line(text.as_bytes());
    }

    /// The line that tells best what failed: its number in the log and its text.
    pub(super) fn first_error(&self) -> Option<NumberedLine> {
        let mut seen = unpoisoned(&self.seen);
        first_error(seen.lines.make_contiguous()).cloned()
    }
}

impl LineSink for StepLog {
    fn line(&self, line: &[u8]) {
        let number = self.writer.line(Some(self.stage), self.step, line);
        let text = String::from_utf8_lossy(&line[..line.len().min(REMEMBERED_BYTES)]).into_owned();
        let mut seen = unpoisoned(&self.seen);
        if seen.lines.len() == REMEMBERED {
            seen.lines.pop_front();
        }
        seen.lines.push_back((number, text));
    }
}
