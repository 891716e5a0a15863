//! Recovery identities and their files.
//!
//! ```text
//! tidemark-identity-1
//! # comment
//! repo = …        the repository's id
//! root = …        the id of the root key
//! name = …        whose it is
//! created = …
//! secret = tmi1…  or:
//! sealed = argon2id:MEMORY_KIB:PASSES:LANES:SALT:BOX
//! ```
//!
//! BOX is AES-256-GCM (key = Argon2id of the passphrase, nonce zero: every key has its own salt;
//! associated data = the first line, repo, root) over the 32 secret bytes. SALT and BOX are hex.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use hkdf::Hkdf;
use hpke::{Deserializable, Kem as _, Serializable, kem::X25519HkdfSha256 as Kem};
use jiff::Timestamp;
use sha2::Sha256;
use tidemark_format::{
    KeyId, RepoId,
    recipient::{IdentityKey, RecipientKey},
    sign::SigningKey,
};
use tidemark_host::{Rng, RngExt, files};
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Result};

/// Sets the evidence key apart from whatever else may be derived from an identity.
const EVIDENCE_INFO: &[u8] = b"tidemark-evidence-v1";
const FIRST_LINE: &str = "tidemark-identity-1";
/// The first line of a root key's file, which people take for an identity.
const ROOT_LINE: &str = "tidemark-root-1";
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// What a new passphrase costs: 64 MiB, three passes (RFC 9106's second choice), below a second.
const COST: (u32, u32, u32) = (64 * 1024, 3, 1);
/// The most that a file may ask for: 1 GiB, 64 passes.
const COST_MAX: (u32, u32, u32) = (1 << 20, 64, 16);

/// Whether a file that others may read is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileRights {
    /// Only the owner may read it.
    #[default]
    Private,
    /// The user said that it is all right (a credential handed in by systemd, say).
    Any,
}

/// A recovery identity: opens what was sealed to it.
pub struct Identity {
    key: IdentityKey,
    name: Option<String>,
    public: [u8; 32],
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.key.secret.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient().id())
    }
}

impl Identity {
    /// The identity of a key in words.
    #[must_use]
    pub fn from_key(key: IdentityKey) -> Self {
        // Every 32 bytes are an X25519 private key.
        let public = <Kem as hpke::Kem>::PrivateKey::from_bytes(&key.secret)
            .map(|secret| Kem::sk_to_pk(&secret).to_bytes().into())
            .unwrap_or_default();
        Self {
            key,
            name: None,
            public,
        }
    }

    /// Reads an identity file that only its owner may read.
    ///
    /// # Errors
    /// The file's, its text's or the passphrase's; all of kind [`crate::ErrorKind::Key`].
    pub fn load(path: &Path, passphrase: Option<&str>) -> Result<Self> {
        Self::load_with(path, passphrase, FileRights::Private)
    }

    /// Reads an identity file, whoever else may read it if `rights` says so.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(path: &Path, passphrase: Option<&str>, rights: FileRights) -> Result<Self> {
        let bytes = match rights {
            FileRights::Private => files::read_private(path),
            FileRights::Any => read_any(path),
        };
        let bytes = Zeroizing::new(bytes.map_err(Error::IdentityFile)?);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_binary| Error::IdentityText("it is not a text file"))?;
        Self::parse(text, passphrase)
    }

    /// Reads the text of an identity file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, passphrase: Option<&str>) -> Result<Self> {
        let fields = Fields::read(text)?;
        let key = match (fields.secret, fields.sealed) {
            (Some(word), None) => IdentityKey::from_str(word)?,
            (None, Some(sealed)) => {
                let repo = fields
                    .repo
                    .ok_or(Error::IdentityText("the line repo is missing"))?;
                let root = fields
                    .root
                    .ok_or(Error::IdentityText("the line root is missing"))?;
                let passphrase = passphrase.ok_or(Error::PassphraseNeeded)?;
                IdentityKey {
                    secret: unseal(sealed, passphrase, repo, root)?,
                    repo,
                    root,
                }
            }
            (Some(_), Some(_)) => {
                return Err(Error::IdentityText(
                    "it has both a secret and a sealed line",
                ));
            }
            (None, None) => return Err(Error::IdentityText("the line secret is missing")),
        };
        let same = fields.repo.is_none_or(|repo| repo == key.repo)
            && fields.root.is_none_or(|root| root == key.root);
        if !same {
            return Err(Error::IdentityText(
                "its lines repo and root are not those of its key",
            ));
        }
        let mut identity = Self::from_key(key);
        identity.name = fields.name.map(str::to_owned);
        Ok(identity)
    }

    /// The repository it belongs to.
    #[must_use]
    pub const fn repo(&self) -> RepoId {
        self.key.repo
    }

    /// The id of the root key that signs the repository's keyring.
    #[must_use]
    pub const fn root(&self) -> KeyId {
        self.key.root
    }

    /// Whose it is, if the file says so.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The public half.
    #[must_use]
    pub const fn recipient(&self) -> RecipientKey {
        RecipientKey {
            public: self.public,
            repo: self.key.repo,
            root: self.key.root,
        }
    }

    /// The key that signs what is done with this identity: derived from the private key, so that there is
    /// nothing more to keep, and of no use for opening anything.
    #[must_use]
    pub fn evidence_key(&self) -> SigningKey {
        let mut secret = Zeroizing::new([0u8; 32]);
        #[expect(clippy::expect_used, reason = "32 bytes are within HKDF's limit")]
        Hkdf::<Sha256>::new(None, &self.key.secret)
            .expand(EVIDENCE_INFO, secret.as_mut_slice())
            .expect("HKDF-SHA256 gives 32 bytes");
        SigningKey::from_secret(&secret)
    }

    pub(crate) const fn secret(&self) -> &[u8; 32] {
        &self.key.secret
    }
}

fn read_any(path: &Path) -> std::result::Result<Vec<u8>, files::FileError> {
    let failed = |source| files::FileError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

#[derive(Debug, Default)]
struct Fields<'a> {
    repo: Option<RepoId>,
    root: Option<KeyId>,
    name: Option<&'a str>,
    secret: Option<&'a str>,
    sealed: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self> {
        // Editors of another system may have put a mark before the text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let first = lines.next();
        if first == Some(ROOT_LINE) {
            return Err(Error::IdentityText(
                "it is a root key's file, which signs the keyring and opens nothing; the identity is the file without \
                 .root at its end",
            ));
        }
        if first != Some(FIRST_LINE) {
            return Err(Error::IdentityText(
                "it does not begin with the line tidemark-identity-1",
            ));
        }
        let mut fields = Self::default();
        for line in lines {
            let (key, value) = line
                .split_once('=')
                .ok_or(Error::IdentityText("a line is not `key = value`"))?;
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "repo" => fields.repo = Some(id(value)?),
                "root" => fields.root = Some(id(value)?),
                "name" => fields.name = Some(value),
                "secret" => fields.secret = Some(value),
                "sealed" => fields.sealed = Some(value),
                // `created`, and what newer programs may add.
                _ => {}
            }
        }
        Ok(fields)
    }
}

fn id<T: FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_bad| Error::IdentityText("its line repo or root is damaged"))
}

/// The text of an identity file whose secret is sealed by a passphrase. Takes about half a second.
///
/// # Errors
/// [`Error::PassphraseCost`] when the memory isn't there.
pub fn seal_identity(
    key: &IdentityKey,
    name: &str,
    created: Timestamp,
    passphrase: &str,
    rng: &dyn Rng,
) -> Result<String> {
    let salt: [u8; 16] = rng.bytes();
    let mut sealed = key.secret.to_vec();
    let tag = box_cipher(passphrase, &salt, COST)?
        .encrypt_inout_detached(
            &[0u8; 12].into(),
            &associated(key.repo, key.root),
            sealed.as_mut_slice().into(),
        )
        .map_err(|_too_long| Error::WrongPassphrase)?;
    sealed.extend_from_slice(&tag);
    let (memory, passes, lanes) = COST;
    Ok(format!(
        "{FIRST_LINE}\n\
         # A recovery identity, sealed by a passphrase. Whoever has both reads the repository.\n\
         repo = {}\nroot = {}\nname = {}\ncreated = {created}\n\
         sealed = argon2id:{memory}:{passes}:{lanes}:{}:{}\n",
        key.repo,
        key.root,
        name.replace(['\n', '\r'], " "),
        hex::encode(salt),
        hex::encode(sealed),
    ))
}

fn unseal(sealed: &str, passphrase: &str, repo: RepoId, root: KeyId) -> Result<[u8; 32]> {
    let damaged = || Error::IdentityText("its line sealed is damaged or cut");
    let parts: Vec<&str> = sealed.split(':').collect();
    let ["argon2id", memory, passes, lanes, salt, boxed] = parts.as_slice() else {
        return Err(damaged());
    };
    let number = |text: &str| text.parse::<u32>().map_err(|_bad| damaged());
    let cost = (number(memory)?, number(passes)?, number(lanes)?);
    let salt = hex::decode(salt).map_err(|_bad| damaged())?;
    let mut secret = Zeroizing::new([0u8; 32]);
    let boxed = hex::decode(boxed).map_err(|_bad| damaged())?;
    let (ciphertext, tag) = boxed.split_at_checked(32).ok_or_else(damaged)?;
    let tag: [u8; 16] = tag.try_into().map_err(|_length| damaged())?;
    secret.copy_from_slice(ciphertext);
    box_cipher(passphrase, &salt, cost)?
        .decrypt_inout_detached(
            &[0u8; 12].into(),
            &associated(repo, root),
            secret.as_mut_slice().into(),
            &tag.into(),
        )
        .map_err(|_wrong| Error::WrongPassphrase)?;
    Ok(*secret)
}

fn associated(repo: RepoId, root: KeyId) -> Vec<u8> {
    [FIRST_LINE.as_bytes(), &repo.0, &root.0].concat()
}

fn box_cipher(passphrase: &str, salt: &[u8], cost: (u32, u32, u32)) -> Result<Aes256Gcm> {
    let (memory, passes, lanes) = cost;
    if memory > COST_MAX.0 || passes > COST_MAX.1 || lanes > COST_MAX.2 {
        return Err(Error::PassphraseCost(format!(
            "{memory} KiB, {passes} passes, {lanes} lanes"
        )));
    }
    let failed = |error: argon2::Error| Error::PassphraseCost(error.to_string());
    let params = argon2::Params::new(memory, passes, lanes, Some(32)).map_err(failed)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut key = Zeroizing::new([0u8; 32]);
    argon
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(failed)?;
    Ok(Aes256Gcm::new((&*key).into()))
}

#[cfg(test)]
mod tests {
    use tidemark_host::TestRng;

    use super::*;
    use crate::ErrorKind;

    fn key() -> IdentityKey {
        IdentityKey {
            secret: [3; 32],
            repo: RepoId([1; 16]),
            root: KeyId([2; 16]),
        }
    }

    fn plain() -> String {
        let key = key();
        format!(
            "# escrow\n{FIRST_LINE}\nrepo = {}\nroot = {}\nname = ann\ncreated = 2026-01-01T00:00:00Z\nsecret = {}\n",
            key.repo,
            key.root,
            key.reveal()
        )
    }

    fn fails(text: &str, passphrase: Option<&str>) -> Error {
        let error = Identity::parse(text, passphrase).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        error
    }

    #[test]
    fn the_plain_form_reads_back() {
        let identity = Identity::parse(&plain(), None).unwrap();
        assert_eq!(identity.secret(), &key().secret);
        assert_eq!((identity.repo(), identity.root()), (key().repo, key().root));
        assert_eq!(identity.name(), Some("ann"));
        assert!(!format!("{identity:?}").contains("0303"));
    }

    #[test]
    fn the_evidence_key_is_the_same_wherever_the_identity_is() {
        // RFC 5869 over 32 bytes of 3, by Python's hmac.
        let secret = "c0928a4cfacbf8f80a2e369faef9752d4ec4c1c0aeea24e8e0085b30dcdc65e2";
        let one = Identity::parse(&plain(), None).unwrap().evidence_key();
        assert_eq!(hex::encode(one.to_secret()), secret);
        let other = Identity::from_key(IdentityKey {
            secret: [4; 32],
            ..key()
        });
        assert_ne!(other.evidence_key().public(), one.public());
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused_and_says_what_is_missing() {
        let text = plain();
        for cut in 0..text.len() - 1 {
            fails(&text[..cut], None);
        }
        assert!(
            fails("hello", None)
                .to_string()
                .contains("tidemark-identity-1")
        );
        assert!(
            fails("tidemark-root-1\nsecret = 00", None)
                .to_string()
                .contains("root key's file")
        );
        let other = text.replace(&key().repo.to_string(), &RepoId([9; 16]).to_string());
        assert!(matches!(fails(&other, None), Error::IdentityText(_)));
    }

    #[test]
    fn the_sealed_form_opens_with_its_passphrase_only() {
        let text = seal_identity(
            &key(),
            "ann",
            Timestamp::UNIX_EPOCH,
            "correct",
            &TestRng::seeded(1),
        )
        .unwrap();
        assert!(!text.contains("tmi1"));
        let identity = Identity::parse(&text, Some("correct")).unwrap();
        assert_eq!(identity.secret(), &key().secret);
        assert!(matches!(fails(&text, None), Error::PassphraseNeeded));
        assert!(matches!(
            fails(&text, Some("wrong")),
            Error::WrongPassphrase
        ));
        let moved = text.replace(&key().repo.to_string(), &RepoId([9; 16]).to_string());
        assert!(matches!(
            fails(&moved, Some("correct")),
            Error::WrongPassphrase
        ));
        let greedy = text.replace("argon2id:65536", "argon2id:4294967295");
        assert!(matches!(
            fails(&greedy, Some("correct")),
            Error::PassphraseCost(_)
        ));
        assert!(matches!(
            fails(&text[..text.len() - 9], Some("correct")),
            Error::IdentityText(_)
        ));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_unless_the_user_insists() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        files::write_new(&path, plain().as_bytes(), 0o644).unwrap();
        assert!(matches!(
            Identity::load(&path, None),
            Err(Error::IdentityFile(_))
        ));
        assert!(Identity::load_with(&path, None, FileRights::Any).is_ok());
        let private = folder.path().join("private");
        files::write_new(&private, plain().as_bytes(), files::PRIVATE).unwrap();
        assert!(Identity::load(&private, None).is_ok());
    }
}
