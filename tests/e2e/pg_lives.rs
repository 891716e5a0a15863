//! A server that becomes another one under the same name: rewound onto its successor, upgraded to
//! another major. Each is noticed within a minute, and both lives can be restored.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tidemark_testkit::postgres::{Cluster, Options, Owner, Postgres, Stop};
use tidemark_tests::eventually;

use crate::pg_restore::{newest, rows, start};
use crate::pg_site::{PgSite, ROLE, load, wait_caught_up};
use crate::process::{Ran, now};

/// A minute is promised, of which it needs some seconds; a slow and shared machine has three.
const NOTICED_WITHIN: Duration = Duration::from_secs(180);

/// The windows that can be restored, a life each.
fn lives(site: &PgSite) -> Vec<Value> {
    let listed = site.site.tool(&["list", "--json"]).ok().json();
    listed["sources"][0]["windows"]
        .as_array()
        .expect("windows")
        .clone()
}

/// A place that stands for whichever server is there: a link to the folder of its socket.
fn place(site: &PgSite) -> PathBuf {
    site.site.path("server")
}

fn becomes(site: &PgSite, cluster: &Cluster) {
    drop(std::fs::remove_file(place(site)));
    std::os::unix::fs::symlink(cluster.socket_dir(), place(site)).unwrap();
}

/// A site whose agent reaches its server by [`place`].
fn site_at_a_place(postgres: &Postgres) -> PgSite {
    let site = PgSite::plan(postgres, &Options::default());
    becomes(&site, &site.cluster);
    let conninfo = format!(
        "host={} user={ROLE} dbname=postgres",
        place(&site).display()
    );
    site.init(&conninfo).ok();
    site.site.shorten();
    site
}

/// Protected in time, in a life that was not there before.
#[track_caller]
fn assert_new_life(site: &PgSite, lived: usize) {
    let changed = now();
    eventually("another life can be restored", NOTICED_WITHIN, || {
        (lives(site).len() > lived).then_some(())
    });
    site.wait_protected_to(changed);
}

/// Restores with the programs of `postgres`, to a cluster that is started and looked at.
#[track_caller]
fn restored(site: &PgSite, postgres: &Postgres, to: &str) -> Cluster {
    let cluster = Cluster::empty(postgres).expect("a folder");
    let target = cluster.data_dir().display().to_string();
    let bin = postgres.bin().display().to_string();
    let words = ["restore", "--target", &target, "--pg-bin", &bin, "--json"];
    let report = site.site.tool(&[&words[..], &["--to", to]].concat());
    assert_eq!(report.ok().json()["proof"], "replayed");
    start(&cluster);
    cluster
}

fn settings(cluster: &Cluster) {
    let path = cluster.data_dir().join("postgresql.conf");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(&format!(
        "\nlisten_addresses = ''\nunix_socket_directories = '{}'\n",
        cluster.socket_dir().display()
    ));
    std::fs::write(path, text).unwrap();
}

#[track_caller]
fn runs(command: &mut std::process::Command) {
    let ran = Ran::of(command.stdin(Stdio::null()));
    assert_eq!(ran.code, 0, "{ran}");
}

#[test]
fn primary_that_was_rewound_onto_its_successor_begins_a_new_life_and_both_come_back() {
    let Some(postgres) = newest() else { return };
    // GIVEN a primary that wrote on, captured, after its standby was promoted
    let options = Options::default().with("wal_keep_size", "1GB");
    let site = PgSite::new(&postgres, &options);
    let standby = site.cluster.standby("standby").unwrap();
    let daemon = site.start_protected();
    site.load(0..100);
    wait_caught_up(&site.cluster, &standby);
    standby.promote().unwrap();
    load(&standby, 100..150);
    site.load(500..600);
    let diverged = now();
    site.load(600..610);
    site.wait_protected();
    let lived = lives(&site).len();
    // WHEN it is rewound onto the other, follows it, and takes over again
    site.cluster.stop(Stop::Fast).unwrap();
    let source = format!(
        "host={} port={} user=postgres dbname=postgres",
        standby.socket_dir().display(),
        standby.port()
    );
    runs(
        site.cluster
            .command("pg_rewind")
            .args(["--write-recovery-conf", "--target-pgdata"])
            .arg(site.cluster.data_dir())
            .arg(format!("--source-server={source}")),
    );
    settings(&site.cluster);
    // Its settings are the other's now, with the slot that the other streamed from.
    standby.sql("SELECT pg_create_physical_replication_slot('standby')");
    site.cluster.start_again().unwrap();
    load(&standby, 150..160);
    wait_caught_up(&standby, &site.cluster);
    standby.stop(Stop::Fast).unwrap();
    site.cluster.promote().unwrap();
    site.load(160..200);
    // THEN that is another life
    assert_new_life(&site, lived);
    site.load(200..210);
    site.wait_protected();
    daemon.terminate();
    let new = restored(&site, &postgres, "latest");
    assert_eq!(rows(&new), "210|209");
    // AND the one before still has what the rewind threw away
    let old = restored(&site, &postgres, &diverged.to_string());
    assert_eq!(rows(&old), "200|599");
}

#[test]
fn server_that_was_upgraded_to_another_major_begins_a_new_life_and_both_come_back() {
    let (Some(old), Some(new)) = (Postgres::of(17), newest()) else {
        return;
    };
    // GIVEN a captured server of 17
    let site = site_at_a_place(&old);
    let daemon = site.start_protected();
    site.load(0..90);
    let before = now();
    site.load(90..100);
    site.wait_protected();
    let lived = lives(&site).len();
    // WHEN it is upgraded to 18 under the same name
    site.cluster.stop(Stop::Fast).unwrap();
    let upgraded = Cluster::empty(&new).unwrap();
    runs(
        new.command("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--data-checksums", "--pgdata"])
            .arg(upgraded.data_dir()),
    );
    let work = upgraded.socket_dir().join("upgrade");
    std::fs::create_dir(&work).unwrap();
    Owner::get().own(&work).unwrap();
    runs(
        new.command("pg_upgrade")
            .current_dir(&work)
            .args(["--username=postgres", "--no-sync", "--copy"])
            .arg("--old-bindir")
            .arg(old.bin())
            .arg("--new-bindir")
            .arg(new.bin())
            .arg("--old-datadir")
            .arg(site.cluster.data_dir())
            .arg("--new-datadir")
            .arg(upgraded.data_dir())
            .arg("--socketdir")
            .arg(&work),
    );
    settings(&upgraded);
    becomes(&site, &upgraded);
    upgraded.start_again().unwrap();
    load(&upgraded, 100..200);
    // THEN that is another life
    assert_new_life(&site, lived);
    load(&upgraded, 200..210);
    site.wait_protected();
    daemon.terminate();
    assert_eq!(rows(&restored(&site, &new, "latest")), "210|209");
    // AND the one before is restored by its own version, and refused to another
    assert_eq!(rows(&restored(&site, &old, &before.to_string())), "90|89");
    let cluster = Cluster::empty(&new).unwrap();
    let target = cluster.data_dir().display().to_string();
    let bin = new.bin().display().to_string();
    let words = ["restore", "--target", &target, "--pg-bin", &bin];
    let refused = site
        .site
        .tool(&[&words[..], &["--to", &before.to_string()]].concat());
    assert!(refused.code != 0, "{refused}");
    refused.says(&["17"]);
    assert!(!cluster.data_dir().exists());
}
