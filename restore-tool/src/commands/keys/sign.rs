//! `keys enrol` and `keys revoke`: a new version of the keyring, signed by the root, in every region.
//!
//! The first version is made by the first enrolment: it names as recipients the public keys that
//! `keys new` left in the root's file. A region that lacks earlier versions is given them first, so
//! that versions stay dense everywhere. It is safe to run the same command again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidemark_format::heads::{Anchors, EnrolHead, Facts, Member, RecipientEntry, Revocation};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::{KeyId, PutId, RegionName, keys};
use tidemark_host::output::Console;
use tidemark_host::{Exit, RngExt as _};
use tidemark_ledger::custody::{
    self, Change, KeyFields, ROOT_TITLE, RootFile, RootKey, amend, anchors, first_keyring,
    valid_until,
};
use tidemark_ledger::history::{Beats, LoadOptions, SourceHistory};
use tidemark_ledger::{
    Keyring, LedgerError, LedgerErrorKind, Signed, Verified, list_all, read_verified, sources,
};
use tidemark_storage::{OpenOptions, Region, region};

use super::documents::KeysChanged;
use super::list::role_name;
use super::new::{ESCROW_LINE, RECOVERY_LINE};
use crate::error::{Error, Result};
use crate::repository::{Settings, Tools};

/// A region and the keyring it has.
struct Place {
    name: RegionName,
    store: Region,
    keyring: Option<Keyring>,
}

/// The regions as the holder of the root sees them.
struct Rooted {
    root: RootKey,
    places: Vec<Place>,
    exceptions: Vec<String>,
}

impl Rooted {
    async fn open(root: &Path, settings: &Settings, tools: &Tools) -> Result<Self> {
        let root = RootFile::read(root)?;
        let options = OpenOptions::new(Arc::clone(&tools.clock), Arc::clone(&tools.rng));
        let mut places = Vec::new();
        let mut exceptions = Vec::new();
        let mut first = None;
        for config in settings.regions()? {
            let opened = async {
                let store = region::open(&config.name, &config.url, &options).await?;
                let keyring = match Keyring::load(store.read.as_ref(), &root.trust()).await {
                    Ok(keyring) => Some(keyring),
                    Err(error) if error.kind() == LedgerErrorKind::NoRepository => {
                        refuse_foreign(&error)?;
                        None
                    }
                    Err(error) => return Err(Error::from(error)),
                };
                Ok(Place {
                    name: config.name.clone(),
                    store,
                    keyring,
                })
            };
            match opened.await {
                Ok(place) => places.push(place),
                Err(error) => {
                    exceptions.push(format!(
                        "{}: {}",
                        config.name,
                        tidemark_storage::chain(&error)
                    ));
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if places.is_empty() => Err(error),
            _ => Ok(Self {
                root,
                places,
                exceptions,
            }),
        }
    }

    /// The highest version of all regions.
    fn keyring(&self) -> Option<&Keyring> {
        self.places
            .iter()
            .filter_map(|place| place.keyring.as_ref())
            .max_by_key(|k| k.version())
    }

    /// Requests of all regions that nobody has answered.
    async fn requests(&self) -> Result<BTreeMap<KeyId, Verified<EnrolHead>>> {
        let mut open = BTreeMap::new();
        for place in &self.places {
            let store = place.store.read.as_ref();
            for entry in list_all(store, keys::ENROLMENTS).await? {
                // Anybody who may create objects can write one: damaged ones don't count.
                let read = read_verified::<EnrolHead>(store, &entry.key, Some(entry.size)).await;
                let Ok(request) = read else { continue };
                let own = request.signer == request.head.key
                    && request.check_place(self.root.repo).is_ok();
                let known = self
                    .keyring()
                    .is_some_and(|k| k.member(&request.signer).is_some());
                if own && !known {
                    open.entry(request.head.key.id()).or_insert(request);
                }
            }
        }
        Ok(open)
    }

    /// Puts `signed`, version `version`, into every region, with the versions before it where they
    /// are missing.
    async fn publish(
        mut self,
        signed: &Signed,
        version: u32,
        changes: Vec<String>,
    ) -> Result<KeysChanged> {
        let newest = self.places.iter().max_by_key(|place| version_of(place));
        let source = newest.map(|place| place.store.clone());
        let mut regions = Vec::new();
        let mut first = None;
        for place in &self.places {
            match store(place, source.as_ref(), signed, version).await {
                Ok(()) => regions.push(place.name.clone()),
                Err(error) => {
                    let why = tidemark_storage::chain(&error);
                    self.exceptions.push(format!("{}: {why}", place.name));
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if regions.is_empty() => Err(error),
            _ => Ok(KeysChanged {
                version,
                changes,
                regions,
                exceptions: self.exceptions,
            }),
        }
    }
}

/// Stores `signed`, and before it the versions that the region lacks.
async fn store(
    place: &Place,
    source: Option<&Region>,
    signed: &Signed,
    version: u32,
) -> Result<()> {
    let missing = version_of(place).saturating_add(1)..version;
    for (source, missing) in source
        .into_iter()
        .flat_map(|s| missing.clone().map(move |m| (s, m)))
    {
        copy(source, &place.store, missing).await?;
    }
    signed.create(place.store.create.as_ref()).await?;
    Ok(())
}

fn version_of(place: &Place) -> u32 {
    place.keyring.as_ref().map_or(0, Keyring::version)
}

/// A place that belongs to another repository is no empty place.
fn refuse_foreign(error: &LedgerError) -> Result<()> {
    match error {
        LedgerError::OtherRepository { found, expected } => Err(LedgerError::OtherRepository {
            found: *found,
            expected: *expected,
        }
        .into()),
        _ => Ok(()),
    }
}

async fn copy(from: &Region, to: &Region, version: u32) -> Result<()> {
    let key = keys::keyring(version);
    let head = read_verified::<tidemark_format::heads::KeyringHead>(from.read.as_ref(), &key, None)
        .await?;
    let bytes = from.read.get(&key).await?;
    to.create.create(&key, bytes, &head.head.put).await?;
    Ok(())
}

/// `keys enrol`.
pub(super) async fn enrol(
    key: Option<KeyId>,
    all: bool,
    recipients: &[RecipientKey],
    root: &Path,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let rooted = Rooted::open(root, settings, tools).await?;
    let requests = rooted.requests().await?;
    let chosen = choose(requests, key, all)?;
    let now = tools.clock.now();
    let members: Vec<Member> = chosen
        .iter()
        .map(|request| {
            let head = &request.head;
            custody::member(head.role, head.key, head.name.clone(), now)
        })
        .collect();
    let changes: Vec<String> = members
        .iter()
        .map(|member| {
            format!(
                "Enrolled {} ({}) as {}",
                member.name,
                member.key.id(),
                role_name(member.role)
            )
        })
        .collect();
    let put: PutId = tools.rng.id();
    let (signed, version) = match rooted.keyring() {
        Some(keyring) => {
            let members = members.into_iter().map(Change::AddMember).collect();
            let signed = amend(keyring, &rooted.root, members, put, now)?;
            (signed, keyring.version().saturating_add(1))
        }
        None => {
            let entries = first_recipients(root, recipients, now)?;
            (first_keyring(&rooted.root, entries, members, put, now)?, 1)
        }
    };
    show(
        rooted.publish(&signed, version, changes).await?,
        &tools.console,
    )
}

fn show(changed: KeysChanged, console: &Console) -> Result<Exit> {
    console.show(&changed);
    Ok(if changed.exceptions.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
}

fn choose(
    mut requests: BTreeMap<KeyId, Verified<EnrolHead>>,
    key: Option<KeyId>,
    all: bool,
) -> Result<Vec<Verified<EnrolHead>>> {
    let list = |requests: &BTreeMap<KeyId, Verified<EnrolHead>>| {
        let lines = requests
            .values()
            .map(|request| format!("{} ({})", request.head.key.id(), request.head.name));
        lines.collect::<Vec<_>>().join(", ")
    };
    if requests.is_empty() {
        return Err(Error::KeyUnknown(
            "nobody asks to be enrolled in the regions given: run tidemark-agent init on the database's host first".to_owned(),
        ));
    }
    match key {
        Some(key) => match requests.remove(&key) {
            Some(request) => Ok(vec![request]),
            None => Err(Error::KeyUnknown(format!(
                "key {key} does not ask to be enrolled; these do: {}",
                list(&requests)
            ))),
        },
        None if all || requests.len() == 1 => Ok(requests.into_values().collect()),
        None => Err(Error::KeyUnknown(format!(
            "several keys ask to be enrolled: name one, or say --all: {}",
            list(&requests)
        ))),
    }
}

/// The recipients of the first keyring: those named, and those that stand in the root's file.
fn first_recipients(
    root: &Path,
    named: &[RecipientKey],
    now: jiff::Timestamp,
) -> Result<Vec<RecipientEntry>> {
    let bytes = tidemark_host::files::read_private(root)?;
    let text = String::from_utf8_lossy(&bytes);
    let fields = KeyFields::parse("this root key file", ROOT_TITLE, &text)?;
    let mut entries: Vec<RecipientEntry> = Vec::new();
    let mut add = |key: RecipientKey, name: &str| {
        if !entries.iter().any(|entry| entry.key == key) {
            entries.push(RecipientEntry {
                key,
                name: name.to_owned(),
                added_at: now,
                revoked: None,
                more: Facts::new(),
            });
        }
    };
    for line in [RECOVERY_LINE, ESCROW_LINE] {
        if fields.get(line).is_some() {
            add(fields.need(line)?, line);
        }
    }
    for key in named {
        add(*key, "recipient");
    }
    if entries.is_empty() {
        return Err(Error::KeyUnknown(
            "this repository has no keyring yet and the root file names no recipient: give the public keys with --recipient".to_owned(),
        ));
    }
    Ok(entries)
}

/// `keys revoke`.
pub(super) async fn revoke(
    key: KeyId,
    reason: &str,
    root: &Path,
    yes: bool,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let rooted = Rooted::open(root, settings, tools).await?;
    let Some(keyring) = rooted.keyring().cloned() else {
        return Err(LedgerError::NoRepository {
            missing: "a keyring".to_owned(),
        }
        .into());
    };
    let now = tools.clock.now();
    let member = keyring
        .members()
        .iter()
        .find(|member| member.key.id() == key && member.revoked.is_none());
    let recipient = keyring.recipients().find(|entry| entry.key.id() == key);
    let mut revocation = Revocation::new(now, reason.to_owned());
    let (change, what) = match (member, recipient) {
        (Some(member), _) => {
            let what = format!("{} ({key}) may sign no more", member.name);
            still_valid(&rooted, &keyring, member, &mut revocation).await?;
            (
                Change::RevokeMember {
                    key: member.key,
                    revocation,
                },
                what,
            )
        }
        (None, Some(entry)) => {
            let what = format!(
                "new sessions are no longer sealed to {} ({key}); what was written before stays readable to it",
                entry.name
            );
            (
                Change::RevokeRecipient {
                    id: key,
                    revocation,
                },
                what,
            )
        }
        (None, None) => {
            return Err(Error::KeyUnknown(format!(
                "key {key} is neither an active member nor an active recipient: keys list shows them"
            )));
        }
    };
    confirm(&what, yes, &tools.console)?;
    let signed = amend(&keyring, &rooted.root, vec![change], tools.rng.id(), now)?;
    let version = keyring.version().saturating_add(1);
    show(
        rooted.publish(&signed, version, vec![what]).await?,
        &tools.console,
    )
}

/// Writes into `revocation` what a key has signed in any region and stays valid.
async fn still_valid(
    rooted: &Rooted,
    keyring: &Keyring,
    member: &Member,
    revocation: &mut Revocation,
) -> Result<()> {
    let keyring = Arc::new(keyring.clone());
    let (no_beats, options) = (Beats::default(), LoadOptions::default());
    let mut signed = Anchors::default();
    let mut names = std::collections::BTreeSet::new();
    for place in &rooted.places {
        let beats = Beats::load(place.store.read.as_ref(), &keyring).await?;
        signed.beat = signed.beat.max(beats.newest_of(&member.key));
        names.extend(sources(place.store.read.as_ref()).await?.into_keys());
    }
    for name in names {
        let mut histories = Vec::new();
        for place in &rooted.places {
            let store = Arc::clone(&place.store.read);
            let loaded =
                SourceHistory::load(store, Arc::clone(&keyring), &name, &no_beats, &options);
            match loaded.await {
                Ok(history) => histories.push(history),
                Err(LedgerError::UnknownSource { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        SourceHistory::settle(&mut histories);
        let last = valid_until(&histories, &member.key).await?;
        revocation.valid_until.extend(last);
        anchors(&histories, &member.key, &mut signed);
    }
    revocation.anchors = Some(signed);
    Ok(())
}

fn confirm(what: &str, yes: bool, console: &Console) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !console.can_ask {
        return Err(Error::NotConfirmed {
            what: what.to_owned(),
        });
    }
    console.complain(&format!(
        "{what}. This can't be taken back. Type yes to go on:"
    ));
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|source| Error::Io {
            action: "read the answer",
            source,
        })?;
    if line.trim() == "yes" {
        Ok(())
    } else {
        Err(Error::Declined)
    }
}
