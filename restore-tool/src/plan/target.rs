//! What `--to` and `--before` mean: `latest`, a time, `log:EPOCH:SEQ`, `point:EPOCH/SEQ`, or
//! `point:NAME`; of a PostgreSQL server also a position of its log as it writes it (`0/3000060`, or
//! `lsn:0/3000060`) and `xid:ID`. One notation, the one that every printed text uses.
//!
//! Bare numbers are never a position of ours: `01:50` is what people write for ten to two. Which of
//! them a server's position is hangs on the source, so [`Asked::suits`] decides once that is known.

use jiff::Timestamp;
use tidemark_format::postgres::Lsn;
use tidemark_format::{Epoch, LogSeq, PointSeq};
use tidemark_host::time_spec::{self, TimeContext, TimeSpecError};
use tidemark_ledger::timeline::POSTGRESQL;

use crate::cli::RestoreArgs;
use crate::error::{Error, Result};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// The newest state there is.
    Latest,
    /// The state at an instant.
    Time(Timestamp),
    /// The state after a log object.
    Position(Epoch, LogSeq),
    /// The state at a named recovery point.
    Point(String),
    /// The state at a recovery point.
    PointAt(Epoch, PointSeq),
    /// The state at a position of the server's log.
    Lsn(Lsn),
    /// The state at the end of a transaction.
    Xid(u32),
}

/// A goal, and whether it is itself included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub goal: Goal,
    /// `--to` includes it, `--before` doesn't.
    pub inclusive: bool,
    /// The words.
    pub text: String,
    /// The local zone was assumed: the instant is printed in UTC.
    pub assumed_local: bool,
    /// The present day was assumed.
    pub assumed_today: bool,
}

impl Asked {
    /// Reads `--to` or `--before`.
    ///
    /// # Errors
    /// The text is no target, or a time without a zone where nobody reads the answer.
    pub fn read(args: &RestoreArgs, context: &TimeContext) -> Result<Self> {
        let (text, inclusive) = match (&args.to, &args.before) {
            (Some(text), _) => (text, true),
            (None, Some(text)) => (text, false),
            (None, None) => return Err(Error::TargetText("say --to or --before".to_owned())),
        };
        let exact = |goal| Self {
            goal,
            inclusive,
            text: text.clone(),
            assumed_local: false,
            assumed_today: false,
        };
        if text.eq_ignore_ascii_case("latest") {
            return Ok(exact(Goal::Latest));
        }
        if let Some(name) = text.strip_prefix("point:") {
            return Ok(exact(point(name)?));
        }
        if let Some(position) = text.strip_prefix("log:") {
            let (epoch, seq) = two_numbers(position, ':').ok_or_else(|| {
                Error::TargetText(format!(
                    "{text:?} is no position: write log:EPOCH:SEQ, as list and plan show it (log:1:50)"
                ))
            })?;
            return Ok(exact(Goal::Position(Epoch(epoch), LogSeq(seq))));
        }
        if let Some(id) = text.strip_prefix("xid:") {
            return Ok(exact(Goal::Xid(xid(id)?)));
        }
        let named = text.strip_prefix("lsn:");
        match (named.unwrap_or(text).parse(), named) {
            (Ok(lsn), _) => return Ok(exact(Goal::Lsn(lsn))),
            (Err(error), Some(_)) => return Err(Error::TargetText(error.to_string())),
            (Err(_no_position), None) => {}
        }
        refuse_bare_numbers(text)?;
        let spec = time_spec::parse(text, context).map_err(|error| or_a_position(text, error))?;
        Ok(Self {
            assumed_local: spec.assumed_local,
            assumed_today: spec.assumed_today,
            ..exact(Goal::Time(spec.at))
        })
    }
}

impl Asked {
    /// Refuses what a source of this engine doesn't have, and two numbers that may be a recovery point:
    /// `is_point` knows.
    ///
    /// # Errors
    /// [`Error::TargetText`] with what may have been meant.
    pub fn suits(
        &self,
        engine: Option<&str>,
        is_point: impl Fn(Epoch, PointSeq) -> bool,
    ) -> Result<()> {
        let server = engine == Some(POSTGRESQL);
        let text = &self.text;
        match self.goal {
            Goal::Lsn(_) if !server => {
                refuse_bare_numbers(text)?;
                Err(Error::TargetText(format!(
                    "{text:?} is a position of a PostgreSQL server's log, and this source is no server: write an instant, log:EPOCH:SEQ or point:EPOCH/SEQ, as list shows them"
                )))
            }
            Goal::Lsn(_) => match two_numbers(text, '/') {
                Some((epoch, seq)) if is_point(Epoch(epoch), PointSeq(seq)) => {
                    Err(Error::TargetText(format!(
                        "{text:?} may be a position of the server's log or a recovery point: write lsn:{text} or point:{text}"
                    )))
                }
                _ => Ok(()),
            },
            Goal::Xid(_) if !server => Err(Error::TargetText(format!(
                "{text:?} is a transaction of a PostgreSQL server, and this source is no server"
            ))),
            Goal::Xid(_)
            | Goal::Latest
            | Goal::Time(_)
            | Goal::Position(..)
            | Goal::Point(_)
            | Goal::PointAt(..) => Ok(()),
        }
    }
}

/// A transaction's id. The server shows it with its epoch in the upper half, and logs the lower one.
fn xid(text: &str) -> Result<u32> {
    let whole: Option<u64> = text.parse().ok().filter(|id| *id > 0);
    let low = whole.map(|id| id & u64::from(u32::MAX));
    low.and_then(|id| id.try_into().ok()).ok_or_else(|| {
        Error::TargetText(format!(
            "xid:{text} names no transaction: write its number, as pg_current_xact_id() shows it (xid:1234)"
        ))
    })
}

/// What `point:` names: `EPOCH/SEQ`, or else a name that a person gave.
fn point(name: &str) -> Result<Goal> {
    if name.is_empty() {
        return Err(Error::TargetText(
            "point: names no recovery point: write point:NAME or point:EPOCH/SEQ, as list shows them"
                .to_owned(),
        ));
    }
    Ok(match two_numbers(name, '/') {
        Some((epoch, seq)) => Goal::PointAt(Epoch(epoch), PointSeq(seq)),
        None => Goal::Point(name.to_owned()),
    })
}

/// Two bare numbers may be a position, a recovery point or a time of day: a restore must not guess.
fn refuse_bare_numbers(text: &str) -> Result<()> {
    let bare = two_numbers(text, ':').or_else(|| two_numbers(text, '/'));
    match bare {
        Some((epoch, seq)) if !is_a_time_of_day(text) => Err(Error::TargetText(format!(
            "{text:?} may be a position in the log or a recovery point: write log:{epoch}:{seq} or point:{epoch}/{seq}"
        ))),
        _ => Ok(()),
    }
}

/// A time of day without its day may have been meant as a position.
fn or_a_position(text: &str, error: TimeSpecError) -> Error {
    match two_numbers(text, ':') {
        Some((epoch, seq)) => Error::TargetText(format!(
            "{error}; a position in the log is written log:{epoch}:{seq}, a recovery point point:{epoch}/{seq}"
        )),
        None => error.into(),
    }
}

/// Whether `H:MM` or `HH:MM` could be on a clock.
fn is_a_time_of_day(text: &str) -> bool {
    let number = |part: &str, below: u8| part.parse().is_ok_and(|n: u8| n < below);
    text.split_once(':').is_some_and(|(hour, minute)| {
        hour.len() <= 2 && minute.len() == 2 && number(hour, 24) && number(minute, 60)
    })
}

/// Two numbers of digits only.
fn two_numbers(text: &str, between: char) -> Option<(u32, u64)> {
    let (one, other) = text.split_once(between)?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(one) || !digits(other) {
        return None;
    }
    Some((one.parse().ok()?, other.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn read(text: &str, interactive: bool) -> Result<Asked> {
        let args = RestoreArgs {
            to: Some(text.to_owned()),
            ..RestoreArgs::default()
        };
        let context = TimeContext {
            now: "2026-05-01T12:00:00Z".parse().unwrap(),
            local: TimeZone::fixed(jiff::tz::offset(2)),
            interactive,
        };
        Asked::read(&args, &context)
    }

    #[test]
    fn each_form_is_told_from_the_others() {
        assert_eq!(read("latest", false).unwrap().goal, Goal::Latest);
        assert_eq!(read("Latest", false).unwrap().goal, Goal::Latest);
        assert_eq!(
            read("log:3:4711", false).unwrap().goal,
            Goal::Position(Epoch(3), LogSeq(4711))
        );
        assert_eq!(
            read("point:before-v2", false).unwrap().goal,
            Goal::Point("before-v2".into())
        );
        assert_eq!(
            read("point:1/4", false).unwrap().goal,
            Goal::PointAt(Epoch(1), PointSeq(4))
        );
        assert_eq!(
            read("log:1:50", false).unwrap().goal,
            Goal::Position(Epoch(1), LogSeq(50))
        );
        let back = read("-90m", false).unwrap();
        assert_eq!(
            back.goal,
            Goal::Time("2026-05-01T10:30:00Z".parse().unwrap())
        );
    }

    #[test]
    fn a_time_of_day_is_never_a_position() {
        for interactive in [false, true] {
            for text in [
                "01:50", "01:30", "1:30", "14:31", "23:59", "0:00", "01:50:30",
            ] {
                // 14:00 in the local zone: some have been today, and then they are a time.
                match read(text, interactive) {
                    Ok(asked) => {
                        assert!(matches!(asked.goal, Goal::Time(_)), "{text}");
                        assert!(interactive && asked.assumed_today && asked.assumed_local);
                    }
                    Err(refused) => {
                        let said = refused.to_string();
                        assert!(said.contains("write the day"), "{said}");
                    }
                }
            }
        }
        let today = read("01:50", true).unwrap().goal;
        assert_eq!(
            today,
            Goal::Time("2026-04-30T23:50:00Z".parse().unwrap()),
            "in the local zone"
        );
        let said = read("01:50", false).unwrap_err().to_string();
        assert!(said.contains("log:1:50"), "{said}");
    }

    #[test]
    fn bare_numbers_are_refused_with_what_they_may_mean() {
        let suited = |text: &str, interactive| {
            let asked = read(text, interactive)?;
            asked.suits(Some("sqlite"), |_, _| false)
        };
        for text in ["1:3", "1/3", "1:4711", "1/4711", "14:60", "24:00", "14/31"] {
            for interactive in [false, true] {
                let said = suited(text, interactive).unwrap_err().to_string();
                assert!(
                    said.contains("write log:") && said.contains("point:"),
                    "{said}"
                );
            }
        }
        for text in [
            "log:", "log:1", "log:1/3", "log:x:3", "log:1:", "log:-1:3", "point:",
        ] {
            assert!(
                matches!(read(text, true), Err(Error::TargetText(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_servers_positions_and_transactions_are_its_own() {
        for (text, goal) in [
            ("0/3000060", Goal::Lsn(Lsn(0x300_0060))),
            ("lsn:16/B374D848", Goal::Lsn(Lsn(0x16_B374_D848))),
            ("1/42", Goal::Lsn(Lsn(0x1_0000_0042))),
            ("xid:1234", Goal::Xid(1234)),
            ("xid:4294967300", Goal::Xid(4)),
        ] {
            let asked = read(text, false).unwrap();
            assert_eq!(asked.goal, goal);
            asked.suits(Some("postgresql"), |_, _| false).unwrap();
            for other in [Some("sqlite"), None] {
                let refused = asked.suits(other, |_, _| false);
                assert!(matches!(refused, Err(Error::TargetText(_))), "{text}");
            }
        }
        let point = |epoch, seq| (epoch, seq) == (Epoch(1), PointSeq(42));
        let both = read("1/42", false)
            .unwrap()
            .suits(Some("postgresql"), point);
        let said = both.unwrap_err().to_string();
        assert!(
            said.contains("lsn:1/42") && said.contains("point:1/42"),
            "{said}"
        );
        for text in [
            "lsn:", "lsn:1", "lsn:0/x", "xid:", "xid:0", "xid:-1", "xid:a",
        ] {
            assert!(
                matches!(read(text, true), Err(Error::TargetText(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_without_a_zone_is_local_on_a_terminal_and_an_error_in_a_script() {
        let local = read("2026-05-01 09:00", true).unwrap();
        assert_eq!(
            local.goal,
            Goal::Time("2026-05-01T07:00:00Z".parse().unwrap())
        );
        assert!(local.assumed_local);
        assert!(matches!(
            read("2026-05-01 09:00", false),
            Err(Error::Time(_))
        ));
    }
}
