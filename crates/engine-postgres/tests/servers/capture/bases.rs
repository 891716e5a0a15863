//! Bases made through the capture: they fit onto the log that is cut beside them.

use std::time::Duration;

use tidemark_engine::{BaseStart, ErrorKind};
use tidemark_engine_postgres::Lsn;
use tidemark_format::LogSeq;
use tidemark_testkit::postgres::{Cluster, Options, Postgres};

use super::{Desk, PATIENCE, now, since};

struct Base {
    start: BaseStart,
    usable: LogSeq,
    pages: u64,
    files: usize,
}

/// Makes a base, with cuts in between, as the agent does.
fn base(desk: &mut Desk, complete: bool) -> Base {
    let next = desk.next_seq();
    let start = desk
        .capture()
        .begin_base(next, complete)
        .expect("it begins");
    assert_eq!(start.start, next);
    let begun = now();
    let mut pages = 0;
    let files = loop {
        assert!(since(begun) < PATIENCE, "the base never ends");
        match desk.slice(1 << 20) {
            Ok(slice) => {
                pages += slice
                    .runs
                    .iter()
                    .map(|run| u64::from(run.count))
                    .sum::<u64>();
                if slice.done {
                    break slice.files.len();
                }
            }
            Err(error) => panic!("{:?}: {error} {error:?}", error.kind()),
        }
        desk.poll();
        desk.cut();
        std::thread::sleep(Duration::from_millis(2));
    };
    let usable = loop {
        assert!(since(begun) < PATIENCE, "no restorable cut comes");
        desk.poll();
        if desk.cut() && desk.kept.last().is_some_and(|kept| kept.cut.restorable) {
            break desk.kept.last().expect("there").seq;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    desk.capture().base_stands().expect("it stands");
    desk.capture().base_done().expect("it is done");
    Base {
        start,
        usable,
        pages,
        files,
    }
}

/// The backup's start and stop, as the server logged the stop.
fn stops_before(desk: &Desk, base: &Base) -> Lsn {
    let kept = desk.kept.iter().find(|kept| kept.seq == base.usable);
    kept.expect("kept").range().end()
}

fn makes_bases(postgres: &Postgres) {
    // GIVEN a captured server with rows
    let cluster = Cluster::start(postgres, &Options::default()).expect("a cluster");
    cluster
        .sql("CREATE TABLE t AS SELECT n, md5(n::text) AS body FROM generate_series(1, 50000) n");
    let mut desk = Desk::of(&cluster);
    desk.open();
    desk.capture().open_generation([7; 32]).expect("opened");
    // WHEN a base is made of it while it is at rest
    let first = base(&mut desk, true);
    // THEN its log begins with a cut of the number promised, though nothing was written
    assert!(
        first.start.complete && first.pages > 1_000 && first.files > 500,
        "{} {}",
        first.pages,
        first.files
    );
    let kept = desk
        .kept
        .iter()
        .find(|kept| kept.seq == first.start.start)
        .expect("the first cut");
    let began = kept.range().start;
    let redo: Lsn = cluster
        .query("SELECT redo_lsn FROM pg_control_checkpoint()")
        .parse()
        .expect("a position");
    assert!(
        began <= redo,
        "replay from {redo} needs the log from there, and it begins at {began}"
    );
    assert!(stops_before(&desk, &first) > redo);
    // AND the next one holds only what changed
    cluster.sql("UPDATE t SET body = 'x' WHERE n = 17");
    let second = base(&mut desk, false);
    assert!(
        !second.start.complete && second.pages < first.pages / 4,
        "{} of {}",
        second.pages,
        first.pages
    );
    // AND an agent that died in the middle of one begins it again
    let next = desk.next_seq();
    desk.capture().begin_base(next, false).expect("it begins");
    desk.crash();
    desk.open();
    desk.capture().base_abandoned();
    let third = base(&mut desk, false);
    assert!(!third.start.complete && third.pages < first.pages / 4);
}

#[test]
fn bases_fit_onto_the_log_beside_them_on_every_major() {
    for postgres in Postgres::all() {
        makes_bases(&postgres);
    }
}

#[test]
fn a_base_of_a_server_that_dies_is_given_up_and_the_next_one_is_whole() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    cluster
        .sql("CREATE TABLE t AS SELECT n, md5(n::text) AS body FROM generate_series(1, 400000) n");
    let mut desk = Desk::of(&cluster);
    desk.open();
    desk.capture().open_generation([7; 32]).expect("opened");
    let next = desk.next_seq();
    desk.capture().begin_base(next, true).expect("it begins");
    // WHEN the server dies in the middle of it
    super::eventually("pages come", || {
        !desk.slice(1 << 20).expect("a slice").runs.is_empty()
    });
    cluster
        .stop(tidemark_testkit::postgres::Stop::Kill)
        .expect("killed");
    let mut error = None;
    super::eventually("it is given up", || {
        error = desk.slice(1 << 20).err();
        error.is_some()
    });
    assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Retry));
    // THEN it can be made again in the same life
    cluster.start_again().expect("it starts");
    let base = base(&mut desk, true);
    assert!(base.start.complete && base.pages > 3_000);
}
