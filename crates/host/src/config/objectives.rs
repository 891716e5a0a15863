//! `[objectives]`: what is promised of a source, as both config files write it.
//!
//! Here a promise is only checked for whether it can hold beside the other settings; whether it does
//! hold is judged from what is on record.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tidemark_format::SourceName;
use toml::Spanned;

use super::diagnose::{Findings, Span};
use super::regions::{Country, parsed};
use super::settings::at_least;

/// What the restore tool is told of a source's promises.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objectives {
    /// The most that may be lost.
    pub rpo: Option<Duration>,
    /// The longest that it may take to be back.
    pub rto: Option<Duration>,
    /// How exactly an instant can be restored.
    pub pitr_precision: Option<Duration>,
    /// Any instant of this long can be restored.
    pub window: Option<Duration>,
    /// Nothing is kept longer.
    pub kept_at_most: Option<Duration>,
    /// A drill that counts comes at least this often.
    pub drill_every: Option<Duration>,
    /// Countries that copies may stand in; empty is anywhere.
    pub residency: Vec<Country>,
    /// People who may hold a key that decrypts, by their names in the keyring.
    pub people: Vec<String>,
    /// Machines that may.
    pub machines: Vec<String>,
}

impl Objectives {
    /// These, with what `own` says instead.
    fn with(&self, own: &Self) -> Self {
        fn list<T: Clone>(own: &[T], all: &[T]) -> Vec<T> {
            let chosen = if own.is_empty() { all } else { own };
            chosen.to_vec()
        }
        Self {
            rpo: own.rpo.or(self.rpo),
            rto: own.rto.or(self.rto),
            pitr_precision: own.pitr_precision.or(self.pitr_precision),
            window: own.window.or(self.window),
            kept_at_most: own.kept_at_most.or(self.kept_at_most),
            drill_every: own.drill_every.or(self.drill_every),
            residency: list(&own.residency, &self.residency),
            people: list(&own.people, &self.people),
            machines: list(&own.machines, &self.machines),
        }
    }
}

/// The promises of all sources.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Promises {
    /// What holds for every source.
    pub all: Objectives,
    /// What holds for one instead.
    pub by_source: BTreeMap<SourceName, Objectives>,
}

impl Promises {
    /// The promises of one source.
    #[must_use]
    pub fn of(&self, source: &SourceName) -> Objectives {
        let own = self.by_source.get(source);
        own.map_or_else(|| self.all.clone(), |own| self.all.with(own))
    }
}

/// `[objectives]` of `restore.toml` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawObjectives {
    rpo: Option<Spanned<String>>,
    rto: Option<Spanned<String>>,
    pitr_precision: Option<Spanned<String>>,
    window: Option<Spanned<String>>,
    kept_at_most: Option<Spanned<String>>,
    drill_every: Option<Spanned<String>>,
    #[serde(default)]
    residency: Vec<Spanned<String>>,
    #[serde(default)]
    people: Vec<String>,
    #[serde(default)]
    machines: Vec<String>,
    #[serde(default)]
    source: BTreeMap<String, Spanned<Self>>,
}

/// Checks `[objectives]` and `[objectives.source.NAME]`.
pub(super) fn check(raw: Option<RawObjectives>, findings: &mut Findings<'_>) -> Promises {
    let Some(mut raw) = raw else {
        return Promises::default();
    };
    let mut by_source = BTreeMap::new();
    for (name, own) in std::mem::take(&mut raw.source) {
        let table: Span = Some(own.span());
        let own = own.into_inner();
        if !own.source.is_empty() {
            findings.value(&table, "a source's objectives have no sources of their own");
        }
        match SourceName::new(&name) {
            Ok(name) => {
                by_source.insert(name, one(own, findings));
            }
            Err(error) => findings.value(&table, error.to_string()),
        }
    }
    Promises {
        all: one(raw, findings),
        by_source,
    }
}

fn one(raw: RawObjectives, findings: &mut Findings<'_>) -> Objectives {
    let mut time =
        |text: Option<Spanned<String>>| promise(text.as_ref(), findings).map(|(time, _)| time);
    let rpo = time(raw.rpo);
    let rto = time(raw.rto);
    let pitr_precision = time(raw.pitr_precision);
    let window = time(raw.window);
    let kept_at_most = time(raw.kept_at_most);
    let drill_every = time(raw.drill_every);
    let residency = raw
        .residency
        .iter()
        .filter_map(|text| parsed(text, findings))
        .collect();
    Objectives {
        rpo,
        rto,
        pitr_precision,
        window,
        kept_at_most,
        drill_every,
        residency,
        people: raw.people,
        machines: raw.machines,
    }
}

/// A time that is promised; empty promises nothing.
fn promise(
    text: Option<&Spanned<String>>,
    findings: &mut Findings<'_>,
) -> Option<(Duration, Span)> {
    let text = text.filter(|text| !text.get_ref().is_empty())?;
    match at_least(Duration::from_secs(1), text.get_ref()) {
        Ok(time) => Some((time, Some(text.span()))),
        Err(why) => {
            findings.value(&Some(text.span()), why);
            None
        }
    }
}

/// `[objectives]` of `agent.toml`, above the regions or in a source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPromised {
    rpo: Option<Spanned<String>>,
    pitr_precision: Option<Spanned<String>>,
    window: Option<Spanned<String>>,
}

/// What an agent is told of a source's promises, each with its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Promised {
    pub(super) rpo: Option<(Duration, Span)>,
    pub(super) pitr_precision: Option<(Duration, Span)>,
    pub(super) window: Option<(Duration, Span)>,
}

impl Promised {
    /// Lays a table over this.
    pub(super) fn apply(&mut self, raw: Option<RawPromised>, findings: &mut Findings<'_>) {
        let Some(raw) = raw else { return };
        for (slot, text) in [
            (&mut self.rpo, raw.rpo),
            (&mut self.pitr_precision, raw.pitr_precision),
            (&mut self.window, raw.window),
        ] {
            *slot = promise(text.as_ref(), findings).or_else(|| slot.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::RestoreConfig;
    use super::*;

    fn parse(text: &str) -> Result<Promises, String> {
        let config = RestoreConfig::parse(text, Path::new("/etc/tidemark/restore.toml"));
        config
            .map(|config| config.objectives)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_source_says_holds_instead_for_it_alone() {
        let promises = parse(
            "[objectives]\nrpo = \"5m\"\nrto = \"4h\"\npeople = [\"Ann\"]\nresidency = [\"DK\"]\n\
             [objectives.source.app]\nrpo = \"1m\"\nkept_at_most = \"90d\"\n",
        )
        .unwrap();
        let (app, other) = ("app".parse().unwrap(), "other".parse().unwrap());
        let app = promises.of(&app);
        assert_eq!(app.rpo, Some(Duration::from_secs(60)));
        assert_eq!(app.rto, Some(Duration::from_secs(4 * 3600)));
        assert_eq!(app.people, ["Ann"]);
        assert_eq!(promises.of(&other).rpo, Some(Duration::from_secs(300)));
        assert_eq!(promises.of(&other).kept_at_most, None);
        assert_eq!(parse("").unwrap(), Promises::default());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, words) in [
            ("[objectives]\nrpo = \"soon\"\n", "restore.toml:2:7"),
            ("[objectives]\nrpos = \"5m\"\n", "did you mean rpo?"),
            ("[objectives]\nresidency = [\"dk\"]\n", "is not a country"),
            ("[objectives.source.App]\nrpo = \"5m\"\n", "App"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
