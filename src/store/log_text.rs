//! The lines of a build's log: `<milliseconds since 1970> <stage or -> <step or -> <text>`.
//!
//! Text is made safe when it is *written*, so that the file can be looked at with any tool: colour sequences are left
//! out, every other control character stands as its escape, and what is not UTF-8 as U+FFFD.

use std::fmt::Write as _;

use crate::domain::build::Moment;
use crate::domain::pipeline::Stage;

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its number, counted from 1.
    pub number: u64,
    /// When it was written.
    pub at: Moment,
    /// The stage it is of.
    pub stage: Option<Stage>,
    /// The step of that stage it is of, counted from 1.
    pub step: Option<u32>,
    /// What it says; no control character but tabs.
    pub text: String,
}

/// What a program wrote, fit for a terminal: at most `limit` bytes, and then what was cut.
pub(super) fn safe(bytes: &[u8], limit: usize) -> String {
    // Escapes only make text longer, so nothing beyond the limit can be needed.
    let taken = &bytes[..bytes.len().min(limit.saturating_add(4))];
    let text = String::from_utf8_lossy(taken);
    let mut safe = String::with_capacity(text.len());
    let mut rest = text.trim_end_matches(['\r', '\n']);
    while let Some(character) = rest.chars().next() {
        if let Some(length) = colour(rest) {
            rest = &rest[length..];
            continue;
        }
        rest = &rest[character.len_utf8()..];
        if character == '\t' || !is_unsafe(character) {
            safe.push(character);
        } else {
            safe.extend(character.escape_default());
        }
        if safe.len() > limit {
            break;
        }
    }
    if safe.len() > limit || bytes.len() > taken.len() {
        safe.truncate(safe.floor_char_boundary(limit));
        let _ = write!(safe, " … (line cut: it had {} bytes)", bytes.len());
    }
    safe
}

/// Controls of both sets, and what makes text read in another order than it is written in.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The length of a colour sequence (`ESC [ digits ; : m`) at the start of a text.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let end = inner.find(|character: char| !matches!(character, '0'..='9' | ';' | ':'))?;
    inner[end..].starts_with('m').then_some("\u{1b}[".len() + end + 1)
}

/// A line as it stands in the file, its end included. The text must be safe.
pub(super) fn encode(at: Moment, stage: Option<Stage>, step: Option<u32>, text: &str) -> String {
    let step = step.map_or_else(|| "-".to_owned(), |step| step.to_string());
    format!("{} {} {step} {text}\n", at.0, stage.map_or("-", Stage::word))
}

/// A line of the file. One that is not as it should be (the machine lost power while it was written) is all text.
pub(super) fn decode(number: u64, line: &[u8]) -> LogLine {
    let line = String::from_utf8_lossy(line);
    let line = line.trim_end_matches('\n');
    parts(number, line).unwrap_or_else(|| LogLine {
        number,
        at: Moment::default(),
        stage: None,
        step: None,
        text: safe(line.as_bytes(), usize::MAX),
    })
}

fn parts(number: u64, line: &str) -> Option<LogLine> {
    let mut parts = line.splitn(4, ' ');
    let at = Moment(parts.next()?.parse().ok()?);
    let stage = match parts.next()? {
        "-" => None,
        word => Some(Stage::from_word(word)?),
    };
    let step = match parts.next()? {
        "-" => None,
        step => Some(step.parse().ok()?),
    };
    let text = parts.next()?;
    // Written safe; but files can be changed, and what is read goes to terminals.
    let text = if text.contains(is_unsafe) { safe(text.as_bytes(), usize::MAX) } else { text.to_owned() };
    Some(LogLine { number, at, stage, step, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        assert_eq!(safe(b"\x1b[0;32mok\x1b[0m: all\tgood\r\n", 100), "ok: all\tgood");
        assert_eq!(safe(b"\x1b]0;title\x07 \x1b[2J", 100), "\\u{1b}]0;title\\u{7} \\u{1b}[2J");
        assert_eq!(safe("a\u{202e}b\u{9b}31m".as_bytes(), 100), "a\\u{202e}b\\u{9b}31m");
        assert_eq!(safe(b"10%\r20%", 100), "10%\\r20%");
        assert_eq!(safe(b"caf\xe9 \xff", 100), "caf\u{fffd} \u{fffd}");
        assert_eq!(safe(b"\x1b[", 100), "\\u{1b}[");
    }

    #[test]
    fn a_line_is_cut_at_a_character() {
        assert_eq!(safe("ééé".as_bytes(), 3), "é … (line cut: it had 6 bytes)");
        assert_eq!(safe(&[b'x'; 200], 4), "xxxx … (line cut: it had 200 bytes)");
        assert_eq!(safe(b"xxxx", 4), "xxxx");
    }

    #[test]
    fn a_line_reads_back_and_a_torn_one_is_text() {
        let line = encode(Moment(12), Some(Stage::Test), Some(3), "a b  c");
        let read = decode(7, line.as_bytes());
        let text = "a b  c".to_owned();
        assert_eq!(read, LogLine { number: 7, at: Moment(12), stage: Some(Stage::Test), step: Some(3), text });
        assert_eq!(decode(1, encode(Moment(1), None, None, "").as_bytes()).text, "");
        assert_eq!(decode(1, b"17 te").text, "17 te");
        assert_eq!(decode(1, b"1 - - \x1b[2J").text, "\\u{1b}[2J");
    }
}
