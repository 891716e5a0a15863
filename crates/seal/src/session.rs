//! A session: the secret under which one agent process seals for at most a day.
//!
//! Invariant: its sealed form ([`Session::begin`] returns it first) must be durable before the
//! first object that uses it; after a crash the secret is gone and nothing sealed before can be
//! opened here any more.

use std::fmt;
use std::sync::Arc;

use hkdf::Hkdf;
use hpke::{
    Deserializable, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256,
    rand_core,
};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;
use tidemark_format::{
    Hash, Incarnation, ObjectId, RepoId, SessionId, SourceName,
    crypt::{CryptHeader, HPKE_INFO, SESSION_COMMITMENT_INFO, source_tag},
    envelope::Kind,
    heads::{SealedTo, SessionHead},
    keys,
    recipient::RecipientKey,
    sign::SigningKey,
};
use tidemark_host::{Rng, RngExt};
use zeroize::Zeroizing;

use crate::{Error, Sealed, cipher::ObjectKey, object};

type Kem = X25519HkdfSha256;

/// The longest that a session may last (what a stolen host can decrypt of the past).
pub const SESSION_HOURS_MAX: i64 = 24;

/// A running session. Clones share the secret; it is wiped when the last one is dropped.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    repo: RepoId,
    id: SessionId,
    began: Timestamp,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.inner.id)
    }
}

impl Session {
    /// Draws a secret and seals it to every recipient. Revoked recipients are the caller's to leave
    /// out (`ledger`'s keyring); one named twice is sealed to once.
    ///
    /// # Errors
    /// [`Error::NoRecipients`], [`Error::ForeignRecipient`], [`Error::BadRecipient`].
    pub fn begin(
        repo: RepoId,
        recipients: &[RecipientKey],
        signer: &SigningKey,
        rng: &dyn Rng,
        now: Timestamp,
    ) -> Result<(Self, Sealed), Error> {
        let mut secret = Zeroizing::new([0u8; 32]);
        rng.fill(secret.as_mut_slice());
        let id: SessionId = rng.id();
        let mut sealed_to: Vec<SealedTo> = Vec::with_capacity(recipients.len());
        for recipient in recipients {
            if recipient.repo != repo {
                return Err(Error::ForeignRecipient {
                    recipient: recipient.id(),
                    expected: repo,
                    found: recipient.repo,
                });
            }
            if sealed_to.iter().all(|one| one.recipient != recipient.id()) {
                sealed_to.push(seal_to(recipient, repo, id, &secret, rng)?);
            }
        }
        if sealed_to.is_empty() {
            return Err(Error::NoRecipients);
        }
        let head = SessionHead {
            repo,
            session: id,
            put: rng.id(),
            at: now,
            commitment: commitment(&secret),
            recipients: sealed_to,
        };
        let sealed = object::sign(keys::session(id), head.put, &head, signer)?;
        let inner = Inner {
            repo,
            id,
            began: now,
            secret,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            sealed,
        ))
    }

    /// The repository it seals for.
    #[must_use]
    pub fn repo(&self) -> RepoId {
        self.inner.repo
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Timestamp {
        self.inner.began
    }

    /// Whether it has lasted long enough, or the clock says something impossible: begin another.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.inner.began);
        age < SignedDuration::ZERO || age >= SignedDuration::from_hours(SESSION_HOURS_MAX)
    }

    /// The key of an object of this session.
    pub(crate) fn object_key(
        &self,
        kind: Kind,
        source: &SourceName,
        incarnation: Incarnation,
        object: ObjectId,
    ) -> ObjectKey {
        let header = CryptHeader {
            kind,
            repo: self.inner.repo,
            source: source_tag(source),
            incarnation,
            object,
            session: self.inner.id,
        };
        ObjectKey::derive(&self.inner.secret, &header)
    }
}

fn commitment(secret: &[u8; 32]) -> Hash {
    let mut out = [0u8; 32];
    Hkdf::<Sha256>::new(None, secret)
        .expand(SESSION_COMMITMENT_INFO, &mut out)
        .expect("HKDF-SHA256 gives 32 bytes");
    Hash(out)
}

fn seal_to(
    recipient: &RecipientKey,
    repo: RepoId,
    session: SessionId,
    secret: &[u8; 32],
    rng: &dyn Rng,
) -> Result<SealedTo, Error> {
    let bad = |source| Error::BadRecipient {
        recipient: recipient.id(),
        source,
    };
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(&recipient.public).map_err(bad)?;
    let info = [HPKE_INFO, &repo.0, &session.0].concat();
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, Kem>(
        &OpModeS::Base,
        &public,
        &info,
        secret,
        &[],
        &mut Injected(rng),
    )
    .map_err(bad)?;
    Ok(SealedTo {
        recipient: recipient.id(),
        encapsulated: encapsulated.to_bytes().to_vec(),
        sealed,
    })
}

/// The injected generator as the cryptographic libraries take it.
struct Injected<'a>(&'a dyn Rng);

impl rand_core::TryRng for Injected<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(self.0.bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(self.0.bytes()))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(dst);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Injected<'_> {}

#[cfg(test)]
mod tests {
    use tidemark_format::{KeyId, envelope::Envelope};
    use tidemark_host::TestRng;

    use super::*;

    fn recipient(byte: u8, repo: RepoId) -> RecipientKey {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(&[byte; 32]).unwrap();
        let public = <Kem as hpke::Kem>::sk_to_pk(&secret).to_bytes();
        RecipientKey {
            public: public.into(),
            repo,
            root: KeyId([9; 16]),
        }
    }

    fn begin(recipients: &[RecipientKey]) -> Result<(Session, Sealed), Error> {
        let signer = SigningKey::from_secret(&[1; 32]);
        let rng = TestRng::seeded(1);
        Session::begin(
            RepoId([7; 16]),
            recipients,
            &signer,
            &rng,
            Timestamp::UNIX_EPOCH,
        )
    }

    #[test]
    fn a_session_is_sealed_once_to_each_recipient_and_its_object_is_signed() {
        let (one, two) = (recipient(1, RepoId([7; 16])), recipient(2, RepoId([7; 16])));
        let (session, sealed) = begin(&[one, two, one]).unwrap();
        let (envelope, head) = Envelope::open::<SessionHead>(&sealed.bytes).unwrap();
        assert_eq!(sealed.key, keys::session(session.id()));
        assert_eq!((sealed.link, sealed.put), (envelope.link(), head.put));
        let ids: Vec<_> = head.recipients.iter().map(|one| one.recipient).collect();
        assert_eq!(ids, [one.id(), two.id()]);
        assert!(
            head.recipients
                .iter()
                .all(|to| to.encapsulated.len() == 32 && to.sealed.len() == 48)
        );
    }

    #[test]
    fn nobody_and_strangers_are_refused() {
        assert!(matches!(begin(&[]), Err(Error::NoRecipients)));
        let stranger = recipient(1, RepoId([8; 16]));
        assert!(matches!(
            begin(&[stranger]),
            Err(Error::ForeignRecipient { .. })
        ));
        let mut weak = recipient(1, RepoId([7; 16]));
        weak.public = [0; 32];
        assert!(matches!(begin(&[weak]), Err(Error::BadRecipient { .. })));
    }

    #[test]
    fn a_session_is_over_after_a_day_and_when_the_clock_went_back() {
        let (session, _sealed) = begin(&[recipient(1, RepoId([7; 16]))]).unwrap();
        let after = |hours| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        assert!(!session.is_over(after(23)));
        assert!(session.is_over(after(24)));
        assert!(session.is_over(after(-1)));
    }
}
