//! How fast something may go, by the hour of the day, and keeping to it.
//!
//! Text: a size a second, `50MiB`; with hours, `20MiB 8-18, 200MiB`: the first that fits the hour
//! counts, and where none does there is no limit. Hours are those of a zone; `22-6` goes over midnight.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::{ByteSize, Clock, Monotonic};

const HOURS: u8 = 24;
/// A slower one would take days for what nobody keeps that long.
const SLOWEST: ByteSize = ByteSize::bytes(64 << 10);

/// The text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// It has another form.
    #[error(
        "{0:?} is not a rate: write a size a second, such as \"50MiB\", or sizes with hours, such as \
         \"20MiB 8-18, 200MiB\""
    )]
    Form(String),
    /// It would hardly move.
    #[error("{0} a second is too slow: at least {least}", least = SLOWEST)]
    Slow(ByteSize),
}

/// From an hour on, up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hours {
    from: u8,
    to: u8,
}

impl Hours {
    const fn hold(self, hour: u8) -> bool {
        if self.from < self.to {
            self.from <= hour && hour < self.to
        } else {
            self.from <= hour || hour < self.to
        }
    }
}

/// Bytes a second at most, by the hour; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rate {
    parts: Vec<(ByteSize, Option<Hours>)>,
}

impl Rate {
    /// No limit at any hour.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { parts: Vec::new() }
    }

    /// Bytes a second at an instant; none: as fast as it goes.
    #[must_use]
    pub fn at(&self, at: Timestamp, zone: &TimeZone) -> Option<u64> {
        if self.parts.is_empty() {
            return None;
        }
        let hour = u8::try_from(at.to_zoned(zone.clone()).hour()).unwrap_or(0);
        self.parts
            .iter()
            .find(|(_, hours)| hours.is_none_or(|hours| hours.hold(hour)))
            .map(|(size, _)| size.get())
    }
}

impl fmt::Display for Rate {
    /// Reads back to the same rate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (size, hours)) in self.parts.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{size}")?;
            if let Some(Hours { from, to }) = hours {
                write!(f, " {from}-{to}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let refuse = || RateError::Form(text.chars().take(60).collect());
        if text.trim().is_empty() {
            return Ok(Self::unlimited());
        }
        let mut parts = Vec::new();
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let size = words.next().and_then(|size| size.parse().ok());
            let size: ByteSize = size.ok_or_else(refuse)?;
            let hours = words
                .next()
                .map(|hours| read_hours(hours).ok_or_else(refuse));
            if words.next().is_some() {
                return Err(refuse());
            }
            if size < SLOWEST {
                return Err(RateError::Slow(size));
            }
            parts.push((size, hours.transpose()?));
        }
        Ok(Self { parts })
    }
}

fn read_hours(text: &str) -> Option<Hours> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < HOURS && to <= HOURS && from != to).then_some(Hours { from, to })
}

/// Keeps to a rate: is told what passed, and says how long to wait.
#[derive(Clone)]
pub struct Pace {
    rate: Rate,
    zone: TimeZone,
    clock: Arc<dyn Clock>,
    /// When what has passed was due to have passed.
    due: Option<Monotonic>,
}

impl Pace {
    /// Keeps to `rate`, whose hours are those of `zone`.
    #[must_use]
    pub fn new(rate: Rate, zone: TimeZone, clock: Arc<dyn Clock>) -> Self {
        Self {
            rate,
            zone,
            clock,
            due: None,
        }
    }

    /// `bytes` passed: how long to wait before more may.
    pub fn passed(&mut self, bytes: u64) -> Duration {
        let Some(rate) = self.rate.at(self.clock.now(), &self.zone) else {
            self.due = None;
            return Duration::ZERO;
        };
        let now = self.clock.monotonic();
        // What was not used before is not made up for.
        let from = self.due.map_or(now, |due| due.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let due = from.after(takes);
        self.due = Some(due);
        due.since(now)
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pace({})", self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemClock;

    fn at(rate: &str, hour: &str) -> Option<u64> {
        let rate: Rate = rate.parse().unwrap();
        let at: Timestamp = format!("2026-11-22T{hour}:30:00Z").parse().unwrap();
        rate.at(at, &TimeZone::UTC)
    }

    #[test]
    fn the_first_that_fits_the_hour_counts() {
        assert_eq!(at("", "10"), None);
        assert_eq!(at("1MiB", "10"), Some(1 << 20));
        let office = "1MiB 8-18, 2MiB 22-6, 4MiB";
        for (hour, mebibytes) in [
            ("07", 4),
            ("08", 1),
            ("17", 1),
            ("18", 4),
            ("22", 2),
            ("05", 2),
        ] {
            assert_eq!(at(office, hour), Some(mebibytes << 20), "{hour}");
        }
        assert_eq!(at("1MiB 8-18", "20"), None, "no limit at night");
        assert_eq!(at("1MiB 20-24", "23"), Some(1 << 20));
    }

    #[test]
    fn hours_are_those_of_the_zone() {
        let rate: Rate = "1MiB 8-18".parse().unwrap();
        let at: Timestamp = "2026-07-01T07:00:00Z".parse().unwrap();
        let zone = TimeZone::get("Europe/Copenhagen").unwrap();
        assert_eq!(rate.at(at, &zone), Some(1 << 20));
        assert_eq!(rate.at(at, &TimeZone::UTC), None);
    }

    #[test]
    fn rates_read_back_and_others_are_refused() {
        for text in ["", "50MiB", "20MiB 8-18, 200MiB", "64KiB 22-6"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in [
            "fast",
            "1MiB 8",
            "1MiB 8-8",
            "1MiB 8-25",
            "1MiB 8-9 x",
            "1MiB,",
            "1KiB",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn waits_add_up_to_the_rate_and_an_idle_while_is_not_made_up_for() {
        let mut pace = Pace::new(
            "1MiB".parse().unwrap(),
            TimeZone::UTC,
            SystemClock::shared(),
        );
        let mut waits = Duration::ZERO;
        for _ in 0..10 {
            waits = pace.passed(1 << 20);
        }
        assert!(waits > Duration::from_secs(9) && waits <= Duration::from_secs(10));
        let mut free = Pace::new(Rate::unlimited(), TimeZone::UTC, SystemClock::shared());
        assert_eq!(free.passed(u64::MAX), Duration::ZERO);
    }
}
