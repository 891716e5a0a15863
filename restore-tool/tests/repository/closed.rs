//! A recipient that was added later: what is older stays closed to it, and what is newer opens.

use tidemark_format::LogSeq;
use tidemark_format::recipient::RecipientKey;
use tidemark_host::Exit;

use crate::world::{Ran, RegionDir, World};

/// A world and the identity file of a recipient that was added to it later.
struct Joined {
    world: World,
    identity: String,
    recipient: RecipientKey,
}

impl Joined {
    async fn new() -> Self {
        let mut world = World::new(1);
        for _ in 0..3 {
            world.insert(300);
        }
        world.point(None);
        let identity = world.path("newcomer");
        let repository = world.keys.identity.recipient().to_string();
        let words = ["keys", "new", "--repository", &repository, "--out"];
        let ran = world.run(&[&words[..], &[&identity]].concat()).await;
        assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
        let recipient = ran.json()["recipient"].as_str().unwrap().parse().unwrap();
        let mut joined = Self {
            world,
            identity,
            recipient,
        };
        joined.seal_to_it(true);
        joined
    }

    /// Whether the next session is sealed to it.
    fn seal_to_it(&mut self, too: bool) {
        let keys = &self.world.keys;
        let mut recipients = vec![keys.identity.recipient(), keys.escrow.recipient()];
        recipients.extend(too.then_some(self.recipient));
        self.world.new_session(&recipients);
    }

    async fn restore(&self, target: &str) -> Ran {
        self.ask("restore", target).await
    }

    async fn ask(&self, command: &str, target: &str) -> Ran {
        let file = self.world.path("restored.db");
        let words = [command, "--to", target, "--target", &file, "--identity"];
        self.world
            .run(&[&words[..], &[&self.identity]].concat())
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_a_newer_recipient_can_not_open_is_gone_round_by_a_newer_one() {
    // GIVEN a newer complete base that is dearer than the first one and all log since
    let mut joined = Joined::new().await;
    joined.world.new_generation();
    joined.world.fuzzy_base(400_000);
    let last = joined.world.insert(100);
    joined.world.point(None);
    let ran = joined.world.restore("latest").await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    let cheap = ran.json()["fetched_bytes"].as_u64().unwrap();
    joined.world.assert_restored(last);
    // WHEN the newer recipient restores
    let ran = joined.restore("latest").await;
    // THEN it takes the base that it opens, and nothing is wrong with that
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.json()["fetched_bytes"].as_u64().unwrap() > cheap);
    joined.world.assert_restored(last);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_state_is_refused_with_the_earliest_instant_that_the_identity_opens() {
    let mut joined = Joined::new().await;
    let old = joined.world.log_seq.previous().unwrap();
    joined.world.new_generation();
    joined.world.base();
    let first = joined.world.log_seq.previous().unwrap();
    joined.world.insert(100);
    joined.world.point(None);
    let earlier = joined.world.times[&old].to_string();
    for target in [earlier.as_str(), &format!("log:1:{old}"), "point:1/0"] {
        let refused = joined.restore(target).await;
        assert_eq!(refused.exit, Exit::Key, "{target}: {refused:?}");
        assert!(refused.err.contains("TM1202"), "{refused:?}");
        assert!(
            refused.err.contains(&format!("log:1:{first}")),
            "{refused:?}"
        );
        assert!(!joined.world.target().exists());
    }
    let ran = joined.restore(&format!("log:1:{first}")).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    joined.world.assert_restored(first);
    let ran = joined.world.restore(&earlier).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    joined.world.assert_restored(old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_the_identity_opens_before_anybody_relies_on_it() {
    let mut joined = Joined::new().await;
    let old = joined.world.log_seq.previous().unwrap();
    joined.world.new_generation();
    joined.world.fuzzy_base(400_000);
    let first = joined.world.log_seq.previous().unwrap();
    joined.world.insert(100);
    joined.world.point(None);
    // The base that it opens, although another one is cheaper.
    let plan = joined.ask("plan", "latest").await;
    assert_eq!(plan.exit, Exit::Ok, "{plan:?}");
    let refused = joined.ask("plan", &format!("log:1:{old}")).await;
    assert_eq!(refused.exit, Exit::Key, "{refused:?}");
    assert!(
        refused.err.contains(&format!("log:1:{first}")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_next_complete_base_a_newer_recipient_is_told_what_to_wait_for() {
    let mut joined = Joined::new().await;
    joined.world.base();
    joined.world.insert(100);
    joined.world.point(None);
    let refused = joined.restore("latest").await;
    assert_eq!(refused.exit, Exit::Key, "{refused:?}");
    assert!(refused.err.contains("complete base"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_was_taken_out_restores_up_to_there_when_it_asks_for_that() {
    let mut joined = Joined::new().await;
    joined.world.new_generation();
    joined.world.base();
    joined.world.insert(100);
    joined.world.point(None);
    let last = joined.world.insert(100);
    joined.seal_to_it(false);
    joined.world.insert(100);
    // Less than was asked for is not delivered.
    let refused = joined.restore("latest").await;
    assert_eq!(refused.exit, Exit::Key, "{refused:?}");
    let named = format!("log:1:{last}");
    assert!(refused.err.contains(&named), "{refused:?}");
    let ran = joined.restore(&named).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    joined.world.assert_restored(last);
    assert!(LogSeq(0) < last);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_the_cause_and_not_that_the_rest_is_sealed_to_others() {
    // GIVEN one base that the newcomer opens, and a pack of it that is gone
    let mut joined = Joined::new().await;
    joined.world.new_generation();
    let older = joined.world.regions[0].files("data/pack");
    joined.world.base();
    joined.world.insert(100);
    joined.world.point(None);
    let mut packs = joined.world.regions[0].files("data/pack");
    packs.retain(|pack| !older.contains(pack));
    std::fs::remove_file(&packs[0]).unwrap();
    // THEN a restore names the pack, and says that the others are not for this identity
    let refused = joined.restore("latest").await;
    assert_eq!(refused.exit, Exit::Integrity, "{refused:?}");
    assert!(
        refused.err.contains("data/pack/") && refused.err.contains("TM1303"),
        "{refused:?}"
    );
    assert!(
        refused.err.contains("sealed to other identities"),
        "{refused:?}"
    );
    let ran = joined.world.restore("latest").await;
    assert_ne!(ran.exit, Exit::Key, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_checks_what_it_opens_counts_the_rest_and_names_what_is_gone_of_either() {
    let mut joined = Joined::new().await;
    let closed = joined.world.regions[0].files("data/pack");
    joined.world.new_generation();
    joined.world.base();
    joined.world.insert(100);
    joined.world.point(None);
    let words = ["verify", "--identity", joined.identity.as_str()];
    let ran = joined.world.run(&words).await;
    assert_eq!(ran.exit, Exit::Ok, "{ran:?}");
    assert!(ran.json()["closed"].as_u64().unwrap() >= 5, "{ran:?}");
    // WHEN a pack that it opens, or one that it doesn't, is gone
    let all = joined.world.regions[0].files("data/pack");
    let open = all.iter().find(|pack| !closed.contains(pack)).unwrap();
    for pack in [open, &closed[0]] {
        let bytes = std::fs::read(pack).unwrap();
        std::fs::remove_file(pack).unwrap();
        for words in [&words[..], &["verify", "--quick"]] {
            let ran = joined.world.run(words).await;
            assert_eq!(ran.exit, Exit::Integrity, "{words:?}: {ran:?}");
            let damages = ran.json()["damages"].to_string();
            assert!(damages.contains("data/pack/"), "{damages}");
        }
        std::fs::write(pack, bytes).unwrap();
    }
    // AND a flipped byte needs no identity to be seen
    RegionDir::flip(&closed[0]);
    let ran = joined.world.run(&words).await;
    assert_eq!(ran.exit, Exit::Integrity, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn never_enrolled_enrolled_too_late_and_revoked_are_told_apart() {
    let mut joined = Joined::new().await;
    joined.world.base();
    joined.world.insert(100);
    joined.world.point(None);
    let refused = joined.restore("latest").await;
    assert!(refused.err.contains("was never enrolled"), "{refused:?}");
    assert!(refused.err.contains("keys enrol"), "{refused:?}");
    let (root, recipient) = (joined.world.path("root"), joined.recipient.to_string());
    let enrol = ["keys", "enrol", "--recipient", &recipient, "--root", &root];
    assert_eq!(joined.world.run(&enrol).await.exit, Exit::Ok);
    let refused = joined.restore("latest").await;
    assert!(refused.err.contains("snapshot --base"), "{refused:?}");
    let id = joined.recipient.id().to_string();
    let why = ["--reason", "laptop lost", "--root", &root, "--yes"];
    let revoke = [&["keys", "revoke", &id], &why[..]].concat();
    assert_eq!(joined.world.run(&revoke).await.exit, Exit::Ok);
    let refused = joined.restore("latest").await;
    assert!(
        refused.err.contains("was revoked on") && refused.err.contains("laptop lost"),
        "{refused:?}"
    );
}
