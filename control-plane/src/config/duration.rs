//! Durations as people write them: `2s`, `50ms`, `1m30s`, or a plain number of seconds.

use std::time::Duration;

/// A second, for ranges.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Units from the largest to the smallest, in nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// The duration that `text` states; `None` if it is no duration.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split(after, |c| c.is_ascii_alphabetic());
        let nanos = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        total = total.checked_add(times(number, nanos)?)?;
        rest = after;
    }
    Some(total)
}

/// The shortest way to write a duration that [`parse`] reads back.
#[must_use]
pub fn display(duration: Duration) -> String {
    let Ok(mut nanos) = u64::try_from(duration.as_nanos()) else {
        return format!("{}s", duration.as_secs());
    };
    let mut text = String::new();
    for (name, unit) in UNITS {
        if nanos >= unit {
            text.push_str(&format!("{}{name}", nanos / unit));
            nanos %= unit;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// Where the first character that is not `belongs` begins.
fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `number`, whole or decimal, times a unit; whole numbers stay exact.
fn times(number: &str, nanos: u64) -> Option<Duration> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(nanos).map(Duration::from_nanos);
    }
    let decimal: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(decimal * Duration::from_nanos(nanos).as_secs_f64()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn people_write_durations_in_several_ways() {
        let cases = [
            ("2s", 2_000),
            ("50ms", 50),
            ("1m30s", 90_000),
            ("120", 120_000),
            ("0.5", 500),
            ("1.5s", 1_500),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_none() {
        for text in [
            "fast",
            "-1s",
            "5 s x",
            "s",
            "1.2.3s",
            "NaN",
            "inf",
            "99999999999999999999d",
            "1S",
            "10min",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_read_back(micros in 0..u64::MAX / 1_000) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse(&display(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_a_duration_or_none(text in "\\PC{0,40}|[0-9.smhdu]{0,30}") {
            let _ = parse(&text).map(display);
        }
    }
}
