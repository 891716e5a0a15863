//! The user's own statements: each answers one value, and can do nothing else.
//!
//! The authorizer refuses, while a statement is prepared, everything but reading and computing: no
//! write, no PRAGMA, no ATTACH, no function that reads files or loads code.

use std::collections::BTreeMap;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode};
use tidemark_engine::examine::{Statement, as_recorded, told};

use super::Timer;

/// Functions that reach beyond the database.
const FUNCTIONS_REFUSED: &[&str] = &[
    "load_extension",
    "fts3_tokenizer",
    "readfile",
    "writefile",
    "edit",
    "sqlite_source_id",
];

const TOO_LONG: &str = "it took longer than it may";

/// From now on the connection only reads.
pub(super) fn restrict(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    connection.authorizer(Some(|context: AuthContext<'_>| judge(&context.action)))
}

fn judge(action: &AuthAction<'_>) -> Authorization {
    match action {
        AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => {
            Authorization::Allow
        }
        AuthAction::Function { function_name } => {
            let refused = FUNCTIONS_REFUSED
                .iter()
                .any(|name| function_name.eq_ignore_ascii_case(name));
            if refused {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }
        // A full-text index asks for it by itself. It is a number.
        AuthAction::Pragma {
            pragma_name: "data_version",
            pragma_value: None,
        } => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

/// Asks every statement.
pub(super) fn all(
    statements: &[Statement],
    (connection, timer): &(Connection, Timer),
) -> BTreeMap<String, Result<String, String>> {
    statements
        .iter()
        .map(|statement| {
            let answer = timer.limited(|| one(connection, &statement.sql));
            (statement.id.clone(), answer)
        })
        .collect()
}

fn one(connection: &Connection, sql: &str) -> Result<String, String> {
    let mut batch = Batch::new(connection, sql);
    let first = batch.next().map_err(|error| refused(&error))?;
    let mut statement = first.ok_or_else(|| "there is no statement".to_owned())?;
    if batch.next().map_err(|error| refused(&error))?.is_some() {
        return Err("it must be one statement, and is several".to_owned());
    }
    if statement.column_count() != 1 || !statement.readonly() {
        return Err(format!(
            "it must answer one value, and has {} columns",
            statement.column_count()
        ));
    }
    let failed = |error: rusqlite::Error| failed(&error);
    let mut rows = statement.query([]).map_err(failed)?;
    let value = match rows.next().map_err(failed)? {
        Some(row) => text(row.get_ref(0).map_err(failed)?),
        None => return Err("it answered no row".to_owned()),
    };
    match rows.next().map_err(failed)? {
        Some(_) => Err("it answered more than one row".to_owned()),
        None => Ok(as_recorded(&value)),
    }
}

/// Why a statement can't be run. No row has been read by then: it speaks of the statement and the schema.
fn refused(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => TOO_LONG.to_owned(),
        Some(ErrorCode::AuthorizationForStatementDenied) => {
            "it does more than to read, which is refused".to_owned()
        }
        _ => told(&error.to_string()),
    }
}

/// Why a statement that ran came to nothing. Functions quote in their words what they were given.
fn failed(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => TOO_LONG.to_owned(),
        Some(ErrorCode::AuthorizationForStatementDenied) => {
            "it does more than to read, which is refused".to_owned()
        }
        Some(ErrorCode::OutOfMemory) => "it needs more memory than it may have".to_owned(),
        Some(ErrorCode::TooBig) => "a value of it is larger than SQLite holds".to_owned(),
        Some(ErrorCode::DatabaseCorrupt) => "the database is damaged there".to_owned(),
        Some(code) => format!("error {code:?}, whose text may hold values and is not kept"),
        None => "an error whose text may hold values and is not kept".to_owned(),
    }
}

fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "null".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Blob(bytes) => format!("x'{}'", Hex(bytes)),
    }
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
