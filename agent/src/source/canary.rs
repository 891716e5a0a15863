//! What a source's driver makes of its canaries: the number of the last, what points and log objects say
//! of it, and who hears when none can be written.

use std::time::Duration;

use serde_json::{Value, json};
use tidemark_engine::canary::{CanaryForm, CanaryOutcome};
use tidemark_host::Monotonic;
use tidemark_host::config::{CanaryMode, Settings};

use super::driver::Driver;
use super::slot::{Canaries, Command};
use crate::state::SourceRecord;
use crate::state::source::CanaryTail;
use crate::status_live::LiveCanary;

/// The fact of points and log objects.
const FACT: &str = "canary";
/// The alert while none can be written.
pub(crate) const MISSING: &str = "canary.missing";
/// The alert while what they were kept in can't be taken away.
const REMAINS: &str = "canary.remains";
/// So many turns that were missed are told.
const MISSED_MAX: u32 = 3;
/// But not before this time is over: a server that restarts misses some.
const PATIENCE: Duration = Duration::from_secs(60);

/// How canaries are written, if they are wanted.
pub(crate) const fn form(settings: &Settings) -> Option<CanaryForm> {
    match settings.canary {
        CanaryMode::Off => None,
        CanaryMode::Table => Some(CanaryForm::Table),
        CanaryMode::Message => Some(CanaryForm::Message),
    }
}

/// The canaries that a slot is to have written.
pub(crate) fn wanted(settings: &Settings, record: Option<&SourceRecord>) -> Option<Canaries> {
    form(settings)?;
    let last = record.and_then(|record| record.canary.as_ref());
    Some(Canaries {
        every: settings.canary_every,
        after: last.map_or(0, |last| last.seq),
    })
}

/// What a driver remembers of canaries beside its record.
#[derive(Debug, Default)]
pub(super) struct CanaryWatch {
    /// Since when none was written.
    missed_since: Option<Monotonic>,
    /// Why none is, and that is as it should be.
    not_here: Option<String>,
}

impl Driver {
    /// What came of a canary.
    pub(super) fn on_canary(&mut self, outcome: CanaryOutcome) {
        let Some(form) = form(&self.parts.settings) else {
            return;
        };
        match outcome {
            CanaryOutcome::Written { seq, at } => {
                self.record.canary = Some(CanaryTail { form, seq, at });
                self.canary = CanaryWatch::default();
                self.changed();
                self.clear(MISSING);
                self.show_canary(None);
            }
            CanaryOutcome::NotHere { why } => {
                self.clear(MISSING);
                self.show_canary(Some(why.clone()));
                self.canary = CanaryWatch {
                    missed_since: None,
                    not_here: Some(why),
                };
            }
            CanaryOutcome::Busy => {
                let why = "the database could not be written at once, again and again: another writer never \
                           pauses, or no server is connected";
                self.canary_missed(why);
            }
            CanaryOutcome::Failed { why } => self.canary_missed(&why),
        }
    }

    fn canary_missed(&mut self, why: &str) {
        let now = self.now();
        let since = *self.canary.missed_since.get_or_insert(now);
        let every = self.parts.settings.canary_every;
        let patience = every.saturating_mul(MISSED_MAX).max(PATIENCE);
        self.show_canary(Some(why.to_owned()));
        if now.since(since) >= patience {
            let text = format!(
                "no canary could be written for {}: {why}. What is committed is protected all the same; a drill can't tell from the restored database alone up to when it goes",
                tidemark_host::output::duration(now.since(since))
            );
            self.alert(MISSING, &text);
        }
    }

    /// Writes on the board how the canaries stand.
    pub(super) fn show_canary(&self, why_not: Option<String>) {
        let settings = &self.parts.settings;
        let canary = form(settings).map(|form| {
            let last = self.record.canary.as_ref();
            LiveCanary {
                form: form.name().to_owned(),
                every_ms: millis(settings.canary_every),
                seq: last.map(|last| last.seq),
                at: last.map(|last| last.at),
                why_not,
            }
        });
        self.show(|live| live.canary = canary);
    }

    /// What a point or a log object says of canaries: that they are written, and which was the last when
    /// it was sealed. Nothing where none are.
    pub(super) fn canary_fact(&self) -> Option<(String, Value)> {
        let settings = &self.parts.settings;
        let form = form(settings)?;
        let mut fact = json!({
            "form": form.name(),
            "every_ms": millis(settings.canary_every),
        });
        let more = match (&self.record.canary, &self.canary.not_here) {
            (_, Some(_)) => vec![("not_here", json!(true))],
            (Some(last), None) => vec![("seq", json!(last.seq)), ("at", json!(last.at))],
            (None, None) => Vec::new(),
        };
        if let Some(map) = fact.as_object_mut() {
            map.extend(
                more.into_iter()
                    .map(|(name, value)| (name.to_owned(), value)),
            );
        }
        Some((FACT.to_owned(), fact))
    }

    /// Whether there may be something at the database that canaries were kept in.
    pub(super) const fn has_canary(&self) -> bool {
        self.record.canary.is_some() || form(&self.parts.settings).is_some()
    }

    /// Canaries that are wanted no more are taken away, now that the database is open.
    pub(super) fn remove_unwanted_canary(&self) {
        if self.record.canary.is_some() && form(&self.parts.settings).is_none() {
            self.parts.slot.tell(Command::RemoveCanary);
        }
    }

    /// They were, or not.
    pub(super) fn on_canary_removed(&mut self, removed: Result<Option<String>, String>) {
        match removed {
            Ok(done) => {
                if let Some(done) = done {
                    tracing::info!(source = %self.name(), done, "no canaries are wanted any more");
                }
                self.record.canary = None;
                self.changed();
                self.clear(REMAINS);
            }
            Err(why) => self.alert(REMAINS, &why),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
