//! Records as one HTML page that stands alone, prints well and runs nothing. Pure.
//!
//! **Invariant:** everything that comes from a record goes through [`escaped`]; the page allows itself
//! neither scripts nor anything from elsewhere.

use super::csv::Meta;
use super::drills::{self, Drill, Verdict};
use super::plots;
use super::record::SIGN_OFF;
use super::rows::{COLUMNS, Row, regions};

pub(super) const STYLE: &str = "
:root{color-scheme:light}
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1b1f24}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #d7dce2}
thead th{border-bottom:2px solid #5b6673;background:#f4f6f8}
.ok{color:#11632f}.failed{color:#a3141e;font-weight:600}.exceptions{color:#8a5300;font-weight:600}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}
details{margin:.4rem 0}.small,.legend{color:#5b6673}.legend{font-size:12px;margin:.2rem 0 0}
.legend i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 .6em}
figure{margin:1rem 0;break-inside:avoid}figcaption{font-weight:600;margin-bottom:.3rem}svg{max-width:100%;height:auto}
.axis{font:11px system-ui,sans-serif;fill:#5b6673}.letter{font:9px system-ui,sans-serif;fill:#1b1f24}
.grid{stroke:#d7dce2}.way{stroke:#8a94a0}.dot{fill:#2f5d8a;stroke:#2f5d8a}
.dot.hollow{fill:#fff}.whole,.hollow{fill:none}.hollow{stroke:#a3141e;stroke-dasharray:3 2}
.day-none,.rung-none{fill:#f4f6f8;stroke:#d7dce2}.day-pass,.rung-proved{fill:#8fc79b}
.day-exceptions,.rung-partial{fill:#f0d28a}.day-fail,.rung-failed{fill:#e0838a}.day-unknown{fill:#c9d0d8}
@media print{body{margin:0;max-width:none;font-size:10pt;print-color-adjust:exact}thead{display:table-header-group}tr{break-inside:avoid}
details{display:none}@page{margin:15mm;size:A4 landscape}}
";

/// Text as it may stand in an element or a quoted attribute.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What can't stand in HTML, or would reorder what is read.
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// The page.
#[must_use]
pub fn render(rows: &[Row<'_>], meta: &Meta) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Tidemark evidence: {kind}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>Evidence: {kind}</h1>\n<p>Repository <code>{repository}</code>, {period}. {rows}.</p>\n",
        kind = meta.selection.kind.name(),
        repository = escaped(&meta.repository),
        period = escaped(&period(meta)),
        rows = tidemark_host::output::count(meta.rows, "record"),
    );
    let drills: Vec<&Drill> = rows.iter().filter_map(|row| row.drill.as_ref()).collect();
    out.push_str(&plots::render(&drills));
    completeness(&mut out, meta);
    drill_table(&mut out, rows);
    records(&mut out, rows);
    every_field(&mut out, rows);
    out.push_str(&format!(
        "<p class=\"small\">Made {} by tidemark-restore {} with <code>{}</code></p>\n</body>\n</html>\n",
        meta.generated_at,
        escaped(&meta.tool_version),
        escaped(&meta.command)
    ));
    out
}

fn period(meta: &Meta) -> String {
    let from = meta.selection.from.map(|from| format!("from {from}"));
    let to = meta.selection.to.map(|to| format!("before {to}"));
    let of = meta.selection.source.as_ref();
    let of = of.map_or_else(String::new, |source| format!("source {source}, "));
    let period = match (from, to) {
        (Some(from), Some(to)) => format!("{from}, {to}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "all that is on file".to_owned(),
    };
    format!("{of}{period}")
}

/// Which numbers there are, and what is wrong with them.
fn completeness(out: &mut String, meta: &Meta) {
    out.push_str(
        "<h2>Is it complete?</h2>\n<table>\n<thead><tr><th>signer</th><th>keyring</th><th>rows here</th>\
         <th>whole chain</th><th>records</th><th>last record's SHA-256</th></tr></thead>\n<tbody>\n",
    );
    let ends = |ends: Option<(u64, u64)>| {
        ends.map_or_else(
            || "none".to_owned(),
            |(first, last)| format!("{first} to {last}"),
        )
    };
    for signer in &meta.signers {
        let name = signer.name.as_deref().unwrap_or("unnamed");
        let head = signer.head_sha256.map(|head| head.to_string());
        out.push_str(&format!(
            "<tr><td>{} <code>{}</code></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
            escaped(name),
            signer.signer,
            escaped(&signer.standing),
            ends(signer.rows),
            ends(signer.chain),
            signer.records,
            head.unwrap_or_default()
        ));
    }
    out.push_str("</tbody>\n</table>\n");
    out.push_str(&format!(
        "<p>Read from {}.",
        escaped(&meta.regions.join(", "))
    ));
    if !meta.regions_away.is_empty() {
        out.push_str(&format!(
            " <span class=\"exceptions\">Could not be read, and may hold more: {}.</span>",
            escaped(&meta.regions_away.join(", "))
        ));
    }
    out.push_str("</p>\n");
    if meta.findings.is_empty() {
        out.push_str(
            "<p class=\"ok\">Every signature, number and link was checked: nothing is missing, edited or reordered.</p>\n",
        );
    } else {
        out.push_str("<ul class=\"exceptions\">\n");
        for finding in &meta.findings {
            out.push_str(&format!("<li>{}</li>\n", escaped(finding)));
        }
        out.push_str("</ul>\n");
    }
}

/// Every decision about a record, those that don't count as such.
fn decisions(row: &Row<'_>) -> String {
    let all = row.decisions.iter().map(|one| {
        let class = if one.counts() {
            ""
        } else {
            " class=\"exceptions\""
        };
        format!("<div{class}>{}</div>", escaped(&one.sentence()))
    });
    all.collect()
}

/// The drills of the period, what each measured and how far up the ladder it came.
fn drill_table(out: &mut String, rows: &[Row<'_>]) {
    let drills: Vec<(&Row<'_>, &Drill)> = rows
        .iter()
        .filter_map(|row| Some((row, row.drill.as_ref()?)))
        .collect();
    if drills.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Drills</h2>\n<table>\n<thead><tr><th>when</th><th>source</th><th>verdict</th><th>scenario and point</th>\
         <th>lost (RPO)</th><th>back in (RTO)</th><th>off by</th><th>proved up to</th><th>not as it should be</th>\
         <th>reviewed</th><th>record</th></tr></thead>\n<tbody>\n",
    );
    for (row, drill) in drills {
        let measured = |value: Option<f64>| value.map_or_else(String::new, drills::seconds);
        let class = match drill.verdict {
            Some(Verdict::Pass) if drill.doubt.is_none() => "ok",
            Some(Verdict::PassWithExceptions | Verdict::Inconclusive) => "exceptions",
            Some(Verdict::Pass | Verdict::Fail) | None => "failed",
        };
        let wrong = drill
            .doubt
            .iter()
            .chain(&drill.causes)
            .chain(&drill.exceptions)
            .chain(&drill.fixes);
        let wrong: Vec<String> = wrong.map(|text| escaped(text)).collect();
        let apart = if drill.segregated {
            ""
        } else {
            ", on the source's own host"
        };
        out.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td class=\"{class}\">{}</td><td>{} {} {}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}{apart}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
            row.record.created_at(),
            escaped(drill.source.as_ref().map_or("", |name| name.as_str())),
            drill.verdict.map_or("none", Verdict::name),
            escaped(drill.scenario.as_deref().unwrap_or_default()),
            escaped(drill.selection.as_deref().unwrap_or_default()),
            escaped(drill.target.as_deref().unwrap_or_default()),
            escaped(&measured(drill.rpo_seconds)),
            escaped(&measured(drill.rto_seconds)),
            escaped(&measured(drill.pitr_error_ms.map(|ms| ms / 1000.0))),
            drill.reached.map_or("nothing", |rung| rung.name()),
            wrong.join("<br>"),
            decisions(row),
            escaped(&row.record.id()),
        ));
    }
    out.push_str("</tbody>\n</table>\n");
}

/// What a reader of other records looks for first.
fn records(out: &mut String, rows: &[Row<'_>]) {
    let others: Vec<&Row<'_>> = rows.iter().filter(|row| row.drill.is_none()).collect();
    if others.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Restores and other uses of keys</h2>\n<table>\n<thead><tr><th>when</th><th>what</th><th>outcome</th><th>who</th><th>why</th>\
         <th>source and state</th><th>read from</th><th>reviewed</th><th>record</th></tr></thead>\n<tbody>\n",
    );
    for row in others {
        let cell = |pointer: &str| escaped(&row.record.cell(pointer));
        let outcome = row.record.cell("/result/outcome");
        let class = match outcome.as_str() {
            "ok" => "ok",
            "exceptions" => "exceptions",
            "" => "",
            _ => "failed",
        };
        let review = decisions(row);
        let what = if row.record.kind() == SIGN_OFF {
            format!(
                "{} of <code>{}</code> by {} ({})",
                cell("/review/decision"),
                cell("/review/evidence_id"),
                cell("/review/reviewer"),
                cell("/review/ticket"),
            )
        } else {
            cell("/action")
        };
        out.push_str(&format!(
            "<tr><td>{}</td><td>{} {}</td><td class=\"{class}\">{} {}</td><td>{} on {}</td><td>{}</td>\
             <td>{} {}</td><td>{}</td><td>{review}</td><td><code>{}</code></td></tr>\n",
            row.record.created_at(),
            escaped(row.record.kind()),
            what,
            escaped(&outcome),
            cell("/result/error"),
            cell("/actor/user"),
            cell("/actor/host"),
            cell("/reason"),
            cell("/source/name"),
            cell("/recovery/reached_at"),
            escaped(&regions(row.record, "/read_from")),
            escaped(&row.record.id()),
        ));
    }
    out.push_str("</tbody>\n</table>\n");
}

/// Every column of every record, folded away on a screen and left out in print.
fn every_field(out: &mut String, rows: &[Row<'_>]) {
    for row in rows {
        out.push_str(&format!(
            "<details><summary><code>{}</code></summary><table>\n",
            escaped(&row.record.id())
        ));
        for (title, cell) in COLUMNS {
            let value = cell(row);
            if !value.is_empty() {
                out.push_str(&format!(
                    "<tr><th>{title}</th><td><code>{}</code></td></tr>\n",
                    escaped(&value)
                ));
            }
        }
        out.push_str("</table></details>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_record_becomes_markup() {
        assert_eq!(
            escaped("<script>alert('x') & \"y\"</script>"),
            "&lt;script&gt;alert(&#39;x&#39;) &amp; &quot;y&quot;&lt;/script&gt;"
        );
        assert_eq!(escaped("a\u{202e}b\u{7}"), "a\u{fffd}b\u{fffd}");
    }
}
