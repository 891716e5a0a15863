//! `docs/decode.py` restores the golden repository: the format is what its document says, not what
//! our code does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{golden::golden, make::SOURCE};

/// Python with the three packages that decode.py names; `tests/install-servers` makes it.
fn python() -> Option<PathBuf> {
    let tools = std::env::var_os("TIDEMARK_TOOLS").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/tidemark-tools")
        },
        PathBuf::from,
    );
    let python = tools.join("decode/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(
        std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_none(),
        "{} is missing: run tests/install-servers",
        python.display()
    );
    println!(
        "SKIPPED: {} is missing; tests/install-servers makes it",
        python.display()
    );
    None
}

fn decode(position: Option<&str>) -> Option<(Vec<u8>, String)> {
    decode_in(&golden(), position)
}

/// Restores the repository below `root`.
pub(crate) fn decode_in(root: &Path, position: Option<&str>) -> Option<(Vec<u8>, String)> {
    let python = python()?;
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("restored.db");
    let output = Command::new(python)
        .arg(tidemark_tests::root().join("docs/decode.py"))
        .args([root.join("region"), root.join("text/identity")])
        .arg(SOURCE)
        .arg(&target)
        .args(position)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    Some((fs::read(&target).unwrap(), said))
}

#[test]
fn decode_py_restores_the_newest_state_from_the_document_alone() {
    let Some((restored, said)) = decode(None) else {
        return;
    };
    assert!(
        restored == fs::read(golden().join("expected.db")).unwrap(),
        "{said}"
    );
    assert!(said.contains("digest equal"));
}

#[test]
fn decode_py_restores_an_earlier_epoch_through_a_late_object() {
    let Some((restored, said)) = decode(Some("1:4")) else {
        return;
    };
    assert!(said.contains("restored to 1:4"), "{said}");
    assert!(restored != fs::read(golden().join("expected.db")).unwrap());
    assert!(restored.starts_with(b"SQLite format 3\0"));
}
