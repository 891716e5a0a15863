//! What drill records say, as facts: verdict, how far up the ladder, RPO, RTO, PITR error, what is due.
//! Pure.
//!
//! **Invariants.** A drill proves something only if it passed, with exceptions or without, and its record
//! stands: signed by a key that the root vouched for and has not taken back before, nothing wrong with the
//! record's place in its chain ([`Drill::doubt`]). INCONCLUSIVE never counts. What a record doesn't say
//! stays unknown; nothing is assumed in its favour.
//!
//! A rung is proved when at least one of its checks passed and none failed; in part, if others of them
//! could not be made. A drill reached a rung if that one and all below it are proved, in part at least.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tidemark_format::{KeyId, SourceName};
use tidemark_host::output;
pub use tidemark_planner::drill::{Rung, Verdict};

use super::chain::Chain;
use super::record::Record;

/// The type of a drill's record.
pub const RESTORE_DRILL: &str = "restore_drill";
/// How the types of all drills' records end.
const ANY_DRILL: &str = "_drill";

/// Whether records of type `kind` are drills'.
#[must_use]
pub fn is_drill(kind: &str) -> bool {
    kind.ends_with(ANY_DRILL)
}

/// What the checks of a rung came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RungState {
    /// Nothing was checked.
    NotRun,
    /// Something was looked at, and nothing was compared.
    Recorded,
    /// Some checks passed; others could not be made.
    Partial,
    /// At least one check passed, and none failed or was left undone.
    Proved,
    /// A check failed.
    Failed,
}

impl RungState {
    /// Whether the rung above it may count.
    #[must_use]
    pub const fn is_climbed(self) -> bool {
        matches!(self, Self::Proved | Self::Partial)
    }
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Checks {
    /// As it must be.
    pub passed: usize,
    /// Not as it must be.
    pub failed: usize,
    /// A person should look.
    pub warned: usize,
    /// Written down, with nothing to be compared with.
    pub recorded: usize,
    /// Could not be made.
    pub not_run: usize,
}

impl Checks {
    fn add(&mut self, status: &str) {
        let count = match status {
            "passed" => &mut self.passed,
            "failed" => &mut self.failed,
            "warned" => &mut self.warned,
            "recorded" => &mut self.recorded,
            // A word that this version doesn't know has not shown anything.
            _ => &mut self.not_run,
        };
        *count = count.saturating_add(1);
    }

    const fn state(self) -> RungState {
        if self.failed > 0 {
            RungState::Failed
        } else if self.passed == 0 && self.warned == 0 && self.recorded == 0 {
            RungState::NotRun
        } else if self.passed == 0 {
            RungState::Recorded
        } else if self.not_run > 0 {
            RungState::Partial
        } else {
            RungState::Proved
        }
    }
}

/// A part of the time that a drill took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A drill, as its record tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drill {
    /// The record's id.
    pub id: String,
    /// Who signed it.
    pub signer: KeyId,
    /// The record's number in that signer's chain.
    pub seq: u64,
    /// When the record was made: when the drill ended.
    pub at: Timestamp,
    /// When it was declared.
    pub declared_at: Option<Timestamp>,
    /// Which source.
    pub source: Option<SourceName>,
    /// Its name in the schedule, if that ran it.
    pub plan: Option<String>,
    /// The schedule, with the zone.
    pub schedule: Option<String>,
    /// The slot of the schedule.
    pub slot: Option<Timestamp>,
    /// How it ended.
    pub verdict: Option<Verdict>,
    /// Why the record proves nothing, whatever it says.
    pub doubt: Option<String>,
    /// `fresh-host`, `without-region=X`, …
    pub scenario: Option<String>,
    /// How the recovery point was chosen.
    pub selection: Option<String>,
    /// The instant or position that was restored to, as it was asked for.
    pub target: Option<String>,
    /// The recovery point, as the repository names it.
    pub point: Option<String>,
    /// The highest rung that it reached.
    pub reached: Option<Rung>,
    /// Every rung.
    pub rungs: Vec<(Rung, RungState)>,
    /// All checks.
    pub checks: Checks,
    /// What was lost, measured, in seconds.
    pub rpo_seconds: Option<f64>,
    /// From declaration to the last check, in seconds.
    pub rto_seconds: Option<f64>,
    /// The same for all of it, in seconds.
    pub rto_projected_seconds: Option<f64>,
    /// How far from the instant asked for, in milliseconds.
    pub pitr_error_ms: Option<f64>,
    /// Where the time went.
    pub phases: Vec<Phase>,
    /// What had to be mended.
    pub fixes: Vec<String>,
    /// Why it failed, or proves nothing.
    pub causes: Vec<String>,
    /// What was not as it should be.
    pub exceptions: Vec<String>,
    /// Whether it ran apart from the source's own host.
    pub segregated: bool,
    /// Whether the scratch was destroyed, and its absence seen.
    pub destroyed: Option<bool>,
    /// When the next one is due.
    pub next_due: Option<Timestamp>,
}

impl Drill {
    /// Whether it shows that the source can be brought back.
    #[must_use]
    pub const fn proves(&self) -> bool {
        self.doubt.is_none()
            && matches!(
                self.verdict,
                Some(Verdict::Pass | Verdict::PassWithExceptions)
            )
    }

    /// Of a record; none if it is no drill's.
    #[must_use]
    pub fn of(chain: &Chain, record: &Record) -> Option<Self> {
        if !is_drill(record.kind()) {
            return None;
        }
        let (rungs, checks) = ladder(record);
        let climbed = rungs.iter().take_while(|(_, state)| state.is_climbed());
        let reached = climbed.last();
        Some(Self {
            id: record.id(),
            signer: chain.signer,
            seq: record.seq(),
            at: record.created_at(),
            declared_at: instant(record, "/timing/declared_at"),
            source: name_of_source(record),
            plan: text(record, "/plan/plan_id"),
            schedule: text(record, "/plan/schedule"),
            slot: instant(record, "/plan/slot"),
            verdict: record.text("/result/verdict").and_then(Verdict::of_name),
            doubt: chain.doubt(record),
            scenario: text(record, "/plan/scenario"),
            selection: text(record, "/recovery_pt/selection"),
            target: text(record, "/recovery_pt/target_time")
                .or_else(|| text(record, "/recovery_pt/target_lsn")),
            point: text(record, "/recovery_pt/point").or_else(|| {
                let first = record.statement.subject.first();
                first.map(|subject| subject.name.clone())
            }),
            reached: reached.map(|(rung, _)| *rung),
            rungs,
            checks,
            rpo_seconds: number(record, "/recovery/rpo_measured_s"),
            rto_seconds: number(record, "/timing/rto_measured_s"),
            rto_projected_seconds: number(record, "/timing/rto_projected_full_s"),
            pitr_error_ms: number(record, "/recovery/pitr_error_ms"),
            phases: phases(record),
            fixes: texts(record, "/fixes"),
            causes: texts(record, "/result/causes"),
            exceptions: texts(record, "/result/exceptions"),
            segregated: is_segregated(record),
            destroyed: record
                .field("/handling/teardown/verified_absent")
                .and_then(Value::as_bool),
            next_due: instant(record, "/governance/next_due"),
        })
    }
}

/// Every drill on file, the oldest first.
#[must_use]
pub fn all(chains: &[Chain]) -> Vec<Drill> {
    let records = chains
        .iter()
        .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
    let mut all: Vec<Drill> = records
        .filter_map(|(chain, record)| Drill::of(chain, record))
        .collect();
    all.sort_by(|one, other| {
        (one.at, one.signer, one.seq).cmp(&(other.at, other.signer, other.seq))
    });
    all
}

/// Those of a source, in the same order.
pub fn of_source<'a>(
    drills: &'a [Drill],
    source: &'a SourceName,
) -> impl DoubleEndedIterator<Item = &'a Drill> {
    let own = move |drill: &&Drill| drill.source.as_ref() == Some(source);
    drills.iter().filter(own)
}

/// Those that show that the source can be brought back, in the same order.
pub fn passed<'a>(
    drills: &'a [Drill],
    source: &'a SourceName,
) -> impl DoubleEndedIterator<Item = &'a Drill> {
    of_source(drills, source).filter(|drill| drill.proves())
}

/// Whether a source is proved to come back.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Proof {
    /// The last drill that shows it.
    pub last_proved: Option<Drill>,
    /// The last drill of all.
    pub last: Option<Drill>,
    /// When the next one is due.
    pub due: Option<Timestamp>,
    /// Whether that has passed.
    pub overdue: bool,
}

impl Proof {
    /// Of a source, as it stands at `now`.
    #[must_use]
    pub fn of(drills: &[Drill], source: &SourceName, now: Timestamp) -> Self {
        let last = of_source(drills, source).next_back().cloned();
        let due = of_source(drills, source)
            .rev()
            .find_map(|drill| drill.next_due);
        Self {
            last_proved: passed(drills, source).next_back().cloned(),
            last,
            due,
            overdue: due.is_some_and(|due| due < now),
        }
    }

    /// The answer to "is it proved?" in one line.
    #[must_use]
    pub fn sentence(&self, now: Timestamp) -> String {
        let mut line = match (&self.last_proved, &self.last) {
            (None, None) => {
                "no drill is on record: a backup is a hypothesis until one has proved it".to_owned()
            }
            (None, Some(last)) => format!("not proved: {}", tried(last, now)),
            (Some(proved), last) => {
                let mut line = brought_back(proved, now);
                if let Some(last) = last.as_ref().filter(|last| last.id != proved.id) {
                    line.push_str(&format!("; since then {}", tried(last, now)));
                }
                line
            }
        };
        if let Some(due) = self.due {
            line.push_str(&if self.overdue {
                format!("; the next drill was due {}", output::age(now, due))
            } else {
                format!("; the next drill is due at {}", output::instant(due))
            });
        }
        line
    }

    /// What somebody should do about it.
    #[must_use]
    pub fn news(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let id = &last.id;
        if last.verdict == Some(Verdict::Fail) && last.doubt.is_none() {
            return Some(format!(
                "the last drill failed: tidemark-restore evidence show {id} says at which rung and why"
            ));
        }
        if let Some(doubt) = &last.doubt {
            return Some(format!("the last drill's record does not count: {doubt}"));
        }
        if self.overdue {
            return Some("a drill is overdue: tidemark-restore drill run, or see why the schedule did not (systemctl status tidemark-restore)".to_owned());
        }
        (last.verdict == Some(Verdict::Inconclusive)).then(|| {
            format!(
                "the last drill was inconclusive and counts for nothing: tidemark-restore evidence show {id} says why"
            )
        })
    }
}

/// A drill that shows that it comes back.
fn brought_back(drill: &Drill, now: Timestamp) -> String {
    let mut line = format!("yes, {}", output::age(now, drill.at));
    if drill.verdict == Some(Verdict::PassWithExceptions) {
        line.push_str(", with exceptions");
    }
    if let Some(rung) = drill.reached {
        let in_part = drill.rungs.contains(&(rung, RungState::Partial));
        let in_part = if in_part { " (in part)" } else { "" };
        line.push_str(&format!(", up to {}{in_part}", rung.name()));
    }
    let mut measured = Vec::new();
    if let Some(rpo) = drill.rpo_seconds {
        measured.push(format!("lost {}", seconds(rpo)));
    }
    if let Some(rto) = drill.rto_seconds {
        measured.push(format!("back in {}", seconds(rto)));
    }
    if let Some(error) = drill.pitr_error_ms {
        measured.push(format!("{} from the instant", seconds(error / 1000.0)));
    }
    if !measured.is_empty() {
        line.push_str(&format!(" ({})", measured.join(", ")));
    }
    if !drill.segregated {
        line.push_str(", not apart from the source's host");
    }
    line
}

/// A drill that doesn't.
fn tried(drill: &Drill, now: Timestamp) -> String {
    let verdict = drill.verdict.map_or("no verdict", Verdict::name);
    let when = output::age(now, drill.at);
    match &drill.doubt {
        None => format!("{verdict} {when}"),
        Some(doubt) => format!("{verdict} {when}, which does not count: {doubt}"),
    }
}

/// Seconds, as people say them.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    let time = std::time::Duration::try_from_secs_f64(seconds.max(0.0));
    time.map_or_else(|_| "for ever".to_owned(), output::duration)
}

fn name_of_source(record: &Record) -> Option<SourceName> {
    let name = record.text("/source/name");
    let name = name.or_else(|| record.text("/source/asset_id"));
    name.and_then(|name| name.parse().ok())
}

/// The checks by rung.
fn ladder(record: &Record) -> (Vec<(Rung, RungState)>, Checks) {
    let mut by_rung = [Checks::default(); Rung::ALL.len()];
    let mut total = Checks::default();
    let checks = record.field("/checks").and_then(Value::as_array);
    for check in checks.into_iter().flatten() {
        let word = |name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default();
        total.add(word("status"));
        let level = word("level");
        let rungs = Rung::ALL.iter().zip(&mut by_rung);
        for (_, counted) in rungs.filter(|(rung, _)| rung.name() == level) {
            counted.add(word("status"));
        }
    }
    let states = Rung::ALL.into_iter().zip(by_rung.map(Checks::state));
    (states.collect(), total)
}

fn phases(record: &Record) -> Vec<Phase> {
    let all = record.field("/timing/phases").and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter_map(|phase| {
            let at = |name: &str| phase.get(name)?.as_str()?.parse::<Timestamp>().ok();
            // What came after the last check is no part of the time to be back.
            if phase.get("counted").and_then(Value::as_bool) == Some(false) {
                return None;
            }
            let ms = phase.get("took_ms").and_then(Value::as_f64);
            let told = ms.map(|ms| ms / 1000.0);
            let between = || {
                let took = at("end")?.duration_since(at("start")?);
                Some(took.as_secs_f64())
            };
            Some(Phase {
                name: phase.get("name")?.as_str()?.to_owned(),
                seconds: told.or_else(between).filter(|took| *took >= 0.0)?,
            })
        })
        .collect()
}

/// `true`, or an object whose `value` is.
fn is_segregated(record: &Record) -> bool {
    let said = record.field("/environment/segregated_from_source");
    let value = said.map(|said| said.get("value").unwrap_or(said));
    value.and_then(Value::as_bool).unwrap_or(false)
}

fn text(record: &Record, pointer: &str) -> Option<String> {
    record
        .text(pointer)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

fn texts(record: &Record, pointer: &str) -> Vec<String> {
    let all = record.field(pointer).and_then(Value::as_array);
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    all.into_iter().flatten().map(shown).collect()
}

fn number(record: &Record, pointer: &str) -> Option<f64> {
    record.field(pointer)?.as_f64()
}

fn instant(record: &Record, pointer: &str) -> Option<Timestamp> {
    record.text(pointer)?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use serde_json::{Map, json};
    use tidemark_format::RepoId;
    use tidemark_format::sign::SigningKey;
    use tidemark_host::TestRng;

    use super::*;
    use crate::evidence::chain::{Finding, Standing, Weight};
    use crate::evidence::record::Draft;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn app() -> SourceName {
        "app".parse().unwrap()
    }

    /// What a drill's record says, as far as this page reads it.
    pub(crate) fn fields(verdict: &str) -> Map<String, Value> {
        let check =
            |level: &str, status: &str| json!({ "id": level, "level": level, "status": status });
        let fields = json!({
            "plan": { "scenario": "fresh-host", "trigger": "scheduled" },
            "objectives": { "rpo_target_s": 300, "rto_target_s": 86400, "pitr_precision_target_s": 60 },
            "source": { "name": "app", "engine": "sqlite" },
            "recovery_pt": { "selection": "RANDOM", "target_time": "2026-11-20T10:00:00Z", "point": "log:1:7" },
            "environment": { "segregated_from_source": { "value": true, "how": "another machine" } },
            "timing": {
                "declared_at": "2026-11-22T08:59:00Z",
                "phases": [
                    { "name": "fetch", "start": "2026-11-22T08:59:00Z", "end": "2026-11-22T08:59:40.5Z" },
                    { "name": "replay", "took_ms": 9500, "counted": true },
                    { "name": "destroy", "took_ms": 700, "counted": false },
                ],
                "rto_measured_s": 50.0,
                "rto_projected_full_s": 61.5,
            },
            "recovery": { "rpo_measured_s": 4.5, "pitr_error_ms": 120 },
            "checks": [
                check("chain", "passed"), check("ciphertext", "passed"), check("decrypt", "passed"),
                check("materialise", "passed"), check("replay", "passed"), check("logical", "passed"),
                check("logical", "not_run"), check("logical", "recorded"),
            ],
            "fixes": ["reindex t_pkey"],
            "result": { "verdict": verdict, "exceptions": ["region b is damaged"] },
            "handling": { "teardown": { "verified_absent": true } },
            "governance": { "next_due": "2026-11-29T09:00:00Z" },
        });
        fields.as_object().unwrap().clone()
    }

    /// A chain of drills of one signer, a day apart.
    pub(crate) fn chain(verdicts: &[&str]) -> Chain {
        let key = SigningKey::from_secret(&[7; 32]);
        let mut records: BTreeMap<u64, Record> = BTreeMap::new();
        let mut now = at("2026-11-22T09:00:00Z");
        for (seq, verdict) in (0..).zip(verdicts) {
            let rng = TestRng::seeded(seq);
            let draft = Draft::new(RESTORE_DRILL, vec![], fields(verdict), now, &rng);
            let prev = records.values().next_back().map(|record| record.sha256);
            let record = draft.sign(seq, prev, RepoId([1; 16]), &key).unwrap();
            records.insert(seq, record);
            now = now.checked_add(SignedDuration::from_hours(24)).unwrap();
        }
        Chain {
            signer: key.public().id(),
            public: Some(key.public()),
            name: Some("drills".into()),
            standing: Standing::Enrolled,
            records,
            findings: vec![],
        }
    }

    #[test]
    fn a_record_is_read_into_facts_and_partial_rungs_are_shown_as_such() {
        let drills = all(&[chain(&["PASS_WITH_EXCEPTIONS"])]);
        let drill = &drills[0];
        assert_eq!(drill.verdict, Some(Verdict::PassWithExceptions));
        assert_eq!(drill.source, Some(app()));
        assert_eq!(drill.reached, Some(Rung::Logical));
        assert_eq!(drill.rungs[5], (Rung::Logical, RungState::Partial));
        assert_eq!(drill.rungs[6], (Rung::Scenario, RungState::NotRun));
        assert_eq!((drill.checks.passed, drill.checks.not_run), (6, 1));
        assert_eq!(drill.rpo_seconds, Some(4.5));
        assert_eq!(drill.rto_seconds, Some(50.0));
        assert_eq!(drill.pitr_error_ms, Some(120.0));
        let took: f64 = drill.phases.iter().map(|phase| phase.seconds).sum();
        assert!((took - 50.0).abs() < 1e-9, "{took}");
        assert!(drill.segregated && drill.destroyed == Some(true) && drill.proves());
        assert_eq!(drill.next_due, Some(at("2026-11-29T09:00:00Z")));
    }

    #[test]
    fn a_rung_with_a_failed_check_is_failed_and_an_unknown_word_proves_nothing() {
        let counted = |statuses: &[&str]| {
            let mut checks = Checks::default();
            statuses.iter().for_each(|status| checks.add(status));
            checks.state()
        };
        assert_eq!(counted(&["passed", "failed"]), RungState::Failed);
        assert_eq!(
            counted(&["passed", "warned", "recorded"]),
            RungState::Proved
        );
        assert_eq!(counted(&["passed", "splendid"]), RungState::Partial);
        assert_eq!(counted(&["recorded"]), RungState::Recorded);
        assert_eq!(counted(&["not_run"]), RungState::NotRun);
        assert_eq!(counted(&[]), RungState::NotRun);
        assert_eq!(Verdict::of_name("PASSED"), None);
    }

    #[test]
    fn only_what_passed_and_stands_proves_anything() {
        let of = |chain: Chain| all(&[chain]);
        for (verdict, proves) in [
            ("PASS", true),
            ("PASS_WITH_EXCEPTIONS", true),
            ("INCONCLUSIVE", false),
            ("FAIL", false),
            ("pass", false),
        ] {
            assert_eq!(of(chain(&[verdict]))[0].proves(), proves, "{verdict}");
        }
        let mut unknown = chain(&["PASS"]);
        unknown.standing = Standing::NotEnrolled;
        let doubted = &of(unknown)[0];
        assert!(!doubted.proves() && doubted.doubt.as_ref().unwrap().contains("enrol"));
        let mut forked = chain(&["PASS", "PASS"]);
        forked.findings.push(Finding {
            weight: Weight::Integrity,
            what: "forked",
            signer: forked.signer,
            seq: Some(1),
            place: None,
            why: "two records stand under this number".into(),
        });
        let drills = of(forked);
        assert!(drills[0].proves() && !drills[1].proves());
    }

    #[test]
    fn the_last_proof_stands_beside_what_was_tried_since_and_what_is_due() {
        let now = at("2026-11-25T09:00:00Z");
        let proof = |verdicts: &[&str], now| {
            let drills = all(&[chain(verdicts)]);
            Proof::of(&drills, &app(), now)
        };
        let good = proof(&["FAIL", "PASS"], now);
        let said = good.sentence(now);
        assert!(said.starts_with("yes, "), "{said}");
        assert!(
            said.contains("up to logical") && said.contains("due at"),
            "{said}"
        );
        assert_eq!(good.news(), None);
        let failed = proof(&["PASS", "FAIL"], now);
        assert!(failed.sentence(now).contains("since then FAIL"));
        assert!(failed.news().unwrap().contains("failed"));
        let undecided = proof(&["PASS", "INCONCLUSIVE"], now);
        assert!(undecided.news().unwrap().contains("counts for nothing"));
        assert!(undecided.last_proved.is_some());
        let late = at("2026-12-25T09:00:00Z");
        let overdue = proof(&["PASS"], late);
        assert!(overdue.overdue && overdue.news().unwrap().contains("overdue"));
        let none = proof(&[], now);
        assert!(none.sentence(now).contains("hypothesis"));
        assert_eq!(none.news(), None);
        let other: SourceName = "shop".parse().unwrap();
        let drills = all(&[chain(&["PASS"])]);
        assert!(Proof::of(&drills, &other, now).last.is_none());
    }
}
