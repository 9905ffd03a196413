//! Bytes of running programs, cut into lines as they come.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::blocking;
use crate::engine::ports::{LineSink, Lines};

/// The longest line that is handed on in one piece, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// Bytes of a stream that are read, and handed on, at once.
const PIECE: usize = 16 * 1024;

/// Hands on the lines of a stream until its end. Sinks write to files, and a disk that is busy may hold them up: that is
/// done where threads may block, and what the program writes waits in its pipe meanwhile.
pub async fn pump(mut stream: impl AsyncRead + Unpin, lines: Lines) {
    let (mut splitter, mut buffer) = (LineSplitter::default(), vec![0; PIECE]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        let sink = lines.clone();
        let feed = move || {
            splitter.feed(&buffer[..read], &*sink);
            (splitter, buffer)
        };
        (splitter, buffer) = blocking::run(feed).await;
    }
    blocking::run(move || splitter.finish(&*lines)).await;
}

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
        let text: String = uncoloured(text.trim_end()).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
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

/// A line without what colours it or moves the cursor: a console is full of it, and nobody can read past it.
fn uncoloured(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Numbers and marks, then one letter that says what they are for.
        let rest = part.trim_start_matches(|c| matches!(c, ' '..='?'));
        out.push_str(rest.strip_prefix(|c| matches!(c, '@'..='~')).unwrap_or(rest));
    }
    out
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

    #[test]
    fn what_a_console_is_coloured_with_is_not_remembered() {
        let last = LastLines::new(2);
        last.line(b"[\x1b[0;32m  OK  \x1b[0m] Reached \x1b[0;1;39mmulti-user\x1b[0m\x1b[K\r");
        last.line("half \u{1b}[3 and \u{1b}[1ü \u{7}".as_bytes());
        assert_eq!(last.text(), "[  OK  ] Reached multi-user\nhalf nd ü  ");
    }

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

    /// Remembers the lines, and the threads that brought them.
    #[derive(Default)]
    struct Threads(Kept, Mutex<Vec<std::thread::ThreadId>>);

    impl LineSink for Threads {
        fn line(&self, line: &[u8]) {
            self.0.line(line);
            self.1.lock().expect("no panic").push(std::thread::current().id());
        }
    }

    #[tokio::test]
    async fn sinks_hold_up_no_thread_that_others_run_on() {
        let threads = std::sync::Arc::new(Threads::default());
        let text = "line\n".repeat(2 * PIECE) + "last";
        pump(text.as_bytes(), threads.clone()).await;
        assert_eq!(threads.0.0.lock().expect("no panic").join(&b'\n'), text.as_bytes());
        // All else of this test runs on this one thread.
        assert!(!threads.1.lock().expect("no panic").contains(&std::thread::current().id()));
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
        assert_eq!(last.text(), "red\nend");
    }
}
