//! Documents tell the truth: every promise names a proof that exists, every link leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;

use tidemark_tests::{
    TestName, links, read, root, rust_sources, shell_lines, table_under, test_functions, test_names,
};

/// Promises of docs/TESTING.md that nothing shows yet. May only go down.
const NOT_YET_SHOWN_MAX: usize = 0;

fn documents() -> Vec<String> {
    let mut found: Vec<String> = ["README.md", "CHANGELOG.md", "benches/RESULTS.md"]
        .map(str::to_owned)
        .into();
    let mut folders = vec!["docs".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("docs/ is readable") {
            let entry = entry.expect("a readable entry");
            let path = format!("{folder}/{}", entry.file_name().to_str().expect("UTF-8"));
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    found
}

/// File → its tests, each with whether it is ignored.
fn tests_by_file() -> BTreeMap<String, BTreeMap<String, bool>> {
    let sources = rust_sources().into_iter();
    sources
        .map(|s| (s.path, test_functions(&s.text).into_iter().collect()))
        .collect()
}

/// The names that `benches/run` knows.
fn bench_names() -> BTreeSet<String> {
    let script = read("benches/run");
    let listed = script
        .lines()
        .find_map(|line| line.strip_prefix("rows=("))
        .expect("rows=(…)");
    listed
        .trim_end_matches(')')
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Whether the last recorded run of a bench met every goal.
fn is_met(results: &str, bench: &str) -> bool {
    let mut sections = results.split("\n## ").skip(1);
    let section = sections.find(|section| section.lines().next() == Some(bench));
    section.is_some_and(|section| section.contains("| MET |") && !section.contains("| MISSED |"))
}

/// Why a test that a document names is no proof, if it is none.
fn flaw(tests: &BTreeMap<String, BTreeMap<String, bool>>, name: &TestName) -> Option<&'static str> {
    match tests
        .get(&name.file)
        .and_then(|file| file.get(&name.function))
    {
        Some(false) => None,
        Some(true) => Some("is ignored"),
        None if tests.contains_key(&name.file) => Some("is no test of that file"),
        None => Some("names no file"),
    }
}

#[test]
fn every_test_that_a_document_names_exists_and_runs() {
    let tests = tests_by_file();
    let mut wrong = Vec::new();
    for document in documents() {
        for name in test_names(&read(&document)) {
            if let Some(flaw) = flaw(&tests, &name) {
                wrong.push(format!(
                    "{document}: `{}::{}` {flaw}",
                    name.file, name.function
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_promise_names_its_proof() {
    let (text, benches) = (read("docs/TESTING.md"), bench_names());
    let results = read("benches/RESULTS.md");
    let rows = table_under(&text, "What shows it").rows;
    assert!(
        !rows.is_empty(),
        "docs/TESTING.md has no table under \"What shows it\""
    );
    let mut wrong = Vec::new();
    for row in rows {
        let [promise, proof] = row.as_slice() else {
            panic!("a row of docs/TESTING.md has not two cells: {row:?}");
        };
        let named: Vec<&str> = proof
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|code| code.strip_prefix("benches/run "))
            .collect();
        if named.is_empty() && test_names(proof).is_empty() {
            wrong.push(format!("nothing shows: {promise}"));
        }
        let unknown = named.iter().filter(|name| !benches.contains(**name));
        wrong.extend(unknown.map(|name| format!("benches/run knows no {name}: {promise}")));
        let unmet = named.iter().filter(|name| !is_met(&results, name));
        wrong.extend(unmet.map(|name| format!("no run of {name} met its goals: {promise}")));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn promises_without_a_proof_only_get_fewer() {
    let text = read("docs/TESTING.md");
    let section = text
        .lines()
        .skip_while(|line| *line != "## Not yet shown")
        .skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let open = section.filter(|line| line.starts_with("- ")).count();
    assert_eq!(open, NOT_YET_SHOWN_MAX, "promises that wait for a proof");
}

#[test]
fn every_invariant_names_its_guard_or_says_that_it_has_none_yet() {
    let text = read("docs/ARCHITECTURE.md");
    let section = text
        .split("## Invariants")
        .nth(1)
        .expect("a section on invariants");
    let section = section.split("\n## ").next().unwrap_or(section);
    let numbered: Vec<&str> = section.split("\n**").skip(1).collect();
    assert!(numbered.len() >= 13, "only {} invariants", numbered.len());
    for invariant in numbered {
        let title = invariant.lines().next().unwrap_or_default();
        assert!(
            !test_names(invariant).is_empty() || invariant.contains("*Not built yet"),
            "no test guards: {title}"
        );
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in links(&read(&document)) {
            if link.target.contains("://") || link.target.starts_with("mailto:") {
                continue;
            }
            let target = match link.target.as_str() {
                "" => root().join(&document),
                target => root().join(folder).join(target),
            };
            if !target.exists() {
                wrong.push(format!("{document}: {}", link.target));
            } else if let Some(fragment) = link.fragment {
                let text = std::fs::read_to_string(&target).unwrap_or_default();
                if !anchors(&text).contains(&fragment) {
                    wrong.push(format!("{document}: {}#{fragment}", link.target));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "dead links:\n{}", wrong.join("\n"));
}

/// The anchors that headings get on the usual hosts.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn scripts_that_documents_call_exist() {
    let mut wrong = Vec::new();
    for document in documents() {
        for command in shell_lines(&read(&document)) {
            let words = command
                .split_whitespace()
                .map(|word| word.trim_start_matches("./"));
            for word in words {
                let is_script = ["tests/", "benches/", ".ci/"]
                    .iter()
                    .any(|f| word.starts_with(f));
                if !is_script || word.contains(['*', '<', '$']) || word.ends_with(".rs") {
                    continue;
                }
                let mode = root().join(word).metadata().map(|m| m.permissions().mode());
                if !mode.is_ok_and(|mode| mode & 0o111 != 0) {
                    wrong.push(format!("{document}: {word} in `{command}`"));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "not there, or cannot be run:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn readme_opens_with_its_two_commands() {
    let commands = shell_lines(&read("README.md"));
    assert_eq!(
        commands.first().map(String::as_str),
        Some("cargo build --release --locked && target/release/tidemark-agent demo")
    );
    assert!(
        commands.iter().any(|command| command == "tests/run"),
        "README.md shows no tests/run"
    );
}
