//! Evidence of drills: rows, plots, a pack that others verify column by column, and what `status` makes
//! of it. The records are made by the code that stores every record; what they say is the drills' own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tidemark_format::evidence::Sha256;
use tidemark_host::Exit;
use tidemark_host::config::Region;
use tidemark_host::output::testing::Captured;
use tidemark_open::Identity;
use tidemark_restore_tool::evidence::book::{self, Desk, Pen};
use tidemark_restore_tool::evidence::record::Draft;

use crate::world::World;

fn world() -> World {
    let mut world = World::new(2);
    world.insert(100);
    world.point(None);
    world.beat();
    world.state = Some(world.dir.path().join("state"));
    world
}

fn fields(world: &World, verdict: &str) -> Value {
    let check =
        |level: &str, status: &str| json!({ "id": level, "level": level, "status": status });
    json!({
        "plan": { "scenario": "without-region=south", "trigger": "scheduled" },
        "objectives": { "rpo_target_s": 300, "rto_target_s": 86400, "pitr_precision_target_s": 60 },
        "source": { "name": "app", "engine": "sqlite" },
        "recovery_pt": {
            "selection": "RANDOM", "target_time": "2026-05-01T12:00:00Z",
            "read_from": [{ "region": "north" }, { "region": "south" }],
        },
        "environment": {
            "host": "drill-host", "segregated_from_source": true,
            "isolation": { "netns": "unshare", "egress_probe_result": "refused" },
        },
        "timing": {
            "declared_at": world.now(), "rto_measured_s": 50.25, "rto_projected_full_s": 1e-7,
            "phases": [{ "name": "fetch", "took_ms": 40000 }, { "name": "<b>checks</b>", "took_ms": 10250 }],
        },
        "recovery": { "rpo_measured_s": 0.5, "pitr_error_ms": -12, "last_recovered_commit_at": world.now() },
        "checks": [check("chain", "passed"), check("ciphertext", "passed"), check("decrypt", "failed")],
        "fixes": ["reindex a", "reindex b"],
        "result": {
            "verdict": verdict, "outcome": "ok", "exceptions": ["=1+1, \"quoted\"", "two\nlines"],
            "causes": ["no negative totals: expected 0, found <1540>"],
            "rpo_met": true, "rto_met": true, "pitr_met": false,
        },
        "handling": { "teardown": { "verified_absent": true } },
        "governance": { "next_due": "2026-05-08T12:00:00Z" },
    })
}

/// A drill's record, as the drill stores it.
async fn drill(world: &World, verdict: &str) {
    let captured = Captured::new(true);
    let tools = world.tools(&captured);
    let urls: Vec<_> = world
        .regions
        .iter()
        .map(|region| format!("dir:{}", region.path.display()).parse().unwrap())
        .collect();
    let desk = Desk {
        regions: Region::from_urls(&urls),
        state: world.state.clone(),
        credentials: None,
    };
    let pen = Pen::of(&Identity::from_key(world.keys.identity.key.clone()));
    let fields = fields(world, verdict).as_object().unwrap().clone();
    let rng = tools.rng.as_ref();
    let draft = Draft::new("restore_drill", vec![], fields, world.now(), rng);
    let written = book::append(&desk, &pen, &draft, &tools).await.unwrap();
    assert_eq!(written.stored.len(), 2, "{:?}", written.lacking);
    world.pass(24 * 3600);
}

async fn enrol(world: &World) {
    let root = world.path("root");
    let ran = world
        .run(&["keys", "enrol", "--all", "--root", &root])
        .await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
}

/// Whether the auditor's tools are here.
#[expect(clippy::print_stderr, reason = "a skipped test is loud")]
fn has_tools() -> bool {
    let works = |program: &str, words: &[&str]| {
        let ran = Command::new(program).args(words).output();
        ran.is_ok_and(|ran| ran.status.success())
    };
    let there = works("openssl", &["version"]) && works("python3", &["--version"]);
    let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some();
    assert!(there || !required, "openssl and python3 are needed");
    if !there {
        eprintln!("SKIPPED: openssl and python3 check packs as an auditor would");
    }
    there
}

fn verify_py(pack: &Path) -> (i32, String) {
    let mut command = Command::new("python3");
    command.args(["-B", "verify.py"]).current_dir(pack);
    let ran = command.output().unwrap();
    let said = [ran.stdout, ran.stderr].concat();
    (
        ran.status.code().unwrap_or(-1),
        String::from_utf8(said).unwrap(),
    )
}

/// Replaces a file of a pack, and its sum in the list that nobody signed.
fn change(pack: &Path, name: &str, bytes: &[u8]) {
    let sum = |bytes: &[u8]| Sha256::of(bytes).to_string();
    let (path, list) = (pack.join(name), pack.join("SHA256SUMS"));
    let sums = fs::read_to_string(&list).unwrap();
    let sums = sums.replace(&sum(&fs::read(&path).unwrap()), &sum(bytes));
    for (path, bytes) in [(&path, bytes), (&list, sums.as_bytes())] {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drills_are_exported_failures_included_as_rows_and_as_a_page_with_plots() {
    let world = world();
    for verdict in ["PASS_WITH_EXCEPTIONS", "FAIL", "INCONCLUSIVE"] {
        drill(&world, verdict).await;
    }
    enrol(&world).await;
    let out = world.path("drills.csv");
    let export = ["evidence", "export"];
    let ran = world.run(&[&export[..], &["--out", &out]].concat()).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["rows"], 3, "{ran:?}");
    let csv = fs::read_to_string(&out).unwrap();
    for cell in [
        "INCONCLUSIVE",
        "without-region=south",
        ",50.25,1e-7,",
        ",'-12,",
        "chain ciphertext,2,1,0,0,0",
        "\"no negative totals: expected 0, found <1540>\"\r\n",
    ] {
        assert!(csv.contains(cell), "{cell}: {csv}");
    }
    assert!(csv.contains("reindex a; reindex b"), "{csv}");
    let meta = fs::read_to_string(world.path("drills.csv.meta.json")).unwrap();
    let meta: Value = serde_json::from_str(&meta).unwrap();
    assert_eq!(meta["signers"][0]["rows"], json!([0, 2]));
    let page = [&export[..], &["--format", "html"]].concat();
    let page = world.run(&page).await.out;
    assert_eq!(page.matches("<svg").count(), 5, "{page}");
    for never in [
        "<script",
        "<b>checks",
        "http-equiv=\"refresh",
        "src=",
        "href=",
    ] {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("&lt;b&gt;checks"), "{page}");
    let cause = "<td>no negative totals: expected 0, found &lt;1540&gt;<br>";
    assert_eq!(page.matches(cause).count(), 3, "{page}");
    let lines = [&export[..], &["--format", "ndjson"]].concat();
    assert_eq!(world.run(&lines).await.out.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_export_says_where_there_is_something() {
    let world = world();
    world.restore("latest").await;
    let out = world.path("drills.csv");
    let ran = world.run(&["evidence", "export", "--out", &out]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let said = ran.json()["empty"].as_str().unwrap().to_owned();
    assert!(
        said.contains("no drill is on record") && said.contains("--kind access"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_a_pack_is_derived_again_by_the_recipe() {
    if !has_tools() {
        return;
    }
    // GIVEN drills, a restore, and decisions about a drill
    let world = world();
    drill(&world, "PASS_WITH_EXCEPTIONS").await;
    world.restore("latest").await;
    enrol(&world).await;
    let listed = world.run(&["evidence", "list"]).await.json();
    let id = listed["records"][0]["id"].as_str().unwrap().to_owned();
    for decision in ["rejected", "approved"] {
        let words = ["evidence", "sign-off", &id, "--reviewer", "Ann, =A1"];
        let more = ["--ticket", "T-1", "--decision", decision];
        let ran = world.run(&[&words[..], &more].concat()).await;
        assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    }
    // (The page says what was reviewed, by whom and how.)
    let page = ["evidence", "export", "--kind", "all", "--format", "html"];
    let page = world.run(&page).await.out;
    let review = format!("approved of <code>{id}</code> by Ann, =A1 (T-1)");
    assert!(page.contains(&review), "{review}: {page}");
    for (kind, name) in [("all", "all"), ("drills", "drills"), ("access", "access")] {
        let pack = world.path(name);
        let export = [
            "evidence", "export", "--format", "pack", "--kind", kind, "--out", &pack,
        ];
        assert_eq!(world.run(&export).await.exit, Exit::Ok);
        let (code, said) = verify_py(Path::new(&pack));
        assert_eq!(code, 0, "{kind}: {said}");
    }
    // WHEN every cell of a row is another, and whatever nobody signed is made to fit
    let pack = world.path("all");
    let pack = Path::new(&pack);
    let csv = fs::read_to_string(pack.join("evidence.csv")).unwrap();
    let titles: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let script = "import csv, sys\n\
        rows = list(csv.reader(open('evidence.csv', newline='')))\n\
        rows[1] = [cell + 'x' for cell in rows[1]]\n\
        csv.writer(open(sys.argv[1], 'w', newline='')).writerows(rows)\n";
    let edited = world.path("edited.csv");
    let ran = Command::new("python3")
        .args(["-c", script, &edited])
        .current_dir(pack)
        .status();
    assert!(ran.unwrap().success());
    let edited = fs::read(&edited).unwrap();
    let meta = fs::read_to_string(pack.join("evidence.csv.meta.json")).unwrap();
    let fitted = meta.replace(
        &Sha256::of(csv.as_bytes()).to_string(),
        &Sha256::of(&edited).to_string(),
    );
    change(pack, "evidence.csv", &edited);
    let (code, said) = verify_py(pack);
    assert_eq!(code, 13, "{said}");
    assert!(
        said.contains("is about another file than evidence.csv"),
        "{said}"
    );
    change(pack, "evidence.csv.meta.json", fitted.as_bytes());
    // THEN each column is named
    let (code, said) = verify_py(pack);
    assert_eq!(code, 13, "{said}");
    for title in &titles {
        assert!(
            said.contains(&format!("evidence.csv: {title} of record")),
            "{title}: {said}"
        );
    }
    assert!(titles.len() > 60, "{titles:?}");
    let ran = world.run(&["evidence", "verify", &world.path("all")]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    assert_a_row_left_out_is_missed(&world);
}

/// The one row of the pack of drills is taken out, and whatever nobody signed is made to fit.
fn assert_a_row_left_out_is_missed(world: &World) {
    let pack = world.path("drills");
    let pack = Path::new(&pack);
    let csv = fs::read_to_string(pack.join("evidence.csv")).unwrap();
    let header = csv.split_inclusive("\r\n").next().unwrap();
    let meta = fs::read_to_string(pack.join("evidence.csv.meta.json")).unwrap();
    let sum = |text: &str| Sha256::of(text.as_bytes()).to_string();
    let meta = meta.replace(&sum(&csv), &sum(header));
    let meta = meta.replace("\"rows\": 1", "\"rows\": 0");
    change(pack, "evidence.csv", header.as_bytes());
    change(pack, "evidence.csv.meta.json", meta.as_bytes());
    let (code, said) = verify_py(pack);
    assert_eq!(code, 13, "{said}");
    assert!(said.contains("the records of the period are 1"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_whether_it_is_proved_and_what_a_missing_region_means() {
    let mut world = world();
    drill(&world, "PASS").await;
    enrol(&world).await;
    world.beat();
    let status = |ran: &crate::world::Ran| ran.json()["sources"][0].clone();
    let ran = world.run(&["status"]).await;
    let source = status(&ran);
    assert_eq!(ran.exit.code(), 0, "{ran:?}");
    let proved = source["proved"].as_str().unwrap();
    assert!(
        proved.starts_with("yes, ") && proved.contains("due at"),
        "{proved}"
    );
    assert_eq!(source["proof"]["last_proved"]["verdict"], "PASS");
    assert!(
        source["restore_basis"].as_str().unwrap().contains("drill"),
        "{source}"
    );
    // WHEN a region is away, the source is not called healthy
    let ran = world
        .run_in(&[0, 1], &["status", "--region", "dir:/nonexistent/region"])
        .await;
    let source = status(&ran);
    assert_eq!((ran.exit.code(), &source["health"]), (1, &"warning".into()));
    assert!(
        source["next"].to_string().contains("could not be read"),
        "{source}"
    );
    // WHEN the next drill fails
    drill(&world, "FAIL").await;
    world.beat();
    let ran = world.run(&["status"]).await;
    let source = status(&ran);
    assert_eq!(ran.exit.code(), 2, "{ran:?}");
    let proved = source["proved"].as_str().unwrap();
    assert!(proved.contains("since then FAIL"), "{proved}");
    // A record that nobody vouched for proves nothing.
    assert!(
        source["next"].to_string().contains("the last drill failed"),
        "{source}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_its_disk_and_a_repository_without_members_say_so() {
    let world = world();
    let bare = world.dir.path().join("unmounted");
    fs::create_dir_all(bare.join("lost+found")).unwrap();
    let region = format!("dir:{}", bare.display());
    let ran = world.run_in(&[], &["list", "--region", &region]).await;
    assert_eq!(ran.exit, Exit::NoRepository, "{ran:?}");
    assert!(ran.err.contains("is the disk mounted?"), "{ran:?}");
    // AND no keyring is written where the disk should be
    world.restore("latest").await;
    let root = world.path("root");
    let enrol = [
        "keys", "enrol", "--all", "--root", &root, "--region", &region,
    ];
    let ran = world.run_in(&[0], &enrol).await;
    assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
    assert!(ran.out.contains("is the disk mounted?"), "{ran:?}");
    assert_eq!(
        fs::read_dir(&bare).unwrap().count(),
        1,
        "only what was there"
    );
    // WHEN an agent has asked and the root has signed nobody in
    let keyring = world.regions[0].path.join("meta/keyring");
    fs::remove_dir_all(&keyring).unwrap();
    let asked = world.regions[0].path.join("meta/enrol");
    fs::create_dir_all(&asked).unwrap();
    fs::write(asked.join("ab".repeat(16)), b"a request").unwrap();
    let ran = world.run_in(&[0], &["list"]).await;
    assert_eq!(ran.exit, Exit::NoRepository, "{ran:?}");
    assert!(ran.err.contains("keys enrol --all"), "{ran:?}");
}
