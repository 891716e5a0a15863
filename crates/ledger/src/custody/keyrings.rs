//! Versions of the keyring, made by whoever holds the root key.

use jiff::Timestamp;
use tidemark_format::heads::{Facts, KeyringHead, Member, RecipientEntry, Revocation};
use tidemark_format::sign::PublicKey;
use tidemark_format::{KeyId, PutId};

use super::RootKey;
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
        more: Facts::new(),
    };
    Signed::new(&head, &root.key)
}

/// The version after `keyring`, with `changes`.
///
/// # Errors
/// [`LedgerError::Keyring`] when the root isn't this keyring's, [`LedgerError::Unchanged`] when a key
/// to revoke isn't in it or one to add is, [`LedgerError::LastRecipient`] when none would be left.
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
        apply(&mut head, change).map_err(|why| LedgerError::Unchanged { why })?;
    }
    if head.recipients.iter().all(|entry| entry.revoked.is_some()) {
        return Err(last_recipient(keyring));
    }
    Signed::new(&head, &root.key)
}

/// Why the last of a keyring's recipients stays.
fn last_recipient(keyring: &Keyring) -> LedgerError {
    keyring.recipients().last().map_or_else(
        || LedgerError::Unchanged {
            why: "it names no recipient, so nobody could read new backups".to_owned(),
        },
        |last| LedgerError::LastRecipient {
            name: last.name.clone(),
            id: last.key.id(),
            key: last.key,
        },
    )
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
