//! Records as CSV (RFC 4180) and what stands beside it: how it was made, how many rows, which numbers.
//! Pure; the same records and selection give the same bytes.
//!
//! A spreadsheet runs cells that begin like a formula: a quote is put before them.

use serde::{Deserialize, Serialize};
use tidemark_format::KeyId;
use tidemark_format::evidence::Sha256;

use super::chain::{Chain, Finding};
use super::rows::{COLUMNS, Row, Selection};

/// The rows under one header, lines ended by CR LF.
#[must_use]
pub fn render(rows: &[Row<'_>]) -> String {
    let mut out = String::new();
    line(
        &mut out,
        COLUMNS.iter().map(|(title, _)| (*title).to_owned()),
    );
    for row in rows {
        line(&mut out, COLUMNS.iter().map(|(_, cell)| cell(row)));
    }
    out
}

pub(super) fn line(out: &mut String, cells: impl Iterator<Item = String>) {
    for (number, cell) in cells.enumerate() {
        if number > 0 {
            out.push(',');
        }
        out.push_str(&quoted(&cell));
    }
    out.push_str("\r\n");
}

/// A cell that no spreadsheet runs and every parser reads back.
fn quoted(cell: &str) -> String {
    let runs = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if runs {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

/// What an export is, for whoever must judge whether it is complete and accurate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// `tidemark-evidence-export`.
    pub schema: String,
    /// The version of these fields.
    pub version: u32,
    /// The command that made it.
    pub command: String,
    /// The program's version.
    pub tool_version: String,
    /// When it was made.
    pub generated_at: jiff::Timestamp,
    /// What was selected; `from` included, `to` excluded.
    pub selection: Selection,
    /// The repository.
    pub repository: String,
    /// Regions that were read.
    pub regions: Vec<String>,
    /// Regions that could not be read: they may hold more.
    pub regions_away: Vec<String>,
    /// Rows without the header.
    pub rows: usize,
    /// The file's name and the SHA-256 of its bytes.
    pub file: String,
    /// See `file`.
    pub sha256: Sha256,
    /// Each signer's numbers.
    pub signers: Vec<SignerMeta>,
    /// What is not as it should be in any chain.
    pub findings: Vec<String>,
}

/// A signer's numbers: whoever has all of them has every record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerMeta {
    /// The signer.
    pub signer: KeyId,
    /// As the keyring calls it.
    pub name: Option<String>,
    /// What the keyring says of it.
    pub standing: String,
    /// The first and last number of the rows.
    pub rows: Option<(u64, u64)>,
    /// The first and last number of its whole chain.
    pub chain: Option<(u64, u64)>,
    /// Records in its chain; one for each number if none is missing.
    pub records: usize,
    /// The SHA-256 of the last record: fixes everything before it.
    pub head_sha256: Option<Sha256>,
}

impl SignerMeta {
    /// Of each chain.
    #[must_use]
    pub fn all(chains: &[Chain], rows: &[Row<'_>]) -> Vec<Self> {
        chains.iter().map(|chain| Self::of(chain, rows)).collect()
    }

    fn of(chain: &Chain, rows: &[Row<'_>]) -> Self {
        let own = || {
            rows.iter()
                .filter(|row| row.chain.signer == chain.signer)
                .map(|row| row.record.seq())
        };
        let ends = |first: Option<u64>, last: Option<u64>| first.zip(last);
        Self {
            signer: chain.signer,
            name: chain.name.clone(),
            standing: chain.standing.words().to_owned(),
            rows: ends(own().min(), own().max()),
            chain: ends(
                chain.records.keys().next().copied(),
                chain.records.keys().next_back().copied(),
            ),
            records: chain.records.len(),
            head_sha256: chain.records.values().next_back().map(|last| last.sha256),
        }
    }
}

/// The findings of all chains, for people.
#[must_use]
pub fn findings(chains: &[Chain]) -> Vec<String> {
    chains
        .iter()
        .flat_map(|chain| chain.findings.iter().map(Finding::sentence))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_as_rfc_4180_says_and_none_is_a_formula() {
        for (cell, written) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\""),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@sum", "'@sum"),
            ("\tx", "'\tx"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(quoted(cell), written);
        }
    }

    #[test]
    fn an_empty_period_is_a_header_alone() {
        let text = render(&[]);
        assert!(text.starts_with("evidence_id,type,created_at,"), "{text}");
        assert!(text.ends_with(",causes\r\n") && text.lines().count() == 1);
    }
}
