//! Who may sign what: the keyring, believed only from the pinned root on.
//!
//! **Invariants.** Versions are dense from 1 and linked by hash, each signed by the root; the
//! highest counts. A hole, a broken link or another signer refuses the whole keyring: a thief who
//! hides the newest version must not bring a revoked key back to life. That a region hides it
//! altogether is noticed by whoever has seen a newer one ([`Keyring::load_at_least`]).

use std::fmt;

use jiff::Timestamp;
use tidemark_format::envelope::Kind;
use tidemark_format::evidence::Sha256;
use tidemark_format::heads::{
    Anchors, KeyringHead, Member, RecipientEntry, Revocation, Role, ValidUntil,
};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::PublicKey;
use tidemark_format::{BaseNumber, Epoch, Hash, KeyId, LogSeq, PointSeq, RepoId, SourceName, keys};
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
    /// A recovery point. From a revoked key it counts up to the one that the revocation names.
    Point {
        /// The source.
        source: SourceName,
        /// The epoch.
        epoch: Epoch,
        /// The place in the epoch.
        seq: PointSeq,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// A base. From a revoked key it counts up to the one of its generation that the revocation
    /// names.
    Base {
        /// The source.
        source: SourceName,
        /// The epoch.
        epoch: Epoch,
        /// The generation.
        generation: LogSeq,
        /// The place in the generation.
        number: BaseNumber,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// A claim. From a revoked key it counts if the revocation names it.
    Claim {
        /// The source.
        source: SourceName,
        /// The epoch.
        epoch: Epoch,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// A fence. From a revoked key it counts if the revocation names it, or the claim that it was
    /// set for.
    Fence {
        /// The source.
        source: SourceName,
        /// The epoch that it ends.
        epoch: Epoch,
        /// Its place in the log.
        seq: LogSeq,
        /// The epoch that it was set for.
        by_epoch: Epoch,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// A beat. From a revoked key it counts up to the number that the revocation names.
    Beat {
        /// Its number.
        number: u64,
        /// When it was made, by its signer's clock.
        at: Timestamp,
    },
    /// An evidence record. From a revoked key it counts up to the one that the revocation names.
    Evidence {
        /// Its number.
        number: u64,
        /// When it was made, by its signer's clock.
        at: Timestamp,
        /// The SHA-256 of its bytes.
        sha256: Sha256,
    },
    /// Another object that says when it was made. From a revoked key it counts if that was before
    /// the revocation. Where a revocation names no anchors, the same holds for the kinds above but
    /// the log.
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
            Self::Point {
                source, epoch, seq, ..
            } => write!(f, "recovery point {seq} of {source}, epoch {epoch},"),
            Self::Base {
                source,
                epoch,
                generation,
                number,
                ..
            } => write!(
                f,
                "base {number} of {source}, epoch {epoch}, generation {generation},"
            ),
            Self::Claim { source, epoch, .. } => {
                write!(f, "the claim of {source}, epoch {epoch},")
            }
            Self::Fence {
                source, epoch, seq, ..
            } => write!(f, "a fence at {seq} of {source}, epoch {epoch},"),
            Self::Beat { number, .. } => write!(f, "beat {number}"),
            Self::Evidence { number, at, .. } => write!(f, "evidence record {number} of {at}"),
            Self::Dated { kind, at } => write!(f, "a {} of {at}", kind.name()),
            Self::Referenced(kind) => write!(f, "a {}", kind.name()),
        }
    }
}

/// The repository's members and recipients, as the root signed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyring {
    head: KeyringHead,
    /// The link of every version, from the first on.
    links: Vec<Hash>,
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
        let (version, prev) = before.map_or((1, None), |before| {
            (before.version().saturating_add(1), Some(before.link()))
        });
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
        let mut links = before.map_or_else(Vec::new, |before| before.links.clone());
        links.push(object.link);
        Ok(Self {
            head: object.head,
            links,
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
    pub fn link(&self) -> Hash {
        self.links.last().copied().unwrap_or(Hash([0; 32]))
    }

    /// The first version at which this and another region's keyring are not the same object, if
    /// there is one. A keyring that merely has fewer versions does not differ.
    #[must_use]
    pub fn differs_from(&self, other: &Self) -> Option<u32> {
        let pairs = self.links.iter().zip(&other.links);
        let version = (1..).zip(pairs).find(|(_, (ours, theirs))| ours != theirs);
        version.map(|(version, _)| version)
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
        self.judge(signer, roles, subject, None)
    }

    fn judge(
        &self,
        signer: &PublicKey,
        roles: &[Role],
        subject: &Subject,
        link: Option<Hash>,
    ) -> Result<&Member> {
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
        if counts(revocation, subject, link) {
            Ok(member)
        } else {
            Err(revoked(member, revocation, subject))
        }
    }

    /// Checks signer, place and repository of an object whose signature was checked.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn accept<H: Placed>(&self, object: &Verified<H>, roles: &[Role]) -> Result<&Member> {
        object.check_place(self.trust.repo)?;
        let subject = object.head.subject();
        self.judge(&object.signer, roles, &subject, Some(object.link))
    }

    /// The last objects of an epoch, one for each region that was read then, that a revoked key's
    /// signature counts for; none when the key isn't revoked or nothing of that epoch counts.
    pub fn log_anchors(
        &self,
        signer: &PublicKey,
        source: &SourceName,
        epoch: Epoch,
    ) -> impl Iterator<Item = &ValidUntil> {
        let revocation = self.revocation(signer);
        let all = revocation.map_or(&[][..], |revocation| &revocation.valid_until);
        all.iter()
            .filter(move |last| last.source == *source && last.epoch == epoch)
    }

    /// What a revoked key had signed besides its log, if its revocation says so.
    #[must_use]
    pub fn anchors(&self, signer: &PublicKey) -> Option<&Anchors> {
        self.revocation(signer)?.anchors.as_ref()
    }

    fn revocation(&self, signer: &PublicKey) -> Option<&Revocation> {
        self.member(signer)?.revoked.as_ref()
    }

    /// Why `object`, signed by a key that is revoked by now, does not count.
    pub(crate) fn refusal<H: Placed>(&self, object: &Verified<H>) -> LedgerError {
        let subject = object.head.subject();
        let unknown = || LedgerError::UnknownSigner {
            signer: object.signer.id(),
            what: subject.to_string(),
        };
        let member = self.member(&object.signer);
        let revocation = member.and_then(|member| member.revoked.as_ref());
        member
            .zip(revocation)
            .map_or_else(unknown, |(member, revocation)| {
                revoked(member, revocation, &subject)
            })
    }
}

fn revoked(member: &Member, revocation: &Revocation, subject: &Subject) -> LedgerError {
    LedgerError::Revoked {
        signer: member.key.id(),
        name: member.name.clone(),
        at: revocation.at,
        reason: revocation.reason.clone(),
        what: subject.to_string(),
    }
}

/// Whether what a revoked key signed still counts; with its `link` also whether it is the very
/// object that an anchor names.
fn counts(revocation: &Revocation, subject: &Subject, link: Option<Hash>) -> bool {
    let anchors = revocation.anchors.as_ref();
    let dated = |at: &Timestamp| anchors.is_none() && *at <= revocation.at;
    match subject {
        Subject::Log { source, epoch, seq } => {
            let all = revocation.valid_until.iter();
            let mut own = all.filter(|last| last.source == *source && last.epoch == *epoch);
            own.any(|last| *seq <= last.seq)
        }
        Subject::Point {
            source,
            epoch,
            seq,
            at,
        } => {
            let all = anchors.iter().flat_map(|anchors| &anchors.points);
            let own = all.filter(|last| last.source == *source && last.epoch == *epoch);
            dated(at) || within(own.map(|last| (last.seq, last.link)), *seq, link)
        }
        Subject::Base {
            source,
            epoch,
            generation,
            number,
            at,
        } => {
            let all = anchors.iter().flat_map(|anchors| &anchors.bases);
            let own = all.filter(|last| last.source == *source && last.epoch == *epoch);
            let own = own.filter(|last| last.generation == *generation);
            dated(at) || within(own.map(|last| (last.number, last.link)), *number, link)
        }
        Subject::Claim { source, epoch, at } => {
            dated(at) || anchors.is_some_and(|anchors| claimed(anchors, source, *epoch, link))
        }
        Subject::Fence {
            source,
            epoch,
            seq,
            by_epoch,
            at,
        } => {
            let named = |anchors: &Anchors| {
                let mut all = anchors.fences.iter();
                all.any(|fence| {
                    fence.source == *source
                        && (fence.epoch, fence.seq) == (*epoch, *seq)
                        && link.is_none_or(|link| link == fence.link)
                }) || claimed(anchors, source, *by_epoch, None)
            };
            dated(at) || anchors.is_some_and(named)
        }
        Subject::Beat { number, at } => {
            let last = anchors.and_then(|anchors| anchors.beat);
            dated(at) || last.is_some_and(|last| *number <= last)
        }
        Subject::Evidence { number, at, sha256 } => {
            match anchors.and_then(|anchors| anchors.evidence.as_ref()) {
                Some(all) => {
                    let all = all.iter().map(|last| (last.seq, last.sha256));
                    within(all, *number, Some(*sha256))
                }
                None => *at <= revocation.at,
            }
        }
        Subject::Dated { at, .. } => *at <= revocation.at,
        Subject::Referenced(_) => true,
    }
}

fn claimed(anchors: &Anchors, source: &SourceName, epoch: Epoch, link: Option<Hash>) -> bool {
    anchors.claims.iter().any(|claim| {
        claim.source == *source
            && claim.epoch == epoch
            && link.is_none_or(|link| link == claim.link)
    })
}

/// Whether `place` is at most the furthest of `anchors` and, where one of them names this very
/// place, `link` is the one it names.
fn within<T: Ord + Copy, L: PartialEq + Copy>(
    anchors: impl Iterator<Item = (T, L)>,
    place: T,
    link: Option<L>,
) -> bool {
    let (mut furthest, mut named, mut same) = (None, false, false);
    for (last, its_link) in anchors {
        furthest = furthest.max(Some(last));
        named |= last == place;
        same |= last == place && link.is_none_or(|link| link == its_link);
    }
    furthest.is_some_and(|furthest| place <= furthest) && (same || !named)
}
