//! Rows of every table, counted: that alone reads every page of it through the server.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};

use super::ask::{TOOK_TOO_LONG, code, is_short, lacks_library, said};

/// What is left out: what a crash empties (unlogged), what a session owns, the system's, the canary.
const TABLES: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
    n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND (c.relkind = 'r' OR c.relispopulated) \
    AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tidemark') ORDER BY 2";
/// What holds nothing after a restore, as after every crash: PostgreSQL writes no log for it.
const UNLOGGED: &str = "SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence = 'u' ORDER BY 1";
/// How many of them are named.
const NAMED_MAX: usize = 5;
/// An index may answer a count, and then nobody has read the table.
const NO_INDEX: &str =
    "SET enable_indexonlyscan = off; SET enable_indexscan = off; SET enable_bitmapscan = off";
/// The code of "lock not available".
const LOCKED: &str = "55P03";

/// What came of counting.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) rows: BTreeMap<String, u64>,
    broken: Vec<String>,
    left: Vec<String>,
    unlogged: Vec<String>,
}

impl Counted {
    /// A database's tables can't even be listed.
    pub(super) fn unasked(&mut self, database: &str, error: &sqlx::Error) {
        let why = format!("the tables of {database}: {}", said(error));
        self.broken.push(why);
    }

    pub(super) fn finding(&self) -> Finding {
        let name = "every table can be read to its end";
        let finding = |status| Finding::new(LEVEL_LOGICAL, "postgres.readable", name, status);
        if !self.broken.is_empty() {
            return finding(Status::Failed).why(self.broken.join("; "));
        }
        if !self.left.is_empty() {
            return finding(Status::Warned).why(format!("not counted: {}", self.left.join("; ")));
        }
        finding(Status::Passed).actual(format!("{} tables", self.rows.len()))
    }

    /// The unlogged tables, if there are any: whoever restores finds them without a row.
    pub(super) fn emptied(&self) -> Option<Finding> {
        let named = self.unlogged.get(..NAMED_MAX).unwrap_or(&self.unlogged);
        let more = match self.unlogged.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let found = format!("{}: {}{more}", self.unlogged.len(), named.join(", "));
        let name = "unlogged tables: a restore brings them back empty, as a crash does";
        let finding = || Finding::new(LEVEL_LOGICAL, "postgres.unlogged", name, Status::Recorded);
        (!self.unlogged.is_empty()).then(|| finding().actual(found))
    }
}

/// Counts the rows of every table of a database.
pub(super) async fn count(connection: &mut PgConnection, database: &str, counted: &mut Counted) {
    let tables = match tables(connection).await {
        Ok(tables) => tables,
        Err(error) => {
            counted.unasked(database, &error);
            return;
        }
    };
    match sqlx::query_scalar::<_, String>(UNLOGGED)
        .fetch_all(&mut *connection)
        .await
    {
        Ok(names) => {
            let names = names.iter().map(|name| format!("{database}.{name}"));
            counted.unlogged.extend(names);
        }
        Err(error) => counted.unasked(database, &error),
    }
    for (quoted, name) in tables {
        let sql = format!("SELECT pg_catalog.count(*) FROM ONLY {quoted}");
        let rows: Result<i64, sqlx::Error> = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await;
        let name = format!("{database}.{name}");
        match rows {
            Ok(rows) => {
                counted.rows.insert(name, u64::try_from(rows).unwrap_or(0));
            }
            Err(error) if is_hosts(&error) => {
                counted.left.push(format!("{name} ({})", said(&error)));
            }
            Err(error) => counted.broken.push(format!("{name} ({})", said(&error))),
        }
    }
}

/// Tables by the name that SQL takes and the one that people read, for a connection that reads tables themselves.
async fn tables(connection: &mut PgConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::raw_sql(NO_INDEX).execute(&mut *connection).await?;
    sqlx::query_as(TABLES).fetch_all(connection).await
}

/// Whether it says nothing of the table: it takes too long, is locked, needs what this host doesn't have.
fn is_hosts(error: &sqlx::Error) -> bool {
    let is_limit = matches!(code(error).as_deref(), Some(TOOK_TOO_LONG | LOCKED));
    is_limit || lacks_library(error) || is_short(error)
}
