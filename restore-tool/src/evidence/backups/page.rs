//! Backups as one page that prints well: figures, every full backup, the recovery points by day. Pure.
//!
//! A month has thousands of points: those in doubt stand one by one, the others in the day's row; the CSV
//! has each.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tidemark_format::evidence::Sha256;
use tidemark_host::output;

use super::summary::{Gap, Summary};
use super::{Backup, What};
use crate::evidence::html::{STYLE, escaped};
use crate::evidence::rows::Selection;

/// Rows in doubt that are shown one by one, of each source.
const DOUBTS_MAX: usize = 200;

/// What the rows rest on: said in every form of the export.
pub const BASIS: &str = "signed objects of the regions as they stood when this was made; the backups' own bytes were not read \
                         (tidemark-restore verify reads them), times are the agents' clocks'";

/// What an export of backups is, for whoever must judge whether it is complete and accurate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// `tidemark-backups-export`.
    pub schema: String,
    /// The version of these fields.
    pub version: u32,
    /// The command that made it.
    pub command: String,
    /// The program's version.
    pub tool_version: String,
    /// When it was made.
    pub generated_at: Timestamp,
    /// What was selected; `from` included, `to` excluded.
    pub selection: Selection,
    /// The repository.
    pub repository: String,
    /// Regions that were read.
    pub regions: Vec<String>,
    /// Regions that could not be read: they may hold more.
    pub regions_away: Vec<String>,
    /// What the rows rest on.
    pub basis: String,
    /// Figures of each source.
    pub sources: Vec<Summary>,
    /// Rows without the header.
    pub rows: usize,
    /// The file's name and the SHA-256 of its bytes.
    pub file: String,
    /// See `file`.
    pub sha256: Sha256,
}

/// A day's recovery points.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Day {
    points: usize,
    in_doubt: usize,
    stored_bytes: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    longest: Option<Duration>,
}

/// What the page keeps of a source's rows.
#[derive(Debug, Default)]
pub struct Section {
    bases: Vec<Backup>,
    days: BTreeMap<Date, Day>,
    doubts: Vec<Backup>,
    more_doubts: usize,
    last: Option<Timestamp>,
}

impl Section {
    /// Of a source's rows, the oldest first.
    pub fn add(&mut self, row: &Backup) {
        if row.what == What::RecoveryPoint && row.is_in_doubt() {
            if self.doubts.len() < DOUBTS_MAX {
                self.doubts.push(row.clone());
            } else {
                self.more_doubts = self.more_doubts.saturating_add(1);
            }
        }
        match (row.what, row.sealed) {
            (What::Base, _) => self.bases.push(row.clone()),
            (What::RecoveryPoint, Some(at)) => self.point(row, at),
            (What::RecoveryPoint, None) => {}
        }
    }

    fn point(&mut self, row: &Backup, at: Timestamp) {
        let day = self.days.entry(at.to_zoned(TimeZone::UTC).date());
        let day = day.or_default();
        day.points = day.points.saturating_add(1);
        day.in_doubt = day.in_doubt.saturating_add(usize::from(row.is_in_doubt()));
        day.stored_bytes = day
            .stored_bytes
            .saturating_add(row.stored_bytes.unwrap_or_default());
        day.first = day.first.or(Some(at));
        day.last = Some(at);
        if row.state.counts() {
            let since = self.last.map(|last| at.duration_since(last).unsigned_abs());
            day.longest = day.longest.max(since);
            self.last = Some(at);
        }
    }
}

/// The page.
#[must_use]
pub fn render(meta: &Meta, sections: &[Section]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Tidemark: full backups and recovery points</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Full backups and recovery points</h1>\n<p>Repository <code>{}</code>, {}. Read from {}.",
        escaped(&meta.repository),
        escaped(&period(&meta.selection)),
        escaped(&meta.regions.join(", ")),
    );
    if !meta.regions_away.is_empty() {
        out.push_str(&format!(
            " <span class=\"exceptions\">Could not be read, and may hold more: {}.</span>",
            escaped(&meta.regions_away.join(", "))
        ));
    }
    let basis = escaped(&meta.basis);
    out.push_str(&format!("</p>\n<p class=\"small\">{basis}.</p>\n"));
    summaries(&mut out, &meta.sources);
    for (summary, section) in meta.sources.iter().zip(sections) {
        of_source(&mut out, summary, section);
    }
    out.push_str(&format!(
        "<p class=\"small\">Made {} by tidemark-restore {} with <code>{}</code></p>\n</body>\n</html>\n",
        meta.generated_at,
        escaped(&meta.tool_version),
        escaped(&meta.command)
    ));
    out
}

fn period(selection: &Selection) -> String {
    match (selection.from, selection.to) {
        (Some(from), Some(to)) => format!("sealed from {from}, before {to}"),
        (Some(from), None) => format!("sealed from {from} on"),
        (None, Some(to)) => format!("sealed before {to}"),
        (None, None) => "all that is kept".to_owned(),
    }
}

fn told(gap: Option<&Gap>) -> String {
    gap.map_or_else(String::new, Gap::words)
}

fn at(instant: Option<Timestamp>) -> String {
    instant.map_or_else(|| "none".to_owned(), output::instant)
}

fn summaries(out: &mut String, sources: &[Summary]) {
    table(
        out,
        "Summary",
        &[
            "source",
            "full backups",
            "recovery points",
            "in doubt",
            "longest between full backups",
            "longest between points",
            "oldest full backup kept",
            "newest full backup",
            "newest point",
            "bytes",
        ],
    );
    for one in sources {
        let retired = if one.retired { ", retired" } else { "" };
        row(
            out,
            [
                format!("{} ({}{retired})", one.source, one.engine),
                one.bases.to_string(),
                one.points.to_string(),
                one.in_doubt.to_string(),
                told(one.longest_between_bases.as_ref()),
                told(one.longest_between_points.as_ref()),
                at(one.oldest_kept),
                at(one.newest_base),
                at(one.newest_point),
                output::bytes(one.stored_bytes),
            ],
        );
    }
    out.push_str(
        "</tbody>\n</table>\n<p class=\"small\">A database in which nothing is committed gets no recovery point: a long time \
         between points alone is no loss. Bytes are those of one region.</p>\n",
    );
}

fn of_source(out: &mut String, summary: &Summary, section: &Section) {
    let source = escaped(summary.source.as_str());
    let titles = [
        "id",
        "begun",
        "sealed",
        "stored as",
        "bytes",
        "reaches from",
        "in",
        "not in",
        "state",
        "drilled",
        "signer",
    ];
    table(out, &format!("{source}: full backups"), &titles);
    for base in &section.bases {
        row(out, cells(base));
    }
    out.push_str("</tbody>\n</table>\n");
    let days = [
        "day",
        "points",
        "in doubt",
        "first",
        "last",
        "longest between",
        "bytes of log",
    ];
    table(
        out,
        &format!("{source}: recovery points by day (UTC)"),
        &days,
    );
    for (date, day) in &section.days {
        row(
            out,
            [
                date.to_string(),
                day.points.to_string(),
                day.in_doubt.to_string(),
                at(day.first),
                at(day.last),
                day.longest.map_or_else(String::new, output::duration),
                output::bytes(day.stored_bytes),
            ],
        );
    }
    out.push_str("</tbody>\n</table>\n");
    if section.doubts.is_empty() {
        return;
    }
    table(out, &format!("{source}: recovery points in doubt"), &titles);
    for point in &section.doubts {
        row(out, cells(point));
    }
    out.push_str("</tbody>\n</table>\n");
    if section.more_doubts > 0 {
        let more = section.more_doubts;
        out.push_str(&format!("<p>And {more} more: --format csv has each.</p>\n"));
    }
}

/// A backup's own row.
fn cells(backup: &Backup) -> [String; 11] {
    let names = |regions: &[tidemark_format::RegionName]| {
        let all = regions.iter().map(|region| region.to_string());
        all.collect::<Vec<_>>().join(", ")
    };
    let behind = match names(&backup.behind) {
        behind if behind.is_empty() => String::new(),
        behind => format!(" (not yet: {behind})"),
    };
    let doubts = backup.doubts.join("; ");
    let signer = backup.signer.as_deref();
    [
        backup.id(),
        at(backup.begun),
        at(backup.sealed),
        super::stored_as(backup).to_owned(),
        backup.stored_bytes.map_or_else(String::new, output::bytes),
        at(backup.reaches_from),
        names(&backup.regions),
        format!("{}{behind}", names(&backup.without)),
        format!("{} {doubts}", backup.state.name()),
        backup.drilled.as_deref().unwrap_or_default().to_owned(),
        signer.map_or_else(String::new, |one| {
            format!("{} {} ({})", one.name, one.key, one.standing)
        }),
    ]
}

/// Begins a table; `title` is markup already.
fn table(out: &mut String, title: &str, titles: &[&str]) {
    out.push_str(&format!("<h2>{title}</h2>\n<table>\n<thead><tr>"));
    for one in titles {
        out.push_str(&format!("<th>{one}</th>"));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    out.push_str("<tr>");
    for cell in cells {
        out.push_str(&format!("<td>{}</td>", escaped(cell.trim())));
    }
    out.push_str("</tr>\n");
}

#[cfg(test)]
mod tests {
    use super::super::summary::Asked;
    use super::super::tests::backup;
    use super::*;

    fn meta(sources: Vec<Summary>) -> Meta {
        Meta {
            schema: "tidemark-backups-export".to_owned(),
            version: 1,
            command: "evidence export".to_owned(),
            tool_version: "0".to_owned(),
            generated_at: Timestamp::UNIX_EPOCH,
            selection: Selection::default(),
            repository: "r".to_owned(),
            regions: vec!["north".to_owned()],
            regions_away: vec!["<b>south".to_owned()],
            basis: BASIS.to_owned(),
            sources,
            rows: 0,
            file: String::new(),
            sha256: Sha256::of(&[]),
        }
    }

    #[test]
    fn points_stand_by_day_and_those_in_doubt_one_by_one_and_nothing_is_markup() {
        let mut rows: Vec<Backup> = (0..50)
            .map(|minute| {
                let sealed = format!("2026-11-01T10:{minute:02}:00Z");
                backup(What::RecoveryPoint, minute, &sealed)
            })
            .collect();
        rows[7].doubts = vec!["north: <script>".to_owned()];
        rows.push(backup(What::Base, 3, "2026-11-02T03:00:00Z"));
        let mut section = Section::default();
        rows.iter().for_each(|row| section.add(row));
        let asked = Asked {
            from: None,
            to: None,
            now: "2026-11-02T03:00:00Z".parse().unwrap(),
            retired: false,
        };
        let summary = Summary::of(&rows[0].source.clone(), "sqlite", &rows, &asked);
        let page = render(&meta(vec![summary]), &[section]);
        for words in [
            "<td>2026-11-01</td><td>50</td><td>1</td>",
            "<td>point:1/7</td>",
            "<td>base:1/0/3</td>",
            "&lt;script&gt;",
            "&lt;b&gt;south",
            "none since",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(!page.contains("<script") && !page.contains("point:1/8<"));
        assert_eq!(
            page.matches("<table>").count(),
            page.matches("</table>").count()
        );
    }
}
