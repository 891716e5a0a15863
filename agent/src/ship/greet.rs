//! What happens before anything is shipped into a region: is it ours, may we write, does anybody else?
//!
//! A region is greeted once per outage: its marker is read (or made), the keyring checked from the
//! pinned root on, the agent's beat created, every kept session brought. A source is looked at once
//! per region and process: another writer's claim, fence or object there stops it before it writes
//! (invariant 7). Between greetings [`Greeter::look_around`] asks, in two listings whatever the number
//! of sources, whether the root or another writer has said anything new.
//!
//! A region that lacks versions of the keyring is brought them. Where its keyring is not the one that
//! another region holds, nothing is copied in either direction, for no version can follow both; what is
//! captured goes on into both, and people are told (TM1211).
//!
//! An agent that is not enrolled asks to be, once per region and process, and nothing else of it is
//! created there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemark_format::heads::Role;
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::SigningKey;
use tidemark_format::{
    Epoch, Hash, Key, LogSeq, PutId, RegionName, RepoId, SourceName, WriterId, keys,
};
use tidemark_host::{Clock, Rng, RngExt as _};
use tidemark_ledger::fencing::{Own, RegionHandle, RegionView, Writer, inspect, join};
use tidemark_ledger::{
    Keyring, LedgerError, Trust, custody, ensure_marker, ensure_readme, list_all, sources,
};
use tidemark_seal::Sealed;
use tidemark_storage::region::AgentRegion;
use tidemark_storage::{Error as StorageError, ErrorKind};

use super::link::{RegionLink, ShipError, ToCreate};
use crate::enrolment;

/// A name of ours that is taken by what we didn't write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// Where.
    pub region: RegionName,
    /// The name.
    pub key: Key,
    /// What stands there, for people.
    pub why: String,
}

/// Why a region or a source in it can't be used now.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// A copy of this state directory beats with our key.
    #[error("another agent beats with this agent's key: {}", .0.why)]
    Cloned(Box<Collision>),
    /// The agent isn't enrolled: nothing it signs counts yet.
    #[error("{}", enrolment::waiting(.command))]
    NotEnrolled {
        /// What enrols it.
        command: String,
    },
    /// The root took the agent's key back: nothing it signs counts any more.
    #[error("{0}")]
    Revoked(String),
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
    /// The region that the keyring was read in.
    shown_by: Option<RegionName>,
    copies: Vec<Copied>,
    /// Regions whose keyring is another one, and why that matters.
    apart: BTreeMap<RegionName, String>,
    /// Regions that hold this agent's request to be enrolled.
    asked: BTreeSet<RegionName>,
}

/// What a look around a region has shown.
#[derive(Debug)]
pub struct Seen {
    /// The keyring's version, as far as any region has shown it.
    pub keyring_version: u32,
    /// To how many recipients the next session is sealed.
    pub recipients: usize,
    /// The region's keyring is not the one that another region holds: why that matters.
    pub apart: Option<String>,
    /// Sources of ours that another writer has claimed under a later epoch, and who.
    pub fenced: Vec<(SourceName, LedgerError)>,
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
    /// What enrols this agent, for people.
    pub enrol: String,
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
    /// What enrols this agent, for people.
    pub enrol: String,
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
            enrol: identity.enrol,
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
        link.may_be_prepared().await?;
        let stores = link.stores().await?;
        let (read, create) = (&*stores.meta, &*stores.urgent);
        let now = self.clock.now();
        let marker = ensure_marker(read, create, self.repo, &self.signer, &*self.rng, now).await?;
        link.set_id(marker.region);
        if !self.known().asked.contains(&link.name) {
            ensure_readme(create, self.repo, &*self.rng).await?;
        }
        self.adopt_keyring(link, &stores).await?;
        Ok(())
    }

    /// Reads the keyring, and takes its recipients over if it names this agent; asks to be enrolled
    /// if it doesn't.
    async fn adopt_keyring(
        &self,
        link: &RegionLink,
        stores: &AgentRegion,
    ) -> Result<Arc<Keyring>, GreetError> {
        let keyring = match self.load_keyring(link, stores).await? {
            Some(keyring) if self.is_enrolled(&keyring)? => keyring,
            Some(_) | None => {
                self.ask_to_be_enrolled(link, stores).await?;
                return Err(self.not_enrolled());
            }
        };
        // Where regions disagree, the highest version says whom to seal to.
        let newest = self.keyring().unwrap_or_else(|| Arc::clone(&keyring));
        link.sessions().adopt(recipients(&newest, &self.recipients));
        Ok(keyring)
    }

    fn is_enrolled(&self, keyring: &Keyring) -> Result<bool, GreetError> {
        custody::is_enrolled(keyring, &self.signer.public()).map_err(|error| match error {
            revoked @ LedgerError::Revoked { .. } => GreetError::Revoked(revoked.to_string()),
            other => other.into(),
        })
    }

    fn not_enrolled(&self) -> GreetError {
        let command = self.enrol.clone();
        GreetError::NotEnrolled { command }
    }

    async fn ask_to_be_enrolled(
        &self,
        link: &RegionLink,
        stores: &AgentRegion,
    ) -> Result<(), GreetError> {
        if self.known().asked.contains(&link.name) {
            return Ok(());
        }
        let (put, now): (PutId, _) = (self.rng.id(), self.clock.now());
        let name = &self.host;
        let request = custody::enrol_request(self.repo, Role::Agent, name, &self.signer, put, now)?;
        match request.create(&*stores.urgent).await {
            Ok(_created) => {}
            // It asked before, at `init` or by an earlier process: the first request stands.
            Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => {}
            Err(error) => return Err(error.into()),
        }
        self.known().asked.insert(link.name.clone());
        Ok(())
    }

    /// Asks a greeted region whether the root has signed anything new and whether another writer has
    /// claimed one of `own` sources under a later epoch. Two listings if neither has.
    ///
    /// # Errors
    /// [`GreetError`]; [`GreetError::Revoked`] when the root took this agent's key back.
    pub async fn look_around(
        &self,
        link: &RegionLink,
        own: &[(SourceName, Epoch)],
    ) -> Result<Seen, GreetError> {
        let stores = link.stores().await?;
        let meta = &*stores.meta;
        let known = self.keyring().ok_or_else(|| self.not_enrolled())?;
        let newest = keys::keyring(known.version());
        let newer = meta.list(keys::KEYRINGS, Some(&newest), 1).await?;
        let keyring = if newer.entries.is_empty() {
            known
        } else {
            self.adopt_keyring(link, &stores).await?
        };
        let claimed = sources(meta).await?;
        let mut fenced = Vec::new();
        for (source, epoch) in own {
            let highest = claimed.get(source).and_then(BTreeSet::last);
            if highest.is_none_or(|highest| highest <= epoch) {
                continue;
            }
            // A name decides nothing: the claim must be an enrolled agent's.
            let view = inspect(meta, &keyring, source, None).await?;
            if let RegionView::Foreign(foreign) = view
                && foreign.epoch > *epoch
            {
                fenced.push((source.clone(), foreign.error(source)));
            }
        }
        Ok(Seen {
            keyring_version: keyring.version(),
            recipients: recipients(&keyring, &self.recipients).len(),
            apart: self.known().apart.get(&link.name).cloned(),
            fenced,
        })
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
            Err(error @ ShipError::Foreign { .. }) => {
                Err(GreetError::Cloned(Box::new(Collision {
                    region: link.name.clone(),
                    key: beat.key.clone(),
                    why: error.to_string(),
                })))
            }
            other => Ok(other?),
        }
    }

    /// The keyring as this region has it, or gets it from us; `None` if no root has signed one yet.
    async fn load_keyring(
        &self,
        link: &RegionLink,
        stores: &AgentRegion,
    ) -> Result<Option<Arc<Keyring>>, GreetError> {
        let read = &*stores.meta;
        let here = match Keyring::load(read, &self.trust).await {
            Ok(keyring) => Some(keyring),
            Err(LedgerError::NoRepository { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(apart) = here.as_ref().and_then(|here| self.apart(link, here)) {
            return self.keep_apart(link, stores, here, apart).await;
        }
        let (known, copies) = {
            let known = self.known();
            (known.keyring.clone(), known.copies.clone())
        };
        let seen = known.map_or(0, |keyring| keyring.version());
        let keyring = match here {
            Some(keyring) if keyring.version() >= seen => keyring,
            // No root has signed anything here yet, this agent's key included.
            None if seen == 0 => return Ok(None),
            Some(_) | None => {
                // Signed by the root and public: a region that lacks it gets it from us.
                bring(stores, &copies, &*self.rng).await?;
                Keyring::load_at_least(read, &self.trust, seen).await?
            }
        };
        self.known().apart.remove(&link.name);
        self.know(link, stores, keyring).await.map(Some)
    }

    /// Why this region's keyring is not the one that is known, if it isn't.
    fn apart(&self, link: &RegionLink, here: &Keyring) -> Option<LedgerError> {
        let known = self.known();
        let version = here.differs_from(known.keyring.as_deref()?)?;
        Some(LedgerError::KeyringsDisagree {
            region: link.name.clone(),
            other: known.shown_by.clone()?,
            version,
        })
    }

    /// A region whose keyring is another one: it is read by that, and the higher version is known.
    async fn keep_apart(
        &self,
        link: &RegionLink,
        stores: &AgentRegion,
        here: Option<Keyring>,
        apart: LedgerError,
    ) -> Result<Option<Arc<Keyring>>, GreetError> {
        self.known()
            .apart
            .insert(link.name.clone(), apart.to_string());
        let Some(here) = here else { return Ok(None) };
        let known = self.keyring().map_or(0, |keyring| keyring.version());
        if here.version() > known {
            return self.know(link, stores, here).await.map(Some);
        }
        Ok(Some(Arc::new(here)))
    }

    async fn know(
        &self,
        link: &RegionLink,
        stores: &AgentRegion,
        keyring: Keyring,
    ) -> Result<Arc<Keyring>, GreetError> {
        let copies = copy_keyring(stores).await?;
        let keyring = Arc::new(keyring);
        let mut known = self.known();
        known.keyring = Some(Arc::clone(&keyring));
        known.shown_by = Some(link.name.clone());
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
        let keyring = self.keyring().ok_or_else(|| self.not_enrolled())?;
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
pub(crate) fn recipients(keyring: &Keyring, configured: &[RecipientKey]) -> Vec<RecipientKey> {
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
