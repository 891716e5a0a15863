//! A drill of the config, ready to be judged and run.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidemark_format::RegionName;
use tidemark_host::config::{Drill, DrillChecks, Expected};
use tidemark_host::time_spec::TimeContext;
use tidemark_planner::drill::{Expectation, Select, Tolerance};
use tidemark_planner::rota::Rules;
use tidemark_planner::{Schedule, ScheduleError};

use crate::cli::RestoreArgs;
use crate::drill::{Assertion, Framework, Governance, Plan, Request, Scenario, Trigger};
use crate::plan::Asked;

/// How often a slot is tried before it counts as not run.
const ATTEMPTS_MAX: u32 = 3;

/// What reads the words of drills at the config's door.
pub const CHECKS: DrillChecks<'static> = DrillChecks {
    schedule: &Schedule::check,
    select: &check_select,
    scenario: &check_scenario,
    scenario_region: &scenario_region,
    place: &|_path| Ok(()),
};

/// The same for `config check`, which looks at what is named, too.
pub const CHECKS_AND_PLACES: DrillChecks<'static> = DrillChecks {
    place: &check_place,
    ..CHECKS
};

/// What can't be looked at by whoever asks may be there.
fn check_place(path: &Path) -> Result<(), String> {
    match path.try_exists() {
        Ok(false) => Err(format!("{} is not there", path.display())),
        Ok(true) | Err(_) => Ok(()),
    }
}

fn scenario_region(text: &str) -> Option<RegionName> {
    match text.parse().ok()? {
        Scenario::OnlyRegion(region) | Scenario::WithoutRegion(region) => Some(region),
        Scenario::AsOf(_) | Scenario::FreshHost => None,
    }
}

fn check_select(text: &str) -> Result<(), String> {
    let Select::Named(instant) = text.parse()? else {
        return Ok(());
    };
    let args = RestoreArgs {
        to: Some(instant),
        ..RestoreArgs::default()
    };
    // Nobody is there who would see which zone was taken.
    let context = TimeContext {
        now: Timestamp::UNIX_EPOCH,
        local: TimeZone::UTC,
        interactive: false,
    };
    let read = Asked::read(&args, &context);
    read.map(drop).map_err(|error| {
        let why = tidemark_storage::chain(&error);
        format!("{text:?} selects nothing: write latest, oldest, random, worst-replay or an instant ({why})")
    })
}

fn check_scenario(text: &str) -> Result<(), String> {
    text.parse::<Scenario>().map(drop)
}

/// A drill with its schedule.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) drill: Drill,
    pub(super) schedule: Schedule,
    /// With the zone, as claims carry it.
    pub(super) schedule_text: String,
    pub(super) rules: Rules,
}

impl Planned {
    /// # Errors
    /// The schedule can't be read; the config's door has seen to that.
    pub(super) fn new(drill: Drill) -> Result<Self, ScheduleError> {
        let zone = drill.rules.timezone.clone();
        let schedule_text = format!(
            "{} {}",
            drill.schedule,
            zone.iana_name().unwrap_or("local time")
        );
        Ok(Self {
            schedule: Schedule::parse(&drill.schedule, zone)?,
            schedule_text,
            rules: Rules {
                jitter: drill.rules.jitter,
                retry_after: drill.rules.retry_after,
                overdue_after: drill.rules.overdue_after,
                attempts_max: ATTEMPTS_MAX,
            },
            drill,
        })
    }

    /// What the drill of a slot is asked to do.
    pub(super) fn request(&self, slot: Timestamp) -> Request {
        let drill = &self.drill;
        let version = format!("{drill:?}");
        Request {
            source: Some(drill.source.clone()),
            // The config's door has read both.
            select: drill.select.parse().unwrap_or_default(),
            scenario: drill.scenario.as_deref().and_then(|text| text.parse().ok()),
            allow_source_host: drill.rules.allow_source_host,
            plan: Plan {
                plan_id: Some(drill.name.to_string()),
                plan_version: Some(tidemark_format::Hash::of(version.as_bytes()).to_string()),
                schedule: Some(self.schedule_text.clone()),
                slot: Some(slot),
                trigger: Trigger::Scheduled,
                frameworks: drill.frameworks.iter().map(|id| framework(id)).collect(),
            },
            assertions: drill.assertions.iter().map(assertion).collect(),
            full: drill.full,
            scratch: drill.rules.scratch.clone(),
            pg_bin: drill.rules.pg_bin.clone(),
            governance: Governance {
                owner: drill.owner.clone(),
                runbook: drill.runbook.clone(),
                ticket_url: None,
                next_due: self.schedule.next_after(slot),
            },
            ..Request::default()
        }
    }
}

fn framework(id: &str) -> Framework {
    Framework { id: id.to_owned() }
}

/// An assertion of the config, as a drill asks it.
pub(crate) fn assertion(one: &tidemark_host::config::Assertion) -> Assertion {
    let number = |text: &String| text.parse().unwrap_or_default();
    Assertion {
        id: one.id.clone(),
        database: one.database.clone(),
        sql: one.sql.clone(),
        expect: one.expect.as_ref().map(|expect| match expect {
            Expected::Equals(value) => Expectation::Equals(value.clone()),
            Expected::AtLeast(least) => Expectation::AtLeast(number(least)),
            Expected::AtMost(most) => Expectation::AtMost(number(most)),
        }),
        tolerance: one
            .tolerance
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Tolerance::None),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::config::RestoreConfig;

    use super::*;

    fn parse(rest: &str) -> Result<Planned, String> {
        let text = format!(
            "[[drill]]\nname = \"nightly\"\nsource = \"app\"\nschedule = \"30 2 * * *\"\n{rest}"
        );
        let config = RestoreConfig::parse_with(&text, Path::new("/restore.toml"), &CHECKS);
        let config = config.map_err(|error| error.to_string())?;
        Ok(Planned::new(config.drills.drills[0].clone()).unwrap())
    }

    #[test]
    fn the_config_becomes_the_request_that_the_command_line_would_make() {
        let planned = parse(
            "timezone = \"Europe/Copenhagen\"\nselect = \"worst-replay\"\nscenario = \"without-region=aarhus\"\n\
             frameworks = [\"SOC2:A1.3\"]\nowner = \"Ann\"\n[[drill.assert]]\nid = \"orders\"\n\
             sql = \"SELECT count(*) FROM orders\"\nat_least = 5\ntolerance = \"5%\"\n",
        )
        .unwrap();
        let slot = "2026-11-22T01:30:00Z".parse().unwrap();
        let request = planned.request(slot);
        assert_eq!(request.select, Select::WorstReplay);
        assert_eq!(
            request.scenario.unwrap().to_string(),
            "without-region=aarhus"
        );
        assert_eq!(request.plan.plan_id.as_deref(), Some("nightly"));
        assert_eq!(request.plan.slot, Some(slot));
        assert_eq!(
            request.plan.schedule.as_deref(),
            Some("30 2 * * * Europe/Copenhagen")
        );
        assert_eq!(request.plan.trigger, Trigger::Scheduled);
        assert_eq!(
            request.governance.next_due,
            "2026-11-23T01:30:00Z".parse().ok()
        );
        let orders = &request.assertions[0];
        assert_eq!(orders.expect, Some(Expectation::AtLeast(5.0)));
        assert_eq!(orders.tolerance, Tolerance::Percent(5.0));
        assert!(request.full);
        let other = parse("full = false").unwrap().request(slot);
        assert_ne!(other.plan.plan_version, request.plan.plan_version);
    }

    #[test]
    fn only_the_check_of_a_config_looks_at_what_it_names() {
        let text = "identity = \"/not/there\"\n";
        let read = |checks| RestoreConfig::parse_with(text, Path::new("/restore.toml"), checks);
        assert!(read(&CHECKS).is_ok());
        let refused = read(&CHECKS_AND_PLACES).unwrap_err().to_string();
        assert!(
            refused.contains(":1:12: /not/there is not there"),
            "{refused}"
        );
    }

    #[test]
    fn words_that_no_drill_understands_are_refused_at_the_door() {
        for (rest, why) in [
            ("select = \"newest\"", "selects nothing"),
            ("select = \"2026-11-01 12:00\"", "selects nothing"),
            ("scenario = \"fire\"", "is no scenario"),
            (
                "timezone = \"UTC\"\n[[drill.assert]]\nid = \"x\"",
                "this needs sql",
            ),
        ] {
            let refused = parse(rest).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let region =
            "scenario = \"without-region=b\"\n[[region]]\nname = \"a\"\nurl = \"dir:/a\"\n";
        let refused = parse(region).unwrap_err();
        assert!(refused.contains("no region is called `b`"), "{refused}");
        assert!(parse("select = \"2026-11-01 12:00 UTC\"").is_ok());
        let never = parse("").map(|planned| planned.drill.schedule);
        assert_eq!(never.as_deref(), Ok("30 2 * * *"));
    }
}
