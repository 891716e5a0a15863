//! `wal-get`: a server's restore_command. Hands out a segment or a history of its log.
//!
//! **Exit codes are the contract.** 0: the file is at its place, whole and synced. 1: there is no such
//! file, which a server takes for the end of the log. Anything unknown (a region that may hold more and
//! does not answer, damage, a hole, the wrong identity, a mistake in the command line) is 126: the
//! server then stops instead of ending recovery too early.
//!
//! **What is handed out.** Full segments; and the last one of a timeline padded with zeros, only where
//! nothing is known behind it. Nothing is taken from another life of the server.
//!
//! **On record** is the first use of the key, and again after an hour of it: a server asks every few seconds.
//!
//! **Ahead of replay** a second process of the same command fetches the next segments into a folder
//! beside the place where files are put, and a file that is there already costs no request. So does an
//! answer "no such file", for as long as the server waits until it asks again.

mod cache;
mod find;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use std::os::unix::process::CommandExt as _;

use serde_json::json;
use tidemark_host::Exit;
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tidemark_ledger::timeline::Timeline;
use tidemark_open::Opener;

use crate::cli::WalGetArgs;
use crate::commands::restore;
use crate::error::{Error, Result};
use crate::identity;
use crate::plan::{Avoid, Scope, Survey};
use crate::repository::{Repository, Settings, Tools};

use cache::{Cache, Held};
use find::{Answer, WalLog, Wanted};

/// How the process ends if the answer is not known: beyond what a server takes for "no such file".
pub const UNKNOWN: u8 = 126;
/// What a server calls the segment that it asks for in recovery. Others, `pg_rewind` among them, want
/// this one file and no other.
const OF_RECOVERY: &str = "RECOVERYXLOG";
/// How long one access record stands for what a server asks for.
const RECORD_SECONDS: u64 = 3600;
/// The command's own name on a command line.
const WORD: &str = "wal-get";

/// `wal-get`.
///
/// # Errors
/// Whatever makes the answer unknown.
pub async fn run(args: &WalGetArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let wanted: Wanted = args.file.parse()?;
    let cache = Cache::beside(&args.path)?;
    if args.ahead {
        return ahead(args, &wanted, &cache, settings, tools).await;
    }
    let now = tools.clock.now();
    match cache.look(&args.file, now, args.retry) {
        Some(Held::File) => {
            cache.take(&args.file, &args.path)?;
            go_on_ahead(args, &cache, &wanted);
            return Ok(Exit::Ok);
        }
        Some(Held::Absent) => return Ok(Exit::Failed),
        None => {}
    }
    let recorded = cache.is_unrecorded(now, RECORD_SECONDS);
    if recorded {
        let request = json!({
            "file": args.file,
            "path": args.path.display().to_string(),
            "stands_for_seconds": RECORD_SECONDS,
        });
        tools.access.begin(WORD, &request, None, settings, tools);
    }
    let reader = Reader::open(settings, tools).await?;
    if recorded {
        cache.note_recorded(now);
    }
    let mut log = reader.log(args).await?;
    let answer = log.answer(&wanted).await?;
    reader.is_certain(&answer, args)?;
    match answer {
        Answer::Absent => {
            cache.note_absent(&args.file, now);
            // Asked for next, by a server that waits: known from what was just read.
            if let Ok(Some(history)) = log.history_after(&wanted).await
                && let Ok(Answer::Absent) = log.answer(&history).await
            {
                cache.note_absent(&history.to_string(), now);
            }
            Ok(Exit::Failed)
        }
        Answer::History(bytes) => {
            cache::put(&args.path, |file| cache::write_all(file, &bytes))?;
            Ok(Exit::Ok)
        }
        Answer::Segment(parts) => {
            log.write(&parts, &args.path).await?;
            go_on_ahead(args, &cache, &wanted);
            Ok(Exit::Ok)
        }
    }
}

/// Fetches the segments behind the one named into the cache.
async fn ahead(
    args: &WalGetArgs,
    wanted: &Wanted,
    cache: &Cache,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let Some(_lock) = cache.lock()? else {
        return Ok(Exit::Ok);
    };
    let reader = Reader::open(settings, tools).await?;
    let mut log = reader.log(args).await?;
    let mut at = wanted.clone();
    for _ in 0..args.prefetch {
        at = log.next(&at).await?;
        let name = at.to_string();
        if cache.holds(&name) {
            continue;
        }
        match log.answer(&at).await? {
            Answer::Segment(parts) if parts.is_whole() => {
                log.write(&parts, &cache.path(&name)).await?;
            }
            Answer::Segment(_) | Answer::History(_) | Answer::Absent => break,
        }
    }
    Ok(Exit::Ok)
}

/// Starts the process that fetches ahead, if this one is recovery's and there is little left.
fn go_on_ahead(args: &WalGetArgs, cache: &Cache, wanted: &Wanted) {
    let in_recovery = args
        .path
        .file_name()
        .is_some_and(|name| name == OF_RECOVERY);
    if args.prefetch == 0 || !in_recovery || !wanted.is_segment() {
        return;
    }
    cache.forget_before(&args.file);
    if cache.count() > args.prefetch / 2 {
        return;
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let is_ours = words.iter().any(|word| word == WORD);
    let Some(program) = std::env::current_exe().ok().filter(|_| is_ours) else {
        return;
    };
    // Without it every segment is fetched when it is asked for: slower, and as right.
    drop(
        Command::new(program)
            .args(words)
            .arg("--ahead")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn(),
    );
}

/// The repository, open.
struct Reader {
    repository: Repository,
    timeline: Timeline,
    opener: Arc<Opener>,
}

impl Reader {
    async fn open(settings: &Settings, tools: &Tools) -> Result<Self> {
        let identity = identity::load(settings, &tools.console)?;
        tools.access.used(&identity);
        let trust = identity::trust(&identity);
        let repository = Repository::open(settings, Some(trust), tools).await?;
        let source = repository.source(settings.source.as_ref()).await?;
        let options = LoadOptions {
            points: PointsWanted::Newest(1),
        };
        let timeline = repository.timeline(&source, &options).await?;
        if !timeline.is_divisible() {
            return Err(Error::TargetText(format!(
                "source {source} is no PostgreSQL server: it has no log of this kind"
            )));
        }
        let opener = restore::opener(&repository, identity, tools)?;
        Ok(Self {
            repository,
            timeline,
            opener: Arc::new(opener),
        })
    }

    async fn log(&self, args: &WalGetArgs) -> Result<WalLog<'_>> {
        let survey = Survey::new(&self.timeline, &Avoid::default(), Scope::Newest).await?;
        WalLog::new(survey, Arc::clone(&self.opener), args.incarnation).await
    }

    /// A region that could not be read may hold what the others end before.
    fn is_certain(&self, answer: &Answer, args: &WalGetArgs) -> Result<()> {
        let whole = match answer {
            Answer::History(_) => true,
            Answer::Segment(parts) => parts.is_whole(),
            Answer::Absent => false,
        };
        let all_read = self.repository.away.is_empty() && self.timeline.failed.is_empty();
        if whole || all_read || args.accept_older {
            return Ok(());
        }
        let away = self.repository.away.iter().map(|away| &away.name);
        let failed = self.timeline.failed.iter().map(|(region, _)| region);
        let names: Vec<&str> = away.chain(failed).map(|name| name.as_str()).collect();
        Err(Error::Stale(format!(
            "the log ends before {} in the regions that answer, and {} may hold more",
            args.file,
            names.join(", ")
        )))
    }
}

/// The folder of a path, as a server means it: its own working directory.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}
