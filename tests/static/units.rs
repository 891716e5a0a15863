//! The systemd units: valid, hardened to an exposure of at most 1.5 with and without a drop-in, and
//! those that differ in little only in that.
//!
//! systemd-analyze needs no running systemd. Where it is missing the tests say so; with
//! `TIDEMARK_REQUIRE_SERVERS=1` that is a failure.

use std::path::Path;
use std::process::{Command, Output};

use tidemark_tests::{read, root};

const UNIT: &str = "tidemark-agent.service";
const TEMPLATE: &str = "tidemark-agent@.service";
const RESTORE: &str = "tidemark-restore.service";
const DRILL: &str = "tidemark-drill.service";
const TIMER: &str = "tidemark-drill.timer";
const SANDBOX: &str = "tidemark-sandbox@.service";
const SOCKET: &str = "tidemark-sandbox.socket";
/// As it is started for a connection.
const SANDBOX_RUN: &str = "tidemark-sandbox@0-4711-999.service";
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
    let text = read(Path::new("systemd").join(unit))
        .replace("/usr/bin/tidemark-agent", "/bin/true")
        .replace("/usr/bin/tidemark-restore", "/bin/true");
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
    all.extend([RESTORE, DRILL].map(|unit| (unit, unit, None)));
    all.push((SANDBOX, SANDBOX_RUN, None));
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
fn oneshot_of_the_timer_is_the_daemons_unit_but_for_how_it_is_started() {
    let begun = |line: &String| {
        ["User=", "[Install]", "WantedBy="]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let hardening = |unit: &str| {
        let lines = directives(&read(Path::new("systemd").join(unit)));
        let from = lines.iter().position(|line| line.starts_with("User="));
        let lines: Vec<String> = lines.into_iter().skip(from.expect("a user")).collect();
        let plain = lines.iter().filter(|line| !begun(line)).cloned();
        plain.collect::<Vec<_>>()
    };
    assert_eq!(hardening(DRILL), hardening(RESTORE));
    let drill = directives(&read(Path::new("systemd").join(DRILL)));
    for promised in [
        "Type=oneshot",
        "SuccessExitStatus=3",
        "TimeoutStartSec=infinity",
    ] {
        assert!(drill.iter().any(|line| line == promised), "{promised}");
    }
    assert!(
        !drill.iter().any(|line| line == "[Install]"),
        "the timer starts it, nobody enables it"
    );
}

#[test]
fn timer_is_valid_catches_up_and_starts_the_oneshot() {
    let folder = laid_out(DRILL, DRILL, None);
    std::fs::copy(
        root().join("systemd").join(TIMER),
        folder.path().join(TIMER),
    )
    .expect("the timer is copied");
    let timer = directives(&read(Path::new("systemd").join(TIMER)));
    assert!(timer.iter().any(|line| line == "Persistent=true"));
    let Some(output) = analyze(
        folder.path(),
        &["verify", "--man=no", &format!("./{TIMER}")],
    ) else {
        return;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("tidemark"))
        .collect();
    assert!(output.status.success() && ours.is_empty(), "{complaints}");
}

#[test]
fn socket_of_the_sandbox_is_valid() {
    let folder = laid_out(SANDBOX, SANDBOX, None);
    let text = read(Path::new("systemd").join(SOCKET));
    std::fs::write(folder.path().join(SOCKET), text).expect("the socket is written");
    let Some(output) = analyze(
        folder.path(),
        &["verify", "--man=no", &format!("./{SOCKET}")],
    ) else {
        return;
    };
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| line.contains("tidemark") && !line.contains("tidemark-restore"))
        .collect();
    assert!(ours.is_empty(), "{complaints}");
}

#[test]
fn daemon_of_drills_keeps_its_identity_from_the_database_and_the_database_from_its_identity() {
    let unit = directives(&read(Path::new("systemd").join(RESTORE)));
    for promised in [
        "Type=notify",
        "User=tidemark-restore",
        "LoadCredential=tidemark.identity",
        "Environment=TIDEMARK_IDENTITY=%d/tidemark.identity",
        "RestartPreventExitStatus=12 78",
        "RestrictNamespaces=yes",
        "LimitCORE=0",
        "MemorySwapMax=0",
    ] {
        assert!(
            unit.iter().any(|line| line == promised),
            "the unit lacks {promised}"
        );
    }
    let users = read("systemd/tidemark.sysusers.conf");
    assert!(users.contains("u tidemark-restore "), "{users}");
    // Whoever may connect has a sandbox, and needs no other right.
    let socket = directives(&read(Path::new("systemd").join(SOCKET)));
    for promised in [
        "Accept=yes",
        "SocketUser=tidemark-restore",
        "SocketMode=0600",
    ] {
        assert!(
            socket.iter().any(|line| line == promised),
            "the socket lacks {promised}"
        );
    }
    for unit in [RESTORE, DRILL] {
        let lines = directives(&read(Path::new("systemd").join(unit)));
        let wants = format!("Wants={SOCKET}");
        assert!(lines.contains(&wants), "{unit} lacks {wants}");
    }
}

/// A file of the program that says where something is.
fn constant(file: &str, name: &str) -> String {
    let text = read(Path::new("restore-tool/src/sandbox").join(file));
    let line = text
        .lines()
        .find(|line| line.contains(&format!("const {name}: &str = ")))
        .unwrap_or_else(|| panic!("{file} has no {name}"));
    line.split('"').nth(1).expect("a text").to_owned()
}

#[test]
fn program_and_units_of_the_sandbox_mean_the_same_places() {
    let socket = directives(&read(Path::new("systemd").join(SOCKET)));
    let listens = format!("ListenStream={}", constant("isolate.rs", "SOCKET"));
    assert!(socket.contains(&listens), "{socket:?} lacks {listens}");
    let unit = directives(&read(Path::new("systemd").join(SANDBOX)));
    let places = format!(
        "BindPaths=-{}/{} -/var/lib/tidemark-restore/{}",
        constant("scratch.rs", "MEMORY"),
        constant("scratch.rs", "SERVICE"),
        constant("scratch.rs", "BELOW_STATE")
    );
    assert!(unit.contains(&places), "{unit:?} lacks {places}");
    let restore = directives(&read(Path::new("systemd").join(RESTORE)));
    assert!(restore.contains(&"StateDirectory=tidemark-restore".to_owned()));
}

#[test]
fn sandbox_of_a_database_has_no_network_and_reaches_no_identity() {
    let unit = directives(&read(Path::new("systemd").join(SANDBOX)));
    let restore = directives(&read(Path::new("systemd").join(RESTORE)));
    for promised in [
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
        "IPAddressDeny=any",
        "ProtectHome=yes",
        "TemporaryFileSystem=/var:ro /run:ro /dev/shm:ro",
        "PrivateUsers=yes",
        "StandardInput=socket",
        "LimitCORE=0",
        "MemorySwapMax=0",
        "CapabilityBoundingSet=",
        "RestrictNamespaces=yes",
    ] {
        assert!(
            unit.iter().any(|line| line == promised),
            "the unit lacks {promised}"
        );
    }
    let hidden = unit
        .iter()
        .find(|line| line.starts_with("InaccessiblePaths="));
    let hidden = hidden.expect("something is hidden");
    for place in ["/etc/credstore", "/etc/tidemark", "/run/credentials"] {
        assert!(hidden.contains(place), "{place} is in reach");
    }
    for power in [
        "LoadCredential",
        "Environment",
        "StateDirectory",
        "ReadWritePaths",
        "[Install]",
    ] {
        assert!(
            !unit.iter().any(|line| line.starts_with(power)),
            "the unit has {power}"
        );
    }
    // A server runs only as the owner of its files, and the other service makes them.
    let user = |unit: &[String]| unit.iter().find(|line| line.starts_with("User=")).cloned();
    assert_eq!(user(&unit), user(&restore));
}

#[test]
fn comments_stand_on_lines_of_their_own() {
    let units = [UNIT, TEMPLATE, RESTORE, DRILL, TIMER, SANDBOX, SOCKET];
    for file in units.iter().chain(DROP_INS) {
        for line in directives(&read(Path::new("systemd").join(file))) {
            assert!(
                !line.contains('#'),
                "{file}: systemd would read the comment of `{line}`"
            );
        }
    }
}
