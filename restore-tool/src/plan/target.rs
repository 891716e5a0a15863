//! What `--to` and `--before` mean: `latest`, a time, `EPOCH:SEQ`, or `point:NAME`.

use jiff::Timestamp;
use tidemark_format::{Epoch, LogSeq};
use tidemark_host::time_spec::{self, TimeContext};

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
        };
        if text.eq_ignore_ascii_case("latest") {
            return Ok(exact(Goal::Latest));
        }
        if let Some(name) = text.strip_prefix("point:") {
            return Ok(exact(Goal::Point(name.to_owned())));
        }
        if let Some((epoch, seq)) = position(text) {
            return Ok(exact(Goal::Position(epoch, seq)));
        }
        let spec = time_spec::parse(text, context)?;
        Ok(Self {
            assumed_local: spec.assumed_local,
            ..exact(Goal::Time(spec.at))
        })
    }
}

/// Whether a position looks like a time of day, and may have been meant as one.
#[must_use]
pub(super) fn looks_like_a_time_of_day(text: &str) -> bool {
    let number =
        |part: &str, below: u8| part.len() == 2 && part.parse().is_ok_and(|n: u8| n < below);
    text.split_once(':')
        .is_some_and(|(hour, minute)| number(hour, 24) && number(minute, 60))
}

/// `EPOCH:SEQ` or `EPOCH/SEQ`: digits only, so that no time of day is taken for one: those have two digits each and
/// need a day before them.
fn position(text: &str) -> Option<(Epoch, LogSeq)> {
    let (epoch, seq) = text.split_once(':').or_else(|| text.split_once('/'))?;
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(epoch) || !digits(seq) {
        return None;
    }
    Some((Epoch(epoch.parse().ok()?), LogSeq(seq.parse().ok()?)))
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
            read("3:4711", false).unwrap().goal,
            Goal::Position(Epoch(3), LogSeq(4711))
        );
        assert_eq!(
            read("point:before-v2", false).unwrap().goal,
            Goal::Point("before-v2".into())
        );
        let back = read("-90m", false).unwrap();
        assert_eq!(
            back.goal,
            Goal::Time("2026-05-01T10:30:00Z".parse().unwrap())
        );
    }

    #[test]
    fn a_position_may_look_like_a_time_of_day() {
        for text in ["14:31", "00:00", "23:59"] {
            assert!(looks_like_a_time_of_day(text), "{text}");
        }
        for text in ["1:31", "14:4711", "24:00", "14:60", "14/31", "latest"] {
            assert!(!looks_like_a_time_of_day(text), "{text}");
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
