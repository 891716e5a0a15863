//! The SQLite engine passes the suite that every engine passes, with WAL and without.

use std::path::{Path, PathBuf};

use tidemark_engine::conformance::{Subject, suite};
use tidemark_engine::{Engine, Materialise};
use tidemark_testkit::sqlite::Shape;

use crate::support::Lab;

struct Sqlite(Lab);

impl Subject for Sqlite {
    fn engine(&self) -> Box<dyn Engine> {
        Box::new(self.0.engine())
    }

    fn folder(&self) -> PathBuf {
        self.0.folder.path().join("state")
    }

    fn change(&mut self, seed: u64) {
        self.0.change(seed + 1, 5);
    }

    fn target(&self) -> (Box<dyn Materialise>, PathBuf) {
        self.0.target("restored.partial")
    }

    fn equals(&mut self, restored: &Path) -> bool {
        std::fs::read(restored).expect("the restored file") == self.0.image()
    }
}

fn subject(journal_mode: &'static str) -> Box<dyn Subject> {
    let shape = Shape {
        journal_mode,
        bytes: 2 << 20,
        ..Shape::default()
    };
    Box::new(Sqlite(Lab::new(&shape)))
}

#[test]
fn wal_mode_passes_the_suite() {
    suite(&|| subject("wal"));
}

#[test]
fn rollback_modes_pass_the_suite() {
    for mode in ["delete", "truncate", "persist"] {
        suite(&|| subject(mode));
    }
}
