//! The last look before a person is told that a point is durable: do the regions that had it still hold it,
//! and the log up to it? They may have been put back to an earlier state since, and nobody tells.
//!
//! **Failure.** A region that doesn't answer is asked again while the request has time. Where too few hold the
//! point, it is made anew on a base that begins now: every region that lost something gets that one.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemark_format::{PointSeq, RegionName};
use tidemark_host::Monotonic;

use super::driver::Driver;
use super::requests::{Job, Kind, Stage};
use crate::ship::quorum;
use crate::ship::region::{Command as RegionCommand, Found};
use crate::state::source::Restorable;

/// How long a region may take to show what it holds, once enough others have.
const LOOK_TIME: Duration = Duration::from_secs(10);
/// When a region that didn't say what it holds is asked again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Regions that are asked whether they hold what was durable there.
#[derive(Debug)]
pub(super) struct Look {
    ticket: u64,
    since: Monotonic,
    waiting: BTreeSet<RegionName>,
    there: BTreeSet<RegionName>,
    /// One lacks what was durable in it.
    gone: bool,
}

impl Driver {
    /// Answers once enough regions hold the point and were seen to hold the log without a hole up to it:
    /// what was durable may be gone since, and nobody tells. True if the job goes on another way.
    pub(super) fn look_and_answer(
        &mut self,
        job: &mut Job,
        seq: PointSeq,
        last: Restorable,
    ) -> bool {
        let (enough, durable_in) = self.durable(last.seq, Some(seq));
        if matches!(job.kind, Kind::Stop) {
            // It says nothing to anybody.
            if enough {
                self.done(job, seq, last, durable_in);
            }
            return false;
        }
        let now = self.now();
        let Some(look) = &job.look else {
            if enough && job.look_again_at.is_none_or(|again| now >= again) {
                job.look = Some(self.look_for_it(durable_in));
            }
            return false;
        };
        let there = durable_in.into_iter();
        let there: Vec<_> = there.filter(|name| look.there.contains(name)).collect();
        let reached = self.suffices(&there);
        let waited = now.since(look.since) >= LOOK_TIME;
        if !(look.waiting.is_empty() || (reached && waited)) {
            return false;
        }
        let gone = look.gone;
        job.look = None;
        if reached {
            self.done(job, seq, last, there);
            return false;
        }
        if gone {
            // The point would rest on what isn't there: it is made anew, on a base that is.
            job.stage = Stage::Base(self.next_base());
            return true;
        }
        job.look_again_at = Some(now.after(LOOK_AGAIN));
        false
    }

    fn look_for_it(&mut self, regions: Vec<RegionName>) -> Look {
        let ticket = self.next_ticket;
        self.next_ticket = ticket.saturating_add(1);
        let source = self.name();
        for outlet in &self.parts.outlets {
            if regions.contains(&outlet.link.name) {
                let source = source.clone();
                let command = RegionCommand::LookFor { source, ticket };
                drop(outlet.commands.send(command));
            }
        }
        Look {
            ticket,
            since: self.now(),
            waiting: regions.into_iter().collect(),
            there: BTreeSet::new(),
            gone: false,
        }
    }

    /// A region has looked for what it had.
    pub(super) fn on_found(&mut self, region: &RegionName, ticket: u64, found: Found) {
        let looks = self.jobs.iter_mut().filter_map(|job| job.look.as_mut());
        for look in looks.filter(|look| look.ticket == ticket) {
            look.waiting.remove(region);
            look.gone |= found == Found::Gone;
            if found == Found::There {
                look.there.insert(region.clone());
            }
        }
    }

    /// Whether what is in these regions is in as many failure domains as are needed.
    fn suffices(&self, there: &[RegionName]) -> bool {
        let domains = self.domains();
        let reached = there.iter().map(|name| {
            let domain = domains.get(name).map_or("", String::as_str);
            (domain, Some(()))
        });
        quorum::reached(reached, self.width(&domains)).is_some()
    }
}
