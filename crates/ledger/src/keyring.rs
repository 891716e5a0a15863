//! Who may sign what: the keyring, believed only from the pinned root on.
//!
//! **Invariants.** Versions are dense from 1 and linked by hash, each signed by the root; the
//! highest counts. A hole, a broken link or another signer refuses the whole keyring: a thief who
//! hides the newest version must not bring a revoked key back to life. That a region hides it
//! altogether is noticed by whoever has seen a newer one ([`Keyring::load_at_least`]).

use std::fmt;

use jiff::Timestamp;
use tidemark_format::envelope::Kind;
use tidemark_format::heads::{KeyringHead, Member, RecipientEntry, Role, ValidUntil};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::PublicKey;
use tidemark_format::{Epoch, Hash, KeyId, LogSeq, RepoId, SourceName, keys};
use tidemark_storage::ReadStore;

use crate::object::{Placed, Verified};
use crate::read::{list_all, read_verified};
use crate::{LedgerError, Result};

/// What is believed before anything was read: the repository and the root's fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// The repository.
    pub repo: RepoId,
    /// The id of the root key, which signs the keyring and nothing else.
    pub root: KeyId,
}

impl Trust {
    /// What a recovery public key says about its repository.
    #[must_use]
    pub const fn of(recipient: &RecipientKey) -> Self {
        Self {
            repo: recipient.repo,
            root: recipient.root,
        }
    }
}

/// What a signature is asked about: decides what a revoked key's signature still counts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A log object. From a revoked key it counts up to the sequence that the revocation names.
    Log {
        /// The source.
        source: SourceName,
        /// The epoch.
        epoch: Epoch,
        /// The place in the epoch.
        seq: LogSeq,
    },
    /// Another object that says when it was made. From a revoked key it counts if that was before
    /// the revocation.
    Dated {
        /// What it is.
        kind: Kind,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// An object that something already accepted names by its hash: the signer must be known, and
    /// may have been revoked since.
    Referenced(Kind),
}

impl Subject {
    /// An object that says when it was made.
    #[must_use]
    pub const fn dated(kind: Kind, at: Timestamp) -> Self {
        Self::Dated { kind, at }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log { source, epoch, seq } => {
                write!(f, "log object {seq} of {source}, epoch {epoch},")
            }
            Self::Dated { kind, at } => write!(f, "a {} of {at}", kind.name()),
            Self::Referenced(kind) => write!(f, "a {}", kind.name()),
        }
    }
}

/// The repository's members and recipients, as the root signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    head: KeyringHead,
    link: Hash,
    trust: Trust,
}

impl Keyring {
    /// Reads and checks every version, and returns the highest.
    ///
    /// # Errors
    /// [`LedgerError::NoRepository`] when there is none, [`LedgerError::Keyring`] when it can't be
    /// trusted, or the region's.
    pub async fn load(store: &dyn ReadStore, trust: &Trust) -> Result<Self> {
        Self::load_at_least(store, trust, 0).await
    }

    /// Like [`Self::load`], and refuses a version below one that was seen before.
    ///
    /// # Errors
    /// Also [`LedgerError::KeyringOlder`].
    pub async fn load_at_least(store: &dyn ReadStore, trust: &Trust, seen: u32) -> Result<Self> {
        let listed = list_all(store, keys::KEYRINGS).await?;
        let mut newest: Option<Self> = None;
        for entry in &listed {
            let object = read_verified::<KeyringHead>(store, &entry.key, Some(entry.size)).await?;
            newest = Some(Self::append(newest.as_ref(), object, trust)?);
        }
        let keyring = newest.ok_or_else(|| LedgerError::NoRepository {
            missing: "a keyring".to_owned(),
        })?;
        if keyring.version() < seen {
            return Err(LedgerError::KeyringOlder {
                found: keyring.version(),
                seen,
            });
        }
        Ok(keyring)
    }

    /// The next version on top of `before`, checked.
    pub(crate) fn append(
        before: Option<&Self>,
        object: Verified<KeyringHead>,
        trust: &Trust,
    ) -> Result<Self> {
        let refuse = |why: String| LedgerError::Keyring { why };
        if object.signer.id() != trust.root {
            return Err(refuse(format!(
                "{} is signed by key {}, not by the root {} that this identity or config pins",
                object.key,
                object.signer.id(),
                trust.root
            )));
        }
        object.check_place(trust.repo)?;
        let (version, prev) =
            before.map_or((1, None), |k| (k.version().saturating_add(1), Some(k.link)));
        if object.head.version != version {
            return Err(refuse(format!(
                "version {version} is missing while version {} is there: somebody removed it or a copy failed",
                object.head.version
            )));
        }
        if object.head.prev != prev {
            return Err(refuse(format!(
                "version {version} does not follow the version before it"
            )));
        }
        Ok(Self {
            head: object.head,
            link: object.link,
            trust: *trust,
        })
    }

    /// The version.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.head.version
    }

    /// What it was believed from.
    #[must_use]
    pub const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The repository.
    #[must_use]
    pub const fn repo(&self) -> RepoId {
        self.trust.repo
    }

    /// All it says.
    #[must_use]
    pub const fn head(&self) -> &KeyringHead {
        &self.head
    }

    /// The link that the next version names.
    #[must_use]
    pub const fn link(&self) -> Hash {
        self.link
    }

    /// Every signer, revoked ones included.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.head.members
    }

    /// The recipients to which new sessions are sealed.
    pub fn recipients(&self) -> impl Iterator<Item = &RecipientEntry> {
        self.head
            .recipients
            .iter()
            .filter(|entry| entry.revoked.is_none())
    }

    /// The member behind a key, if the root ever enrolled it.
    #[must_use]
    pub fn member(&self, signer: &PublicKey) -> Option<&Member> {
        // The last entry of a key counts: a later version may have enrolled it anew.
        self.head
            .members
            .iter()
            .rev()
            .find(|member| member.key == *signer)
    }

    /// Checks that `signer` may have signed `subject` in one of `roles`.
    ///
    /// # Errors
    /// [`LedgerError::UnknownSigner`], [`LedgerError::WrongRole`] or [`LedgerError::Revoked`].
    pub fn check(&self, signer: &PublicKey, roles: &[Role], subject: &Subject) -> Result<&Member> {
        let member = self
            .member(signer)
            .ok_or_else(|| LedgerError::UnknownSigner {
                signer: signer.id(),
                what: subject.to_string(),
            })?;
        if !roles.contains(&member.role) {
            return Err(LedgerError::WrongRole {
                signer: signer.id(),
                name: member.name.clone(),
                what: subject.to_string(),
            });
        }
        let Some(revocation) = &member.revoked else {
            return Ok(member);
        };
        let still_counts = match subject {
            Subject::Log { source, epoch, seq } => covered(&revocation.valid_until, source, *epoch)
                .is_some_and(|last| *seq <= last.seq),
            Subject::Dated { at, .. } => *at <= revocation.at,
            Subject::Referenced(_) => true,
        };
        if still_counts {
            return Ok(member);
        }
        Err(LedgerError::Revoked {
            signer: signer.id(),
            name: member.name.clone(),
            at: revocation.at,
            reason: revocation.reason.clone(),
            what: subject.to_string(),
        })
    }

    /// Checks signer, place and repository of an object whose signature was checked.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn accept<H: Placed>(&self, object: &Verified<H>, roles: &[Role]) -> Result<&Member> {
        object.check_place(self.trust.repo)?;
        self.check(&object.signer, roles, &object.head.subject())
    }

    /// The last object of an epoch that a revoked key's signature counts for; `None` when the key
    /// isn't revoked or nothing of that epoch counts.
    #[must_use]
    pub fn anchor(
        &self,
        signer: &PublicKey,
        source: &SourceName,
        epoch: Epoch,
    ) -> Option<&ValidUntil> {
        let revocation = self.member(signer)?.revoked.as_ref()?;
        covered(&revocation.valid_until, source, epoch)
    }
}

fn covered<'a>(all: &'a [ValidUntil], source: &SourceName, epoch: Epoch) -> Option<&'a ValidUntil> {
    all.iter()
        .find(|last| last.source == *source && last.epoch == epoch)
}
