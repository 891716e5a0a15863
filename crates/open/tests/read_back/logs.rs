//! Log objects: every size reads back; every change, cut and move is noticed.

use tidemark_format::{
    Epoch, Hash, Incarnation, Key, LogSeq, ObjectId, RepoId, SourceName,
    crypt::{FRAME_RAW_MAX, Frames, HEADER},
    heads::{BaseHead, Gap, LogHead},
    keys,
};
use tidemark_host::Cpu;
use tidemark_open::{Error, ErrorKind, LOG_BYTES_MAX, open_log};
use tidemark_seal::{LOG_PAYLOAD_MAX, Sealed, gap_object, seal_log};

use crate::world::{REPO, World, apart, draft, random};

/// A lie in a head.
type Change = fn(&mut LogHead);

/// Opens what a thief with the agent's signing key stored in the object's place.
fn reopen(world: &World, key: &Key, mut head: LogHead, body: &[u8]) -> Result<Vec<u8>, Error> {
    head.body_len = body.len() as u64;
    head.body_hash = Hash::of(body);
    let bytes = world.resign(&head, body);
    open_log(key, &bytes, &world.secret(), LOG_BYTES_MAX).map(|(_, payload)| payload)
}

fn integrity(result: Result<Vec<u8>, Error>, what: &str) {
    let error = result.expect_err(what);
    assert_eq!(error.kind(), ErrorKind::Integrity, "{what}: {error}");
}

#[test]
fn payloads_of_every_size_read_back() {
    let world = World::new();
    let secret = world.secret();
    let mib = FRAME_RAW_MAX;
    for size in [0, 1, mib - 1, mib, mib + 1, 20 * mib] {
        for payload in [random(size), vec![b'x'; size]] {
            let (object, head) = world.log("app", &payload);
            assert_eq!(
                object.link,
                Hash::of(
                    &object.bytes[..object.bytes.len() - usize::try_from(head.body_len).unwrap()]
                )
            );
            let (read, opened) =
                open_log(&object.key, &object.bytes, &secret, LOG_BYTES_MAX).unwrap();
            assert_eq!(read, head);
            assert!(opened == payload, "{size}");
            assert_eq!(
                Sealed::from_spool(object.key.clone(), object.bytes.clone()),
                Ok(object)
            );
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let world = World::new();
    let secret = world.secret();
    let (object, _) = world.log("app", &random(600));
    for at in 0..object.bytes.len() {
        let mut bytes = object.bytes.to_vec();
        bytes[at] ^= 1 << (at % 8);
        let refused = open_log(&object.key, &bytes, &secret, LOG_BYTES_MAX);
        integrity(refused.map(|(_, payload)| payload), &format!("byte {at}"));
    }
}

#[test]
fn every_cut_is_noticed() {
    let world = World::new();
    let secret = world.secret();
    let (object, _) = world.log("app", &random(600));
    for len in 0..object.bytes.len() {
        let refused = open_log(&object.key, &object.bytes[..len], &secret, LOG_BYTES_MAX);
        integrity(
            refused.map(|(_, payload)| payload),
            &format!("cut at {len}"),
        );
    }
}

#[test]
fn a_changed_body_is_noticed_even_when_it_is_signed_anew() {
    let world = World::new();
    let (object, _) = world.log("app", &random(600));
    let (head, body) = apart::<LogHead>(&object);
    assert!(reopen(&world, &object.key, head.clone(), &body).is_ok());
    for at in 0..body.len() {
        let mut changed = body.clone();
        changed[at] ^= 1 << (at % 8);
        integrity(
            reopen(&world, &object.key, head.clone(), &changed),
            &format!("byte {at}"),
        );
    }
}

#[test]
fn frames_cannot_be_dropped_repeated_or_reordered() {
    let world = World::new();
    let (object, _) = world.log("app", &random(3 * FRAME_RAW_MAX));
    let (head, body) = apart::<LogHead>(&object);
    let (header, rest) = body.split_at(HEADER);
    let mut frames = Frames::new(rest);
    let mut all = Vec::new();
    while let Some(frame) = frames.next_frame().unwrap() {
        let len = u32::try_from(frame.sealed.len()).unwrap();
        all.push([&len.to_le_bytes(), frame.sealed].concat());
    }
    let built = |order: &[usize]| {
        let frames: Vec<u8> = order.iter().flat_map(|at| all[*at].clone()).collect();
        reopen(
            &world,
            &object.key,
            head.clone(),
            &[header, &frames].concat(),
        )
    };
    assert!(built(&[0, 1, 2]).is_ok());
    for order in [
        &[][..],
        &[0],
        &[0, 1],
        &[2],
        &[0, 2],
        &[1, 0, 2],
        &[0, 0, 1, 2],
        &[0, 1, 2, 2],
    ] {
        integrity(built(order), &format!("{order:?}"));
    }
}

#[test]
fn an_object_cannot_be_moved_to_another_place() {
    let world = World::new();
    let (object, _) = world.log("app", b"content");
    let (head, body) = apart::<LogHead>(&object);
    let moves: [(&str, Change); 5] = [
        ("source", |head| {
            head.source = SourceName::new("other").unwrap();
        }),
        ("incarnation", |head| {
            head.incarnation = Incarnation([0; 16]);
        }),
        ("object", |head| head.object = Some(ObjectId([0; 16]))),
        ("session", |head| head.session = None),
        ("repository", |head| head.repo = RepoId([0; 16])),
    ];
    for (what, change) in moves {
        let mut moved = head.clone();
        change(&mut moved);
        let key = keys::log(&moved.source, moved.epoch, moved.seq);
        integrity(reopen(&world, &key, moved, &body), what);
    }
    // Under another name than its head says it is refused as it is.
    for key in [
        keys::log(&head.source, head.epoch, LogSeq(5)),
        keys::log(&head.source, Epoch(2), head.seq),
        keys::late_log(&head.source, Epoch(2), head.seq),
    ] {
        integrity(reopen(&world, &key, head.clone(), &body), key.as_str());
    }
    // What repair brought late stands under a name of its own.
    let late = keys::late_log(&head.source, head.epoch, head.seq);
    assert!(reopen(&world, &late, head, &body).is_ok());
}

#[test]
fn the_body_of_another_kind_is_refused() {
    let world = World::new();
    let (object, _) = world.log("app", b"content");
    let (head, _) = apart::<LogHead>(&object);
    let base = world.base(Cpu::Inline, 1);
    let (other, body) = apart::<BaseHead>(&base.base);
    let stolen = LogHead {
        object: Some(other.object),
        ..head
    };
    integrity(
        reopen(&world, &object.key, stolen, &body),
        "a base's body in a log object",
    );
    let refused = open_log(
        &base.base.key,
        &base.base.bytes,
        &world.secret(),
        LOG_BYTES_MAX,
    );
    integrity(
        refused.map(|(_, payload)| payload),
        "a base read as a log object",
    );
}

#[test]
fn a_secret_of_another_session_opens_nothing() {
    let (world, other) = (World::new(), World::seeded(2));
    let (object, _) = world.log("app", b"content");
    let refused = open_log(&object.key, &object.bytes, &other.secret(), LOG_BYTES_MAX);
    integrity(refused.map(|(_, payload)| payload), "another session");
}

#[test]
fn more_than_the_cap_is_refused_at_both_ends() {
    let world = World::new();
    let (object, _) = world.log("app", &vec![0; 3 * FRAME_RAW_MAX]);
    let refused = open_log(&object.key, &object.bytes, &world.secret(), FRAME_RAW_MAX);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    let huge = vec![0; LOG_PAYLOAD_MAX + 1];
    let rng = world.rng.as_ref();
    let refused = seal_log(&world.session, draft("app"), &huge, 1, &world.signer, rng);
    assert!(matches!(
        refused,
        Err(tidemark_seal::Error::TooLarge { .. })
    ));
    assert_eq!(LOG_PAYLOAD_MAX, LOG_BYTES_MAX);
}

#[test]
fn a_gap_is_signed_and_holds_nothing() {
    let world = World::new();
    let gap = Gap {
        reason: "the spool was full".to_owned(),
        since: None,
    };
    let (object, head) =
        gap_object(REPO, draft("app"), gap, &world.signer, world.rng.as_ref()).unwrap();
    assert!(!head.restorable);
    assert_eq!(apart::<LogHead>(&object), (head, Vec::new()));
    let refused = open_log(&object.key, &object.bytes, &world.secret(), LOG_BYTES_MAX);
    assert!(matches!(refused, Err(Error::Misplaced { .. })));
}
