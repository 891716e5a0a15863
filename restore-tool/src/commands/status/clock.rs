//! Whether this host's clock can tell what would be lost now. Pure.
//!
//! A capture that is later than now was made by a clock that was ahead of this one, or this one went back: a
//! loss of nothing is then no answer.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_host::output;

/// Hosts with a time service differ by less.
const BEHIND: Duration = Duration::from_secs(30);

/// How far this host's clock is behind the newest capture, if it is so more than a little.
pub(super) fn behind(newest: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let behind = Duration::try_from(newest?.duration_since(now)).ok()?;
    (behind > BEHIND).then_some(behind)
}

/// What to do about it.
pub(super) fn next(behind: Duration) -> String {
    format!(
        "this host's clock is {} behind the newest capture, so what would be lost now can't be told: compare it with the \
         clock of the database's host (timedatectl status on both) and set right the one that is wrong; while they \
         differ, restore by recovery point (tidemark-restore list) and not by instant",
        output::duration(behind)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_is_still_to_come_is_no_loss_of_nothing() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(behind(None, at(0)), None);
        assert_eq!(behind(Some(at(100)), at(200)), None);
        assert_eq!(behind(Some(at(130)), at(100)), None, "clocks never agree");
        let two_hours = behind(Some(at(7300)), at(100));
        assert_eq!(two_hours, Some(Duration::from_secs(7200)));
        let said = next(two_hours.unwrap());
        assert!(
            said.contains("2 h behind") && said.contains("can't be told"),
            "{said}"
        );
    }
}
