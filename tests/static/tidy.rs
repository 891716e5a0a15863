//! Limits that no linter holds: file length, module headers, forgotten files and notes to self.
//!
//! Exceptions carry today's number and may only shrink.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tidemark_tests::{Source, read, root, rust_sources, test_functions};

/// Lines above the first `#[cfg(test)]` of what users run.
const PRODUCTION_LINES_MAX: usize = 700;
/// Lines of a test, bench or test-kit file.
const TEST_LINES_MAX: usize = 1000;
/// Files above their limit, each with its length; the number may only go down.
const LONG_FILES: &[(&str, usize)] = &[];

fn complain(what: &str, places: &[String]) {
    assert!(places.is_empty(), "{what}:\n{}", places.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for source in rust_sources() {
        let (lines, limit) = if source.is_production() {
            (source.production_lines().count(), PRODUCTION_LINES_MAX)
        } else {
            (source.text.lines().count(), TEST_LINES_MAX)
        };
        let excused = LONG_FILES.iter().find(|(path, _)| *path == source.path);
        match excused {
            Some((path, today)) if lines < *today => {
                wrong.push(format!(
                    "{path} is down to {lines} lines: lower its exception"
                ));
            }
            Some((_, today)) if lines == *today => {}
            _ if lines > limit => wrong.push(format!("{}: {lines} > {limit}", source.path)),
            _ => {}
        }
    }
    complain("files over their limit", &wrong);
}

#[test]
fn every_file_opens_with_its_contract() {
    let missing: Vec<String> = rust_sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    complain("files without a //! header on the first line", &missing);
    let unwritten: Vec<String> = rust_sources()
        .into_iter()
        .filter(|source| source.text.starts_with("//! Placeholder"))
        .map(|source| source.path)
        .collect();
    complain("files that still say Placeholder", &unwritten);
}

#[test]
fn no_notes_to_self_are_left() {
    // Put together here, so that this file does not find itself.
    let notes =
        [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK:"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for path in tracked_texts() {
        for (number, line) in read(&path).lines().enumerate() {
            let words = || line.split(|c: char| !c.is_alphanumeric() && c != ':');
            if notes
                .iter()
                .any(|note| words().any(|w| w.trim_end_matches(':') == note || w == note))
            {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    complain("notes to self", &found);
}

#[test]
fn no_test_is_ignored() {
    let mut ignored = Vec::new();
    for source in rust_sources() {
        let tests = test_functions(&source.text);
        let names = tests.into_iter().filter(|(_, is_ignored)| *is_ignored);
        ignored.extend(names.map(|(name, _)| format!("{}::{name}", source.path)));
    }
    complain("ignored tests", &ignored);
}

#[test]
fn every_source_file_is_reached() {
    let sources = rust_sources();
    let roots = target_roots();
    let declared: BTreeSet<String> = sources.iter().flat_map(declared_modules).collect();
    let forgotten: Vec<String> = sources
        .iter()
        .filter(|source| !roots.contains(&source.path) && !declared.contains(&source.path))
        .map(|source| source.path.clone())
        .collect();
    complain("files that no module declares", &forgotten);
}

/// The files that the targets of every member start from.
fn target_roots() -> BTreeSet<String> {
    let metadata = tidemark_tests::cargo_metadata();
    let root = root();
    let mut roots = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for target in package["targets"].as_array().expect("targets") {
            let path = Path::new(target["src_path"].as_str().expect("a path"));
            if let Ok(relative) = path.strip_prefix(&root) {
                roots.insert(relative.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    roots
}

/// The paths that a file's `mod name;` lines may mean.
fn declared_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let own_folder = match stem {
        "main" | "lib" | "mod" => folder.to_owned(),
        _ if folder.ends_with("/tests") || folder.ends_with("/bin") => folder.to_owned(),
        _ => format!("{folder}/{stem}"),
    };
    let mut declared = Vec::new();
    let mut path = None;
    for line in source.text.lines().map(str::trim) {
        if let Some(quoted) = line.strip_prefix("#[path = \"") {
            path = quoted.strip_suffix("\"]").map(str::to_owned);
        }
        let Some(name) = line.strip_suffix(';').and_then(|l| l.rsplit_once("mod ")) else {
            continue;
        };
        if !matches!(name.0, "" | "pub " | "pub(crate) " | "pub(super) ") {
            continue;
        }
        match path.take() {
            Some(path) => declared.push(format!("{folder}/{path}")),
            None => {
                declared.push(format!("{own_folder}/{}.rs", name.1));
                declared.push(format!("{own_folder}/{}/mod.rs", name.1));
            }
        }
    }
    declared
}

#[test]
fn nothing_names_the_folder_it_was_written_in() {
    let root = root();
    // A checkout directly below / has a name too common to look for.
    let here = root.to_str().expect("UTF-8");
    if root.components().count() < 3 {
        return;
    }
    let mut found = Vec::new();
    for path in tracked_texts() {
        if read(&path).contains(here) {
            found.push(path);
        }
    }
    complain("files that name the checkout's own path", &found);
}

#[test]
fn scripts_can_be_run_and_have_a_header() {
    use std::os::unix::fs::PermissionsExt as _;
    for path in tracked_texts() {
        let text = read(&path);
        if !text.starts_with("#!") {
            continue;
        }
        let mode = root()
            .join(&path)
            .metadata()
            .expect("a file")
            .permissions()
            .mode();
        assert!(
            mode & 0o111 != 0,
            "{path} is a script and cannot be run: chmod +x"
        );
        let second = text.lines().nth(1).unwrap_or_default();
        assert!(
            second.starts_with("# ") || second.starts_with("\"\"\""),
            "{path} does not say in its second line what it is"
        );
    }
}

/// Text files that belong to the tree: tracked, or new and not ignored.
fn tracked_texts() -> Vec<String> {
    let output = Command::new("git")
        .current_dir(root())
        .args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ])
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let mut paths: Vec<String> = listed
        .split('\0')
        .filter(|path| !path.is_empty() && *path != "Cargo.lock")
        .filter(|path| std::fs::read_to_string(root().join(path)).is_ok())
        .map(str::to_owned)
        .collect();
    paths.sort_unstable();
    paths
}
