//! Signed objects and the places they belong to.

use bytes::Bytes;
use tidemark_format::envelope::{self, Head, Kind};
use tidemark_format::heads::{
    BaseHead, BeatHead, ClaimHead, DrillClaimHead, EnrolHead, FenceHead, KeyringHead, LogHead,
    PointHead, RegionHead,
};
use tidemark_format::sign::{PublicKey, SigningKey};
use tidemark_format::{Hash, Key, KeyId, PutId, RepoId, keys};
use tidemark_storage::{CreateStore, Created};

use crate::keyring::Subject;
use crate::{LedgerError, Result};

/// A head that says where it belongs.
pub trait Placed: Head {
    /// The repository it belongs to.
    fn repo(&self) -> RepoId;
    /// The attempt that created it.
    fn put(&self) -> PutId;
    /// The name it belongs under.
    fn place(&self, signer: KeyId) -> Key;
    /// What the keyring is asked about it.
    fn subject(&self) -> Subject;
}

macro_rules! placed {
    ($head:ty, |$this:ident, $signer:ident| $place:expr, $subject:expr) => {
        impl Placed for $head {
            fn repo(&self) -> RepoId {
                self.repo
            }

            fn put(&self) -> PutId {
                self.put
            }

            fn place(&self, $signer: KeyId) -> Key {
                let $this = self;
                $place
            }

            fn subject(&self) -> Subject {
                let $this = self;
                $subject
            }
        }
    };
}

placed!(
    LogHead,
    |this, _signer| keys::log(&this.source, this.epoch, this.seq),
    Subject::Log {
        source: this.source.clone(),
        epoch: this.epoch,
        seq: this.seq
    }
);
placed!(
    FenceHead,
    |this, _signer| keys::log(&this.source, this.epoch, this.seq),
    Subject::Fence {
        source: this.source.clone(),
        epoch: this.epoch,
        seq: this.seq,
        by_epoch: this.by_epoch,
        at: this.at
    }
);
placed!(
    ClaimHead,
    |this, _signer| keys::claim(&this.source, this.epoch),
    Subject::Claim {
        source: this.source.clone(),
        epoch: this.epoch,
        at: this.at
    }
);
placed!(
    PointHead,
    |this, _signer| keys::point(&this.source, this.epoch, this.seq),
    Subject::Point {
        source: this.source.clone(),
        epoch: this.epoch,
        seq: this.seq,
        at: this.at
    }
);
placed!(
    BaseHead,
    |this, _signer| keys::base(&this.source, this.epoch, this.generation, this.number),
    Subject::Base {
        source: this.source.clone(),
        epoch: this.epoch,
        generation: this.generation,
        number: this.number,
        at: this.finished_at
    }
);
placed!(
    BeatHead,
    |this, signer| keys::beat(signer, this.number),
    Subject::Beat {
        number: this.number,
        at: this.at
    }
);
placed!(
    KeyringHead,
    |this, _signer| keys::keyring(this.version),
    Subject::dated(Kind::Keyring, this.at)
);
placed!(
    EnrolHead,
    |this, _signer| keys::enrolment(this.key.id()),
    Subject::dated(Kind::Enrol, this.at)
);
placed!(
    DrillClaimHead,
    |this, _signer| keys::drill_claim(&this.drill, this.slot, this.seq),
    Subject::dated(Kind::DrillClaim, this.at)
);
placed!(
    RegionHead,
    |_this, _signer| keys::region(),
    Subject::Referenced(Kind::Region)
);

/// An object whose signature was checked against the signer it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<H> {
    /// Where it was found.
    pub key: Key,
    /// What it says.
    pub head: H,
    /// Its link: what a successor names as `prev`.
    pub link: Hash,
    /// Who signed it.
    pub signer: PublicKey,
    /// Bytes before the body.
    pub prefix_bytes: u64,
    /// Bytes of the whole object, as signed.
    pub size: u64,
}

impl<H: Placed> Verified<H> {
    /// Checks that the object is of this repository and stands where it belongs.
    ///
    /// # Errors
    /// [`LedgerError::Misplaced`], or [`LedgerError::OtherRepository`] where the marker or a keyring
    /// says whose the whole region is: one strange object among ours says nothing about the region.
    pub fn check_place(&self, repo: RepoId) -> Result<()> {
        let place = self.head.place(self.signer.id());
        let found = self.head.repo();
        if found != repo {
            let whole = self.key == keys::region() || self.key.as_str().starts_with(keys::KEYRINGS);
            return Err(if whole {
                LedgerError::OtherRepository {
                    found,
                    expected: repo,
                }
            } else {
                LedgerError::Misplaced {
                    key: self.key.to_string(),
                    says: format!("{place} of repository {found}"),
                }
            });
        }
        if place != self.key && !late_copy_of(&self.key, &place) {
            return Err(LedgerError::Misplaced {
                key: self.key.to_string(),
                says: place.to_string(),
            });
        }
        Ok(())
    }
}

/// Whether `key` is the late name (brought by repair past a fence) of the log object at `place`.
fn late_copy_of(key: &Key, place: &Key) -> bool {
    match (
        key.as_str().strip_prefix("meta/late/"),
        place.as_str().strip_prefix("meta/log/"),
    ) {
        (Some(late), Some(log)) => late == log,
        _ => false,
    }
}

/// An object ready to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Where it belongs.
    pub key: Key,
    /// All its bytes.
    pub bytes: Bytes,
    /// The attempt, by which a lost response is told from a lost race.
    pub put: PutId,
    /// Its link.
    pub link: Hash,
}

impl Signed {
    /// Signs an object without a body.
    ///
    /// # Errors
    /// [`LedgerError::Format`] when the head is larger than the format allows.
    pub fn new<H: Placed>(head: &H, signer: &SigningKey) -> Result<Self> {
        let key = head.place(signer.public().id());
        let bytes = envelope::encode(head, signer, &[]).map_err(LedgerError::format(&key))?;
        let link = Hash::of(&bytes);
        Ok(Self {
            key,
            bytes: Bytes::from(bytes),
            put: head.put(),
            link,
        })
    }

    /// Creates it in one region.
    ///
    /// # Errors
    /// The store's.
    pub async fn create(&self, store: &dyn CreateStore) -> Result<Created> {
        Ok(store
            .create(&self.key, self.bytes.clone(), &self.put)
            .await?)
    }
}
