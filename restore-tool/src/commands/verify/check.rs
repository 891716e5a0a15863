//! One source in one region: every head, and with an identity every body.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::body::PackRef;
use tidemark_format::envelope::{Envelope, Head, Kind};
use tidemark_format::heads::{BaseHead, LogHead, PackHead, Role};
use tidemark_format::{Hash, Key, LogSeq, SessionId, keys};
use tidemark_host::Cpu;
use tidemark_host::output;
use tidemark_ledger::history::{LogState, SourceHistory};
use tidemark_ledger::{Verified, list_all};
use tidemark_open::{Error as OpenError, ErrorKind as OpenKind, Opener, RegionReader, RegionSet};
use tidemark_storage::ErrorKind as StoreKind;

use crate::error::{Error, Result};
use crate::identity::KeyHolder;
use crate::progress::Progress;
use crate::repository::{OpenRegion, Repository, Tools};

use super::{DamageFound, VerifyReport, wal};
/// Objects read at once: packs of 8 MiB, which stay in memory until they are checked.
const OBJECTS_AT_ONCE: usize = 5;

/// What the bodies' check goes through.
pub(super) struct Heads {
    logs: Vec<(Key, Hash, u64)>,
    pub(super) bases: Vec<Verified<BaseHead>>,
}

/// One source in one region.
pub(super) struct Check<'a> {
    pub(super) region: &'a OpenRegion,
    pub(super) history: &'a SourceHistory,
    pub(super) report: &'a mut VerifyReport,
}

impl Check<'_> {
    fn damage(&mut self, object: impl ToString, why: String) {
        let region = self.region.name().clone();
        self.report.damages.push(DamageFound {
            region,
            object: object.to_string(),
            why,
        });
    }

    fn unread(&mut self, object: impl ToString, why: String) {
        let region = self.region.name().clone();
        self.report.unread.push(DamageFound {
            region,
            object: object.to_string(),
            why,
        });
    }

    fn checked(&mut self, objects: usize) {
        let objects = u64::try_from(objects).unwrap_or(u64::MAX);
        self.report.objects = self.report.objects.saturating_add(objects);
    }

    /// Every head: structure, signature, role, place, size and link.
    pub(super) async fn heads(&mut self) -> Result<Heads> {
        for trouble in self.history.troubles() {
            self.damage(
                &trouble.key,
                tidemark_storage::chain(trouble.error.as_ref()),
            );
        }
        let mut heads = Heads {
            logs: Vec::new(),
            bases: Vec::new(),
        };
        for epoch in self.history.epochs() {
            self.checked(epoch.points.len().saturating_add(epoch.bases.len()));
            let bases = epoch.bases.iter().chain(&epoch.orphans);
            heads.bases.extend(bases.cloned());
            let strays = epoch.stray();
            for entry in self.history.whole_log(epoch.epoch).await? {
                match entry.state {
                    LogState::Object(object) if object.head.gap.is_some() => self.checked(1),
                    LogState::Object(object) => {
                        self.checked(1);
                        heads
                            .logs
                            .push((object.key.clone(), object.link, object.size));
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
            let link = entries
                .first()
                .and_then(|entry| entry.state.object())
                .map(|o| o.link);
            if link.is_some_and(|link| link != point.head.log_link) {
                self.damage(
                    &point.key,
                    format!("log object {seq} is not the one it covers"),
                );
            }
        }
        Ok(())
    }

    /// The packs that bases say they have, by number and size: which ones they are only their index says,
    /// which is sealed.
    pub(super) async fn packs_are_there(&mut self, bases: &[Verified<BaseHead>]) -> Result<()> {
        let mut said: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for base in bases {
            let head = &base.head;
            let place = keys::packs(&head.source, head.epoch, head.generation);
            let (packs, bytes) = said.entry(place).or_default();
            *packs = packs.saturating_add(head.packs.into());
            *bytes = bytes.saturating_add(head.stored_bytes);
        }
        for (place, (packs, bytes)) in said {
            let listed = list_all(self.region.store.read.as_ref(), &place).await?;
            let found = u64::try_from(listed.len()).unwrap_or(u64::MAX);
            let stored = listed.iter().map(|entry| entry.size);
            let stored = stored.fold(0, u64::saturating_add);
            if found < packs || stored < bytes {
                self.damage(
                    &place,
                    format!(
                        "{found} packs of {} are there, and its bases have {packs} of {}: packs are missing",
                        output::bytes(stored),
                        output::bytes(bytes)
                    ),
                );
            }
        }
        Ok(())
    }

    /// Reads from this region alone.
    pub(super) fn opener(
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
            keyring
                .member(signer)
                .is_some_and(|member| member.role == Role::Agent)
        };
        let identity = holder.identity()?;
        Ok(Arc::new(Opener::new(
            identity,
            Arc::new(set),
            Arc::new(known),
            tools.cpu.clone(),
        )))
    }

    /// Every body: logs, bases and their packs, packs that no base lists, sessions.
    pub(super) async fn bodies(
        &mut self,
        opener: &Arc<Opener>,
        heads: Heads,
        tools: &Tools,
    ) -> Result<()> {
        let packs = list_all(
            self.region.store.read.as_ref(),
            &keys::all_packs(self.history.source()),
        )
        .await?;
        let logs = heads.logs.iter().map(|(_, _, size)| *size);
        let total = logs
            .chain(packs.iter().map(|pack| pack.size))
            .fold(0, u64::saturating_add);
        let progress = Progress::begin(&tools.console, &tools.clock, "verify", total, 0);
        self.logs(opener, &heads.logs, &progress).await?;
        let (mut listed, mut closed) = (Vec::new(), Vec::new());
        for base in &heads.bases {
            match opener.base(&base.key, base.link).await {
                Ok(opened) => {
                    self.checked(1);
                    let head = &opened.head;
                    for pack in opened.index.packs {
                        let key =
                            keys::pack(&head.source, head.epoch, head.generation, pack.object);
                        listed.push((key, Some(pack)));
                    }
                }
                Err(OpenError::NotARecipient { .. }) => {
                    self.closed::<BaseHead>(&base.key).await;
                    closed.push(base.clone());
                }
                Err(error) => self.opened(&base.key, error)?,
            }
        }
        self.packs_are_there(&closed).await?;
        let named: BTreeSet<Key> = listed.iter().map(|(key, _)| key.clone()).collect();
        let orphans: Vec<Key> = packs
            .into_iter()
            .map(|entry| entry.key)
            .filter(|key| !named.contains(key))
            .collect();
        if !orphans.is_empty() && closed.is_empty() {
            self.report.notes.push(format!(
                "{}: {} of no base: one is being made, or was given up, or is damaged",
                self.region.name(),
                output::count(orphans.len(), "pack")
            ));
        }
        listed.extend(orphans.into_iter().map(|key| (key, None)));
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
                async move {
                    let opened = opener.log(&key, link).await;
                    (
                        opened.map(|opened| wal::Part::read(&key, &opened)),
                        key,
                        size,
                    )
                }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        let mut parts = Vec::new();
        while let Some((read, key, size)) = reads.next().await {
            progress.add(size);
            match read {
                Ok(Ok(part)) => parts.extend(part),
                Ok(Err(why)) => self.damage(&key, why),
                Err(OpenError::NotARecipient { .. }) => self.closed::<LogHead>(&key).await,
                Err(error) => self.opened(&key, error)?,
            }
        }
        for (key, why) in wal::breaks(parts) {
            self.damage(&key, why);
        }
        Ok(())
    }

    async fn packs(
        &mut self,
        opener: &Arc<Opener>,
        packs: Vec<(Key, Option<PackRef>)>,
        progress: &Progress,
        tools: &Tools,
    ) -> Result<()> {
        let mut reads = stream::iter(packs)
            .map(|(key, listed)| {
                let (opener, cpu) = (Arc::clone(opener), tools.cpu.clone());
                let link = listed.map(|listed| listed.link);
                async move { (pack(&opener, &cpu, &key, link).await, key) }
            })
            .buffer_unordered(OBJECTS_AT_ONCE);
        while let Some((read, key)) = reads.next().await {
            self.checked(1);
            match read {
                Ok(size) => progress.add(size),
                Err(OpenError::NotARecipient { .. }) => self.closed::<PackHead>(&key).await,
                Err(error) => self.opened(&key, error)?,
            }
        }
        Ok(())
    }

    /// Every session here must open: one that doesn't makes its objects unreadable.
    async fn sessions(&mut self, opener: &Arc<Opener>) -> Result<()> {
        let listed = list_all(self.region.store.read.as_ref(), keys::SESSIONS).await?;
        for entry in listed {
            let Ok(session) = entry.key.file_name().parse::<SessionId>() else {
                continue;
            };
            self.checked(1);
            match opener.session(session).await {
                Ok(_secret) => {}
                // Made before this recipient was added, or after it was removed.
                Err(OpenError::NotARecipient { .. }) => {
                    self.report.closed = self.report.closed.saturating_add(1);
                }
                Err(error) => self.opened(&entry.key, error)?,
            }
        }
        Ok(())
    }

    /// An object that is sealed to others: that its bytes are as signed can be seen all the same.
    async fn closed<H: Head>(&mut self, key: &Key) {
        self.report.closed = self.report.closed.saturating_add(1);
        match self.region.store.read.get(key).await {
            Ok(bytes) => {
                if let Err(error) = Envelope::open::<H>(&bytes) {
                    self.damage(key, tidemark_storage::chain(&error));
                }
            }
            Err(error) => match error.kind() {
                StoreKind::Missing => self.damage(key, "it is not there".to_owned()),
                StoreKind::Corrupt => self.damage(key, tidemark_storage::chain(&error)),
                _ => self.unread(key, tidemark_storage::chain(&error)),
            },
        }
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

/// Reads a pack, compares it with what its base says, if one lists it, and opens every frame.
/// Returns its size.
async fn pack(
    opener: &Opener,
    cpu: &Cpu,
    key: &Key,
    listed: Option<Hash>,
) -> std::result::Result<u64, OpenError> {
    let (bytes, _) = opener.regions().fetch(key, |_| Ok(())).await?;
    let damaged = |source| OpenError::Format {
        key: key.to_string(),
        source,
    };
    let (link, session) = {
        let envelope = Envelope::parse(&bytes).map_err(damaged)?;
        (
            envelope.link(),
            envelope.head::<PackHead>().map_err(damaged)?.session,
        )
    };
    // The link covers the body through the head, which `open_pack` checks.
    if let Some(expected) = listed.filter(|expected| *expected != link) {
        return Err(OpenError::Unlinked {
            key: key.to_string(),
            expected,
        });
    }
    let secret = opener.session(session).await?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let name = key.clone();
    let open = move || tidemark_open::open_pack(&name, &bytes, &secret, |_, _| {}).map(drop);
    cpu.run(open).await.map(|()| size)
}

/// Whether a missing sequence lies where the chain past the newest point simply ends.
fn is_past_the_chain(strays: &[LogSeq], seq: LogSeq) -> bool {
    strays.last().is_some_and(|last| seq < *last)
        && strays.first().is_some_and(|first| {
            seq < *first
                || strays
                    .windows(2)
                    .any(|pair| matches!(pair, [a, b] if *a < seq && seq < *b))
        })
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
