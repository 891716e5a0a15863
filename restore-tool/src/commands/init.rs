//! `init`: writes a commented `restore.toml`, with a drill for each source if a schedule is given.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use serde::Serialize;
use tidemark_format::{KeyId, SourceName};
use tidemark_host::config::write::{NewDrill, NewRestore};
use tidemark_host::config::{ConfigFile, Region, SYSTEM_FOLDER};
use tidemark_host::output::Document;
use tidemark_host::{Exit, RegionUrl, files};
use tidemark_open::Identity;
use tidemark_planner::Schedule;

use crate::cli::{Global, InitArgs};
use crate::error::{Error, Result};
use crate::identity;
use crate::repository::{Environment, Repository, Settings, Tools};

/// Writes the config.
///
/// # Errors
/// It is there already, no region was given or none can be read, the schedule means nothing, the disk.
pub async fn run(
    args: &InitArgs,
    global: &Global,
    environment: &Environment,
    tools: &Tools,
) -> Result<Exit> {
    let path = place(global.config.as_deref());
    if path.exists() {
        return Err(Error::ConfigExists(path));
    }
    let settings = Settings::without_config(global, environment)?;
    if let Some(schedule) = &args.schedule {
        Schedule::check(schedule, &TimeZone::UTC).map_err(Error::TargetText)?;
    }
    let trust = identity::trust_if_at_hand(&settings);
    let repository = Repository::open(&settings, trust, tools).await?;
    let known = repository.sources().await?;
    let wanted: Vec<SourceName> = match &settings.source {
        Some(source) => vec![repository.source(Some(source)).await?],
        None => known.iter().cloned().collect(),
    };
    let drill = |source: SourceName| {
        let schedule = args.schedule.clone()?;
        Some(NewDrill {
            name: source.to_string(),
            source: source.to_string(),
            schedule,
            assertions: Vec::new(),
        })
    };
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_odd| path.clone());
    let new = NewRestore {
        identity: settings.identity.as_ref().map(absolute),
        regions: settings.regions.clone(),
        drills: wanted.into_iter().filter_map(drill).collect(),
    };
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "make the config's folder",
            source,
        })?;
    }
    // It names places, no secrets.
    files::write_new(&path, new.render().as_bytes(), files::PUBLIC).map_err(|error| {
        if error.is_already_there() {
            Error::ConfigExists(path.clone())
        } else {
            error.into()
        }
    })?;
    tools
        .console
        .show(&Initialised::new(path, &new, &settings, &repository));
    Ok(Exit::Ok)
}

/// Where it goes: the system's folder if that is there, as for the agent, else here.
fn place(given: Option<&Path>) -> PathBuf {
    let name = ConfigFile::Restore.name();
    given.map_or_else(
        || {
            let system = Path::new(SYSTEM_FOLDER);
            if system.is_dir() {
                system.join(name)
            } else {
                PathBuf::from(name)
            }
        },
        Path::to_owned,
    )
}

/// What was written, and what comes next.
#[derive(Debug, Serialize)]
struct Initialised {
    /// The file.
    config: PathBuf,
    /// The drills in it.
    drills: Vec<String>,
    /// This identity's signing key, if nobody has vouched for it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrol: Option<KeyId>,
    /// The command that does.
    #[serde(skip_serializing_if = "Option::is_none")]
    enrol_command: Option<String>,
    /// Folders that the unit must be let write to.
    folders: Vec<PathBuf>,
}

impl Initialised {
    fn new(
        config: PathBuf,
        new: &NewRestore,
        settings: &Settings,
        repository: &Repository,
    ) -> Self {
        let identity = settings.identity.as_deref();
        let identity = identity.and_then(|path| Identity::load(path, None).ok());
        let key = identity.map(|identity| identity.evidence_key().public());
        let enrol = key.filter(|key| repository.keyring.member(key).is_none());
        let enrol = enrol.map(|key| key.id());
        let folder = |region: &Region| match &region.url {
            RegionUrl::Dir(folder) => Some(folder.clone()),
            RegionUrl::S3(_) => None,
        };
        Self {
            config,
            drills: new.drills.iter().map(|drill| drill.name.clone()).collect(),
            enrol,
            enrol_command: enrol.map(|key| tidemark_cli::enrol_command(key, &settings.regions)),
            folders: settings.regions.iter().filter_map(folder).collect(),
        }
    }
}

impl Document for Initialised {
    const SCHEMA: &'static str = "tidemark-restore.init";

    fn text(&self, out: &mut String) {
        let config = self.config.display();
        out.push_str(&format!("{config} is written; every key stands in it\n"));
        if self.drills.is_empty() {
            out.push_str("  no drill is scheduled: it shows how, or run init with --schedule\n");
        } else {
            out.push_str(&format!("  drills: {}\n", self.drills.join(", ")));
        }
        out.push_str("Next:\n");
        if let Some(command) = &self.enrol_command {
            out.push_str(&format!(
                "  {command}   # where the root key is, after the first drill or start\n"
            ));
        }
        out.push_str(&format!(
            "  tidemark-restore config check --config {config}\n"
        ));
        out.push_str("  install -m 600 IDENTITY /etc/credstore/tidemark.identity\n");
        for folder in &self.folders {
            out.push_str(&format!(
                "  systemctl edit tidemark-restore   # [Service] ReadWritePaths={}\n",
                folder.display()
            ));
        }
        out.push_str("  systemctl enable --now tidemark-restore\n");
    }
}
