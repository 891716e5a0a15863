//! `keys new`.

use std::path::{Path, PathBuf};

use tidemark_host::Exit;
use tidemark_host::files::{self, PRIVATE};
use tidemark_ledger::custody::{IdentityFile, NewKeys, RootFile};
use zeroize::Zeroizing;

use super::documents::KeysMade;
use crate::error::{Error, Result};
use crate::identity;
use crate::repository::{Settings, Tools};

/// The line of the root file that carries the identity's public key: the first keyring needs it.
pub(super) const RECOVERY_LINE: &str = "recovery";
/// The same for the escrow's.
pub(super) const ESCROW_LINE: &str = "escrow";

pub(super) fn run(
    out: &Path,
    passphrase: bool,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let beside = |suffix: &str| {
        let mut name = out.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (escrow, root) = (beside(".escrow"), beside(".root"));
    for path in [out, &escrow, &root] {
        if path.symlink_metadata().is_ok() {
            return Err(Error::KeyFileExists(path.to_owned()));
        }
    }
    let passphrase = if passphrase {
        Some(new_passphrase(settings, tools)?)
    } else {
        None
    };
    let now = tools.clock.now();
    let keys = NewKeys::generate(tools.rng.as_ref(), now);
    let identity = match &passphrase {
        Some(passphrase) => Zeroizing::new(tidemark_open::seal_identity(
            &keys.identity.key,
            &keys.identity.name,
            now,
            passphrase,
            tools.rng.as_ref(),
        )?),
        None => IdentityFile::text(&keys.identity),
    };
    let (recipient, escrow_recipient) = (keys.identity.recipient(), keys.escrow.recipient());
    let root_text = Zeroizing::new(format!(
        "{}# Public keys of the two identities, for the repository's first keyring.\n\
         {RECOVERY_LINE} = {recipient}\n{ESCROW_LINE} = {escrow_recipient}\n",
        RootFile::text(&keys.root).as_str()
    ));
    files::write_new(&root, root_text.as_bytes(), PRIVATE)?;
    files::write_new(
        &escrow,
        IdentityFile::text(&keys.escrow).as_bytes(),
        PRIVATE,
    )?;
    files::write_new(out, identity.as_bytes(), PRIVATE)?;
    tools.console.show(&KeysMade {
        repository: keys.repo().to_string(),
        root: keys.root.id().to_string(),
        identity_file: out.display().to_string(),
        escrow_file: escrow.display().to_string(),
        root_file: root.display().to_string(),
        recipient: recipient.to_string(),
        escrow_recipient: escrow_recipient.to_string(),
    });
    Ok(Exit::Ok)
}

fn new_passphrase(settings: &Settings, tools: &Tools) -> Result<Zeroizing<String>> {
    if let Some(file) = &settings.passphrase_file {
        return identity::from_file(file);
    }
    if !tools.console.can_ask {
        return Err(Error::NotConfirmed {
            what: "a passphrase must be typed, or be in a file named by --passphrase-file"
                .to_owned(),
        });
    }
    let first = identity::ask(&tools.console, "New passphrase for the identity:")?;
    let second = identity::ask(&tools.console, "Again:")?;
    if *first != *second || first.is_empty() {
        return Err(Error::KeyUnknown(
            "the two passphrases differ, or are empty".to_owned(),
        ));
    }
    Ok(first)
}
