//! What happens before anything is shipped into a region: is it ours, may we write, does anybody else?
//!
//! A region is greeted once per outage: its marker is read (or made), the keyring checked from the
//! pinned root on, the agent's beat created, every kept session brought. A source is looked at once
//! per region and process: another writer's claim, fence or object there stops it before it writes
//! (invariant 7).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::SigningKey;
use tidemark_format::{Epoch, Hash, Key, LogSeq, PutId, RepoId, SourceName, WriterId, keys};
use tidemark_host::{Clock, Rng, RngExt as _};
use tidemark_ledger::fencing::{Own, RegionHandle, RegionView, Writer, inspect, join};
use tidemark_ledger::{
    Keyring, LedgerError, Trust, custody, ensure_marker, ensure_readme, list_all,
};
use tidemark_seal::Sealed;
use tidemark_storage::region::AgentRegion;
use tidemark_storage::{Error as StorageError, ErrorKind};

use super::link::{RegionLink, ShipError, ToCreate};

/// Why a region or a source in it can't be used now.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// A copy of this state directory beats with our key.
    #[error("another agent beats with this agent's key: {0}")]
    Cloned(String),
    /// The agent isn't enrolled: nothing it signs counts yet.
    #[error(
        "this agent's key isn't in the keyring yet, so nothing it writes would count: on the host with the root key, \
         run tidemark-restore keys enrol"
    )]
    NotEnrolled,
    /// What stands in `meta/`, or the region.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Creating failed.
    #[error(transparent)]
    Ship(#[from] ShipError),
}

impl From<StorageError> for GreetError {
    fn from(error: StorageError) -> Self {
        Self::Ship(ShipError::Region(error))
    }
}

/// A copy of the keyring, for regions that lack it.
#[derive(Debug, Clone)]
struct Copied {
    key: Key,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Known {
    keyring: Option<Arc<Keyring>>,
    copies: Vec<Copied>,
}

/// Who greets.
#[derive(Debug)]
pub struct Greeter {
    /// The repository.
    pub repo: RepoId,
    /// What is believed before anything was read.
    pub trust: Trust,
    /// The agent's key.
    pub signer: SigningKey,
    /// The state directory.
    pub writer: WriterId,
    /// The host, for people.
    pub host: String,
    /// Recipients that the config names.
    pub recipients: Vec<RecipientKey>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness for put-ids.
    pub rng: Arc<dyn Rng>,
    known: Mutex<Known>,
}

/// What a greeter is made of.
#[derive(Debug)]
pub struct Identity {
    /// What is believed before anything was read.
    pub trust: Trust,
    /// The agent's key.
    pub signer: SigningKey,
    /// The state directory.
    pub writer: WriterId,
    /// The host, for people.
    pub host: String,
    /// Recipients that the config names.
    pub recipients: Vec<RecipientKey>,
}

impl Greeter {
    /// A greeter that knows no keyring yet.
    #[must_use]
    pub fn new(identity: Identity, clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self {
            repo: identity.trust.repo,
            trust: identity.trust,
            signer: identity.signer,
            writer: identity.writer,
            host: identity.host,
            recipients: identity.recipients,
            clock,
            rng,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest keyring that any region has shown.
    #[must_use]
    pub fn keyring(&self) -> Option<Arc<Keyring>> {
        self.known().keyring.clone()
    }

    /// Greets a region, with `beat` as the beat that shows we are here.
    ///
    /// # Errors
    /// [`GreetError`].
    pub async fn greet(&self, link: &RegionLink, beat: &Sealed) -> Result<(), GreetError> {
        self.greet_without_beat(link).await?;
        self.beat(link, beat).await?;
        link.create_sessions().await?;
        Ok(())
    }

    /// Reads or makes the region's marker and checks the keyring.
    ///
    /// # Errors
    /// [`GreetError`].
    pub async fn greet_without_beat(&self, link: &RegionLink) -> Result<(), GreetError> {
        let stores = link.stores().await?;
        let (read, create) = (&*stores.meta, &*stores.urgent);
        let now = self.clock.now();
        let marker = ensure_marker(read, create, self.repo, &self.signer, &*self.rng, now).await?;
        link.set_id(marker.region);
        ensure_readme(create, self.repo, &*self.rng).await?;
        let keyring = self.load_keyring(&stores).await?;
        if !custody::is_enrolled(&keyring, &self.signer.public())? {
            return Err(GreetError::NotEnrolled);
        }
        link.sessions()
            .adopt(recipients(&keyring, &self.recipients));
        Ok(())
    }

    /// Creates a beat. Its name is contended by nobody but a copy of this state directory.
    ///
    /// # Errors
    /// [`GreetError::Cloned`], or the region's.
    pub async fn beat(&self, link: &RegionLink, beat: &Sealed) -> Result<(), GreetError> {
        let object = ToCreate {
            key: beat.key.clone(),
            bytes: beat.bytes.clone(),
            put: beat.put,
            link: beat.link,
            session: None,
        };
        match link.create_urgent(&object).await {
            Err(error @ ShipError::Foreign { .. }) => Err(GreetError::Cloned(error.to_string())),
            other => Ok(other?),
        }
    }

    async fn load_keyring(&self, stores: &AgentRegion) -> Result<Arc<Keyring>, GreetError> {
        let read = &*stores.meta;
        let (seen, copies) = {
            let known = self.known();
            (
                known
                    .keyring
                    .as_ref()
                    .map_or(0, |keyring| keyring.version()),
                known.copies.clone(),
            )
        };
        let loaded = match Keyring::load_at_least(read, &self.trust, seen).await {
            Err(LedgerError::NoRepository { .. } | LedgerError::KeyringOlder { .. })
                if !copies.is_empty() =>
            {
                // Signed by the root and public: a region that lacks it gets it from us.
                bring(stores, &copies, &*self.rng).await?;
                Keyring::load_at_least(read, &self.trust, seen).await?
            }
            // No root has signed anything here yet, this agent's key included.
            Err(LedgerError::NoRepository { .. }) if seen == 0 => {
                return Err(GreetError::NotEnrolled);
            }
            loaded => loaded?,
        };
        let copies = copy_keyring(stores).await?;
        let keyring = Arc::new(loaded);
        let mut known = self.known();
        known.keyring = Some(Arc::clone(&keyring));
        known.copies = copies;
        Ok(keyring)
    }

    /// Looks at a source in a region before anything is written there by `own` writer in its epoch, and claims or
    /// fences what an earlier outage left undone.
    ///
    /// # Errors
    /// [`GreetError`]; [`LedgerError::Fenced`] in it when another writer has the source.
    pub async fn look_at(
        &self,
        link: &RegionLink,
        source: &SourceName,
        own: (WriterId, Epoch),
        link_of: &(dyn Fn(LogSeq) -> Option<Hash> + Sync),
    ) -> Result<(), GreetError> {
        let stores = link.stores().await?;
        let keyring = self.keyring().ok_or(GreetError::NotEnrolled)?;
        let (writer, epoch) = own;
        let own = Own {
            writer,
            epoch,
            link_of,
        };
        match inspect(&*stores.meta, &keyring, source, Some(&own)).await? {
            RegionView::Ours { .. } => Ok(()),
            RegionView::Foreign(foreign) => Err(foreign.error(source).into()),
            RegionView::Free | RegionView::NotJoined { .. } => {
                let handle = handle(link, &stores, &link.domain)?;
                join(&handle, epoch, &self.as_writer(source, writer, &keyring)).await?;
                Ok(())
            }
        }
    }

    /// This agent as the ledger's fencing sees it, as the `writer` of a source.
    #[must_use]
    pub fn as_writer<'a>(
        &'a self,
        source: &'a SourceName,
        writer: WriterId,
        keyring: &'a Keyring,
    ) -> Writer<'a> {
        Writer {
            source,
            writer,
            host: &self.host,
            key: &self.signer,
            keyring,
            rng: &*self.rng,
            now: self.clock.now(),
        }
    }
}

/// A region as the ledger's fencing takes it, in failure domain `domain`.
///
/// # Errors
/// [`LedgerError::NoRepository`] before the region was greeted.
pub fn handle(
    link: &RegionLink,
    stores: &AgentRegion,
    domain: &str,
) -> Result<RegionHandle, LedgerError> {
    let id = link.id();
    let id = id.ok_or_else(|| LedgerError::NoRepository {
        missing: keys::region().to_string(),
    })?;
    Ok(RegionHandle {
        name: link.name.clone(),
        id,
        domain: domain.to_owned(),
        read: Arc::clone(&stores.meta),
        create: Arc::clone(&stores.urgent),
    })
}

/// Whom to seal to: all that the keyring names, and those of the config that it hasn't revoked.
fn recipients(keyring: &Keyring, configured: &[RecipientKey]) -> Vec<RecipientKey> {
    let mut all: Vec<RecipientKey> = keyring.recipients().map(|entry| entry.key).collect();
    let named = |key: &RecipientKey| {
        keyring
            .head()
            .recipients
            .iter()
            .any(|entry| entry.key.public == key.public)
    };
    all.extend(configured.iter().filter(|key| !named(key)));
    all
}

async fn copy_keyring(stores: &AgentRegion) -> Result<Vec<Copied>, GreetError> {
    let mut copies = Vec::new();
    for entry in list_all(&*stores.meta, keys::KEYRINGS).await? {
        let bytes = stores.meta.get(&entry.key).await?;
        copies.push(Copied {
            key: entry.key,
            bytes,
        });
    }
    Ok(copies)
}

async fn bring(stores: &AgentRegion, copies: &[Copied], rng: &dyn Rng) -> Result<(), GreetError> {
    for copy in copies {
        let put: PutId = rng.id();
        match stores
            .urgent
            .create(&copy.key, copy.bytes.clone(), &put)
            .await
        {
            Ok(_created) => {}
            Err(error) if error.kind() == ErrorKind::Exists => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
