//! A server is restored where something of it is left: over its data directory, of which what is right
//! stays as it is, and beside tablespaces whose places are taken.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use tidemark_testkit::postgres::{Cluster, Options, Stop};

use crate::objects::{flip, objects};
use crate::pg_restore::{handed_over, newest, restore, rows, start};
use crate::pg_site::PgSite;
use crate::process::Ran;

/// Restores over the site's own data directory.
fn over(site: &PgSite, words: &[&str]) -> Ran {
    over_other(site, &site.cluster, words)
}

fn over_other(site: &PgSite, cluster: &Cluster, words: &[&str]) -> Ran {
    let target = cluster.data_dir().display().to_string();
    let bin = site.cluster.postgres().bin().display().to_string();
    let own = [
        "restore", "--to", "latest", "--delta", "--target", &target, "--pg-bin", &bin, "--json",
    ];
    site.site.tool(&[&own, words].concat())
}

/// A table that nobody touches after the first base; its file's path in the data directory.
fn still(site: &PgSite) -> String {
    site.cluster.sql(
        "CREATE TABLE still AS SELECT n, repeat(md5(n::text), 8) AS text FROM generate_series(1, 20000) n;
         VACUUM (FREEZE) still; CHECKPOINT;",
    );
    site.cluster.query("SELECT pg_relation_filepath('still')")
}

/// What changes when a file is made anew, and what when it is written to.
fn identity(path: &Path) -> (u64, i64, i64, u64) {
    let meta = path.metadata().expect("the file is there");
    (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len())
}

fn unfinished(cluster: &Cluster) -> PathBuf {
    cluster.socket_dir().join(".data.tidemark-partial")
}

#[test]
fn data_directory_is_restored_over_and_what_is_right_in_it_is_not_written_again() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    let still = still(&site);
    site.init(&site.conninfo()).ok();
    site.site.shorten();
    site.load(0..200);
    let daemon = site.start_protected();
    site.load(200..300);
    site.wait_protected();
    let loaded = site.cluster.query("SELECT pg_relation_filepath('load')");
    // GIVEN a server that stopped, and whose data directory was then damaged in many ways
    site.cluster.stop(Stop::Fast).unwrap();
    daemon.terminate();
    let data = site.cluster.data_dir();
    let still = data.join(still);
    let before = identity(&still);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(data.join(&loaded))
        .unwrap();
    file.write_all_at(&[0xA5; 100], 8192 + 300).unwrap();
    std::fs::write(data.join("base/stray"), b"not a server's").unwrap();
    std::fs::create_dir(data.join("base/99999")).unwrap();
    std::fs::remove_file(data.join("global/pg_filenode.map")).unwrap();
    std::fs::write(data.join("standby.signal"), b"").unwrap();
    let log = data.join("pg_wal/0000000100000000000000AA");
    std::fs::write(log, vec![7; 16 << 20]).unwrap();
    handed_over(&site.cluster, "data");
    let wall = identity(&still);
    assert_eq!(before, wall);
    // WHEN nobody says yes
    over(&site, &[]).ends_with(2).says(&["--yes"]);
    assert!(data.join("base/stray").exists(), "nothing was changed");
    // AND when somebody does
    let report = over(&site, &["--yes"]).ok().json();
    // THEN what was right was not written, and all else is as it was in the source
    assert_eq!(report["proof"], "replayed", "{report}");
    assert!(report["kept_bytes"].as_u64() > Some(before.3), "{report}");
    assert!(report["kept_bytes"].as_u64() < report["bytes"].as_u64());
    assert_eq!(identity(&still), before, "an untouched file stays");
    for gone in ["base/stray", "base/99999", "standby.signal", ".tidemark"] {
        assert!(!data.join(gone).exists(), "{gone}");
    }
    assert!(!unfinished(&site.cluster).exists());
    start(&site.cluster);
    assert_eq!(rows(&site.cluster), "300|299");
    assert_eq!(site.cluster.query("SELECT count(*) FROM still"), "20000");
}

#[test]
fn restore_over_a_folder_is_refused_or_gone_on_with_and_never_half_usable() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    site.load(0..100);
    let daemon = site.start_protected();
    // A server that runs there.
    over(&site, &["--yes"])
        .ends_with(2)
        .says(&["a server is running", "stop it first"]);
    assert_eq!(rows(&site.cluster), "100|99");
    site.cluster.stop(Stop::Fast).unwrap();
    daemon.terminate();
    // Another cluster's data, and a folder of something else.
    let other = Options {
        segment_megabytes: 1,
        ..Options::default()
    };
    let other = Cluster::start(&postgres, &other).unwrap();
    other.stop(Stop::Fast).unwrap();
    over_other(&site, &other, &["--yes"])
        .ends_with(2)
        .says(&["--other-system"]);
    assert!(other.data_dir().join("global/pg_control").exists());
    let nobody = Cluster::empty(&postgres).unwrap();
    std::fs::create_dir(nobody.data_dir()).unwrap();
    std::fs::write(nobody.data_dir().join("thesis.tex"), b"precious").unwrap();
    over_other(&site, &nobody, &["--yes"])
        .ends_with(2)
        .says(&["PG_VERSION"]);
    // GIVEN a pack that is damaged everywhere: the restore ends in the middle
    let packs: Vec<PathBuf> = (0..site.site.regions.len())
        .flat_map(|region| objects(&site.site.region_folder(region), "data/pack/"))
        .map(|(_, path)| path)
        .collect();
    packs.iter().for_each(|path| flip(path));
    let data = site.cluster.data_dir();
    let ran = over(&site, &["--yes"]).ends_with(13);
    ran.says(&[&unfinished(&site.cluster).display().to_string()]);
    // THEN nothing can be started, neither there nor where it stands
    assert!(!data.exists());
    let half = unfinished(&site.cluster);
    assert!(half.join("PG_VERSION").exists() && !half.join("global/pg_control").exists());
    // AND the same command goes on once the pack is good again
    packs.iter().for_each(|path| flip(path));
    let report = over(&site, &["--yes"]).ok().json();
    assert!(report["resumed_bytes"].as_u64() > Some(1 << 20), "{report}");
    assert!(!half.exists());
    start(&site.cluster);
    assert_eq!(rows(&site.cluster), "100|99");
    // AND another cluster's data gives way if that is wanted
    over_other(&site, &other, &["--yes", "--other-system"]).ok();
    start(&other);
    assert_eq!(rows(&other), "100|99");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn tablespaces_go_where_they_are_told_and_never_onto_what_is_there() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::plan(&postgres, &Options::default());
    let folder = |name: &str| {
        std::fs::create_dir(site.cluster.socket_dir().join(name)).unwrap();
        handed_over(&site.cluster, name)
    };
    let (fast, slow) = (folder("fast"), folder("slow"));
    for (name, place) in [("fast", &fast), ("slow", &slow)] {
        let place = place.display();
        site.cluster
            .sql(&format!("CREATE TABLESPACE {name} LOCATION '{place}'"));
        site.cluster.sql(&format!(
            "CREATE TABLE {name} TABLESPACE {name} AS SELECT generate_series(1, 5000) AS n"
        ));
    }
    let oid = site
        .cluster
        .query("SELECT oid FROM pg_tablespace WHERE spcname = 'slow'");
    site.init(&site.conninfo()).ok();
    site.site.shorten();
    let daemon = site.start_protected();
    site.cluster.sql("INSERT INTO fast VALUES (0)");
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    // What stands in their places is not touched, and that is told before anything is written.
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    ran.ends_with(2)
        .says(&["--map-tablespace", "belongs there"]);
    assert!(!cluster.data_dir().exists());
    let (ran, _) = restore(
        &site,
        &["--to", "latest", "--map-tablespace", "/nowhere=/elsewhere"],
    );
    ran.ends_with(2).says(&["no such tablespace", &oid]);
    // By its place, and by its id.
    let cluster = Cluster::empty(&postgres).unwrap();
    let new = cluster.socket_dir().join("new");
    let target = cluster.data_dir().display().to_string();
    let bin = postgres.bin().display().to_string();
    let maps = [
        format!("{}={}/fast", fast.display(), new.display()),
        format!("{oid}={}/slow", new.display()),
    ];
    let words = [
        "restore",
        "--to",
        "latest",
        "--target",
        &target,
        "--pg-bin",
        &bin,
        "--json",
        "--map-tablespace",
        &maps[0],
        "--map-tablespace",
        &maps[1],
    ];
    site.site.tool(&words).ok();
    start(&cluster);
    assert_eq!(cluster.query("SELECT count(*) FROM fast"), "5001");
    assert_eq!(cluster.query("SELECT count(*) FROM slow"), "5000");
    let place = format!("SELECT pg_tablespace_location({oid})");
    assert_eq!(
        cluster.query(&place),
        new.join("slow").display().to_string()
    );
    assert!(fast.read_dir().unwrap().next().is_some(), "left alone");
    // Over the lost server's own folders a place that is taken is told before anything is taken apart.
    let taken = format!("{}={}", slow.display(), fast.display());
    over(&site, &["--yes", "--map-tablespace", &taken])
        .ends_with(2)
        .says(&["another tablespace goes there"]);
    std::fs::create_dir(site.cluster.socket_dir().join("taken")).unwrap();
    let place = handed_over(&site.cluster, "taken");
    std::fs::write(place.join("thesis.tex"), b"precious").unwrap();
    let taken = format!("{}={}", slow.display(), place.display());
    over(&site, &["--yes", "--map-tablespace", &taken])
        .ends_with(2)
        .says(&["the folder is not empty"]);
    assert!(site.cluster.data_dir().join("global/pg_control").exists());
    assert!(!unfinished(&site.cluster).exists(), "nothing was begun");
    // And no map is needed: they are its own.
    let report = over(&site, &["--yes"]).ok().json();
    let again = report["protect_again"].to_string();
    assert!(
        again.contains("goes on by itself") && !again.contains("init"),
        "{again}"
    );
    start(&site.cluster);
    assert_eq!(site.cluster.query("SELECT count(*) FROM fast"), "5001");
}

#[test]
fn tablespace_that_was_made_after_the_base_is_never_made_over_what_is_there() {
    let Some(postgres) = newest() else { return };
    let site = PgSite::new(&postgres, &Options::default());
    let daemon = site.start_protected();
    // GIVEN a tablespace that only the log knows
    std::fs::create_dir(site.cluster.socket_dir().join("late")).unwrap();
    let place = handed_over(&site.cluster, "late");
    let made = format!("CREATE TABLESPACE late LOCATION '{}'", place.display());
    site.cluster.sql(&made);
    site.cluster
        .sql("CREATE TABLE late TABLESPACE late AS SELECT generate_series(1, 5000) AS n");
    site.wait_protected();
    // WHEN it is restored beside the living server, THEN that one keeps its files
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    ran.ends_with(2)
        .says(&[&place.display().to_string(), "made there after the base"]);
    assert!(!cluster.data_dir().exists());
    site.cluster.sql("CHECKPOINT");
    site.cluster.stop(Stop::Fast).unwrap();
    site.cluster.start_again().unwrap();
    assert_eq!(site.cluster.query("SELECT count(*) FROM late"), "5000");
    // WHEN its place is free, THEN it comes back there
    site.wait_protected();
    site.cluster.stop(Stop::Kill).unwrap();
    daemon.terminate();
    std::fs::remove_dir_all(&place).unwrap();
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    ran.ok();
    start(&cluster);
    assert_eq!(cluster.query("SELECT count(*) FROM late"), "5000");
}
