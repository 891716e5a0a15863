//! The status screen and its JSON.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_cli::recoverable::Recoverable;
use tidemark_format::SourceName;
use tidemark_host::{
    Exit,
    config::AgentConfig,
    output::{Document, Table, age, bytes, count, duration, instant},
};

use super::super::ended::Ended;
use super::{
    gather::{RegionFacts, SourceFacts},
    together::Seen,
    told::{Told, Word},
    verdict::{Demands, Health, Judgement, judge},
};
use crate::domains;
use crate::ship::{lane::Standing, quorum};
use crate::status_live::{LiveCanary, LiveStatus, SourceState, region_exposure};

/// One source as all regions show it.
#[derive(Debug, Serialize)]
struct SourceReport {
    name: SourceName,
    judgement: Judgement,
    /// What the running daemon says it is doing.
    state: Option<&'static str>,
    /// How many failure domains `durable_in` asks for, how many there are, and how many it is judged by.
    durable_in: usize,
    domains: usize,
    width: usize,
    /// How many of them no region can be read of now.
    domains_away: usize,
    /// What the running daemon says would be lost, when no region can be read.
    word: Option<Word>,
    /// What can be restored, and what between can't.
    #[serde(flatten)]
    recoverable: Option<Recoverable>,
    /// Why that can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_told: Option<String>,
    newest_point: Option<Timestamp>,
}

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    at: Timestamp,
    health: Health,
    sources: Vec<SourceReport>,
    regions: Vec<RegionFacts>,
    daemon: Option<LiveStatus>,
    /// Why the agent, which runs, doesn't answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    silent: Option<String>,
    /// Why the agent stopped for good.
    ended: Option<Ended>,
}

/// The daemon has seen the device of a region that can't be read now.
fn known_domains(regions: &mut [RegionFacts], live: Option<&LiveStatus>) {
    let Some(live) = live else { return };
    for region in regions.iter_mut().filter(|region| region.away.is_some()) {
        let mut known = live.regions.iter();
        let known = known.find(|(name, _)| name.as_str() == region.name);
        if let Some((_, known)) = known.filter(|(_, known)| !known.domain.is_empty()) {
            region.domain.clone_from(&known.domain);
        }
    }
}

impl Report {
    /// Judges what was gathered.
    pub(super) fn new(
        config: &AgentConfig,
        (mut regions, seen): (Vec<RegionFacts>, BTreeMap<SourceName, Seen>),
        told: Told,
        now: Timestamp,
    ) -> Self {
        known_domains(&mut regions, told.live.as_ref());
        let domains = domains::distinct(regions.iter().map(|region| region.domain.as_str()));
        let answer = regions.iter().filter(|region| region.away.is_none());
        let readable = domains::distinct(answer.map(|region| region.domain.as_str()));
        let mut sources = Vec::new();
        for source in &config.sources {
            let of =
                |region: &RegionFacts| region.sources.iter().any(|one| one.source == source.name);
            if !regions
                .iter()
                .any(|region| region.away.is_some() || of(region))
            {
                continue;
            }
            let demands = Demands {
                durable_in: quorum::width(source.settings.durable_in, domains),
                ship_every: source.settings.ship_every,
                beat_every: config.beat_every(),
                rpo: source.settings.rpo,
            };
            let counted = (
                source.settings.durable_in,
                domains,
                domains.saturating_sub(readable),
            );
            let seen = seen.get(&source.name);
            let one = report(
                &source.name,
                (&regions, seen),
                (&demands, counted),
                &told,
                now,
            );
            sources.push(one);
        }
        let worst = sources.iter().map(|source| source.judgement.health).max();
        Self {
            at: now,
            health: worst.unwrap_or(Health::Unknown),
            sources,
            regions,
            silent: told.silent,
            ended: told.ended,
            daemon: told.live,
        }
    }

    /// 0 to 3.
    pub(super) const fn exit(&self) -> Exit {
        match self.health {
            Health::Healthy => Exit::Ok,
            Health::Warning => Exit::Failed,
            Health::Critical => Exit::Usage,
            Health::Unknown => Exit::Exceptions,
        }
    }
}

fn report(
    name: &SourceName,
    (regions, seen): (&[RegionFacts], Option<&Seen>),
    (demands, (durable_in, domains, domains_away)): (&Demands, (usize, usize, usize)),
    told: &Told,
    now: Timestamp,
) -> SourceReport {
    let pairs: Vec<(&RegionFacts, Option<&SourceFacts>)> = regions
        .iter()
        .map(|region| {
            (
                region,
                region.sources.iter().find(|one| one.source == *name),
            )
        })
        .collect();
    let facts = || pairs.iter().filter_map(|(_, source)| *source);
    let unread = regions.iter().all(|region| region.away.is_some());
    let state = if told.retired.contains(name) {
        Some(SourceState::Retired.name())
    } else {
        told.source(name).map(|live| live.state.name())
    };
    let (recoverable, not_told) = match seen.cloned() {
        Some(Ok(judged)) => (Some(Recoverable::at(judged, now)), None),
        Some(Err(why)) => (None, Some(why)),
        None if facts().any(|source| !source.absent) => {
            (None, Some("no region showed all of it in time".to_owned()))
        }
        None => (None, None),
    };
    let mut side = told.side(name);
    let news = recoverable.iter().flat_map(Recoverable::news);
    side.notes.extend(news.map(|text| (Health::Warning, text)));
    SourceReport {
        name: name.clone(),
        judgement: judge(&pairs, demands, &side, now),
        state,
        durable_in,
        domains,
        domains_away,
        width: demands.durable_in,
        word: told.word(name).filter(|_| unread),
        recoverable,
        not_told,
        newest_point: facts()
            .filter_map(|source| source.point.as_ref().map(|point| point.committed))
            .max(),
    }
}

impl Document for Report {
    const SCHEMA: &'static str = "tidemark-agent.status";

    fn text(&self, out: &mut String) {
        for source in &self.sources {
            self.source_text(source, out);
        }
        self.daemon_text(out);
        let mut findings: Vec<&str> = Vec::new();
        for source in &self.sources {
            for finding in &source.judgement.findings {
                if !findings.contains(&finding.as_str()) {
                    findings.push(finding);
                }
            }
        }
        match findings.as_slice() {
            [] => out.push_str("Next         nothing to do\n"),
            all => {
                for (at, finding) in all.iter().enumerate() {
                    let label = if at == 0 { "Next" } else { "" };
                    out.push_str(&format!("{label:<13}{finding}\n"));
                }
            }
        }
    }
}

impl SourceReport {
    /// What can be restored, and what between can't.
    fn window_text(&self, out: &mut String) {
        let mut table = Table::new();
        match (&self.recoverable, self.word, &self.not_told) {
            (Some(recoverable), None, _) => recoverable.rows(&mut table),
            (_, Some(word), _) => {
                let text = format!(
                    "no region can be read from here; by the agent's word everything up to {} is in a region",
                    instant(word.safe_until)
                );
                table.row(["Recoverable".to_owned(), text]);
            }
            (None, None, Some(why)) => {
                let text = format!("can't be told: {why}; tidemark-restore list takes its time");
                table.row(["Recoverable".to_owned(), text]);
            }
            (None, None, None) => table.row(["Recoverable", "nothing yet"]),
        }
        table.write("", out);
    }
}

impl Report {
    fn source_text(&self, source: &SourceReport, out: &mut String) {
        let retired = source.state == Some(SourceState::Retired.name());
        let word = match source.judgement.health {
            Health::Healthy if retired => "RETIRED",
            Health::Healthy => "HEALTHY",
            Health::Warning => "WARNING",
            Health::Critical => "CRITICAL",
            Health::Unknown => "UNKNOWN",
        };
        let doing = source
            .state
            .filter(|state| !word.eq_ignore_ascii_case(state))
            .map(|state| format!("  ({state})"))
            .unwrap_or_default();
        out.push_str(&format!("{}  {word}{doing}\n", source.name));
        let millis = |ms: Option<u64>| {
            ms.map_or_else(
                || "everything".to_owned(),
                |ms| duration(std::time::Duration::from_millis(ms)),
            )
        };
        let judgement = &source.judgement;
        let (loss, quorum, by) = match source.word {
            Some(word) => (
                Some(word.loss_ms),
                Some(word.quorum_loss_ms),
                ", by the agent's word",
            ),
            None => (judgement.exposure_ms, judgement.quorum_exposure_ms, ""),
        };
        if retired {
            out.push_str("Loss now     not judged: the source is retired, nothing of it is captured any more\n");
        } else if judgement.clock_behind_ms.is_some() {
            out.push_str(&format!(
                "Loss now     can't be told: this host's clock is {} behind the newest capture   limit {}\n",
                millis(judgement.clock_behind_ms),
                millis(Some(judgement.limit_ms)),
            ));
        } else {
            out.push_str(&format!(
                "Loss now     {}   limit {}   in {}: {}{by}\n",
                millis(loss),
                millis(Some(judgement.limit_ms)),
                domain_words(source),
                millis(quorum),
            ));
        }
        source.window_text(out);
        if let Some(end) = self.sealed_to(source) {
            out.push_str(&format!(
                "Captured     up to LSN {end}, by the agent's word\n"
            ));
        }
        if let Some(canary) = self.canary(source) {
            out.push_str(&canary_text(canary, self.at));
        }
        out.push_str(
            "Proof        tidemark-restore status says what drills have proved: until one has, a backup is a hypothesis\n",
        );
        let mut table = Table::new();
        for region in &self.regions {
            let facts = region.sources.iter().find(|one| one.source == source.name);
            let mut cells = region_cells(region, facts, self.at);
            let live = self.daemon.as_ref();
            cells.extend(live.and_then(|live| lag(live, &source.name, &region.name)));
            table.row(cells);
        }
        table.write("Region       ", out);
    }

    fn daemon_text(&self, out: &mut String) {
        match (&self.daemon, &self.ended) {
            (Some(live), _) => agent_text(live, out),
            (None, Some(ended)) => out.push_str(&format!(
                "Agent        not running: stopped at {} with {}\n",
                instant(ended.at),
                ended.code
            )),
            (None, None) if self.silent.is_some() => {
                out.push_str("Agent        runs and does not answer\n");
            }
            (None, None) => out.push_str("Agent        not running\n"),
        }
    }
}

impl Report {
    /// Where the captured log of a server ends, by the running agent's word.
    fn sealed_to(&self, source: &SourceReport) -> Option<&str> {
        let told = self.daemon.as_ref()?.sources.get(&source.name)?;
        told.position.as_deref()
    }

    /// The canaries, by the running agent's word.
    fn canary(&self, source: &SourceReport) -> Option<&LiveCanary> {
        let told = self.daemon.as_ref()?.sources.get(&source.name)?;
        told.canary.as_ref()
    }
}

/// How the canaries stand.
fn canary_text(canary: &LiveCanary, now: Timestamp) -> String {
    let every = duration(std::time::Duration::from_millis(canary.every_ms));
    let last = match canary.seq.zip(canary.at) {
        Some((seq, at)) => format!("number {seq} of {}", age(now, at)),
        None => "none yet".to_owned(),
    };
    let why = canary.why_not.as_ref();
    let why = why.map_or_else(String::new, |why| format!("; not now: {why}"));
    format!(
        "Canary       {last}, as a {} every {every}, by the agent's word{why}\n",
        canary.form
    )
}

/// How far a region is behind with a source, by the running agent's word.
fn lag(live: &LiveStatus, source: &SourceName, region: &str) -> Option<String> {
    let told = live.sources.get(source)?;
    let mut lanes = told.lanes.iter();
    let (_, lane) = lanes.find(|(name, _)| name.as_str() == region)?;
    if lane.behind == 0 {
        let repairing = lane.standing == Standing::Repairing;
        return repairing.then(|| "repairing".to_owned());
    }
    Some(format!(
        "lags {}: {} ({}) wait",
        duration(region_exposure(told, lane, live.at)),
        count(usize::try_from(lane.behind).unwrap_or(usize::MAX), "object"),
        bytes(lane.backlog_bytes)
    ))
}

/// What a running agent says of itself.
pub(super) fn agent_text(live: &LiveStatus, out: &mut String) {
    let left = live.spool_bytes_per_s.filter(|rate| *rate > 0).map(|rate| {
        let seconds = live.spool_max.saturating_sub(live.spool_bytes) / rate;
        let left = duration(std::time::Duration::from_secs(seconds));
        format!(", full in about {left} at the present rate")
    });
    out.push_str(&format!(
        "Agent        running (process {}), spool {} of {}{}\n",
        live.pid,
        bytes(live.spool_bytes),
        bytes(live.spool_max),
        left.unwrap_or_default()
    ));
    for alert in &live.alerts {
        out.push_str(&format!(
            "Alert        {} {}: {}\n",
            alert.code, alert.about, alert.message
        ));
    }
}

/// In how many failure domains, as they are counted.
fn domain_words(source: &SourceReport) -> String {
    let (width, domains) = (source.width, source.domains);
    if domains < source.durable_in {
        let asked = source.durable_in;
        return format!(
            "{width} failure domain(s) (durable_in = {asked}, and the regions count as {domains})"
        );
    }
    match source.domains_away {
        0 => format!("{width} of {domains} failure domains (durable_in)"),
        away => format!("{width} of {domains} failure domains (durable_in; {away} can't be read)"),
    }
}

fn region_cells(region: &RegionFacts, facts: Option<&SourceFacts>, now: Timestamp) -> Vec<String> {
    let mut cells = vec![region.name.clone()];
    let Some(facts) = facts.filter(|facts| !facts.absent) else {
        cells.push(
            if region.away.is_some() {
                "can't be read"
            } else {
                "holds nothing yet"
            }
            .to_owned(),
        );
        return cells;
    };
    cells.push(facts.point.as_ref().map_or_else(
        || "no recovery point".to_owned(),
        |point| {
            format!(
                "point:{}/{} of {}",
                point.epoch,
                point.seq,
                age(now, point.at)
            )
        },
    ));
    cells.push(
        facts
            .log_through
            .map(|seq| format!("log {seq}"))
            .unwrap_or_default(),
    );
    let safe = facts
        .safe_until
        .map(|until| format!("safe until {}", age(now, until)));
    cells.push(safe.unwrap_or_default());
    if facts.gaps > 0 {
        cells.push(count(facts.gaps, "gap"));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status_live::{LiveLane, LiveSource};

    #[test]
    fn a_region_that_lags_says_by_how_much_and_one_that_lacks_a_base_that_it_is_repairing() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let lane = |standing, behind| LiveLane {
            standing,
            lacking_since: (behind > 0).then(|| at(40)),
            behind,
            backlog_bytes: behind * 1024,
            log_through: None,
            point_through: None,
        };
        let source = LiveSource {
            lanes: [
                ("whole", lane(Standing::Whole, 0)),
                ("late", lane(Standing::Whole, 3)),
                ("repairing", lane(Standing::Repairing, 0)),
                ("both", lane(Standing::Repairing, 1)),
            ]
            .map(|(name, lane)| (name.parse().unwrap(), lane))
            .into(),
            ..LiveSource::default()
        };
        let app: SourceName = "app".parse().unwrap();
        let live = LiveStatus {
            at: at(100),
            sources: [(app.clone(), source)].into(),
            ..super::super::told::tests::live()
        };
        let said = |region| lag(&live, &app, region);
        assert_eq!(said("whole"), None);
        assert_eq!(said("unknown"), None);
        assert_eq!(said("repairing").as_deref(), Some("repairing"));
        let late = said("late").unwrap();
        assert!(late.starts_with("lags 1 min"), "{late}");
        assert!(
            late.contains("3 objects") && late.contains("3 KiB"),
            "{late}"
        );
        assert!(said("both").unwrap().contains("1 object "));
    }
}
