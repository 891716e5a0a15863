//! Regions that fail, come back, lose answers and fill the spool: the others go on, nothing is lost
//! in silence.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use tidemark_agent::ship::lane::Standing;
use tidemark_agent::status_live::LiveStatus;
use tidemark_format::{RegionName, SourceName, keys};
use tidemark_storage::wrap::{Fault, When};
use tidemark_storage::{DeleteStore as _, Op};
use world::{DEADLINE, World};

fn app() -> SourceName {
    SourceName::new("app").unwrap()
}

fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

fn standing(status: &LiveStatus, name: &str) -> Option<Standing> {
    Some(
        status
            .sources
            .get(&app())?
            .lanes
            .get(&region(name))?
            .standing,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_catches_up_and_never_held_up_the_other() {
    let world = World::with("durable_in = 1\n").await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    world.cut_off(1);
    shop.work(20, 2000);
    let away = agent.snapshot(Some("while-b-is-away")).await.remove(0);
    assert_eq!(away.durable_in, [region("a")]);
    let status = agent
        .until("b is away", |status| !status.regions[&region("b")].up)
        .await;
    assert!(
        status.sources[&app()].lanes[&region("b")]
            .lacking_since
            .is_some()
    );
    world.bring_back(1);
    agent
        .until("b has caught up", |status| {
            let lane = &status.sources[&app()].lanes[&region("b")];
            status.regions[&region("b")].up && lane.lacking_since.is_none() && lane.behind == 0
        })
        .await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
    let points = |at: usize| world.regions[at].names("meta/point/");
    assert_eq!(points(0), points(1), "the same points, late");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_at_the_first_base_gets_one_of_its_own_when_it_comes() {
    let world = World::with("durable_in = 2\n").await;
    world.cut_off(1);
    let (_shop, agent) = world.protect();
    agent
        .until("the first base is there", |status| {
            status
                .sources
                .get(&app())
                .is_some_and(|live| live.point.is_some())
        })
        .await;
    assert!(
        world.regions[1].store.keys().len() <= 1,
        "only the keyring that the test put there"
    );
    world.bring_back(1);
    agent
        .until("b is whole", |status| {
            status.regions[&region("b")].up
                && standing(status, "b") == Some(Standing::Whole)
                && status.sources[&app()].lanes[&region("b")]
                    .point_through
                    .is_some()
        })
        .await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
    let history = world.assert_sound(1, "app").await;
    assert!(history.newest_point().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_make_no_second_object() {
    let world = World::new(&["a", "b"]).await;
    let mut shop = world.shop("app");
    shop.work(20, 2000);
    for region in &world.regions {
        region
            .faults
            .add(Op::Create, "", When::Probability(0.3), Fault::DoThenFail);
        region
            .faults
            .add(Op::Create, "", When::Probability(0.2), Fault::FailBefore);
    }
    let agent = world.start();
    for _ in 0..5 {
        shop.work(10, 2000);
        agent.snapshot(None).await;
    }
    for region in &world.regions {
        region.faults.clear();
    }
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.assert_sound(at, "app").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_gives_up_what_the_away_region_lacks_and_a_base_repairs_it() {
    let world = World::with("durable_in = 1\nspool_max = \"16MiB\"\n").await;
    let (mut shop, agent) = world.protect();
    agent
        .until("both have the base", |status| {
            standing(status, "b") == Some(Standing::Whole)
                && status.sources[&app()].lanes[&region("b")]
                    .point_through
                    .is_some()
        })
        .await;
    world.regions[1]
        .faults
        .add(Op::Create, "meta/log", When::Always, Fault::FailBefore);
    for _ in 0..30 {
        shop.work(50, 20_000);
        agent.snapshot(None).await;
    }
    let status = agent
        .until("b is repairing", |status| {
            standing(status, "b") == Some(Standing::Repairing)
        })
        .await;
    assert!(status.spool_bytes <= 16 << 20, "{}", status.spool_bytes);
    world.bring_back(1);
    agent
        .until("b takes the log again", |status| {
            status.regions[&region("b")].up
                && status.sources[&app()].lanes[&region("b")].behind == 0
        })
        .await;
    let request = tidemark_agent::control::Request::snapshot(None, true, None, DEADLINE);
    agent.ask(&request).await;
    agent
        .until("b is whole again", |status| {
            standing(status, "b") == Some(Standing::Whole)
        })
        .await;
    shop.work(5, 100);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
    let history = world.history(1, "app").await;
    assert!(
        !history.missing().is_empty(),
        "what was given up is a reported gap"
    );
    assert!(history.newest_point().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shipped_nowhere_becomes_a_signed_gap_and_a_new_base() {
    let world = World::with("spool_max = \"16MiB\"\n").await;
    let (mut shop, agent) = world.protect();
    agent.snapshot(None).await;
    for at in 0..world.regions.len() {
        world.cut_off(at);
    }
    let mut given_up = false;
    for _ in 0..200 {
        shop.work(50, 20_000);
        let status = agent.status().await;
        assert!(status.spool_bytes <= 16 << 20, "{}", status.spool_bytes);
        given_up = status.alerts.iter().any(|alert| alert.code == "log.gap");
        if given_up {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    }
    assert!(given_up, "{:#?}", agent.status().await);
    for region in &world.regions {
        region.faults.clear();
    }
    agent
        .until("both are whole again", |status| {
            let whole = |name| {
                standing(status, name) == Some(Standing::Whole)
                    && status.sources[&app()].lanes[&region(name)].behind == 0
            };
            whole("a") && whole("b")
        })
        .await;
    shop.work(5, 100);
    agent.snapshot(Some("after")).await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        let history = world.assert_sound(at, "app").await;
        let bases = &history.newest().unwrap().bases;
        assert_eq!(
            bases
                .iter()
                .filter(|base| base.head.parent.is_none())
                .count(),
            2
        );
    }
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
        Ok(_) => entry.metadata().map_or(0, |found| found.len()),
        Err(_gone) => 0,
    });
    sizes.sum()
}

async fn until_whole(agent: &world::Agent, name: &'static str) {
    agent
        .until("it is whole", |status| {
            standing(status, name) == Some(Standing::Whole)
                && status.sources[&app()].lanes[&region(name)].behind == 0
                && status.sources[&app()].lanes[&region(name)]
                    .point_through
                    .is_some()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_left_the_config_pins_nothing_and_a_base_repairs_it_when_it_is_back() {
    let mut world = World::with("durable_in = 1\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    until_whole(&agent, "b").await;
    world.cut_off(1);
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent.kill().await;
    let b = world.regions.remove(1);
    let agent = world.start();
    for _ in 0..4 {
        shop.work(50, 20_000);
        agent.snapshot(None).await;
    }
    agent.stop().await.unwrap();
    let spooled = bytes_below(&world.state_dir().join("sources/app/spool"));
    assert!(spooled < 1 << 20, "{spooled} bytes wait for nobody");
    b.faults.clear();
    world.regions.push(b);
    let agent = world.start();
    until_whole(&agent, "b").await;
    shop.work(5, 100);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
    let history = world.history(1, "app").await;
    assert!(!history.missing().is_empty(), "a reported gap");
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_emptied_under_a_running_agent_is_prepared_and_repaired_by_a_complete_base()
 {
    let world = World::with("durable_in = 1\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "b").await;
    let store = std::sync::Arc::clone(&world.regions[1].store);
    let emptied = "data/pack/";
    world.regions[1]
        .faults
        .add(Op::Create, emptied, When::Always, Fault::FailBefore);
    // Its marker first: then nothing is created there that what is gone would be needed for.
    store.delete(&keys::region()).await.unwrap();
    for key in store.keys() {
        store.delete(&key).await.unwrap();
    }
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent
        .until("the agent says that it was emptied", |status| {
            let mut alerts = status.alerts.iter();
            alerts.any(|alert| alert.code == "place.emptied" && alert.about == "b")
        })
        .await;
    world.bring_back(1);
    until_whole(&agent, "b").await;
    agent
        .until("the alert goes", |status| {
            let mut alerts = status.alerts.iter();
            !alerts.any(|alert| alert.code == "place.emptied")
        })
        .await;
    shop.work(5, 100);
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
    world.assert_sound(0, "app").await;
    let history = world.history(1, "app").await;
    assert!(history.troubles().is_empty(), "{:?}", history.troubles());
    assert!(history.newest_point().is_some());
    let bases = &history.newest().unwrap().bases;
    assert!(bases.iter().all(|base| base.head.parent.is_none()));
    assert!(!world.regions[1].names("data/session/").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_made_while_a_region_is_away_is_followed_by_a_complete_one_when_it_is_back()
{
    let world = World::with("durable_in = 1\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    until_whole(&agent, "b").await;
    world.cut_off(1);
    shop.work(20, 2000);
    agent.snapshot(None).await;
    agent
        .until("b is away", |status| !status.regions[&region("b")].up)
        .await;
    let base = tidemark_agent::control::Request::snapshot(None, true, None, DEADLINE);
    agent.ask(&base).await;
    shop.work(20, 2000);
    world.bring_back(1);
    // Nobody asks: the agent sees by itself what b lacks.
    until_whole(&agent, "b").await;
    let newest = agent.snapshot(Some("after")).await.remove(0).seq;
    agent
        .until("b has the newest point", |status| {
            status.sources[&app()].lanes[&region("b")].point_through >= Some(newest)
        })
        .await;
    agent.stop().await.unwrap();
    for at in 0..2 {
        let history = world.assert_sound(at, "app").await;
        let newest = history.newest_point().unwrap();
        let bases = &history.newest().unwrap().bases;
        let rests_on = bases.iter().find(|base| base.link == newest.head.base.link);
        assert!(rests_on.unwrap().head.parent.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_asked_for_while_a_region_lacks_one_is_complete_and_repairs_it() {
    let world = World::with("durable_in = 2\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    until_whole(&agent, "b").await;
    for _ in 0..2 {
        // The second time no repair is due for minutes: a person's word makes it due.
        world.regions[1]
            .faults
            .add(Op::Create, "data/pack/", When::Always, Fault::FailBefore);
        world.regions[1]
            .faults
            .add(Op::Create, "meta/", When::Always, Fault::FailBefore);
        shop.work(20, 2000);
        agent
            .until("b is away", |status| !status.regions[&region("b")].up)
            .await;
        let request = || tidemark_agent::control::Request::snapshot(None, true, None, DEADLINE);
        let published = |status: &LiveStatus| status.sources[&app()].base_at;
        let before = published(&agent.status().await);
        let asked = request();
        let during = async {
            agent
                .until("a has the base", |status| published(status) > before)
                .await;
            world.bring_back(1);
            agent
                .until("b answers", |status| status.regions[&region("b")].up)
                .await;
            agent.ask(&request()).await
        };
        let (first, second) = tokio::join!(agent.ask(&asked), during);
        for response in [first, second] {
            assert!(
                matches!(response, tidemark_agent::control::Response::Points { .. }),
                "{response:?}"
            );
        }
        assert_eq!(standing(&agent.status().await, "b"), Some(Standing::Whole));
    }
    agent.stop().await.unwrap();
    world.assert_sound(1, "app").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_too_few_regions_can_take_says_soon_what_is_where_and_what_to_do() {
    let world = World::with("durable_in = 2\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "b").await;
    world.cut_off(1);
    shop.work(20, 2000);
    let patient = std::time::Duration::from_secs(600);
    let request = tidemark_agent::control::Request::snapshot(None, false, None, patient);
    let answer = tokio::time::timeout(DEADLINE, agent.ask(&request)).await;
    let response = answer.expect("an answer long before its time is over");
    let tidemark_agent::control::Response::Refused { code, message } = response else {
        panic!("{response:?}");
    };
    assert_eq!(code, "TM1603");
    assert!(
        message.contains("durable in a") || message.contains("durable nowhere"),
        "{message}"
    );
    assert!(
        message.contains("not yet in b: it doesn't answer"),
        "{message}"
    );
    world.bring_back(1);
    until_whole(&agent, "b").await;
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_knows_its_own_object_again_in_a_region_whose_backlog_it_gave_up_meanwhile() {
    let world = World::with("durable_in = 1\nspool_max = \"16MiB\"\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "b").await;
    // Killed before it wrote down what b has.
    for _ in 0..3 {
        shop.work(5, 2000);
        agent.snapshot(None).await;
    }
    let has = |world: &World| world.regions[1].names("meta/log/").len();
    let sealed = world.regions[0].names("meta/log/").len();
    world::eventually("b has it too", async || {
        (has(&world) >= sealed).then_some(())
    })
    .await;
    agent.kill().await;
    world.cut_off(1);
    let agent = world.start();
    for _ in 0..30 {
        shop.work(50, 20_000);
        agent.snapshot(None).await;
    }
    agent
        .until("b's backlog is given up", |status| {
            standing(status, "b") == Some(Standing::Repairing)
        })
        .await;
    world.bring_back(1);
    until_whole(&agent, "b").await;
    agent.stop().await.unwrap();
    let history = world.history(1, "app").await;
    assert!(history.newest_point().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_directories_that_were_away_at_the_start_are_judged_once_they_are_seen() {
    let mut world = World::with("durable_in = 2\n").await;
    for region in &mut world.regions {
        region.device = Some(7);
    }
    let (mut shop, agent) = world.protect();
    let before = agent.snapshot(None).await.remove(0);
    agent.stop().await.unwrap();
    for at in 0..2 {
        world.cut_off(at);
    }
    let agent = world.start();
    let status = agent
        .until("the agent runs", |status| {
            status
                .sources
                .get(&app())
                .is_some_and(|live| live.log_seq.is_some())
                && status.regions.len() == 2
        })
        .await;
    // They may be one disk or two: what they hold counts for nothing.
    assert!(
        status.regions.values().all(|region| region.unseen),
        "{status:#?}"
    );
    assert!(!before.durable_in.is_empty());
    assert!(status.exposure(&app()) > std::time::Duration::ZERO);
    world.bring_back(0);
    world.bring_back(1);
    let status = agent
        .until("both are seen", |status| {
            status
                .regions
                .values()
                .all(|region| region.up && !region.unseen)
        })
        .await;
    let domains: Vec<&str> = status.regions.values().map(|r| r.domain.as_str()).collect();
    assert_eq!(domains, ["a", "a"], "they are on one device");
    // So one of them is as durable as it gets.
    world.cut_off(1);
    shop.work(20, 2000);
    let after = agent.snapshot(None).await.remove(0);
    assert_eq!(after.durable_in, [region("a")]);
    world.bring_back(1);
    until_whole(&agent, "b").await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exposure_counts_the_failure_domains_that_durable_in_asks_for() {
    let world = World::with("durable_in = 2\n").await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    until_whole(&agent, "b").await;
    world.cut_off(1);
    shop.work(20, 2000);
    agent
        .until("a has all of it, and it counts as exposed", |status| {
            let live = &status.sources[&app()];
            live.lanes[&region("a")].behind == 0
                && live.lanes[&region("b")].behind > 0
                && status.exposure(&app()) > std::time::Duration::from_millis(200)
        })
        .await;
    world.bring_back(1);
    agent
        .until("nothing is exposed", |status| {
            status.exposure(&app()) == std::time::Duration::ZERO
        })
        .await;
    agent.stop().await.unwrap();
}

/// Puts a region back to when it held nothing but `held`: a volume's snapshot under a running agent.
async fn put_back(world: &World, at: usize, held: &[String]) {
    let store = &world.regions[at].store;
    for key in store.keys().into_iter().rev() {
        if !held.contains(&key.to_string()) {
            store.delete(&key).await.unwrap();
        }
    }
}

/// The points that went with the rest are stated, and nothing else is amiss.
fn assert_only_points_are_missed(history: &tidemark_ledger::SourceHistory) {
    for trouble in history.troubles() {
        let said = trouble.error.to_string();
        assert!(said.contains("are not all here"), "{said}");
    }
}

fn told(status: &LiveStatus, about: &str) -> bool {
    let mut alerts = status.alerts.iter();
    alerts.any(|alert| alert.code == "place.rolled-back" && alert.about == about)
}

/// The agent looks round its regions now.
async fn look_round(agent: &world::Agent) {
    let reload = tidemark_agent::control::Request::Reload {
        config: tidemark_format::Hash([0; 32]),
    };
    agent.ask(&reload).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_region_that_was_put_back_is_durable_only_on_a_new_base() {
    let world = World::new(&["a"]).await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    agent.snapshot(None).await;
    let held = world.regions[0].names("");
    shop.work(5, 2000);
    let lost = agent.snapshot(None).await.remove(0);
    put_back(&world, 0, &held).await;
    shop.work(5, 2000);
    // Its log object is there, and what it follows is not.
    let after = agent.snapshot(Some("after")).await.remove(0);
    assert_eq!(after.durable_in, [region("a")]);
    agent
        .until("nothing is amiss any more", |status| !told(status, "a"))
        .await;
    agent.stop().await.unwrap();
    let history = world.history(0, "app").await;
    assert_only_points_are_missed(&history);
    assert!(!history.missing().is_empty(), "the hole is stated");
    let epoch = history.newest().unwrap();
    let mut points = epoch.points.iter();
    let point = points.find(|point| point.head.seq == after.seq);
    let point = point.expect("the point that was called durable is there");
    let base = epoch.base(&point.head.base).unwrap();
    assert!(base.head.parent.is_none(), "a complete base");
    assert!(base.head.start > lost.log_seq, "it begins behind the hole");
    for seq in base.head.start.0..=point.head.log_seq.0 {
        let seq = tidemark_format::LogSeq(seq);
        assert!(epoch.names.contains_key(&seq), "{seq} is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_from_a_region_is_told_and_counts_as_lost_until_a_base_repairs_it() {
    let world = World::new(&["a"]).await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    shop.work(5, 2000);
    agent.snapshot(None).await;
    // No base can be made for now.
    world.regions[0]
        .faults
        .add(Op::Create, "data/pack/", When::Always, Fault::FailBefore);
    // Somebody removes the newest log object.
    let logs = world.regions[0].names("meta/log/");
    let held = world.regions[0].names("");
    let held: Vec<String> = held
        .into_iter()
        .filter(|name| Some(name) != logs.last())
        .collect();
    put_back(&world, 0, &held).await;
    look_round(&agent).await;
    let lacks = |status: &LiveStatus| {
        told(status, "a")
            && standing(status, "a") == Some(Standing::Repairing)
            && status.exposure(&app()) > std::time::Duration::ZERO
    };
    agent.until("people are told", lacks).await;
    world.clock.pass(std::time::Duration::from_secs(60));
    world.bring_back(0);
    until_whole(&agent, "a").await;
    agent
        .until("nothing is amiss any more", |status| {
            !told(status, "a") && status.exposure(&app()) == std::time::Duration::ZERO
        })
        .await;
    agent.snapshot(None).await;
    agent.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_put_back_is_repaired_while_the_other_one_holds_everything() {
    let world = World::new(&["a", "b"]).await;
    let (mut shop, agent) = world.protect();
    until_whole(&agent, "a").await;
    until_whole(&agent, "b").await;
    agent.snapshot(None).await;
    let held = world.regions[0].names("");
    shop.work(5, 2000);
    agent.snapshot(None).await;
    put_back(&world, 0, &held).await;
    shop.work(5, 2000);
    agent.snapshot(Some("after")).await;
    until_whole(&agent, "a").await;
    agent
        .until("nothing is amiss any more", |status| !told(status, "a"))
        .await;
    let last = agent.snapshot(None).await.remove(0);
    assert_eq!(last.durable_in, [region("a"), region("b")]);
    agent.stop().await.unwrap();
    assert!(!world.history(0, "app").await.missing().is_empty());
    assert!(world.history(1, "app").await.missing().is_empty());
}
