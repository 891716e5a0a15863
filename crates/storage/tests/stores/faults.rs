//! The fault wrapper, and what retries and put-ids make of its faults.

use std::sync::Arc;
use std::time::Duration;

use tidemark_storage::wrap::{Fault, FaultControl, Faulty, Limited, RetryPolicy, Retrying, When};
use tidemark_storage::{CreateStore, Created, ErrorKind, MemoryStore, Op, ReadStore};

use crate::{bytes, key, put, rng};

fn quick() -> RetryPolicy {
    RetryPolicy {
        first_wait_max: Duration::from_millis(2),
        ..RetryPolicy::STANDARD
    }
}

#[tokio::test]
async fn a_lost_response_to_a_create_is_told_from_a_lost_race() {
    let store = MemoryStore::new("m");
    let faults = FaultControl::seeded(1);
    faults.add(Op::Create, "meta/", When::Nth(1), Fault::DoThenFail);
    let retrying = Retrying::new(Faulty::new(store.clone(), faults.clone()), quick(), rng());

    let created = retrying
        .create(&key("meta/log/1"), bytes("mine"), &put(1))
        .await;
    assert_eq!(created.unwrap(), Created::AlreadyMine);
    let lost = retrying
        .create(&key("meta/log/1"), bytes("theirs"), &put(2))
        .await;
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(faults.struck(), 1);
}

#[tokio::test]
async fn retries_end_and_do_not_touch_other_errors() {
    let faults = FaultControl::seeded(1);
    let store = Faulty::new(MemoryStore::new("m"), faults.clone());
    let retrying = Retrying::new(store, quick(), rng());
    faults.add(Op::Get, "", When::Always, Fault::FailBefore);
    assert_eq!(
        retrying.get(&key("meta/x")).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
    assert_eq!(faults.struck(), u64::from(quick().tries_max));

    faults.clear();
    faults.add(Op::Create, "", When::Always, Fault::OutOfSpace);
    let full = retrying.create(&key("meta/x"), bytes("x"), &put(1)).await;
    assert_eq!(full.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(
        faults.struck(),
        u64::from(quick().tries_max) + 1,
        "full is not tried again"
    );
}

#[tokio::test]
async fn reads_can_be_refused_damaged_cut_and_stale() {
    let store = MemoryStore::new("m");
    for name in ["meta/a", "meta/b"] {
        store
            .create(&key(name), bytes("0123456789"), &put(1))
            .await
            .unwrap();
    }
    let faults = FaultControl::seeded(1);
    let faulty = Faulty::new(store, faults.clone());
    let name = key("meta/a");

    faults.add(Op::Get, "meta/a", When::First(1), Fault::Truncate);
    assert_eq!(faulty.get(&name).await.unwrap(), "01234");
    assert_eq!(faulty.get(&name).await.unwrap(), "0123456789");

    faults.clear();
    faults.add(Op::Get, "", When::Always, Fault::Flip);
    let flipped = faulty.get(&name).await.unwrap();
    let changed = flipped
        .iter()
        .zip(b"0123456789")
        .filter(|(a, b)| a != b)
        .count();
    assert_eq!(changed, 1);

    faults.clear();
    faults.add(None, "", When::Always, Fault::Refuse);
    assert_eq!(
        faulty.get(&name).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    let refused = faulty.create(&key("meta/c"), bytes("x"), &put(1)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);

    faults.clear();
    faults.add(Op::List, "meta/", When::Nth(1), Fault::StaleList);
    assert_eq!(
        faulty.list("meta/", None, 10).await.unwrap().entries.len(),
        1
    );
    assert_eq!(
        faulty.list("meta/", None, 10).await.unwrap().entries.len(),
        2
    );
}

#[tokio::test]
async fn what_hangs_goes_on_when_released_and_holds_its_place_until_then() {
    let faults = FaultControl::seeded(1);
    faults.add(
        Op::Create,
        "meta/slow",
        When::Always,
        Fault::HangUntilReleased,
    );
    let store = Arc::new(Limited::new(
        Faulty::new(MemoryStore::new("m"), faults.clone()),
        1,
    ));
    let slow = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.create(&key("meta/slow"), bytes("x"), &put(1)).await }
    });
    while faults.struck() == 0 {
        tokio::task::yield_now().await;
    }
    let name = key("meta/quick");
    let second = put(2);
    let mut waiting = Box::pin(store.create(&name, bytes("x"), &second));
    tokio::select! {
        biased;
        created = &mut waiting => panic!("the only place is taken, yet {created:?}"),
        () = std::future::ready(()) => {}
    }
    faults.release();
    assert_eq!(slow.await.unwrap().unwrap(), Created::New);
    assert_eq!(waiting.await.unwrap(), Created::New);
}

#[tokio::test]
async fn the_same_seed_strikes_the_same_calls() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let faults = FaultControl::seeded(42);
        faults.add(Op::Head, "", When::Probability(0.3), Fault::FailBefore);
        let faulty = Faulty::new(MemoryStore::new("m"), faults);
        let mut run = Vec::new();
        for _ in 0..1000 {
            run.push(faulty.head(&key("meta/x")).await.unwrap_err().kind());
        }
        runs.push(run);
    }
    assert_eq!(runs[0], runs[1]);
    let struck = runs[0]
        .iter()
        .filter(|kind| **kind == ErrorKind::Unreachable)
        .count();
    assert!((250..350).contains(&struck), "{struck} of 1000");
}
