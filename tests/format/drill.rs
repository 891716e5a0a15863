//! Golden files of what scheduled drills add to the format: the steps of a turn. They were written from
//! `docs/FORMAT.md`, not by the code that is tested here.

use tidemark_format::envelope::{Envelope, encode};
use tidemark_format::heads::{DrillClaimHead, DrillStep};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Hash, Key, keys};

use crate::golden::objects;

/// Every step, by its key.
pub(crate) fn steps() -> Vec<(String, Vec<u8>)> {
    objects(&tidemark_tests::root().join("tests/format/golden/drill-v1"))
}

#[test]
fn steps_of_a_drill_read_as_they_were_written_and_write_the_same_bytes() {
    let key = SigningKey::from_secret(&[7; 32]);
    let mut heads = Vec::new();
    for (name, bytes) in steps() {
        let (envelope, head) = Envelope::open::<DrillClaimHead>(&bytes).unwrap();
        let place = keys::drill_claim(&head.drill, head.slot, head.seq);
        assert_eq!(place, Key::new(name).unwrap());
        assert_eq!(envelope.signer, key.public());
        if head.step != DrillStep::Other {
            assert_eq!(encode(&head, &key, &[]).unwrap(), bytes, "{place}");
        }
        heads.push((envelope.link(), head));
    }
    let said: Vec<DrillStep> = heads.iter().map(|(_, head)| head.step).collect();
    // The last is a word that this version doesn't know.
    let expected = [
        DrillStep::Taken,
        DrillStep::Held,
        DrillStep::Ended,
        DrillStep::Taken,
        DrillStep::Released,
        DrillStep::Other,
    ];
    assert_eq!(said, expected);
    let links: Vec<Option<Hash>> = heads.iter().map(|(_, head)| head.claim).collect();
    let (first, second) = (heads[0].0, heads[3].0);
    let claims = [
        None,
        Some(first),
        Some(first),
        None,
        Some(second),
        Some(second),
    ];
    assert_eq!(links, claims);
    assert_eq!(
        heads[0].1.until.unwrap().to_string(),
        "2026-11-22T03:02:01.5Z"
    );
    assert_eq!(heads[2].1.facts["rto_ms"], 41_500);
    assert_eq!(heads[2].1.until, None);
    assert_eq!(heads.len(), 6);
}
