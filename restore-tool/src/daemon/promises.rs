//! What `[objectives]` of restore.toml promises, looked at in passing: told at risk before it is broken.
//!
//! Each is judged as `policy check` judges it, and once more as if only three quarters of it had been
//! promised: what the stricter one alone breaks is at risk. Only how it stands now counts: what was broken
//! last week is for `policy check`. An agent watches its RPO from its own side; seen from here, it is told
//! although the agent's host is gone.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::SourceName;
use tidemark_host::codes;
use tidemark_host::config::Objectives;
use tidemark_host::output;
use tidemark_planner::objectives::{Every, Facts, Rule, Verdict, judge};

use super::board::{Board, Promise, Standing};
use crate::error::Result;
use crate::evidence::shelf;
use crate::identity;
use crate::policies::{self, Looked};
use crate::repository::{Repository, Settings, Tools};

/// It reads the history of every source: so many looks at the schedule lie between.
const LOOKS_BETWEEN: u32 = 5;
/// A moment: what stands now, and nothing of before.
const MOMENT: Duration = Duration::from_millis(1);
/// A drill that shows how long a restore takes is no older than this.
const RTO_OVER: Duration = Duration::from_secs(92 * 86_400);

/// When they are looked at next.
#[derive(Debug, Default)]
pub(super) struct Watch {
    next: Option<Timestamp>,
}

impl Watch {
    /// Looks at them if it is time to, and tells what it found.
    pub(super) async fn look(&mut self, board: &Board, settings: &Settings, tools: &Tools) {
        let now = tools.clock.now();
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        let wait = settings.drills.look_every.saturating_mul(LOOKS_BETWEEN);
        self.next = now.checked_add(wait).ok();
        match Box::pin(judged(settings, tools)).await {
            Ok(promises) => tell(board, &promises, now),
            Err(error) => {
                let why = tidemark_storage::chain(&error);
                tracing::warn!(error = %why, "what is promised could not be looked at; it is tried again");
            }
        }
    }
}

/// What is promised, with a share of it in quarters, and by which rule it is judged.
fn rules(of: &Objectives, quarters: u32) -> Vec<(&'static str, Duration, Rule)> {
    let share = |time: Duration| time.saturating_mul(quarters) / 4;
    let all = [
        of.rpo.map(|rpo| {
            let (within, over) = (share(rpo), MOMENT);
            ("rpo", rpo, Rule::Rpo { within, over })
        }),
        of.rto.map(|rto| {
            let (within, over) = (share(rto), RTO_OVER);
            ("rto", rto, Rule::Rto { within, over })
        }),
        of.drill_every.map(|every| {
            let rule = Rule::Drill {
                every: Every::Time(share(every)),
                over: share(every).saturating_add(MOMENT),
                scenario: false,
                signed_off: false,
            };
            ("drill_every", every, rule)
        }),
        of.kept_at_most.map(|most| {
            let within = Some(share(most));
            ("kept_at_most", most, Rule::KeptAtMost { within })
        }),
    ];
    all.into_iter().flatten().collect()
}

/// How everything that is promised stands.
async fn judged(settings: &Settings, tools: &Tools) -> Result<Vec<Promise>> {
    let mut all = Vec::new();
    let promises = &settings.objectives;
    let mut promised = std::iter::once(&promises.all).chain(promises.by_source.values());
    if promised.all(|of| rules(of, 4).is_empty()) {
        return Ok(all);
    }
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
    for source in repository.sources().await? {
        let of = promises.of(&source);
        if rules(&of, 4).is_empty() {
            continue;
        }
        let looked = Looked {
            over: MOMENT,
            finest: of.rpo.map_or(Duration::MAX, |rpo| rpo / 2),
            every_head: false,
            exactly: false,
            only_now: true,
        };
        let facts = policies::facts(
            &repository,
            &shelf,
            (&source, &of),
            &looked,
            (settings, tools),
        );
        all.extend(standings(&source, &of, &Box::pin(facts).await?));
    }
    Ok(all)
}

/// How what is promised of one source stands.
fn standings(source: &SourceName, of: &Objectives, facts: &Facts) -> Vec<Promise> {
    let (whole, strict) = (rules(of, 4), rules(of, 3));
    let judged = whole.into_iter().zip(strict);
    judged
        // Of a source at rest only its age is left to be watched.
        .filter(|((name, ..), _)| !facts.retired || *name == "kept_at_most")
        .map(|((objective, promised, rule), (.., stricter))| {
            let (held, close) = (judge(&rule, facts), judge(&stricter, facts));
            let (standing, next) = match (held.verdict, close.verdict) {
                (Verdict::Fail, _) => (Standing::Broken, held.next),
                (_, Verdict::Fail) => (Standing::AtRisk, close.next),
                _ => (Standing::Held, None),
            };
            let promised = output::duration(promised);
            let next = next.map_or_else(String::new, |next| format!("; {next}"));
            Promise {
                source: source.clone(),
                objective,
                standing,
                text: format!(
                    "{objective} of {promised} is promised of {source}: {}{next}",
                    held.measured
                ),
            }
        })
        .collect()
}

/// Raises the alerts, and takes back those that don't hold any more.
fn tell(board: &Board, promises: &[Promise], now: Timestamp) {
    for (code, standing) in [
        (codes::OBJECTIVE_AT_RISK, Standing::AtRisk),
        (codes::OBJECTIVE_BROKEN, Standing::Broken),
    ] {
        let own = || promises.iter().filter(|one| one.standing == standing);
        board.clear_but(code, |about| own().any(|one| one.about() == about));
        for one in own() {
            board.alert(code, &one.about(), &one.text, now);
        }
    }
    board.promises(promises);
}

#[cfg(test)]
mod tests {
    use tidemark_planner::objectives::{DrillFact, DrillVerdict, Gap, Trace};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    fn ago(time: Duration) -> Timestamp {
        now().checked_sub(time).unwrap()
    }

    fn promised() -> Objectives {
        Objectives {
            rpo: Some(HOUR * 4),
            rto: Some(HOUR * 8),
            drill_every: Some(HOUR * 400),
            ..Objectives::default()
        }
    }

    /// What would be lost now, how long ago a drill passed, and how long it took.
    fn facts(exposure: Duration, drilled: Duration, took: Duration) -> Facts {
        let mut facts = Facts::new(now());
        facts.begins = Some(ago(HOUR * 4000));
        facts.gaps = vec![Gap {
            from: ago(exposure),
            to: now(),
            after: Trace::Beat(1),
            before: None,
        }];
        facts.drills = vec![DrillFact {
            id: "id".to_owned(),
            at: ago(drilled),
            verdict: DrillVerdict::Pass,
            because: String::new(),
            discounted: None,
            segregated: true,
            scenario: None,
            rto: Some(took),
            rto_projected: None,
            pitr_error: None,
            egress_refused: Some(true),
            destroyed: Some(true),
            rows_exported: Some(0),
            signed_off: None,
        }];
        facts
    }

    fn of(facts: &Facts) -> Vec<(&'static str, Standing)> {
        let app = SourceName::new("app").unwrap();
        let all = standings(&app, &promised(), facts).into_iter();
        all.map(|one| (one.objective, one.standing)).collect()
    }

    #[test]
    fn each_promise_is_at_risk_before_it_is_broken() {
        use Standing::{AtRisk, Broken, Held};
        for (hours, rpo, drilled, every, took, rto) in [
            (2, Held, 290, Held, 5, Held),
            (3, Held, 300, Held, 6, Held),
            (4, AtRisk, 399, AtRisk, 8, AtRisk),
            (5, Broken, 401, Broken, 9, Broken),
        ] {
            let facts = facts(HOUR * hours, HOUR * drilled, HOUR * took);
            let expected = [("rpo", rpo), ("rto", rto), ("drill_every", every)];
            assert_eq!(of(&facts), expected, "{hours} {drilled} {took}");
        }
    }

    #[test]
    fn of_a_source_at_rest_no_loss_and_no_drill_is_missed() {
        let mut facts = facts(HOUR * 999, HOUR * 999, HOUR * 999);
        facts.retired = true;
        assert_eq!(of(&facts), []);
    }

    #[test]
    fn a_risk_gives_way_to_the_breach_and_both_end() {
        let board = Board::default();
        let app = SourceName::new("app").unwrap();
        let codes_at = |exposure: u32| {
            let facts = facts(HOUR * exposure, HOUR, HOUR);
            tell(&board, &standings(&app, &promised(), &facts), now());
            let alerts = board.alerts().into_iter();
            alerts
                .map(|alert| (alert.code, alert.about))
                .collect::<Vec<_>>()
        };
        let about = |code: &str| vec![(code.to_owned(), "app rpo".to_owned())];
        assert_eq!(codes_at(1), []);
        assert_eq!(codes_at(4), about("TM1702"));
        assert_eq!(codes_at(5), about("TM1703"));
        assert_eq!(codes_at(2), []);
    }
}
