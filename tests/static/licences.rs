//! Only licences that let anyone ship Tidemark as it is: permissive ones.

use tidemark_tests::{cargo_metadata, root};

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Whether an SPDX expression can be satisfied by allowed licences alone.
fn is_allowed(expression: &str) -> bool {
    // Older manifests write "A/B" for "A OR B".
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let (allowed, used) = any_of(&tokens);
    allowed && used == tokens.len()
}

/// A OR B OR …: whether it holds, and how many tokens it took.
fn any_of(tokens: &[&str]) -> (bool, usize) {
    let (mut holds, mut at) = all_of(tokens);
    while tokens.get(at) == Some(&"OR") {
        let (more, used) = all_of(&tokens[at + 1..]);
        (holds, at) = (holds || more, at + 1 + used);
    }
    (holds, at)
}

/// A AND B AND …, which binds more tightly.
fn all_of(tokens: &[&str]) -> (bool, usize) {
    let (mut holds, mut at) = one(tokens);
    while tokens.get(at) == Some(&"AND") {
        let (more, used) = one(&tokens[at + 1..]);
        (holds, at) = (holds && more, at + 1 + used);
    }
    (holds, at)
}

fn one(tokens: &[&str]) -> (bool, usize) {
    match tokens {
        ["(", rest @ ..] => {
            let (holds, used) = any_of(rest);
            (holds, used + 2)
        }
        [licence, "WITH", exception, ..] => (
            ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()),
            3,
        ),
        [licence, ..] => (ALLOWED.contains(licence), 1),
        // Past the end: no expression of this length.
        [] => (false, 1),
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "ISC AND (GPL-3.0 OR MIT)",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "",
        "MIT OR",
        "ISC AND (GPL-3.0 OR AGPL-3.0)",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
    assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR GPL-3.0"));
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let metadata = cargo_metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence) {
            wrong.push(format!("{}: {licence:?}", package["name"]));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn own_licence_texts_are_there() {
    let metadata = cargo_metadata();
    let members = metadata["workspace_members"].as_array().expect("members");
    for package in metadata["packages"].as_array().expect("packages") {
        if members.contains(&package["id"]) {
            assert_eq!(
                package["license"], "Apache-2.0 OR MIT",
                "{}",
                package["name"]
            );
        }
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        assert!(root().join(file).exists(), "{file} is missing");
    }
}
