//! The last steps: a directory that a server can start from, recovery to the target, and the proof.
//!
//! The new timeline that a server opens when recovery ends says in its history where replay stopped. That
//! position must be the end of the record that the target means: a log that was too short, a history
//! that leads elsewhere or a stale file can't bring it about.
//!
//! A server may be started while the log still arrives ([`feed`](super::feed)): then nothing stands behind
//! the record that the target means, and the proof is the same.
//!
//! **Crash consistency.** From the moment the server may change files a note stands in the folder, and no
//! base's page is written there again. As long as the log still arrives, a later run of the same machine's
//! same boot goes on (what a killed server wrote is in the system's memory); otherwise all begins anew.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemark_engine::{EndProof, ProofResult};
use tidemark_format::postgres::layout::{Layout, UNIT_BYTES};
use tidemark_format::postgres::{SegmentSize, TimelineId};

use super::binaries::Binaries;
use super::control::Control;
use super::error::RestoreError;
use super::files::Files;
use super::server::{Replay, Run, Server, segment_start};
use super::stop::{Stop, StopFound};
use super::tree::{RunAs, Tree};
use super::{TargetOptions, settings};
use crate::timeline::History;

/// A recovery was begun here.
pub(super) const BEGUN: &str = ".tidemark/recovery-begun";
pub(super) const AUTO_CONF: &str = "postgresql.auto.conf";
/// The source's own, while the server must not see it.
pub(super) const AUTO_CONF_ASIDE: &str = ".tidemark/postgresql.auto.conf";
pub(super) const RECOVERY_SIGNAL: &str = "recovery.signal";
/// A socket's path may not be longer, with the name that the server gives it.
const SOCKET_FOLDER_BYTES_MAX: usize = 90;

/// Changes with every start of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const LABEL: &str = "backup_label";

/// What is noted before a server may change files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    boot: String,
    stop: String,
    timeline: u32,
    /// The log still arrives.
    open: bool,
}

impl Begun {
    fn now(stop: &Stop, timeline: TimelineId, open: bool) -> Self {
        Self {
            boot: boot(),
            stop: stop.to_string(),
            timeline: timeline.0,
            open,
        }
    }
}

fn boot() -> String {
    std::fs::read_to_string(BOOT).unwrap_or_default()
}

/// What an earlier run left of a recovery in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earlier {
    /// None was begun.
    Nothing,
    /// One to the same target, which a server may go on with.
    GoesOn,
    /// One that is of no use any more.
    Spent,
}

/// What stands in `tree` of an earlier recovery, judged for a restore to `stop`.
pub(super) fn earlier(tree: &Tree, stop: &Stop) -> Result<Earlier, RestoreError> {
    let io = RestoreError::io("looking at the target", tree.path());
    let Some(note) = tree.read(BEGUN).map_err(io)? else {
        return Ok(Earlier::Nothing);
    };
    let Ok(note) = serde_json::from_slice::<Begun>(&note) else {
        return Ok(Earlier::Spent);
    };
    let timeline = TimelineId(note.timeline);
    if note.boot.is_empty() || note != Begun::now(stop, timeline, true) {
        return Ok(Earlier::Spent);
    }
    let read = |path: &str| {
        let path_there = tree.join(path);
        let read = tree.read(path);
        read.map_err(RestoreError::io("looking at the target", &path_there))
    };
    // With its label there the server has not begun; without, it must be in the middle.
    let label = read(LABEL)?.is_some();
    let control = read("global/pg_control")?.and_then(|bytes| Control::parse(&bytes).ok());
    let replaying =
        control.is_some_and(|control| control.is_replaying && control.timeline == timeline);
    Ok(if label || replaying {
        Earlier::GoesOn
    } else {
        Earlier::Spent
    })
}

/// A target whose files are in place.
pub(super) struct Finishing<'a> {
    pub(super) files: &'a Files,
    pub(super) layout: &'a Layout,
    pub(super) options: &'a TargetOptions,
    pub(super) owner: Option<RunAs>,
}

/// A server that recovers.
#[derive(Debug)]
pub(super) struct Running {
    server: Server,
    folder: RunFolder,
}

impl Running {
    /// Whether it is well so far.
    pub(super) fn check(&mut self) -> Result<(), RestoreError> {
        self.server.check()
    }
}

impl Finishing<'_> {
    fn tree(&self) -> &Tree {
        &self.files.tree
    }

    fn io(
        &self,
        action: &'static str,
        path: &str,
    ) -> impl FnOnce(std::io::Error) -> RestoreError + use<> {
        let path = self.tree().join(path);
        move |source| RestoreError::io(action, &path)(source)
    }

    fn remove(&self, path: &str) -> Result<(), RestoreError> {
        let removed = self.tree().remove(path);
        removed.map_err(self.io("removing a file", path))
    }

    /// What `pg_control` says, if it belongs to this base.
    fn control(&self) -> Result<Control, RestoreError> {
        let control = control_of(self.files)?;
        if control.system != self.layout.system {
            return Err(RestoreError::OtherSystem {
                expected: self.layout.system,
                found: control.system,
            });
        }
        if control.segment_bytes != self.layout.segment_bytes
            || control.block_bytes != self.layout.block_bytes
        {
            return Err(RestoreError::LayoutDiffers {
                why: "pg_control names other sizes".to_owned(),
            });
        }
        Ok(control)
    }

    /// Signals and leftovers of the source's own life.
    fn clear_signals(&self) -> Result<(), RestoreError> {
        for name in ["standby.signal", RECOVERY_SIGNAL, "postmaster.opts"] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// Leaves everything to whoever starts the server.
    pub(super) fn prepare_only(&self, found: &StopFound) -> Result<EndProof, RestoreError> {
        let control = self.control()?;
        self.clear_signals()?;
        let text = self
            .tree()
            .read(AUTO_CONF)
            .map_err(self.io("reading settings", AUTO_CONF))?;
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let mut text = settings::without_block(&text);
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&settings::block(&settings::target(found)));
        self.tree()
            .write(AUTO_CONF, text.as_bytes())
            .map_err(self.io("writing settings", AUTO_CONF))?;
        self.tree()
            .write(RECOVERY_SIGNAL, &[])
            .map_err(self.io("asking for recovery", RECOVERY_SIGNAL))?;
        self.clear_notes()?;
        self.files.show_control()?;
        self.files.sync()?;
        Ok(self.proof(found, ProofResult::Unproved, control.timeline))
    }

    /// Recovers to the target, all log being in place.
    pub(super) fn recover(
        &self,
        binaries: &Binaries,
        found: &StopFound,
    ) -> Result<EndProof, RestoreError> {
        let running = self.launch(binaries, settings::target(found), false)?;
        self.end(running, found)
    }

    /// Starts a server that is fed with the log of `timeline`.
    pub(super) fn begin(&self, binaries: &Binaries) -> Result<Running, RestoreError> {
        let timeline = self.layout.start.timeline;
        self.launch(binaries, settings::fed(timeline), true)
    }

    /// Notes that recovery begins, or with `open` false, that it may end.
    pub(super) fn note(&self, open: bool) -> Result<(), RestoreError> {
        let begun = Begun::now(&self.options.stop, self.layout.start.timeline, open);
        let note = serde_json::to_vec(&begun).unwrap_or_default();
        let noted = self.tree().write(BEGUN, &note);
        noted.map_err(self.io("noting that recovery begins", BEGUN))
    }

    fn launch(
        &self,
        binaries: &Binaries,
        goal: Vec<(String, String)>,
        open: bool,
    ) -> Result<Running, RestoreError> {
        let control = self.control()?;
        self.clear_signals()?;
        self.note(open)?;
        self.tree()
            .rename(AUTO_CONF, AUTO_CONF_ASIDE)
            .map_err(self.io("putting settings aside", AUTO_CONF))?;
        self.tree()
            .write(RECOVERY_SIGNAL, &[])
            .map_err(self.io("asking for recovery", RECOVERY_SIGNAL))?;
        self.files.show_control()?;
        let folder = RunFolder::make(self.tree(), self.owner, NOBODY)?;
        let mut settings = settings::run(goal, &control, binaries.major(), &folder.path);
        settings.extend(self.options.settings.iter().cloned());
        let server = Server::start(Run {
            program: binaries.program("postgres"),
            data: self.tree().path().to_path_buf(),
            log: self.tree().join(".tidemark/server.log"),
            settings,
            owner: self.owner,
            clock: Arc::clone(&self.options.clock),
            cancel: Arc::clone(&self.options.cancel),
        })?;
        Ok(Running { server, folder })
    }

    /// Waits for the end of a recovery that finds all its log in place, and proves where that was.
    pub(super) fn end(
        &self,
        mut running: Running,
        found: &StopFound,
    ) -> Result<EndProof, RestoreError> {
        self.wait(&mut running.server, found)?;
        running.server.stop()?;
        running.folder.remove();
        let timeline = prove(&self.control()?, self.tree(), found)?;
        self.tree()
            .rename(AUTO_CONF_ASIDE, AUTO_CONF)
            .map_err(self.io("putting settings back", AUTO_CONF))?;
        for name in ["postmaster.opts", "backup_label.old", "tablespace_map.old"] {
            self.remove(name)?;
        }
        self.clear_notes()?;
        self.files.sync()?;
        Ok(self.proof(found, ProofResult::Replayed, timeline))
    }

    fn wait(&self, server: &mut Server, found: &StopFound) -> Result<(), RestoreError> {
        let size = SegmentSize::new(self.layout.segment_bytes).unwrap_or(SegmentSize::DEFAULT);
        let mut last = None;
        server.recovered(|segment| {
            let at = segment.and_then(|name| segment_start(&name, size));
            if let (Some(watch), Some(at)) = (&self.options.watch, at)
                && last != Some(at)
            {
                last = Some(at);
                watch(Replay {
                    from: self.layout.start.lsn,
                    at: at.max(self.layout.start.lsn),
                    to: found.end,
                });
            }
        })
    }

    fn clear_notes(&self) -> Result<(), RestoreError> {
        let path = self.tree().join(".tidemark");
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RestoreError::io("removing the notes", &path)(error))
            }
            _ => Ok(()),
        }
    }

    fn proof(&self, found: &StopFound, result: ProofResult, timeline: TimelineId) -> EndProof {
        let links: Vec<&str> = self
            .layout
            .links
            .iter()
            .map(|link| link.path.as_str())
            .collect();
        let facts = json!({
            "version": self.layout.server,
            "system": self.layout.system.to_string(),
            "lsn": found.end.to_string(),
            "timeline": timeline.0,
            "replayed_timeline": found.timeline.0,
            "last_record": found.start.to_string(),
            "stopped": found.because,
            "ended_at": found.ended_at.map(|at| at.to_string()),
            "commits": found.commits,
            "links_not_made": links,
            "kept_bytes": self.files.kept_bytes(),
        });
        let mut facts = BTreeMap::from([("postgres".to_owned(), facts)]);
        facts.extend(
            found
                .canary
                .as_ref()
                .map(|seen| ("canary".to_owned(), json!(seen))),
        );
        EndProof {
            result,
            digest: None,
            pages: self.files.pages(),
            page_size: UNIT_BYTES,
            facts,
        }
    }
}

/// The timeline that recovery opened, if its history says that it left the old one exactly where it was to.
pub(super) fn prove(
    control: &Control,
    tree: &Tree,
    found: &StopFound,
) -> Result<TimelineId, RestoreError> {
    let promised = format!("{} on timeline {}", found.end, found.timeline);
    let differs = |found: String| RestoreError::EndDiffers {
        promised: promised.clone(),
        found,
    };
    if !control.is_shut_down {
        return Err(differs("an unclean stop".to_owned()));
    }
    let name = format!("pg_wal/{}", control.timeline.history_file());
    let path = tree.join(&name);
    let bytes = tree.read(&name).map_err(RestoreError::io(
        "reading the new timeline's history",
        &path,
    ))?;
    let bytes = bytes.ok_or_else(|| differs("no new timeline".to_owned()))?;
    let history = History::parse(control.timeline, &bytes).map_err(RestoreError::History)?;
    match history.forks().last() {
        Some(fork) if (fork.parent, fork.at) == (found.timeline, found.end) => Ok(control.timeline),
        Some(fork) => Err(differs(format!("{} on timeline {}", fork.at, fork.parent))),
        None => Err(differs("the first timeline's start".to_owned())),
    }
}

/// What `pg_control` says.
pub(super) fn control_of(files: &Files) -> Result<Control, RestoreError> {
    let path = files.tree.join("global/pg_control");
    Control::parse(&files.control()?).map_err(|why| RestoreError::Control { path, why })
}

/// A private folder for the socket and for settings that say nothing.
#[derive(Debug)]
pub(super) struct RunFolder {
    pub(super) path: PathBuf,
}

/// Who may log in: during recovery nobody has to, so nobody can.
pub(super) const NOBODY: &str = "local all all reject\n";

impl RunFolder {
    /// Makes it in `tree`, with these lines of `pg_hba.conf`.
    pub(super) fn make(
        tree: &Tree,
        owner: Option<RunAs>,
        log_in: &str,
    ) -> Result<Self, RestoreError> {
        let inside = ".tidemark/run";
        let mut path = tree.join(inside);
        if path.as_os_str().len() <= SOCKET_FOLDER_BYTES_MAX {
            tree.folder(inside, 0o700)
                .map_err(RestoreError::io("making a folder", &path))?;
        } else {
            path = elsewhere(owner)?;
        }
        let files =
            Tree::open(&path, owner).map_err(RestoreError::io("opening a folder", &path))?;
        for (name, content) in [
            ("postgresql.conf", ""),
            ("pg_hba.conf", log_in),
            ("pg_ident.conf", ""),
        ] {
            files
                .write(name, content.as_bytes())
                .map_err(RestoreError::io("writing settings", &path))?;
        }
        Ok(Self { path })
    }

    pub(super) fn remove(self) {
        // Inside the target it goes with the notes; elsewhere an empty folder may stay.
        drop(std::fs::remove_dir_all(self.path));
    }
}

/// A new folder with a short path.
fn elsewhere(owner: Option<RunAs>) -> Result<PathBuf, RestoreError> {
    let folder = std::env::temp_dir();
    for number in 0..1000_u32 {
        let path = folder.join(format!("tidemark-{}-{number}", std::process::id()));
        if std::fs::symlink_metadata(&path).is_err() {
            Tree::open(&path, owner).map_err(RestoreError::io("making a folder", &path))?;
            return Ok(path);
        }
    }
    Err(RestoreError::io("making a folder", &folder)(
        std::io::Error::from(std::io::ErrorKind::AlreadyExists),
    ))
}
