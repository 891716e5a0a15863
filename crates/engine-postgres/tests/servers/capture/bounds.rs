//! What capture may hold, however much is written and however slowly it goes away.

use tidemark_engine_postgres::{LogMemory, Lsn, SegmentSize, TimelineId};
use tidemark_testkit::postgres::{Cluster, Postgres};

use super::{Desk, conninfo, eventually, flushed, keeping, now, since};

/// A message of the stream: what may come beyond a bound.
const MESSAGE: u64 = 128 << 10;
/// What a source may hold of its own.
const OWN: u64 = 256 << 10;

fn of(number: usize) -> u64 {
    u64::try_from(number).expect("fits")
}

#[test]
fn sources_share_one_memory_and_none_of_them_starves() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    // GIVEN six sources that share 4 MiB
    let options = keeping()
        .with("max_replication_slots", "10")
        .with("max_wal_senders", "20");
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    let memory = LogMemory::new(4 << 20, 6);
    let mut desks: Vec<Desk> = (0..6)
        .map(|number| {
            let mut desk = Desk::sharing(&conninfo(&cluster), &memory, |config| {
                config.slot = format!("slot_{number}");
            });
            desk.open();
            desk
        })
        .collect();
    cluster.sql("CREATE TABLE t (n int)");
    for desk in &mut desks {
        desk.catch_up(&cluster);
    }
    // WHEN much is written, and five of them can't let anything go
    cluster.sql("INSERT INTO t SELECT generate_series(1, 400000)");
    let starts: Vec<Lsn> = desks
        .iter()
        .map(|desk| desk.end().expect("a log"))
        .collect();
    let mut held = vec![0; 6];
    let mut steady = now();
    eventually("none of them reads any more", || {
        for (index, desk) in desks.iter_mut().enumerate() {
            desk.poll();
            let holds = desk.received().since(starts[index]);
            if holds != held[index] {
                held[index] = holds;
                steady = now();
            }
        }
        let all_wait = desks.iter_mut().all(|desk| desk.poll().cut_now);
        all_wait
            && held.iter().all(|held| *held > 0)
            && since(steady) > std::time::Duration::from_secs(1)
    });
    // THEN together they hold no more than there is, and each wants to be cut
    let all: u64 = held.iter().sum();
    assert!(all <= (4 << 20) + of(desks.len()) * MESSAGE, "{held:?}");
    assert!(held.iter().all(|held| *held <= (4 << 20)), "{held:?}");
    assert!(memory.taken() <= 4 << 20);
    for desk in &mut desks {
        assert!(desk.poll().cut_now, "{held:?}");
    }
    // AND one that can goes on to the end, while the others hold what they have
    let mut one = desks.pop().expect("six");
    one.catch_up(&cluster);
    for (index, desk) in desks.iter_mut().enumerate() {
        let holds = desk.received().since(starts[index]);
        assert!(holds < OWN + (4 << 20), "{holds}");
    }
    // AND so does each of them when it can again
    for desk in &mut desks {
        desk.catch_up(&cluster);
        let same = desk.assert_same_as(
            &cluster.data_dir().join("pg_wal"),
            TimelineId::FIRST,
            SegmentSize::DEFAULT,
        );
        assert!(same > 20 << 20);
    }
    drop((one, desks));
    assert_eq!(memory.taken(), 0, "all of it was given back");
}

#[test]
fn a_transaction_of_two_hundred_megabytes_is_captured_within_the_bounds() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    // GIVEN a captured server
    let cluster = Cluster::start(&postgres, &keeping()).expect("a cluster");
    let memory = LogMemory::new(16 << 20, 1);
    let mut desk = Desk::sharing(&conninfo(&cluster), &memory, |_| {});
    desk.open();
    cluster.sql("CREATE TABLE t (n int, body text)");
    desk.catch_up(&cluster);
    let before = desk.kept.len();
    // WHEN one transaction writes more than 200 MB of log
    let mut most = 0;
    std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            cluster.sql("INSERT INTO t SELECT n, repeat(md5(n::text), 60) FROM generate_series(1, 110000) n");
        });
        desk.run_until("it is written", |_| {
            most = most.max(memory.taken());
            writes.is_finished()
        });
    });
    let end = flushed(&cluster);
    desk.catch_up(&cluster);
    // THEN it is there, in pieces of no more than 8 MiB, and counted once
    let pieces = &desk.kept[before..];
    let bytes: usize = pieces.iter().map(|kept| kept.range().bytes.len()).sum();
    assert!(bytes > 200_000_000, "{bytes}");
    assert!(
        pieces
            .iter()
            .all(|kept| kept.range().bytes.len() <= 8 << 20)
    );
    let commits: u64 = pieces.iter().map(|kept| kept.cut.transactions).sum();
    assert_eq!(commits, 1);
    assert!(most <= 16 << 20, "{most}");
    assert!(desk.end() >= Some(end));
    let pg_wal = cluster.data_dir().join("pg_wal");
    desk.assert_same_as(&pg_wal, TimelineId::FIRST, SegmentSize::DEFAULT);
}
