//! The recovery identity: read from its file, its passphrase from a file or a terminal.

use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use tidemark_host::files::{self, FileError};
use tidemark_host::output::Console;
use tidemark_ledger::Trust;
use tidemark_open::{Error as OpenError, Identity};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::repository::Settings;

/// An identity file that can be opened: an identity holds a secret and is not copied, so whoever needs
/// a second one opens it again.
#[derive(Debug)]
pub struct KeyHolder {
    path: PathBuf,
    passphrase: Option<Zeroizing<String>>,
}

impl KeyHolder {
    /// Finds the identity that the settings name, and its passphrase if it needs one.
    ///
    /// # Errors
    /// [`Error::NoIdentity`], or the file, its rights, its text or its passphrase.
    pub fn find(settings: &Settings, console: &Console) -> Result<Self> {
        let path = settings.identity()?.to_owned();
        match Identity::load(&path, None) {
            Err(OpenError::PassphraseNeeded) => {}
            other => {
                return Ok(other.map(|_opens| Self {
                    path,
                    passphrase: None,
                })?);
            }
        }
        let passphrase = match &settings.passphrase_file {
            Some(file) => from_file(file)?,
            None if console.can_ask => ask(console, &format!("Passphrase of {}:", path.display()))?,
            None => return Err(OpenError::PassphraseNeeded.into()),
        };
        Ok(Self {
            path,
            passphrase: Some(passphrase),
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn identity(&self) -> Result<Identity> {
        Ok(Identity::load(
            &self.path,
            self.passphrase.as_ref().map(|text| text.as_str()),
        )?)
    }
}

/// Reads the identity that the settings name.
///
/// # Errors
/// [`Error::NoIdentity`], or the file, its rights, its text or its passphrase.
pub fn load(settings: &Settings, console: &Console) -> Result<Identity> {
    KeyHolder::find(settings, console)?.identity()
}

/// What an identity pins.
#[must_use]
pub const fn trust(identity: &Identity) -> Trust {
    Trust {
        repo: identity.repo(),
        root: identity.root(),
    }
}

/// The identity's trust, without its secret where a passphrase would be needed: `list` and `status`
/// use it if it is at hand and never ask.
#[must_use]
pub fn trust_if_at_hand(settings: &Settings) -> Option<Trust> {
    Identity::load(settings.identity.as_deref()?, None)
        .ok()
        .as_ref()
        .map(trust)
}

/// A passphrase from a private file: its first line.
///
/// # Errors
/// The file can't be read, or others may read it.
pub fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = files::read_private(path)?;
    let text = String::from_utf8(bytes).map_err(|_binary| {
        Error::File(FileError::NotASecret {
            path: path.to_owned(),
        })
    })?;
    let text = Zeroizing::new(text);
    Ok(Zeroizing::new(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

/// Asks without showing what is typed.
///
/// # Errors
/// The terminal fails.
pub fn ask(console: &Console, question: &str) -> Result<Zeroizing<String>> {
    let failed = |action| move |source| Error::Io { action, source };
    console.complain(question);
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(|errno| failed("ask the terminal")(errno.into()))?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)
        .map_err(|errno| failed("hide what is typed")(errno.into()))?;
    let mut line = Zeroizing::new(String::new());
    let read = stdin.read_line(&mut line);
    // Whatever was read: the terminal must show again what is typed.
    let shown = tcsetattr(&stdin, OptionalActions::Flush, &before);
    read.map_err(failed("read the passphrase"))?;
    shown.map_err(|errno| failed("restore the terminal")(errno.into()))?;
    Ok(Zeroizing::new(
        line.trim_end_matches(['\n', '\r']).to_owned(),
    ))
}
