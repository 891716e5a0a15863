//! Prepares the regions: marker, `RESTORE.md`, and this agent in the keyring or at its door.
//!
//! Plan, then act: [`look`] reads every region and refuses what can be refused, the regions' keyrings
//! disagreeing included; only [`prepare`] writes. With the root at hand (a trial) one document is
//! signed, once, and the same bytes go into every region.

use std::sync::Arc;

use tidemark_format::{PutId, RegionId, heads::Role, sign::SigningKey};
use tidemark_host::{RngExt as _, config::AgentConfig};
use tidemark_ledger::{
    LedgerError, Signed,
    custody::{self, Change, KeyringCopies, KeyringCopy},
    ensure_marker, ensure_readme, read_marker,
};
use tidemark_storage::{
    ErrorKind,
    region::{AgentRegion, open_for_agent},
};

use super::{
    super::{Failure, context::Machine},
    keys::{Keys, Trial},
};

/// A region that is ready.
pub(super) struct Prepared {
    pub(super) name: String,
    pub(super) place: String,
    pub(super) id: RegionId,
    pub(super) enrolled: bool,
}

/// The regions as they were found: all answer, and none speaks against another.
pub(super) struct Found {
    stores: Vec<AgentRegion>,
    copies: KeyringCopies,
}

/// Opens and reads all of them; the first that can't be used ends it. Nothing is written but the
/// folder of a directory region.
pub(super) async fn look(
    config: &AgentConfig,
    keys: &Keys,
    machine: &Machine,
) -> Result<Found, Failure> {
    let mut options = machine.open_options();
    options.create_directory = true;
    let (mut stores, mut copies) = (Vec::new(), Vec::new());
    for region in &config.regions {
        let store = open_for_agent(&region.name, &region.url, &options).await?;
        if let Some(marker) = read_marker(store.meta.as_ref()).await?
            && marker.repo != keys.trust.repo
        {
            return Err(Failure::from(LedgerError::OtherRepository {
                found: marker.repo,
                expected: keys.trust.repo,
            }));
        }
        let (meta, create) = (Arc::clone(&store.meta), Arc::clone(&store.create));
        let name = region.name.clone();
        copies.push(KeyringCopy::load(name, meta, create, &keys.trust).await?);
        stores.push(store);
    }
    let copies = KeyringCopies::new(copies)?;
    Ok(Found { stores, copies })
}

impl Found {
    /// Whether a region has been made this repository's by now: then its keys must be kept.
    pub(super) async fn is_begun(&self) -> bool {
        for store in &self.stores {
            // One that doesn't say may have been.
            if !matches!(read_marker(store.meta.as_ref()).await, Ok(None)) {
                return true;
            }
        }
        false
    }
}

/// Prepares all of them; the first that can't be written ends it.
pub(super) async fn prepare(
    found: &Found,
    keys: &Keys,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<Vec<Prepared>, Failure> {
    let mut prepared: Vec<Prepared> = Vec::new();
    for store in &found.stores {
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
                twin.name, store.name
            )));
        }
        ensure_readme(store.create.as_ref(), keys.trust.repo, machine.rng.as_ref()).await?;
        prepared.push(Prepared {
            name: store.name.to_string(),
            place: store.place.to_string(),
            id: marker.region,
            enrolled: false,
        });
    }
    let enrolled = enrol(found, keys, signer, host, machine).await?;
    for region in &mut prepared {
        region.enrolled = enrolled;
    }
    Ok(prepared)
}

/// With the root at hand (a trial) the agent is enrolled at once, otherwise it asks.
async fn enrol(
    found: &Found,
    keys: &Keys,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<bool, Failure> {
    let known = match found.copies.newest() {
        Some(keyring) => custody::is_enrolled(keyring, &signer.public())?,
        None => false,
    };
    let signed = match &keys.trial {
        Some(trial) if !known => enrolment(found, trial, signer, host, machine)?,
        Some(_) | None => None,
    };
    let enrolled = known || signed.is_some();
    for published in found.copies.publish(signed.as_ref()).await {
        published.result?;
    }
    if !enrolled {
        for store in &found.stores {
            ask(store, keys, signer, host, machine).await?;
        }
    }
    Ok(enrolled)
}

/// The keyring's next version, which names this agent; none without the root's key.
fn enrolment(
    found: &Found,
    trial: &Trial,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<Option<Signed>, Failure> {
    let Some(root) = &trial.root else {
        return Ok(None);
    };
    let (now, put) = (machine.clock.now(), machine.rng.id());
    let member = custody::member(Role::Agent, signer.public(), host.to_owned(), now);
    let signed = match found.copies.newest() {
        Some(keyring) => custody::amend(keyring, root, vec![Change::AddMember(member)], put, now)?,
        None => {
            let identities = trial.identities.iter();
            let recipients = identities.map(custody::NamedIdentity::entry).collect();
            custody::first_keyring(root, recipients, vec![member], put, now)?
        }
    };
    Ok(Some(signed))
}

async fn ask(
    store: &AgentRegion,
    keys: &Keys,
    signer: &SigningKey,
    host: &str,
    machine: &Machine,
) -> Result<(), Failure> {
    let (now, put): (_, PutId) = (machine.clock.now(), machine.rng.id());
    let request = custody::enrol_request(keys.trust.repo, Role::Agent, host, signer, put, now)?;
    match request.create(store.create.as_ref()).await {
        Ok(_created) => Ok(()),
        // It asked before: the first request stands.
        Err(LedgerError::Storage(error)) if error.kind() == ErrorKind::Exists => Ok(()),
        Err(error) => Err(error.into()),
    }
}
