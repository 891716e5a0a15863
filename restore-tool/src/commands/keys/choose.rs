//! Which requests, recipients and keys a person means: by id, by the beginning of one, or all.
//!
//! Decides only; `sign` acts.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use tidemark_format::KeyId;
use tidemark_format::heads::{EnrolHead, Facts, Member, RecipientEntry};
use tidemark_format::recipient::RecipientKey;
use tidemark_ledger::custody::{KeyFields, ROOT_TITLE, RootKey};
use tidemark_ledger::{Keyring, Trust, Verified};

use super::new::{ESCROW_LINE, RECOVERY_LINE};
use super::sign::Wanted;
use crate::cli::KeyWord;
use crate::error::{Error, Result};

/// What a recipient is called that nobody named.
const UNNAMED: &str = "recipient";

/// The requests to answer.
pub(super) fn request(
    requests: BTreeMap<KeyId, Verified<EnrolHead>>,
    key: Option<&KeyWord>,
    all: bool,
) -> Result<Vec<Verified<EnrolHead>>> {
    let lines = requests.values().map(|request| {
        let head = &request.head;
        format!("{} ({})", head.key.id(), head.name)
    });
    let list = lines.collect::<Vec<_>>().join(", ");
    if requests.is_empty() {
        return Err(Error::KeyUnknown(
            "nobody asks to be enrolled in the regions given: run tidemark-agent init on the database's host first; to add a recovery key instead, give --recipient".to_owned(),
        ));
    }
    let Some(key) = key else {
        if all || requests.len() == 1 {
            return Ok(requests.into_values().collect());
        }
        return Err(Error::KeyUnknown(format!(
            "several keys ask to be enrolled: name one, or say --all: {list}"
        )));
    };
    let named: Vec<_> = requests
        .into_values()
        .filter(|request| key.names(request.head.key.id()))
        .collect();
    match named.len() {
        1 => Ok(named),
        0 => Err(Error::KeyUnknown(format!(
            "key {key} does not ask to be enrolled; these do: {list}"
        ))),
        _ => Err(ambiguous(key, &list)),
    }
}

fn ambiguous(key: &KeyWord, list: &str) -> Error {
    Error::KeyUnknown(format!(
        "several keys begin with {key}: give more digits: {list}"
    ))
}

/// The recipients of the first keyring: those named, and those that stand in the root's file.
pub(super) fn first_recipients(
    file: &Path,
    root: &RootKey,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<Vec<RecipientEntry>> {
    let bytes = tidemark_host::files::read_private(file)?;
    let text = String::from_utf8_lossy(&bytes);
    let fields = KeyFields::parse("this root key file", ROOT_TITLE, &text)?;
    let mut entries: Vec<RecipientEntry> = Vec::new();
    let mut add = |key: RecipientKey, name: &str| {
        if !entries.iter().any(|entry| entry.key == key) {
            entries.push(entry(key, name, now));
        }
    };
    for line in [RECOVERY_LINE, ESCROW_LINE] {
        if fields.get(line).is_some() {
            add(fields.need(line)?, line);
        }
    }
    for key in wanted.recipients {
        belongs(key, &root.trust())?;
        add(*key, wanted.name.unwrap_or(UNNAMED));
    }
    if entries.is_empty() {
        return Err(Error::KeyUnknown(
            "this repository has no keyring yet and the root file names no recipient: give the public keys with --recipient".to_owned(),
        ));
    }
    Ok(entries)
}

/// The recipients asked for that a keyring doesn't have yet, and what to say of those it has.
pub(super) fn new_recipients(
    keyring: &Keyring,
    wanted: &Wanted<'_>,
    now: Timestamp,
) -> Result<(Vec<RecipientEntry>, Vec<String>)> {
    let (mut new, mut said): (Vec<RecipientEntry>, _) = (Vec::new(), Vec::new());
    for key in wanted.recipients {
        belongs(key, keyring.trust())?;
        let known = keyring.recipients().find(|entry| entry.key == *key);
        match known {
            Some(known) => said.push(format!(
                "{} ({}) was a recipient before",
                known.name,
                key.id()
            )),
            None if new.iter().any(|entry| entry.key == *key) => {}
            None => new.push(entry(*key, wanted.name.unwrap_or(UNNAMED), now)),
        }
    }
    Ok((new, said))
}

fn entry(key: RecipientKey, name: &str, now: Timestamp) -> RecipientEntry {
    RecipientEntry {
        key,
        name: name.to_owned(),
        added_at: now,
        revoked: None,
        more: Facts::new(),
    }
}

/// A recipient must be made for this repository, or the identity behind it would trust another root.
fn belongs(key: &RecipientKey, trust: &Trust) -> Result<()> {
    if Trust::of(key) == *trust {
        return Ok(());
    }
    Err(Error::KeyUnknown(format!(
        "recipient {} was made for repository {} and root {}, and this is repository {} with root {}: make one \
         of this repository with tidemark-restore keys new --repository, giving any of its public keys",
        key.id(),
        key.repo,
        key.root,
        trust.repo,
        trust.root
    )))
}

/// What a person wants to revoke.
pub(super) enum Revoked {
    /// Who may sign.
    Member(Member),
    /// Who may read.
    Recipient(RecipientEntry),
    /// It is revoked already.
    Before(String),
}

/// Finds what `key` names.
pub(super) fn to_revoke(keyring: &Keyring, key: &KeyWord) -> Result<Revoked> {
    let members = keyring.members().iter();
    let members = members.filter(|member| member.revoked.is_none() && key.names(member.key.id()));
    let members = members.map(|member| {
        (
            member.key.id(),
            member.name.clone(),
            Revoked::Member(member.clone()),
        )
    });
    let recipients = keyring
        .recipients()
        .filter(|entry| key.names(entry.key.id()));
    let recipients = recipients.map(|entry| {
        (
            entry.key.id(),
            entry.name.clone(),
            Revoked::Recipient(entry.clone()),
        )
    });
    let mut found: Vec<(KeyId, String, Revoked)> = members.chain(recipients).collect();
    let list: Vec<String> = found
        .iter()
        .map(|(id, name, _)| format!("{id} ({name})"))
        .collect();
    match found.pop() {
        Some((.., one)) if found.is_empty() => Ok(one),
        Some(_) => Err(ambiguous(key, &list.join(", "))),
        None => gone(keyring, key),
    }
}

/// A key that may do nothing any more, or never could.
fn gone(keyring: &Keyring, key: &KeyWord) -> Result<Revoked> {
    let members = keyring.members().iter();
    let members = members.map(|member| (member.key.id(), &member.name, &member.revoked));
    let recipients = keyring.head().recipients.iter();
    let recipients = recipients.map(|entry| (entry.key.id(), &entry.name, &entry.revoked));
    let mut all = members.chain(recipients).filter(|(id, ..)| key.names(*id));
    match all.next() {
        Some((id, name, Some(revoked))) => Ok(Revoked::Before(format!(
            "{name} ({id}) was revoked before, on {}",
            tidemark_host::output::instant(revoked.at)
        ))),
        _ => Err(Error::KeyUnknown(format!(
            "key {key} is neither an active member nor an active recipient: keys list shows them"
        ))),
    }
}
