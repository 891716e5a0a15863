//! The repository behind the regions given: opened, its keyring believed, its sources found.
//!
//! **Trust.** With an identity (or a printed key) the root is pinned. Without one (`list`, `status`,
//! `verify --quick`) the root is taken from the region itself: then everything shown is consistent,
//! and whether it is *yours* is not proved; commands say so.
//!
//! **Failure.** A region that can't be read stands in [`Repository::away`] and is reported; only when
//! none can be read does opening fail. Regions of two repositories are refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::join_all;
use tidemark_format::heads::KeyringHead;
use tidemark_format::{RegionName, SourceName, keys};
use tidemark_host::config::{
    ConfigError, ConfigFile, Drills, Promises, Region as RegionConfig, RestoreConfig, hint,
};
use tidemark_host::output::Console;
use tidemark_host::{Clock, Cpu, RegionUrl, Rng};
use tidemark_ledger::history::{Beats, LoadOptions, SourceHistory};
use tidemark_ledger::timeline::Timeline;
use tidemark_ledger::{Keyring, LedgerError, LedgerErrorKind, Trust, read_verified};
use tidemark_storage::{OpenOptions, ReadMode, ReadStore, Region, region};

use crate::cli::Global;
use crate::elsewhere;
use crate::error::{Error, Result};
use crate::evidence::access::Access;
use crate::patience::{self, Heard, Patience};

/// What a person names who wants no config file to be read.
const NO_CONFIG: &str = "/dev/null";

/// What the process is given, once, by `main`.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub rng: Arc<dyn Rng>,
    /// Where heavy work runs.
    pub cpu: Cpu,
    /// Where answers go.
    pub console: Console,
    /// What is done with a key, for the record that it leaves.
    pub access: Access,
}

/// The environment's say.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `TIDEMARK_REGION`: URLs, separated by spaces.
    pub region: Option<String>,
    /// `TIDEMARK_IDENTITY`.
    pub identity: Option<PathBuf>,
    /// `CREDENTIALS_DIRECTORY`, which systemd sets.
    pub credentials: Option<PathBuf>,
    /// The first folder of `STATE_DIRECTORY`, which systemd sets.
    pub state_directory: Option<PathBuf>,
    /// The user's own folder for state, where neither systemd nor the config names one.
    pub state_home: Option<PathBuf>,
    /// `SUDO_USER`.
    pub sudo_user: Option<String>,
    /// How long a region may say nothing.
    pub patience: Patience,
}

/// Command line, environment and config, merged: the nearer wins.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The regions.
    pub regions: Vec<RegionConfig>,
    /// The identity file.
    pub identity: Option<PathBuf>,
    /// The passphrase's file.
    pub passphrase_file: Option<PathBuf>,
    /// The source asked for.
    pub source: Option<SourceName>,
    /// Threads for heavy work; none is one for each core.
    pub threads: Option<std::num::NonZeroUsize>,
    /// systemd's credentials.
    pub credentials: Option<PathBuf>,
    /// Where evidence waits and is kept; none if there is no place for it.
    pub state: Option<PathBuf>,
    /// What is drilled on a schedule.
    pub drills: Drills,
    /// The config file that was read.
    pub config_file: Option<PathBuf>,
    /// Who asked sudo for this.
    pub sudo_user: Option<String>,
    /// What the config promises of the sources.
    pub objectives: Promises,
    /// How long a region may say nothing.
    pub patience: Patience,
}

impl Settings {
    /// Merges; a config file that isn't there is no error unless it was named.
    ///
    /// # Errors
    /// A URL or the config file can't be read.
    pub fn gather(global: &Global, environment: &Environment) -> Result<Self> {
        let (config, config_file) = match ConfigFile::Restore.find(global.config.as_deref()) {
            Ok(path) if path == Path::new(NO_CONFIG) => (RestoreConfig::default(), None),
            Ok(path) => (
                RestoreConfig::load(&path, &crate::daemon::CHECKS)?,
                Some(path),
            ),
            Err(ConfigError::Missing { .. }) => (RestoreConfig::default(), None),
            Err(error) => return Err(error.into()),
        };
        Self::merge(config, config_file, global, environment)
    }

    /// What command line and environment say alone: for whoever writes the config.
    ///
    /// # Errors
    /// A URL can't be read.
    pub fn without_config(global: &Global, environment: &Environment) -> Result<Self> {
        Self::merge(RestoreConfig::default(), None, global, environment)
    }

    fn merge(
        config: RestoreConfig,
        config_file: Option<PathBuf>,
        global: &Global,
        environment: &Environment,
    ) -> Result<Self> {
        let words: Vec<&str> = if global.region.is_empty() {
            environment
                .region
                .iter()
                .flat_map(|all| all.split_ascii_whitespace())
                .collect()
        } else {
            global.region.iter().map(String::as_str).collect()
        };
        let urls: Vec<RegionUrl> = words
            .into_iter()
            .map(|word| word.parse().map_err(Error::RegionUrl))
            .collect::<Result<_>>()?;
        let identity = global
            .identity
            .as_deref()
            .or(environment.identity.as_deref());
        let config = config.with_arguments(&urls, identity);
        let state = environment.state_directory.clone();
        let state = state.or(config.state_dir);
        Ok(Self {
            regions: config.regions,
            identity: config.identity,
            passphrase_file: global.passphrase_file.clone(),
            source: global.source.clone(),
            threads: config.threads,
            credentials: environment.credentials.clone(),
            state: state.or_else(|| environment.state_home.clone()),
            drills: config.drills,
            config_file,
            sudo_user: environment.sudo_user.clone(),
            objectives: config.objectives,
            patience: environment.patience,
        })
    }

    /// The regions, at least one.
    ///
    /// # Errors
    /// [`Error::NoRegion`].
    pub fn regions(&self) -> Result<&[RegionConfig]> {
        if self.regions.is_empty() {
            Err(Error::NoRegion)
        } else {
            Ok(&self.regions)
        }
    }

    /// The identity file's path.
    ///
    /// # Errors
    /// [`Error::NoIdentity`].
    pub fn identity(&self) -> Result<&Path> {
        self.identity.as_deref().ok_or(Error::NoIdentity)
    }
}

/// A region that answers.
#[derive(Debug, Clone)]
pub struct OpenRegion {
    /// As configured.
    pub config: RegionConfig,
    /// Its store.
    pub store: Region,
    /// Its keyring's version.
    pub keyring_version: u32,
    /// Its keyring, as it is there.
    pub keyring: Arc<Keyring>,
}

impl OpenRegion {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &RegionName {
        &self.config.name
    }
}

/// A region that couldn't be read.
#[derive(Debug)]
pub struct Away {
    /// Its name.
    pub name: RegionName,
    /// Its URL without options.
    pub place: String,
    /// Why.
    pub error: Error,
}

/// A repository, opened in one or several regions.
#[derive(Debug)]
pub struct Repository {
    /// The regions that answer.
    pub regions: Vec<OpenRegion>,
    /// Those that don't.
    pub away: Vec<Away>,
    /// What is believed.
    pub trust: Trust,
    /// Whether the root came from outside the regions.
    pub pinned: bool,
    /// The highest keyring of all regions.
    pub keyring: Arc<Keyring>,
}

impl Repository {
    /// Opens the regions, believing `trust`, or whoever signed the first keyring if there is none.
    ///
    /// # Errors
    /// When no region can be read, or they belong to two repositories.
    pub async fn open(settings: &Settings, trust: Option<Trust>, tools: &Tools) -> Result<Self> {
        let configs = settings.regions()?;
        let mut options = OpenOptions::new(Arc::clone(&tools.clock), Arc::clone(&tools.rng));
        options.mode = ReadMode::OldestVersion;
        options
            .credentials_directory
            .clone_from(&settings.credentials);
        let names = configs.iter().map(|config| &config.name);
        let options = &options;
        let ask = |at: usize, heard: Heard| async move {
            let config = configs.get(at).ok_or(Error::NoRegion)?;
            open_one(config, trust, options, &heard).await
        };
        let all = patience::all(names, settings.patience, &tools.console, ask).await;
        let mut open: Vec<(OpenRegion, Keyring)> = Vec::new();
        let mut away = Vec::new();
        for (config, result) in configs.iter().zip(all) {
            match result {
                Ok(found) => open.push(found),
                Err(error) => away.push(Away {
                    name: config.name.clone(),
                    place: config.url.place(),
                    error,
                }),
            }
        }
        match (settle(open, away, trust.is_some()), trust) {
            (Err(error), Some(trust)) => {
                let explained = elsewhere::explained(error, settings, trust, options);
                Err(Box::pin(explained).await)
            }
            (settled, _) => settled,
        }
    }

    /// Regions whose keyring is not the one that is believed, and the first version that differs: both
    /// were signed by the root, apart from each other.
    pub fn apart(&self) -> impl Iterator<Item = (&RegionName, u32)> {
        self.regions.iter().filter_map(|region| {
            let version = region.keyring.differs_from(&self.keyring)?;
            Some((region.name(), version))
        })
    }

    /// The sources of all regions.
    ///
    /// # Errors
    /// When no region can be listed.
    pub async fn sources(&self) -> Result<BTreeSet<SourceName>> {
        let mut found = BTreeSet::new();
        let mut first = None;
        let mut listed = false;
        for region in &self.regions {
            match tidemark_ledger::source_names(region.store.read.as_ref()).await {
                Ok(sources) => {
                    listed = true;
                    found.extend(sources);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        match first {
            Some(error) if !listed => Err(error.into()),
            _ => Ok(found),
        }
    }

    /// The source asked for, or the only one.
    ///
    /// # Errors
    /// [`Error::SourceUnclear`] or [`Error::NoSource`].
    pub async fn source(&self, asked: Option<&SourceName>) -> Result<SourceName> {
        let known = self.sources().await?;
        let names = || {
            known
                .iter()
                .map(SourceName::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match (asked, known.len()) {
            (Some(name), _) if known.contains(name) => Ok(name.clone()),
            (Some(name), 0) => Err(Error::NoSource {
                asked: format!("named {name}"),
                known: ", nor any other".to_owned(),
            }),
            (Some(name), _) => Err(Error::NoSource {
                asked: format!("named {name}"),
                known: {
                    let known: Vec<&str> = known.iter().map(SourceName::as_str).collect();
                    format!("; {}", hint(name.as_str(), &known, "there is"))
                },
            }),
            (None, 0) => Err(Error::NoSource {
                asked: "yet".to_owned(),
                known: ": nothing is protected here. tidemark-agent status, on the database's host, says what it waits for"
                    .to_owned(),
            }),
            (None, 1) => known.into_iter().next().ok_or(Error::NoRegion),
            (None, _) => Err(Error::SourceUnclear { known: names() }),
        }
    }

    /// What all regions together show of a source.
    ///
    /// # Errors
    /// When no region can be read.
    pub async fn timeline(&self, source: &SourceName, options: &LoadOptions) -> Result<Timeline> {
        let loads = self
            .regions
            .iter()
            .map(|region| self.history(region, source, options));
        let mut histories = Vec::new();
        let mut lacking = Vec::new();
        let mut failed = Vec::new();
        for (region, loaded) in self.regions.iter().zip(join_all(loads).await) {
            match loaded {
                Ok(history) => histories.push((region.name().clone(), history)),
                Err(LedgerError::UnknownSource { .. }) => lacking.push(region.name().clone()),
                Err(error) => failed.push((region.name().clone(), error)),
            }
        }
        if histories.is_empty() {
            return Err(match failed.into_iter().next() {
                Some((_, error)) => error.into(),
                None => Error::NoSource {
                    asked: format!("named {source}"),
                    known: String::new(),
                },
            });
        }
        Ok(Timeline::merge(source.clone(), histories, lacking, failed))
    }

    async fn history(
        &self,
        region: &OpenRegion,
        source: &SourceName,
        options: &LoadOptions,
    ) -> std::result::Result<SourceHistory, LedgerError> {
        let store = Arc::clone(&region.store.read);
        let beats = Beats::load(store.as_ref(), &self.keyring).await?;
        SourceHistory::load(store, Arc::clone(&self.keyring), source, &beats, options).await
    }
}

async fn open_one(
    config: &RegionConfig,
    trust: Option<Trust>,
    options: &OpenOptions,
    heard: &Heard,
) -> Result<(OpenRegion, Keyring)> {
    let store = region::open(&config.name, &config.url, options).await?;
    heard.get_or_init(|| Arc::clone(&store.meter));
    let loaded = async {
        let trust = match trust {
            Some(trust) => trust,
            None => self_declared(store.read.as_ref()).await?,
        };
        Ok::<_, Error>(Keyring::load(store.read.as_ref(), &trust).await?)
    };
    let keyring = match loaded.await {
        Ok(keyring) => keyring,
        Err(error) => return Err(no_repository(error, config, store.read.as_ref()).await),
    };
    let keyring_version = keyring.version();
    Ok((
        OpenRegion {
            config: config.clone(),
            store,
            keyring_version,
            keyring: Arc::new(keyring.clone()),
        },
        keyring,
    ))
}

/// Why there is no repository, where more can be said than that: nobody is enrolled yet, or the disk isn't
/// there.
async fn no_repository(error: Error, config: &RegionConfig, store: &dyn ReadStore) -> Error {
    if !matches!(error, Error::Ledger(LedgerError::NoRepository { .. })) {
        return error;
    }
    let asked = tidemark_ledger::list_all(store, keys::ENROLMENTS).await;
    if asked.is_ok_and(|asked| !asked.is_empty()) {
        let region = config.name.clone();
        return Error::NobodyEnrolled { region };
    }
    bare(config).unwrap_or(error)
}

/// What there is to say of a folder in which nothing is: where a region was, a disk is not mounted.
pub(crate) fn bare(config: &RegionConfig) -> Option<Error> {
    match &config.url {
        RegionUrl::Dir(folder) if is_bare(folder) => Some(Error::BareFolder {
            region: config.name.clone(),
            folder: folder.clone(),
        }),
        RegionUrl::Dir(_) | RegionUrl::S3(_) => None,
    }
}

/// Whether a folder holds nothing, or only what every new file system has: as where a disk would be
/// mounted.
fn is_bare(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.all(|name| name == "lost+found")
    })
}

/// Whoever signed the first keyring: good enough to look, not to believe.
pub(crate) async fn self_declared(store: &dyn ReadStore) -> Result<Trust> {
    let first = read_verified::<KeyringHead>(store, &keys::keyring(1), None).await;
    match first {
        Ok(first) => Ok(Trust {
            repo: first.head.repo,
            root: first.signer.id(),
        }),
        Err(LedgerError::Storage(error))
            if error.kind() == tidemark_storage::ErrorKind::Missing =>
        {
            Err(LedgerError::NoRepository {
                missing: "a keyring".to_owned(),
            }
            .into())
        }
        Err(error) => Err(error.into()),
    }
}

fn settle(open: Vec<(OpenRegion, Keyring)>, away: Vec<Away>, pinned: bool) -> Result<Repository> {
    let Some(first) = open.first() else {
        let count = away.len();
        let first = away
            .into_iter()
            .next()
            .map_or(Error::NoRegion, |away| away.error);
        return Err(match count {
            0 | 1 => first,
            _ => Error::AllRegionsFailed {
                count,
                first: Box::new(first),
            },
        });
    };
    let trust = *first.1.trust();
    let first_name = first.0.name().clone();
    if let Some((other, _)) = open.iter().find(|(_, keyring)| *keyring.trust() != trust) {
        return Err(Error::MixedRepositories {
            region: other.name().clone(),
            first: first_name,
        });
    }
    let foreign = away.iter().find(|away| is_foreign(&away.error));
    if let Some(foreign) = foreign {
        return Err(Error::MixedRepositories {
            region: foreign.name.clone(),
            first: first_name,
        });
    }
    let newest = open
        .iter()
        .map(|(_, keyring)| keyring)
        .max_by_key(|keyring| keyring.version());
    let keyring = Arc::new(newest.unwrap_or(&first.1).clone());
    let regions = open.into_iter().map(|(region, _)| region).collect();
    Ok(Repository {
        regions,
        away,
        trust,
        pinned,
        keyring,
    })
}

/// Whether a region answered with another repository's keyring.
fn is_foreign(error: &Error) -> bool {
    match error {
        Error::Ledger(error @ LedgerError::OtherRepository { .. }) => {
            error.kind() == LedgerErrorKind::NoRepository
        }
        _ => false,
    }
}
