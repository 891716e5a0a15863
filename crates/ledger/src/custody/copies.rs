//! The copies of one keyring in several regions: whether they agree, and the same change to all.
//!
//! **Invariants.** A version is signed once and is the same object, byte for byte, in every region:
//! versions name their predecessors by link, so two that differ can't both be followed, and a region
//! left with the wrong one could never be read again. Nothing is written while two regions disagree.
//! A region that lags is brought the versions it lacks before the next one, so that they stay dense.
//!
//! **Failure and retry.** A region that fails while a version is published lags and is brought up by
//! whoever publishes next, or by an agent. Where somebody else's version took the name first, the
//! regions after it are left alone: going on would part them for ever.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_format::heads::KeyringHead;
use tidemark_format::{Key, PutId, RegionName, keys};
use tidemark_storage::{CreateStore, ErrorKind, ReadStore};

use crate::object::Signed;
use crate::read::read_verified;
use crate::{Keyring, LedgerError, Result, Trust};

/// A region and the keyring it holds.
#[derive(Debug, Clone)]
pub struct KeyringCopy {
    /// The region.
    pub region: RegionName,
    /// The keyring; none where the root has signed nothing yet.
    pub keyring: Option<Keyring>,
    read: Arc<dyn ReadStore>,
    create: Arc<dyn CreateStore>,
}

impl KeyringCopy {
    /// Reads a region's keyring.
    ///
    /// # Errors
    /// The keyring's or the region's, another repository's included; that there is none is no error.
    pub async fn load(
        region: RegionName,
        read: Arc<dyn ReadStore>,
        create: Arc<dyn CreateStore>,
        trust: &Trust,
    ) -> Result<Self> {
        let keyring = match Keyring::load(read.as_ref(), trust).await {
            Ok(keyring) => Some(keyring),
            Err(LedgerError::NoRepository { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            region,
            keyring,
            read,
            create,
        })
    }

    fn version(&self) -> u32 {
        self.keyring.as_ref().map_or(0, Keyring::version)
    }
}

/// What became of a region's copy.
#[derive(Debug)]
pub struct Published {
    /// The region.
    pub region: RegionName,
    /// Whether it holds everything now.
    pub result: Result<()>,
}

/// The keyring's copies in all regions at hand; they agree.
#[derive(Debug, Clone)]
pub struct KeyringCopies {
    copies: Vec<KeyringCopy>,
}

/// A version as it lies in a region.
struct Version {
    key: Key,
    bytes: Bytes,
    put: PutId,
}

impl KeyringCopies {
    /// Takes copies together that agree as far as they go.
    ///
    /// # Errors
    /// [`LedgerError::KeyringsDisagree`].
    pub fn new(copies: Vec<KeyringCopy>) -> Result<Self> {
        let held: Vec<_> = copies
            .iter()
            .filter_map(|copy| Some((&copy.region, copy.keyring.as_ref()?)))
            .collect();
        agree(&held)?;
        Ok(Self { copies })
    }

    /// The highest version of all regions.
    #[must_use]
    pub fn newest(&self) -> Option<&Keyring> {
        self.furthest()?.keyring.as_ref()
    }

    /// Regions that lack versions which another one holds.
    pub fn lagging(&self) -> impl Iterator<Item = &RegionName> {
        let newest = self.newest().map_or(0, Keyring::version);
        let behind = move |copy: &&KeyringCopy| copy.version() < newest;
        self.copies.iter().filter(behind).map(|copy| &copy.region)
    }

    /// Brings every region what it lacks of the newest keyring, and then `next`, the version after
    /// it, if there is one. Regions are taken in order; one that fails doesn't keep the others from
    /// it, unless it holds another object under the name.
    pub async fn publish(&self, next: Option<&Signed>) -> Vec<Published> {
        let mut done: Vec<Published> = Vec::new();
        for copy in &self.copies {
            let result = self.bring(copy, next).await;
            let parted = matches!(result, Err(LedgerError::Unchanged { .. }));
            done.push(Published {
                region: copy.region.clone(),
                result,
            });
            if parted {
                break;
            }
        }
        let left = self.copies.iter().skip(done.len());
        done.extend(left.map(|copy| Published {
            region: copy.region.clone(),
            result: Err(LedgerError::Unchanged {
                why: "it was not tried, because another region refused the new version".to_owned(),
            }),
        }));
        done
    }

    fn furthest(&self) -> Option<&KeyringCopy> {
        // The first of equals: the order is the caller's.
        self.copies.iter().rev().max_by_key(|copy| copy.version())
    }

    async fn bring(&self, copy: &KeyringCopy, next: Option<&Signed>) -> Result<()> {
        if let Some(source) = self.furthest() {
            for number in copy.version().saturating_add(1)..=source.version() {
                let version = read(source, number).await?;
                put(copy, &version).await?;
            }
        }
        let Some(next) = next else { return Ok(()) };
        let version = Version {
            key: next.key.clone(),
            bytes: next.bytes.clone(),
            put: next.put,
        };
        put(copy, &version).await
    }
}

/// Checks that no two of the regions' keyrings differ in a version that both have.
///
/// # Errors
/// [`LedgerError::KeyringsDisagree`], with the earliest version that differs.
pub fn agree(held: &[(&RegionName, &Keyring)]) -> Result<()> {
    let pairs = held.iter().enumerate().flat_map(|(index, first)| {
        let rest = held.iter().skip(index.saturating_add(1));
        rest.map(move |second| (first, second))
    });
    let differing = pairs.filter_map(|((region, one), (other, two))| {
        let version = one.differs_from(two)?;
        Some((version, *region, *other))
    });
    match differing.min_by_key(|(version, ..)| *version) {
        None => Ok(()),
        Some((version, region, other)) => Err(LedgerError::KeyringsDisagree {
            region: region.clone(),
            other: other.clone(),
            version,
        }),
    }
}

async fn read(from: &KeyringCopy, number: u32) -> Result<Version> {
    let key = keys::keyring(number);
    let checked = read_verified::<KeyringHead>(from.read.as_ref(), &key, None).await?;
    let bytes = from.read.get(&key).await?;
    Ok(Version {
        put: checked.head.put,
        key,
        bytes,
    })
}

/// Creates a version; the same bytes there already are as good.
async fn put(copy: &KeyringCopy, version: &Version) -> Result<()> {
    let key = &version.key;
    let created = copy.create.create(key, version.bytes.clone(), &version.put);
    match created.await {
        Ok(_created) => Ok(()),
        Err(error) if error.kind() == ErrorKind::Exists => {
            if copy.read.get(key).await? == version.bytes {
                return Ok(());
            }
            Err(LedgerError::Unchanged {
                why: format!(
                    "region {} got another {key} in the meantime: somebody else changes the keyring now. Look \
                     (tidemark-restore keys list), then run this again if it is still needed",
                    copy.region
                ),
            })
        }
        Err(error) => Err(error.into()),
    }
}
