//! A server that is none: what comes over the wire can be anything, and capture says what, begins again
//! and takes in nothing of it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidemark_engine::{ErrorKind, Verdict};

use super::{Desk, eventually};

/// Where its slot begins to keep log, and the start of that segment.
const RESTART: &str = "0/3000028";
const START: u64 = 0x0300_0000;

/// What it does once it was asked to stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scene {
    Garbage,
    WrongPlace,
    NoLog,
    CutInAMessage,
    Silence,
    UnknownMessage,
    Refusal,
    Removed,
}

/// What is said about each.
const SCENES: [(Scene, &str); 7] = [
    (Scene::Garbage, "postgresql.garbled"),
    (Scene::WrongPlace, "postgresql.garbled"),
    (Scene::NoLog, "postgresql.log-damaged"),
    (Scene::CutInAMessage, "postgresql.unreachable"),
    (Scene::Silence, "postgresql.unreachable"),
    (Scene::UnknownMessage, "postgresql.garbled"),
    (Scene::Refusal, "postgresql.refused"),
];

struct Stage {
    scene: std::sync::Mutex<Scene>,
    has_slot: AtomicBool,
    streams: AtomicUsize,
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("small");
    let mut out = vec![tag];
    out.extend(length.to_be_bytes());
    out.extend(body);
    out
}

/// One row, and "ready".
fn row(columns: &[&str], values: &[Option<&str>]) -> Vec<u8> {
    let count = i16::try_from(columns.len()).expect("few").to_be_bytes();
    let mut description = count.to_vec();
    for column in columns {
        description.extend(column.as_bytes());
        description.push(0);
        description.extend([0; 18]);
    }
    let mut data = count.to_vec();
    for value in values {
        match value {
            Some(value) => {
                data.extend(i32::try_from(value.len()).expect("small").to_be_bytes());
                data.extend(value.as_bytes());
            }
            None => data.extend((-1_i32).to_be_bytes()),
        }
    }
    let mut out = frame(b'T', &description);
    out.extend(frame(b'D', &data));
    out.extend(frame(b'C', b"DONE\0"));
    out.extend(frame(b'Z', b"I"));
    out
}

fn log(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    for number in [start, start, 0] {
        body.extend(number.to_be_bytes());
    }
    body.extend(bytes);
    frame(b'd', &body)
}

fn error(code: &str) -> Vec<u8> {
    frame(
        b'E',
        format!("SERROR\0C{code}\0Mrefused by the script\0\0").as_bytes(),
    )
}

fn play(stage: &Stage, link: &mut TcpStream) -> std::io::Result<()> {
    stage.streams.fetch_add(1, Ordering::SeqCst);
    let scene = *stage.scene.lock().unwrap_or_else(PoisonError::into_inner);
    if scene == Scene::Refusal {
        link.write_all(&error("42601"))?;
        return link.write_all(&frame(b'Z', b"I"));
    }
    link.write_all(&frame(b'W', &[0, 0, 0]))?;
    match scene {
        Scene::Garbage => link.write_all(&[0xFF; 64])?,
        Scene::WrongPlace => link.write_all(&log(START + 8192, &[0; 8192]))?,
        Scene::NoLog => link.write_all(&log(START, &[0; 8192]))?,
        Scene::CutInAMessage => return link.write_all(&log(START, &[0; 8192])[..100]),
        Scene::Silence | Scene::Refusal => {}
        Scene::UnknownMessage => link.write_all(&frame(b'd', b"x?"))?,
        Scene::Removed => link.write_all(&error("58P01"))?,
    }
    // Whatever is said to it, until the other side hangs up.
    let mut heard = [0; 512];
    while link.read(&mut heard)? > 0 {}
    Ok(())
}

fn serve(stage: &Stage, mut link: TcpStream) -> std::io::Result<()> {
    let mut length = [0; 4];
    link.read_exact(&mut length)?;
    let mut startup = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("fits") - 4];
    link.read_exact(&mut startup)?;
    link.write_all(&frame(b'R', &[0; 4]))?;
    link.write_all(&frame(b'S', b"server_version\x0017.4\0"))?;
    link.write_all(&frame(b'Z', b"I"))?;
    loop {
        let mut head = [0; 5];
        link.read_exact(&mut head)?;
        let [tag, length @ ..] = head;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("fits") - 4];
        link.read_exact(&mut body)?;
        if tag != b'Q' {
            return Ok(());
        }
        let command = String::from_utf8_lossy(&body).into_owned();
        let answer = if command.starts_with("IDENTIFY") {
            row(
                &["systemid", "timeline", "xlogpos"],
                &[Some("7"), Some("1"), Some("0/3001000")],
            )
        } else if command.starts_with("SHOW wal_segment_size") {
            row(&["wal_segment_size"], &[Some("16MB")])
        } else if command.starts_with("SHOW") {
            row(&["in_hot_standby"], &[Some("off")])
        } else if command.starts_with("READ_REPLICATION_SLOT") {
            let there = stage.has_slot.load(Ordering::SeqCst);
            let value = |text| Some(text).filter(|_| there);
            row(
                &["slot_type", "restart_lsn"],
                &[value("physical"), value(RESTART)],
            )
        } else if command.starts_with("START_REPLICATION") {
            return play(stage, &mut link);
        } else {
            stage
                .has_slot
                .store(command.starts_with("CREATE"), Ordering::SeqCst);
            row(&["slot_name"], &[Some("x")])
        };
        link.write_all(&answer)?;
    }
}

#[test]
fn whatever_comes_over_the_wire_is_told_and_never_taken_in() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let stage = Arc::new(Stage {
        scene: std::sync::Mutex::new(Scene::Garbage),
        has_slot: AtomicBool::new(false),
        streams: AtomicUsize::new(0),
    });
    let served = Arc::clone(&stage);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for link in listener.incoming() {
            let stage = Arc::clone(&served);
            std::thread::spawn(move || drop(link.and_then(|link| serve(&stage, link))));
        }
    });
    let text = format!("host=127.0.0.1 port={port} user=u dbname=d sslmode=disable");
    let mut desk = Desk::new(&text, |config| {
        config.limits.alert_after = Duration::ZERO;
        config.limits.silence_max = Duration::from_millis(600);
    });
    assert_eq!(desk.open(), Verdict::New);
    for (scene, code) in SCENES {
        *stage.scene.lock().expect("unpoisoned") = scene;
        let before = stage.streams.load(Ordering::SeqCst);
        eventually(&format!("{scene:?} is told"), || {
            let poll = desk.poll();
            assert_eq!(poll.pending_bytes, 0, "{scene:?}");
            // One that began before may have ended since.
            let streams = stage.streams.load(Ordering::SeqCst);
            streams >= before + 2 && poll.alerts.iter().any(|alert| alert.code == code)
        });
        assert!(!desk.cut(), "{scene:?}");
    }
    *stage.scene.lock().expect("unpoisoned") = Scene::Removed;
    let mut ended = None;
    eventually("the life ends", || {
        ended = desk.try_poll().err();
        ended.is_some()
    });
    let ended = ended.expect("an error");
    assert_eq!(ended.kind(), ErrorKind::Reopen);
    assert!(ended.to_string().contains("removed log"), "{ended}");
    assert!(matches!(desk.open(), Verdict::NewIncarnation { .. }));
}
