//! What is silently not there: claims that are gone, and regions that take a call and say nothing.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use tidemark_host::Exit;
use tidemark_restore_tool::patience::Patience;

use crate::world::World;

fn lived(regions: usize) -> World {
    let mut world = World::new(regions);
    world.insert(300);
    world.point(None);
    world.insert(300);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_claim_is_gone_is_damaged_and_not_unknown() {
    for regions in [1, 2] {
        let world = lived(regions);
        for path in world.regions[0].files("meta/claim/") {
            fs::remove_file(path).unwrap();
        }
        for words in [&["verify"][..], &["verify", "--quick"]] {
            let ran = world.run(words).await;
            assert_eq!(ran.exit, Exit::Integrity, "{words:?}: {ran:?}");
            let damages = ran.json()["damages"].to_string();
            assert!(damages.contains("meta/claim/app/00000001"), "{damages}");
            assert!(damages.contains("give the other regions"), "{damages}");
        }
        let listed = world.run(&["list"]).await.json();
        assert_eq!(listed["sources"][0]["source"], "app", "{listed}");
        let ran = world.restore("latest").await;
        assert_eq!(ran.exit, Exit::Exceptions, "{ran:?}");
        let exceptions = ran.json()["exceptions"].to_string();
        assert!(
            exceptions.contains("meta/claim/app/00000001"),
            "{exceptions}"
        );
        assert!(exceptions.contains("region north"), "{exceptions}");
        world.assert_restored(world.log_seq.previous().unwrap());
    }
}

/// Takes every call and answers none.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let url =
        format!("s3://mute/app?endpoint=http://127.0.0.1:{port}&region=eu-north-1&insecure=1");
    (listener, url)
}

/// A short patience, and a credential for the region that says nothing.
fn prepare(world: &mut World, giving_up: u64) {
    world.patience = Patience {
        going_on: Duration::from_secs(1),
        giving_up: Duration::from_secs(giving_up),
    };
    let credentials = world.dir.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let text = "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n";
    fs::write(credentials.join("app"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_takes_calls_and_never_answers_does_not_hold_up_the_other() {
    let (_listener, url) = mute();
    let mut world = lived(1);
    prepare(&mut world, 600);
    let target = world.path("restored.db");
    let restore = [
        "restore", "--to", "latest", "--target", &target, "--region", &url,
    ];
    let verify = ["verify", "--quick", "--region", &url];
    let (restored, verified) = tokio::join!(world.run(&restore), world.run(&verify));
    assert_eq!(restored.exit, Exit::Exceptions, "{restored:?}");
    world.assert_restored(world.log_seq.previous().unwrap());
    assert_eq!(verified.exit, Exit::Region, "{verified:?}");
    // (Its notes while it waits are for people; these are documents.)
    let told = restored.json()["exceptions"].to_string();
    assert!(told.contains("region app does not answer"), "{restored:?}");
    let unread = verified.json().to_string();
    assert!(
        unread.contains("region app does not answer"),
        "{verified:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_region_alone_is_waited_for_and_not_for_ever() {
    let (_listener, url) = mute();
    let mut world = World::new(0);
    prepare(&mut world, 2);
    let ran = world.run(&["list", "--region", &url]).await;
    assert_eq!(ran.exit, Exit::Region, "{ran:?}");
    assert!(ran.err.contains("nothing came from it"), "{ran:?}");
}
