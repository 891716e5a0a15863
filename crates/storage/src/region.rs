//! Opens a region's URL and stacks the wrappers, once, for each of the three powers.
//!
//! The agent gets [`AgentRegion`] (create anything, read `meta/`), the restore tool [`Region`]
//! (read everything, create), the keeper a [`DeleteStore`] opened with its own credential: what a
//! part may do is a type, as in `config/iam/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_format::RegionName;
use tidemark_host::{Clock, RegionUrl, Rng};

use crate::wrap::{Limited, MetaOnly, Meter, Metered, RetryPolicy, Retrying};
use crate::{
    CreateStore, DeleteStore, DirStore, Place, Probe, ReadMode, ReadStore, Result, S3Options,
    S3Store, Witness,
};

/// Requests to one region at a time: enough to fill a link with 8 MiB objects, few enough for
/// providers that allow little.
pub const AT_ONCE: usize = 8;

/// How to open regions.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Measures latency and the stores' clocks.
    pub clock: Arc<dyn Clock>,
    /// Draws the jitter of retries.
    pub rng: Arc<dyn Rng>,
    /// Which versions reads take.
    pub mode: ReadMode,
    /// Where systemd keeps this service's credentials; a file there with the region's name holds
    /// shared credentials for that region alone.
    pub credentials_directory: Option<PathBuf>,
    /// How often an unanswered request is tried again.
    pub retry: RetryPolicy,
    /// Requests at a time.
    pub at_once: usize,
    /// Whether a directory that isn't there is made. Only `init` wants that: later a missing one is
    /// an unmounted disk.
    pub create_directory: bool,
}

impl OpenOptions {
    /// The usual: plain reads, standard retries, nothing made.
    #[must_use]
    pub const fn new(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self {
            clock,
            rng,
            mode: ReadMode::Plain,
            credentials_directory: None,
            retry: RetryPolicy::STANDARD,
            at_once: AT_ONCE,
            create_directory: false,
        }
    }

    fn credentials_file(&self, name: &RegionName) -> Option<PathBuf> {
        let file = self
            .credentials_directory
            .as_deref()
            .map(|dir| dir.join(name.as_str()));
        file.filter(|file| file.is_file())
    }
}

/// A region as the restore tool has it: every object can be read, new ones created.
#[derive(Debug, Clone)]
pub struct Region {
    /// Its name in the config.
    pub name: RegionName,
    /// Its URL without options.
    pub place: Place,
    /// Reads everything.
    pub read: Arc<dyn ReadStore>,
    /// Creates objects.
    pub create: Arc<dyn CreateStore>,
    /// Finds out what the store enforces.
    pub probe: Arc<dyn Probe>,
    /// The store's clock.
    pub witness: Arc<dyn Witness>,
    /// Counts what goes through `read` and `create`.
    pub meter: Arc<Meter>,
    /// The device of a directory: two on one are one failure domain.
    pub device: Option<u64>,
}

/// A region as the agent has it: nothing outside `meta/` can be read, nothing deleted.
#[derive(Debug, Clone)]
pub struct AgentRegion {
    /// Its name in the config.
    pub name: RegionName,
    /// Its URL without options.
    pub place: Place,
    /// Reads `meta/` alone.
    pub meta: Arc<dyn ReadStore>,
    /// Creates objects.
    pub create: Arc<dyn CreateStore>,
    /// Creates small, urgent objects (beats, points) past the queue of large ones.
    pub urgent: Arc<dyn CreateStore>,
    /// Finds out what the store enforces.
    pub probe: Arc<dyn Probe>,
    /// The store's clock.
    pub witness: Arc<dyn Witness>,
    /// Counts what goes through `meta`, `create` and `urgent`.
    pub meter: Arc<Meter>,
    /// The device of a directory: two on one are one failure domain.
    pub device: Option<u64>,
}

/// A bare store of either kind.
#[derive(Debug, Clone)]
struct Bare {
    read: Arc<dyn ReadStore>,
    create: Arc<dyn CreateStore>,
    delete: Arc<dyn DeleteStore>,
    probe: Arc<dyn Probe>,
    witness: Arc<dyn Witness>,
    device: Option<u64>,
}

impl Bare {
    fn of<S>(store: &Arc<S>, device: Option<u64>) -> Self
    where
        S: ReadStore + CreateStore + DeleteStore + Probe + Witness + 'static,
    {
        Self {
            read: Arc::<S>::clone(store),
            create: Arc::<S>::clone(store),
            delete: Arc::<S>::clone(store),
            probe: Arc::<S>::clone(store),
            witness: Arc::<S>::clone(store),
            device,
        }
    }
}

async fn bare(name: &RegionName, url: &RegionUrl, options: &OpenOptions) -> Result<Bare> {
    match url {
        RegionUrl::Dir(path) => {
            let (path, create) = (path.clone(), options.create_directory);
            let now = options.clock.now();
            let opened = tokio::task::spawn_blocking(move || open_dir(&path, create, now)).await;
            let store = opened.map_err(|error| {
                let place = Place::new(&url.place());
                crate::Error::invalid(&place, "opening it failed (a bug)", Some(Arc::new(error)))
            })??;
            let device = Some(store.device_id());
            Ok(Bare::of(&Arc::new(store), device))
        }
        RegionUrl::S3(s3) => {
            let s3_options = S3Options {
                mode: options.mode,
                credentials_file: options.credentials_file(name),
                clock: Arc::clone(&options.clock),
            };
            let store = S3Store::open(name, s3, &s3_options).await?;
            Ok(Bare::of(&Arc::new(store), None))
        }
    }
}

fn open_dir(path: &Path, create: bool, now: jiff::Timestamp) -> Result<DirStore> {
    let store = if create {
        DirStore::create_root(path)?
    } else {
        DirStore::open(path)?
    };
    // Leftovers cost space only: a folder that can't be read now mustn't keep the region closed.
    drop(store.sweep_temporary(now));
    Ok(store)
}

/// Opens a region for reading and creating.
///
/// # Errors
/// `Invalid` for a URL that can't work, `Unreachable` for a directory that isn't there. An S3
/// store is not asked anything yet.
pub async fn open(name: &RegionName, url: &RegionUrl, options: &OpenOptions) -> Result<Region> {
    let bare = bare(name, url, options).await?;
    let stack = Stack::new(options);
    Ok(Region {
        name: name.clone(),
        place: Place::new(&url.place()),
        read: Arc::new(stack.around(bare.read)),
        create: Arc::new(stack.around(bare.create)),
        probe: Arc::new(stack.around(bare.probe)),
        witness: bare.witness,
        meter: stack.meter,
        device: bare.device,
    })
}

/// Opens a region for the agent.
///
/// # Errors
/// As [`open`].
pub async fn open_for_agent(
    name: &RegionName,
    url: &RegionUrl,
    options: &OpenOptions,
) -> Result<AgentRegion> {
    let bare = bare(name, url, options).await?;
    let stack = Stack::new(options);
    Ok(AgentRegion {
        name: name.clone(),
        place: Place::new(&url.place()),
        meta: Arc::new(MetaOnly::new(stack.around(bare.read))),
        urgent: Arc::new(stack.without_limit(Arc::clone(&bare.create))),
        create: Arc::new(stack.around(bare.create)),
        probe: Arc::new(stack.around(bare.probe)),
        witness: bare.witness,
        meter: stack.meter,
        device: bare.device,
    })
}

/// Opens a region for the keeper, with the keeper's credential in `url` or `options`.
///
/// # Errors
/// As [`open`].
pub async fn open_for_deletion(
    name: &RegionName,
    url: &RegionUrl,
    options: &OpenOptions,
) -> Result<Arc<dyn DeleteStore>> {
    let bare = bare(name, url, options).await?;
    Ok(Arc::new(Stack::new(options).around(bare.delete)))
}

/// The wrappers of one region.
struct Stack {
    meter: Arc<Meter>,
    permits: Arc<tokio::sync::Semaphore>,
    retry: RetryPolicy,
    rng: Arc<dyn Rng>,
}

impl Stack {
    fn new(options: &OpenOptions) -> Self {
        Self {
            meter: Meter::new(Arc::clone(&options.clock)),
            permits: Arc::new(tokio::sync::Semaphore::new(options.at_once.max(1))),
            retry: options.retry,
            rng: Arc::clone(&options.rng),
        }
    }

    /// The limit is inside the retries: waiting for another try holds no place.
    fn around<S>(&self, store: S) -> Metered<Retrying<Limited<S>>> {
        self.without_limit(Limited::sharing(store, Arc::clone(&self.permits)))
    }

    fn without_limit<S>(&self, store: S) -> Metered<Retrying<S>> {
        let retrying = Retrying::new(store, self.retry, Arc::clone(&self.rng));
        Metered::new(retrying, Arc::clone(&self.meter))
    }
}
