//! A recipient that was added later: what is older stays closed to it, and what is newer opens.

use tidemark_format::LogSeq;
use tidemark_format::recipient::RecipientKey;
use tidemark_host::Exit;

use crate::world::{Ran, World};

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
