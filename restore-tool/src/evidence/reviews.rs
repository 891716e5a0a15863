//! What people decided about records. Pure.
//!
//! **Invariant:** a decision counts only if the root vouched for who signed it: anybody who may create
//! objects can write one that says "approved". The others are shown as what they are, and so is every
//! earlier decision.

use std::collections::BTreeMap;

use serde::Serialize;
use tidemark_format::KeyId;

use super::chain::{Chain, Finding, Standing, Weight};
use super::record::{Record, SIGN_OFF};

/// A decision about a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// `approved` or `rejected`.
    pub decision: String,
    /// By whom, as they say.
    pub reviewer: String,
    /// Where it was discussed.
    pub ticket: String,
    /// When.
    pub at: jiff::Timestamp,
    /// The key that signed it.
    pub signer: KeyId,
    /// What the keyring says of that key.
    pub standing: &'static str,
    /// Why it doesn't count.
    pub doubt: Option<String>,
}

impl Decision {
    fn of(chain: &Chain, review: &Record) -> Self {
        Self {
            decision: review.cell("/review/decision"),
            reviewer: review.cell("/review/reviewer"),
            ticket: review.cell("/review/ticket"),
            at: review.created_at(),
            signer: chain.signer,
            standing: chain.standing.words(),
            doubt: chain.doubt(review),
        }
    }

    /// Whether it counts.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.doubt.is_none()
    }

    /// For people, on one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self {
            decision,
            reviewer,
            ticket,
            at,
            signer,
            standing,
            ..
        } = self;
        let line =
            format!("{decision} by {reviewer} ({ticket}) at {at}, signer {signer} {standing}");
        if self.counts() {
            line
        } else {
            format!("{line}: does not count")
        }
    }
}

/// All decisions, by the record that they are about.
#[derive(Debug, Default)]
pub(crate) struct Reviews<'a>(BTreeMap<(KeyId, u64), Vec<(&'a Chain, &'a Record)>>);

impl<'a> Reviews<'a> {
    pub(crate) fn of(chains: &'a [Chain]) -> Self {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let records = chains
            .iter()
            .flat_map(|chain| chain.records.values().map(move |record| (chain, record)));
        for (chain, record) in records.filter(|(_, record)| record.kind() == SIGN_OFF) {
            if let Some(about) = about(record) {
                all.entry(about).or_default().push((chain, record));
            }
        }
        for reviews in all.values_mut() {
            reviews
                .sort_by_key(|(chain, review)| (review.created_at(), chain.signer, review.seq()));
        }
        Self(all)
    }

    /// The decisions about `record`, the oldest first.
    pub(crate) fn about(&self, record: &Record) -> Vec<Decision> {
        let place = (record.signer.id(), record.seq());
        let all = self.0.get(&place).into_iter().flatten();
        all.filter(|(_, review)| is_about(review, record))
            .map(|(chain, review)| Decision::of(chain, review))
            .collect()
    }
}

/// Records past the end of a chain that somebody whom the root vouched for has signed off: cut off, a chain
/// looks whole by itself.
pub(super) fn cut_off(chains: &[Chain]) -> Vec<Finding> {
    let end = |signer: KeyId| {
        let chain = chains.iter().find(|chain| chain.signer == signer)?;
        chain.records.keys().next_back().copied()
    };
    let all = Reviews::of(chains).0.into_iter();
    all.filter(|((signer, seq), _)| end(*signer).is_none_or(|end| *seq > end))
        .filter_map(|((signer, seq), reviews)| {
            let (chain, review) = reviews.into_iter().find(|(chain, review)| {
                chain.standing != Standing::NotEnrolled && chain.doubt(review).is_none()
            })?;
            let reviewer = review.cell("/review/reviewer");
            let number = review.seq();
            Some(Finding {
                weight: Weight::Integrity,
                what: "missing",
                signer,
                seq: Some(seq),
                place: None,
                why: format!(
                    "{reviewer} signed it off (record {number} of signer {}), and neither it nor any later one is in a \
                     place that was read: the end of this chain was cut off",
                    chain.signer
                ),
            })
        })
        .collect()
}

/// Which record a review is about.
fn about(review: &Record) -> Option<(KeyId, u64)> {
    let signer = review.text("/review/signer")?.parse().ok()?;
    Some((signer, review.field("/review/seq")?.as_u64()?))
}

/// A review names the bytes that it is about: of a record that was replaced it says nothing.
fn is_about(review: &Record, record: &Record) -> bool {
    review.text("/review/sha256") == Some(record.sha256.to_string().as_str())
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use serde_json::json;
    use tidemark_format::RepoId;
    use tidemark_format::sign::SigningKey;
    use tidemark_host::TestRng;

    use super::*;
    use crate::evidence::chain::Standing;
    use crate::evidence::drills::tests as drills;
    use crate::evidence::record::Draft;
    use crate::evidence::rows::{Kind, Selection};

    /// A chain of one signer's decisions about `record`.
    fn decided(by: u8, standing: Standing, record: &Record, decisions: &[(&str, i64)]) -> Chain {
        let key = SigningKey::from_secret(&[by; 32]);
        let mut records: BTreeMap<u64, Record> = BTreeMap::new();
        for (seq, (decision, minute)) in (0..).zip(decisions) {
            let fields = json!({ "review": {
                "signer": record.signer.id().to_string(),
                "seq": record.seq(),
                "sha256": record.sha256.to_string(),
                "reviewer": format!("reviewer {by}"),
                "ticket": "T-1",
                "decision": decision,
            }});
            let fields = fields.as_object().unwrap().clone();
            let at = "2026-12-01T00:00:00Z".parse::<Timestamp>().unwrap();
            let at = at.checked_add(SignedDuration::from_mins(*minute)).unwrap();
            let draft = Draft::new(SIGN_OFF, vec![], fields, at, &TestRng::seeded(seq));
            let prev = records.values().next_back().map(|record| record.sha256);
            let record = draft.sign(seq, prev, RepoId([1; 16]), &key).unwrap();
            records.insert(seq, record);
        }
        Chain {
            signer: key.public().id(),
            public: Some(key.public()),
            name: None,
            standing,
            records,
            findings: vec![],
        }
    }

    #[test]
    fn a_stranger_approves_nothing_and_every_decision_is_shown() {
        let drills = drills::chain(&["FAIL"]);
        let record = drills.records[&0].clone();
        let auditor = decided(
            1,
            Standing::Enrolled,
            &record,
            &[("rejected", 1), ("approved", 2)],
        );
        let stranger = decided(2, Standing::NotEnrolled, &record, &[("approved", 3)]);
        let chains = [drills, auditor, stranger];
        let selection = Selection {
            kind: Kind::Drills,
            ..Selection::default()
        };
        let rows = selection.rows(&chains);
        let row = &rows[0];
        let said: Vec<(&str, bool)> = row
            .decisions
            .iter()
            .map(|one| (one.decision.as_str(), one.counts()))
            .collect();
        assert_eq!(
            said,
            [("rejected", true), ("approved", true), ("approved", false)]
        );
        assert_eq!(row.decision().unwrap().reviewer, "reviewer 1");
        let stranger = row.decisions[2].sentence();
        assert!(
            stranger.contains("not enrolled yet: does not count"),
            "{stranger}"
        );
    }

    #[test]
    fn of_strangers_alone_nothing_counts_as_decided() {
        let drills = drills::chain(&["PASS"]);
        let record = drills.records[&0].clone();
        let stranger = decided(2, Standing::NotEnrolled, &record, &[("approved", 3)]);
        let chains = [drills, stranger];
        let selection = Selection {
            kind: Kind::Drills,
            ..Selection::default()
        };
        let row = &selection.rows(&chains)[0];
        assert!(row.decision().is_none() && row.decisions.len() == 1);
    }
}
