//! Restores on real servers: every kind of target, and the traps in which others lose data silently.

mod beside;
pub(crate) mod kit;

use jiff::{Timestamp, ToSpan as _};
use kit::{Base, Place, Stretch, assert_private, fact, flushed, inner, lsn, source};
use tidemark_engine::{ErrorKind, Materialise as _, ProofResult};
use tidemark_engine_postgres::Lsn;
use tidemark_engine_postgres::restore::{PostgresTarget, RestoreError, Stop, TablespaceMap};
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres, Stop as StopServer};

const FILL: &str = "CREATE TABLE t (id int PRIMARY KEY, body text);
    INSERT INTO t SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n;";
/// About 8 MB of log.
const CHURN: &str = "UPDATE t SET body = body || 'x' WHERE id % 2 = 0;";
const PIECE: usize = 1_000_003;

/// A source with a base in the middle of its life: what came after, position by position.
struct Story {
    cluster: Cluster,
    base: Base,
    log: Stretch,
}

impl Story {
    /// The base, then `life`, then the whole log from the base's segment on.
    fn tell(postgres: &Postgres, options: Options, life: &str) -> Self {
        let cluster = source(postgres, options);
        cluster.sql(FILL);
        let base = Base::take(&cluster);
        cluster.sql(life);
        Self::ended(cluster, base)
    }

    fn ended(cluster: Cluster, base: Base) -> Self {
        let end = flushed(&cluster);
        let from = base.segment().start(base.layout.start.lsn);
        let log = Stretch::of(&cluster, &base, base.layout.start.timeline.0, from, end);
        Self { cluster, base, log }
    }

    fn restored(&self, stop: Stop) -> (Place, tidemark_engine::EndProof) {
        let place = Place::new(self.cluster.postgres());
        let proof = place.restore(&self.base, &self.log.payloads(PIECE), place.options(stop));
        let proof = proof.expect("restored");
        assert_eq!(proof.result, ProofResult::Replayed);
        (place, proof)
    }

    /// What a restore to `stop` holds.
    fn rows(&self, stop: Stop, query: &str) -> String {
        let (place, _) = self.restored(stop);
        place.start();
        place.cluster.query(query)
    }

    fn error(&self, stop: Stop) -> tidemark_engine::Error {
        let place = Place::new(self.cluster.postgres());
        let done = place.restore(&self.base, &self.log.payloads(PIECE), place.options(stop));
        done.expect_err("refused")
    }
}

fn one() -> Option<Postgres> {
    Postgres::of(15)
}

fn comes_back_whole(postgres: &Postgres) {
    // GIVEN a server with a base, changes after it, and settings of its own
    let cluster = source(postgres, Options::default());
    cluster.sql(FILL);
    cluster.sql("ALTER SYSTEM SET work_mem = '9MB'");
    let base = Base::take(&cluster);
    cluster.sql(CHURN);
    cluster.sql("CREATE INDEX ON t (body); DELETE FROM t WHERE id < 100; SELECT lo_create(77)");
    let story = Story::ended(cluster, base);
    let sum = "SELECT count(*) || ' ' || md5(string_agg(id || body, ',' ORDER BY id)) FROM t";
    let wanted = story.cluster.query(sum);
    let settings = std::fs::read(story.cluster.data_dir().join("postgresql.auto.conf"));
    // WHEN all of it is restored
    let (place, proof) = story.restored(Stop::End);
    // THEN the server stopped with the last record, and says so by a new timeline
    assert_eq!(fact(&proof, "timeline"), "2");
    assert_eq!(fact(&proof, "replayed_timeline"), "1");
    let end: Lsn = fact(&proof, "lsn").parse().expect("a position");
    let log_end = story
        .log
        .from
        .plus(u64::try_from(story.log.bytes.len()).expect("fits"));
    assert!(
        end <= log_end && log_end.since(end) < 8192 + 40,
        "{end} {log_end}"
    );
    assert!(proof.pages > 1000 && fact(&proof, "ended_at").starts_with("20"));
    // AND nothing of ours is left, the source's settings are as they were, everything is private
    let partial = place.partial();
    for gone in [
        "recovery.signal",
        ".tidemark",
        "postmaster.pid",
        "postmaster.opts",
        "tablespace_map",
    ] {
        assert!(!partial.join(gone).exists(), "{gone}");
    }
    let restored = std::fs::read(partial.join("postgresql.auto.conf"));
    assert_eq!(restored.expect("there"), settings.expect("there"));
    let owner = Owner::get()
        .ids()
        .map_or_else(|| rustix::process::geteuid().as_raw(), |ids| ids.0);
    assert_private(&partial, owner);
    // AND the pages, the tables and the rows are right
    place.check_pages();
    place.start();
    assert_eq!(place.cluster.query(sum), wanted);
    assert_eq!(place.cluster.query("SHOW work_mem"), "9MB");
    place.cluster.sql("INSERT INTO t VALUES (-1, 'it lives')");
    place.check_tables();
}

#[test]
fn a_cluster_comes_back_whole_on_every_major() {
    for postgres in Postgres::all() {
        comes_back_whole(&postgres);
    }
}

/// Commits one row and says when the server says that was.
fn commit(cluster: &Cluster, row: i32) -> Timestamp {
    cluster.sql(&format!("INSERT INTO steps VALUES ({row})"));
    let text = cluster.query(&format!(
        "SELECT to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
         FROM steps WHERE n = {row}"
    ));
    text.parse().expect("a time")
}

#[test]
fn an_instant_is_met_to_the_commit_also_on_an_idle_database() {
    let Some(postgres) = one() else { return };
    // GIVEN three commits after a base, and then nothing
    let cluster = source(
        &postgres,
        Options::default().with("track_commit_timestamp", "on"),
    );
    cluster.sql("CREATE TABLE steps (n int)");
    let base = Base::take(&cluster);
    let times: Vec<Timestamp> = (1..=3).map(|row| commit(&cluster, row)).collect();
    let end = lsn(&cluster);
    let from = base.segment().start(base.layout.start.lsn);
    cluster.sql("SELECT pg_switch_wal()");
    let log = Stretch::of(&cluster, &base, 1, from, end);
    let story = Story { cluster, base, log };
    let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM steps";
    // THEN an instant includes what was committed at it, and before it does not
    assert_eq!(story.rows(Stop::AtOrBefore(times[1]), rows), "1,2");
    assert_eq!(story.rows(Stop::Before(times[1]), rows), "1");
    assert_eq!(
        story.rows(Stop::AtOrBefore(times[2] - 1.microsecond()), rows),
        "1,2"
    );
    // AND an instant seconds after the last commit is the end, not an error
    let (place, proof) = story.restored(Stop::AtOrBefore(times[2] + 5.seconds()));
    assert_eq!(fact(&proof, "ended_at"), times[2].to_string());
    place.start();
    assert_eq!(place.cluster.query(rows), "1,2,3");
    // AND the times that the server keeps are still there
    let kept = "SELECT count(pg_xact_commit_timestamp(xmin)) FROM steps";
    place
        .cluster
        .sql("ALTER SYSTEM SET track_commit_timestamp = 'on'");
    assert_eq!(place.cluster.query(kept), "3");
    // AND one before the base is consistent is refused
    let error = story.error(Stop::Before(times[0] - 1.hour()));
    assert!(
        matches!(inner(&error), RestoreError::BeforeConsistent { .. }),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Refused);
}

/// One row a step, with a named point before the second and a switch after the third: the story, the
/// second step's transaction, and the position after it.
fn steps(postgres: &Postgres) -> (Story, u32, Lsn) {
    let cluster = source(postgres, Options::default());
    cluster.sql("CREATE TABLE steps (n int)");
    let base = Base::take(&cluster);
    cluster.sql("INSERT INTO steps VALUES (1); SELECT pg_create_restore_point('before two')");
    let two = cluster
        .query("BEGIN; INSERT INTO steps VALUES (2); SELECT pg_current_xact_id()::text; COMMIT");
    let two: u32 = two.parse().expect("an id");
    let between = lsn(&cluster);
    cluster.sql("INSERT INTO steps VALUES (3); SELECT pg_switch_wal()");
    cluster.sql("INSERT INTO steps VALUES (4)");
    (Story::ended(cluster, base), two, between)
}

fn point(name: &str) -> Stop {
    let name = name.to_owned();
    Stop::Name { name }
}

const fn xid(id: u32, inclusive: bool) -> Stop {
    Stop::Xid { id, inclusive }
}

const fn at(at: Lsn, inclusive: bool) -> Stop {
    Stop::Lsn { at, inclusive }
}

#[test]
fn positions_transactions_and_names_are_met() {
    let Some(postgres) = one() else { return };
    let (story, two, between) = steps(&postgres);
    let rows = |stop| {
        story.rows(
            stop,
            "SELECT string_agg(n::text, ',' ORDER BY n) FROM steps",
        )
    };
    assert_eq!(rows(point("before two")), "1");
    assert_eq!(rows(xid(two, true)), "1,2");
    assert_eq!(rows(xid(two, false)), "1");
    assert_eq!(rows(at(between, false)), "1,2");
    // The very end of the chain: fatal to a server that is told so.
    let (_, proof) = story.restored(Stop::End);
    let end: Lsn = fact(&proof, "lsn").parse().expect("a position");
    assert_eq!(rows(at(end, true)), "1,2,3,4");
    assert_eq!(rows(at(end, false)), "1,2,3,4");
}

#[test]
fn targets_past_the_log_or_inside_the_base_are_refused() {
    let Some(postgres) = one() else { return };
    let (story, two, between) = steps(&postgres);
    let unknown = [
        point("nobody's"),
        xid(two + 1_000_000, true),
        at(between.plus(100_000_000), true),
    ];
    for stop in unknown {
        let error = story.error(stop);
        assert!(
            matches!(inner(&error), RestoreError::NotReached { .. }),
            "{error}"
        );
    }
    let error = story.error(at(story.base.layout.start.lsn.plus(8), true));
    assert!(
        matches!(inner(&error), RestoreError::BeforeConsistent { .. }),
        "{error}"
    );
}

#[test]
fn a_switch_may_be_the_last_record() {
    let Some(postgres) = one() else { return };
    let cluster = source(&postgres, Options::default());
    cluster.sql(FILL);
    let base = Base::take(&cluster);
    cluster.sql("INSERT INTO t VALUES (-1, 'x'); SELECT pg_switch_wal()");
    let end = base.segment().start(flushed(&cluster));
    let from = base.segment().start(base.layout.start.lsn);
    let log = Stretch::of(&cluster, &base, 1, from, end);
    let story = Story { cluster, base, log };
    let (_, proof) = story.restored(Stop::End);
    assert_eq!(fact(&proof, "lsn"), end.to_string());
}

#[test]
fn a_log_that_begins_inside_a_record_is_enough() {
    // Every major: the made-up headers carry the version's own mark.
    for postgres in Postgres::all() {
        let story = Story::tell(&postgres, Options::default(), CHURN);
        let start = story.base.layout.start.lsn;
        // Just before the base's start, at a byte that begins nothing, and exactly there.
        for before in [0, 3, 30] {
            let from = Lsn(start.0 - before.min(story.base.segment().offset(start)));
            let mut log = story.log.clone();
            log.bytes
                .drain(..usize::try_from(from.since(log.from)).expect("fits"));
            log.from = from;
            let place = Place::new(&postgres);
            let proof = place.restore(&story.base, &log.payloads(PIECE), place.options(Stop::End));
            assert_eq!(
                proof.expect("restored").result,
                ProofResult::Replayed,
                "{before}"
            );
        }
    }
}

#[test]
fn log_that_is_missing_or_stale_is_refused() {
    let Some(postgres) = one() else { return };
    let life = format!("{CHURN}{CHURN}");
    let story = Story::tell(&postgres, Options::default(), &life);
    let good = story.log.payloads(PIECE);
    assert!(good.len() > 30, "{}", good.len());
    let place = Place::new(&postgres);
    let refused = |log: &[Vec<u8>]| {
        kit::clear(&place);
        let done = place.restore(&story.base, log, place.options(Stop::End));
        let error = done.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        error
    };
    // A piece that is missing in the middle.
    let mut gap = good.clone();
    gap.remove(5);
    let error = refused(&gap);
    assert!(matches!(inner(&error), RestoreError::Gap { .. }), "{error}");
    // The first ones missing: nothing on this disk stands in for them.
    let error = refused(&good[3..]);
    assert!(matches!(inner(&error), RestoreError::Gap { .. }), "{error}");
    // A stale part: the same place again, shorter.
    let mut stale = good;
    stale.insert(5, story.log.payloads(PIECE / 2)[8].clone());
    let error = refused(&stale);
    assert!(
        matches!(inner(&error), RestoreError::Overlap { .. }),
        "{error}"
    );
    // No log at all.
    kit::clear(&place);
    let error = place.restore(&story.base, &[], place.options(Stop::End));
    assert!(matches!(
        inner(&error.expect_err("refused")),
        RestoreError::NoLog
    ));
}

#[test]
fn log_with_other_bytes_is_refused() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), CHURN);
    let place = Place::new(&postgres);
    let refused = |log: &Stretch| {
        kit::clear(&place);
        let done = place.restore(&story.base, &log.payloads(PIECE), place.options(Stop::End));
        let error = done.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        error
    };
    // (The base's end left a segment empty: what follows is done behind it.)
    let place_in_log = story.log.bytes.len() - 3 * PIECE;
    // Zeros where log should be, as a padded part in the middle would have.
    let mut padded = story.log.clone();
    padded.bytes[place_in_log..place_in_log + PIECE].fill(0);
    let error = refused(&padded);
    assert!(matches!(inner(&error), RestoreError::Wal(_)), "{error}");
    // One bit.
    let mut flipped = story.log.clone();
    flipped.bytes[place_in_log] ^= 1;
    let error = refused(&flipped);
    assert!(matches!(inner(&error), RestoreError::Wal(_)), "{error}");
    // Another cluster's.
    let mut foreign = story.log.clone();
    foreign.system += 1;
    let error = refused(&foreign);
    assert!(
        matches!(inner(&error), RestoreError::OtherSystem { .. }),
        "{error}"
    );
}

#[test]
fn stray_files_in_the_log_change_nothing() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), CHURN);
    let place = Place::new(&postgres);
    let target = place.open(place.options(Stop::End)).expect("opened");
    // GIVEN a history that would lead recovery elsewhere, a segment of a wrong size with other bytes
    let folder = place.partial().join("pg_wal");
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("00000002.history"), "1\t0/2000100\tstray\n").expect("written");
    let segment = story.base.segment();
    let first = story.log.from;
    for (number, bytes) in [(0, 57_968), (1, 20 << 20), (40, 16 << 20)] {
        let at = first.plus(number * segment.bytes());
        let name = tidemark_engine_postgres::SegmentName::of(story.log.timeline, at, segment);
        std::fs::write(folder.join(name.text(segment)), vec![7; bytes]).expect("written");
    }
    // WHEN the restore goes on
    let mut target = target;
    story.base.write(&target).expect("written");
    for payload in story.log.payloads(PIECE) {
        target.apply_log(&payload).expect("applied");
    }
    let proof = Box::new(target).finish().expect("finished");
    // THEN it ends where it should, on the first timeline after
    assert_eq!(proof.result, ProofResult::Replayed);
    assert_eq!(fact(&proof, "timeline"), "2");
}

#[test]
fn an_interrupted_restore_goes_on_with_a_later_payload() {
    let Some(postgres) = one() else { return };
    let cluster = source(&postgres, Options::default());
    cluster.sql(FILL);
    let base = Base::take(&cluster);
    cluster.sql(CHURN);
    let middle = lsn(&cluster);
    cluster.sql(CHURN);
    let story = Story::ended(cluster, base);
    let log = story.log.payloads(PIECE);
    let place = Place::new(&postgres);
    for stop in [
        Stop::End,
        Stop::Lsn {
            at: middle,
            inclusive: false,
        },
    ] {
        kit::clear(&place);
        // GIVEN a run that ended after its sixth payload
        let mut first = place.open(place.options(stop.clone())).expect("opened");
        story.base.write(&first).expect("written");
        for payload in &log[..6] {
            first.apply_log(payload).expect("applied");
        }
        first.sync().expect("synced");
        drop(first);
        // WHEN the next one repeats the last, and goes on
        let mut second = place.open(place.options(stop.clone())).expect("opened");
        second.expect_files(&story.base.files).expect("expected");
        for payload in &log[5..] {
            second.apply_log(payload).expect("applied");
        }
        // THEN it ends where an undisturbed one does
        let proof = Box::new(second).finish().expect("finished");
        let (_, whole) = story.restored(stop.clone());
        assert_eq!(fact(&proof, "lsn"), fact(&whole, "lsn"));
        assert_eq!(fact(&proof, "commits"), fact(&whole, "commits"));
    }
}

/// A primary and its promoted standby: base on the first, log of both.
struct Promoted {
    base: Base,
    old: Stretch,
    new: Stretch,
    fork: Lsn,
    postgres: Postgres,
    /// The old primary wrote on after the fork.
    dead: Stretch,
}

fn promoted(postgres: &Postgres) -> Promoted {
    let primary = source(postgres, Options::default());
    primary.sql(FILL);
    let base = Base::take(&primary);
    primary.sql("CREATE TABLE steps (n int); INSERT INTO steps VALUES (1)");
    let standby = primary.standby("s").expect("a standby");
    let end = flushed(&primary);
    kit::eventually("the standby has it all", || {
        standby.query(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
    standby.promote().expect("promoted");
    standby.sql("INSERT INTO steps VALUES (2)");
    primary.sql("INSERT INTO steps VALUES (-2)");
    let dead_end = flushed(&primary);
    let new_end = flushed(&standby);
    let file = std::fs::read_to_string(standby.data_dir().join("pg_wal/00000002.history"));
    let file = file.expect("a history");
    let fork: Lsn = file
        .split_whitespace()
        .nth(1)
        .expect("a place")
        .parse()
        .expect("a position");
    let from = base.segment().start(base.layout.start.lsn);
    let old = Stretch::of(&primary, &base, 1, from, fork);
    let dead = Stretch::of(&primary, &base, 1, from, dead_end);
    let new = Stretch::of(&standby, &base, 2, base.segment().start(fork), new_end);
    Promoted {
        base,
        old,
        new,
        fork,
        postgres: postgres.clone(),
        dead,
    }
}

impl Promoted {
    fn restored(&self, old: &Stretch, stop: Stop) -> (Place, tidemark_engine::EndProof) {
        let place = Place::new(&self.postgres);
        let mut target = place.open(place.options(stop)).expect("opened");
        self.base.write(&target).expect("written");
        let log = [old.payloads(PIECE), self.new.payloads(PIECE)].concat();
        for payload in log {
            target.apply_log(&payload).expect("applied");
        }
        let proof = Box::new(target).finish().expect("finished");
        (place, proof)
    }
}

#[test]
fn a_promotion_in_the_middle_is_followed() {
    for postgres in Postgres::all() {
        let story = promoted(&postgres);
        let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM steps";
        // THEN the new branch is restored, and a third timeline begins
        let (place, proof) = story.restored(&story.old, Stop::End);
        assert_eq!(fact(&proof, "replayed_timeline"), "2");
        assert_eq!(fact(&proof, "timeline"), "3");
        place.start();
        assert_eq!(place.cluster.query(rows), "1,2");
        // AND log of the old one past the fork counts for nothing
        let (place, proof) = story.restored(&story.dead, Stop::End);
        assert_eq!(fact(&proof, "replayed_timeline"), "2");
        place.start();
        assert_eq!(place.cluster.query(rows), "1,2");
        // AND a target on the old one takes the old one
        let stop = Stop::Lsn {
            at: story.fork,
            inclusive: false,
        };
        let (place, proof) = story.restored(&story.old, stop);
        assert_eq!(fact(&proof, "replayed_timeline"), "1");
        assert_eq!(fact(&proof, "lsn"), story.fork.to_string());
        place.start();
        assert_eq!(place.cluster.query(rows), "1");
    }
}

#[test]
fn a_timeline_that_does_not_go_on_from_the_log_is_refused() {
    let Some(postgres) = one() else { return };
    let story = promoted(&postgres);
    let place = Place::new(&postgres);
    let refused = |log: Vec<Vec<u8>>| {
        kit::clear(&place);
        let done = place.restore(&story.base, &log, place.options(Stop::End));
        done.expect_err("refused")
    };
    // The old timeline's last payload is missing.
    let mut log = story.old.payloads(PIECE);
    log.pop();
    log.extend(story.new.payloads(PIECE));
    let error = refused(log);
    assert!(matches!(inner(&error), RestoreError::Gap { .. }), "{error}");
    // Nobody says where the new one left the old.
    let mut new = story.new.clone();
    new.histories.clear();
    let error = refused([story.old.payloads(PIECE), new.payloads(PIECE)].concat());
    assert!(
        matches!(inner(&error), RestoreError::HistoryMissing { .. }),
        "{error}"
    );
    // It left before the base was even consistent.
    new.histories = vec![(new.timeline, b"1\t0/1000000\tx\n".to_vec())];
    let error = refused([story.old.payloads(PIECE), new.payloads(PIECE)].concat());
    assert!(
        matches!(inner(&error), RestoreError::NotADescendant { .. }),
        "{error}"
    );
}

#[test]
fn a_transaction_prepared_before_the_base_is_committed_after_it() {
    let Some(postgres) = one() else { return };
    let cluster = source(&postgres, Options::default());
    cluster.sql("CREATE TABLE steps (n int)");
    cluster.sql("BEGIN; INSERT INTO steps VALUES (1); PREPARE TRANSACTION 'one'");
    cluster.sql("BEGIN; INSERT INTO steps VALUES (2); PREPARE TRANSACTION 'two'");
    let base = Base::take(&cluster);
    cluster.sql("COMMIT PREPARED 'one'");
    let story = Story::ended(cluster, base);
    let (place, _) = story.restored(Stop::End);
    place.start();
    assert_eq!(place.cluster.query("SELECT sum(n) FROM steps"), "1");
    place.cluster.sql("COMMIT PREPARED 'two'");
    assert_eq!(place.cluster.query("SELECT sum(n) FROM steps"), "3");
}

#[test]
fn a_base_of_a_standby_becomes_a_primary() {
    let Some(postgres) = one() else { return };
    // GIVEN a standby that is behind its primary, with settings that lead back to it
    let primary = source(&postgres, Options::default());
    primary.sql(FILL);
    let standby = primary.standby("s").expect("a standby");
    primary.sql(CHURN);
    let end = flushed(&primary);
    kit::eventually("the standby has it all", || {
        standby.query(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
    let base = Base::take(&standby);
    assert!(base.files.iter().any(|file| file.path == "standby.signal"));
    drop(standby);
    primary.sql("DELETE FROM t WHERE id < 10");
    let story = Story::ended(primary, base);
    // WHEN it is restored with the primary's log
    let (place, _) = story.restored(Stop::End);
    // THEN it is a server of its own
    assert!(!place.partial().join("standby.signal").exists());
    place.check_pages();
    place.start();
    assert_eq!(place.cluster.query("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(place.cluster.query("SELECT count(*) FROM t"), "19991");
}

fn folder(cluster: &Cluster, name: &str) -> std::path::PathBuf {
    let path = cluster.socket_dir().join(name);
    std::fs::create_dir(&path).expect("made");
    Owner::get().own(&path).expect("owned");
    path
}

#[test]
fn tablespaces_go_where_they_are_told() {
    let Some(postgres) = one() else { return };
    let cluster = source(&postgres, Options::default());
    let old = folder(&cluster, "space");
    cluster.sql(&format!(
        "CREATE TABLESPACE space LOCATION '{}'",
        old.display()
    ));
    cluster.sql("CREATE TABLE far (n int) TABLESPACE space");
    cluster.sql("INSERT INTO far SELECT generate_series(1, 5000)");
    let base = Base::take(&cluster);
    cluster.sql("INSERT INTO far VALUES (5001)");
    let story = Story::ended(cluster, base);
    let log = story.log.payloads(PIECE);
    let place = Place::new(&postgres);
    // The old place is in use: the source's own files are there.
    let error = place.restore(&story.base, &log, place.options(Stop::End));
    let error = error.expect_err("refused");
    assert!(
        matches!(inner(&error), RestoreError::TablespaceTaken { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("--map-tablespace"), "{error}");
    // Mapped, it goes to the new one, also when the restore is begun again.
    let new = place.cluster.socket_dir().join("mapped");
    let mut options = place.options(Stop::End);
    let map = format!("{}={}", old.display(), new.display());
    options.tablespaces = TablespaceMap::parse([map.as_str()]).expect("a map");
    kit::clear(&place);
    let target = place.open(options.clone()).expect("opened");
    story.base.write(&target).expect("written");
    drop(target);
    place.restore(&story.base, &log, options).expect("restored");
    place.check_pages();
    place.start();
    assert_eq!(place.cluster.query("SELECT count(*) FROM far"), "5001");
    let link = std::fs::read_link(place.cluster.data_dir().join(format!(
        "pg_tblspc/{}",
        story.base.layout.tablespaces[0].oid
    )));
    assert_eq!(link.expect("a link"), new);
    // A place inside the target is none, nor is one of a tablespace that there is not.
    let other = Place::new(&postgres);
    for map in [
        format!(
            "{}={}/inside",
            old.display(),
            other.cluster.data_dir().display()
        ),
        "/nowhere=/elsewhere".to_owned(),
    ] {
        let mut options = other.options(Stop::End);
        options.tablespaces = TablespaceMap::parse([map.as_str()]).expect("a map");
        kit::clear(&other);
        let error = other
            .restore(&story.base, &log, options)
            .expect_err("refused");
        assert!(
            matches!(inner(&error), RestoreError::TablespaceMap { .. }),
            "{error}"
        );
    }
}

#[test]
fn recovery_may_be_left_to_the_user() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), "DELETE FROM t WHERE id < 10");
    let place = Place::new(&postgres);
    let mut options = place.options(Stop::End);
    options.finish = false;
    options.pg_bin = None;
    let proof = place.restore(&story.base, &story.log.payloads(PIECE), options);
    assert_eq!(proof.expect("prepared").result, ProofResult::Unproved);
    assert!(place.partial().join("recovery.signal").exists());
    place.start();
    kit::eventually("recovery ends", || {
        place.cluster.query("SELECT pg_is_in_recovery()") == "f"
    });
    assert_eq!(place.cluster.query("SELECT count(*) FROM t"), "19991");
}

#[test]
fn a_server_that_is_missing_or_of_another_version_is_named() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), "SELECT 1");
    let place = Place::new(&postgres);
    let mut options = place.options(Stop::End);
    options.pg_bin = Some("/nowhere".into());
    let error = place.restore(&story.base, &story.log.payloads(PIECE), options.clone());
    let error = error.expect_err("refused");
    assert!(
        matches!(inner(&error), RestoreError::NoBinaries { .. }),
        "{error}"
    );
    if let Some(other) = Postgres::of(16) {
        options.pg_bin = Some(other.bin().to_path_buf());
        let error = place.restore(&story.base, &story.log.payloads(PIECE), options);
        let error = error.expect_err("refused");
        assert!(
            matches!(inner(&error), RestoreError::WrongVersion { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_recovery_that_is_cut_off_leaves_no_server_and_is_begun_anew() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), CHURN);
    let place = Place::new(&postgres);
    let options = place.options(Stop::End);
    options
        .cancel
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let log = story.log.payloads(PIECE);
    let error = place
        .restore(&story.base, &log, options)
        .expect_err("interrupted");
    assert!(
        matches!(inner(&error), RestoreError::Interrupted),
        "{error}"
    );
    assert!(!place.partial().join("postmaster.pid").exists());
    let error = place.open(place.options(Stop::End)).expect_err("refused");
    assert!(
        matches!(inner(&error), RestoreError::RecoveryBegun { .. }),
        "{error}"
    );
    tidemark_engine_postgres::restore::discard(&place.partial()).expect("removed");
    let proof = place.restore(&story.base, &log, place.options(Stop::End));
    assert_eq!(proof.expect("restored").result, ProofResult::Replayed);
}

#[test]
fn a_base_that_is_not_whole_is_refused() {
    let Some(postgres) = one() else { return };
    let story = Story::tell(&postgres, Options::default(), "SELECT 1");
    let log = story.log.payloads(PIECE);
    let place = Place::new(&postgres);
    let mut target = place.open(place.options(Stop::End)).expect("opened");
    story.base.write(&target).expect("written");
    std::fs::remove_file(place.partial().join("global/pg_control.tidemark")).expect("removed");
    for payload in &log {
        target.apply_log(payload).expect("applied");
    }
    let error = Box::new(target).finish().expect_err("refused");
    assert!(
        matches!(inner(&error), RestoreError::Incomplete { .. }),
        "{error}"
    );
    // Paths that leave the folder, and pages of files that nobody listed.
    let hostile = |path: &str| {
        kit::clear(&place);
        let target: PostgresTarget = place.open(place.options(Stop::End)).expect("opened");
        let mut files = story.base.files.clone();
        files[3].path = path.to_owned();
        target.expect_files(&files).expect_err("refused")
    };
    for path in [
        "../../etc/passwd",
        "/etc/passwd",
        "base/../../x",
        ".tidemark/x",
    ] {
        assert!(
            matches!(inner(&hostile(path)), RestoreError::Table { .. }),
            "{path}"
        );
    }
}

#[test]
fn segments_of_other_sizes_and_a_clean_stop_are_restored() {
    let Some(postgres) = one() else { return };
    for megabytes in [1, 64] {
        let options = Options {
            segment_megabytes: megabytes,
            ..Options::default()
        };
        let cluster = source(&postgres, options);
        cluster.sql(FILL);
        let base = Base::take(&cluster);
        cluster.sql(CHURN);
        let end = lsn(&cluster);
        // The shutdown checkpoint is the last record.
        cluster.stop(StopServer::Fast).expect("stopped");
        let from = base.segment().start(base.layout.start.lsn);
        let end = Lsn(end.aligned().0 + 120);
        let log = Stretch::of(&cluster, &base, 1, from, end);
        let story = Story { cluster, base, log };
        let (place, _) = story.restored(Stop::End);
        place.start();
        assert_eq!(place.cluster.query("SELECT count(*) FROM t"), "20000");
    }
}
