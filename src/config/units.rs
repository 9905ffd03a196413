//! Times, sizes and networks as people write them; times and sizes as in pipelines.

use std::net::IpAddr;
use std::time::Duration;

use super::Network;

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
const SIZES: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
/// A hundred years, in seconds.
const LONGEST: u64 = 100 * 365 * 86_400;

/// `90m`, `1h30m`, `7d`: larger units first, each once, at least a second and at most a hundred years.
pub(super) fn time(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0_u64;
    for (unit, worth) in UNITS {
        let Some((number, after)) = rest.split_once(unit) else { continue };
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        seconds = number.parse::<u64>().ok()?.checked_mul(worth)?.checked_add(seconds)?;
        rest = after;
    }
    (rest.is_empty() && (1..=LONGEST).contains(&seconds)).then(|| Duration::from_secs(seconds))
}

/// `2GiB`: bytes, at least one KiB.
pub(super) fn size(text: &str) -> Option<u64> {
    let (digits, shift) = SIZES.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0 && i64::try_from(bytes).is_ok()).then_some(bytes)
}

/// `10.0.0.0/8`, `fd00::/8`, or one address.
pub(super) fn network(text: &str) -> Option<Network> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse::<u32>().ok()?)),
        None => (text.parse::<IpAddr>().ok()?, None),
    };
    Network::new(address, bits.unwrap_or(if address.is_ipv4() { 32 } else { 128 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_in_pipelines() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        assert_eq!(seconds("90m"), Some(5400));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("7d"), Some(604_800));
        for wrong in ["", "90", "m", "30m1h", "1h1h", "0s", "1.5h", "99999999999999999999d", "4000000d", "1w", "1ä"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_as_in_pipelines() {
        assert_eq!(size("2GiB"), Some(2 << 30));
        for wrong in ["", "2", "GiB", "0GiB", "-1GiB", "+1GiB", "99999999TiB", "1.5GiB", "2GB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses() {
        let holds =
            |net: &str, address: &str| network(net).expect("a network").contains(address.parse().expect("an address"));
        assert!(holds("10.0.0.0/8", "10.9.8.7"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.168.1.5", "192.168.1.5") && !holds("192.168.1.5", "192.168.1.6"));
        assert!(holds("0.0.0.0/0", "8.8.8.8") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("::/0", "fe80::1") && holds("127.0.0.0/8", "::ffff:127.0.0.1"));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "example.org", "10.0.0.0/"] {
            assert!(network(wrong).is_none(), "{wrong}");
        }
    }
}
