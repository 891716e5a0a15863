//! A server's log that did not go on where it was captured: told until the new life can be restored, over
//! restarts too, and remembered after that.

use super::driver::Driver;
use crate::state::source::LogLost;

/// The alert, while the newest state can't be restored.
const LOG_LOST: &str = "log.lost";

impl Driver {
    /// A server's log does not go on: until the new life has a base of its own, its newest state can't be
    /// restored.
    pub(super) fn lost_log(&mut self, reason: &str) {
        if self.parts.engine != "postgresql" {
            return;
        }
        self.record.log_lost = Some(LogLost {
            at: self.shared.clock.now(),
            reason: reason.to_owned(),
            mended: false,
        });
        self.changed();
        self.say_lost_log();
    }

    /// Says again what was lost: a restart mends nothing.
    pub(super) fn say_lost_log(&self) {
        let lost = self.record.log_lost.as_ref();
        self.show(|live| live.log_lost_at = lost.map(|lost| lost.at));
        if let Some(lost) = lost.filter(|lost| !lost.mended) {
            let text = format!(
                "the server's log does not go on where it was captured: {}. A complete base is being made; until it \
                 is, what is committed now can't be restored. What was captured before can",
                lost.reason
            );
            self.alert(LOG_LOST, &text);
        }
    }

    /// The new life can be restored.
    pub(super) fn mend_lost_log(&mut self) {
        if let Some(lost) = self.record.log_lost.as_mut().filter(|lost| !lost.mended) {
            lost.mended = true;
            self.changed();
        }
        self.clear(LOG_LOST);
    }
}
