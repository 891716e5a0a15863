//! A plan as it is shown before anything is written.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use tidemark_format::{Incarnation, RegionName, SourceName};
use tidemark_host::output::{self, Document, Table};
use tidemark_planner::restore::{Bound, Stop};

use super::{Asked, Beyond, Goal, Reached, RestorePlan};
use tidemark_ledger::timeline::POSTGRESQL;

use crate::apply::ServerNeeds;

/// What a restore takes per second until something was measured. A careful figure for one region over
/// a good line; a directory or a near bucket is several times faster.
pub const ASSUMED_BYTES_PER_SECOND: u64 = 50 << 20;

/// How long a restore of so many stored bytes takes, as assumed.
#[must_use]
pub fn assumed_time(stored_bytes: u64) -> Duration {
    Duration::from_secs(stored_bytes.div_ceil(ASSUMED_BYTES_PER_SECOND).max(1))
}

/// `plan`.
#[derive(Debug, Clone, Serialize)]
pub struct PlanDocument {
    /// The source.
    pub source: SourceName,
    /// Its engine.
    pub engine: String,
    /// Its life.
    pub incarnation: Incarnation,
    /// What was asked for, in the user's words.
    pub asked: String,
    /// The instant that was understood, if a time was asked for.
    pub asked_at: Option<Timestamp>,
    /// Whether what was asked for is included.
    pub inclusive: bool,
    /// The state that will be reached. For SQLite its time is when the commit was first seen.
    pub reaches: Reached,
    /// How the time of a commit is known: `observed` or `recorded`.
    pub commit_times: &'static str,
    /// Whether a recovery point covers it.
    pub sealed: bool,
    /// Whether it is exactly the state at the instant asked for: if not, the next log object holds
    /// commits from before it and from after it, and none of them is restored.
    pub exact: bool,
    /// Why nothing committed up to the target is missing; or, with `beyond`, why it ends there.
    pub because: String,
    /// What is later and can't be restored from the regions read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
    /// Bases to be read.
    pub bases: usize,
    /// Log objects to be applied.
    pub log_objects: usize,
    /// Bytes to read at most.
    pub stored_bytes: u64,
    /// Bytes of the database.
    pub image_bytes: u64,
    /// How long it takes, in seconds, as assumed.
    pub estimated_seconds: u64,
    /// What the estimate rests on.
    pub estimate_basis: String,
    /// Bytes that the target will take; of a server with its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed_bytes: Option<u64>,
    /// Where replay ends inside the last log object, in words; none if it ends with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<String>,
    /// What the restored server needs on this host, as far as the identity at hand tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerNeeds>,
    /// The file or folder that will be made.
    pub target: String,
    /// Bytes free there.
    pub free_bytes: u64,
    /// Regions read.
    pub regions: Vec<RegionName>,
    /// What the reader should know: one region, older regions, regions away.
    pub notes: Vec<String>,
}

impl PlanDocument {
    /// The document of a plan.
    #[must_use]
    pub fn new(
        source: &SourceName,
        plan: &RestorePlan,
        asked: &Asked,
        (target, free_bytes): (String, u64),
        regions: Vec<RegionName>,
        notes: Vec<String>,
    ) -> Self {
        let head = plan.base().map(|base| &base.head);
        let stored_bytes = plan.stored_bytes();
        let asked_at = match asked.goal {
            Goal::Time(at) => Some(at),
            Goal::Latest
            | Goal::Position(..)
            | Goal::Point(_)
            | Goal::PointAt(..)
            | Goal::Lsn(_)
            | Goal::Xid(_) => None,
        };
        Self {
            source: source.clone(),
            engine: head.map_or_else(String::new, |head| head.engine.clone()),
            incarnation: head.map_or(Incarnation([0; 16]), |head| head.incarnation),
            asked: asked.text.clone(),
            asked_at,
            inclusive: asked.inclusive,
            reaches: plan.end,
            commit_times: "observed",
            sealed: plan.sealed,
            exact: plan.exact,
            because: plan.because.clone(),
            beyond: plan.beyond.clone(),
            bases: plan.bases.len(),
            log_objects: plan.log.len(),
            stored_bytes,
            image_bytes: plan.image_bytes(),
            estimated_seconds: assumed_time(stored_bytes).as_secs(),
            estimate_basis: format!("{}/s assumed", output::bytes(ASSUMED_BYTES_PER_SECOND)),
            needed_bytes: None,
            stops: None,
            server: None,
            target,
            free_bytes,
            regions,
            notes,
        }
    }

    /// The same of a server, if `plan` is one's.
    #[must_use]
    pub fn with_server(mut self, plan: &RestorePlan, needs: Option<&ServerNeeds>) -> Self {
        if self.engine != POSTGRESQL {
            return self;
        }
        self.commit_times = RECORDED;
        self.needed_bytes = Some(plan.needed_bytes());
        self.stops = stop_in_words(&plan.stop);
        self.server = needs.cloned();
        self
    }

    fn asked_line(&self) -> String {
        let which = if self.inclusive { "to" } else { "before" };
        self.asked_at.map_or_else(
            || format!("{which} {}", self.asked),
            |at| {
                let local = output::local_instant(at, &TimeZone::system());
                let utc = output::instant(at);
                // In UTC there is nothing to say twice.
                if local == utc {
                    format!("{which} {utc}")
                } else {
                    format!("{which} {utc} ({local})")
                }
            },
        )
    }
}

/// How the times of a server's commits are known: it logs them itself.
pub const RECORDED: &str = "recorded";

/// Where replay ends, if not with the last log object.
fn stop_in_words(stop: &Stop) -> Option<String> {
    let with = |bound: &Bound| match bound {
        Bound::Included => "with",
        Bound::Excluded => "ahead of",
    };
    Some(match stop {
        Stop::End => return None,
        Stop::Time(at, Bound::Included) => format!("every commit up to {}", output::instant(*at)),
        Stop::Time(at, Bound::Excluded) => format!("every commit before {}", output::instant(*at)),
        Stop::Lsn(at, bound) => format!("ends {} LSN {at}", with(bound)),
        Stop::Xid(id, bound) => format!("ends {} transaction {id}", with(bound)),
        Stop::Name(name) => format!("ends at the point {name:?} that was named on the server"),
    })
}

fn server_line(server: &ServerNeeds) -> String {
    let mut line = format!("PostgreSQL {}", server.version);
    match &server.programs {
        Some(found) => {
            let (version, folder) = (&found.version, found.folder.display());
            line.push_str(&format!("; its programs {version} are in {folder}"));
        }
        None => line.push_str("; whoever starts it brings its programs (--no-finish)"),
    }
    if !server.tablespaces.is_empty() {
        let places = server.tablespaces.join(", ");
        line.push_str(&format!(
            "; tablespaces were at {places} (--map-tablespace OLD=NEW)"
        ));
    }
    line
}

impl Document for PlanDocument {
    const SCHEMA: &'static str = "tidemark-restore.plan";

    fn text(&self, out: &mut String) {
        if let Some(beyond) = &self.beyond {
            out.push_str(&format!("{}\n", beyond.warning()));
        }
        out.push_str(&format!("Restore {} ({})\n", self.source, self.engine));
        let mut table = Table::new();
        table.row(["asked".to_owned(), self.asked_line()]);
        let sealed = if self.sealed {
            ""
        } else {
            ", restorable but not yet sealed"
        };
        let reaches = match &self.stops {
            None => format!("{} {}{sealed}", self.reaches, self.commit_times),
            Some(stops) => format!("{stops}, inside {}{sealed}", self.reaches),
        };
        table.row(["reaches".to_owned(), reaches]);
        table.row([
            Beyond::label(self.beyond.as_ref()).to_owned(),
            self.because.clone(),
        ]);
        let bases = output::count(self.bases, "base");
        let objects = output::count(self.log_objects, "log object");
        let read = output::bytes(self.stored_bytes);
        table.row([
            "reads".to_owned(),
            format!("{bases}, {objects}, at most {read}"),
        ]);
        let time = output::duration(Duration::from_secs(self.estimated_seconds));
        table.row([
            "takes".to_owned(),
            format!("about {time} ({})", self.estimate_basis),
        ]);
        if let Some(server) = &self.server {
            table.row(["server".to_owned(), server_line(server)]);
        }
        let (needs, free) = (
            output::bytes(self.needed_bytes.unwrap_or(self.image_bytes)),
            output::bytes(self.free_bytes),
        );
        table.row([
            "makes".to_owned(),
            format!("{} ({needs}; {free} free)", self.target),
        ]);
        let regions: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        table.row(["from".to_owned(), regions.join(", ")]);
        table.write("  ", out);
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
    }
}
