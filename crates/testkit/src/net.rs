//! A small TCP proxy on loopback, for what networks do to connections: cut, delay, throttle,
//! swallow.
//!
//! It is synchronous, so that tests with and without a runtime, and of child processes, can use
//! it. Modes take effect on open connections, too, within [`TICK`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// How soon a change of mode is seen.
const TICK: Duration = Duration::from_millis(10);
/// Bytes moved at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Every connection is closed at once: a server that is down.
    Cut,
    /// Connections stay open and nothing arrives: a dead link.
    BlackHole,
    /// Each piece arrives so much later.
    Delay(Duration),
    /// At most so many bytes per second and direction.
    Throttle(u64),
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    stop: AtomicBool,
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A proxy in front of one address. It ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens on a free loopback port and passes everything on to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, target, &for_thread));
        Ok(Self { addr, shared })
    }

    /// Where clients connect.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens, also to open connections.
    pub fn set(&self, mode: Mode) {
        *self
            .shared
            .mode
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Connections that clients have made so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes passed on so far, both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.addr));
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped() {
            return;
        }
        let Ok(client) = client else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        if shared.mode() == Mode::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(target) else {
            continue;
        };
        let halves = (client.try_clone(), server.try_clone());
        let (Ok(client_too), Ok(server_too)) = halves else {
            continue;
        };
        let (up, down) = (Arc::clone(shared), Arc::clone(shared));
        thread::spawn(move || pump(client, server, &up));
        thread::spawn(move || pump(server_too, client_too, &down));
    }
}

/// Moves bytes one way until either end, the mode or the proxy ends it.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; CHUNK_BYTES];
    drop(from.set_read_timeout(Some(TICK)));
    while !shared.stopped() {
        let mode = shared.mode();
        match mode {
            Mode::Cut => break,
            Mode::BlackHole => {
                thread::sleep(TICK);
                continue;
            }
            Mode::Pass | Mode::Delay(_) | Mode::Throttle(_) => {}
        }
        let room = match mode {
            // A tenth of a second's worth at a time keeps the pace even.
            Mode::Throttle(rate) => usize::try_from(rate / 10).unwrap_or(CHUNK_BYTES),
            _ => CHUNK_BYTES,
        };
        let room = room.clamp(1, CHUNK_BYTES);
        let count = match from.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if !hold(shared, count) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
        shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    // The other direction sees the end, too. Closed sockets are what we want: errors don't matter.
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// Keeps a piece back as the mode says; false if it must not be passed on at all.
fn hold(shared: &Shared, count: usize) -> bool {
    match shared.mode() {
        Mode::Delay(time) => thread::sleep(time),
        Mode::Throttle(rate) => {
            let micros = (count as u64).saturating_mul(1_000_000) / rate.max(1);
            thread::sleep(Duration::from_micros(micros));
        }
        Mode::Pass | Mode::Cut | Mode::BlackHole => {}
    }
    // What was read when the link went dead stays in it until it is back.
    while shared.mode() == Mode::BlackHole && !shared.stopped() {
        thread::sleep(TICK);
    }
    shared.mode() != Mode::Cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut back = stream.try_clone().unwrap();
                    drop(std::io::copy(&mut stream, &mut back));
                });
            }
        });
        addr
    }

    #[test]
    fn bytes_pass_and_a_cut_ends_open_connections() {
        let proxy = Proxy::to(echo()).unwrap();
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        client.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");

        proxy.set(Mode::Cut);
        assert!(matches!(client.read(&mut answer), Ok(0) | Err(_)));
        let mut refused = TcpStream::connect(proxy.addr()).unwrap();
        assert!(matches!(refused.read(&mut answer), Ok(0) | Err(_)));
        assert_eq!(proxy.connections(), 2);
    }

    #[test]
    fn a_black_hole_swallows_until_it_is_lifted() {
        let proxy = Proxy::to(echo()).unwrap();
        proxy.set(Mode::BlackHole);
        let mut client = TcpStream::connect(proxy.addr()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        client.write_all(b"x").unwrap();
        let mut answer = [0; 1];
        assert!(client.read(&mut answer).is_err(), "nothing arrives");

        proxy.set(Mode::Pass);
        client
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"x");
    }
}
