//! Whether what a drill signs will count: of a key that was revoked nothing does, and a drill that counts for
//! nothing must not look as if it had passed.

use std::time::Duration;

use futures_util::future::join_all;
use tidemark_format::sign::PublicKey;
use tidemark_host::{Exit, codes, output};
use tidemark_ledger::Keyring;

use super::course::Course;
use super::fault::Fault;
use crate::repository::Repository;

/// What the last look may take: everything else is done by then.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// Why this signer's record counts for nothing, if it was revoked.
pub(super) fn revoked(keyring: &Keyring, signer: &PublicKey) -> Option<String> {
    let revocation = keyring.member(signer)?.revoked.as_ref()?;
    Some(format!(
        "the key that signs this drill ({}) was revoked at {} ({}): its record counts for nothing; drill with an identity whose \
         key is enrolled (keys enrol)",
        signer.id(),
        output::instant(revocation.at),
        revocation.reason
    ))
}

/// The same by the keyrings as they are in the regions by now.
pub(super) async fn revoked_by_now(repository: &Repository, signer: &PublicKey) -> Option<String> {
    // All at once: each that went in the middle is waited for.
    let asked = repository.regions.iter().map(|region| {
        let read = Keyring::load(region.store.read.as_ref(), &repository.trust);
        tokio::time::timeout(LOOK_MAX, read)
    });
    // A region that doesn't answer knows nothing newer.
    let mut answered = join_all(asked).await.into_iter().flatten().flatten();
    answered.find_map(|keyring| revoked(&keyring, signer))
}

impl Course {
    /// Its record will count for nothing.
    pub(super) fn signer_revoked(&mut self, why: String) {
        self.observed.infrastructure = Some(why.clone());
        self.fault = Some(Fault {
            rung: None,
            code: codes::SIGNER_REVOKED.id,
            text: why,
            exit: Exit::Key,
        });
    }
}
