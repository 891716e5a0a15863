//! A restored data directory run by a process that holds no key: its replay, and once more to be asked.
//!
//! What a restore left to the user (`prepare_only`) is done here: replay to the record that was
//! promised, with the proof of its end, as [`finish`](super::finish) does it. Then the server is started
//! once more, on a private socket, with settings that let nothing out. Settings of the source are put
//! aside before anything starts: they are read, never used.
//!
//! **Crash consistency.** None is needed: the directory is thrown away.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};
use tidemark_host::Clock;

use super::binaries::Binaries;
use super::control::Control;
use super::error::RestoreError;
use super::finish::{AUTO_CONF, AUTO_CONF_ASIDE, NOBODY, RECOVERY_SIGNAL, RunFolder, prove};
use super::server::{Replay, Run, Server, segment_start};
use super::stop::StopFound;
use super::tree::{RunAs, Tree};
use super::{Watch, settings};

/// Only who can pass through the private folder finds the socket.
const EVERYBODY: &str = "local all all trust\n";
const CONF: &str = "postgresql.conf";
const NOTES: &str = ".tidemark";
/// The socket's name, as the forced settings fix it.
pub(crate) const PORT: u16 = 5432;

/// What a run needs beside the data directory.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) pg_bin: Option<PathBuf>,
    pub(crate) owner: Option<RunAs>,
    pub(crate) watch: Option<Watch>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cancel: Arc<AtomicBool>,
}

/// What pages are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    /// Whether they carry checksums.
    pub(crate) checksums: bool,
    /// How long each is.
    pub(crate) bytes: u32,
    /// Pages of a relation's file, before its next one begins.
    pub(crate) of_a_file: u32,
}

/// A restored data directory.
pub(crate) struct Place {
    tree: Tree,
    binaries: Binaries,
    around: Around,
    left: Vec<(&'static str, String)>,
}

/// A server that can be asked. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Asked {
    server: Server,
    folder: RunFolder,
}

impl Asked {
    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path.clone()
    }

    /// Stops it cleanly.
    pub(crate) fn stop(self) -> Result<(), RestoreError> {
        self.server.stop()?;
        self.folder.remove();
        Ok(())
    }
}

impl Place {
    /// Opens the directory and puts its settings aside.
    pub(crate) fn open(data: &std::path::Path, around: Around) -> Result<Self, RestoreError> {
        let io = || RestoreError::io("opening the data directory", data);
        let tree = Tree::open(data, around.owner).map_err(io())?;
        let major = tree.read("PG_VERSION").map_err(io())?;
        let major = major.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        let major = major.ok_or_else(|| RestoreError::LayoutDiffers {
            why: "there is no PG_VERSION that names a version".to_owned(),
        })?;
        let binaries = Binaries::find(major, around.pg_bin.as_deref(), std::env::var_os("PATH"))?;
        tree.folder(NOTES, 0o700).map_err(io())?;
        tree.rename(AUTO_CONF, AUTO_CONF_ASIDE).map_err(io())?;
        let mut left = Vec::new();
        for (name, path) in [(CONF, CONF), (AUTO_CONF, AUTO_CONF_ASIDE)] {
            let text = tree.read(path).map_err(io())?.unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            // Ours is no setting of the source's.
            left.push((name, settings::without_block(&text)));
        }
        Ok(Self {
            tree,
            binaries,
            around,
            left,
        })
    }

    /// The source's settings as they lie in the directory: file and text.
    pub(crate) fn left(&self) -> &[(&'static str, String)] {
        &self.left
    }

    pub(crate) const fn major(&self) -> u16 {
        self.binaries.major()
    }

    fn control(&self) -> Result<Control, RestoreError> {
        let name = "global/pg_control";
        let path = self.tree.join(name);
        let bytes = self
            .tree
            .read(name)
            .map_err(RestoreError::io("reading pg_control", &path))?;
        let bytes = bytes.unwrap_or_default();
        Control::parse(&bytes).map_err(|why| RestoreError::Control { path, why })
    }

    pub(crate) fn pages(&self) -> Result<Pages, RestoreError> {
        let control = self.control()?;
        Ok(Pages {
            checksums: control.data_checksums,
            bytes: control.block_bytes,
            of_a_file: control.relation_file_blocks,
        })
    }

    fn launch(
        &self,
        goal: Vec<(String, String)>,
        more: &[(String, String)],
        log_in: &str,
    ) -> Result<Asked, RestoreError> {
        let control = self.control()?;
        let folder = RunFolder::make(&self.tree, self.around.owner, log_in)?;
        let mut settings = settings::run(goal, &control, self.binaries.major(), &folder.path);
        settings.extend(more.iter().cloned());
        let server = Server::start(Run {
            program: self.binaries.program("postgres"),
            data: self.tree.path().to_path_buf(),
            log: self.tree.join(".tidemark/server.log"),
            settings,
            owner: self.around.owner,
            clock: Arc::clone(&self.around.clock),
            cancel: Arc::clone(&self.around.cancel),
        })?;
        Ok(Asked { server, folder })
    }

    fn remove(&self, names: &[&str]) -> Result<(), RestoreError> {
        for name in names {
            let path = self.tree.join(name);
            let removed = self.tree.remove(name);
            removed.map_err(RestoreError::io("removing a file", &path))?;
        }
        Ok(())
    }

    /// Replays to `found`, and proves that it ended there: the timeline that recovery opened.
    pub(crate) fn replay(
        &self,
        system: u64,
        found: &StopFound,
        more: &[(String, String)],
    ) -> Result<TimelineId, RestoreError> {
        let control = self.control()?;
        if control.system != system {
            return Err(RestoreError::OtherSystem {
                expected: system,
                found: control.system,
            });
        }
        self.remove(&["standby.signal", "postmaster.opts"])?;
        let path = self.tree.join(RECOVERY_SIGNAL);
        self.tree
            .write(RECOVERY_SIGNAL, &[])
            .map_err(RestoreError::io("asking for recovery", &path))?;
        let mut running = self.launch(settings::target(found), more, NOBODY)?;
        let size = SegmentSize::new(control.segment_bytes).unwrap_or(SegmentSize::DEFAULT);
        let mut first: Option<Lsn> = None;
        running.server.recovered(|segment| {
            let at = segment.and_then(|name| segment_start(&name, size));
            if let (Some(watch), Some(at)) = (&self.around.watch, at) {
                let from = *first.get_or_insert(at);
                watch(Replay {
                    from,
                    at,
                    to: found.end,
                });
            }
        })?;
        running.stop()?;
        prove(&self.control()?, &self.tree, found)
    }

    /// Starts the server to be asked, with `forced` settings over everything.
    pub(crate) fn start(&self, forced: &[(String, String)]) -> Result<Asked, RestoreError> {
        self.remove(&["standby.signal", RECOVERY_SIGNAL, "postmaster.opts"])?;
        let mut asked = self.launch(Vec::new(), forced, EVERYBODY)?;
        asked.server.recovered(|_segment| {})?;
        Ok(asked)
    }

    /// The role that owns everything, whatever it is called, asked of the server in its single-user mode:
    /// it logs in as that role by itself.
    pub(crate) fn first_role(&self, forced: &[(String, String)]) -> Result<String, RestoreError> {
        use std::io::Write as _;
        let folder = RunFolder::make(&self.tree, self.around.owner, NOBODY)?;
        let control = self.control()?;
        let mut settings = settings::run(Vec::new(), &control, self.binaries.major(), &folder.path);
        settings.extend(forced.iter().cloned());
        let program = self.binaries.program("postgres");
        let mut command = std::process::Command::new(&program);
        command.arg("--single").arg("-D").arg(self.tree.path());
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.arg("template1").stdin(std::process::Stdio::piped());
        command.stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::null());
        super::server::clean(&mut command, self.around.owner);
        let failed = |source| RestoreError::Program {
            program: program.clone(),
            source,
        };
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            let asked = input.write_all(b"SELECT rolname FROM pg_authid WHERE oid = 10\n");
            asked.map_err(failed)?;
        }
        let output = child.wait_with_output().map_err(failed)?;
        folder.remove();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        role_in(&text).ok_or_else(|| RestoreError::Recovery {
            why: "the server does not say which role owns it".to_owned(),
            log: String::new(),
        })
    }
}

/// The name in a line such as `1: rolname = "postgres" (typeid = 19, …)`, with tabs between.
fn role_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("rolname = \"")?;
    let (name, _) = rest.split_once("\"\t")?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_role_is_read_from_what_a_single_server_prints() {
        let text = "PostgreSQL stand-alone backend 15.19\nbackend> \t 1: rolname\t(typeid = 19)\n\t----\n\t 1: rolname = \"ad\"min\"\t(typeid = 19, len = 64)\n\t----\n";
        assert_eq!(role_in(text).as_deref(), Some("ad\"min"));
        assert_eq!(role_in("FATAL: no"), None);
    }
}
