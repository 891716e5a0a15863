//! The PostgreSQL engine passes the suite that every engine passes.
//!
//! One server of a major serves all cases, each with a slot, a table and a folder of its own.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::conformance::{Now, Subject, suite};
use tidemark_engine::{Engine, Materialise};
use tidemark_engine_postgres::restore::Stop;
use tidemark_engine_postgres::{PostgresConfig, PostgresEngine};
use tidemark_host::{Clock as _, SystemClock};
use tidemark_testkit::postgres::{Cluster, Options, Postgres};
use tokio::runtime::Runtime;

use crate::capture::conninfo;
use crate::replication::Nothing;
use crate::restore::kit::Place;

/// A snapshot of running transactions, a checkpoint, with the heads of two pages of log.
const BYTES_BY_ITSELF: u64 = 1024;
/// The layout, the control file, the label, and what a checkpoint writes by itself.
const PAGES_OF_EVERY_BASE: u64 = 64;
const TABLE: &str = "DROP TABLE IF EXISTS t; CREATE TABLE t (id int PRIMARY KEY, body text);
    INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 5000) n";
const CONTENT: &str =
    "SELECT count(*) || ' ' || md5(string_agg(id || body, ',' ORDER BY id)) FROM t";

/// A case's view of a server.
struct Server {
    cluster: Rc<Cluster>,
    case: u32,
    folder: tempfile::TempDir,
    /// Of all cases: they end together, which takes a second each.
    restored: Rc<RefCell<Vec<Place>>>,
    runtime: Runtime,
}

impl Subject for Server {
    fn engine(&self) -> Box<dyn Engine> {
        let source = format!("case-{}", self.case).parse().expect("a name");
        let mut config = PostgresConfig::new(conninfo(&self.cluster), &source);
        config.limits.pulse_every = Duration::from_millis(20);
        let handle = self.runtime.handle().clone();
        let clock = SystemClock::shared();
        let host = Arc::new(Nothing);
        Box::new(PostgresEngine::new(config, host, handle, clock))
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn change(&mut self, seed: u64) {
        self.cluster.sql(&format!(
            "UPDATE t SET body = body || '{seed}' WHERE id % 97 = {seed};
             INSERT INTO t VALUES ({}, 'new'); DELETE FROM t WHERE id = {}",
            10_000 + seed,
            500 + seed
        ));
    }

    fn target(&self) -> (Box<dyn Materialise>, PathBuf) {
        let place = Place::new(self.cluster.postgres());
        let target = place.open(place.options(Stop::End)).expect("a target");
        let path = place.partial();
        self.restored.borrow_mut().push(place);
        (Box::new(target), path)
    }

    fn equals(&mut self, restored: &Path) -> bool {
        let places = self.restored.borrow();
        let place = places.iter().find(|place| place.partial() == restored);
        let place = place.expect("a place of this test");
        place.check_pages();
        place.start();
        place.cluster.query(CONTENT) == self.cluster.query(CONTENT)
    }

    fn server(&self) -> Option<Now> {
        Some(Box::new(|| SystemClock.now()))
    }

    fn bytes_by_itself(&self) -> u64 {
        BYTES_BY_ITSELF
    }

    fn pages_of_every_base(&self) -> u64 {
        PAGES_OF_EVERY_BASE
    }
}

fn passes(postgres: &Postgres) {
    // Nothing but the test writes.
    let options = Options::default().with("autovacuum", "off");
    let cluster = Rc::new(Cluster::start(postgres, &options).expect("a cluster"));
    let restored = Rc::new(RefCell::default());
    let cases = Cell::new(0);
    suite(&|| {
        cluster.sql(TABLE);
        cases.set(cases.get() + 1);
        Box::new(Server {
            cluster: Rc::clone(&cluster),
            case: cases.get(),
            folder: tempfile::tempdir().expect("a folder"),
            restored: Rc::clone(&restored),
            runtime: Runtime::new().expect("a runtime"),
        })
    });
    std::thread::scope(|scope| {
        for place in restored.take() {
            scope.spawn(|| drop(place));
        }
    });
}

#[test]
fn every_major_passes_the_suite() {
    std::thread::scope(|scope| {
        for postgres in Postgres::all() {
            scope.spawn(move || passes(&postgres));
        }
    });
}
