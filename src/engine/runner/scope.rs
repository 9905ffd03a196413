//! What `build.…` in a late text means for a build.

use sha2::{Digest as _, Sha256};

use super::super::ports::LocalTime;
use crate::domain::build::{Moment, Order};
use crate::domain::utc;
use crate::domain::value::Value;

/// What `build.…` means for a build.
pub(in super::super) fn build_scope(order: &Order, at: Moment, began: LocalTime) -> Value {
    let text = |text: String| Value::String(text);
    let directory = String::from_utf8_lossy(order.key.path.name()).into_owned();
    let mut build = vec![
        ("number".to_owned(), text(order.number.0.to_string())),
        ("stamp".to_owned(), text(began.stamp())),
        ("date".to_owned(), text(began.date())),
        ("time".to_owned(), text(began.time())),
        ("commit".to_owned(), text(order.commit.to_string())),
        ("branch".to_owned(), text(order.key.branch.to_string())),
        ("path".to_owned(), text(order.key.path.to_string())),
        ("directory".to_owned(), text(directory)),
        ("timestamp".to_owned(), text(at.0.div_euclid(1000).to_string())),
        ("uuid".to_owned(), text(uuid(order, at))),
    ];
    let utc = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    let part = |(name, format): (&str, &str)| (name.to_owned(), text(utc.strftime(format).to_string()));
    build.extend(utc::PARTS.map(part));
    Value::Map(vec![("build".to_owned(), Value::Map(build))])
}

/// An id that is the build's own, and the same whenever the build is taken up again: a UUID of version 8 (RFC 9562).
fn uuid(order: &Order, at: Moment) -> String {
    let Order { number, key, .. } = order;
    let sum = Sha256::digest(format!("{} {} {} {}", key.repository, key.path, number.0, at.0));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&sum[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: i64) -> String {
        let utc = jiff::Timestamp::from_millisecond(at).expect("a time");
        utc::PARTS.map(|(_, format)| utc.strftime(format).to_string()).join(" ")
    }

    #[test]
    fn the_parts_of_a_moment_are_those_of_the_calendar() {
        // `date -u -d @… '+%Y %y %m %-m %B %b %d %-d %e %j %A %a %H %I %-I %M %-M %S %-S %p'`
        assert_eq!(said(0), "1970 70 01 1 January Jan 01 1  1 001 Thursday Thu 00 12 12 00 0 00 0 AM");
        assert_eq!(said(1_709_211_845_999), "2024 24 02 2 February Feb 29 29 29 060 Thursday Thu 13 01 1 04 4 05 5 PM");
    }
}
