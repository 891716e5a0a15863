//! A neutral witness between a client and an S3 server: every request, when it was answered and how,
//! and how many bytes it carried. Passes the bytes through as they are.
//!
//! HTTP/1.1 without pipelining, as every S3 client speaks it: on a connection the next answer belongs
//! to the last request.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};

/// As much of a body's beginning as is kept: the signed head of a small object.
const START_KEPT: usize = 4096;
/// As long as a request's head may be.
const HEAD_MAX: usize = 64 << 10;

/// One request, with its answer.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// GET, PUT, ….
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// Bytes of its body.
    pub(crate) bytes: u64,
    /// The beginning of its body.
    pub(crate) start: Vec<u8>,
    /// When its head had come.
    pub(crate) asked: Instant,
    /// When the answer began, nanoseconds since 1970.
    pub(crate) answered_at: u64,
    /// The same on the monotonic clock.
    pub(crate) answered: Instant,
    /// The answer's status.
    pub(crate) status: u16,
}

impl Seen {
    /// Whether an object came to be by it: a put, or the end of a multipart upload.
    pub(crate) fn created(&self) -> bool {
        let creates = match self.method.as_str() {
            "PUT" => !self.path.contains("partNumber="),
            "POST" => self.path.contains("uploadId="),
            _ => false,
        };
        creates && (200..300).contains(&self.status)
    }
}

/// A running proxy. Its threads end with the connections.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    cut: Arc<AtomicBool>,
}

impl Proxy {
    /// Listens on a free loopback port for the server on `server`.
    pub(crate) fn start(server: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let cut = Arc::new(AtomicBool::new(false));
        let (log, is_cut) = (Arc::clone(&seen), Arc::clone(&cut));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (log, is_cut) = (Arc::clone(&log), Arc::clone(&is_cut));
                // A connection that cannot be passed on is closed: the client says what it thinks.
                std::thread::spawn(move || drop(pass(client, server, &log, &is_cut)));
            }
        });
        Ok(Self { port, seen, cut })
    }

    /// Passes nothing on any more, and closes every connection as soon as something comes.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
    }

    /// A name that no other proxy of this machine has now.
    pub(crate) fn name(&self) -> String {
        format!("port{}", self.port)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Everything seen so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn pass(
    client: TcpStream,
    server: u16,
    log: &Arc<Mutex<Vec<Seen>>>,
    cut: &Arc<AtomicBool>,
) -> Result<()> {
    ensure!(!cut.load(Ordering::Acquire), "cut off");
    let server = TcpStream::connect(("127.0.0.1", server))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let open = Arc::new(Mutex::new(None));
    let (answers, requests) = (Arc::clone(&open), Requests::new(open));
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let is_cut = Arc::clone(cut);
    let upwards = std::thread::spawn(move || upwards(from, to, requests, &is_cut));
    downwards(server, client, &answers, log);
    drop(upwards.join());
    Ok(())
}

fn upwards(mut from: TcpStream, mut to: TcpStream, mut requests: Requests, cut: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..read).filter(|_| !cut.load(Ordering::Acquire)) else {
            break;
        };
        requests.feed(bytes);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

fn downwards(
    mut from: TcpStream,
    mut to: TcpStream,
    open: &Mutex<Option<Seen>>,
    log: &Mutex<Vec<Seen>>,
) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = buffer.get(..read) else {
            break;
        };
        if let Some(status) = final_status(bytes) {
            let answered = open.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(mut seen) = answered {
                seen.status = status;
                seen.answered = Instant::now();
                seen.answered_at = crate::load::now().unwrap_or_default();
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(seen);
            }
        }
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}

/// The status of an answer that begins here, unless it is an interim one.
fn final_status(bytes: &[u8]) -> Option<u16> {
    let line = bytes
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let status: u16 = std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()?;
    (status >= 200).then_some(status)
}

/// Where in a request the stream is.
#[derive(Debug)]
enum Place {
    Head(Vec<u8>),
    Body {
        left: u64,
    },
    /// Chunked: bytes left of a chunk, or the line that announces the next.
    Chunk {
        left: u64,
        line: Vec<u8>,
        last: bool,
    },
}

/// Takes a stream of requests apart.
#[derive(Debug)]
struct Requests {
    place: Place,
    open: Arc<Mutex<Option<Seen>>>,
}

impl Requests {
    const fn new(open: Arc<Mutex<Option<Seen>>>) -> Self {
        Self {
            place: Place::Head(Vec::new()),
            open,
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match &mut self.place {
                Place::Head(head) => {
                    let (first, rest) = bytes.split_at(1);
                    head.extend_from_slice(first);
                    if head.ends_with(b"\r\n\r\n") {
                        let (seen, place) = begin(head);
                        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
                        self.place = place;
                    } else if head.len() > HEAD_MAX {
                        head.clear();
                    }
                    rest
                }
                Place::Body { left } => {
                    let part = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    let (body, rest) = bytes.split_at(part);
                    *left -= body.len() as u64;
                    let is_done = *left == 0;
                    self.keep(body);
                    if is_done {
                        self.place = Place::Head(Vec::new());
                    }
                    rest
                }
                Place::Chunk { .. } => self.chunked(bytes),
            };
        }
    }

    fn chunked<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Place::Chunk { left, line, last } = &mut self.place else {
            return bytes;
        };
        if *left > 0 {
            let part = usize::try_from(*left)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            let (body, rest) = bytes.split_at(part);
            *left -= body.len() as u64;
            self.keep(body);
            return rest;
        }
        let (first, rest) = bytes.split_at(1);
        line.extend_from_slice(first);
        if line.ends_with(b"\r\n") {
            let text = String::from_utf8_lossy(line).trim().to_owned();
            line.clear();
            if *last {
                // Trailers end with an empty line.
                if text.is_empty() {
                    self.place = Place::Head(Vec::new());
                }
            } else if !text.is_empty() {
                let size = text.split(';').next().unwrap_or_default();
                *left = u64::from_str_radix(size, 16).unwrap_or_default();
                *last = *left == 0;
            }
        }
        rest
    }

    fn keep(&self, body: &[u8]) {
        if let Some(seen) = &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner) {
            seen.bytes = seen.bytes.saturating_add(body.len() as u64);
            let room = START_KEPT.saturating_sub(seen.start.len()).min(body.len());
            seen.start
                .extend_from_slice(body.get(..room).unwrap_or_default());
        }
    }
}

/// A request by its head, and where its stream goes on.
fn begin(head: &[u8]) -> (Seen, Place) {
    let text = String::from_utf8_lossy(head);
    let mut words = text.split_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let bytes = header("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or_default();
    let chunked = header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    let place = match (chunked, bytes) {
        (true, _) => Place::Chunk {
            left: 0,
            line: Vec::new(),
            last: false,
        },
        (false, 0) => Place::Head(Vec::new()),
        (false, left) => Place::Body { left },
    };
    let (start, status) = (Vec::new(), 0);
    let seen = Seen {
        method,
        path,
        bytes: 0,
        start,
        asked: Instant::now(),
        answered_at: 0,
        answered: Instant::now(),
        status,
    };
    (seen, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> (Requests, Arc<Mutex<Option<Seen>>>) {
        let open = Arc::new(Mutex::new(None));
        (Requests::new(Arc::clone(&open)), open)
    }

    #[test]
    fn a_body_ends_where_the_next_request_begins() {
        let (mut requests, open) = requests();
        let stream =
            b"PUT /b/k HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloGET /b?list HTTP/1.1\r\n\r\n";
        for byte in stream.chunks(3) {
            requests.feed(byte);
        }
        let last = open.lock().expect("a lock").clone().expect("a request");
        assert_eq!(
            (last.method.as_str(), last.path.as_str()),
            ("GET", "/b?list")
        );
    }

    #[test]
    fn the_start_of_a_body_is_kept() {
        let (mut requests, open) = requests();
        requests.feed(b"PUT /b/k HTTP/1.1\r\ncontent-length: 4\r\n\r\nab");
        requests.feed(b"cd");
        let seen = open.lock().expect("a lock").clone().expect("a request");
        assert_eq!(seen.start, b"abcd");
    }

    #[test]
    fn chunks_are_passed_over() {
        let (mut requests, open) = requests();
        requests
            .feed(b"PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(
            open.lock()
                .expect("a lock")
                .clone()
                .expect("a request")
                .start,
            b"abc"
        );
        requests.feed(b"GET /next HTTP/1.1\r\n\r\n");
        assert_eq!(
            open.lock()
                .expect("a lock")
                .clone()
                .expect("a request")
                .path,
            "/next"
        );
    }

    #[test]
    fn interim_answers_are_not_final() {
        assert_eq!(final_status(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
        assert_eq!(
            final_status(b"HTTP/1.1 412 Precondition Failed\r\n"),
            Some(412)
        );
        assert_eq!(final_status(b"some more body"), None);
    }
}
