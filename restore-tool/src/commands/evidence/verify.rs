//! `evidence verify`: of the regions, of an exported pack, of one record's file.

use std::path::Path;

use tidemark_format::KeyId;
use tidemark_host::Exit;
use tidemark_ledger::Trust;

use super::documents::{Verified, findings};
use crate::error::{Error, Result};
use crate::evidence::chain::{Chain, Finding, Weight};
use crate::evidence::csv::SignerMeta;
use crate::evidence::pack;
use crate::evidence::record::Record;
use crate::evidence::rows::{Kind, Selection};
use crate::evidence::shelf::Shelf;
use crate::identity;
use crate::repository::{Settings, Tools};

pub(super) async fn regions(
    since: Option<&Path>,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let (repository, shelf) = super::open(settings, tools).await?;
    let mut verified = of_shelf(&shelf);
    verified.root_pinned = repository.pinned;
    verified.notes.extend(not_pinned(repository.pinned));
    if let Some(since) = since {
        compare(&mut verified, &shelf, since, Some(repository.trust)).await?;
    } else if shelf.regions.len() == 1 && shelf.away.is_empty() {
        let why =
            "only one region was read: records cut off at a chain's end would not be missed here";
        verified.notes.push(why.to_owned());
    }
    Ok(show(&verified, tools))
}

pub(super) async fn exported(
    path: &Path,
    since: Option<&Path>,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let verified = if path.is_dir() {
        let trust = identity::trust_if_at_hand(settings);
        let (shelf, files) = pack::verify(path, trust).await?;
        let found = pack::found_at_export(path)?.into_iter();
        let found = found.map(|finding| format!("found when it was exported: {finding}"));
        let mut verified = Verified {
            root_pinned: trust.is_some(),
            files,
            notes: not_pinned(trust.is_some())
                .into_iter()
                .chain(found)
                .collect(),
            ..of_shelf(&shelf)
        };
        if let Some(since) = since {
            compare(&mut verified, &shelf, since, trust).await?;
        }
        verified
    } else {
        one_file(path)?
    };
    Ok(show(&verified, tools))
}

/// Whatever an earlier pack has must still be there.
async fn compare(
    verified: &mut Verified,
    shelf: &Shelf,
    since: &Path,
    trust: Option<Trust>,
) -> Result<()> {
    let (earlier, files) = pack::verify(since, trust).await?;
    let files = files.into_iter();
    let named = files.map(|why| format!("{}: {why}", since.display()));
    verified.files.extend(named);
    verified
        .findings
        .extend(lost(&earlier.chains, &shelf.chains));
    verified.findings.sort();
    verified
        .read
        .push(format!("compared with {}", since.display()));
    Ok(())
}

/// What was there and isn't any more, or is another.
fn lost(earlier: &[Chain], now: &[Chain]) -> Vec<Finding> {
    let find = |signer: KeyId| now.iter().find(|chain| chain.signer == signer);
    let mut all = Vec::new();
    for chain in earlier {
        let now = find(chain.signer);
        for (seq, record) in &chain.records {
            let (what, why) = match now.and_then(|now| now.records.get(seq)) {
                Some(same) if same.sha256 == record.sha256 => continue,
                Some(_) => ("forked", "another record stands in its place"),
                None => ("missing", "it is gone"),
            };
            all.push(Finding {
                weight: Weight::Integrity,
                what,
                signer: chain.signer,
                seq: Some(*seq),
                place: None,
                why: format!("the earlier pack has it, and {why}"),
            });
        }
    }
    all
}

fn not_pinned(pinned: bool) -> Option<String> {
    (!pinned).then(|| {
        "root not pinned: give --identity to prove that the signers are your repository's"
            .to_owned()
    })
}

fn of_shelf(shelf: &Shelf) -> Verified {
    let all = Selection {
        kind: Kind::All,
        ..Selection::default()
    };
    let rows = all.rows(&shelf.chains);
    Verified {
        read: shelf.regions.clone(),
        records: rows.len(),
        signers: SignerMeta::all(&shelf.chains, &rows),
        findings: findings(shelf),
        unread: shelf
            .away
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect(),
        ..Verified::default()
    }
}

/// One record by itself: its signature, and nothing of the chain it stands in.
fn one_file(path: &Path) -> Result<Verified> {
    let failed = |source| tidemark_host::files::FileError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let bytes = bytes::Bytes::from(std::fs::read(path).map_err(failed)?);
    let parsed = tidemark_format::evidence::Unverified::parse(&bytes);
    let parsed = parsed.map_err(|error| {
        Error::TargetText(format!("{} is no evidence record: {error}", path.display()))
    })?;
    let signer = parsed
        .signers()
        .next()
        .ok_or_else(|| Error::TargetText(format!("{} carries no signature", path.display())))?;
    let mut verified = Verified {
        read: vec![path.display().to_string()],
        ..Verified::default()
    };
    match Record::read(&bytes, signer, &[].into()) {
        Ok(record) => {
            verified.records = 1;
            verified.notes.push(format!(
                "number {} of the chain of signer {signer}; one file can't show that the chain is whole or who the signer \
                 is: verify the regions or a pack",
                record.seq()
            ));
        }
        Err(why) => verified.findings.push(Finding {
            weight: Weight::Integrity,
            what: "damaged",
            signer,
            seq: Some(parsed.statement.predicate.seq),
            place: None,
            why,
        }),
    }
    Ok(verified)
}

fn show(verified: &Verified, tools: &Tools) -> Exit {
    tools.console.show(verified);
    let heavy = |finding: &Finding| finding.weight == Weight::Integrity;
    if !verified.files.is_empty() || verified.findings.iter().any(heavy) {
        Exit::Integrity
    } else if !verified.unread.is_empty() {
        Exit::Region
    } else if verified.findings.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    }
}
