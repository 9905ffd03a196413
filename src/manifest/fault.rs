//! What is wrong in a file of the repository, where, and what to do about it, as a compiler says it.
//!
//! Whatever a fault quotes comes from people nobody here knows, so nothing in it can move a terminal's cursor: characters
//! that do not print are replaced by ones that do when the fault is made.

use std::fmt::{self, Write as _};

/// The most characters of a line that a fault shows.
const SNIPPET: usize = 160;

/// The most characters of a message, a hint or a help: whatever they quote may be as long as its file.
const WORDS: usize = 1000;

/// The most faults that are kept of one file: nobody reads the hundred and first.
pub const MOST_FAULTS: usize = 100;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The line, counted from 1; 0 means the file as a whole.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
}

/// One thing that is wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, relative to the repository's root.
    pub file: String,
    /// The line, counted from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// The column in characters, counted from 1; 0 where the file as a whole is meant.
    pub column: usize,
    /// How many characters are meant.
    pub length: usize,
    /// What kind of fault it is, for programs: `unknown-key`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The short advice that stands under the line: "did you mean `provision`?"; may be empty.
    pub hint: String,
    /// What was expected or what to do; may be empty.
    pub help: String,
    /// The line itself, made printable, long ones cut.
    pub snippet: Option<String>,
    /// Where in the snippet the columns begin: behind its start for a line that was cut.
    caret: usize,
}

impl Fault {
    /// A fault of a file as a whole, or of a place in a file whose text is not at hand.
    pub fn new(file: &str, span: Span, code: &'static str, message: impl AsRef<str>) -> Self {
        Self {
            file: visible(file),
            line: span.line,
            column: span.column,
            length: span.length.max(1),
            code,
            message: told(message.as_ref()),
            hint: String::new(),
            help: String::new(),
            snippet: None,
            caret: span.column.saturating_sub(1),
        }
    }

    /// The same fault with the short advice that stands under the line.
    #[must_use]
    pub fn with_hint(mut self, hint: impl AsRef<str>) -> Self {
        self.hint = told(hint.as_ref());
        self
    }

    /// The same fault with what was expected or what to do.
    #[must_use]
    pub fn with_help(mut self, help: impl AsRef<str>) -> Self {
        self.help = told(help.as_ref());
        self
    }

    /// The same fault with the line it is about.
    #[must_use]
    pub fn with_snippet(mut self, line: &str) -> Self {
        let column = self.column.saturating_sub(1);
        let start = if column + self.length.min(40) > SNIPPET { column.saturating_sub(40) } else { 0 };
        let mut snippet = String::new();
        if start > 0 {
            snippet.push('…');
        }
        let rest = line.chars().skip(start);
        snippet.extend(rest.clone().take(SNIPPET).map(printable));
        if rest.count() > SNIPPET {
            snippet.push('…');
        }
        self.caret = column - start + usize::from(start > 0);
        self.snippet = Some(snippet.trim_end().to_owned());
        self
    }

    /// Hint and help in one line, as JSON has them.
    pub fn advice(&self) -> String {
        match (self.hint.is_empty(), self.help.is_empty()) {
            (false, false) => format!("{} {}", self.hint, self.help),
            _ => format!("{}{}", self.hint, self.help),
        }
    }

    /// The fault with its line, as `factoryd check` prints it; `word` is `error` or `warning`.
    pub fn render(&self, word: &str) -> String {
        let mut out = format!("{word}: {}\n", self.message);
        let number = self.line.to_string();
        let margin = " ".repeat(number.len() + 1);
        let place = if self.line == 0 { String::new() } else { format!(":{}:{}", self.line, self.column) };
        let _ = writeln!(out, "{margin}--> {}{place}", self.file);
        if let Some(snippet) = self.snippet.as_ref().filter(|snippet| !snippet.is_empty()) {
            let room = snippet.chars().count().saturating_sub(self.caret).max(1);
            let marks = "^".repeat(self.length.clamp(1, room));
            let under = format!("{margin}| {}{marks} {}", " ".repeat(self.caret), self.hint);
            let _ = writeln!(out, "{margin}|\n{number} | {snippet}\n{}\n{margin}|", under.trim_end());
        } else if !self.hint.is_empty() {
            let _ = writeln!(out, "{margin}= {}", self.hint);
        }
        if !self.help.is_empty() {
            let _ = writeln!(out, "{margin}= {}", self.help);
        }
        out
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message),
        }
    }
}

/// The text of a file with its name, so that faults can show lines.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

impl Source {
    /// A file's text under its name. A byte order mark at its start is left out.
    pub fn new(name: impl Into<String>, text: &str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let mut lines = vec![0];
        let bytes = text.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            // A lone carriage return ends a line too, as the YAML parser counts.
            if *byte == b'\n' || (*byte == b'\r' && bytes.get(at + 1) != Some(&b'\n')) {
                lines.push(at + 1);
            }
        }
        Self { name: name.into(), text, lines }
    }

    /// The file's name, relative to the repository's root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A line without its end, counted from 1; empty where there is none.
    pub fn line(&self, number: usize) -> &str {
        let Some(start) = number.checked_sub(1).and_then(|index| self.lines.get(index)) else { return "" };
        let end = self.lines.get(number).copied().unwrap_or(self.text.len());
        self.text[*start..end].trim_end_matches(['\n', '\r'])
    }

    /// How many lines there are.
    pub fn line_count(&self) -> usize {
        self.lines.len()
    }

    /// A fault at a place of this file.
    pub fn fault(&self, span: Span, code: &'static str, message: impl AsRef<str>) -> Fault {
        let fault = Fault::new(&self.name, span, code, message);
        if span.line == 0 { fault } else { fault.with_snippet(self.line(span.line)) }
    }

    /// Where a piece of text first stands at or after a place; that place itself where it is not found.
    pub fn locate(&self, piece: &str, from: Span) -> Span {
        const FAR: usize = 200;
        let wanted = piece.lines().next().unwrap_or_default();
        let last = self.line_count().min(from.line + FAR);
        for number in from.line..=last {
            let line = self.line(number);
            let skip = if number == from.line { from.column.saturating_sub(1) } else { 0 };
            let start = line.char_indices().nth(skip).map_or(line.len(), |(at, _)| at);
            if let Some(found) = line[start..].find(wanted).filter(|_| !wanted.is_empty()) {
                let column = line[..start + found].chars().count() + 1;
                return Span { line: number, column, length: wanted.chars().count() };
            }
        }
        from
    }
}

/// The candidate that somebody most likely meant; `None` where none is near.
pub fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase().replace('_', "-");
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase().replace('_', "-")), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Puts faults into the order of their places, each once, and cuts off those that nobody would read.
pub(super) fn in_order(faults: &mut Vec<Fault>) {
    faults.sort_by_key(|fault| (fault.line, fault.column));
    faults.dedup();
    faults.truncate(MOST_FAULTS);
}

/// A text whose every character prints and none of which moves the cursor or turns the direction of writing.
pub fn visible(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// What a person is told: visible, and cut where nobody reads on.
fn told(text: &str) -> String {
    let mut rest = text.chars();
    let mut told: String = rest.by_ref().take(WORDS).map(printable).collect();
    if rest.next().is_some() {
        told.push('…');
    }
    told
}

/// `text` in quotes of code, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return format!("`{text}`");
    }
    format!("`{}…`", text.chars().take(MOST - 1).collect::<String>())
}

/// A character that prints and moves nothing, in the place of one that does not.
pub fn printable(c: char) -> char {
    match c {
        '\u{0}'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => '\u{fffd}',
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}' => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, length: usize) -> Span {
        Span { line, column, length }
    }

    #[test]
    fn a_fault_reads_like_a_compilers() {
        let source = Source::new("pipelines/bundle.yml", "\n\n\n\n\n  - provison:\n");
        let fault = source
            .fault(at(6, 5, 8), "unknown-stage", "unknown stage `provison`")
            .with_hint("did you mean `provision`?")
            .with_help("stages are boot, provision, test, snapshot, render");
        insta::assert_snapshot!(fault.render("error"), @r"
        error: unknown stage `provison`
          --> pipelines/bundle.yml:6:5
          |
        6 |   - provison:
          |     ^^^^^^^^ did you mean `provision`?
          |
          = stages are boot, provision, test, snapshot, render
        ");
    }

    #[test]
    fn what_does_not_print_is_made_visible() {
        let source = Source::new("a\u{1b}[2J.yml", "x: \u{1b}[31mred\u{202e}\tq\r\n");
        let shown = source.fault(at(1, 4, 1), "code", "bad \u{7}").render("error");
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        assert!(shown.contains("x: ␛[31mred\u{fffd}␉q\n"), "{shown}");
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let source = Source::new("a.yml", &format!("{}HERE{}", "x".repeat(5000), "y".repeat(5000)));
        let shown = source.fault(at(1, 5001, 4), "code", "bad").render("error");
        let lines: Vec<&str> = shown.lines().collect();
        let column = |line: &str, what: &str| line.split(what).next().map(|before| before.chars().count());
        assert_eq!(column(lines[3], "HERE"), column(lines[4], "^"));
        assert!(shown.len() < 600);
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_not() {
        assert_eq!(did_you_mean("provison", ["boot", "provision"]), Some("provision"));
        assert_eq!(did_you_mean("ansible_local", ["ansible", "ansible-local"]), Some("ansible-local"));
        assert_eq!(did_you_mean("zzz", ["boot", "test"]), None);
    }
}
