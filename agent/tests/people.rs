//! What people do to a running agent: snapshots, pauses, retirement; and databases that vanish.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use tidemark_agent::Shutdown;
use tidemark_agent::control::{Request, Response};
use tidemark_agent::status_live::SourceState;
use tidemark_format::SourceName;
use tidemark_host::{Clock as _, SystemClock};
use world::{DEADLINE, World, eventually};

fn source(name: &str) -> SourceName {
    SourceName::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ships_nothing_and_captures_on_and_resume_catches_up() {
    let world = World::new(&["a"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    let pause = Request::Pause {
        source: None,
        for_ms: 3_600_000,
        reason: "tape move".to_owned(),
    };
    assert!(matches!(agent.ask(&pause).await, Response::Done { .. }));
    let before = world.regions[0].names("meta/log/");
    shop.work(20, 2000);
    let status = agent
        .until("the pause's work is in the spool", |status| {
            status.sources[&source("app")]
                .lanes
                .values()
                .all(|lane| lane.behind > 0)
        })
        .await;
    assert_eq!(status.sources[&source("app")].state, SourceState::Paused);
    assert!(status.alerts.iter().any(|alert| alert.code == "paused"));
    assert_eq!(world.regions[0].names("meta/log/"), before);
    let refused = agent
        .ask(&Request::snapshot(None, false, None, DEADLINE))
        .await;
    assert!(matches!(refused, Response::Refused { .. }), "{refused:?}");
    agent.ask(&Request::Resume { source: None }).await;
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_by_itself_and_survives_a_restart() {
    let world = World::new(&["a"]).await;
    let mut shop = world.shop("app");
    shop.work(5, 100);
    let agent = world.start();
    agent.snapshot(None).await;
    let pause = Request::Pause {
        source: None,
        for_ms: 3_600_000,
        reason: "an hour".to_owned(),
    };
    agent.ask(&pause).await;
    agent.stop().await.unwrap();
    let agent = world.start();
    agent
        .until("it is still paused", |status| {
            status.sources[&source("app")].state == SourceState::Paused
        })
        .await;
    world.clock.pass(std::time::Duration::from_secs(3_601));
    agent
        .until("it goes on by itself", |status| {
            status.sources[&source("app")].state == SourceState::Capturing
        })
        .await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_source_ends_with_a_last_point_and_is_not_captured_again() {
    let mut world = World::new(&["a"]).await;
    world.sources.push("other".to_owned());
    let mut shop = world.shop("app");
    let _other = world.shop("other");
    shop.work(20, 2000);
    let agent = world.start();
    agent.snapshot(None).await;
    let retired = agent
        .ask(&Request::Retire {
            source: source("app"),
        })
        .await;
    assert!(matches!(retired, Response::Points { .. }), "{retired:?}");
    agent.stop().await.unwrap();
    let history = world.assert_sound(0, "app").await;
    let facts = &history.newest_point().unwrap().head.facts;
    assert_eq!(facts.get("retired"), Some(&true.into()));
    let agent = world.start();
    let status = agent
        .until("the other one is captured", |status| {
            status.sources[&source("other")].state == SourceState::Capturing
        })
        .await;
    assert_eq!(status.sources[&source("app")].state, SourceState::Retired);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_a_snapshot_captures_once() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    for _ in 0..2 {
        shop.work(20, 2000);
        let config = world.config_for(&world.state_dir());
        let components = world.components_for(&config).unwrap();
        let request = Request::snapshot(None, false, Some("once".to_owned()), DEADLINE);
        let points =
            tidemark_agent::snapshot_once(&config, components, request, Shutdown::default())
                .await
                .unwrap();
        assert_eq!(points[0].durable_in.len(), 2);
    }
    world.assert_sound(0, "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_told_and_the_others_go_on() {
    let mut world = World::new(&["a"]).await;
    world.sources.push("late".to_owned());
    let (_shop, agent) = world.protect();
    let only_app = Request::snapshot(Some(source("app")), false, None, DEADLINE);
    assert!(matches!(
        agent.ask(&only_app).await,
        Response::Points { .. }
    ));
    let status = agent
        .until("the missing one waits", |status| {
            status.sources[&source("late")].state == SourceState::WaitingForDatabase
        })
        .await;
    assert!(
        status.alerts.iter().any(|alert| alert.about == "late"),
        "{:?}",
        status.alerts
    );
    let mut late = world.shop("late");
    late.work(5, 100);
    agent
        .until("it is captured once it is there", |status| {
            status.sources[&source("late")].point.is_some()
        })
        .await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_an_agent_that_stops_is_told_so_at_once() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    for at in 0..2 {
        world.cut_off(at);
    }
    shop.work(20, 2000);
    agent.shutdown.stop.cancel();
    // Stopping takes as long as the regions stay away.
    let begun = SystemClock.monotonic();
    let refused = eventually("a snapshot is refused", async || {
        let request = Request::snapshot(None, false, None, DEADLINE);
        match agent.ask(&request).await {
            Response::Refused { code, message } => Some((code, message)),
            _ => None,
        }
    })
    .await;
    assert_eq!(refused.0, "TM0106", "{}", refused.1);
    assert!(refused.1.contains("is stopping"), "{}", refused.1);
    assert!(refused.1.contains("spool"), "{}", refused.1);
    let status = agent.status().await;
    assert!(status.sources.contains_key(&source("app")));
    let took = SystemClock.monotonic().since(begun);
    assert!(took < DEADLINE / 3, "{took:?}");
    for at in 0..2 {
        world.bring_back(at);
    }
    agent.ended().await.unwrap();
}
