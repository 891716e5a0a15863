//! The status screen and its JSON.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::SourceName;
use tidemark_host::{
    Exit,
    config::AgentConfig,
    output::{Document, Table, age, bytes, count, duration, instant},
};

use super::{
    gather::{RegionFacts, SourceFacts},
    verdict::{Demands, Health, Judgement, judge},
};
use crate::status_live::LiveStatus;

/// One source as all regions show it.
#[derive(Debug, Serialize)]
struct SourceReport {
    name: SourceName,
    judgement: Judgement,
    /// What the running daemon says it is doing.
    state: Option<&'static str>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
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
}

impl Report {
    /// Judges what was gathered.
    pub(super) fn new(
        config: &AgentConfig,
        regions: Vec<RegionFacts>,
        daemon: Option<LiveStatus>,
        now: Timestamp,
    ) -> Self {
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
                durable_in: source.settings.durable_in,
                ship_every: source.settings.ship_every,
                beat_every: config.beat_every(),
                rpo: source.settings.rpo,
            };
            sources.push(report(
                &source.name,
                &regions,
                &demands,
                daemon.as_ref(),
                now,
            ));
        }
        let worst = sources.iter().map(|source| source.judgement.health).max();
        Self {
            at: now,
            health: worst.unwrap_or(Health::Unknown),
            sources,
            regions,
            daemon,
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
    regions: &[RegionFacts],
    demands: &Demands,
    daemon: Option<&LiveStatus>,
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
    let live = daemon.and_then(|live| live.sources.get(name));
    SourceReport {
        name: name.clone(),
        judgement: judge(&pairs, demands, daemon.is_some(), now),
        state: live.map(|live| live.state.name()),
        from: facts().filter_map(|source| source.from).min(),
        until: facts().filter_map(|source| source.safe_until).max(),
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

impl Report {
    fn source_text(&self, source: &SourceReport, out: &mut String) {
        let word = match source.judgement.health {
            Health::Healthy => "HEALTHY",
            Health::Warning => "WARNING",
            Health::Critical => "CRITICAL",
            Health::Unknown => "UNKNOWN",
        };
        let doing = source
            .state
            .map(|state| format!("  ({state})"))
            .unwrap_or_default();
        out.push_str(&format!("{}  {word}{doing}\n", source.name));
        let millis = |ms: Option<u64>| {
            ms.map_or_else(
                || "everything".to_owned(),
                |ms| duration(std::time::Duration::from_millis(ms)),
            )
        };
        out.push_str(&format!(
            "Loss now     {}   limit {}   with the regions that durable_in asks for: {}\n",
            millis(source.judgement.exposure_ms),
            millis(Some(source.judgement.limit_ms)),
            millis(source.judgement.quorum_exposure_ms),
        ));
        let window = match (source.from, source.until) {
            (Some(from), Some(until)) => format!("{} to {}", instant(from), instant(until)),
            _nothing => "nothing yet".to_owned(),
        };
        out.push_str(&format!("Recoverable  {window}\n"));
        out.push_str(
            "Proof        not drilled: a backup is a hypothesis until a restore has proved it\n",
        );
        let mut table = Table::new();
        for region in &self.regions {
            let facts = region.sources.iter().find(|one| one.source == source.name);
            table.row(region_cells(region, facts, self.at));
        }
        table.write("Region       ", out);
    }

    fn daemon_text(&self, out: &mut String) {
        let Some(live) = &self.daemon else {
            out.push_str("Agent        not running\n");
            return;
        };
        out.push_str(&format!(
            "Agent        running (process {}), spool {} of {}\n",
            live.pid,
            bytes(live.spool_bytes),
            bytes(live.spool_max)
        ));
        for alert in &live.alerts {
            out.push_str(&format!(
                "Alert        {} {}: {}\n",
                alert.code, alert.about, alert.message
            ));
        }
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
                "point {}:{} of {}",
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
