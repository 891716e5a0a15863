//! `keys`: make, print, check, list, enrol and revoke.
//!
//! Private keys are made here, on a host that is not the database's, and never leave their files.
//! Changing the keyring needs the root key's file and writes a new version into every region.

mod card;
mod check;
mod choose;
mod documents;
mod list;
mod new;
mod sign;

pub(in crate::commands) use sign::confirm;

use serde_json::json;
use tidemark_host::Exit;

use crate::cli::{Global, Keys};
use crate::error::Result;
use crate::repository::{Environment, Settings, Tools};

/// Runs one of them.
///
/// # Errors
/// See the commands.
pub async fn run(
    command: Keys,
    global: &Global,
    environment: &Environment,
    tools: &Tools,
) -> Result<Exit> {
    let settings = Settings::gather(global, environment)?;
    begin(&command, &settings, tools);
    match command {
        Keys::New {
            out,
            passphrase,
            repository: None,
            ..
        } => new::run(&out, passphrase, &settings, tools),
        Keys::New {
            out,
            passphrase,
            repository: Some(of),
            name,
        } => new::further(&out, passphrase, (&of, name), &settings, tools),
        Keys::Card => card::run(&settings, tools).await,
        Keys::List { for_review } => list::run(for_review, &settings, tools).await,
        Keys::Check => check::run(&settings, tools).await,
        Keys::Enrol {
            key,
            all,
            recipient,
            name,
            root,
        } => {
            let wanted = sign::Wanted {
                key: key.as_ref(),
                all,
                recipients: &recipient,
                name: name.as_deref(),
            };
            sign::enrol(wanted, &root, &settings, tools).await
        }
        Keys::Revoke {
            key,
            reason,
            root,
            yes,
        } => sign::revoke(&key, &reason, &root, yes, &settings, tools).await,
    }
}

/// The commands that use or change keys leave an access record. A key's files are named, never read.
fn begin(command: &Keys, settings: &Settings, tools: &Tools) {
    let (action, request, reason) = match command {
        Keys::New {
            out, repository, ..
        } => {
            let of = repository.as_ref().map(|key| key.repo.to_string());
            let request = json!({ "out": out.display().to_string(), "repository": of });
            ("keys-new", request, None)
        }
        Keys::Check => ("keys-check", json!({}), None),
        Keys::Enrol {
            key,
            all,
            recipient,
            name,
            ..
        } => {
            let recipients: Vec<String> =
                recipient.iter().map(|key| key.id().to_string()).collect();
            let key = key.as_ref().map(ToString::to_string);
            let request = json!({ "key": key, "all": all, "recipients": recipients, "name": name });
            ("keys-enrol", request, None)
        }
        Keys::Revoke { key, reason, .. } => {
            let request = json!({ "key": key.to_string() });
            ("keys-revoke", request, Some(reason.as_str()))
        }
        Keys::List { for_review: true } => (crate::policies::KEYS_LIST, json!({}), None),
        Keys::Card | Keys::List { for_review: false } => return,
    };
    tools
        .access
        .begin(action, &request, reason, settings, tools);
    if matches!(command, Keys::Enrol { .. } | Keys::Revoke { .. }) {
        tools.access.used_if_at_hand(settings);
    }
}
