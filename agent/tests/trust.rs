//! A running agent learns what the root and other writers have said since it began: enrolment, recipients,
//! revocation, take-overs; at a cost that doesn't grow with its sources.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use tidemark_agent::control::{Request, Response};
use tidemark_agent::status_live::SourceState;
use tidemark_agent::{AgentError, bootstrap, policy};
use tidemark_format::envelope::Envelope;
use tidemark_format::heads::{Revocation, Role, SessionHead};
use tidemark_format::{Hash, Key, KeyId, SourceName, keys};
use tidemark_host::{Clock as _, Exit, RngExt as _, SystemRng};
use tidemark_ledger::Keyring;
use tidemark_ledger::custody::{Change, NewKeys, amend, first_keyring, member};
use tidemark_storage::wrap::{Fault, When};
use tidemark_storage::{CreateStore as _, DeleteStore as _, Op, ReadStore as _};
use world::{World, eventually};

/// Longer than the longest time between two looks round the regions.
const A_LOOK: Duration = Duration::from_secs(3601);

fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

/// Signs the next version of the keyring into all regions.
async fn amended(world: &World, change: Change) {
    let trust = world.keys.root.trust();
    let keyring = Keyring::load(&*world.regions[0].store, &trust)
        .await
        .unwrap();
    let (put, now) = (SystemRng.id(), world.clock.now());
    let signed = amend(&keyring, &world.keys.root, vec![change], put, now).unwrap();
    for region in &world.regions {
        signed.create(&*region.store).await.unwrap();
    }
}

/// To whom each session of a region was sealed, newest last.
async fn sealed_to(world: &World, region: usize) -> Vec<BTreeSet<KeyId>> {
    let store = &world.regions[region].store;
    let mut found = Vec::new();
    for name in world.regions[region].names(keys::SESSIONS) {
        let bytes = store.get(&Key::new(name).unwrap()).await.unwrap();
        let (_, head) = Envelope::open::<SessionHead>(&bytes).unwrap();
        let recipients = head.recipients.iter().map(|to| to.recipient).collect();
        found.push((head.at, recipients));
    }
    found.sort();
    found
        .into_iter()
        .map(|(_, recipients)| recipients)
        .collect()
}

/// A key that nobody enrolled, in the agent's state directory.
fn forget_the_key(world: &World) -> tidemark_format::sign::SigningKey {
    let path = world.state_dir().join("agent.key");
    std::fs::remove_file(&path).unwrap();
    bootstrap::create_signing_key(&path, &SystemRng).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_enrolled_waits_and_begins_by_itself_once_it_is() {
    let world = World::new(&["a", "b"]).await;
    let key = forget_the_key(&world);
    let (_shop, agent) = world.protect();
    let status = agent
        .until("it says what it waits for", |status| {
            status.alerts.iter().any(|alert| alert.code == "TM1208")
        })
        .await;
    let alert = status.alerts.iter().find(|alert| alert.code == "TM1208");
    let id = key.public().id();
    let command = format!("tidemark-restore keys enrol {id} --root FILE.root --region dir:");
    assert!(alert.unwrap().message.contains(&command), "{alert:?}");
    let request = Request::snapshot(None, false, None, world::DEADLINE);
    match agent.ask(&request).await {
        Response::Refused { code, message } => {
            assert_eq!(code, "TM1208");
            assert!(message.contains(&command), "{message}");
        }
        other => panic!("{other:?}"),
    }
    for region in &world.regions {
        assert_eq!(
            region.names("meta/enrol/"),
            [keys::enrolment(id).to_string()]
        );
        for nothing in ["meta/claim/", "meta/log/", "meta/beat/", "data/"] {
            assert!(region.names(nothing).is_empty(), "{nothing}");
        }
    }
    let host = member(Role::Agent, key.public(), "test".into(), world.clock.now());
    amended(&world, Change::AddMember(host)).await;
    agent
        .until("it captures", |status| {
            status.sources[&app()].state == SourceState::Capturing
        })
        .await;
    agent.snapshot(None).await;
    let status = agent.status().await;
    assert!(status.alerts.is_empty(), "{:?}", status.alerts);
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_recipient_is_sealed_to_no_more_and_a_new_one_is_from_the_next_look_on() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    let (lost, kept) = (&world.keys.identity.entry(), &world.keys.escrow.entry());
    let both = BTreeSet::from([lost.key.id(), kept.key.id()]);
    assert_eq!(sealed_to(&world, 0).await, std::slice::from_ref(&both));
    let revocation = Revocation::new(world.clock.now(), "lost".into());
    let id = lost.key.id();
    amended(&world, Change::RevokeRecipient { id, revocation }).await;
    let other = NewKeys::generate(&SystemRng, world.clock.now()).identity;
    let mut new = other.entry();
    // A recovery key of this repository, made elsewhere.
    new.key.repo = lost.key.repo;
    new.key.root = lost.key.root;
    amended(&world, Change::AddRecipient(new.clone())).await;
    world.clock.pass(A_LOOK);
    let wanted = BTreeSet::from([kept.key.id(), new.key.id()]);
    // A look that is due begins at once; what is sealed meanwhile may still be the old session's.
    for _ in 0..200 {
        shop.work(1, 100);
        agent.snapshot(None).await;
        if sealed_to(&world, 1).await.last() == Some(&wanted) {
            break;
        }
    }
    assert_eq!(sealed_to(&world, 0).await, [both, wanted]);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_key_is_revoked_stops_and_says_so_at_once_and_at_every_start() {
    let world = World::new(&["a", "b"]).await;
    let (_shop, agent) = world.protect();
    agent.snapshot(None).await;
    let key = bootstrap::load_signing_key(&world.state_dir().join("agent.key")).unwrap();
    let revocation = Revocation::new(world.clock.now(), "stolen".into());
    let key = key.public();
    amended(&world, Change::RevokeMember { key, revocation }).await;
    world.clock.pass(A_LOOK);
    let mut running = Some(agent);
    for _ in 0..2 {
        let agent = running.take().unwrap_or_else(|| world.start());
        let error = agent.ended().await.expect_err("it must not go on");
        assert!(matches!(error, AgentError::Revoked { .. }), "{error}");
        assert!(error.to_string().contains("stolen"), "{error}");
        let code = policy::code(&error);
        assert_eq!((code.id, code.exit), ("TM1210", Exit::Key));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_notices_a_take_over_at_its_next_look() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    let old = world.start();
    old.snapshot(None).await;
    let config = world.config_for(&world.other_state_dir());
    let components = world.components_for(&config).unwrap();
    tidemark_agent::take_over(&config, components, None)
        .await
        .unwrap();
    world.clock.pass(A_LOOK);
    let error = old.ended().await.expect_err("it must not go on");
    assert_eq!(policy::code(&error).exit, Exit::Fenced, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_no_enrolled_agent_signed_fences_nobody_who_runs() {
    let world = World::new(&["a"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    let forged = keys::claim(&app(), tidemark_format::Epoch(7));
    let store = &world.regions[0].store;
    store
        .create(&forged, "no claim".into(), &SystemRng.id())
        .await
        .unwrap();
    let looks = count(&world, Op::List, "meta/claim/");
    world.clock.pass(A_LOOK);
    eventually("it has looked", async || (looks() > 0).then_some(())).await;
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
}

/// Counts requests to the first region from now on.
fn count(world: &World, op: Op, prefix: &str) -> impl Fn() -> u64 {
    let faults = world.regions[0].faults.clone();
    faults.clear();
    let before = faults.struck();
    faults.add(op, prefix, When::Always, Fault::Delay(Duration::ZERO));
    move || faults.struck() - before
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_costs_two_listings_however_many_sources_there_are() {
    let mut world = World::new(&["a"]).await;
    // Nobody looks by himself meanwhile: that is every fifteen beats.
    world.settings = world
        .settings
        .replace("beat_every = \"1s\"", "beat_every = \"4s\"");
    world.sources = (0..20).map(|number| format!("app-{number}")).collect();
    let mut shops: Vec<_> = world.sources.iter().map(|name| world.shop(name)).collect();
    for shop in &mut shops {
        shop.work(2, 100);
    }
    let agent = world.start();
    agent.snapshot(None).await;
    let claims = count(&world, Op::List, "meta/claim/");
    world.clock.pass(A_LOOK);
    eventually("it has looked", async || (claims() > 0).then_some(())).await;
    assert_eq!(claims(), 1);
    let keyrings = count(&world, Op::List, "meta/keyring/");
    world.clock.pass(A_LOOK);
    eventually("it has looked again", async || {
        (keyrings() > 0).then_some(())
    })
    .await;
    assert_eq!(keyrings(), 1);
    let looks = || {
        agent.ask(&Request::Reload {
            config: Hash([0; 32]),
        })
    };
    // Behind the one that may still be at it.
    assert!(matches!(looks().await, Response::Done { .. }));
    let reads = count(&world, Op::Get, "meta/");
    assert!(matches!(looks().await, Response::Done { .. }));
    assert_eq!(reads(), 1, "the region's marker, and nothing else");
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_comes_while_the_agent_looks_round_gets_a_look_of_its_own() {
    let mut world = World::new(&["a"]).await;
    world.settings = world
        .settings
        .replace("beat_every = \"1s\"", "beat_every = \"4s\"");
    let (_shop, agent) = world.protect();
    agent.snapshot(None).await;
    // GIVEN a look that is held in its middle
    let faults = world.regions[0].faults.clone();
    let (keyrings, before) = ("meta/keyring/", faults.struck());
    faults.add(Op::List, keyrings, When::First(1), Fault::HangUntilReleased);
    world.clock.pass(A_LOOK);
    eventually("it looks round", async || {
        (faults.struck() > before).then_some(())
    })
    .await;
    // WHEN somebody asks for one
    let looks = count(&world, Op::List, keyrings);
    let reload = Request::Reload {
        config: Hash([0; 32]),
    };
    let (answer, ()) = tokio::join!(agent.ask(&reload), async {
        // Time for the question to arrive; if it comes later, the test shows nothing and passes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        faults.release();
    });
    // THEN the answer is of a look that began after that
    assert!(matches!(answer, Response::Done { .. }), "{answer:?}");
    assert_eq!(looks(), 1);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_what_each_region_showed() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(5, 100);
    let agent = world.start();
    agent.snapshot(None).await;
    let host = NewKeys::generate(&SystemRng, world.clock.now())
        .root
        .key
        .public();
    let another = member(Role::Drill, host, "drill".into(), world.clock.now());
    amended(&world, Change::AddMember(another)).await;
    let same = Request::Reload {
        config: world.config().hash,
    };
    let Response::Done { message } = agent.ask(&same).await else {
        panic!("not done");
    };
    for said in [
        "a: keyring version 2",
        "b: keyring version 2",
        "2 recipients",
    ] {
        assert!(message.contains(said), "{message}");
    }
    assert!(!message.contains("has changed"), "{message}");
    let changed = Request::Reload {
        config: Hash([1; 32]),
    };
    let Response::Done { message } = agent.ask(&changed).await else {
        panic!("not done");
    };
    assert!(message.contains("has changed"), "{message}");
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_whose_keyrings_disagree_are_told_and_no_version_is_copied_between_them() {
    // GIVEN a second region with a keyring that the same root signed apart, and a newer version in the first.
    let world = World::new(&["a", "b"]).await;
    let (root, now) = (&world.keys.root, world.clock.now());
    let store = &world.regions[1].store;
    let known = Keyring::load(&**store, &root.trust()).await.unwrap();
    let (recipients, members) = (&known.head().recipients, known.members().to_vec());
    let other = first_keyring(root, recipients.clone(), members, SystemRng.id(), now).unwrap();
    store.delete(&other.key).await.unwrap();
    other.create(&**store).await.unwrap();
    let host = NewKeys::generate(&SystemRng, now).root.key.public();
    let another = Change::AddMember(member(Role::Drill, host, "drill".into(), now));
    let next = amend(&known, root, vec![another], SystemRng.id(), now).unwrap();
    next.create(&*world.regions[0].store).await.unwrap();
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    // WHEN the agent runs.
    let agent = world.start();
    agent.snapshot(None).await;
    world.clock.pass(A_LOOK);
    let status = agent
        .until("it says that they disagree", |status| {
            status.alerts.iter().any(|alert| alert.code == "TM1211")
        })
        .await;
    let alert = status.alerts.iter().find(|alert| alert.code == "TM1211");
    let message = &alert.unwrap().message;
    assert!(message.contains("from version 1 on"), "{message}");
    agent.stop().await.unwrap();
    // THEN each region keeps its own keyring, and both hold what was captured.
    assert_eq!(world.regions[1].names(keys::KEYRINGS), [other.key.as_str()]);
    assert_eq!(store.get(&other.key).await.unwrap(), other.bytes);
    assert_eq!(world.regions[0].names(keys::KEYRINGS).len(), 2);
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
}
