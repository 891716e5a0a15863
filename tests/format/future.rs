//! Objects as a later version of the program might write them: with keys in their heads and facts
//! that today's readers do not know. They are read, verified, listed and restored all the same, and
//! what is not known is not lost on the way.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tidemark_format::{
    Hash,
    envelope::{self, Envelope, Head, Kind},
    heads::{BaseHead, BeatHead, Facts, LogHead, PointHead},
    sign::SigningKey,
};
use tidemark_host::{Cpu, SystemClock};
use tidemark_ledger::{
    Keyring, Trust,
    history::{Beats, LoadOptions, SourceHistory},
};
use tidemark_open::{Opener, RegionReader, RegionSet};
use tidemark_storage::{DirStore, ReadStore};

use crate::{
    golden::{identity, objects},
    make::{self, SOURCE},
};

/// A head as JSON: whatever it holds is what is signed.
macro_rules! raw_head {
    ($name:ident, $kind:expr) => {
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct $name(Value);

        impl Head for $name {
            const KIND: Kind = $kind;
        }
    };
}

raw_head!(RawLog, Kind::Log);
raw_head!(RawBase, Kind::Base);
raw_head!(RawPoint, Kind::Point);
raw_head!(RawBeat, Kind::Beat);

/// Writes `bytes` anew with keys and facts of the future; links of what it names are taken from
/// `moved`.
fn of_the_future(bytes: &[u8], signer: &SigningKey, moved: &BTreeMap<String, String>) -> Vec<u8> {
    let old = Envelope::parse(bytes).unwrap();
    let mut text = String::from_utf8(old.head_json().to_vec()).unwrap();
    for (before, after) in moved {
        text = text.replace(before, after);
    }
    let mut head: Value = serde_json::from_str(&text).unwrap();
    head["residency"] = json!({"country": "DK", "since": [1, 2.5, null]});
    head["aaa"] = json!("sorts first");
    head["facts"]["collation"] = json!({"version": 153.8, "provider": "icu"});
    match old.kind {
        Kind::Log => envelope::encode(&RawLog(head), signer, old.body),
        Kind::Base => envelope::encode(&RawBase(head), signer, old.body),
        Kind::Point => envelope::encode(&RawPoint(head), signer, old.body),
        _ => envelope::encode(&RawBeat(head), signer, old.body),
    }
    .unwrap()
}

/// Rewrites a repository's log, bases, points and beats, each after all that it names.
fn rewrite(root: &Path, signer: &SigningKey) -> usize {
    let mut rewritten: Vec<(String, Vec<u8>)> = objects(root)
        .into_iter()
        .filter(|(_, bytes)| {
            Envelope::parse(bytes).is_ok_and(|object| {
                matches!(
                    object.kind,
                    Kind::Log | Kind::Base | Kind::Point | Kind::Beat
                )
            })
        })
        .collect();
    // Epoch by epoch the log before bases before points; the beat, which names the last, at the end.
    rewritten.sort_by_key(|(name, _)| {
        let order = ["meta/log", "meta/late", "meta/base", "meta/point"];
        let order = order.iter().position(|start| name.starts_with(start));
        let epoch = name.split('/').nth(3).unwrap_or_default().to_owned();
        (name.starts_with("meta/beat"), epoch, order, name.clone())
    });
    let mut moved = BTreeMap::new();
    for (name, bytes) in &rewritten {
        let new = of_the_future(bytes, signer, &moved);
        let link = |bytes: &[u8]| -> Hash { Envelope::parse(bytes).unwrap().link() };
        moved.insert(link(bytes).to_string(), link(&new).to_string());
        fs::write(root.join("region").join(name), new).unwrap();
    }
    rewritten.len()
}

fn known_facts(facts: &Facts) -> bool {
    facts.get("collation") == Some(&json!({"version": 153.8, "provider": "icu"}))
}

#[tokio::test]
async fn objects_with_unknown_head_keys_and_facts_are_read_verified_listed_and_restored() {
    // GIVEN the repository of today's writers, as a later version would have written it
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("v1");
    let signer = make::make(&root, scratch.path());
    assert_eq!(rewrite(&root, &signer), 14);
    let store: Arc<dyn ReadStore> = Arc::new(DirStore::open(&root.join("region")).unwrap());
    let text = fs::read_to_string(root.join("text/recipient")).unwrap();
    let trust = Trust::of(&text.parse().unwrap());
    let keyring = Arc::new(Keyring::load(store.as_ref(), &trust).await.unwrap());
    let beats = Beats::load(store.as_ref(), &keyring).await.unwrap();
    // WHEN it is read
    let history = SourceHistory::load(
        Arc::clone(&store),
        keyring,
        &SOURCE.parse().unwrap(),
        &beats,
        &LoadOptions::default(),
    )
    .await
    .unwrap();
    // THEN all of it counts, the newest beat included, and the facts are what was written
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
    assert!(history.caught_up().is_some_and(|beat| beat.here));
    let epochs: Vec<_> = history.epochs().collect();
    let shape = |of: usize| (epochs[of].points.len(), epochs[of].bases.len());
    assert_eq!((shape(0), shape(1)), ((2, 2), (1, 1)));
    for epoch in &epochs {
        assert!(epoch.points.iter().all(|o| known_facts(&o.head.facts)));
        assert!(epoch.bases.iter().all(|o| known_facts(&o.head.facts)));
    }
    // AND every log object and base opens
    let readers = vec![RegionReader {
        name: "future".parse().unwrap(),
        store,
    }];
    let regions = RegionSet::new(readers, SystemClock::shared()).unwrap();
    let opener = Opener::new(
        identity(&root),
        Arc::new(regions),
        Arc::new(|_signer, _kind| true),
        Cpu::Inline,
    );
    for epoch in &epochs {
        for entry in history.whole_log(epoch.epoch).await.unwrap() {
            let object = entry.state.object().unwrap();
            assert!(known_facts(&object.head.facts));
            if object.head.gap.is_none() {
                opener.log(&object.key, object.link).await.unwrap();
            }
        }
        for base in &epoch.bases {
            opener.base(&base.key, base.link).await.unwrap();
        }
    }
    // AND a decoder that has nothing but the document restores it to the last byte
    if let Some((restored, said)) = crate::decode::decode_in(&root, None) {
        assert!(
            restored == fs::read(root.join("expected.db")).unwrap(),
            "{said}"
        );
    }
}

#[test]
fn facts_that_a_reader_does_not_know_are_written_again_as_they_were() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("v1");
    let signer = make::make(&root, scratch.path());
    rewrite(&root, &signer);
    let mut seen = 0;
    for (name, bytes) in objects(&root) {
        let Ok(object) = Envelope::parse(&bytes) else {
            continue;
        };
        let written: Value = serde_json::from_slice(object.head_json()).unwrap();
        let facts = match object.kind {
            Kind::Log => serde_json::to_value(object.head::<LogHead>().unwrap()),
            Kind::Base => serde_json::to_value(object.head::<BaseHead>().unwrap()),
            Kind::Point => serde_json::to_value(object.head::<PointHead>().unwrap()),
            Kind::Beat => serde_json::to_value(object.head::<BeatHead>().unwrap()),
            _ => continue,
        };
        assert_eq!(facts.unwrap()["facts"], written["facts"], "{name}");
        object.verify_signature().unwrap();
        seen += 1;
    }
    assert_eq!(seen, 14);
}
