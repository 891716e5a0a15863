//! What the agent signs of the ways it takes: to regions, and to the servers that it reads.
//!
//! A policy's clause on encryption in transit is judged from these facts; the restore tool sees only its
//! own way to a region, and none to a server.

use serde_json::{Map, Value};
use tidemark_engine_postgres::conninfo::{Address, ConnInfo, Process, SslMode};
use tidemark_format::heads::Facts;
use tidemark_host::config::{AgentConfig, Engine};

/// Places of regions that are reached over plain http.
pub const PLAIN_HTTP: &str = "plain_http";
/// How each server is reached.
pub const SERVER_LINKS: &str = "server_links";

/// The facts of a config.
#[must_use]
pub fn facts(config: &AgentConfig) -> Facts {
    let mut facts = Facts::new();
    let plain = config
        .regions
        .iter()
        .filter(|region| region.url.is_plain_http());
    let plain: Vec<Value> = plain.map(|region| region.url.place().into()).collect();
    facts.insert(PLAIN_HTTP.to_owned(), plain.into());
    let links: Map<String, Value> = config
        .sources
        .iter()
        .filter_map(|source| match &source.engine {
            Engine::Sqlite { .. } => None,
            Engine::Postgres { conninfo, .. } => {
                Some((source.name.to_string(), link(conninfo).into()))
            }
        })
        .collect();
    if !links.is_empty() {
        facts.insert(SERVER_LINKS.to_owned(), links.into());
    }
    facts
}

/// How a connection string reaches its server.
fn link(conninfo: &str) -> &'static str {
    ConnInfo::parse(conninfo, &Process).map_or("unknown", |info| of(&info))
}

fn of(info: &ConnInfo) -> &'static str {
    let all = |is: fn(&Address) -> bool| info.addresses.iter().all(is);
    if all(|address| matches!(address, Address::Unix { .. })) {
        return "unix-socket";
    }
    match info.ssl {
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => "tls",
        // What the server may leave out is no promise.
        SslMode::Disable | SslMode::Allow | SslMode::Prefer if all(is_here) => "loopback",
        SslMode::Disable | SslMode::Allow | SslMode::Prefer => "plain",
    }
}

/// Whether an address is on this machine.
fn is_here(address: &Address) -> bool {
    match address {
        Address::Unix { .. } => true,
        Address::Tcp { host, at, .. } => match (at, host.parse::<std::net::IpAddr>()) {
            (Some(at), _) => at.is_loopback(),
            (None, Ok(at)) => at.is_loopback(),
            (None, Err(_name)) => host == "localhost",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_reached_safely_or_not() {
        for (conninfo, expected) in [
            ("host=/run/postgresql user=a", "unix-socket"),
            ("host=127.0.0.1 user=a", "loopback"),
            ("host=db.example user=a sslmode=prefer", "plain"),
            ("host=db.example user=a sslmode=require", "tls"),
            (
                "host=db.example user=a sslmode=verify-full sslrootcert=system",
                "tls",
            ),
            ("host=127.0.0.1,db.example user=a sslmode=disable", "plain"),
        ] {
            assert_eq!(link(conninfo), expected, "{conninfo}");
        }
    }
}
