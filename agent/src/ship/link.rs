//! A region as everything in the agent uses it: opened when needed, and one way to create objects.
//!
//! **Invariants.** No object of a session is created before the session's sealed secret is durable
//! in the region. A name that is taken is looked at before anybody is called foreign: the very
//! object we wanted there is our own lost response.
//!
//! **Cancellation.** Every create is bounded in time by its size; what was dropped may or may not
//! have happened, and is done again with the same put-id.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::envelope::{Envelope, Kind};
use tidemark_format::heads::FenceHead;
use tidemark_format::keys::META;
use tidemark_format::{Hash, Key, PutId, RegionId, RegionName, SessionId};
use tidemark_ledger::{LedgerError, read_marker};
use tidemark_seal::Sealed;
use tidemark_storage::region::AgentRegion;
use tidemark_storage::{CreateStore, Error as StorageError, ErrorKind, Op, Place};

use crate::sessions::Sessions;
use crate::state::{Item, SpoolError};

/// How long a create may take whatever its size.
const CREATE_TIME: Duration = Duration::from_secs(60);
/// The slowest link that is still waited for.
const CREATE_BYTES_PER_SECOND: u64 = 64 << 10;
/// Bytes that hold the head of any object with a contended name.
const HEAD_BYTES: u64 = 64 << 10;

/// Opens a region.
#[async_trait]
pub trait OpenRegion: Debug + Send + Sync {
    /// Opens it. May be called again after it failed.
    async fn open(&self) -> tidemark_storage::Result<AgentRegion>;
}

/// A region that is open already.
#[async_trait]
impl OpenRegion for AgentRegion {
    async fn open(&self) -> tidemark_storage::Result<Self> {
        Ok(self.clone())
    }
}

/// Why an object was not created.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    /// The region failed.
    #[error(transparent)]
    Region(#[from] StorageError),
    /// The object can't be read from the spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// It is not the place that it was: its marker is gone, or another one stands there.
    #[error(
        "{place} has lost its marker: it is not the place that this agent wrote to as region {id}, or it was emptied"
    )]
    Emptied {
        /// The region.
        place: String,
        /// The region's id so far.
        id: RegionId,
    },
    /// As [`Self::Emptied`], and the place may be the mount point of a disk that isn't there.
    #[error(
        "{place} has no marker and this agent knows it as region {id}: an unmounted disk looks like that, so nothing          is written there. Mount it, and the agent goes on by itself; if it was emptied on purpose, give the region          another name in agent.toml and restart the agent: it is prepared anew, and a complete base repairs it"
    )]
    NotMounted {
        /// The region.
        place: String,
        /// The region's id so far.
        id: RegionId,
    },
    /// Somebody else's object stands under a name that only this agent may write.
    #[error("{place} has somebody else's object under {key}: {whose}")]
    Foreign {
        /// The region.
        place: String,
        /// The name.
        key: Key,
        /// Whose it is, as far as it says.
        whose: String,
    },
}

/// What is to be created.
#[derive(Debug, Clone)]
pub struct ToCreate {
    /// Where.
    pub key: Key,
    /// What.
    pub bytes: Bytes,
    /// The attempt.
    pub put: PutId,
    /// The object's link, by which our own is known again.
    pub link: Hash,
    /// The session that must be durable before.
    pub session: Option<SessionId>,
}

impl From<&Item> for ToCreate {
    fn from(item: &Item) -> Self {
        Self {
            key: item.key.clone(),
            bytes: item.bytes.clone(),
            put: item.put,
            link: item.link,
            session: item.session,
        }
    }
}

impl From<Sealed> for ToCreate {
    fn from(sealed: Sealed) -> Self {
        let Sealed {
            key,
            bytes,
            put,
            link,
        } = sealed;
        Self {
            key,
            bytes,
            put,
            link,
            session: None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    stores: Option<AgentRegion>,
    id: Option<RegionId>,
    /// The place as it was known before, and the device of a directory in which its marker was read
    /// by this process.
    known: Option<(RegionId, Option<u64>)>,
    up: bool,
}

/// A region.
#[derive(Debug)]
pub struct RegionLink {
    /// Its name in the config.
    pub name: RegionName,
    /// Its failure domain, as configured.
    pub domain: String,
    /// The country it is declared to be in.
    pub country: Option<String>,
    /// The folder of a directory, whose device tells whether it fails together with another one.
    pub directory: Option<PathBuf>,
    opener: Arc<dyn OpenRegion>,
    sessions: Arc<Sessions>,
    state: Mutex<State>,
}

impl RegionLink {
    /// A region that isn't open yet.
    #[must_use]
    pub fn new(
        name: RegionName,
        domain: String,
        country: Option<String>,
        opener: Arc<dyn OpenRegion>,
        sessions: Arc<Sessions>,
    ) -> Self {
        Self {
            name,
            domain,
            country,
            directory: None,
            opener,
            sessions,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The region's stores, opened if they aren't.
    ///
    /// # Errors
    /// What opening says.
    pub async fn stores(&self) -> tidemark_storage::Result<AgentRegion> {
        if let Some(stores) = self.lock().stores.clone() {
            return Ok(stores);
        }
        let stores = self.opener.open().await?;
        self.lock().stores = Some(stores.clone());
        Ok(stores)
    }

    /// Opens the region anew: credentials and certificates are read again. Requests that are under
    /// way end with what they began with; if opening fails, the old stores stay.
    ///
    /// # Errors
    /// What opening says.
    pub async fn reopen(&self) -> tidemark_storage::Result<()> {
        let stores = self.opener.open().await?;
        self.lock().stores = Some(stores);
        Ok(())
    }

    /// The stores, if they are open.
    #[must_use]
    pub fn open_stores(&self) -> Option<AgentRegion> {
        self.lock().stores.clone()
    }

    /// The region's own id, once its marker was read.
    #[must_use]
    pub fn id(&self) -> Option<RegionId> {
        self.lock().id
    }

    /// The device of a directory in which this process has read the marker. Before that the folder may
    /// be the mount point of a disk that isn't there.
    #[must_use]
    pub fn device(&self) -> Option<u64> {
        let state = self.lock();
        state.id?;
        let (_, device) = state.known?;
        device
    }

    /// Whether it is a directory that this process has not seen: it may be on the device of another one.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        self.directory.is_some() && self.id().is_none()
    }

    /// The folder of a directory that no process of this agent has ever seen, as far as it knows.
    #[must_use]
    pub fn new_directory(&self) -> Option<&Path> {
        let known = self.lock().known.is_some();
        self.directory.as_deref().filter(|_| !known)
    }

    /// The marker was read.
    pub fn set_id(&self, id: RegionId) {
        let mut state = self.lock();
        let device = state.stores.as_ref().and_then(|stores| stores.device);
        state.id = Some(id);
        state.known = Some((id, device));
    }

    /// An earlier process knew the place by this id.
    pub fn expect(&self, id: RegionId) {
        self.lock().known = Some((id, None));
    }

    /// Whether the place is still the one that was greeted: asked before what would be worth nothing
    /// in another one.
    ///
    /// # Errors
    /// [`ShipError::Emptied`], or the region's.
    pub async fn is_the_same(&self) -> Result<(), ShipError> {
        let stores = self.stores().await?;
        let Some(id) = self.id() else { return Ok(()) };
        match marker(&stores).await? {
            Some(found) if found == id => Ok(()),
            _ => Err(ShipError::Emptied {
                place: stores.place.to_string(),
                id,
            }),
        }
    }

    /// Whether a marker may be made if there is none: not in a directory that had one when it was last
    /// seen, unless this very process saw it there on the device that is there now.
    ///
    /// # Errors
    /// [`ShipError::NotMounted`], or the region's.
    pub async fn may_be_prepared(&self) -> Result<(), ShipError> {
        let stores = self.stores().await?;
        let known = self.lock().known;
        let Some((id, device)) = known.filter(|(_, device)| *device != stores.device) else {
            return Ok(());
        };
        if stores.device.is_none() || marker(&stores).await?.is_some() {
            return Ok(());
        }
        tracing::debug!(region = %self.name, ?device, "no marker where one was");
        // The disk may come back: then the folder is another one.
        self.lock().stores = None;
        Err(ShipError::NotMounted {
            place: stores.place.to_string(),
            id,
        })
    }

    /// Whether the region was greeted and answers, as far as its driver knows.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.lock().up
    }

    /// The driver has found out.
    pub fn set_up(&self, up: bool) {
        self.lock().up = up;
    }

    /// The sessions of this agent.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Creates an object and what must be there before it.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn create(&self, object: &ToCreate) -> Result<(), ShipError> {
        let stores = self.stores().await?;
        if let Some(session) = object.session {
            self.create_session(&stores, session).await?;
        }
        let through = Arc::clone(&stores.create);
        self.create_through(&stores, &*through, object).await
    }

    /// Creates a small, urgent object past the queue of large ones. It belongs to no session.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn create_urgent(&self, object: &ToCreate) -> Result<(), ShipError> {
        let stores = self.stores().await?;
        let through = Arc::clone(&stores.urgent);
        self.create_through(&stores, &*through, object).await
    }

    async fn create_through(
        &self,
        stores: &AgentRegion,
        through: &dyn CreateStore,
        object: &ToCreate,
    ) -> Result<(), ShipError> {
        let create = through.create(&object.key, object.bytes.clone(), &object.put);
        match bounded(&stores.place, &object.key, object.bytes.len(), create).await {
            Ok(_created) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Exists => {
                self.look_at(stores, object, error).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Creates every session that this region may lack.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn create_sessions(&self) -> Result<(), ShipError> {
        let stores = self.stores().await?;
        for session in self.sessions.kept() {
            self.create_session(&stores, session).await?;
        }
        Ok(())
    }

    async fn create_session(
        &self,
        stores: &AgentRegion,
        session: SessionId,
    ) -> Result<(), ShipError> {
        let Some(sealed) = self.sessions.lacking(session, &self.name)? else {
            return Ok(());
        };
        let create = stores
            .create
            .create(&sealed.key, sealed.bytes.clone(), &sealed.put);
        match bounded(&stores.place, &sealed.key, sealed.bytes.len(), create).await {
            Ok(_created) => {}
            // Its name is random: it is there because we put it there.
            Err(error) if error.kind() == ErrorKind::Exists => {}
            Err(error) => return Err(error.into()),
        }
        self.sessions.is_durable(session, &self.name);
        Ok(())
    }

    /// A name is taken: by the very object, or by somebody else's?
    async fn look_at(
        &self,
        stores: &AgentRegion,
        object: &ToCreate,
        taken: StorageError,
    ) -> Result<(), ShipError> {
        if !object.key.as_str().starts_with(META) {
            // A random name below data/, which we may not read: only we know it.
            return Ok(());
        }
        let start = stores.meta.get_range(&object.key, 0..HEAD_BYTES).await?;
        let Ok(found) = Envelope::parse(&start) else {
            return Err(taken.into());
        };
        if found.link() == object.link {
            return Ok(());
        }
        Err(ShipError::Foreign {
            place: stores.place.to_string(),
            key: object.key.clone(),
            whose: whose(&found),
        })
    }
}

async fn marker(stores: &AgentRegion) -> Result<Option<RegionId>, ShipError> {
    match read_marker(&*stores.meta).await {
        Ok(marker) => Ok(marker.map(|marker| marker.region)),
        Err(LedgerError::Storage(error)) => Err(error.into()),
        // Damaged or forged: greeting says so.
        Err(_other) => Ok(None),
    }
}

fn whose(found: &Envelope<'_>) -> String {
    let signer = found.signer.id();
    match (found.kind, found.head::<FenceHead>()) {
        (Kind::Fence, Ok(fence)) => format!(
            "a fence of writer {} for epoch {}, signed by key {signer} at {}",
            fence.by_writer.short(),
            fence.by_epoch,
            fence.at
        ),
        (kind, _) => format!("a {} signed by key {signer}", kind.name()),
    }
}

async fn bounded<T>(
    place: &Place,
    key: &Key,
    bytes: usize,
    create: impl Future<Output = tidemark_storage::Result<T>>,
) -> tidemark_storage::Result<T> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    let time = CREATE_TIME.saturating_add(Duration::from_secs(bytes / CREATE_BYTES_PER_SECOND));
    match tokio::time::timeout(time, create).await {
        Ok(result) => result,
        Err(_elapsed) => Err(StorageError::Unreachable {
            place: place.clone(),
            op: Op::Create,
            key: key.to_string(),
            why: format!("no answer within {} s", time.as_secs()),
            source: None,
        }),
    }
}
