//! What has cost users of other tools their data in silence, put into a repository by hand: each is
//! refused with words, or comes right.

use std::path::{Path, PathBuf};

use tidemark_format::postgres::Lsn;
use tidemark_testkit::postgres::{Cluster, Options};

use crate::objects::{copy_folder, objects, remove, truncate, write};
use crate::pg_restore::{newest, restore, start};
use crate::pg_site::PgSite;

/// The log objects of the only source in a region, oldest first.
fn log(region: &Path) -> Vec<PathBuf> {
    objects(region, "meta/log/main/").into_values().collect()
}

fn packs(region: &Path) -> Vec<PathBuf> {
    objects(region, "data/pack/").into_values().collect()
}

/// Cuts a pack in its middle.
fn halve(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    write(path, &bytes[..bytes.len() / 2]);
}

/// A cluster in whose life a base was made, with rows before it and `rounds` times after it, and its
/// agent gone; and where the base begins.
fn told(rounds: u32) -> Option<(PgSite, Lsn)> {
    let options = Options::default().with("max_prepared_transactions", "5");
    let site = PgSite::new(&newest()?, &options);
    site.load(0..100);
    // Prepared before the base; one is committed after it, one never.
    for (name, id) in [("one", 1000), ("two", 2000)] {
        site.cluster.sql(&format!(
            "BEGIN; INSERT INTO load (id) VALUES ({id}); PREPARE TRANSACTION '{name}'"
        ));
    }
    let daemon = site.start_protected();
    let redo = "SELECT redo_lsn FROM pg_control_checkpoint()";
    let begins = site.cluster.query(redo).parse().expect("a position");
    for round in 1..=rounds {
        site.load(round * 100..round * 100 + 50);
        site.wait_protected();
    }
    site.cluster.sql("COMMIT PREPARED 'one'");
    site.wait_protected();
    daemon.terminate();
    Some((site, begins))
}

/// The only region that restores read here, put back as it was before each trap.
struct Region {
    folder: PathBuf,
    whole: PathBuf,
}

impl Region {
    fn of(site: &mut PgSite) -> Self {
        site.site.regions.truncate(1);
        let folder = site.site.region_folder(0);
        let whole = site.site.path("whole");
        copy_folder(&folder, &whole);
        Self { folder, whole }
    }

    fn put_back(&self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
        copy_folder(&self.whole, &self.folder);
    }
}

/// A restore is refused as damage and leaves nothing.
#[track_caller]
fn refused(site: &PgSite, what: &str, words: &[&str]) {
    let (ran, cluster) = restore(site, &["--to", "latest"]);
    assert_eq!(ran.code, 13, "{what}: {ran}");
    ran.says(words);
    assert!(
        !cluster.data_dir().exists(),
        "{what}: something stands there"
    );
}

/// What is done to an object, and how.
type Spoil<'a> = (&'static str, &'a dyn Fn(&Path));

#[test]
fn damage_in_the_middle_of_a_servers_log_or_base_is_never_restored_silently() {
    let Some((mut site, _)) = told(3) else { return };
    let (other, _) = told(1).expect("a second site");
    let region = Region::of(&mut site);
    let objects = log(&region.folder);
    // Behind the base, with more to come.
    let middle = objects.len() - 4;
    let before = format!("--to log:1:{}", middle - 1);
    let stale = std::fs::read(&objects[middle - 1]).unwrap();
    let foreign = std::fs::read(&log(&other.site.region_folder(0))[1]).unwrap();
    // A part that is missing, is cut, is an earlier one, is another cluster's.
    let spoil: [Spoil<'_>; 4] = [
        ("missing", &remove),
        ("cut", &truncate),
        ("stale", &|path| write(path, &stale)),
        ("another cluster's", &|path| write(path, &foreign)),
    ];
    for (what, spoil) in spoil {
        region.put_back();
        spoil(&objects[middle]);
        refused(&site, what, &[&before]);
    }
    // So are two parts that changed places, and packs that are cut.
    region.put_back();
    let (one, two) = (&objects[middle], &objects[middle + 1]);
    crate::objects::swap(one, two);
    refused(&site, "swapped", &[&before]);
    region.put_back();
    for pack in packs(&region.folder) {
        halve(&pack);
    }
    refused(&site, "truncated packs", &[]);
    // Put back, everything comes, the prepared transactions as they were.
    region.put_back();
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    ran.ok();
    start(&cluster);
    let rows = |cluster: &Cluster| cluster.query("SELECT count(*), max(id) FROM load");
    assert_eq!(rows(&cluster), "251|1000");
    cluster.sql("COMMIT PREPARED 'two'");
    assert_eq!(rows(&cluster), "252|2000");
}

#[test]
fn truncated_pack_is_taken_from_the_other_region_and_targets_inside_the_base_are_refused() {
    let Some((site, begins)) = told(1) else {
        return;
    };
    for pack in packs(&site.site.region_folder(0)) {
        halve(&pack);
    }
    let (ran, cluster) = restore(&site, &["--to", "latest"]);
    // It comes back, and the damage is told.
    ran.ends_with(3).says(&["region-a"]);
    start(&cluster);
    assert_eq!(
        cluster.query("SELECT count(*), max(id) FROM load"),
        "151|1000"
    );
    // It is consistent only at its end.
    for inside in [begins, begins.plus(8)] {
        let inside = inside.to_string();
        let (ran, cluster) = restore(&site, &["--to", &inside]);
        ran.ends_with(14);
        assert!(!cluster.data_dir().exists());
    }
}
