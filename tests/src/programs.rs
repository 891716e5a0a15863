//! The shipped programs, built when first asked for.
//!
//! cargo builds another package's binary for a test only if that package has integration tests of
//! its own, and then perhaps a stale one. Asking cargo again costs a moment and is always right.
//! `TIDEMARK_PROGRAMS=FOLDER` names programs that were built already, such as an installed package's.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The path of a shipped program (`tidemark-agent`, `tidemark-restore`), built with the profile of
/// the running test.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let given = || std::env::var_os("TIDEMARK_PROGRAMS").map(PathBuf::from);
    let path = FOLDER
        .get_or_init(|| given().unwrap_or_else(build))
        .join(name);
    assert!(path.exists(), "there is no {}", path.display());
    path
}

fn build() -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(crate::root()).args([
        "build",
        "--locked",
        "--message-format",
        "json-render-diagnostics",
    ]);
    // The whole workspace: a narrower build would switch features of the dependencies and compile
    // them again.
    command.args(["--workspace", "--bins"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{errors}");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .filter_map(|executable| executable.parent().map(PathBuf::from))
        .next()
        .expect("cargo names the programs it built")
}
