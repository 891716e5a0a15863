//! A server's repository: plans to places in its log, what `list` and `verify` say of it, and the
//! files that `wal-get` hands out. No server runs here: the log's bytes are made up.

use std::fs;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tidemark_format::LogSeq;
use tidemark_format::heads::Facts;
use tidemark_format::postgres::layout::{BranchPosition, LAYOUT_PATH, Layout};
use tidemark_format::postgres::{HistoryFile, LogRange, Lsn, SegmentSize, TimelineId};
use tidemark_host::Exit;

use crate::world::{BEGAN, Ran, RegionDir, World, moved};

const SEGMENT: u64 = 1 << 20;
/// Where the log begins: its third segment.
const START: u64 = 2 * SEGMENT;
/// Bytes of an object: three in a segment, and one that spans two.
const STEP: u64 = 300 << 10;
const SYSTEM: u64 = 7_301_234_567_890_123_456;

/// A server of major 15 whose log is made up.
struct Server {
    world: World,
    timeline: TimelineId,
    end: Lsn,
    /// When each object's commits were made.
    times: Vec<(LogSeq, Timestamp, Timestamp)>,
}

fn bytes_of(from: u64, length: u64) -> Vec<u8> {
    let byte = |at: u64| u8::try_from((at / 7 + at / 4096) % 251).unwrap();
    (from..from + length).map(byte).collect()
}

fn history() -> Vec<u8> {
    format!(
        "1\t{}\tno recovery target specified\n",
        Lsn(START + 4 * STEP)
    )
    .into_bytes()
}

impl Server {
    /// Objects until the third segment has begun, a base usable from the second.
    fn new(regions: usize) -> Self {
        let mut world = World::empty(regions);
        world.engine = "postgresql";
        let mut server = Self {
            world,
            timeline: TimelineId(1),
            end: Lsn(START),
            times: Vec::new(),
        };
        server.ship();
        server.ship();
        server.base();
        server.ship();
        server.ship();
        server
    }

    fn base(&mut self) {
        let position = |lsn| BranchPosition {
            timeline: TimelineId(1),
            lsn: Lsn(lsn),
        };
        let layout = Layout {
            version: Layout::VERSION,
            server: "15.19".into(),
            major: 15,
            system: SYSTEM,
            start: position(START + 0x28),
            stop: position(START + STEP + 0x100),
            segment_bytes: u32::try_from(SEGMENT).unwrap(),
            block_bytes: 8192,
            relation_segment_blocks: 131_072,
            checksums: true,
            standby: false,
            file_mode: 0o600,
            folder_mode: 0o700,
            folders: vec!["global".into()],
            modes: Default::default(),
            tablespaces: vec![],
            links: vec![],
            settings: vec![],
            settings_notes: vec![],
            bad_pages: vec![],
            bad_pages_total: 0,
            skipped: Default::default(),
        };
        let layout = serde_json::to_vec(&layout).unwrap();
        let files = [(LAYOUT_PATH, layout), ("PG_VERSION", b"15\n".to_vec())];
        self.world.files(LogSeq(0), &files);
    }

    /// One object more, ten seconds later: a commit at its beginning and one at its end.
    fn ship(&mut self) -> LogSeq {
        self.world.pass(10);
        let last = self.world.now();
        let first = last.checked_sub(SignedDuration::from_secs(5)).unwrap();
        let from = self.end.0;
        let seq = self.send(from, STEP, Vec::new(), Some((first, last)));
        self.times.push((seq, first, last));
        seq
    }

    fn send(
        &mut self,
        from: u64,
        length: u64,
        histories: Vec<HistoryFile<'_>>,
        commits: Option<(Timestamp, Timestamp)>,
    ) -> LogSeq {
        let bytes = bytes_of(from, length);
        let range = LogRange {
            system: SYSTEM,
            timeline: self.timeline,
            segment: SegmentSize::new(u32::try_from(SEGMENT).unwrap()).unwrap(),
            start: Lsn(from),
            last_record: None,
            histories,
            bytes: &bytes,
        };
        self.end = range.end();
        let n = self.world.log_seq.0;
        let facts = json!({
            "timeline": self.timeline.0,
            "start": range.start.to_string(),
            "end": range.end().to_string(),
            "last_record": Lsn(range.end().0 - 0x100).to_string(),
            "xids": [700 + 10 * n, 709 + 10 * n],
            "points": [format!("named-{n}")],
        });
        let facts = Facts::from([("postgres".to_owned(), facts)]);
        let payload = range.encode();
        self.world.payload(&payload, facts, commits)
    }

    /// The standby takes over: timeline 3, from where timeline 1 ends (timeline 2 was burnt).
    fn promote(&mut self) {
        assert_eq!(self.end, Lsn(START + 4 * STEP));
        self.timeline = TimelineId(3);
        let from = self.end.0 / SEGMENT * SEGMENT;
        let length = self.end.0 - from + STEP;
        let file = history();
        let histories = vec![HistoryFile {
            timeline: TimelineId(3),
            bytes: &file,
        }];
        self.world.pass(10);
        let now = self.world.now();
        let seq = self.send(from, length, histories, Some((now, now)));
        self.times.push((seq, now, now));
    }

    async fn plan(&self, words: &[&str]) -> Ran {
        let target = self.world.path("restored");
        let words = [&["plan", "--target", &target], words].concat();
        self.world.run(&words).await
    }

    async fn plan_to(&self, target: &str) -> serde_json::Value {
        let ran = self.plan(&["--to", target, "--no-finish"]).await;
        assert_eq!(ran.exit, Exit::Ok, "{target}: {ran:?}");
        ran.json()
    }

    fn file(&self) -> PathBuf {
        self.world.dir.path().join("RECOVERYXLOG")
    }

    async fn wal_get(&self, name: &str, more: &[&str]) -> Ran {
        let path = self.file().display().to_string();
        let words = [&["wal-get", name, &path, "--retry", "0"], more].concat();
        self.world.run(&words).await
    }

    /// The bytes of segment `n` of the log, zeros behind `end`.
    fn segment(n: u64, end: Lsn) -> Vec<u8> {
        let from = n * SEGMENT;
        let mut bytes = bytes_of(from, end.0.min(from + SEGMENT) - from);
        bytes.resize(usize::try_from(SEGMENT).unwrap(), 0);
        bytes
    }
}

fn name(timeline: u32, n: u64) -> String {
    format!("{timeline:08X}00000000{n:08X}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_ends_inside_an_object_and_says_where() {
    let server = Server::new(1);
    let (seq, first, _) = server.times[2];
    let plan = server.plan_to(&moved(first, 1)).await;
    assert_eq!(plan["engine"], "postgresql");
    assert_eq!(plan["reaches"]["seq"], seq.0);
    assert_eq!(plan["reaches"]["timeline"], 1);
    assert_eq!(plan["reaches"]["lsn"], Lsn(START + 3 * STEP).to_string());
    assert_eq!(plan["commit_times"], "recorded");
    assert_eq!(plan["server"]["version"], "15.19");
    assert!(
        plan["stops"]
            .as_str()
            .unwrap()
            .starts_with("every commit up to"),
        "{plan}"
    );
    let needed = plan["needed_bytes"].as_u64().unwrap();
    assert!(
        needed > plan["image_bytes"].as_u64().unwrap() + 3 * STEP,
        "{plan}"
    );
    assert!(!server.world.dir.path().join("restored").exists());
    let before = server
        .plan(&["--before", &first.to_string(), "--no-finish"])
        .await;
    assert!(
        before.json()["stops"]
            .as_str()
            .unwrap()
            .starts_with("every commit before")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_transactions_and_named_points_are_found_in_the_log() {
    let mut server = Server::new(1);
    let inside = Lsn(START + 3 * STEP + 0x1000);
    for (target, seq) in [
        (inside.to_string(), 3),
        (format!("lsn:{}", Lsn(START + 2 * STEP + 8)), 2),
        ("xid:723".to_owned(), 2),
        ("point:named-3".to_owned(), 3),
        ("latest".to_owned(), 3),
    ] {
        let plan = server.plan_to(&target).await;
        assert_eq!(plan["reaches"]["seq"], seq, "{target}: {plan}");
        assert_eq!(plan["stops"].is_null(), target == "latest", "{plan}");
    }
    for (target, nearest) in [
        ("xid:4711", "log:1:3"),
        ("point:unknown", "log:1:3"),
        ("0/10", "log:1:1"),
        ("7/0", "log:1:3"),
    ] {
        let ran = server.plan(&["--to", target, "--no-finish"]).await;
        assert_eq!(ran.exit, Exit::NotRecoverable, "{target}: {ran:?}");
        assert!(
            ran.err.contains(nearest),
            "names what can be had: {}",
            ran.err
        );
    }
    // A point that the agent sealed goes first.
    server.world.point(Some("named-2"));
    let plan = server.plan_to("point:named-2").await;
    assert_eq!(
        (&plan["reaches"]["seq"], plan["stops"].is_null()),
        (&json!(3), true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_later_than_everything_is_refused_unless_the_server_was_idle() {
    let mut server = Server::new(1);
    let (_, _, last) = server.times[3];
    let late = moved(last, 60);
    let ran = server.plan(&["--to", &late, "--no-finish"]).await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert!(ran.err.contains(&last.to_string()), "{}", ran.err);
    server.world.pass(120);
    server.world.beat();
    let plan = server.plan_to(&late).await;
    assert_eq!(
        (&plan["reaches"]["seq"], plan["stops"].is_null()),
        (&json!(3), true)
    );
    let future = server
        .plan(&["--to", &moved(last, 7200), "--no-finish"])
        .await;
    assert_eq!(future.exit, Exit::NotRecoverable, "{future:?}");
    assert!(
        future.err.contains("nothing else was committed up to"),
        "{}",
        future.err
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_told_before_anything_is_written() {
    let server = Server::new(1);
    let folder = server.world.dir.path().join("restored");
    fs::create_dir(&folder).unwrap();
    server.plan_to("latest").await;
    fs::write(folder.join("PG_VERSION"), b"15\n").unwrap();
    let full = server.plan(&["--to", "latest"]).await;
    assert_eq!(full.exit, Exit::Usage, "{full:?}");
    assert!(full.err.contains("TM0202"), "{}", full.err);
    fs::remove_dir_all(&folder).unwrap();
    let empty = server.world.path("bin");
    fs::create_dir(&empty).unwrap();
    let none = server.plan(&["--to", "latest", "--pg-bin", &empty]).await;
    assert!(
        none.err.contains("TM0116") && none.err.contains("PostgreSQL 15"),
        "{none:?}"
    );
    // Written by another process: nobody has it open for writing when it is run.
    let script = r#"printf '#!/bin/sh\necho "postgres (PostgreSQL) 14.9"\n' >"$0"; chmod 755 "$0""#;
    let postgres = format!("{empty}/postgres");
    let written = std::process::Command::new("sh")
        .args(["-c", script, &postgres])
        .status();
    assert!(written.unwrap().success());
    let other = server.plan(&["--to", "latest", "--pg-bin", &empty]).await;
    assert!(
        other.err.contains("TM0116") && other.err.contains("of PostgreSQL 14.9"),
        "{other:?}"
    );
    let odd = server
        .plan(&["--to", "latest", "--map-tablespace", "here=there"])
        .await;
    assert_eq!(odd.exit, Exit::Usage, "{odd:?}");
    let only = World::new(1);
    let path = only.path("restored");
    for word in [
        "--no-finish",
        "--pg-bin=/x",
        "--map-tablespace=/a=/b",
        "--delta",
    ] {
        let ran = only
            .run(&["plan", "--to", "latest", "--target", &path, word])
            .await;
        assert_eq!(ran.exit, Exit::Usage, "{word}: {ran:?}");
    }
    for target in ["0/3000060", "xid:7", "1/3"] {
        let ran = only.run(&["plan", "--to", target, "--target", &path]).await;
        assert_eq!(ran.exit, Exit::Usage, "{target}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_clusters_data_is_restored_over() {
    let server = Server::new(1);
    let folder = server.world.dir.path().join("restored");
    let words = ["--to", "latest", "--delta", "--no-finish"];
    let made = server.plan(&words).await;
    assert_eq!(
        made.exit,
        Exit::Ok,
        "where nothing is one is made: {made:?}"
    );
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("letters.txt"), b"precious").unwrap();
    let none = server.plan(&words).await;
    assert_eq!(none.exit, Exit::Usage, "{none:?}");
    assert!(none.err.contains("PG_VERSION"), "{none:?}");
    fs::write(folder.join("PG_VERSION"), b"15\n").unwrap();
    let unknown = server.plan(&words).await;
    assert_eq!(unknown.exit, Exit::Usage, "{unknown:?}");
    for said in [&SYSTEM.to_string(), "--other-system"] {
        assert!(unknown.err.contains(said), "{unknown:?}");
    }
    let over = server
        .plan(&[&words[..], &["--other-system"]].concat())
        .await;
    assert_eq!(over.exit, Exit::Ok, "{over:?}");
    assert!(over.out.contains("restored over"), "{over:?}");
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "nothing is written"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn list_and_status_show_positions_of_the_servers_log() {
    let server = Server::new(1);
    let list = server.world.run(&["list"]).await.json();
    let window = &list["sources"][0]["windows"][0];
    assert_eq!(window["to"]["lsn"], Lsn(START + 4 * STEP).to_string());
    assert_eq!(window["to"]["timeline"], 1);
    assert_eq!(list["sources"][0]["commit_times"], "recorded");
    let status = server.world.run(&["status"]).await.json();
    assert_eq!(status["sources"][0]["windows"][0]["to"]["timeline"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_a_gap_between_bytes_that_are_linked_and_signed() {
    let mut server = Server::new(1);
    let ran = server.world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    server.end = Lsn(server.end.0 + 8192);
    let seq = server.ship();
    let ran = server.world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let damage = ran.json()["damages"][0].clone();
    assert!(
        damage["object"]
            .as_str()
            .unwrap()
            .ends_with(&format!("{:016}", seq.0)),
        "{damage}"
    );
    assert!(
        damage["why"].as_str().unwrap().contains("it begins at"),
        "{damage}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_get_hands_out_segments_byte_for_byte_and_pads_only_the_last() {
    let server = Server::new(2);
    for n in [2, 3] {
        let ran = server.wal_get(&name(1, n), &[]).await;
        assert_eq!(ran.exit, Exit::Ok, "{n}: {ran:?}");
        assert!(
            fs::read(server.file()).unwrap() == Server::segment(n, server.end),
            "segment {n}"
        );
    }
    for absent in [
        name(1, 1),
        name(1, 4),
        name(2, 2),
        "00000002.history".to_owned(),
    ] {
        fs::remove_file(server.file()).ok();
        let ran = server.wal_get(&absent, &[]).await;
        assert_eq!(ran.exit, Exit::Failed, "{absent}: {ran:?}");
        assert!(!server.file().exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_get_is_on_record_once_an_hour() {
    let server = Server::new(1);
    let on_record = async || {
        let listed = server.world.run(&["evidence", "list"]).await.json();
        let all = listed["records"].as_array().unwrap().clone();
        assert!(all.iter().all(|one| one["action"] == "wal-get"), "{listed}");
        all.len()
    };
    for n in [2, 3, 2] {
        server.wal_get(&name(1, n), &[]).await;
        assert_eq!(on_record().await, 1, "a server asks every few seconds");
    }
    server.world.pass(3600);
    for _ in 0..2 {
        server.wal_get(&name(1, 3), &[]).await;
        assert_eq!(on_record().await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_get_hands_out_histories_and_the_segment_of_a_fork_on_both_timelines() {
    let mut server = Server::new(1);
    let fork = server.end;
    server.promote();
    let ran = server.wal_get("00000003.history", &[]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(fs::read(server.file()).unwrap(), history());
    for burnt in ["00000002.history", "00000004.history", "00000001.history"] {
        assert_eq!(
            server.wal_get(burnt, &[]).await.exit,
            Exit::Failed,
            "{burnt}"
        );
    }
    assert_eq!(server.wal_get(&name(3, 3), &[]).await.exit, Exit::Ok);
    assert!(fs::read(server.file()).unwrap() == Server::segment(3, server.end));
    assert_eq!(server.wal_get(&name(1, 3), &[]).await.exit, Exit::Ok);
    assert!(
        fs::read(server.file()).unwrap() == Server::segment(3, fork),
        "the branch that was left"
    );
    assert_eq!(
        server.wal_get(&name(3, 2), &[]).await.exit,
        Exit::Failed,
        "before the fork"
    );
    let ran = server.world.run(&["verify"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_get_never_takes_doubt_for_the_end_of_the_log() {
    let mut server = Server::new(2);
    // One region is away: a whole segment is certain, an end is not.
    let away = server.world.regions[1].path.clone();
    let kept = server.world.dir.path().join("kept");
    fs::rename(&away, &kept).unwrap();
    assert_eq!(server.wal_get(&name(1, 2), &[]).await.exit, Exit::Ok);
    for unsure in [name(1, 3), name(1, 4), "00000002.history".to_owned()] {
        let ran = server.wal_get(&unsure, &[]).await;
        assert!(
            ![Exit::Ok, Exit::Failed].contains(&ran.exit),
            "{unsure}: {ran:?}"
        );
        let ran = server.wal_get(&unsure, &["--accept-older"]).await;
        assert!(
            [Exit::Ok, Exit::Failed].contains(&ran.exit),
            "{unsure}: {ran:?}"
        );
    }
    fs::rename(&kept, &away).unwrap();
    // A missing object in the middle, and a damaged one at the end.
    for region in 0..2 {
        fs::remove_file(server.world.log_file(region, LogSeq(1))).unwrap();
    }
    let ran = server.wal_get(&name(1, 2), &[]).await;
    assert!(![Exit::Ok, Exit::Failed].contains(&ran.exit), "{ran:?}");
    let last = server.ship();
    for region in 0..2 {
        RegionDir::truncate(&server.world.log_file(region, last));
    }
    let ran = server.wal_get(&name(1, 3), &[]).await;
    assert!(![Exit::Ok, Exit::Failed].contains(&ran.exit), "{ran:?}");
    let stranger = server.wal_get("../../etc/passwd", &[]).await;
    assert!(
        ![Exit::Ok, Exit::Failed].contains(&stranger.exit),
        "{stranger:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_get_fetches_ahead_and_then_needs_no_region() {
    let mut server = Server::new(1);
    for _ in 0..6 {
        server.ship();
    }
    let ran = server
        .wal_get(&name(1, 2), &["--ahead", "--prefetch", "3"])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    fs::rename(
        &server.world.regions[0].path,
        server.world.dir.path().join("gone"),
    )
    .unwrap();
    assert_eq!(server.wal_get(&name(1, 3), &[]).await.exit, Exit::Ok);
    assert!(fs::read(server.file()).unwrap() == Server::segment(3, server.end));
    let behind = server.wal_get(&name(1, 5), &[]).await;
    assert!(
        ![Exit::Ok, Exit::Failed].contains(&behind.exit),
        "{behind:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_life_of_the_server_has_other_bytes_under_the_same_names() {
    let mut server = Server::new(1);
    let life = server.plan_to("latest").await["incarnation"]
        .as_str()
        .unwrap()
        .to_owned();
    server.world.new_life();
    server.end = Lsn(START + SEGMENT);
    server.ship();
    server.ship();
    let ran = server.wal_get(&name(1, 2), &[]).await;
    assert_eq!(
        ran.exit,
        Exit::Failed,
        "the newest life begins later: {ran:?}"
    );
    let ran = server.wal_get(&name(1, 2), &["--incarnation", &life]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let before: Timestamp = BEGAN.parse().unwrap();
    let ran = server
        .plan(&["--to", &before.to_string(), "--no-finish"])
        .await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    let ran = server
        .plan(&[
            "--to",
            &Lsn(START + 2 * STEP + 8).to_string(),
            "--no-finish",
        ])
        .await;
    assert_eq!(ran.exit, Exit::NotRecoverable, "{ran:?}");
    assert!(
        ran.err.contains("one of an earlier life has"),
        "{}",
        ran.err
    );
}
