//! A lost server comes back: to the newest state, and to places that a person names, with the server's
//! own checkers content; across a promotion; and with something missing in the middle.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidemark_testkit::postgres::{Cluster, MAJORS, Options, Owner, Postgres, Stop};
use tidemark_tests::eventually;

use crate::objects::copy_folder;
use crate::pg_site::{PgSite, load};
use crate::process::{Ran, SOON};

/// The newest server; the engine's own suites run on all.
pub(crate) fn newest() -> Option<Postgres> {
    Postgres::of(MAJORS[MAJORS.len() - 1])
}

/// Restores into a new cluster's folder.
pub(crate) fn restore(site: &PgSite, words: &[&str]) -> (Ran, Cluster) {
    let cluster = Cluster::empty(site.cluster.postgres()).expect("a folder");
    let target = cluster.data_dir().display().to_string();
    let bin = site.cluster.postgres().bin().display().to_string();
    let own = ["restore", "--target", &target, "--pg-bin", &bin, "--json"];
    (site.site.tool(&[&own, words].concat()), cluster)
}

/// Starts what was restored beside what is left of the lost one, and lets the server's own tools look.
pub(crate) fn start(cluster: &Cluster) {
    let settings = format!(
        "\nunix_socket_directories = '{}'\nlisten_addresses = ''\n",
        cluster.socket_dir().display()
    );
    let path = cluster.data_dir().join("postgresql.conf");
    let file = std::fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(settings.as_bytes()))
        .expect("the settings are written");
    let checksums = cluster
        .command("pg_checksums")
        .arg("--check")
        .arg("--pgdata")
        .arg(cluster.data_dir())
        .output()
        .expect("pg_checksums runs");
    assert!(checksums.status.success(), "{checksums:?}");
    cluster.start_again().expect("the restored server starts");
    assert_eq!(cluster.query("SELECT pg_is_in_recovery()"), "f");
    cluster.sql("CREATE EXTENSION IF NOT EXISTS amcheck");
    let amcheck = cluster
        .command("pg_amcheck")
        .args(["--all", "--heapallindexed", "--no-dependent-indexes"])
        .output()
        .expect("pg_amcheck runs");
    assert!(amcheck.status.success(), "{amcheck:?}");
}

pub(crate) fn rows(cluster: &Cluster) -> String {
    cluster.query("SELECT count(*), coalesce(max(id), -1) FROM load")
}

/// The restore went well; its report.
fn restored(site: &PgSite, words: &[&str], expected: &str) -> Value {
    let (ran, cluster) = restore(site, words);
    let report = ran.ok().json();
    assert_eq!(report["proof"], "replayed", "{report}");
    start(&cluster);
    assert_eq!(rows(&cluster), expected, "{words:?}: {report}");
    report
}

#[test]
fn lost_server_comes_back_to_the_newest_state_and_to_every_place_a_person_names() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let query = |sql: &str| site.cluster.query(sql);
    let instant = || query("SELECT to_json(clock_timestamp())#>>'{}'");
    let unprotected = instant();
    site.load(0..100);
    let daemon = site.start_protected();
    site.load(100..200);
    query("SELECT pg_create_restore_point('before-upgrade')");
    // Whole instants that no commit stands at, a little apart.
    query("SELECT pg_sleep(0.2)");
    let second = instant();
    query("SELECT pg_sleep(0.2)");
    site.load(200..201);
    let xid = query("SELECT xmin FROM load WHERE id = 200");
    let lsn = query("SELECT pg_current_wal_flush_lsn()");
    site.load(201..300);
    let end = query("SELECT pg_current_wal_flush_lsn()");
    query("SELECT pg_sleep(2)");
    let idle = instant();
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    std::fs::remove_dir_all(site.cluster.data_dir()).unwrap();
    daemon.terminate();

    let latest = restored(&site, &["--to", "latest"], "300|299");
    assert_eq!(latest["commit_times"], "recorded");
    assert!(latest["start"].to_string().contains("pg_ctl"), "{latest}");
    assert!(
        latest["protect_again"][0]
            .to_string()
            .contains("--postgres"),
        "{latest}"
    );
    restored(&site, &["--to", &second], "200|199");
    restored(&site, &["--before", &format!("xid:{xid}")], "200|199");
    restored(&site, &["--to", &format!("xid:{xid}")], "201|200");
    restored(&site, &["--to", &lsn], "201|200");
    let point = restored(&site, &["--to", "point:before-upgrade"], "200|199");
    assert!(point["reached"]["lsn"].to_string().contains('/'), "{point}");

    // Seconds after the last commit of an idle server, and the very end of the log.
    restored(&site, &["--to", &idle], "300|299");
    restored(&site, &["--to", &end], "300|299");

    for refused in [
        "2099-01-01T00:00:00Z",
        &unprotected,
        "7/0",
        "xid:4000000",
        "point:unknown",
    ] {
        let (ran, cluster) = restore(&site, &["--to", refused]);
        ran.ends_with(14);
        assert!(!cluster.data_dir().exists(), "nothing is left of a refusal");
    }
    let verified = site.site.tool(&["verify", "--json"]).ok().json();
    assert_eq!(
        verified["damages"].as_array().map(Vec::len),
        Some(0),
        "{verified}"
    );
}

#[test]
fn subtransactions_points_of_one_name_and_prepared_transactions_are_found_and_told() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    // GIVEN a setting that is raised after the base
    site.cluster
        .sql("ALTER SYSTEM SET max_prepared_transactions = 5");
    site.cluster.stop(Stop::Fast).unwrap();
    site.cluster.start_again().unwrap();
    // AND a transaction with a savepoint
    site.cluster.sql(
        "BEGIN; INSERT INTO load VALUES (1); SAVEPOINT a; INSERT INTO load VALUES (2); RELEASE a; COMMIT;",
    );
    let whole = site.cluster.query("SELECT xmin FROM load WHERE id = 1");
    let inner = site.cluster.query("SELECT xmin FROM load WHERE id = 2");
    assert_ne!(whole, inner);
    // AND two points of one name, a moment apart
    site.cluster.sql(
        "SELECT pg_create_restore_point('twice'); INSERT INTO load VALUES (3); SELECT pg_create_restore_point('twice');
         INSERT INTO load VALUES (4);",
    );
    site.cluster
        .sql("BEGIN; INSERT INTO load VALUES (5); PREPARE TRANSACTION 'waits';");
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    restored(&site, &["--to", &format!("xid:{inner}")], "2|2");
    let point = restored(&site, &["--to", "point:twice"], "3|3");
    assert!(point["because"].to_string().contains("twice"), "{point}");
    // THEN who starts the newest state is told what it needs
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    let report = ran.ok().json();
    let needs = "max_prepared_transactions = 1 or more";
    assert!(report["start"].to_string().contains(needs), "{report}");
    let conf = cluster.data_dir().join("postgresql.conf");
    let conf = std::fs::OpenOptions::new().append(true).open(conf);
    conf.and_then(|mut file| file.write_all(b"\nmax_prepared_transactions = 1\n"))
        .unwrap();
    start(&cluster);
    assert_eq!(rows(&cluster), "4|4");
    cluster.sql("COMMIT PREPARED 'waits'");
    assert_eq!(rows(&cluster), "5|5");
}

#[test]
fn server_that_failed_over_comes_back_from_both_sides_of_the_promotion() {
    let Some(postgres) = newest() else { return };
    let (site, standby) = PgSite::pair(&postgres);
    let daemon = site.start_protected();
    site.load(0..100);
    site.wait_protected();
    let before = standby.query("SELECT to_json(clock_timestamp())#>>'{}'");
    site.fail_over(&standby);
    load(&standby, 100..200);
    site.wait_protected();
    standby.stop(Stop::Kill).unwrap();
    daemon.terminate();
    let latest = restored(&site, &["--to", "latest"], "200|199");
    assert_eq!(latest["reached"]["timeline"], 2, "{latest}");
    restored(&site, &["--to", &before], "100|99");
}

/// Something of the test's own that the servers' user may read.
pub(crate) fn handed_over(cluster: &Cluster, name: &str) -> PathBuf {
    let path = cluster.socket_dir().join(name);
    let all = Command::new("find").arg(&path).args(["-print0"]).output();
    for one in all.expect("find runs").stdout.split(|byte| *byte == 0) {
        if !one.is_empty() {
            Owner::get()
                .own(Path::new(OsStr::from_bytes(one)))
                .expect("handed over");
        }
    }
    path
}

#[test]
fn standby_gets_its_log_from_the_repository_alone() {
    let Some(postgres) = newest() else { return };
    // Small segments: several are asked for, and the last one is never full.
    let options = Options {
        segment_megabytes: 1,
        ..Options::default()
    };
    let site = PgSite::new(&postgres, &options);
    let daemon = site.start_protected();
    let standby = Cluster::empty(&postgres).unwrap();
    let mut copy = site.cluster.command("pg_basebackup");
    copy.args([
        "--checkpoint=fast",
        "--wal-method=none",
        "--no-sync",
        "--pgdata",
    ]);
    let copied = copy.arg(standby.data_dir()).output().unwrap();
    assert!(copied.status.success(), "{copied:?}");
    site.load(0..3000);
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    // The servers' user has a region, an identity and the program.
    let folder = standby.socket_dir();
    copy_folder(&site.site.region_folder(0), &folder.join("region"));
    std::fs::copy(&site.site.identity, folder.join("identity")).unwrap();
    std::fs::copy(
        tidemark_tests::program("tidemark-restore"),
        folder.join("restore"),
    )
    .unwrap();
    let [region, identity, program] =
        ["region", "identity", "restore"].map(|name| handed_over(&standby, name));
    let settings = format!(
        "\nunix_socket_directories = '{}'\nrestore_command = '{} wal-get %f %p --region dir:{} --identity {}'\n",
        folder.display(),
        program.display(),
        region.display(),
        identity.display(),
    );
    let conf = std::fs::OpenOptions::new()
        .append(true)
        .open(standby.data_dir().join("postgresql.conf"));
    conf.and_then(|mut file| file.write_all(settings.as_bytes()))
        .unwrap();
    std::fs::write(standby.data_dir().join("standby.signal"), b"").unwrap();
    handed_over(&standby, "data/standby.signal");
    standby.start_again().unwrap();
    eventually("the standby has every row", SOON * 2, || {
        (rows(&standby) == "3000|2999").then_some(())
    });
    standby.promote().unwrap();
    load(&standby, 3000..3001);
    assert_eq!(rows(&standby), "3001|3000", "{}", standby.log());
}

#[test]
fn what_is_missing_in_the_middle_is_told_with_the_latest_state_before_it() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    let newest = || {
        let list = site.site.tool(&["list", "--json"]).ok().json();
        let windows = list["sources"][0]["windows"]
            .as_array()
            .expect("windows")
            .clone();
        windows.last().expect("a window")["to"]["seq"]
            .as_u64()
            .expect("a number")
    };
    site.load(0..50);
    site.wait_protected();
    let good = newest();
    for round in 1..4_u32 {
        site.load(round * 50..round * 50 + 50);
        site.wait_protected();
    }
    daemon.terminate();
    let hole = good + 1;
    for region in 0..site.site.regions.len() {
        let log = site
            .site
            .region_folder(region)
            .join("meta/log/main/00000001");
        std::fs::remove_file(log.join(format!("{hole:016}"))).expect("the object is there");
    }
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    let ran = ran.ends_with(13);
    ran.says(&[&format!("log:1:{hole}"), &format!("--to log:1:{good}")]);
    assert!(!cluster.data_dir().exists());
    let (ran, cluster) = restore(&site, &["--to", &format!("log:1:{good}")]);
    ran.ends_with(0);
    start(&cluster);
    assert_eq!(rows(&cluster), "50|49");
}
