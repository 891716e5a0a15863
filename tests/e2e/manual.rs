//! What the documents tell people to type is what the programs understand.

use std::process::Command;

use tidemark_tests::{program, read, shell_lines};

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
