//! What would be said again and again is said once, and then now and then with a count: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_host::Monotonic;

/// How often something that goes on is said.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// What was said, about whom.
#[derive(Debug)]
pub(crate) struct Repeats<K> {
    said: BTreeMap<K, Said>,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self {
            said: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Said {
    at: Monotonic,
    /// Times since then that it was not said.
    unsaid: u64,
}

impl<K: Ord> Repeats<K> {
    /// It happens to `about` now: whether it is said, and how often it was not since it was said last.
    pub(crate) fn happens(&mut self, about: K, now: Monotonic) -> Option<u64> {
        let Some(said) = self.said.get_mut(&about) else {
            let first = Said { at: now, unsaid: 0 };
            self.said.insert(about, first);
            return Some(0);
        };
        if now.since(said.at) < AGAIN_AFTER {
            said.unsaid = said.unsaid.saturating_add(1);
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_and_then_every_ten_minutes_with_a_count() {
        let mut repeats = Repeats::default();
        let at = |seconds| Monotonic::default().after(Duration::from_secs(seconds));
        assert_eq!(repeats.happens("a", at(0)), Some(0));
        assert_eq!(repeats.happens("b", at(1)), Some(0), "of somebody else");
        assert_eq!(repeats.happens("a", at(2)), None);
        assert_eq!(repeats.happens("a", at(599)), None);
        assert_eq!(repeats.happens("a", at(600)), Some(2));
        assert_eq!(repeats.happens("a", at(601)), None);
    }
}
