//! Which instant, from which regions: the scenario narrows what there is, the selection picks of it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidemark_format::evidence::Sha256;
use tidemark_format::{Epoch, LogSeq};
use tidemark_host::time_spec::TimeContext;
use tidemark_host::{RngExt as _, output};
use tidemark_ledger::survey::{Avoid, Scope, Survey};
use tidemark_ledger::timeline::Timeline;
use tidemark_open::Opener;
use tidemark_planner::drill::select::{self, Chosen, Select};
use tidemark_planner::drill::{Check, CheckStatus, Rung};
use tidemark_planner::restore::{self as planner, Facts, HoleWhy};

use super::course::Course;
use super::request::{Request, Scenario};
use crate::cli::RestoreArgs;
use crate::commands::restore::closed;
use crate::error::{Error, Result};
use crate::plan::{Asked, Goal};
use crate::repository::{Settings, Tools};

/// The regions that a scenario leaves.
///
/// # Errors
/// The scenario names a region that isn't given, or leaves none.
pub(super) fn regions(scenario: Option<&Scenario>, settings: &Settings) -> Result<Settings> {
    let mut left = settings.clone();
    let (name, keep) = match scenario {
        Some(Scenario::OnlyRegion(name)) => (name, true),
        Some(Scenario::WithoutRegion(name)) => (name, false),
        Some(Scenario::AsOf(_) | Scenario::FreshHost) | None => return Ok(left),
    };
    let known = left.regions.iter().any(|region| region.name == *name);
    if !known {
        let all = left.regions.iter();
        let all: Vec<&str> = all.map(|region| region.name.as_str()).collect();
        return Err(Error::TargetText(format!(
            "no region given is called {name}; there are: {}",
            all.join(", ")
        )));
    }
    left.regions.retain(|region| (region.name == *name) == keep);
    if left.regions.is_empty() {
        return Err(Error::TargetText(format!(
            "without region {name} none is left: give another one, too (--region)"
        )));
    }
    Ok(left)
}

/// What a scenario proves of a drill that reached so far: nothing, unless the database answered.
pub(super) fn proof(
    scenario: &Scenario,
    settings: &Settings,
    host_is_other: bool,
    reached: Option<Rung>,
) -> Vec<Check> {
    let name = scenario.to_string();
    if reached < Some(Rung::Logical) {
        let why = "a rung below it was not proved";
        return vec![Check::new(Rung::Scenario, "scenario", name, CheckStatus::NotRun).why(why)];
    }
    let actual = match scenario {
        Scenario::OnlyRegion(region) => format!("everything was read from {region}"),
        Scenario::WithoutRegion(region) => format!("nothing was asked of {region}"),
        Scenario::AsOf(at) => format!("nothing written after {at} was used"),
        Scenario::FreshHost => {
            "only the identity, the regions and installed programs were used".to_owned()
        }
    };
    let mut all = vec![Check::of(Rung::Scenario, "scenario", name, true).actual(actual)];
    if *scenario == Scenario::FreshHost {
        let own = [
            (
                settings.config_file.is_some(),
                "a config file of this host was read: give everything by options, with --config /dev/null",
            ),
            (
                !host_is_other,
                "this is the host that the source runs on, or nothing says that it isn't: run it on a machine that was made for this",
            ),
        ];
        for why in own.into_iter().filter_map(|(is, why)| is.then_some(why)) {
            let name = "the host has no past";
            all.push(
                Check::new(Rung::Scenario, "scenario.host", name, CheckStatus::Warned).why(why),
            );
        }
    }
    all
}

/// What was sealed last by an instant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sealed {
    committed: Timestamp,
    epoch: Epoch,
    seq: LogSeq,
}

/// What there is to choose from.
pub(super) struct Field {
    /// What is known of the source.
    pub(super) facts: Facts,
    /// What the drill must do without.
    pub(super) avoid: Avoid,
    /// Nothing later is believed.
    pub(super) until: Option<Sealed>,
    /// Nothing else was committed up to here.
    pub(super) complete_until: Option<Timestamp>,
}

impl Field {
    /// Looks at everything.
    ///
    /// # Errors
    /// No region can be read.
    pub(super) async fn look(
        timeline: &Timeline,
        request: &Request,
        opener: &Opener,
        course: &mut Course,
    ) -> Result<Self> {
        let until = match request.scenario {
            Some(Scenario::AsOf(at)) => Some(at),
            _ => None,
        };
        let mut avoid = Avoid::default();
        for base in timeline.epochs().iter().flat_map(|view| &view.bases) {
            if until.is_some_and(|until| base.head.finished_at > until) {
                avoid.bases.push(base.link);
            }
        }
        // Of what nobody named, only what this identity opens is chosen.
        if !matches!(request.select, Select::Latest | Select::Named(_)) {
            avoid
                .closed
                .extend(closed::of_bases(opener, timeline).await);
            if !avoid.closed.is_empty() {
                let closed = output::count(avoid.closed.len(), "session");
                course.notes.push(format!(
                    "chosen within what this identity opens: bases of {closed} were sealed to others, and what rests on \
                     those alone was not looked at"
                ));
            }
        }
        let mut survey = Survey::new(timeline, &avoid, Scope::Whole).await?;
        if request.select == Select::WorstReplay {
            let bases = timeline.epochs().iter();
            let bases = bases.flat_map(|view| view.bases.iter().map(|base| (view.epoch, base)));
            for (epoch, base) in bases {
                if let Some(before) = base.head.usable_from.previous() {
                    survey.back_to_a_commit(epoch, before).await?;
                }
            }
        }
        let until = match until {
            Some(until) => Some(as_of(timeline, until)?),
            None => None,
        };
        let facts = survey.facts();
        let judged = planner::recoverable(&facts);
        if until.is_none() {
            holes(&judged, course);
        }
        let complete_until = judged.windows.last().map(|window| window.until);
        Ok(Self {
            facts,
            avoid,
            until,
            complete_until,
        })
    }

    /// Picks, and writes down how.
    ///
    /// # Errors
    /// Nothing can be restored, or the words name nothing.
    pub(super) fn choose(
        &self,
        request: &Request,
        tools: &Tools,
        course: &mut Course,
    ) -> Result<Asked> {
        let seed: [u8; 32] = tools.rng.bytes();
        let random = Sha256::of(&seed).0;
        let number = random.iter().take(8);
        let number = number.fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        course.recovery_pt.set("selection", &request.select.code());
        if request.select == Select::Random {
            let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            course.recovery_pt.set("random_seed", &seed);
            let commitment = Sha256::of(seed.as_bytes()).to_string();
            course
                .recovery_pt
                .set("random_seed_commitment", &commitment);
        }
        let windows = planner::windows(&self.facts);
        let until = self.until.map(|until| until.committed);
        let picked = select::choose(&request.select, &windows, &self.facts, until, number);
        let picked = match (&request.select, self.until) {
            (Select::Latest, Some(until)) => Some(Chosen::Position(until.epoch, until.seq)),
            _ => picked,
        };
        // Where nothing can be chosen, the plan of the newest state says why.
        let asked = asked(picked.unwrap_or(Chosen::Latest), tools)?;
        course.recovery_pt.set("asked", &asked.text);
        if let Goal::Time(at) = asked.goal {
            course.recovery_pt.set("target_time", &at);
        }
        Ok(asked)
    }
}

/// The newest recovery point that was sealed by `at`.
fn as_of(timeline: &Timeline, at: Timestamp) -> Result<Sealed> {
    let points = timeline.epochs().iter().flat_map(|view| &view.points);
    let sealed = points.filter(|point| point.head.at <= at);
    let newest = sealed.max_by_key(|point| (point.head.epoch, point.head.seq));
    let newest = newest.map(|point| Sealed {
        committed: point.head.committed,
        epoch: point.head.epoch,
        seq: point.head.log_seq,
    });
    newest.ok_or_else(|| {
        Error::TargetText(format!(
            "no recovery point had been sealed by {}: choose a later instant",
            output::instant(at)
        ))
    })
}

/// What can't be restored between the windows.
fn holes(judged: &planner::Recoverable, course: &mut Course) {
    for hole in &judged.holes {
        let span = format!(
            "{} to {}",
            output::instant(hole.from),
            output::instant(hole.to())
        );
        if matches!(hole.why, HoleWhy::TakeOver { .. }) {
            let note = format!("between two writers no instant can be restored: {span}");
            course.notes.push(note);
            continue;
        }
        let name = "the window has no hole";
        course.check(
            Check::new(Rung::Chain, "chain.hole", name, CheckStatus::Warned)
                .actual(format!("{span} can't be restored"))
                .why(hole.why.to_string()),
        );
    }
}

fn asked(chosen: Chosen, tools: &Tools) -> Result<Asked> {
    let words = match chosen {
        Chosen::Words(text) => text,
        Chosen::Latest => "latest".to_owned(),
        Chosen::At(at) => at.to_string(),
        Chosen::Position(Epoch(epoch), LogSeq(seq)) => format!("log:{epoch}:{seq}"),
    };
    let args = RestoreArgs {
        to: Some(words),
        ..RestoreArgs::default()
    };
    Asked::read(&args, &context(tools))
}

/// How people write instants here.
pub(crate) fn context(tools: &Tools) -> TimeContext {
    TimeContext {
        now: tools.clock.now(),
        local: TimeZone::system(),
        interactive: tools.console.out_is_terminal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Global;
    use crate::repository::Environment;

    fn settings(names: &[&str]) -> Settings {
        let global = Global {
            region: names.iter().map(|name| format!("dir:/{name}")).collect(),
            ..Global::default()
        };
        Settings::without_config(&global, &Environment::default()).unwrap()
    }

    fn left(scenario: &str, names: &[&str]) -> std::result::Result<Vec<String>, String> {
        let scenario: Scenario = scenario.parse().unwrap();
        let left = regions(Some(&scenario), &settings(names));
        let left = left.map_err(|error| error.to_string())?;
        Ok(left.regions.iter().map(|r| r.name.to_string()).collect())
    }

    #[test]
    fn a_scenario_leaves_the_regions_that_it_says() {
        assert_eq!(left("only-region=b", &["a", "b"]).unwrap(), ["b"]);
        assert_eq!(left("without-region=b", &["a", "b"]).unwrap(), ["a"]);
        assert_eq!(left("fresh-host", &["a", "b"]).unwrap(), ["a", "b"]);
        let unknown = left("only-region=c", &["a", "b"]).unwrap_err();
        assert!(unknown.contains("a, b"), "{unknown}");
        let none = left("without-region=a", &["a"]).unwrap_err();
        assert!(none.contains("none is left"), "{none}");
    }

    #[test]
    fn a_fresh_host_has_no_config_and_runs_no_source() {
        let mut own = settings(&["a"]);
        let status = |settings: &Settings, other| {
            let checks = proof(&Scenario::FreshHost, settings, other, Some(Rung::Logical));
            checks.last().map(|check| check.status).unwrap()
        };
        assert_eq!(status(&own, true), CheckStatus::Passed);
        assert_eq!(status(&own, false), CheckStatus::Warned);
        own.config_file = Some("/etc/tidemark/restore.toml".into());
        assert_eq!(status(&own, true), CheckStatus::Warned);
    }

    #[test]
    fn a_scenario_is_not_proved_by_a_drill_that_did_not_come_to_the_database() {
        for reached in [None, Some(Rung::Materialise), Some(Rung::Replay)] {
            let checks = proof(&Scenario::FreshHost, &settings(&["a"]), true, reached);
            let statuses: Vec<CheckStatus> = checks.iter().map(|check| check.status).collect();
            assert_eq!(statuses, [CheckStatus::NotRun]);
        }
    }
}
