//! A wall clock that steps back under a running agent: people are told, and nothing else happens.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use tidemark_agent::control::{Request, Response};
use tidemark_agent::metrics::Metrics;
use tidemark_agent::status_live::{LiveStatus, SourceState};
use tidemark_format::SourceName;
use world::World;

const HOUR: i64 = 3600;

fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

fn alerts(status: &LiveStatus) -> Vec<&str> {
    let codes = status.alerts.iter().map(|alert| alert.code.as_str());
    codes.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_back_is_told_and_everything_goes_on() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    world.clock.step(-HOUR);
    let status = agent
        .until("the step is told", |status| alerts(status) == ["TM0104"])
        .await;
    let metrics = Metrics::new().render(&status);
    let line = "tidemark_alert_active{code=\"TM0104\",about=\"agent\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    let (point, beat) = (
        status.sources[&app()].point,
        status.regions.values().next().unwrap().beat,
    );
    shop.work(20, 2000);
    agent
        .until("points, beats and shipping go on", |status| {
            let live = &status.sources[&app()];
            let beats = status.regions.values().all(|region| region.beat > beat);
            let shipped = live.lanes.values().all(|lane| lane.behind == 0);
            live.state == SourceState::Capturing && live.point > point && beats && shipped
        })
        .await;
    let points = agent.snapshot(Some("meanwhile")).await;
    assert_eq!(points[0].durable_in.len(), 2);
    assert_eq!(alerts(&agent.status().await), ["TM0104"]);
    world.clock.step(HOUR);
    agent
        .until("time has caught up", |status| status.alerts.is_empty())
        .await;
    shop.work(5, 100);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    for region in 0..2 {
        let history = world.assert_sound(region, "app").await;
        let times: Vec<_> = history
            .epochs()
            .flat_map(|epoch| epoch.points.iter().map(|point| point.head.at))
            .collect();
        assert!(times.is_sorted(), "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_comes_back_with_an_old_time_says_so() {
    let world = World::new(&["a"]).await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.clock.step(-24 * HOUR);
    let agent = world.start();
    shop.work(20, 2000);
    agent
        .until("the old time is told", |status| {
            alerts(status) == ["TM0104"]
        })
        .await;
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lasts_no_longer_because_the_clock_stepped_back() {
    let world = World::new(&["a"]).await;
    let (_shop, agent) = world.protect();
    agent.snapshot(None).await;
    let pause = Request::Pause {
        source: None,
        for_ms: 3000,
        reason: "a migration".to_owned(),
    };
    assert!(matches!(agent.ask(&pause).await, Response::Done { .. }));
    world.clock.step(-HOUR);
    agent
        .until("it goes on by itself", |status| {
            status.sources[&app()].state == SourceState::Capturing
        })
        .await;
    agent.stop().await.unwrap();
}
