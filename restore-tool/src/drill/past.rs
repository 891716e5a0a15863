//! Drills that were made before, from their records.

use std::collections::BTreeMap;

use tidemark_format::SourceName;
use tidemark_planner::drill::Baseline;

use crate::evidence::chain::Chain;
use crate::evidence::drills::Drill;
use crate::evidence::record::Record;
use crate::evidence::shelf;
use crate::repository::Repository;

/// What the last passed drill of a source counted, read from the regions alone.
pub(super) async fn baseline(
    repository: &Repository,
    source: &SourceName,
) -> (Option<Baseline>, Vec<String>) {
    match shelf::read(repository, None).await {
        Ok(shelf) => (newest(&shelf.chains, source), Vec::new()),
        Err(error) => {
            let why = tidemark_storage::chain(&error);
            let note =
                format!("earlier drills could not be read, so counts are only recorded: {why}");
            (None, vec![note])
        }
    }
}

fn newest(chains: &[Chain], source: &SourceName) -> Option<Baseline> {
    let records = chains
        .iter()
        .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
    let passed = records.filter(|(chain, record)| {
        Drill::of(chain, record)
            .is_some_and(|drill| drill.proves() && drill.source.as_ref() == Some(source))
    });
    let counted = passed.filter(|(_, record)| record.field("/recovery/counts").is_some());
    let newest = counted.max_by_key(|(_, record)| record.created_at());
    newest.map(|(_, record)| read(record))
}

fn read(record: &Record) -> Baseline {
    let map = |pointer: &str| record.field(pointer).and_then(|value| value.as_object());
    let counts = map("/recovery/counts").into_iter().flatten();
    let collations = map("/recovery/collations").into_iter().flatten();
    let reached = record.text("/recovery/reached_at");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let collations: BTreeMap<String, String> = collations
        .filter_map(|(name, version)| Some((name.clone(), text(version)?)))
        .collect();
    Baseline {
        evidence_id: record.id(),
        reached_at: reached.and_then(|at| at.parse().ok()),
        counts: counts
            .filter_map(|(table, rows)| Some((table.clone(), rows.as_u64()?)))
            .collect(),
        schema_digest: record.text("/recovery/schema_digest").map(str::to_owned),
        collations,
    }
}
