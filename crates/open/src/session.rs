//! Opening sessions.

use std::fmt;

use hkdf::Hkdf;
use hpke::{
    Deserializable, OpModeR, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256 as Kem,
};
use sha2::Sha256;
use tidemark_format::{
    Key, RepoId, SessionId,
    crypt::{HPKE_INFO, SESSION_COMMITMENT_INFO},
    envelope::Envelope,
    heads::{SealedTo, SessionHead},
    keys,
    sign::PublicKey,
};
use zeroize::Zeroizing;

use crate::{Error, Identity, Result};

/// A session's secret: opens every object of that session. Wiped when dropped.
pub struct SessionSecret {
    repo: RepoId,
    session: SessionId,
    secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionSecret({})", self.session)
    }
}

impl SessionSecret {
    /// Opens a session's object, which must stand under `key`. Returns its signer too: whether an
    /// agent signed is the caller's to check.
    ///
    /// # Errors
    /// Of kind `Key` when it isn't for this identity, else `Integrity`.
    pub fn open(identity: &Identity, key: &Key, bytes: &[u8]) -> Result<(Self, PublicKey)> {
        let (envelope, head) = Envelope::open::<SessionHead>(bytes).map_err(Error::format(key))?;
        if keys::session(head.session) != *key {
            return Err(misplaced(key, "it is another session"));
        }
        if head.repo != identity.repo() {
            return Err(Error::WrongRepository {
                identity: identity.repo(),
                found: head.repo,
                key: key.to_string(),
            });
        }
        let mine = identity.recipient().id();
        let sealed = head
            .recipients
            .iter()
            .find(|to| to.recipient == mine)
            .ok_or_else(|| {
                let names: Vec<String> = head
                    .recipients
                    .iter()
                    .take(16)
                    .map(|to| to.recipient.to_string())
                    .collect();
                Error::NotARecipient {
                    session: head.session,
                    identity: mine,
                    recipients: names.join(", "),
                }
            })?;
        let secret = unseal(identity, &head, sealed)
            .ok_or_else(|| misplaced(key, "what was sealed to this identity does not open"))?;
        let mut commitment = [0u8; 32];
        Hkdf::<Sha256>::new(None, secret.as_slice())
            .expand(SESSION_COMMITMENT_INFO, &mut commitment)
            .expect("HKDF-SHA256 gives 32 bytes");
        if commitment != head.commitment.0 {
            return Err(Error::Commitment {
                key: key.to_string(),
            });
        }
        Ok((
            Self {
                repo: head.repo,
                session: head.session,
                secret,
            },
            envelope.signer,
        ))
    }

    /// The repository.
    #[must_use]
    pub const fn repo(&self) -> RepoId {
        self.repo
    }

    /// The session.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

fn misplaced(key: &Key, why: &'static str) -> Error {
    Error::Misplaced {
        key: key.to_string(),
        why,
    }
}

fn unseal(
    identity: &Identity,
    head: &SessionHead,
    sealed: &SealedTo,
) -> Option<Zeroizing<[u8; 32]>> {
    let private = <Kem as hpke::Kem>::PrivateKey::from_bytes(identity.secret()).ok()?;
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated).ok()?;
    let info = [HPKE_INFO, &head.repo.0, &head.session.0].concat();
    let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, Kem>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        &info,
        &sealed.sealed,
        &[],
    )
    .ok()?;
    let opened = Zeroizing::new(opened);
    let secret: [u8; 32] = opened.as_slice().try_into().ok()?;
    Some(Zeroizing::new(secret))
}
