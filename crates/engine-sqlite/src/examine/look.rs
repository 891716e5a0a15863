//! The checks themselves, one function each.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tidemark_engine::examine::{Finding, LEVEL_LOGICAL, LEVEL_MATERIALISE, Status};

use crate::error::SqliteError;
use crate::files::DatabaseHeader;

/// Complaints of `integrity_check` that are asked for: the first ones name the damage.
const COMPLAINTS_MAX: u32 = 20;
/// Read at once while the whole file is hashed.
const READ_BYTES: usize = 1 << 20;
/// Kinds of b-tree pages, as the first byte of one says.
const TREE_PAGES: [u8; 4] = [2, 5, 10, 13];

const TABLES: &str = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' \
    AND type IN ('table', 'virtual') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'tidemark_canary' ORDER BY name";
/// Canaries come and go with a setting of the agent's: they are no part of the application's schema.
const SCHEMA: &str = "SELECT type, name, tbl_name, coalesce(sql, '') FROM main.sqlite_schema \
    WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'tidemark_canary' ORDER BY type, name, tbl_name";
const COLLATIONS: &str = "SELECT DISTINCT x.coll FROM main.sqlite_schema AS t, \
    pragma_index_list(t.name) AS l, pragma_index_xinfo(l.name) AS x \
    WHERE t.type = 'table' AND x.coll IS NOT NULL";
const FOREIGN_KEYS: &str = "SELECT \"table\", count(*) FROM pragma_foreign_key_check GROUP BY 1";

/// The file as it lies on the disk: its header, its length, its first page.
pub(super) fn pages(path: &Path) -> Result<Finding, SqliteError> {
    let file = File::open(path).map_err(SqliteError::io("opening the database", path))?;
    let length = file
        .metadata()
        .map_err(SqliteError::io("measuring the database", path))?
        .len();
    let mut head = [0u8; 108];
    let no_database = || SqliteError::NotADatabase {
        path: path.to_path_buf(),
    };
    file.read_exact_at(&mut head, 0)
        .map_err(|_short| no_database())?;
    let header = head
        .first_chunk::<100>()
        .and_then(DatabaseHeader::parse)
        .ok_or_else(no_database)?;
    let be32 = |at: usize| {
        let bytes = head.get(at..).and_then(<[u8]>::first_chunk::<4>);
        bytes.map_or(0, |four| u32::from_be_bytes(*four))
    };
    let page = u64::from(header.page_size);
    let mut wrong = Vec::new();
    if !length.is_multiple_of(page) {
        wrong.push(format!("{length} bytes are no whole number of pages"));
    }
    // The count is only kept by whoever also notes the change counter beside it.
    let told = u64::from(be32(28));
    if be32(24) == be32(92) && told > 0 && told != length / page {
        wrong.push(format!(
            "the header counts {told} pages, and {} are there",
            length / page
        ));
    }
    if !head.get(100).is_some_and(|kind| TREE_PAGES.contains(kind)) {
        wrong.push("the first page is no page of the schema".to_owned());
    }
    let status = if wrong.is_empty() {
        Status::Passed
    } else {
        Status::Failed
    };
    let finding = Finding::new(
        LEVEL_MATERIALISE,
        "sqlite.pages",
        "header, length and first page fit each other",
        status,
    )
    .actual(format!("{} pages of {page} bytes", length / page));
    Ok(if wrong.is_empty() {
        finding
    } else {
        finding.why(wrong.join("; "))
    })
}

/// BLAKE3 of the whole file, and its length.
pub(super) fn content(path: &Path) -> Result<(String, u64), SqliteError> {
    let io = || SqliteError::io("reading the database", path);
    let mut file = File::open(path).map_err(io())?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0_u64;
    loop {
        let count = file.read(&mut buffer).map_err(io())?;
        if count == 0 {
            return Ok((hasher.finalize().to_hex().to_string(), bytes));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        bytes = bytes.saturating_add(u64::try_from(count).unwrap_or(0));
    }
}

/// SQLite's own check of all structures; of indexes against their tables, too, if it is to be `full`.
pub(super) fn integrity(connection: &Connection, full: bool) -> Result<Finding, SqliteError> {
    let pragma = if full {
        "integrity_check"
    } else {
        "quick_check"
    };
    let finding = |status| {
        Finding::new(
            LEVEL_LOGICAL,
            "sqlite.integrity",
            format!("PRAGMA {pragma} finds nothing"),
            status,
        )
    };
    let lines = connection
        .prepare(&format!("PRAGMA {pragma}({COMPLAINTS_MAX})"))
        .and_then(|mut statement| {
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            lines.collect::<Result<Vec<String>, _>>()
        });
    Ok(match lines {
        Ok(lines) if lines == ["ok"] => finding(Status::Passed).compared("ok", "ok"),
        Ok(lines) => finding(Status::Failed).compared("ok", lines.join("; ")),
        Err(error) if is_foreign(&error) => finding(Status::NotRun).why(format!(
            "{error}: the application brings it, and this program has none; the pages' digest holds all the same"
        )),
        Err(error) => finding(Status::Failed).compared("ok", error.to_string()),
    })
}

/// Whether the database needs what only its application has: a collation, a function, a module.
fn is_foreign(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    [
        "no such collation",
        "no such module",
        "no such function",
        "unknown tokenizer",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// Rows that refer to none. SQLite only keeps that for whoever asks for it, so it may be as it was.
pub(super) fn foreign_keys(connection: &Connection) -> Finding {
    let finding = |status| {
        Finding::new(
            LEVEL_LOGICAL,
            "sqlite.foreign_keys",
            "every foreign key refers to a row",
            status,
        )
    };
    let found = connection.prepare(FOREIGN_KEYS).and_then(|mut statement| {
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })?;
        rows.collect::<Result<Vec<_>, _>>()
    });
    match found {
        Ok(rows) if rows.is_empty() => finding(Status::Passed).compared("0", "0"),
        Ok(rows) => {
            let total: i64 = rows.iter().map(|(_, count)| count).sum();
            let tables: Vec<String> = rows
                .iter()
                .map(|(table, count)| format!("{count} in {table}"))
                .collect();
            finding(Status::Warned)
                .compared("0", total.to_string())
                .why(format!(
                    "rows without the row that they refer to: {}",
                    tables.join(", ")
                ))
        }
        Err(error) => finding(Status::NotRun).why(error.to_string()),
    }
}

/// What came of counting rows.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) rows: BTreeMap<String, u64>,
    /// Tables that can't be read.
    broken: Vec<String>,
    /// Tables that only the application can read, or that take too long.
    left: Vec<String>,
}

impl Counted {
    pub(super) const fn status(&self) -> Status {
        match (self.broken.is_empty(), self.left.is_empty()) {
            (false, _) => Status::Failed,
            (true, false) => Status::Warned,
            (true, true) => Status::Passed,
        }
    }

    pub(super) fn complaint(&self, limit: Duration) -> Option<String> {
        if !self.broken.is_empty() {
            return Some(format!("can't be read: {}", self.broken.join("; ")));
        }
        let left = self.left.join("; ");
        let seconds = limit.as_secs();
        (!left.is_empty()).then(|| format!("not counted (the limit is {seconds} s): {left}"))
    }
}

/// Rows of every table.
pub(super) fn counts(
    connection: &Connection,
    limited: impl Fn(&dyn Fn() -> Result<i64, rusqlite::Error>) -> Result<i64, rusqlite::Error>,
) -> Counted {
    let mut counted = Counted::default();
    let tables = connection.prepare(TABLES).and_then(|mut statement| {
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        rows.collect::<Result<Vec<(String, String)>, _>>()
    });
    let tables = match tables {
        Ok(tables) => tables,
        Err(error) => {
            counted.broken.push(format!("the schema: {error}"));
            return counted;
        }
    };
    for (table, kind) in tables {
        // An index knows rows that are gone from the table behind its back.
        let scan = if kind == "table" { " NOT INDEXED" } else { "" };
        let sql = format!(
            "SELECT count(*) FROM main.\"{}\"{scan}",
            table.replace('"', "\"\"")
        );
        let count = || connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
        match limited(&count) {
            Ok(rows) => {
                counted.rows.insert(table, u64::try_from(rows).unwrap_or(0));
            }
            Err(error)
                if is_foreign(&error)
                    || error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
            {
                let why = match error.sqlite_error_code() {
                    Some(ErrorCode::OperationInterrupted) => "it took longer".to_owned(),
                    _ => error.to_string(),
                };
                counted.left.push(format!("{table} ({why})"));
            }
            Err(error) => counted.broken.push(format!("{table} ({error})")),
        }
    }
    counted
}

/// A digest over every definition, in an order of its own.
pub(super) fn schema(connection: &Connection) -> Result<String, rusqlite::Error> {
    let mut statement = connection.prepare(SCHEMA)?;
    let mut rows = statement.query([])?;
    let mut hasher = blake3::Hasher::new();
    while let Some(row) = rows.next()? {
        for column in 0..4 {
            let text: String = row.get(column)?;
            let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Collations that indexes are sorted by. SQLite's own never change; what an application brings has no
/// version that anybody but the application knows.
pub(super) fn collations(connection: &Connection) -> BTreeMap<String, String> {
    let names = connection.prepare(COLLATIONS).and_then(|mut statement| {
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.collect::<Result<Vec<String>, _>>()
    });
    let version = |name: &str| {
        let own = ["BINARY", "NOCASE", "RTRIM"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known));
        if own {
            "built in"
        } else {
            "the application's own"
        }
    };
    let names = names.unwrap_or_default();
    names
        .into_iter()
        .map(|name| (name.clone(), version(&name).to_owned()))
        .collect()
}

/// Bytes of all pages.
pub(super) fn size(connection: &Connection) -> u64 {
    let number = |name: &str| pragma(connection, name).and_then(|text| text.parse::<u64>().ok());
    let pages = number("page_count").unwrap_or(0);
    pages.saturating_mul(number("page_size").unwrap_or(0))
}

/// The value of a pragma that only tells.
pub(super) fn pragma(connection: &Connection, name: &str) -> Option<String> {
    connection
        .query_row(&format!("PRAGMA {name}"), [], |row| {
            row.get::<_, rusqlite::types::Value>(0)
        })
        .ok()
        .map(|value| match value {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        })
}
