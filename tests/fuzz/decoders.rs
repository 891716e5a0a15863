//! One test per decoder. The assertion is in `attack`: no panic, no memory beyond the bound.

use std::{hint::black_box, path::Path};

use tidemark_format::{
    Key,
    body::{BaseIndex, PackFooter},
    crypt::{CryptHeader, Frames, HEADER},
    envelope::{Envelope, Head, Kind},
    evidence,
    heads::{
        BaseHead, BeatHead, ClaimHead, DrillClaimHead, EnrolHead, FenceHead, KeyringHead, LogHead,
        PackHead, PointHead, RegionHead, SessionHead,
    },
    keys,
    pages::LogPages,
    recipient::{IdentityKey, RecipientKey},
    sign::SigningKey,
};

use tidemark_engine_sqlite::fuzzing;
use tidemark_host::{
    RegionUrl,
    config::{AgentConfig, RestoreConfig, Surroundings},
};
use tidemark_ledger::custody::{IdentityFile, RootFile};
use tidemark_open::Identity;

use crate::hostile::{attack, files};

const GOLDEN: &str = "tests/format/golden/v1/region";
const GOLDEN_DRILL: &str = "tests/format/golden/drill-v1/region";

fn bodies(kind: Kind) -> Vec<Vec<u8>> {
    let of_kind = |bytes: &Vec<u8>| {
        let envelope = Envelope::parse(bytes)
            .ok()
            .filter(|envelope| envelope.kind == kind)?;
        Some(envelope.body.to_vec())
    };
    files(GOLDEN).iter().filter_map(of_kind).collect()
}

fn head<H: Head>(bytes: &[u8]) {
    drop(black_box(Envelope::open::<H>(bytes)));
    // Heads behind a broken signature must be just as harmless.
    if let Ok(envelope) = Envelope::parse(bytes) {
        drop(black_box(envelope.head::<H>()));
        black_box(envelope.link());
    }
}

#[test]
fn envelopes_and_every_head_survive_hostile_bytes() {
    let seeds = [files(GOLDEN), files(GOLDEN_DRILL)].concat();
    attack("envelope", seeds, |bytes| {
        drop(black_box(Envelope::head_bytes(bytes)));
        head::<SessionHead>(bytes);
        head::<PackHead>(bytes);
        head::<LogHead>(bytes);
        head::<FenceHead>(bytes);
        head::<BaseHead>(bytes);
        head::<PointHead>(bytes);
        head::<BeatHead>(bytes);
        head::<ClaimHead>(bytes);
        head::<RegionHead>(bytes);
        head::<KeyringHead>(bytes);
        head::<EnrolHead>(bytes);
        head::<DrillClaimHead>(bytes);
    });
}

#[test]
fn encrypted_bodies_are_split_safely() {
    let seeds = [bodies(Kind::Pack), bodies(Kind::Log), bodies(Kind::Base)].concat();
    attack("frames", seeds, |bytes| {
        drop(black_box(CryptHeader::parse(bytes)));
        let mut frames = Frames::new(bytes.get(HEADER..).unwrap_or_default());
        while let Ok(Some(frame)) = frames.next_frame() {
            black_box(frame);
        }
    });
}

#[test]
fn base_indexes_survive_hostile_bytes() {
    attack(
        "base-index",
        files("tests/format/golden/v1/plain/base-index"),
        |bytes| {
            drop(black_box(BaseIndex::decode(bytes)));
        },
    );
}

#[test]
fn pack_footers_survive_hostile_bytes() {
    attack(
        "pack-footer",
        files("tests/format/golden/v1/plain/pack-footer"),
        |bytes| {
            drop(black_box(PackFooter::decode(bytes)));
        },
    );
}

#[test]
fn sqlite_log_payloads_survive_hostile_bytes() {
    attack(
        "pages",
        files("tests/format/golden/v1/plain/pages"),
        |bytes| {
            drop(black_box(
                LogPages::decode(bytes).map(|log| log.pages().count()),
            ));
        },
    );
}

#[test]
fn sqlite_logs_survive_hostile_bytes() {
    let folder = tempfile::tempdir().unwrap();
    attack("sqlite-log", Vec::new(), |bytes| {
        let claimed = bytes.last().copied().unwrap_or_default();
        for frames in [u32::from(claimed), u32::MAX] {
            black_box(fuzzing::log(folder.path(), bytes, frames));
        }
    });
}

#[test]
fn page_maps_and_records_of_the_sqlite_engine_survive_hostile_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = fuzzing::sound_files(folder.path(), 40);
    attack("sqlite-files", seeds, |bytes| {
        fuzzing::own_file(folder.path(), bytes);
    });
}

#[test]
fn evidence_survives_hostile_bytes() {
    let signer = SigningKey::from_secret(&[1; 32]).public();
    attack(
        "evidence",
        files("tests/format/golden/v1/region/meta/evidence"),
        |bytes| {
            drop(black_box(evidence::decode(bytes, &signer)));
        },
    );
}

#[test]
fn keys_and_key_names_survive_hostile_text() {
    let seeds = files("tests/format/golden/v1/text");
    attack("text", seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop(black_box(text.parse::<RecipientKey>()));
        drop(black_box(text.parse::<IdentityKey>()));
        if let Ok(key) = Key::new(text.into_owned()) {
            drop(black_box(keys::dense(&key)));
            black_box(keys::beat_number(&key));
        }
    });
}

#[test]
fn key_files_survive_hostile_text() {
    attack("key-file", files("tests/format/golden/v1/text"), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop(black_box(IdentityFile::parse(&text)));
        drop(black_box(RootFile::parse(&text)));
        drop(black_box(Identity::parse(&text, None)));
    });
}

#[test]
fn region_urls_and_configs_survive_hostile_text() {
    attack("config", files("config"), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop(black_box(text.parse::<RegionUrl>()));
        let around = Surroundings {
            state_directory: None,
            check_schedule: &|_, _| Ok(()),
            check_postgres: &|_| Ok(()),
        };
        drop(black_box(AgentConfig::parse(
            &text,
            Path::new("/etc/agent.toml"),
            &around,
        )));
        drop(black_box(RestoreConfig::parse(
            &text,
            Path::new("/etc/restore.toml"),
        )));
    });
}
