//! When bases and drills are due: crontab schedules in civil time.
//!
//! - Five fields as in crontab(5), or six with seconds first, or `@hourly`, `@daily`, `@weekly`,
//!   `@monthly`, `@yearly`. Days of the week are crontab's in both forms: 0 and 7 are Sunday, 1 is
//!   Monday. When day of month and day of week are both restricted, either one is enough (POSIX).
//! - **Strictly increasing:** [`Schedule::next_after`] is always later than what it was given, so a
//!   loop over it never fires twice for one time and never storms.
//! - **When clocks go forward**, a time that doesn't exist fires once, as much later as the gap is
//!   long: nothing is lost. **When clocks go back**, a time that comes twice fires at the first,
//!   unless the hour is a wildcard (`*` or `*/n`): such a schedule means "this often" and goes on
//!   through the repeated hour.
//!
//! The `cron` crate reads the grammar and searches the calendar; it is only ever asked about a
//! calendar without zones, because in a zone with summer time its answers may lie in the past.
//! Pure: the caller says what time it is.

use std::fmt;

use chrono::{Datelike, NaiveDate, Timelike};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// Why a schedule was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Not five or six fields.
    #[error(
        "schedule {text:?} has {fields} field(s): write 5 as in crontab (minute hour day month weekday), such as \
         \"30 2 * * *\" for every night at 02:30, or 6 with seconds first"
    )]
    Fields {
        /// The schedule.
        text: String,
        /// How many it has.
        fields: usize,
    },
    /// A name beginning with `@` that isn't known.
    #[error(
        "schedule {0:?} is not known: write @hourly, @daily, @weekly, @monthly, @yearly or 5 fields as in crontab"
    )]
    Nickname(String),
    /// The weekday field can't be read.
    #[error(
        "weekday {field:?} can't be read: write 0 to 7 (0 and 7 are Sunday), MON to SUN, ranges and lists"
    )]
    Weekday {
        /// The field.
        field: String,
    },
    /// Another field can't be read.
    #[error(
        "schedule {text:?} can't be read as a crontab line{field}: the fields are minute (0 to 59), hour (0 to 23), day of the month (1 to 31), month (1 to 12), weekday (0 to 7)"
    )]
    Grammar {
        /// The schedule.
        text: String,
        /// The first field that can't be read, if it is one alone; else empty.
        field: String,
    },
    /// The calendar has no such time.
    #[error("schedule {0:?} never fires: there is no such date")]
    NeverFires(String),
}

/// A crontab schedule in a time zone.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    zone: TimeZone,
    /// One, or two of which either is enough.
    calendars: Vec<cron::Schedule>,
    wildcard_hour: bool,
}

/// No zone's clock was ever moved by more than a day.
const SHIFT_REACH: SignedDuration = SignedDuration::from_hours(26);

impl Schedule {
    /// Reads `text`; its times are `zone`'s.
    ///
    /// # Errors
    /// [`ScheduleError`] when it can't be read or never fires.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, ScheduleError> {
        let expanded = expand_nickname(text)?;
        let mut fields: Vec<&str> = expanded.split_ascii_whitespace().collect();
        match fields.len() {
            5 => fields.insert(0, "0"),
            6 => {}
            fields => {
                return Err(ScheduleError::Fields {
                    text: text.to_owned(),
                    fields,
                });
            }
        }
        let [second, minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError::Fields {
                text: text.to_owned(),
                fields: fields.len(),
            });
        };
        let weekdays = weekdays(weekday)?;
        let calendar = |day: &str, weekdays: &str| {
            format!("{second} {minute} {hour} {day} {month} {weekdays}")
                .parse::<cron::Schedule>()
                .map_err(|_grammar| ScheduleError::Grammar {
                    text: text.to_owned(),
                    field: faulty([second, minute, hour, day, month]),
                })
        };
        let calendars = if is_wildcard(day) || is_wildcard(weekday) {
            vec![calendar(day, &weekdays)?]
        } else {
            vec![calendar(day, "*")?, calendar("*", &weekdays)?]
        };
        let schedule = Self {
            text: text.trim().to_owned(),
            zone,
            calendars,
            wildcard_hour: is_wildcard(hour),
        };
        if schedule
            .next_civil(DateTime::constant(1999, 12, 31, 23, 59, 59, 0))
            .is_none()
        {
            return Err(ScheduleError::NeverFires(text.to_owned()));
        }
        Ok(schedule)
    }

    /// Whether `text` can be used in `zone`, for the config's door; if not, the whole reason as text.
    ///
    /// # Errors
    /// Why not, causes included.
    pub fn check(text: &str, zone: &TimeZone) -> Result<(), String> {
        match Self::parse(text, zone.clone()) {
            Ok(_schedule) => Ok(()),
            Err(error) => Err(match std::error::Error::source(&error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
        }
    }

    /// The first time after `time`; `None` beyond the calendar's end (the year 2100).
    #[must_use]
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        // Near a shift of the clocks the order of civil times is not the order of instants: look
        // as far around as the shift is long.
        let mut civil = civil_of(&self.zone, time)
            .checked_sub(self.shift_near(time))
            .ok()?;
        civil = civil.checked_sub(SignedDuration::from_secs(1)).ok()?;
        let mut best: Option<Timestamp> = None;
        let mut last_candidate = DateTime::MAX;
        while let Some(next) = self.next_civil(civil) {
            if next > last_candidate {
                break;
            }
            for instant in self.instants(next).into_iter().flatten() {
                if instant > time && best.is_none_or(|best| instant < best) {
                    best = Some(instant);
                    last_candidate =
                        civil_of(&self.zone, instant).saturating_add(self.shift_near(instant));
                }
            }
            civil = next;
        }
        best
    }

    /// The zone in which its times are meant.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// The first matching civil time after `civil`, in a calendar without zones.
    fn next_civil(&self, civil: DateTime) -> Option<DateTime> {
        let after = to_chrono(civil)?;
        self.calendars
            .iter()
            .filter_map(|calendar| calendar.after(&after).next())
            .min()
            .and_then(|next| from_chrono(&next))
    }

    /// The instants at which the civil time `civil` fires.
    fn instants(&self, civil: DateTime) -> [Option<Timestamp>; 2] {
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        let again = match ambiguous.offset() {
            AmbiguousOffset::Fold { .. } if self.wildcard_hour => ambiguous.later().ok(),
            AmbiguousOffset::Fold { .. }
            | AmbiguousOffset::Gap { .. }
            | AmbiguousOffset::Unambiguous { .. } => None,
        };
        [ambiguous.compatible().ok(), again]
    }

    /// How far the zone's clock is moved around `time`; almost always zero.
    fn shift_near(&self, time: Timestamp) -> SignedDuration {
        let (Ok(from), Ok(to)) = (time.checked_sub(SHIFT_REACH), time.checked_add(SHIFT_REACH))
        else {
            return SignedDuration::ZERO;
        };
        self.zone
            .preceding(to)
            .map(|transition| transition.timestamp())
            .take_while(|at| *at >= from)
            .filter_map(|at| {
                let before = at.checked_sub(SignedDuration::from_secs(1)).ok()?;
                let moved =
                    self.zone.to_offset(at).seconds() - self.zone.to_offset(before).seconds();
                Some(SignedDuration::from_secs(i64::from(moved.abs())))
            })
            .max()
            .unwrap_or(SignedDuration::ZERO)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?} in {:?})", self.text, self.zone)
    }
}

fn expand_nickname(text: &str) -> Result<&str, ScheduleError> {
    if !text.trim_start().starts_with('@') {
        return Ok(text);
    }
    match text.trim() {
        "@hourly" => Ok("0 * * * *"),
        "@daily" | "@midnight" => Ok("0 0 * * *"),
        "@weekly" => Ok("0 0 * * 0"),
        "@monthly" => Ok("0 0 1 * *"),
        "@yearly" | "@annually" => Ok("0 0 1 1 *"),
        _ => Err(ScheduleError::Nickname(text.to_owned())),
    }
}

/// Which of the fields before the weekday can't be read, in words: the grammar itself speaks of a line with
/// seconds, which nobody wrote.
fn faulty(fields: [&str; 5]) -> String {
    let names = ["second", "minute", "hour", "day of the month", "month"];
    let reads = |number: usize, field: &str| {
        let mut line = ["0", "0", "0", "1", "*"];
        if let Some(place) = line.get_mut(number) {
            *place = field;
        }
        format!("{} *", line.join(" "))
            .parse::<cron::Schedule>()
            .is_ok()
    };
    let mut all = fields.into_iter().zip(names).enumerate();
    let bad = all.find(|(number, (field, _))| !reads(*number, field));
    bad.map_or_else(String::new, |(_, (field, name))| {
        format!(" (its {name} is {field:?})")
    })
}

/// crontab(5): a field that begins with a star is no restriction, also with a step.
fn is_wildcard(field: &str) -> bool {
    field.starts_with(['*', '?'])
}

const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Reads crontab's weekdays (0 and 7 are Sunday) and writes them as the `cron` crate wants them:
/// a list of numbers in which 1 is Sunday.
fn weekdays(field: &str) -> Result<String, ScheduleError> {
    if matches!(field, "*" | "?") {
        return Ok("*".to_owned());
    }
    let refuse = || ScheduleError::Weekday {
        field: field.to_owned(),
    };
    let mut chosen = [false; 7];
    for item in field.split(',') {
        for day in weekday_item(item).ok_or_else(refuse)? {
            if let Some(slot) = chosen.get_mut(day % 7) {
                *slot = true;
            }
        }
    }
    let numbers = (1..).zip(chosen).filter(|(_, chosen)| *chosen);
    Ok(numbers
        .map(|(number, _): (u32, bool)| number.to_string())
        .collect::<Vec<_>>()
        .join(","))
}

/// One element of a weekday list: a day, a range, or either with a step.
fn weekday_item(item: &str) -> Option<impl Iterator<Item = usize>> {
    let (range, step) = match item.split_once('/') {
        Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
        None => (item, 1),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (weekday(first)?, weekday(last)?),
        None if is_wildcard(range) => (0, 6),
        // A step after a single day goes on to the week's end.
        None if item.contains('/') => (weekday(range)?, 6),
        None => (weekday(range)?, weekday(range)?),
    };
    // FRI-SUN ends on Sunday, which is 7 there.
    let last = if last == 0 && first > 0 { 7 } else { last };
    (first <= last).then(|| (first..=last).step_by(step))
}

fn weekday(text: &str) -> Option<usize> {
    match text.parse() {
        Ok(number) => (number <= 7).then_some(number),
        Err(_name) => WEEKDAYS
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text)),
    }
}

fn civil_of(zone: &TimeZone, time: Timestamp) -> DateTime {
    zone.to_datetime(time)
}

fn to_chrono(civil: DateTime) -> Option<chrono::DateTime<chrono::Utc>> {
    let part = |value: i8| u32::try_from(value).ok();
    NaiveDate::from_ymd_opt(
        i32::from(civil.year()),
        part(civil.month())?,
        part(civil.day())?,
    )?
    .and_hms_opt(
        part(civil.hour())?,
        part(civil.minute())?,
        part(civil.second())?,
    )
    .map(|naive| naive.and_utc())
}

fn from_chrono(time: &chrono::DateTime<chrono::Utc>) -> Option<DateTime> {
    let part = |value: u32| i8::try_from(value).ok();
    DateTime::new(
        i16::try_from(time.year()).ok()?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second())?,
        0,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW_YORK: &str = "America/New_York";

    fn schedule(text: &str, zone: &str) -> Schedule {
        Schedule::parse(text, TimeZone::get(zone).unwrap()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The next `count` times after `start`, in the schedule's own zone.
    fn times(schedule: &Schedule, start: &str, count: usize) -> Vec<String> {
        let mut now = at(start);
        let mut times = Vec::new();
        for _ in 0..count {
            now = schedule.next_after(now).unwrap();
            let zoned = now.to_zoned(schedule.zone().clone());
            times.push(zoned.strftime("%m-%d %H:%M:%S %Z").to_string());
        }
        times
    }

    #[test]
    fn five_fields_are_a_crontab_line_and_six_have_seconds_first() {
        let nightly = schedule("30 2 * * *", "UTC");
        assert_eq!(
            times(&nightly, "2026-05-01T02:30:00Z", 1),
            ["05-02 02:30:00 UTC"]
        );
        assert_eq!(
            times(&nightly, "2026-05-01T02:29:59.999Z", 1),
            ["05-01 02:30:00 UTC"]
        );
        let seconds = schedule("*/20 * * * * *", "UTC");
        assert_eq!(
            times(&seconds, "2026-05-01T00:00:05Z", 2),
            ["05-01 00:00:20 UTC", "05-01 00:00:40 UTC"]
        );
    }

    #[test]
    fn zero_and_seven_are_sunday_and_one_is_monday() {
        // 2026-05-03 is a Sunday.
        for (weekday, date) in [
            ("0", "05-03"),
            ("7", "05-03"),
            ("SUN", "05-03"),
            ("1", "05-04"),
            ("sat", "05-09"),
            ("6", "05-09"),
        ] {
            let schedule = schedule(&format!("0 12 * * {weekday}"), "UTC");
            assert_eq!(
                times(&schedule, "2026-05-03T00:00:00Z", 1),
                [format!("{date} 12:00:00 UTC")]
            );
        }
    }

    #[test]
    fn weekday_ranges_lists_and_steps_are_read() {
        let days = |field| weekdays(field).unwrap();
        assert_eq!(days("1-5"), "2,3,4,5,6");
        assert_eq!(days("FRI-SUN"), "1,6,7");
        assert_eq!(days("5-7"), "1,6,7");
        assert_eq!(days("*/2"), "1,3,5,7");
        assert_eq!(days("0,3,WED"), "1,4");
        for bad in ["8", "x", "5-1", "1/0", "", "1,", "-1"] {
            assert!(weekdays(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn day_of_month_or_weekday_is_enough_when_both_are_restricted() {
        let either = schedule("0 0 13 * 5", "UTC");
        assert_eq!(
            times(&either, "2026-05-02T00:00:00Z", 3),
            [
                "05-08 00:00:00 UTC",
                "05-13 00:00:00 UTC",
                "05-15 00:00:00 UTC"
            ]
        );
    }

    #[test]
    fn a_time_in_the_spring_gap_fires_once_at_the_shifted_time() {
        let nightly = schedule("30 2 * * *", NEW_YORK);
        assert_eq!(
            times(&nightly, "2026-03-07T12:00:00Z", 2),
            ["03-08 03:30:00 EDT", "03-09 02:30:00 EDT"]
        );
        let twice = schedule("30 2,3 * * *", NEW_YORK);
        assert_eq!(
            times(&twice, "2026-03-07T12:00:00Z", 2),
            ["03-08 03:30:00 EDT", "03-09 02:30:00 EDT"]
        );
        let out_of_order = schedule("10,50 2,3 * * *", NEW_YORK);
        assert_eq!(
            times(&out_of_order, "2026-03-08T05:00:00Z", 3),
            [
                "03-08 03:10:00 EDT",
                "03-08 03:50:00 EDT",
                "03-09 02:10:00 EDT"
            ]
        );
    }

    #[test]
    fn a_time_in_the_autumn_fold_fires_once_at_the_first() {
        let nightly = schedule("30 1 * * *", NEW_YORK);
        assert_eq!(
            times(&nightly, "2026-10-31T12:00:00Z", 2),
            ["11-01 01:30:00 EDT", "11-02 01:30:00 EST"]
        );
        // Asked within the repeated hour.
        assert_eq!(
            times(&nightly, "2026-11-01T06:10:00Z", 1),
            ["11-02 01:30:00 EST"]
        );
    }

    #[test]
    fn a_wildcard_hour_goes_on_through_the_repeated_hour() {
        let often = schedule("*/20 * * * *", NEW_YORK);
        assert_eq!(
            times(&often, "2026-11-01T05:20:05Z", 5),
            [
                "11-01 01:40:00 EDT",
                "11-01 01:00:00 EST",
                "11-01 01:20:00 EST",
                "11-01 01:40:00 EST",
                "11-01 02:00:00 EST"
            ]
        );
        // The raw crate answers 40 minutes in the past here.
        assert_eq!(
            times(&often, "2026-11-01T06:00:05Z", 1),
            ["11-01 01:20:00 EST"]
        );
    }

    #[test]
    fn schedules_survive_a_zone_that_skipped_a_whole_day() {
        // Samoa had no 30 December 2011.
        let nightly = schedule("30 2 * * *", "Pacific/Apia");
        assert_eq!(
            times(&nightly, "2011-12-29T13:00:00Z", 3),
            [
                "12-31 02:30:00 +14",
                "01-01 02:30:00 +14",
                "01-02 02:30:00 +14"
            ]
        );
    }

    #[test]
    fn nicknames_mean_what_crontab_says() {
        assert_eq!(
            times(&schedule("@weekly", "UTC"), "2026-05-01T00:00:00Z", 1),
            ["05-03 00:00:00 UTC"]
        );
        assert_eq!(
            times(&schedule("@hourly", "UTC"), "2026-05-01T00:00:00Z", 1),
            ["05-01 01:00:00 UTC"]
        );
        assert!(matches!(
            Schedule::parse("@reboot", TimeZone::UTC),
            Err(ScheduleError::Nickname(_))
        ));
    }

    #[test]
    fn what_can_not_be_read_or_never_fires_is_refused_with_a_reason() {
        let refused = |text| Schedule::parse(text, TimeZone::UTC).unwrap_err();
        assert!(refused("30 2 * *").to_string().contains("4 field(s)"));
        assert!(refused("").to_string().contains("0 field(s)"));
        let why = Schedule::check("61 2 * * *", &TimeZone::UTC).unwrap_err();
        assert!(
            why.contains("61") && why.contains("crontab line (its minute is \"61\"): "),
            "{why}"
        );
        assert_eq!(Schedule::check("@daily", &TimeZone::UTC), Ok(()));
        assert!(matches!(
            refused("0 0 30 2 *"),
            ScheduleError::NeverFires(_)
        ));
        assert!(Schedule::parse("0 0 29 2 *", TimeZone::UTC).is_ok());
    }

    const ZONES: [&str; 8] = [
        "UTC",
        NEW_YORK,
        "Europe/Copenhagen",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "Africa/Casablanca",
        "America/St_Johns",
        "Asia/Kathmandu",
    ];

    fn field(max: u32) -> impl Strategy<Value = String> {
        prop_oneof![
            3 => Just("*".to_owned()),
            3 => (0..=max).prop_map(|n| n.to_string()),
            2 => (2..=max.max(2)).prop_map(|n| format!("*/{n}")),
            1 => (0..=max, 0..=max).prop_map(|(a, b)| format!("{},{}", a.min(b), a.max(b))),
        ]
    }

    fn any_schedule() -> impl Strategy<Value = (String, &'static str)> {
        let weekday =
            prop_oneof![4 => Just("*".to_owned()), 1 => (0..8_u8).prop_map(|n| n.to_string())];
        (
            field(59),
            field(23),
            weekday,
            proptest::sample::select(ZONES.to_vec()),
        )
            .prop_map(|(minute, hour, weekday, zone)| {
                (format!("{minute} {hour} * * {weekday}"), zone)
            })
    }

    proptest! {
        #[test]
        fn times_strictly_increase_and_skip_nothing(
            (text, zone) in any_schedule(),
            start in 1_262_304_000_i64..2_000_000_000,
        ) {
            let schedule = schedule(&text, zone);
            let mut now = Timestamp::from_second(start).unwrap();
            for _ in 0..20 {
                let next = schedule.next_after(now).unwrap();
                prop_assert!(next > now);
                // Asked from anywhere in between, the answer is the same: it is a fixed set of times.
                let middle = Timestamp::from_second(now.as_second().midpoint(next.as_second())).unwrap();
                prop_assert_eq!(schedule.next_after(middle).unwrap(), next);
                now = next;
            }
        }

        #[test]
        fn no_day_of_shifted_clocks_has_a_storm_or_a_hole(
            (text, zone) in any_schedule(),
            which in 0_usize..40,
        ) {
            let schedule = schedule(&text, zone);
            let from = at("2010-01-01T00:00:00Z");
            let Some(shift) = schedule.zone().following(from).nth(which) else { return Ok(()) };
            let hour = SignedDuration::from_hours(1);
            let (first, last) = (shift.timestamp() - hour * 26, shift.timestamp() + hour * 26);
            let mut now = first;
            let mut fired = 0;
            while now < last {
                now = schedule.next_after(now).unwrap();
                fired += 1;
            }
            // Once a minute is the most five fields can say; 52 hours are 3,120 minutes.
            prop_assert!(fired <= 3121, "{fired} times");
            if text.ends_with("* * *") && zone != "Pacific/Apia" {
                // Some time on each civil day: at least twice in 52 hours and what the shift takes.
                prop_assert!(fired >= 2, "{fired} times");
            }
        }
    }
}
