//! How glibc keeps memory, settled before a program does anything else.
//!
//! It reads its settings from the environment, and only when a process starts: so the program starts
//! itself over, in the same process, with them in place. Whoever set them before is left in charge.

use std::io;
use std::os::unix::process::CommandExt as _;

/// One arena, and what is large goes back when it is freed. By itself glibc keeps an arena for each
/// thread and holds what was needed for a second: 137 MB instead of 47 in an agent after the base of
/// a 240 MB database, 180 MB instead of 109 in a restore of 2.6 GB.
const SETTINGS: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "262144"),
    ("MALLOC_TRIM_THRESHOLD_", "262144"),
];

/// Starts this program over, in the same process, with the settings in its environment; does nothing
/// if they are there, whatever their values. To be called first, before there are threads.
///
/// # Errors
/// Why it couldn't: not worth failing for, the program only takes more memory.
pub fn settle() -> io::Result<()> {
    let missing = SETTINGS
        .into_iter()
        .filter(|(name, _)| std::env::var_os(name).is_none());
    if missing.clone().next().is_none() {
        return Ok(());
    }
    let mut again = std::process::Command::new(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).envs(missing).exec())
}
