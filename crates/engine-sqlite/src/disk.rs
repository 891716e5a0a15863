//! Every change of the engine's own files (maps and state), so that a test can end the agent at each.
//!
//! In programs these are the plain operations. In this crate's unit tests a `cuts::Cut` counts them,
//! ends the thread's work at a chosen one, whole or torn, and takes back what was not synced.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use tidemark_host::files::{self, FileError};

/// For their owner only: digests and digest keys.
pub(crate) const MODE: u32 = 0o600;

/// Makes `path` an empty file, whatever was there.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let create = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            .open(path)
    };
    #[cfg(test)]
    cuts::step(path, cuts::Change::Create, |_part| drop(create()));
    create()
}

/// Writes `bytes` at `at`, not durably.
pub(crate) fn write_at(file: &File, path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
    #[cfg(test)]
    cuts::step(path, cuts::Change::Content, |part| {
        let (some, _rest) = bytes.split_at(part.of(bytes.len()));
        file.write_all_at(some, at)
            .expect("a test's folder is writable");
    });
    #[cfg(not(test))]
    let _named_in_tests = path;
    file.write_all_at(bytes, at)
}

/// Shortens `file`, not durably.
pub(crate) fn set_len(file: &File, path: &Path, length: u64) -> io::Result<()> {
    #[cfg(test)]
    cuts::step(path, cuts::Change::Content, |part| {
        if part == cuts::Part::Whole {
            file.set_len(length).expect("a test's folder is writable");
        }
    });
    #[cfg(not(test))]
    let _named_in_tests = path;
    file.set_len(length)
}

/// Makes `file`'s content durable.
pub(crate) fn sync(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(test)]
    cuts::step(path, cuts::Change::Synced, |_part| {});
    #[cfg(not(test))]
    let _named_in_tests = path;
    file.sync_all()
}

/// Replaces `path`, durably; what was made or removed in its folder is durable, too.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    #[cfg(test)]
    cuts::step(path, cuts::Change::Replaced, |part| match part {
        cuts::Part::Whole => files::write_atomic(path, bytes, MODE).expect("writable"),
        part => {
            let (some, _rest) = bytes.split_at(part.of(bytes.len()));
            std::fs::write(path.with_extension("json.tmp"), some).expect("writable");
        }
    });
    files::write_atomic(path, bytes, MODE)
}

/// Removes `path` if it is there, not durably.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    cuts::step(path, cuts::Change::Remove, |part| {
        if part == cuts::Part::Whole {
            drop(std::fs::remove_file(path));
        }
    });
    std::fs::remove_file(path)
}

/// Ending the agent at any of its steps.
#[cfg(test)]
pub(crate) mod cuts {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    /// What a step does to its file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Change {
        Create,
        Content,
        Synced,
        Replaced,
        Remove,
    }

    /// How much of the last step is done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Part {
        Nothing,
        Half,
        Whole,
    }

    impl Part {
        pub(crate) const fn of(self, bytes: usize) -> usize {
            match self {
                Self::Nothing => 0,
                Self::Half => bytes / 2,
                Self::Whole => bytes,
            }
        }
    }

    /// When the agent ends, and what of it stays.
    #[derive(Debug, Clone, Copy)]
    pub(crate) struct Plan {
        /// The step at which it ends, from 0.
        pub(crate) at: u64,
        pub(crate) part: Part,
        /// The machine loses power: what was not synced is gone, but for that last step.
        pub(crate) power: bool,
    }

    /// What unwinds when the agent ends.
    #[derive(Debug)]
    pub(crate) struct Ended;

    #[derive(Debug, Default)]
    struct Cut {
        plan: Option<Plan>,
        steps: u64,
        /// What files held when they were synced last, those that changed since.
        contents: BTreeMap<PathBuf, Vec<u8>>,
        /// What was made (`None`) or removed since the folder was synced.
        names: BTreeMap<PathBuf, Option<Vec<u8>>>,
    }

    thread_local! {
        static CUT: RefCell<Cut> = RefCell::default();
    }

    /// Arms this thread, or disarms it; says how many steps there were since the last time.
    pub(crate) fn arm(plan: Option<Plan>) -> u64 {
        let cut = Cut {
            plan,
            ..Cut::default()
        };
        CUT.with(|now| now.replace(cut)).steps
    }

    /// A step is about to happen; `partly` does a part of it.
    pub(crate) fn step(path: &Path, change: Change, partly: impl FnOnce(Part)) {
        let plan = CUT.with(|cut| {
            let mut cut = cut.borrow_mut();
            let due = cut.plan.filter(|plan| plan.at == cut.steps);
            cut.steps += 1;
            if due.is_none() {
                cut.remember(path, change);
            }
            due
        });
        let Some(plan) = plan else { return };
        if plan.power {
            CUT.with(|cut| cut.borrow().lose_power());
        }
        partly(plan.part);
        std::panic::resume_unwind(Box::new(Ended));
    }

    impl Cut {
        fn remember(&mut self, path: &Path, change: Change) {
            let before = || std::fs::read(path).ok();
            match change {
                Change::Create | Change::Content => {
                    if let Some(before) = before() {
                        self.contents.entry(path.to_path_buf()).or_insert(before);
                    } else {
                        self.names.entry(path.to_path_buf()).or_insert(None);
                    }
                }
                Change::Synced => drop(self.contents.remove(path)),
                Change::Replaced => self.names.clear(),
                Change::Remove => {
                    let durable = self.contents.remove(path).or_else(before);
                    self.names.entry(path.to_path_buf()).or_insert(durable);
                }
            }
        }

        fn lose_power(&self) {
            for (path, before) in self.contents.iter().filter(|(path, _)| path.exists()) {
                std::fs::write(path, before).expect("a test's folder is writable");
            }
            for (path, before) in &self.names {
                match before {
                    Some(before) => std::fs::write(path, before).expect("writable"),
                    None => drop(std::fs::remove_file(path)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rusqlite::Connection;
    use tidemark_engine::ProofResult;
    use tidemark_engine::conformance::Rig;
    use tidemark_host::SystemClock;

    use super::cuts::{Ended, Part, Plan, arm};
    use crate::{SqliteConfig, SqliteEngine, SqliteTarget};

    /// A database, its application (in this process, with its connection open throughout, so that
    /// nothing closes a descriptor of the database beside it) and the agent's state.
    struct World {
        folder: tempfile::TempDir,
        app: Connection,
        rig: Rig,
    }

    impl World {
        fn new() -> Self {
            let memory = std::path::Path::new("/dev/shm");
            let folder = if memory.is_dir() {
                tempfile::tempdir_in(memory)
            } else {
                tempfile::tempdir()
            };
            let folder = folder.unwrap();
            let path = folder.path().join("app.db");
            let app = Connection::open(&path).unwrap();
            app.execute_batch(
                "PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
                 CREATE TABLE t(id INTEGER PRIMARY KEY, x);",
            )
            .unwrap();
            let mut config = SqliteConfig::new(&path);
            config.cut_bytes = 4 << 10;
            config.hand_off_bytes = 8 << 10;
            let engine = SqliteEngine::new(config, SystemClock::shared());
            let rig = Rig::new(Box::new(engine), folder.path().join("state"));
            let world = Self { folder, app, rig };
            world.insert(12);
            world
        }

        fn insert(&self, rows: u32) {
            for _ in 0..rows {
                self.app
                    .execute("INSERT INTO t(x) VALUES(randomblob(300))", [])
                    .unwrap();
            }
        }

        fn sql(&self, sql: &str) {
            self.app.execute_batch(sql).unwrap();
        }

        /// A life with everything that changes the engine's files.
        fn live(&mut self) {
            self.rig.open();
            self.rig.base(true);
            self.insert(2);
            self.rig.cut();
            self.rig.sync();
            self.sql("UPDATE t SET x = randomblob(300) WHERE id % 3 = 0");
            self.rig.cut();
            self.rig.base(false);
            self.sql("DELETE FROM t WHERE id > 6; VACUUM");
            self.rig.cut();
            self.insert(3);
            self.rig.cut_once();
            self.rig.open_generation();
            self.rig.cut();
            self.rig.base(true);
            self.rig.crash();
            self.sql(
                "UPDATE t SET x = randomblob(299) WHERE id % 2; PRAGMA wal_checkpoint(TRUNCATE)",
            );
            self.insert(1);
            self.rig.open();
            self.rig.cut();
            self.rig.sync();
        }

        /// The agent starts again: what it ships then makes every base, old or new, the database.
        fn prove(mut self, what: &str) {
            self.rig.crash();
            self.rig.open();
            if self.rig.bases.is_empty() {
                self.rig.base(true);
            }
            self.rig.cut();
            // A generation whose first base isn't made yet knows no digest: the bytes prove it.
            self.restores(what, &[ProofResult::Equal, ProofResult::NoDigest]);
            self.insert(1);
            self.rig.cut();
            self.rig.base(false);
            self.rig.cut();
            self.restores(what, &[ProofResult::Equal]);
        }

        fn restores(&mut self, what: &str, allowed: &[ProofResult]) {
            let last = *self.rig.restorable().last().unwrap();
            let path = self.folder.path().join("restored");
            drop(std::fs::remove_file(&path));
            let target = SqliteTarget::open(&path, &self.folder.path().join("target")).unwrap();
            let proof = self.rig.restore(last, Box::new(target));
            let proof = proof.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(allowed.contains(&proof.result), "{what}: {proof:?}");
            // As SQLite reads it: the file, and the log over it.
            let image = self.folder.path().join("image.db");
            drop(std::fs::remove_file(&image));
            self.app
                .backup(c"main", &image, None::<fn(rusqlite::backup::Progress)>)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let (image, restored) = (std::fs::read(image).unwrap(), std::fs::read(path).unwrap());
            let same = image.len() == restored.len()
                && image
                    .iter()
                    .zip(&restored)
                    .enumerate()
                    .all(|(at, (one, other))| {
                        // A backup counts itself as a change, and has no log.
                        one == other || (18..100).contains(&at)
                    });
            assert!(same, "{what}: the restored database differs");
        }
    }

    /// Whether the life came to that step.
    fn cut_at(plan: Plan) -> bool {
        let mut world = World::new();
        arm(Some(plan));
        let ended = catch_unwind(AssertUnwindSafe(|| world.live()));
        arm(None);
        let came = ended.is_err();
        if let Err(ended) = ended {
            assert!(ended.is::<Ended>(), "{plan:?}: something else went wrong");
        }
        world.prove(&format!("{plan:?}"));
        came
    }

    fn steps_of_a_life() -> u64 {
        let mut world = World::new();
        arm(None);
        world.live();
        let steps = arm(None);
        world.prove("a whole life");
        steps
    }

    fn every_step(part: Part, power: bool) {
        let steps = steps_of_a_life();
        assert!(steps > 40, "{steps} steps");
        let came = (0..steps).filter(|at| {
            cut_at(Plan {
                at: *at,
                part,
                power,
            })
        });
        // How often a life polls is a matter of time, and so is the number of its last steps.
        assert!(came.count() > 40);
    }

    #[test]
    fn a_kill_before_or_within_any_write_of_map_or_state_costs_bytes_only() {
        every_step(Part::Nothing, false);
        every_step(Part::Half, false);
    }

    #[test]
    fn a_power_loss_that_takes_back_whatever_was_not_synced_costs_bytes_only() {
        every_step(Part::Nothing, true);
        // The disk wrote the last step before all those before it.
        every_step(Part::Half, true);
        every_step(Part::Whole, true);
    }
}
