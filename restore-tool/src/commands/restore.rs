//! `plan` and `restore`.
//!
//! Both look at the target, the repository and the plan in the same way; `restore` then executes.
//! When a base turns out to have no good copy anywhere, the next older one is taken: the same state
//! is reached by a longer way, and the damage is reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;
use tidemark_engine::ProofResult;
use tidemark_format::envelope::Kind;
use tidemark_format::heads::Role;
use tidemark_format::{Hash, Key, RegionName, SourceName, keys};
use tidemark_host::Exit;
use tidemark_host::output::{self, Document, Table};
use tidemark_host::time_spec::TimeContext;
use tidemark_ledger::history::{Expect, LoadOptions, PointsWanted};
use tidemark_open::{DamageKind, Opener, RegionReader, RegionSet};
use tokio_util::sync::CancellationToken;

use crate::apply::{self, Done, Work};
use crate::cli::RestoreArgs;
use crate::error::{Error, Result};
use crate::identity;
use crate::plan::{self, Asked, Goal, PlanDocument, Reached, RestorePlan};
use crate::repository::{Repository, Settings, Tools};
use crate::target::Target;
use crate::timeline::Timeline;

/// A region whose newest point is older than this beside another one is an exception, not a moment's
/// lag between two regions that are fed at once.
const LAG_THAT_COUNTS: jiff::SignedDuration = jiff::SignedDuration::from_mins(15);

/// Everything looked at before the first byte is written.
struct Prepared {
    asked: Asked,
    target: Target,
    repository: Repository,
    timeline: Timeline,
    notes: Vec<String>,
    exceptions: Vec<String>,
    accept_older: bool,
}

impl Prepared {
    async fn look(
        args: &RestoreArgs,
        settings: &Settings,
        trust: Option<tidemark_ledger::Trust>,
        tools: &Tools,
    ) -> Result<Self> {
        let context = TimeContext {
            now: tools.clock.now(),
            local: TimeZone::system(),
            interactive: tools.console.out_is_terminal,
        };
        let asked = Asked::read(args, &context)?;
        let target = Target::check(&args.target)?;
        let repository = Repository::open(settings, trust, tools).await?;
        let source = repository.source(settings.source.as_ref()).await?;
        let points = match asked.goal {
            Goal::Latest | Goal::Position(..) => PointsWanted::Newest(NEWEST_POINTS),
            Goal::Time(_) | Goal::Point(_) => PointsWanted::All,
        };
        let points = if args.expect.is_some() { PointsWanted::All } else { points };
        let timeline = repository.timeline(&source, &LoadOptions { points }).await?;
        let mut prepared = Self {
            asked,
            target,
            repository,
            timeline,
            notes: Vec::new(),
            exceptions: Vec::new(),
            accept_older: args.accept_older,
        };
        prepared.check_freshness(args, tools)?;
        Ok(prepared)
    }

    /// Invariant 13: a region that was rolled back shows only good, signed, linked objects.
    fn check_freshness(&mut self, args: &RestoreArgs, tools: &Tools) -> Result<()> {
        if let Some(expect) = &args.expect {
            let expect: Expect = expect.parse().map_err(Error::TargetText)?;
            let unmet: Vec<_> =
                self.timeline.histories().map(|(_, history)| expect.check(history)).collect();
            let met = unmet.iter().any(std::result::Result::is_ok);
            if let Some(Err(error)) = unmet.into_iter().next().filter(|_| !met) {
                self.stale(format!("no region given has the expected point: {error}"))?;
            }
        }
        let freshness = self.timeline.freshness();
        for region in &freshness.forked {
            self.stale(format!(
                "region {region} holds another newest recovery point under the same name than the other regions"
            ))?;
        }
        for older in &freshness.older {
            let lag = older.newest_here.as_ref().map(|here| {
                older.newest_elsewhere.committed.duration_since(here.committed)
            });
            let words = lag.map_or_else(
                || format!("region {} has no recovery point of this source", older.region),
                |lag| {
                    let lag = output::duration(lag.unsigned_abs());
                    format!("region {} is {lag} older than another one", older.region)
                },
            );
            if lag.is_none_or(|lag| lag > LAG_THAT_COUNTS) {
                self.exceptions.push(format!("{words} (rolled back, or not fed); it is not relied on"));
            } else {
                self.notes.push(words);
            }
        }
        if !freshness.compared && args.expect.is_none() {
            let now = tools.clock.now();
            let newest = freshness.newest.map_or_else(
                || "it holds no recovery point".to_owned(),
                |tip| format!("its newest point {tip} is of {}", output::age(now, tip.committed)),
            );
            self.notes.push(format!(
                "only one region was read, so nobody can tell whether another holds something newer: {newest}"
            ));
        }
        let away = self.repository.away.iter();
        let away = away.map(|away| format!("region {} could not be read and may hold something newer: {}", away.name, tidemark_storage::chain(&away.error)));
        let failed = self.timeline.failed.iter().map(|(region, error)| format!("region {region} could not be read: {}", tidemark_storage::chain(error)));
        let unread: Vec<String> = away.chain(failed).collect();
        self.exceptions.extend(unread);
        Ok(())
    }

    fn stale(&mut self, why: String) -> Result<()> {
        if !self.accept_older {
            return Err(Error::Stale(why));
        }
        self.exceptions.push(format!("{why}; accepted by --accept-older"));
        Ok(())
    }

    async fn plan(&self, avoid: &[Hash]) -> Result<RestorePlan> {
        plan::plan(&self.timeline, &self.asked, avoid, self.accept_older).await
    }

    fn document(&self, plan: &RestorePlan) -> Result<PlanDocument> {
        let mut notes = self.notes.clone();
        notes.extend(self.exceptions.iter().cloned());
        if self.asked.assumed_local {
            notes.push("the time had no zone: this machine's was assumed".to_owned());
        }
        let regions = self.timeline.histories().map(|(name, _)| name.clone()).collect();
        let target = self.target.path().display().to_string();
        let free = self.target.free_bytes()?;
        Ok(PlanDocument::new(
            self.timeline.source(),
            plan,
            &self.asked,
            (target, free),
            regions,
            notes,
        ))
    }
}

/// For freshness and the end of the log.
const NEWEST_POINTS: usize = 4;

/// `plan`.
///
/// # Errors
/// What a restore would refuse.
pub async fn plan_only(args: &RestoreArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let prepared = Prepared::look(args, settings, trust, tools).await?;
    let plan = prepared.plan(&[]).await?;
    prepared.target.check_space(plan.image_bytes())?;
    tools.console.show(&prepared.document(&plan)?);
    Ok(if prepared.exceptions.is_empty() { Exit::Ok } else { Exit::Exceptions })
}

/// `restore`.
///
/// # Errors
/// Nothing is at the target then; what was fetched is kept for the next try.
pub async fn run(
    args: &RestoreArgs,
    settings: &Settings,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    let began = tools.clock.monotonic();
    let identity = identity::load(settings, &tools.console)?;
    let trust = identity::trust(&identity);
    let prepared = Prepared::look(args, settings, Some(trust), tools).await?;
    let opener = opener(&prepared.repository, identity, tools)?;
    let work = Work {
        opener: Arc::new(opener),
        target: prepared.target.clone(),
        tools: tools.clone(),
        stop: stop.clone(),
    };
    let (plan, done) = execute(&prepared, &work).await?;
    let took = tools.clock.monotonic().since(began);
    let report = Report::new(&prepared, &work, &plan, &done, took, settings);
    tools.console.show(&report);
    Ok(if report.exceptions.is_empty() { Exit::Ok } else { Exit::Exceptions })
}

/// Executes the plan; when a base is damaged everywhere, one that does without it.
async fn execute(prepared: &Prepared, work: &Work) -> Result<(RestorePlan, Done)> {
    let mut avoid: Vec<Hash> = Vec::new();
    let mut damage: Option<Error> = None;
    loop {
        let plan = match (prepared.plan(&avoid).await, damage.take()) {
            (Ok(plan), _) => plan,
            // Nothing does without it: the damage is what must be told.
            (Err(_without), Some(damage)) => return Err(damage),
            (Err(error), None) => return Err(error),
        };
        work.tools.console.show_first(&prepared.document(&plan)?);
        match apply::execute(work, prepared.timeline.source(), &plan).await {
            Ok(done) => return Ok((plan, done)),
            Err(error) => match damaged_base(&plan, &error, &avoid) {
                Some(link) => {
                    avoid.push(link);
                    damage = Some(error);
                }
                None => return Err(error),
            },
        }
    }
}

/// Opens with one identity from all regions that answer.
///
/// # Errors
/// No region answers.
pub(crate) fn opener(
    repository: &Repository,
    identity: tidemark_open::Identity,
    tools: &Tools,
) -> Result<Opener> {
    let readers = repository.regions.iter().map(|region| RegionReader {
        name: region.name().clone(),
        store: Arc::clone(&region.store.read),
    });
    let set = RegionSet::new(readers.collect(), Arc::clone(&tools.clock))?;
    let keyring = Arc::clone(&repository.keyring);
    // A revoked agent's sessions still open what it wrote before: the log's heads decide about that.
    let known = move |signer: &tidemark_format::sign::PublicKey, _kind: Kind| {
        keyring.member(signer).is_some_and(|member| member.role == Role::Agent)
    };
    Ok(Opener::new(identity, Arc::new(set), Arc::new(known), tools.cpu.clone()))
}

/// The base without which to try again, if the error is one of a base's objects.
fn damaged_base(plan: &RestorePlan, error: &Error, avoid: &[Hash]) -> Option<Hash> {
    let Error::Open(tidemark_open::Error::NoGoodCopy { key, .. }) = error else {
        return None;
    };
    let of_base = |key: &str| {
        key.starts_with("meta/base/") || key.starts_with(&format!("{}pack/", keys::DATA))
    };
    if !of_base(key) {
        return None;
    }
    let named = plan.bases.iter().find(|base| base.key.as_str() == key);
    // A pack doesn't say which base of the chain lists it: all of them are left out, newest first.
    named.or_else(|| plan.base()).map(|base| base.link).filter(|link| !avoid.contains(link))
}

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
    /// Bytes of the database.
    pub bytes: u64,
    /// `digest-equal`, or `chain-only` when the last object carried no digest.
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
    /// From the command to the database in its place, in milliseconds.
    pub took_ms: u64,
    /// Of that: bases, log, proof.
    pub phases_ms: [u64; 3],
    /// What was not as it should be: exit code 3.
    pub exceptions: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
    /// How to protect the restored database again.
    pub protect_again: Vec<String>,
}

impl Report {
    fn new(
        prepared: &Prepared,
        work: &Work,
        plan: &RestorePlan,
        done: &Done,
        took: Duration,
        settings: &Settings,
    ) -> Self {
        let mut exceptions = prepared.exceptions.clone();
        exceptions.extend(plan.exceptions.iter().cloned());
        exceptions.extend(damages(work));
        let (proof, unproved) = match done.proof.result {
            ProofResult::Equal => ("digest-equal", None),
            ProofResult::NoDigest => (
                "chain-only",
                Some("the last log object carries no digest of the whole, so equality with the source could not be proved; every object's signature, link and hash was checked"),
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
            bytes: done.proof.pages.saturating_mul(u64::from(done.proof.page_size)),
            proof,
            digest: done.proof.digest.clone(),
            bases: plan.bases.len(),
            log_objects: plan.log.len(),
            fetched_bytes: done.fetched_bytes,
            resumed_bytes: done.resumed_bytes,
            resumed_objects: done.resumed_objects,
            took_ms: ms(took),
            phases_ms: [ms(done.bases), ms(done.log), ms(done.prove)],
            exceptions,
            notes: prepared.notes.clone(),
            protect_again: protect_again(prepared, settings),
        }
    }
}

/// What regions gave wrongly while the restore went on, one line an object.
fn damages(work: &Work) -> Vec<String> {
    let set = work.opener.regions();
    let mut seen: BTreeSet<(RegionName, Key)> = BTreeSet::new();
    let mut lines = Vec::new();
    for damage in set.damages() {
        let what = match damage.kind {
            DamageKind::Missing => "is missing",
            DamageKind::Corrupt => "is damaged",
            DamageKind::Unreachable => "could not be read",
        };
        if seen.insert((damage.region.clone(), damage.key.clone())) {
            lines.push(format!("{} {what} in region {}: {}", damage.key, damage.region, damage.why));
        }
    }
    if set.more_damages() > 0 {
        lines.push(format!("and {} more damaged objects", set.more_damages()));
    }
    lines
}

/// The exact commands that protect the restored database again.
fn protect_again(prepared: &Prepared, settings: &Settings) -> Vec<String> {
    let quote = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
        if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let regions: Vec<String> = settings
        .regions
        .iter()
        .map(|region| format!("--region {}", quote(&region.url.to_string())))
        .collect();
    let recipients: Vec<String> = prepared
        .repository
        .keyring
        .recipients()
        .map(|entry| format!("--recipient {}", entry.key))
        .collect();
    let (regions, source) = (regions.join(" "), prepared.timeline.source());
    let target = quote(&prepared.target.path().display().to_string());
    vec![
        format!(
            "tidemark-agent init --sqlite {target} --name {source} {regions} {} --systemd",
            recipients.join(" ")
        ),
        format!("tidemark-restore keys enrol --all --root ROOT_KEY_FILE {regions}"),
        format!("tidemark-agent take-over --source {source} --yes"),
        "systemctl enable --now tidemark-agent".to_owned(),
    ]
}

impl Document for Report {
    const SCHEMA: &'static str = "tidemark-restore.restore";

    fn text(&self, out: &mut String) {
        out.push_str(&format!("\nRestored {} to {}\n", self.source, self.target));
        let mut table = Table::new();
        let sealed = if self.sealed { "" } else { ", past the newest recovery point" };
        table.row(["reached".to_owned(), format!("{} {}{sealed}", self.reached, self.commit_times)]);
        let proved = match (&self.digest, self.proof) {
            (Some(digest), "digest-equal") => format!(
                "equal to the source: digest {digest} over {}; every signature, link and hash checked",
                output::bytes(self.bytes)
            ),
            _ => "every signature, link and hash checked; no digest of the whole".to_owned(),
        };
        table.row(["proved".to_owned(), proved]);
        let took = Duration::from_millis(self.took_ms);
        let read = output::bytes(self.fetched_bytes);
        table.row(["took".to_owned(), format!("{} ({read} read)", output::duration(took))]);
        if self.resumed_bytes > 0 || self.resumed_objects > 0 {
            let kept = output::bytes(self.resumed_bytes);
            table.row(["resumed".to_owned(), format!("{kept} and {} log objects were there already", self.resumed_objects)]);
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
        out.push_str("To protect it again:\n");
        for command in &self.protect_again {
            out.push_str(&format!("  {command}\n"));
        }
    }
}
