//! What the documents tell people to type is what the programs understand, and what a repository's own
//! RESTORE.md tells them brings the database back.

use std::process::Command;

use tidemark_testkit::s3::S3Server;
use tidemark_tests::{program, read, shell_lines};

use crate::process::Ran;
use crate::s3::{Bucket, Cloud};
use crate::site::Site;
use crate::writer::{assert_committed_prefix, write};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "docs/RUNBOOK.md",
    "docs/SECURITY.md",
    "docs/TESTING.md",
];
const PROGRAMS: &[&str] = &["tidemark-agent", "tidemark-restore"];

/// One call of a shipped program: its subcommands and its options.
#[derive(Debug)]
struct Call {
    document: &'static str,
    program: &'static str,
    words: Vec<String>,
    options: Vec<String>,
}

/// Every call in every shell block.
fn calls() -> Vec<Call> {
    let mut found = Vec::new();
    for document in DOCUMENTS {
        for line in shell_lines(&read(document)) {
            for command in line.split("&&") {
                found.extend(call(document, command));
            }
        }
    }
    found
}

fn call(document: &'static str, command: &str) -> Option<Call> {
    let mut words = command
        .split_whitespace()
        .map(|word| word.trim_start_matches('\''));
    let first = words.next()?.trim_start_matches("target/release/");
    let program = PROGRAMS.iter().find(|known| **known == first)?;
    let rest: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
    let is_subcommand = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let subcommands = rest
        .iter()
        .take_while(|w| !w.starts_with('-'))
        .take_while(is_subcommand);
    let options = rest.iter().filter(|word| word.starts_with("--"));
    Some(Call {
        document,
        program,
        words: subcommands.map(|word| (*word).to_owned()).collect(),
        options: options.map(|word| (*word).to_owned()).collect(),
    })
}

#[test]
fn every_command_in_the_documents_is_understood() {
    let calls = calls();
    assert!(calls.len() > 10, "only {} commands found", calls.len());
    for call in calls {
        let output = Command::new(program(call.program))
            .args(&call.words)
            .arg("--help")
            .output()
            .expect("the program runs");
        assert!(
            output.status.success(),
            "{}: {call:?}: {}",
            call.document,
            String::from_utf8_lossy(&output.stderr)
        );
        let help = String::from_utf8_lossy(&output.stdout);
        for option in &call.options {
            assert!(
                help.contains(option.as_str()),
                "{call:?}: no {option} in\n{help}"
            );
        }
    }
}

#[test]
fn help_names_every_exit_code() {
    for name in PROGRAMS {
        let output = Command::new(program(name))
            .arg("--help")
            .output()
            .expect("it runs");
        let help = String::from_utf8_lossy(&output.stdout);
        for code in ["0 ok", "11 fenced", "12 key", "13 integrity", "78 config"] {
            assert!(
                help.contains(code),
                "{name} --help does not name {code:?}:\n{help}"
            );
        }
    }
}

/// What a person fills in, by the words that RESTORE.md explains.
struct Filled<'a> {
    url: &'a str,
    identity: &'a str,
    environment: &'a [(&'a str, String)],
}

/// Types the steps of `manual` as they stand, in an empty folder, with nothing but what it explains;
/// the number of the last transaction that came back.
#[track_caller]
fn follow(manual: &str, filled: &Filled<'_>) -> i64 {
    let folder = tempfile::tempdir().unwrap();
    let steps: Vec<&str> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| line.starts_with("tidemark-restore "))
        .collect();
    assert_eq!(steps.len(), 3, "{manual}");
    let programs = program("tidemark-restore");
    let programs = programs.parent().unwrap();
    let run = |step: &str, name: &str| {
        for word in ["URL", "FILE", "NAME", "PATH"] {
            let explained =
                manual.contains(&format!("{word} is ")) || manual.contains(&format!(" {word} "));
            assert!(explained, "{word} is not explained: {manual}");
        }
        let line = step
            .replace("URL", filled.url)
            .replace("FILE", filled.identity)
            .replace("NAME", name)
            .replace("PATH", "my database.db");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(folder.path());
        shell
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        shell.envs(filled.environment.iter().map(|(name, value)| (name, value)));
        Ran::of(&mut shell).ok()
    };
    // `list` shows each source at the beginning of a line, with its engine.
    let listed = run(steps[0], "");
    let shown = listed
        .out
        .lines()
        .find_map(|line| line.split_once(" (sqlite"));
    let name = shown.expect("a source").0;
    run(steps[1], name).says(&["reads", "makes"]);
    run(steps[2], name).says(&["proved    equal to the source"]);
    assert_committed_prefix(&folder.path().join("my database.db"))
}

#[test]
fn restore_md_brings_the_database_back_from_a_folder_and_from_a_bucket() {
    let site = Site::new();
    let daemon = site.start();
    write(&site.database, 60);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let folder = site.region_folder(1);
    let manual = std::fs::read_to_string(folder.join("RESTORE.md")).unwrap();
    let filled = Filled {
        url: &format!("dir:{}", folder.display()),
        identity: site.identity.to_str().unwrap(),
        environment: &[],
    };
    assert_eq!(follow(&manual, &filled), 60);

    let Some(server) = S3Server::shared() else {
        return;
    };
    let bucket = Bucket::new(server, true);
    let cloud = Cloud::new(&[(&bucket, server.https_endpoint())]);
    let daemon = cloud.site.start();
    write(&cloud.site.database, 40);
    cloud.site.agent(&["snapshot"]).ok();
    cloud.site.wait_shipped();
    daemon.terminate();
    let url = bucket.url(&server.https_endpoint(), "restore");
    let (url, _profile) = url.split_once("&profile=").unwrap();
    let filled = Filled {
        url,
        identity: cloud.site.identity.to_str().unwrap(),
        environment: &[
            ("AWS_ACCESS_KEY_ID", bucket.restore.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", bucket.restore.secret_key),
        ],
    };
    // Every region's file says the same but for the repository's id.
    assert_eq!(follow(&manual, &filled), 40);
}
