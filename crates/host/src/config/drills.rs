//! `[drills]` and `[[drill]]` of `restore.toml`: when the restore tool drills what, and how.
//!
//! Host knows no planner: whether a schedule, a selection or a scenario can be read is asked through
//! [`DrillChecks`].

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Deserialize;
use tidemark_format::{DrillName, RegionName, SourceName};
use toml::Spanned;

use super::agent::{read_metrics, read_path};
use super::diagnose::{Findings, ProblemKind, Span, hint};
use super::regions::{Region, parsed, required};
use super::settings::{Located, at_least, set, zone};

/// What decides whether a drill's words can be read.
#[derive(Clone, Copy)]
pub struct DrillChecks<'a> {
    /// Says why a schedule can't be used in a zone.
    pub schedule: &'a dyn Fn(&str, &TimeZone) -> Result<(), String>,
    /// Says why a selection can't be read.
    pub select: &'a dyn Fn(&str) -> Result<(), String>,
    /// Says why a scenario can't be read.
    pub scenario: &'a dyn Fn(&str) -> Result<(), String>,
    /// The region that a scenario is about.
    pub scenario_region: &'a dyn Fn(&str) -> Option<RegionName>,
    /// Says why a file or folder that is named can't be used. `config check` alone asks: whoever names
    /// another one on the command line must not be kept from it.
    pub place: &'a dyn Fn(&Path) -> Result<(), String>,
}

impl std::fmt::Debug for DrillChecks<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DrillChecks").finish_non_exhaustive()
    }
}

impl DrillChecks<'_> {
    /// Takes every word: for those who read no drills.
    pub const NONE: DrillChecks<'static> = DrillChecks {
        schedule: &|_text, _zone| Ok(()),
        select: &|_text| Ok(()),
        scenario: &|_text| Ok(()),
        scenario_region: &|_text| None,
        place: &|_path| Ok(()),
    };
}

/// All that is to be drilled from this host, and where it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drills {
    /// How often the repository is looked at for what other hosts did.
    pub look_every: Duration,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The file that metrics are written to.
    pub metrics_file: Option<PathBuf>,
    /// The drills.
    pub drills: Vec<Drill>,
}

impl Default for Drills {
    fn default() -> Self {
        Self {
            look_every: MINUTE,
            metrics: None,
            metrics_file: None,
            drills: Vec::new(),
        }
    }
}

/// One scheduled drill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// Its name: hosts that share it take turns.
    pub name: DrillName,
    /// What is restored.
    pub source: SourceName,
    /// When: a crontab line.
    pub schedule: String,
    /// Which instant: as `drill run --select` takes it.
    pub select: String,
    /// Under which circumstances: as `drill run --scenario` takes it.
    pub scenario: Option<String>,
    /// Whether every page and index is checked.
    pub full: bool,
    /// What it is evidence for.
    pub frameworks: Vec<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// The runbook that it follows.
    pub runbook: Option<String>,
    /// Statements of the user's that must answer as expected.
    pub assertions: Vec<Assertion>,
    /// What may stand in `[drills]` for all of them.
    pub rules: DrillRules,
}

/// What a drill may have in common with the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillRules {
    /// The schedule's zone.
    pub timezone: TimeZone,
    /// Starts are put off by up to so long.
    pub jitter: Duration,
    /// Where the restored database lies meanwhile; `None` is chosen.
    pub scratch: Option<PathBuf>,
    /// The folder of the server's programs; `None` is found.
    pub pg_bin: Option<PathBuf>,
    /// A drill that takes longer is ended, inconclusive.
    pub timeout: Duration,
    /// For how long a turn is claimed at first.
    pub claim_for: Duration,
    /// When an inconclusive drill is tried again.
    pub retry_after: Duration,
    /// When a drill that was not done is overdue.
    pub overdue_after: Duration,
    /// Whether it may run where the source runs.
    pub allow_source_host: bool,
}

/// A statement that must answer as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    /// What it is called.
    pub id: String,
    /// The database that is asked, of a server.
    pub database: Option<String>,
    /// The statement: it answers one value.
    pub sql: String,
    /// What it must be; none is only recorded.
    pub expect: Option<Expected>,
    /// How far a number may be off: a number, or a percentage with `%`.
    pub tolerance: Option<String>,
}

/// What a statement must answer. Numbers stand as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This value.
    Equals(String),
    /// At least this number.
    AtLeast(String),
    /// At most this number.
    AtMost(String),
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Names in records and tables: longer ones would break their lines.
const ID_CHARS_MAX: usize = 80;

/// Defines a table whose keys are the given ones and those that drills share.
macro_rules! with_rules {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(#[serde(default)] $key: $type,)*
            timezone: Option<Spanned<String>>,
            jitter: Option<Spanned<String>>,
            scratch: Option<Spanned<String>>,
            pg_bin: Option<Spanned<String>>,
            timeout: Option<Spanned<String>>,
            claim_for: Option<Spanned<String>>,
            retry_after: Option<Spanned<String>>,
            overdue_after: Option<Spanned<String>>,
            allow_source_host: Option<Spanned<bool>>,
        }

        impl $name {
            fn take_rules(&mut self) -> RawRules {
                RawRules {
                    timezone: self.timezone.take(),
                    jitter: self.jitter.take(),
                    scratch: self.scratch.take(),
                    pg_bin: self.pg_bin.take(),
                    timeout: self.timeout.take(),
                    claim_for: self.claim_for.take(),
                    retry_after: self.retry_after.take(),
                    overdue_after: self.overdue_after.take(),
                    allow_source_host: self.allow_source_host.take(),
                }
            }
        }
    };
}

with_rules! {
    /// `[drills]` as written.
    RawDrills {
        look_every: Option<Spanned<String>>,
        metrics: Option<Spanned<String>>,
        metrics_file: Option<Spanned<String>>,
    }
}

with_rules! {
    /// `[[drill]]` as written.
    RawDrill {
        name: Option<Spanned<String>>,
        source: Option<Spanned<String>>,
        schedule: Option<Spanned<String>>,
        select: Option<Spanned<String>>,
        scenario: Option<Spanned<String>>,
        full: Option<Spanned<bool>>,
        frameworks: Vec<String>,
        owner: Option<Spanned<String>>,
        runbook: Option<Spanned<String>>,
        assert: Vec<Spanned<RawAssertion>>,
    }
}

/// The shared keys as written, in one table.
struct RawRules {
    timezone: Option<Spanned<String>>,
    jitter: Option<Spanned<String>>,
    scratch: Option<Spanned<String>>,
    pg_bin: Option<Spanned<String>>,
    timeout: Option<Spanned<String>>,
    claim_for: Option<Spanned<String>>,
    retry_after: Option<Spanned<String>>,
    overdue_after: Option<Spanned<String>>,
    allow_source_host: Option<Spanned<bool>>,
}

/// `[[drill.assert]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAssertion {
    id: Option<Spanned<String>>,
    database: Option<String>,
    sql: Option<Spanned<String>>,
    expect: Option<Spanned<toml::Value>>,
    at_least: Option<Spanned<toml::Value>>,
    at_most: Option<Spanned<toml::Value>>,
    tolerance: Option<Spanned<toml::Value>>,
}

/// The shared settings while tables are laid over each other.
#[derive(Debug, Clone)]
struct Draft {
    timezone: Located<TimeZone>,
    jitter: Located<Duration>,
    scratch: Located<Option<PathBuf>>,
    pg_bin: Located<Option<PathBuf>>,
    timeout: Located<Duration>,
    claim_for: Located<Duration>,
    retry_after: Located<Duration>,
    overdue_after: Located<Duration>,
    allow_source_host: Located<bool>,
}

const fn located<T>(value: T) -> Located<T> {
    Located { value, span: None }
}

impl Draft {
    fn defaults() -> Self {
        Self {
            timezone: located(TimeZone::UTC),
            jitter: located(Duration::ZERO),
            scratch: located(None),
            pg_bin: located(None),
            timeout: located(HOUR * 6),
            claim_for: located(MINUTE * 2),
            retry_after: located(MINUTE * 15),
            overdue_after: located(HOUR * 24),
            allow_source_host: located(false),
        }
    }

    fn apply(&mut self, raw: RawRules, folder: &Path, findings: &mut Findings<'_>) {
        set(&mut self.timezone, raw.timezone, findings, zone);
        set(&mut self.jitter, raw.jitter, findings, |text| {
            at_least(Duration::ZERO, text)
        });
        set(&mut self.scratch, raw.scratch, findings, |text| {
            path_or_none(folder, text)
        });
        set(&mut self.pg_bin, raw.pg_bin, findings, |text| {
            path_or_none(folder, text)
        });
        set(&mut self.timeout, raw.timeout, findings, |text| {
            at_least(SECOND, text)
        });
        set(&mut self.claim_for, raw.claim_for, findings, |text| {
            at_least(SECOND, text)
        });
        set(&mut self.retry_after, raw.retry_after, findings, |text| {
            at_least(SECOND, text)
        });
        set(
            &mut self.overdue_after,
            raw.overdue_after,
            findings,
            |text| at_least(SECOND, text),
        );
        set(
            &mut self.allow_source_host,
            raw.allow_source_host,
            findings,
            |allow| Ok(*allow),
        );
    }

    fn finish(self) -> DrillRules {
        DrillRules {
            timezone: self.timezone.value,
            jitter: self.jitter.value,
            scratch: self.scratch.value,
            pg_bin: self.pg_bin.value,
            timeout: self.timeout.value,
            claim_for: self.claim_for.value,
            retry_after: self.retry_after.value,
            overdue_after: self.overdue_after.value,
            allow_source_host: self.allow_source_host.value,
        }
    }
}

fn path_or_none(folder: &Path, text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Ok(None),
        text => read_path(folder, text).map(Some),
    }
}

/// Notes why a file or folder that is named can't be used.
pub(super) fn check_place(
    named: &Located<Option<PathBuf>>,
    checks: &DrillChecks<'_>,
    findings: &mut Findings<'_>,
) {
    if let Some(path) = &named.value
        && let Err(why) = (checks.place)(path)
    {
        findings.value(&named.span, why);
    }
}

/// Checks both tables. Drills that can't be used are left out and noted.
pub(super) fn check(
    all: Option<RawDrills>,
    drills: Vec<Spanned<RawDrill>>,
    (folder, regions): (&Path, &[Region]),
    checks: &DrillChecks<'_>,
    findings: &mut Findings<'_>,
) -> Drills {
    let defaults = Drills::default();
    let (mut look_every, mut metrics, mut metrics_file) = (
        located(defaults.look_every),
        located(defaults.metrics),
        located(defaults.metrics_file),
    );
    let mut draft = Draft::defaults();
    if let Some(mut all) = all {
        draft.apply(all.take_rules(), folder, findings);
        set(&mut look_every, all.look_every, findings, |text| {
            at_least(SECOND, text)
        });
        set(&mut metrics, all.metrics, findings, read_metrics);
        set(&mut metrics_file, all.metrics_file, findings, |text| {
            path_or_none(folder, text)
        });
    }
    let mut names = BTreeSet::new();
    let mut checked = Vec::new();
    for raw in drills {
        let mut one = One {
            draft: draft.clone(),
            folder,
            regions,
            checks,
            findings: &mut *findings,
        };
        if let Some(drill) = one.check(raw, &mut names) {
            checked.push(drill);
        }
    }
    Drills {
        look_every: look_every.value,
        metrics: metrics.value,
        metrics_file: metrics_file.value,
        drills: checked,
    }
}

/// One table while it is checked.
struct One<'a, 't> {
    draft: Draft,
    folder: &'a Path,
    regions: &'a [Region],
    checks: &'a DrillChecks<'a>,
    findings: &'a mut Findings<'t>,
}

impl One<'_, '_> {
    fn check(&mut self, raw: Spanned<RawDrill>, names: &mut BTreeSet<DrillName>) -> Option<Drill> {
        let table: Span = Some(raw.span());
        let mut raw = raw.into_inner();
        self.draft
            .apply(raw.take_rules(), self.folder, self.findings);
        check_place(&self.draft.pg_bin, self.checks, self.findings);
        let name = required(raw.name, "name = \"…\"", &table, self.findings);
        let source = required(raw.source, "source = \"…\"", &table, self.findings);
        let example = "schedule = \"0 3 * * *\"";
        let schedule = required(raw.schedule, example, &table, self.findings);
        let name_span = name.as_ref().map(Spanned::span);
        let name: Option<DrillName> = name.and_then(|name| parsed(&name, self.findings));
        let source = source.and_then(|source| parsed(&source, self.findings));
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            let message = format!("two drills are named `{name}`: each has a history of its own");
            self.findings.value(&name_span, message);
        }
        let schedule = schedule.map(|schedule| self.schedule(&schedule));
        let select = self.words(raw.select, self.checks.select);
        if let Some(scenario) = &raw.scenario {
            self.scenario_region(scenario);
        }
        let scenario = self.words(raw.scenario, self.checks.scenario);
        let owner = self.words(raw.owner, &|_text| Ok(()));
        let runbook = self.words(raw.runbook, &|_text| Ok(()));
        let assertions = self.assertions(raw.assert);
        Some(Drill {
            name: name?,
            source: source?,
            schedule: schedule?,
            select: select.unwrap_or_else(|| "latest".to_owned()),
            scenario,
            full: raw.full.is_none_or(Spanned::into_inner),
            frameworks: raw.frameworks,
            owner,
            runbook,
            assertions,
            rules: self.draft.clone().finish(),
        })
    }

    fn schedule(&mut self, written: &Spanned<String>) -> String {
        let text = written.get_ref().trim().to_owned();
        if let Err(why) = (self.checks.schedule)(&text, &self.draft.timezone.value) {
            self.findings.value(&Some(written.span()), why);
        }
        text
    }

    /// A scenario's region must be one of the config's, if that names any.
    fn scenario_region(&mut self, written: &Spanned<String>) {
        let Some(name) = (self.checks.scenario_region)(written.get_ref().trim()) else {
            return;
        };
        let known: Vec<&str> = self.regions.iter().map(|one| one.name.as_str()).collect();
        if known.is_empty() || known.contains(&name.as_str()) {
            return;
        }
        let message = format!("no region is called `{name}`");
        let hint = hint(name.as_str(), &known, "regions here");
        self.findings.add(
            ProblemKind::Value,
            &Some(written.span()),
            message,
            Some(hint),
        );
    }

    /// A text that somebody else can read; empty is none.
    fn words(
        &mut self,
        written: Option<Spanned<String>>,
        check: &dyn Fn(&str) -> Result<(), String>,
    ) -> Option<String> {
        let written = written.filter(|written| !written.get_ref().trim().is_empty())?;
        if let Err(why) = check(written.get_ref().trim()) {
            self.findings.value(&Some(written.span()), why);
        }
        Some(written.get_ref().trim().to_owned())
    }

    fn assertions(&mut self, raw: Vec<Spanned<RawAssertion>>) -> Vec<Assertion> {
        let mut ids = BTreeSet::new();
        let mut checked = Vec::new();
        for one in raw {
            let table: Span = Some(one.span());
            let one = one.into_inner();
            let id = required(one.id, "id = \"…\"", &table, self.findings);
            let sql = required(one.sql, "sql = \"SELECT …\"", &table, self.findings);
            let (Some(id), Some(sql)) = (id, sql) else {
                continue;
            };
            if id.get_ref().is_empty() || id.get_ref().chars().count() > ID_CHARS_MAX {
                let message = format!("an id has 1 to {ID_CHARS_MAX} characters");
                self.findings.value(&Some(id.span()), message);
            }
            if !ids.insert(id.get_ref().clone()) {
                let message = format!("two assertions are called {:?}", id.get_ref());
                self.findings.value(&Some(id.span()), message);
            }
            if sql.get_ref().trim().is_empty() {
                let message = "this needs a statement that answers one value";
                self.findings.value(&Some(sql.span()), message);
            }
            let expect = self.expectation(one.expect, one.at_least, one.at_most);
            let tolerance = one
                .tolerance
                .and_then(|value| self.value_of(&value, tolerance));
            checked.push(Assertion {
                id: id.into_inner(),
                database: one.database,
                sql: sql.into_inner(),
                expect,
                tolerance,
            });
        }
        checked
    }

    /// At most one of the three ways to expect something.
    fn expectation(
        &mut self,
        equals: Option<Spanned<toml::Value>>,
        at_least: Option<Spanned<toml::Value>>,
        at_most: Option<Spanned<toml::Value>>,
    ) -> Option<Expected> {
        let equals = equals.map(|value| (value, expected as Read, Expected::Equals as Make));
        let least = at_least.map(|value| (value, number as Read, Expected::AtLeast as Make));
        let most = at_most.map(|value| (value, number as Read, Expected::AtMost as Make));
        let mut all = [equals, least, most].into_iter().flatten();
        let (value, read, make) = all.next()?;
        if let Some((second, ..)) = all.next() {
            let message = "an assertion has one of expect, at_least and at_most";
            self.findings.value(&Some(second.span()), message);
        }
        self.value_of(&value, read).map(make)
    }

    fn value_of(&mut self, written: &Spanned<toml::Value>, read: Read) -> Option<String> {
        match read(written.get_ref()) {
            Ok(text) => Some(text),
            Err(why) => {
                self.findings.value(&Some(written.span()), why);
                None
            }
        }
    }
}

type Read = fn(&toml::Value) -> Result<String, &'static str>;
type Make = fn(String) -> Expected;

/// A number.
fn number(value: &toml::Value) -> Result<String, &'static str> {
    match value {
        toml::Value::Integer(_) | toml::Value::Float(_) => expected(value),
        _ => Err("write a number"),
    }
}

/// A value as a database would print it.
fn expected(value: &toml::Value) -> Result<String, &'static str> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) if number.is_finite() => Ok(number.to_string()),
        toml::Value::Boolean(yes) => Ok(yes.to_string()),
        _ => Err("write a number, a text in quotes, true or false"),
    }
}

/// A number of at least zero, or a percentage of at most 100.
fn tolerance(value: &toml::Value) -> Result<String, &'static str> {
    const WHY: &str = "write a number of at least 0, or a percentage such as \"5%\"";
    let text = expected(value).map_err(|_other| WHY)?;
    let number: f64 = text
        .trim_end_matches('%')
        .parse()
        .map_err(|_no_number| WHY)?;
    let fits = number >= 0.0 && number.is_finite() && (!text.ends_with('%') || number <= 100.0);
    fits.then_some(text).ok_or(WHY)
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, RestoreConfig};
    use super::*;

    fn parse(text: &str) -> Result<Drills, ConfigError> {
        let checks = DrillChecks {
            schedule: &|text, _zone| match text {
                "never" => Err("it never fires".to_owned()),
                _ => Ok(()),
            },
            select: &|text| match text {
                "latest" | "random" => Ok(()),
                other => Err(format!("{other:?} selects nothing")),
            },
            scenario: &|_text| Ok(()),
            scenario_region: &|text| text.strip_prefix("only-region=")?.parse().ok(),
            place: &|path| match path.ends_with("not-there") {
                true => Err(format!("{} is not there", path.display())),
                false => Ok(()),
            },
        };
        let file = Path::new("/etc/tidemark/restore.toml");
        RestoreConfig::parse_with(text, file, &checks).map(|config| config.drills)
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    const NIGHTLY: &str =
        "[[drill]]\nname = \"nightly\"\nsource = \"app\"\nschedule = \"0 3 * * *\"\n";

    #[test]
    fn a_short_drill_gets_every_default() {
        let drills = parse(NIGHTLY).unwrap();
        assert_eq!(drills.look_every, MINUTE);
        let drill = &drills.drills[0];
        assert_eq!((drill.select.as_str(), &drill.scenario), ("latest", &None));
        assert_eq!((drill.full, drill.assertions.len()), (true, 0));
        assert_eq!(drill.rules, Draft::defaults().finish());
    }

    #[test]
    fn what_stands_in_drills_holds_for_all_and_a_drill_may_differ() {
        let text = format!(
            "[drills]\njitter = \"10m\"\ntimeout = \"1h\"\nmetrics = \"127.0.0.1:9188\"\n{NIGHTLY}timeout = \"2h\"\n\
             scratch = \"scratch\"\nselect = \"random\"\n"
        );
        let drills = parse(&text).unwrap();
        assert_eq!(drills.metrics, "127.0.0.1:9188".parse().ok());
        let rules = &drills.drills[0].rules;
        assert_eq!((rules.jitter, rules.timeout), (MINUTE * 10, HOUR * 2));
        assert_eq!(rules.scratch, Some(PathBuf::from("/etc/tidemark/scratch")));
    }

    #[test]
    fn assertions_expect_texts_numbers_and_truths_within_a_tolerance() {
        let assert = |rest: &str| {
            format!(
                "{NIGHTLY}[[drill.assert]]\nid = \"orders\"\nsql = \"SELECT count(*) FROM orders\"\n{rest}"
            )
        };
        let read = |rest: &str| parse(&assert(rest)).unwrap().drills[0].assertions[0].clone();
        let orders = read("expect = 1000\ntolerance = \"5%\"\n");
        assert_eq!(orders.expect, Some(Expected::Equals("1000".to_owned())));
        assert_eq!(orders.tolerance.as_deref(), Some("5%"));
        let least = read("at_least = 2.5\n").expect;
        assert_eq!(least, Some(Expected::AtLeast("2.5".to_owned())));
        let truth = read("expect = true\n").expect;
        assert_eq!(truth, Some(Expected::Equals("true".to_owned())));
        assert_eq!(read("tolerance = 3\n").tolerance.as_deref(), Some("3"));
        for (bad, why) in [
            ("expect = [1]\n", "write a number"),
            ("tolerance = \"much\"\n", "a percentage"),
            ("tolerance = -1\n", "a percentage"),
            ("tolerance = \"101%\"\n", "a percentage"),
            ("at_most = \"5\"\n", "write a number"),
            ("at_least = 1\nat_most = 5\n", "one of expect"),
        ] {
            assert!(refused(&assert(bad)).contains(why), "{bad}");
        }
        let twice = assert("[[drill.assert]]\nid = \"orders\"\nsql = \"SELECT 1\"\n");
        assert!(refused(&twice).contains("two assertions are called"));
    }

    #[test]
    fn a_scenarios_region_is_looked_for_where_the_config_names_regions() {
        let scenario = format!("{NIGHTLY}scenario = \"only-region=a\"\n");
        assert!(parse(&scenario).is_ok(), "they may be given by --region");
        let with = format!("{scenario}[[region]]\nname = \"a\"\nurl = \"dir:/a\"\n");
        assert!(parse(&with).is_ok());
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_line_and_caret() {
        for (text, words) in [
            (
                format!("{NIGHTLY}schedul = \"x\"\n"),
                &[
                    "restore.toml:5:1: unknown key `schedul`",
                    "^^^^^^^",
                    "did you mean schedule?",
                ][..],
            ),
            (
                "[drills]\nlook = \"x\"\n".to_owned(),
                &["restore.toml:2:1: unknown key `look`"],
            ),
            (
                "[[drill]]\nname = \"n\"\nschedule = \"0 3 * * *\"\n".to_owned(),
                &["this needs source"],
            ),
            (
                NIGHTLY.replace("0 3 * * *", "never"),
                &["restore.toml:4:12", "it never fires"],
            ),
            (
                NIGHTLY.replace("nightly", "Every night"),
                &["restore.toml:2:8", "is not a name"],
            ),
            (
                format!("{NIGHTLY}select = \"best\"\n"),
                &["selects nothing"],
            ),
            (
                format!(
                    "{NIGHTLY}scenario = \"only-region=arhus\"\n[[region]]\nname = \"aarhus\"\nurl = \"dir:/a\"\n"
                ),
                &[
                    "restore.toml:5:12: no region is called `arhus`",
                    "did you mean aarhus? regions here: aarhus",
                ],
            ),
            (
                format!("{NIGHTLY}pg_bin = \"/usr/not-there\"\n"),
                &["restore.toml:5:10: /usr/not-there is not there"],
            ),
            (
                format!("identity = \"not-there\"\n{NIGHTLY}"),
                &["restore.toml:1:12: /etc/tidemark/not-there is not there"],
            ),
            (format!("{NIGHTLY}timezone = \"Mars\"\n"), &["time zone"]),
            (format!("{NIGHTLY}timeout = \"0s\"\n"), &["too short"]),
            (
                format!("{NIGHTLY}{NIGHTLY}"),
                &["two drills are named `nightly`"],
            ),
            (
                "[drills]\nmetrics = \"0.0.0.0:1\"\n".to_owned(),
                &["not on loopback"],
            ),
        ] {
            let said = refused(&text);
            for word in words {
                assert!(said.contains(word), "no {word:?} in:\n{said}");
            }
        }
    }
}
