//! Bases of a PostgreSQL cluster under the shipped programs: one that is interrupted never looks
//! complete and is made anew; many files stay small in memory; segments of every size; the config's rate.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tidemark_host::SystemClock;
use tidemark_testkit::postgres::{Cluster, Options, Owner, Stop};
use tidemark_tests::eventually;

use crate::objects::keys;
use crate::pg_restore::{newest, restore, rows, start};
use crate::pg_site::{PgSite, ROLE, conninfo};
use crate::process::{Daemon, SOON, long, now};

/// A base of a new cluster (30 MB and more) takes at least half a minute.
const SLOW: &str = "\"1MiB\"";
const ANY_RATE: &str = "\"\"";
const KIB_PER_MIB: u64 = 1024;
/// Both programs, whatever the cluster is like.
const MEMORY_MAX_KIB: u64 = 128 * KIB_PER_MIB;
/// More than any program may hold.
const BALLAST: u64 = 192 << 20;

/// Lets the agent read the data directory, which it may where tests run as root.
fn read_locally(cluster: &Cluster) {
    cluster.sql(&format!(
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO {ROLE}"
    ));
}

/// The base that is being made.
fn base(site: &PgSite) -> Option<Value> {
    let base = site.live()["base"].clone();
    (!base.is_null()).then_some(base)
}

fn write_and_checkpoint(site: &PgSite) {
    site.cluster
        .sql("UPDATE load SET at = clock_timestamp() WHERE id = 0; CHECKPOINT");
}

/// Waits until some of a base was read.
fn wait_for_the_middle(site: &PgSite) {
    eventually("a base is in the middle", SOON, || {
        // A standby's base begins at its last restart point, which must lie in the captured log.
        write_and_checkpoint(site);
        let base = base(site)?;
        let (done, total) = (base["done"].as_u64()?, base["total"].as_u64()?);
        (done > 1 << 20 && done < total).then_some(())
    });
}

/// No region has a base or a recovery point, though packs may lie there.
#[track_caller]
fn nothing_looks_complete(site: &PgSite) {
    for number in 0..site.site.regions.len() {
        let region = site.site.region_folder(number);
        for folder in ["meta/base", "meta/point"] {
            assert_eq!(keys(&region, folder), [""; 0], "{folder}");
        }
    }
    // What only servers take is not refused for that nobody knows yet what the source is.
    let programs = site.cluster.postgres().bin();
    let programs = programs.to_str().expect("a path in UTF-8");
    let pg_bin = ["--to", "latest", "--pg-bin", programs];
    for words in [&pg_bin[..2], &pg_bin] {
        let refused = site.site.restore(&[&site.site.regions[0]], words);
        refused.ran.ends_with(14).says(&["no base is complete yet"]);
        assert!(!refused.path.exists(), "nothing is left of a refusal");
    }
}

/// Every region protects the cluster. What a standby knows is as old as the newest commit, so there are some.
#[track_caller]
fn wait_protected(site: &PgSite) {
    let since = now();
    eventually("every region protects the cluster", SOON * 3, || {
        write_and_checkpoint(site);
        let status = site.site.status();
        let names = status.regions();
        let holds =
            |name: &&String| status.safe_until(name) >= Some(since) && status.point(name).is_some();
        (names.iter().filter(holds).count() == site.site.regions.len()).then_some(())
    });
}

/// An agent is killed in the middle of a base, then the server is: the next ones are whole.
fn interrupts_bases(site: &PgSite, server: &Cluster) {
    site.site.set("base_rate", SLOW);
    let mut daemon = site.site.start();
    wait_for_the_middle(site);
    daemon.kill();
    nothing_looks_complete(site);
    daemon = site.site.start();
    wait_for_the_middle(site);
    server.stop(Stop::Kill).unwrap();
    eventually("the base is given up", SOON, || {
        base(site).is_none().then_some(())
    });
    nothing_looks_complete(site);
    server.start_again().unwrap();
    // Which of its tries the agent is in hangs on the moment; it must not be in the middle of a slow one.
    daemon.kill();
    site.site.set("base_rate", ANY_RATE);
    let daemon = site.site.start();
    wait_protected(site);
    let verified = site.site.tool(&["verify", "--json"]).ok().json();
    assert_eq!(
        verified["damages"].as_array().map(Vec::len),
        Some(0),
        "{verified}"
    );
    daemon.terminate();
}

#[test]
fn base_that_is_interrupted_by_a_kill_of_agent_or_server_never_looks_complete_and_is_made_anew() {
    let Some(postgres) = newest() else { return };
    for locally in [false, true] {
        let site = PgSite::new(&postgres, &Options::default());
        if locally {
            read_locally(&site.cluster);
        }
        site.load(0..100);
        interrupts_bases(&site, &site.cluster);
        let (ran, back) = restore(&site, &["--to", "latest"]);
        assert_eq!(ran.ok().json()["proof"], "replayed");
        start(&back);
        assert_eq!(rows(&back), "100|99");
    }
}

#[test]
fn so_is_one_of_a_standby() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    site.load(0..100);
    let standby = site.cluster.standby("standby").unwrap();
    site.init(&conninfo(&[&standby])).ok();
    site.site.shorten();
    interrupts_bases(&site, &standby);
    let (ran, back) = restore(&site, &["--to", "latest"]);
    assert_eq!(ran.ok().json()["proof"], "replayed");
    start(&back);
    assert_eq!(rows(&back), "100|99");
}

/// Files of relations that the catalogues don't know, as a crash may leave them, in the first database.
fn litter(cluster: &Cluster, count: u32) {
    let folder = cluster.data_dir().join("base/1");
    let page = vec![0; 8192];
    for number in 0..count {
        let path = folder.join((3_000_000_000 + number).to_string());
        let bytes: &[u8] = if number % 20 == 0 { &page } else { &[] };
        std::fs::write(&path, bytes).expect("written");
        Owner::get().own(&path).expect("owned");
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("private");
    }
}

/// A file that no compression makes smaller: its packs are as large as packs get, and many.
fn ballast(cluster: &Cluster) {
    let mut random = std::fs::File::open("/dev/urandom")
        .expect("opened")
        .take(BALLAST);
    let path = cluster.data_dir().join("ballast");
    let mut file = std::fs::File::create_new(&path).expect("made");
    std::io::copy(&mut random, &mut file).expect("written");
    Owner::get().own(&path).expect("owned");
    let private = std::fs::Permissions::from_mode(0o600);
    file.set_permissions(private).expect("private");
}

/// Restores the newest state; the most memory that took.
fn restore_watched(site: &PgSite, cluster: &Cluster) -> u64 {
    let mut command = site
        .site
        .restore_command(&[&site.site.regions[0]], &cluster.data_dir());
    command.args(["--to", "latest", "--pg-bin"]);
    command.arg(site.cluster.postgres().bin());
    let mut child = command.stdout(Stdio::null()).spawn().expect("it runs");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let ended = loop {
        let text = std::fs::read_to_string(Path::new(&status)).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let now = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        most = now.unwrap_or(most).max(most);
        match child.try_wait().expect("a child") {
            Some(ended) => break ended,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(ended.success());
    most
}

#[test]
fn tens_of_thousands_of_files_are_based_and_restored_in_little_memory() {
    let Some(postgres) = newest() else { return };
    let files = if long() { 200_000 } else { 20_000 };
    let site = PgSite::new(&postgres, &Options::default());
    read_locally(&site.cluster);
    site.load(0..50);
    site.cluster.stop(Stop::Fast).unwrap();
    litter(&site.cluster, files);
    ballast(&site.cluster);
    site.cluster.start_again().unwrap();
    let daemon = site.site.start();
    let patience = SOON * 10;
    let protected = |what: &str| {
        eventually(what, patience, || {
            let status = site.site.status();
            let names = status.regions();
            let whole = names.iter().all(|name| status.point(name).is_some());
            (whole && base(&site).is_none()).then_some(())
        });
    };
    protected("the first base is whole");
    // The next one, which builds on it, and one over the network.
    site.site.agent(&["snapshot", "--base"]).ok();
    let most = daemon.proc_status("VmHWM");
    println!("agent: {most} KiB for {files} files");
    assert!(most <= MEMORY_MAX_KIB, "{most} KiB for {files} files");
    site.wait_protected();
    daemon.terminate();
    let back = Cluster::empty(&postgres).unwrap();
    let most = restore_watched(&site, &back);
    println!("restore: {most} KiB for {files} files");
    assert!(most <= MEMORY_MAX_KIB, "{most} KiB for {files} files");
    let restored = std::fs::read_dir(back.data_dir().join("base/1")).unwrap();
    assert!(restored.count() >= usize::try_from(files).unwrap());
    start(&back);
    assert_eq!(rows(&back), "50|49");
}

#[test]
fn segments_of_the_smallest_and_of_a_large_size_are_captured_based_and_restored() {
    let Some(postgres) = newest() else { return };
    for segment_megabytes in [1, 64] {
        let options = Options {
            segment_megabytes,
            ..Options::default()
        };
        let site = PgSite::new(&postgres, &options);
        let daemon = site.start_protected();
        // Small segments are passed in one transaction, large ones end early.
        site.cluster.sql(
            "CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 30) t FROM generate_series(1, 6000) n; \
             SELECT pg_switch_wal()",
        );
        site.load(0..50);
        site.wait_protected();
        site.cluster.stop(Stop::Kill).unwrap();
        daemon.terminate();
        let (ran, back) = restore(&site, &["--to", "latest"]);
        assert_eq!(ran.ok().json()["proof"], "replayed");
        start(&back);
        assert_eq!(rows(&back), "50|49");
        assert_eq!(
            back.query("SELECT count(*), sum(n) FROM wide"),
            "6000|18003000"
        );
        let size = back.query("SHOW wal_segment_size");
        assert_eq!(size, format!("{segment_megabytes}MB"));
    }
}

/// How long the first base takes.
fn seconds_of_a_base(site: &PgSite) -> u64 {
    let clock = SystemClock::shared();
    let before = clock.monotonic();
    let daemon: Daemon = site.start_protected();
    let took = clock.monotonic().since(before);
    daemon.terminate();
    took.as_secs()
}

#[test]
fn bases_are_read_no_faster_than_the_config_says_for_the_hour() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let bytes = site
        .cluster
        .query("SELECT sum(pg_database_size(oid)) / 1024 / 1024 FROM pg_database");
    let mebibytes: u64 = bytes.split('.').next().unwrap().parse().unwrap();
    // One of both halves of the day holds now, and the other would take for ever.
    site.site.set("base_rate", "\"4MiB 0-24, 64KiB\"");
    let took = seconds_of_a_base(&site);
    assert!(took + 1 >= mebibytes / 4, "{took} s for {mebibytes} MiB");
}
