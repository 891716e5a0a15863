//! The arrows between the crates, and where each heavy library may be used.
//!
//! The allowed edges are the table in `docs/ARCHITECTURE.md`: adding one is a reviewed change of that
//! page. Edges are compared both ways, so that the page shows no arrow that is gone.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidemark_tests::{cargo_metadata, cargo_tree, read, rust_sources, table_under};

/// Libraries that have one home, or few, as direct dependencies of production code.
const HOMES: &[(&str, &[&str])] = &[
    ("aws-sdk-s3", &["storage"]),
    ("aws-config", &["storage"]),
    ("aws-smithy-http-client", &["storage"]),
    ("aws-smithy-types", &["storage"]),
    ("aws-smithy-runtime-api", &["storage"]),
    ("zstd", &["open", "seal"]),
    ("aes-gcm", &["open", "seal"]),
    ("hpke", &["ledger", "open", "seal"]),
    ("cron", &["planner"]),
    ("chrono", &["planner"]),
    ("rusqlite", &["engine-sqlite"]),
    ("postgres-protocol", &["engine-postgres"]),
    ("tokio-rustls", &["engine-postgres"]),
    ("rustls-native-certs", &["engine-postgres"]),
    ("sqlx", &["engine-postgres"]),
    ("getrandom", &["host"]),
    ("sd-notify", &["cli"]),
    ("prometheus-client", &["agent", "restore-tool"]),
    ("indicatif", &["restore-tool"]),
    ("clap", &["agent", "cli", "restore-tool"]),
    ("anyhow", &["agent", "restore-tool"]),
];

/// Test-only edges besides those to the test kit: what is read was written by the real writer.
const TEST_EDGES: &[(&str, &str)] = &[("open", "seal"), ("restore-tool", "seal")];

/// Crates that may do what they like: they ship to nobody.
const UNSHIPPED: &[&str] = &["testkit", "tests", "benches"];

/// Libraries that may be nowhere in the graph: a second TLS stack, or known to be unsafe.
const BANNED: &[(&str, &str)] = &[
    ("ring", "the one provider is aws-lc-rs"),
    ("openssl", "the one TLS stack is rustls"),
    ("openssl-sys", "the one TLS stack is rustls"),
    ("native-tls", "the one TLS stack is rustls"),
    ("tokio-tar", "unmaintained, with known path traversal"),
    ("async-std", "the one runtime is tokio"),
];

/// Crates that decide or describe and must not act.
const PURE: &[&str] = &["format", "planner"];

/// What a pure crate's source may not name.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "tokio::",
    "SystemTime",
];

#[derive(Default)]
struct Member {
    normal: BTreeSet<String>,
    dev: BTreeSet<String>,
}

/// Member folder name → its direct dependencies, ours by folder name, others by package name.
fn members(metadata: &Value) -> BTreeMap<String, Member> {
    let ours: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .expect("workspace members")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut members = BTreeMap::new();
    for package in packages
        .iter()
        .filter(|p| p["id"].as_str().is_some_and(|id| ours.contains(id)))
    {
        let mut member = Member::default();
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = short(dependency["name"].as_str().expect("a name")).to_owned();
            if dependency["kind"].as_str() == Some("dev") {
                member.dev.insert(name);
            } else {
                member.normal.insert(name);
            }
        }
        members.insert(
            short(package["name"].as_str().expect("a name")).to_owned(),
            member,
        );
    }
    members
}

fn short(package: &str) -> &str {
    package.strip_prefix("tidemark-").unwrap_or(package)
}

/// The table of `docs/ARCHITECTURE.md`: crate → crates it may use.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let table = table_under(&read("docs/ARCHITECTURE.md"), "Arrows");
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    table
        .rows
        .iter()
        .map(|row| {
            (
                names(&row[0])
                    .pop_first()
                    .expect("a crate in the first column"),
                names(&row[1]),
            )
        })
        .collect()
}

/// Every package that `from` reaches, shortest path kept, over what a shipped build links.
fn reachable(metadata: &Value, from: &str) -> BTreeMap<String, Vec<String>> {
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter_map(|p| Some((p["id"].as_str()?, p["name"].as_str()?)))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| Some((node["id"].as_str()?, node)))
        .collect();
    let start = *name_of
        .iter()
        .find(|(_, name)| **name == from)
        .expect("the package exists")
        .0;
    let mut paths = BTreeMap::from([(start, vec![from.to_owned()])]);
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(id) = queue.pop_front() {
        for dependency in nodes[id]["deps"].as_array().expect("deps") {
            let kinds = dependency["dep_kinds"].as_array().expect("kinds");
            let shipped = kinds
                .iter()
                .any(|kind| kind["kind"].as_str() != Some("dev"));
            let next = dependency["pkg"].as_str().expect("a package");
            if shipped && !paths.contains_key(next) {
                let mut path = paths[id].clone();
                path.push(name_of[next].to_owned());
                paths.insert(next, path);
                queue.push_back(next);
            }
        }
    }
    paths
        .into_iter()
        .map(|(id, path)| (name_of[id].to_owned(), path))
        .collect()
}

fn assert_unreachable(from: &str, forbidden: &[&str]) {
    let reached = reachable(cargo_metadata(), from);
    for name in forbidden {
        if let Some(path) = reached.get(*name) {
            panic!(
                "{from} must not link {name}, but does: {}",
                path.join(" → ")
            );
        }
    }
}

#[test]
fn arrows_between_crates_are_those_of_the_architecture_page() {
    let (allowed, members) = (allowed(), members(cargo_metadata()));
    let mut wrong = Vec::new();
    for (name, member) in members
        .iter()
        .filter(|(name, _)| !UNSHIPPED.contains(&name.as_str()))
    {
        let Some(row) = allowed.get(name) else {
            wrong.push(format!(
                "{name} has no row in the table of docs/ARCHITECTURE.md"
            ));
            continue;
        };
        let used = member
            .normal
            .iter()
            .filter(|d| members.contains_key(*d))
            .cloned()
            .collect();
        let extra: Vec<_> = BTreeSet::difference(&used, row).cloned().collect();
        let gone: Vec<_> = row.difference(&used).cloned().collect();
        if !extra.is_empty() || !gone.is_empty() {
            wrong.push(format!(
                "{name}: not in the table {extra:?}, in the table only {gone:?}"
            ));
        }
    }
    let unknown = allowed.keys().filter(|name| !members.contains_key(*name));
    wrong.extend(unknown.map(|name| format!("{name} is in the table and not in the workspace")));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn development_edges_go_to_the_test_kit_only() {
    let members = members(cargo_metadata());
    for (name, member) in members
        .iter()
        .filter(|(name, _)| !UNSHIPPED.contains(&name.as_str()))
    {
        let is_known =
            |d: &str| d == "testkit" || d == name || TEST_EDGES.contains(&(name.as_str(), d));
        let unknown: Vec<_> = member
            .dev
            .iter()
            .filter(|d| members.contains_key(*d) && !member.normal.contains(*d) && !is_known(d))
            .collect();
        assert!(
            unknown.is_empty(),
            "{name} uses {unknown:?} in its tests: put that test into tests/"
        );
        assert!(
            !member.normal.contains("testkit"),
            "{name} would ship the test kit"
        );
    }
}

#[test]
fn agent_is_built_without_the_crate_that_decrypts() {
    assert_unreachable(
        "tidemark-agent",
        &["tidemark-open", "tidemark-restore-tool"],
    );
}

#[test]
fn restore_tool_is_built_without_the_write_path_and_the_agent() {
    assert_unreachable(
        "tidemark-restore-tool",
        &["tidemark-seal", "tidemark-agent"],
    );
}

#[test]
fn engines_know_neither_repository_nor_storage() {
    let repository = [
        "tidemark-ledger",
        "tidemark-storage",
        "tidemark-seal",
        "tidemark-open",
    ];
    assert_unreachable("tidemark-engine-sqlite", &repository);
    assert_unreachable("tidemark-engine-sqlite", &["aws-sdk-s3"]);
    assert_unreachable("tidemark-engine-postgres", &repository);
    assert_unreachable(
        "tidemark-engine-postgres",
        &["aws-sdk-s3", "tidemark-engine-sqlite"],
    );
}

#[test]
fn each_heavy_library_lives_where_it_belongs() {
    let members = members(cargo_metadata());
    let mut wrong = Vec::new();
    for (library, homes) in HOMES {
        for (name, member) in &members {
            let shipped = !UNSHIPPED.contains(&name.as_str());
            if shipped && member.normal.contains(*library) && !homes.contains(&name.as_str()) {
                wrong.push(format!("{name} uses {library}, which lives in {homes:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn banned_libraries_are_nowhere_in_the_graph() {
    let built = cargo_tree();
    assert!(
        built.iter().any(|name| name == "tokio"),
        "cargo tree shows the dependencies"
    );
    for (banned, reason) in BANNED {
        assert!(
            !built.iter().any(|name| name == banned),
            "{banned} is in the graph ({reason}); see: cargo tree --workspace -i {banned}"
        );
    }
}

#[test]
fn pure_crates_touch_no_clock_file_system_or_runtime() {
    let members = members(cargo_metadata());
    for name in PURE {
        assert!(
            !members[*name].normal.contains("tokio"),
            "{name} depends on tokio"
        );
    }
    let mut wrong = Vec::new();
    for source in rust_sources() {
        if !PURE
            .iter()
            .any(|name| source.path.starts_with(&format!("crates/{name}/src/")))
        {
            continue;
        }
        let code = source
            .production_lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            if let Some(path) = IMPURE_PATHS.iter().find(|path| line.contains(**path)) {
                wrong.push(format!(
                    "{} (code line {}): {path}",
                    source.path,
                    number + 1
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_member_inherits_lints_edition_and_licence() {
    for (name, _) in members(cargo_metadata()) {
        let folder = match name.as_str() {
            "agent" | "restore-tool" | "tests" | "benches" => name.clone(),
            _ => format!("crates/{name}"),
        };
        let manifest = read(format!("{folder}/Cargo.toml"));
        for wanted in [
            "[lints]\nworkspace = true",
            "edition.workspace",
            "license.workspace",
        ] {
            assert!(
                manifest.contains(wanted),
                "{folder}/Cargo.toml lacks `{wanted}`"
            );
        }
    }
}
