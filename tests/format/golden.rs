//! Every golden object is read by today's code, and the repository they make is restored.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidemark_format::{
    body::{BaseIndex, PackFooter},
    envelope::{Envelope, Head, Kind},
    evidence,
    heads::{
        BaseHead, BeatHead, ClaimHead, DrillClaimHead, EnrolHead, FenceHead, KeyringHead, LogHead,
        PackHead, PointHead, RegionHead, SessionHead,
    },
    keys,
    pages::LogPages,
    restore_md,
};
use tidemark_host::{Cpu, SystemClock};
use tidemark_ledger::{
    Keyring, Trust,
    history::{Beats, LoadOptions, SourceHistory, Standing},
};
use tidemark_open::{Identity, Opener, RegionReader, RegionSet};
use tidemark_storage::{DirStore, ReadStore};

use crate::make::{self, SOURCE};

pub(crate) fn golden() -> PathBuf {
    tidemark_tests::root().join("tests/format/golden/v1")
}

/// Writes the golden files of a version that has none yet; never again afterwards.
#[test]
fn golden_files_exist_and_are_never_rewritten() {
    let root = golden();
    if std::env::var_os("TIDEMARK_MAKE_GOLDEN").is_some() {
        assert!(
            !root.exists(),
            "{} exists: golden files are for ever",
            root.display()
        );
        let scratch = tempfile::tempdir().unwrap();
        make::make(&root, scratch.path());
    }
    assert!(
        root.join("region/meta/region").exists(),
        "the golden files are missing"
    );
}

#[test]
fn today_s_writers_make_a_repository_of_the_same_shape() {
    // GIVEN a repository made by today's code from the golden seed
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("v1");
    make::make(&root, scratch.path());
    // THEN it has the same names, but for random ids and signers, and the same head keys
    let shape = |root: &Path| -> BTreeSet<(String, Vec<String>)> {
        objects(root)
            .into_iter()
            .map(|(name, bytes)| (folder(&name), head_keys(&bytes)))
            .collect()
    };
    assert_eq!(shape(&root), shape(&golden()));
}

fn folder(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    let random = |part: &&str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts
        .iter()
        .map(|part| if random(part) { "ID" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

fn head_keys(bytes: &[u8]) -> Vec<String> {
    let Ok(envelope) = Envelope::parse(bytes) else {
        return vec![];
    };
    let head: serde_json::Value = serde_json::from_slice(envelope.head_json()).unwrap();
    head.as_object().unwrap().keys().cloned().collect()
}

/// Every file below `region/`, by its key.
pub(crate) fn objects(root: &Path) -> Vec<(String, Vec<u8>)> {
    let region = root.join("region");
    let mut found = Vec::new();
    let mut folders = vec![region.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(&region)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn open<H: Head>(bytes: &[u8]) {
    Envelope::open::<H>(bytes).unwrap();
}

#[test]
fn every_golden_object_of_every_kind_is_read_and_verified() {
    let mut seen = BTreeSet::new();
    let mut signers = BTreeSet::new();
    for (name, bytes) in objects(&golden()).into_iter().chain(crate::drill::steps()) {
        if name == keys::README || name.starts_with("meta/evidence/") {
            continue;
        }
        let envelope = Envelope::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        match envelope.kind {
            Kind::Session => open::<SessionHead>(&bytes),
            Kind::Pack => open::<PackHead>(&bytes),
            Kind::Log => open::<LogHead>(&bytes),
            Kind::Fence => open::<FenceHead>(&bytes),
            Kind::Base => open::<BaseHead>(&bytes),
            Kind::Point => open::<PointHead>(&bytes),
            Kind::Beat => open::<BeatHead>(&bytes),
            Kind::Claim => open::<ClaimHead>(&bytes),
            Kind::Region => open::<RegionHead>(&bytes),
            Kind::Keyring => open::<KeyringHead>(&bytes),
            Kind::Enrol => open::<EnrolHead>(&bytes),
            Kind::DrillClaim => open::<DrillClaimHead>(&bytes),
        }
        if envelope.kind == Kind::Log {
            signers.insert(envelope.signer);
        }
        seen.insert(envelope.kind);
    }
    assert_eq!(seen, BTreeSet::from(Kind::ALL), "a kind has no golden file");
    let record = objects(&golden())
        .into_iter()
        .find(|(name, _)| name.starts_with("meta/evidence/"));
    evidence::decode(&record.unwrap().1, signers.first().unwrap()).unwrap();
}

#[test]
fn the_golden_tables_read_back_to_the_same_bytes() {
    let plain = |name: &str| fs::read(golden().join("plain").join(name).join("golden")).unwrap();
    let index = plain("base-index");
    assert_eq!(BaseIndex::decode(&index).unwrap().encode(), index);
    let footer = plain("pack-footer");
    assert_eq!(PackFooter::decode(&footer).unwrap().encode(), footer);
    let pages = plain("pages");
    let payload = LogPages::decode(&pages).unwrap();
    assert!(payload.head.digest.is_some());
    assert!(payload.pages().count() > 0);
}

pub(crate) fn identity(root: &Path) -> Identity {
    let text = fs::read_to_string(root.join("text/identity")).unwrap();
    Identity::parse(&text, None).unwrap()
}

#[tokio::test]
async fn the_golden_repository_is_restored_by_the_read_path() {
    // GIVEN the golden region and its identity, nothing else
    let store: Arc<dyn ReadStore> = Arc::new(DirStore::open(&golden().join("region")).unwrap());
    let text = fs::read_to_string(golden().join("text/recipient")).unwrap();
    let trust = Trust::of(&text.parse().unwrap());
    let keyring = Arc::new(Keyring::load(store.as_ref(), &trust).await.unwrap());
    let beats = Beats::load(store.as_ref(), &keyring).await.unwrap();
    let source = SOURCE.parse().unwrap();
    let history = SourceHistory::load(
        Arc::clone(&store),
        Arc::clone(&keyring),
        &source,
        &beats,
        &LoadOptions::default(),
    )
    .await
    .unwrap();
    // THEN the chain is as it was written: epoch 1 ends at 4 (its late copy), epoch 2 follows
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
    let epochs: Vec<_> = history.epochs().collect();
    assert_eq!(epochs.len(), 2);
    assert!(matches!(epochs[0].standing, Standing::Ended { last, .. } if last.0 == 4));
    assert_eq!(epochs[0].names.len(), 5);
    assert_eq!((epochs[0].points.len(), epochs[0].bases.len()), (2, 2));
    // AND every log object opens to a sound payload
    let readers = vec![RegionReader {
        name: "golden".parse().unwrap(),
        store,
    }];
    let regions = RegionSet::new(readers, SystemClock::shared()).unwrap();
    let opener = Opener::new(
        identity(&golden()),
        Arc::new(regions),
        Arc::new(|_signer, _kind| true),
        Cpu::Inline,
    );
    for epoch in epochs {
        for entry in history.whole_log(epoch.epoch).await.unwrap() {
            let object = entry.state.object().unwrap();
            if object.head.gap.is_none() {
                let log = opener.log(&object.key, object.link).await.unwrap();
                LogPages::decode(&log.payload).unwrap();
            }
        }
    }
}

/// Its words are for people and may get better; what they lead to stays.
#[test]
fn restore_md_of_then_and_now_names_repository_version_and_commands() {
    let text = fs::read_to_string(golden().join("region").join(keys::README)).unwrap();
    let word = fs::read_to_string(golden().join("text/recipient")).unwrap();
    let repo = word
        .parse::<tidemark_format::recipient::RecipientKey>()
        .unwrap()
        .repo;
    for text in [text, restore_md::text(repo)] {
        for needed in [
            &format!("Repository {repo}, format version 1."),
            "tidemark-restore list ",
            "tidemark-restore plan ",
            "tidemark-restore restore ",
            "docs/FORMAT.md",
            "docs/decode.py",
        ] {
            assert!(text.contains(needed), "{needed} is not in {text}");
        }
    }
}
