//! Two agents on one source, a copied or an old state directory: exactly one goes on, the other ends
//! with exit code 11, and nothing that was acknowledged is lost.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use std::path::{Path, PathBuf};

use tidemark_agent::policy;
use tidemark_format::SourceName;
use tidemark_host::Exit;
use tidemark_storage::Op;
use tidemark_storage::wrap::{Fault, FaultControl, When};
use world::{Agent, World, eventually};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn copy_state(world: &World, name: &str) -> PathBuf {
    let to = world.dir.path().join(name);
    copy(&world.state_dir(), &to);
    to
}

async fn ends_fenced(agent: Agent) {
    let error = agent.ended().await.expect_err("it must not go on");
    assert_eq!(policy::code(&error).exit, Exit::Fenced, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_agents_state_ends_and_the_agent_goes_on() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    let copied = copy_state(&world, "copy");
    eventually("the agent beats once more", async || {
        (world.regions[0].names("meta/beat/").len() > 2).then_some(())
    })
    .await;
    ends_fenced(world.start_on(&copied)).await;
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_past_the_stray_beat_of_a_copy_that_is_fenced() {
    let mut world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    // From now on the agent's beats are held up, and those of whoever begins later are not.
    let held: Vec<FaultControl> = world
        .regions
        .iter_mut()
        .map(|region| std::mem::replace(&mut region.faults, FaultControl::seeded(8)))
        .collect();
    let beat = "meta/beat/";
    for faults in &held {
        faults.add(Op::Create, beat, When::Always, Fault::HangUntilReleased);
    }
    let copied = copy_state(&world, "copy");
    // The log goes on past what the copy knows, and no beat is made meanwhile.
    shop.work(20, 2000);
    agent.snapshot(None).await;
    let beats = || world.regions[0].names("meta/beat/").len();
    let before = beats();
    // The copy takes the agent's next beats, its first and its last, and is fenced.
    ends_fenced(world.start_on(&copied)).await;
    let taken = beats();
    assert!(taken > before, "the copy took a beat's name");
    for faults in &held {
        faults.clear();
        faults.release();
    }
    let status = eventually("the agent meets the copy's beat", async || {
        let status = agent.status().await;
        let told = status.alerts.iter().any(|alert| alert.code == "TM1102");
        told.then_some(status)
    })
    .await;
    let told = status.alerts.iter().find(|alert| alert.code == "TM1102");
    let message = &told.unwrap().message;
    assert!(message.contains("this agent's own key"), "{message}");
    assert!(message.contains("last seen"), "{message}");
    eventually("the agent beats again", async || {
        (beats() > taken).then_some(())
    })
    .await;
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_on_an_old_copy_of_its_state_does_not_write() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    let old = copy_state(&world, "old");
    let agent = world.start();
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    let before = world.regions[0].store.keys();
    ends_fenced(world.start_on(&old)).await;
    assert_eq!(world.regions[0].store.keys(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_ends_the_old_agent_and_loses_nothing_acknowledged() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    let old = world.start();
    let acknowledged = old.snapshot(Some("acknowledged")).await.remove(0);
    let other = world.other_state_dir();
    let config = world.config_for(&other);
    let components = world.components_for(&config).unwrap();
    let taken = tidemark_agent::take_over(&config, components, None)
        .await
        .unwrap();
    assert_eq!(taken[0].1.epoch.0, 2);
    shop.work(20, 2000);
    ends_fenced(old).await;
    let new = world.start_on(&other);
    new.snapshot(None).await;
    new.stop().await.unwrap();
    for at in 0..2 {
        let history = world.assert_sound(at, "app").await;
        let epochs: Vec<u32> = history.epochs().map(|epoch| epoch.epoch.0).collect();
        assert_eq!(epochs, [1, 2]);
        let first = history.epochs().next().unwrap();
        assert!(first.names.contains_key(&acknowledged.log_seq));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_lagged_at_a_take_over_keeps_a_hole_and_is_whole_for_new_instants() {
    let world = World::with("durable_in = 1\n").await;
    let (mut shop, old) = world.protect();
    old.snapshot(None).await;
    eventually("b has the base and a point", async || {
        (!world.regions[1].names("meta/point/").is_empty()).then_some(())
    })
    .await;
    world.cut_off(1);
    shop.work(20, 2000);
    let lagging = old.snapshot(None).await.remove(0);
    old.kill().await;
    world.bring_back(1);
    let other = world.other_state_dir();
    let config = world.config_for(&other);
    let components = world.components_for(&config).unwrap();
    tidemark_agent::take_over(&config, components, None)
        .await
        .unwrap();
    let new = world.start_on(&other);
    shop.work(20, 2000);
    let first = new.snapshot(None).await.remove(0);
    eventually("b has a point of the new epoch", async || {
        let history = world.history(1, "app").await;
        let newest = history.newest_point()?;
        (newest.head.epoch.0 == 2 && newest.head.seq >= first.seq).then_some(())
    })
    .await;
    new.stop().await.unwrap();
    world.assert_sound(0, "app").await;
    let history = world.history(1, "app").await;
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
    // What the old agent had not shipped there: up to where its epoch ended, and nothing after.
    let missing = history.missing();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].epoch.0, 1);
    assert!(missing[0].first <= lagging.log_seq && lagging.log_seq <= missing[0].last);
    // The new epoch's base rests on nothing before the hole.
    let newest = history.newest().unwrap();
    let rests_on = newest.base(&history.newest_point().unwrap().head.base);
    assert!(rests_on.unwrap().head.parent.is_none());
    assert_eq!(newest.first_seq().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_no_region_resumes_its_epoch_and_ships_later() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    agent.kill().await;
    for at in 0..world.regions.len() {
        world.cut_off(at);
    }
    let agent = world.start();
    shop.work(20, 2000);
    let app = SourceName::new("app").unwrap();
    let before = agent.status().await.sources[&app].log_seq;
    shop.work(20, 2000);
    agent
        .until("the log goes on in the spool", |status| {
            status
                .sources
                .get(&app)
                .is_some_and(|live| live.log_seq > before)
        })
        .await;
    for region in &world.regions {
        region.faults.clear();
    }
    agent.snapshot(None).await;
    agent
        .until(
            "nothing waits and nothing is counted as waiting",
            |status| {
                let mut lanes = status.sources[&app].lanes.values();
                lanes.all(|lane| (lane.behind, lane.backlog_bytes) == (0, 0))
            },
        )
        .await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        let history = world.assert_sound(at, "app").await;
        assert_eq!(history.all_epochs().count(), 1);
    }
}
