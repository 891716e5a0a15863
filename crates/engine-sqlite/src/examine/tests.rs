//! Databases with every kind of damage, and statements that try what they may not.

use super::*;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use tidemark_engine::examine::{Statement, as_recorded};
use tidemark_host::SystemClock;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new(sql: &str) -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let connection = Connection::open(world.path()).unwrap();
        connection.execute_batch(sql).unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn change(&self, sql: &str) {
        Connection::open(self.path())
            .unwrap()
            .execute_batch(sql)
            .unwrap();
    }

    fn examine(&self, questions: Questions) -> Result<Examined, Error> {
        examine(&Examination {
            path: self.path(),
            questions,
            clock: SystemClock::shared(),
            cancel: Arc::default(),
        })
    }

    fn full(&self) -> Examined {
        let questions = Questions {
            full: true,
            counts: true,
            ..Questions::default()
        };
        self.examine(questions).unwrap()
    }

    fn answer(&self, sql: &str) -> Result<String, String> {
        let questions = Questions {
            statements: vec![Statement {
                id: "it".to_owned(),
                database: None,
                sql: sql.to_owned(),
            }],
            statement_seconds: Some(1),
            ..Questions::default()
        };
        let examined = self.examine(questions).unwrap();
        examined.answers.get("it").unwrap().clone()
    }
}

const SHOP: &str = "CREATE TABLE customer (id INTEGER PRIMARY KEY, mail TEXT UNIQUE);
    CREATE TABLE sale (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer(id), cents INT);
    CREATE INDEX by_customer ON sale (customer);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
        INSERT INTO customer SELECT i, 'someone-' || i || '@example.org' FROM n;
    INSERT INTO sale SELECT id, id, id * 100 FROM customer;";

fn status(examined: &Examined, id: &str) -> Status {
    finding(examined, id).status
}

fn finding<'a>(examined: &'a Examined, id: &str) -> &'a Finding {
    let found = examined.findings.iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no {id} in {:?}", examined.findings))
}

#[test]
fn a_sound_database_passes_and_is_counted() {
    let world = World::new(SHOP);
    let examined = world.full();
    for id in [
        "sqlite.pages",
        "sqlite.integrity",
        "sqlite.foreign_keys",
        "sqlite.readable",
    ] {
        assert_eq!(status(&examined, id), Status::Passed, "{id}");
    }
    assert_eq!(examined.counts["customer"], 500);
    assert_eq!(examined.counts["sale"], 500);
    assert_eq!(examined.collations["BINARY"], "built in");
    assert_eq!(examined.size_bytes, world.path().metadata().unwrap().len());
    // Not even a journal has appeared.
    assert_eq!(std::fs::read_dir(world.dir.path()).unwrap().count(), 1);
}

#[test]
fn a_table_that_takes_too_long_to_count_is_left_by_name_and_neither_broken_nor_empty() {
    let world = World::new(SHOP);
    let connection = Connection::open(world.path()).unwrap();
    let asked = std::cell::Cell::new(0);
    // The first table that is counted takes too long, the others don't.
    let counted = look::counts(&connection, |work| {
        asked.set(asked.get() + 1);
        if asked.get() == 1 {
            let interrupted = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
            return Err(rusqlite::Error::SqliteFailure(interrupted, None));
        }
        work()
    });
    // Its rows are no less there: an exception, and nothing that an earlier count is held against.
    assert_eq!(counted.status(), Status::Warned);
    let why = counted.complaint(Duration::from_secs(300)).unwrap();
    assert_eq!(
        why,
        "not counted (the limit is 300 s): customer (it took longer)"
    );
    assert!(!counted.rows.contains_key("customer"), "{counted:?}");
    assert_eq!(counted.rows["sale"], 500);
}

#[test]
fn nothing_of_a_row_is_in_what_leaves() {
    let world = World::new(SHOP);
    world.change("PRAGMA foreign_keys = OFF; DELETE FROM customer WHERE id = 7");
    let mut examined = world.full();
    examined.answers.insert(
        "mail".to_owned(),
        world.answer("SELECT mail FROM customer WHERE id = 8"),
    );
    let text = serde_json::to_string(&examined).unwrap();
    assert!(!text.contains("example.org"), "{text}");
    assert!(
        text.contains(&as_recorded("someone-8@example.org")),
        "{text}"
    );
}

#[test]
fn a_row_deleted_behind_the_databases_back_is_found_by_its_index() {
    let world = World::new(SHOP);
    // The index is hidden while a row goes, and knows it still when it is back.
    world.change(
        "PRAGMA writable_schema = ON;
         CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'by_customer';
         DELETE FROM sqlite_schema WHERE name = 'by_customer';",
    );
    world.change("DELETE FROM sale WHERE id = 250");
    world.change(
        "PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema SELECT * FROM kept; DROP TABLE kept;",
    );
    let examined = world.full();
    let found = finding(&examined, "sqlite.integrity");
    assert_eq!(found.status, Status::Failed);
    assert!(
        found.actual.as_ref().unwrap().contains("by_customer"),
        "{found:?}"
    );
    assert_eq!(
        examined.counts["sale"], 499,
        "the table is counted, not the index"
    );
}

#[test]
fn a_changed_byte_changes_the_digest_that_is_told() {
    let world = World::new(SHOP);
    let before = world.full().content_digest.unwrap();
    assert_eq!(world.full().content_digest.unwrap(), before);
    // Where a text stands: no structure is wrong afterwards.
    let bytes = std::fs::read(world.path()).unwrap();
    let at = bytes
        .windows(9)
        .position(|window| window == b"someone-3")
        .unwrap();
    let file = File::options().write(true).open(world.path()).unwrap();
    file.write_all_at(b"S", u64::try_from(at).unwrap()).unwrap();
    assert_ne!(world.full().content_digest.unwrap(), before);
}

#[test]
fn a_cut_file_and_a_trampled_page_are_named() {
    let world = World::new(SHOP);
    let file = File::options().write(true).open(world.path()).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - 4096).unwrap();
    let examined = world.full();
    assert_eq!(status(&examined, "sqlite.pages"), Status::Failed);

    let world = World::new(SHOP);
    let file = File::options().write(true).open(world.path()).unwrap();
    file.write_all_at(&[0xff; 4096], 2 * 4096).unwrap();
    let examined = world.full();
    assert_eq!(status(&examined, "sqlite.integrity"), Status::Failed);
}

#[test]
fn what_is_no_database_is_an_error() {
    let world = World::new(SHOP);
    std::fs::write(world.path(), [7; 8192]).unwrap();
    let error = world.examine(Questions::default()).unwrap_err();
    assert!(
        matches!(error.inner(), Some(SqliteError::NotADatabase { .. })),
        "{error}"
    );
}

#[test]
fn rows_that_refer_to_none_are_worth_a_look() {
    let world = World::new(SHOP);
    world.change("PRAGMA foreign_keys = OFF; DELETE FROM customer WHERE id < 4");
    let examined = world.full();
    let found = finding(&examined, "sqlite.foreign_keys");
    assert_eq!(found.status, Status::Warned);
    assert_eq!(found.actual.as_deref(), Some("3"));
}

#[test]
fn a_statement_answers_one_value_and_can_do_nothing_else() {
    let world = World::new(SHOP);
    assert_eq!(
        world.answer("SELECT count(*) FROM sale"),
        Ok("500".to_owned())
    );
    assert_eq!(
        world.answer("SELECT sum(cents) > 1000 FROM sale"),
        Ok("1".to_owned())
    );
    assert_eq!(world.answer("SELECT NULL"), Ok("null".to_owned()));
    for (sql, word) in [
        ("SELECT id FROM sale", "more than one row"),
        ("SELECT id FROM sale WHERE id < 0", "no row"),
        ("SELECT 1, 2", "2 columns"),
        ("SELECT 1; DELETE FROM sale", "refused"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("BEGIN IMMEDIATE", "refused"),
        ("VACUUM INTO '/tmp/stolen'", "0 columns"),
        ("SELECT * FROM pragma_database_list", "columns"),
        (
            "SELECT writefile('/tmp/stolen', mail) FROM customer",
            "writefile",
        ),
        ("INSERT INTO sale DEFAULT VALUES RETURNING 1", "refused"),
        ("EXPLAIN SELECT 1", "columns"),
        ("SELECT zeroblob(4000000000)", "larger than"),
        ("SELECT \u{0}1", "incomplete"),
        ("DELETE FROM sale", "refused"),
        ("PRAGMA query_only = OFF", "refused"),
        ("ATTACH '/etc/passwd' AS p", "refused"),
        ("CREATE TEMP TABLE t (a)", "refused"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT nothing FROM nowhere", "nowhere"),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
            "longer than it may",
        ),
    ] {
        let said = world.answer(sql).unwrap_err();
        assert!(said.contains(word), "{sql}: {said}");
    }
    assert_eq!(world.full().counts["sale"], 500);
}

#[test]
fn what_a_function_was_given_is_not_in_what_it_complains_of() {
    let world = World::new(SHOP);
    for sql in [
        "SELECT json_extract('{}', mail) FROM customer WHERE id = 3",
        "SELECT json(mail) FROM customer WHERE id = 3",
        "SELECT mail REGEXP mail FROM customer WHERE id = 3",
    ] {
        let said = world.answer(sql).unwrap_err();
        assert!(
            !said.contains("someone") && !said.contains("example"),
            "{sql}: {said}"
        );
    }
}

#[test]
fn databases_of_every_kind_are_examined_to_their_end() {
    let odd = World::new(
        "PRAGMA page_size = 65536; PRAGMA encoding = 'UTF-16be';
         CREATE TABLE pair (a TEXT, b TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID;
         INSERT INTO pair VALUES ('x', 'y'), ('x', 'z');
         CREATE TABLE strict (n INT NOT NULL, twice INT GENERATED ALWAYS AS (n * 2) STORED, thrice INT AS (n * 3)) STRICT;
         CREATE INDEX by_thrice ON strict (thrice) WHERE n > 1;
         INSERT INTO strict (n) VALUES (1), (2), (3);
         CREATE VIRTUAL TABLE texts USING fts5(body); INSERT INTO texts VALUES ('a word'), ('another');
         CREATE TABLE log (what TEXT);
         CREATE TRIGGER told AFTER INSERT ON pair BEGIN INSERT INTO log VALUES (new.a); END;
         CREATE VIEW fine AS SELECT a FROM pair; CREATE VIEW broken AS SELECT absent FROM nowhere;
         CREATE TABLE \"odd \"\" name\" (\"a;b\" TEXT); INSERT INTO \"odd \"\" name\" VALUES ('1');",
    );
    let examined = odd.full();
    for finding in &examined.findings {
        let well = matches!(finding.status, Status::Passed | Status::Recorded);
        assert!(well, "{finding:#?}");
    }
    assert_eq!(examined.settings["page_size"], "65536");
    for (table, rows) in [("pair", 2), ("strict", 3), ("texts", 2), ("odd \" name", 1)] {
        assert_eq!(examined.counts[table], rows, "{table}");
    }
    assert_eq!(
        odd.answer("SELECT count(*) FROM texts WHERE texts MATCH 'word'"),
        Ok("1".to_owned())
    );
    let broken = odd.answer("SELECT count(*) FROM broken").unwrap_err();
    assert!(broken.contains("nowhere"), "{broken}");
    // What only its application can read is told, and is no damage.
    odd.change(
        "PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema VALUES ('table', 'places', 'places', 0, 'CREATE VIRTUAL TABLE places USING ours(a)')",
    );
    let examined = odd.full();
    let readable = finding(&examined, "sqlite.readable");
    assert_eq!(readable.status, Status::Warned, "{readable:?}");
    assert!(readable.why.as_ref().unwrap().contains("places"));
}

#[test]
fn equal_schemas_have_equal_digests_and_others_do_not() {
    let (one, other) = (World::new(SHOP), World::new(SHOP));
    other.change("DELETE FROM sale");
    assert_eq!(one.full().schema_digest, other.full().schema_digest);
    other.change("ALTER TABLE sale ADD COLUMN note TEXT");
    assert_ne!(one.full().schema_digest, other.full().schema_digest);
}

#[test]
fn a_collation_that_only_the_application_has_is_told() {
    let world = World::new(SHOP);
    world.change("CREATE TABLE named (n TEXT COLLATE RTRIM PRIMARY KEY); INSERT INTO named VALUES ('a'), ('b')");
    // As if the application had made it so.
    world.change(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'OURS')",
    );
    let examined = world.full();
    assert_eq!(examined.collations["OURS"], "the application's own");
    let found = finding(&examined, "sqlite.integrity");
    assert!(
        matches!(found.status, Status::NotRun | Status::Passed),
        "not taken for damage: {found:?}"
    );
}

#[test]
fn a_count_that_is_one_step_to_sqlite_ends_with_its_time_all_the_same() {
    let world = World::new(
        "CREATE TABLE t (n, pad); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000) \
         INSERT INTO t SELECT n, zeroblob(100) FROM c",
    );
    let what = Examination {
        path: world.path(),
        questions: Questions::default(),
        clock: SystemClock::shared(),
        cancel: Arc::default(),
    };
    let (connection, timer) = open(&what, Duration::ZERO).unwrap();
    // One may be over before anybody looks at the time; a thousand take longer.
    let error = timer.limited(|| {
        (0..1000).find_map(|_| {
            let sql = "SELECT count(*) FROM t NOT INDEXED";
            let counted: Result<i64, _> = connection.query_row(sql, [], |row| row.get(0));
            counted.err()
        })
    });
    let code = error.expect("it is interrupted").sqlite_error_code();
    assert_eq!(code, Some(rusqlite::ErrorCode::OperationInterrupted));
    // AND what comes after it has time of its own
    let counted = connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    assert_eq!(counted.unwrap(), 100_000);
}
