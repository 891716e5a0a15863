//! The words and the JSON of every document, frozen: scripts and tired people rely on both.
//!
//! A change that is meant is accepted with `TIDEMARK_BLESS=1`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::path::Path;

use tidemark_cli::recoverable::Hole;
use tidemark_format::{Epoch, Incarnation, LogSeq, PointSeq, RegionName, SourceName};
use tidemark_host::output::{Document, to_json, to_text};
use tidemark_restore_tool::commands::list::{
    List, LogSpan, PointListed, RegionAway, SourceListed, Stray,
};
use tidemark_restore_tool::commands::restore::Report;
use tidemark_restore_tool::commands::status::{Health, RegionStatus, SourceStatus, Status};
use tidemark_restore_tool::commands::verify::{DamageFound, VerifyReport};
use tidemark_restore_tool::plan::{PlanDocument, Reached, Recoverable, Window};

fn frozen<D: Document>(name: &str, document: &D) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let json = format!(
        "{}\n",
        serde_json::to_string_pretty(&to_json(document)).unwrap()
    );
    for (kind, found) in [("txt", to_text(document)), ("json", json)] {
        let path = folder.join(format!("{name}.{kind}"));
        if std::env::var_os("TIDEMARK_BLESS").is_some() {
            std::fs::write(&path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(found, expected, "{}: see TIDEMARK_BLESS", path.display());
    }
}

fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn at(text: &str) -> jiff::Timestamp {
    text.parse().unwrap()
}

fn reached(seq: u64, time: &str) -> Reached {
    Reached {
        epoch: Epoch(2),
        seq: LogSeq(seq),
        at: at(time),
        server: None,
    }
}

fn window() -> Window {
    Window {
        from: reached(1, "2026-04-01T02:30:10Z"),
        to: reached(4711, "2026-05-01T14:31:00.250Z"),
        covers_until: at("2026-05-01T14:35:00Z"),
        sealed_to: Some(reached(4700, "2026-05-01T14:30:00Z")),
    }
}

fn recoverable() -> Recoverable {
    Recoverable {
        recoverable_through: Some(window().covers_until),
        windows: vec![window()],
        holes: vec![Hole {
            from: at("2026-03-31T22:00:00Z"),
            to: window().from.at,
            after: reached(1, "2026-03-31T21:59:00Z"),
            before: window().from,
            why: "log:2:0 begins another life of the database".into(),
            is_news: false,
        }],
        beyond: None,
    }
}

#[test]
fn list() {
    let source = SourceListed {
        source: app(),
        engine: Some("sqlite".into()),
        commit_times: "observed",
        recoverable: recoverable(),
        points: vec![PointListed {
            epoch: Epoch(2),
            seq: PointSeq(1042),
            name: Some("before-upgrade".into()),
            committed: at("2026-05-01T14:30:00Z"),
            sealed_at: at("2026-05-01T14:30:01Z"),
            log_seq: LogSeq(4700),
            expect: "1042:9f86d081".into(),
        }],
        points_total: 1043,
        unsealed: Some(LogSpan {
            epoch: Epoch(2),
            first: LogSeq(4701),
            last: LogSeq(4711),
            objects: 11,
            taken_over_by: None,
        }),
        strays: vec![Stray {
            region: region("north"),
            epoch: Epoch(1),
            first: LogSeq(90),
            last: LogSeq(91),
            why: "void: another agent took over before them",
        }],
        missing: vec![LogSpan {
            epoch: Epoch(2),
            first: LogSeq(12),
            last: LogSeq(80),
            objects: 69,
            taken_over_by: None,
        }],
        troubles: vec!["north: meta/point/app/00000002/0000000000000007: damaged".into()],
    };
    frozen(
        "list",
        &List {
            repository: "ab".repeat(16),
            root: "cd".repeat(16),
            root_pinned: false,
            regions: vec![region("north")],
            away: vec![RegionAway {
                region: region("south"),
                why: "no answer".into(),
            }],
            sources: vec![source],
        },
    );
}

#[test]
fn plan() {
    frozen(
        "plan",
        &PlanDocument {
            source: app(),
            engine: "sqlite".into(),
            incarnation: Incarnation([7; 16]),
            asked: "latest".into(),
            asked_at: None,
            inclusive: true,
            reaches: reached(4711, "2026-05-01T14:31:00.250Z"),
            commit_times: "observed",
            sealed: false,
            exact: true,
            because: "it is the end of the log in the regions read".into(),
            beyond: None,
            bases: 3,
            log_objects: 412,
            stored_bytes: 600 << 20,
            image_bytes: 1 << 30,
            estimated_seconds: 12,
            estimate_basis: "50 MiB/s assumed".into(),
            needed_bytes: None,
            stops: None,
            server: None,
            target: "/srv/app/app.db".into(),
            free_bytes: 20 << 30,
            regions: vec![region("north"), region("south")],
            notes: vec!["region south is 11 s older than another one".into()],
        },
    );
}

#[test]
fn restore() {
    frozen(
        "restore",
        &Report {
            source: app(),
            target: "/srv/app/app.db".into(),
            reached: reached(4711, "2026-05-01T14:31:00.250Z"),
            commit_times: "observed",
            sealed: false,
            exact: true,
            because: "it is the end of the log in the regions read".into(),
            beyond: None,
            bytes: 1 << 30,
            proof: "digest-equal",
            digest: Some("0123456789abcdef0123456789abcdef".into()),
            bases: 3,
            log_objects: 412,
            fetched_bytes: 600 << 20,
            resumed_bytes: 100 << 20,
            resumed_objects: 0,
            kept_bytes: None,
            took_ms: 12_345,
            phases_ms: [9000, 3000, 345],
            exceptions: vec!["meta/log/app/1 is damaged in region north".into()],
            notes: vec!["region south is 11 s older than another one".into()],
            start: Vec::new(),
            protect_again: vec!["tidemark-agent init --sqlite /srv/app/app.db".into()],
        },
    );
}

#[test]
fn status() {
    let source = SourceStatus {
        source: app(),
        health: Health::Warning,
        state: None,
        engine: Some("sqlite".into()),
        bytes: 1 << 30,
        covered_until: Some(at("2026-05-01T14:35:00Z")),
        exposure_seconds: Some(11),
        clock_behind_seconds: None,
        restore_seconds: Some(12),
        restore_basis: "600 MiB to read at 50 MiB/s, assumed".into(),
        recoverable: recoverable(),
        cut_short: None,
        promised: None,
        proved: "no drill is on record".into(),
        proof: None,
        regions: vec![RegionStatus {
            region: region("north"),
            newest_point: Some("1042:9f86d0818884".into()),
            point: Some("point:2/1042".into()),
            sealed: Some(at("2026-05-01T14:30:01Z")),
            committed: Some(at("2026-05-01T14:30:00Z")),
            create_only: "enforced".into(),
        }],
        next: vec!["region south is behind the others".into()],
    };
    frozen(
        "status",
        &Status {
            health: Health::Warning,
            at: at("2026-05-01T14:35:11Z"),
            unknown: None,
            away: vec![],
            sources: vec![source],
        },
    );
}

#[test]
fn verify() {
    frozen(
        "verify",
        &VerifyReport {
            closed: 0,
            quick: false,
            root_pinned: true,
            regions: vec![region("north"), region("south")],
            sources: vec![app()],
            objects: 1234,
            bytes: 600 << 20,
            damages: vec![DamageFound {
                region: region("north"),
                object: "meta/log/app/00000001/0000000000000007".into(),
                why: "the body is not the one that was signed".into(),
            }],
            unread: vec![],
            exceptions: vec![],
            notes: vec![],
        },
    );
}
