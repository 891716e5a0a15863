//! Keys and who holds them: a repository's root, its recovery identities, its keyring.
//!
//! In production all of this is made on another host than the database's; the agent gets public
//! keys only. The root key signs keyrings and nothing else. Private keys are wiped from memory when
//! dropped, never printed, and written to files that only their owner may read.

mod anchors;
mod copies;
mod enrol;
mod files;
mod keyrings;

use std::fmt;

use hpke::kem::{Kem as _, X25519HkdfSha256};
use hpke::{Deserializable as _, Serializable as _};
use jiff::Timestamp;
use tidemark_format::heads::{Facts, Member, RecipientEntry, Role};
use tidemark_format::recipient::{IdentityKey, RecipientKey};
use tidemark_format::sign::{PublicKey, SigningKey};
use tidemark_format::{KeyId, RepoId};
use tidemark_host::{Rng, RngExt as _};
use zeroize::Zeroizing;

pub use anchors::{anchors, valid_until};
pub use copies::{KeyringCopies, KeyringCopy, Published, agree};
pub use enrol::{
    Adopted, adopt_recipients, enrol_request, enrolments, first_enrolments, is_enrolled,
};
pub use files::{IDENTITY_TITLE, IdentityFile, KeyFields, ROOT_TITLE, RootFile};
pub use keyrings::{Change, amend, first_keyring};

use crate::Trust;

/// The root key: whoever holds it says who may write and read.
#[derive(Clone)]
pub struct RootKey {
    /// The repository.
    pub repo: RepoId,
    /// The key.
    pub key: SigningKey,
    /// When it was made.
    pub created: Timestamp,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", self.id())
    }
}

impl RootKey {
    /// The fingerprint that agents and identities pin.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.key.public().id()
    }

    /// What to trust.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust {
            repo: self.repo,
            root: self.id(),
        }
    }
}

/// A recovery identity and what its file says beside the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedIdentity {
    /// The private key.
    pub key: IdentityKey,
    /// Whose it is.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

impl NamedIdentity {
    /// The public half, for agents.
    #[must_use]
    pub fn recipient(&self) -> RecipientKey {
        recipient_of(&self.key)
    }

    /// As the keyring lists it.
    #[must_use]
    pub fn entry(&self) -> RecipientEntry {
        RecipientEntry {
            key: self.recipient(),
            name: self.name.clone(),
            added_at: self.created,
            revoked: None,
            more: Facts::new(),
        }
    }
}

/// The keys of a new repository.
#[derive(Debug, Clone)]
pub struct NewKeys {
    /// The root.
    pub root: RootKey,
    /// The identity for daily use.
    pub identity: NamedIdentity,
    /// The one that a second person keeps.
    pub escrow: NamedIdentity,
}

impl NewKeys {
    /// Makes the keys of a new repository.
    #[must_use]
    pub fn generate(rng: &dyn Rng, now: Timestamp) -> Self {
        let secret = Zeroizing::new(rng.bytes::<32>());
        let key = SigningKey::from_secret(&secret);
        let root = RootKey {
            repo: rng.id(),
            key,
            created: now,
        };
        let trust = root.trust();
        Self {
            identity: new_identity(&trust, "recovery", rng, now),
            escrow: new_identity(&trust, "escrow", rng, now),
            root,
        }
    }

    /// The repository.
    #[must_use]
    pub const fn repo(&self) -> RepoId {
        self.root.repo
    }
}

/// Makes a further identity of a repository, e.g. a drill host's own.
#[must_use]
pub fn new_identity(trust: &Trust, name: &str, rng: &dyn Rng, now: Timestamp) -> NamedIdentity {
    let key = IdentityKey {
        secret: rng.bytes(),
        repo: trust.repo,
        root: trust.root,
    };
    NamedIdentity {
        key,
        name: name.to_owned(),
        created: now,
    }
}

/// Makes a signing key, e.g. an agent's.
#[must_use]
pub fn new_signing_key(rng: &dyn Rng) -> SigningKey {
    let secret = Zeroizing::new(rng.bytes::<32>());
    SigningKey::from_secret(&secret)
}

/// A member that may sign in `role` from now on.
#[must_use]
pub const fn member(role: Role, key: PublicKey, name: String, now: Timestamp) -> Member {
    Member {
        role,
        key,
        name,
        added_at: now,
        revoked: None,
        more: Facts::new(),
    }
}

/// The public half of a recovery identity.
#[must_use]
pub fn recipient_of(identity: &IdentityKey) -> RecipientKey {
    RecipientKey {
        public: public_of(&identity.secret),
        repo: identity.repo,
        root: identity.root,
    }
}

/// X25519: every 32 bytes are a private key.
fn public_of(secret: &[u8; 32]) -> [u8; 32] {
    type Private = <X25519HkdfSha256 as hpke::Kem>::PrivateKey;
    let Ok(private) = Private::from_bytes(secret) else {
        return [0; 32];
    };
    X25519HkdfSha256::sk_to_pk(&private).to_bytes().into()
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;

    #[test]
    fn the_public_half_is_x25519s() {
        // RFC 7748: section 5.2, the first iteration (9 times the base point); section 6.1, Alice.
        let nine = "0900000000000000000000000000000000000000000000000000000000000000";
        let alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        for (secret, public) in [
            (
                nine,
                "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
            ),
            (
                alice,
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
        ] {
            let secret: [u8; 32] = hex::decode(secret).unwrap().try_into().unwrap();
            assert_eq!(hex::encode(public_of(&secret)), public);
        }
    }

    #[test]
    fn a_new_repository_has_two_identities_that_name_its_root() {
        let keys = NewKeys::generate(&TestRng::seeded(1), Timestamp::UNIX_EPOCH);
        for identity in [&keys.identity, &keys.escrow] {
            assert_eq!(Trust::of(&identity.recipient()), keys.root.trust());
        }
        assert_ne!(
            keys.identity.recipient().public,
            keys.escrow.recipient().public
        );
        assert!(!format!("{keys:?}").contains(&hex::encode(keys.identity.key.secret)));
    }
}
