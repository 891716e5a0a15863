//! `keys list`: who may sign, who may read, who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use tidemark_format::heads::{EnrolHead, Role};
use tidemark_format::{KeyId, keys};
use tidemark_host::Exit;
use tidemark_ledger::custody::{enrolments, first_enrolments};
use tidemark_ledger::{Trust, Verified, list_all, read_marker};
use tidemark_storage::{OpenOptions, region};

use super::documents::{KeysListed, MemberListed, RecipientListed, RequestListed};
use crate::error::Result;
use crate::evidence::pack;
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

/// `keys list`; for a review it goes on record, signed by the identity.
pub(super) async fn run(for_review: bool, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = if for_review {
        let identity = identity::load(settings, &tools.console)?;
        tools.access.used(&identity);
        Some(identity::trust(&identity))
    } else {
        identity::trust_if_at_hand(settings)
    };
    let repository = match Repository::open(settings, trust, tools).await {
        Ok(repository) => repository,
        Err(error) => {
            // Before the first enrolment there is nothing but requests, and they are asked for.
            let listed = before_the_first_keyring(settings, trust, tools).await;
            tools.console.show(&listed.ok_or(error)?);
            return Ok(Exit::Ok);
        }
    };
    let mut requests: BTreeMap<KeyId, Verified<EnrolHead>> = BTreeMap::new();
    for region in &repository.regions {
        let store = region.store.read.as_ref();
        for request in enrolments(store, &repository.keyring).await? {
            requests.entry(request.head.key.id()).or_insert(request);
        }
    }
    let keyring = &repository.keyring;
    let shown = KeysListed {
        repository: repository.trust.repo.to_string(),
        root: repository.trust.root.to_string(),
        root_public_key: Some(pack::root(&repository).await?.to_string()),
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
        requests: requests.into_values().map(listed).collect(),
    };
    tools.console.show(&shown);
    if for_review {
        put_on_record(&shown, tools);
    }
    Ok(Exit::Ok)
}

/// What a reviewer is shown is what goes on record.
fn put_on_record(shown: &KeysListed, tools: &Tools) {
    let keyring = json!({
        "version": shown.version,
        "members": shown.members,
        "recipients": shown.recipients,
        "requests": shown.requests.len(),
    });
    tools.access.note("keyring", &keyring);
    tools.console.note(
        "this list goes on record: tidemark-restore evidence list --kind access shows its id, and evidence sign-off ID \
         says who reviewed it",
    );
}

fn listed(request: Verified<EnrolHead>) -> RequestListed {
    RequestListed {
        key: request.head.key.id(),
        role: role_name(request.head.role).to_owned(),
        name: request.head.name,
        at: request.head.at,
    }
}

/// Who asks in a repository whose root has signed nothing yet; `None` if these regions are no such
/// repository.
async fn before_the_first_keyring(
    settings: &Settings,
    trust: Option<Trust>,
    tools: &Tools,
) -> Option<KeysListed> {
    let options = OpenOptions::new(Arc::clone(&tools.clock), Arc::clone(&tools.rng));
    let mut repo = None;
    let mut requests: BTreeMap<KeyId, Verified<EnrolHead>> = BTreeMap::new();
    for config in settings.regions().ok()? {
        let store = region::open(&config.name, &config.url, &options)
            .await
            .ok()?;
        let read = store.read.as_ref();
        let marker = read_marker(read).await.ok()??;
        let pinned = trust.map_or(marker.repo, |trust| trust.repo);
        let one = *repo.get_or_insert(marker.repo) == marker.repo && pinned == marker.repo;
        if !one || !list_all(read, keys::KEYRINGS).await.ok()?.is_empty() {
            return None;
        }
        for request in first_enrolments(read, marker.repo).await.ok()? {
            requests.entry(request.head.key.id()).or_insert(request);
        }
    }
    Some(KeysListed {
        repository: repo?.to_string(),
        root: trust.map_or_else(|| "unknown".to_owned(), |trust| trust.root.to_string()),
        root_public_key: None,
        root_pinned: trust.is_some(),
        version: 0,
        members: Vec::new(),
        recipients: Vec::new(),
        requests: requests.into_values().map(listed).collect(),
    })
}
