//! Versions of the keyring, made by whoever holds the root key.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tidemark_format::heads::{KeyringHead, Member, RecipientEntry, Revocation, ValidUntil};
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, KeyId, LogSeq, PutId, SourceName};

use super::RootKey;
use crate::history::{SourceHistory, Standing};
use crate::object::Signed;
use crate::{Keyring, LedgerError, Result};

/// A change that makes the next version.
#[derive(Debug, Clone)]
pub enum Change {
    /// A key may sign from now on.
    AddMember(Member),
    /// A key may sign no more.
    RevokeMember {
        /// The key.
        key: PublicKey,
        /// When, why, and what stays valid.
        revocation: Revocation,
    },
    /// New sessions are sealed to this key, too.
    AddRecipient(RecipientEntry),
    /// New sessions are no longer sealed to this key.
    RevokeRecipient {
        /// The key's id.
        id: KeyId,
        /// When and why.
        revocation: Revocation,
    },
}

/// The first version.
///
/// # Errors
/// [`LedgerError::Format`] when it is larger than the format allows.
pub fn first_keyring(
    root: &RootKey,
    recipients: Vec<RecipientEntry>,
    members: Vec<Member>,
    put: PutId,
    now: Timestamp,
) -> Result<Signed> {
    let head = KeyringHead {
        repo: root.repo,
        version: 1,
        prev: None,
        put,
        at: now,
        members,
        recipients,
    };
    Signed::new(&head, &root.key)
}

/// The version after `keyring`, with `changes`.
///
/// # Errors
/// [`LedgerError::Keyring`] when the root isn't this keyring's, when a key to revoke isn't in it,
/// or when no recipient would be left.
pub fn amend(
    keyring: &Keyring,
    root: &RootKey,
    changes: Vec<Change>,
    put: PutId,
    now: Timestamp,
) -> Result<Signed> {
    let refuse = |why: String| LedgerError::Keyring { why };
    if root.trust() != *keyring.trust() {
        return Err(refuse(format!(
            "root key {} of repository {} is not this keyring's ({} of {})",
            root.id(),
            root.repo,
            keyring.trust().root,
            keyring.repo()
        )));
    }
    let mut head = keyring.head().clone();
    head.version = head.version.saturating_add(1);
    head.prev = Some(keyring.link());
    head.put = put;
    head.at = now;
    for change in changes {
        apply(&mut head, change).map_err(refuse)?;
    }
    if head.recipients.iter().all(|entry| entry.revoked.is_some()) {
        return Err(refuse(
            "no recipient would be left: nobody could read new backups".to_owned(),
        ));
    }
    Signed::new(&head, &root.key)
}

fn apply(head: &mut KeyringHead, change: Change) -> std::result::Result<(), String> {
    match change {
        Change::AddMember(member) => {
            let active = |other: &Member| other.key == member.key && other.revoked.is_none();
            if head.members.iter().any(active) {
                return Err(format!("key {} is enrolled already", member.key.id()));
            }
            head.members.push(member);
        }
        Change::RevokeMember { key, revocation } => {
            let active = |member: &&mut Member| member.key == key && member.revoked.is_none();
            let member = head.members.iter_mut().find(active);
            let member = member.ok_or_else(|| format!("key {} is not enrolled", key.id()))?;
            member.revoked = Some(revocation);
        }
        Change::AddRecipient(entry) => {
            if entry.key.repo != head.repo {
                return Err(format!(
                    "recipient {} is of another repository",
                    entry.key.id()
                ));
            }
            let active = |other: &RecipientEntry| other.key == entry.key && other.revoked.is_none();
            if head.recipients.iter().any(active) {
                return Err(format!("recipient {} is there already", entry.key.id()));
            }
            head.recipients.push(entry);
        }
        Change::RevokeRecipient { id, revocation } => {
            let active =
                |entry: &&mut RecipientEntry| entry.key.id() == id && entry.revoked.is_none();
            let entry = head.recipients.iter_mut().find(active);
            entry
                .ok_or_else(|| format!("recipient {id} is not there"))?
                .revoked = Some(revocation);
        }
    }
    Ok(())
}

/// What a key to be revoked has written and stays valid: for every epoch it wrote, the last log
/// object that counts in the regions read. Of several regions the furthest counts.
///
/// # Errors
/// The regions'; [`LedgerError`] of an object that should count and is damaged in all of them is
/// not one: the last good one before it is taken.
pub async fn valid_until(histories: &[SourceHistory], key: &PublicKey) -> Result<Vec<ValidUntil>> {
    let mut furthest: BTreeMap<(SourceName, Epoch), ValidUntil> = BTreeMap::new();
    for history in histories {
        for epoch in history
            .epochs()
            .map(|epoch| epoch.epoch)
            .collect::<Vec<_>>()
        {
            let Some(last) = last_by(history, epoch, key).await? else {
                continue;
            };
            let name = (last.source.clone(), last.epoch);
            let further = furthest.get(&name).is_none_or(|known| last.seq > known.seq);
            if further {
                furthest.insert(name, last);
            }
        }
    }
    Ok(furthest.into_values().collect())
}

/// The last good object of an epoch, if `key` wrote the epoch.
async fn last_by(
    history: &SourceHistory,
    epoch: Epoch,
    key: &PublicKey,
) -> Result<Option<ValidUntil>> {
    let Some(shown) = history.epoch(epoch) else {
        return Ok(None);
    };
    let wrote = shown
        .claim
        .as_ref()
        .is_some_and(|claim| claim.signer == *key);
    if !wrote {
        return Ok(None);
    }
    // Past the newest point only what is dense counts; an ended epoch counts to its end.
    let sealed = shown
        .points
        .last()
        .map_or_else(|| shown.first_seq(), |point| point.head.log_seq);
    let mut end = match shown.standing {
        Standing::Ended { last, .. } => last.next(),
        Standing::Live | Standing::EndUnknown { .. } | Standing::Claimed | Standing::Void => {
            shown.dense_end(sealed)
        }
    };
    while let Some(seq) = end.previous() {
        let entries = history.log(epoch, seq..LogSeq(end.0)).await?;
        if let Some(object) = entries.first().and_then(|entry| entry.state.object())
            && object.signer == *key
        {
            let source = history.source().clone();
            return Ok(Some(ValidUntil {
                source,
                epoch,
                seq,
                link: object.link,
            }));
        }
        end = seq;
    }
    Ok(None)
}
