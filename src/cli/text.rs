//! How factoryd speaks in a terminal: marks with their words, the rail of stages, durations, widths.
//!
//! Colour means state and nothing else, and every mark has its word, so that nothing is lost without colour.

use std::io::IsTerminal as _;

use crate::manifest::fault::printable;
use crate::server::wire::{StagePlanView, StageView};

/// What the output may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) colour: bool,
    pub(super) unicode: bool,
    pub(super) width: usize,
}

impl Style {
    /// What standard output may use.
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: terminal && !set("NO_COLOR") && !dumb, unicode: locale_is_utf8(), width: width() }
    }

    /// What a `git push` shows: never colour.
    pub(super) fn of_push() -> Self {
        Self { colour: false, unicode: locale_is_utf8(), width: 80 }
    }

    /// The same without colour: standard error may be something else than standard output.
    pub(super) fn plain(self) -> Self {
        Self { colour: false, ..self }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A mark and its word, padded to one width.
    pub(super) fn mark(self, word: &str) -> String {
        let (mark, code) = match word {
            "fresh" | "passed" | "published" | "unchanged" => ("✓", "32"),
            "failed" | "revoked" | "unbuildable" => ("✗", "31"),
            "running" | "build" => ("▶", "36"),
            "waiting" | "queued" | "candidate" => ("◷", "33"),
            "held" | "deprecated" => ("‖", "33"),
            _ => ("◇", "33"),
        };
        self.paint(code, &format!("{mark} {word:<9}"))
    }

    /// Just the mark of a word.
    pub(super) fn sign(self, word: &str) -> String {
        let text = self.plain().mark(word);
        let sign: String = text.chars().take(1).collect();
        let code = match word {
            "failed" | "revoked" => "31",
            "passed" | "published" | "fresh" => "32",
            _ => "33",
        };
        self.paint(code, &sign)
    }

    /// What may be printed of a text: names, messages and subjects in it come from repositories, so that of all
    /// characters that move a cursor or hide something only line ends and our own colours stay. Without UTF-8, marks and
    /// arrows are spelt.
    pub(super) fn shown(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let own = COLOURS.into_iter().filter(|_| self.colour).find(|colour| rest.starts_with(colour));
            match (own, next) {
                (Some(colour), _) => out.push_str(colour),
                (None, '\n') => out.push('\n'),
                (None, other) if self.unicode => out.push(printable(other)),
                (None, other) => match ASCII.into_iter().find(|(mark, _)| *mark == other) {
                    Some((_, spelt)) => out.push_str(spelt),
                    None => out.push(printable(other)),
                },
            }
            rest = &rest[own.map_or(next.len_utf8(), str::len)..];
        }
        out
    }
}

/// How our own marks are spelt where the locale is not UTF-8.
const ASCII: [(char, &str); 9] =
    [('→', "->"), ('…', "..."), ('›', ">"), ('✓', "."), ('✗', "!"), ('▶', ">"), ('◷', ":"), ('◇', "~"), ('‖', "-")];

/// All that [`Style::paint`] writes.
const COLOURS: [&str; 5] = ["\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m", "\u{1b}[36m", "\u{1b}[0m"];

fn locale_is_utf8() -> bool {
    let first = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty())
        .unwrap_or_default();
    let lower = first.to_ascii_lowercase();
    lower.contains("utf-8") || lower.contains("utf8")
}

fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let of_terminal = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    columns.or_else(of_terminal).filter(|width| *width >= 40).unwrap_or(80)
}

/// The five stages as a rail: `=` hit, `#` done, `>` running, `!` failed, `.` to come.
pub(super) fn rail(stages: &[StageView]) -> String {
    let cells = stages.iter().map(|stage| match stage.state.as_str() {
        "hit" => '=',
        "passed" => '#',
        "running" => '>',
        "failed" | "cancelled" => '!',
        _ => '.',
    });
    format!("[{}]", cells.collect::<String>())
}

/// A stage of a plan in one character.
pub(super) fn plan_mark(stage: &StagePlanView) -> char {
    match stage.state.as_str() {
        "hit" => '=',
        "changed" => '~',
        "miss" => '+',
        _ => '-',
    }
}

/// How long something took: `8 min 02 s`, `12.3 s`.
pub(super) fn took(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = whole(seconds);
    match whole {
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// How long something will take, as one guesses: `4 min`.
pub(super) fn about(seconds: f64) -> String {
    let whole = whole(seconds);
    match whole {
        0..10 => "a few seconds".to_owned(),
        10..60 => format!("{} s", (whole + 5) / 10 * 10),
        60..5400 => format!("{} min", (whole + 30) / 60),
        _ => format!("{} h", (whole + 1800) / 3600),
    }
}

/// The same in a sentence: `about 4 min`.
pub(super) fn roughly(seconds: f64) -> String {
    let about = about(seconds);
    if about.starts_with("a ") { about } else { format!("about {about}") }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "durations are small and not negative")]
fn whole(seconds: f64) -> u64 {
    seconds.max(0.0).round() as u64
}

/// How long ago a moment was (milliseconds since 1970), up to a day; then the moment itself.
pub(super) fn ago(at: i64, now: i64) -> String {
    let seconds = (now - at) / 1000;
    match seconds {
        ..1 => "now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86400 => format!("{} h ago", seconds / 3600),
        _ => moment(at),
    }
}

/// How old something is: `19 d`.
pub(super) fn age(at: i64, now: i64) -> String {
    let seconds = (now - at) / 1000;
    match seconds {
        ..60 => "new".to_owned(),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// A moment in local time: `2026-11-23 14:02`.
pub(super) fn moment(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(stamp) => stamp.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
        Err(_) => "unknown".to_owned(),
    }
}

/// When something was: the time of day within the last one, `14:02`, else the moment with its date.
pub(super) fn when(at: i64, now: i64) -> String {
    let moment = moment(at);
    match moment.split_once(' ') {
        Some((_, time)) if (0..86_400_000).contains(&(now - at)) => time.to_owned(),
        _ => moment,
    }
}

/// The time of day of a moment: `14:02:31`.
pub(super) fn clock(at: i64) -> String {
    match jiff::Timestamp::from_millisecond(at) {
        Ok(stamp) => stamp.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string(),
        Err(_) => "--:--:--".to_owned(),
    }
}

/// Bytes as people say them: `412 GB`, `3.1 MB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1000)];
    let Some((unit, size)) = UNITS.into_iter().find(|(_, size)| count >= *size) else {
        return format!("{count} bytes");
    };
    let tenths = count / size * 10 + count % size * 10 / size;
    if tenths >= 1000 { format!("{} {unit}", tenths / 10) } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// A text cut to a width, with … at its end where something is missing. Names are never cut: give them room instead.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A name from a repository in one line: directories and files may be called anything, and no name may look like a line of
/// ours.
pub(super) fn name(text: &str) -> String {
    text.replace('\n', "␊")
}

/// An argument of a command that is there to be copied, in quotes where a shell would take it for something else.
pub(super) fn argument(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "._/:@%+,-".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    name(&format!("'{}'", text.replace('\'', r"'\''")))
}

/// `1 bundle`, `2 bundles`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        assert_eq!(took(0.24), "0.2 s");
        assert_eq!(took(482.0), "8 min 02 s");
        assert_eq!(took(7300.0), "2 h 01 min");
        assert_eq!(about(238.0), "4 min");
        assert_eq!(about(4.0), "a few seconds");
        assert_eq!(roughly(4.0), "a few seconds");
        assert_eq!(roughly(238.0), "about 4 min");
        assert_eq!(when(0, 86_400_000).len(), "1970-01-01 00:00".len());
        assert_eq!(when(0, 86_399_000).len(), "00:00".len());
        assert_eq!(age(0, 19 * 86_400_000), "19 d");
        assert_eq!(ago(0, 480_000), "8 min ago");
    }

    #[test]
    fn sizes_have_three_digits_at_most() {
        assert_eq!(bytes(412_000_000_000), "412 GB");
        assert_eq!(bytes(3_140_000), "3.1 MB");
        assert_eq!(bytes(12), "12 bytes");
    }

    #[test]
    fn only_our_own_colours_reach_a_terminal() {
        let style = |colour| Style { colour, unicode: true, width: 80 };
        let hostile = format!("{} \u{1b}]0;x\u{7}\u{9b}2J\n→", style(true).mark("failed"));
        assert_eq!(style(true).shown(&hostile), "\u{1b}[31m✗ failed   \u{1b}[0m ␛]0;x␇\u{fffd}2J\n→");
        assert!(!style(false).shown(&hostile).contains('\u{1b}'));
        assert_eq!(Style { unicode: false, ..style(false) }.shown("✗ a → b › c…"), "! a -> b > c...");
    }

    #[test]
    fn a_name_takes_one_line() {
        assert_eq!(name("images/x\n✓ fresh  images/y"), "images/x␊✓ fresh  images/y");
    }

    #[test]
    fn a_command_can_be_copied_whatever_it_names() {
        assert_eq!(argument("images/target/ünï-1.2/x.yml"), "images/target/ünï-1.2/x.yml");
        assert_eq!(argument("web #6 it's $x.qcow2"), r"'web #6 it'\''s $x.qcow2'");
    }

    #[test]
    fn messages_are_cut_and_say_so() {
        assert_eq!(cut("a long message", 8), "a long …");
        assert_eq!(cut("short", 8), "short");
    }
}
