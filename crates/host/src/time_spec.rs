//! Instants as people write them: `2026-05-01T14:31:00Z`, `2026-05-01 14:31 Europe/Copenhagen`,
//! `yesterday 14:31`, `today 09:00:30`, `-90m`, `5 minutes ago`, `now`.
//!
//! A restore must not guess. A time without a zone is local only where a person sees the UTC
//! instant printed beside it (`interactive`), and an error in a script. A local time that came
//! twice or never, because clocks were moved, is an error that names the instants it may mean.
//! Pure: the caller says what time it is and which zone is local.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Span, Timestamp};

use crate::duration;

/// What the reader knows: the present, the local zone, and whether a person reads the answer.
#[derive(Debug, Clone)]
pub struct TimeContext {
    /// The present.
    pub now: Timestamp,
    /// The zone of this machine.
    pub local: TimeZone,
    /// Whether a person will see which UTC instant was understood.
    pub interactive: bool,
}

impl TimeContext {
    /// The context on this machine, whose zone is the local one.
    #[must_use]
    pub fn here(now: Timestamp, interactive: bool) -> Self {
        Self {
            now,
            local: TimeZone::system(),
            interactive,
        }
    }
}

/// An instant that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpec {
    /// The instant.
    pub at: Timestamp,
    /// Whether the local zone was assumed: then print the instant in UTC beside it.
    pub assumed_local: bool,
    /// Whether the present day was assumed, because only a time of day was given.
    pub assumed_today: bool,
}

/// Why a time was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeSpecError {
    /// Not a time.
    #[error(
        "{0:?} is not a time: write \"2026-05-01 14:31:00 UTC\", \"2026-05-01T14:31:00Z\", \"yesterday 14:31\", \"-90m\" or \"now\""
    )]
    Unreadable(String),
    /// A day without a time of day.
    #[error(
        "{0:?} is a whole day: add a time of day, such as \"{0} 14:31 UTC\" (a restore must not guess which of its states is meant)"
    )]
    DayAlone(String),
    /// A time of day without a day, and nobody to see which one would be assumed.
    #[error(
        "{0:?} is a time of day without its day: write the day, too, such as \"today {1} UTC\" or \"2026-05-01 {1} UTC\" (only on a terminal is today assumed)"
    )]
    ClockAlone(String, String),
    /// A time of day without a day that has not come today.
    #[error(
        "{text:?} has not come yet today ({today} in UTC): write the day, too, such as \"yesterday {text}\""
    )]
    NotYetToday {
        /// What was asked for.
        text: String,
        /// The instant that it would be.
        today: Timestamp,
    },
    /// A zone that isn't known.
    #[error(
        "time zone {0:?} is not known: write Z, UTC, +02:00 or a name such as Europe/Copenhagen"
    )]
    Zone(String),
    /// No zone, and nobody to see what would be assumed.
    #[error(
        "{0:?} has no time zone: add one, such as \"{0} UTC\" or \"{0} +02:00\" (only on a terminal is the local zone assumed)"
    )]
    NoZone(String),
    /// The clock skipped it.
    #[error(
        "{text:?} never came: clocks went forward over it; the next instant that exists is {next}"
    )]
    Skipped {
        /// What was asked for.
        text: String,
        /// When the clock went on.
        next: Timestamp,
    },
    /// The clock showed it twice.
    #[error("{text:?} came twice, because clocks went back: write {first} or {second}")]
    Twice {
        /// What was asked for.
        text: String,
        /// The first time.
        first: Timestamp,
        /// The second time.
        second: Timestamp,
    },
    /// Beyond the calendar.
    #[error("{0:?} lies outside the calendar")]
    OutOfRange(String),
}

/// Reads the time in `text`.
///
/// # Errors
/// [`TimeSpecError`]; it says what to write instead.
pub fn parse(text: &str, context: &TimeContext) -> Result<TimeSpec, TimeSpecError> {
    let text = text.trim();
    let exact = |at| TimeSpec {
        at,
        assumed_local: false,
        assumed_today: false,
    };
    if text.eq_ignore_ascii_case("now") {
        return Ok(exact(context.now));
    }
    if let Some(back) = ago(text) {
        let back = back.ok_or_else(|| unreadable(text))?;
        let at = context.now.checked_sub(back);
        return at
            .map(exact)
            .map_err(|_range| TimeSpecError::OutOfRange(text.to_owned()));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(exact(at));
    }
    if Day::read(text).is_some() && !text.contains(['T', 't', ':', ' ']) || is_day_word(text) {
        return Err(TimeSpecError::DayAlone(text.to_owned()));
    }
    let alone = begins_with_a_time_of_day(text);
    let dated = if alone {
        format!("today {text}")
    } else {
        text.to_owned()
    };
    let (day, clock, zone_text) = split(&dated).ok_or_else(|| unreadable(text))?;
    if alone && !context.interactive {
        let clock = text.split_ascii_whitespace().next().unwrap_or(text);
        let clock = detach_zone(clock).0.to_owned();
        return Err(TimeSpecError::ClockAlone(text.to_owned(), clock));
    }
    let zone = match zone_text {
        Some(name) => zone(name)?,
        None if context.interactive => context.local.clone(),
        None => return Err(TimeSpecError::NoZone(text.to_owned())),
    };
    let date = day
        .in_zone(&zone, context.now)
        .ok_or_else(|| unreadable(text))?;
    let at = instant(text, date.to_datetime(clock), &zone)?;
    if alone && at > context.now {
        let text = text.to_owned();
        return Err(TimeSpecError::NotYetToday { text, today: at });
    }
    Ok(TimeSpec {
        at,
        assumed_local: zone_text.is_none(),
        assumed_today: alone,
    })
}

/// Whether `text` begins with `H:MM` where a day should stand.
fn begins_with_a_time_of_day(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let first = text.split_ascii_whitespace().next().unwrap_or_default();
    detach_zone(first)
        .0
        .split_once(':')
        .is_some_and(|(hour, rest)| {
            let minute = rest.split(':').next().unwrap_or_default();
            hour.len() <= 2 && digits(hour) && minute.len() == 2 && digits(minute)
        })
}

fn unreadable(text: &str) -> TimeSpecError {
    TimeSpecError::Unreadable(text.chars().take(60).collect())
}

/// How far back `-90m`, `90m ago` or `5 minutes ago` goes; `Some(None)` if it is written like that
/// and can't be read.
fn ago(text: &str) -> Option<Option<std::time::Duration>> {
    if let Some(back) = text.strip_prefix('-') {
        return Some(duration::parse(back).ok());
    }
    let lower = text.to_ascii_lowercase();
    let back = lower.strip_suffix(" ago")?;
    let mut short = String::new();
    for word in back.split_ascii_whitespace() {
        let unit = match word {
            "second" | "seconds" | "sec" | "secs" => "s",
            "minute" | "minutes" | "min" | "mins" => "m",
            "hour" | "hours" => "h",
            "day" | "days" => "d",
            "a" | "an" | "one" => "1",
            "and" => "",
            other => other,
        };
        short.push_str(unit);
    }
    Some(duration::parse(&short).ok())
}

fn is_day_word(text: &str) -> bool {
    ["today", "yesterday"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word))
}

enum Day {
    On(Date),
    Today,
    Yesterday,
}

impl Day {
    fn read(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "today" => Some(Self::Today),
            "yesterday" => Some(Self::Yesterday),
            _ => text.parse().ok().map(Self::On),
        }
    }

    /// Today and yesterday are the asked zone's, not the machine's.
    fn in_zone(&self, zone: &TimeZone, now: Timestamp) -> Option<Date> {
        let today = zone.to_datetime(now).date();
        match self {
            Self::On(date) => Some(*date),
            Self::Today => Some(today),
            Self::Yesterday => today.checked_sub(Span::new().days(1)).ok(),
        }
    }
}

/// Cuts `DAY TIME [ZONE]`, and `DAYTTIME` without a zone.
fn split(text: &str) -> Option<(Day, Time, Option<&str>)> {
    if let Ok(civil) = text.parse::<DateTime>()
        && text.contains(['T', 't'])
    {
        return Some((Day::On(civil.date()), civil.time(), None));
    }
    let mut words = text.split_ascii_whitespace();
    let day = Day::read(words.next()?)?;
    let clock = words.next()?;
    let (clock, attached) = detach_zone(clock);
    let zone = words.next().or(attached);
    // At three in the morning nobody writes the nought of 02:31.
    let clock = match clock.split_once(':') {
        Some((hour, rest)) if hour.len() == 1 && rest.len() >= 2 => format!("0{clock}"),
        Some((_, rest)) if rest.len() >= 2 => clock.to_owned(),
        _ => return None,
    };
    if words.next().is_some() {
        return None;
    }
    Some((day, clock.parse().ok()?, zone))
}

/// `14:31:00Z` and `14:31+02:00` carry their zone without a space.
fn detach_zone(clock: &str) -> (&str, Option<&str>) {
    match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => {
            let (clock, zone) = clock.split_at(at);
            (clock, Some(zone))
        }
        None => (clock, None),
    }
}

fn zone(name: &str) -> Result<TimeZone, TimeSpecError> {
    if name.eq_ignore_ascii_case("z") {
        return Ok(TimeZone::UTC);
    }
    let known = match offset(name) {
        Some(offset) => Some(TimeZone::fixed(offset)),
        None => TimeZone::get(name).ok(),
    };
    known.ok_or_else(|| TimeSpecError::Zone(name.chars().take(60).collect()))
}

/// `+02:00`, `-0330`, `+02`.
fn offset(text: &str) -> Option<Offset> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let digits = digits.replacen(':', "", 1);
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = digits.split_at(2);
    let minutes: i32 = if minutes.is_empty() {
        0
    } else {
        minutes.parse().ok()?
    };
    let hours: i32 = hours.parse().ok()?;
    if minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

fn instant(text: &str, civil: DateTime, zone: &TimeZone) -> Result<Timestamp, TimeSpecError> {
    let out_of_range = |_error| TimeSpecError::OutOfRange(text.to_owned());
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.compatible().map_err(out_of_range),
        AmbiguousOffset::Gap { .. } => {
            let earlier = ambiguous.earlier().map_err(out_of_range)?;
            let next = zone
                .following(earlier)
                .next()
                .map_or(earlier, |shift| shift.timestamp());
            Err(TimeSpecError::Skipped {
                text: text.to_owned(),
                next,
            })
        }
        AmbiguousOffset::Fold { .. } => Err(TimeSpecError::Twice {
            text: text.to_owned(),
            first: ambiguous.earlier().map_err(out_of_range)?,
            second: ambiguous.later().map_err(out_of_range)?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(interactive: bool) -> TimeContext {
        TimeContext {
            now: "2026-05-02T22:30:00Z".parse().unwrap(),
            local: TimeZone::get("Europe/Copenhagen").unwrap(),
            interactive,
        }
    }

    fn understood(text: &str) -> String {
        parse(text, &context(false)).unwrap().at.to_string()
    }

    #[test]
    fn times_with_a_zone_mean_one_instant_everywhere() {
        for text in [
            "2026-05-01T14:31:00Z",
            "2026-05-01T16:31:00+02:00",
            "2026-05-01 14:31:00Z",
            "2026-05-01 14:31 Z",
            "2026-05-01 14:31:00.000 Z",
            "2026-05-01 14:31 UTC",
            "2026-05-01 14:31:00 UTC",
            "2026-05-01 16:31 +02:00",
            "2026-05-01 16:31+02:00",
            "2026-05-01 11:01 -0330",
            "2026-05-01 16:31 Europe/Copenhagen",
            "2026-05-01T16:31:00+02:00[Europe/Copenhagen]",
        ] {
            assert_eq!(understood(text), "2026-05-01T14:31:00Z", "{text}");
        }
        assert_eq!(understood("2026-05-01 2:31 UTC"), "2026-05-01T02:31:00Z");
        assert_eq!(
            understood("2026-05-01 14:31:07.25 UTC"),
            "2026-05-01T14:31:07.25Z"
        );
    }

    #[test]
    fn days_are_those_of_the_zone_that_was_asked_for() {
        assert_eq!(understood("today 09:00 UTC"), "2026-05-02T09:00:00Z");
        // At 22:30 UTC it is the next day in Copenhagen already.
        assert_eq!(
            understood("today 09:00 Europe/Copenhagen"),
            "2026-05-03T07:00:00Z"
        );
        assert_eq!(
            understood("Yesterday 14:31 Europe/Copenhagen"),
            "2026-05-02T12:31:00Z"
        );
    }

    #[test]
    fn now_and_times_ago_need_no_zone() {
        assert_eq!(understood("now"), "2026-05-02T22:30:00Z");
        assert_eq!(understood("-90m"), "2026-05-02T21:00:00Z");
        assert_eq!(understood("-1d12h"), "2026-05-01T10:30:00Z");
        for text in ["5 minutes ago", "5m ago", "5 min ago", "5 Minutes Ago"] {
            assert_eq!(understood(text), "2026-05-02T22:25:00Z", "{text}");
        }
        assert_eq!(understood("an hour ago"), "2026-05-02T21:30:00Z");
        assert_eq!(
            understood("1 hour and 30 minutes ago"),
            "2026-05-02T21:00:00Z"
        );
    }

    #[test]
    fn a_time_without_zone_is_local_on_a_terminal_and_refused_in_a_script() {
        for text in [
            "2026-05-01 16:31",
            "2026-05-01T16:31:00",
            "2026-05-01 16:31:00",
        ] {
            let spec = parse(text, &context(true)).unwrap();
            assert_eq!(spec.at.to_string(), "2026-05-01T14:31:00Z", "{text}");
            assert!(spec.assumed_local);
            let refused = parse(text, &context(false)).unwrap_err().to_string();
            assert!(refused.contains("add one"), "{refused}");
        }
        assert!(
            !parse("2026-05-01 16:31 UTC", &context(true))
                .unwrap()
                .assumed_local
        );
    }

    #[test]
    fn a_time_that_came_twice_or_never_is_refused_with_the_instants_it_may_mean() {
        let twice = parse("2026-10-25 02:30", &context(true))
            .unwrap_err()
            .to_string();
        assert!(twice.contains("2026-10-25T00:30:00Z"), "{twice}");
        assert!(twice.contains("2026-10-25T01:30:00Z"), "{twice}");
        let never = parse("2026-03-29 02:30", &context(true))
            .unwrap_err()
            .to_string();
        assert!(never.contains("2026-03-29T01:00:00Z"), "{never}");
    }

    #[test]
    fn a_day_alone_is_refused_because_it_has_many_states() {
        for day in ["2026-05-01", "yesterday", "Today"] {
            let refused = parse(day, &context(true)).unwrap_err();
            assert!(matches!(refused, TimeSpecError::DayAlone(_)), "{day}");
            let example = format!("{day} 14:31 UTC");
            assert!(refused.to_string().contains(&example), "{refused}");
            parse(&example, &context(false)).unwrap();
        }
    }

    #[test]
    fn a_time_of_day_alone_is_today_on_a_terminal_and_never_guessed_elsewhere() {
        // 22:30 UTC: half past midnight of the third in Copenhagen.
        for (text, at) in [
            ("0:10", "2026-05-02T22:10:00Z"),
            ("00:10", "2026-05-02T22:10:00Z"),
            ("00:10:30", "2026-05-02T22:10:30Z"),
            ("21:10 UTC", "2026-05-02T21:10:00Z"),
            ("21:10Z", "2026-05-02T21:10:00Z"),
        ] {
            let spec = parse(text, &context(true)).unwrap();
            assert_eq!(spec.at.to_string(), at, "{text}");
            assert!(spec.assumed_today, "{text}");
            let refused = parse(text, &context(false)).unwrap_err();
            assert!(matches!(refused, TimeSpecError::ClockAlone(..)), "{text}");
            assert!(refused.to_string().contains("\"today "), "{refused}");
        }
        for text in ["14:31", "1:30", "23:00 UTC"] {
            let refused = parse(text, &context(true)).unwrap_err();
            assert!(
                matches!(refused, TimeSpecError::NotYetToday { .. }),
                "{text}"
            );
            assert!(refused.to_string().contains("yesterday"), "{refused}");
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused_with_examples() {
        for bad in [
            "",
            "latest",
            "25:00",
            "14:60",
            "1:3",
            "1:4711",
            "minutes ago",
            "5 ago",
            "some time ago",
            "2026-05-01 14",
            "2026-05-01 1431 UTC",
            "2026-13-01 14:31 UTC",
            "2026-05-01 25:00 UTC",
            "-5",
            "--5m",
            "2026-05-01 14:31 UTC now",
            "tomorrow 10:00 UTC",
        ] {
            assert!(
                matches!(
                    parse(bad, &context(true)),
                    Err(TimeSpecError::Unreadable(_))
                ),
                "{bad:?}"
            );
        }
        for bad in [
            "2026-05-01 14:31 Mars/Olympus",
            "2026-05-01 14:31 +2",
            "2026-05-01 14:31 +02:99",
        ] {
            assert!(
                matches!(parse(bad, &context(true)), Err(TimeSpecError::Zone(_))),
                "{bad:?}"
            );
        }
    }
}
