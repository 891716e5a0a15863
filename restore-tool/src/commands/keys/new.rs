//! `keys new`: the keys of a new repository, or one more identity of an existing one.
//!
//! A passphrase file means a passphrase, whether `--passphrase` is given or not. Everything that can be
//! refused is refused before a file is written.

use std::path::{Path, PathBuf};

use tidemark_format::recipient::RecipientKey;
use tidemark_host::Exit;
use tidemark_host::files::{self, PRIVATE};
use tidemark_ledger::Trust;
use tidemark_ledger::custody::{IdentityFile, NamedIdentity, NewKeys, RootFile, new_identity};
use zeroize::Zeroizing;

use super::documents::{IdentityMade, KeysMade};
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
    let passphrase = new_passphrase(passphrase, settings, tools)?;
    let now = tools.clock.now();
    let keys = NewKeys::generate(tools.rng.as_ref(), now);
    let identity = identity_text(&keys.identity, passphrase.as_ref(), tools)?;
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
    recorded(&keys.identity, tools);
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

/// One more identity of the repository that the public key `of` belongs to.
pub(super) fn further(
    out: &Path,
    passphrase: bool,
    (of, name): (&RecipientKey, Option<String>),
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    if out.symlink_metadata().is_ok() {
        return Err(Error::KeyFileExists(out.to_owned()));
    }
    let stem = || {
        out.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    let name = name.or_else(stem).unwrap_or_default();
    let passphrase = new_passphrase(passphrase, settings, tools)?;
    let now = tools.clock.now();
    let identity = new_identity(&Trust::of(of), &name, tools.rng.as_ref(), now);
    let text = identity_text(&identity, passphrase.as_ref(), tools)?;
    files::write_new(out, text.as_bytes(), PRIVATE)?;
    recorded(&identity, tools);
    tools.console.show(&IdentityMade {
        repository: of.repo.to_string(),
        root: of.root.to_string(),
        identity_file: out.display().to_string(),
        recipient: identity.recipient().to_string(),
        key: identity.recipient().id(),
        name,
    });
    Ok(Exit::Ok)
}

/// The new identity signs the record of its own making: the first of its chain, once it reaches a region.
fn recorded(identity: &NamedIdentity, tools: &Tools) {
    let key = identity.key.clone();
    tools.access.used(&tidemark_open::Identity::from_key(key));
}

fn identity_text(
    identity: &NamedIdentity,
    passphrase: Option<&Zeroizing<String>>,
    tools: &Tools,
) -> Result<Zeroizing<String>> {
    let Some(passphrase) = passphrase else {
        return Ok(IdentityFile::text(identity));
    };
    Ok(Zeroizing::new(tidemark_open::seal_identity(
        &identity.key,
        &identity.name,
        identity.created,
        passphrase,
        tools.rng.as_ref(),
    )?))
}

/// The passphrase for a new identity, if it is to have one.
fn new_passphrase(
    asked: bool,
    settings: &Settings,
    tools: &Tools,
) -> Result<Option<Zeroizing<String>>> {
    if let Some(file) = &settings.passphrase_file {
        return identity::from_file(file).map(Some);
    }
    if !asked {
        return Ok(None);
    }
    if !tools.console.can_ask {
        return Err(Error::Passphrase(
            "a passphrase is to be typed, and there is no terminal to type it at: put it into a file that only you \
             can read, and give --passphrase-file FILE"
                .to_owned(),
        ));
    }
    let first = identity::ask(&tools.console, "New passphrase for the identity:")?;
    let second = identity::ask(&tools.console, "Again:")?;
    if first.is_empty() {
        return Err(Error::Passphrase(
            "the passphrase is empty: nothing was made".to_owned(),
        ));
    }
    if *first != *second {
        return Err(Error::Passphrase(
            "the two passphrases differ: nothing was made".to_owned(),
        ));
    }
    Ok(Some(first))
}
