//! Any minute of thirty days on a server: what comes back is the state of that minute, by its canary.
//!
//! **Three clocks.** The server's goes 14,400 times as fast as time (libfaketime), so that a month of commits
//! takes three minutes; the commit times in its log are what a restore goes by. The agent's shows a time
//! before all of them and goes as fast as time: what it captured when says nothing of when that was committed.
//! The drills' is the machine's. The canary is the product's table, made by the agent; its rows of the month
//! are written inside the server, by the server's clock, because the agent's would be one every few hours.
//!
//! A canary is written now and then, and all the time around each instant that will be asked for. Where a busy
//! machine stood still for the minute that was drawn, so that the source itself has no canary of it, the minute
//! after the next canary is taken.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tidemark_testkit::FakeTime;
use tidemark_testkit::postgres::{Cluster, Options};
use tidemark_tests::eventually;

use crate::pg_restore::newest;
use crate::pg_site::{PgSite, ROLE};
use crate::process::{Ran, SOON, long, now, pass};

const SPEED: u32 = 14_400;
const DAYS: u32 = 30;
const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);
const MINUTES: u64 = 20;
const MINUTES_LONG: u64 = 200;
/// Days that the machine's clock is ahead when the month begins: it isn't over before.
const AGO: u32 = DAYS + 10;
/// Minutes around an instant that is asked for in which a canary is always being written.
const BEFORE: u32 = 10;
const AFTER: u32 = 10;
/// Passes with exceptions: the clocks that this test sets are one, and named.
const EXCEPTIONS: i32 = 3;
const CLOCK_STEPS: &str = "replay: the source's clock only went forward";

/// A month: a canary every twenty minutes, and one after the other around the instants, and for a moment
/// after the month's end: a machine that stood still at the end has canaries after it all the same. The
/// journal keeps them all.
const HISTORY: &str = "
CREATE TABLE journal (seq bigint PRIMARY KEY, at timestamptz NOT NULL);
CREATE TABLE fine (since timestamptz, until timestamptz);
CREATE PROCEDURE history(ends timestamptz) LANGUAGE plpgsql AS $$
DECLARE
  number bigint := (SELECT max(seq) FROM tidemark.canary);
  instant timestamptz;
  wait interval;
  after_the_end int := 0;
BEGIN
  LOOP
    instant := clock_timestamp();
    IF instant > ends THEN after_the_end := after_the_end + 1; END IF;
    EXIT WHEN after_the_end > 200;
    number := number + 1;
    INSERT INTO tidemark.canary (seq, at, nonce) VALUES
      (number, to_char(instant AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), md5(number::text));
    DELETE FROM tidemark.canary WHERE seq <= number - 8;
    INSERT INTO journal VALUES (number, instant);
    COMMIT;
    SELECT least(interval '20 minutes', min(since) - clock_timestamp()) INTO wait
      FROM fine WHERE until > clock_timestamp();
    IF wait > interval '0' AND after_the_end = 0 THEN PERFORM pg_sleep_for(wait); END IF;
  END LOOP;
END $$;";

/// A canary as the source has it.
#[derive(Debug)]
struct Beat {
    seq: u64,
    at: Timestamp,
    committed: Timestamp,
}

/// Instants of the month, any millisecond but for the first hours and the last.
fn draw(from: Timestamp, ends: Timestamp) -> Vec<Timestamp> {
    let count = if long() { MINUTES_LONG } else { MINUTES };
    let span = ends.duration_since(from).as_millis() - 6 * 3_600_000;
    let span = u64::try_from(span).expect("a month");
    let instants = (0..count).map(|number| {
        let hash = blake3::hash(format!("20261122 {number}").as_bytes());
        let dice = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"));
        from + Duration::from_millis(3 * 3_600_000 + dice % span)
    });
    instants.collect()
}

/// Lets the month pass on the server, with two more bases in it.
fn live(site: &PgSite, ends: Timestamp, targets: &[Timestamp]) -> Vec<Beat> {
    let cluster = &site.cluster;
    let fine: Vec<String> = targets
        .iter()
        .map(|target| {
            format!(
                "('{}', '{}')",
                *target - MINUTE * BEFORE,
                *target + MINUTE * AFTER
            )
        })
        .collect();
    cluster.sql(&format!("INSERT INTO fine VALUES {}", fine.join(", ")));
    std::thread::scope(|scope| {
        let history = scope.spawn(|| cluster.sql(&format!("CALL history('{ends}')")));
        let third = DAY * DAYS / SPEED / 3;
        for _ in 0..2 {
            pass(third);
            site.site.agent(&["snapshot", "--base"]).ok();
        }
        history.join().expect("a month went by");
    });
    site.site.agent(&["snapshot"]).ok();
    beats(cluster)
}

fn beats(cluster: &Cluster) -> Vec<Beat> {
    let rows = cluster.query(
        "SELECT seq, to_json(at)#>>'{}', to_json(pg_xact_commit_timestamp(xmin))#>>'{}' FROM journal ORDER BY seq",
    );
    let beats = rows.lines().map(|row| {
        let mut fields = row.split('|');
        let mut next = || fields.next().expect("a field");
        Beat {
            seq: next().parse().expect("a number"),
            at: next().parse().expect("an instant"),
            committed: next().parse().expect("an instant"),
        }
    });
    beats.collect()
}

/// The last canary that was committed by an instant, and the one after it.
fn around(beats: &[Beat], target: Timestamp) -> (&Beat, &Beat) {
    let after = beats.partition_point(|beat| beat.committed <= target);
    (&beats[after - 1], &beats[after])
}

/// The instant, if the source has a canary of the minute before it; else one as far into the minute after the
/// next canary that was written without delay.
fn with_canary(beats: &[Beat], drawn: Timestamp) -> Timestamp {
    let minute = SignedDuration::from_mins(1);
    if drawn.duration_since(around(beats, drawn).0.at) <= minute {
        return drawn;
    }
    let into = Duration::from_millis(drawn.as_millisecond().unsigned_abs() % 60_000);
    let mut later = beats.iter().filter(|beat| beat.at > drawn);
    let next = later.find(|beat| beat.committed.duration_since(beat.at) <= minute);
    let next = next.unwrap_or_else(|| panic!("no canary was written after {drawn}"));
    (next.at + into).max(next.committed)
}

fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks.iter().find(|check| check["id"] == id);
    found.unwrap_or_else(|| panic!("no check {id}: {report:#}"))
}

/// Drills an instant: the error in milliseconds.
fn prove(site: &PgSite, beats: &[Beat], target: Timestamp) -> u64 {
    let (wanted, next) = around(beats, target);
    let bin = site.cluster.postgres().bin().display().to_string();
    let at = target.to_string();
    let words = [
        "--pg-bin",
        &bin,
        "--quick",
        "--precision",
        "1m",
        "--select",
        &at,
    ];
    let ran: Ran = crate::drill::drill_from(&site.site, &[&site.site.regions[0]], &words);
    let report = ran.json();
    // The server's clock was set, as far as anybody can tell; nothing else is the matter.
    assert_eq!(ran.code, EXCEPTIONS, "{ran}");
    let exceptions = report["exceptions"].as_array().expect("exceptions");
    let clock = |exception: &Value| {
        exception
            .as_str()
            .is_some_and(|words| words.starts_with(CLOCK_STEPS))
    };
    assert!(exceptions.iter().all(clock), "{ran}");
    // By the canary, no more than a minute.
    assert_eq!(report["precision"]["basis"], "canary", "{ran}");
    assert_eq!(report["pitr_met"], true, "{ran}");
    let error = report["precision"]["error_ms"].as_u64().expect("an error");
    assert!(error <= 60_000, "{error} ms: {ran}");
    // It is the last that had been committed by then, and the next one had not.
    let found = check(&report, "canary.target")["actual"].to_string();
    let expected = format!("number {} of {}", wanted.seq, wanted.at);
    assert!(found.contains(&expected), "{expected}, not {found}: {ran}");
    assert_eq!(next.seq, wanted.seq + 1);
    assert!(next.committed > target);
    assert_eq!(
        check(&report, "canary.next_absent")["status"],
        "passed",
        "{ran}"
    );
    // The journal agrees: everything up to the canary came back, and nothing after it.
    let rows = wanted.seq + 1 - beats[0].seq;
    let counted = check(&report, "count.postgres.public.journal");
    assert_eq!(counted["actual"], rows.to_string(), "{ran}");
    error
}

#[test]
fn any_minute_of_thirty_days_comes_back_to_the_minute_by_the_canary() {
    let (Some(postgres), Some(faketime)) = (newest(), FakeTime::find()) else {
        return;
    };
    // GIVEN a server whose month takes three minutes, with everything that it does by the clock put off
    let start = now() - DAY * AGO;
    let mut options = Options::default()
        .with("wal_sender_timeout", "0")
        .with("checkpoint_timeout", "1d")
        .with("bgwriter_delay", "10s")
        .with("wal_writer_delay", "10s")
        .with("autovacuum", "off")
        .with("track_commit_timestamp", "on");
    options.environment = faketime.environment(start, SPEED);
    let mut site = PgSite::plan(&postgres, &options);
    // What initdb committed, by the machine's clock, is out of sight.
    site.cluster.sql("SELECT pg_switch_wal(); CHECKPOINT;");
    site.cluster
        .sql(&format!("GRANT CREATE ON DATABASE postgres TO {ROLE}"));
    // AND an agent whose clock is behind all of that
    for (name, value) in faketime.environment(start - Duration::from_secs(3_600), 1) {
        site.site.environment(&name, value);
    }
    site.init(&site.conninfo()).ok();
    site.site.shorten();
    site.site.set("canary", "\"table\"");
    site.site.set("canary_every", "\"1d\"");
    let daemon = site.site.start();
    site.site.clear_environment();
    site.site.agent(&["snapshot"]).ok();
    eventually("the agent has made its canary", SOON, || {
        let asked = site
            .cluster
            .try_sql("SELECT count(*) FROM tidemark.canary")
            .ok()?;
        (asked == "1").then_some(())
    });
    // WHEN the month goes by
    site.cluster.sql(HISTORY);
    let from: Timestamp = site
        .cluster
        .query("SELECT to_json(clock_timestamp())#>>'{}'")
        .parse()
        .expect("an instant");
    let ends = from + DAY * DAYS;
    let drawn = draw(from, ends);
    let beats = live(&site, ends, &drawn);
    daemon.terminate();
    // THEN any minute of it comes back
    let timed = crate::process::Timed::start();
    let mut moved = 0;
    let mut worst = 0;
    for drawn in &drawn {
        let target = with_canary(&beats, *drawn);
        moved += u32::from(target != *drawn);
        worst = worst.max(prove(&site, &beats, target));
    }
    eprintln!(
        "{} minutes of {DAYS} days, {} canaries: worst error {worst} ms; {moved} drawn anew; {:.1} s of drills",
        drawn.len(),
        beats.len(),
        timed.so_far().as_secs_f64()
    );
}
