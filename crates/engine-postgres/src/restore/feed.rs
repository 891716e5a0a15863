//! Log that is handed to a server while more of it arrives: replay beside fetching, not after it.
//!
//! The segments stand in the server's own folder of the log. What keeps it from reading one too early is
//! its `restore_command`: for a segment it waits until that is marked here, or the end is, and then says
//! that no archive has it, so that the server takes what stands in its folder.
//!
//! **What is marked** is what replay must pass whatever comes: segments that end before the last record
//! that was read and weighed begins. The record that the target means lies behind them all; once it is
//! known, what follows it is cut off, and only then is the end marked. So a server can neither pass the
//! target nor take a hole for the end: without the mark it waits.
//!
//! **Cancellation.** The command ends with the server's process, which has it in its group.

use std::io;

use super::tree::Tree;

/// Where the marks stand.
const FOLDER: &str = ".tidemark/log";
const FOLDER_MODE: u32 = 0o700;
/// No further segment will be marked.
const END: &str = ".tidemark/log/end";
/// Waits for a segment, in the server's data directory. Histories are all there from the start.
const COMMAND: &str = "case %f in *.history) exit 1;; esac; \
     until test -e .tidemark/log/%f || test -e .tidemark/log/end; do sleep 0.01; done; exit 1";

/// The server's `restore_command`.
pub(super) const fn command() -> &'static str {
    COMMAND
}

/// Begins without marks.
pub(super) fn begin(tree: &Tree) -> io::Result<()> {
    match std::fs::remove_dir_all(tree.join(FOLDER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    tree.folder(FOLDER, FOLDER_MODE)
}

/// The server may read the segment of this name.
pub(super) fn mark(tree: &Tree, segment: &str) -> io::Result<()> {
    tree.write(&format!("{FOLDER}/{segment}"), &[])
}

/// The server may read everything that is there: that is all.
pub(super) fn end(tree: &Tree) -> io::Result<()> {
    tree.write(END, &[])
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// As a server does.
    fn asked(tree: &Tree, name: &str) -> std::process::Child {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command().replace("%f", name));
        shell.current_dir(tree.path()).spawn().expect("it runs")
    }

    #[test]
    fn a_segment_is_waited_for_and_nothing_after_the_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = Tree::open(&dir.path().join("tree"), None).expect("it opens");
        begin(&tree).expect("begun");
        mark(&tree, "000000010000000000000001").expect("marked");
        let code = |mut child: std::process::Child| child.wait().expect("it ends").code();
        assert_eq!(code(asked(&tree, "00000002.history")), Some(1));
        assert_eq!(code(asked(&tree, "000000010000000000000001")), Some(1));
        let mut waits = asked(&tree, "000000010000000000000002");
        assert!(waits.try_wait().expect("it runs").is_none());
        end(&tree).expect("ended");
        assert_eq!(code(waits), Some(1));
        begin(&tree).expect("begun anew");
        let mut waits = asked(&tree, "000000010000000000000001");
        assert!(waits.try_wait().expect("it runs").is_none());
        waits.kill().expect("ended");
        waits.wait().expect("ended");
    }
}
