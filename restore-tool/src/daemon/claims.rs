//! Turns of drills in the repository: what every region shows, read once, and who may be believed.
//!
//! **Invariants.** A step counts if the keyring has its signer as a drill host, or if it is this host's own.
//! Others' names are passed over, and their numbers with them. What a region shows is never forgotten
//! because another one is away.
//!
//! **Failure.** A region that can't be read is named in [`Claims::away`] and asked again; only when none can
//! be read is that an error.

mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tidemark_format::heads::{DrillClaimHead, DrillStep, Role};
use tidemark_format::sign::SigningKey;
use tidemark_format::{DrillName, Hash, Key, KeyId, PutId, RegionId, RegionName, keys};
use tidemark_host::{Monotonic, RngExt as _};
use tidemark_ledger::{
    Keyring, LedgerError, Placed as _, Trust, custody, read_marker, read_verified,
};
use tidemark_planner::drill::Verdict;
use tidemark_planner::rota::Step;
use tidemark_storage::{ListEntry, ReadStore, Region};

use super::plan::Planned;
use crate::error::{Error, Result};
use crate::repository::{Repository, Settings, Tools};

pub(super) use write::{Mine, Take};

/// Regions are opened anew so often: keyrings, credentials and certificates change.
const REOPEN_EVERY: Duration = Duration::from_secs(900);
/// What looking at all regions may take.
const LOOK_MAX: Duration = Duration::from_secs(60);
/// Slots that are read back in search of the last result and the last pass.
const READ_BACK_MAX: usize = 64;
/// Names per listing request: what S3 returns at most.
const LIST_PAGE: usize = 1000;
/// A step's number that no slot reaches.
const SEQ_LAST: u32 = 999_999;

/// A step as it was found.
#[derive(Debug, Clone)]
struct Found {
    head: DrillClaimHead,
    /// When this process saw it first.
    seen: Monotonic,
}

/// What is known of one drill.
#[derive(Debug, Default)]
struct Book {
    /// By slot, number and link: two regions may hold different steps of one number.
    found: BTreeMap<(Timestamp, u32, Hash), Found>,
    /// The highest number of each slot, others' names included.
    highest: BTreeMap<Timestamp, u32>,
    /// What was read already.
    read: BTreeSet<(RegionName, Key)>,
    /// Nothing older is of interest.
    from: Option<Timestamp>,
}

/// How a drill of a slot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) slot: Timestamp,
    pub(super) at: Timestamp,
    pub(super) host: String,
    pub(super) verdict: Verdict,
    pub(super) evidence_id: Option<String>,
    pub(super) rto_ms: Option<u64>,
    pub(super) rpo_ms: Option<u64>,
}

/// A region that answers.
#[derive(Debug, Clone)]
struct Reached {
    name: RegionName,
    /// The same on every host, and so the order in which turns are taken.
    id: RegionId,
    store: Region,
}

#[derive(Debug)]
struct Opened {
    regions: Vec<Reached>,
    keyring: Arc<Keyring>,
    at: Monotonic,
    /// Something went wrong with one of them.
    stale: bool,
}

/// The turns of all drills.
#[derive(Debug)]
pub(super) struct Claims {
    signer: SigningKey,
    trust: Trust,
    /// What the signer is called when it asks to be enrolled.
    name: String,
    host: String,
    opened: Option<Opened>,
    books: BTreeMap<DrillName, Book>,
    away: BTreeMap<RegionName, String>,
}

impl Claims {
    /// Those of a repository, as somebody who signs with `signer`.
    pub(super) fn new(signer: SigningKey, trust: Trust, name: String, host: String) -> Self {
        Self {
            signer,
            trust,
            name,
            host,
            opened: None,
            books: BTreeMap::new(),
            away: BTreeMap::new(),
        }
    }

    /// This host's key.
    pub(super) fn own(&self) -> KeyId {
        self.signer.public().id()
    }

    /// Regions that could not be read, and why.
    pub(super) const fn away(&self) -> &BTreeMap<RegionName, String> {
        &self.away
    }

    /// Whether other hosts believe this one.
    pub(super) fn is_enrolled(&self) -> bool {
        let opened = self.opened.as_ref();
        opened.is_some_and(|opened| opened.keyring.member(&self.signer.public()).is_some())
    }

    /// Why this host may drill no more, if its key was revoked.
    pub(super) fn revoked(&self) -> Option<LedgerError> {
        let opened = self.opened.as_ref()?;
        let member = opened.keyring.member(&self.signer.public())?;
        let revocation = member.revoked.as_ref()?;
        Some(LedgerError::Revoked {
            signer: self.own(),
            name: member.name.clone(),
            at: revocation.at,
            reason: revocation.reason.clone(),
            what: "a turn of this host's".to_owned(),
        })
    }

    /// Whether a region was ever reached.
    pub(super) const fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// Looks at every region.
    ///
    /// # Errors
    /// No region can be read.
    pub(super) async fn look(
        &mut self,
        settings: &Settings,
        drills: &[Planned],
        tools: &Tools,
    ) -> Result<()> {
        match tokio::time::timeout(LOOK_MAX, self.look_at_all(settings, drills, tools)).await {
            Ok(looked) => looked,
            // What was opened is dropped with it, and opened anew at the next look.
            Err(_elapsed) => Err(Error::RegionsSilent),
        }
    }

    async fn look_at_all(
        &mut self,
        settings: &Settings,
        drills: &[Planned],
        tools: &Tools,
    ) -> Result<()> {
        self.open(settings, tools).await?;
        let Some(mut opened) = self.opened.take() else {
            return Err(Error::NoRegion);
        };
        let looked = self.look_at_opened(&mut opened, drills, tools).await;
        self.opened = Some(opened);
        looked
    }

    async fn look_at_opened(
        &mut self,
        opened: &mut Opened,
        drills: &[Planned],
        tools: &Tools,
    ) -> Result<()> {
        let from = |name: &DrillName| self.books.get(name).and_then(|book| book.from);
        let wanted: Vec<(DrillName, Option<Timestamp>)> = drills
            .iter()
            .map(|planned| (planned.drill.name.clone(), from(&planned.drill.name)))
            .collect();
        let looks = opened.regions.iter().map(|region| names(region, &wanted));
        let listed = join_all(looks).await;
        let (mut answered, mut first) = (0, None);
        let mut by_drill: BTreeMap<DrillName, Vec<(&Reached, ListEntry)>> = BTreeMap::new();
        for (region, listed) in opened.regions.iter().zip(listed) {
            match listed {
                Ok(entries) => {
                    answered += 1;
                    for (drill, entry) in entries {
                        by_drill.entry(drill).or_default().push((region, entry));
                    }
                }
                Err(error) => {
                    let why = tidemark_storage::chain(&error);
                    self.away.insert(region.name.clone(), why);
                    first = first.or(Some(error));
                }
            }
        }
        let reader = Reader {
            keyring: &opened.keyring,
            own: self.signer.public().id(),
            trust: self.trust,
            now: tools.clock.monotonic(),
        };
        for (drill, entries) in by_drill {
            reader
                .read(self.books.entry(drill).or_default(), &entries)
                .await;
        }
        // It is opened anew at the next look.
        opened.stale |= first.is_some();
        match first {
            Some(error) if answered == 0 => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Opens the regions, unless that was done a moment ago.
    async fn open(&mut self, settings: &Settings, tools: &Tools) -> Result<()> {
        let now = tools.clock.monotonic();
        let fresh = |opened: &Opened| !opened.stale && now.since(opened.at) < REOPEN_EVERY;
        if self.opened.as_ref().is_some_and(fresh) {
            return Ok(());
        }
        let repository = Repository::open(settings, Some(self.trust), tools).await?;
        let away = repository.away.iter();
        self.away = away
            .map(|away| (away.name.clone(), tidemark_storage::chain(&away.error)))
            .collect();
        let markers = repository
            .regions
            .iter()
            .map(|region| read_marker(region.store.read.as_ref()));
        let markers = join_all(markers).await;
        let mut regions: Vec<Reached> = repository
            .regions
            .iter()
            .zip(markers)
            .map(|(region, marker)| Reached {
                name: region.name().clone(),
                id: marker
                    .ok()
                    .flatten()
                    .map_or(RegionId([0; 16]), |marker| marker.region),
                store: region.store.clone(),
            })
            .collect();
        regions.sort_by(|one, other| (one.id, &one.name).cmp(&(other.id, &other.name)));
        self.opened = Some(Opened {
            regions,
            keyring: repository.keyring,
            at: now,
            stale: !self.away.is_empty(),
        });
        self.ask_to_be_enrolled(tools).await;
        Ok(())
    }

    /// Nobody else believes a host that the root has not vouched for; so it asks.
    async fn ask_to_be_enrolled(&self, tools: &Tools) {
        let Some(opened) = self.opened.as_ref().filter(|_| !self.is_enrolled()) else {
            return;
        };
        let (now, put) = (tools.clock.now(), tools.rng.id());
        let request = custody::enrol_request(
            self.trust.repo,
            Role::Drill,
            &self.name,
            &self.signer,
            put,
            now,
        );
        let Ok(request) = request else { return };
        for region in &opened.regions {
            if region.store.read.head(&request.key).await.is_err() {
                // It asks again when the regions are opened anew.
                drop(request.create(region.store.create.as_ref()).await);
            }
        }
    }

    /// The steps of a drill, as they are judged. `turn` is the attempt that took this host's last turn, if no
    /// process of it lives.
    pub(super) fn steps(
        &self,
        planned: &Planned,
        turn: Option<PutId>,
        now: Monotonic,
    ) -> BTreeMap<Timestamp, Vec<Step>> {
        let mut slots: BTreeMap<Timestamp, Vec<Step>> = BTreeMap::new();
        let Some(book) = self.books.get(&planned.drill.name) else {
            return slots;
        };
        let own = book
            .found
            .iter()
            .find(|(_, found)| found.head.step == DrillStep::Taken && Some(found.head.put) == turn);
        let own = own.map(|((_, _, link), _)| *link);
        for ((slot, seq, link), found) in &book.found {
            let head = &found.head;
            slots.entry(*slot).or_default().push(Step {
                seq: *seq,
                step: head.step,
                link: *link,
                claim: head.claim,
                at: head.at,
                until: head.until,
                seen_for: now.since(found.seen),
                abandoned: own == Some(head.claim.unwrap_or(*link)),
                conclusive: is_conclusive(head),
                same_schedule: head.schedule == planned.schedule_text,
            });
        }
        slots
    }

    /// Who has the turn that `claim` took.
    pub(super) fn holder(&self, drill: &DrillName, claim: Hash) -> Option<&str> {
        let book = self.books.get(drill)?;
        let mut found = book.found.iter();
        let taken = found.find(|((_, _, link), _)| *link == claim)?;
        Some(&taken.1.head.host)
    }

    /// How the newest drill that came to a result ended, and when the last one passed.
    pub(super) fn results(&self, drill: &DrillName) -> (Option<Ended>, Option<Timestamp>) {
        let Some(book) = self.books.get(drill) else {
            return (None, None);
        };
        let ended = || book.found.values().rev().map(|found| &found.head);
        let all = || {
            ended()
                .filter_map(result)
                .filter(|one| one.verdict != Verdict::Inconclusive)
        };
        let passed = all().find(|one| one.verdict.is_passed());
        (all().next(), passed.map(|one| one.at))
    }
}

/// How a step says that the drill ended.
fn result(head: &DrillClaimHead) -> Option<Ended> {
    let fact = |name: &str| head.facts.get(name);
    let number = |name: &str| fact(name).and_then(Value::as_u64);
    let verdict = Verdict::of_name(fact("verdict")?.as_str()?)?;
    (head.step == DrillStep::Ended).then(|| Ended {
        slot: head.slot,
        at: head.at,
        host: head.host.clone(),
        verdict,
        evidence_id: fact("evidence_id")
            .and_then(Value::as_str)
            .map(str::to_owned),
        rto_ms: number("rto_ms"),
        rpo_ms: number("rpo_ms"),
    })
}

fn is_conclusive(head: &DrillClaimHead) -> bool {
    result(head).is_some_and(|result| result.verdict != Verdict::Inconclusive)
}

/// The names of the drills wanted, from a slot on.
async fn names(
    region: &Reached,
    wanted: &[(DrillName, Option<Timestamp>)],
) -> std::result::Result<Vec<(DrillName, ListEntry)>, tidemark_storage::Error> {
    let store = region.store.read.as_ref();
    let mut all = Vec::new();
    for (drill, from) in wanted {
        let prefix = keys::drill_slots(drill);
        let second = SignedDuration::from_secs(1);
        let mut after = from
            .and_then(|from| from.checked_sub(second).ok())
            .map(|before| keys::drill_claim(drill, before, SEQ_LAST));
        loop {
            let page = store.list(&prefix, after.as_ref(), LIST_PAGE).await?;
            after = page.entries.last().map(|entry| entry.key.clone()).or(after);
            let got = page.entries.len();
            all.extend(page.entries.into_iter().map(|entry| (drill.clone(), entry)));
            if !page.more || got == 0 {
                break;
            }
        }
    }
    Ok(all)
}

/// Reads steps into a book.
struct Reader<'a> {
    keyring: &'a Keyring,
    own: KeyId,
    trust: Trust,
    now: Monotonic,
}

impl Reader<'_> {
    /// The newest slots first, back to the last one that passed.
    async fn read(&self, book: &mut Book, entries: &[(&Reached, ListEntry)]) {
        let mut slots: BTreeMap<Timestamp, Vec<(&Reached, &ListEntry)>> = BTreeMap::new();
        for (region, entry) in entries {
            let Some((_drill, slot, seq)) = keys::drill_claim_place(&entry.key) else {
                continue;
            };
            let highest = book.highest.entry(slot).or_insert(seq);
            *highest = seq.max(*highest);
            slots.entry(slot).or_default().push((*region, entry));
        }
        let mut oldest = None;
        for (slot, entries) in slots.into_iter().rev().take(READ_BACK_MAX) {
            oldest = Some(slot);
            for (region, entry) in entries {
                self.read_one(book, region, entry).await;
            }
            let of_slot = book.found.range((slot, 0, Hash([0; 32]))..);
            let of_slot = of_slot.take_while(|((at, ..), _)| *at == slot);
            let mut results = of_slot.filter_map(|(_, found)| result(&found.head));
            if results.any(|result| result.verdict.is_passed()) {
                break;
            }
        }
        let Some(oldest) = oldest else { return };
        book.from = Some(oldest);
        book.found.retain(|(slot, ..), _| *slot >= oldest);
        book.highest.retain(|slot, _| *slot >= oldest);
        book.read.retain(|(_, key)| {
            keys::drill_claim_place(key).is_some_and(|(_, slot, _)| slot >= oldest)
        });
    }

    async fn read_one(&self, book: &mut Book, region: &Reached, entry: &ListEntry) {
        let read = (region.name.clone(), entry.key.clone());
        if book.read.contains(&read) {
            return;
        }
        match self.verified(region.store.read.as_ref(), entry).await {
            Ok(Some((link, head))) => {
                let seen = self.now;
                let place = (head.slot, head.seq, link);
                book.found.entry(place).or_insert(Found { head, seen });
                book.read.insert(read);
            }
            // A stranger's: looked at again when the keyring may have changed.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(region = %region.name, key = %entry.key, error = %error, "a turn can't be read");
            }
        }
    }

    async fn verified(
        &self,
        store: &dyn ReadStore,
        entry: &ListEntry,
    ) -> std::result::Result<Option<(Hash, DrillClaimHead)>, LedgerError> {
        let object = read_verified::<DrillClaimHead>(store, &entry.key, Some(entry.size)).await?;
        object.check_place(self.trust.repo)?;
        let is_own = object.signer.id() == self.own;
        let subject = object.head.subject();
        let known = self.keyring.check(&object.signer, &[Role::Drill], &subject);
        Ok((is_own || known.is_ok()).then_some((object.link, object.head)))
    }
}
