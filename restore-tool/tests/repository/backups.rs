//! Full backups and recovery points as an auditor gets them: every one of the period, where it is and
//! where it isn't, and what can't be believed. And disposals, of which there are none.

use std::fs;

use serde_json::Value;
use tidemark_format::keys;
use tidemark_host::{Exit, SystemClock};

use crate::world::{RegionDir, World};

const DAY: u64 = 24 * 3600;

/// Three days, each with a full backup and a recovery point; the last opens a generation of its own.
fn three_days() -> World {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    world.pass(DAY);
    world.insert(100);
    world.base();
    world.point(Some("before-upgrade"));
    world.pass(DAY);
    world.new_generation();
    world.insert(100);
    world.base();
    world.point(None);
    world
}

/// The rows of a CSV without quoted cells, by column.
fn rows(csv: &str) -> Vec<Value> {
    let mut lines = csv.split_terminator("\r\n");
    let titles: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), titles.len(), "{line}");
        let pairs = titles.iter().zip(cells);
        pairs
            .map(|(title, cell)| ((*title).to_owned(), Value::from(cell)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    lines.map(row).collect()
}

fn cells<'a>(rows: &'a [Value], column: &str) -> Vec<&'a str> {
    rows.iter()
        .map(|row| row[column].as_str().unwrap_or_default())
        .collect()
}

const EXPORT: [&str; 4] = ["evidence", "export", "--kind", "backups"];

fn export<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&EXPORT[..], more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_full_backup_and_point_is_a_row_and_a_region_that_lacks_a_base_is_named() {
    // GIVEN a region that lacks the full backup of the second day, and is not as far with its points
    let world = three_days();
    let bases = world.regions[1].files("meta/base/");
    fs::remove_file(&bases[1]).unwrap();
    let points = world.regions[1].files("meta/point/");
    fs::remove_file(&points[2]).unwrap();
    // WHEN they are exported
    let ran = world.run(&export(&[])).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let all = rows(&ran.out);
    // THEN each is a row, the oldest first, and says where it is
    assert_eq!(
        cells(&all, "id"),
        [
            "base:1/0/0",
            "point:1/0",
            "base:1/0/1",
            "point:1/1",
            "base:1/5/0",
            "point:1/2"
        ],
        "{}",
        ran.out
    );
    assert_eq!(
        cells(&all, "regions_without"),
        ["", "", "south", "", "", ""]
    );
    assert_eq!(cells(&all, "regions_behind"), ["", "", "", "", "", "south"]);
    let states = ["whole", "whole", "in-part", "whole", "whole", "in-part"];
    assert_eq!(cells(&all, "state"), states);
    let stored = ["complete", "log", "changed pages", "log", "complete", "log"];
    assert_eq!(cells(&all, "stored_as"), stored);
    assert_eq!(cells(&all, "name")[3], "before-upgrade");
    assert_eq!(cells(&all, "signer_name")[0], "db-host");
    // What a base reaches is the end of the object from which on it is usable, and so do its points.
    let reaches = cells(&all, "reaches_from");
    assert_eq!(
        reaches[0],
        world.times[&tidemark_format::LogSeq(1)].to_string()
    );
    assert_eq!((reaches[2], reaches[4]), (reaches[3], reaches[5]));
    let bytes = |row: &Value| {
        row["stored_bytes"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(all.iter().all(|row| bytes(row) > 100), "{}", ran.out);
    // AND a period has its own alone
    let second = ["--from", "2026-05-02", "--to", "2026-05-02"];
    let ran = world.run(&export(&second)).await;
    assert_eq!(cells(&rows(&ran.out), "id"), ["base:1/0/1", "point:1/1"]);
    let never = ["--from", "2020-01-01", "--to", "2020-01-02"];
    let ran = world.run(&export(&never)).await;
    assert_eq!(
        (ran.exit, ran.out.lines().count()),
        (Exit::Ok, 1),
        "{ran:?}"
    );
    // AND a region that can't be read is told
    fs::rename(&world.regions[1].path, world.path("unplugged")).unwrap();
    let ran = world.run(&export(&[])).await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    let all = rows(&ran.out);
    assert!(
        cells(&all, "regions_unread")
            .iter()
            .all(|cell| *cell == "south")
    );
    assert_eq!(cells(&all, "state"), ["whole"; 6], "of what was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_named_and_what_no_region_has_stands_in_every_period() {
    let world = three_days();
    let bases = |region: usize| world.regions[region].files("meta/base/");
    RegionDir::truncate(&bases(0)[2]);
    let ran = world.run(&export(&["--format", "ndjson"])).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let one = lines.iter().find(|row| row["id"] == "base:1/5/0").unwrap();
    assert_eq!(
        (&one["state"], &one["regions"]),
        (&"in-part".into(), &"south".into())
    );
    assert!(
        one["doubts"].as_str().unwrap().starts_with("north: "),
        "{one}"
    );
    assert_eq!(one["schema"], "tidemark-backup");
    // WHEN no region has a good copy
    RegionDir::truncate(&bases(1)[2]);
    let early = ["--to", "2026-05-01", "--format", "json"];
    let ran = world.run(&export(&early)).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let document = ran.json();
    assert_eq!(
        (&document["schema"], &document["version"]),
        (&"tidemark-backups".into(), &1.into())
    );
    // THEN it is a row without a time, in every period
    let all = document["backups"].as_array().unwrap();
    assert_eq!(
        cells(all, "state"),
        ["lost", "whole", "whole"],
        "{document:#}"
    );
    assert_eq!(all[0]["id"], "base:1/5/0");
    assert_eq!(document["sources"][0]["bases"], 1);
    assert_eq!(document["sources"][0]["in_doubt"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_of_backups_says_how_far_apart_they_are_and_how_it_was_made() {
    let world = three_days();
    let (csv, page) = (world.path("backups.csv"), world.path("backups.html"));
    let ran = world.run(&export(&["--out", &csv])).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let text = fs::read_to_string(&csv).unwrap();
    let meta = fs::read_to_string(format!("{csv}.meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    let sum = tidemark_format::evidence::Sha256::of(text.as_bytes());
    assert_eq!(
        (&meta["sha256"], &meta["rows"]),
        (&sum.to_string().into(), &6.into())
    );
    let summary = &meta["sources"][0];
    assert_eq!(
        (&summary["bases"], &summary["points"]),
        (&3.into(), &3.into())
    );
    let gap = summary["longest_between_bases"]["seconds"]
        .as_u64()
        .unwrap();
    assert!((DAY..DAY + 60).contains(&gap), "{meta:#}");
    assert!(
        summary["oldest_kept"]
            .as_str()
            .unwrap()
            .starts_with("2026-05-01")
    );
    assert_eq!(ran.json()["sources"][0], *summary);
    // An export replaces nothing.
    let again = world.run(&export(&["--out", &csv])).await;
    assert_eq!(again.exit, Exit::Usage, "{again:?}");
    assert_eq!(fs::read_to_string(&csv).unwrap(), text);
    let ran = world
        .run(&export(&["--format", "html", "--out", &page]))
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let page = fs::read_to_string(&page).unwrap();
    for words in [
        "app: full backups",
        "<td>2026-05-02</td><td>1</td>",
        "bytes were not read",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    assert!(!page.contains("<script"));
    // A pack holds what is signed as evidence.
    let pack = world.path("pack");
    let ran = world
        .run(&export(&["--format", "pack", "--out", &pack]))
        .await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert!(ran.err.contains("csv, json, ndjson or html"), "{ran:?}");
    let ran = world.run(&["evidence", "list", "--kind", "backups"]).await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert!(ran.err.contains("list --points"), "{ran:?}");
}

/// A month of points every five minutes with `TIDEMARK_LONG`, else a day.
#[tokio::test(flavor = "multi_thread")]
async fn points_of_a_month_are_exported_each_in_its_place() {
    let days = if std::env::var_os("TIDEMARK_LONG").is_some() {
        31
    } else {
        1
    };
    let points = days * 288;
    let mut world = World::new(2);
    for _ in 0..points {
        world.pass(300);
        world.point(None);
    }
    let clock = SystemClock::shared();
    let began = clock.monotonic();
    let out = world.path("backups.csv");
    let ran = world.run(&export(&["--out", &out])).await;
    eprintln!(
        "{points} points of two regions: {:?}",
        clock.monotonic().since(began)
    );
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let all = rows(&fs::read_to_string(&out).unwrap());
    assert_eq!(all.len(), points + 1);
    let place = |number: usize| format!("point:1/{number}");
    let expected: Vec<String> = (0..points).map(place).collect();
    assert_eq!(cells(&all, "id")[1..], expected);
    let gap = &ran.json()["sources"][0]["longest_between_points"];
    assert_eq!(
        (&gap["seconds"], &gap["open"]),
        (&300.into(), &false.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn disposals_are_a_header_and_words_where_nothing_was_disposed_of() {
    let mut world = three_days();
    world.state = Some(world.dir.path().join("state"));
    world.restore("latest").await;
    let words = ["evidence", "export", "--kind", "disposals"];
    let ran = world.run(&words).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    assert!(ran.out.starts_with("evidence_id,type,created_at,"));
    let out = world.path("disposals.csv");
    let ran = world.run(&[&words[..], &["--out", &out]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let said = ran.json();
    let empty = said["empty"].as_str().unwrap();
    assert!(
        empty.contains("no disposal is on record")
            && empty.contains("nothing in this version deletes"),
        "{empty}"
    );
    // The numbers of each signer show that nothing was left out.
    let meta = fs::read_to_string(format!("{out}.meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    assert_eq!(meta["signers"][0]["chain"], serde_json::json!([0, 0]));
    assert_eq!(meta["signers"][0]["rows"], Value::Null);
    assert!(!world.regions[0].files(keys::EVIDENCE).is_empty());
}
