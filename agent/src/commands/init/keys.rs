//! Where the repository's keys come from: public words (production) or an identity file (trials).

use std::path::{Path, PathBuf};

use tidemark_format::recipient::RecipientKey;
use tidemark_ledger::{
    Trust,
    custody::{IdentityFile, NamedIdentity, NewKeys, RootFile, RootKey},
};

use super::super::{Failure, context::Machine};
use crate::cli::{Global, InitArgs};

/// Whom to seal to, whom to trust, and what a trial may sign with.
pub(super) struct Keys {
    pub(super) trust: Trust,
    pub(super) recipients: Vec<RecipientKey>,
    /// The trial's identities and root; none in production.
    pub(super) trial: Option<Trial>,
}

/// A trial's private keys, on this very host.
pub(super) struct Trial {
    pub(super) identity: PathBuf,
    pub(super) identities: Vec<NamedIdentity>,
    pub(super) root: Option<RootKey>,
    new: Option<NewKeys>,
}

impl Keys {
    /// Reads or makes the keys; writes nothing yet.
    pub(super) fn prepare(
        global: &Global,
        args: &InitArgs,
        machine: &Machine,
    ) -> Result<Self, Failure> {
        if !args.recipient.is_empty() {
            return Self::public(&args.recipient);
        }
        let from_variable = std::env::var_os("TIDEMARK_IDENTITY").map(PathBuf::from);
        let Some(path) = global.identity.clone().or(from_variable) else {
            return Err(Failure::Usage(
                "who shall be able to restore? In production make keys on another host with \
                 `tidemark-restore keys new` and give both --recipient words here; for a trial on \
                 this machine alone give --identity FILE, which is made if it isn't there"
                    .to_owned(),
            ));
        };
        if path.exists() {
            Self::known(&path)
        } else {
            Ok(Self::new(&path, machine))
        }
    }

    fn public(words: &[String]) -> Result<Self, Failure> {
        let recipients = words
            .iter()
            .map(|word| word.parse())
            .collect::<Result<Vec<RecipientKey>, _>>()?;
        let first = recipients
            .first()
            .ok_or_else(|| Failure::Usage("no recipient".to_owned()))?;
        let trust = Trust::of(first);
        if recipients.iter().any(|other| Trust::of(other) != trust) {
            return Err(Failure::Usage(
                "the recipients belong to different repositories: give words that one \
                 `tidemark-restore keys new` printed"
                    .to_owned(),
            ));
        }
        Ok(Self {
            trust,
            recipients,
            trial: None,
        })
    }

    fn known(path: &Path) -> Result<Self, Failure> {
        let identity = IdentityFile::read(path)?;
        let trust = Trust::of(&identity.recipient());
        let mut identities = vec![identity];
        let escrow = beside(path, "escrow");
        if escrow.exists() {
            identities.push(IdentityFile::read(&escrow)?);
        }
        let root = beside(path, "root");
        let root = if root.exists() {
            Some(RootFile::read(&root)?)
        } else {
            None
        };
        let recipients = identities.iter().map(NamedIdentity::recipient).collect();
        let trial = Trial {
            identity: path.to_owned(),
            identities,
            root,
            new: None,
        };
        Ok(Self {
            trust,
            recipients,
            trial: Some(trial),
        })
    }

    fn new(path: &Path, machine: &Machine) -> Self {
        let keys = NewKeys::generate(machine.rng.as_ref(), machine.clock.now());
        let identities = vec![keys.identity.clone(), keys.escrow.clone()];
        let recipients = identities.iter().map(NamedIdentity::recipient).collect();
        let trial = Trial {
            identity: path.to_owned(),
            identities,
            root: Some(keys.root.clone()),
            new: Some(keys.clone()),
        };
        Self {
            trust: keys.root.trust(),
            recipients,
            trial: Some(trial),
        }
    }

    /// Writes what was made: identity, escrow, root. Never replaces a file, and leaves all of them
    /// or none.
    pub(super) fn write_files(&self) -> Result<(), Failure> {
        let Some((path, new)) = self.made() else {
            return Ok(());
        };
        for file in [beside(path, "escrow"), beside(path, "root")] {
            if file.symlink_metadata().is_ok() {
                return Err(Failure::Usage(format!(
                    "{} is there and {} is not: a key is never overwritten. Put the identity back in its place, \
                     or name another file with --identity",
                    file.display(),
                    path.display()
                )));
            }
        }
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            tidemark_host::files::create_private_folder(folder)?;
        }
        let written = IdentityFile::write(path, &new.identity)
            .and_then(|()| IdentityFile::write(&beside(path, "escrow"), &new.escrow))
            .and_then(|()| RootFile::write(&beside(path, "root"), &new.root));
        written.map_err(|error| {
            self.remove_files();
            error.into()
        })
    }

    /// Takes back what [`Self::write_files`] wrote: no region knows these keys.
    pub(super) fn remove_files(&self) {
        let Some((path, _)) = self.made() else { return };
        for file in [
            path.to_owned(),
            beside(path, "escrow"),
            beside(path, "root"),
        ] {
            drop(std::fs::remove_file(file));
        }
    }

    /// The keys that this very command made, and the identity's file.
    fn made(&self) -> Option<(&Path, &NewKeys)> {
        let trial = self.trial.as_ref()?;
        Some((&trial.identity, trial.new.as_ref()?))
    }
}

/// `FILE.escrow`, `FILE.root`.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}
