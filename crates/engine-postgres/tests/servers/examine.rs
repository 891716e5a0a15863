//! Restored clusters examined as a drill does it: what is sound passes, every defect is found and named, and
//! nothing of the source's own settings ever takes effect.

use std::path::Path;

use tidemark_engine::examine::{Examined, Finding, Questions, Statement, Status};
use tidemark_engine_postgres::examine::{ExamineError, ReplayGoal, Sandbox};
use tidemark_engine_postgres::restore::{RestoreError, RunAs, Stop};
use tidemark_host::SystemClock;
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres, Stop as StopServer};

use crate::restore::kit::{Base, Place, Stretch, flushed, source};

const SHOP: &str = "CREATE TABLE customer (id int PRIMARY KEY, mail text UNIQUE, note text);
    INSERT INTO customer SELECT n, 'someone-' || n || '@example.org', repeat('x', 200) FROM generate_series(1, 2000) n;
    CREATE VIEW mails AS SELECT mail FROM customer; CREATE TYPE mood AS ENUM ('fine', 'not');
    CREATE INDEX by_note ON customer (note); CHECKPOINT;";

fn full() -> Questions {
    Questions {
        full: true,
        counts: true,
        ..Questions::default()
    }
}

fn sandbox(postgres: &Postgres, data: &Path) -> Sandbox {
    let mut sandbox = Sandbox::new(data.to_path_buf(), SystemClock::shared());
    sandbox.pg_bin = Some(postgres.bin().to_path_buf());
    sandbox.owner = Owner::get().ids().map(|(uid, gid)| RunAs { uid, gid });
    sandbox
}

/// A cluster as it lies on the disk after `sql` and a clean stop.
fn stopped(postgres: &Postgres, options: &Options, sql: &str) -> Cluster {
    let cluster = Cluster::start(postgres, options).expect("a cluster");
    cluster.sql(sql);
    cluster.stop(StopServer::Fast).expect("it stops");
    cluster
}

fn look(cluster: &Cluster, questions: &Questions) -> Examined {
    let sandbox = sandbox(cluster.postgres(), &cluster.data_dir());
    sandbox.examine(questions, None).expect("it can be asked")
}

fn finding<'a>(examined: &'a Examined, id: &str) -> &'a Finding {
    let found = examined.findings.iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {:#?}", examined.findings))
}

fn why(finding: &Finding) -> &str {
    finding.why.as_deref().unwrap_or_default()
}

fn everything_is_asked(major: u16) {
    let Some(postgres) = Postgres::of(major) else {
        return;
    };
    let sql = format!("{SHOP} CREATE UNLOGGED TABLE cache (n int);");
    let cluster = stopped(&postgres, &Options::default(), &sql);
    let examined = look(&cluster, &full());
    for finding in &examined.findings {
        let well = matches!(finding.status, Status::Passed | Status::Recorded);
        assert!(well, "PostgreSQL {major}: {finding:#?}");
    }
    for id in [
        "postgres.checksums",
        "postgres.heap",
        "postgres.indexes",
        "postgres.settings",
    ] {
        assert_eq!(
            finding(&examined, id).status,
            Status::Passed,
            "PostgreSQL {major}: {id}"
        );
    }
    assert_eq!(examined.counts["postgres.public.customer"], 2000);
    let emptied = finding(&examined, "postgres.unlogged").actual.as_deref();
    assert_eq!(emptied, Some("1: postgres.public.cache"));
    assert_eq!(examined.settings["archive_mode"], "off");
    assert_eq!(examined.settings["default_transaction_read_only"], "on");
    assert!(
        examined
            .server
            .as_ref()
            .expect("named")
            .starts_with(&format!("PostgreSQL {major}"))
    );
    assert!(examined.fixes.is_empty() && examined.size_bytes > 1_000_000);
    assert_eq!(examined.schema_digest.as_ref().map(String::len), Some(64));
    let text = serde_json::to_string(&examined).expect("JSON");
    assert!(!text.contains("example.org"), "a row has left: {text}");
}

#[test]
fn a_sound_cluster_of_14_passes_every_check() {
    everything_is_asked(14);
}

#[test]
fn a_sound_cluster_of_16_passes_every_check() {
    everything_is_asked(16);
}

#[test]
fn a_sound_cluster_of_17_passes_every_check() {
    everything_is_asked(17);
}

#[test]
fn a_sound_cluster_of_18_passes_every_check() {
    everything_is_asked(18);
}

/// A restore that leaves recovery to others, and what it says where that must end.
fn materialised(cluster: &Cluster) -> (Place, ReplayGoal) {
    let base = Base::take(cluster);
    cluster
        .sql("INSERT INTO customer SELECT n, 'late-' || n, '' FROM generate_series(3001, 3100) n");
    let end = flushed(cluster);
    let from = base.segment().start(base.layout.start.lsn);
    let log = Stretch::of(cluster, &base, 1, from, end);
    let place = Place::new(cluster.postgres());
    let mut options = place.options(Stop::End);
    options.finish = false;
    let proof = place
        .restore(&base, &log.payloads(1_000_003), options)
        .expect("materialised");
    let goal = ReplayGoal::of(&proof.facts).expect("it says where replay ends");
    (place, goal)
}

#[test]
fn replay_in_the_sandbox_ends_where_the_restore_promised() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = source(&postgres, Options::default());
    cluster.sql(SHOP);
    cluster.sql("ALTER SYSTEM SET primary_conninfo = 'host=prod password=secret'");
    let (place, goal) = materialised(&cluster);
    let sandbox = sandbox(&postgres, &place.partial());
    let replayed = sandbox.replay(&goal).expect("replayed");
    assert_eq!(
        (replayed.end.as_str(), replayed.new_timeline),
        (goal.end.as_str(), 2)
    );
    assert_eq!(replayed.last_commit, goal.last_commit);
    let examined = sandbox.examine(&full(), Some(&goal)).expect("asked");
    assert_eq!(finding(&examined, "postgres.replay").status, Status::Passed);
    assert_eq!(
        finding(&examined, "postgres.checksums").status,
        Status::Passed
    );
    assert_eq!(examined.counts["postgres.public.customer"], 2100);
    assert_eq!(examined.last_commit, goal.last_commit);
    // What the restore itself wrote into the settings is none of the source's.
    assert_eq!(
        examined
            .left_over
            .keys()
            .filter(|key| key.contains("auto.conf"))
            .collect::<Vec<_>>(),
        ["postgresql.auto.conf: primary_conninfo"]
    );
}

#[test]
fn replay_that_ends_elsewhere_is_told_from_a_host_without_the_programs() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = source(&postgres, Options::default());
    cluster.sql(SHOP);
    let (place, goal) = materialised(&cluster);
    let mut elsewhere = sandbox(&postgres, &place.partial());
    elsewhere.pg_bin = Some("/nowhere".into());
    let error = elsewhere.replay(&goal).expect_err("no programs");
    assert!(error.is_infrastructure(), "{error:?}");
    let mut other = goal.clone();
    other.system += 1;
    let sandbox = sandbox(&postgres, &place.partial());
    let error = sandbox.replay(&other).expect_err("another cluster's");
    assert!(!error.is_infrastructure(), "{error:?}");
    let mut further = goal;
    further.end = "0/FF000000".to_owned();
    let error = sandbox.replay(&further).expect_err("it ends before");
    assert!(
        matches!(
            &error,
            ExamineError::Replay(RestoreError::EndDiffers { .. })
        ),
        "{error:?}"
    );
}

#[test]
fn a_flipped_byte_is_found_by_the_checksum_of_its_page() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    cluster.sql(SHOP);
    let path = cluster.query("SELECT pg_relation_filepath('customer')");
    cluster.stop(StopServer::Fast).expect("it stops");
    let file = cluster.data_dir().join(&path);
    let mut bytes = std::fs::read(&file).expect("readable");
    bytes[3 * 8192 + 5000] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let examined = look(&cluster, &full());
    let checksums = finding(&examined, "postgres.checksums");
    assert_eq!(checksums.status, Status::Failed);
    assert!(
        why(checksums).contains(&format!("{path} page 3")),
        "{checksums:?}"
    );
    // The server meets it, too.
    let readable = finding(&examined, "postgres.readable");
    assert_eq!(readable.status, Status::Failed);
    assert!(why(readable).contains("public.customer"), "{readable:?}");
}

#[test]
fn an_index_that_lacks_an_entry_is_found() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // Behind the index's back: it is hidden while a row comes, and knows nothing of it.
    let sql = format!(
        "{SHOP} UPDATE pg_index SET indisready = false, indisvalid = false WHERE indexrelid = 'customer_mail_key'::regclass;
         INSERT INTO customer VALUES (5000, 'hidden', '');
         UPDATE pg_index SET indisready = true, indisvalid = true WHERE indexrelid = 'customer_mail_key'::regclass;"
    );
    let cluster = stopped(&postgres, &Options::default(), &sql);
    let examined = look(&cluster, &full());
    let indexes = finding(&examined, "postgres.indexes");
    assert_eq!(indexes.status, Status::Failed, "{indexes:?}");
    assert!(why(indexes).contains("customer_mail_key"), "{indexes:?}");
    assert!(!why(indexes).contains("hidden"), "{indexes:?}");
}

#[test]
fn a_part_that_is_gone_is_damage_and_a_library_that_is_not_here_is_none() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN the file of an index that is not there
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    cluster.sql(SHOP);
    let path = cluster.query("SELECT pg_relation_filepath('by_note')");
    cluster.stop(StopServer::Fast).expect("it stops");
    std::fs::remove_file(cluster.data_dir().join(path)).expect("it was there");
    let examined = look(&cluster, &full());
    let indexes = finding(&examined, "postgres.indexes");
    assert_eq!(indexes.status, Status::Failed, "{indexes:?}");
    assert!(why(indexes).contains("by_note"), "{indexes:?}");
    // GIVEN an index, and a table, of a library that only the source's host has
    let sql = format!(
        "{SHOP} CREATE FUNCTION theirs(text) RETURNS text IMMUTABLE STRICT LANGUAGE internal AS 'upper';
         CREATE INDEX by_theirs ON customer (theirs(mail));
         UPDATE pg_proc SET probin = '$libdir/not_on_this_host', prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
         WHERE proname = 'theirs';"
    );
    let cluster = stopped(&postgres, &Options::default(), &sql);
    let examined = look(&cluster, &full());
    let indexes = finding(&examined, "postgres.indexes");
    assert_eq!(indexes.status, Status::Warned, "{indexes:?}");
    assert!(why(indexes).contains("not_on_this_host"), "{indexes:?}");
    assert_eq!(examined.counts["postgres.public.customer"], 2000);
}

#[test]
fn a_database_that_nobody_may_connect_to_is_looked_into_all_the_same() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    let sql = "CREATE DATABASE closed TEMPLATE postgres; UPDATE pg_database SET datallowconn = false WHERE datname = 'closed'";
    let cluster = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    cluster.sql(SHOP);
    for statement in sql.split("; ") {
        cluster.sql(statement);
    }
    cluster.stop(StopServer::Fast).expect("it stops");
    let examined = look(&cluster, &full());
    assert_eq!(examined.counts["closed.public.customer"], 2000);
    let databases = finding(&examined, "postgres.databases");
    assert_eq!(databases.status, Status::Passed);
    assert!(why(databases).contains("closed"), "{databases:?}");
    assert!(
        !examined
            .counts
            .keys()
            .any(|name| name.starts_with("template0"))
    );
}

#[test]
fn a_server_that_is_asked_ends_when_it_is_told_to() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = stopped(&postgres, &Options::default(), SHOP);
    let sandbox = sandbox(&postgres, &cluster.data_dir());
    let questions = Questions {
        statements: vec![Statement {
            id: "endless".to_owned(),
            database: None,
            sql: "SELECT pg_sleep(600)::text".to_owned(),
        }],
        ..Questions::default()
    };
    let cancel = std::sync::Arc::clone(&sandbox.cancel);
    let socket = cluster.data_dir().join("postmaster.pid");
    let stopper = std::thread::spawn(move || {
        crate::restore::kit::eventually("the server is ready", || {
            std::fs::read_to_string(&socket).is_ok_and(|text| text.contains("ready"))
        });
        cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let error = sandbox.examine(&questions, None).expect_err("told to end");
    assert!(
        matches!(
            error,
            ExamineError::Interrupted | ExamineError::Start(RestoreError::Interrupted)
        ),
        "{error:?}"
    );
    assert!(error.is_infrastructure());
    stopper.join().expect("it ends");
}

#[test]
fn settings_left_over_are_told_and_none_takes_effect() {
    let Some(postgres) = Postgres::of(17) else {
        return;
    };
    let options = Options::default()
        .with("archive_mode", "on")
        .with("archive_command", "/bin/true of-the-source")
        .with("listen_addresses", "");
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    cluster.sql(SHOP);
    cluster.sql(
        "ALTER SYSTEM SET primary_conninfo = 'host=prod.example password=secret';
         ALTER SYSTEM SET session_preload_libraries = 'nothing_of_ours';
         ALTER DATABASE postgres SET default_transaction_read_only = off;
         ALTER DATABASE postgres SET session_preload_libraries = 'nothing_of_ours_either';
         CREATE ROLE app LOGIN; ALTER ROLE app SET work_mem = '9MB';
         CREATE SUBSCRIPTION s CONNECTION 'host=prod.example' PUBLICATION p WITH (connect = false);
         UPDATE pg_subscription SET subenabled = true;",
    );
    cluster.stop(StopServer::Fast).expect("it stops");
    let examined = look(&cluster, &Questions::default());
    assert_eq!(
        finding(&examined, "postgres.settings").status,
        Status::Passed
    );
    let left = finding(&examined, "postgres.left_over");
    assert_eq!(left.status, Status::Warned);
    assert!(
        why(left).contains("primary_conninfo") && why(left).contains("subscription: s"),
        "{left:?}"
    );
    for name in [
        "postgresql.conf: archive_command",
        "postgresql.auto.conf: primary_conninfo",
        "database postgres, role *: default_transaction_read_only",
        "database *, role app: work_mem",
        "subscription: s",
    ] {
        assert!(
            examined.left_over.contains_key(name),
            "{name} in {:?}",
            examined.left_over
        );
    }
    let text = serde_json::to_string(&examined).expect("JSON");
    assert!(!text.contains("prod.example"), "{text}");
    assert!(!text.contains("of-the-source"), "{text}");
}

/// What is refused, or ended: a name, the statement, and what is said of it.
const REFUSED: &[(&str, &str, &str)] = &[
    ("two", "SELECT 1, 2", "one column"),
    ("many", "SELECT id FROM customer", "more than one row"),
    ("none", "SELECT id FROM customer WHERE false", "no row"),
    ("write", "DELETE FROM customer RETURNING 1", ""),
    (
        "modify",
        "WITH gone AS (DELETE FROM customer RETURNING 1) SELECT count(*) FROM gone",
        "",
    ),
    (
        "more",
        "SELECT 1); DROP TABLE customer; SELECT (1",
        "syntax",
    ),
    ("two_statements", "SELECT 1; SELECT 2", "syntax"),
    ("empty", "", "syntax"),
    ("load", "LOAD 'dblink'", "syntax"),
    (
        "slow",
        "SELECT count(*) FROM customer a, customer b, customer c, customer d",
        "longer than it may",
    ),
    ("leak", "SELECT mail::int FROM customer LIMIT 1", "22P02"),
    (
        "file",
        "SELECT pg_read_file('/etc/hostname')",
        "permission denied",
    ),
    (
        "folder",
        "SELECT count(*) FROM pg_ls_dir('.')",
        "permission denied",
    ),
    ("object", "SELECT lo_import('/etc/hostname')", ""),
    ("program", "COPY (SELECT 1) TO PROGRAM 'id'", "syntax"),
    ("reload", "SELECT pg_reload_conf()", "permission denied"),
    (
        "writable",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "read-write mode",
    ),
    ("role", "SELECT set_config('role', 'postgres', false)", ""),
];

#[test]
fn statements_answer_one_value_and_can_change_nothing() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let sql = format!("{SHOP} CREATE DATABASE other; REVOKE ALL ON customer FROM PUBLIC;");
    let cluster = stopped(&postgres, &Options::default(), &sql);
    let mut questions = Questions {
        // What is quick takes less on any machine.
        statement_seconds: Some(5),
        ..Questions::default()
    };
    let statement = |id: &str, sql: &str| Statement {
        id: id.to_owned(),
        database: None,
        sql: sql.to_owned(),
    };
    questions.statements = vec![
        statement("rows", "SELECT count(*) FROM customer;"),
        statement("text", "SELECT mail FROM customer WHERE id = 7 -- one"),
        statement("null", "SELECT NULL::int"),
        Statement {
            database: Some("other".to_owned()),
            ..statement("elsewhere", "SELECT current_database() = 'other'")
        },
    ];
    let refused = REFUSED.iter();
    questions
        .statements
        .extend(refused.map(|(id, sql, _)| statement(id, sql)));
    let answers = look(&cluster, &questions).answers;
    assert_eq!(answers["rows"], Ok("2000".to_owned()));
    assert_eq!(answers["null"], Ok("null".to_owned()));
    assert_eq!(answers["elsewhere"], Ok("true".to_owned()));
    let text = answers["text"].as_ref().expect("answered");
    assert!(text.starts_with("blake3:"), "{text}");
    for (id, _, word) in REFUSED {
        let said = answers[*id].as_ref().expect_err(id);
        assert!(said.contains(word), "{id}: {said}");
        assert!(!said.contains("example.org"), "{id}: {said}");
    }
    // Still there, for whoever counts.
    let counts = look(&cluster, &full()).counts;
    assert_eq!(counts["postgres.public.customer"], 2000);
}

#[test]
fn what_is_unusual_about_a_cluster_is_told() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    // GIVEN an owner by another name, a prepared transaction, a collation of another version
    let options = Options::default().with("max_prepared_transactions", "3");
    let cluster = Cluster::start(&postgres, &options).expect("a cluster");
    cluster.sql(SHOP);
    cluster.sql(
        "CREATE COLLATION ours (provider = icu, locale = 'de'); CREATE INDEX ON customer (mail COLLATE ours);
         UPDATE pg_collation SET collversion = '1.0' WHERE collname = 'ours';
         CREATE ROLE helper SUPERUSER LOGIN;
         BEGIN; DELETE FROM customer WHERE id = 1; PREPARE TRANSACTION 'order of anna';",
    );
    let renamed = cluster
        .command("psql")
        .env("PGUSER", "helper")
        .args([
            "--no-psqlrc",
            "--command=ALTER ROLE postgres RENAME TO \"the boss\"",
        ])
        .output()
        .expect("it runs");
    assert!(
        renamed.status.success(),
        "{}",
        String::from_utf8_lossy(&renamed.stderr)
    );
    cluster.stop(StopServer::Fast).expect("it stops");
    // WHEN it is examined
    let examined = look(&cluster, &full());
    // THEN each of it is told, and what needs a fix is one
    assert_eq!(examined.prepared.len(), 1);
    assert!(!format!("{examined:?}").contains("anna"));
    assert_eq!(examined.fixes.len(), 1, "{examined:#?}");
    assert!(
        examined.fixes[0].contains("had version 1.0"),
        "{:?}",
        examined.fixes
    );
    assert_eq!(
        finding(&examined, "postgres.collations").status,
        Status::Warned
    );
    assert!(examined.collations.contains_key("postgres.public.ours"));
    assert_eq!(examined.counts["postgres.public.customer"], 2000);
}

#[test]
fn equal_schemas_have_equal_digests_whatever_is_in_them() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let digest = |more: &str| {
        let sql = format!("{SHOP} {more}");
        let cluster = stopped(&postgres, &Options::default(), &sql);
        look(&cluster, &Questions::default())
            .schema_digest
            .expect("a digest")
    };
    let plain = digest("");
    assert_eq!(plain, digest("DELETE FROM customer WHERE id < 100"));
    assert_ne!(
        plain,
        digest("ALTER TABLE customer ALTER COLUMN note SET DEFAULT 'x'")
    );
}
