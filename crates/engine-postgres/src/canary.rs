//! The canary on a server: rows of a table in a schema of its own, or messages in the log alone.
//!
//! The table is `tidemark.canary` in the database of the connection string; the agent makes it if its role
//! may, else [`schema_statement`] is what an administrator runs once. A message needs no table and no
//! privilege: it stands in the log only, so it is found while the log is replayed.
//!
//! **Crash consistency.** A row's number is read and written in one transaction. A message's number is noted
//! by the capture before it is sent, so it is never used again; one whose sending was interrupted is left out.

use tidemark_engine::canary::{CANARIES_KEPT, CANARY_NAME, Canary, newest};
use tidemark_engine::examine::CanarySeen;

use crate::wire::{Connection, WireError, quote_identifier, quote_literal};

/// Asks whether there is a table of canaries: one row, `there`, `t` or `f`.
pub const IS_THERE: &str = "SELECT pg_catalog.to_regclass('tidemark.canary') IS NOT NULL AS there";
/// Asks for all canaries: `seq` and `at`, as text.
pub const ALL: &str = "SELECT seq::text AS seq, at FROM tidemark.canary ORDER BY seq";

const SCHEMA_IS_THERE: &str = "SELECT pg_catalog.to_regnamespace('tidemark') IS NOT NULL AS there";
const MAKE_SCHEMA: &str = "BEGIN READ WRITE; CREATE SCHEMA tidemark; COMMIT";
const MAKE_TABLE: &str = "BEGIN READ WRITE; CREATE TABLE tidemark.canary \
    (seq bigint PRIMARY KEY, at text NOT NULL, nonce text NOT NULL); COMMIT";
/// A canary waits for nobody: not for the regions, where commits do, and not for locks.
const BEGIN: &str = "BEGIN READ WRITE; SET LOCAL synchronous_commit = local; \
    SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'; ";

/// The code of "insufficient privilege".
pub(crate) const MAY_NOT: &str = "42501";
/// The code of "others depend on it".
const STILL_USED: &str = "2BP01";

/// What an administrator runs, in the database that the agent connects to, where the role may not make
/// schemas.
#[must_use]
pub fn schema_statement(user: &str) -> String {
    format!(
        "CREATE SCHEMA IF NOT EXISTS tidemark AUTHORIZATION {};",
        quote_identifier(user)
    )
}

/// The newest canary in the database of a connection; none if there is no table of canaries in it.
///
/// # Errors
/// The connection's or the server's.
pub async fn read(connection: &mut Connection) -> Result<Option<CanarySeen>, WireError> {
    if !is_there(connection, IS_THERE).await? {
        return Ok(None);
    }
    let set = connection.query_one(ALL).await?;
    let rows = set.rows.iter();
    Ok(seen(rows.filter_map(|row| row.text(0).zip(row.text(1)))))
}

/// The newest of canaries as [`ALL`] tells them; what is none of ours is passed over.
pub fn seen<'a>(rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<CanarySeen> {
    let rows = rows.into_iter();
    let found = rows.filter_map(|(seq, at)| Some((seq.parse().ok()?, at.parse().ok()?)));
    newest(&found.collect::<Vec<_>>())
}

async fn is_there(connection: &mut Connection, question: &str) -> Result<bool, WireError> {
    let set = connection.query_one(question).await?;
    Ok(set.value("there") == Some("t"))
}

/// Makes the table if it isn't there.
pub(crate) async fn make(connection: &mut Connection) -> Result<(), WireError> {
    if is_there(connection, IS_THERE).await? {
        return Ok(());
    }
    if !is_there(connection, SCHEMA_IS_THERE).await? {
        connection.query(MAKE_SCHEMA).await?;
    }
    connection.query(MAKE_TABLE).await.map(drop)
}

/// Adds a canary to the table, and forgets the oldest; its number.
pub(crate) async fn add(connection: &mut Connection, canary: &Canary) -> Result<u64, WireError> {
    let sets = connection.query(&row_statements(canary)).await?;
    let seq = sets.iter().find_map(|set| set.value("seq"));
    seq.and_then(|seq| seq.parse().ok())
        .ok_or(WireError::Protocol("a canary was added without a number"))
}

/// Sends a canary into the log.
pub(crate) async fn send(connection: &mut Connection, canary: &Canary) -> Result<(), WireError> {
    connection
        .query(&message_statements(canary))
        .await
        .map(drop)
}

fn row_statements(canary: &Canary) -> String {
    let Canary { seq, at, nonce } = canary;
    let (at, nonce) = (quote_literal(&at.to_string()), quote_literal(nonce));
    format!(
        "{BEGIN}INSERT INTO tidemark.canary (seq, at, nonce) \
         SELECT greatest(coalesce(max(seq), 0) + 1, {seq}), {at}, {nonce} FROM tidemark.canary RETURNING seq; \
         DELETE FROM tidemark.canary WHERE seq <= (SELECT max(seq) FROM tidemark.canary) - {CANARIES_KEPT}; COMMIT"
    )
}

fn message_statements(canary: &Canary) -> String {
    let content = serde_json::to_string(canary).unwrap_or_default();
    format!(
        "{BEGIN}SELECT pg_catalog.pg_logical_emit_message(true, {}, {}); COMMIT",
        quote_literal(CANARY_NAME),
        quote_literal(&content)
    )
}

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TakenAway {
    /// There was no table.
    Nothing,
    /// Table and schema.
    Everything,
    /// The table; the schema holds other things, or belongs to somebody else.
    Table,
}

/// Takes the table away, and its schema if that is empty then.
pub(crate) async fn take_away(connection: &mut Connection) -> Result<TakenAway, WireError> {
    if !is_there(connection, IS_THERE).await? {
        return Ok(TakenAway::Nothing);
    }
    let drop_table = format!("{BEGIN}DROP TABLE tidemark.canary; COMMIT");
    connection.query(&drop_table).await?;
    // Without BEGIN: a refusal leaves no open transaction. A session that may only read would refuse.
    let drop_schema = "SET default_transaction_read_only = off; DROP SCHEMA tidemark";
    match connection.query(drop_schema).await {
        Ok(_) => Ok(TakenAway::Everything),
        Err(error) if matches!(error.code(), Some(STILL_USED | MAY_NOT)) => Ok(TakenAway::Table),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary() -> Canary {
        Canary {
            seq: 7,
            at: jiff::Timestamp::from_second(60).expect("a time"),
            nonce: "00ff".to_owned(),
        }
    }

    #[test]
    fn a_row_goes_on_from_the_table_and_never_below_the_least() {
        let sql = row_statements(&canary());
        assert!(
            sql.contains("greatest(coalesce(max(seq), 0) + 1, 7), '1970-01-01T00:01:00Z', '00ff'")
        );
        assert!(sql.contains("synchronous_commit = local"), "{sql}");
        assert!(sql.ends_with("COMMIT"));
    }

    #[test]
    fn a_message_holds_the_canary_and_nothing_else() {
        let sql = message_statements(&canary());
        let json = r#"{"seq":7,"at":"1970-01-01T00:01:00Z","nonce":"00ff"}"#;
        assert!(
            sql.contains(&format!("(true, 'tidemark_canary', '{json}')")),
            "{sql}"
        );
    }

    #[test]
    fn rows_that_are_no_canaries_are_passed_over() {
        let rows = [
            ("1", "1970-01-01T00:00:01Z"),
            ("2", "1970-01-01T00:00:02Z"),
            ("x", "1970-01-01T00:00:03Z"),
            ("4", "yesterday"),
        ];
        let seen = seen(rows).expect("two canaries");
        assert_eq!((seen.seq, seen.rows, seen.next_absent), (2, 2, true));
        assert_eq!(super::seen([]), None);
    }

    #[test]
    fn the_schema_is_made_for_the_role() {
        let sql = schema_statement("Tide mark");
        assert!(sql.ends_with("AUTHORIZATION \"Tide mark\";"), "{sql}");
    }
}
