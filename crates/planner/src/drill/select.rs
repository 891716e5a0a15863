//! Which instant a drill restores.
//!
//! A drill of the newest state alone proves the newest state alone. `oldest` proves that the promised
//! window is there, `random` samples all of it, `worst-replay` takes the state with the most log to
//! replay, which is the one that takes longest.
//!
//! **Invariants.** A chosen instant lies in one of the recoverable windows. A random one is a whole minute
//! wherever its window has one, and each minute of every window is as likely as any other; the number
//! that decides comes in, so that the choice can be repeated.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tidemark_format::{Epoch, LogSeq};

use crate::restore::{Facts, Laid, Reach, RecoverableWindow, RestorePlan, Target};

const MINUTE_SECONDS: i64 = 60;

/// Which.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Select {
    /// The newest state.
    #[default]
    Latest,
    /// The oldest that can be restored.
    Oldest,
    /// A random minute.
    Random,
    /// The state with the most log to replay.
    WorstReplay,
    /// What `restore --to` takes.
    Named(String),
}

impl Select {
    /// As records name it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Latest => "LATEST",
            Self::Oldest => "OLDEST",
            Self::Random => "RANDOM",
            Self::WorstReplay => "WORST_CASE_REPLAY",
            Self::Named(_) => "SPECIFIC",
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Oldest => "oldest",
            Self::Random => "random",
            Self::WorstReplay => "worst-replay",
            Self::Named(text) => text,
        })
    }
}

impl FromStr for Select {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        Ok(match text.to_ascii_lowercase().as_str() {
            "" => return Err("say latest, oldest, random, worst-replay or an instant".to_owned()),
            "latest" => Self::Latest,
            "oldest" => Self::Oldest,
            "random" => Self::Random,
            "worst-replay" => Self::WorstReplay,
            _ => Self::Named(text.to_owned()),
        })
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// The newest state.
    Latest,
    /// The state at an instant.
    At(Timestamp),
    /// The end of a log object.
    Position(Epoch, LogSeq),
    /// What the words mean.
    Words(String),
}

/// Chooses over the windows of `facts`, which end at `until` if the drill looks as of an earlier instant.
/// None where there is nothing to choose from.
#[must_use]
pub fn choose(
    select: &Select,
    windows: &[RecoverableWindow],
    facts: &Facts,
    until: Option<Timestamp>,
    random: u64,
) -> Option<Chosen> {
    let windows = clipped(windows, until);
    match select {
        Select::Named(text) => Some(Chosen::Words(text.clone())),
        Select::Latest => match (until, windows.last()) {
            (_, None) => None,
            (None, Some(_)) => Some(Chosen::Latest),
            (Some(_), Some(last)) => Some(Chosen::At(last.to)),
        },
        Select::Oldest => {
            let first = windows.first()?;
            Some(Chosen::Position(first.start.epoch, first.start.seq))
        }
        Select::Random => random_minute(&windows, random).map(Chosen::At),
        Select::WorstReplay => {
            let worst = worst_replay(facts, until)?;
            Some(Chosen::Position(worst.epoch, worst.last_log))
        }
    }
}

/// A window as far as it counts.
struct Span {
    start: Reach,
    from: Timestamp,
    to: Timestamp,
}

fn clipped(windows: &[RecoverableWindow], until: Option<Timestamp>) -> Vec<Span> {
    windows
        .iter()
        .filter_map(|window| {
            let own = window.until.max(window.to.at);
            let to = until.map_or(own, |until| own.min(until));
            (window.from.at <= to).then(|| Span {
                start: window.from.clone(),
                from: window.from.at,
                to,
            })
        })
        .collect()
}

/// The whole minutes of a window: the first, and how many.
fn minutes(span: &Span) -> Option<(i64, i64)> {
    let first = span.from.as_second().div_euclid(MINUTE_SECONDS);
    let is_whole = span.from == minute(first)?;
    let first = if is_whole { first } else { first + 1 };
    let last = span.to.as_second().div_euclid(MINUTE_SECONDS);
    (first <= last).then(|| (first, last - first + 1))
}

fn minute(number: i64) -> Option<Timestamp> {
    Timestamp::from_second(number.checked_mul(MINUTE_SECONDS)?).ok()
}

fn random_minute(windows: &[Span], random: u64) -> Option<Timestamp> {
    let all: Vec<(i64, i64)> = windows.iter().filter_map(minutes).collect();
    let total: i64 = all.iter().map(|(_, count)| count).sum();
    let Some(mut left) = u64::try_from(total)
        .ok()
        .and_then(|total| random.checked_rem(total))
        .and_then(|place| i64::try_from(place).ok())
    else {
        // No window has a whole minute: any instant of the newest.
        let span = windows.last()?;
        return Some(within(span, random));
    };
    for (first, count) in all {
        if left < count {
            return minute(first + left);
        }
        left -= count;
    }
    None
}

/// An instant of a short window, to the millisecond.
fn within(span: &Span, random: u64) -> Timestamp {
    let length = span.to.duration_since(span.from).as_millis();
    let length = u64::try_from(length).unwrap_or(0).saturating_add(1);
    let offset = i64::try_from(random % length).unwrap_or(0);
    let at = span.from.checked_add(SignedDuration::from_millis(offset));
    at.map_or(span.to, |at| at.min(span.to))
}

/// The restore with the most bytes of log to replay: the last states before a base takes over, and the
/// ends of windows.
#[must_use]
pub fn worst_replay(facts: &Facts, until: Option<Timestamp>) -> Option<RestorePlan> {
    let laid = Laid::out(facts);
    let newest = match until {
        Some(until) => {
            let mut targets: Vec<Target> = laid.last_positions_by(until).collect();
            targets.push(Target::At(until));
            targets
        }
        None => vec![Target::Latest],
    };
    let mut worst: Option<RestorePlan> = None;
    for target in laid.last_positions().chain(newest) {
        let planned = laid.plan(&target);
        let in_time = |planned: &RestorePlan| until.is_none_or(|until| planned.reached <= until);
        let Some(planned) = planned.filter(in_time) else {
            continue;
        };
        let is_worse = worst
            .as_ref()
            .is_none_or(|worst| planned.replay_bytes > worst.replay_bytes);
        if is_worse {
            worst = Some(planned);
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemark_format::{BaseNumber, Incarnation};

    use super::*;
    use crate::restore::{
        BaseFact, BaseId, EpochFacts, LogFact, LogState, ObjectFact, recoverable,
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + seconds).unwrap()
    }

    fn object(seq: u64, seconds: i64, bytes: u64) -> LogFact {
        LogFact {
            seq: LogSeq(seq),
            bytes,
            state: LogState::Object(ObjectFact {
                incarnation: Incarnation([1; 16]),
                first_commit: Some(at(seconds)),
                last_commit: Some(at(seconds)),
                captured_at: at(seconds),
                restorable: true,
            }),
        }
    }

    fn base(number: u32, start: u64, usable: u64) -> BaseFact {
        BaseFact {
            id: BaseId {
                generation: LogSeq(0),
                number: BaseNumber(number),
            },
            parent: (number > 0).then(|| BaseId {
                generation: LogSeq(0),
                number: BaseNumber(number - 1),
            }),
            incarnation: Incarnation([1; 16]),
            start: LogSeq(start),
            usable_from: LogSeq(usable),
            stored_bytes: 1,
            opens: true,
        }
    }

    /// Objects 0 to 19, one every 100 seconds; bases at 0 and 12; the objects before 12 are large.
    fn history() -> Facts {
        let mut epoch = EpochFacts::new(Epoch(1));
        epoch.log = (0..20)
            .map(|seq| {
                object(
                    seq,
                    i64::try_from(seq).unwrap() * 100,
                    if seq < 12 { 1000 } else { 10 },
                )
            })
            .collect();
        epoch.bases = vec![base(0, 0, 1), base(1, 12, 13)];
        Facts {
            epochs: vec![epoch],
            caught_up: None,
        }
    }

    fn pick(select: &Select, until: Option<Timestamp>, random: u64) -> Option<Chosen> {
        let facts = history();
        choose(select, &recoverable(&facts).windows, &facts, until, random)
    }

    #[test]
    fn words_mean_what_they_say_and_everything_else_is_a_target() {
        for (text, select) in [
            ("latest", Select::Latest),
            ("Oldest", Select::Oldest),
            ("random", Select::Random),
            ("worst-replay", Select::WorstReplay),
            ("-90m", Select::Named("-90m".to_owned())),
        ] {
            assert_eq!(text.parse::<Select>().unwrap(), select);
        }
        assert!(" ".parse::<Select>().is_err());
    }

    #[test]
    fn oldest_is_where_the_first_window_begins() {
        let oldest = pick(&Select::Oldest, None, 0);
        assert_eq!(oldest, Some(Chosen::Position(Epoch(1), LogSeq(1))));
        assert_eq!(pick(&Select::Latest, None, 0), Some(Chosen::Latest));
    }

    #[test]
    fn worst_replay_is_the_last_state_before_the_next_base_takes_over() {
        let worst = pick(&Select::WorstReplay, None, 0);
        assert_eq!(worst, Some(Chosen::Position(Epoch(1), LogSeq(12))));
        let planned = worst_replay(&history(), None).unwrap();
        assert_eq!(planned.log_bytes, 12 * 1000 + 10);
    }

    #[test]
    fn worst_replay_ends_where_it_can_where_the_object_before_a_base_is_no_position() {
        let mut facts = history();
        // A change that goes on in the next object, and one whose head nobody read.
        for seq in [11, 12] {
            let entry = &mut facts.epochs[0].log[seq];
            entry.state = match entry.state.clone() {
                LogState::Object(object) if seq == 11 => LogState::Object(ObjectFact {
                    restorable: false,
                    ..object
                }),
                _ => LogState::Unread,
            };
        }
        let worst = worst_replay(&facts, None).unwrap();
        assert_eq!((worst.first_log, worst.last_log), (LogSeq(0), LogSeq(10)));
        // AND where a hole ends a window there is as much to replay as anywhere
        let mut facts = history();
        facts.epochs[0].log[12].bytes = 100_000;
        facts.epochs[0].log[14].state = LogState::Missing;
        facts.epochs[0].bases[1] = base(1, 15, 16);
        let worst = worst_replay(&facts, None).unwrap();
        assert_eq!(worst.last_log, LogSeq(13));
    }

    /// A million objects and three hundred bases: a plan for each base, each of which weighs all of them.
    #[test]
    fn a_long_history_is_laid_out_once_to_find_its_worst_replay() {
        const OBJECTS: u64 = 1_000_000;
        const BASES: u32 = 300;
        let every = OBJECTS / u64::from(BASES);
        let mut epoch = EpochFacts::new(Epoch(1));
        let log = (0..OBJECTS).map(|seq| {
            // Like a survey: heads around the bases are known, and all others are not.
            let mut fact = object(seq, i64::try_from(seq).unwrap(), 100 + seq / every);
            if seq % every > 20 && seq % every < every - 20 {
                fact.state = LogState::Unread;
            }
            fact
        });
        epoch.log = log.collect();
        let full = |number: u32| (number / 10) * 10 == number;
        let bases = (0..BASES).map(|number| {
            let start = u64::from(number) * every;
            let mut base = base(number, start, start + 1);
            base.parent = base.parent.filter(|_| !full(number));
            base
        });
        epoch.bases = bases.collect();
        let facts = Facts {
            epochs: vec![epoch],
            caught_up: None,
        };
        let worst = worst_replay(&facts, None).unwrap();
        // The newest objects are the largest; behind the last base there are as many as between any two.
        assert!(worst.last_log > LogSeq(OBJECTS - every - 2), "{worst:?}");
        assert!(worst.replay_bytes >= every * (100 + u64::from(BASES) - 1));
    }

    #[test]
    fn as_of_an_earlier_instant_nothing_later_is_chosen() {
        let until = Some(at(550));
        assert_eq!(pick(&Select::Latest, until, 0), Some(Chosen::At(at(550))));
        let worst = pick(&Select::WorstReplay, until, 0);
        assert_eq!(worst, Some(Chosen::Position(Epoch(1), LogSeq(5))));
        assert_eq!(pick(&Select::Latest, Some(at(-1)), 0), None);
        assert_eq!(pick(&Select::Random, Some(at(-1)), 7), None);
    }

    #[test]
    fn of_nothing_nothing_is_chosen() {
        let facts = Facts::default();
        for select in [
            Select::Latest,
            Select::Oldest,
            Select::Random,
            Select::WorstReplay,
        ] {
            assert_eq!(choose(&select, &[], &facts, None, 3), None, "{select}");
        }
    }

    #[test]
    fn a_window_without_a_whole_minute_has_instants_all_the_same() {
        let span = Span {
            start: recoverable(&history()).windows[0].from.clone(),
            from: at(1),
            to: at(2),
        };
        // 1,780,000,000 is no whole minute, and neither are the two seconds after it.
        assert_eq!(minutes(&span), None);
        for random in 0..3000 {
            let at = random_minute(std::slice::from_ref(&span), random).unwrap();
            assert!(span.from <= at && at <= span.to, "{at}");
        }
    }

    proptest! {
        #[test]
        fn a_random_minute_is_whole_and_in_a_window(random: u64, cut in 100_i64..2000) {
            let until = Some(at(cut));
            let Some(Chosen::At(chosen)) = pick(&Select::Random, until, random) else {
                return Err(TestCaseError::fail("nothing was chosen"));
            };
            prop_assert!(at(100) <= chosen && chosen <= at(cut));
            if cut >= 160 {
                prop_assert_eq!(chosen.as_second() % MINUTE_SECONDS, 0);
            }
        }

        #[test]
        fn every_minute_is_chosen_by_some_number(length in 60_i64..7200) {
            let start = recoverable(&history()).windows[0].from.clone();
            let span = Span { start, from: at(0), to: at(length) };
            let (first, count) = minutes(&span).unwrap();
            let chosen: std::collections::BTreeSet<i64> = (0..u64::try_from(count).unwrap())
                .filter_map(|random| random_minute(std::slice::from_ref(&span), random))
                .map(|at| at.as_second() / MINUTE_SECONDS)
                .collect();
            prop_assert_eq!(chosen.len(), usize::try_from(count).unwrap());
            prop_assert_eq!(chosen.first(), Some(&first));
        }
    }
}
