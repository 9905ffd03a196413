//! Bytes of running programs, cut into lines as they come.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::engine::ports::LineSink;

/// The longest line that is handed on in one piece, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// Cuts a stream of bytes into lines. It holds one unfinished line of at most [`LONGEST`] bytes, whatever comes.
#[derive(Debug, Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Takes more bytes and hands on the lines that they finish.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &dyn LineSink) {
        while !bytes.is_empty() {
            let room = LONGEST - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            let (taken, skip, whole) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, end + 1, true),
                None => (window.len(), window.len(), window.len() == room),
            };
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[skip..];
            if whole {
                sink.line(&self.pending);
                self.pending.clear();
            }
        }
    }

    /// Hands on what is left when the stream has ended.
    pub fn finish(&mut self, sink: &dyn LineSink) {
        if !self.pending.is_empty() {
            sink.line(&self.pending);
            self.pending.clear();
        }
    }
}

/// Remembers the last lines of a stream, for the message that says what went wrong.
#[derive(Debug)]
pub struct LastLines {
    most: usize,
    kept: Mutex<VecDeque<String>>,
}

impl LastLines {
    /// Remembers at most so many lines, each cut after 500 bytes.
    pub fn new(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// What was remembered, with control characters replaced, one line below the other.
    pub fn text(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl LineSink for LastLines {
    fn line(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(500)]);
        let text: String = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.trim().is_empty() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.len() == self.most {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

/// Hands each line to two sinks.
pub struct Both<A, B>(pub A, pub B);

impl<A, B> std::fmt::Debug for Both<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Both")
    }
}

impl<A, B> LineSink for Both<A, B>
where
    A: std::ops::Deref<Target: LineSink> + Send + Sync,
    B: std::ops::Deref<Target: LineSink> + Send + Sync,
{
    fn line(&self, line: &[u8]) {
        self.0.line(line);
        self.1.line(line);
    }
}

/// Hands lines to nobody.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl LineSink for Nowhere {
    fn line(&self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Vec<u8>>>);

    impl LineSink for Kept {
        fn line(&self, line: &[u8]) {
            self.0.lock().expect("no panic").push(line.to_vec());
        }
    }

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        let kept = Kept::default();
        let mut splitter = LineSplitter::default();
        for piece in [&b"one\ntw"[..], b"o\n\nthr", b"ee"] {
            splitter.feed(piece, &kept);
        }
        splitter.finish(&kept);
        assert_eq!(*kept.0.lock().expect("no panic"), [&b"one"[..], b"two", b"", b"three"]);
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let kept = Kept::default();
        let mut splitter = LineSplitter::default();
        splitter.feed(&vec![b'x'; LONGEST * 2 + 5], &kept);
        splitter.finish(&kept);
        let lengths: Vec<usize> = kept.0.lock().expect("no panic").iter().map(Vec::len).collect();
        assert_eq!(lengths, [LONGEST, LONGEST, 5]);
    }

    #[test]
    fn the_last_lines_are_fit_to_be_printed() {
        let last = LastLines::new(2);
        for line in ["lost", "\x1b[31mred", "end\r"] {
            last.line(line.as_bytes());
        }
        assert_eq!(last.text(), " [31mred\nend");
    }
}
