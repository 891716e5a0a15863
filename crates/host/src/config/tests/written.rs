//! The config files that `init` of both programs writes: read as they were meant, every key in them, and the
//! examples of the repository the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_format::KeyId;

use super::{FILE, good, parse, recipient, same_meaning, sqlite};
use crate::config::write::{self, NewAgent, NewDrill, NewRestore, NewSource};
use crate::config::{Assertion, ConfigError, Engine, Expected, Region, RestoreConfig, keys};

pub(super) fn new_agent() -> NewAgent {
    let urls = ["dir:/mnt/aarhus", "s3://backup/odense?region=eu-north-1"];
    let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
    NewAgent {
        state_dir: PathBuf::from("/srv/.tidemark"),
        recipients: vec![recipient(1).to_string(), recipient(2).to_string()],
        root: KeyId([2; 16]).to_string(),
        changed: vec![("ship_every", "\"1s\"".to_owned())],
        regions: Region::from_urls(&urls),
        sources: vec![NewSource {
            name: "app".to_owned(),
            engine: sqlite("/srv/a \"b\".db"),
        }],
    }
}

#[test]
fn what_init_writes_is_read_as_it_was_meant() {
    let config = parse(&new_agent().render()).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/srv/.tidemark"));
    assert_eq!(
        config.sources[0].settings.ship_every,
        Duration::from_secs(1)
    );
    assert_eq!(
        config.sources[0].engine,
        Engine::Sqlite {
            path: PathBuf::from("/srv/a \"b\".db")
        }
    );
    assert_eq!(config.recipients, [recipient(1), recipient(2)]);
}

/// The key of a line that is a commented default.
fn commented_key(line: &str) -> Option<&str> {
    let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
    key.bytes()
        .all(|b| b.is_ascii_lowercase() || b == b'_')
        .then_some(key)
}

#[test]
fn taking_the_comment_away_from_every_default_changes_nothing() {
    for regions in [1, 2] {
        let mut new = new_agent();
        new.regions.truncate(regions);
        let written = new.render();
        let uncommented: Vec<&str> = written
            .lines()
            .map(|line| {
                if commented_key(line).is_some() {
                    &line[2..]
                } else {
                    line
                }
            })
            .collect();
        let uncommented = uncommented.join("\n");
        assert!(uncommented.contains("\nack = \"spool\""), "{uncommented}");
        same_meaning(&parse(&written).unwrap(), &parse(&uncommented).unwrap());
    }
}

#[test]
fn every_key_is_written_once_on_a_line_of_its_own() {
    let written = new_agent().render();
    for spec in keys::AGENT {
        let begins = |line: &&str| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line.strip_prefix(spec.name).is_some_and(|rest| {
                !rest.starts_with('_') && !rest.starts_with(char::is_alphabetic)
            })
        };
        assert_eq!(written.lines().filter(begins).count(), 1, "{}", spec.name);
    }
}

#[test]
fn a_source_added_at_the_end_is_protected_too() {
    let more = NewSource {
        name: "more".to_owned(),
        engine: sqlite("/srv/more.db"),
    };
    let config = parse(&(new_agent().render() + &more.render())).unwrap();
    assert_eq!(config.sources.len(), 2);
}

#[test]
fn the_effective_config_reads_back_as_itself() {
    let config = good(
        "rpo = \"5m\"\nmetrics = \"127.0.0.1:0\"",
        "ship_every = \"2s\"\ndurable_in = 1",
    );
    same_meaning(&config, &parse(&write::effective(&config)).unwrap());
}

/// Compares a file of the repository with what the code writes; `TIDEMARK_UPDATE=1` writes it.
fn example(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../config")
        .join(name);
    if std::env::var_os("TIDEMARK_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == text,
        "config/{name} is not what init writes; run with TIDEMARK_UPDATE=1"
    );
}

fn example_regions() -> Vec<Region> {
    let urls = [
        "s3://example-backup/app?region=eu-north-1",
        "dir:/mnt/backup/app",
    ];
    let urls: Vec<_> = urls.iter().map(|url| url.parse().unwrap()).collect();
    let mut regions = Region::from_urls(&urls);
    for (region, name) in regions.iter_mut().zip(["stockholm", "aarhus"]) {
        region.name = name.parse().unwrap();
        region.failure_domain = name.to_owned();
    }
    regions[0].country = "SE".parse().ok();
    regions[1].country = "DK".parse().ok();
    regions
}

#[test]
fn the_example_of_the_repository_is_what_init_writes_and_names_nobody_as_recipient() {
    let new = NewAgent {
        state_dir: PathBuf::from("/var/lib/tidemark"),
        recipients: vec!["tmr1…".to_owned(), "tmr1…".to_owned()],
        root: "fingerprint".to_owned(),
        changed: Vec::new(),
        regions: example_regions(),
        sources: vec![NewSource {
            name: "app".to_owned(),
            engine: sqlite("/srv/app/app.db"),
        }],
    };
    example("agent.toml", &new.render());
    // Only what must be filled in is wrong with it: nobody's key stands there by mistake.
    let Err(ConfigError::Refused { problems }) = parse(&new.render()) else {
        panic!("refused")
    };
    assert_eq!(problems.len(), 3, "{problems:?}");
    let valid = new_agent();
    let filled = NewAgent {
        recipients: valid.recipients,
        root: valid.root,
        ..new
    };
    assert!(parse(&filled.render()).is_ok());
}

#[test]
fn the_restore_tools_example_is_what_the_code_writes() {
    let new = NewRestore {
        identity: Some(PathBuf::from("/etc/tidemark/identity")),
        regions: example_regions(),
        drills: vec![NewDrill {
            name: "nightly".to_owned(),
            source: "app".to_owned(),
            schedule: "0 3 * * *".to_owned(),
            assertions: vec![Assertion {
                id: "orders".to_owned(),
                database: None,
                sql: "SELECT count(*) FROM orders".to_owned(),
                expect: Some(Expected::Equals("120000".to_owned())),
                tolerance: Some("5%".to_owned()),
            }],
        }],
    };
    let text = new.render();
    example("restore.toml", &text);
    let config = RestoreConfig::parse(&text, Path::new(FILE)).unwrap();
    assert_eq!(config.regions.len(), 2);
    let drill = &config.drills.drills[0];
    assert_eq!(drill.assertions, new.drills[0].assertions);
    assert_eq!(
        config.identity,
        Some(PathBuf::from("/etc/tidemark/identity"))
    );
}

#[test]
fn a_restore_config_without_drills_shows_how_to_have_one_and_means_none() {
    let text = NewRestore::default().render();
    let config = RestoreConfig::parse(&text, Path::new(FILE)).unwrap();
    assert_eq!(config, RestoreConfig::default());
    let from = text.find("# [[drill]]").unwrap();
    let lines = text[from..].lines();
    let shown: Vec<&str> = lines
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .collect();
    let with = format!("{}{}", &text[..from], shown.join("\n"));
    let config = RestoreConfig::parse(&with, Path::new(FILE)).unwrap();
    assert_eq!(config.drills.drills[0].name.as_str(), "nightly");
}
