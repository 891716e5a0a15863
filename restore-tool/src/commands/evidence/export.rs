//! `evidence export`: the records of a period as a file, or as a pack.
//!
//! What is wrong with a chain doesn't keep it from being exported: it stands in the export.

use std::path::Path;

use serde_json::{Map, Value, json};
use tidemark_format::evidence::Sha256;
use tidemark_host::Exit;
use tidemark_host::files::{self, PRIVATE};

use super::documents::Exported;
use crate::cli::{ExportArgs, Format};
use crate::error::{Error, Result};
use crate::evidence::csv::{self, Meta, SignerMeta};
use crate::evidence::rows::{COLUMNS, Kind, Row, Selection};
use crate::evidence::shelf::Shelf;
use crate::evidence::{html, pack};
use crate::repository::{Repository, Settings, Tools};

/// Of an empty list of disposals an auditor asks what could have been disposed of.
const NO_DISPOSAL: &str = "no disposal is on record in that period, and nothing in this version deletes anything from a region: \
                           retiring a source, a new generation or a revoked key leave everything where it is";

pub(super) async fn run(args: &ExportArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    if let Some(out) = args
        .out
        .as_deref()
        .filter(|out| out.symlink_metadata().is_ok())
    {
        return Err(Error::TargetText(format!(
            "{} exists: an export replaces nothing; choose another name",
            out.display()
        )));
    }
    let selection = super::selection(args.kind, &args.period, settings, tools)?;
    if args.kind == Kind::Backups {
        return Box::pin(super::backups::run(args, selection, settings, tools)).await;
    }
    let (repository, shelf) = super::open(settings, tools).await?;
    let rows = selection.rows(&shelf.chains);
    let empty = rows.is_empty().then(|| why_empty(&selection, &shelf));
    let mut meta = meta(args, selection, (&rows, &shelf), &repository, tools);
    match (args.format, &args.out) {
        (Format::Pack, Some(out)) => {
            let exported = pack::write(out, &rows, &shelf, &repository, meta.clone()).await;
            exported?;
            show(out, &meta, (None, empty), tools);
        }
        (format, out) => {
            if let Some(name) = out.as_deref().and_then(Path::file_name) {
                meta.file = name.to_string_lossy().into_owned();
            }
            let text = render(format, &rows, &meta);
            meta.sha256 = Sha256::of(text.as_bytes());
            match out {
                None => {
                    tools.console.raw(&text);
                    if let Some(empty) = empty {
                        tools.console.note(&format!("note: {empty}"));
                    }
                }
                Some(out) => {
                    files::write_new(out, text.as_bytes(), PRIVATE)?;
                    let mut beside = out.as_os_str().to_owned();
                    beside.push(".meta.json");
                    files::write_new(Path::new(&beside), pretty(&meta).as_bytes(), PRIVATE)?;
                    show(out, &meta, (Some(meta.sha256), empty), tools);
                }
            }
        }
    }
    Ok(super::exit(&shelf))
}

fn render(format: Format, rows: &[Row<'_>], meta: &Meta) -> String {
    match format {
        Format::Csv | Format::Pack => csv::render(rows),
        Format::Html => html::render(rows, meta),
        Format::Json => {
            let records: Vec<Value> = rows.iter().map(object).collect();
            pretty(&json!({
                "schema": "tidemark-evidence",
                "version": 1,
                "selection": meta.selection,
                "signers": meta.signers,
                "findings": meta.findings,
                "records": records,
            }))
        }
        Format::Ndjson => {
            let lines = rows.iter().map(|row| format!("{}\n", object(row)));
            lines.collect()
        }
    }
}

/// A row as an object: the columns that aren't empty, and the statement as it was signed.
fn object(row: &Row<'_>) -> Value {
    let mut object = Map::new();
    object.insert("schema".to_owned(), "tidemark-evidence-record".into());
    object.insert("version".to_owned(), 1.into());
    for (title, cell) in COLUMNS {
        let cell = cell(row);
        if !cell.is_empty() {
            object.insert((*title).to_owned(), cell.into());
        }
    }
    let statement = serde_json::to_value(&row.record.statement).unwrap_or_default();
    object.insert("statement".to_owned(), statement);
    Value::Object(object)
}

pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    format!("{text}\n")
}

fn meta(
    args: &ExportArgs,
    selection: Selection,
    (rows, shelf): (&[Row<'_>], &Shelf),
    repository: &Repository,
    tools: &Tools,
) -> Meta {
    Meta {
        schema: "tidemark-evidence-export".to_owned(),
        version: 1,
        command: command(args, &selection),
        tool_version: tidemark_host::facts::VERSION.to_owned(),
        generated_at: tools.clock.now(),
        selection,
        repository: repository.trust.repo.to_string(),
        regions: shelf.regions.clone(),
        regions_away: shelf.away.iter().map(|(name, _)| name.clone()).collect(),
        rows: rows.len(),
        file: String::new(),
        sha256: Sha256::of(&[]),
        signers: SignerMeta::all(&shelf.chains, rows),
        findings: csv::findings(&shelf.chains),
    }
}

/// The command that makes the same export again.
pub(super) fn command(args: &ExportArgs, selection: &Selection) -> String {
    let mut words = format!(
        "tidemark-restore evidence export --kind {}",
        args.kind.name()
    );
    if let Some(source) = &selection.source {
        words.push_str(&format!(" --source {source}"));
    }
    for (option, value) in [("--from", &args.period.from), ("--to", &args.period.to)] {
        if let Some(value) = value {
            words.push_str(&format!(" {option} '{value}'"));
        }
    }
    let format = match args.format {
        Format::Csv => "csv",
        Format::Json => "json",
        Format::Ndjson => "ndjson",
        Format::Html => "html",
        Format::Pack => "pack",
    };
    words.push_str(&format!(" --format {format}"));
    words
}

/// Nobody should take an empty file for "nothing happened".
fn why_empty(selection: &Selection, shelf: &Shelf) -> String {
    let others: Vec<String> = [Kind::Drills, Kind::Access, Kind::Disposals, Kind::All]
        .into_iter()
        .filter(|kind| *kind != selection.kind)
        .filter_map(|kind| {
            let other = Selection {
                kind,
                ..selection.clone()
            };
            let rows = other.rows(&shelf.chains).len();
            let records = tidemark_host::output::count(rows, "record");
            (rows > 0).then(|| format!("{records} with --kind {}", kind.name()))
        })
        .collect();
    let nothing = match selection.kind {
        Kind::Drills => "no drill is on record in that period",
        Kind::Access => "no use of a key is on record in that period",
        Kind::All => "nothing is on record in that period",
        Kind::Backups => "no full backup and no recovery point lies in that period",
        Kind::Disposals => NO_DISPOSAL,
    };
    if others.is_empty() {
        nothing.to_owned()
    } else {
        format!("{nothing}; there are {}", others.join(", "))
    }
}

fn show(out: &Path, meta: &Meta, (sha256, empty): (Option<Sha256>, Option<String>), tools: &Tools) {
    tools.console.show(&Exported {
        out: out.display().to_string(),
        rows: meta.rows,
        noun: "record",
        sha256,
        signers: meta.signers.clone(),
        findings: meta.findings.clone(),
        sources: Vec::new(),
        empty,
    });
}
