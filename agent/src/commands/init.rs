//! `init`: the agent's key, the repository's keys in a trial, the regions' markers, the config.
//!
//! Plan, then act: everything that can be refused is refused before anything is written. Running it
//! again on the same config adds a source.

mod keys;
pub(super) mod postgres;
mod regions;
mod report;

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use tidemark_format::{SourceName, sign::SigningKey};
use tidemark_host::{
    Exit, HostFacts, RegionUrl, RegionUrlError,
    config::{
        AgentConfig, Engine, Region, SYSTEM_FOLDER, name_from_path,
        write::{NewAgent, NewSource},
    },
    files,
    output::Console,
};

use self::{keys::Keys, postgres::Cluster, report::Initialised};
use super::{
    Failure,
    context::{self, Machine},
    ownership,
    systemd_files::DropIn,
};
use crate::{
    bootstrap,
    cli::{Global, InitArgs},
    folders,
    state::StateDir,
};

const DROP_IN: &str = "/etc/systemd/system/tidemark-agent.service.d/10-sources.conf";
const SYSTEM_STATE: &str = "/var/lib/tidemark";
/// The unit's own user.
const PACKAGE_USER: &str = "tidemark";

/// Runs `init`.
pub(super) fn init(global: &Global, args: &InitArgs, console: &Console) -> Result<Exit, Failure> {
    let path = config_path(global);
    if path.exists() {
        let before = context::load(&path)?;
        let given = Given::of(args, &before.state_dir)?;
        return add_source(&path, (&before, &given), global, args, console);
    }
    let given = Given::of(args, &new_state_dir(&path, args))?;
    let regions = region_list(global)?;
    let machine = Machine::new();
    let keys = Keys::prepare(global, args, &machine)?;
    let draft = draft(&path, args, &keys, &regions, given.source());
    let config = context::parse(&draft.render(), &path)?;
    let owner = given.owner(args.systemd)?;
    let made = create(&config, &keys, &machine)?;
    given.write_secrets()?;
    if let Some(owner) = &owner {
        ownership::hand_over(&config, owner.ids)?;
    }
    files::write_new(&path, draft.render().as_bytes(), files::PUBLIC)?;
    let drop_in = match &owner {
        Some(owner) if args.systemd => Some(write_drop_in(&config, owner)?),
        _ => None,
    };
    let report = Initialised::new(&config, &keys, &made, drop_in, args.systemd);
    console.show(&report.with_notes(given.notes()));
    Ok(Exit::Ok)
}

/// The database that the words name.
enum Given {
    File(NewSource, PathBuf),
    Cluster(Box<Cluster>),
}

impl Given {
    fn of(args: &InitArgs, state_dir: &Path) -> Result<Self, Failure> {
        match (&args.postgres, &args.sqlite) {
            (Some(text), _) => Cluster::look(text, args, state_dir)
                .map(Box::new)
                .map(Self::Cluster),
            (None, Some(path)) => sqlite_source(args, path),
            (None, None) => Err(Failure::Usage(
                "what shall be protected? --sqlite PATH or --postgres URL".to_owned(),
            )),
        }
    }

    const fn source(&self) -> &NewSource {
        match self {
            Self::File(source, _) => source,
            Self::Cluster(cluster) => &cluster.source,
        }
    }

    /// Whom the agent runs as, where that hangs on the database.
    fn owner(&self, systemd: bool) -> Result<Option<Owner>, Failure> {
        match self {
            Self::File(_, path) => owner_of(path).map(Some),
            // Without a unit the agent runs as whoever starts it.
            Self::Cluster(cluster) if systemd => Ok(Some(owner_for(cluster.peer.as_deref()))),
            Self::Cluster(_) => Ok(None),
        }
    }

    fn write_secrets(&self) -> Result<(), Failure> {
        match self {
            Self::File(..) => Ok(()),
            Self::Cluster(cluster) => cluster.write_passfile(),
        }
    }

    fn notes(&self) -> &[String] {
        match self {
            Self::File(..) => &[],
            Self::Cluster(cluster) => &cluster.notes,
        }
    }
}

/// What `create` did.
struct Made {
    agent: tidemark_format::KeyId,
    enrolled: bool,
    regions: Vec<regions::Prepared>,
}

/// Makes the agent's key and prepares every region. When no region has been made this repository's
/// in the end, no key file stays behind.
fn create(config: &AgentConfig, keys: &Keys, machine: &Machine) -> Result<Made, Failure> {
    let state = StateDir::new(&config.state_dir);
    let runtime = context::runtime()?;
    let found = runtime.block_on(regions::look(config, keys, machine))?;
    files::create_private_folder(state.root())?;
    let (signer, new_signer) = signing_key(&state.agent_key(), machine)?;
    let host = HostFacts::gather().hostname;
    let prepared = runtime.block_on(async {
        // The private keys are on disk before anything is sealed to them or signed by them.
        keys.write_files()?;
        let prepared = regions::prepare(&found, keys, &signer, &host, machine).await;
        if prepared.is_err() && !found.is_begun().await {
            keys.remove_files();
        }
        prepared
    });
    if prepared.is_err() && new_signer && !runtime.block_on(found.is_begun()) {
        drop(std::fs::remove_file(state.agent_key()));
    }
    let prepared = prepared?;
    let enrolled = prepared.iter().all(|region| region.enrolled);
    Ok(Made {
        agent: signer.public().id(),
        enrolled,
        regions: prepared,
    })
}

/// The agent's key, and whether it was made just now.
fn signing_key(path: &Path, machine: &Machine) -> Result<(SigningKey, bool), Failure> {
    match bootstrap::load_signing_key(path) {
        Ok(key) => Ok((key, false)),
        Err(crate::AgentError::SigningKey { .. }) if !path.exists() => {
            let key = bootstrap::create_signing_key(path, machine.rng.as_ref())?;
            Ok((key, true))
        }
        Err(error) => Err(error.into()),
    }
}

fn config_path(global: &Global) -> PathBuf {
    if let Some(path) = &global.config {
        return path.clone();
    }
    let system = Path::new(SYSTEM_FOLDER);
    let writable =
        system.is_dir() && rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok();
    if writable {
        system.join("agent.toml")
    } else {
        PathBuf::from("agent.toml")
    }
}

fn sqlite_source(args: &InitArgs, given: &Path) -> Result<Given, Failure> {
    let sqlite = std::fs::canonicalize(given).map_err(|source| Failure::Folder {
        path: given.to_owned(),
        source,
    })?;
    if sqlite.to_str().is_none() {
        return Err(Failure::Usage(format!(
            "{}: the path is not UTF-8, and a config holds nothing else; rename the file or its folder",
            sqlite.display()
        )));
    }
    if !sqlite.is_file() {
        return Err(Failure::Usage(format!(
            "{}: not a file; --sqlite takes the database file itself",
            sqlite.display()
        )));
    }
    let named = args.name.clone().or_else(|| name_from_path(&sqlite));
    let name: SourceName = named.ok_or_else(|| {
        Failure::Usage(format!(
            "no name can be made of {}: give one with --name (lower-case letters, digits, '-')",
            sqlite.display()
        ))
    })?;
    let source = NewSource {
        name: name.to_string(),
        engine: Engine::Sqlite {
            path: sqlite.clone(),
        },
    };
    Ok(Given::File(source, sqlite))
}

/// The state directory that a new config names.
fn new_state_dir(path: &Path, args: &InitArgs) -> PathBuf {
    if args.systemd {
        return PathBuf::from(SYSTEM_STATE);
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_no_directory| path.to_owned());
    let folder = absolute.parent().unwrap_or_else(|| Path::new("/"));
    folder.join(".tidemark")
}

fn region_list(global: &Global) -> Result<Vec<Region>, Failure> {
    let words = if global.region.is_empty() {
        let variable = std::env::var("TIDEMARK_REGION").unwrap_or_default();
        variable.split_whitespace().map(str::to_owned).collect()
    } else {
        global.region.clone()
    };
    if words.is_empty() {
        return Err(Failure::Usage(
            "where to? name at least one --region (two in different places protect against losing \
             one): dir:/path or s3://bucket/prefix?endpoint=…&region=…"
                .to_owned(),
        ));
    }
    let urls = words
        .iter()
        .map(|word| region_url(word))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Region::from_urls(&urls))
}

/// A region as given on the command line. A relative folder is refused: the config outlives the folder
/// that a person happens to be in.
fn region_url(word: &str) -> Result<RegionUrl, Failure> {
    word.parse().map_err(|error| match &error {
        RegionUrlError::Path(path) if !path.starts_with('/') && !path.is_empty() => {
            match std::path::absolute(path) {
                Ok(meant) => Failure::Usage(format!("{error}; from here: dir:{}", meant.display())),
                Err(_no_directory) => error.into(),
            }
        }
        _ => error.into(),
    })
}

fn draft(
    path: &Path,
    args: &InitArgs,
    keys: &Keys,
    regions: &[Region],
    source: &NewSource,
) -> NewAgent {
    NewAgent {
        state_dir: new_state_dir(path, args),
        recipients: keys.recipients.iter().map(ToString::to_string).collect(),
        root: keys.trust.root.to_string(),
        changed: Vec::new(),
        regions: regions.to_vec(),
        sources: vec![source.clone()],
    }
}

fn add_source(
    path: &Path,
    (before, given): (&AgentConfig, &Given),
    global: &Global,
    args: &InitArgs,
    console: &Console,
) -> Result<Exit, Failure> {
    let source = given.source();
    if !global.region.is_empty() || !args.recipient.is_empty() {
        let words = region_list(global)?;
        let known = |region: &Region| before.regions.iter().any(|other| other.url == region.url);
        if let Some(new) = words.iter().find(|region| !known(region)) {
            return Err(Failure::Usage(format!(
                "{} is there already and doesn't name region {}: add a [[region]] to it by hand, or \
                 name another file with --config",
                path.display(),
                new.url.place()
            )));
        }
    }
    if let Given::Cluster(cluster) = given {
        cluster.refuse_if_known(before)?;
    }
    let text = files::read_text(path)? + &source.render();
    let config = context::parse(&text, path)?;
    let owner = given.owner(args.systemd)?;
    given.write_secrets()?;
    if let Given::Cluster(_) = given {
        ownership::hand_back(&config)?;
    }
    let mode = std::fs::metadata(path).map_or(files::PUBLIC, |meta| meta.mode() & 0o777);
    files::write_atomic(path, text.as_bytes(), mode)?;
    let drop_in = match &owner {
        Some(owner) if args.systemd => Some(write_drop_in(&config, owner)?),
        _ => None,
    };
    let report = report::Added::new(&config, &source.name, drop_in);
    console.show(&report.with_notes(given.notes()));
    Ok(Exit::Ok)
}

/// The owner of a database file: a unit runs as them.
struct Owner {
    user: String,
    group: String,
    ids: (u32, u32),
}

fn owner_of(database: &Path) -> Result<Owner, Failure> {
    let meta = std::fs::metadata(database).map_err(|source| Failure::Folder {
        path: database.to_owned(),
        source,
    })?;
    Ok(Owner {
        user: folders::user(meta.uid()),
        group: folders::group(meta.gid()),
        ids: (meta.uid(), meta.gid()),
    })
}

/// The user for a cluster's agent: the role's namesake where it logs in by its name on this machine, else
/// the package's own.
fn owner_for(peer: Option<&str>) -> Owner {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids_of = |user: &str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let ids = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == user).then_some(ids)
        })
    };
    let found = peer.and_then(|user| Some((user, ids_of(user)?)));
    let (user, ids) =
        found.unwrap_or_else(|| (PACKAGE_USER, ids_of(PACKAGE_USER).unwrap_or((0, 0))));
    Owner {
        user: user.to_owned(),
        group: folders::group(ids.1),
        ids,
    }
}

fn write_drop_in(config: &AgentConfig, owner: &Owner) -> Result<PathBuf, Failure> {
    let text = DropIn::of(config, &owner.user, &owner.group).render();
    let path =
        std::env::var_os("TIDEMARK_DROP_IN").map_or_else(|| PathBuf::from(DROP_IN), PathBuf::from);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| Failure::Folder {
            path: folder.to_owned(),
            source,
        })?;
    }
    files::write_atomic(&path, text.as_bytes(), files::PUBLIC)?;
    Ok(path)
}
