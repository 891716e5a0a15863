//! The agent as a whole, in this process: a live database, regions in memory, faults on demand.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use tidemark_agent::AgentError;
use tidemark_format::SourceName;
use world::{World, eventually};

fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_database_is_protected_into_two_regions() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(50, 2000);
    let agent = world.start();
    let points = agent.snapshot(Some("before")).await;
    assert_eq!(points[0].durable_in.len(), 2);
    shop.work(50, 2000);
    let points = agent.snapshot(None).await;
    agent.stop().await.unwrap();
    for region in 0..2 {
        let history = world.assert_sound(region, "app").await;
        let newest = history.newest_point().unwrap();
        assert!(newest.head.log_seq >= points[0].log_seq);
        let names: Vec<_> = history
            .newest()
            .unwrap()
            .points
            .iter()
            .filter_map(|p| p.head.name.clone())
            .collect();
        assert_eq!(names, ["before"]);
    }
    let keys = |region: usize| world.regions[region].names("meta/point/");
    assert_eq!(keys(0), keys(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_the_same_epoch_and_without_a_new_base() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    shop.work(20, 2000);
    let agent = world.start();
    let points = agent.snapshot(None).await;
    agent.stop().await.unwrap();
    let history = world.assert_sound(0, "app").await;
    assert_eq!(history.all_epochs().count(), 1);
    let bases: Vec<_> = history
        .newest()
        .unwrap()
        .bases
        .iter()
        .map(|base| &base.head)
        .collect();
    assert_eq!(bases.len(), 1, "{bases:#?}");
    assert!(history.newest_point().unwrap().head.log_seq >= points[0].log_seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_ships_what_it_had_sealed_and_goes_on() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    for _ in 0..5 {
        let agent = world.start();
        let point = agent.snapshot(None).await.remove(0);
        shop.work(20, 2000);
        agent
            .until("something new is sealed", |status| {
                status.sources[&app()].log_seq > Some(point.log_seq)
            })
            .await;
        agent.kill().await;
    }
    let agent = world.start();
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    for region in 0..2 {
        let history = world.assert_sound(region, "app").await;
        assert_eq!(history.all_epochs().count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_without_the_state_is_fenced() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(5, 100);
    let agent = world.start();
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    // The same key on a new state directory: the state was lost.
    let other = world.dir.path().join("other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::copy(world.state_dir().join("agent.key"), other.join("agent.key")).unwrap();
    let ended = world.start_on(&other).ended().await;
    match ended {
        Err(error @ (AgentError::Fenced { .. } | AgentError::Cloned(_))) => {
            assert_eq!(
                tidemark_agent::policy::code(&error).exit,
                tidemark_host::Exit::Fenced
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_source_costs_nothing_but_beats() {
    let world = World::new(&["a"]).await;
    let mut shop = world.shop("app");
    shop.work(5, 100);
    let agent = world.start();
    agent.snapshot(None).await;
    let region = &world.regions[0];
    let beats = || region.names("meta/beat/").len();
    let others = || region.store.keys().len() - beats();
    eventually("the log is at rest", async || {
        let before = others();
        let beat = beats();
        eventually("two more beats", async || {
            (beats() >= beat + 2).then_some(())
        })
        .await;
        (others() == before).then_some(())
    })
    .await;
    let (beat, before) = (beats(), others());
    eventually("three more beats", async || {
        (beats() >= beat + 3).then_some(())
    })
    .await;
    assert_eq!(others(), before);
    agent.stop().await.unwrap();
}
