//! Canaries: the only thing that is ever written into a user's database, and only if it is asked for.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tidemark_engine::Engine;
use tidemark_engine::canary::{CANARIES_KEPT, Canary, CanaryOutcome};
use tidemark_engine::conformance::Rig;
use tidemark_engine::examine::CanarySeen;
use tidemark_engine_sqlite::{SqliteEngine, canary};
use tidemark_format::LogSeq;
use tidemark_host::{Clock as _, SimClock, SystemClock};
use tidemark_testkit::sqlite::{Dice, Job, Shape};

use crate::support::{Lab, now};

fn lab(shape: &Shape) -> Lab {
    let mut lab = Lab::new(shape);
    lab.config.canary = true;
    lab
}

/// The newest canary in a file that nobody has open.
fn seen(path: &Path) -> Option<CanarySeen> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    canary::read(&connection.expect("it opens")).expect("canaries are read")
}

fn ask(rig: &mut Rig, at: Timestamp) -> Option<CanaryOutcome> {
    let canary = Canary {
        seq: 1,
        at,
        nonce: "0011223344556677".to_owned(),
    };
    rig.capture().canary(&canary);
    rig.capture().canary_outcome()
}

fn written(outcome: Option<CanaryOutcome>) -> Option<u64> {
    match outcome {
        Some(CanaryOutcome::Written { seq, .. }) => Some(seq),
        Some(CanaryOutcome::Busy) => None,
        other => panic!("a canary came to {other:?}"),
    }
}

/// Writes canaries beside a writer, while everything is captured, and the agent dies between them.
fn come_back_with_the_database(journal_mode: &'static str) {
    let lab = lab(&Shape {
        journal_mode,
        bytes: 200_000,
        ..Shape::default()
    });
    let mut rig = lab.protected();
    let mut numbers = Vec::new();
    let mut writer = lab.start(&Job {
        transactions: Some(200),
        rate: Some(400.0),
        checkpoint: (journal_mode == "wal").then(|| "TRUNCATE".to_owned()),
        checkpoint_every_ms: 40,
        ..lab.job(1)
    });
    let (mut last, mut rounds) = (now(), 0_u32);
    while writer.is_running() || numbers.len() < 30 {
        let poll = rig.poll();
        if now().since(last) >= Duration::from_millis(15) {
            last = now();
            rounds += 1;
            numbers.extend(written(ask(&mut rig, SystemClock.now())));
            rig.cut_once();
        }
        if rounds % 20 == 19 {
            // The agent dies: what wasn't sealed is found again, and the numbers go on.
            rounds += 1;
            rig.crash();
            rig.open();
        }
        std::thread::sleep(poll.next.min(Duration::from_millis(2)));
    }
    writer.wait().expect("the writer ends");
    let whole: Vec<u64> = (1..).take(numbers.len()).collect();
    assert_eq!(numbers, whole, "dense, and none twice");
    rig.cut();
    let last = *rig.restorable().last().expect("something is restorable");
    let restored = seen(&lab.restore(&rig, last)).expect("the canary comes back");
    assert_eq!(Some(&restored.seq), numbers.last());
    assert_eq!((restored.rows, restored.next_absent), (CANARIES_KEPT, true));
    lab.assert_restores_byte_equal(rig);
}

#[test]
fn canaries_come_back_with_the_database_and_their_numbers_survive_every_death_of_the_agent() {
    for journal_mode in ["wal", "delete"] {
        come_back_with_the_database(journal_mode);
    }
}

#[test]
fn without_being_asked_nothing_is_written_into_the_database() {
    let lab = Lab::new(&Shape {
        bytes: 100_000,
        ..Shape::default()
    });
    let before = lab.image();
    let mut rig = lab.protected();
    for _ in 0..20 {
        assert_eq!(ask(&mut rig, SystemClock.now()), None);
        rig.poll();
    }
    rig.crash();
    assert!(lab.image() == before, "the bytes of the file have changed");
    assert_eq!(seen(lab.path()), None);
}

#[test]
fn retiring_takes_the_table_away_and_says_so() {
    let lab = lab(&Shape::default());
    let engine = lab.engine();
    assert_eq!(engine.remove_canary().expect("nothing is there"), None);
    let mut rig = lab.protected();
    assert_eq!(written(ask(&mut rig, SystemClock.now())), Some(1));
    rig.crash();
    let said = engine.remove_canary().expect("it is taken away");
    assert!(said.is_some_and(|said| said.contains("dropped")));
    assert_eq!(seen(lab.path()), None);
}

/// A canary, and the cut that has it.
struct Beat {
    seq: u64,
    at: Timestamp,
    cut: LogSeq,
}

const DAY: Duration = Duration::from_secs(86_400);
const EVERY: Duration = Duration::from_secs(30);
/// Between canaries where nobody will ask.
const COARSE: Duration = Duration::from_secs(1800);
/// Seconds before and after an instant that is asked for in which they come every half minute: the coarse
/// steps don't pass it by.
const BEFORE: i64 = 1800 + 60;
const AFTER: i64 = 60;
const DAYS: u64 = 30;
const MINUTES: u64 = 20;
const MINUTES_LONG: u64 = 200;

/// A history of thirty days in the time of its clock. A canary is written every half minute around each of
/// the instants that a restore will be asked for, and now and then between them.
fn history(lab: &Lab, clock: &SimClock, targets: &[Timestamp]) -> (Rig, Vec<Beat>) {
    let engine = SqliteEngine::new(lab.config.clone(), clock.shared());
    let state = lab.folder.path().join("state");
    let mut rig = Rig::new(Box::new(engine) as Box<dyn Engine>, state);
    rig.open();
    rig.base(true);
    let end = clock.now() + DAY * 30;
    let mut beats = Vec::new();
    while clock.now() < end {
        let seq = written(ask(&mut rig, clock.now())).expect("nobody else writes");
        rig.poll();
        let cut = rig.cut_restorable();
        let at = clock.now();
        beats.push(Beat { seq, at, cut });
        let fine = targets.iter().any(|target| {
            let until = target.duration_since(clock.now()).as_secs();
            (-AFTER..=BEFORE).contains(&until)
        });
        clock.advance(if fine { EVERY } else { COARSE });
    }
    (rig, beats)
}

#[test]
fn any_minute_of_thirty_days_comes_back_to_the_minute_by_the_canary() {
    let long = std::env::var_os("TIDEMARK_LONG").is_some_and(|value| value == "1");
    let start: Timestamp = "2026-10-20T00:00:00Z".parse().expect("a time");
    let clock = SimClock::at(start);
    let lab = lab(&Shape {
        bytes: 50_000,
        ..Shape::default()
    });
    let mut dice = Dice::new(20_261_122);
    let minutes = if long { MINUTES_LONG } else { MINUTES };
    let targets: Vec<Timestamp> = (0..minutes)
        .map(|_| {
            // Any millisecond, but for the first and the last hour.
            let span = (DAYS * 86_400 - 7_200) * 1_000;
            start + Duration::from_millis(3_600_000 + dice.below(span))
        })
        .collect();
    let (rig, beats) = history(&lab, &clock, &targets);
    for target in targets {
        // What the plan of a restore takes: the newest state that was seen by then.
        let last = beats.partition_point(|beat| beat.at <= target);
        let (wanted, next) = (&beats[last - 1], &beats[last]);
        let restored = seen(&lab.restore(&rig, wanted.cut)).expect("the canary comes back");
        let error = target.duration_since(restored.at);
        assert!(
            !error.is_negative() && error.as_secs_f64() <= 60.0,
            "{target}: the canary is of {}",
            restored.at
        );
        assert_eq!(restored.seq, wanted.seq);
        // The next one was written half a minute later, after the target, and isn't there.
        assert_eq!(next.seq, restored.seq + 1);
        assert!(next.at > target && next.at <= wanted.at + EVERY);
        assert!(restored.next_absent);
    }
}
