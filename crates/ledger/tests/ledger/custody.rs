//! Enrolment, revocation and the recipients that agents follow.

use tidemark_format::heads::{EnrolHead, Revocation, Role};
use tidemark_format::sign::SigningKey;
use tidemark_format::{LogSeq, keys};
use tidemark_host::RngExt as _;
use tidemark_ledger::custody::{
    Change, NewKeys, adopt_recipients, amend, enrol_request, enrolments, is_enrolled, member,
    new_identity, valid_until,
};
use tidemark_ledger::{LedgerErrorKind, Signed};
use tidemark_storage::CreateStore as _;

use crate::support::{Repo, plain, second};

#[tokio::test]
async fn a_second_agent_asks_and_is_enrolled() {
    let repo = Repo::new().await;
    let key = SigningKey::from_secret(&[2; 32]);
    let id = repo.keys.repo();
    let request = enrol_request(id, Role::Agent, "db-2", &key, repo.rng.id(), second(5)).unwrap();
    repo.put(&request).await;
    let keyring = repo.keyring().await;
    assert!(!is_enrolled(&keyring, &key.public()).unwrap());
    let open = enrolments(&repo.store, &keyring).await.unwrap();
    assert_eq!(open.len(), 1);
    let asked = &open[0].head;
    let new = member(asked.role, asked.key, asked.name.clone(), second(6));
    repo.change(vec![Change::AddMember(new)]).await;
    let keyring = repo.keyring().await;
    assert!(is_enrolled(&keyring, &key.public()).unwrap());
    assert!(enrolments(&repo.store, &keyring).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_request_for_somebody_elses_key_is_not_shown() {
    let repo = Repo::new().await;
    let thief = SigningKey::from_secret(&[6; 32]);
    let head = EnrolHead {
        repo: repo.keys.repo(),
        role: Role::Agent,
        key: SigningKey::from_secret(&[7; 32]).public(),
        name: "x".to_owned(),
        put: repo.rng.id(),
        at: second(5),
    };
    repo.put(&Signed::new(&head, &thief).unwrap()).await;
    let junk = keys::enrolment(thief.public().id());
    repo.store
        .create(&junk, "junk".into(), &repo.rng.id())
        .await
        .unwrap();
    assert!(
        enrolments(&repo.store, &*repo.keyring().await)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn agents_adopt_recipients_that_the_root_added() {
    let repo = Repo::new().await;
    let trust = repo.keys.root.trust();
    let drill = new_identity(&trust, "drill", &repo.rng, second(5));
    repo.change(vec![Change::AddRecipient(drill.entry())]).await;
    let adopted = adopt_recipients(&repo.store, &trust, 1).await.unwrap();
    assert_eq!(adopted.version, 2);
    assert!(adopted.recipients.contains(&drill.recipient()));
    assert!(adopt_recipients(&repo.store, &trust, 3).await.is_err());
}

#[tokio::test]
async fn what_a_revoked_agent_had_written_stays_valid_and_nothing_after_it() {
    // GIVEN an agent that wrote ten objects and is revoked then.
    let repo = Repo::new().await;
    let mut writer = plain(&repo).await;
    let histories = [repo.history().await.unwrap()];
    let key = repo.agent.public();
    let last = valid_until(&histories, &key).await.unwrap();
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].seq, last[0].link), (LogSeq(9), writer.links[9]));
    let revocation = Revocation {
        valid_until: last,
        ..Revocation::new(second(400), "stolen".to_owned())
    };
    repo.change(vec![Change::RevokeMember { key, revocation }])
        .await;
    // WHEN the thief writes on.
    writer.ship(2).await;
    // THEN the first ten still count, and what came after is refused with the reason.
    let history = repo.history().await.unwrap();
    let log = history.whole_log(writer.epoch).await.unwrap();
    assert!(log[..10].iter().all(|entry| entry.state.object().is_some()));
    for entry in &log[10..] {
        let tidemark_ledger::history::LogState::Damaged(error) = &entry.state else {
            panic!("{entry:?}")
        };
        assert_eq!(error.kind(), LedgerErrorKind::Key);
    }
    assert_eq!(history.tail().await.unwrap().last().unwrap().seq, LogSeq(9));
    assert!(is_enrolled(&*repo.keyring().await, &key).is_err());
}

#[tokio::test]
async fn the_last_recipient_and_an_unknown_key_can_not_be_revoked() {
    let repo = Repo::new().await;
    let keyring = repo.keyring().await;
    let revocation = || Revocation::new(second(9), "test".to_owned());
    let both = [&repo.keys.identity, &repo.keys.escrow].map(|identity| Change::RevokeRecipient {
        id: identity.recipient().id(),
        revocation: revocation(),
    });
    let root = &repo.keys.root;
    let error = amend(&keyring, root, both.into(), repo.rng.id(), second(9)).unwrap_err();
    assert!(error.to_string().contains("nobody could read"), "{error}");
    assert!(!error.to_string().contains("trusted"), "{error}");
    let stranger = SigningKey::from_secret(&[8; 32]).public();
    let change = Change::RevokeMember {
        key: stranger,
        revocation: revocation(),
    };
    assert!(amend(&keyring, root, vec![change], repo.rng.id(), second(9)).is_err());
    let other = NewKeys::generate(&repo.rng, second(9)).root;
    assert!(amend(&keyring, &other, Vec::new(), repo.rng.id(), second(9)).is_err());
}
