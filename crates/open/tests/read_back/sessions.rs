//! Who can open a session, and what a changed one says.

use tidemark_format::{Hash, RepoId, SessionId, heads::SessionHead, keys};
use tidemark_open::{Error, ErrorKind, Identity, SessionSecret};
use tidemark_seal::Session;

use crate::world::{REPO, World, apart, identity, identity_key, recipient};

#[test]
fn every_recipient_opens_the_session_and_nobody_else() {
    let world = World::new();
    let object = &world.session_object;
    for byte in [1, 2] {
        let (secret, signer) =
            SessionSecret::open(&identity(byte), &object.key, &object.bytes).unwrap();
        assert_eq!(secret.session(), world.session.id());
        assert_eq!(signer, world.signer.public());
    }
    let error = SessionSecret::open(&identity(3), &object.key, &object.bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Key);
    assert!(
        error.to_string().contains(&recipient(1).id().to_string()),
        "{error}"
    );
}

#[test]
fn a_revoked_recipient_is_not_sealed_to_any_more() {
    // GIVEN an agent whose keyring no longer lists recipient 1
    let world = World::new();
    let (_session, object) = Session::begin(
        REPO,
        &[recipient(2)],
        &world.signer,
        world.rng.as_ref(),
        jiff::Timestamp::UNIX_EPOCH,
    )
    .unwrap();
    // THEN the next session opens for recipient 2 alone
    assert!(SessionSecret::open(&identity(2), &object.key, &object.bytes).is_ok());
    let refused = SessionSecret::open(&identity(1), &object.key, &object.bytes);
    assert!(matches!(refused, Err(Error::NotARecipient { .. })));
}

#[test]
fn an_identity_of_another_repository_is_told_so() {
    let world = World::new();
    let object = &world.session_object;
    let other = Identity::from_key(identity_key(1, RepoId([8; 16])));
    let error = SessionSecret::open(&other, &object.key, &object.bytes).unwrap_err();
    assert!(matches!(error, Error::WrongRepository { .. }));
    assert_eq!(error.kind(), ErrorKind::Key);
}

#[test]
fn every_flipped_bit_of_a_session_is_noticed() {
    let world = World::new();
    let object = &world.session_object;
    for at in 0..object.bytes.len() {
        let mut bytes = object.bytes.to_vec();
        bytes[at] ^= 1 << (at % 8);
        let error = SessionSecret::open(&identity(1), &object.key, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "byte {at}: {error}");
    }
}

#[test]
fn a_session_that_commits_to_another_secret_or_stands_elsewhere_is_refused() {
    let world = World::new();
    let object = &world.session_object;
    let open = |head: &SessionHead, key| {
        SessionSecret::open(&identity(1), key, &world.resign(head, &[])).unwrap_err()
    };
    let (mut head, _) = apart::<SessionHead>(object);
    head.commitment = Hash([0; 32]);
    assert!(matches!(open(&head, &object.key), Error::Commitment { .. }));
    // The sealed secret is bound to the session's id: under another one it doesn't open.
    let (mut head, _) = apart::<SessionHead>(object);
    head.session = SessionId([1; 16]);
    assert!(matches!(open(&head, &object.key), Error::Misplaced { .. }));
    assert!(matches!(
        open(&head, &keys::session(head.session)),
        Error::Misplaced { .. }
    ));
}
