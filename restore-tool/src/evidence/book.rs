//! Writes records: numbered, chained, into every region given.
//!
//! **Order.** What a region lacks of this signer's chain is copied there first, what waited is sent
//! next, then comes the new record: so every region's chain stays dense. The first region that takes a
//! record decides its number; whoever finds the number taken takes the next.
//!
//! Of runs that were begun on this machine and whose processes are gone ([`super::begun`]), records are
//! made first, too.
//!
//! **Failure.** Everything together takes at most [`TIME_MAX`]. A record that no region takes waits in
//! the state folder. Nothing here fails the command that leaves the record.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use jiff::Timestamp;
use tidemark_format::evidence::Sha256;
use tidemark_format::heads::Role;
use tidemark_format::sign::SigningKey;
use tidemark_format::{FormatError, KeyId, RegionName, RepoId, keys};
use tidemark_host::RngExt as _;
use tidemark_host::config::Region as RegionConfig;
use tidemark_ledger::{Keyring, Trust, custody, list_all};
use tidemark_storage::{ErrorKind, OpenOptions, ReadMode, Region, region};

use super::begun::{self, Left, RUN_ID};
use super::local::{Copies, Local};
use super::record::{Draft, Record};
use crate::repository::{Settings, Tools};

/// All that writing a record may take.
pub const TIME_MAX: Duration = Duration::from_secs(10);
/// What a region may take to be looked at: the others must not starve behind it.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// What a turn at the state folder may take.
const LOCK_MAX: Duration = Duration::from_secs(2);
/// Records copied into regions that lack them, in one go.
const COPIED_MAX: usize = 256;
/// Names of somebody else's bytes that are passed over in search of the last record.
const PASSED_MAX: usize = 64;
/// Numbers tried when others take them.
const TRIES_MAX: usize = 16;

/// Who writes.
#[derive(Debug, Clone)]
pub struct Pen {
    /// Signs.
    pub key: SigningKey,
    /// The repository and its root.
    pub trust: Trust,
    /// What the signer is called when it asks to be enrolled.
    pub name: String,
}

impl Pen {
    /// Of a recovery identity.
    #[must_use]
    pub fn of(identity: &tidemark_open::Identity) -> Self {
        Self {
            key: identity.evidence_key(),
            trust: crate::identity::trust(identity),
            name: identity.name().unwrap_or("unnamed identity").to_owned(),
        }
    }

    fn id(&self) -> KeyId {
        self.key.public().id()
    }
}

/// Where records go.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The regions.
    pub regions: Vec<RegionConfig>,
    /// This machine's state folder.
    pub state: Option<PathBuf>,
    /// systemd's credentials.
    pub credentials: Option<PathBuf>,
}

impl Desk {
    /// As the settings say.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            regions: settings.regions.clone(),
            state: settings.state.clone(),
            credentials: settings.credentials.clone(),
        }
    }
}

/// What became of a record.
#[derive(Debug)]
pub struct Written {
    /// The record.
    pub record: Record,
    /// Regions that have it.
    pub stored: Vec<RegionName>,
    /// Regions that don't, and why.
    pub lacking: BTreeMap<RegionName, String>,
    /// Its file, if it waits for a region.
    pub waits: Option<PathBuf>,
    /// Whether its signer has just asked to be enrolled.
    pub asked: bool,
    /// The command that has its signer vouched for, if no region knows it.
    pub enrol: Option<String>,
    /// How many of the records that were to come before it are stored.
    pub before: usize,
    /// Numbers of records that had been removed in regions, and stand there again: a region gets a record
    /// only after all before it.
    pub put_back: BTreeMap<RegionName, Vec<u64>>,
}

impl Written {
    /// Whether it is stored, or waits on this machine.
    #[must_use]
    pub const fn is_safe(&self) -> bool {
        !self.stored.is_empty() || self.waits.is_some()
    }
}

/// Writes `draft` as the next record of `pen`.
///
/// # Errors
/// It is larger than a record may be: nothing else is an error.
pub async fn append(
    desk: &Desk,
    pen: &Pen,
    draft: &Draft,
    tools: &Tools,
) -> Result<Written, FormatError> {
    append_after(desk, pen, &[], draft, tools).await
}

/// The same, and before it others; of them nothing waits that no region takes.
///
/// # Errors
/// As [`append`].
pub async fn append_after(
    desk: &Desk,
    pen: &Pen,
    before: &[Draft],
    draft: &Draft,
    tools: &Tools,
) -> Result<Written, FormatError> {
    let made = desk
        .state
        .as_deref()
        .map(|state| Local::make(state, pen.id()));
    let local = made.and_then(Result::ok);
    let _turn = match &local {
        Some(local) => local.lock(LOCK_MAX).await,
        None => None,
    };
    let copies = local.as_ref().map(Local::read).unwrap_or_default();
    let state = desk.state.as_deref();
    let left = state.map(|state| begun::left(state, pen.id()));
    let mut writer = Writer {
        pen,
        tools,
        local,
        regions: Vec::new(),
        lacking: BTreeMap::new(),
        left_out: BTreeSet::new(),
        head: Head::of(&copies.kept, pen),
        copies,
        stored: Vec::new(),
        written: None,
        asked: false,
        left: left.unwrap_or_default(),
        before: 0,
        put_back: BTreeMap::new(),
    };
    // What was done until then counts; what wasn't is found out next time.
    drop(tokio::time::timeout(TIME_MAX, writer.send(desk, before, draft)).await);
    writer.finish(draft)
}

/// The end of a chain, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    next: u64,
    prev: Option<Sha256>,
}

impl Head {
    fn of(copies: &BTreeMap<u64, Bytes>, pen: &Pen) -> Self {
        let newest = copies
            .iter()
            .rev()
            .find_map(|(seq, bytes)| read(bytes, *seq, pen).map(|record| (*seq, record.sha256)));
        newest.map_or(
            Self {
                next: 0,
                prev: None,
            },
            |(seq, sha256)| Self {
                next: seq.saturating_add(1),
                prev: Some(sha256),
            },
        )
    }
}

/// The record in `bytes` if it is this signer's and belongs at `seq`.
fn read(bytes: &Bytes, seq: u64, pen: &Pen) -> Option<Record> {
    let keys = [(pen.id(), pen.key.public())].into();
    Record::read(bytes, pen.id(), &keys)
        .ok()
        .filter(|record| record.seq() == seq)
}

struct Open {
    name: RegionName,
    config: RegionConfig,
    store: Region,
    numbers: BTreeSet<u64>,
    enrolled: bool,
}

struct Writer<'a> {
    pen: &'a Pen,
    tools: &'a Tools,
    local: Option<Local>,
    copies: Copies,
    regions: Vec<Open>,
    lacking: BTreeMap<RegionName, String>,
    /// Regions that lack earlier records and so must not get later ones.
    left_out: BTreeSet<RegionName>,
    head: Head,
    stored: Vec<RegionName>,
    written: Option<Record>,
    asked: bool,
    /// Runs that did not end.
    left: Vec<Left>,
    /// Of the records that come before, those that are stored.
    before: usize,
    /// Records that were removed in a region, by what stands after them there.
    put_back: BTreeMap<RegionName, Vec<u64>>,
}

impl Writer<'_> {
    const fn repo(&self) -> RepoId {
        self.pen.trust.repo
    }

    async fn send(
        &mut self,
        desk: &Desk,
        before: &[Draft],
        draft: &Draft,
    ) -> Result<(), FormatError> {
        for config in &desk.regions {
            let why = "it did not answer in time".to_owned();
            self.lacking.insert(config.name.clone(), why);
        }
        let options = self.options(desk);
        let (pen, looks) = (self.pen, desk.regions.iter());
        let looks = looks.map(|config| async {
            let looked = tokio::time::timeout(LOOK_MAX, look(config, &options, pen)).await;
            (config.name.clone(), looked)
        });
        for (name, looked) in join_all(looks).await {
            match looked {
                Ok(Ok(open)) => self.regions.push(open),
                Ok(Err(why)) => drop(self.lacking.insert(name, why)),
                Err(_elapsed) => {}
            }
        }
        let waiting = self.settle_what_waits().await;
        self.find_head().await;
        self.copy_what_regions_lack().await;
        for (seq, record) in waiting {
            if !self.place(&Draft::again(&record), Turn::Waited).await? {
                return Ok(());
            }
            if let Some(local) = &self.local {
                local.sent(seq);
            }
        }
        self.settle_what_did_not_end(draft.created_at()).await?;
        for draft in before {
            if !self.place(draft, Turn::Waited).await? {
                return Ok(());
            }
            self.before = self.before.saturating_add(1);
        }
        self.place(draft, Turn::New).await?;
        self.ask_to_be_enrolled().await;
        Ok(())
    }

    /// A record of each run whose process died, unless its own is there already: then it died just after.
    async fn settle_what_did_not_end(&mut self, now: Timestamp) -> Result<(), FormatError> {
        for left in std::mem::take(&mut self.left) {
            let copies = self.copies.kept.iter().chain(&self.copies.waiting);
            let ended = copies.rev().take(COPIED_MAX).any(|(seq, bytes)| {
                read(bytes, *seq, self.pen)
                    .is_some_and(|record| record.text(&format!("/{RUN_ID}")) == Some(left.run_id()))
            });
            let rng = Arc::clone(&self.tools.rng);
            if ended
                || self
                    .place(&left.draft(now, rng.as_ref()), Turn::Waited)
                    .await?
            {
                left.settled();
            }
        }
        Ok(())
    }

    fn options(&self, desk: &Desk) -> OpenOptions {
        let clock = Arc::clone(&self.tools.clock);
        let mut options = OpenOptions::new(clock, Arc::clone(&self.tools.rng));
        options.mode = ReadMode::OldestVersion;
        options.credentials_directory.clone_from(&desk.credentials);
        options
    }

    /// Records that wait here: those that a region has after all (the answer was lost) are kept, the others
    /// are to be sent, in order.
    async fn settle_what_waits(&mut self) -> Vec<(u64, Record)> {
        let mut to_send = Vec::new();
        for (seq, bytes) in self.copies.waiting.clone() {
            if self.is_stored(seq, &bytes).await {
                self.keep(seq, &bytes);
                if let Some(local) = &self.local {
                    local.sent(seq);
                }
                continue;
            }
            // Not even ours: somebody edited it while it waited. It stays where it is.
            let record = read(&bytes, seq, self.pen);
            to_send.extend(record.map(|record| (seq, record)));
        }
        to_send
    }

    /// Whether what waits was stored before: as it is, or under a number that it was given then.
    async fn is_stored(&self, seq: u64, bytes: &Bytes) -> bool {
        for region in self.regions.iter().filter(|r| r.numbers.contains(&seq)) {
            let key = keys::evidence(self.pen.id(), seq);
            if region
                .store
                .read
                .get(&key)
                .await
                .is_ok_and(|there| there == *bytes)
            {
                return true;
            }
        }
        let Some(record) = read(bytes, seq, self.pen) else {
            return false;
        };
        let mut kept = self.copies.kept.iter().rev().take(COPIED_MAX);
        kept.any(|(seq, bytes)| {
            read(bytes, *seq, self.pen).is_some_and(|kept| kept.id() == record.id())
        })
    }

    fn keep(&mut self, seq: u64, bytes: &Bytes) {
        if let Some(local) = &self.local {
            // Only a copy: the region has it.
            drop(local.keep(seq, bytes));
        }
        self.copies.kept.insert(seq, bytes.clone());
    }

    /// The newest record of all places that is this signer's; what others put under later names is passed
    /// over, and its numbers with it.
    async fn find_head(&mut self) {
        self.head = Head::of(&self.copies.kept, self.pen);
        let all = self.regions.iter().flat_map(|region| &region.numbers);
        let numbers: BTreeSet<u64> = all.copied().filter(|n| *n >= self.head.next).collect();
        for seq in numbers.iter().rev().take(PASSED_MAX) {
            if let Some(record) = self.find(*seq).await {
                self.head = Head {
                    next: seq.saturating_add(1),
                    prev: Some(record.sha256),
                };
                return;
            }
        }
    }

    /// This signer's record under a number, from here or any region.
    async fn find(&self, seq: u64) -> Option<Record> {
        let kept = self.copies.kept.get(&seq);
        if let Some(record) = kept.and_then(|bytes| read(bytes, seq, self.pen)) {
            return Some(record);
        }
        let key = keys::evidence(self.pen.id(), seq);
        for region in self.regions.iter().filter(|r| r.numbers.contains(&seq)) {
            let there = region.store.read.get(&key).await.ok();
            let record = there.and_then(|bytes| read(&bytes, seq, self.pen));
            if record.is_some() {
                return record;
            }
        }
        None
    }

    async fn copy_what_regions_lack(&mut self) {
        let mut left = COPIED_MAX;
        let wanted: BTreeSet<u64> = self
            .regions
            .iter()
            .flat_map(|region| region.numbers.iter().copied())
            .chain(self.copies.kept.keys().copied())
            .filter(|seq| *seq < self.head.next)
            .collect();
        for place in 0..self.regions.len() {
            let Some(region) = self.regions.get(place) else {
                continue;
            };
            let lacking: Vec<u64> = wanted.difference(&region.numbers).copied().collect();
            let (name, last) = (region.name.clone(), region.numbers.last().copied());
            for seq in lacking {
                if left == 0 {
                    let why =
                        "it lacks more of the earlier records than are copied at a time".to_owned();
                    self.leave_out(place, why);
                    break;
                }
                left = left.saturating_sub(1);
                let Some(record) = self.find(seq).await else {
                    continue;
                };
                if let Err(why) = self.create(place, &record).await {
                    self.leave_out(place, why.words());
                    break;
                }
                if last > Some(seq) {
                    self.put_back.entry(name.clone()).or_default().push(seq);
                }
            }
        }
        let left_out = &self.left_out;
        self.regions
            .retain(|region| !left_out.contains(&region.name));
    }

    fn leave_out(&mut self, place: usize, why: String) {
        if let Some(region) = self.regions.get(place) {
            self.lacking.insert(region.name.clone(), why);
            self.left_out.insert(region.name.clone());
        }
    }

    /// Signs and stores a draft; whether a region took it.
    async fn place(&mut self, draft: &Draft, turn: Turn) -> Result<bool, FormatError> {
        for _ in 0..TRIES_MAX {
            let Head { next, prev } = self.head;
            let record = draft.sign(next, prev, self.repo(), &self.pen.key)?;
            self.stored.clear();
            match self.store(&record, turn).await {
                Stored::Taken => self.learn(next).await,
                Stored::Nowhere => return Ok(false),
                Stored::Somewhere => {
                    self.head = Head {
                        next: next.saturating_add(1),
                        prev: Some(record.sha256),
                    };
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Into one region after the other: the first that takes it decides that the number is ours.
    async fn store(&mut self, record: &Record, turn: Turn) -> Stored {
        for place in 0..self.regions.len() {
            let stored = self.create(place, record).await;
            let Some(name) = self.regions.get(place).map(|region| region.name.clone()) else {
                continue;
            };
            match stored {
                Ok(()) => {
                    self.lacking.remove(&name);
                    self.stored.push(name);
                    self.keep(record.seq(), &record.bytes);
                    if turn == Turn::New {
                        self.written = Some(record.clone());
                    }
                }
                Err(NotStored::Taken) if self.stored.is_empty() => return Stored::Taken,
                Err(why) => drop(self.lacking.insert(name, why.words())),
            }
        }
        if self.stored.is_empty() {
            Stored::Nowhere
        } else {
            Stored::Somewhere
        }
    }

    /// Somebody took number `seq` meanwhile: this identity on another machine, and then its record is the
    /// one before ours, or a stranger, whose bytes are passed over.
    async fn learn(&mut self, seq: u64) {
        for region in &mut self.regions {
            let key = keys::evidence(self.pen.id(), seq);
            if region.store.read.head(&key).await.is_ok() {
                region.numbers.insert(seq);
            }
        }
        let found = self.find(seq).await;
        self.head = Head {
            next: seq.saturating_add(1),
            prev: found
                .as_ref()
                .map(|record| record.sha256)
                .or(self.head.prev),
        };
        if found.is_some() {
            self.copy_what_regions_lack().await;
        }
    }

    async fn create(&mut self, place: usize, record: &Record) -> Result<(), NotStored> {
        let put = self.tools.rng.id();
        let Some(region) = self.regions.get_mut(place) else {
            return Err(NotStored::Taken);
        };
        let key = keys::evidence(record.signer.id(), record.seq());
        let created = region.store.create.create(&key, record.bytes.clone(), &put);
        match created.await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Exists => {
                let there = region.store.read.get(&key).await;
                if there.map_err(|error| NotStored::Refused(tidemark_storage::chain(&error)))?
                    != record.bytes
                {
                    return Err(NotStored::Taken);
                }
            }
            Err(error) => return Err(NotStored::Refused(tidemark_storage::chain(&error))),
        }
        region.numbers.insert(record.seq());
        Ok(())
    }

    /// A signer that the keyring doesn't know asks, as an agent would.
    async fn ask_to_be_enrolled(&mut self) {
        if self.regions.iter().any(|region| region.enrolled) {
            return;
        }
        let now = self.tools.clock.now();
        let (pen, put) = (self.pen, self.tools.rng.id());
        let request =
            custody::enrol_request(pen.trust.repo, Role::Drill, &pen.name, &pen.key, put, now);
        let Ok(request) = request else { return };
        for region in &self.regions {
            let key = keys::enrolment(pen.id());
            if region.store.read.head(&key).await.is_err() {
                let created = request.create(region.store.create.as_ref()).await;
                self.asked |= created.is_ok();
            }
        }
    }

    /// What became of it; a record that no region took is put where it waits.
    fn finish(self, draft: &Draft) -> Result<Written, FormatError> {
        let known = self.regions.iter().any(|region| region.enrolled);
        let regions: Vec<_> = self.regions.iter().map(|one| one.config.clone()).collect();
        let unknown = !known && !regions.is_empty();
        let enrol = unknown.then(|| tidemark_cli::enrol_command(self.pen.id(), &regions));
        if let Some(record) = self.written {
            return Ok(Written {
                record,
                stored: self.stored,
                lacking: self.lacking,
                waits: None,
                asked: self.asked,
                enrol,
                before: self.before,
                put_back: self.put_back,
            });
        }
        // What still waits comes before it.
        let waiting = self.local.as_ref().map(Local::read).unwrap_or_default();
        let waiting = Head::of(&waiting.waiting, self.pen);
        let head = if waiting.next > self.head.next {
            waiting
        } else {
            self.head
        };
        let record = draft.sign(head.next, head.prev, self.pen.trust.repo, &self.pen.key)?;
        let waits = self
            .local
            .and_then(|local| local.wait(record.seq(), &record.bytes).ok());
        Ok(Written {
            record,
            stored: Vec::new(),
            lacking: self.lacking,
            waits,
            asked: false,
            enrol,
            before: self.before,
            put_back: self.put_back,
        })
    }
}

/// Which record is being stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// One that waited.
    Waited,
    /// The one that this command leaves.
    New,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stored {
    /// Others took the number first.
    Taken,
    /// No region took it.
    Nowhere,
    /// At least one did.
    Somewhere,
}

/// Why a region has not taken a record.
#[derive(Debug)]
enum NotStored {
    /// Other bytes stand under its name.
    Taken,
    /// The region said no, or nothing.
    Refused(String),
}

impl NotStored {
    fn words(self) -> String {
        match self {
            Self::Taken => "another record stands under its number there".to_owned(),
            Self::Refused(why) => why,
        }
    }
}

async fn look(config: &RegionConfig, options: &OpenOptions, pen: &Pen) -> Result<Open, String> {
    let said = |error: &(dyn std::error::Error + 'static)| tidemark_storage::chain(error);
    let store = region::open(&config.name, &config.url, options)
        .await
        .map_err(|error| said(&error))?;
    // A record must not go into another repository's region.
    let keyring = Keyring::load(store.read.as_ref(), &pen.trust)
        .await
        .map_err(|error| said(&error))?;
    let listed = list_all(store.read.as_ref(), &keys::evidences(pen.id()))
        .await
        .map_err(|error| said(&error))?;
    Ok(Open {
        name: config.name.clone(),
        config: config.clone(),
        store,
        numbers: listed
            .iter()
            .filter_map(|entry| keys::evidence_number(&entry.key))
            .collect(),
        enrolled: keyring.member(&pen.key.public()).is_some(),
    })
}
