//! Indexes against their tables, and tables against their own rules: the server's amcheck.
//!
//! Where the databases don't have the extension, it is made in a transaction that is rolled back, in the
//! sandbox's copy alone.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};
use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};
use tidemark_host::Clock;

use super::ask::{TOOK_TOO_LONG, code, is_short, lacks_library, said};
use crate::wire::quote_identifier;

/// Complaints that are kept, of each kind.
const COMPLAINTS: usize = 5;
/// Where the extension is made if a database has none.
const OWN_SCHEMA: &str = "tidemark_amcheck";
const INSTALLED: &str = "SELECT n.nspname::text FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck'";
const AVAILABLE: &str =
    "SELECT count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
const INDEXES: &str = "SELECT i.indexrelid::int8, i.indexrelid::regclass::text FROM pg_catalog.pg_index i \
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_am a ON a.oid = c.relam \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid AND i.indisready \
    AND (n.nspname = 'pg_catalog' OR $1) ORDER BY 2";
const HEAPS: &str = "SELECT c.oid::int8, c.oid::regclass::text FROM pg_catalog.pg_class c \
    WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p' ORDER BY 2";
/// The codes of "no such function" and "not of this kind".
const NOT_HERE: [&str; 2] = ["42883", "0A000"];

/// What came of one kind of check.
#[derive(Debug, Default)]
struct Kind {
    checked: u64,
    broken: u64,
    complaints: Vec<String>,
    left: Vec<String>,
    took: Duration,
}

impl Kind {
    fn complain(&mut self, what: String) {
        self.broken = self.broken.saturating_add(1);
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(what);
        }
    }

    fn take(&mut self, name: &str, outcome: Result<Option<String>, sqlx::Error>) {
        match outcome {
            Ok(None) => self.checked = self.checked.saturating_add(1),
            Ok(Some(why)) => self.complain(format!("{name}: {why}")),
            Err(error) => {
                let code = code(&error).unwrap_or_default();
                let is_hosts =
                    NOT_HERE.contains(&code.as_str()) || lacks_library(&error) || is_short(&error);
                if code == TOOK_TOO_LONG || is_hosts {
                    self.left.push(format!("{name} ({})", said(&error)));
                } else {
                    self.complain(format!("{name}: {}", said(&error)));
                }
            }
        }
    }

    fn finding(&self, id: &str, name: &str) -> Finding {
        let finding = |status| Finding::new(LEVEL_LOGICAL, id, name, status);
        if self.broken > 0 {
            return finding(Status::Failed)
                .compared("0 broken", format!("{} broken", self.broken))
                .why(self.complaints.join("; "));
        }
        if !self.left.is_empty() {
            let status = if self.checked == 0 {
                Status::NotRun
            } else {
                Status::Warned
            };
            let left = self.left.len();
            let some: Vec<&str> = self
                .left
                .iter()
                .map(String::as_str)
                .take(COMPLAINTS)
                .collect();
            return finding(status)
                .actual(format!("{} checked, {left} not", self.checked))
                .why(some.join("; "));
        }
        finding(Status::Passed)
            .compared("0 broken", "0 broken")
            .why(format!("{} checked", self.checked))
    }

    /// The same, with the time that it took.
    fn timed(&self, id: &str, name: &str) -> Finding {
        self.finding(id, name).took(self.took)
    }
}

/// What came of all of them.
#[derive(Debug, Default)]
pub(super) struct Checked {
    indexes: Kind,
    heaps: Kind,
}

impl Checked {
    pub(super) fn findings(&self, full: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        if full {
            findings.push(self.heaps.timed(
                "postgres.heap",
                "every row of every table obeys the table's own rules (verify_heapam)",
            ));
        }
        let name = if full {
            "every index has an entry for every row, in order (bt_index_check)"
        } else {
            "the catalogs' indexes are in order (bt_index_check)"
        };
        findings.push(self.indexes.timed("postgres.indexes", name));
        findings
    }
}

/// Checks a database's indexes, all of them and its tables, too, if it is to be `full`.
pub(super) async fn check(
    connection: &mut PgConnection,
    database: &str,
    full: bool,
    clock: &dyn Clock,
    checked: &mut Checked,
) {
    if let Err(error) = run(connection, database, full, clock, checked).await {
        let why = format!("{database} ({})", said(&error));
        checked.indexes.left.push(why.clone());
        checked.heaps.left.push(why);
    }
    // Whatever was made for it goes. A connection that is broken is broken for who asks next, too.
    drop(sqlx::raw_sql("ROLLBACK").execute(connection).await);
}

async fn run(
    connection: &mut PgConnection,
    database: &str,
    full: bool,
    clock: &dyn Clock,
    checked: &mut Checked,
) -> Result<(), sqlx::Error> {
    // Expressions of indexes may name functions without their schema.
    sqlx::raw_sql("BEGIN READ WRITE; SET LOCAL search_path = pg_catalog, public")
        .execute(&mut *connection)
        .await?;
    let installed: Option<String> = sqlx::query_scalar(INSTALLED)
        .fetch_optional(&mut *connection)
        .await?;
    let schema = match installed {
        Some(schema) => quote_identifier(&schema),
        None => {
            let available: i64 = sqlx::query_scalar(AVAILABLE)
                .fetch_one(&mut *connection)
                .await?;
            if available == 0 {
                let why = format!(
                    "{database} (amcheck is not installed on this host: postgresql-contrib)"
                );
                checked.indexes.left.push(why.clone());
                checked.heaps.left.push(why);
                return Ok(());
            }
            let make =
                format!("CREATE SCHEMA {OWN_SCHEMA}; CREATE EXTENSION amcheck SCHEMA {OWN_SCHEMA}");
            sqlx::raw_sql(AssertSqlSafe(make))
                .execute(&mut *connection)
                .await?;
            OWN_SCHEMA.to_owned()
        }
    };
    let indexes: Vec<(i64, String)> = sqlx::query_as(INDEXES)
        .bind(full)
        .fetch_all(&mut *connection)
        .await?;
    let began = clock.monotonic();
    for (oid, name) in indexes {
        let sql =
            format!("SELECT NULL::text FROM {schema}.bt_index_check({oid}::regclass, {full})");
        let outcome = guarded(connection, sql).await?;
        checked.indexes.take(&format!("{database}.{name}"), outcome);
    }
    checked.indexes.took += clock.monotonic().since(began);
    if !full {
        return Ok(());
    }
    let heaps: Vec<(i64, String)> = sqlx::query_as(HEAPS).fetch_all(&mut *connection).await?;
    let began = clock.monotonic();
    for (oid, name) in heaps {
        // What is wrong is told by block and item: no value is in it.
        let sql = format!(
            "SELECT 'block ' || blkno || ': ' || msg FROM {schema}.verify_heapam({oid}::regclass, on_error_stop := true, \
             check_toast := true) LIMIT 1"
        );
        let outcome = guarded(connection, sql).await?;
        checked.heaps.take(&format!("{database}.{name}"), outcome);
    }
    checked.heaps.took += clock.monotonic().since(began);
    Ok(())
}

/// Asks something that may fail without ending the transaction: the first text it answers.
async fn guarded(
    connection: &mut PgConnection,
    sql: String,
) -> Result<Result<Option<String>, sqlx::Error>, sqlx::Error> {
    sqlx::raw_sql("SAVEPOINT one")
        .execute(&mut *connection)
        .await?;
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_optional(&mut *connection)
        .await;
    let outcome = row.and_then(|row| match row {
        Some(row) => row.try_get::<Option<String>, _>(0),
        None => Ok(None),
    });
    let end = if outcome.is_err() {
        "ROLLBACK TO one"
    } else {
        "RELEASE one"
    };
    sqlx::raw_sql(end).execute(connection).await?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_is_named_and_counted() {
        let mut checked = Checked::default();
        for number in 0..8 {
            let name = format!("app.i{number}");
            checked
                .indexes
                .take(&name, Ok(Some("lacks a tuple".to_owned())));
        }
        let findings = checked.findings(true);
        let finding = findings
            .iter()
            .find(|finding| finding.id == "postgres.indexes");
        let finding = finding.expect("told");
        assert_eq!(finding.status, Status::Failed);
        assert_eq!(finding.actual.as_deref(), Some("8 broken"));
        assert!(finding.why.as_ref().expect("names").contains("app.i0"));
    }

    #[test]
    fn what_could_not_be_checked_has_not_passed() {
        let mut checked = Checked::default();
        checked.indexes.left.push("app (not installed)".to_owned());
        assert_eq!(checked.findings(false)[0].status, Status::NotRun);
        checked.indexes.take("app.i", Ok(None));
        assert_eq!(checked.findings(false)[0].status, Status::Warned);
        checked.indexes.left.clear();
        assert_eq!(checked.findings(false)[0].status, Status::Passed);
    }
}
