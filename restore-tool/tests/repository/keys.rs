//! Keys from their making to their revocation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tidemark_format::PutId;
use tidemark_format::heads::Role;
use tidemark_host::{Exit, RngExt as _, SystemRng};
use tidemark_ledger::custody::{RootFile, enrol_request, new_signing_key};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_are_private_never_overwritten_and_read_back() {
    let world = World::empty(1);
    let file = world.path("new");
    let ran = world.run(&["keys", "new", "--out", &file]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let made = ran.json();
    assert!(made["recipient"].as_str().unwrap().starts_with("tmr1"));
    assert_ne!(made["recipient"], made["escrow_recipient"]);
    for suffix in ["", ".escrow", ".root"] {
        let mode = fs::metadata(format!("{file}{suffix}"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
    assert!(!ran.out.contains("tmi1"), "no secret is printed");
    let root = RootFile::read(format!("{file}.root").as_ref()).unwrap();
    assert_eq!(root.id().to_string(), made["root"].as_str().unwrap());
    let again = world.run(&["keys", "new", "--out", &file]).await;
    assert_eq!(again.exit, Exit::Usage, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_from_a_file_protects_the_identity_and_not_the_escrow() {
    let world = World::empty(1);
    let (file, passphrase) = (world.path("sealed"), world.path("passphrase"));
    fs::write(&passphrase, "correct horse\n").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let words = [
        "keys",
        "new",
        "--out",
        &file,
        "--passphrase",
        "--passphrase-file",
        &passphrase,
    ];
    let ran = world.run(&words).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .contains("sealed = argon2id")
    );
    assert!(
        fs::read_to_string(format!("{file}.escrow"))
            .unwrap()
            .contains("secret = tmi1")
    );
    let ran = world.run(&["keys", "check", "--identity", &file]).await;
    assert_eq!(ran.exit, Exit::Key, "the passphrase is missing: {ran:?}");
}

fn private(path: &str, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_file_alone_protects_and_its_line_end_is_no_part_of_it() {
    let world = World::empty(1);
    for (number, text) in ["correct horse\n", "correct horse\r\n", "correct horse"]
        .iter()
        .enumerate()
    {
        let file = world.path(&format!("sealed-{number}"));
        let passphrase = world.path(&format!("passphrase-{number}"));
        private(&passphrase, text);
        let words = [
            "keys",
            "new",
            "--out",
            &file,
            "--passphrase-file",
            &passphrase,
        ];
        let ran = world.run(&words).await;
        assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("sealed = argon2id") && !text.contains("tmi1"));
        assert!(tidemark_open::Identity::parse(&text, Some("correct horse")).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passphrase_that_is_not_there_is_refused_before_a_file_is_made() {
    let world = World::empty(1);
    let (file, passphrase) = (world.path("sealed"), world.path("passphrase"));
    for empty in ["", "\n", "\nsecond line\n"] {
        private(&passphrase, empty);
        let words = [
            "keys",
            "new",
            "--out",
            &file,
            "--passphrase-file",
            &passphrase,
        ];
        let ran = world.run(&words).await;
        assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
        assert!(ran.err.contains("is empty"), "{ran:?}");
    }
    let ran = world
        .run(&["keys", "new", "--out", &file, "--passphrase"])
        .await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    assert!(ran.err.contains("--passphrase-file FILE"), "{ran:?}");
    assert!(!ran.err.contains("--yes"), "{ran:?}");
    assert!(fs::metadata(&file).is_err() && fs::metadata(format!("{file}.root")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_identity_is_enrolled_by_its_public_key_and_asks_for_nothing_else() {
    let world = World::new(2);
    let file = world.path("drill.key");
    let any = world.keys.escrow.recipient().to_string();
    let made = world
        .run(&["keys", "new", "--repository", &any, "--out", &file])
        .await;
    assert_eq!(made.exit, Exit::Ok, "{made:?}");
    let made = made.json();
    assert_eq!(made["name"], "drill");
    assert_eq!(made["repository"], world.repo().to_string());
    assert!(fs::metadata(format!("{file}.root")).is_err());
    // Somebody asks to sign at the same time: adding a recipient doesn't let it in.
    let rng = SystemRng::shared();
    let agent = new_signing_key(rng.as_ref());
    let request = enrol_request(
        world.repo(),
        Role::Agent,
        "db",
        &agent,
        rng.id(),
        world.now(),
    )
    .unwrap();
    let path = world.regions[0].file(request.key.as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &request.bytes).unwrap();
    let (root, word) = (world.path("root"), made["recipient"].as_str().unwrap());
    let enrol = [
        "keys",
        "enrol",
        "--recipient",
        word,
        "--name",
        "drill host",
        "--root",
        &root,
    ];
    let ran = world.run(&enrol).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["version"], 2);
    let list = world.run(&["keys", "list"]).await.json();
    assert_eq!(list["recipients"][2]["name"], "drill host");
    assert_eq!(list["recipients"][2]["recipient"], word);
    let requests = list["requests"].as_array().unwrap();
    let role = |role: &str| requests.iter().filter(|r| r["role"] == role).count();
    // Both identities ask to sign evidence, and nobody was answered beside the recipient.
    assert_eq!((role("agent"), role("drill")), (1, 2), "{list}");
    assert_eq!(list["members"].as_array().unwrap().len(), 1);
    let bytes = |region: usize| fs::read(&world.regions[region].files("meta/keyring/")[1]).unwrap();
    assert_eq!(bytes(0), bytes(1));
    // Again is no second entry.
    let again = world.run(&enrol).await;
    assert_eq!(again.exit, Exit::Ok, "{again:?}");
    assert_eq!(again.json()["version"], 2);
    assert!(again.out.contains("was a recipient before"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_of_another_repository_and_a_file_that_is_no_root_are_refused() {
    let world = World::new(1);
    let other = world.path("other");
    let made = world.run(&["keys", "new", "--out", &other]).await.json();
    let (root, word) = (world.path("root"), made["recipient"].as_str().unwrap());
    let ran = world
        .run(&["keys", "enrol", "--recipient", word, "--root", &root])
        .await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    assert!(ran.err.contains("keys new --repository"), "{ran:?}");
    let ran = world
        .run(&["keys", "enrol", "--recipient", word, "--root", &other])
        .await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    assert!(ran.err.contains("it is a recovery identity"), "{ran:?}");
    let ran = world.run(&["keys", "check", "--identity", &root]).await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    assert!(ran.err.contains("root key's file"), "{ran:?}");
    assert_eq!(world.regions[0].files("meta/keyring/").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_recipient_stays_and_keys_are_named_by_their_first_digits() {
    let world = World::new(1);
    let root = world.path("root");
    let revoke = |key: String| {
        let words = [
            "keys", "revoke", &key, "--reason", "lost", "--root", &root, "--yes",
        ];
        words.map(str::to_owned)
    };
    let run = async |words: [String; 8]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        world.run(&words).await
    };
    let short = |key: tidemark_format::KeyId| key.to_string()[..8].to_owned();
    let escrow = world.keys.escrow.recipient().id();
    let ran = run(revoke(short(escrow))).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    // The same again changes nothing.
    let ran = run(revoke(short(escrow))).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.out.contains("was revoked before"), "{ran:?}");
    let identity = world.keys.identity.recipient().id();
    let ran = run(revoke(short(identity))).await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    assert!(
        ran.err.contains("is the last one") && ran.err.contains("TM1212"),
        "{ran:?}"
    );
    assert!(!ran.err.contains("trusted"), "{ran:?}");
    assert_eq!(world.regions[0].files("meta/keyring/").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keyrings_that_were_signed_apart_are_found_by_verify_and_built_on_by_nobody() {
    // GIVEN two regions with second versions that were signed while the other one was away.
    let mut world = World::new(2);
    world.insert(100);
    world.base();
    world.point(None);
    let root = world.path("root");
    let add = async |region: usize| {
        let file = world.path(&format!("drill-{region}"));
        let any = world.keys.escrow.recipient().to_string();
        let made = world
            .run(&["keys", "new", "--repository", &any, "--out", &file])
            .await;
        let word = made.json()["recipient"].as_str().unwrap().to_owned();
        let enrol = ["keys", "enrol", "--recipient", &word, "--root", &root];
        assert_eq!(world.run_in(&[region], &enrol).await.exit, Exit::Ok);
        word
    };
    add(0).await;
    let word = add(1).await;
    // THEN nothing more is signed into both, and the error is no riddle.
    let escrow = world.keys.escrow.recipient().id().to_string();
    for words in [
        &[
            "keys", "revoke", &escrow, "--reason", "x", "--yes", "--root", &root,
        ][..],
        &["keys", "enrol", "--recipient", &word, "--root", &root],
    ] {
        let ran = world.run(words).await;
        assert_eq!(ran.exit, Exit::Key, "{ran:?}");
        assert!(ran.err.contains("TM1211"), "{ran:?}");
        assert!(ran.err.contains("from version 2 on"), "{ran:?}");
    }
    for region in &world.regions {
        assert_eq!(region.files("meta/keyring/").len(), 2);
    }
    let ran = world.run(&["verify", "--quick"]).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
    let damages = &ran.json()["damages"];
    assert_eq!(damages.as_array().unwrap().len(), 1, "{ran:?}");
    assert_eq!(damages[0]["object"], "meta/keyring/00000002");
    for region in 0..2 {
        let ran = world.run_in(&[region], &["verify"]).await;
        assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_proves_that_the_identity_opens_what_is_written_now() {
    let mut world = World::new(1);
    world.insert(100);
    let ran = world.run(&["keys", "check"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.json()["opens"][0].as_str().unwrap().contains("app"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_enrolment_makes_the_keyring_in_every_region() {
    let world = World::empty(2);
    // Fresh keys and two empty places.
    let file = world.path("fresh");
    assert_eq!(
        world.run(&["keys", "new", "--out", &file]).await.exit,
        Exit::Ok
    );
    let root = RootFile::read(format!("{file}.root").as_ref()).unwrap();
    for region in &world.regions {
        fs::remove_dir_all(&region.path).unwrap();
        fs::create_dir(&region.path).unwrap();
    }
    let root_file = format!("{file}.root");
    let enrol = ["keys", "enrol", "--all", "--root", &root_file];
    let ran = world.run(&enrol).await;
    assert_eq!(ran.exit, Exit::Key, "nobody asks: {ran:?}");
    let rng = SystemRng::shared();
    let agent = new_signing_key(rng.as_ref());
    let put: PutId = rng.id();
    let request =
        enrol_request(root.repo, Role::Agent, "db-host", &agent, put, world.now()).unwrap();
    // The agent reached one region only.
    let path = world.regions[1].file(request.key.as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &request.bytes).unwrap();
    let ran = world.run(&enrol).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["regions"].as_array().unwrap().len(), 2);
    let ran = world.run(&["keys", "list", "--identity", &file]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let list = ran.json();
    assert_eq!(list["members"][0]["key"], agent.public().id().to_string());
    assert_eq!(list["recipients"].as_array().unwrap().len(), 2);
    assert_eq!(list["requests"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn list_names_members_recipients_and_whoever_asks() {
    let world = World::new(1);
    let rng = SystemRng::shared();
    let agent = new_signing_key(rng.as_ref());
    let request = enrol_request(
        world.repo(),
        Role::Agent,
        "second-host",
        &agent,
        rng.id(),
        world.now(),
    )
    .unwrap();
    let path = world.regions[0].file(request.key.as_str());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, &request.bytes).unwrap();
    let list = world.run(&["keys", "list"]).await.json();
    assert_eq!(list["root_pinned"], true);
    assert_eq!(list["members"][0]["name"], "db-host");
    assert_eq!(list["recipients"][1]["name"], "escrow");
    assert_eq!(list["requests"][0]["name"], "second-host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_gets_the_keyrings_it_missed() {
    let world = World::new(2);
    let escrow = world.keys.escrow.recipient().id().to_string();
    let agent = world.agent.public().id().to_string();
    let root = world.path("root");
    let revoke = |key: String| {
        [
            "keys".into(),
            "revoke".into(),
            key,
            "--reason".into(),
            "lost".into(),
            "--root".into(),
            root.clone(),
            "--yes".into(),
        ]
    };
    let words = revoke(escrow);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(world.run_in(&[0], &words).await.exit, Exit::Ok);
    let words = revoke(agent);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ran = world.run(&words).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert_eq!(ran.json()["version"], 3);
    assert_eq!(world.regions[1].files("meta/keyring/").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_asks_and_needs_the_right_root() {
    let world = World::new(1);
    let agent = world.agent.public().id().to_string();
    let ran = world
        .run(&[
            "keys",
            "revoke",
            &agent,
            "--reason",
            "x",
            "--root",
            &world.path("root"),
        ])
        .await;
    assert_eq!(ran.exit, Exit::Usage, "{ran:?}");
    let other = world.path("other");
    assert_eq!(
        world.run(&["keys", "new", "--out", &other]).await.exit,
        Exit::Ok
    );
    let ran = world
        .run(&[
            "keys",
            "revoke",
            &agent,
            "--reason",
            "x",
            "--yes",
            "--root",
            &format!("{other}.root"),
        ])
        .await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
    let ran = world
        .run(&[
            "keys",
            "revoke",
            &"0".repeat(32),
            "--reason",
            "x",
            "--yes",
            "--root",
            &world.path("root"),
        ])
        .await;
    assert_eq!(ran.exit, Exit::Key, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_card_tells_everything_but_secrets() {
    let world = World::new(2);
    let ran = world.run(&["keys", "card"]).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let card = ran.json();
    assert_eq!(card["regions"].as_array().unwrap().len(), 2);
    assert_eq!(card["root"], world.keys.root.id().to_string());
    assert!(!ran.out.contains("tmi1"));
}
