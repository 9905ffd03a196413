//! What a probe of the sandbox says.

use std::sync::Mutex;

use crate::engine::ports::LineSink;

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
