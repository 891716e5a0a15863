//! Prepares the regions: marker, `RESTORE.md`, and this agent in the keyring or at its door.

use tidemark_format::{RegionId, heads::Role, sign::SigningKey};
use tidemark_host::{RngExt as _, config::AgentConfig};
use tidemark_ledger::{
    Keyring, LedgerError, LedgerErrorKind,
    custody::{self, Change},
    ensure_marker, ensure_readme,
};
use tidemark_storage::{
    ErrorKind,
    region::{AgentRegion, open_for_agent},
};

use super::{
    super::{Failure, context::Machine},
    keys::Keys,
};

/// A region that is ready.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) place: String,
    pub(super) id: RegionId,
    pub(super) enrolled: bool,
}

/// Prepares all of them; the first that can't be used ends it.
pub(super) async fn prepare(
    config: &AgentConfig,
    keys: &Keys,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<Vec<Prepared>, Failure> {
    let mut options = machine.open_options();
    options.create_directory = true;
    let mut prepared: Vec<Prepared> = Vec::new();
    for region in &config.regions {
        let store = open_for_agent(&region.name, &region.url, &options).await?;
        let marker = ensure_marker(
            store.meta.as_ref(),
            store.create.as_ref(),
            keys.trust.repo,
            signer,
            machine.rng.as_ref(),
            machine.clock.now(),
        )
        .await?;
        if let Some(twin) = prepared.iter().find(|other| other.id == marker.region) {
            return Err(Failure::Usage(format!(
                "regions {} and {} are one and the same place: a second copy needs another",
                twin.name, region.name
            )));
        }
        ensure_readme(store.create.as_ref(), keys.trust.repo, machine.rng.as_ref()).await?;
        let enrolled = enrol(&store, keys, signer, host, machine).await?;
        prepared.push(Prepared {
            name: region.name.to_string(),
            place: region.url.place(),
            id: marker.region,
            enrolled,
        });
    }
    Ok(prepared)
}

/// With the root at hand (a trial) the agent is enrolled at once, otherwise it asks.
async fn enrol(
    store: &AgentRegion,
    keys: &Keys,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<bool, Failure> {
    let keyring = match Keyring::load(store.meta.as_ref(), &keys.trust).await {
        Ok(keyring) => Some(keyring),
        Err(error) if error.kind() == LedgerErrorKind::NoRepository => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(keyring) = &keyring
        && custody::is_enrolled(keyring, &signer.public())?
    {
        return Ok(true);
    }
    let (now, put) = (machine.clock.now(), machine.rng.id());
    if let Some(trial) = &keys.trial
        && let Some(root) = &trial.root
    {
        let member = custody::member(Role::Agent, signer.public(), host.to_owned(), now);
        let signed = match &keyring {
            Some(keyring) => {
                custody::amend(keyring, root, vec![Change::AddMember(member)], put, now)?
            }
            None => {
                let recipients = trial
                    .identities
                    .iter()
                    .map(custody::NamedIdentity::entry)
                    .collect();
                custody::first_keyring(root, recipients, vec![member], put, now)?
            }
        };
        signed.create(store.create.as_ref()).await?;
        return Ok(true);
    }
    let request = custody::enrol_request(keys.trust.repo, Role::Agent, host, signer, put, now)?;
    match request.create(store.create.as_ref()).await {
        Ok(_created) => Ok(false),
        // It asked before: the first request stands.
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => Ok(false),
        Err(error) => Err(error.into()),
    }
}
