//! The sandbox with the shipped program: closed, keyless, gone afterwards; and every way in which it could
//! fail to be that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tidemark_engine::examine::{Questions, Statement, Status};
use tidemark_host::{HostFacts, SystemClock, SystemRng};
use tidemark_restore_tool::sandbox::{
    Cause, Job, Method, Options, Outcome, Production, SandboxError, Scratch, Wanted, refuse_here,
    run,
};
use tidemark_testkit::postgres::{Cluster, Options as ServerOptions, Postgres, Stop};
use tokio_util::sync::CancellationToken;

fn scratch() -> Scratch {
    let wanted = Wanted {
        bytes: 1 << 20,
        ..Wanted::default()
    };
    Scratch::make(&wanted, &SystemRng).unwrap()
}

fn options() -> Options {
    Options {
        program: Some(PathBuf::from(env!("CARGO_BIN_EXE_tidemark-restore"))),
        ..Options::default()
    }
}

fn questions(sql: &str) -> Questions {
    Questions {
        full: true,
        counts: true,
        statements: vec![Statement {
            id: "it".to_owned(),
            database: None,
            sql: sql.to_owned(),
        }],
        ..Questions::default()
    }
}

/// A database of ten rows in a scratch.
fn sqlite(scratch: &Scratch, sql: &str) -> Job {
    let connection = Connection::open(scratch.data()).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE t (a INTEGER PRIMARY KEY);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) INSERT INTO t SELECT i FROM n",
        )
        .unwrap();
    Job::new("sqlite", scratch.data(), questions(sql))
}

async fn ran(job: Job, scratch: &Scratch, options: &Options) -> Outcome {
    let stop = CancellationToken::new();
    Box::pin(run(job, scratch, options, &stop)).await.unwrap()
}

fn assert_closed(outcome: &Outcome) {
    let isolation = &outcome.isolation;
    assert_eq!(isolation.broken(), None, "{isolation:#?}");
    assert!(isolation.own_network && isolation.own_processes && isolation.no_new_privileges);
    assert!(isolation.user != 0 && isolation.egress.len() >= 3);
    for name in &isolation.environment {
        let known = [
            "HOME",
            "LC_ALL",
            "LD_LIBRARY_PATH",
            "OLDPWD",
            "PATH",
            "PWD",
            "SHLVL",
            "TMPDIR",
            "TZ",
            "_",
        ];
        // The program tells its own allocator how to behave.
        let own = known.contains(&name.as_str()) || name.starts_with("MALLOC_");
        assert!(own, "{name} went in");
    }
    assert_eq!(outcome.limits["core_bytes"], "0");
}

#[tokio::test]
async fn a_file_is_examined_without_a_way_out_and_its_scratch_is_gone_afterwards() {
    let scratch = scratch();
    let path = scratch.path().to_path_buf();
    let job = sqlite(&scratch, "SELECT sum(a) FROM t");
    let outcome = ran(job, &scratch, &options()).await;
    assert_closed(&outcome);
    assert_eq!(outcome.failure, None);
    let examined = outcome.examined.unwrap();
    assert_eq!(examined.counts["t"], 10);
    assert_eq!(examined.answers["it"], Ok("55".to_owned()));
    let names: Vec<&str> = outcome
        .phases
        .iter()
        .map(|phase| phase.name.as_str())
        .collect();
    assert_eq!(names, ["isolate", "checks"]);
    let destroyed = scratch.destroy(&SystemClock).unwrap();
    assert!(destroyed.verified_absent && !path.exists());
}

#[tokio::test]
async fn where_something_could_leave_nothing_is_started() {
    let scratch = scratch();
    let job = sqlite(&scratch, "SELECT 1");
    let mut options = options();
    options.method = Some(Method::None);
    let outcome = ran(job, &scratch, &options).await;
    let failure = outcome.failure.expect("noticed");
    assert_eq!(failure.cause, Cause::Egress);
    assert!(
        failure.what.contains("shares the host's"),
        "{}",
        failure.what
    );
    assert!(!failure.cause.is_infrastructure());
    assert!(outcome.examined.is_none() && outcome.replayed.is_none());
}

#[tokio::test]
async fn an_identity_is_hidden_from_the_database_even_where_everybody_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let identity = dir.path().join("identity");
    fs::write(&identity, "tidemark-identity-1").unwrap();
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
    let scratch = scratch();
    let mut job = sqlite(&scratch, "SELECT 1");
    job.forbidden = vec![identity.clone(), dir.path().join("none")];
    let outcome = ran(job, &scratch, &options()).await;
    assert_closed(&outcome);
    assert_eq!(
        fs::read_to_string(&identity).unwrap(),
        "tidemark-identity-1"
    );
    // Where nothing is hidden, that is noticed.
    let mut job = sqlite_again(&scratch);
    job.forbidden = vec![identity.clone()];
    let mut options = options();
    options.method = Some(Method::None);
    let outcome = ran(job, &scratch, &options).await;
    assert_eq!(outcome.isolation.secrets_in_reach, [identity]);
}

fn sqlite_again(scratch: &Scratch) -> Job {
    Job::new("sqlite", scratch.data(), questions("SELECT 1"))
}

#[tokio::test]
async fn what_is_no_database_is_the_backups_fault_and_what_is_missing_here_is_this_hosts() {
    let scratch = scratch();
    fs::write(scratch.data(), [7; 9000]).unwrap();
    let job = Job::new("sqlite", scratch.data(), questions("SELECT 1"));
    let failure = ran(job, &scratch, &options()).await.failure.expect("told");
    assert_eq!(failure.cause, Cause::Database, "{}", failure.what);
    let job = Job::new("oracle", scratch.data(), questions("SELECT 1"));
    let failure = ran(job, &scratch, &options()).await.failure.expect("told");
    assert_eq!(failure.cause, Cause::Setup, "{}", failure.what);
}

#[tokio::test]
async fn a_sandbox_ends_when_it_is_told_to() {
    let scratch = scratch();
    let sql =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let job = sqlite(&scratch, sql);
    let stop = CancellationToken::new();
    let (said, stopper) = (scratch.job().join("said"), stop.clone());
    let watcher = tokio::spawn(async move {
        while !said.exists() {
            tokio::task::yield_now().await;
        }
        stopper.cancel();
    });
    let options = options();
    let ended = Box::pin(run(job, &scratch, &options, &stop)).await;
    assert!(matches!(ended, Err(SandboxError::Interrupted)), "{ended:?}");
    watcher.await.unwrap();
    // Nobody is left who holds a file of it.
    scratch.destroy(&SystemClock).unwrap();
}

#[tokio::test]
async fn a_sandbox_whose_time_is_over_says_that_and_nothing_else() {
    let scratch = scratch();
    let sql =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let mut job = sqlite(&scratch, sql);
    job.limits.seconds = 1;
    let outcome = ran(job, &scratch, &options()).await;
    let failure = outcome.failure.expect("told");
    assert_eq!(failure.cause, Cause::Limit);
    assert!(
        failure.what.contains("longer than the 1 s"),
        "{}",
        failure.what
    );
    assert!(failure.cause.is_infrastructure() && outcome.examined.is_none());
    scratch.destroy(&SystemClock).unwrap();
}

/// A cluster's files in a scratch, as a restore would leave them.
fn copied(cluster: &Cluster, scratch: &Scratch) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(cluster.data_dir())
        .arg(scratch.data())
        .status()
        .unwrap();
    assert!(copied.success());
}

#[tokio::test]
async fn a_server_runs_where_its_own_source_can_not_be_reached() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &ServerOptions::default()).unwrap();
    cluster.sql("CREATE TABLE t AS SELECT 1 AS a");
    cluster.stop(Stop::Fast).unwrap();
    let scratch = scratch();
    copied(&cluster, &scratch);
    cluster.start_again().unwrap();
    let mut job = Job::new(
        "postgresql",
        scratch.data(),
        questions("SELECT count(*) FROM t"),
    );
    job.pg_bin = Some(postgres.bin().to_path_buf());
    // The folder of the source's socket, where it listens meanwhile.
    job.forbidden.push(cluster.socket_dir().to_path_buf());
    let outcome = ran(job, &scratch, &options()).await;
    assert_closed(&outcome);
    assert_eq!(outcome.failure, None);
    let examined = outcome.examined.unwrap();
    let settings = examined
        .findings
        .iter()
        .find(|finding| finding.id == "postgres.settings");
    assert_eq!(settings.unwrap().status, Status::Passed);
    assert_eq!(examined.counts["postgres.public.t"], 1);
    assert_eq!(examined.answers["it"], Ok("1".to_owned()));
    assert!(cluster.runs());
    scratch.destroy(&SystemClock).unwrap();
}

#[tokio::test]
async fn beside_a_server_that_answers_as_production_there_is_no_drill() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = Cluster::start(&postgres, &ServerOptions::default()).unwrap();
    let system = cluster.query("SELECT system_identifier FROM pg_control_system()");
    let production = Production {
        host_ids: vec!["another".to_owned()],
        system: Some(system.parse().unwrap()),
        ..Production::default()
    };
    let here = HostFacts::gather();
    let refused = refuse_here(&production, &here, false).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("production server itself answers here"),
        "{text}"
    );
    let allowed = refuse_here(&production, &here, true).await.unwrap();
    assert!(!allowed.segregated);
    cluster.stop(Stop::Fast).unwrap();
    refuse_here(&production, &here, false).await.unwrap();
}

#[test]
fn the_command_inside_is_not_shown_to_people() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_tidemark-restore"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("sandbox-run"));
    assert!(Path::new(env!("CARGO_BIN_EXE_tidemark-restore")).is_file());
}
