//! How long exposures were, read as closely as clauses ask for.
//!
//! Recovery points alone show an exposure as longer than it was: log and beats between them say more, and
//! each costs a request. They are read where an exposure would break a clause, and for the longest one that
//! doesn't, so that it is told as it was; where that would take too many, it is told as an upper bound.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_ledger::survey::Survey;
use tidemark_planner::objectives::{Gap, Trace, Witness, exposures};

use super::beats::Book;
use super::loss::History;
use crate::error::Result;
use crate::repository::Repository;

/// The most objects that are read only to tell the longest exposure exactly.
pub(super) const CLOSER_MAX: usize = 2_000;
/// Exposures that are read between two looks at which is the longest, at most, and how many such looks.
const AT_ONCE: usize = 64;
const LOOKS_MAX: usize = 32;
/// How often an agent beats.
const BEAT_EVERY: u64 = 60;

/// The exposures of a span, and what was read of them so far.
pub(super) struct Exposed<'a> {
    repository: &'a Repository,
    history: &'a History<'a>,
    /// From when to when.
    span: (Timestamp, Timestamp),
    book: Option<Book>,
    beats: Vec<Witness>,
    /// Times of which everything was read, by their beginning.
    read: BTreeMap<Timestamp, Timestamp>,
}

impl<'a> Exposed<'a> {
    pub(super) const fn new(
        repository: &'a Repository,
        history: &'a History<'a>,
        span: (Timestamp, Timestamp),
    ) -> Self {
        Self {
            repository,
            history,
            span,
            book: None,
            beats: Vec::new(),
            read: BTreeMap::new(),
        }
    }

    /// As everything that was read says.
    fn now(&self, survey: &Survey<'_>) -> Vec<Gap> {
        let mut witnesses = self.history.witnesses(survey);
        witnesses.extend(&self.beats);
        exposures(&witnesses, self.span.0, self.span.1)
    }

    /// Every exposure; what is longer than `finest` is looked at closely.
    ///
    /// # Errors
    /// A region stops answering.
    pub(super) async fn gaps(
        &mut self,
        survey: &mut Survey<'_>,
        finest: Duration,
    ) -> Result<Vec<Gap>> {
        let long = |gaps: Vec<Gap>| gaps.into_iter().filter(move |gap| gap.length() > finest);
        for gap in long(self.now(survey)) {
            self.log(survey, &gap).await?;
        }
        for gap in long(self.now(survey)) {
            self.beats(&gap, finest).await?;
        }
        Ok(self.now(survey))
    }

    /// Every exposure, and those that are upper bounds: the longest ones are read exactly, for no more than
    /// `left` objects. What is longer than `finest` was read before.
    ///
    /// # Errors
    /// A region stops answering.
    pub(super) async fn longest(
        &mut self,
        survey: &mut Survey<'_>,
        finest: Duration,
        mut left: usize,
    ) -> Result<(Vec<Gap>, Vec<Gap>)> {
        let mut looks = 0;
        loop {
            let gaps = self.now(survey);
            let (bounds, exact): (Vec<Gap>, Vec<Gap>) = gaps
                .iter()
                .partition(|gap| gap.length() <= finest && !self.is_read(gap));
            let longest = exact.iter().map(Gap::length).max().unwrap_or_default();
            let mut longer: Vec<&Gap> =
                bounds.iter().filter(|gap| gap.length() > longest).collect();
            longer.sort_by_key(|gap| std::cmp::Reverse(gap.length()));
            let mut wanted = Vec::new();
            for gap in longer.into_iter().take(AT_ONCE) {
                let Some(rest) = left.checked_sub(self.cost(gap)) else {
                    break;
                };
                left = rest;
                wanted.push(*gap);
            }
            if wanted.is_empty() || looks == LOOKS_MAX {
                return Ok((gaps, bounds));
            }
            for gap in wanted {
                self.log(survey, &gap).await?;
                self.beats(&gap, Duration::ZERO).await?;
                self.read.insert(gap.from, gap.to);
            }
            looks += 1;
        }
    }

    /// Whether everything between its ends was read.
    fn is_read(&self, gap: &Gap) -> bool {
        let last = self.read.range(..=gap.from).next_back();
        last.is_some_and(|(_, to)| gap.to <= *to)
    }

    /// About how many objects lie between its ends.
    fn cost(&self, gap: &Gap) -> usize {
        let views = |epoch| self.history.timeline.epoch(epoch);
        let spans = self.history.between(gap).into_iter();
        let log: usize = spans
            .filter_map(|(epoch, range)| Some(views(epoch)?.names.range(range).count()))
            .sum();
        let beats = usize::try_from(gap.length().as_secs() / BEAT_EVERY).unwrap_or(usize::MAX);
        log.saturating_add(beats).saturating_add(1)
    }

    async fn log(&self, survey: &mut Survey<'_>, gap: &Gap) -> Result<()> {
        for (epoch, range) in self.history.between(gap) {
            survey.read(epoch, range).await?;
        }
        Ok(())
    }

    async fn beats(&mut self, gap: &Gap, finest: Duration) -> Result<()> {
        let book = match &mut self.book {
            Some(book) => book,
            none => none.insert(Book::open(self.repository, self.history.timeline).await?),
        };
        let said = book.between(gap.from, gap.to, finest).await?;
        let here = said
            .into_iter()
            .filter(|one| self.history.holds(one.epoch, one.log_seq));
        self.beats.extend(here.map(|one| Witness {
            arrived: one.at,
            until: one.caught_up_at,
            trace: Trace::Beat(one.number),
        }));
        Ok(())
    }
}
