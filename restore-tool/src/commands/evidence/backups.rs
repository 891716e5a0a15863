//! `evidence export --kind backups`: every full backup and recovery point, as the regions have them now.
//!
//! Rows are written source by source: memory holds one source's history, however many there are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::json;
use tidemark_format::evidence::{Hashing, Sha256};
use tidemark_format::{Hash, SourceName};
use tidemark_host::files::{self, NewFile, PRIVATE};
use tidemark_host::output::{self, Console};
use tidemark_host::{Exit, facts};
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tidemark_ledger::timeline::Timeline;

use super::documents::Exported;
use super::export;
use crate::cli::{ExportArgs, Format};
use crate::error::{Error, Result};
use crate::evidence::backups::gather::{self, Beside};
use crate::evidence::backups::page::{self, BASIS, Meta, Section};
use crate::evidence::backups::summary::{Asked, Summary};
use crate::evidence::backups::{self, Backup};
use crate::evidence::chain::Chain;
use crate::evidence::drills::Drill;
use crate::evidence::rows::Selection;
use crate::evidence::shelf;
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// Heads of log objects read at a time.
const AT_ONCE: usize = 16;

/// A pack holds signed records; these rows are no records.
const NO_PACK: &str = "--format pack holds signed records of evidence, and backups are none: export them with --format csv, \
                       json, ndjson or html, and the records with --kind all --format pack";

pub(super) async fn run(
    args: &ExportArgs,
    selection: Selection,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    if args.format == Format::Pack {
        return Err(Error::TargetText(NO_PACK.to_owned()));
    }
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let names = match &settings.source {
        Some(name) => vec![repository.source(Some(name)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    // What can't be read of the evidence leaves the column empty: `evidence verify` says why.
    let shelf = shelf::read(&repository, settings.state.as_deref()).await;
    let drilled = shelf.map_or_else(|_unread| BTreeMap::new(), |shelf| drilled(&shelf.chains));
    let mut meta = meta(args, selection, &repository, tools);
    let mut writer = Writer::begin(args, &meta, &tools.console)?;
    let (mut is_damaged, mut unread) = (false, !repository.away.is_empty());
    for name in names {
        let (summary, timeline) = source(&repository, &name, &drilled, &mut writer, tools).await?;
        unread |= !timeline.failed.is_empty();
        is_damaged |= writer.take_damage();
        meta.sources.push(summary);
    }
    meta.rows = writer.rows;
    let empty = (meta.rows == 0).then(|| {
        let kind = "no full backup and no recovery point lies in that period";
        kind.to_owned()
    });
    let lines: Vec<String> = meta.sources.iter().filter_map(doubt).collect();
    match &args.out {
        None => {
            writer.end(&mut meta)?;
            for line in empty.iter().chain(&lines) {
                tools.console.note(&format!("note: {line}"));
            }
        }
        Some(out) => {
            writer.end(&mut meta)?;
            let mut beside = out.as_os_str().to_owned();
            beside.push(".meta.json");
            files::write_new(
                Path::new(&beside),
                export::pretty(&meta).as_bytes(),
                PRIVATE,
            )?;
            tools.console.show(&Exported {
                out: out.display().to_string(),
                rows: meta.rows,
                noun: "row",
                sha256: Some(meta.sha256),
                signers: Vec::new(),
                findings: lines,
                sources: meta.sources,
                empty,
            });
        }
    }
    Ok(match (is_damaged, unread) {
        (true, _) => Exit::Integrity,
        (false, true) => Exit::Exceptions,
        (false, false) => Exit::Ok,
    })
}

/// What a person should look at.
fn doubt(summary: &Summary) -> Option<String> {
    let (source, doubts) = (&summary.source, summary.in_doubt);
    let rows = output::count(doubts, "row");
    (doubts > 0).then(|| {
        format!(
            "{source}: {rows} in doubt, see regions_without and doubts: not in every region that has what came later, or \
             something there doesn't count (tidemark-restore verify says more)"
        )
    })
}

/// The rows of one source, and its figures.
async fn source(
    repository: &Repository,
    name: &SourceName,
    drilled: &BTreeMap<Hash, Arc<str>>,
    writer: &mut Writer<'_>,
    tools: &Tools,
) -> Result<(Summary, Timeline)> {
    let options = LoadOptions {
        points: PointsWanted::All,
    };
    let timeline = repository.timeline(name, &options).await?;
    let away = repository.away.iter().map(|away| away.name.to_string());
    let failed = timeline.failed.iter().map(|(name, _)| name.to_string());
    let beside = Beside {
        reaches: reaches(&timeline).await,
        drilled: drilled.clone(),
        unread: away.chain(failed).collect(),
    };
    let rows = gather::all(&timeline, &repository.keyring, &beside);
    let asked = Asked {
        from: writer.period.0,
        to: writer.period.1,
        now: tools.clock.now(),
        retired: timeline.is_retired(),
    };
    let engine = timeline.engine().unwrap_or_default();
    let summary = Summary::of(name, engine, &rows, &asked);
    writer.source(&rows)?;
    Ok((summary, timeline))
}

/// For each base the instant at the end of the object from which on it is usable.
async fn reaches(timeline: &Timeline) -> BTreeMap<Hash, Timestamp> {
    let views = timeline.epochs().iter();
    let bases = views.flat_map(|view| view.bases.iter());
    let heads = bases.map(|base| async move {
        let (epoch, usable) = (base.head.epoch, base.head.usable_from);
        // What can't be read leaves the cell empty; that it can't is told by what needs it.
        let places = timeline.log(epoch, usable..usable.next()).await.ok()?;
        let head = &places.first()?.found.as_ref()?.head;
        Some((base.link, head.last_commit.unwrap_or(head.captured_at)))
    });
    let read = futures_util::stream::iter(heads).buffer_unordered(AT_ONCE);
    read.filter_map(std::future::ready).collect().await
}

/// What the newest drill said that restored a base, or up to a log object, by its link.
fn drilled(chains: &[Chain]) -> BTreeMap<Hash, Arc<str>> {
    let records = chains
        .iter()
        .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
    let drills = records.filter_map(|(chain, record)| Some((Drill::of(chain, record)?, record)));
    let mut all: Vec<_> = drills.filter(|(drill, _)| drill.doubt.is_none()).collect();
    all.sort_by_key(|(drill, _)| drill.at);
    let mut found = BTreeMap::new();
    for (drill, record) in all {
        let Some(verdict) = drill.verdict else {
            continue;
        };
        let said: Arc<str> = format!("{} at {} ({})", verdict.name(), drill.at, drill.id).into();
        for subject in &record.statement.subject {
            let link = subject
                .digest
                .get("blake3")
                .and_then(|hex| hex.parse().ok());
            link.map(|link: Hash| found.insert(link, Arc::clone(&said)));
        }
    }
    found
}

fn meta(args: &ExportArgs, selection: Selection, repository: &Repository, tools: &Tools) -> Meta {
    let regions = repository.regions.iter();
    let away = repository.away.iter();
    Meta {
        schema: "tidemark-backups-export".to_owned(),
        version: 1,
        command: export::command(args, &selection),
        tool_version: facts::VERSION.to_owned(),
        generated_at: tools.clock.now(),
        selection,
        repository: repository.trust.repo.to_string(),
        regions: regions.map(|region| region.name().to_string()).collect(),
        regions_away: away.map(|away| away.name.to_string()).collect(),
        basis: BASIS.to_owned(),
        sources: Vec::new(),
        rows: 0,
        file: String::new(),
        sha256: Sha256::of(&[]),
    }
}

/// Where the rows go.
enum Sink<'a> {
    Console(&'a Console),
    File(Box<NewFile>),
}

/// Writes rows as they come.
struct Writer<'a> {
    format: Format,
    period: (Option<Timestamp>, Option<Timestamp>),
    sink: Sink<'a>,
    file: String,
    hashing: Hashing,
    rows: usize,
    is_damaged: bool,
    sections: Vec<Section>,
}

impl<'a> Writer<'a> {
    fn begin(args: &ExportArgs, meta: &Meta, console: &'a Console) -> Result<Self> {
        let sink = match &args.out {
            None => Sink::Console(console),
            Some(out) => Sink::File(Box::new(NewFile::begin(out, PRIVATE)?)),
        };
        let name = args.out.as_deref().and_then(Path::file_name);
        let mut writer = Self {
            format: args.format,
            period: (meta.selection.from, meta.selection.to),
            sink,
            file: name.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            hashing: Hashing::default(),
            rows: 0,
            is_damaged: false,
            sections: Vec::new(),
        };
        let mut text = String::new();
        match args.format {
            Format::Csv => backups::header(&mut text),
            Format::Json => {
                let head = json!({
                    "schema": "tidemark-backups",
                    "version": 1,
                    "basis": meta.basis,
                    "generated_at": meta.generated_at,
                    "selection": meta.selection,
                    "repository": meta.repository,
                    "regions": meta.regions,
                    "regions_away": meta.regions_away,
                });
                let head = head.to_string();
                text = format!("{},\n\"backups\": [", head.trim_end_matches('}'));
            }
            Format::Ndjson | Format::Html | Format::Pack => {}
        }
        writer.write(&text)?;
        Ok(writer)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.hashing.update(text.as_bytes());
        match &mut self.sink {
            Sink::Console(console) => console.raw(text),
            Sink::File(file) => file.write(text.as_bytes())?,
        }
        Ok(())
    }

    /// The rows of a source that lie in the period.
    fn source(&mut self, all: &[Backup]) -> Result<()> {
        let mut section = Section::default();
        let mut text = String::new();
        for row in all.iter().filter(|row| row.is_in(self.period)) {
            match self.format {
                Format::Csv => backups::row(row, &mut text),
                Format::Json => {
                    let comma = if self.rows == 0 { "" } else { "," };
                    text.push_str(&format!("{comma}\n{}", backups::object(row)));
                }
                Format::Ndjson => text.push_str(&format!("{}\n", backups::object(row))),
                Format::Html | Format::Pack => section.add(row),
            }
            self.rows = self.rows.saturating_add(1);
            self.is_damaged |= !row.doubts.is_empty();
        }
        if self.format == Format::Html {
            self.sections.push(section);
        }
        self.write(&text)
    }

    fn take_damage(&mut self) -> bool {
        std::mem::take(&mut self.is_damaged)
    }

    /// The end of it; `meta` learns what was written.
    fn end(mut self, meta: &mut Meta) -> Result<()> {
        match self.format {
            Format::Json => {
                let sources = serde_json::to_string(&meta.sources).unwrap_or_default();
                self.write(&format!("\n],\n\"sources\": {sources}}}\n"))?;
            }
            Format::Html => {
                let page = page::render(meta, &self.sections);
                self.write(&page)?;
            }
            Format::Csv | Format::Ndjson | Format::Pack => {}
        }
        meta.file = self.file;
        meta.sha256 = self.hashing.done();
        if let Sink::File(file) = self.sink {
            file.finish()?;
        }
        Ok(())
    }
}
