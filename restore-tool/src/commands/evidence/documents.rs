//! What the `evidence` commands say.

use serde::Serialize;
use serde_json::Value;
use tidemark_format::KeyId;
use tidemark_format::evidence::Sha256;
use tidemark_host::output::{self, Document, Table};

use crate::evidence::backups::summary::Summary;
use crate::evidence::chain::{Finding, Weight};
use crate::evidence::csv::SignerMeta;
use crate::evidence::reviews::Decision;
use crate::evidence::rows::Row;
use crate::evidence::shelf::Shelf;
use crate::repository::Repository;

/// A record in a list.
#[derive(Debug, Clone, Serialize)]
struct RecordListed {
    id: String,
    created_at: jiff::Timestamp,
    #[serde(rename = "type")]
    kind: String,
    action: String,
    outcome: String,
    user: String,
    host: String,
    source: String,
    reason: String,
    signer: KeyId,
    seq: u64,
    /// The newest decision that counts.
    reviewed: Option<Decision>,
    /// Every decision.
    decisions: Vec<Decision>,
}

/// `evidence list`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Listed {
    repository: String,
    root_pinned: bool,
    regions: Vec<String>,
    regions_away: Vec<String>,
    records: Vec<RecordListed>,
    findings: Vec<Finding>,
}

impl Listed {
    pub(super) fn new(rows: &[Row<'_>], shelf: &Shelf, repository: &Repository) -> Self {
        let listed = |row: &Row<'_>| RecordListed {
            id: row.record.id(),
            created_at: row.record.created_at(),
            kind: row.record.kind().to_owned(),
            action: row.record.cell("/action"),
            outcome: match row.record.cell("/result/verdict") {
                verdict if verdict.is_empty() => row.record.cell("/result/outcome"),
                verdict => verdict,
            },
            user: row.record.cell("/actor/user"),
            host: row.record.cell("/actor/host"),
            source: row.record.cell("/source/name"),
            reason: row.record.cell("/reason"),
            signer: row.chain.signer,
            seq: row.record.seq(),
            reviewed: row.decision().cloned(),
            decisions: row.decisions.clone(),
        };
        Self {
            repository: repository.trust.repo.to_string(),
            root_pinned: repository.pinned,
            regions: shelf.regions.clone(),
            regions_away: shelf.away.iter().map(|(name, _)| name.clone()).collect(),
            records: rows.iter().map(listed).collect(),
            findings: findings(shelf),
        }
    }
}

pub(super) fn findings(shelf: &Shelf) -> Vec<Finding> {
    let all = shelf.chains.iter().flat_map(|chain| chain.findings.iter());
    let mut all: Vec<Finding> = all.cloned().collect();
    all.sort();
    all
}

fn write_findings(findings: &[Finding], out: &mut String) {
    for (weight, title) in [
        (Weight::Integrity, "Not as it was written"),
        (Weight::Exception, "To be known"),
    ] {
        let mut own = findings.iter().filter(|f| f.weight == weight).peekable();
        if own.peek().is_some() {
            out.push_str(&format!("{title}:\n"));
        }
        for finding in own {
            out.push_str(&format!("  {}\n", finding.sentence()));
        }
    }
}

/// A decision in a list.
fn decided(one: &Decision) -> String {
    let line = format!("{} by {}", one.decision, one.reviewer);
    if one.counts() {
        line
    } else {
        format!("{line} (signer {}: does not count)", one.standing)
    }
}

impl Document for Listed {
    const SCHEMA: &'static str = "tidemark-restore.evidence-list";

    fn text(&self, out: &mut String) {
        if self.records.is_empty() {
            out.push_str("No records of that kind and period\n");
        }
        let mut table = Table::new();
        for record in &self.records {
            let reviews: Vec<String> = record.decisions.iter().map(decided).collect();
            let who = match (record.user.as_str(), record.host.as_str()) {
                ("", host) => host.to_owned(),
                (user, host) => format!("{user}@{host}"),
            };
            table.row([
                record.id.clone(),
                output::instant(record.created_at),
                format!("{} {}", record.kind, record.action),
                record.outcome.clone(),
                who,
                record.source.clone(),
                record.reason.clone(),
                reviews.join(", then "),
            ]);
        }
        table.write("", out);
        if !self.regions_away.is_empty() {
            let away = self.regions_away.join(", ");
            out.push_str(&format!("Could not be read, and may hold more: {away}\n"));
        }
        write_findings(&self.findings, out);
    }
}

/// `evidence show`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    id: String,
    signer: KeyId,
    signer_name: Option<String>,
    signer_standing: &'static str,
    seq: u64,
    sha256: Sha256,
    statement: Value,
    reviewed: Option<Decision>,
    decisions: Vec<Decision>,
    findings: Vec<Finding>,
}

impl Shown {
    pub(super) fn new(row: &Row<'_>) -> Self {
        let own = |finding: &&Finding| finding.seq.is_none_or(|seq| seq == row.record.seq());
        Self {
            id: row.record.id(),
            signer: row.chain.signer,
            signer_name: row.chain.name.clone(),
            signer_standing: row.chain.standing.words(),
            seq: row.record.seq(),
            sha256: row.record.sha256,
            statement: serde_json::to_value(&row.record.statement).unwrap_or_default(),
            reviewed: row.decision().cloned(),
            decisions: row.decisions.clone(),
            findings: row.chain.findings.iter().filter(own).cloned().collect(),
        }
    }
}

impl Document for Shown {
    const SCHEMA: &'static str = "tidemark-restore.evidence-show";

    fn text(&self, out: &mut String) {
        let name = self.signer_name.as_deref().unwrap_or("unnamed");
        out.push_str(&format!(
            "Record {} of signer {name} ({}, {})\n  id {}\n  SHA-256 {}\n",
            self.seq, self.signer, self.signer_standing, self.id, self.sha256
        ));
        for decision in &self.decisions {
            out.push_str(&format!("  {}\n", decision.sentence()));
        }
        if self.reviewed.is_none() {
            out.push_str("  not reviewed yet by anybody whom the root vouched for\n");
        }
        let statement = serde_json::to_string_pretty(&self.statement).unwrap_or_default();
        out.push_str(&statement);
        out.push('\n');
        write_findings(&self.findings, out);
    }
}

/// `evidence verify`.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Verified {
    /// What was read: regions, a pack, a file.
    pub(super) read: Vec<String>,
    /// Whether the root was pinned by an identity.
    pub(super) root_pinned: bool,
    /// Records that are good.
    pub(super) records: usize,
    /// Each chain.
    pub(super) signers: Vec<SignerMeta>,
    /// What is not as it should be in the chains.
    pub(super) findings: Vec<Finding>,
    /// What is not as it should be in the files of a pack.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<String>,
    /// Regions that could not be read.
    pub(super) unread: Vec<String>,
    /// What the reader should know.
    pub(super) notes: Vec<String>,
}

impl Document for Verified {
    const SCHEMA: &'static str = "tidemark-restore.evidence-verify";

    fn text(&self, out: &mut String) {
        let records = output::count(self.records, "record");
        out.push_str(&format!("Checked {records} in {}\n", self.read.join(", ")));
        let mut table = Table::new();
        for signer in &self.signers {
            let ends = signer.chain.map_or_else(
                || "no good record".to_owned(),
                |(first, last)| format!("{first} to {last}"),
            );
            let head = signer.head_sha256.map(|head| head.to_string());
            table.row([
                signer.signer.to_string(),
                signer.name.clone().unwrap_or_default(),
                signer.standing.clone(),
                ends,
                head.unwrap_or_default(),
            ]);
        }
        table.write("  ", out);
        for note in &self.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        for file in &self.files {
            out.push_str(&format!("Not as it was exported: {file}\n"));
        }
        for region in &self.unread {
            out.push_str(&format!("Could not be read: {region}\n"));
        }
        write_findings(&self.findings, out);
        let good = self.findings.is_empty() && self.files.is_empty() && self.unread.is_empty();
        if good {
            out.push_str("  all good\n");
        }
    }
}

/// `evidence sign-off`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct SignedOff {
    /// The review's own id.
    pub(super) id: String,
    /// What was reviewed.
    pub(super) about: String,
    /// The decision.
    pub(super) decision: String,
    /// Whether the review is signed by the key that signed the record.
    pub(super) same_signer: bool,
    /// Regions that have it.
    pub(super) regions: Vec<String>,
    /// Regions that don't, and why.
    pub(super) exceptions: Vec<String>,
}

impl Document for SignedOff {
    const SCHEMA: &'static str = "tidemark-restore.evidence-sign-off";

    fn text(&self, out: &mut String) {
        let Self {
            id,
            about,
            decision,
            ..
        } = self;
        out.push_str(&format!("Recorded that {about} was {decision}, as {id}\n"));
        if self.same_signer {
            out.push_str(
                "  note: the identity that left the record signs its review, too: an auditor may ask for another's\n",
            );
        }
        for exception in &self.exceptions {
            out.push_str(&format!("  not in {exception}\n"));
        }
    }
}

/// `evidence export --out`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Exported {
    /// The file or folder.
    pub(super) out: String,
    /// Rows in it.
    pub(super) rows: usize,
    /// What a row is.
    #[serde(skip)]
    pub(super) noun: &'static str,
    /// The SHA-256 of the file; none of a folder.
    pub(super) sha256: Option<Sha256>,
    /// Each signer's numbers.
    pub(super) signers: Vec<SignerMeta>,
    /// What is not as it should be.
    pub(super) findings: Vec<String>,
    /// Of backups: figures of each source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) sources: Vec<Summary>,
    /// Where an empty export would have had rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) empty: Option<String>,
}

impl Document for Exported {
    const SCHEMA: &'static str = "tidemark-restore.evidence-export";

    fn text(&self, out: &mut String) {
        let rows = output::count(self.rows, self.noun);
        out.push_str(&format!("Exported {rows} to {}\n", self.out));
        for source in &self.sources {
            out.push_str(&format!("  {}\n", source.line()));
        }
        if let Some(empty) = &self.empty {
            out.push_str(&format!("  note: {empty}\n"));
        }
        for finding in &self.findings {
            out.push_str(&format!("  {finding}\n"));
        }
    }
}
