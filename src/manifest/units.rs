//! Times and sizes as people write them in pipelines.

use std::time::Duration;

/// The longest time that is taken: a hundred years.
const LONGEST: u64 = 100 * 365 * 86_400;

/// `90m`, `1h30m`, `7d`, `45s`: a time of at least one second.
///
/// # Errors
/// What is wrong with it, as a message goes on after "is no time: ".
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut seconds = 0u64;
    let mut before = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let unit = match tail.chars().next() {
            Some('d') => 86_400,
            Some('h') => 3_600,
            Some('m') => 60,
            Some('s') => 1,
            _ => return Err("a number is followed by d, h, m or s".to_owned()),
        };
        if unit >= before {
            return Err("larger units come first, each once".to_owned());
        }
        let number: u64 = number.parse().map_err(|_| "each unit needs a number before it".to_owned())?;
        let sum = number.checked_mul(unit).and_then(|part| seconds.checked_add(part));
        seconds = sum.filter(|sum| *sum <= LONGEST).ok_or("it is longer than a hundred years")?;
        before = unit;
        rest = &tail[1..];
    }
    if seconds == 0 { Err("it is zero".to_owned()) } else { Ok(Duration::from_secs(seconds)) }
}

/// `2GiB`, `512MiB`: an amount of bytes, at least one KiB.
///
/// # Errors
/// What is wrong with it, and what was likely meant.
pub(super) fn size(text: &str) -> Result<u64, (String, Option<String>)> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => {
            let first = unit.trim().chars().next().unwrap_or('x').to_ascii_uppercase();
            let number = digits.trim();
            let meant = (matches!(first, 'K' | 'M' | 'G' | 'T') && number.parse::<u64>().is_ok())
                .then(|| format!("{number}{first}iB"));
            return Err(("a size ends in KiB, MiB, GiB or TiB".to_owned(), meant));
        }
    };
    let number: u64 = digits.parse().map_err(|_| ("it needs a whole number before its unit".to_owned(), None))?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= i64::MAX.cast_unsigned());
    match bytes {
        Some(0) => Err(("it is zero".to_owned(), None)),
        Some(bytes) => Ok(bytes),
        None => Err(("it is too large".to_owned(), None)),
    }
}

/// Permission bits in octal digits, with or without `0` or `0o` before them.
pub(super) fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let right = (3..=5).contains(&digits.len()) && digits.chars().all(|c| matches!(c, '0'..='7'));
    u32::from_str_radix(digits, 8).ok().filter(|bits| right && *bits <= 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let seconds = |text| duration(text).map(|time| time.as_secs()).ok();
        assert_eq!(seconds("90m"), Some(5400));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("7d"), Some(604_800));
        assert_eq!(seconds("45s"), Some(45));
        for wrong in ["", "90", "m", "30m1h", "1h1h", "0s", "1.5h", "99999999999999999999d", "4000000d", "1w", "1ä"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("2G").expect_err("no unit").1.as_deref(), Some("2GiB"));
        assert_eq!(size("2 gb").expect_err("no unit").1.as_deref(), Some("2GiB"));
        for wrong in ["", "2", "GiB", "0GiB", "-1GiB", "99999999TiB", "1.5GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(mode("0644"), Some(0o644));
        assert_eq!(mode("755"), Some(0o755));
        assert_eq!(mode("0o600"), Some(0o600));
        for wrong in ["", "8", "0888", "77777", "rwx"] {
            assert_eq!(mode(wrong), None, "{wrong}");
        }
    }
}
