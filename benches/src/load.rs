//! The application: commits at a rate, writes down when each commit returned and how long it took.
//!
//! A process of its own (`tidemark-bench load DB LOG KIND RATE SECONDS`). The log is 24 bytes a commit,
//! little endian: row id, wall clock in nanoseconds when the commit returned, its latency; written at
//! once, so that it is whole however the process ends.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, params};

use crate::data::{self, Payload, Random};
use crate::process::Running;

const RECORD: usize = 24;
/// Between two checkpoints of an application that has its own: each of the four kinds every 4 s.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// What the application does in each transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A new row.
    Append,
    /// A row anywhere gets a new payload.
    Update,
    /// One or the other.
    Mixed,
    /// No transaction: checkpoints of every kind, one after the other.
    Checkpoint,
}

impl Kind {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Append, "append"),
        (Self::Update, "update"),
        (Self::Mixed, "mixed"),
        (Self::Checkpoint, "checkpoint"),
    ];

    fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }
}

/// One commit, as the application saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Commit {
    /// The row that it wrote.
    pub(crate) row: u64,
    /// Nanoseconds since 1970 when it returned.
    pub(crate) at: u64,
    /// Nanoseconds that it took.
    pub(crate) took: u64,
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load {
    process: Running,
    log: PathBuf,
}

impl Load {
    /// Starts one on `database`; it ends by itself after `seconds`.
    pub(crate) fn start(database: &Path, kind: Kind, rate: u32, seconds: f64) -> Result<Self> {
        let log = database.with_extension(format!("{}.log", kind.name()));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").arg(database).arg(&log);
        command.args([kind.name(), &rate.to_string(), &seconds.to_string()]);
        Ok(Self {
            process: Running::start(&mut command, &log.with_extension("out"))?,
            log,
        })
    }

    /// Runs one in this process, to its end.
    #[cfg(test)]
    pub(crate) fn run_here(
        database: &Path,
        kind: Kind,
        rate: u32,
        seconds: f64,
    ) -> Result<Vec<Commit>> {
        let log = database.with_extension("log");
        let words = [rate.to_string(), seconds.to_string()];
        let paths = [database, &log].map(|path| path.display().to_string());
        let [rate, seconds] = words;
        let [database, file] = paths;
        application(&[database, file, kind.name().to_owned(), rate, seconds])?;
        read_log(&log)
    }

    /// Waits until it has ended, and reads what it did.
    pub(crate) fn finish(self) -> Result<Vec<Commit>> {
        self.process.finish()?;
        read_log(&self.log)
    }

    /// Kills it, and reads what it did.
    pub(crate) fn kill(self) -> Result<Vec<Commit>> {
        self.process.kill()?;
        read_log(&self.log)
    }
}

fn read_log(path: &Path) -> Result<Vec<Commit>> {
    let bytes = std::fs::read(path)?;
    let number = |record: &[u8], at: usize| -> Result<u64> {
        Ok(u64::from_le_bytes(
            record.get(at..at + 8).context("a cut record")?.try_into()?,
        ))
    };
    let records = bytes.chunks_exact(RECORD);
    records
        .map(|r| {
            Ok(Commit {
                row: number(r, 0)?,
                at: number(r, 8)?,
                took: number(r, 16)?,
            })
        })
        .collect()
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos(),
    )?)
}

/// The application's own process.
pub(crate) fn application(arguments: &[String]) -> Result<()> {
    let [database, log, kind, rate, seconds] = arguments else {
        bail!("usage: tidemark-bench load DB LOG KIND RATE SECONDS");
    };
    let found = Kind::ALL.iter().find(|(_, name)| name == kind);
    let (kind, _) = found.with_context(|| format!("unknown load {kind}"))?;
    let database = data::open(Path::new(database))?;
    let seconds = Duration::from_secs_f64(seconds.parse()?);
    let log = File::create(log)?;
    match kind {
        Kind::Checkpoint => checkpoint(&database, seconds),
        _ => commit(&database, *kind, rate.parse()?, seconds, log),
    }
}

fn checkpoint(database: &Connection, long: Duration) -> Result<()> {
    let started = Instant::now();
    for mode in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].iter().cycle() {
        if started.elapsed() >= long {
            return Ok(());
        }
        // Busy is an answer, not an error.
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        database.query_row(&sql, [], |_| Ok(()))?;
        std::thread::sleep(CHECKPOINT_EVERY);
    }
    Ok(())
}

fn commit(
    database: &Connection,
    kind: Kind,
    rate: u32,
    long: Duration,
    mut log: File,
) -> Result<()> {
    let mut rows: u64 =
        u64::try_from(
            database.query_row("SELECT max(id) FROM entry", [], |row| row.get::<_, i64>(0))?,
        )?;
    let mut random = Random::new(now()?);
    let mut append = database.prepare("INSERT INTO entry (id, at, payload) VALUES (?1, ?2, ?3)")?;
    let mut update = database.prepare("UPDATE entry SET at = ?2, payload = ?3 WHERE id = ?1")?;
    let (started, mut done) = (Instant::now(), 0u32);
    while started.elapsed() < long {
        let due = Duration::from_secs_f64(f64::from(done) / f64::from(rate));
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let appends = match kind {
            Kind::Append => true,
            Kind::Mixed => random.below(2) == 0,
            Kind::Update | Kind::Checkpoint => false,
        };
        let payload = Payload::draw(&mut random);
        let row = if appends {
            rows + 1
        } else {
            1 + random.below(rows)
        };
        let statement = if appends { &mut append } else { &mut update };
        let sequence = i64::from(done) + 1;
        let before = Instant::now();
        statement.execute(params![i64::try_from(row)?, sequence, payload])?;
        let took = u64::try_from(before.elapsed().as_nanos())?;
        rows = rows.max(row);
        let mut record = [0; RECORD];
        for (place, value) in record.chunks_exact_mut(8).zip([row, now()?, took]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        log.write_all(&record)?;
        done += 1;
    }
    Ok(())
}
