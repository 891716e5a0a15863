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
        Keys::List => list::run(&settings, tools).await,
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
