//! The shipped program: it exists, and its exit codes and streams are those that scripts rely on.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::process::{Command, Output};

fn restore(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemark-restore"))
        .args(words)
        .env_remove("TIDEMARK_REGION")
        .env_remove("TIDEMARK_IDENTITY")
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn wrong_words_are_usage_errors() {
    for words in [
        &["frobnicate"][..],
        &["restore", "--to", "latest"],
        &["restore", "--target", "/t"],
        &[
            "restore", "--to", "latest", "--before", "latest", "--target", "/t",
        ],
        &["list", "--region", "ftp://x"],
        &["list"],
        &[
            "restore",
            "--to",
            "soon",
            "--target",
            "/nonexistent/t",
            "--region",
            "dir:/tmp",
            "--identity",
            "/x",
        ],
    ] {
        let output = restore(words);
        let code = code(&output);
        assert!(code == 2, "{words:?}: {code} {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn an_error_names_its_code_and_under_json_is_one_object() {
    let output = restore(&["list", "--region", "dir:/nonexistent/tidemark"]);
    assert_eq!(code(&output), 16, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("explain TM1601"),
        "{}",
        text(&output.stderr)
    );
    let output = restore(&["list", "--json", "--region", "dir:/nonexistent/tidemark"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["schema"], "tidemark-restore.error");
    assert_eq!(
        (error["version"].as_u64(), error["exit"].as_u64()),
        (Some(1), Some(16))
    );
}

#[test]
fn an_empty_place_holds_no_repository() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("dir:{}", folder.path().display());
    assert_eq!(code(&restore(&["list", "--region", &url])), 10);
    let output = restore(&["status", "--region", &url]);
    assert_eq!(code(&output), 3, "{}", text(&output.stdout));
}

#[test]
fn regions_and_identity_come_from_the_environment_too() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("dir:{} dir:/nonexistent/tidemark", folder.path().display());
    let output = Command::new(env!("CARGO_BIN_EXE_tidemark-restore"))
        .arg("list")
        .env("TIDEMARK_REGION", url)
        .output()
        .unwrap();
    assert_eq!(code(&output), 10, "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("none of the 2 regions"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn codes_are_explained_completions_made_and_the_config_checked() {
    let output = restore(&["explain", "14"]);
    assert_eq!(code(&output), 0);
    assert!(text(&output.stdout).contains("TM1401"));
    assert_eq!(code(&restore(&["explain", "TM0000"])), 2);
    assert!(text(&restore(&["completions", "bash"]).stdout).contains("tidemark-restore"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("restore.toml");
    std::fs::write(
        &file,
        "identity = \"id\"\n[[region]]\nname = \"a\"\nurl = \"dir:/a\"\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    // WHEN what it names is not there THEN the place in the config is told
    let output = restore(&["config", "check", path]);
    assert_eq!(code(&output), 78);
    assert!(text(&output.stderr).contains("restore.toml:1:12: "));
    std::fs::write(folder.path().join("id"), "").unwrap();
    let output = restore(&["config", "check", path]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("dir:/a"));
    std::fs::write(&file, "identiy = \"id\"\n").unwrap();
    let output = restore(&["config", "check", path]);
    assert_eq!(code(&output), 78);
    assert!(
        text(&output.stderr).contains("did you mean identity?"),
        "{}",
        text(&output.stderr)
    );
    let man = folder.path().join("man");
    assert_eq!(code(&restore(&["man", man.to_str().unwrap()])), 0);
    assert!(man.join("tidemark-restore-restore.1").exists());
}

#[test]
fn a_time_without_a_zone_is_refused_in_a_script() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("dir:{}", folder.path().display());
    let target = folder.path().join("t").display().to_string();
    let words = [
        "plan",
        "--to",
        "2026-05-01 14:31",
        "--target",
        &target,
        "--region",
        &url,
    ];
    let output = restore(&words);
    assert_eq!(code(&output), 2);
    assert!(
        text(&output.stderr).contains("TM0204"),
        "{}",
        text(&output.stderr)
    );
}
