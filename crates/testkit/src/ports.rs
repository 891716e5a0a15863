//! Free loopback ports for a server that takes a second one, 10,000 above, for each.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;

use anyhow::{Result, bail};

/// The server's gRPC ports are so far above.
const GRPC_ABOVE: u16 = 10_000;
/// Below the range from which the system takes ports for outgoing connections, also +10,000.
const LOWEST: u16 = 12_000;
const HIGHEST: u16 = 22_000;

/// A random number, not secret.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// `count` ports that are free, as is the one 10,000 above each.
pub(crate) fn free(count: usize) -> Result<Vec<u16>> {
    let mut ports: Vec<u16> = Vec::with_capacity(count);
    for _ in 0..10_000 {
        if ports.len() == count {
            return Ok(ports);
        }
        let span = u64::from(HIGHEST - LOWEST);
        let port = LOWEST + u16::try_from(random() % span).unwrap_or(0);
        if !ports.contains(&port) && is_free(port) && is_free(port + GRPC_ABOVE) {
            ports.push(port);
        }
    }
    bail!("no {count} free ports")
}
