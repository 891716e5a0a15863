//! Regions that are put back to an earlier state under a running agent, as whoever restores a volume or a
//! share does it: nobody is told that something is durable that isn't there any more.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Ran, SOON};
use crate::site::Site;
use crate::writer;

fn runs(command: &mut Command) {
    let ran = Ran::of(command);
    assert_eq!(ran.code, 0, "{ran}");
}

/// A copy of each region as it is now.
fn copies(site: &Site) -> Vec<(PathBuf, PathBuf)> {
    let folders = (0..site.regions.len()).map(|number| site.region_folder(number));
    let copies = folders.map(|folder| {
        let copy = site.fresh("copy");
        runs(Command::new("cp").arg("-a").arg(&folder).arg(&copy));
        (folder, copy)
    });
    copies.collect()
}

/// The folder stays, and what is in it becomes what the copy has.
fn put_back(folder: &Path, copy: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        runs(Command::new("rm").arg("-rf").arg(entry.path()));
    }
    let content = copy.join(".");
    runs(Command::new("cp").arg("-a").arg(content).arg(folder));
}

#[test]
fn what_a_region_that_was_put_back_lost_is_told_and_a_snapshot_never_calls_it_durable() {
    let site = Site::new();
    let daemon = site.start();
    writer::write(&site.database, 10);
    site.wait_shipped();
    site.agent(&["snapshot"]).ok();
    let copies = copies(&site);
    writer::write(&site.database, 10);
    site.agent(&["snapshot"]).ok();
    // WHEN all regions are put back to what they were
    for (folder, copy) in &copies {
        put_back(folder, copy);
    }
    writer::write(&site.database, 10);
    // THEN a point that is called durable is one (both are one failure domain: one of them has it)
    site.agent(&["snapshot"]).ok();
    let regions: Vec<&str> = site.regions.iter().map(String::as_str).collect();
    let restored = site.restore(&regions, &["--to", "latest"]);
    assert!([0, 3].contains(&restored.ran.code), "{}", restored.ran);
    assert_eq!(restored.report()["proof"], "digest-equal");
    writer::assert_same_pages(&site.database, &restored.path);
    // AND people are told (of the other one, too, unless the base that mends the first was quicker), and each
    // region is whole again by itself
    daemon.signal("HUP");
    for number in 0..copies.len() {
        tidemark_tests::eventually("it can be restored from each alone", SOON, || {
            let restored = site.restore(&[&site.regions[number]], &["--to", "latest"]);
            let last = |path: &Path| writer::last(&writer::open(path));
            let whole = restored.ran.code == 0 && last(&restored.path) == last(&site.database);
            whole.then_some(())
        });
    }
    let told = daemon.log();
    assert!(told.contains("put back to an earlier state"), "{told}");
    tidemark_tests::eventually("nothing is amiss any more", SOON, || {
        let ran = site.agent(&["status"]);
        (!ran.out.contains("put back to an earlier state")).then_some(())
    });
    let listed = site.tool(&["list", "--json"]).json();
    let windows = listed["sources"][0]["windows"].as_array().expect("windows");
    assert!(windows.len() > 1, "{listed:#}");
    daemon.terminate();
}
