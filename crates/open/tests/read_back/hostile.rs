//! Hostile bytes: whatever stands in a region, or whatever a stolen agent key signs and encrypts,
//! is a typed error. Never a panic, never memory beyond the caps.

use aes_gcm::{Aes256Gcm, KeyInit, aead::AeadInOut};
use hkdf::Hkdf;
use proptest::prelude::*;
use sha2::Sha256;
use tidemark_format::{
    Hash, ObjectId,
    crypt::{CryptHeader, FRAME_RAW_MAX, OBJECT_INFO, nonce, source_tag},
    envelope::Kind,
    heads::{BaseHead, LogHead, PackHead},
};
use tidemark_host::Cpu;
use tidemark_open::{
    BASE_INDEX_BYTES_MAX, Error, ErrorKind, Identity, LOG_BYTES_MAX, SessionSecret, open_base,
    open_log, open_pack,
};
use tidemark_seal::FinishedBase;

use crate::world::{INCARNATION, REPO, World, apart, app, identity, random};

/// The session secret, got as a recipient would: what a thief with the agent's memory has too.
fn raw_secret(world: &World) -> Vec<u8> {
    use hpke::{Deserializable, kem::X25519HkdfSha256 as Kem};
    use tidemark_format::{crypt::HPKE_INFO, heads::SessionHead};
    let (head, _) = apart::<SessionHead>(&world.session_object);
    let sealed = &head.recipients[0];
    let info = [HPKE_INFO, &REPO.0, &head.session.0].concat();
    hpke::single_shot_open::<hpke::aead::AesGcm256, hpke::kdf::HkdfSha256, Kem>(
        &hpke::OpModeR::Base,
        &<Kem as hpke::Kem>::PrivateKey::from_bytes(&[1; 32]).unwrap(),
        &<Kem as hpke::Kem>::EncappedKey::from_bytes(&sealed.encapsulated).unwrap(),
        &info,
        &sealed.sealed,
        &[],
    )
    .unwrap()
}

/// A body written by hand from the page of the format: each of `plain` encrypted as a frame.
fn body(world: &World, kind: Kind, object: ObjectId, plain: &[Vec<u8>]) -> Vec<u8> {
    let header = CryptHeader {
        kind,
        repo: REPO,
        source: source_tag(&app()),
        incarnation: INCARNATION,
        object,
        session: world.session.id(),
    };
    let mut keys = [0; 64];
    Hkdf::<Sha256>::new(Some(&object.0), &raw_secret(world))
        .expand(&[OBJECT_INFO, &header.bound_bytes()].concat(), &mut keys)
        .unwrap();
    let cipher = Aes256Gcm::new_from_slice(&keys[..32]).unwrap();
    let header = header.bytes(keys[32..].try_into().unwrap());
    let mut out = header.to_vec();
    for (at, content) in plain.iter().enumerate() {
        let mut sealed = content.clone();
        let nonce = nonce(u32::try_from(at).unwrap(), at + 1 == plain.len());
        let tag = cipher
            .encrypt_inout_detached(&nonce.into(), &header, sealed.as_mut_slice().into())
            .unwrap();
        sealed.extend_from_slice(&tag);
        out.extend_from_slice(&u32::try_from(sealed.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&sealed);
    }
    out
}

fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(content, 1).unwrap()
}

/// A base whose index is `index`, properly encrypted and signed.
pub(crate) fn base_with_index(world: &World, base: &FinishedBase, index: &[u8]) -> Vec<u8> {
    let (mut head, _) = apart::<BaseHead>(&base.base);
    let chunks: Vec<Vec<u8>> = index.chunks(FRAME_RAW_MAX).map(zstd).collect();
    let body = body(world, Kind::Base, head.object, &chunks);
    head.body_len = body.len() as u64;
    head.body_hash = Hash::of(&body);
    world.resign(&head, &body)
}

/// Opens a log object whose frames hold `plain` as they are.
fn log_of(world: &World, plain: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let (object, _) = world.log("app", b"");
    let (mut head, _) = apart::<LogHead>(&object);
    let body = body(world, Kind::Log, head.object.unwrap(), plain);
    head.body_len = body.len() as u64;
    head.body_hash = Hash::of(&body);
    let bytes = world.resign(&head, &body);
    open_log(&object.key, &bytes, &world.secret(), LOG_BYTES_MAX).map(|(_, payload)| payload)
}

#[test]
fn a_body_written_by_hand_from_the_format_page_opens() {
    let world = World::new();
    let read = log_of(&world, &[zstd(b"one "), zstd(b"two")]).unwrap();
    assert_eq!(read, b"one two");
}

#[test]
fn frames_that_lie_about_their_content_are_refused_before_it_is_made() {
    let world = World::new();
    let bomb = zstd(&vec![0; 64 << 20]);
    assert!(bomb.len() < 16 << 10, "{}", bomb.len());
    let no_size = {
        use std::io::Write;
        let mut stream = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        stream.write_all(&[7; 5000]).unwrap();
        stream.finish().unwrap()
    };
    let cases = [
        ("a bomb", bomb),
        ("no size", no_size),
        ("trailing bytes", [zstd(b"one"), b"x".to_vec()].concat()),
        ("two frames", [zstd(b"one"), zstd(b"two")].concat()),
        ("empty", Vec::new()),
        ("not zstd", random(100)),
        ("cut", zstd(&random(3000))[..2000].to_vec()),
    ];
    for (what, frame) in cases {
        let error = log_of(&world, &[frame]).expect_err(what);
        assert!(matches!(error, Error::Frame { .. }), "{what}: {error}");
    }
}

#[test]
fn many_full_frames_stop_at_the_cap() {
    let world = World::new();
    let full = zstd(&vec![0; FRAME_RAW_MAX]);
    let error = log_of(&world, &vec![full; 80]).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_open(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let world = World::new();
        let secret = world.secret();
        let (log, _) = world.log("app", b"");
        prop_assert!(open_log(&log.key, &bytes, &secret, LOG_BYTES_MAX).is_err());
        prop_assert!(open_base(&log.key, &bytes, &secret, BASE_INDEX_BYTES_MAX).is_err());
        prop_assert!(open_pack(&log.key, &bytes, &secret, |_, _| ()).is_err());
        prop_assert!(SessionSecret::open(&identity(1), &log.key, &bytes).is_err());
        prop_assert!(Identity::parse(&String::from_utf8_lossy(&bytes), Some("x")).is_err());
    }

    #[test]
    fn arbitrary_identity_lines_never_open(
        lines in proptest::collection::vec("(repo|root|secret|name|x) = [a-z0-9:]{0,90}", 0..6),
    ) {
        let text = format!("tidemark-identity-1\n{}", lines.join("\n"));
        let error = Identity::parse(&text, Some("x")).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Key);
    }

    #[test]
    fn signed_bodies_of_arbitrary_bytes_never_open(
        junk in proptest::collection::vec(any::<u8>(), 0..2000),
        keep in 0usize..400,
    ) {
        // The first bytes of a good body, then junk: signed, so only the body's own checks remain.
        let world = World::new();
        let secret = world.secret();
        let (object, _) = world.log("app", &random(200));
        let (mut head, good) = apart::<LogHead>(&object);
        let mut body = good[..keep.min(good.len() - 1)].to_vec();
        body.extend(&junk);
        prop_assume!(body != good);
        head.body_len = body.len() as u64;
        head.body_hash = Hash::of(&body);
        let bytes = world.resign(&head, &body);
        let error = open_log(&object.key, &bytes, &secret, LOG_BYTES_MAX).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Integrity);
    }

    #[test]
    fn encrypted_tables_of_arbitrary_bytes_never_open(
        junk in proptest::collection::vec(any::<u8>(), 0..400),
        versioned: bool,
    ) {
        let world = World::new();
        let secret = world.secret();
        let base = world.base(Cpu::Inline, 2);
        let mut table = if versioned { vec![1] } else { Vec::new() };
        table.extend(junk);
        let bytes = base_with_index(&world, &base, &table);
        let key = &base.base.key;
        prop_assert!(open_base(key, &bytes, &secret, BASE_INDEX_BYTES_MAX).is_err());
        let (mut head, _) = apart::<PackHead>(&base.packs[0]);
        let body = body(&world, Kind::Pack, head.object, &[zstd(b"data"), zstd(&table)]);
        head.body_len = body.len() as u64;
        head.body_hash = Hash::of(&body);
        let bytes = world.resign(&head, &body);
        prop_assert!(open_pack(&base.packs[0].key, &bytes, &secret, |_, _| ()).is_err());
    }
}
