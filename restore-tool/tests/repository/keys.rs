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
