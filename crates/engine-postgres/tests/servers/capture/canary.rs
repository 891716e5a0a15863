//! Canaries on a server: rows of a table of their own, or messages in the log.

use tidemark_engine::Engine as _;
use tidemark_engine::canary::{CANARIES_KEPT, Canary, CanaryForm, CanaryOutcome};
use tidemark_engine_postgres::PostgresConfig;
use tidemark_engine_postgres::conninfo::ConnInfo;
use tidemark_engine_postgres::wal::{Event, Outcome};
use tidemark_engine_postgres::wire::{Connection, Mode};
use tidemark_engine_postgres::{SegmentSize, TimelineId, canary};
use tidemark_testkit::postgres::{Cluster, Options, Postgres};

use super::{Desk, conninfo, eventually, keeping, today};
use crate::replication::Nothing;

fn one() -> Option<Postgres> {
    Postgres::of(15)
}

fn desk(conninfo: &str, form: CanaryForm) -> Desk {
    let tune = |config: &mut PostgresConfig| config.canary = Some(form);
    let mut desk = Desk::new(conninfo, tune);
    desk.open();
    desk
}

/// Asks for a canary, again while the server doesn't stream yet, and says what came of it.
fn ask(desk: &mut Desk, least: u64) -> CanaryOutcome {
    let mut answer = None;
    desk.run_until("a canary came to something", |desk| {
        let canary = Canary {
            seq: least,
            at: today(),
            nonce: "0011223344556677".to_owned(),
        };
        desk.capture().canary(&canary);
        let mut came = None;
        eventually("the server answers", || {
            came = desk.capture().canary_outcome();
            came.is_some()
        });
        let waits = came == Some(CanaryOutcome::Busy);
        answer = came.filter(|_| !waits);
        answer.is_some()
    });
    answer.expect("it came to something")
}

fn written(outcome: &CanaryOutcome) -> u64 {
    match outcome {
        CanaryOutcome::Written { seq, .. } => *seq,
        other => panic!("a canary came to {other:?}"),
    }
}

/// The newest canary as a drill reads it.
fn seen(cluster: &Cluster) -> Option<(u64, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let info = ConnInfo::parse(&conninfo(cluster), &Nothing).expect("valid");
        let mut connection = Connection::open(&info, Mode::Sql)
            .await
            .expect("it answers");
        let seen = canary::read(&mut connection).await.expect("it is read");
        seen.map(|seen| (seen.seq, seen.rows))
    })
}

#[test]
fn rows_go_on_whoever_dies_and_are_few_and_taken_away_at_the_end() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    assert_eq!(seen(&cluster), None);
    let mut desk = desk(&conninfo(&cluster), CanaryForm::Table);
    for wanted in 1..=10 {
        if wanted % 4 == 0 {
            desk.crash();
            desk.open();
        }
        assert_eq!(written(&ask(&mut desk, 1)), wanted);
    }
    assert_eq!(seen(&cluster), Some((10, CANARIES_KEPT)));
    // A table that somebody dropped under our connection is made again, and no number comes twice.
    cluster.sql("DROP TABLE tidemark.canary");
    assert_eq!(written(&ask(&mut desk, 11)), 11);
    desk.crash();
    let said = desk.engine().remove_canary().expect("taken away");
    assert!(said.is_some_and(|said| said.contains("table and schema")));
    assert_eq!(
        cluster.query("SELECT to_regnamespace('tidemark') IS NULL"),
        "t"
    );
    assert_eq!(desk.engine().remove_canary().expect("nothing left"), None);
}

#[test]
fn a_schema_that_holds_other_things_stays_and_that_is_said() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let mut desk = desk(&conninfo(&cluster), CanaryForm::Table);
    assert_eq!(written(&ask(&mut desk, 1)), 1);
    desk.crash();
    cluster.sql("CREATE TABLE tidemark.other (n int)");
    let said = desk.engine().remove_canary().expect("taken away");
    assert!(said.is_some_and(|said| said.contains("schema tidemark stays")));
    assert_eq!(seen(&cluster), None);
}

#[test]
fn messages_stand_in_the_log_with_numbers_that_no_death_repeats() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let mut desk = desk(&conninfo(&cluster), CanaryForm::Message);
    for wanted in 1..=4 {
        if wanted % 2 == 0 {
            desk.crash();
            desk.open();
        }
        // The least that is asked for is what an agent that lost its record would ask for.
        assert_eq!(written(&ask(&mut desk, 1)), wanted);
    }
    // Messages of others are none.
    cluster.sql("SELECT pg_logical_emit_message(true, 'cdc', 'x'), pg_logical_emit_message(false, 'tidemark_canary', '{}')");
    desk.catch_up(&cluster);
    let segment = SegmentSize::DEFAULT;
    let (found, _) = desk.scanned(TimelineId(1), segment);
    let canaries: Vec<(u32, u64)> = found
        .iter()
        .filter_map(|record| match record.event {
            Event::Canary { xid, seq, .. } => Some((xid, seq)),
            _ => None,
        })
        .collect();
    let numbers: Vec<u64> = canaries.iter().map(|(_, seq)| *seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    for (xid, seq) in canaries {
        let committed = found.iter().any(|record| {
            matches!(record.event, Event::End { xid: ended, outcome: Outcome::Committed, .. } if ended == xid)
        });
        assert!(committed, "canary {seq} belongs to no commit");
    }
    assert_eq!(seen(&cluster), None, "messages need no table");
    desk.crash();
    assert_eq!(desk.engine().remove_canary().expect("nothing there"), None);
}

#[test]
fn a_role_that_may_not_is_told_what_to_run_and_goes_on_once_it_was() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    cluster.sql("CREATE ROLE tidemark LOGIN REPLICATION");
    let conninfo = conninfo(&cluster).replace("user=postgres", "user=tidemark");
    let mut desk = desk(&conninfo, CanaryForm::Table);
    let CanaryOutcome::Failed { why } = ask(&mut desk, 1) else {
        panic!("it was written")
    };
    let (_, statement) = why.split_once("administrator: ").expect("a statement");
    cluster.sql(statement);
    assert_eq!(written(&ask(&mut desk, 1)), 1);
    desk.crash();
    // The schema is the role's own then: it is dropped, too.
    let said = desk.engine().remove_canary().expect("taken away");
    assert!(said.is_some_and(|said| said.contains("table and schema")));
}

#[test]
fn a_standby_writes_none_and_says_that_this_is_as_it_should_be() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let standby = cluster.standby("standby").expect("a standby");
    for form in [CanaryForm::Table, CanaryForm::Message] {
        let mut desk = desk(&conninfo(&standby), form);
        let CanaryOutcome::NotHere { why } = ask(&mut desk, 1) else {
            panic!("it was tried")
        };
        assert!(why.contains("standby"), "{why}");
    }
}

#[test]
fn without_being_asked_nothing_is_written_on_the_server() {
    let Some(postgres) = one() else { return };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let mut desk = Desk::of(&cluster);
    desk.open();
    let tables = "SELECT count(*) FROM pg_class";
    let before = cluster.query(tables);
    for _ in 0..20 {
        let canary = Canary {
            seq: 1,
            at: today(),
            nonce: String::new(),
        };
        desk.capture().canary(&canary);
        assert_eq!(desk.capture().canary_outcome(), None);
        desk.turn();
    }
    assert_eq!(cluster.query(tables), before);
    desk.catch_up(&cluster);
    let (found, _) = desk.scanned(TimelineId(1), SegmentSize::DEFAULT);
    let is_canary = |event: &Event| matches!(event, Event::Canary { .. });
    assert!(!found.iter().any(|record| is_canary(&record.event)));
}
