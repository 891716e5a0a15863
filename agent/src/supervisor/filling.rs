//! How fast the spool fills: what tells people how long it lasts. Pure.

use std::time::Duration;

use tidemark_host::Monotonic;

/// Over how long the rate is taken: shorter, and each cut is a burst; longer, and news come late.
const WINDOW: Duration = Duration::from_secs(10);

/// The spool's growth.
#[derive(Debug, Default)]
pub(super) struct Filling {
    begun: Option<(Monotonic, u64)>,
    rate: Option<u64>,
}

impl Filling {
    /// The spool holds `bytes` now.
    pub(super) fn look(&mut self, now: Monotonic, bytes: u64) {
        let (at, before) = *self.begun.get_or_insert((now, bytes));
        let passed = now.since(at);
        if passed < WINDOW {
            return;
        }
        let grown = bytes.saturating_sub(before);
        self.rate = Some(grown / passed.as_secs().max(1)).filter(|rate| *rate > 0);
        self.begun = Some((now, bytes));
    }

    /// Bytes in each second of late, if it grew.
    pub(super) const fn rate(&self) -> Option<u64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_that_grows_has_a_rate_and_one_that_drains_has_none() {
        let at = |seconds| Monotonic::from_origin(Duration::from_secs(seconds));
        let mut filling = Filling::default();
        filling.look(at(0), 1000);
        filling.look(at(5), 5000);
        assert_eq!(filling.rate(), None);
        filling.look(at(10), 11_000);
        assert_eq!(filling.rate(), Some(1000));
        filling.look(at(20), 500);
        assert_eq!(filling.rate(), None);
    }
}
