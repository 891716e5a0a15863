//! Many databases under one agent. A test binary of its own: it counts this process's threads.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod world;

use std::time::Duration;

use world::World;

/// As many as the program has (`commands/context.rs`).
const FILE_THREADS: usize = 16;

#[test]
fn a_hundred_databases_share_a_few_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(FILE_THREADS)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(a_hundred_databases());
}

async fn a_hundred_databases() {
    let mut world = World::new(&["a"]).await;
    world.settings =
        "ship_every = \"1s\"\nsnapshot_every = \"2s\"\nbeat_every = \"1s\"\n".to_owned();
    world.sources = (0..100).map(|n| format!("db{n}")).collect();
    let mut shops: Vec<_> = world.sources.iter().map(|name| world.shop(name)).collect();
    for shop in &mut shops {
        shop.work(2, 500);
    }
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let agent = world.start();
    agent
        .until("all have a point", |status| {
            status.sources.len() == 100 && status.sources.values().all(|live| live.point.is_some())
        })
        .await;
    let more = threads().saturating_sub(before);
    assert!(more < 40, "{more} more threads for 100 databases");
    tokio::time::timeout(Duration::from_secs(120), agent.stop())
        .await
        .unwrap()
        .unwrap();
    for name in ["db0", "db99"] {
        world.assert_sound(0, name).await;
    }
}
