//! The record of a drill, by the field names that auditors were promised.
//!
//! What isn't known stays out; nothing is invented to fill a field.

use serde_json::{Map, Value, json};
use tidemark_format::KeyId;
use tidemark_format::evidence::Sha256;
use tidemark_host::output;
use tidemark_host::{NtpState, RngExt as _};
use tidemark_ledger::timeline::{POSTGRESQL, Timeline};
use tidemark_planner::drill::{CheckStatus, Judged, Rung, Verdict, judge};

use super::RESTORE_DRILL;
use super::clocks::Clocks;
use super::course::Course;
use super::examined::seconds;
use super::request::Request;
use crate::apply::Done;
use crate::evidence::actor::Actor;
use crate::evidence::begun::{RUN_ID, Unended};
use crate::evidence::record::{field, linked};
use crate::plan::RestorePlan;
use crate::repository::{Repository, Settings, Tools};
use crate::sandbox::{Outcome, SandboxError};

/// Everything of a record that is known before the drill begins.
#[derive(Debug)]
pub(super) struct Writing {
    /// Names this run, so that it leaves one record.
    pub(super) run_id: String,
    fields: Map<String, Value>,
}

impl Writing {
    pub(super) fn of(
        request: &Request,
        settings: &Settings,
        tools: &Tools,
        identity: KeyId,
    ) -> Self {
        let id: [u8; 16] = tools.rng.bytes();
        let run_id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut plan = field(&request.plan);
        if let Some(plan) = plan.as_object_mut() {
            let scenario = request.scenario.as_ref().map(ToString::to_string);
            plan.insert("scenario".to_owned(), json!(scenario));
        }
        let actor = Actor::gather(settings.sudo_user.clone());
        let mut who = field(&actor);
        if let Some(who) = who.as_object_mut() {
            let principal = actor
                .user
                .clone()
                .unwrap_or_else(|| format!("uid {}", actor.uid));
            who.insert("principal".to_owned(), principal.into());
        }
        let mut fields = Map::new();
        fields.insert(RUN_ID.to_owned(), run_id.clone().into());
        fields.insert("plan".to_owned(), plan);
        fields.insert("actor".to_owned(), who);
        fields.insert("governance".to_owned(), field(&request.governance));
        fields.insert("key_ids".to_owned(), json!([identity.to_string()]));
        if let Some(reason) = &request.reason {
            fields.insert("reason".to_owned(), field(reason));
        }
        let config = settings.config_file.as_deref();
        if let Some(config) = config.and_then(|file| std::fs::read(file).ok()) {
            let digest = Sha256::of(&config).to_string();
            fields.insert("config_sha256".to_owned(), digest.into());
        }
        Self { run_id, fields }
    }

    /// The record of a drill that ended.
    pub(super) fn fields(&self, course: &Course, judged: &Judged) -> Map<String, Value> {
        let mut fields = self.fields.clone();
        let sections = [
            ("source", &course.source),
            ("recovery_pt", &course.recovery_pt),
            ("environment", &course.environment),
            ("recovery", &course.recovery),
            ("clock", &course.clocks),
        ];
        for (name, section) in sections {
            fields.insert(name.to_owned(), Value::Object(section.0.clone()));
        }
        let mut handling = course.handling.0.clone();
        handling.insert("rows_exported".to_owned(), 0.into());
        handling.insert("humans_with_access".to_owned(), json!([]));
        fields.insert("handling".to_owned(), Value::Object(handling));
        fields.insert("objectives".to_owned(), field(&course.objectives));
        fields.insert(
            "timing".to_owned(),
            json!({
                "declared_at": course.timing.declared_at(),
                "phases": course.timing.phases(),
                "rto_measured_s": course.observed.rto_ms.map(seconds),
                "rto_projected_full_s": course.projected_full_ms.map(seconds),
                "rto_projected_worst_replay_s": course.projected_worst_ms.map(seconds),
            }),
        );
        fields.insert("checks".to_owned(), field(&course.observed.checks));
        fields.insert("fixes".to_owned(), field(&course.observed.fixes));
        fields.insert("result".to_owned(), result(course, judged));
        test_result(&mut fields, course, judged.verdict);
        if !course.notes.is_empty() {
            fields.insert("notes".to_owned(), field(&course.notes));
        }
        fields
    }

    /// The record of a drill whose process is gone.
    pub(super) fn unended(&self, course: &Course) -> Unended {
        let mut observed = course.observed.clone();
        observed.infrastructure = Some(
            "the process ended before the drill did: it was killed, or the machine stopped"
                .to_owned(),
        );
        // A check that had failed by then must not make it a verdict.
        observed.checks.clear();
        let judged = judge(&observed, &course.objectives);
        Unended {
            kind: RESTORE_DRILL.to_owned(),
            subject: course.subject.clone(),
            fields: self.fields(course, &judged),
        }
    }
}

fn result(course: &Course, judged: &Judged) -> Value {
    let mut result = json!({
        "verdict": judged.verdict,
        "outcome": match judged.verdict {
            Verdict::Pass => "ok",
            Verdict::PassWithExceptions => "exceptions",
            Verdict::Fail => "failed",
            Verdict::Inconclusive => "inconclusive",
        },
        "rung": judged.rung.map(Rung::name),
        "rpo_met": judged.rpo_met,
        "rto_met": judged.rto_met,
        "pitr_met": judged.pitr_met,
        "causes": judged.causes,
        "exceptions": judged.exceptions,
    });
    let Some(fields) = result.as_object_mut() else {
        return result;
    };
    fields.insert("exit".to_owned(), super::exit(judged, course).code().into());
    if let Some(fault) = &course.fault {
        let text = field(&fault.text);
        for (name, value) in [
            ("error_code", fault.code.into()),
            ("code", fault.code.into()),
            ("error_chain", text.clone()),
            ("error", text),
        ] {
            fields.insert(name.to_owned(), value);
        }
    }
    result
}

/// What generic readers of in-toto's test results look for.
fn test_result(fields: &mut Map<String, Value>, course: &Course, verdict: Verdict) {
    let named = |status: CheckStatus| -> Vec<&str> {
        let checks = course.observed.checks.iter();
        let own = checks.filter(|check| check.status == status);
        own.map(|check| check.id.as_str()).collect()
    };
    let result = json!({
        "result": verdict.test_result(),
        "passedTests": named(CheckStatus::Passed),
        "warnedTests": named(CheckStatus::Warned),
        "failedTests": named(CheckStatus::Failed),
    });
    fields.insert("test_result".to_owned(), result);
}

impl Course {
    /// What was looked at.
    pub(super) fn describe(
        &mut self,
        timeline: &Timeline,
        repository: &Repository,
        settings: &Settings,
    ) {
        let names = settings.regions.iter();
        self.regions = names.map(|region| region.name.to_string()).collect();
        self.promised(&settings.objectives.of(timeline.source()));
        let source = &mut self.source;
        source.set("name", &timeline.source().as_str());
        source.set("asset_id", &timeline.source().as_str());
        let engine = match timeline.engine() {
            Some(POSTGRESQL) => Some("postgres"),
            other => other,
        };
        source.set("engine", &engine);
        let newest = timeline.newest_point();
        source.set(
            "incarnation",
            &newest.map(|point| point.head.incarnation.to_string()),
        );
        let host = newest.and_then(|point| point.head.facts.get("host_id").cloned());
        source.set("host_id", &host);
        let read: Vec<Value> = timeline
            .histories()
            .filter_map(|(name, history)| {
                let config = settings
                    .regions
                    .iter()
                    .find(|region| region.name == *name)?;
                let tip = history.tip().map(|tip| tip.to_string());
                Some(json!({
                    "region": name.as_str(),
                    "target": config.url.place(),
                    "country": config.country,
                    "newest_point": tip,
                }))
            })
            .collect();
        self.recovery_pt.set("read_from", &read);
        let away: Vec<Value> = repository
            .away
            .iter()
            .map(|away| {
                json!({
                    "region": away.name.as_str(),
                    "why": tidemark_storage::chain(&away.error),
                })
            })
            .collect();
        if !away.is_empty() {
            self.recovery_pt.set("regions_away", &away);
        }
    }

    /// What the config promises, where the request says nothing.
    fn promised(&mut self, config: &tidemark_host::config::Objectives) {
        let own = &mut self.objectives;
        let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs());
        let days = |time: Option<std::time::Duration>| time.map(|time| time.as_secs() / 86_400);
        let missing = [
            (&mut own.rpo_target_s, seconds(config.rpo)),
            (&mut own.rto_target_s, seconds(config.rto)),
            (
                &mut own.pitr_precision_target_s,
                seconds(config.pitr_precision),
            ),
            (&mut own.retention_min_d, days(config.window)),
            (&mut own.retention_max_d, days(config.kept_at_most)),
        ];
        for (own, promised) in missing {
            *own = own.or(promised);
        }
        if own.residency_allow.is_empty() {
            let countries = config.residency.iter();
            own.residency_allow = countries.map(ToString::to_string).collect();
        }
    }

    /// What is to be restored.
    pub(super) fn plan(&mut self, plan: &RestorePlan) {
        let section = &mut self.recovery_pt;
        if let Some(base) = plan.base() {
            let (generation, number) = (base.head.generation, base.head.number);
            section.set("base_id", &format!("base:{generation}/{number}"));
            section.set("base_taken_at", &base.head.finished_at);
            self.source
                .set("incarnation", &base.head.incarnation.to_string());
        }
        let position = |object: &tidemark_ledger::Verified<tidemark_format::heads::LogHead>| {
            format!("log:{}:{}", object.head.epoch, object.head.seq)
        };
        section.set("manifest_seq_from", &plan.log.first().map(position));
        section.set("manifest_seq_to", &plan.log.last().map(position));
        section.set("point", &plan.log.last().map(position));
        let head = plan.log.last().map(|object| object.link.to_string());
        section.set("manifest_head_blake3", &head);
        section.set("sealed", &plan.sealed);
        section.set("exact", &plan.exact);
        let age = self.timing.declared_at().duration_since(plan.end.at);
        section.set("age_s", &age.as_secs());
        let last = plan.log.last().map(|object| (&object.key, object.link));
        let base = plan.bases.last().map(|base| (&base.key, base.link));
        self.subject = last
            .into_iter()
            .chain(base)
            .map(|(key, link)| linked(key.as_str(), link))
            .collect();
        self.source.set("size_bytes", &plan.image_bytes());
    }

    /// What the restore did.
    pub(super) fn restored(&mut self, plan: &RestorePlan, done: &Done, damages: Vec<String>) {
        // Another way may have been taken than was planned at first.
        self.plan(plan);
        let read = output::bytes(done.fetched_bytes);
        self.passed(Rung::Ciphertext, format!("{read} read"));
        self.passed(Rung::Decrypt, format!("{read} opened"));
        let size = output::bytes(plan.image_bytes());
        self.passed(Rung::Materialise, size);
        self.observed.damages.extend(damages);
        self.observed
            .damages
            .extend(plan.exceptions.iter().cloned());
        if let Some(beyond) = &plan.beyond {
            self.observed.exceptions.push(beyond.sentence());
        }
        self.recovery.set("fetched_bytes", &done.fetched_bytes);
        let objects = plan.log.len().saturating_add(plan.bases.len());
        self.recovery.set("objects", &objects);
        let end = &plan.end;
        self.recovery
            .set("position", &format!("log:{}:{}", end.epoch, end.seq));
        self.recovery.set("digest", &done.proof.digest);
    }

    /// What was damaged on the way to something that failed.
    pub(super) fn damages_of(&mut self, opener: &tidemark_open::Opener) {
        let damages = opener.regions().damages();
        let lines = damages
            .iter()
            .map(|damage| format!("{} in region {}: {}", damage.key, damage.region, damage.why));
        self.damaged(lines.collect());
    }

    /// How the sandbox was sealed.
    pub(super) fn isolation(&mut self, outcome: &Outcome) {
        let mut isolation = field(&outcome.isolation);
        let settings = outcome.examined.as_ref().map(|examined| &examined.settings);
        if let Some(isolation) = isolation.as_object_mut() {
            let refused = outcome
                .isolation
                .egress
                .iter()
                .all(|attempt| attempt.refused);
            let probed = !outcome.isolation.egress.is_empty();
            let result = match (probed, refused) {
                (false, _) => "not probed",
                (true, true) => "refused",
                (true, false) => "reached",
            };
            isolation.insert("egress_probe_result".to_owned(), result.into());
            isolation.insert("netns".to_owned(), outcome.isolation.own_network.into());
            for (name, as_name) in [
                ("listen_addresses", "listen_addresses"),
                ("archive_mode", "archive_mode"),
                ("shared_preload_libraries", "preload"),
            ] {
                if let Some(value) = settings.and_then(|settings| settings.get(name)) {
                    isolation.insert(as_name.to_owned(), value.clone().into());
                }
            }
        }
        self.environment.set("isolation", &isolation);
        self.environment.set("limits", &outcome.limits);
        self.environment.set("settings", &settings);
        let left = outcome
            .examined
            .as_ref()
            .map(|examined| &examined.left_over);
        self.environment
            .set("left_over", &left.filter(|left| !left.is_empty()));
    }

    /// Nothing isolates here, so nothing of the database was started.
    pub(super) fn not_isolated(&mut self, error: &SandboxError) {
        let why = tidemark_storage::chain(error);
        let isolation = json!({
            "method": "none", "own_network": false, "netns": false, "egress_probe_result": "not probed", "why": why,
        });
        self.environment.set("isolation", &isolation);
        self.observed.egress = Some(why);
    }

    /// What the clocks say.
    pub(super) fn clocks(&mut self, clocks: &Clocks) {
        let section = &mut self.clocks;
        section.set("source", &clocks.witness.name());
        section.set("ntp_synchronised", &clocks.drill.synchronised);
        section.set("source_ntp_synchronised", &clocks.source.synchronised);
        let ahead = clocks.witness.source_ahead().as_millis();
        section.set("offset_ms", &i64::try_from(ahead).ok());
        let checks =
            tidemark_planner::drill::measure::clocks(clocks.witness, &clocks.source, &clocks.ticks);
        self.observed.checks.extend(checks);
    }
}

/// Whether a time service keeps this host's clock, as records say it.
pub(super) const fn synchronised(state: NtpState) -> Option<bool> {
    match state {
        NtpState::Synchronised => Some(true),
        NtpState::Unsynchronised => Some(false),
        NtpState::Unknown => None,
    }
}
