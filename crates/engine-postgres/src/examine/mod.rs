//! A restored cluster, looked at inside a sandbox: replayed, its pages read, its server asked.
//!
//! ```text
//! replay   the server's own recovery to the record that the restore promised, and the proof of its end
//! examine  what settings of the source's lie in the directory             (left_over: read, never used)
//!          the server, once more, on a private socket, nothing let out     (forced)
//!          every page's checksum, beside what follows                       (pages)
//!          what it says of itself, every database: counts, schema, indexes (ask, tables, indexes, schema)
//!          the user's statements, as a role that can only read             (ask)
//! ```
//!
//! It blocks: the caller gives it a thread. It isolates nothing by itself: the caller's process has no
//! way out, and that was probed.
//!
//! # Invariants
//!
//! - Nothing of the source's settings is in force: not of its files, nor of its databases and roles.
//! - No row leaves: counts, digests, the single values of the user's statements.
//!
//! # Failure
//!
//! A server that does not start, or can't be asked at all, is an error; anything that is wrong with what
//! it says is a finding, and the other checks go on.

mod ask;
mod collations;
mod error;
mod forced;
mod indexes;
mod left_over;
mod pages;
mod schema;
mod tables;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_engine::examine::{CanarySeen, Examined, Finding, LEVEL_REPLAY, Questions, Status};
use tidemark_format::postgres::{Lsn, TimelineId};
use tidemark_host::{Clock, Monotonic};

use crate::restore::sandbox::{Around, Place};
use crate::restore::{RunAs, StopFound, Watch};

pub use error::ExamineError;

/// The longest that one statement may take, unless the questions say.
const STATEMENT_SECONDS: u32 = 600;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where replay must end: what a restore found out from the decrypted log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayGoal {
    /// The cluster's own number.
    pub system: u64,
    /// The branch of the last record.
    pub timeline: u32,
    /// Where the last record to be replayed starts.
    pub record: String,
    /// Where it ends: what the proof compares with.
    pub end: String,
    /// The latest commit that is replayed.
    pub last_commit: Option<Timestamp>,
    /// Commits replayed.
    pub commits: u64,
    /// The newest canary whose message is replayed.
    pub canary: Option<CanarySeen>,
}

impl ReplayGoal {
    /// Reads it from the facts of a restore that left recovery to others
    /// ([`EndProof::facts`](tidemark_engine::EndProof)).
    #[must_use]
    pub fn of(facts: &BTreeMap<String, serde_json::Value>) -> Option<Self> {
        let server = facts.get("postgres")?;
        let text = |name: &str| Some(server.get(name)?.as_str()?.to_owned());
        let timeline = server.get("replayed_timeline")?.as_u64()?;
        let canary = facts.get("canary");
        Some(Self {
            system: text("system")?.parse().ok()?,
            timeline: u32::try_from(timeline).ok()?,
            record: text("last_record")?,
            end: text("lsn")?,
            last_commit: text("ended_at").and_then(|at| at.parse().ok()),
            commits: server.get("commits")?.as_u64()?,
            canary: canary.and_then(|seen| serde_json::from_value(seen.clone()).ok()),
        })
    }

    fn found(&self) -> Option<StopFound> {
        let lsn = |text: &str| text.parse::<Lsn>().ok();
        Some(StopFound {
            timeline: TimelineId(self.timeline),
            start: lsn(&self.record)?,
            end: lsn(&self.end)?,
            ended_at: self.last_commit,
            commits: self.commits,
            canary: self.canary.clone(),
            because: String::new(),
        })
    }
}

/// Where replay ended, as the server's own history proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The end of the last record.
    pub end: String,
    /// The branch that was replayed.
    pub timeline: u32,
    /// The branch that recovery opened.
    pub new_timeline: u32,
    /// The latest commit in it.
    pub last_commit: Option<Timestamp>,
    /// Commits replayed.
    pub commits: u64,
}

/// A restored data directory, and what its server is run with.
#[derive(Clone)]
pub struct Sandbox {
    /// The directory. Nobody else uses it, and it is thrown away afterwards.
    pub data: PathBuf,
    /// Where the server's programs are; searched for if none is given.
    pub pg_bin: Option<PathBuf>,
    /// Libraries that may be loaded, of those that the source loads.
    pub libraries: Vec<String>,
    /// Who runs the server, if not this process's own user.
    pub owner: Option<RunAs>,
    /// Told how far replay is.
    pub watch: Option<Watch>,
    /// For durations and limits.
    pub clock: Arc<dyn Clock>,
    /// Set from another thread to end it.
    pub cancel: Arc<AtomicBool>,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox")
            .field("data", &self.data)
            .field("libraries", &self.libraries)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Of `data`, everything else as usual.
    #[must_use]
    pub fn new(data: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            data,
            pg_bin: None,
            libraries: Vec::new(),
            owner: None,
            watch: None,
            clock,
            cancel: Arc::default(),
        }
    }

    fn place(&self) -> Result<Place, ExamineError> {
        let around = Around {
            pg_bin: self.pg_bin.clone(),
            owner: self.owner,
            watch: self.watch.clone(),
            clock: Arc::clone(&self.clock),
            cancel: Arc::clone(&self.cancel),
        };
        Place::open(&self.data, around).map_err(ExamineError::Open)
    }

    /// Replays to the goal, and proves where that ended. Blocks.
    ///
    /// # Errors
    /// [`ExamineError::Replay`] if it fails or ends elsewhere, [`ExamineError::Open`].
    pub fn replay(&self, goal: &ReplayGoal) -> Result<Replayed, ExamineError> {
        let found = goal.found().ok_or(ExamineError::Goal)?;
        let place = self.place()?;
        let loads = left_over::libraries(place.left());
        let more = forced::replaying(&forced::reduced(&loads, &self.libraries));
        let timeline = place
            .replay(goal.system, &found, &more)
            .map_err(ExamineError::Replay)?;
        Ok(Replayed {
            end: goal.end.clone(),
            timeline: goal.timeline,
            new_timeline: timeline.0,
            last_commit: goal.last_commit,
            commits: goal.commits,
        })
    }

    /// Asks everything. `goal` is what was replayed before, if anything. Blocks.
    ///
    /// # Errors
    /// [`ExamineError::Open`], [`ExamineError::Start`], [`ExamineError::Ask`].
    pub fn examine(
        &self,
        questions: &Questions,
        goal: Option<&ReplayGoal>,
    ) -> Result<Examined, ExamineError> {
        let place = self.place()?;
        let mut bench = Bench::new(self);
        if let Some(goal) = goal {
            bench.examined.last_commit = goal.last_commit;
            bench.note(|_| replayed_as_promised(goal));
        }
        bench.check()?;
        let kind = place.pages().map_err(ExamineError::Open)?;
        let files = pages::files(&self.data);
        let left = left_over::look(place.left());
        let loads = left_over::libraries(place.left());
        let kept = forced::reduced(&loads, &self.libraries);
        let forced = forced::settings(place.major(), &kept);
        let mut visit = Visit {
            questions,
            goal,
            left,
            forced: &forced,
            major: place.major(),
            limit: questions.statement_seconds.unwrap_or(STATEMENT_SECONDS),
        };
        // A library of this crate's own kind: a few questions, one after the other, on one thread.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(ExamineError::Runtime)?;
        let mut server = place.start(&forced).map_err(ExamineError::Start)?;
        let mut first = runtime.block_on(ask::first_role(&server.socket()))?;
        if first.is_none() {
            // Whoever made the cluster called that role otherwise.
            server.stop().map_err(ExamineError::Start)?;
            first = Some(place.first_role(&forced).map_err(ExamineError::Start)?);
            server = place.start(&forced).map_err(ExamineError::Start)?;
        }
        let role = first.ok_or(ExamineError::Goal)?;
        // Pages are read while the server is asked: it needs one of the cores.
        let (asked, pages) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let began = self.clock.monotonic();
                let finding = pages::check(&self.data, files, kind, &self.cancel);
                finding.took(self.clock.monotonic().since(began))
            });
            let asked = runtime.block_on(async {
                let all = Box::pin(visit.all(&mut bench, &server, &role));
                tokio::select! {
                    biased;
                    asked = all => asked,
                    // A server that hangs answers no question, and none is waited for.
                    () = cancelled(&self.cancel) => Err(ExamineError::Interrupted),
                }
            });
            (asked, reader.join())
        });
        bench
            .examined
            .findings
            .push(pages.unwrap_or_else(|_panic| pages::unread()));
        // What was asked is told, however the server ends.
        drop(runtime);
        // The directory is thrown away: an unclean end costs nothing.
        drop(server);
        asked?;
        Ok(bench.examined)
    }
}

async fn cancelled(cancel: &AtomicBool) {
    while !cancel.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn replayed_as_promised(goal: &ReplayGoal) -> Finding {
    let end = format!("{} on timeline {}", goal.end, goal.timeline);
    Finding::new(
        LEVEL_REPLAY,
        "postgres.replay",
        "replay ended with the last record of the target, as the new timeline's history says",
        Status::Passed,
    )
    .compared(end.clone(), end)
}

/// What one look at a server needs.
struct Visit<'a> {
    questions: &'a Questions,
    goal: Option<&'a ReplayGoal>,
    left: left_over::LeftOver,
    forced: &'a [(String, String)],
    major: u16,
    limit: u32,
}

/// Where findings go, with the time they took.
struct Bench {
    clock: Arc<dyn Clock>,
    cancel: Arc<AtomicBool>,
    examined: Examined,
}

impl Bench {
    fn new(sandbox: &Sandbox) -> Self {
        Self {
            clock: Arc::clone(&sandbox.clock),
            cancel: Arc::clone(&sandbox.cancel),
            examined: Examined::default(),
        }
    }

    fn check(&self) -> Result<(), ExamineError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ExamineError::Interrupted);
        }
        Ok(())
    }

    fn note(&mut self, check: impl FnOnce(&mut Self) -> Finding) {
        let began = self.now();
        let finding = check(self);
        let took = self.since(began);
        self.examined.findings.push(finding.took(took));
    }

    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn since(&self, began: Monotonic) -> Duration {
        self.clock.monotonic().since(began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_goal_is_read_from_what_a_restore_proved() {
        let facts = BTreeMap::from([(
            "postgres".to_owned(),
            json!({
                "version": "15.19", "system": "7300000000000000001", "lsn": "0/3000060", "timeline": 1,
                "replayed_timeline": 1, "last_record": "0/3000028", "stopped": "the end of the log",
                "ended_at": "2026-11-22T10:00:00Z", "commits": 12,
            }),
        )]);
        let goal = ReplayGoal::of(&facts).expect("a goal");
        assert_eq!((goal.system, goal.commits), (7_300_000_000_000_000_001, 12));
        let found = goal.found().expect("positions");
        assert_eq!(found.end, "0/3000060".parse().expect("a position"));
        assert_eq!(found.ended_at, goal.last_commit);
        assert_eq!(ReplayGoal::of(&BTreeMap::new()), None);
    }
}
