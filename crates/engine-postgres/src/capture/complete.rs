//! Up to which instant everything committed is captured.
//!
//! Only the server knows up to where its log is flushed, and its keepalives tell what was *sent*. So it is
//! asked who it is, on a second connection; once as much was received as it had flushed when it was
//! asked, everything committed by then is here. (What the server has not flushed when it says "committed",
//! as with `synchronous_commit = off`, a crash of its own would lose, too.) Pure.

use std::collections::VecDeque;

use jiff::Timestamp;
use tidemark_format::postgres::Lsn;

/// Answers kept at most; beyond, every second one is forgotten.
const ANSWERS_MAX: usize = 1024;

/// The server's answers: flushed up to there, asked then.
#[derive(Debug, Default)]
pub(super) struct Complete {
    answers: VecDeque<(Lsn, Timestamp)>,
    /// What is known for certain, of what was cut.
    cut: Option<Timestamp>,
}

impl Complete {
    /// The server, asked at `at`, had flushed its log up to `flushed`.
    pub(super) fn told(&mut self, flushed: Lsn, at: Timestamp) {
        match self.answers.back_mut() {
            Some((last, when)) if *last == flushed => *when = at,
            _ => self.answers.push_back((flushed, at)),
        }
        if self.answers.len() > ANSWERS_MAX {
            let mut odd = false;
            self.answers.retain(|_| {
                odd = !odd;
                odd
            });
        }
    }

    /// Another server may answer from now on.
    pub(super) fn forget(&mut self) {
        self.answers.clear();
    }

    /// Everything committed by then is before `received`.
    pub(super) fn until(&self, received: Lsn) -> Option<Timestamp> {
        let reached = self
            .answers
            .iter()
            .filter(|(flushed, _)| *flushed <= received);
        reached.map(|(_, at)| *at).chain(self.cut).max()
    }

    /// As [`Self::until`], of a cut that ends at `end`.
    pub(super) fn cut_at(&mut self, end: Lsn) -> Option<Timestamp> {
        self.cut = self.until(end);
        // The last of those reached stays: the server may say the same again.
        let reached = self
            .answers
            .iter()
            .take_while(|(flushed, _)| *flushed < end);
        let reached = reached.count();
        self.answers.drain(..reached);
        self.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn an_instant_is_complete_once_what_was_flushed_then_is_here() {
        let mut complete = Complete::default();
        assert_eq!(complete.until(Lsn(100)), None);
        complete.told(Lsn(100), at(1));
        complete.told(Lsn(200), at(2));
        assert_eq!(complete.until(Lsn(99)), None);
        assert_eq!(complete.until(Lsn(150)), Some(at(1)));
        assert_eq!(complete.cut_at(Lsn(150)), Some(at(1)));
        assert_eq!(complete.until(Lsn(200)), Some(at(2)));
        // Nothing new is flushed: the instant still goes on.
        complete.told(Lsn(200), at(3));
        assert_eq!(complete.until(Lsn(200)), Some(at(3)));
        complete.forget();
        assert_eq!(complete.until(Lsn(200)), Some(at(1)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut complete = Complete::default();
        for n in 0..10_000_u32 {
            complete.told(Lsn(u64::from(n)), at(i64::from(n)));
        }
        assert!(complete.answers.len() <= ANSWERS_MAX);
        assert_eq!(complete.until(Lsn(9_999)), Some(at(9_999)));
    }
}
