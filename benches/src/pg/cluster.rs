//! The cluster that PostgreSQL rows are measured on: pgbench's tables, a table that doesn't compress
//! and one that compresses as prose does; the same rows every time.
//!
//! It is made once, with `--data DIR` once for all runs, as a data directory that was shut down
//! cleanly; each run copies it. The version is one that both sides support (pgBackRest of the
//! distribution stops at 15).

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};

use crate::Setting;
use crate::data::{Payload, Random};
use crate::process::run;

/// The major version.
pub(crate) const MAJOR: u16 = 15;
/// The role that agents log in as.
pub(crate) const ROLE: &str = "tidemark";
/// Bytes of pgbench's tables and indexes at scale 1, about.
const SCALE_BYTES: u64 = 15 << 20;
/// Of a cluster's bytes those that pgbench makes, in percent; blobs and prose share the rest.
const PGBENCH_PERCENT: u64 = 62;
/// Bytes that one row of the other two tables takes on its page, about.
const ROW_BYTES: u64 = 450;
/// While it is made: nothing is logged that needs not be.
const WHILE_MADE: &[(&str, &str)] = &[
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "256MB"),
    ("min_wal_size", "80MB"),
    ("maintenance_work_mem", "256MB"),
    ("autovacuum", "off"),
];
/// As on a server in use, and so that two runs do the same: no checkpoint and no vacuum begins by
/// itself in the middle of one.
const IN_USE: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("fsync", "on"),
    ("shared_buffers", "512MB"),
    ("max_wal_size", "8GB"),
    ("min_wal_size", "80MB"),
    ("checkpoint_timeout", "30min"),
    ("wal_sender_timeout", "60s"),
    ("maintenance_work_mem", "64MB"),
    ("autovacuum", "off"),
    ("listen_addresses", ""),
];

/// A running cluster with a copy of the data in a folder of its own, `settings` over those of a
/// server in use. Gone, folder and all, with the value.
pub(crate) fn start(setting: &Setting, settings: &[(&str, &str)]) -> Result<Cluster> {
    let cluster = prepare(setting, settings)?;
    cluster.start_again()?;
    Ok(cluster)
}

/// As [`start`], not running yet.
pub(crate) fn prepare(setting: &Setting, settings: &[(&str, &str)]) -> Result<Cluster> {
    let template = template(setting)?;
    let cluster = Cluster::empty(&postgres()?)?;
    run(Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(template)
        .arg(cluster.data_dir()))?;
    let socket = cluster.socket_dir().display().to_string();
    let here = [("unix_socket_directories", socket.as_str())];
    let settings = IN_USE.iter().chain(&here).chain(settings);
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(cluster.data_dir().join("postgresql.conf"))?;
    for (name, value) in settings {
        writeln!(file, "{name} = '{}'", value.replace('\'', "''"))?;
    }
    settle()?;
    Ok(cluster)
}

/// Waits until what was written is on the disk: what is measured doesn't share it with what was
/// prepared.
pub(crate) fn settle() -> Result<()> {
    run(&mut Command::new("sync")).map(drop)
}

/// How an agent reaches the cluster.
pub(crate) fn conninfo(cluster: &Cluster) -> String {
    format!(
        "host={} port={} user={ROLE} dbname=postgres",
        cluster.socket_dir().display(),
        cluster.port()
    )
}

/// How large the cluster is that rows are measured on, for their settings' text.
pub(crate) fn size(setting: &Setting) -> String {
    format!("{:.1} GB", setting.database as f64 / 1e9)
}

/// The scale of pgbench's tables: accounts are 100,000 times as many.
pub(crate) const fn scale(setting: &Setting) -> u64 {
    setting.database * PGBENCH_PERCENT / 100 / SCALE_BYTES + 1
}

/// The installed server.
pub(crate) fn postgres() -> Result<Postgres> {
    Postgres::of(MAJOR).with_context(|| format!("PostgreSQL {MAJOR} is not installed"))
}

/// The data directory that runs copy.
fn template(setting: &Setting) -> Result<PathBuf> {
    let place = setting
        .data
        .join(format!("postgres-{MAJOR}-{}", setting.database));
    if place.exists() {
        return Ok(place);
    }
    let mut options = Options::default();
    for (name, value) in WHILE_MADE {
        options = options.with(name, value);
    }
    let cluster = Cluster::start(&postgres()?, &options)?;
    fill(&cluster, setting)?;
    let bytes: u64 = cluster
        .try_sql("SELECT sum(pg_database_size(oid))::bigint FROM pg_database")?
        .parse()?;
    ensure!(
        bytes >= setting.database,
        "the cluster has only {bytes} bytes"
    );
    cluster.stop(Stop::Fast)?;
    let partial = place.with_extension("partial");
    drop(std::fs::remove_dir_all(&partial));
    run(Command::new("mv").arg(cluster.data_dir()).arg(&partial))?;
    std::fs::rename(&partial, &place)?;
    Ok(place)
}

fn fill(cluster: &Cluster, setting: &Setting) -> Result<()> {
    // Local bases of an agent, and what pgBackRest asks for.
    cluster.try_sql(&format!(
        "CREATE ROLE {ROLE} LOGIN REPLICATION; GRANT pg_monitor TO {ROLE};
         GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean),
             pg_switch_wal(), pg_create_restore_point(text) TO {ROLE};
         CREATE EXTENSION amcheck;"
    ))?;
    let scale = scale(setting).to_string();
    run(cluster
        .command("pgbench")
        .args(["--initialize", "--quiet", "--scale", &scale]))?;
    let rest = setting.database * (100 - PGBENCH_PERCENT) / 100;
    copy(cluster, rest / ROW_BYTES)?;
    cluster.try_sql("VACUUM (FREEZE, ANALYZE); CHECKPOINT")?;
    Ok(())
}

/// Half of the rows into `blob`, half into `prose`.
fn copy(cluster: &Cluster, rows: u64) -> Result<()> {
    let begin = |table: &str, kind: &str| {
        format!(
            "BEGIN; CREATE TABLE {table} (id bigint, payload {kind} NOT NULL); COPY {table} FROM STDIN"
        )
    };
    let mut tables = [
        Copy::begin(cluster, "blob", &begin("blob", "bytea"))?,
        Copy::begin(cluster, "prose", &begin("prose", "text"))?,
    ];
    let mut random = Random::new(7);
    for id in 0..rows {
        let payload = Payload::draw(&mut random);
        let [blob, prose] = &mut tables;
        match &payload {
            Payload::Blob(bytes) => blob.line(id, &hex(bytes))?,
            Payload::Text(text) => prose.line(id, text)?,
        }
    }
    tables.into_iter().try_for_each(Copy::finish)
}

/// A blob as COPY takes it.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("\\\\x");
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or_default());
        }
    }
    text
}

/// Rows on their way into a table.
#[derive(Debug)]
struct Copy {
    table: &'static str,
    psql: std::process::Child,
    input: BufWriter<std::process::ChildStdin>,
}

impl Copy {
    fn begin(cluster: &Cluster, table: &'static str, sql: &str) -> Result<Self> {
        let mut command = cluster.command("psql");
        command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]);
        for statement in sql.split("; ").chain(["COMMIT"]) {
            command.args(["--command", statement]);
        }
        let add = format!("ALTER TABLE {table} ADD PRIMARY KEY (id)");
        command.args(["--command", &add]);
        let mut psql = command.stdin(Stdio::piped()).spawn()?;
        let input = psql.stdin.take().context("psql has no input")?;
        Ok(Self {
            table,
            psql,
            input: BufWriter::with_capacity(1 << 20, input),
        })
    }

    fn line(&mut self, id: u64, text: &str) -> Result<()> {
        writeln!(self.input, "{id}\t{text}").with_context(|| format!("COPY {}", self.table))
    }

    fn finish(mut self) -> Result<()> {
        self.input.flush()?;
        drop(self.input);
        let status = self.psql.wait()?;
        ensure!(status.success(), "psql filling {}: {status}", self.table);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_written_as_copy_takes_them() {
        assert_eq!(hex(&[0, 0x1f, 0xff]), "\\\\x001fff");
    }

    #[test]
    fn every_run_has_the_same_rows() {
        let Some(_) = Postgres::of(MAJOR) else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let setting = Setting {
            data: folder.path().to_owned(),
            programs: PathBuf::new(),
            pairs: 1,
            database: 40 << 20,
        };
        let sums = [0, 1].map(|_| {
            let cluster = start(&setting, &[("work_mem", "8MB")]).expect("a cluster");
            assert_eq!(cluster.query("SHOW work_mem"), "8MB");
            cluster.query(
                "SELECT sum(hashtext(payload)::bigint), count(*) FROM prose;
                 SELECT sum(hashtext(md5(payload))::bigint) FROM blob;
                 SELECT count(*) FROM pgbench_accounts",
            )
        });
        assert_eq!(sums[0], sums[1]);
    }
}
