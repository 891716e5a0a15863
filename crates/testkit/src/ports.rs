//! Free loopback ports for a server that takes a second one, 10,000 above, for each.
//!
//! Between looking and the server's start others look, too: in this process, and in those of other tests.
//! So each port that was given out is held by the name of an abstract Unix socket, which ends with the
//! process, whatever happens to it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

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

/// Whether it is nobody else's from now on, as long as this process lives.
fn is_ours(port: u16) -> bool {
    static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("tidemark-test-port-{port}"));
    let Ok(holder) = name.and_then(|name| UnixListener::bind_addr(&name)) else {
        return false;
    };
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.push(holder);
    true
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
        if is_free(port) && is_free(port + GRPC_ABOVE) && is_ours(port) {
            ports.push(port);
        }
    }
    bail!("no {count} free ports")
}
