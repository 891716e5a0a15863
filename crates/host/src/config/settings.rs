//! The settings that a source may override: as written, with their defaults, and checked.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Serialize;
use toml::Spanned;

use super::Surroundings;
use super::diagnose::{Findings, Span};
use super::objectives::{Promised, RawPromised};
use super::raw::RawSettings;
use crate::rate::RateError;
use crate::{ByteSize, Rate, duration};

/// When the source may be told that something is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// Once it is sealed and fsynced in the local spool.
    Spool,
    /// Once it is durable in W failure domains.
    Regions,
}

impl FromStr for Ack {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spool" => Ok(Self::Spool),
            "regions" => Ok(Self::Regions),
            other => Err(format!(
                "{other:?} is not a value for ack: write \"spool\" or \"regions\""
            )),
        }
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spool => "spool",
            Self::Regions => "regions",
        })
    }
}

/// What gives way when the spool is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protect {
    /// The chain: unshipped ranges become a signed gap and a new base.
    Database,
    /// The database: its log is held until it is shipped.
    Chain,
}

impl FromStr for Protect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "database" => Ok(Self::Database),
            "chain" => Ok(Self::Chain),
            other => Err(format!(
                "{other:?} is not a value for protect: write \"database\" or \"chain\""
            )),
        }
    }
}

impl fmt::Display for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Database => "database",
            Self::Chain => "chain",
        })
    }
}

/// What the agent leaves in the database, so that drills find it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CanaryMode {
    /// Nothing: the database is only read.
    Off,
    /// Rows of a table of its own.
    Table,
    /// Messages in a server's log.
    Message,
}

impl FromStr for CanaryMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "table" => Ok(Self::Table),
            "message" => Ok(Self::Message),
            other => Err(format!(
                "{other:?} is not a value for canary: write \"off\", \"table\" or \"message\""
            )),
        }
    }
}

impl fmt::Display for CanaryMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Table => "table",
            Self::Message => "message",
        })
    }
}

/// How one source is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long changes wait at most before they are cut into a log object.
    pub ship_every: Duration,
    /// How often a recovery point is sealed at least.
    pub snapshot_every: Duration,
    /// How often this source's state must stand in a beat; the agent beats at the shortest.
    pub beat_every: Duration,
    /// When bases are made: a crontab line in `timezone`.
    pub base_schedule: String,
    /// How fast bases are read.
    pub base_rate: Rate,
    /// The zone of `base_schedule` and `base_rate`.
    pub timezone: TimeZone,
    /// How often a generation opens.
    pub generation: Duration,
    /// When the source is acknowledged.
    pub ack: Ack,
    /// W: how many failure domains make durable.
    pub durable_in: usize,
    /// How much of the spool this source may fill.
    pub spool_max: ByteSize,
    /// What gives way when the spool is full.
    pub protect: Protect,
    /// How long a SQLite WAL may grow under our mark.
    pub wal_max: ByteSize,
    /// How much a PostgreSQL slot may hold back.
    pub slot_keep_max: ByteSize,
    /// The window that stays recoverable.
    pub recoverable_for: Duration,
    /// Nothing is kept longer.
    pub retain_max: Duration,
    /// The zstd level.
    pub compression: i32,
    /// The promised RPO, if one is promised.
    pub rpo: Option<Duration>,
    /// The promised precision of a restore to an instant, if one is promised.
    pub pitr_precision: Option<Duration>,
    /// The promised window, if one is promised.
    pub window: Option<Duration>,
    /// What the agent leaves in the database for drills.
    pub canary: CanaryMode,
    /// How often.
    pub canary_every: Duration,
}

/// A value and where it was written; nowhere for a default.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> Located<T> {
    const fn default(value: T) -> Self {
        Self { value, span: None }
    }
}

/// Settings while tables are laid over each other: defaults, then the file's top, then the source.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    ship_every: Located<Duration>,
    snapshot_every: Located<Duration>,
    beat_every: Located<Duration>,
    base_schedule: Located<String>,
    base_rate: Located<Rate>,
    timezone: Located<TimeZone>,
    generation: Located<Duration>,
    ack: Located<Ack>,
    durable_in: Located<usize>,
    pub(super) spool_max: Located<ByteSize>,
    protect: Located<Protect>,
    wal_max: Located<ByteSize>,
    slot_keep_max: Located<ByteSize>,
    recoverable_for: Located<Duration>,
    retain_max: Located<Duration>,
    compression: Located<i32>,
    rpo: Located<Option<Duration>>,
    promised: Promised,
    canary: Located<CanaryMode>,
    canary_every: Located<Duration>,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// More than this is slower than any region and gains nothing.
const COMPRESSION: RangeInclusive<i32> = 1..=19;
/// Two log objects of the largest size: less could never ship anything.
const SPOOL_MIN: ByteSize = ByteSize::mib(16);
const WAL_MIN: ByteSize = ByteSize::mib(1);

impl Draft {
    /// What holds where the file says nothing. `domains` is the number of failure domains.
    pub(super) fn defaults(domains: usize) -> Self {
        Self {
            ship_every: Located::default(SECOND * 10),
            snapshot_every: Located::default(SECOND * 300),
            beat_every: Located::default(SECOND * 60),
            base_schedule: Located::default("30 2 * * *".to_owned()),
            base_rate: Located::default(Rate::unlimited()),
            timezone: Located::default(TimeZone::UTC),
            generation: Located::default(DAY * 7),
            ack: Located::default(Ack::Spool),
            durable_in: Located::default(domains.clamp(1, 2)),
            spool_max: Located::default(ByteSize::mib(10 * 1024)),
            protect: Located::default(Protect::Database),
            wal_max: Located::default(ByteSize::mib(1024)),
            slot_keep_max: Located::default(ByteSize::mib(10 * 1024)),
            recoverable_for: Located::default(DAY * 30),
            retain_max: Located::default(DAY * 90),
            compression: Located::default(1),
            rpo: Located::default(None),
            promised: Promised::default(),
            canary: Located::default(CanaryMode::Off),
            canary_every: Located::default(SECOND * 30),
        }
    }

    /// Lays a table over this.
    pub(super) fn apply(&mut self, raw: RawSettings, findings: &mut Findings<'_>) {
        let tenth = Duration::from_millis(100);
        set(&mut self.ship_every, raw.ship_every, findings, |text| {
            at_least(tenth, text)
        });
        set(
            &mut self.snapshot_every,
            raw.snapshot_every,
            findings,
            |text| at_least(SECOND, text),
        );
        set(&mut self.beat_every, raw.beat_every, findings, |text| {
            at_least(SECOND, text)
        });
        set(
            &mut self.base_schedule,
            raw.base_schedule,
            findings,
            |text| Ok(text.to_owned()),
        );
        set(&mut self.base_rate, raw.base_rate, findings, rate);
        set(&mut self.timezone, raw.timezone, findings, zone);
        set(&mut self.generation, raw.generation, findings, |text| {
            at_least(SECOND, text)
        });
        set(&mut self.ack, raw.ack, findings, |text| text.parse());
        set(&mut self.durable_in, raw.durable_in, findings, |number| {
            usize::try_from(*number)
                .ok()
                .filter(|domains| *domains > 0)
                .ok_or_else(|| format!("{number} is too few: durable_in is at least 1"))
        });
        set(&mut self.spool_max, raw.spool_max, findings, |text| {
            size_from(SPOOL_MIN, text)
        });
        set(&mut self.protect, raw.protect, findings, |text| {
            text.parse()
        });
        set(&mut self.wal_max, raw.wal_max, findings, |text| {
            size_from(WAL_MIN, text)
        });
        set(
            &mut self.slot_keep_max,
            raw.slot_keep_max,
            findings,
            |text| size_from(WAL_MIN, text),
        );
        set(
            &mut self.recoverable_for,
            raw.recoverable_for,
            findings,
            |text| at_least(SECOND, text),
        );
        set(&mut self.retain_max, raw.retain_max, findings, |text| {
            at_least(SECOND, text)
        });
        set(&mut self.compression, raw.compression, findings, level);
        set(&mut self.rpo, raw.rpo, findings, |text| {
            match text.as_str() {
                "" => Ok(None),
                text => at_least(SECOND, text).map(Some),
            }
        });
        self.apply_promises(raw.objectives, findings);
        self.apply_canary(raw.canary, raw.canary_every, findings);
    }

    fn apply_promises(&mut self, raw: Option<RawPromised>, findings: &mut Findings<'_>) {
        self.promised.rpo = None;
        self.promised.apply(raw, findings);
        // A promise of this table stands over what was written further up, as `rpo` or as an objective.
        if let Some((rpo, span)) = self.promised.rpo.take() {
            self.rpo = Located {
                value: Some(rpo),
                span,
            };
        }
    }

    fn apply_canary(
        &mut self,
        mode: Option<Spanned<String>>,
        every: Option<Spanned<String>>,
        findings: &mut Findings<'_>,
    ) {
        set(&mut self.canary, mode, findings, |text| text.parse());
        set(&mut self.canary_every, every, findings, |text| {
            at_least(SECOND, text)
        });
    }

    /// Notes what can't hold together for a source. `sqlite` is its table where it is SQLite.
    pub(super) fn check(
        &self,
        domains: usize,
        sqlite: Option<&Span>,
        around: &Surroundings<'_>,
        findings: &mut Findings<'_>,
    ) {
        if let Some(table) = sqlite.filter(|_| self.ack.value == Ack::Regions) {
            findings.conflict(
                &first(&[&self.ack.span, table]),
                "ack = \"regions\" can't hold for SQLite: it waits for nobody when it commits",
                "leave ack = \"spool\" for this source; a short ship_every keeps the loss small",
            );
        }
        if self.durable_in.value > domains {
            findings.conflict(
                &self.durable_in.span,
                format!(
                    "durable_in = {} can never be reached: the regions have {domains} failure domain(s)",
                    self.durable_in.value
                ),
                "add a region in another failure domain, or lower durable_in",
            );
        }
        self.check_objective(findings);
        self.check_promises(sqlite.is_some(), findings);
        self.check_canary(sqlite, findings);
        self.check_window(findings);
        if let Err(why) = (around.check_schedule)(&self.base_schedule.value, &self.timezone.value) {
            findings.value(
                &first(&[&self.base_schedule.span, &self.timezone.span]),
                why,
            );
        }
    }

    fn check_objective(&self, findings: &mut Findings<'_>) {
        let Some(rpo) = self.rpo.value else { return };
        for (key, every) in [
            ("ship_every", &self.ship_every),
            ("beat_every", &self.beat_every),
        ] {
            if every.value.saturating_mul(2) > rpo {
                findings.conflict(
                    &first(&[&every.span, &self.rpo.span]),
                    format!(
                        "{key} = \"{}\" is more than half of rpo = \"{}\": one late object would break the promise",
                        duration::render(every.value),
                        duration::render(rpo)
                    ),
                    "shorten it to half of rpo or less, or promise a longer rpo",
                );
            }
        }
    }

    /// The window and the precision that are promised.
    fn check_promises(&self, sqlite: bool, findings: &mut Findings<'_>) {
        if let Some((window, span)) = &self.promised.window
            && *window > self.recoverable_for.value
        {
            findings.conflict(
                &first(&[span, &self.recoverable_for.span]),
                format!(
                    "window = \"{}\" is promised, and recoverable_for keeps \"{}\"",
                    duration::render(*window),
                    duration::render(self.recoverable_for.value)
                ),
                "raise recoverable_for, or promise a shorter window",
            );
        }
        if let Some((precision, span)) = &self.promised.pitr_precision
            && sqlite
            && self.ship_every.value > *precision
        {
            findings.conflict(
                &first(&[span, &self.ship_every.span]),
                format!(
                    "pitr_precision = \"{}\" is promised, and SQLite can be restored to the end of each log object, \
                     every {}",
                    duration::render(*precision),
                    duration::render(self.ship_every.value)
                ),
                "shorten ship_every to that or less, or promise less",
            );
        }
    }

    fn check_canary(&self, sqlite: Option<&Span>, findings: &mut Findings<'_>) {
        if let Some(table) = sqlite.filter(|_| self.canary.value == CanaryMode::Message) {
            findings.conflict(
                &first(&[&self.canary.span, table]),
                "canary = \"message\" can't hold for SQLite: its log takes no messages",
                "write canary = \"table\" for this source, or \"off\"",
            );
        }
        if let Some((precision, span)) = &self.promised.pitr_precision
            && self.canary.value != CanaryMode::Off
            && self.canary_every.value.saturating_mul(2) > *precision
        {
            findings.conflict(
                &first(&[&self.canary_every.span, span]),
                format!(
                    "canary_every = \"{}\" is more than half of pitr_precision = \"{}\": a drill could not prove it, for \
                     one canary may be late",
                    duration::render(self.canary_every.value),
                    duration::render(*precision)
                ),
                "shorten canary_every to half of it or less",
            );
        }
    }

    fn check_window(&self, findings: &mut Findings<'_>) {
        let (window, generation) = (self.recoverable_for.value, self.generation.value);
        let kept = window.saturating_add(generation).saturating_add(DAY);
        if kept > self.retain_max.value {
            let spans = [
                &self.retain_max.span,
                &self.recoverable_for.span,
                &self.generation.span,
            ];
            findings.conflict(
                &first(&spans),
                format!(
                    "the oldest base of a window of {} may be {} old (recoverable_for + generation + 1d), and retain_max \
                     is {}",
                    duration::render(window),
                    duration::render(kept),
                    duration::render(self.retain_max.value)
                ),
                "raise retain_max, or lower recoverable_for or generation",
            );
        }
    }

    /// The settings, once nothing is wrong with them.
    pub(super) fn settle(self) -> Settings {
        Settings {
            ship_every: self.ship_every.value,
            snapshot_every: self.snapshot_every.value,
            beat_every: self.beat_every.value,
            base_schedule: self.base_schedule.value,
            base_rate: self.base_rate.value,
            timezone: self.timezone.value,
            generation: self.generation.value,
            ack: self.ack.value,
            durable_in: self.durable_in.value,
            spool_max: self.spool_max.value,
            protect: self.protect.value,
            wal_max: self.wal_max.value,
            slot_keep_max: self.slot_keep_max.value,
            recoverable_for: self.recoverable_for.value,
            retain_max: self.retain_max.value,
            compression: self.compression.value,
            rpo: self.rpo.value,
            pitr_precision: self.promised.pitr_precision.map(|(time, _)| time),
            window: self.promised.window.map(|(time, _)| time),
            canary: self.canary.value,
            canary_every: self.canary_every.value,
        }
    }
}

impl Settings {
    /// What is promised beside the RPO, as `[objectives]` writes it.
    #[must_use]
    pub fn promises(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("pitr_precision", self.pitr_precision),
            ("window", self.window),
        ];
        all.into_iter()
            .filter_map(|(key, time)| {
                let text = toml::Value::String(duration::render(time?));
                Some((key, text.to_string()))
            })
            .collect()
    }

    /// Each setting as the config file writes it, in the file's order.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let quoted = |text: &dyn fmt::Display| toml::Value::String(text.to_string()).to_string();
        let time = |time: Duration| quoted(&duration::render(time));
        vec![
            ("ship_every", time(self.ship_every)),
            ("snapshot_every", time(self.snapshot_every)),
            ("beat_every", time(self.beat_every)),
            ("base_schedule", quoted(&self.base_schedule)),
            ("base_rate", quoted(&self.base_rate)),
            (
                "timezone",
                quoted(&self.timezone.iana_name().unwrap_or("UTC")),
            ),
            ("generation", time(self.generation)),
            ("ack", quoted(&self.ack)),
            ("durable_in", self.durable_in.to_string()),
            ("spool_max", quoted(&self.spool_max)),
            ("protect", quoted(&self.protect)),
            ("wal_max", quoted(&self.wal_max)),
            ("slot_keep_max", quoted(&self.slot_keep_max)),
            ("recoverable_for", time(self.recoverable_for)),
            ("retain_max", time(self.retain_max)),
            ("compression", self.compression.to_string()),
            ("rpo", self.rpo.map_or_else(|| quoted(&""), time)),
            ("canary", quoted(&self.canary)),
            ("canary_every", time(self.canary_every)),
        ]
    }
}

/// Reads a written value over the one below it, or notes why it can't.
pub(super) fn set<R, T>(
    slot: &mut Located<T>,
    raw: Option<Spanned<R>>,
    findings: &mut Findings<'_>,
    read: impl FnOnce(&R) -> Result<T, String>,
) {
    let Some(raw) = raw else { return };
    let span = Some(raw.span());
    match read(raw.get_ref()) {
        Ok(value) => *slot = Located { value, span },
        Err(why) => findings.value(&span, why),
    }
}

/// Reads a duration of at least `least`.
pub(super) fn at_least(least: Duration, text: &str) -> Result<Duration, String> {
    let read = duration::parse(text).map_err(|error| error.to_string())?;
    if read < least {
        return Err(format!(
            "\"{text}\" is too short: at least \"{}\"",
            duration::render(least)
        ));
    }
    Ok(read)
}

/// Reads a size of at least `least`.
pub(super) fn size_from(least: ByteSize, text: &str) -> Result<ByteSize, String> {
    let read: ByteSize = text
        .parse()
        .map_err(|error: crate::size::SizeError| error.to_string())?;
    if read < least {
        return Err(format!("\"{text}\" is too small: at least \"{least}\""));
    }
    Ok(read)
}

fn level(number: &i64) -> Result<i32, String> {
    let read = i32::try_from(*number).ok();
    read.filter(|level| COMPRESSION.contains(level))
        .ok_or_else(|| {
            let (low, high) = (COMPRESSION.start(), COMPRESSION.end());
            format!("{number} is not a compression level: write {low} to {high}")
        })
}

fn rate(text: &impl AsRef<str>) -> Result<Rate, String> {
    let read = text.as_ref().parse();
    read.map_err(|error: RateError| error.to_string())
}

/// Reads a time zone.
pub(super) fn zone(name: &String) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_unknown| {
        format!("time zone {name:?} is not known: write UTC or a name such as Europe/Copenhagen")
    })
}

/// The first place that is one.
fn first(spans: &[&Span]) -> Span {
    spans.iter().find_map(|span| (*span).clone())
}
