//! `verify`: every byte of a source in every region, or with `--quick` signatures and links alone.
//!
//! Each region is judged by itself: falling back to another one is what a restore does, not what a
//! check may do. Damage ends with exit code 13 and a line for each object and region; a region that
//! can't be read with 16.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use tidemark_format::body::PackRef;
use tidemark_format::envelope::Kind;
use tidemark_format::heads::{BaseHead, Role};
use tidemark_format::envelope::Envelope;
use tidemark_format::{Hash, Key, LogSeq, RegionName, SessionId, SourceName, keys};
use tidemark_host::{Cpu, Exit};
use tidemark_host::output::{self, Document};
use tidemark_ledger::history::{LoadOptions, LogState, PointsWanted, SourceHistory};
use tidemark_ledger::{Verified, list_all};
use tidemark_open::{
    Error as OpenError, ErrorKind as OpenKind, Opener, RegionReader, RegionSet,
};

use crate::cli::VerifyArgs;
use crate::error::{Error, Result};
use crate::identity::{self, KeyHolder};
use crate::progress::Progress;
use crate::repository::{OpenRegion, Repository, Settings, Tools};

/// Objects read at once: packs of 8 MiB.
const OBJECTS_AT_ONCE: usize = 8;

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
    /// What is damaged, missing or not trusted.
    pub damages: Vec<DamageFound>,
    /// Regions, or parts of them, that could not be read.
    pub unread: Vec<DamageFound>,
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
    let holder =
        if args.quick { None } else { Some(KeyHolder::find(settings, &tools.console)?) };
    let trust = match &holder {
        Some(holder) => Some(identity::trust(&holder.identity()?)),
        None => identity::trust_if_at_hand(settings),
    };
    let repository = Repository::open(settings, trust, tools).await?;
    let sources = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    let mut report = VerifyReport {
        quick: args.quick,
        root_pinned: repository.pinned,
        regions: repository.regions.iter().map(|region| region.name().clone()).collect(),
        sources: sources.clone(),
        objects: 0,
        bytes: 0,
        damages: Vec::new(),
        unread: Vec::new(),
        notes: Vec::new(),
    };
    for away in &repository.away {
        report.unread.push(DamageFound {
            region: away.name.clone(),
            object: away.place.clone(),
            why: tidemark_storage::chain(&away.error),
        });
    }
    for source in &sources {
        let timeline =
            repository.timeline(source, &LoadOptions { points: PointsWanted::All }).await?;
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
        for (name, history) in timeline.histories() {
            let region = repository.regions.iter().find(|region| region.name() == name);
            let Some(region) = region else { continue };
            let mut check = Check { region, history, report: &mut report };
            let heads = check.heads().await?;
            if let Some(holder) = &holder {
                let opener = check.opener(&repository, holder, tools)?;
                check.bodies(&opener, heads, tools).await?;
            }
        }
    }
    report.notes.sort();
    report.notes.dedup();
    report.damages.sort();
    report.damages.dedup();
    tools.console.show(&report);
    Ok(match (report.damages.is_empty(), report.unread.is_empty()) {
        (false, _) => Exit::Integrity,
        (true, false) => Exit::Region,
        (true, true) => Exit::Ok,
    })
}

/// What the bodies' check goes through.
struct Heads {
    logs: Vec<(Key, Hash, u64)>,
    bases: Vec<Verified<BaseHead>>,
}

/// One source in one region.
struct Check<'a> {
    region: &'a OpenRegion,
    history: &'a SourceHistory,
    report: &'a mut VerifyReport,
}

impl Check<'_> {
    fn damage(&mut self, object: impl ToString, why: String) {
        let region = self.region.name().clone();
        self.report.damages.push(DamageFound { region, object: object.to_string(), why });
    }

    fn unread(&mut self, object: impl ToString, why: String) {
        let region = self.region.name().clone();
        self.report.unread.push(DamageFound { region, object: object.to_string(), why });
    }

    fn checked(&mut self, objects: usize) {
        let objects = u64::try_from(objects).unwrap_or(u64::MAX);
        self.report.objects = self.report.objects.saturating_add(objects);
    }

    /// Every head: structure, signature, role, place, size and link.
    async fn heads(&mut self) -> Result<Heads> {
        for trouble in self.history.troubles() {
            self.damage(&trouble.key, tidemark_storage::chain(trouble.error.as_ref()));
        }
        let mut heads = Heads { logs: Vec::new(), bases: Vec::new() };
        for epoch in self.history.epochs() {
            self.checked(epoch.points.len().saturating_add(epoch.bases.len()));
            heads.bases.extend(epoch.bases.iter().cloned());
            let strays = epoch.stray();
            for entry in self.history.whole_log(epoch.epoch).await? {
                match entry.state {
                    LogState::Object(object) if object.head.gap.is_some() => self.checked(1),
                    LogState::Object(object) => {
                        self.checked(1);
                        heads.logs.push((object.key.clone(), object.link, object.size));
                    }
                    LogState::Damaged(error) => {
                        let key = keys::log(self.history.source(), epoch.epoch, entry.seq);
                        self.damage(key, tidemark_storage::chain(error.as_ref()));
                    }
                    // Past the newest point a hole ends the chain and is no damage (invariant 5).
                    LogState::Missing if is_past_the_chain(&strays, entry.seq) => {}
                    LogState::Missing => {
                        let key = keys::log(self.history.source(), epoch.epoch, entry.seq);
                        self.damage(key, "it is not there".to_owned());
                    }
                }
            }
            self.points_fit(epoch).await?;
        }
        Ok(heads)
    }

    /// A point must name the log object and the base that are here.
    async fn points_fit(&mut self, epoch: &tidemark_ledger::history::EpochHistory) -> Result<()> {
        for point in &epoch.points {
            let seq = point.head.log_seq;
            if epoch.base(&point.head.base).is_none() && epoch.first_seq() <= seq {
                self.damage(&point.key, "the base it rests on is not here".to_owned());
            }
            let entries = self.history.log(epoch.epoch, seq..seq.next()).await?;
            let link = entries.first().and_then(|entry| entry.state.object()).map(|o| o.link);
            if link.is_some_and(|link| link != point.head.log_link) {
                self.damage(&point.key, format!("log object {seq} is not the one it covers"));
            }
        }
        Ok(())
    }

    /// Reads from this region alone.
    fn opener(
        &self,
        repository: &Repository,
        holder: &KeyHolder,
        tools: &Tools,
    ) -> Result<Arc<Opener>> {
        let reader = RegionReader {
            name: self.region.name().clone(),
            store: Arc::clone(&self.region.store.read),
        };
        let set = RegionSet::new(vec![reader], Arc::clone(&tools.clock))?;
        let keyring = Arc::clone(&repository.keyring);
        let known = move |signer: &tidemark_format::sign::PublicKey, _kind: Kind| {
            keyring.member(signer).is_some_and(|member| member.role == Role::Agent)
        };
        let identity = holder.identity()?;
        Ok(Arc::new(Opener::new(identity, Arc::new(set), Arc::new(known), tools.cpu.clone())))
    }

    /// Every body: logs, bases and their packs, packs that no base lists, sessions.
    async fn bodies(&mut self, opener: &Arc<Opener>, heads: Heads, tools: &Tools) -> Result<()> {
        let packs =
            list_all(self.region.store.read.as_ref(), &keys::all_packs(self.history.source()))
                .await?;
        let logs = heads.logs.iter().map(|(_, _, size)| *size);
        let total = logs.chain(packs.iter().map(|pack| pack.size)).fold(0, u64::saturating_add);
        let progress = Progress::begin(&tools.console, &tools.clock, "verify", total, 0);
        self.logs(opener, &heads.logs, &progress).await?;
        let mut listed = Vec::new();
        for base in &heads.bases {
            match opener.base(&base.key, base.link).await {
                Ok(opened) => {
                    self.checked(1);
                    let head = &opened.head;
                    for pack in opened.index.packs {
                        let key =
                            keys::pack(&head.source, head.epoch, head.generation, pack.object);
                        listed.push((key, pack.session, pack));
                    }
                }
                Err(error) => self.opened(&base.key, error)?,
            }
        }
        let mut orphans = 0_usize;
        for entry in &packs {
            if !listed.iter().any(|(key, ..)| *key == entry.key) {
                orphans = orphans.saturating_add(1);
            }
        }
        if orphans > 0 {
            self.report.notes.push(format!(
                "{}: {} belong to no base: of one that is being made or was given up",
                self.region.name(),
                output::count(orphans, "pack")
            ));
        }
        self.packs(opener, listed, &progress, tools).await?;
        self.sessions(opener).await?;
        progress.finish();
        self.report.bytes = self.report.bytes.saturating_add(total);
        Ok(())
    }

    async fn logs(
        &mut self,
        opener: &Arc<Opener>,
        logs: &[(Key, Hash, u64)],
        progress: &Progress,
    ) -> Result<()> {
        let mut reads = stream::iter(logs.to_vec())
            .map(|(key, link, size)| {
                let opener = Arc::clone(opener);
                async move { (opener.log(&key, link).await.map(drop), key, size) }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        while let Some((read, key, size)) = reads.next().await {
            progress.add(size);
            if let Err(error) = read {
                self.opened(&key, error)?;
            }
        }
        Ok(())
    }

    async fn packs(
        &mut self,
        opener: &Arc<Opener>,
        packs: Vec<(Key, SessionId, PackRef)>,
        progress: &Progress,
        tools: &Tools,
    ) -> Result<()> {
        let mut reads = stream::iter(packs)
            .map(|(key, session, listed)| {
                let (opener, cpu) = (Arc::clone(opener), tools.cpu.clone());
                async move { (pack(&opener, &cpu, &key, session, listed.link).await, key) }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        while let Some((read, key)) = reads.next().await {
            self.checked(1);
            match read {
                Ok(size) => progress.add(size),
                Err(error) => self.opened(&key, error)?,
            }
        }
        Ok(())
    }

    /// Every session here must open: one that doesn't makes its objects unreadable.
    async fn sessions(&mut self, opener: &Arc<Opener>) -> Result<()> {
        let listed = list_all(self.region.store.read.as_ref(), keys::SESSIONS).await?;
        for entry in listed {
            let Ok(session) = entry.key.file_name().parse::<SessionId>() else { continue };
            self.checked(1);
            match opener.session(session).await {
                Ok(_secret) => {}
                // Made before this recipient was added, or after it was removed.
                Err(error @ OpenError::NotARecipient { .. }) => {
                    self.report.notes.push(format!("{}: {error}", self.region.name()));
                }
                Err(error) => self.opened(&entry.key, error)?,
            }
        }
        Ok(())
    }

    /// Sorts what opening an object said; a wrong key ends the whole command.
    fn opened(&mut self, key: &Key, error: OpenError) -> Result<()> {
        let why = tidemark_storage::chain(&error);
        match error.kind() {
            OpenKind::Integrity | OpenKind::Missing => self.damage(key, why),
            OpenKind::Region => self.unread(key, why),
            OpenKind::Key | OpenKind::Target | OpenKind::Invalid => return Err(Error::Open(error)),
        }
        Ok(())
    }
}

/// Reads a pack, compares it with what its base says, and opens every frame. Returns its size.
async fn pack(
    opener: &Opener,
    cpu: &Cpu,
    key: &Key,
    session: SessionId,
    expected: Hash,
) -> std::result::Result<u64, OpenError> {
    let secret = opener.session(session).await?;
    let (bytes, _) = opener.regions().fetch(key, |_| Ok(())).await?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let name = key.clone();
    let checked = cpu.run(move || {
        // The link covers the body through the head, which `open_pack` checks.
        let link = Envelope::parse(&bytes).map(|envelope| envelope.link()).ok();
        if link != Some(expected) {
            return Err(OpenError::Unlinked { key: name.to_string(), expected });
        }
        tidemark_open::open_pack(&name, &bytes, &secret, |_, _| {}).map(drop)
    });
    checked.await.map(|()| size)
}

/// Whether a missing sequence lies where the chain past the newest point simply ends.
fn is_past_the_chain(strays: &[LogSeq], seq: LogSeq) -> bool {
    strays.last().is_some_and(|last| seq < *last)
        && strays.first().is_some_and(|first| {
            seq < *first || strays.windows(2).any(|pair| matches!(pair, [a, b] if *a < seq && seq < *b))
        })
}

impl Document for VerifyReport {
    const SCHEMA: &'static str = "tidemark-restore.verify";

    fn text(&self, out: &mut String) {
        let regions: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        let what = if self.quick { "signatures and links" } else { "every byte" };
        let sources = output::count(self.sources.len(), "source");
        out.push_str(&format!("Checked {what} of {sources} in {}\n", regions.join(", ")));
        let read = if self.quick {
            String::new()
        } else {
            format!(", {} read", output::bytes(self.bytes))
        };
        out.push_str(&format!("  {} objects{read}\n", self.objects));
        if !self.root_pinned {
            out.push_str("  root not pinned: give --identity to prove that this is your repository\n");
        }
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        for (title, list) in [("Damaged", &self.damages), ("Could not be read", &self.unread)] {
            if !list.is_empty() {
                out.push_str(&format!("{title}: {}\n", list.len()));
            }
            for one in list {
                out.push_str(&format!("  {}: {}: {}\n", one.region, one.object, one.why));
            }
        }
        if self.damages.is_empty() && self.unread.is_empty() {
            out.push_str("  all good\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_past_the_chain_is_no_damage() {
        let strays = [LogSeq(7), LogSeq(9)];
        assert!(is_past_the_chain(&strays, LogSeq(6)));
        assert!(is_past_the_chain(&strays, LogSeq(8)));
        assert!(!is_past_the_chain(&strays, LogSeq(10)));
        assert!(!is_past_the_chain(&[], LogSeq(3)));
    }
}
