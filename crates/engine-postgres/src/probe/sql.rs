//! The questions themselves, by sqlx: one connection, a handful of statements, no pool.

use std::collections::BTreeMap;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::{CanaryPlace, Server, SlotState};
use crate::capture::server::only;
use crate::conninfo::{Address, ConnInfo, Roots, SslMode};
use crate::wire::{Connection, Mode};

/// What [`super::judge`] wants to know; a server that lacks one doesn't list it.
const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (\
    'cluster_name', 'data_checksums', 'data_directory', 'fsync', 'full_page_writes', 'idle_replication_slot_timeout', \
    'max_replication_slots', 'max_slot_wal_keep_size', 'max_wal_senders', 'server_version', \
    'server_version_num', 'synchronous_commit', 'synchronous_standby_names', 'wal_level', \
    'wal_sender_timeout')";

const ROLE: &str = "SELECT r.rolname::text, r.rolsuper, r.rolreplication, \
    pg_catalog.pg_has_role(r.oid, 'pg_monitor', 'MEMBER'), pg_catalog.pg_is_in_recovery(), \
    pg_catalog.current_database()::text, (SELECT coalesce(bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')), false) \
    FROM pg_catalog.pg_proc p WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.pronargs > 0 \
    AND p.proname IN ('pg_backup_start', 'pg_backup_stop', 'pg_start_backup', 'pg_stop_backup')) \
    FROM pg_catalog.pg_roles r WHERE r.rolname = current_user";

const COUNTS: &str = "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
    (SELECT count(*) FROM pg_catalog.pg_replication_slots)";

/// What a column of later versions holds is read through JSON: older ones have no such key.
const SLOT: &str = "SELECT s.slot_type::text, s.active, s.wal_status::text, \
    pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::int8, \
    to_jsonb(s) ->> 'invalidation_reason' \
    FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";

const SIZE: &str = "SELECT sum(pg_catalog.pg_database_size(d.oid))::int8 FROM pg_catalog.pg_database d \
    WHERE d.datallowconn AND (pg_catalog.has_database_privilege(d.oid, 'CONNECT') \
    OR pg_catalog.pg_has_role('pg_read_all_stats', 'MEMBER'))";

/// By the catalogs: a schema that the role may not use would refuse to be looked up by name.
const CANARY: &str = "SELECT \
    (SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
    AND pg_catalog.has_table_privilege(c.oid, 'INSERT') AND pg_catalog.has_table_privilege(c.oid, 'DELETE') \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = 'tidemark' AND c.relname = 'canary' AND c.relkind = 'r'), \
    (SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_schema_privilege(n.oid, 'CREATE') \
    FROM pg_catalog.pg_namespace n WHERE n.nspname = 'tidemark'), \
    pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')";

/// The oldest segment of log: who lacks `pg_monitor` may not list them.
const OLDEST_LOG: &str = "SELECT min(pg_catalog.substr(name, 9)) FROM pg_catalog.pg_ls_waldir() \
    WHERE name ~ '^[0-9A-F]{24}$'";

/// Asks the server at `peer`, or the first that answers, everything about itself.
pub(super) async fn ask(
    info: &ConnInfo,
    peer: Option<&str>,
    slot: &str,
) -> Result<Server, sqlx::Error> {
    let mut connection = connect(info, peer).await?;
    let settings: BTreeMap<String, String> = sqlx::query_as(SETTINGS)
        .fetch_all(&mut connection)
        .await?
        .into_iter()
        .collect();
    let role = sqlx::query(ROLE).fetch_one(&mut connection).await?;
    let counts = sqlx::query(COUNTS).fetch_one(&mut connection).await?;
    let found = sqlx::query(SLOT)
        .bind(slot)
        .fetch_optional(&mut connection)
        .await?;
    // A size that can't be had is no reason to know nothing.
    let size = sqlx::query_scalar::<_, Option<i64>>(SIZE)
        .fetch_one(&mut connection)
        .await;
    let oldest_log = oldest_log(&mut connection).await;
    let canary = sqlx::query(CANARY).fetch_one(&mut connection).await?;
    drop(connection.close().await);
    let text = |name: &str| settings.get(name).cloned().unwrap_or_default();
    let number: u32 = text("server_version_num").parse().unwrap_or(0);
    Ok(Server {
        version: text("server_version"),
        major: u16::try_from(number / 10_000).unwrap_or(0),
        cluster_name: text("cluster_name"),
        database: role.try_get(5)?,
        user: role.try_get(0)?,
        is_superuser: role.try_get(1)?,
        may_replicate: role.try_get(2)?,
        monitors: role.try_get(3)?,
        is_standby: role.try_get(4)?,
        may_back_up: role.try_get(6)?,
        data_folder: None,
        senders: unsigned(counts.try_get(0)?).unwrap_or(0),
        slots: unsigned(counts.try_get(1)?).unwrap_or(0),
        slot: found.map(|row| slot_state(&row)).transpose()?,
        database_bytes: size.ok().and_then(unsigned),
        oldest_log,
        is_here: false,
        canary: CanaryPlace {
            table: canary.try_get(0)?,
            schema: canary.try_get(1)?,
            may_make_schema: canary.try_get(2)?,
        },
        settings,
    })
}

/// The slot on one server, if it is there.
pub(super) async fn slot_at(
    info: &ConnInfo,
    address: &Address,
    slot: &str,
) -> Result<Option<SlotState>, sqlx::Error> {
    let found = slot_and_log_at(info, address, slot).await;
    found.map(|(slot, _oldest_log)| slot)
}

/// The slot on one server, if it is there, and the oldest segment of its log, if that may be known.
pub(super) async fn slot_and_log_at(
    info: &ConnInfo,
    address: &Address,
    slot: &str,
) -> Result<(Option<SlotState>, Option<String>), sqlx::Error> {
    let mut connection = connect_to(info, address).await?;
    let found = sqlx::query(SLOT)
        .bind(slot)
        .fetch_optional(&mut connection)
        .await?;
    let oldest_log = oldest_log(&mut connection).await;
    drop(connection.close().await);
    let state = found.map(|row| slot_state(&row)).transpose()?;
    Ok((state, oldest_log))
}

async fn oldest_log(connection: &mut PgConnection) -> Option<String> {
    let asked = sqlx::query_scalar::<_, Option<String>>(OLDEST_LOG).fetch_one(connection);
    asked.await.ok().flatten()
}

/// The code of what a server refused with.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?;
    Some(code.into_owned())
}

fn slot_state(row: &sqlx::postgres::PgRow) -> Result<SlotState, sqlx::Error> {
    Ok(SlotState {
        kind: row.try_get(0)?,
        is_active: row.try_get(1)?,
        wal_status: row.try_get(2)?,
        held_bytes: unsigned(row.try_get(3)?),
        invalidation: row.try_get(4)?,
    })
}

fn unsigned(number: Option<i64>) -> Option<u64> {
    u64::try_from(number?).ok()
}

/// Connects to the address that is called `peer`, or to the first that answers.
async fn connect(info: &ConnInfo, peer: Option<&str>) -> Result<PgConnection, sqlx::Error> {
    let wanted = |address: &&Address| peer.is_none_or(|peer| address.to_string() == peer);
    let mut last = None;
    for address in info.addresses.iter().filter(wanted) {
        match connect_to(info, address).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(sqlx::Error::PoolClosed))
}

/// Connects to one server. Where TLS is left to chance our own connection goes first, which sends no
/// password in clear text; it says whether there is TLS.
async fn connect_to(info: &ConnInfo, address: &Address) -> Result<PgConnection, sqlx::Error> {
    let mut options = options(info, address);
    if info.leaves_tls_to_chance(address) {
        let alone = only(info.clone(), &address.to_string());
        let opened = Connection::open(&alone, Mode::Sql).await;
        let first = opened.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        if first.is_encrypted() {
            options = options.ssl_mode(PgSslMode::Require);
        }
        first.close().await;
    }
    options.connect().await
}

/// Our connection string in sqlx's words. What it read from the environment itself is overwritten:
/// ours has been read already.
fn options(info: &ConnInfo, address: &Address) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .port(address.port())
        .username(&info.user)
        .database(&info.database)
        .application_name("tidemark-probe")
        .ssl_mode(ssl_mode(info.ssl));
    options = match address {
        Address::Tcp { host, at, .. } => match at {
            Some(at) if info.ssl != SslMode::VerifyFull => options.host(&at.to_string()),
            _ => options.host(host),
        },
        Address::Unix { folder, .. } => options.socket(folder),
    };
    if let Some(password) = info.password_for(address) {
        options = options.password(password.reveal());
    }
    if let Some(Roots::File(path)) = &info.roots {
        options = options.ssl_root_cert(path);
    }
    if let Some((certificate, key)) = &info.client_certificate {
        options = options.ssl_client_cert(certificate).ssl_client_key(key);
    }
    options
}

const fn ssl_mode(mode: SslMode) -> PgSslMode {
    match mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Allow => PgSslMode::Allow,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    }
}
