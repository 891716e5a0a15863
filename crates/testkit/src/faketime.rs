//! A clock of its own for a process: a month in minutes. Debian's libfaketime, preloaded.
//!
//! `tests/run` installs it. Without it a test prints `SKIPPED: …` and passes, unless
//! `TIDEMARK_REQUIRE_SERVERS=1` says that what is missing is a failure.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Where distributions keep it: in a folder of this name below one of these, or of the folders in them.
const FOLDERS: [&str; 3] = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// The form for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeTime {
    library: PathBuf,
}

impl FakeTime {
    /// The installed library; `None`, and loudly, if there is none.
    ///
    /// # Panics
    /// If it isn't installed and `TIDEMARK_REQUIRE_SERVERS=1`.
    #[must_use]
    pub fn find() -> Option<Self> {
        let library = FOLDERS.iter().find_map(|folder| below(Path::new(folder)));
        if library.is_none() {
            let why = "libfaketime is missing: apt-get install faketime";
            assert!(
                std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_none(),
                "{why}"
            );
            crate::say_skipped(why);
        }
        library.map(|library| Self { library })
    }

    /// The environment of programs whose wall clock is off by what stands in a file, in whole seconds with a
    /// sign: whoever writes another number there moves it. Waits are as long as ever.
    #[must_use]
    pub fn following(&self, file: &Path) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// The environment of a program whose wall clock shows `from` at its start and goes `speed` times as
    /// fast as time. If it goes faster than time, the program's waits are shorter by as much.
    #[must_use]
    pub fn environment(&self, from: Timestamp, speed: u32) -> Vec<(String, String)> {
        let from = from.strftime("%Y-%m-%d %H:%M:%S");
        let clock = match speed {
            1 => format!("@{from}"),
            _ => format!("@{from} x{speed}"),
        };
        let library = self.library.display().to_string();
        [
            ("LD_PRELOAD", library),
            ("FAKETIME", clock),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // It reads its dates in the zone of the process.
            ("TZ", "UTC".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

fn below(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = std::iter::once(folder.to_owned()).chain(entries.map(|entry| entry.path()));
    folders
        .map(|folder| folder.join(LIBRARY))
        .find(|library| library.is_file())
}
