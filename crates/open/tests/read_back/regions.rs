//! Several regions: a dead, a lying and a good one together give everything; alone each says what it is.

use std::sync::Arc;

use tidemark_host::Cpu;
use tidemark_open::{DamageKind, Error, ErrorKind, PackFrames};
use tidemark_storage::{
    MemoryStore, Op, ReadStore,
    wrap::{Fault, FaultControl, Faulty, When},
};

use crate::bases::{assert_image, everything, fetch, pool, stored};
use crate::world::{World, opener, regions, store};

fn faulty(inner: &MemoryStore, fault: Fault) -> Arc<dyn ReadStore> {
    let control = FaultControl::seeded(7);
    control.add(Op::Get, "", When::Always, fault);
    Arc::new(Faulty::new(inner.clone(), control))
}

#[tokio::test]
async fn one_good_region_behind_a_dead_and_a_corrupt_one_is_enough() {
    let world = World::new();
    let base = world.base(pool(2), 5000);
    let memory = stored(&world, &base, "a").await;
    let (log, _) = world.log("app", b"a range of the log");
    store(&memory, &[&log]).await;
    let set = regions(vec![
        ("dead", faulty(&memory, Fault::FailBefore)),
        ("corrupt", faulty(&memory, Fault::Flip)),
        ("good", Arc::new(memory.clone())),
    ]);
    let opener = opener(&world, Arc::clone(&set), pool(2));

    let read = opener.log(&log.key, log.link).await.unwrap();
    assert_eq!(
        (&read.payload[..], read.region.as_str()),
        (&b"a range of the log"[..], "good")
    );
    let opened = Arc::new(opener.base(&base.base.key, base.base.link).await.unwrap());
    let (frames, _) = fetch(&opener, everything(&opened)).await.unwrap();
    assert_image(&opened.index, &frames, 5000);

    let damages = set.damages();
    let of = |region: &str, kind| {
        damages
            .iter()
            .filter(|one| one.region.as_str() == region && one.kind == kind)
            .count()
    };
    assert!(of("dead", DamageKind::Unreachable) > 0);
    assert!(of("corrupt", DamageKind::Corrupt) > 0);
    assert!(damages.iter().all(|one| one.region.as_str() != "good"));
}

#[tokio::test]
async fn only_the_frame_that_is_bad_is_taken_from_the_next_region() {
    // GIVEN a pack with one flipped bit in frame 2 of the first region
    let world = World::new();
    let base = world.base(pool(2), 5000);
    let (first, second) = (
        stored(&world, &base, "a").await,
        stored(&world, &base, "b").await,
    );
    let healthy = opener(
        &world,
        regions(vec![("b", Arc::new(second.clone()))]),
        Cpu::Inline,
    );
    let opened = Arc::new(healthy.base(&base.base.key, base.base.link).await.unwrap());
    let mut bytes = base.packs[0].bytes.to_vec();
    let at = usize::try_from(opened.index.packs[0].frames[2].offset).unwrap() + 100;
    bytes[at] ^= 1;
    first.overwrite(&base.packs[0].key, bytes.into());
    // WHEN frames 1 to 3 are fetched
    let set = regions(vec![("a", Arc::new(first)), ("b", Arc::new(second))]);
    let opener = opener(&world, Arc::clone(&set), pool(2));
    let wanted = vec![PackFrames {
        base: opened,
        pack: 0,
        frames: vec![1, 2, 3],
        tag: 0,
    }];
    // THEN each arrives once (the sink checks), and the damage is known
    let (frames, _) = fetch(&opener, wanted).await.unwrap();
    assert_eq!(frames.len(), 3);
    let damages = set.damages();
    assert_eq!(damages.len(), 1);
    assert_eq!(
        (damages[0].kind, &damages[0].key),
        (DamageKind::Corrupt, &base.packs[0].key)
    );
}

#[tokio::test]
async fn without_a_good_copy_the_error_says_whether_to_wait_or_to_worry() {
    let world = World::new();
    let memory = MemoryStore::new("a");
    let (log, _) = world.log("app", b"content");
    store(&memory, &[&log, &world.session_object]).await;
    let cases: [(&[Fault], ErrorKind); 5] = [
        (&[Fault::FailBefore], ErrorKind::Region),
        (&[Fault::Refuse], ErrorKind::Region),
        (&[Fault::Truncate, Fault::Missing], ErrorKind::Integrity),
        (&[Fault::Missing, Fault::Missing], ErrorKind::Missing),
        (&[Fault::Truncate, Fault::FailBefore], ErrorKind::Region),
    ];
    for (faults, expected) in cases {
        let names = ["a", "b"];
        let all = names
            .iter()
            .zip(faults)
            .map(|(name, fault)| (*name, faulty(&memory, fault.clone())));
        let opener = opener(&world, regions(all.collect()), Cpu::Inline);
        let error = opener.log(&log.key, log.link).await.unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert!(matches!(error, Error::NoGoodCopy { .. }));
    }
}

#[tokio::test]
async fn an_object_with_another_link_is_not_believed() {
    let world = World::new();
    let memory = MemoryStore::new("a");
    let (log, _) = world.log("app", b"content");
    let (other, _) = world.log("app", b"another content");
    store(&memory, &[&other, &world.session_object]).await;
    let opener = opener(&world, regions(vec![("a", Arc::new(memory))]), Cpu::Inline);
    let error = opener.log(&log.key, log.link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
}

#[tokio::test]
async fn a_wrong_identity_or_an_unknown_signer_is_not_taken_for_damage_of_the_log() {
    let world = World::new();
    let memory = MemoryStore::new("a");
    let (log, _) = world.log("app", b"content");
    store(&memory, &[&log, &world.session_object]).await;
    let set = regions(vec![("a", Arc::new(memory))]);
    let stranger = tidemark_open::Opener::new(
        crate::world::identity(3),
        Arc::clone(&set),
        Arc::new(|_: &_, _| true),
        Cpu::Inline,
    );
    let error = stranger.log(&log.key, log.link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    assert!(set.damages().is_empty());
    let wary = tidemark_open::Opener::new(
        crate::world::identity(1),
        Arc::clone(&set),
        Arc::new(|_: &_, _| false),
        Cpu::Inline,
    );
    let error = wary.log(&log.key, log.link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity);
    assert!(error.to_string().contains("keyring"), "{error}");
    assert!(
        set.damages()
            .iter()
            .all(|one| one.key == world.session_object.key)
    );
}

#[tokio::test]
async fn a_region_that_does_not_answer_is_asked_last_for_a_while() {
    let world = World::new();
    let memory = MemoryStore::new("a");
    let (log, _) = world.log("app", b"content");
    store(&memory, &[&log, &world.session_object]).await;
    let control = FaultControl::seeded(1);
    control.add(Op::Get, "", When::Always, Fault::FailBefore);
    let dead = Faulty::new(memory.clone(), control.clone());
    let set = regions(vec![("dead", Arc::new(dead)), ("good", Arc::new(memory))]);
    assert_eq!(set.measure().await.len(), 1);
    let asked = control.struck();
    let opener = opener(&world, set, Cpu::Inline);
    for _ in 0..5 {
        assert!(opener.log(&log.key, log.link).await.is_ok());
    }
    assert_eq!(control.struck(), asked);
}
