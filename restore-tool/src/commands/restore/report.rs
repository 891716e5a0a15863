//! What a restore reached, what it proved, and how to go on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tidemark_engine::ProofResult;
use tidemark_format::{Key, RegionName, SourceName};
use tidemark_host::output::{self, Document, Table};
use tidemark_open::DamageKind;

use super::prepare::Prepared;
use crate::apply::{Done, Work};
use crate::evidence::access::Access;
use crate::evidence::record::linked;
use crate::plan::{Beyond, Reached, RestorePlan};
use crate::repository::Settings;

/// What was restored and what was proved.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The source.
    pub source: SourceName,
    /// The file.
    pub target: String,
    /// The state that was reached.
    pub reached: Reached,
    /// How the time of a commit is known.
    pub commit_times: &'static str,
    /// Whether a recovery point covers it.
    pub sealed: bool,
    /// Whether it is exactly the state at the instant asked for.
    pub exact: bool,
    /// Why nothing committed up to the target is missing; or, with `beyond`, why it ends there.
    pub because: String,
    /// What is later and can't be restored from the regions read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
    /// Bytes of the database.
    pub bytes: u64,
    /// `digest-equal`, or `chain-only` when the last object carried no digest; of a server `replayed`, or
    /// `end-not-proved` with --no-finish.
    pub proof: &'static str,
    /// The digest of the whole.
    pub digest: Option<String>,
    /// Bases read.
    pub bases: usize,
    /// Log objects applied.
    pub log_objects: usize,
    /// Bytes read from the regions.
    pub fetched_bytes: u64,
    /// Page bytes that an interrupted run had left.
    pub resumed_bytes: u64,
    /// Log objects that an interrupted run had applied.
    pub resumed_objects: u64,
    /// With --delta: bytes that were right in the folder and were not written again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_bytes: Option<u64>,
    /// From the command to the database in its place, in milliseconds.
    pub took_ms: u64,
    /// Of that: bases, log, proof.
    pub phases_ms: [u64; 3],
    /// What was not as it should be: exit code 3.
    pub exceptions: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// How to start the restored server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub start: Vec<String>,
    /// How to protect the restored database again.
    pub protect_again: Vec<String>,
}

/// A server replayed the log and ended where it was to.
pub(super) const REPLAYED: &str = "replayed";
/// Recovery is left to the user.
pub(super) const NOT_PROVED: &str = "end-not-proved";

impl Report {
    pub(super) fn new(
        prepared: &Prepared,
        work: &Work,
        plan: &RestorePlan,
        done: &Done,
        took: Duration,
        settings: &Settings,
    ) -> Self {
        let mut exceptions: Vec<String> = plan.beyond.iter().map(Beyond::sentence).collect();
        exceptions.extend(prepared.exceptions.iter().cloned());
        exceptions.extend(plan.exceptions.iter().cloned());
        exceptions.extend(damages(work, plan));
        let (proof, unproved) = match done.proof.result {
            ProofResult::Equal => ("digest-equal", None),
            ProofResult::Replayed => (REPLAYED, None),
            ProofResult::Unproved => (
                NOT_PROVED,
                Some(
                    "the end is not proved: recovery was left to you, and runs when you start the server",
                ),
            ),
            ProofResult::NoDigest => (
                "chain-only",
                Some(
                    "the last log object carries no digest of the whole, so equality with the source could not be proved; every object's signature, link and hash was checked",
                ),
            ),
        };
        exceptions.extend(unproved.map(str::to_owned));
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            source: prepared.timeline.source().clone(),
            target: prepared.target.path().display().to_string(),
            reached: plan.end,
            commit_times: "observed",
            sealed: plan.sealed,
            exact: plan.exact,
            because: plan.because.clone(),
            beyond: plan.beyond.clone(),
            bytes: done
                .proof
                .pages
                .saturating_mul(u64::from(done.proof.page_size)),
            proof,
            digest: done.proof.digest.clone(),
            bases: plan.bases.len(),
            log_objects: plan.log.len(),
            fetched_bytes: done.fetched_bytes,
            resumed_bytes: done.resumed_bytes,
            resumed_objects: done.resumed_objects,
            kept_bytes: None,
            took_ms: ms(took),
            phases_ms: [ms(done.bases), ms(done.log), ms(done.prove)],
            exceptions,
            notes: prepared.notes.clone(),
            start: Vec::new(),
            protect_again: super::again::commands(prepared, settings, work.tools.clock.now()),
        }
    }
}

impl Report {
    /// What the access record says of it: no row, only where it ended, how much and what was proved.
    pub(super) fn recorded(&self, plan: &RestorePlan, access: &Access) {
        let recovery = serde_json::json!({
            "reached_at": self.reached.at,
            "position": format!("log:{}:{}", self.reached.epoch, self.reached.seq),
            "sealed": self.sealed,
            "exact": self.exact,
            "proof": self.proof,
            "digest": self.digest,
            "bytes": self.bytes,
        });
        access.note("recovery", &recovery);
        let transfer = serde_json::json!({
            "fetched_bytes": self.fetched_bytes,
            "bases": self.bases,
            "log_objects": self.log_objects,
        });
        access.note("transfer", &transfer);
        if !self.exceptions.is_empty() {
            access.note("exceptions", &self.exceptions);
        }
        let last = plan.log.last().map(|object| (&object.key, object.link));
        let base = plan.bases.last().map(|base| (&base.key, base.link));
        for (key, link) in base.into_iter().chain(last) {
            access.about(linked(key.as_str(), link));
        }
    }
}

/// What regions gave wrongly while the restore went on, one line an object.
pub(crate) fn damages(work: &Work, plan: &RestorePlan) -> Vec<String> {
    let set = work.opener.regions();
    let mut seen: BTreeSet<(RegionName, Key)> = BTreeSet::new();
    let mut lines = Vec::new();
    for damage in set.damages() {
        let what = match damage.kind {
            DamageKind::Missing => "is missing",
            DamageKind::Corrupt => "is damaged",
            DamageKind::Unreachable => "could not be read",
        };
        let copy = (damage.region.clone(), damage.key.clone());
        let late = damage.kind == DamageKind::Missing && plan.behind.contains(&copy);
        if !late && seen.insert(copy) {
            lines.push(format!(
                "{} {what} in region {}: {}",
                damage.key, damage.region, damage.why
            ));
        }
    }
    if set.more_damages() > 0 {
        lines.push(format!("and {} more damaged objects", set.more_damages()));
    }
    lines
}

/// A word as a shell takes it.
pub(super) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl Report {
    /// What was proved of the end, in words.
    fn proved(&self) -> String {
        match (&self.digest, self.proof) {
            (_, REPLAYED) => "the server replayed every record and stopped exactly there, as its new timeline's history says; every signature, link and hash checked".to_owned(),
            (_, NOT_PROVED) => "end not proved: the server that you start replays the log; every signature, link and hash checked".to_owned(),
            (Some(digest), "digest-equal") => format!(
                "equal to the source: digest {digest} over {}; every signature, link and hash checked",
                output::bytes(self.bytes)
            ),
            _ => "every signature, link and hash checked; no digest of the whole".to_owned(),
        }
    }
}

impl Document for Report {
    const SCHEMA: &'static str = "tidemark-restore.restore";

    fn text(&self, out: &mut String) {
        if let Some(beyond) = &self.beyond {
            out.push_str(&format!("\n{}", beyond.warning()));
        }
        out.push_str(&format!("\nRestored {} to {}\n", self.source, self.target));
        let mut table = Table::new();
        let sealed = if self.sealed {
            ""
        } else {
            ", past the newest recovery point"
        };
        table.row([
            "reached".to_owned(),
            format!("{} {}{sealed}", self.reached, self.commit_times),
        ]);
        table.row([
            Beyond::label(self.beyond.as_ref()).to_owned(),
            self.because.clone(),
        ]);
        table.row(["proved".to_owned(), self.proved()]);
        let took = Duration::from_millis(self.took_ms);
        let read = output::bytes(self.fetched_bytes);
        table.row([
            "took".to_owned(),
            format!("{} ({read} read)", output::duration(took)),
        ]);
        if self.resumed_bytes > 0 || self.resumed_objects > 0 {
            let kept = output::bytes(self.resumed_bytes);
            table.row([
                "resumed".to_owned(),
                format!(
                    "{kept} and {} log objects were there already",
                    self.resumed_objects
                ),
            ]);
        }
        if let Some(kept) = self.kept_bytes {
            let (kept, all) = (output::bytes(kept), output::bytes(self.bytes));
            table.row([
                "kept".to_owned(),
                format!("{kept} of {all} were right and not written again"),
            ]);
        }
        table.write("  ", out);
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        if !self.exceptions.is_empty() {
            out.push_str("With exceptions:\n");
            for exception in &self.exceptions {
                out.push_str(&format!("  {exception}\n"));
            }
        }
        if !self.start.is_empty() {
            out.push_str("To start it:\n");
        }
        for line in &self.start {
            out.push_str(&format!("  {line}\n"));
        }
        out.push_str("To protect it again:\n");
        for command in &self.protect_again {
            out.push_str(&format!("  {command}\n"));
        }
    }
}
