//! Recovery keys as people carry them: `tmr1…` (public) and `tmi1…` (private).
//!
//! Both are one word: a prefix, then base32 (lower case, no padding) of a version byte, 32 key
//! bytes, the repository's id, the root key's id and four bytes of BLAKE3 over all before. So a
//! public key alone tells an agent which repository it belongs to and which root to trust, and a
//! mistyped one is refused.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{KeyId, RepoId, sign::key_id};

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const VERSION: u8 = 1;
const PAYLOAD: usize = 1 + 32 + 16 + 16;

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Another kind of word.
    #[error("expected a key that begins with {expected}, got {got:?}")]
    Prefix {
        /// The right prefix.
        expected: &'static str,
        /// The first characters given.
        got: String,
    },
    /// Cut, mistyped or of another version.
    #[error("this {0} key is damaged: a character is wrong or missing; copy it again, whole")]
    Damaged(&'static str),
}

/// A recovery public key: sessions are sealed to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientKey {
    /// The X25519 public key.
    pub public: [u8; 32],
    /// The repository.
    pub repo: RepoId,
    /// The id of the root key that signs its keyring.
    pub root: KeyId,
}

impl RecipientKey {
    /// The key's short name in session envelopes.
    #[must_use]
    pub fn id(&self) -> KeyId {
        key_id(&self.public)
    }
}

impl fmt::Display for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode("tmr1", &self.public, self.repo, self.root))
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientKey({})", self.id())
    }
}

impl FromStr for RecipientKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let (public, repo, root) = decode("tmr1", text)?;
        Ok(Self { public, repo, root })
    }
}

impl Serialize for RecipientKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecipientKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// A recovery private key in words; whoever holds it reads the repository.
#[derive(Clone, PartialEq, Eq)]
pub struct IdentityKey {
    /// The X25519 private key.
    pub secret: [u8; 32],
    /// The repository.
    pub repo: RepoId,
    /// The id of the root key that signs its keyring.
    pub root: KeyId,
}

impl IdentityKey {
    /// The word `tmi1…` for an identity file. There is no `Display`: it must not be printed by accident.
    #[must_use]
    pub fn reveal(&self) -> String {
        encode("tmi1", &self.secret, self.repo, self.root)
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey(repo {})", self.repo)
    }
}

impl FromStr for IdentityKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let (secret, repo, root) = decode("tmi1", text)?;
        Ok(Self { secret, repo, root })
    }
}

fn encode(prefix: &str, key: &[u8; 32], repo: RepoId, root: KeyId) -> String {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&repo.0);
    bytes.extend_from_slice(&root.0);
    let sum = checksum(prefix, &bytes);
    bytes.extend_from_slice(&sum);
    format!("{prefix}{}", base32(&bytes))
}

fn decode(prefix: &'static str, text: &str) -> Result<([u8; 32], RepoId, KeyId), KeyTextError> {
    let text = text.trim();
    let rest = text
        .strip_prefix(prefix)
        .ok_or_else(|| KeyTextError::Prefix {
            expected: prefix,
            got: text.chars().take(8).collect(),
        })?;
    let damaged = || KeyTextError::Damaged(prefix);
    let bytes = unbase32(rest).ok_or_else(damaged)?;
    let (payload, sum) = bytes.split_at_checked(PAYLOAD).ok_or_else(damaged)?;
    if sum != checksum(prefix, payload) || payload.first() != Some(&VERSION) {
        return Err(damaged());
    }
    let part = |from: usize, to: usize| payload.get(from..to).ok_or_else(damaged);
    Ok((
        part(1, 33)?.try_into().map_err(|_short| damaged())?,
        RepoId(part(33, 49)?.try_into().map_err(|_short| damaged())?),
        KeyId(part(49, 65)?.try_into().map_err(|_short| damaged())?),
    ))
}

fn checksum(prefix: &str, payload: &[u8]) -> [u8; 4] {
    let mut sum = [0u8; 4];
    blake3::Hasher::new()
        .update(prefix.as_bytes())
        .update(payload)
        .finalize_xof()
        .fill(&mut sum);
    sum
}

fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits = bits.saturating_add(8);
        while bits >= 5 {
            bits = bits.saturating_sub(5);
            push_digit(&mut out, (held >> bits) & 31);
        }
        held &= 0xff;
    }
    if bits > 0 {
        push_digit(&mut out, (held << 5u32.saturating_sub(bits)) & 31);
    }
    out
}

fn push_digit(out: &mut String, value: u32) {
    let digit = usize::try_from(value)
        .ok()
        .and_then(|at| ALPHABET.get(at))
        .copied();
    out.push(char::from(digit.unwrap_or(b'a')));
}

fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|digit| *digit == byte)?;
        held = (held << 5) | u32::try_from(value).ok()?;
        bits = bits.saturating_add(5);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            out.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
        held &= 0xff;
    }
    (held & (1u32 << bits).saturating_sub(1) == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecipientKey {
        RecipientKey {
            public: [9; 32],
            repo: RepoId([1; 16]),
            root: KeyId([2; 16]),
        }
    }

    #[test]
    fn a_key_reads_back_from_its_word() {
        let word = key().to_string();
        assert!(word.starts_with("tmr1"));
        assert_eq!(word.parse::<RecipientKey>(), Ok(key()));
        assert!(word.parse::<IdentityKey>().is_err());
    }

    #[test]
    fn every_single_changed_or_missing_character_is_noticed() {
        let word = key().to_string();
        for at in 4..word.len() {
            let mut typo: Vec<u8> = word.clone().into_bytes();
            typo[at] = if typo[at] == b'q' { b'r' } else { b'q' };
            let typo = String::from_utf8(typo).unwrap();
            assert_eq!(
                typo.parse::<RecipientKey>(),
                Err(KeyTextError::Damaged("tmr1")),
                "at {at}"
            );
        }
        assert!(word[..word.len() - 1].parse::<RecipientKey>().is_err());
        assert!(format!("{word}a").parse::<RecipientKey>().is_err());
    }
}
