//! A restore over a line in bad weather: answers that are cut, reset, stall or are refused by a server
//! that is too busy. It brings back exactly what was sealed, or ends with 16 and says why; never else.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidemark_testkit::s3::S3Server;

use crate::s3::{Bucket, Cloud};
use crate::writer::{assert_committed_prefix, assert_same_pages, write};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is answered.
    None,
    /// The connection is reset before an answer.
    Reset,
    /// `503 SlowDown`.
    SlowDown,
    /// Half of the answer, and nothing more for as long as the client waits.
    Stall,
    /// Half of the answer, then the end.
    Truncate,
}

/// Which requests fare how: by their number since the rule was made.
type Rule = fn(u64) -> Fault;

/// A request in the midst of a restore.
const LATER: u64 = 25;

const SUNSHINE: Rule = |_| Fault::None;

/// A proxy before a plain HTTP server that understands requests. One for each connection: both sides
/// are told to close.
struct Line {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    rule: Mutex<Rule>,
    requests: AtomicU64,
    faults: AtomicU64,
    stop: AtomicBool,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let addr = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            server,
            rule: Mutex::new(SUNSHINE),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if for_thread.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&for_thread);
                // What goes wrong on the way is the client's to notice.
                std::thread::spawn(move || drop(shared.pass(client)));
            }
        });
        Self { addr, shared }
    }

    /// From now on requests fare so; they are counted anew.
    fn weather(&self, rule: Rule) {
        let mut current = self.shared.rule();
        *current = rule;
        self.shared.requests.store(0, Ordering::Relaxed);
        self.shared.faults.store(0, Ordering::Relaxed);
    }

    fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn rule(&self) -> std::sync::MutexGuard<'_, Rule> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Fault {
        let rule = self.rule();
        let fault = rule(self.requests.fetch_add(1, Ordering::Relaxed));
        if fault != Fault::None {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }

    fn pass(&self, mut client: TcpStream) -> std::io::Result<()> {
        // A connection that is only made ahead is no request.
        if client.peek(&mut [0])? == 0 {
            return Ok(());
        }
        let fault = self.next();
        if fault == Fault::Reset {
            // Closed with the request unread: the system answers with a reset.
            return Ok(());
        }
        let request = head(&mut client)?;
        if fault == Fault::SlowDown {
            let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
            let head =
                "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            return client.write_all(answer.as_bytes());
        }
        let mut server = TcpStream::connect(self.server)?;
        server.write_all(&closing(&request))?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        match fault {
            Fault::Stall => {
                client.write_all(&answer[..answer.len() / 2])?;
                client.set_read_timeout(Some(Duration::from_secs(300)))?;
                // Until the client has had enough.
                drop(client.read(&mut [0]));
                Ok(())
            }
            Fault::Truncate => client.write_all(&answer[..answer.len() / 2]),
            Fault::None | Fault::Reset | Fault::SlowDown => {
                client.write_all(&answer)?;
                client.shutdown(Shutdown::Write)
            }
        }
    }
}

/// Reads a request without a body.
fn head(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(head)
}

/// The same request, which asks the server to close afterwards: no signature covers that.
fn closing(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let mut lines = text.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let others = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let others: Vec<&str> = others.collect();
    format!(
        "{first}\r\nConnection: close\r\n{}\r\n\r\n",
        others.join("\r\n")
    )
    .into_bytes()
}

/// A protected database in a bucket, and the restore host's URL of it over `line`.
fn protected<'a>(server: &'a S3Server, line: &Line) -> (Cloud, Bucket<'a>, String) {
    let bucket = Bucket::new(server, true);
    let cloud = Cloud::new(&[(&bucket, server.https_endpoint())]);
    let daemon = cloud.site.start();
    for _ in 0..8 {
        write(&cloud.site.database, 10);
        cloud.site.agent(&["snapshot"]).ok();
    }
    cloud.site.wait_shipped();
    daemon.terminate();
    let url = bucket.url(&format!("http://{}", line.addr), "restore");
    let url = format!("{url}&insecure=1");
    (cloud, bucket, url)
}

fn plain_port(server: &S3Server) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.http_port()))
}

#[test]
fn restore_through_resets_slow_downs_stalls_and_cut_answers_is_exact() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    let line = Line::to(plain_port(server));
    let (cloud, _bucket, url) = protected(server, &line);
    let site = &cloud.site;
    line.weather(|request| match request {
        20 | 21 => Fault::Stall,
        n if n % 7 == 2 => Fault::SlowDown,
        n if n % 7 == 4 => Fault::Reset,
        n if n % 7 == 5 => Fault::Truncate,
        _ => Fault::None,
    });
    let restored = site.restore(&[&url], &["--to", "latest"]).ok();
    assert!(
        line.faults() > 15 && line.requests() > 30,
        "{} faults among {} requests",
        line.faults(),
        line.requests()
    );
    assert_eq!(assert_committed_prefix(&restored.path), 80);
    assert_same_pages(&site.database, &restored.path);
}

#[test]
fn restore_over_a_line_that_stays_broken_ends_with_16_and_delivers_nothing() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    let line = Line::to(plain_port(server));
    let (cloud, _bucket, url) = protected(server, &line);
    let site = &cloud.site;
    line.weather(SUNSHINE);
    site.restore(&[&url], &["--to", "latest"]).ok();
    let needed = line.requests();
    // From the first request on, and from the midst of it.
    let storms: [(&str, Rule); 5] = [
        ("a server that is too busy", |_| Fault::SlowDown),
        ("resets", |_| Fault::Reset),
        ("cut answers", |_| Fault::Truncate),
        ("resets, later", |request| match request {
            0..LATER => Fault::None,
            _ => Fault::Reset,
        }),
        ("cut answers, later", |request| match request {
            0..LATER => Fault::None,
            _ => Fault::Truncate,
        }),
    ];
    assert!(needed > LATER, "{needed} requests");
    let target = site.path("back.db");
    for (what, storm) in storms {
        line.weather(storm);
        let mut command = site.restore_command(&[&url], &target);
        let ran = crate::process::Ran::of(command.args(["--to", "latest"]));
        assert_eq!(ran.code, 16, "{what}: {ran}");
        assert!(ran.err.contains("TM1601"), "{what}: {ran}");
        assert!(!target.exists(), "{what}: {ran}");
    }
    // What an interrupted run left harms nothing.
    line.weather(SUNSHINE);
    let mut command = site.restore_command(&[&url], &target);
    crate::process::Ran::of(command.args(["--to", "latest"])).ok();
    assert_same_pages(&site.database, &target);
}
