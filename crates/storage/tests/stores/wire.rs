//! The S3 store against scripted answers: what no real server can be told to say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tidemark_format::RegionName;
use tidemark_host::RegionUrl;
use tidemark_storage::wrap::{RetryPolicy, Retrying};
use tidemark_storage::{
    CreateStore, Created, Error, ErrorKind, ReadMode, ReadStore, S3Options, S3Store,
};
use tidemark_testkit::s3::Credential;

use crate::{bytes, clock, key, put, rng};

/// Answers requests from a script, in order, one per connection, and keeps their heads.
pub(crate) struct Scripted {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) fn answering(script: Vec<String>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for answer in script {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                let head = read_request(&mut stream);
                kept.lock().expect("no other panic").push(head);
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        Self { addr, heads }
    }

    pub(crate) async fn store(&self, mode: ReadMode) -> S3Store {
        self.store_with(mode, "").await
    }

    async fn store_with(&self, mode: ReadMode, options: &str) -> S3Store {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("credentials");
        let credential = Credential {
            access_key: "a".to_owned(),
            secret_key: "s".to_owned(),
        };
        credential.write_profile(&file).expect("writable");
        let url = format!("{}{options}", self.url());
        let Ok(RegionUrl::S3(url)) = url.parse() else {
            panic!("an S3 URL")
        };
        let options = S3Options {
            mode,
            credentials_file: Some(folder.keep().join("credentials")),
            clock: clock(),
        };
        let name = RegionName::new("scripted").expect("a name");
        S3Store::open(&name, &url, &options).await.expect("opens")
    }

    /// The URL of a region there.
    pub(crate) fn url(&self) -> String {
        format!("s3://bucket/p?endpoint=http://{}&insecure=1", self.addr)
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no other panic").clone()
    }
}

/// Reads one request with its body; returns its head in lower case.
fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return head.to_owned();
            }
        }
        if count == 0 {
            return text;
        }
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

pub(crate) fn error(status: &str, code: &str) -> String {
    answer(
        status,
        "",
        &format!("<Error><Code>{code}</Code><Message>m</Message></Error>"),
    )
}

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        first_wait_max: Duration::from_millis(2),
        ..RetryPolicy::STANDARD
    }
}

#[tokio::test]
async fn a_create_is_one_plain_conditional_put_with_a_checksum_in_its_head() {
    let ok = || answer("200 OK", "", "");
    let server = Scripted::answering(vec![ok(), ok(), ok(), ok()]);
    for checksum in ["crc32c", "sha256", "crc32", "off"] {
        let option = format!("&checksum={checksum}");
        let store = server.store_with(ReadMode::Plain, &option).await;
        let created = store
            .create(&key("meta/log/1"), bytes("body"), &put(7))
            .await;
        assert_eq!(created.unwrap(), Created::New);
        let heads = server.heads();
        let head = heads.last().unwrap();
        assert!(head.starts_with("put /bucket/p/meta/log/1"), "{head}");
        for wanted in [
            "if-none-match: *",
            "content-length: 4",
            "x-amz-meta-put-id: 07070707070707070707070707070707",
        ] {
            assert!(head.contains(wanted), "{wanted} in {head}");
        }
        for unwanted in ["aws-chunked", "x-amz-trailer", "streaming-"] {
            assert!(!head.contains(unwanted), "{unwanted} in {head}");
        }
        if checksum == "off" {
            assert!(!head.contains("checksum"), "{head}");
        } else {
            assert!(
                head.contains(&format!("x-amz-checksum-{checksum}: ")),
                "{head}"
            );
        }
    }
}

#[tokio::test]
async fn an_error_inside_a_200_is_not_success() {
    let inside = error("200 OK", "InternalError");
    let server = Scripted::answering(vec![inside.clone(), inside]);
    let store = server.store(ReadMode::Plain).await;
    let created = store.create(&key("meta/x"), bytes("body"), &put(1)).await;
    assert_eq!(created.unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(
        store.get(&key("meta/x")).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
}

#[tokio::test]
async fn conflicts_and_trouble_are_tried_again_with_the_same_put() {
    let server = Scripted::answering(vec![
        error("409 Conflict", "ConditionalRequestConflict"),
        error("503 Service Unavailable", "SlowDown"),
        error("500 Internal Server Error", "InternalError"),
        String::new(),
        answer("200 OK", "", ""),
    ]);
    let store = Retrying::new(server.store(ReadMode::Plain).await, quick(), rng());
    let created = store.create(&key("meta/x"), bytes("body"), &put(3)).await;
    assert_eq!(created.unwrap(), Created::New);
    let heads = server.heads();
    assert_eq!(heads.len(), 5);
    assert!(
        heads
            .iter()
            .all(|head| head.contains("x-amz-meta-put-id: 0303"))
    );
}

#[tokio::test]
async fn a_taken_name_is_ours_only_if_its_put_id_says_so() {
    let taken = || error("412 Precondition Failed", "PreconditionFailed");
    let owner = |number| {
        answer(
            "200 OK",
            &format!("x-amz-meta-put-id: {}\r\n", put(number)),
            "",
        )
    };
    let name = key("meta/log/1");

    let ours = Scripted::answering(vec![taken(), owner(1)]);
    let created = ours
        .store(ReadMode::Plain)
        .await
        .create(&name, bytes("x"), &put(1))
        .await;
    assert_eq!(created.unwrap(), Created::AlreadyMine);

    let theirs = Scripted::answering(vec![taken(), owner(2)]);
    let lost = theirs
        .store(ReadMode::Plain)
        .await
        .create(&name, bytes("x"), &put(1))
        .await;
    assert!(matches!(lost, Err(Error::Exists { put_id: Some(id), .. }) if id == put(2)));

    let refused = Scripted::answering(vec![taken(), answer("403 Forbidden", "", "")]);
    let unknown = refused
        .store(ReadMode::Plain)
        .await
        .create(&name, bytes("x"), &put(1))
        .await;
    assert!(matches!(unknown, Err(Error::Exists { put_id: None, .. })));

    let pack = Scripted::answering(vec![taken()]);
    let store = pack.store(ReadMode::Plain).await;
    let created = store
        .create(&key("data/pack/app/x"), bytes("x"), &put(1))
        .await;
    assert_eq!(
        created.unwrap(),
        Created::AlreadyMine,
        "unguessable names are not asked for"
    );
}

#[tokio::test]
async fn a_refused_read_is_never_absence_and_a_cut_body_is_never_an_object() {
    let server = Scripted::answering(vec![
        error("403 Forbidden", "AccessDenied"),
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_owned(),
        answer("200 OK", "", "whole"),
    ]);
    let store = server.store(ReadMode::Plain).await;
    let name = key("meta/x");
    assert_eq!(
        store.get(&name).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    assert_eq!(
        store.get(&name).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    assert_eq!(store.get(&name).await.unwrap(), "whole");
}

#[tokio::test]
async fn a_hostile_size_is_refused_before_anything_is_allocated() {
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nx".to_owned();
    let server = Scripted::answering(vec![huge]);
    let store = server.store(ReadMode::Plain).await;
    assert_eq!(
        store.get(&key("meta/x")).await.unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn where_no_versions_are_kept_the_oldest_costs_one_request() {
    let server = Scripted::answering(vec![answer("200 OK", "", "x")]);
    let store = server.store(ReadMode::OldestVersion).await;
    assert_eq!(store.get(&key("meta/x")).await.unwrap(), "x");
    assert_eq!(server.heads().len(), 1);
}
