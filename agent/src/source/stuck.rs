//! A request that regions keep from its end: how long it waits, and what its asker is told then.
//!
//! **Bound.** While the engine says that nothing is captured until somebody acts, a request that needs a
//! capture waits [`STUCK_MAX`] and then tells what the engine told. While W failure domains answer and lack no base, a request waits its whole time: they
//! may be slow. Otherwise it waits [`STUCK_MAX`] for a region to come back and then says what is
//! where, what isn't, why, and what to do. Nothing is lost by that: what was sealed is kept in the
//! spool, and its point goes to every region that can have it.

use std::time::Duration;

use tidemark_host::Monotonic;
use tidemark_host::codes::{self, Code};

use super::driver::Driver;
use super::requests::{Job, Kind, STOP_PATIENCE, Stage};
use crate::AgentError;
use crate::ship::lane::{Lane, Standing};
use crate::ship::quorum;

/// How long a request waits for something that nothing here can bring about.
const STUCK_MAX: Duration = Duration::from_secs(30);

impl Job {
    /// When it ends at the latest, as things stand.
    pub(super) fn due(&self) -> Monotonic {
        let stuck = self.stuck_since.map(|since| since.after(self.patience()));
        stuck.map_or(self.deadline, |stuck| stuck.min(self.deadline))
    }

    /// How long it waits for something that nothing here can bring about.
    const fn patience(&self) -> Duration {
        match self.kind {
            Kind::Stop => STOP_PATIENCE,
            Kind::Snapshot { .. } | Kind::Retire { .. } => STUCK_MAX,
        }
    }
}

impl Driver {
    /// Whether a person has waited long enough for regions that don't come.
    pub(super) fn is_stuck(&self, job: &mut Job) -> bool {
        let moves = match &job.stage {
            // A base needs one region and room for the log that it begins with, and takes as long as it takes.
            Stage::Base(_) => {
                self.room_at.is_none() && self.halted().is_none() && self.may_reach(1, |_| true)
            }
            Stage::Cut(_) => self.room_at.is_none() && self.halted().is_none(),
            Stage::Durable(_) => self.may_reach(usize::MAX, |_| true),
            Stage::Point { .. } => {
                self.may_reach(usize::MAX, |lane| lane.standing() == Standing::Whole)
            }
            Stage::Done => true,
        };
        // A last cut that finds no room won't find any by waiting; regions may take what waits until the end.
        let is_patient = matches!(job.kind, Kind::Stop) && !matches!(job.stage, Stage::Cut(_));
        if moves || is_patient {
            job.stuck_since = None;
            return false;
        }
        let now = self.now();
        let since = *job.stuck_since.get_or_insert(now);
        now.since(since) >= job.patience()
    }

    /// Whether as many failure domains as durability asks for, and no more than `most`, have a region
    /// that answers and whose lane is `fit`.
    fn may_reach(&self, most: usize, fit: impl Fn(&Lane) -> bool) -> bool {
        let domains = self.domains();
        let outlets = self.parts.outlets.iter().map(|outlet| {
            let name = &outlet.link.name;
            let lane = self.record.lanes.get(name);
            let can = outlet.link.is_up() && lane.is_none_or(&fit);
            let domain = domains.get(name).map_or("", String::as_str);
            (domain, can.then_some(()))
        });
        quorum::reached(outlets, self.width(&domains).min(most)).is_some()
    }

    /// What keeps everything from being captured, until somebody ends it.
    fn halted(&self) -> Option<(Code, String)> {
        if self.failure.is_some() {
            return self.failure.clone();
        }
        let mut halted = None;
        let board = &self.shared.board;
        board.source(self.name(), |live| halted.clone_from(&live.halted));
        halted.map(|why| (codes::SERVER_AWAY, why))
    }

    /// Ends a request whose time is over.
    pub(super) fn late(&self, job: Job) {
        let wants_room = matches!(job.stage, Stage::Base(_) | Stage::Cut(_));
        let shortage = self.shortages.newest();
        let shortage = shortage.filter(|_| wants_room && self.room_at.is_some());
        let halted = self.halted().filter(|_| wants_room && shortage.is_none());
        let halted_by = halted.as_ref().map(|(code, _)| *code);
        let why = match (&job.stage, shortage) {
            (_, None) if halted.is_some() => halted.map(|(_, why)| why).unwrap_or_default(),
            (Stage::Base(_), Some(shortage)) => {
                format!("no base can begin: {}", self.lacks(shortage))
            }
            (_, Some(shortage)) => self.lacks(shortage),
            (Stage::Base(_), None) if !self.may_reach(1, |_| true) => {
                "no region answers; what is captured is kept in the spool and shipped as soon as one does, and the \
                 base is made then"
                    .to_owned()
            }
            (Stage::Base(_), None) => "a base is under way".to_owned(),
            (Stage::Cut(_), None) => "the database can't be read".to_owned(),
            (Stage::Durable(_) | Stage::Point { .. } | Stage::Done, None) => {
                self.what_is_where(&job)
            }
        };
        let why = if self.draining {
            format!("the agent is stopping; {why}")
        } else {
            why
        };
        let (what, seconds) = ("the recovery point", self.now().since(job.begun).as_secs());
        let error = match shortage {
            Some(shortage) => AgentError::NoRoom {
                what,
                seconds,
                shortage,
                why,
            },
            None => match halted_by {
                Some(code) => AgentError::Halted {
                    what,
                    seconds,
                    code,
                    why,
                },
                None => AgentError::Late { what, seconds, why },
            },
        };
        match job.kind {
            Kind::Snapshot { answer, .. } | Kind::Retire { answer } => {
                drop(answer.send(Err(error)));
            }
            Kind::Stop => {
                tracing::warn!(source = %self.name(), error = %error, "stopping with a backlog in the spool");
            }
        }
    }

    fn what_is_where(&self, job: &Job) -> String {
        let (last, point) = match &job.stage {
            Stage::Durable(last) => (last, None),
            Stage::Point { seq, last } => (last, Some(*seq)),
            Stage::Base(_) | Stage::Cut(_) | Stage::Done => return String::new(),
        };
        let (_, there) = self.durable(last.seq, point);
        let names: Vec<&str> = there.iter().map(|name| name.as_str()).collect();
        let mut text = if names.is_empty() {
            "durable nowhere yet".to_owned()
        } else {
            format!("durable in {}", names.join(", "))
        };
        for outlet in &self.parts.outlets {
            let name = &outlet.link.name;
            if there.contains(name) {
                continue;
            }
            let lane = self.record.lanes.get(name);
            let repairing = lane.is_some_and(|lane| lane.standing() == Standing::Repairing);
            let why = match (outlet.link.is_up(), repairing) {
                (false, _) => "it doesn't answer: bring it back, the rest follows by itself",
                (true, true) if self.base.is_running() => {
                    "it lacks a base, and one that repairs it is under way: nothing is to be done"
                }
                (true, true) => {
                    "it lacks a base: a complete one is made by itself within about 10 minutes, and at once by \
                     tidemark-agent snapshot --base"
                }
                (true, false) => "it is behind: nothing is to be done but to wait",
            };
            text.push_str(&format!("; not yet in {name}: {why}"));
        }
        text.push_str(". What was captured is kept in the spool until it is there");
        text
    }
}
