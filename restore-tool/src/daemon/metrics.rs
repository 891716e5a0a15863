//! The drills in OpenMetrics. Labels are bounded: drills, sources, constant names.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::board::{Board, Doing, Standing};

/// A drill.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDrill {
    drill: String,
    source: String,
}

/// How a drill ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    drill: String,
    source: String,
    verdict: String,
}

/// Something that is promised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPromise {
    source: String,
    objective: &'static str,
}

/// An alert that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAlert {
    code: String,
    about: String,
}

type Seconds = Family<OfDrill, Gauge<f64, AtomicU64>>;
type Count = Family<OfDrill, Gauge>;

/// The gauges.
#[derive(Debug, Default)]
struct Gauges {
    verdict: Family<OfVerdict, Gauge>,
    ended: Seconds,
    passed: Seconds,
    age: Seconds,
    rto: Seconds,
    rpo: Seconds,
    next: Seconds,
    due: Count,
    overdue: Count,
    missed: Count,
    running: Count,
    alert: Family<OfAlert, Gauge>,
    at_risk: Family<OfPromise, Gauge>,
}

/// The text, as the board stands.
#[must_use]
pub fn render(board: &Board, now: Timestamp) -> String {
    let gauges = Gauges::default();
    gauges.set(board, now);
    let mut text = String::new();
    match encode(&mut text, &gauges.registered()) {
        Ok(()) => text,
        // Writing into a string can't fail.
        Err(std::fmt::Error) => String::new(),
    }
}

impl Gauges {
    fn registered(&self) -> Registry {
        let mut registry = Registry::with_prefix("tidemark_drill");
        let r = &mut registry;
        let text = "1 for how the last drill ended that came to a result";
        r.register("last_verdict", text, self.verdict.clone());
        let seconds = || Unit::Seconds;
        let text = "When the last drill ended that came to a result";
        r.register_with_unit("last_timestamp", text, seconds(), self.ended.clone());
        let text = "When a drill passed last";
        r.register_with_unit("last_pass_timestamp", text, seconds(), self.passed.clone());
        let text = "How long ago a drill passed last; absent if none ever did";
        r.register_with_unit("last_pass_age", text, seconds(), self.age.clone());
        let text = "How long the last drill took until the database was back and checked";
        r.register_with_unit("rto", text, seconds(), self.rto.clone());
        let text = "What the last drill found lost";
        r.register_with_unit("rpo", text, seconds(), self.rpo.clone());
        let text = "When the schedule calls for it next";
        r.register_with_unit("next_timestamp", text, seconds(), self.next.clone());
        let text = "Whether a slot has passed and has no result yet";
        r.register("due", text, self.due.clone());
        let text = "Whether it should have been done by now";
        r.register("overdue", text, self.overdue.clone());
        let text = "Slots that passed without a result before the newest one";
        r.register("missed_slots", text, self.missed.clone());
        let text = "Whether it runs, here or on another host";
        r.register("running", text, self.running.clone());
        let text =
            "1 for each condition that stands: its code, which explain knows, and what it is about";
        r.register("alert_active", text, self.alert.clone());
        let text = "1 while more than three quarters of what restore.toml promises are used up, or all of it";
        r.register("objective_at_risk", text, self.at_risk.clone());
        registry
    }

    fn set(&self, board: &Board, now: Timestamp) {
        for (name, drill) in board.drills() {
            let of = OfDrill {
                drill: name.to_string(),
                source: drill.source.to_string(),
            };
            let set = |family: &Seconds, value: f64| {
                family.get_or_create(&of).set(value);
            };
            let count = |family: &Count, value: i64| {
                family.get_or_create(&of).set(value);
            };
            if let Some(last) = &drill.last {
                let verdict = OfVerdict {
                    drill: of.drill.clone(),
                    source: of.source.clone(),
                    verdict: last.verdict.clone(),
                };
                self.verdict.get_or_create(&verdict).set(1);
                set(&self.ended, seconds(last.at));
                let measured = [(&self.rto, last.rto_ms), (&self.rpo, last.rpo_ms)];
                for (family, ms) in measured.into_iter().filter_map(|(of, ms)| Some((of, ms?))) {
                    set(family, std::time::Duration::from_millis(ms).as_secs_f64());
                }
            }
            if let Some(passed) = drill.passed_at {
                set(&self.passed, seconds(passed));
                set(&self.age, now.duration_since(passed).as_secs_f64());
            }
            if let Some(next) = drill.next {
                set(&self.next, seconds(next));
            }
            count(&self.due, i64::from(drill.due_since.is_some()));
            count(&self.overdue, i64::from(drill.overdue));
            count(&self.missed, i64::from(drill.missed));
            let runs = matches!(drill.doing, Doing::Running { .. } | Doing::Elsewhere { .. });
            count(&self.running, i64::from(runs));
        }
        for alert in board.alerts() {
            let (code, about) = (alert.code, alert.about);
            self.alert.get_or_create(&OfAlert { code, about }).set(1);
        }
        for promise in board.promised() {
            let of = OfPromise {
                source: promise.source.to_string(),
                objective: promise.objective,
            };
            let held = promise.standing == Standing::Held;
            self.at_risk.get_or_create(&of).set(i64::from(!held));
        }
    }
}

fn seconds(at: Timestamp) -> f64 {
    at.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use tidemark_format::{DrillName, SourceName};
    use tidemark_host::codes;

    use super::super::board::{Last, Scheduled};
    use super::*;

    #[test]
    fn the_last_verdict_its_age_what_it_measured_and_what_is_due_are_told() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let board = Board::default();
        let drill = Scheduled {
            source: SourceName::new("app").unwrap(),
            schedule: "0 3 * * * UTC".to_owned(),
            doing: Doing::Waiting,
            next: Some(at(2000)),
            due_since: Some(at(900)),
            missed: 2,
            overdue: true,
            last: Some(Last {
                slot: at(100),
                at: at(160),
                host: "h".to_owned(),
                verdict: "PASS".to_owned(),
                evidence_id: None,
                rto_ms: Some(41_500),
                rpo_ms: Some(3000),
            }),
            passed_at: Some(at(160)),
        };
        board.set([(DrillName::new("nightly").unwrap(), drill)].into());
        board.alert(codes::REGION_AWAY, "aarhus", "it is away", at(1000));
        let text = render(&board, at(1000));
        for line in [
            "tidemark_drill_last_verdict{drill=\"nightly\",source=\"app\",verdict=\"PASS\"} 1",
            "tidemark_drill_last_pass_age_seconds{drill=\"nightly\",source=\"app\"} 840.0",
            "tidemark_drill_rto_seconds{drill=\"nightly\",source=\"app\"} 41.5",
            "tidemark_drill_rpo_seconds{drill=\"nightly\",source=\"app\"} 3.0",
            "tidemark_drill_next_timestamp_seconds{drill=\"nightly\",source=\"app\"} 2000.0",
            "tidemark_drill_due{drill=\"nightly\",source=\"app\"} 1",
            "tidemark_drill_overdue{drill=\"nightly\",source=\"app\"} 1",
            "tidemark_drill_missed_slots{drill=\"nightly\",source=\"app\"} 2",
            "tidemark_drill_alert_active{code=\"TM1601\",about=\"aarhus\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
