//! Canaries by the agent's own clock: when they are due, and who hears when none can be written.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use std::path::Path;
use std::time::Duration;

use tidemark_agent::metrics::Metrics;
use tidemark_agent::status_live::{LiveCanary, LiveStatus};
use tidemark_format::SourceName;
use tidemark_testkit::sqlite::{Job, run};
use world::{World, eventually};

const EVERY: Duration = Duration::from_secs(30);

fn canary(status: &LiveStatus) -> Option<&LiveCanary> {
    let app = SourceName::new("app").unwrap();
    status.sources.get(&app)?.canary.as_ref()
}

fn number(status: &LiveStatus) -> u64 {
    canary(status).and_then(|canary| canary.seq).unwrap_or(0)
}

/// What an application does to its database.
fn sql(database: &Path, sql: &str) {
    let job = Job {
        path: database.to_owned(),
        sql: Some(format!(
            "CREATE TABLE IF NOT EXISTS ledger(writer INTEGER, n INTEGER); {sql}"
        )),
        transactions: Some(0),
        ..Job::default()
    };
    run(&job).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries_keep_step_with_the_agents_clock_and_a_restart() {
    let world = World::with("canary = \"table\"\n").await;
    let (_shop, agent) = world.protect();
    let mut before = agent.until("the first", |status| number(status) == 1).await;
    for next in 2..=4 {
        world.clock.pass(EVERY);
        let status = agent
            .until("the next one", |status| number(status) >= next)
            .await;
        assert_eq!(number(&status), next, "one for each half minute");
        let at = |status: &LiveStatus| canary(status).and_then(|canary| canary.at).unwrap();
        let apart = at(&status).duration_since(at(&before)).as_secs();
        assert!((30..60).contains(&apart), "{apart} s apart");
        before = status;
    }
    agent.stop().await.unwrap();
    let agent = world.start();
    let status = agent.until("it goes on", |status| number(status) > 4).await;
    assert_eq!(number(&status), 5);
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_not_be_written_is_told_and_protection_goes_on() {
    let world = World::with("canary = \"table\"\n").await;
    let mut shop = world.shop("app");
    shop.work(5, 500);
    sql(&world.database("app"), "CREATE TABLE tidemark_canary(bird)");
    let agent = world.start();
    // At first only status says so: what passes by itself is no alert.
    let status = agent
        .until("status says why", |status| {
            canary(status).is_some_and(|canary| canary.why_not.is_some())
        })
        .await;
    assert!(status.alerts.is_empty(), "{:?}", status.alerts);
    let told = |status: &LiveStatus| status.alerts.iter().any(|a| a.code == "canary.missing");
    let status = eventually("it is an alert", async || {
        world.clock.pass(EVERY);
        Some(agent.status().await).filter(told)
    })
    .await;
    assert_eq!(number(&status), 0);
    shop.work(5, 500);
    agent.snapshot(None).await;
    // WHEN nothing is in the way any more
    sql(&world.database("app"), "DROP TABLE tidemark_canary");
    world.clock.pass(EVERY);
    let status = agent
        .until("canaries are written", |status| number(status) > 0)
        .await;
    assert!(canary(&status).is_some_and(|canary| canary.why_not.is_none()));
    let status = agent.until("nothing is told", |status| !told(status)).await;
    let metrics = Metrics::new().render(&status);
    for name in [
        "tidemark_canary_timestamp_seconds{source=\"app\"} ",
        "tidemark_canary_number{source=\"app\"} 1",
    ] {
        assert!(metrics.contains(name), "{metrics}");
    }
    agent.stop().await.unwrap();
}
