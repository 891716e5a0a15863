//! The name that a person gives a recovery point, so that `point:NAME` brings one state back and no
//! other: no name can be taken for a number, a time, `latest` or a word of the shell.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::time_spec::{self, TimeContext, TimeSpecError};

/// As many characters as a name may have.
pub const NAME_CHARACTERS_MAX: usize = 64;

/// A name that a recovery point may be given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointName(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PointNameError {
    /// Against the rule.
    #[error(
        "a recovery point's name is 1 to {NAME_CHARACTERS_MAX} letters (a to z), digits and the characters - _ . such as before-v2"
    )]
    Characters,
    /// A word that means something else.
    #[error(
        "{0:?} means something else wherever one can restore to: take another name, such as before-v2"
    )]
    Reserved(String),
    /// It reads as a time.
    #[error(
        "{0:?} reads as a time, and means another one every day or none: take a name such as at-{0}"
    )]
    Time(String),
}

impl PointName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PointName {
    type Err = PointNameError;

    fn from_str(text: &str) -> Result<Self, PointNameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > NAME_CHARACTERS_MAX || !text.bytes().all(plain) {
            return Err(PointNameError::Characters);
        }
        if text.eq_ignore_ascii_case("latest") {
            return Err(PointNameError::Reserved(text.to_owned()));
        }
        if reads_as_a_time(text) {
            return Err(PointNameError::Time(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Whether a restore to `text` could be meant as one to a time, whatever the time is now.
fn reads_as_a_time(text: &str) -> bool {
    let context = TimeContext {
        now: Timestamp::UNIX_EPOCH,
        local: TimeZone::UTC,
        interactive: true,
    };
    !matches!(
        time_spec::parse(text, &context),
        Err(TimeSpecError::Unreadable(_) | TimeSpecError::Zone(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_digits_and_three_characters_make_a_name() {
        for text in ["before-v2", "v1.2_rc3", "1", "A", &"x".repeat(64), "2026"] {
            assert_eq!(text.parse::<PointName>().unwrap().as_str(), text);
        }
        for text in [
            "",
            "1/4",
            "a b",
            "log:1:4",
            "a\n",
            "ä",
            "'",
            &"x".repeat(65),
        ] {
            let refused = text.parse::<PointName>().unwrap_err();
            assert_eq!(refused, PointNameError::Characters, "{text:?}");
            assert!(refused.to_string().contains("- _ ."));
        }
    }

    #[test]
    fn what_means_something_else_is_no_name() {
        for text in ["latest", "LATEST"] {
            let refused = text.parse::<PointName>().unwrap_err();
            assert!(matches!(refused, PointNameError::Reserved(_)), "{text:?}");
        }
        for text in ["now", "-90m", "2026-05-01", "yesterday", "today"] {
            let refused = text.parse::<PointName>().unwrap_err();
            assert!(matches!(refused, PointNameError::Time(_)), "{text:?}");
        }
    }
}
