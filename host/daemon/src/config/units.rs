//! Durations and sizes as the file spells them, there and back.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// `<integer><unit>` groups, the largest unit first and each at most once: `1h30m`. A unit is never left out,
/// because `10` means minutes to one reader and seconds to another.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    let mut units = TIME_UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, unit, after) = group(rest)?;
        let (_, ms) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*ms)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

/// The shortest spelling that [`parse_span`] reads.
pub(super) fn show_span(span: Duration) -> String {
    let mut rest = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, ms) in TIME_UNITS {
        if rest >= ms {
            text.push_str(&format!("{}{unit}", rest / ms));
            rest %= ms;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `<integer><unit>`: `64MiB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, "") = group(text)? else { return None };
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// In the largest unit that divides it.
pub(super) fn show_size(size: u64) -> String {
    let whole = |&(_, bytes): &(&str, u64)| size >= bytes && size.is_multiple_of(bytes);
    let (unit, bytes) = SIZE_UNITS.into_iter().find(whole).unwrap_or(("B", 1));
    format!("{}{unit}", size / bytes)
}

/// The number and the unit that a text begins with, and what follows.
fn group(text: &str) -> Option<(u64, &str, &str)> {
    let (digits, rest) = text.split_at_checked(text.find(|c: char| !c.is_ascii_digit())?)?;
    let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_groups_with_the_largest_unit_first() {
        #[track_caller]
        fn check(text: &str, ms: u64) {
            assert_eq!(parse_span(text), Some(Duration::from_millis(ms)), "{text}");
        }
        check("90s", 90_000);
        check("1h30m", 5_400_000);
        check("1d2h3m4s5ms", 93_784_005);
        check("0s", 0);
        check("007m", 420_000);
        check("250ms", 250);
        check("153722867m", 9_223_372_020_000);
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in
            ["", "10", "s", "1.5h", "30m1h", "1h1h", "1h 30m", " 1h", "1h ", "-1s", "+1s", "1M", "1µs", "1w", "٣s"]
        {
            assert_eq!(parse_span(text), None, "{text}");
        }
        assert_eq!(parse_span("18446744073709551616ms"), None);
        assert_eq!(parse_span("18446744073709551615s"), None);
        assert_eq!(parse_span("213503982334d18446744073709551615ms"), None);
    }

    #[test]
    fn a_duration_is_shown_as_it_is_read() {
        for text in ["0s", "250ms", "10s", "1m", "1m30s", "1d", "106751d23h47m", "1h1ms"] {
            assert_eq!(parse_span(text).map(show_span).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        #[track_caller]
        fn check(text: &str, bytes: Option<u64>) {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
        check("64MiB", Some(67_108_864));
        check("1KiB", Some(1024));
        check("0B", Some(0));
        check("256B", Some(256));
        check("2GiB", Some(2_147_483_648));
        for text in ["", "64", "64MB", "64mib", "MiB", "1MiB1KiB", "1 MiB", "17179869184GiB"] {
            check(text, None);
        }
    }

    #[test]
    fn a_size_is_shown_in_the_largest_unit_that_divides_it() {
        assert_eq!(show_size(67_108_864), "64MiB");
        assert_eq!(show_size(1500), "1500B");
        assert_eq!(show_size(0), "0B");
        assert_eq!(show_size(1024), "1KiB");
    }
}
