//! `list`: what is there and where one can go back to. Needs no identity.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_format::{Epoch, LogSeq, PointSeq, RegionName, SourceName};
use tidemark_host::Exit;
use tidemark_host::output::{self, Document, Table};
use tidemark_ledger::history::{LoadOptions, PointsWanted, Standing};
use tidemark_ledger::timeline::Timeline;

use crate::cli::ListArgs;
use crate::error::Result;
use crate::identity;
use crate::plan::{self, Beyond, Recoverable, Window};
use crate::repository::{Repository, Settings, Tools};

/// Points shown without `--points`, beside the named ones.
const NEWEST_SHOWN: usize = 3;

/// `list`.
#[derive(Debug, Clone, Serialize)]
pub struct List {
    /// The repository.
    pub repository: String,
    /// The root's fingerprint.
    pub root: String,
    /// Whether the root was pinned by an identity; else it is what the region itself says.
    pub root_pinned: bool,
    /// Regions read.
    pub regions: Vec<RegionName>,
    /// Regions that could not be read, with the reason.
    pub away: Vec<RegionAway>,
    /// The sources.
    pub sources: Vec<SourceListed>,
}

/// A region that could not be read.
#[derive(Debug, Clone, Serialize)]
pub struct RegionAway {
    /// Its name.
    pub region: RegionName,
    /// Why.
    pub why: String,
}

/// A source.
#[derive(Debug, Clone, Serialize)]
pub struct SourceListed {
    /// Its name.
    pub source: SourceName,
    /// Its engine.
    pub engine: Option<String>,
    /// Whether commit times are when the agent first saw them.
    pub commit_times: &'static str,
    /// What can be restored, and what between can't.
    #[serde(flatten)]
    pub recoverable: Recoverable,
    /// Recovery points: all with `--points`, else the newest and the named ones.
    pub points: Vec<PointListed>,
    /// How many there are.
    pub points_total: usize,
    /// Restorable log objects past the newest recovery point.
    pub unsealed: Option<LogSpan>,
    /// Objects past the end that the chain doesn't reach, and objects of void epochs.
    pub strays: Vec<Stray>,
    /// Log objects between others, or before a recovery point, that no region given has.
    pub missing: Vec<LogSpan>,
    /// What doesn't count, and why.
    pub troubles: Vec<String>,
}

/// A recovery point.
#[derive(Debug, Clone, Serialize)]
pub struct PointListed {
    /// The epoch.
    pub epoch: Epoch,
    /// Its place in the epoch.
    pub seq: PointSeq,
    /// Its name, if a person gave it one.
    pub name: Option<String>,
    /// Everything committed up to here is in it.
    pub committed: Timestamp,
    /// When it was sealed.
    pub sealed_at: Timestamp,
    /// The last log object it covers.
    pub log_seq: LogSeq,
    /// As `--expect` takes it.
    pub expect: String,
}

/// Log objects in a row: the tail past the newest recovery point, or what is missing.
#[derive(Debug, Clone, Serialize)]
pub struct LogSpan {
    /// The epoch.
    pub epoch: Epoch,
    /// The first object.
    pub first: LogSeq,
    /// The last object.
    pub last: LogSeq,
    /// How many.
    pub objects: usize,
    /// Of what is missing up to an epoch's end: the epoch that took over. A region that lagged then
    /// lacks it for good, and another one has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_over_by: Option<Epoch>,
}

/// Log objects that don't count.
#[derive(Debug, Clone, Serialize)]
pub struct Stray {
    /// The region.
    pub region: RegionName,
    /// The epoch.
    pub epoch: Epoch,
    /// The first.
    pub first: LogSeq,
    /// The last.
    pub last: LogSeq,
    /// Why they don't count.
    pub why: &'static str,
}

/// `list`.
///
/// # Errors
/// No region can be read, or the source isn't there.
pub async fn run(args: &ListArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let names = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    let mut sources = Vec::new();
    for name in names {
        let options = LoadOptions {
            points: PointsWanted::All,
        };
        let timeline = repository.timeline(&name, &options).await?;
        sources.push(source(&timeline, args, tools.clock.now()).await?);
    }
    let away = repository.away.iter().map(|away| RegionAway {
        region: away.name.clone(),
        why: tidemark_storage::chain(&away.error),
    });
    let list = List {
        repository: repository.trust.repo.to_string(),
        root: repository.trust.root.to_string(),
        root_pinned: repository.pinned,
        regions: repository
            .regions
            .iter()
            .map(|region| region.name().clone())
            .collect(),
        away: away.collect(),
        sources,
    };
    tools.console.show(&list);
    Ok(if list.away.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
}

async fn source(timeline: &Timeline, args: &ListArgs, now: Timestamp) -> Result<SourceListed> {
    let all: Vec<PointListed> = timeline
        .epochs()
        .iter()
        .flat_map(|view| &view.points)
        .map(|point| PointListed {
            epoch: point.head.epoch,
            seq: point.head.seq,
            name: point.head.name.clone(),
            committed: point.head.committed,
            sealed_at: point.head.at,
            log_seq: point.head.log_seq,
            expect: format!("{}:{}", point.head.seq, point.link),
        })
        .collect();
    let points_total = all.len();
    let from = points_total.saturating_sub(NEWEST_SHOWN);
    let shown = |(at, point): (usize, PointListed)| {
        (args.points || at >= from || point.name.is_some()).then_some(point)
    };
    let points = all.into_iter().enumerate().filter_map(shown).collect();
    let recoverable = plan::recoverable(timeline, now).await?;
    let unsealed = unsealed(timeline, recoverable.windows.last());
    Ok(SourceListed {
        source: timeline.source().clone(),
        engine: timeline.engine().map(str::to_owned),
        commit_times: plan::commit_times(timeline),
        recoverable,
        points,
        points_total,
        unsealed,
        strays: strays(timeline),
        missing: missing(timeline),
        troubles: troubles(timeline),
    })
}

fn unsealed(timeline: &Timeline, newest: Option<&Window>) -> Option<LogSpan> {
    let window = newest?;
    let view = timeline.epoch(window.to.epoch)?;
    let first = view
        .points
        .last()
        .map_or(window.from.seq, |point| point.head.log_seq.next());
    let last = window.to.seq;
    let objects = usize::try_from(last.0.checked_sub(first.0)?.saturating_add(1)).ok()?;
    Some(LogSpan {
        epoch: view.epoch,
        first,
        last,
        objects,
        taken_over_by: None,
    })
}

/// Holes in what all regions together show: the windows end there.
fn missing(timeline: &Timeline) -> Vec<LogSpan> {
    let mut found = Vec::new();
    for view in timeline.epochs() {
        let epoch = view.epoch;
        let sealed = view.points.last().map(|point| point.head.log_seq.next());
        let ended = match view.standing {
            Standing::Ended { last, by, .. } => Some((last, by)),
            _ => None,
        };
        let end = ended.map(|(last, _)| last.next());
        let names = view.names.keys().copied();
        let mut before: Option<LogSeq> = None;
        for seq in names.chain(sealed.max(end)) {
            if let Some(first) = before.map(LogSeq::next).filter(|first| *first < seq)
                && let Some(last) = seq.previous()
            {
                let objects = last.0.saturating_sub(first.0).saturating_add(1);
                found.push(LogSpan {
                    epoch,
                    first,
                    last,
                    objects: usize::try_from(objects).unwrap_or(usize::MAX),
                    taken_over_by: ended.filter(|(end, _)| *end == last).map(|(_, by)| by),
                });
            }
            before = before.max(Some(seq));
        }
    }
    found
}

/// What doesn't count. Objects in a row with the same fault are one line: a region that lags lacks
/// many.
fn troubles(timeline: &Timeline) -> Vec<String> {
    let mut runs: Vec<TroubleRun> = Vec::new();
    for (region, trouble) in timeline.troubles() {
        let (folder, name) = trouble.key.rsplit_once('/').unwrap_or(("", &trouble.key));
        let why = tidemark_storage::chain(trouble.error.as_ref()).replace(&trouble.key, "it");
        let number = name.parse::<u64>().ok();
        if let Some(run) = runs.last_mut()
            && (&run.region, run.folder.as_str(), &run.why) == (region, folder, &why)
            && number.is_some()
            && run.next == number
        {
            name.clone_into(&mut run.last);
            run.next = number.and_then(|number| number.checked_add(1));
            run.count = run.count.saturating_add(1);
            continue;
        }
        runs.push(TroubleRun {
            region: region.clone(),
            folder: folder.to_owned(),
            first: name.to_owned(),
            last: name.to_owned(),
            next: number.and_then(|number| number.checked_add(1)),
            count: 1,
            why,
        });
    }
    runs.iter().map(TroubleRun::line).collect()
}

/// Objects in a row of one folder, in one region, with one fault.
struct TroubleRun {
    region: RegionName,
    folder: String,
    first: String,
    last: String,
    next: Option<u64>,
    count: usize,
    why: String,
}

impl TroubleRun {
    fn line(&self) -> String {
        let Self {
            region,
            folder,
            first,
            last,
            count,
            why,
            ..
        } = self;
        if *count == 1 {
            return format!("{region}: {folder}/{first}: {why}");
        }
        let bare = |name: &str| {
            name.parse::<u64>()
                .map_or_else(|_| name.to_owned(), |n| n.to_string())
        };
        let (first, last) = (bare(first), bare(last));
        format!("{region}: {folder}/ {first} to {last} ({count} objects): {why}")
    }
}

/// Log objects in a row, in the notation that `--to` takes.
fn span(epoch: Epoch, first: LogSeq, last: LogSeq) -> String {
    if first == last {
        return format!("log:{epoch}:{first}");
    }
    format!("log:{epoch}:{first} to log:{epoch}:{last}")
}

fn strays(timeline: &Timeline) -> Vec<Stray> {
    let mut found = Vec::new();
    for (region, history) in timeline.histories() {
        for epoch in history.all_epochs() {
            let stray = epoch.stray();
            if let (Standing::Live, Some(first), Some(last)) =
                (&epoch.standing, stray.first(), stray.last())
            {
                let why = "one before them is missing in this region";
                let (first, last) = (*first, *last);
                found.push(Stray {
                    region: region.clone(),
                    epoch: epoch.epoch,
                    first,
                    last,
                    why,
                });
            }
            let void = (epoch.void.keys().next(), epoch.void.keys().next_back());
            if let (Some(first), Some(last)) = void {
                let why = "void: another agent took over before them";
                let (first, last) = (*first, *last);
                found.push(Stray {
                    region: region.clone(),
                    epoch: epoch.epoch,
                    first,
                    last,
                    why,
                });
            }
        }
    }
    found
}

impl Document for List {
    const SCHEMA: &'static str = "tidemark-restore.list";

    fn text(&self, out: &mut String) {
        let root = if self.root_pinned {
            "root as pinned"
        } else {
            "root not pinned: no identity given"
        };
        out.push_str(&format!(
            "Repository {} ({root} {})\n",
            self.repository, self.root
        ));
        for away in &self.away {
            out.push_str(&format!(
                "  region {} could not be read: {}\n",
                away.region, away.why
            ));
        }
        if self.sources.is_empty() {
            out.push_str("  no source yet\n");
        }
        for source in &self.sources {
            source.text(out);
        }
    }
}

impl SourceListed {
    fn text(&self, out: &mut String) {
        let engine = self.engine.as_deref().unwrap_or("unknown engine");
        out.push_str(&format!(
            "\n{} ({engine}; times are {})\n",
            self.source, self.commit_times
        ));
        let Recoverable {
            windows,
            holes,
            beyond,
            ..
        } = &self.recoverable;
        if windows.is_empty() {
            out.push_str("  nothing can be restored yet: no complete base\n");
        } else {
            out.push_str("  Any state in these windows can be restored:\n");
        }
        for window in windows {
            let hole = holes.iter().find(|hole| hole.before == window.from);
            out.extend(hole.map(|hole| format!("      hole: {}\n", hole.line())));
            let until = if window.covers_until > window.to.at {
                format!(
                    "; nothing else up to {}",
                    output::instant(window.covers_until)
                )
            } else {
                String::new()
            };
            out.push_str(&format!("    {} to {}{until}\n", window.from, window.to));
        }
        let beyond = beyond.iter().map(Beyond::line);
        out.extend(beyond);
        let (shown, all) = (self.points.len(), self.points_total);
        let which = if shown < all {
            format!(", shown: the newest and those with a name ({shown}); --points shows all")
        } else {
            String::new()
        };
        out.push_str(&format!("  Recovery points: {all}{which}\n"));
        let mut table = Table::new();
        for point in &self.points {
            table.row([
                format!("point:{}/{}", point.epoch, point.seq),
                output::instant(point.committed),
                format!("log:{}:{}", point.epoch, point.log_seq),
                point
                    .name
                    .as_ref()
                    .map_or_else(String::new, |name| format!("point:{name}")),
            ]);
        }
        table.write("    ", out);
        if let Some(tail) = &self.unsealed {
            let objects = output::count(tail.objects, "log object");
            let (epoch, first, last) = (tail.epoch, tail.first, tail.last);
            out.push_str(&format!(
                "  Restorable, not yet sealed: {objects} ({})\n",
                span(epoch, first, last)
            ));
        }
        self.wrong(out);
    }

    /// What is missing and what doesn't count.
    fn wrong(&self, out: &mut String) {
        for missing in &self.missing {
            let objects = output::count(missing.objects, "log object");
            let (epoch, first, last) = (missing.epoch, missing.first, missing.last);
            let span = span(epoch, first, last);
            let why = missing.taken_over_by.map_or_else(String::new, |by| {
                format!(
                    "; a region that lagged when epoch {by} took over keeps that hole, and serves later instants: \
                     give the other regions, too"
                )
            });
            out.push_str(&format!(
                "  Missing: {span} ({objects}): no region given has it{why}\n"
            ));
        }
        for stray in &self.strays {
            let Stray {
                region,
                epoch,
                first,
                last,
                why,
            } = stray;
            out.push_str(&format!(
                "  Stray in {region}: {} ({why})\n",
                span(*epoch, *first, *last)
            ));
        }
        for trouble in &self.troubles {
            out.push_str(&format!("  Does not count: {trouble}\n"));
        }
    }
}
