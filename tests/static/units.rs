//! The systemd units: valid, hardened to an exposure of at most 1.5 with and without a drop-in, and
//! the template in step with the plain one.
//!
//! systemd-analyze needs no running systemd. Where it is missing the tests say so; with
//! `TIDEMARK_REQUIRE_SERVERS=1` that is a failure.

use std::path::Path;
use std::process::{Command, Output};

use tidemark_tests::{read, root};

const UNIT: &str = "tidemark-agent.service";
const TEMPLATE: &str = "tidemark-agent@.service";
const DROP_INS: &[&str] = &["example-drop-in.conf", "example-drop-in-home.conf"];
/// Exposure times ten.
const THRESHOLD: &str = "--threshold=15";

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn analyze(folder: &Path, arguments: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze")
        .current_dir(folder)
        .args(arguments)
        .output()
    {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some_and(|v| v == "1");
            assert!(
                !required,
                "systemd-analyze is missing: apt-get install systemd"
            );
            eprintln!("SKIPPED: systemd-analyze is missing (apt-get install systemd)");
            None
        }
        Err(e) => panic!("systemd-analyze: {e}"),
    }
}

/// A folder with the unit under `name`, perhaps with a drop-in, that can be checked on a machine
/// where the agent is not installed.
fn laid_out(unit: &str, name: &str, drop_in: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text =
        read(Path::new("systemd").join(unit)).replace("/usr/bin/tidemark-agent", "/bin/true");
    std::fs::write(folder.path().join(name), text).expect("the unit is written");
    if let Some(drop_in) = drop_in {
        let beside = folder.path().join(format!("{name}.d"));
        std::fs::create_dir(&beside).expect("a folder for the drop-in");
        std::fs::copy(
            root().join("systemd").join(drop_in),
            beside.join("10-sources.conf"),
        )
        .expect("the drop-in is copied");
    }
    folder
}

/// Every unit as it can stand on a host: file, name, drop-in.
fn variants() -> Vec<(&'static str, &'static str, Option<&'static str>)> {
    let mut all = Vec::new();
    for (unit, name) in [(UNIT, UNIT), (TEMPLATE, "tidemark-agent@app.service")] {
        all.push((unit, name, None));
        all.extend(DROP_INS.iter().map(|drop_in| (unit, name, Some(*drop_in))));
    }
    all
}

#[test]
fn units_are_valid_with_and_without_a_drop_in() {
    for (unit, name, drop_in) in variants() {
        let folder = laid_out(unit, name, drop_in);
        let Some(output) = analyze(folder.path(), &["verify", "--man=no", &format!("./{name}")])
        else {
            return;
        };
        let complaints = String::from_utf8_lossy(&output.stderr);
        // Warnings about other units of this machine are not ours.
        let ours: Vec<&str> = complaints
            .lines()
            .filter(|line| line.contains("tidemark"))
            .collect();
        assert!(
            output.status.success() && ours.is_empty(),
            "{name} {drop_in:?}:\n{complaints}"
        );
    }
}

#[test]
fn exposure_stays_at_most_one_and_a_half() {
    for (unit, name, drop_in) in variants() {
        let folder = laid_out(unit, name, drop_in);
        let arguments = ["security", "--offline=true", "--no-pager", THRESHOLD];
        let unit_file = format!("./{name}");
        let Some(output) = analyze(folder.path(), &[&arguments[..], &[&unit_file]].concat()) else {
            return;
        };
        let table = String::from_utf8_lossy(&output.stdout);
        let verdict = table.lines().last().unwrap_or_default();
        assert!(
            output.status.success(),
            "{name} {drop_in:?}: {verdict}\n{table}"
        );
    }
}

/// The directives of a unit, without comments and blank lines.
fn directives(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn template_is_the_plain_unit_for_another_owner() {
    let plain = read(Path::new("systemd").join(UNIT))
        .replace(
            "Tidemark backup agent",
            "Tidemark backup agent for the databases of %i",
        )
        .replace("/etc/tidemark/agent.toml", "/etc/tidemark/%i.toml")
        .replace("User=tidemark\nGroup=tidemark\n", "User=%i\n")
        .replace(
            "LoadCredential=tidemark.aws",
            "LoadCredential=tidemark.aws:tidemark-%i.aws",
        )
        .replace("StateDirectory=tidemark\n", "StateDirectory=tidemark-%i\n")
        .replace(
            "RuntimeDirectory=tidemark\n",
            "RuntimeDirectory=tidemark-%i\n",
        );
    assert_eq!(
        directives(&read(Path::new("systemd").join(TEMPLATE))),
        directives(&plain)
    );
}

#[test]
fn unit_keeps_its_promises_to_the_operator() {
    let unit = directives(&read(Path::new("systemd").join(UNIT)));
    for promised in [
        "Type=notify",
        "Restart=always",
        "RestartPreventExitStatus=11 12 78",
        "StartLimitIntervalSec=0",
        "LimitCORE=0",
        "MemorySwapMax=0",
    ] {
        assert!(
            unit.iter().any(|line| line == promised),
            "the unit lacks {promised}"
        );
    }
    // Together with the agent runs the application, as the same user.
    assert!(
        !unit.iter().any(|line| line.starts_with("RemoveIPC")),
        "RemoveIPC hits the application"
    );
}

#[test]
fn comments_stand_on_lines_of_their_own() {
    for file in [UNIT, TEMPLATE].iter().chain(DROP_INS) {
        for line in directives(&read(Path::new("systemd").join(file))) {
            assert!(
                !line.contains('#'),
                "{file}: systemd would read the comment of `{line}`"
            );
        }
    }
}
