//! `keys enrol` and `keys revoke`: a new version of the keyring, signed by the root, in every region.
//!
//! The first version is made by the first enrolment: it names as recipients the public keys that
//! `keys new` left in the root's file. Later ones add recipients by their public keys. A region that
//! lacks earlier versions is given them first, so that versions stay dense everywhere; regions whose
//! keyrings disagree are refused before anything is written. It is safe to run the same command
//! again: then regions that were away get what they missed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidemark_format::heads::{Anchors, EnrolHead, Member, RecipientEntry, Revocation};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::{KeyId, PutId, keys};
use tidemark_host::output::Console;
use tidemark_host::{Exit, RngExt as _};
use tidemark_ledger::custody::{
    self, Change, KeyringCopies, KeyringCopy, RootFile, RootKey, amend, anchors, first_keyring,
    valid_until,
};
use tidemark_ledger::history::{Beats, LoadOptions, SourceHistory};
use tidemark_ledger::{Keyring, LedgerError, Signed, Verified, list_all, read_verified, sources};
use tidemark_storage::{OpenOptions, Region, region};

use super::choose::{Revoked, first_recipients, new_recipients, request, to_revoke};
use super::documents::KeysChanged;
use super::list::role_name;
use crate::cli::KeyWord;
use crate::error::{Error, Result};
use crate::evidence::shelf;
use crate::repository::{Settings, Tools, bare};

/// What to enrol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The key of one request.
    pub(super) key: Option<&'a KeyWord>,
    /// Every request.
    pub(super) all: bool,
    /// Public keys to seal to.
    pub(super) recipients: &'a [RecipientKey],
    /// What they are called.
    pub(super) name: Option<&'a str>,
}

/// The regions as the holder of the root sees them.
struct Rooted {
    root: RootKey,
    regions: Vec<Region>,
    copies: KeyringCopies,
    exceptions: Vec<String>,
}

impl Rooted {
    async fn open(root: &Path, settings: &Settings, tools: &Tools) -> Result<Self> {
        let root = RootFile::read(root)?;
        let options = OpenOptions::new(Arc::clone(&tools.clock), Arc::clone(&tools.rng));
        let (mut regions, mut copies) = (Vec::new(), Vec::new());
        let mut exceptions = Vec::new();
        let mut first = None;
        let mut empty = Vec::new();
        for config in settings.regions()? {
            let opened = async {
                let region = region::open(&config.name, &config.url, &options).await?;
                let (read, create) = (Arc::clone(&region.read), Arc::clone(&region.create));
                let name = config.name.clone();
                let copy = KeyringCopy::load(name, read, create, &root.trust()).await?;
                Ok::<_, Error>((region, copy))
            };
            match opened.await {
                Ok((region, copy)) => match bare(config) {
                    Some(error) => empty.push((region, copy, error)),
                    None => {
                        regions.push(region);
                        copies.push(copy);
                    }
                },
                Err(error) => {
                    let why = tidemark_storage::chain(&error);
                    exceptions.push(format!("{}: {why}", config.name));
                    first = first.or(Some(error));
                }
            }
        }
        // Of a repository that is there, an empty folder is where a disk should be: what is written now would
        // hide behind it afterwards.
        let is_there = copies
            .iter()
            .any(|copy: &KeyringCopy| copy.keyring.is_some());
        for (region, copy, error) in empty {
            if is_there {
                exceptions.push(error.to_string());
            } else {
                regions.push(region);
                copies.push(copy);
            }
        }
        match first {
            Some(error) if regions.is_empty() => Err(error),
            _ => Ok(Self {
                root,
                regions,
                copies: KeyringCopies::new(copies)?,
                exceptions,
            }),
        }
    }

    /// The highest version of all regions.
    fn keyring(&self) -> Option<&Keyring> {
        self.copies.newest()
    }

    /// Requests of all regions that nobody has answered.
    async fn requests(&self) -> Result<BTreeMap<KeyId, Verified<EnrolHead>>> {
        let mut open = BTreeMap::new();
        for region in &self.regions {
            let store = region.read.as_ref();
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

    /// Puts the next version into every region, with the versions before it where they are missing;
    /// without one, only those.
    async fn publish(self, next: Option<&Signed>, changes: Vec<String>) -> Result<KeysChanged> {
        let newest = self.keyring().map_or(0, Keyring::version);
        let version = newest.saturating_add(u32::from(next.is_some()));
        let (mut regions, mut exceptions) = (Vec::new(), self.exceptions);
        let mut first = None;
        for published in self.copies.publish(next).await {
            match published.result {
                Ok(()) => regions.push(published.region),
                Err(error) => {
                    let why = tidemark_storage::chain(&error);
                    exceptions.push(format!("{}: {why}", published.region));
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if regions.is_empty() => Err(error.into()),
            _ => Ok(KeysChanged {
                version,
                changes,
                regions,
                exceptions,
            }),
        }
    }
}

/// `keys enrol`.
pub(super) async fn enrol(
    wanted: Wanted<'_>,
    root: &Path,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let rooted = Rooted::open(root, settings, tools).await?;
    let requests = rooted.requests().await?;
    let now = tools.clock.now();
    let put: PutId = tools.rng.id();
    let Some(keyring) = rooted.keyring() else {
        let members = members(request(requests, wanted.key, wanted.all)?, now);
        let entries = first_recipients(root, &rooted.root, &wanted, now)?;
        let said = members.iter().map(enrolled).collect();
        let signed = first_keyring(&rooted.root, entries, members, put, now)?;
        return show(rooted.publish(Some(&signed), said).await?, &tools.console);
    };
    let (recipients, mut said) = new_recipients(keyring, &wanted, now)?;
    // A recipient alone lets nobody sign who happens to ask at the same time.
    let only_recipients = !wanted.recipients.is_empty() && wanted.key.is_none() && !wanted.all;
    let known = wanted.key.and_then(|key| {
        let mut all = keyring.members().iter();
        all.find(|member| member.revoked.is_none() && key.names(member.key.id()))
    });
    let late = requests.is_empty() && wanted.key.is_none();
    let late = late && (rooted.copies.lagging().next().is_some() || !wanted.recipients.is_empty());
    let members = if only_recipients || late {
        Vec::new()
    } else if let Some(member) = known {
        said.push(format!(
            "{} ({}) was enrolled before",
            member.name,
            member.key.id()
        ));
        Vec::new()
    } else {
        members(request(requests, wanted.key, wanted.all)?, now)
    };
    said.extend(members.iter().map(enrolled));
    said.extend(recipients.iter().map(added));
    let members = members.into_iter().map(Change::AddMember);
    let recipients = recipients.into_iter().map(Change::AddRecipient);
    let changes: Vec<Change> = members.chain(recipients).collect();
    let signed = if changes.is_empty() {
        None
    } else {
        Some(amend(keyring, &rooted.root, changes, put, now)?)
    };
    show(rooted.publish(signed.as_ref(), said).await?, &tools.console)
}

fn members(requests: Vec<Verified<EnrolHead>>, now: jiff::Timestamp) -> Vec<Member> {
    let heads = requests.into_iter().map(|request| request.head);
    heads
        .map(|head| custody::member(head.role, head.key, head.name, now))
        .collect()
}

fn enrolled(member: &Member) -> String {
    let role = role_name(member.role);
    format!("Enrolled {} ({}) as {role}", member.name, member.key.id())
}

fn added(entry: &RecipientEntry) -> String {
    format!(
        "New sessions are sealed to {} ({}), too: a running agent begins one within an hour, or at once by \
         tidemark-agent config reload. What was written before stays closed to it; tidemark-agent snapshot --base \
         makes a base that it can open",
        entry.name,
        entry.key.id()
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

/// `keys revoke`.
pub(super) async fn revoke(
    key: &KeyWord,
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
    let mut revocation = Revocation::new(now, reason.to_owned());
    let (change, what) = match to_revoke(&keyring, key)? {
        Revoked::Before(what) => {
            // The regions that were away then get it now.
            return show(rooted.publish(None, vec![what]).await?, &tools.console);
        }
        Revoked::Member(member) => {
            let key = member.key;
            let what = format!("{} ({}) may sign no more", member.name, key.id());
            still_valid(&rooted, &keyring, &member, &mut revocation).await?;
            (Change::RevokeMember { key, revocation }, what)
        }
        Revoked::Recipient(entry) => {
            let id = entry.key.id();
            let what = format!(
                "new sessions are no longer sealed to {} ({id}); what was written before stays readable to it",
                entry.name
            );
            (Change::RevokeRecipient { id, revocation }, what)
        }
    };
    let member = match &change {
        Change::RevokeMember { key, .. } => Some(*key),
        _ => None,
    };
    let signed = amend(&keyring, &rooted.root, vec![change], tools.rng.id(), now)?;
    confirm(&what, yes, &tools.console)?;
    if let Some(key) = member {
        // The root's signature on the next version is the record: one of this key's would not count.
        tools.access.unless_signed_by(&key);
    }
    show(
        rooted.publish(Some(&signed), vec![what]).await?,
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
    let stores = rooted.regions.iter().map(|region| region.read.as_ref());
    signed.evidence = Some(shelf::last_records(stores, &member.key).await?);
    for region in &rooted.regions {
        let beats = Beats::load(region.read.as_ref(), &keyring).await?;
        signed.beat = signed.beat.max(beats.newest_of(&member.key));
        names.extend(sources(region.read.as_ref()).await?.into_keys());
    }
    for name in names {
        let mut histories = Vec::new();
        for region in &rooted.regions {
            let store = Arc::clone(&region.read);
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

/// Asks whether something is to be done that can't be taken back.
///
/// # Errors
/// The answer is no, or there is nobody to ask.
pub(in crate::commands) fn confirm(what: &str, yes: bool, console: &Console) -> Result<()> {
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
