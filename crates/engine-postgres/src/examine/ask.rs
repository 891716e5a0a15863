//! Asking: connections to the private socket, and the order of the questions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tidemark_engine::examine::{
    Finding, LEVEL_LOGICAL, LEVEL_REPLAY, Statement, Status, as_recorded, told,
};
use tidemark_format::Hash;

use super::error::ExamineError;
use super::{Bench, Visit, collations, forced, indexes, schema, tables};
use crate::canary;
use crate::restore::sandbox::{Asked, PORT};
use crate::wire::quote_identifier;

/// What the role is called that asks in the user's name.
const READER: &str = "tidemark_sandbox_reader";
/// Everything of a row, whatever its policies say, and nothing beside.
const POWERS: &str =
    "LOGIN BYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD NULL";
/// What clusters call the role that owns them, as a rule.
const USUAL_ROLE: &str = "postgres";
/// A prepared transaction may hold a lock for ever.
const LOCK_SECONDS: u32 = 10;
/// The codes of "no such role", "may not log in", and of a role that is no superuser.
const NO_SUCH_ROLE: [&str; 3] = ["28000", "28P01", "42501"];
/// The code of "canceled": by the limit.
pub(super) const TOOK_TOO_LONG: &str = "57014";
/// The code of "no such file", whichever: a library, or a part of a table.
const NO_SUCH_FILE: &str = "58P01";
/// What a server says of a library. Of its own files it says that it can't open them.
const LIBRARY: &str = "could not access file";
/// The class of what this host is short of: disk, memory, connections.
const SHORT_OF: &str = "53";
/// The code of "no such database".
const NO_SUCH_DATABASE: &str = "3D000";

/// All but the one that is a template for others and that nobody ever connects to.
const DATABASES: &str = "SELECT datname::text, datconnlimit = -2, pg_catalog.pg_database_size(oid)::int8, datallowconn \
    FROM pg_catalog.pg_database WHERE datallowconn OR NOT (datistemplate AND datname = 'template0') \
    ORDER BY datname COLLATE \"C\"";
const OWN_SETTINGS: &str = "SELECT coalesce(d.datname::text, '*'), coalesce(r.rolname::text, '*'), \
    array_to_string(s.setconfig, E'\\n') FROM pg_catalog.pg_db_role_setting s \
    LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole ORDER BY 1, 2";
const SUBSCRIPTIONS: &str = "SELECT subname::text, subconninfo FROM pg_catalog.pg_subscription \
    WHERE subenabled ORDER BY 1";
const PREPARED: &str = "SELECT gid FROM pg_catalog.pg_prepared_xacts ORDER BY gid COLLATE \"C\"";

/// How to reach the server.
#[derive(Debug, Clone)]
pub(super) struct Way {
    socket: PathBuf,
    role: String,
    limit: u32,
}

impl Way {
    fn options(socket: &Path, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(socket)
            .port(PORT)
            .username(role)
            .database(database)
            .application_name("tidemark-sandbox")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
    }

    /// As the role that owns everything. What a connection brings along overrides what the database and
    /// the role have set for themselves.
    pub(super) async fn owner(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        Self::options(&self.socket, &self.role, database)
            .options(self.limits())
            .options([
                ("session_preload_libraries", ""),
                ("search_path", "pg_catalog"),
                ("row_security", "off"),
            ])
            .connect()
            .await
    }

    /// As a role that reads and does nothing else.
    async fn reader(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        Self::options(&self.socket, READER, database)
            .options(self.limits())
            .connect()
            .await
    }

    fn limits(&self) -> Vec<(&'static str, String)> {
        vec![
            ("default_transaction_read_only", "on".to_owned()),
            ("local_preload_libraries", String::new()),
            ("statement_timeout", format!("{}s", self.limit)),
            ("lock_timeout", format!("{LOCK_SECONDS}s")),
            ("idle_in_transaction_session_timeout", "1h".to_owned()),
            ("client_min_messages", "error".to_owned()),
        ]
    }
}

/// The role that owns the cluster, if it has its usual name.
pub(super) async fn first_role(socket: &Path) -> Result<Option<String>, ExamineError> {
    for database in ["postgres", "template1"] {
        // Libraries that the database or the role wants may not be here.
        let options = Way::options(socket, USUAL_ROLE, database).options([
            ("session_preload_libraries", ""),
            ("local_preload_libraries", ""),
        ]);
        match options.connect().await {
            Ok(mut connection) => {
                let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
                let is_super: bool = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
                drop(connection.close().await);
                return Ok(is_super.then(|| USUAL_ROLE.to_owned()));
            }
            Err(error) => match code(&error).as_deref() {
                Some(code) if NO_SUCH_ROLE.contains(&code) => return Ok(None),
                Some(NO_SUCH_DATABASE) => {}
                _ => return Err(error.into()),
            },
        }
    }
    Ok(None)
}

/// The server's code of an error.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    let database = error.as_database_error()?;
    Some(database.code()?.into_owned())
}

/// Whether a library of an extension's is missing on this host.
pub(super) fn lacks_library(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    database.is_some_and(|error| {
        error.code().as_deref() == Some(NO_SUCH_FILE) && error.message().starts_with(LIBRARY)
    })
}

/// Whether it is this host that is short of something.
pub(super) fn is_short(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with(SHORT_OF))
}

/// What a server said, without what it adds in detail, and without anything that may hold values.
pub(super) fn said(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(error) => kept(error.code().as_deref(), error.message()),
        None => told(&error.to_string()),
    }
}

/// Classes of errors whose texts name objects, pages and limits, never what is in a row.
const NAMES_ONLY: [&str; 10] = ["0A", "25", "28", "3D", "3F", "42", "53", "55", "57", "58"];

fn kept(code: Option<&str>, message: &str) -> String {
    let code = code.unwrap_or("unknown");
    let class = code.get(..2).unwrap_or_default();
    if class == "XX" || NAMES_ONLY.contains(&class) {
        return told(message);
    }
    format!("error {code}, whose text may hold values and is not kept")
}

/// A database that can be asked.
#[derive(Debug, Clone)]
struct Database {
    name: String,
    broken: bool,
    bytes: u64,
    /// Whether anybody may connect at the source.
    open: bool,
}

impl Visit<'_> {
    /// Asks everything of a server that runs.
    pub(super) async fn all(
        &mut self,
        bench: &mut Bench,
        server: &Asked,
        role: &str,
    ) -> Result<(), ExamineError> {
        let way = Way {
            socket: server.socket(),
            role: role.to_owned(),
            limit: self.limit,
        };
        let mut connection = match way.owner("postgres").await {
            Err(error) if code(&error).as_deref() == Some(NO_SUCH_DATABASE) => {
                way.owner("template1").await?
            }
            connection => connection?,
        };
        self.settings(bench, &mut connection).await?;
        let databases = databases(bench, &mut connection).await?;
        self.inside(bench, &mut connection).await?;
        let_in(&mut connection, &databases).await?;
        make_reader(&mut connection, &databases).await?;
        drop(connection.close().await);
        self.visit(bench, &way, &databases).await?;
        self.canary(bench);
        self.statements(bench, &way).await;
        Ok(())
    }

    /// What is in force, and that it is what was forced.
    async fn settings(
        &self,
        bench: &mut Bench,
        connection: &mut PgConnection,
    ) -> Result<(), ExamineError> {
        let began = bench.now();
        let names: Vec<String> = self.forced.iter().map(|(name, _)| name.clone()).collect();
        let sql = "SELECT name, setting FROM pg_catalog.pg_settings \
            WHERE name = ANY($1) OR name IN ('server_version', 'data_checksums', 'statement_timeout')";
        let in_force: BTreeMap<String, String> = sqlx::query_as(sql)
            .bind(names)
            .fetch_all(connection)
            .await?
            .into_iter()
            .collect();
        let finding = forced::compare(self.forced, &in_force);
        let version = in_force.get("server_version").cloned().unwrap_or_default();
        bench.examined.server = Some(format!("PostgreSQL {version}"));
        bench.examined.settings = in_force;
        let took = bench.since(began);
        bench.examined.findings.push(finding.took(took));
        Ok(())
    }

    /// What lies inside the cluster and would act or connect: told, and switched off for whoever asks next.
    async fn inside(
        &mut self,
        bench: &mut Bench,
        connection: &mut PgConnection,
    ) -> Result<(), ExamineError> {
        let own: Vec<(String, String, Option<String>)> = sqlx::query_as(OWN_SETTINGS)
            .fetch_all(&mut *connection)
            .await?;
        for (database, role, settings) in own {
            let place = format!("database {database}, role {role}");
            for line in settings.unwrap_or_default().lines() {
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                self.left.push(&place, name, value, false);
            }
        }
        let subscriptions: Vec<(String, String)> = sqlx::query_as(SUBSCRIPTIONS)
            .fetch_all(&mut *connection)
            .await?;
        for (name, connects_to) in subscriptions {
            self.left.push("subscription", &name, &connects_to, true);
        }
        let gids: Vec<String> = sqlx::query_scalar(PREPARED)
            .fetch_all(&mut *connection)
            .await?;
        let digest = |gid: &String| format!("blake3:{}", Hash::of(gid.as_bytes()));
        bench.examined.prepared = gids.iter().map(digest).collect();
        bench.note(|bench| prepared(bench.examined.prepared.len()));
        bench.examined.left_over = self.left.found.clone();
        bench.note(|_| self.left.finding());
        let forget = "BEGIN READ WRITE; DELETE FROM pg_catalog.pg_db_role_setting; COMMIT";
        sqlx::raw_sql(forget).execute(connection).await?;
        Ok(())
    }

    async fn visit(
        &self,
        bench: &mut Bench,
        way: &Way,
        databases: &[Database],
    ) -> Result<(), ExamineError> {
        let mut all = All::default();
        let mut unseen = Vec::new();
        for database in databases.iter().filter(|database| !database.broken) {
            bench.check()?;
            let name = database.name.as_str();
            let mut connection = match way.owner(name).await {
                Ok(connection) => connection,
                // The server refuses this one; it can be asked all the same.
                Err(error) if error.as_database_error().is_some() => {
                    unseen.push(format!("{name}: {}", said(&error)));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            schema::lines(&mut connection, name, &mut all.schema).await;
            collations::look(&mut connection, name, self.major, &mut all.collations).await;
            let (full, clock) = (self.questions.full, bench.clock.as_ref());
            tokio::join!(
                indexes::check(&mut connection, name, full, clock, &mut all.checked),
                self.count(way, name, &mut all.counted),
            );
            if self.questions.canary && bench.examined.canary.is_none() {
                bench.examined.canary = read_canary(&mut connection).await?;
            }
            drop(connection.close().await);
        }
        bench.note(|_| connected(databases, &unseen));
        let counts = self.questions.counts;
        all.tell(bench, counts, self.questions.full);
        Ok(())
    }

    /// Rows, by a connection of its own: checking indexes takes longer, and there is more than one core.
    async fn count(&self, way: &Way, database: &str, counted: &mut tables::Counted) {
        if !self.questions.counts {
            return;
        }
        match way.owner(database).await {
            Ok(mut connection) => {
                tables::count(&mut connection, database, counted).await;
                drop(connection.close().await);
            }
            Err(error) => counted.unasked(database, &error),
        }
    }

    fn canary(&self, bench: &mut Bench) {
        if !self.questions.canary {
            return;
        }
        if bench.examined.canary.is_none() {
            // No table: then it is a message in the log, which was read before it was replayed.
            bench.examined.canary = self.goal.and_then(|goal| goal.canary.clone());
        }
        let finding = |status| {
            Finding::new(
                LEVEL_REPLAY,
                "canary",
                "the newest canary is there, and none after it",
                status,
            )
        };
        let found = match &bench.examined.canary {
            Some(seen) => {
                let status = if seen.next_absent {
                    Status::Passed
                } else {
                    Status::Failed
                };
                finding(status).actual(format!(
                    "number {} of {}, {} rows",
                    seen.seq, seen.at, seen.rows
                ))
            }
            None => finding(Status::Failed).why("the restored cluster holds no canary"),
        };
        bench.examined.findings.push(found);
    }

    async fn statements(&self, bench: &mut Bench, way: &Way) {
        for statement in &self.questions.statements {
            let answer = answer(way, statement).await;
            bench.examined.answers.insert(statement.id.clone(), answer);
        }
    }
}

/// What all databases together have to tell.
#[derive(Default)]
struct All {
    schema: schema::Lines,
    collations: collations::Seen,
    counted: tables::Counted,
    checked: indexes::Checked,
}

impl All {
    fn tell(self, bench: &mut Bench, counts: bool, full: bool) {
        let (finding, digest) = self.schema.finding();
        bench.examined.schema_digest = digest;
        bench.examined.findings.push(finding);
        bench.examined.findings.push(self.collations.finding());
        bench.examined.fixes.extend(self.collations.fixes);
        bench.examined.collations = self.collations.versions;
        if counts {
            bench.examined.findings.push(self.counted.finding());
            bench.examined.findings.extend(self.counted.emptied());
            bench.examined.counts = self.counted.rows;
        }
        bench.examined.findings.extend(self.checked.findings(full));
    }
}

async fn databases(
    bench: &mut Bench,
    connection: &mut PgConnection,
) -> Result<Vec<Database>, ExamineError> {
    let rows = sqlx::query(DATABASES).fetch_all(connection).await?;
    let mut found = Vec::new();
    for row in rows {
        found.push(Database {
            name: row.try_get(0)?,
            broken: row.try_get(1)?,
            bytes: u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0),
            open: row.try_get(3)?,
        });
    }
    bench.examined.size_bytes = found.iter().map(|database| database.bytes).sum();
    Ok(found)
}

/// Whether every database could be looked into.
fn connected(databases: &[Database], unseen: &[String]) -> Finding {
    let name = "every database can be connected to";
    let finding = |status| Finding::new(LEVEL_LOGICAL, "postgres.databases", name, status);
    if !unseen.is_empty() {
        return finding(Status::Failed).why(unseen.join("; "));
    }
    let names = |wanted: fn(&&Database) -> bool| -> Vec<&str> {
        let own = databases.iter().filter(wanted);
        own.map(|database| database.name.as_str()).collect()
    };
    let broken = names(|database| database.broken);
    if !broken.is_empty() {
        return finding(Status::Warned).why(format!(
            "an interrupted DROP DATABASE left {}: drop them",
            broken.join(", ")
        ));
    }
    let finding = finding(Status::Passed).actual(databases.len().to_string());
    let closed = names(|database| !database.open);
    if closed.is_empty() {
        return finding;
    }
    finding.why(format!(
        "closed to everybody at the source, and opened in here only: {}",
        closed.join(", ")
    ))
}

/// Opens what is closed to everybody: here nobody else is.
async fn let_in(connection: &mut PgConnection, databases: &[Database]) -> Result<(), ExamineError> {
    let closed = databases
        .iter()
        .filter(|database| !database.open && !database.broken);
    for database in closed {
        let name = quote_identifier(&database.name);
        let sql = format!("BEGIN READ WRITE; ALTER DATABASE {name} ALLOW_CONNECTIONS true; COMMIT");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn prepared(count: usize) -> Finding {
    let finding = Finding::new(
        LEVEL_LOGICAL,
        "postgres.prepared",
        "transactions that stand prepared and wait for their coordinator",
        Status::Recorded,
    )
    .actual(count.to_string());
    if count == 0 {
        return finding;
    }
    finding.why("they hold their locks until they are committed or rolled back, as at the source")
}

/// Makes the role that asks in the user's name. The directory is thrown away, and the role with it.
async fn make_reader(
    connection: &mut PgConnection,
    databases: &[Database],
) -> Result<(), ExamineError> {
    let there: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = $1")
            .bind(READER)
            .fetch_one(&mut *connection)
            .await?;
    // One of this name has the powers of ours from now on, and no others.
    let verb = if there == 0 { "CREATE" } else { "ALTER" };
    let mut sql = format!(
        "BEGIN READ WRITE; {verb} ROLE {READER} {POWERS}; GRANT pg_read_all_data TO {READER};"
    );
    for database in databases.iter().filter(|database| !database.broken) {
        let name = quote_identifier(&database.name);
        sql.push_str(&format!(" GRANT CONNECT ON DATABASE {name} TO {READER};"));
    }
    sql.push_str(" COMMIT");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await?;
    Ok(())
}

async fn read_canary(
    connection: &mut PgConnection,
) -> Result<Option<tidemark_engine::examine::CanarySeen>, ExamineError> {
    let is_there: bool = sqlx::query_scalar(canary::IS_THERE)
        .fetch_one(&mut *connection)
        .await?;
    if !is_there {
        return Ok(None);
    }
    let rows: Vec<(String, String)> = sqlx::query_as(canary::ALL).fetch_all(connection).await?;
    let texts = rows.iter().map(|(seq, at)| (seq.as_str(), at.as_str()));
    Ok(canary::seen(texts))
}

/// One value of one statement, asked as a role that can only read, in a transaction that can't write.
async fn answer(way: &Way, statement: &Statement) -> Result<String, String> {
    let database = statement.database.as_deref().unwrap_or("postgres");
    let mut connection = way
        .reader(database)
        .await
        .map_err(|error| format!("database {database}: {}", said(&error)))?;
    let sql = statement.sql.trim().trim_end_matches(';');
    // One statement of one column: anything else is refused by the parser. A comment ends with its line.
    let sql = format!(
        "WITH q AS MATERIALIZED (\n{sql}\n) SELECT (SELECT pg_catalog.count(*) FROM q), (TABLE q LIMIT 1)::text"
    );
    let asked = async {
        sqlx::raw_sql("BEGIN READ ONLY")
            .execute(&mut connection)
            .await?;
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await?;
        Ok::<_, sqlx::Error>((
            row.try_get::<i64, _>(0)?,
            row.try_get::<Option<String>, _>(1)?,
        ))
    };
    let answered = asked.await;
    drop(connection.close().await);
    match answered {
        Ok((1, value)) => Ok(as_recorded(value.as_deref().unwrap_or("null"))),
        Ok((0, _)) => Err("it answered no row".to_owned()),
        Ok(_) => Err("it answered more than one row".to_owned()),
        Err(error) if code(&error).as_deref() == Some(TOOK_TOO_LONG) => {
            Err("it took longer than it may".to_owned())
        }
        Err(error) => Err(said(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_may_hold_values_is_not_kept() {
        assert_eq!(
            kept(Some("42P01"), "relation \"t\" does not exist"),
            "relation \"t\" does not exist"
        );
        assert_eq!(
            kept(Some("XX001"), "invalid page in block 3"),
            "invalid page in block 3"
        );
        for code in ["22P02", "23505", "P0001"] {
            let said = kept(Some(code), "invalid input syntax: \"anna@example.org\"");
            assert!(said.contains(code) && !said.contains("anna"), "{said}");
        }
    }
}
