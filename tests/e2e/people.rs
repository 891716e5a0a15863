//! What people and scripts do to commands: targets that would do harm, keys that went through another
//! system, answers that nobody can receive, Ctrl-C, words that can't be understood.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidemark_testkit::net::{Mode, Proxy};
use tidemark_tests::eventually;

use crate::process::{Daemon, Ran, SOON, command};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, write};

/// A site that was protected for a moment.
fn protected() -> Site {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 20);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    site
}

fn restore_to(site: &Site, target: &Path) -> Ran {
    let mut command = site.restore_command(&[&site.regions[0]], target);
    Ran::of(command.args(["--to", "latest"]))
}

#[test]
fn target_that_would_do_harm_or_is_no_file_is_refused_and_an_odd_name_is_none() {
    let site = protected();
    let region = site.region_folder(0);
    std::os::unix::fs::symlink(&region, site.path("link")).unwrap();
    for inside in [region.join("app.db"), site.path("link/data/app.db")] {
        restore_to(&site, &inside)
            .ends_with(2)
            .says(&["inside the Tidemark repository"]);
        assert!(!inside.exists());
    }
    for folder in [site.path("host"), site.path("none-such/")] {
        restore_to(&site, &folder)
            .ends_with(2)
            .says(&["is a folder", "restored.db"]);
    }
    restore_to(&site, &site.path("none-such/app.db"))
        .ends_with(2)
        .says(&["is not there", "make it first"]);
    let odd = site.path("Sichern – größte Dåtabase.db");
    restore_to(&site, &odd).ok().says(&["'", "Dåtabase"]);
    assert_eq!(assert_committed_prefix(&odd), 20);
    // A name without a folder is in the current one.
    restore_to(&site, Path::new("plain.db")).ok();
    assert_eq!(assert_committed_prefix(&site.path("plain.db")), 20);
}

#[test]
fn identity_that_went_through_another_system_or_a_pipe_still_opens() {
    let site = protected();
    let text = std::fs::read_to_string(&site.identity).unwrap();
    let check = |identity: &Path| {
        let mut command = site.command("tidemark-restore");
        command.args(["keys", "check", "--region", &site.regions[0], "--identity"]);
        command.arg(identity);
        command
    };
    let variants = [
        text.replace('\n', "\r\n"),
        text.trim_end().to_owned(),
        format!("\u{feff}{text}"),
        format!("\n\n{text}\n\n"),
    ];
    for (number, variant) in variants.iter().enumerate() {
        let path = site.path(&format!("identity-{number}"));
        tidemark_host::files::write_new(&path, variant.as_bytes(), 0o600).unwrap();
        Ran::of(&mut check(&path)).ok();
    }
    let target = site.path("piped.db");
    let mut restore = site.command("tidemark-restore");
    restore.args(["restore", "--to", "latest", "--identity", "-", "--region"]);
    restore.arg(&site.regions[0]).arg("--target").arg(&target);
    let mut child = restore.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(text.as_bytes()).unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success());
    assert_eq!(assert_committed_prefix(&target), 20);
}

#[test]
fn answer_that_could_not_be_written_is_no_success_and_a_reader_may_leave() {
    let site = protected();
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        let tool = tidemark_tests::program("tidemark-restore");
        let agent = tidemark_tests::program("tidemark-agent");
        shell.env("TOOL", tool).env("AGENT", agent);
        shell.env("TIDEMARK_REGION", &site.regions[0]);
        Ran::of(shell.args(["-c", line]))
    };
    for line in [
        "\"$TOOL\" list > /dev/full",
        "\"$TOOL\" list --json > /dev/full",
        "\"$TOOL\" explain > /dev/full",
        "\"$AGENT\" explain > /dev/full",
    ] {
        shell(line).ends_with(1).says(&["standard output"]);
    }
    for line in [
        "\"$TOOL\" list --points | true",
        "\"$TOOL\" completions bash | head -1",
    ] {
        let ran = shell(line).ok();
        assert_eq!(ran.err, "", "{line}");
    }
}

#[test]
fn every_error_is_json_when_json_was_asked_for() {
    let site = protected();
    let error = |ran: &Ran| -> Value {
        let last = ran.err.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("no JSON ({e}): {ran}"))
    };
    for program in ["tidemark-restore", "tidemark-agent"] {
        for words in [
            &["no-such-command", "--json"][..],
            &["--json", "status", "--nonsense"],
        ] {
            let ran = Ran::of(command(program).args(words)).ends_with(2);
            assert_eq!(error(&ran)["schema"], format!("{program}.error"), "{ran}");
            assert_eq!(error(&ran)["exit"], 2, "{ran}");
            assert_eq!(ran.out, "");
        }
    }
    let url = site.regions[0].as_str();
    for (words, code) in [
        (&["plan", "--to", "2026-05-01", "--target", "x"][..], 2),
        (&["plan", "--to", "14:31", "--target", "x"], 2),
        (&["plan", "--to", "1:3", "--target", "x"], 2),
        (&["plan", "--to", "log:1:999999", "--target", "x"], 14),
        (&["list", "--source", "nobody"], 10),
    ] {
        let ran = site
            .tool_on(&[url], &[words, &["--json"]].concat())
            .ends_with(code);
        assert_eq!(error(&ran)["exit"], code, "{ran}");
    }
    // A time of day is never taken for a position, and the answer says what to write for either.
    site.tool_on(&[url], &["plan", "--to", "14:31", "--target", "x"])
        .says(&["today 14:31 UTC", "log:14:31"]);
    site.tool_on(&[url], &["plan", "--to", "1/3", "--target", "x"])
        .says(&["log:1:3", "point:1/3"]);
    site.tool_on(&[url], &["plan", "--to", "log:1:999999", "--target", "x"])
        .says(&["TM1404"]);
}

#[test]
fn commands_need_no_home_no_terminal_and_no_language() {
    let site = protected();
    let tool = tidemark_tests::program("tidemark-restore");
    let bare = |words: &[&str]| {
        let mut command = Command::new(&tool);
        command.env_clear().args(words);
        Ran::of(command.args(["--region", &site.regions[0]]))
    };
    let plain = bare(&["list"]).ok().says(&["app"]);
    assert!(!plain.out.contains('\x1b'), "{plain}");
    bare(&["list", "--points"]).ok();
    bare(&["verify", "--quick"]).ok();
    bare(&["status", "--json"]).json();
}

#[test]
fn ctrl_c_ends_every_command_although_its_region_never_answers() {
    let site = protected();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(server.local_addr().unwrap()).unwrap();
    proxy.set(Mode::BlackHole);
    let url = format!(
        "s3://bucket/app?endpoint=http://{}&region=us-east-1&insecure=1",
        proxy.addr()
    );
    let restore = ["restore", "--to", "latest", "--target", "never.db"];
    let commands: [&[&str]; 5] = [
        &["list"],
        &["status"],
        &["verify", "--quick"],
        &["plan", "--to", "latest", "--target", "never.db"],
        &restore,
    ];
    for signal in ["INT", "TERM"] {
        for words in commands {
            let before = proxy.connections();
            let mut command = site.command("tidemark-restore");
            command.args(words).args(["--region", &url, "--identity"]);
            command.arg(&site.identity);
            command.env("AWS_ACCESS_KEY_ID", "key");
            command.env("AWS_SECRET_ACCESS_KEY", "secret");
            let mut running = Daemon::start(&mut command, &site.fresh("stopped"));
            eventually("the region is asked", SOON, || {
                (proxy.connections() > before).then_some(())
            });
            running.signal(signal);
            assert_eq!(running.wait(), 1, "{words:?}: {}", running.log());
            assert!(running.log().contains("stopped"), "{}", running.log());
        }
    }
    assert!(!site.path("never.db").exists());
}
