//! `drill run` and `drill list`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::SourceName;
use tidemark_host::Exit;
use tidemark_host::duration;
use tidemark_host::output::{self, Document, Table};
use tidemark_host::time_spec;
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tokio_util::sync::CancellationToken;

use super::status::kept::CutShort;
use crate::cli::{Drill as Command, DrillArgs};
use crate::daemon::agenda::{self, agenda};
use crate::daemon::assertion as agenda_assertion;
use crate::drill::{self, Request, Scenario};
use crate::error::{Error, Result};
use crate::evidence::chain::Chain;
use crate::evidence::drills::{self, Drill, Rung};
use crate::evidence::shelf;
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// Drills that a screen shows, the newest; JSON has all.
const SHOWN: usize = 20;

/// Runs one.
///
/// # Errors
/// What keeps it from being a drill, or the regions from being read.
pub async fn run(
    command: Command,
    settings: &Settings,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    match command {
        Command::Run(args) if args.due => {
            crate::daemon::run_due(settings.clone(), tools, stop).await
        }
        Command::Run(args) => {
            let mut request = request(&args, tools)?;
            assert_as_configured(&mut request, settings);
            let drilled = Box::pin(drill::run(&request, settings, tools, stop)).await?;
            tools.console.show(&drilled.report);
            Ok(drilled.exit)
        }
        Command::List => list(settings, tools).await,
    }
}

/// What the words mean.
fn request(args: &DrillArgs, tools: &Tools) -> Result<Request> {
    let words = |why: String| Error::TargetText(why);
    let scenario = args.scenario.as_ref().map(|text| {
        Scenario::read(text, |at| {
            let spec = time_spec::parse(at, &drill::context(tools));
            spec.map(|spec| spec.at).map_err(|error| error.to_string())
        })
    });
    let mut request = Request {
        select: args.select.parse().map_err(words)?,
        scenario: scenario.transpose().map_err(words)?,
        allow_source_host: args.allow_source_host,
        reason: args.reason.clone(),
        full: !args.quick,
        counts: !args.no_counts,
        scratch: args.scratch.clone(),
        pg_bin: args.pg_bin.clone(),
        ..Request::default()
    };
    let seconds = |text: &Option<String>| {
        let parsed = text.as_ref().map(|text| {
            let time =
                duration::parse(text).map_err(|error| Error::TargetText(error.to_string()))?;
            if time.as_secs() == 0 || time.subsec_nanos() > 0 {
                return Err(Error::TargetText(format!(
                    "{text}: a promise is whole seconds, and at least one"
                )));
            }
            Ok(time.as_secs())
        });
        parsed.transpose()
    };
    if let Some(text) = &args.timeout {
        let timeout = duration::parse(text);
        request.timeout = Some(timeout.map_err(|error| words(error.to_string()))?);
    }
    request.objectives.rpo_target_s = seconds(&args.rpo)?;
    request.objectives.rto_target_s = seconds(&args.rto)?;
    request.objectives.pitr_precision_target_s = seconds(&args.precision)?;
    Ok(request)
}

/// By hand too, what the config's drills of the source ask of it is asked, with the programs that they name,
/// and on this host where all of them may run.
fn assert_as_configured(request: &mut Request, settings: &Settings) {
    let drills = &settings.drills.drills;
    let mut sources: Vec<&SourceName> = drills.iter().map(|drill| &drill.source).collect();
    sources.dedup();
    let source = match (&settings.source, sources.as_slice()) {
        (Some(source), _) => source,
        (None, [only]) => *only,
        (None, _) => return,
    };
    let own = drills.iter().filter(|drill| drill.source == *source);
    if request.pg_bin.is_none() {
        let mut named = own.clone().filter_map(|drill| drill.rules.pg_bin.clone());
        request.pg_bin = named.next();
    }
    let mut rules = own.clone().map(|drill| drill.rules.allow_source_host);
    request.allow_source_host |= own.clone().next().is_some() && rules.all(|allowed| allowed);
    let mut names = Vec::new();
    for drill in own.filter(|drill| !drill.assertions.is_empty()) {
        names.push(drill.name.to_string());
        for one in &drill.assertions {
            let mut asked = agenda_assertion(one);
            if request.assertions.contains(&asked) {
                continue;
            }
            // Two drills may have another question each under one name.
            if request.assertions.iter().any(|known| known.id == asked.id) {
                asked.id = format!("{}.{}", drill.name, asked.id);
            }
            request.assertions.push(asked);
        }
    }
    if !names.is_empty() {
        request.notes.push(format!(
            "{} of the config asked (of drill {})",
            output::count(request.assertions.len(), "assertion"),
            names.join(", ")
        ));
    }
}

/// `drill list`.
#[derive(Debug, Clone, Serialize)]
pub struct DrillList {
    /// When this was said.
    pub at: Timestamp,
    /// Drills of the config, and how they stand.
    pub scheduled: Vec<agenda::Entry>,
    /// Every drill on file, the oldest first.
    pub drills: Vec<Drill>,
    /// How far each recovery point has been proved.
    pub proved: Vec<Proved>,
    /// What no drill has proved yet, by source.
    pub since: Vec<Since>,
    /// Regions that were not read, and why.
    pub away: Vec<(String, String)>,
}

/// How far a recovery point has been proved.
#[derive(Debug, Clone, Serialize)]
pub struct Proved {
    /// The source.
    pub source: SourceName,
    /// The state that was restored.
    pub point: String,
    /// The highest rung that a drill of it reached.
    pub rung: Rung,
    /// When.
    pub at: Timestamp,
    /// How that drill ended.
    pub verdict: Option<drills::Verdict>,
    /// Its record.
    pub evidence_id: String,
}

/// What came after the newest drill that passed.
#[derive(Debug, Clone, Serialize)]
pub struct Since {
    /// The source.
    pub source: SourceName,
    /// The newest drill that passed.
    pub proved_at: Option<Timestamp>,
    /// Recovery points sealed after it, as far as they were looked at.
    pub points: usize,
    /// The newest recovery point of all.
    pub newest_point: Option<String>,
    /// When that was sealed.
    pub newest_at: Option<Timestamp>,
    /// The end of the log that a drill restored and that no region has any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_short: Option<CutShort>,
}

async fn list(settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
    let mut drills = drills::all(&shelf.chains);
    let at = tools.clock.now();
    let scheduled = agenda(settings, &drills, at)?;
    let mut names = repository.sources().await?;
    if let Some(only) = &settings.source {
        drills.retain(|drill| drill.source.as_ref() == Some(only));
        names.retain(|name| name == only);
    }
    let mut since = Vec::new();
    for name in names {
        since.push(unproved(&repository, name, &drills, &shelf.chains).await?);
    }
    let document = DrillList {
        at,
        scheduled,
        proved: proved(&drills),
        drills,
        since,
        away: shelf.away,
    };
    let whole = document.away.is_empty();
    tools.console.show(&document);
    Ok(if whole { Exit::Ok } else { Exit::Exceptions })
}

/// The best that a drill did for each state.
fn proved(drills: &[Drill]) -> Vec<Proved> {
    let mut best: BTreeMap<(SourceName, String), Proved> = BTreeMap::new();
    // What doesn't count proves nothing: a record that can't be believed, a drill that was inconclusive.
    let counting = drills.iter().filter(|drill| {
        drill.doubt.is_none() && drill.verdict != Some(drills::Verdict::Inconclusive)
    });
    for drill in counting {
        let (Some(source), Some(point), Some(rung)) = (&drill.source, &drill.point, drill.reached)
        else {
            continue;
        };
        let key = (source.clone(), point.clone());
        let is_better = best
            .get(&key)
            .is_none_or(|known| (known.rung, known.at) <= (rung, drill.at));
        if is_better {
            let proved = Proved {
                source: source.clone(),
                point: point.clone(),
                rung,
                at: drill.at,
                verdict: drill.verdict,
                evidence_id: drill.id.clone(),
            };
            best.insert(key, proved);
        }
    }
    let mut all: Vec<Proved> = best.into_values().collect();
    all.sort_by(|one, other| (&one.source, one.at).cmp(&(&other.source, other.at)));
    all
}

async fn unproved(
    repository: &Repository,
    source: SourceName,
    drills: &[Drill],
    chains: &[Chain],
) -> Result<Since> {
    let points = PointsWanted::OVERVIEW;
    let timeline = repository
        .timeline(&source, &LoadOptions { points })
        .await?;
    let passed = drills::passed(drills, &source).next_back();
    let proved_at = passed.map(|drill| drill.declared_at.unwrap_or(drill.at));
    let all = timeline.epochs().iter().flat_map(|view| &view.points);
    let later = all.filter(|point| proved_at.is_none_or(|proved| point.head.at > proved));
    let points = later.count();
    let newest = timeline.newest_point();
    Ok(Since {
        points,
        proved_at,
        newest_point: newest.map(|point| format!("point:{}/{}", point.head.epoch, point.head.seq)),
        newest_at: newest.map(|point| point.head.at),
        cut_short: CutShort::of(repository, &timeline, chains),
        source,
    })
}

impl DrillList {
    fn schedule_text(&self, out: &mut String) {
        if self.scheduled.is_empty() {
            return;
        }
        let drills = output::count(self.scheduled.len(), "drill");
        out.push_str(&format!("{drills} on schedule\n"));
        let mut table = Table::new();
        table.row(["drill", "source", "schedule", "next", "last", ""]);
        for entry in &self.scheduled {
            table.row(entry.row(self.at));
        }
        table.write("  ", out);
        for entry in self.scheduled.iter().filter(|entry| entry.overdue) {
            out.push_str(&format!(
                "  {} is overdue, and until it passes nothing new is proved: does tidemark-restore.service run, on any host? By hand: \
                 tidemark-restore drill run --source {}\n",
                entry.name, entry.source
            ));
        }
    }

    fn drills_text(&self, out: &mut String) {
        let mut table = Table::new();
        table.row([
            "when", "source", "verdict", "rung", "chosen", "scenario", "RTO", "RPO", "evidence",
        ]);
        let hidden = self.drills.len().saturating_sub(SHOWN);
        for drill in self.drills.iter().skip(hidden) {
            table.row(row(drill));
        }
        if hidden > 0 {
            out.push_str(&format!("({hidden} earlier ones: --json shows all)\n"));
        }
        table.write("  ", out);
        for drill in self.drills.iter().skip(hidden) {
            if let Some(doubt) = &drill.doubt {
                out.push_str(&format!("  {} does not count: {doubt}\n", drill.id));
            }
        }
    }
}

fn row(drill: &Drill) -> [String; 9] {
    let seconds = |value: Option<f64>| {
        value.map_or_else(
            || "–".to_owned(),
            |seconds| output::duration(Duration::from_secs_f64(seconds.clamp(0.0, 1e9))),
        )
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    [
        output::instant(drill.at),
        drill
            .source
            .as_ref()
            .map_or_else(|| "–".to_owned(), ToString::to_string),
        drill
            .verdict
            .map_or("unknown", drills::Verdict::name)
            .to_owned(),
        drill.reached.map_or("none", Rung::name).to_owned(),
        text(&drill.selection).to_lowercase(),
        text(&drill.scenario),
        seconds(drill.rto_seconds),
        seconds(drill.rpo_seconds),
        drill.id.clone(),
    ]
}

impl Document for DrillList {
    const SCHEMA: &'static str = "tidemark-restore.drills";

    fn text(&self, out: &mut String) {
        self.schedule_text(out);
        if self.drills.is_empty() {
            out.push_str(
                "No drill is on record: a backup is a hypothesis until one has proved it (tidemark-restore drill run)\n",
            );
        } else {
            let count = output::count(self.drills.len(), "drill");
            out.push_str(&format!("{count} on record\n"));
            self.drills_text(out);
        }
        if !self.proved.is_empty() {
            out.push_str("How far each recovery point is proved\n");
            let mut table = Table::new();
            let hidden = self.proved.len().saturating_sub(SHOWN);
            for proved in self.proved.iter().skip(hidden) {
                table.row([
                    proved.source.to_string(),
                    proved.point.clone(),
                    format!("up to {}", proved.rung.name()),
                    output::instant(proved.at),
                    proved
                        .verdict
                        .map_or("unknown", drills::Verdict::name)
                        .to_owned(),
                ]);
            }
            table.write("  ", out);
        }
        for since in &self.since {
            if let Some(cut) = &since.cut_short {
                out.push_str(&format!("{}: the log is {}\n", since.source, cut.line()));
            }
            let Some((newest, at)) = since.newest_point.as_ref().zip(since.newest_at) else {
                continue;
            };
            let points = output::count(since.points, "recovery point");
            let what = match since.proved_at {
                Some(_) if since.points == 0 => continue,
                Some(proved) => format!("since the drill of {}", output::instant(proved)),
                None => "and no drill has passed".to_owned(),
            };
            out.push_str(&format!(
                "{}: {points} {what}; the newest is {newest} of {}\n",
                since.source,
                output::instant(at)
            ));
        }
        for (region, why) in &self.away {
            out.push_str(&format!("Exception: region {region} was not read: {why}\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::drills::tests::chain;

    #[test]
    fn of_several_drills_of_a_state_the_highest_rung_counts_and_then_the_newest() {
        let drills = drills::all(&[chain(&["PASS", "FAIL", "INCONCLUSIVE"])]);
        let proved = proved(&drills);
        assert_eq!(proved.len(), 1, "{proved:?}");
        assert_eq!(proved[0].rung, Rung::Logical);
        assert_eq!(proved[0].evidence_id, drills[1].id);
    }

    #[test]
    fn a_drill_by_hand_takes_programs_and_leave_to_run_here_of_the_configs_drills_of_its_source() {
        let drill = |name: &str, rest: &str| {
            format!(
                "[[drill]]\nname = \"{name}\"\nsource = \"app\"\nschedule = \"0 3 * * *\"\n{rest}"
            )
        };
        let asked = |text: &str, given: Option<&str>| {
            let file = std::path::Path::new("/restore.toml");
            let config = tidemark_host::config::RestoreConfig::parse(text, file).unwrap();
            let (global, environment) = Default::default();
            let mut settings = Settings::without_config(&global, &environment).unwrap();
            settings.drills = config.drills;
            let mut request = Request {
                pg_bin: given.map(Into::into),
                ..Request::default()
            };
            assert_as_configured(&mut request, &settings);
            let pg_bin = request.pg_bin.map(|path| path.display().to_string());
            (pg_bin, request.allow_source_host)
        };
        let one = drill("a", "pg_bin = \"/pg\"\nallow_source_host = true\n");
        assert_eq!(asked(&one, None), (Some("/pg".to_owned()), true));
        assert_eq!(asked(&one, Some("/own")), (Some("/own".to_owned()), true));
        let both = one + &drill("b", "");
        assert_eq!(asked(&both, None), (Some("/pg".to_owned()), false));
        assert_eq!(asked("", None), (None, false));
    }

    #[test]
    fn a_list_without_drills_says_what_to_do() {
        let empty = DrillList {
            at: Timestamp::UNIX_EPOCH,
            scheduled: Vec::new(),
            drills: Vec::new(),
            proved: Vec::new(),
            since: Vec::new(),
            away: Vec::new(),
        };
        assert!(output::to_text(&empty).contains("drill run"));
    }
}
