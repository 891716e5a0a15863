//! Replay beside the log that still arrives: it ends where one that began late does, whatever the target
//! is, and an interrupted one goes on.

use tidemark_engine::{EndProof, Materialise as _, ProofResult};
use tidemark_engine_postgres::restore::{PostgresTarget, RestoreError, Stop, TargetOptions};
use tidemark_engine_postgres::wal::{Event, Outcome, Scanner};
use tidemark_testkit::postgres::Options;

use super::kit::{Place, fact, inner};
use super::{CHURN, Story, at, one, point, xid};

/// Smaller than a segment, and of no round size.
const PIECE: usize = 300_007;
const SUM: &str = "SELECT count(*) || ' ' || md5(string_agg(id || body, ',' ORDER BY id)) FROM t";
const RUNS: &str = "postmaster.pid";

/// Twenty small segments of log and more, with a named point, a switch and a pause in the middle.
fn story() -> Option<Story> {
    let options = Options {
        segment_megabytes: 1,
        ..Options::default()
    };
    let life = format!(
        "{CHURN} SELECT pg_create_restore_point('middle'); {CHURN} SELECT pg_switch_wal(); {CHURN}"
    );
    Some(Story::tell(&one()?, options, &life))
}

fn options(place: &Place, stop: Stop) -> TargetOptions {
    TargetOptions {
        overlap: true,
        ..place.options(stop)
    }
}

/// A target with the base written and the first payloads applied, until its server replays.
fn begun(story: &Story, place: &Place, stop: Stop, log: &[Vec<u8>]) -> (PostgresTarget, usize) {
    let mut target = place.open(options(place, stop)).expect("opened");
    story.base.write(&target).expect("written");
    for (number, payload) in log.iter().enumerate() {
        target.apply_log(payload).expect("applied");
        if place.partial().join(".tidemark/server.log").exists() {
            return (target, number + 1);
        }
    }
    panic!("no server was started");
}

fn go_on(mut target: PostgresTarget, log: &[Vec<u8>]) -> EndProof {
    for payload in log {
        if target.reached().is_some() {
            break;
        }
        target.apply_log(payload).expect("applied");
    }
    let proof = Box::new(target).finish().expect("finished");
    assert_eq!(proof.result, ProofResult::Replayed);
    proof
}

#[test]
fn replay_beside_fetching_ends_where_a_late_one_does() {
    let Some(story) = story() else { return };
    // GIVEN the transactions of the log, with the positions where their commits begin
    let mut scanner = Scanner::new(story.log.timeline, story.log.segment, story.log.from);
    let mut records = Vec::new();
    scanner
        .feed(&story.log.bytes, &mut records)
        .expect("a sound log");
    let commits: Vec<_> = records
        .iter()
        .filter(|record| record.span.start > story.base.layout.stop.lsn)
        .filter_map(|record| match record.event {
            Event::End {
                xid,
                at,
                outcome: Outcome::Committed,
                ..
            } => Some((record.span, xid, at.timestamp()?)),
            _ => None,
        })
        .collect();
    let (second, last) = (commits[1], commits[commits.len() - 2]);
    let log = story.log.payloads(PIECE);
    for stop in [
        Stop::End,
        point("middle"),
        xid(last.1, false),
        at(last.0.start, false),
        at(last.0.end, true),
        Stop::AtOrBefore(second.2),
        Stop::Before(last.2),
    ] {
        // WHEN it is replayed while the rest of the log arrives, and late
        let beside = Place::new(&beside_of(&story));
        let (target, used) = begun(&story, &beside, stop.clone(), &log);
        assert!(used < log.len() / 2, "{used} of {}", log.len());
        let proof = go_on(target, &log[used..]);
        let (_, whole) = story.restored(stop.clone());
        // THEN both end at the same record
        for name in ["lsn", "last_record", "commits", "ended_at", "stopped"] {
            assert_eq!(fact(&proof, name), fact(&whole, name), "{stop}: {name}");
        }
        for gone in [".tidemark", "recovery.signal", "backup_label", RUNS] {
            assert!(!beside.partial().join(gone).exists(), "{gone}");
        }
        // AND, if that is the last one, with all rows
        if stop == Stop::End {
            beside.check_pages();
            beside.start();
            assert_eq!(beside.cluster.query(SUM), story.cluster.query(SUM));
        }
    }
}

fn beside_of(story: &Story) -> tidemark_testkit::postgres::Postgres {
    story.cluster.postgres().clone()
}

#[test]
fn replay_that_was_cut_off_goes_on_to_the_same_target_and_to_no_other() {
    let Some(story) = story() else { return };
    let log = story.log.payloads(PIECE);
    let wanted = story.cluster.query(SUM);
    let place = Place::new(&beside_of(&story));
    // GIVEN a server that replays what has arrived, and a run that ends in the middle
    let (mut target, used) = begun(&story, &place, Stop::End, &log);
    for payload in &log[used..used + 8] {
        target.apply_log(payload).expect("applied");
    }
    drop(target);
    assert!(!place.partial().join(RUNS).exists(), "no server is left");
    // THEN another target is refused there
    let other = place.open(options(&place, point("middle")));
    let other = other.expect_err("refused");
    assert!(
        matches!(inner(&other), RestoreError::RecoveryBegun { .. }),
        "{other}"
    );
    // AND the same one goes on with the last payload again, the base's pages being left alone
    let second = place.open(options(&place, Stop::End)).expect("opened");
    assert!(second.goes_on());
    assert!(story.base.write(&second).is_err(), "no page goes back");
    let proof = go_on(second, &log[used + 7..]);
    let (_, whole) = story.restored(Stop::End);
    assert_eq!(fact(&proof, "lsn"), fact(&whole, "lsn"));
    place.check_pages();
    place.start();
    assert_eq!(place.cluster.query(SUM), wanted);
}

#[test]
fn log_that_breaks_while_a_server_replays_ends_both() {
    let Some(story) = story() else { return };
    let log = story.log.payloads(PIECE);
    let place = Place::new(&beside_of(&story));
    let (mut target, used) = begun(&story, &place, Stop::End, &log);
    let error = target.apply_log(&log[used + 1]).expect_err("a hole");
    assert!(matches!(inner(&error), RestoreError::Gap { .. }), "{error}");
    drop(target);
    assert!(!place.partial().join(RUNS).exists(), "no server is left");
    // A server that dies is noticed while the log still arrives.
    super::kit::clear(&place);
    let (mut target, used) = begun(&story, &place, Stop::End, &log);
    let mut pid = None;
    super::kit::eventually("the server is there, and says which process it is", || {
        let text = std::fs::read_to_string(place.partial().join(RUNS)).unwrap_or_default();
        // A whole line: it may be in the middle of writing it.
        let first = text.split_once('\n').map(|(first, _)| first);
        pid = first.and_then(|first| rustix::process::Pid::from_raw(first.trim().parse().ok()?));
        pid.is_some()
    });
    let pid = pid.expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::QUIT).expect("killed");
    let mut left = log[used..].iter();
    let error = loop {
        let Some(payload) = left.next() else {
            break Box::new(target).finish().expect_err("no server");
        };
        if let Err(error) = target.apply_log(payload) {
            break error;
        }
    };
    assert!(
        matches!(inner(&error), RestoreError::Recovery { .. }),
        "{error}"
    );
}
