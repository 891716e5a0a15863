//! The host is gone: from one region and the identity to a protected database on a new machine, by
//! the very commands that `restore` prints, under a real systemd.

use tidemark_tests::eventually;

use crate::machine::Blueprint;
use crate::objects::copy_folder;
use crate::process::{SOON, Timed};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, write};

/// What the runbook promises.
const COMMANDS_MAX: usize = 6;

#[test]
fn lost_host_is_protected_again_by_at_most_six_commands() {
    let _timed = Timed::start();
    let Some(blueprint) = Blueprint::new() else {
        return;
    };
    let site = Site::new();
    let daemon = site.start();
    let journal = write(&site.database, 100);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    drop(daemon);
    // The new machine has the region, the identity and the root key; nothing else is left.
    let machine = blueprint.boot();
    let region = machine.srv().join("region-a");
    copy_folder(&site.region_folder(0), &region);
    copy_folder(&site.path("safe"), &machine.srv().join("safe"));
    machine.must(&["mkdir", "/srv/app"]);
    machine.must(&["chown", "-R", "app:app", "/srv/app", "/srv/region-a"]);
    let restore = "tidemark-restore restore --to latest --target /srv/app/app.db \
                   --region dir:/srv/region-a --identity /srv/safe/identity";
    let printed = machine.must(&["sh", "-c", restore]);
    let again = printed
        .split_once("To protect it again:")
        .expect("the commands are printed")
        .1;
    let commands: Vec<&str> = again
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert!(commands.len() < COMMANDS_MAX, "restore and {commands:#?}");
    for command in &commands {
        let command = command.replace("ROOT_KEY_FILE", "/srv/safe/identity.root");
        let ran = machine.run(&["sh", "-c", &command]);
        let journal = || machine.journal("tidemark-agent.service");
        assert!(ran.status.success(), "{command}: {ran:?}\n{}", journal());
        if command.contains("tidemark-agent init") {
            machine.whatever_the_disk();
        }
    }
    let journal = [journal, write(&machine.srv().join("app/app.db"), 50)].concat();
    let last = journal.last().expect("transactions").n;
    eventually("the restored database is protected", SOON * 2, || {
        let target = machine.srv().join("again.db");
        drop(std::fs::remove_file(&target));
        let mut restore = site.command("tidemark-restore");
        restore
            .args(["restore", "--to", "latest", "--target"])
            .arg(&target);
        restore
            .arg("--region")
            .arg(format!("dir:{}", region.display()));
        restore.arg("--identity").arg(site.identity.as_os_str());
        let restored = restore
            .output()
            .expect("tidemark-restore runs")
            .status
            .success();
        (restored && assert_committed_prefix(&target) == last).then_some(())
    });
    let unit = "tidemark-agent.service";
    assert_eq!(
        machine.property(unit, "ActiveState"),
        "active",
        "{}",
        machine.journal(unit)
    );
}
