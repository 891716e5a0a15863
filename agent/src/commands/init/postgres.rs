//! `init --postgres`: asks the server what it is and whether it lets the agent in, before anything is
//! written.

use std::path::{Path, PathBuf};

use tidemark_engine_postgres::conninfo::{Address, ConnInfo, Process, Settled, settle};
use tidemark_engine_postgres::probe::{self, Finding, Findings, Grade, Topic, Wanted};
use tidemark_host::codes::{self, Code};
use tidemark_host::config::write::NewSource;
use tidemark_host::config::{AgentConfig, Engine, name_from_words, slot_of, without_password};
use tidemark_host::files;

use super::super::{Failure, context};
use crate::cli::InitArgs;

/// A cluster that answered.
pub(super) struct Cluster {
    pub(super) source: NewSource,
    /// Which database system it is, if it said so.
    system: Option<u64>,
    /// Where its password goes, and the line.
    pub(super) passfile: Option<(PathBuf, String)>,
    /// The role, if it logs in through a socket: the system's user of that name may be whom `peer` wants.
    pub(super) peer: Option<String>,
    /// What was found, for people.
    pub(super) notes: Vec<String>,
}

impl Cluster {
    /// Asks the server; nothing is written.
    pub(super) fn look(text: &str, args: &InitArgs, state_dir: &Path) -> Result<Self, Failure> {
        let info = ConnInfo::parse(text, &Process).map_err(|error| {
            Failure::Usage(format!("--postgres {}: {error}", without_password(text)))
        })?;
        // The slot's name hangs on the source's, which may hang on the server's answer.
        let named = args.name.as_ref().map(slot_of);
        let wanted = Wanted {
            slot: named.unwrap_or_default(),
            application_name: String::new(),
            waits_for_regions: false,
            slot_keep_max: 10 << 30,
            canary: None,
            followed: None,
            runs_as: runs_as(&info, args),
        };
        let found = context::runtime()?.block_on(probe::look(&info, &wanted));
        refuse_if_broken(&found)?;
        let server = found.server.as_ref();
        let from_server = server.and_then(|server| {
            name_from_words(&server.cluster_name).or_else(|| name_from_words(&server.database))
        });
        let named = args.name.clone().or(from_server);
        let name = named
            .or_else(|| name_from_words(&info.database))
            .ok_or_else(|| {
                Failure::Usage(
                    "no name can be made of the cluster's or the database's: give one with --name \
                 (lower-case letters, digits, '-')"
                        .to_owned(),
                )
            })?;
        let place = state_dir.join(format!("{name}.pgpass"));
        let Settled {
            text,
            passfile_line,
        } = settle(text, &Process, &place).map_err(|error| Failure::Usage(error.to_string()))?;
        let peer = peer_of(&info).map(str::to_owned);
        Ok(Self {
            source: NewSource {
                engine: Engine::Postgres {
                    conninfo: text,
                    slot: slot_of(&name),
                },
                name: name.to_string(),
            },
            system: found.system,
            passfile: passfile_line.map(|line| (place, line)),
            peer,
            notes: notes(&found),
        })
    }

    /// Refuses a cluster that the config protects already: two slots would keep the same log, and two
    /// histories say the same.
    pub(super) fn refuse_if_known(&self, before: &AgentConfig) -> Result<(), Failure> {
        let Some(system) = self.system else {
            return Ok(());
        };
        let runtime = context::runtime()?;
        for source in &before.sources {
            let Engine::Postgres { conninfo, .. } = &source.engine else {
                continue;
            };
            // One that can't be asked can't be compared; the agent would say so once it runs.
            let info = ConnInfo::parse(conninfo, &Process).ok();
            let other = info.and_then(|info| runtime.block_on(probe::system(&info)));
            if other == Some(system) {
                return Err(Failure::Usage(format!(
                    "{} protects this cluster already, as source {} (system identifier {system}): nothing was changed. \
                     One source holds all databases of a cluster; a server that follows by fail-over belongs into its \
                     connection string. A restored copy beside it says the same: add its [[source]] by hand",
                    before.file.display(),
                    source.name
                )));
            }
        }
        Ok(())
    }

    /// Writes the password where only the agent reads it.
    pub(super) fn write_passfile(&self) -> Result<(), Failure> {
        let Some((path, line)) = &self.passfile else {
            return Ok(());
        };
        if let Some(folder) = path.parent() {
            files::create_private_folder(folder)?;
        }
        files::write_atomic(path, format!("{line}\n").as_bytes(), files::PRIVATE)?;
        Ok(())
    }
}

/// The role, if it logs in through a socket.
fn peer_of(info: &ConnInfo) -> Option<&str> {
    let is_socket = |address: &Address| matches!(address, Address::Unix { .. });
    info.addresses
        .iter()
        .any(is_socket)
        .then_some(info.user.as_str())
}

/// The user that the agent will run as.
fn runs_as(info: &ConnInfo, args: &InitArgs) -> u32 {
    if args.systemd {
        super::owner_for(peer_of(info)).ids.0
    } else {
        rustix::process::geteuid().as_raw()
    }
}

/// What was found on the server, a line each, with what to do where something is to be done.
fn notes(found: &Findings) -> Vec<String> {
    let line = |check: &Finding| match &check.remedy {
        Some(remedy) => format!("{}: {}\n→ {remedy}", check.topic.name(), check.found),
        None => format!("{}: {}", check.topic.name(), check.found),
    };
    let tell = |check: &&Finding| check.remedy.is_some() || check.topic == Topic::Connection;
    found.checks.iter().filter(tell).map(line).collect()
}

fn refuse_if_broken(found: &Findings) -> Result<(), Failure> {
    let broken = |check: &&Finding| check.grade == Grade::Broken;
    let Some(first) = found.checks.iter().find(broken) else {
        return Ok(());
    };
    let lines: Vec<String> = found
        .checks
        .iter()
        .filter(broken)
        .map(|check| {
            let remedy = check.remedy.as_deref().unwrap_or_default();
            format!("{}: {}\n→ {remedy}", check.topic.name(), check.found)
        })
        .collect();
    Err(Failure::Server {
        code: code_of(first.topic),
        message: format!(
            "the server can't be protected like this; nothing was written. Mend it and run init again\n{}",
            lines.join("\n")
        ),
    })
}

/// The code that says what a finding means.
pub(in crate::commands) const fn code_of(topic: Topic) -> Code {
    match topic {
        Topic::Connection => codes::SERVER_AWAY,
        Topic::LogIn | Topic::Privileges | Topic::Bases | Topic::Canary => codes::SERVER_LOG_IN,
        Topic::Tls => codes::SERVER_TLS,
        Topic::Version => codes::SERVER_VERSION,
        Topic::Database => codes::CONNECTION_STRING,
        Topic::Servers => codes::TWO_PRIMARIES,
        Topic::Setting(_) => codes::SERVER_REFUSES,
        Topic::Slot => codes::LOG_LOST,
    }
}
