//! Every clause as an auditor reads it: one state of things that passes it, one that fails it, and what
//! can't be decided.

mod guard;
mod loss;
mod proof;

use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::{Epoch, LogSeq};

use super::*;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// When tests look.
pub(super) fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

/// So long before that.
pub(super) fn ago(time: Duration) -> Timestamp {
    now().checked_sub(time).unwrap()
}

/// A source of 40 days at which everything is as it should be.
pub(super) fn good() -> Facts {
    let mut facts = Facts::new(now());
    facts.begins = Some(ago(DAY * 40));
    facts.earliest = Some(ago(DAY * 35));
    facts.through = Some(ago(Duration::from_secs(3)));
    facts.gaps = (0..40 * 24)
        .rev()
        .map(|hour| gap(HOUR * hour + MINUTE, HOUR * hour, hour.into()))
        .collect();
    facts.bases = (0..35)
        .rev()
        .map(|n| BaseMade {
            key: format!("meta/base/app/1/{n}"),
            started_at: ago(DAY * n + HOUR),
            finished_at: ago(DAY * n + MINUTE * 50),
        })
        .collect();
    facts.points = (0..35 * 24)
        .rev()
        .map(|n| PointMade {
            name: format!("point:1/{n}"),
            at: ago(HOUR * n + MINUTE),
            committed: ago(HOUR * n + MINUTE * 2),
        })
        .collect();
    facts.oldest = Some(OldestObject {
        key: "meta/log/app/1/0".to_owned(),
        at: ago(DAY * 40),
    });
    facts.regions = vec![region("a", "DK"), region("b", "SE")];
    facts.declared_in = Some("restore.toml of 2026-11-01".to_owned());
    facts.keyring_version = 4;
    facts
}

/// What grew from `from` to `to` ago.
pub(super) fn gap(from: Duration, to: Duration, seq: u64) -> Gap {
    Gap {
        from: ago(from),
        to: ago(to),
        after: Trace::Log(Epoch(1), LogSeq(seq)),
        before: (to > Duration::ZERO).then_some(Trace::Log(Epoch(1), LogSeq(seq + 1))),
    }
}

pub(super) fn region(name: &str, country: &str) -> RegionFact {
    RegionFact {
        name: name.to_owned(),
        place: format!("s3://{name}"),
        country: Some(country.to_owned()),
        failure_domain: name.to_owned(),
        domain_named: false,
        device: None,
        transport: Transport::Tls,
        agent_plain: Some(false),
        create_only: Some("enforced".to_owned()),
        probed_by: Some("point:1/9".to_owned()),
        committed: Some(ago(MINUTE)),
    }
}

/// A drill that passed, so long ago.
pub(super) fn drill(id: &str, age: Duration) -> DrillFact {
    DrillFact {
        id: id.to_owned(),
        at: ago(age),
        verdict: DrillVerdict::Pass,
        because: String::new(),
        discounted: None,
        segregated: true,
        scenario: None,
        rto: Some(MINUTE * 20),
        rto_projected: Some(HOUR),
        pitr_error: Some(Duration::from_secs(40)),
        egress_refused: Some(true),
        destroyed: Some(true),
        rows_exported: Some(0),
        signed_off: None,
    }
}

/// The verdict is as said, and what an auditor reads holds each of `words`.
#[track_caller]
pub(super) fn judged(rule: &Rule, facts: &Facts, verdict: Verdict, words: &[&str]) -> Judged {
    let judged = judge(rule, facts);
    let all = format!(
        "{} {} {:?}",
        judged.measured,
        judged.proof.join(" "),
        judged.next
    );
    assert_eq!(judged.verdict, verdict, "{all}");
    for word in words {
        assert!(all.contains(word), "no {word:?} in: {all}");
    }
    assert_eq!(
        judged.next.is_none(),
        verdict == Verdict::Pass,
        "whoever did not pass is told what to do: {all}"
    );
    judged
}

#[test]
fn what_comes_later_is_not_proved_and_says_why() {
    for (rule, words) in [
        (Rule::HotStandby, "standby"),
        (Rule::Alerting, "alert"),
        (Rule::Disposal, "deletes nothing"),
    ] {
        judged(&rule, &good(), Verdict::NotProved, &[words]);
    }
}

#[test]
fn verdicts_are_written_as_an_auditor_reads_them() {
    let written: Vec<String> = [
        Verdict::Pass,
        Verdict::NotYet,
        Verdict::NotProved,
        Verdict::Fail,
    ]
    .iter()
    .map(ToString::to_string)
    .collect();
    assert_eq!(written, ["PASS", "NOT YET", "NOT PROVED", "FAIL"]);
    let json = serde_json::to_value(Verdict::NotProved).unwrap();
    assert_eq!(json, "NOT_PROVED");
}
