//! Enrolment as agents see it: asking, finding out, and following the keyring's recipients.

use jiff::Timestamp;
use tidemark_format::envelope::Kind;
use tidemark_format::heads::{EnrolHead, Role};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::{PublicKey, SigningKey};
use tidemark_format::{PutId, RepoId, keys};
use tidemark_storage::ReadStore;

use crate::object::{Signed, Verified};
use crate::read::{list_all, read_verified};
use crate::{Keyring, LedgerError, Result, Subject, Trust};

/// A request to be enrolled, signed by the key that asks.
///
/// # Errors
/// [`LedgerError::Format`] when it is larger than the format allows.
pub fn enrol_request(
    repo: RepoId,
    role: Role,
    name: &str,
    key: &SigningKey,
    put: PutId,
    now: Timestamp,
) -> Result<Signed> {
    let head = EnrolHead {
        repo,
        role,
        key: key.public(),
        name: name.to_owned(),
        put,
        at: now,
    };
    Signed::new(&head, key)
}

/// The requests in a region that the keyring has not answered. Those that are damaged, forged or of
/// another repository are left out: anybody who may create objects can write some.
///
/// # Errors
/// The region's.
pub async fn enrolments(
    store: &dyn ReadStore,
    keyring: &Keyring,
) -> Result<Vec<Verified<EnrolHead>>> {
    let mut open = first_enrolments(store, keyring.repo()).await?;
    open.retain(|request| keyring.member(&request.signer).is_none());
    Ok(open)
}

/// The requests in a region of a repository that has no keyring yet: nobody has answered any.
///
/// # Errors
/// The region's.
pub async fn first_enrolments(
    store: &dyn ReadStore,
    repo: RepoId,
) -> Result<Vec<Verified<EnrolHead>>> {
    let mut open = Vec::new();
    for entry in list_all(store, keys::ENROLMENTS).await? {
        match read_verified::<EnrolHead>(store, &entry.key, Some(entry.size)).await {
            Ok(request) => {
                let own = request.signer == request.head.key && request.check_place(repo).is_ok();
                if own {
                    open.push(request);
                }
            }
            Err(error) if error.is_about_the_object() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(open)
}

/// Whether `key` may sign as an agent; `false` while the root has not answered its request.
///
/// # Errors
/// [`LedgerError::Revoked`] or [`LedgerError::WrongRole`]: asking again would not help.
pub fn is_enrolled(keyring: &Keyring, key: &PublicKey) -> Result<bool> {
    // Later than any revocation, whatever this host's clock says.
    let subject = Subject::dated(Kind::Claim, Timestamp::MAX);
    match keyring.check(key, &[Role::Agent], &subject) {
        Ok(_member) => Ok(true),
        Err(LedgerError::UnknownSigner { .. }) => Ok(false),
        Err(LedgerError::Revoked {
            signer,
            name,
            at,
            reason,
            what: _,
        }) => {
            let what = "what this agent would write".to_owned();
            Err(LedgerError::Revoked {
                signer,
                name,
                at,
                reason,
                what,
            })
        }
        Err(error) => Err(error),
    }
}

/// What an agent takes over from the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The keyring's version: to be remembered and passed as the minimum next time.
    pub version: u32,
    /// To whom the next session is sealed.
    pub recipients: Vec<RecipientKey>,
}

/// The recipients for an agent's next session, from a keyring that the pinned root signed.
///
/// # Errors
/// The keyring's; [`LedgerError::Keyring`] when it has no recipient left.
pub async fn adopt_recipients(store: &dyn ReadStore, trust: &Trust, seen: u32) -> Result<Adopted> {
    let keyring = Keyring::load_at_least(store, trust, seen).await?;
    let recipients: Vec<RecipientKey> = keyring.recipients().map(|entry| entry.key).collect();
    if recipients.is_empty() {
        return Err(LedgerError::Keyring {
            why: "it names no recipient".to_owned(),
        });
    }
    Ok(Adopted {
        version: keyring.version(),
        recipients,
    })
}
