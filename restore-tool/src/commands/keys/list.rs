//! `keys list`: who may sign, who may read, who asks.

use std::collections::BTreeMap;

use tidemark_format::KeyId;
use tidemark_format::heads::{EnrolHead, Role};
use tidemark_host::Exit;
use tidemark_ledger::Verified;
use tidemark_ledger::custody::enrolments;

use super::documents::{KeysListed, MemberListed, RecipientListed, RequestListed};
use crate::error::Result;
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// A role as people write it.
pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Agent => "agent",
        Role::Drill => "drill",
        Role::Keeper => "keeper",
    }
}

pub(super) async fn run(settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let mut requests: BTreeMap<KeyId, Verified<EnrolHead>> = BTreeMap::new();
    for region in &repository.regions {
        let store = region.store.read.as_ref();
        for request in enrolments(store, &repository.keyring).await? {
            requests.entry(request.head.key.id()).or_insert(request);
        }
    }
    let keyring = &repository.keyring;
    tools.console.show(&KeysListed {
        repository: repository.trust.repo.to_string(),
        root: repository.trust.root.to_string(),
        root_pinned: repository.pinned,
        version: keyring.version(),
        members: keyring
            .members()
            .iter()
            .map(|member| MemberListed {
                key: member.key.id(),
                role: role_name(member.role).to_owned(),
                name: member.name.clone(),
                added_at: member.added_at,
                revoked_at: member.revoked.as_ref().map(|revoked| revoked.at),
                revoked_because: member
                    .revoked
                    .as_ref()
                    .map(|revoked| revoked.reason.clone()),
            })
            .collect(),
        recipients: keyring
            .head()
            .recipients
            .iter()
            .map(|entry| RecipientListed {
                key: entry.key.id(),
                recipient: entry.key.to_string(),
                name: entry.name.clone(),
                added_at: entry.added_at,
                revoked_at: entry.revoked.as_ref().map(|revoked| revoked.at),
            })
            .collect(),
        requests: requests
            .into_values()
            .map(|request| RequestListed {
                key: request.head.key.id(),
                role: role_name(request.head.role).to_owned(),
                name: request.head.name,
                at: request.head.at,
            })
            .collect(),
    });
    Ok(Exit::Ok)
}
