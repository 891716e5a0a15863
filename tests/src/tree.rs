//! The working tree: its root, its Rust sources, its test functions, its dependency graph.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The folder that holds the workspace's `Cargo.toml`.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_path_buf()
}

/// The text of a file, named from the root.
#[must_use]
pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One Rust source file.
#[derive(Debug)]
pub struct Source {
    /// Path from the root, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Whether the file is part of what users run, as against tests, benches and their tools.
    #[must_use]
    pub fn is_production(&self) -> bool {
        !(self.path.starts_with("tests/")
            || self.path.starts_with("benches/")
            || self.path.starts_with("crates/testkit/")
            || self.path.contains("/tests/"))
    }

    /// The lines above the first `#[cfg(test)]`.
    pub fn production_lines(&self) -> impl Iterator<Item = &str> {
        self.text
            .lines()
            .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
    }
}

/// Every Rust file of the workspace, ordered by path.
#[must_use]
pub fn rust_sources() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("a readable folder");
        for entry in entries {
            let path = entry.expect("a readable folder entry").path();
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .expect("names are UTF-8");
            if path.is_dir() {
                // What cargo builds; a module may have the name.
                let is_built = name == "target" && folder == root;
                if !name.starts_with('.') && !is_built {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).expect("below the root");
                found.push(Source {
                    path: relative.to_str().expect("paths are UTF-8").to_owned(),
                    text: std::fs::read_to_string(&path).expect("a readable source"),
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The test functions of a source, each with whether it is ignored.
#[must_use]
pub fn test_functions(source: &str) -> Vec<(String, bool)> {
    let (mut found, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            let attribute = line.trim_start_matches("#[");
            is_test |= attribute.starts_with("test]") || attribute.starts_with("tokio::test");
            is_ignored |= attribute.starts_with("ignore");
        } else if let Some(name) = function_name(line) {
            if is_test {
                found.push((name.to_owned(), is_ignored));
            }
            (is_test, is_ignored) = (false, false);
        } else if !line.starts_with("//") && line.ends_with('}') {
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let line = line.strip_prefix("async ").unwrap_or(line);
    let name = line.strip_prefix("fn ")?;
    let end = name.find(|c: char| !c.is_alphanumeric() && c != '_')?;
    name.get(..end)
}

/// What `cargo metadata` says of the workspace as it is built on this machine: only the features and
/// targets that are really used.
#[must_use]
pub fn cargo_metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(ask_cargo)
}

fn ask_cargo() -> Value {
    let host = run(Command::new("rustc").arg("-vV"));
    let host = host
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .expect("rustc names its host");
    let text = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        host,
    ]);
    serde_json::from_str(&text).expect("cargo metadata is JSON")
}

/// The names of all packages that are built on this machine, tests and build scripts included.
/// `cargo metadata` also lists optional dependencies that nothing switches on; this does not.
#[must_use]
pub fn cargo_tree() -> Vec<String> {
    let text = cargo(&["tree", "--workspace", "--prefix", "none", "--format", "{p}"]);
    let mut names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    run(command
        .current_dir(root())
        .args(arguments)
        .args(["--locked", "--offline"]))
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    String::from_utf8(output.stdout).expect("UTF-8 output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_tests_and_their_ignores() {
        let source = concat!(
            "#[te",
            "st]\nfn one() {}\n#[tokio::te",
            "st(flavor = \"x\")]\n#[ign",
            "ore]\n",
            "async fn two() {\n}\nfn helper() {}\n"
        );
        let found = test_functions(source);
        assert_eq!(found, [("one".to_owned(), false), ("two".to_owned(), true)]);
    }
}
