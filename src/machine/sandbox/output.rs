//! The output of a sandboxed program as lines.

use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::process::Output;
use crate::engine::ports::LineSink;

/// Longer lines go on in pieces.
const LINE_LIMIT: usize = 64 * 1024;

/// Cuts a program's output into lines. Dropping a pass loses nothing.
#[derive(Debug)]
pub(crate) struct Pump {
    reader: BufReader<Output>,
    line: Vec<u8>,
    open: bool,
}

impl Pump {
    /// Of an output from its beginning.
    pub(crate) fn new(output: Output) -> Self {
        Self { reader: BufReader::with_capacity(LINE_LIMIT, output), line: Vec::new(), open: true }
    }

    /// Whether more may come.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }

    /// Waits for more output and passes on each line that is complete.
    pub(crate) async fn pass_on(&mut self, lines: &dyn LineSink) {
        let taken = match self.reader.fill_buf().await {
            Ok(bytes) if !bytes.is_empty() => {
                for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
                    let (text, complete) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
                    for part in text.chunks(LINE_LIMIT) {
                        if self.line.len() + part.len() > LINE_LIMIT {
                            lines.line(&std::mem::take(&mut self.line));
                        }
                        self.line.extend_from_slice(part);
                    }
                    if complete {
                        lines.line(&self.line);
                        self.line.clear();
                    }
                }
                bytes.len()
            }
            _ => {
                self.open = false;
                if !self.line.is_empty() {
                    lines.line(&std::mem::take(&mut self.line));
                }
                0
            }
        };
        self.reader.consume(taken);
    }
}

/// Remembers the last line of a probe, which says why it failed.
#[derive(Debug, Default)]
pub(crate) struct Said(Mutex<Option<String>>);

impl Said {
    /// The last line.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().ok()?.clone()
    }
}

impl LineSink for Said {
    fn line(&self, line: &[u8]) {
        if let Ok(mut last) = self.0.lock() {
            *last = Some(String::from_utf8_lossy(line).into_owned());
        }
    }
}
