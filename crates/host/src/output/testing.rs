//! A console whose streams a test can read.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::Console;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        let bytes = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A console, and what was written to it.
pub struct Captured {
    /// The console.
    pub console: Console,
    out: Buffer,
    err: Buffer,
}

impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captured").finish_non_exhaustive()
    }
}

impl Captured {
    /// An empty console.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let (out, err) = (Buffer::default(), Buffer::default());
        let console = Console::captured(Box::new(out.clone()), Box::new(err.clone()), json);
        Self { console, out, err }
    }

    /// What standard output holds.
    #[must_use]
    pub fn out(&self) -> String {
        self.out.text()
    }

    /// What standard error holds.
    #[must_use]
    pub fn err(&self) -> String {
        self.err.text()
    }
}
