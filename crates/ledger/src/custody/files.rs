//! Key files: a title line, then `name = value`, with comments for the person who finds one.
//!
//! Plain forms only; an identity under a passphrase has the same title and is opened by `open`.

use std::collections::BTreeMap;
use std::path::Path;

use tidemark_format::recipient::IdentityKey;
use tidemark_format::sign::SigningKey;
use tidemark_format::{KeyId, RepoId};
use tidemark_host::files::{PRIVATE, read_private, write_new};
use zeroize::Zeroizing;

use super::{NamedIdentity, RootKey};
use crate::{LedgerError, Result};

/// The first line of an identity file.
pub const IDENTITY_TITLE: &str = "tidemark-identity-1";
/// The first line of a root key's file.
pub const ROOT_TITLE: &str = "tidemark-root-1";

/// The fields of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFields {
    what: &'static str,
    fields: BTreeMap<String, Zeroizing<String>>,
}

impl KeyFields {
    /// Reads a key file whose first line is `title`; `what` names it in errors.
    ///
    /// # Errors
    /// [`LedgerError::KeyFile`].
    pub fn parse(what: &'static str, title: &str, text: &str) -> Result<Self> {
        let refuse = |why: String| LedgerError::KeyFile { what, why };
        let mut lines = text.lines().map(str::trim);
        let first = lines.next().unwrap_or_default();
        if first != title {
            match first {
                ROOT_TITLE => {
                    return Err(refuse(
                        "it is a root key's file, which signs the keyring and opens nothing; the identity is the file \
                         without .root at its end"
                            .to_owned(),
                    ));
                }
                IDENTITY_TITLE => {
                    return Err(refuse(
                        "it is a recovery identity; the root key is the file with .root at its end"
                            .to_owned(),
                    ));
                }
                _ => {}
            }
            // Only a few characters: whatever it is, it may be a secret.
            let start: String = first.chars().take(12).collect();
            return Err(refuse(format!(
                "its first line is not {title:?} but begins with {start:?}"
            )));
        }
        let mut fields = BTreeMap::new();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((name, value)) = line.split_once('=') else {
                return Err(refuse(
                    "a line is neither a comment nor NAME = VALUE".to_owned(),
                ));
            };
            fields.insert(
                name.trim().to_owned(),
                Zeroizing::new(value.trim().to_owned()),
            );
        }
        Ok(Self { what, fields })
    }

    /// A field, if it is there.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.as_str())
    }

    /// A field that must be there and be readable.
    ///
    /// # Errors
    /// [`LedgerError::KeyFile`].
    pub fn need<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<T> {
        let refuse = |why: String| LedgerError::KeyFile {
            what: self.what,
            why,
        };
        let text = self
            .get(name)
            .ok_or_else(|| refuse(format!("the line {name:?} is missing")))?;
        // The value itself may be a secret: only the parser's words go out.
        text.parse()
            .map_err(|error: T::Err| refuse(format!("the line {name:?}: {error}")))
    }
}

/// An identity file in its plain form.
#[derive(Debug, Clone, Copy)]
pub struct IdentityFile;

impl IdentityFile {
    /// The file's text.
    #[must_use]
    pub fn text(identity: &NamedIdentity) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "{IDENTITY_TITLE}\n\
             # A recovery identity: whoever holds this file can read every backup of the repository,\n\
             # and without it or its escrow copy nobody can. Keep it away from the database's host.\n\
             repo = {}\n\
             root = {}\n\
             name = {}\n\
             created = {}\n\
             secret = {}\n",
            identity.key.repo,
            identity.key.root,
            identity.name.replace(['\n', '\r'], " "),
            identity.created,
            identity.key.reveal(),
        ))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`LedgerError::KeyFile`], also when the file is under a passphrase.
    pub fn parse(text: &str) -> Result<NamedIdentity> {
        let fields = KeyFields::parse("this identity file", IDENTITY_TITLE, text)?;
        let refuse = |why: &str| LedgerError::KeyFile {
            what: fields.what,
            why: why.to_owned(),
        };
        if fields.get("secret").is_none() && fields.get("sealed").is_some() {
            return Err(refuse("it is under a passphrase"));
        }
        let key: IdentityKey = fields.need("secret")?;
        if fields.need::<RepoId>("repo")? != key.repo || fields.need::<KeyId>("root")? != key.root {
            return Err(refuse(
                "its lines contradict its key: it was edited or put together",
            ));
        }
        let name = fields.get("name").unwrap_or("unnamed").to_owned();
        Ok(NamedIdentity {
            key,
            name,
            created: fields.need("created")?,
        })
    }

    /// Writes a new file that only its owner may read; never replaces one.
    ///
    /// # Errors
    /// [`LedgerError::File`].
    pub fn write(path: &Path, identity: &NamedIdentity) -> Result<()> {
        Ok(write_new(path, Self::text(identity).as_bytes(), PRIVATE)?)
    }

    /// Reads a file that only its owner may read.
    ///
    /// # Errors
    /// [`LedgerError::File`] or [`LedgerError::KeyFile`].
    pub fn read(path: &Path) -> Result<NamedIdentity> {
        Self::parse(&private_text("this identity file", path)?)
    }
}

/// A root key's file.
#[derive(Debug, Clone, Copy)]
pub struct RootFile;

impl RootFile {
    /// The file's text.
    #[must_use]
    pub fn text(root: &RootKey) -> Zeroizing<String> {
        let secret = Zeroizing::new(root.key.to_secret());
        let hex = Zeroizing::new(hex::encode(secret.as_slice()));
        Zeroizing::new(format!(
            "{ROOT_TITLE}\n\
             # The root key: it signs who may write to the repository and who may read it, nothing\n\
             # else. It is needed to enrol or revoke, never to back up or to restore. Keep it offline.\n\
             repo = {}\n\
             root = {}\n\
             created = {}\n\
             secret = {}\n",
            root.repo,
            root.id(),
            root.created,
            hex.as_str(),
        ))
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`LedgerError::KeyFile`].
    pub fn parse(text: &str) -> Result<RootKey> {
        let fields = KeyFields::parse("this root key file", ROOT_TITLE, text)?;
        let refuse = |why: &str| LedgerError::KeyFile {
            what: fields.what,
            why: why.to_owned(),
        };
        let mut secret = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(
            fields.get("secret").unwrap_or_default(),
            secret.as_mut_slice(),
        )
        .map_err(|_not_hex| refuse("the line \"secret\" is missing or is not 64 hex digits"))?;
        let key = SigningKey::from_secret(&secret);
        if fields.need::<KeyId>("root")? != key.public().id() {
            return Err(refuse(
                "the fingerprint is not its key's: a character is wrong",
            ));
        }
        Ok(RootKey {
            repo: fields.need("repo")?,
            key,
            created: fields.need("created")?,
        })
    }

    /// Writes a new file that only its owner may read; never replaces one.
    ///
    /// # Errors
    /// [`LedgerError::File`].
    pub fn write(path: &Path, root: &RootKey) -> Result<()> {
        Ok(write_new(path, Self::text(root).as_bytes(), PRIVATE)?)
    }

    /// Reads a file that only its owner may read.
    ///
    /// # Errors
    /// [`LedgerError::File`] or [`LedgerError::KeyFile`].
    pub fn read(path: &Path) -> Result<RootKey> {
        Self::parse(&private_text("this root key file", path)?)
    }
}

fn private_text(what: &'static str, path: &Path) -> Result<Zeroizing<String>> {
    let bytes = Zeroizing::new(read_private(path)?);
    let text = std::str::from_utf8(&bytes).map_err(|_not_text| LedgerError::KeyFile {
        what,
        why: "it is not text".to_owned(),
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::Timestamp;
    use tidemark_host::TestRng;

    use super::*;
    use crate::custody::NewKeys;

    fn keys() -> NewKeys {
        NewKeys::generate(&TestRng::seeded(3), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn an_identity_file_reads_back_and_says_what_it_is() {
        let identity = keys().identity;
        let text = IdentityFile::text(&identity);
        assert!(text.starts_with("tidemark-identity-1\n"));
        assert!(text.contains("secret = tmi1"));
        assert_eq!(IdentityFile::parse(&text).unwrap(), identity);
    }

    #[test]
    fn a_root_file_reads_back() {
        let root = keys().root;
        let again = RootFile::parse(&RootFile::text(&root)).unwrap();
        assert_eq!(
            (again.id(), again.repo, again.created),
            (root.id(), root.repo, root.created)
        );
    }

    #[test]
    fn files_are_private_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("id");
        IdentityFile::write(&path, &keys().identity).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(IdentityFile::write(&path, &keys().escrow).is_err());
        assert_eq!(IdentityFile::read(&path).unwrap(), keys().identity);
    }

    #[test]
    fn what_can_not_be_used_is_refused_without_showing_it() {
        let identity = IdentityFile::text(&keys().identity);
        let swapped = RootFile::text(&keys().root);
        assert!(
            IdentityFile::parse(&swapped)
                .unwrap_err()
                .to_string()
                .contains("root key's file")
        );
        assert!(
            RootFile::parse(&identity)
                .unwrap_err()
                .to_string()
                .contains("recovery identity")
        );
        assert!(
            IdentityFile::parse("hello")
                .unwrap_err()
                .to_string()
                .contains("first line")
        );
        let secret = keys().identity.key.reveal();
        let damaged = identity.replace(&secret, &secret[..secret.len() - 3]);
        let error = IdentityFile::parse(&damaged).unwrap_err().to_string();
        assert!(
            error.contains("copy it again") && !error.contains(&secret[5..20]),
            "{error}"
        );
        let locked = identity.replace("secret =", "sealed =");
        assert!(
            IdentityFile::parse(&locked)
                .unwrap_err()
                .to_string()
                .contains("passphrase")
        );
        let other_repo = format!("repo = {}", RepoId([9; 16]));
        let edited = identity.replace(&format!("repo = {}", keys().repo()), &other_repo);
        assert!(
            IdentityFile::parse(&edited)
                .unwrap_err()
                .to_string()
                .contains("contradict")
        );
    }
}
