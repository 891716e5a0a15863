//! Collations: an index that was sorted by another version of one can't be searched with this one.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, Status};

use super::ask::said;

/// A version of a database's own collation is kept since then.
const KEPT_SINCE: u16 = 15;
const OWN: &str = "SELECT 'default'::text, d.datcollversion, pg_catalog.pg_database_collation_actual_version(d.oid) \
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
const OF_INDEXES: &str = "SELECT DISTINCT n.nspname || '.' || c.collname, c.collversion, \
    pg_catalog.pg_collation_actual_version(c.oid) FROM pg_catalog.pg_index i \
    CROSS JOIN LATERAL pg_catalog.unnest(i.indcollation::oid[]) AS used(oid) \
    JOIN pg_catalog.pg_collation c ON c.oid = used.oid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE c.collversion IS NOT NULL ORDER BY 1";

/// Name, the version that indexes were sorted by, the version that this machine has.
type Row = (String, Option<String>, Option<String>);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) versions: BTreeMap<String, String>,
    pub(super) fixes: Vec<String>,
    unknown: Vec<String>,
}

impl Seen {
    pub(super) fn finding(&self) -> Finding {
        let name = "collations have the versions that indexes were sorted by";
        let finding = |status| Finding::new(LEVEL_LOGICAL, "postgres.collations", name, status);
        if !self.fixes.is_empty() {
            return finding(Status::Warned).why(self.fixes.join("; "));
        }
        if !self.unknown.is_empty() {
            return finding(Status::NotRun).why(self.unknown.join("; "));
        }
        finding(Status::Passed).actual(format!("{} versions", self.versions.len()))
    }

    fn take(&mut self, database: &str, (name, sorted_by, here): Row) {
        let Some(here) = here else {
            return;
        };
        if let Some(sorted_by) = sorted_by.filter(|version| *version != here) {
            self.fixes.push(format!(
                "reindex database {database}: collation {name} had version {sorted_by} at the source and has {here} here"
            ));
        }
        self.versions.insert(format!("{database}.{name}"), here);
    }
}

/// Looks at the collations that a database's indexes use.
pub(super) async fn look(
    connection: &mut PgConnection,
    database: &str,
    major: u16,
    seen: &mut Seen,
) {
    if major >= KEPT_SINCE {
        ask(connection, OWN, database, seen).await;
    }
    ask(connection, OF_INDEXES, database, seen).await;
}

async fn ask(
    connection: &mut PgConnection,
    question: &'static str,
    database: &str,
    seen: &mut Seen,
) {
    let rows: Result<Vec<Row>, sqlx::Error> = sqlx::query_as(question).fetch_all(connection).await;
    match rows {
        Ok(rows) => {
            for row in rows {
                seen.take(database, row);
            }
        }
        Err(error) => seen.unknown.push(format!("{database}: {}", said(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sorted_by: Option<&str>, here: Option<&str>) -> Row {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ("default".to_owned(), owned(sorted_by), owned(here))
    }

    #[test]
    fn another_version_here_needs_a_fix_that_is_told() {
        let mut seen = Seen::default();
        seen.take("app", row(Some("2.36"), Some("2.36")));
        seen.take("app", row(None, Some("2.36")));
        seen.take("app", row(None, None));
        assert_eq!(seen.finding().status, Status::Passed);
        seen.take("app", row(Some("2.31"), Some("2.36")));
        assert_eq!(seen.finding().status, Status::Warned);
        assert_eq!(seen.fixes.len(), 1);
        assert!(
            seen.fixes[0].starts_with("reindex database app"),
            "{:?}",
            seen.fixes
        );
    }
}
