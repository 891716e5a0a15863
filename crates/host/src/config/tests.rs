//! The agent's config as users meet it: defaults, overrides, every refusal at the door with its
//! place and remedy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::written::new_agent;
use super::write;
use super::{Ack, AgentConfig, CanaryMode, ConfigError, ConfigFile, Engine, Surroundings};
use crate::{ByteSize, Exit, KeepFree};
use jiff::tz::TimeZone;
use tidemark_format::{KeyId, RepoId, recipient::RecipientKey};

mod written;

const FILE: &str = "/etc/tidemark/agent.toml";

fn recipient(n: u8) -> RecipientKey {
    RecipientKey {
        public: [n; 32],
        repo: RepoId([1; 16]),
        root: KeyId([2; 16]),
    }
}

/// The planner stands behind this in the programs.
fn check_schedule(text: &str, _zone: &TimeZone) -> Result<(), String> {
    if text.starts_with("never") {
        Err(format!("schedule {text:?} never fires"))
    } else {
        Ok(())
    }
}

/// The engine stands behind this in the programs.
fn check_postgres(text: &str) -> Result<(), String> {
    if text.contains("://") || text.contains('=') {
        Ok(())
    } else {
        Err(format!("{text:?} has no '='"))
    }
}

fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
    let around = Surroundings {
        state_directory: None,
        check_schedule: &check_schedule,
        check_postgres: &check_postgres,
    };
    AgentConfig::parse(text, Path::new(FILE), &around)
}

const REGIONS: &str = "
[[region]]
name = \"a\"
url = \"dir:/mnt/a\"
[[region]]
name = \"b\"
url = \"s3://bucket/b?region=eu-north-1\"
";

const SOURCE: &str = "
[[source]]
name = \"app\"
sqlite = \"/srv/app/app.db\"
";

fn file(top: &str, source: &str) -> String {
    let (one, two) = (recipient(1), recipient(2));
    format!("recipients = [\"{one}\", \"{two}\"]\n{top}\n{REGIONS}{SOURCE}{source}")
}

fn sqlite(path: &str) -> Engine {
    Engine::Sqlite {
        path: PathBuf::from(path),
    }
}

fn good(top: &str, source: &str) -> AgentConfig {
    parse(&file(top, source)).unwrap()
}

fn refused(text: &str) -> (String, Exit) {
    let error = parse(text).unwrap_err();
    (error.to_string(), error.code().exit)
}

/// The file with `top` and `source` is refused as a config, saying each of `words`.
fn refuses(top: &str, source: &str, words: &[&str]) {
    let (text, exit) = refused(&file(top, source));
    for word in words {
        assert!(text.contains(word), "no {word:?} in:\n{text}");
    }
    assert_eq!(exit, Exit::Config, "{text}");
}

/// Two readings of different texts with the same meaning.
fn same_meaning(one: &AgentConfig, two: &AgentConfig) {
    assert_eq!(
        &AgentConfig {
            hash: two.hash,
            ..one.clone()
        },
        two
    );
}

#[test]
fn a_short_file_gets_every_default() {
    let config = good("", "");
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/tidemark"));
    assert_eq!(config.memory, ByteSize::mib(128));
    assert_eq!(config.spool_max, ByteSize::mib(10 * 1024));
    assert_eq!(config.spool_keep_free, KeepFree::DEFAULT);
    assert_eq!(config.metrics, None);
    assert_eq!(config.root, KeyId([2; 16]));
    assert_eq!(config.regions[0].failure_domain, "a");
    let source = &config.sources[0];
    assert_eq!(
        source.engine,
        Engine::Sqlite {
            path: PathBuf::from("/srv/app/app.db")
        }
    );
    let settings = &source.settings;
    assert_eq!(settings.ship_every, Duration::from_secs(10));
    assert_eq!(settings.snapshot_every, Duration::from_secs(300));
    assert_eq!(settings.base_schedule, "30 2 * * *");
    assert_eq!(
        (settings.ack, settings.durable_in, settings.compression),
        (Ack::Spool, 2, 1)
    );
    assert_eq!(settings.retain_max, Duration::from_secs(90 * 86_400));
    assert_eq!(config.beat_every(), Duration::from_secs(60));
}

#[test]
fn a_source_overrides_what_stands_above_and_only_for_itself() {
    let more = "ship_every = \"1s\"\nbeat_every = \"20s\"\ntimezone = \"Europe/Copenhagen\"\n\
                [[source]]\nname = \"other\"\nsqlite = \"other.db\"\n";
    let config = good("ship_every = \"30s\"", more);
    let [app, other] = &config.sources[..] else {
        panic!("two sources")
    };
    assert_eq!(app.settings.ship_every, Duration::from_secs(1));
    assert_eq!(app.settings.timezone.iana_name(), Some("Europe/Copenhagen"));
    assert_eq!(other.settings.ship_every, Duration::from_secs(30));
    assert_eq!(other.settings.timezone, TimeZone::UTC);
    // Beside the config file, and no other way.
    assert_eq!(
        other.engine,
        Engine::Sqlite {
            path: PathBuf::from("/etc/tidemark/other.db")
        }
    );
    assert_eq!(
        config.beat_every(),
        Duration::from_secs(20),
        "the most demanding source decides"
    );
}

#[test]
fn a_source_without_a_name_is_called_after_its_file() {
    let config = good("", "[[source]]\nsqlite = \"/srv/My App.v2.db\"\n");
    assert_eq!(config.sources[1].name.as_str(), "my-app-v2");
}

#[test]
fn regions_that_fail_together_make_one_domain_durable() {
    let text = file("", "").replace(
        "[[region]]\nname = \"b\"",
        "failure_domain = \"a\"\n[[region]]\nname = \"b\"\nfailure_domain = \"a\"",
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.sources[0].settings.durable_in, 1);
}

#[test]
fn systemds_state_directory_wins() {
    let around = Surroundings {
        state_directory: Some(Path::new("/run/state")),
        check_schedule: &check_schedule,
        check_postgres: &check_postgres,
    };
    let config = AgentConfig::parse(&file("state_dir = \"/x\"", ""), Path::new(FILE), &around);
    assert_eq!(config.unwrap().state_dir, PathBuf::from("/run/state"));
}

#[test]
fn an_unknown_key_is_shown_with_line_caret_and_the_near_ones() {
    let (text, exit) = refused(&file("shipevery = \"10s\"", ""));
    let picture = "\
/etc/tidemark/agent.toml:2:1: unknown key `shipevery`
  |
2 | shipevery = \"10s\"
  | ^^^^^^^^^
  = did you mean ship_every? keys here: ack, ";
    assert!(text.starts_with(picture), "{text}");
    assert_eq!(exit, Exit::Config);
    assert_eq!(
        parse(&file("shipevery = \"10s\"", ""))
            .unwrap_err()
            .code()
            .id,
        "TM7801"
    );
}

#[test]
fn a_known_key_in_the_wrong_table_is_told_where_it_belongs() {
    refuses(
        "",
        "memory = \"1GiB\"",
        &["stands above the first [[region]]", "agent.toml:"],
    );
    refuses("sqlite = \"/a\"", "", &["belongs into a [[source]]"]);
    refuses("url = \"dir:/a\"", "", &["belongs into a [[region]]"]);
}

#[test]
fn text_that_is_no_toml_is_shown_where_it_breaks() {
    refuses("ship_every = ", "", &["agent.toml:2:", "^"]);
    refuses("ship_every = 10", "", &["agent.toml:2:14", "in quotes"]);
}

#[test]
fn a_file_that_lost_a_character_or_its_end_is_read_or_refused_in_words() {
    let whole = file("ship_every = \"10s\" # é…\nresidency = []", "rpo = \"5m\"");
    for (at, c) in whole.char_indices() {
        let without = format!("{}{}", &whole[..at], &whole[at + c.len_utf8()..]);
        for text in [&whole[..at], without.as_str()] {
            if let Err(error) = parse(text) {
                assert!(error.to_string().starts_with(FILE), "{error}");
            }
        }
    }
}

#[test]
fn every_value_out_of_range_is_refused_with_what_is_allowed() {
    for (key, value, word) in [
        ("ship_every", "\"99ms\"", "at least \"100ms\""),
        ("ship_every", "\"fast\"", "is not a duration"),
        ("snapshot_every", "\"0s\"", "too short"),
        ("beat_every", "\"10ms\"", "too short"),
        ("memory", "\"8MiB\"", "at least \"32MiB\""),
        ("memory", "\"lots\"", "is not a size"),
        ("spool_max", "\"1MiB\"", "at least \"16MiB\""),
        ("spool_keep_free", "\"95%\"", "neither a share nor a size"),
        ("threads", "-1", "number of threads"),
        ("ack", "\"never\"", "\"spool\" or \"regions\""),
        ("protect", "\"me\"", "\"database\" or \"chain\""),
        ("durable_in", "0", "at least 1"),
        ("compression", "23", "1 to 19"),
        ("timezone", "\"Mars\"", "is not known"),
        ("base_schedule", "\"never\"", "never fires"),
        ("metrics", "\"0.0.0.0:9187\"", "loopback"),
        ("metrics", "\"9187\"", "is not an address"),
        ("residency", "[\"Denmark\"]", "two capital letters"),
        ("root", "\"abc\"", "32 hex digits"),
        ("state_dir", "\"\"", "is not a path"),
    ] {
        let line = format!("{key} = {value}");
        let (text, _) = refused(&file(&line, ""));
        assert!(text.contains(word), "{line}: no {word:?} in:\n{text}");
        assert!(
            text.contains("agent.toml:2:"),
            "{line}: no place in:\n{text}"
        );
    }
}

#[test]
fn settings_that_can_not_hold_together_are_refused() {
    refuses(
        "",
        "ack = \"regions\"",
        &["can't hold for SQLite", "agent.toml:14:7"],
    );
    refuses(
        "durable_in = 3",
        "",
        &["have 2 failure domain(s)", "lower durable_in"],
    );
    refuses(
        "rpo = \"15s\"",
        "",
        &["ship_every = \"10s\" is more than half of rpo"],
    );
    refuses(
        "rpo = \"90s\"",
        "",
        &["beat_every = \"1m\" is more than half of rpo"],
    );
    refuses("retain_max = \"37d\"", "", &["38d old", "raise retain_max"]);
    refuses(
        "",
        "canary = \"message\"",
        &["can't hold for SQLite", "write canary = \"table\""],
    );
    refuses(
        "canary = \"table\"\ncanary_every = \"1m\"\n[objectives]\npitr_precision = \"1m\"",
        "",
        &["canary_every = \"1m\" is more than half of pitr_precision"],
    );
    assert!(parse(&file("retain_max = \"38d\"\nrpo = \"2m\"", "")).is_ok());
}

#[test]
fn canaries_are_off_unless_a_source_asks_for_them() {
    let config = good(
        "canary_every = \"1m\"",
        "canary = \"table\"\n[[source]]\nname = \"other\"\nsqlite = \"other.db\"\n",
    );
    let [app, other] = &config.sources[..] else {
        panic!("two sources")
    };
    assert_eq!(app.settings.canary, CanaryMode::Table);
    assert_eq!(other.settings.canary, CanaryMode::Off);
    assert_eq!(app.settings.canary_every, Duration::from_secs(60));
    refuses(
        "canary = \"bird\"",
        "",
        &["write \"off\", \"table\" or \"message\""],
    );
    refuses("canary_every = \"100ms\"", "", &["at least \"1s\""]);
}

#[test]
fn objectives_stand_in_a_table_of_their_own_for_all_sources_or_for_one() {
    let config = good(
        "[objectives]\nrpo = \"5m\"\nwindow = \"14d\"",
        "[source.objectives]\nrpo = \"2m\"\npitr_precision = \"1m\"\n\
         [[source]]\nname = \"other\"\nsqlite = \"other.db\"\n",
    );
    let [app, other] = &config.sources[..] else {
        panic!("two sources")
    };
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    assert_eq!(
        (app.settings.rpo, other.settings.rpo),
        (minutes(2), minutes(5))
    );
    assert_eq!(app.settings.pitr_precision, minutes(1));
    assert_eq!(other.settings.window, minutes(14 * 24 * 60));
    same_meaning(&config, &parse(&write::effective(&config)).unwrap());
}

#[test]
fn objectives_that_the_other_settings_can_not_hold_are_refused() {
    for (top, words) in [
        (
            "[objectives]\nrpo = \"15s\"",
            "ship_every = \"10s\" is more than half of rpo",
        ),
        (
            "[objectives]\nrpo = \"90s\"",
            "beat_every = \"1m\" is more than half of rpo",
        ),
        (
            "[objectives]\nwindow = \"31d\"",
            "recoverable_for keeps \"30d\"",
        ),
        ("[objectives]\npitr_precision = \"5s\"", "every 10s"),
        ("[objectives]\nrto = \"1h\"", "unknown key `rto`"),
    ] {
        refuses(top, "", &[words, "agent.toml:"]);
    }
}

#[test]
fn a_problem_of_the_top_is_told_once_for_many_sources() {
    let (text, _) = refused(&file("durable_in = 3", "[[source]]\nsqlite = \"/b.db\"\n"));
    assert_eq!(text.matches("can never be reached").count(), 1, "{text}");
}

#[test]
fn all_problems_are_told_at_once_in_the_files_order() {
    let (text, _) = refused(&file(
        "ship_every = \"1ms\"\nmemory = \"1B\"",
        "compression = 99",
    ));
    let places: Vec<usize> = ["\"1ms\" is", "\"1B\" is", "99 is"]
        .iter()
        .map(|word| text.find(word).unwrap())
        .collect();
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn doubles_are_refused() {
    refuses(
        "",
        "[[source]]\nname = \"app\"\nsqlite = \"/b.db\"",
        &["two sources are named `app`"],
    );
    refuses(
        "",
        "[[source]]\nname = \"b\"\nsqlite = \"/srv/x/../app/app.db\"",
        &["source `app` already"],
    );
    refuses(
        "",
        "[[region]]\nname = \"a\"\nurl = \"dir:/c\"",
        &["two regions are named `a`"],
    );
    refuses(
        "",
        "[[region]]\nname = \"c\"\nurl = \"dir:/mnt/a/\"",
        &["same place as region `a`"],
    );
}

#[test]
fn what_is_missing_is_asked_for() {
    let (text, exit) = refused("");
    for word in ["no [[region]]", "no [[source]]", "no recipients"] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(exit, Exit::Config);
    refuses("", "[[source]]\nname = \"x\"", &["this needs sqlite"]);
    refuses("", "[[region]]\nname = \"x\"", &["this needs url"]);
}

#[test]
fn recipients_must_be_whole_and_of_one_repository() {
    let other = RecipientKey {
        repo: RepoId([9; 16]),
        ..recipient(3)
    };
    let text = file("", "");
    let with = |key: &str| text.replace(&format!("\"{}\"]", recipient(2)), &format!("\"{key}\"]"));
    assert!(refused(&with("tmr1abc")).0.contains("damaged"));
    assert!(refused(&with("age1abc")).0.contains("begins with tmr1"));
    assert!(
        refused(&with(&other.to_string()))
            .0
            .contains("another repository")
    );
    assert!(
        refused(&with(&recipient(1).to_string()))
            .0
            .contains("twice")
    );
    let root = KeyId([7; 16]);
    refuses(
        &format!("root = \"{root}\""),
        "",
        &["this recipient names root", "key card"],
    );
}

#[test]
fn a_region_outside_the_residency_list_is_a_matter_of_policy() {
    let (text, exit) = refused(&file("residency = [\"DK\"]", ""));
    assert!(
        text.contains("region `a`") && text.contains("outside residency = [DK]"),
        "{text}"
    );
    assert_eq!(exit, Exit::Policy);
    let inside = file("residency = [\"DK\", \"SE\"]", "")
        .replace("name = \"a\"", "name = \"a\"\ncountry = \"DK\"")
        .replace("name = \"b\"", "name = \"b\"\ncountry = \"SE\"");
    assert_eq!(
        parse(&inside).unwrap().regions[1]
            .country
            .as_ref()
            .unwrap()
            .as_str(),
        "SE"
    );
}

/// The file's second source is this PostgreSQL cluster.
fn cluster(more: &str) -> String {
    format!("[[source]]\npostgres = \"postgres://tidemark@db1/Shop\"\n{more}\n")
}

#[test]
fn a_cluster_is_named_by_its_database_and_gets_a_slot_of_that_name() {
    let config = good("", &cluster(""));
    let source = &config.sources[1];
    assert_eq!(source.name.as_str(), "shop");
    let Engine::Postgres { conninfo, slot } = &source.engine else {
        panic!("a cluster")
    };
    assert_eq!(conninfo, "postgres://tidemark@db1/Shop");
    assert_eq!(slot, "tidemark_shop");
    let named = good("", &cluster("name = \"15-main\"\nslot = \"ours\""));
    let Engine::Postgres { slot, .. } = &named.sources[1].engine else {
        panic!("a cluster")
    };
    assert_eq!(
        (named.sources[1].name.as_str(), slot.as_str()),
        ("15-main", "ours")
    );
}

#[test]
fn a_cluster_may_wait_for_the_regions_and_a_file_may_not() {
    let config = good("", &cluster("ack = \"regions\""));
    assert_eq!(config.sources[1].settings.ack, Ack::Regions);
    refuses("", "ack = \"regions\"", &["can't hold for SQLite", "^"]);
}

#[test]
fn what_is_wrong_with_a_cluster_is_shown_at_its_place() {
    refuses(
        "",
        "[[source]]\npostgres = \"nonsense\"",
        &["has no '='", "^"],
    );
    refuses(
        "",
        "[[source]]\npostgres = \" \"",
        &["names no server", "^"],
    );
    // The line is pointed at, and what may be a password in it is not shown.
    let one = |name: &str| {
        format!("[[source]]\nname = \"{name}\"\npostgres = \"postgres://a:secret@h/db\"\n")
    };
    let (text, _) = refused(&file("", &(one("x") + &one("y"))));
    assert!(text.contains("^") && !text.contains("secret"), "{text}");
    refuses(
        "",
        "[[source]]\npostgres = \"host=h\"",
        &["no name can be made of this connection string", "^"],
    );
    refuses(
        "",
        &cluster("slot = \"Ours-1\""),
        &["no name for a slot", "^"],
    );
    refuses("", "slot = \"ours\"", &["slot is for PostgreSQL"]);
    refuses(
        "",
        &cluster("sqlite = \"/x.db\""),
        &["a source is one database"],
    );
    let twice = cluster("name = \"a\"") + &cluster("name = \"b\"");
    refuses("", &twice, &["database of source `a` already"]);
    refuses("postgres = \"host=h\"", "", &["belongs into a [[source]]"]);
}

#[test]
fn a_cluster_that_init_writes_is_read_as_it_was_meant_and_shown_without_its_password() {
    let engine = Engine::Postgres {
        conninfo: "postgres://a:secret@h/db".to_owned(),
        slot: "ours".to_owned(),
    };
    let mut new = new_agent();
    new.sources[0].engine = engine.clone();
    let config = parse(&new.render()).unwrap();
    assert_eq!(config.sources[0].engine, engine);
    let shown = write::effective(&config);
    assert!(
        !shown.contains("secret") && shown.contains("slot = \"ours\""),
        "{shown}"
    );
}

#[test]
fn without_a_file_the_error_says_where_it_was_looked_for() {
    let given = Path::new("/nowhere/agent.toml");
    assert_eq!(ConfigFile::Agent.find(Some(given)).unwrap(), given);
    let around = Surroundings {
        state_directory: None,
        check_schedule: &check_schedule,
        check_postgres: &check_postgres,
    };
    let unreadable = AgentConfig::load(given, &around).unwrap_err();
    assert!(matches!(unreadable, ConfigError::Unreadable(_)));
    if let Err(missing) = ConfigFile::Restore.find(None) {
        assert!(missing.to_string().contains("/etc/tidemark/restore.toml"));
        assert_eq!(missing.code().id, "TM7804");
    }
}
