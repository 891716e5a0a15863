//! Config files as `init` writes them, and the effective config as `config show` prints it.
//!
//! Every key stands on a line of its own, commented where it has its default, so that the file is
//! its own manual and a script can change any key by the beginning of its line.

use std::path::{Path, PathBuf};

use super::agent::AgentConfig;
use super::drills::{Assertion, Expected};
use super::keys::{AGENT, ASSERT, DRILL, DRILLS, KeySpec, OBJECTIVES, REGION, RESTORE};
use super::regions::{Region, failure_domains};
use super::sources::{Engine, without_password};

/// How to read the rest of the file.
const HEADER: &str = "\
# A line that begins with '#' and a key shows the key's default: take the '#' away to change it.
# Check the file with `config check`; unknown keys are refused.
";

/// What `init` knows when it writes an `agent.toml`.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// Whom sessions are sealed to.
    pub recipients: Vec<String>,
    /// The root's fingerprint.
    pub root: String,
    /// Other keys that are not to have their default, with their values as TOML.
    pub changed: Vec<(&'static str, String)>,
    /// At least one.
    pub regions: Vec<Region>,
    /// At least one.
    pub sources: Vec<NewSource>,
}

/// A source to be written.
#[derive(Debug, Clone)]
pub struct NewSource {
    /// Its name.
    pub name: String,
    /// What it is.
    pub engine: Engine,
}

impl NewAgent {
    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("# Tidemark agent.\n");
        text.push_str(HEADER);
        let domains = failure_domains(&self.regions);
        for spec in AGENT {
            text.push('\n');
            let durable_in = domains.clamp(1, 2).to_string();
            let default = if spec.name == "durable_in" {
                Some(durable_in.as_str())
            } else {
                spec.default
            };
            key(&mut text, spec, default, self.value(spec.name).as_deref());
        }
        for one in &self.regions {
            text.push_str(&region(one));
        }
        for one in &self.sources {
            text.push_str(&one.render());
        }
        text
    }

    fn value(&self, key: &str) -> Option<String> {
        match key {
            "state_dir" => Some(path(&self.state_dir)),
            "recipients" => Some(list(&self.recipients)),
            "root" => Some(quoted(&self.root)),
            key => {
                let changed = self.changed.iter().find(|(name, _)| *name == key);
                changed.map(|(_, value)| value.clone())
            }
        }
    }
}

impl NewSource {
    /// Its table; appended to a config it adds the source.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "\n# A key above that concerns one database may stand here again, for this one alone.\n\
             [[source]]\nname = {}\n",
            quoted(&self.name)
        );
        match &self.engine {
            Engine::Sqlite { path: database } => line(&mut text, "sqlite", &path(database)),
            Engine::Postgres { conninfo, slot } => {
                line(&mut text, "postgres", &quoted(conninfo));
                text.push_str("# The replication slot on the server.\n");
                line(&mut text, "slot", &quoted(slot));
            }
        }
        text
    }
}

/// What `init` of the restore tool knows when it writes a `restore.toml`.
#[derive(Debug, Clone, Default)]
pub struct NewRestore {
    /// The file with the recovery identity.
    pub identity: Option<PathBuf>,
    /// The regions.
    pub regions: Vec<Region>,
    /// What is to be drilled; without one the file shows how, commented.
    pub drills: Vec<NewDrill>,
}

/// A drill to be written.
#[derive(Debug, Clone)]
pub struct NewDrill {
    /// Its name.
    pub name: String,
    /// The source.
    pub source: String,
    /// When.
    pub schedule: String,
    /// Its assertions.
    pub assertions: Vec<Assertion>,
}

impl NewRestore {
    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text =
            String::from("# Tidemark restore tool. Everything here can be an argument instead.\n");
        text.push_str(HEADER);
        for spec in RESTORE {
            text.push('\n');
            let identity = self.identity.as_deref();
            let value = identity.filter(|_| spec.name == "identity").map(path);
            key(&mut text, spec, spec.default, value.as_deref());
        }
        for one in &self.regions {
            text.push_str(&region(one));
        }
        text.push_str(
            "\n# What is promised of every source; of one alone under [objectives.source.NAME].\n[objectives]\n",
        );
        for spec in OBJECTIVES {
            key(&mut text, spec, spec.default, None);
        }
        text.push_str(
            "\n# What holds for all scheduled drills, which `tidemark-restore run` owns.\n[drills]\n",
        );
        for spec in DRILLS {
            key(&mut text, spec, spec.default, None);
        }
        for one in &self.drills {
            text.push_str(&one.render());
        }
        if self.drills.is_empty() {
            text.push_str(&commented(&NewDrill::example().render()));
        }
        text
    }
}

impl NewDrill {
    /// One that shows how.
    fn example() -> Self {
        Self {
            name: "nightly".to_owned(),
            source: "app".to_owned(),
            schedule: "0 3 * * *".to_owned(),
            assertions: Vec::new(),
        }
    }

    /// Its table.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("\n[[drill]]\n");
        for spec in DRILL {
            let value = match spec.name {
                "name" => Some(quoted(&self.name)),
                "source" => Some(quoted(&self.source)),
                "schedule" => Some(quoted(&self.schedule)),
                _ => None,
            };
            key(&mut text, spec, spec.default, value.as_deref());
        }
        for one in &self.assertions {
            text.push_str(&assertion(one));
        }
        text
    }
}

/// The table of an assertion.
fn assertion(one: &Assertion) -> String {
    let mut text = String::from("\n[[drill.assert]]\n");
    for spec in ASSERT {
        for about in spec.about {
            text.push_str(&format!("# {about}\n"));
        }
        let number = |text: &str| match text.parse::<f64>() {
            Ok(_number) => text.to_owned(),
            Err(_text) => quoted(text),
        };
        match (spec.name, &one.expect, &one.tolerance) {
            ("id", ..) => line(&mut text, "id", &quoted(&one.id)),
            ("sql", ..) => line(&mut text, "sql", &quoted(&one.sql)),
            ("expect", Some(Expected::Equals(value)), _) => {
                line(&mut text, "expect", &number(value));
            }
            ("expect", Some(Expected::AtLeast(least)), _) => line(&mut text, "at_least", least),
            ("expect", Some(Expected::AtMost(most)), _) => line(&mut text, "at_most", most),
            ("tolerance", _, Some(tolerance)) => line(&mut text, "tolerance", &number(tolerance)),
            _ => {}
        }
    }
    text
}

/// Every line behind a `#`.
fn commented(text: &str) -> String {
    let lines = text.lines().map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("# {line}\n"),
    });
    lines.collect()
}

/// The config as it holds, defaults and overrides resolved; it can be read as a config again.
#[must_use]
pub fn effective(config: &AgentConfig) -> String {
    let recipients: Vec<String> = config.recipients.iter().map(ToString::to_string).collect();
    let residency: Vec<String> = config.residency.iter().map(ToString::to_string).collect();
    let threads = config.threads.map_or(0, std::num::NonZeroUsize::get);
    let metrics = config
        .metrics
        .map(|address| address.to_string())
        .unwrap_or_default();
    let mut text = String::new();
    line(&mut text, "state_dir", &path(&config.state_dir));
    line(&mut text, "memory", &quoted(&config.memory.to_string()));
    line(&mut text, "threads", &threads.to_string());
    line(
        &mut text,
        "spool_max",
        &quoted(&config.spool_max.to_string()),
    );
    line(
        &mut text,
        "spool_keep_free",
        &quoted(&config.spool_keep_free.to_string()),
    );
    line(&mut text, "residency", &list(&residency));
    line(&mut text, "metrics", &quoted(&metrics));
    line(&mut text, "recipients", &list(&recipients));
    line(&mut text, "root", &quoted(&config.root.to_string()));
    for region in &config.regions {
        text.push_str("\n[[region]]\n");
        line(&mut text, "name", &quoted(region.name.as_str()));
        line(&mut text, "url", &quoted(&region.url.to_string()));
        let country = region
            .country
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        line(&mut text, "country", &quoted(&country));
        // Nothing, where nobody named one: it reads back as the region's own name, and as not named.
        let domain = region.failure_domain.as_str();
        let domain = if region.domain_named { domain } else { "" };
        line(&mut text, "failure_domain", &quoted(domain));
    }
    for source in &config.sources {
        text.push_str("\n[[source]]\n");
        line(&mut text, "name", &quoted(source.name.as_str()));
        match &source.engine {
            Engine::Sqlite { path: database } => line(&mut text, "sqlite", &path(database)),
            Engine::Postgres { conninfo, slot } => {
                let shown = without_password(conninfo);
                line(&mut text, "postgres", &quoted(&shown));
                line(&mut text, "slot", &quoted(slot));
            }
        }
        for (name, value) in source.settings.entries() {
            line(&mut text, name, &value);
        }
        let promises = source.settings.promises();
        if !promises.is_empty() {
            text.push_str("[source.objectives]\n");
        }
        for (name, value) in promises {
            line(&mut text, name, &value);
        }
    }
    text
}

fn region(region: &Region) -> String {
    let mut text = String::from("\n[[region]]\n");
    for spec in REGION {
        let own_domain = region.failure_domain == region.name.as_str();
        let value = match spec.name {
            "name" => Some(quoted(region.name.as_str())),
            "url" => Some(quoted(&region.url.to_string())),
            "country" => region
                .country
                .as_ref()
                .map(|country| quoted(country.as_str())),
            _ => (!own_domain).then(|| quoted(&region.failure_domain)),
        };
        key(&mut text, spec, spec.default, value.as_deref());
    }
    text
}

/// A key with its comment above: its value, or its default behind a `#`.
fn key(text: &mut String, spec: &KeySpec, default: Option<&str>, value: Option<&str>) {
    for about in spec.about {
        text.push_str("# ");
        text.push_str(about);
        text.push('\n');
    }
    match (value, default) {
        (Some(value), default) if default != Some(value) => line(text, spec.name, value),
        (_, Some(default)) => line(text, &format!("# {}", spec.name), default),
        (_, None) => {}
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!("{name} = {value}\n"));
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}
