//! Waiting for an earlier try of the same run, which met damage and goes round it: its threads may still
//! hold the target's lock for a moment. Whoever holds it for longer is another restore.

use std::time::Duration;

use tidemark_host::Clock;

use crate::error::Result;
use crate::target::{Target, TargetError};

/// What a try that failed has in hand is at most some mebibytes.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Waits until an earlier try of this very run writes no more.
///
/// # Errors
/// [`TargetError::Busy`]: another restore has the target; or what opening it meets.
pub(super) async fn ended(target: &Target, clock: &dyn Clock) -> Result<()> {
    let began = clock.monotonic();
    loop {
        match target.open_partial() {
            Err(TargetError::Busy(_)) if clock.monotonic().since(began) < ENDS_WITHIN => {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            Err(error) => return Err(error.into()),
            Ok(_free) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::SimClock;

    use super::*;
    use crate::error::Error;

    fn target(folder: &tempfile::TempDir) -> Target {
        Target::check(&folder.path().join("app.db")).unwrap()
    }

    #[tokio::test]
    async fn an_earlier_try_is_waited_for_until_it_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(&folder);
        // GIVEN a try that writes
        let earlier = target.open_partial().unwrap();
        // (A clock that stands: nobody's patience ends.)
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let waiting = ended(&target, &clock);
        tokio::pin!(waiting);
        let soon = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
        assert!(soon.is_err(), "it waits");
        // WHEN that ends
        drop(earlier);
        // THEN the next one may write, and nothing is held meanwhile
        waiting.await.unwrap();
        drop(target.open_partial().unwrap());
    }

    #[tokio::test]
    async fn another_restore_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let target = target(&folder);
        let _other = target.open_partial().unwrap();
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let waiting = ended(&target, &clock);
        tokio::pin!(waiting);
        let soon = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(soon.is_err(), "it waits");
        clock.advance(ENDS_WITHIN);
        let refused = waiting.await.unwrap_err();
        assert!(
            matches!(&refused, Error::Target(TargetError::Busy(_))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn a_target_that_is_free_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let clock = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        ended(&target(&folder), &clock).await.unwrap();
    }
}
