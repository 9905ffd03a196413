//! The parts of a moment in UTC, as texts hold them: `{{ build.utc-year }}`.
//!
//! Templates from elsewhere write times in layouts of their own; each layout is made of these parts, and so such a text
//! waits for the build like any other `build.…`.

/// The names of the parts, each with its conversion in C's `strftime`.
pub const PARTS: [(&str, &str); 20] = [
    ("utc-year", "%Y"),
    ("utc-yy", "%y"),
    ("utc-month", "%m"),
    ("utc-m", "%-m"),
    ("utc-month-name", "%B"),
    ("utc-mon", "%b"),
    ("utc-day", "%d"),
    ("utc-d", "%-d"),
    ("utc-day-blank", "%e"),
    ("utc-yearday", "%j"),
    ("utc-weekday", "%A"),
    ("utc-wday", "%a"),
    ("utc-hour", "%H"),
    ("utc-hour-12", "%I"),
    ("utc-h", "%-I"),
    ("utc-minute", "%M"),
    ("utc-min", "%-M"),
    ("utc-second", "%S"),
    ("utc-sec", "%-S"),
    ("utc-half", "%p"),
];

/// Whether a part is called so.
pub fn is_part(name: &str) -> bool {
    PARTS.iter().any(|(part, _)| *part == name)
}
