//! Durations as the config and the command line write them: `100ms`, `10s`, `5m`, `36h`, `7d`, `1h30m`.
//!
//! A day is 24 hours and a week 7 days: these are spans of elapsed time, never calendar steps.

use std::time::Duration;

/// The text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a duration: write {} (ms, s, m, h, d, w)",
    meant.as_ref().map_or_else(
        || "numbers with units, such as \"10s\", \"5m\", \"1h30m\" or \"7d\"".to_owned(),
        |meant| format!("{meant:?}"),
    )
)]
pub struct DurationError {
    text: String,
    /// The same in our units, where it was written out.
    meant: Option<String>,
}

impl DurationError {
    fn of(text: &str) -> Self {
        Self {
            text: text.chars().take(40).collect(),
            meant: written_out(text),
        }
    }
}

/// "2 hours and 30 minutes" as it is written here.
fn written_out(text: &str) -> Option<String> {
    let spaced: String = text
        .chars()
        .map(|c| {
            if c == ',' {
                ' '
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect();
    let mut meant = String::new();
    for word in spaced.split_whitespace().filter(|word| *word != "and") {
        let letters = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let number = word.get(..word.len() - letters.len())?;
        let unit = match letters {
            "" => "",
            "week" | "weeks" => "w",
            "day" | "days" => "d",
            "hour" | "hours" | "hr" | "hrs" => "h",
            "minute" | "minutes" | "min" | "mins" => "m",
            "second" | "seconds" | "sec" | "secs" => "s",
            short if UNITS.iter().any(|(unit, _)| *unit == short) => short,
            _ => return None,
        };
        meant.push_str(number);
        meant.push_str(unit);
    }
    parse_plain(&meant).map(|_duration| meant)
}

/// Largest first, as [`render`] writes them.
const UNITS: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads a duration.
///
/// # Errors
/// When a number or unit is missing or unknown, or the sum is beyond 2⁶⁴ milliseconds.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    parse_plain(text).ok_or_else(|| DurationError::of(text))
}

fn parse_plain(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total))
}

/// Writes a duration as [`parse`] reads it, exact to the millisecond, in the largest units.
#[must_use]
pub fn render(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    // Weeks are read but never written: "30d" says more than "4w2d".
    for (unit, factor) in UNITS.into_iter().skip(1) {
        if rest >= factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_the_config_writes_them() {
        for (text, seconds) in [
            ("10s", 10),
            ("5m", 300),
            ("1h30m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("1h 5s", 3605),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("100ms"), Ok(Duration::from_millis(100)));
    }

    #[test]
    fn durations_without_unit_sign_or_sense_are_refused() {
        for bad in [
            "",
            "10",
            "s",
            "-5m",
            "5 minutes",
            "1.5h",
            "10s5",
            "99999999999999999999s",
            "1y",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_duration_in_words_is_told_in_units() {
        for (text, meant) in [
            ("2 hours", "\"2h\""),
            ("1 Hour, 30 min", "\"1h30m\""),
            ("90 seconds", "\"90s\""),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(&format!("write {meant}")), "{said}");
        }
        let said = parse("soon").unwrap_err().to_string();
        assert!(said.contains("such as \"10s\""), "{said}");
    }

    #[test]
    fn a_written_duration_reads_back() {
        for millis in [0, 1, 999, 1000, 90_000, 86_400_000 * 30, 90_061_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse(&render(duration)), Ok(duration));
        }
        assert_eq!(render(Duration::from_secs(5400)), "1h30m");
        assert_eq!(render(Duration::from_secs(2_592_000)), "30d");
    }
}
