//! The keyring is believed from the pinned root on, whole or not at all.

use tidemark_format::envelope::{self, Head, Kind};
use tidemark_format::heads::{KeyringHead, Revocation, Role, ValidUntil};
use tidemark_format::sign::SigningKey;
use tidemark_format::{Epoch, Hash, KeyId, LogSeq, keys};
use tidemark_ledger::custody::Change;
use tidemark_ledger::{Keyring, LedgerError, LedgerErrorKind, Signed, Subject, Trust};
use tidemark_storage::{CreateStore as _, DeleteStore as _};

use crate::support::{Repo, app, second};

fn revocation(valid_until: Vec<ValidUntil>) -> Revocation {
    Revocation {
        valid_until,
        ..Revocation::new(second(400), "host stolen".to_owned())
    }
}

#[tokio::test]
async fn the_highest_version_counts_and_names_active_recipients_only() {
    let repo = Repo::new().await;
    let id = repo.keys.escrow.recipient().id();
    let revoke = Change::RevokeRecipient {
        id,
        revocation: revocation(Vec::new()),
    };
    repo.change(vec![revoke]).await;
    let keyring = repo.keyring().await;
    assert_eq!(keyring.version(), 2);
    let active: Vec<_> = keyring.recipients().map(|entry| entry.key).collect();
    assert_eq!(active, [repo.keys.identity.recipient()]);
}

#[tokio::test]
async fn without_a_keyring_there_is_no_repository() {
    let repo = Repo::new().await;
    repo.store.delete(&keys::keyring(1)).await.unwrap();
    let error = Keyring::load(&repo.store, &repo.keys.root.trust())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::NoRepository);
}

#[tokio::test]
async fn a_version_that_is_missing_refuses_the_whole_keyring() {
    let repo = Repo::new().await;
    repo.enrol(&SigningKey::from_secret(&[2; 32])).await;
    repo.enrol(&SigningKey::from_secret(&[3; 32])).await;
    repo.store.delete(&keys::keyring(2)).await.unwrap();
    let error = Keyring::load(&repo.store, &repo.keys.root.trust())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Key);
    assert!(
        error.to_string().contains("version 2 is missing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_keyring_older_than_one_seen_before_is_refused() {
    let repo = Repo::new().await;
    let error = Keyring::load_at_least(&repo.store, &repo.keys.root.trust(), 2)
        .await
        .unwrap_err();
    assert!(
        matches!(error, LedgerError::KeyringOlder { found: 1, seen: 2 }),
        "{error}"
    );
}

#[tokio::test]
async fn another_root_is_not_believed() {
    let repo = Repo::new().await;
    let trust = Trust {
        root: KeyId([9; 16]),
        ..repo.keys.root.trust()
    };
    let error = Keyring::load(&repo.store, &trust).await.unwrap_err();
    assert!(error.to_string().contains("not by the root"), "{error}");
}

#[tokio::test]
async fn a_version_that_does_not_follow_the_one_before_is_refused() {
    let repo = Repo::new().await;
    let head = KeyringHead {
        version: 2,
        prev: Some(Hash([0; 32])),
        ..repo.keyring_head()
    };
    repo.put(&Signed::new(&head, &repo.keys.root.key).unwrap())
        .await;
    let error = Keyring::load(&repo.store, &repo.keys.root.trust())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("does not follow"), "{error}");
}

#[tokio::test]
async fn a_revoked_agents_log_counts_up_to_the_listed_object_and_no_further() {
    let repo = Repo::new().await;
    let last = ValidUntil {
        source: app(),
        epoch: Epoch(1),
        seq: LogSeq(7),
        link: Hash([1; 32]),
    };
    let key = repo.agent.public();
    let revoke = Change::RevokeMember {
        key,
        revocation: revocation(vec![last]),
    };
    repo.change(vec![revoke]).await;
    let keyring = repo.keyring().await;
    let log = |seq| Subject::Log {
        source: app(),
        epoch: Epoch(1),
        seq: LogSeq(seq),
    };
    assert!(keyring.check(&key, &[Role::Agent], &log(7)).is_ok());
    let error = keyring.check(&key, &[Role::Agent], &log(8)).unwrap_err();
    assert_eq!(error.kind(), LedgerErrorKind::Key);
    let text = error.to_string();
    let (id, when) = (key.id().to_string(), second(400).to_string());
    assert!(
        text.contains(&id) && text.contains(&when) && text.contains("host stolen"),
        "{text}"
    );
    let late = Subject::dated(Kind::Point, second(401));
    assert!(keyring.check(&key, &[Role::Agent], &late).is_err());
}

#[tokio::test]
async fn an_unknown_signer_and_a_wrong_role_are_told_apart() {
    let repo = Repo::new().await;
    let keyring = repo.keyring().await;
    let subject = Subject::Referenced(Kind::Pack);
    let stranger = SigningKey::from_secret(&[7; 32]).public();
    let error = keyring
        .check(&stranger, &[Role::Agent], &subject)
        .unwrap_err();
    assert!(
        matches!(error, LedgerError::UnknownSigner { .. }),
        "{error}"
    );
    let error = keyring
        .check(&repo.agent.public(), &[Role::Drill], &subject)
        .unwrap_err();
    assert!(matches!(error, LedgerError::WrongRole { .. }), "{error}");
}

/// A keyring as a later version of the program might write it.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct OfTheFuture(serde_json::Value);

impl Head for OfTheFuture {
    const KIND: Kind = Kind::Keyring;
}

#[tokio::test]
async fn a_next_version_keeps_what_a_newer_program_had_added() {
    // GIVEN a keyring with keys that we don't know at every level
    let repo = Repo::new().await;
    let keyring = repo.keyring().await;
    let key = repo.agent.public();
    let revoke = Change::RevokeMember {
        key,
        revocation: Revocation {
            anchors: Some(tidemark_format::heads::Anchors::default()),
            ..revocation(Vec::new())
        },
    };
    repo.change(vec![revoke]).await;
    let mut json = serde_json::to_value(repo.keyring().await.head()).unwrap();
    json["version"] = 3.into();
    json["prev"] = repo.keyring().await.link().to_string().into();
    json["quorum"] = serde_json::json!({"of": 2});
    json["members"][0]["device"] = "token".into();
    json["members"][0]["revoked"]["ticket"] = 7.into();
    json["members"][0]["revoked"]["anchors"]["touches"] = serde_json::json!([1]);
    json["recipients"][1]["device"] = "safe".into();
    let bytes = envelope::encode(&OfTheFuture(json.clone()), &repo.keys.root.key, b"").unwrap();
    let put = tidemark_format::PutId([4; 16]);
    repo.store
        .create(&keys::keyring(3), bytes.into(), &put)
        .await
        .unwrap();
    assert_eq!(keyring.members().len(), 1);
    // WHEN today's program reads it and makes the next one
    repo.enrol(&SigningKey::from_secret(&[6; 32])).await;
    // THEN all of it is still there, and is what the root signed
    let next = serde_json::to_value(repo.keyring().await.head()).unwrap();
    assert_eq!(next["version"], 4);
    for path in [
        "/quorum/of",
        "/members/0/device",
        "/members/0/revoked/ticket",
        "/members/0/revoked/anchors/touches/0",
        "/recipients/1/device",
    ] {
        let kept = next.pointer(path);
        assert!(kept.is_some() && kept == json.pointer(path), "{path}");
    }
}
