//! Where a drill must not run: on the source's host, or wherever production answers.
//!
//! **What it does not do.** It does not search the network. It looks at this machine, and asks the
//! addresses that the config calls production.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe;
use tidemark_format::heads::Facts;
use tidemark_host::HostFacts;
use tokio::net::TcpStream;

use super::error::SandboxError;

/// The beginning of the name of a server's socket.
const SOCKET: &str = ".s.PGSQL.";
/// Where a server listens as a rule.
const USUAL_PORT: u16 = 5432;
/// How long an address may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// What is known of production.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Production {
    /// Ids of the hosts that wrote the source's history.
    pub host_ids: Vec<String>,
    /// A server's own number, which every copy of it shares.
    pub system: Option<u64>,
    /// Files that a source of SQLite's is, on its own host.
    pub files: Vec<PathBuf>,
    /// Addresses, `HOST:PORT`, that must not answer from here.
    pub addresses: Vec<String>,
}

impl Production {
    /// Takes from the facts of a recovery point or a base what tells its host.
    pub fn note(&mut self, facts: &Facts) {
        let id = facts.get("host_id").and_then(|id| id.as_str());
        let id = id.filter(|id| !id.is_empty()).map(str::to_owned);
        if let Some(id) = id.filter(|id| !self.host_ids.contains(id)) {
            self.host_ids.push(id);
        }
    }
}

/// Whether the sandbox's host is another than the source's, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segregation {
    /// Whether it is.
    pub segregated: bool,
    /// How that is known, or why it isn't so.
    pub how: String,
    /// What was asked and did not say who it is.
    pub unknown: Vec<String>,
}

/// Whether a drill may run here.
///
/// # Errors
/// [`SandboxError::Refused`] unless `allow_source_host`.
pub async fn refuse_here(
    production: &Production,
    here: &HostFacts,
    allow_source_host: bool,
) -> Result<Segregation, SandboxError> {
    let mut unknown = Vec::new();
    let found = match by_id(production, here) {
        Some(why) => Some(why),
        None => answering(production, &mut unknown).await,
    };
    match found {
        Some(why) if allow_source_host => Ok(Segregation {
            segregated: false,
            how: format!("{why}; allowed by --allow-source-host"),
            unknown,
        }),
        Some(why) => Err(SandboxError::Refused { why }),
        None => Ok(told_apart(production, here, unknown)),
    }
}

/// Why this is the source's host, by its id.
fn by_id(production: &Production, here: &HostFacts) -> Option<String> {
    let is_here = !here.host_id.is_empty() && production.host_ids.contains(&here.host_id);
    is_here.then(|| {
        format!(
            "this host ({}) is the one that the source runs on",
            here.hostname
        )
    })
}

fn told_apart(production: &Production, here: &HostFacts, unknown: Vec<String>) -> Segregation {
    let (segregated, how) = if here.host_id.is_empty() {
        (
            false,
            "this host has no machine-id to be told from the source's by",
        )
    } else if production.host_ids.is_empty() {
        (
            false,
            "the history does not say on which host it was written",
        )
    } else {
        (
            true,
            "another machine-id than any that wrote the source's history",
        )
    };
    Segregation {
        segregated,
        how: how.to_owned(),
        unknown,
    }
}

/// Why production is beside this drill.
async fn answering(production: &Production, unknown: &mut Vec<String>) -> Option<String> {
    for file in &production.files {
        if is_in_use(file) {
            return Some(format!("{} is here and in use", file.display()));
        }
    }
    for address in &production.addresses {
        let connected = tokio::time::timeout(ANSWERS_WITHIN, TcpStream::connect(address));
        if matches!(connected.await, Ok(Ok(_))) {
            return Some(format!("production answers from here at {address}"));
        }
    }
    let system = production.system?;
    let text = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut places: Vec<String> = sockets(&text)
        .into_iter()
        .map(|(folder, port)| format!("host={} port={port}", folder.display()))
        .collect();
    places.push(format!("host=127.0.0.1 port={USUAL_PORT}"));
    for place in places {
        match system_at(&place).await {
            Answer::System(found) if found == system => {
                return Some(format!(
                    "the production server itself answers here ({place})"
                ));
            }
            Answer::Nobody | Answer::System(_) => {}
            Answer::WontSay => unknown.push(place),
        }
    }
    None
}

enum Answer {
    Nobody,
    System(u64),
    WontSay,
}

/// Which server answers; one that lets nobody in is asked for the file beside its socket.
async fn system_at(place: &str) -> Answer {
    let Ok(info) = ConnInfo::parse(
        &format!("{place} user=postgres dbname=postgres sslmode=prefer connect_timeout=3"),
        &Process,
    ) else {
        return Answer::WontSay;
    };
    if let Some(system) = probe::system(&info).await {
        return Answer::System(system);
    }
    let Some(socket) = place.strip_prefix("host=/") else {
        let address = format!("127.0.0.1:{USUAL_PORT}");
        let connected = tokio::time::timeout(ANSWERS_WITHIN, TcpStream::connect(address));
        return match connected.await {
            Ok(Ok(_)) => Answer::WontSay,
            _ => Answer::Nobody,
        };
    };
    let Some((folder, port)) = socket.split_once(" port=") else {
        return Answer::WontSay;
    };
    let lock = PathBuf::from(format!("/{folder}/{SOCKET}{port}.lock"));
    system_of_folder(&lock).map_or(Answer::WontSay, Answer::System)
}

/// The system's number from the data directory that a socket's lock file names, if this user may read it.
fn system_of_folder(lock: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(lock).ok()?;
    let data = text.lines().nth(1)?;
    let control = std::fs::read(Path::new(data).join("global/pg_control")).ok()?;
    Some(u64::from_le_bytes(*control.first_chunk()?))
}

/// Sockets of servers that listen, from what the system lists: folder and port.
fn sockets(list: &str) -> Vec<(PathBuf, u16)> {
    let mut found: Vec<(PathBuf, u16)> = list
        .lines()
        .filter_map(|line| {
            let path = line.split_whitespace().nth(7)?;
            let (folder, port) = path.rsplit_once('/')?;
            let port = port.strip_prefix(SOCKET)?.parse().ok()?;
            Some((PathBuf::from(folder), port))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Whether some process has a file of this name open.
fn is_in_use(file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else {
        return false;
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.parse::<u32>().is_ok())
        })
        .any(|entry| {
            let open = std::fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            open.into_iter()
                .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == file))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(id: &str) -> HostFacts {
        HostFacts {
            host_id: id.to_owned(),
            hostname: "db1".to_owned(),
            kernel: String::new(),
            version: String::new(),
        }
    }

    fn production(id: &str) -> Production {
        let mut production = Production::default();
        production.note(&Facts::from([("host_id".to_owned(), json!(id))]));
        production
    }

    #[tokio::test]
    async fn the_sources_own_host_is_refused_unless_that_is_allowed() {
        let error = refuse_here(&production("aa"), &host("aa"), false).await;
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("db1") && text.contains("--allow-source-host"),
            "{text}"
        );
        let allowed = refuse_here(&production("aa"), &host("aa"), true)
            .await
            .unwrap();
        assert!(
            !allowed.segregated && allowed.how.contains("allowed"),
            "{allowed:?}"
        );
    }

    #[tokio::test]
    async fn another_host_is_segregated_only_if_both_say_who_they_are() {
        let apart = |production: Production, here: HostFacts| async move {
            refuse_here(&production, &here, false)
                .await
                .unwrap()
                .segregated
        };
        assert!(apart(production("aa"), host("bb")).await);
        assert!(!apart(production(""), host("bb")).await);
        assert!(!apart(production("aa"), host("")).await);
    }

    #[tokio::test]
    async fn an_address_of_production_that_answers_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut production = production("aa");
        production
            .addresses
            .push(listener.local_addr().unwrap().to_string());
        let error = refuse_here(&production, &host("bb"), false)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("answers from here"), "{error}");
        drop(listener);
        assert!(
            refuse_here(&production, &host("bb"), false)
                .await
                .unwrap()
                .segregated
        );
    }

    #[tokio::test]
    async fn a_file_of_the_sources_that_is_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.db");
        let open = std::fs::File::create(&file).unwrap();
        let mut production = production("aa");
        production.files.push(file);
        let error = refuse_here(&production, &host("bb"), false)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(open);
        refuse_here(&production, &host("bb"), false).await.unwrap();
    }

    #[test]
    fn sockets_are_found_wherever_they_are() {
        let list = "Num RefCount Protocol Flags Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 20000 /var/run/postgresql/.s.PGSQL.5433\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20001 /run/systemd/notify\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 20002\n";
        assert_eq!(
            sockets(list),
            [(PathBuf::from("/var/run/postgresql"), 5433)]
        );
    }
}
