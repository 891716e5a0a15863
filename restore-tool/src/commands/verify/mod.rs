//! `verify`: every byte of a source in every region, or with `--quick` signatures and links alone.
//!
//! Each region is judged by itself: falling back to another one is what a restore does, not what a
//! check may do. Damage ends with exit code 13 and a line for each object and region; a region that
//! can't be read with 16. Log that is whole and leads nowhere, because its base is in none of the regions
//! given, is an exception (3), and so is a region that lacks the newest recovery point of another one.

mod check;
mod lag;

mod wal;

use serde::Serialize;
use tidemark_format::{RegionName, SourceName, keys};
use tidemark_host::Exit;
use tidemark_host::output::{self, Document};
use tidemark_ledger::history::{LoadOptions, PointsWanted};

use check::Check;

use crate::cli::VerifyArgs;
use crate::error::Result;
use crate::identity::{self, KeyHolder};
use crate::plan;
use crate::repository::{Repository, Settings, Tools};

/// `verify`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether only signatures and links were checked.
    pub quick: bool,
    /// Whether the root was pinned by an identity.
    pub root_pinned: bool,
    /// Regions checked.
    pub regions: Vec<RegionName>,
    /// Sources checked.
    pub sources: Vec<SourceName>,
    /// Objects checked, in all regions together.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects that the identity doesn't open, because they were sealed to others: of those only
    /// presence, signature and link were checked, and that the bytes are as signed.
    #[serde(skip_serializing_if = "is_none")]
    pub closed: u64,
    /// What is damaged, missing or not trusted.
    pub damages: Vec<DamageFound>,
    /// Regions, or parts of them, that could not be read.
    pub unread: Vec<DamageFound>,
    /// What is whole and yet can't be restored from the regions read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

/// One object in one region.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamageFound {
    /// The region.
    pub region: RegionName,
    /// The object.
    pub object: String,
    /// What is wrong.
    pub why: String,
}

/// `verify`.
///
/// # Errors
/// No region can be read, or the identity is missing or wrong. Damage is not an error but in the
/// report.
pub async fn run(args: &VerifyArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let holder = holder(args, settings, tools)?;
    let trust = match &holder {
        Some(holder) => Some(identity::trust(&holder.identity()?)),
        None => identity::trust_if_at_hand(settings),
    };
    let repository = Repository::open(settings, trust, tools).await?;
    let sources = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    recorded(&repository, &sources, tools);
    let mut report = VerifyReport {
        quick: args.quick,
        root_pinned: repository.pinned,
        regions: repository
            .regions
            .iter()
            .map(|region| region.name().clone())
            .collect(),
        sources: sources.clone(),
        objects: 0,
        bytes: 0,
        closed: 0,
        damages: Vec::new(),
        unread: Vec::new(),
        exceptions: Vec::new(),
        notes: Vec::new(),
    };
    for away in &repository.away {
        report.unread.push(DamageFound {
            region: away.name.clone(),
            object: away.place.clone(),
            why: tidemark_storage::chain(&away.error),
        });
    }
    for (region, version) in repository.apart() {
        report.damages.push(DamageFound {
            region: region.clone(),
            object: keys::keyring(version).to_string(),
            why: "it is another keyring than a region beside it holds, signed by the same root: no version can follow \
                  both (explain TM1211)"
                .to_owned(),
        });
    }
    for source in &sources {
        one_source(&repository, source, holder.as_ref(), tools, &mut report).await?;
    }
    report.notes.sort();
    report.notes.dedup();
    report.damages.sort();
    report.damages.dedup();
    tools.console.show(&report);
    let found = serde_json::json!({ "objects": report.objects, "damages": report.damages.len() });
    tools.access.note("found", &found);
    Ok(
        match (report.damages.is_empty(), report.unread.is_empty()) {
            (false, _) => Exit::Integrity,
            (true, false) => Exit::Region,
            (true, true) if !report.exceptions.is_empty() => Exit::Exceptions,
            (true, true) => Exit::Ok,
        },
    )
}

/// The identity, unless only heads are read; its use leaves an access record.
fn holder(args: &VerifyArgs, settings: &Settings, tools: &Tools) -> Result<Option<KeyHolder>> {
    if args.quick {
        return Ok(None);
    }
    let (request, reason) = (serde_json::json!({}), args.reason.as_deref());
    tools
        .access
        .begin("verify", &request, reason, settings, tools);
    let holder = KeyHolder::find(settings, &tools.console)?;
    tools.access.used(&holder.identity()?);
    Ok(Some(holder))
}

fn recorded(repository: &Repository, sources: &[SourceName], tools: &Tools) {
    tools.access.note("sources", &sources);
    tools.access.regions(
        repository.regions.iter().map(|region| region.name()),
        repository.away.iter().map(|away| &away.name),
    );
}

/// One source in every region.
async fn one_source(
    repository: &Repository,
    source: &SourceName,
    holder: Option<&KeyHolder>,
    tools: &Tools,
    report: &mut VerifyReport,
) -> Result<()> {
    let timeline = repository
        .timeline(
            source,
            &LoadOptions {
                points: PointsWanted::All,
            },
        )
        .await?;
    for region in &timeline.lacking {
        report.damages.push(DamageFound {
            region: region.clone(),
            object: format!("source {source}"),
            why: "nothing of it is there".to_owned(),
        });
    }
    for (region, error) in &timeline.failed {
        report.unread.push(DamageFound {
            region: region.clone(),
            object: format!("source {source}"),
            why: tidemark_storage::chain(error),
        });
    }
    let recoverable = plan::recoverable(&timeline, tools.clock.now()).await?;
    let beyond = recoverable
        .beyond
        .map(|beyond| format!("{source}: {}", beyond.sentence()));
    report.exceptions.extend(beyond);
    for (name, history) in timeline.histories() {
        let region = repository
            .regions
            .iter()
            .find(|region| region.name() == name);
        let Some(region) = region else { continue };
        let mut check = Check {
            region,
            history,
            report,
        };
        let heads = check.heads().await?;
        let Some(holder) = holder else {
            check.packs_are_there(&heads.bases).await?;
            continue;
        };
        let opener = check.opener(repository, holder, tools)?;
        check.bodies(&opener, heads, tools).await?;
    }
    lag::tell(repository, &timeline, tools, report).await
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

impl VerifyReport {
    /// Whether everything was read and there is nothing in it that could be good or bad.
    fn protects_nothing(&self) -> bool {
        let found = [self.sources.len(), self.damages.len(), self.unread.len()];
        found.iter().all(|count| *count == 0)
    }
}

impl Document for VerifyReport {
    const SCHEMA: &'static str = "tidemark-restore.verify";

    fn text(&self, out: &mut String) {
        let regions: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        let what = if self.quick {
            "signatures and links, and that packs are there,"
        } else {
            "every byte"
        };
        if self.protects_nothing() {
            out.push_str(&format!(
                "Nothing is protected here yet: no source has written anything into {}\n",
                regions.join(", ")
            ));
            return;
        }
        let sources = output::count(self.sources.len(), "source");
        out.push_str(&format!(
            "Checked {what} of {sources} in {}\n",
            regions.join(", ")
        ));
        let read = if self.quick {
            String::new()
        } else {
            format!(", {} read", output::bytes(self.bytes))
        };
        out.push_str(&format!("  {} objects{read}\n", self.objects));
        if !self.root_pinned {
            out.push_str(
                "  root not pinned: give --identity to prove that this is your repository\n",
            );
        }
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        for (title, list) in [
            ("Damaged", &self.damages),
            ("Could not be read", &self.unread),
        ] {
            if !list.is_empty() {
                out.push_str(&format!("{title}: {}\n", list.len()));
            }
            for one in list {
                out.push_str(&format!("  {}: {}: {}\n", one.region, one.object, one.why));
            }
        }
        for exception in &self.exceptions {
            out.push_str(&format!("Exception: {exception}\n"));
        }
        if self.closed > 0 {
            out.push_str(&format!(
                "  {} objects were not opened: they were sealed to others than the identity given. That they are there, \
                 and as signed, was checked, and what is in them was not; another identity or the escrow opens them\n",
                self.closed
            ));
        }
        if self.damages.is_empty() && self.unread.is_empty() && self.exceptions.is_empty() {
            out.push_str(match (self.closed, self.quick) {
                (0, false) => "  all good\n",
                (_, false) => "  all good as far as it was opened\n",
                (_, true) => "  all good as far as was looked: no body was read (without --quick every byte is)\n",
            });
        }
    }
}
