//! What a capture does to the database's files, seen from outside: every lock and every write of its
//! process, as the system traces them.
//!
//! SQLite's checkpoints differ in the locks they take (wal-index bytes: 120 WRITE, 121 CHECKPOINT,
//! 123 to 127 the read marks). PASSIVE takes CHECKPOINT and read mark 0. FULL, RESTART and TRUNCATE
//! take WRITE after CHECKPOINT; RESTART and TRUNCATE then take read marks 1 to 4 at once, and TRUNCATE
//! shortens the log. Needs strace; the analysis is tried on an application that does run them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tidemark_engine::conformance::Rig;
use tidemark_engine_sqlite::{SqliteConfig, SqliteEngine};
use tidemark_host::SystemClock;
use tidemark_testkit::sqlite::{Job, Shape};

use crate::support::{CHILD, Lab, eventually, may_trace, now};

/// The folder of the lab whose database this process captures, as a child.
const CAPTURE_VARIABLE: &str = "TIDEMARK_WATCHED";

/// Captures `FOLDER/app.db` until `FOLDER/stop` exists, with a base and cuts as the agent makes them.
#[test]
fn captures_as_a_child() {
    let Ok(folder) = std::env::var(CAPTURE_VARIABLE) else {
        return;
    };
    let folder = Path::new(&folder);
    let mut config = SqliteConfig::new(folder.join("app.db"));
    config.hand_off_bytes = 512 << 10;
    config.wal_max_bytes = 6 << 20;
    let engine = Box::new(SqliteEngine::new(config, SystemClock::shared()));
    let mut rig = Rig::new(engine, folder.join("state"));
    rig.open();
    rig.base(true);
    std::fs::write(folder.join("ready"), "").expect("a step of the test");
    let mut last_cut = now();
    while !folder.join("stop").exists() {
        let poll = rig.poll();
        if poll.cut_now || now().since(last_cut) >= Duration::from_millis(100) {
            last_cut = now();
            rig.cut_once();
        }
        std::thread::sleep(poll.next);
    }
    let facts = rig.capture().probe().expect("a step of the test").facts;
    let facts = serde_json::to_string(&facts).expect("a step of the test");
    std::fs::write(folder.join("facts"), facts).expect("a step of the test");
    rig.base(false);
    rig.cut();
}

/// Runs a test of this binary under strace; what it did to locks and files goes to `trace`.
fn traced(test: &str, trace: &Path, variable: (&str, &str)) -> Child {
    Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "0", "--seccomp-bpf", "-e"])
        .arg("trace=fcntl,ftruncate,write,pwrite64,unlink,unlinkat,rename")
        .arg("-o")
        .arg(trace)
        .arg(std::env::current_exe().expect("a step of the test"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable.0, variable.1)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("strace starts")
}

/// What a trace shows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    passive: usize,
    hand_offs: usize,
    wrong: Vec<String>,
}

/// What the whole lines show that are there so far.
fn analyse_file(trace: &Path) -> Seen {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    analyse(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

/// Reads a trace. The calls in question say everything when they begin, so that it doesn't matter
/// whether a line is cut by another thread's.
fn analyse(trace: &str) -> Seen {
    let mut seen = Seen::default();
    let (mut writing, mut checkpointing) = (false, false);
    for line in trace.lines() {
        let field = |name: &str| {
            let rest = line.split_once(name)?.1;
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            rest[..digits].parse::<u64>().ok()
        };
        let lock = line.contains("F_SETLK") && line.contains("-shm>");
        if lock && !line.contains("EAGAIN") {
            let (start, length) = (
                field("l_start=").expect("a step of the test"),
                field("l_len=").expect("a step of the test"),
            );
            let covers = |byte: u64| (start..start + length).contains(&byte);
            let exclusive = line.contains("F_WRLCK");
            if exclusive && covers(120) {
                if checkpointing {
                    seen.wrong.push(format!("FULL or more: {line}"));
                }
                writing = true;
            }
            if exclusive && covers(121) {
                seen.passive += 1;
                seen.hand_offs += usize::from(writing);
                checkpointing = true;
            }
            if exclusive && covers(124) && covers(127) {
                seen.wrong.push(format!("RESTART or TRUNCATE: {line}"));
            }
            if line.contains("F_UNLCK") {
                writing &= !covers(120);
                checkpointing &= !covers(121);
            }
        }
        let writes = line.contains("write") || line.contains("ftruncate");
        if writes && line.contains("app.db-wal>") {
            seen.wrong.push(format!("the log is changed: {line}"));
        }
        if writes && line.contains("/app.db>") && !checkpointing {
            seen.wrong.push(format!("the database is changed: {line}"));
        }
        let moves = line.contains("unlink") || line.contains("rename");
        if moves && line.contains("app.db") {
            seen.wrong.push(format!("a file is taken away: {line}"));
        }
    }
    seen
}

#[test]
fn the_agent_runs_passive_checkpoints_only_and_writes_nothing_else() {
    if !may_trace() {
        return;
    }
    let lab = Lab::new(&Shape {
        bytes: 1 << 20,
        ..Shape::default()
    });
    let folder = lab.folder.path();
    let trace = folder.join("trace");
    let name = folder.to_str().expect("a step of the test");
    let mut agent = traced(
        "watched::captures_as_a_child",
        &trace,
        (CAPTURE_VARIABLE, name),
    );
    eventually("the capture is ready", || folder.join("ready").exists());
    // GIVEN a log that only the agent puts into the file, until it has done so more than once, …
    let enough = folder.join("enough");
    let alone = lab.start(&Job {
        stop: Some(enough.clone()),
        auto_checkpoint: Some(0),
        rate: Some(500.0),
        rows: 5,
        ..lab.job(1)
    });
    eventually("the agent puts the log into the file", || {
        let seen = analyse_file(&trace);
        seen.passive > 3 && seen.hand_offs > 0
    });
    std::fs::write(&enough, "").expect("a step of the test");
    alone.wait().expect("a step of the test");
    // … an application that checkpoints itself in every way, …
    let kinds = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"]
        .into_iter()
        .zip(2..);
    let writers: Vec<_> = kinds
        .map(|(mode, seed)| {
            lab.start(&Job {
                checkpoint: Some(mode.to_owned()),
                checkpoint_every_ms: 20,
                transactions: Some(40),
                rate: Some(100.0),
                ..lab.job(seed)
            })
        })
        .collect();
    for writer in writers {
        writer.wait().expect("a step of the test");
    }
    // … a reader that makes the agent let go at wal_max, and rest.
    let mut reader = lab.reader();
    lab.run(&Job {
        transactions: Some(400),
        rows: 10,
        ..lab.job(8)
    });
    reader.kill();
    lab.run(&Job {
        transactions: Some(5),
        ..lab.job(8)
    });
    eventually("the log is put into the file at rest", || lab.is_settled());
    std::fs::write(folder.join("stop"), "").expect("a step of the test");
    assert!(agent.wait().expect("a step of the test").success());
    // THEN all of it was PASSIVE, some of it under the write lock
    let seen = analyse_file(&trace);
    assert!(seen.wrong.is_empty(), "{:#?}", seen.wrong);
    assert!(seen.passive > 3 && seen.hand_offs > 0, "{seen:?}");
}

#[test]
fn a_checkpoint_of_another_kind_would_be_seen() {
    if !may_trace() {
        return;
    }
    for (mode, sign) in [
        ("PASSIVE", None),
        ("FULL", Some("FULL or more")),
        ("RESTART", Some("RESTART or TRUNCATE")),
        ("TRUNCATE", Some("ftruncate")),
    ] {
        let lab = Lab::new(&Shape::default());
        let trace = lab.folder.path().join("trace");
        let mut other = lab.somebody();
        lab.change(1, 1);
        let job = Job {
            sql: Some(format!("PRAGMA wal_checkpoint({mode})")),
            transactions: Some(0),
            ..lab.job(2)
        };
        let (variable, job) = job.for_a_child();
        assert!(
            traced(CHILD, &trace, (variable, &job))
                .wait()
                .expect("a step of the test")
                .success()
        );
        other.kill();
        let seen = analyse_file(&trace);
        assert_eq!(seen.passive, 1, "{mode}: {seen:?}");
        let found = |sign: &str| seen.wrong.iter().any(|line| line.contains(sign));
        assert_eq!(sign.is_none(), seen.wrong.is_empty(), "{mode}: {seen:?}");
        assert!(sign.is_none_or(found), "{mode}: {seen:?}");
    }
}
