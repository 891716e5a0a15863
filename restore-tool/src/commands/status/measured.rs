//! How long it takes to be back, from what was measured: the newest drill or restore of the source that is
//! on record. Pure.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::SourceName;
use tidemark_host::output;

use crate::evidence::chain::{Chain, Standing, Weight};
use crate::evidence::drills::{self, Drill};
use crate::evidence::record::{ACCESS, Record};
use crate::plan;

/// How long a restore of the newest state takes, and what that rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) seconds: u64,
    pub(super) basis: String,
}

impl Estimate {
    /// For `bytes` to read.
    pub(super) fn of(
        source: &SourceName,
        bytes: u64,
        chains: &[Chain],
        all: &[Drill],
        now: Timestamp,
    ) -> Self {
        let drill = drills::passed(all, source)
            .rev()
            .find_map(|drill| Some((drill, drill.rto_projected_seconds.or(drill.rto_seconds)?)));
        let restore = restores(source, chains).max_by_key(|(record, _)| record.created_at());
        match (drill, restore) {
            (Some((drill, seconds)), None) => Self::of_drill(drill, seconds, now),
            (Some((drill, seconds)), Some((record, _))) if drill.at >= record.created_at() => {
                Self::of_drill(drill, seconds, now)
            }
            (_, Some((record, speed))) => Self::of_restore(bytes, record, speed, now),
            (None, None) => Self::assumed(bytes),
        }
    }

    fn of_drill(drill: &Drill, seconds: f64, now: Timestamp) -> Self {
        let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        Self {
            seconds: time.as_secs(),
            basis: format!("measured by the drill of {}", output::age(now, drill.at)),
        }
    }

    fn of_restore(bytes: u64, record: &Record, speed: Speed, now: Timestamp) -> Self {
        Self {
            seconds: speed.time_for(bytes).as_secs(),
            basis: format!(
                "{} to read; the restore of {} read {} in {}",
                output::bytes(bytes),
                output::age(now, record.created_at()),
                output::bytes(speed.bytes),
                output::duration(Duration::from_millis(speed.took_ms))
            ),
        }
    }

    fn assumed(bytes: u64) -> Self {
        Self {
            seconds: plan::assumed_time(bytes).as_secs(),
            basis: format!(
                "{} to read at {}/s, assumed: no restore of it is on record yet",
                output::bytes(bytes),
                output::bytes(plan::ASSUMED_BYTES_PER_SECOND)
            ),
        }
    }
}

/// What a restore read, and how long it took from the command to the database in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Speed {
    bytes: u64,
    took_ms: u64,
}

impl Speed {
    /// For more bytes in proportion; for fewer no less, for the time may have gone elsewhere.
    fn time_for(self, bytes: u64) -> Duration {
        let more = u128::from(self.took_ms) * u128::from(bytes.max(self.bytes));
        let ms = more / u128::from(self.bytes.max(1));
        Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
    }
}

/// Restores of the source that ended well.
fn restores<'a>(
    source: &'a SourceName,
    chains: &'a [Chain],
) -> impl Iterator<Item = (&'a Record, Speed)> {
    let records = chains.iter().flat_map(|chain| {
        let records = chain.records.values();
        records.filter(|record| chain.doubt(record).is_none() || is_only_unenrolled(chain))
    });
    let own = records.filter(move |record| {
        record.kind() == ACCESS
            && record.text("/action") == Some("restore")
            && record.text("/source/name") == Some(source.as_str())
            && matches!(record.text("/result/outcome"), Some("ok" | "exceptions"))
    });
    own.filter_map(|record| {
        let number = |pointer: &str| record.field(pointer)?.as_u64().filter(|n| *n > 0);
        let speed = Speed {
            bytes: number("/transfer/fetched_bytes")?,
            took_ms: number("/timing/took_ms")?,
        };
        Some((record, speed))
    })
}

/// A speed proves nothing to anybody, so that it takes no root key to believe it.
fn is_only_unenrolled(chain: &Chain) -> bool {
    let mut findings = chain.findings.iter();
    chain.standing == Standing::NotEnrolled
        && !findings.any(|finding| finding.weight == Weight::Integrity)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark_format::RepoId;
    use tidemark_format::sign::SigningKey;
    use tidemark_host::TestRng;

    use super::*;
    use crate::evidence::record::Draft;

    const MIB: u64 = 1 << 20;

    fn app() -> SourceName {
        "app".parse().unwrap()
    }

    fn restored(outcome: &str, bytes: u64, took_ms: u64) -> Chain {
        let key = SigningKey::from_secret(&[7; 32]);
        let fields = json!({
            "action": "restore", "source": { "name": "app" }, "result": { "outcome": outcome },
            "transfer": { "fetched_bytes": bytes }, "timing": { "took_ms": took_ms },
        });
        let fields = fields.as_object().unwrap().clone();
        let draft = Draft::new(
            ACCESS,
            vec![],
            fields,
            Timestamp::UNIX_EPOCH,
            &TestRng::seeded(1),
        );
        let record = draft.sign(0, None, RepoId([1; 16]), &key).unwrap();
        Chain {
            signer: key.public().id(),
            public: None,
            name: None,
            standing: Standing::NotEnrolled,
            records: [(0, record)].into(),
            findings: vec![],
        }
    }

    #[test]
    fn a_restore_on_record_is_what_the_estimate_rests_on() {
        let now = Timestamp::UNIX_EPOCH;
        let of = |chains: &[Chain]| Estimate::of(&app(), 200 * MIB, chains, &[], now);
        let measured = of(&[restored("ok", 100 * MIB, 30_000)]);
        assert_eq!(measured.seconds, 60);
        assert!(measured.basis.contains("the restore of"), "{measured:?}");
        for none in [vec![], vec![restored("failed", 100 * MIB, 30_000)]] {
            let assumed = of(&none);
            assert!(assumed.basis.contains("assumed"), "{assumed:?}");
        }
        let shop: SourceName = "shop".parse().unwrap();
        let other = Estimate::of(&shop, MIB, &[restored("ok", MIB, 1)], &[], now);
        assert!(other.basis.contains("assumed"));
    }

    #[test]
    fn a_drill_counts_by_what_it_projects_for_all_of_it() {
        let chain = drills::tests::chain(&["PASS"]);
        let all = drills::all(&[chain]);
        let now = all[0].at;
        let estimate = Estimate::of(&app(), 200 * MIB, &[], &all, now);
        assert_eq!(estimate.seconds, 61);
        assert!(estimate.basis.contains("drill"), "{estimate:?}");
    }

    #[test]
    fn less_to_read_takes_no_less_time_than_was_measured() {
        let speed = Speed {
            bytes: 100,
            took_ms: 5000,
        };
        assert_eq!(speed.time_for(1), Duration::from_secs(5));
        assert_eq!(speed.time_for(200), Duration::from_secs(10));
    }
}
