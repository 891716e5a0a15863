//! The recovery identity: read from its file or standard input, its passphrase from a file or a terminal.

use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
use tidemark_host::files::{self, FileError};
use tidemark_host::output::Console;
use tidemark_ledger::Trust;
use tidemark_open::{Error as OpenError, Identity};
use zeroize::Zeroizing;

use crate::error::{Error, Result};
use crate::repository::Settings;

/// In place of a file: the identity comes by standard input, say from a password manager.
const STANDARD_INPUT: &str = "-";
/// No identity is longer.
const IDENTITY_BYTES_MAX: u16 = u16::MAX;
/// Room for a passphrase, so that no copy of one stays behind where a longer one was moved from.
const PASSPHRASE_BYTES: usize = 1024;

// What the keys send that a terminal would have handled.
const GIVE_UP: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ANEW: u8 = 0x15;
const QUIT: u8 = 0x1c;
const ERASE: u8 = 0x7f;

/// An identity file that can be opened: an identity holds a secret and is not copied, so whoever needs
/// a second one opens it again.
#[derive(Debug)]
pub struct KeyHolder {
    kept: Kept,
    passphrase: Option<Zeroizing<String>>,
}

/// Where an identity's text is.
#[derive(Debug)]
enum Kept {
    /// In a private file.
    File(PathBuf),
    /// In memory: it came by standard input, which can be read once.
    Memory(Zeroizing<String>),
}

impl Kept {
    fn find(path: &Path) -> Result<Self> {
        if path != Path::new(STANDARD_INPUT) {
            return Ok(Self::File(path.to_owned()));
        }
        let mut text = Zeroizing::new(String::with_capacity(IDENTITY_BYTES_MAX.into()));
        let mut limited = std::io::stdin().lock().take(IDENTITY_BYTES_MAX.into());
        limited
            .read_to_string(&mut text)
            .map_err(|source| Error::Io {
                action: "read the identity from standard input",
                source,
            })?;
        Ok(Self::Memory(text))
    }

    fn open(&self, passphrase: Option<&str>) -> std::result::Result<Identity, OpenError> {
        match self {
            Self::File(path) => Identity::load(path, passphrase),
            Self::Memory(text) => Identity::parse(text, passphrase),
        }
    }
}

impl KeyHolder {
    /// Finds the identity that the settings name, and its passphrase if it needs one.
    ///
    /// # Errors
    /// [`Error::NoIdentity`], or the file, its rights, its text or its passphrase.
    pub fn find(settings: &Settings, console: &Console) -> Result<Self> {
        let path = settings.identity()?;
        let kept = Kept::find(path)?;
        match kept.open(None) {
            Err(OpenError::PassphraseNeeded) => {}
            other => {
                return Ok(other.map(|_opens| Self {
                    kept,
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
            kept,
            passphrase: Some(passphrase),
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn identity(&self) -> Result<Identity> {
        let passphrase = self.passphrase.as_ref().map(|text| text.as_str());
        Ok(self.kept.open(passphrase)?)
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

/// A passphrase from a private file: its first line, without the line's end.
///
/// # Errors
/// The file can't be read, or others may read it, or that line is empty.
pub fn from_file(path: &Path) -> Result<Zeroizing<String>> {
    let bytes = files::read_private(path)?;
    let text = String::from_utf8(bytes).map_err(|_binary| {
        Error::File(FileError::NotASecret {
            path: path.to_owned(),
        })
    })?;
    let text = Zeroizing::new(text);
    let first = text.lines().next().unwrap_or_default();
    if first.is_empty() {
        return Err(Error::Passphrase(format!(
            "{}: its first line, which is the passphrase, is empty",
            path.display()
        )));
    }
    Ok(Zeroizing::new(first.to_owned()))
}

/// Asks without showing what is typed. Ctrl-C ends the command, with the terminal as it was.
///
/// # Errors
/// The terminal fails, or the person gives up.
pub fn ask(console: &Console, question: &str) -> Result<Zeroizing<String>> {
    let failed = |action| move |source| Error::Io { action, source };
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).map_err(|errno| failed("ask the terminal")(errno.into()))?;
    let mut hidden = before.clone();
    // Byte by byte, Ctrl-C among them: a signal could not reach a thread that waits for a line.
    hidden
        .local_modes
        .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
    hidden.special_codes[SpecialCodeIndex::VMIN] = 1;
    hidden.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)
        .map_err(|errno| failed("hide what is typed")(errno.into()))?;
    // Only now: what is typed as soon as the question is there is neither shown nor thrown away.
    console.complain(question);
    let typed = typed_line(&mut stdin.lock());
    // Whatever was read: the terminal must show again what is typed.
    let shown = tcsetattr(&stdin, OptionalActions::Flush, &before);
    let typed = typed?;
    shown.map_err(|errno| failed("restore the terminal")(errno.into()))?;
    Ok(typed)
}

/// A line as a terminal would edit it: backspace, Ctrl-U, and Ctrl-C to give up.
fn typed_line(from: &mut impl Read) -> Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES));
    let mut byte = [0];
    loop {
        let read = from.read(&mut byte).map_err(|source| Error::Io {
            action: "read the passphrase",
            source,
        })?;
        match byte[0] {
            _ if read == 0 => break,
            b'\n' | b'\r' => break,
            GIVE_UP | QUIT => return Err(Error::Interrupted),
            END if line.is_empty() => return Err(Error::Interrupted),
            ERASE | BACKSPACE => erase(&mut line),
            ANEW => line.clear(),
            other => line.push(other),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_binary| Error::Io {
        action: "read the passphrase",
        source: std::io::ErrorKind::InvalidData.into(),
    })?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Takes the last character away, however many bytes it has.
fn erase(line: &mut Vec<u8>) {
    while let Some(byte) = line.pop() {
        if byte & 0xc0 != 0x80 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &str) -> Result<String> {
        typed_line(&mut keys.as_bytes()).map(|line| line.to_string())
    }

    #[test]
    fn a_passphrase_can_be_corrected_while_it_is_typed() {
        assert_eq!(typed("secret\n").unwrap(), "secret");
        assert_eq!(typed("secret\r").unwrap(), "secret");
        assert_eq!(typed("secreh\u{7f}t\n").unwrap(), "secret");
        assert_eq!(typed("æø\u{8}\u{8}\u{8}å\n").unwrap(), "å");
        assert_eq!(typed("wrong\u{15}right\n").unwrap(), "right");
        assert_eq!(typed("no end").unwrap(), "no end");
    }

    #[test]
    fn ctrl_c_gives_up_instead_of_becoming_a_part_of_the_passphrase() {
        for keys in ["\u{3}", "sec\u{3}ret\n", "\u{4}", "sec\u{1c}"] {
            assert!(matches!(typed(keys), Err(Error::Interrupted)), "{keys:?}");
        }
    }
}
