//! Layouts of times: Go's for `isotime`, C's for `strftime`. A time is the build's own and in UTC, and waits for the build.

use crate::domain::expression::Text;

/// The layout that `isotime` has where none is given.
pub(super) const RFC3339: &str = "2006-01-02T15:04:05Z07:00";

/// What Go writes for the parts of its reference time, the longer first where one begins another: the names of the parts.
const GO: [(&str, &str); 20] = [
    ("January", "utc-month-name"),
    ("Jan", "utc-mon"),
    ("Monday", "utc-weekday"),
    ("Mon", "utc-wday"),
    ("2006", "utc-year"),
    ("002", "utc-yearday"),
    ("01", "utc-month"),
    ("02", "utc-day"),
    ("03", "utc-hour-12"),
    ("04", "utc-minute"),
    ("05", "utc-second"),
    ("06", "utc-yy"),
    ("15", "utc-hour"),
    ("1", "utc-m"),
    ("_2", "utc-day-blank"),
    ("2", "utc-d"),
    ("3", "utc-h"),
    ("4", "utc-min"),
    ("5", "utc-sec"),
    ("PM", "utc-half"),
];

/// What Go writes for zones, and what that is in UTC.
const ZONES: [(&str, &str); 11] = [
    ("MST", "UTC"),
    ("-07:00:00", "+00:00:00"),
    ("-070000", "+000000"),
    ("-07:00", "+00:00"),
    ("-0700", "+0000"),
    ("-07", "+00"),
    ("Z07:00:00", "Z"),
    ("Z070000", "Z"),
    ("Z07:00", "Z"),
    ("Z0700", "Z"),
    ("Z07", "Z"),
];

/// The conversions of C, and their parts.
const C: [(char, &str); 14] = [
    ('Y', "utc-year"),
    ('y', "utc-yy"),
    ('m', "utc-month"),
    ('B', "utc-month-name"),
    ('b', "utc-mon"),
    ('d', "utc-day"),
    ('j', "utc-yearday"),
    ('A', "utc-weekday"),
    ('a', "utc-wday"),
    ('H', "utc-hour"),
    ('I', "utc-hour-12"),
    ('M', "utc-minute"),
    ('S', "utc-second"),
    ('p', "utc-half"),
];

/// A time in a layout of Go's.
///
/// # Errors
/// What of the layout is not understood.
pub(super) fn isotime(layout: &str) -> Result<Text, String> {
    let mut texts = Vec::new();
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        // A year behind a line is a year, and not a day.
        let year_follows = rest.starts_with("_2006");
        let part = GO.iter().find(|(go, _)| !year_follows && rest.starts_with(go));
        let zone = ZONES.iter().find(|(go, _)| rest.starts_with(go));
        let length = if let Some((go, name)) = part {
            texts.push(of_build(name)?);
            go.len()
        } else if let Some((go, utc)) = zone {
            texts.push(Text::literal(*utc));
            go.len()
        } else if let Some((length, digits)) = fraction(rest) {
            texts.push(Text::literal(digits));
            length
        } else if rest.starts_with("pm") {
            return Err("the part `pm` of a layout is not understood: write `PM`".to_owned());
        } else {
            texts.push(Text::literal(first));
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    Ok(Text::concat(texts))
}

/// A time in a layout of C's.
///
/// # Errors
/// The conversion that is not understood.
pub(super) fn strftime(layout: &str) -> Result<Text, String> {
    let mut texts = Vec::new();
    let mut chars = layout.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            texts.push(Text::literal(c));
            continue;
        }
        texts.push(match chars.next() {
            Some('%') | None => Text::literal('%'),
            Some('Z') => Text::literal("UTC"),
            Some('z') => Text::literal("+0000"),
            Some(letter) => match C.iter().find(|(known, _)| *known == letter) {
                Some((_, name)) => of_build(name)?,
                None => return Err(format!("the part `%{letter}` of a layout is not understood")),
            },
        });
    }
    Ok(Text::concat(texts))
}

/// What only the build knows.
pub(super) fn of_build(name: &str) -> Result<Text, String> {
    Text::parse(&format!("{{{{ build.{name} }}}}")).map_err(|error| error.message)
}

/// Parts of a second, as long as they are written: a build begins with a whole one. `9` leaves zeros out, and so all.
fn fraction(rest: &str) -> Option<(usize, String)> {
    let digits = rest.strip_prefix('.')?;
    let kind = digits.chars().next().filter(|c| matches!(c, '0' | '9'))?;
    let count = digits.chars().take_while(|c| *c == kind).count();
    let ends = !digits[count..].starts_with(|c: char| c.is_ascii_digit());
    ends.then(|| (count + 1, if kind == '0' { format!(".{}", "0".repeat(count)) } else { String::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn go(layout: &str) -> String {
        isotime(layout).expect("a layout").to_string().replace("{{ build.utc-", "<").replace(" }}", ">")
    }

    #[test]
    fn layouts_of_go_are_made_of_the_parts_of_a_moment() {
        assert_eq!(go(RFC3339), "<year>-<month>-<day>T<hour>:<minute>:<second>Z");
        assert_eq!(go("2006-01-02 1504"), "<year>-<month>-<day> <hour><minute>");
        assert_eq!(go("Mon Jan _2 3:4:5PM MST 06"), "<wday> <mon> <day-blank> <h>:<min>:<sec><half> UTC <yy>");
        assert_eq!(go("v_2006.000 -0700 .999 plain"), "v_<year>.000 +0000  plain");
        assert_eq!(isotime("3pm"), Err("the part `pm` of a layout is not understood: write `PM`".to_owned()));
    }

    #[test]
    fn layouts_of_c_are_made_of_the_same_parts() {
        let text = strftime("%Y-%m-%d %H%M%S%% %Z").expect("a layout");
        assert_eq!(
            text.to_string(),
            "{{ build.utc-year }}-{{ build.utc-month }}-{{ build.utc-day }} {{ build.utc-hour }}{{ build.utc-minute \
             }}{{ build.utc-second }}% UTC"
        );
        assert_eq!(strftime("%Q"), Err("the part `%Q` of a layout is not understood".to_owned()));
    }
}
