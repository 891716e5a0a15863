//! `doctor`: everything that protection needs, checked one by one, each finding with its remedy.
//!
//! It changes nothing but what a probe of a region leaves behind (`meta/probe`). Exit: 0 all well,
//! 1 something to look at, 2 protection is broken, 3 a check could not be made.

mod keyrings;
mod postgres;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tidemark_engine::{OpenRequest, Wake};
use tidemark_format::{RegionName, sign::PublicKey};
use tidemark_host::{
    Exit, NtpState, RegionUrl, RngExt as _,
    config::{AgentConfig, Engine, Source},
    lock::StateLock,
    output::{self, Console, Document, Table, duration},
};
use tidemark_ledger::{Keyring, Trust, read_marker};
use tidemark_storage::{CreateOnly, region::AgentRegion};

use super::{
    Failure,
    context::{self, Machine, open_regions},
    ended::Ended,
    standing::{Standing, agent_key, standing},
    status,
};
use crate::{
    bootstrap, cli::Global, control::ClientError, domains, enrolment, folders, policy,
    room::DiskRoom, state::StateDir, status_live::LiveStatus,
};

/// How long a region may take over all that is asked of it: one that swallows everything must not keep
/// the other findings back.
const REGION_WITHIN: Duration = Duration::from_secs(15);

/// Less room than this in the spool is none: a cut may be as large.
const ROOM_MIN: u64 = 8 << 20;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// It can't be told, and that is no reason for another exit code.
    Unknown,
    Look,
    Broken,
}

#[derive(Debug, Serialize)]
struct Check {
    what: String,
    grade: Grade,
    found: String,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Findings {
    checks: Vec<Check>,
}

impl Findings {
    fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.checks.push(Check {
            what: what.into(),
            grade: Grade::Ok,
            found: found.into(),
            remedy: None,
        });
    }

    fn bad(
        &mut self,
        grade: Grade,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.checks.push(Check {
            what: what.into(),
            grade,
            found: found.into(),
            remedy,
        });
    }

    fn unknown(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.bad(Grade::Unknown, what, found, remedy);
    }

    fn worst(&self) -> Grade {
        self.checks
            .iter()
            .map(|check| check.grade)
            .max()
            .unwrap_or(Grade::Ok)
    }
}

impl Document for Findings {
    const SCHEMA: &'static str = "tidemark-agent.doctor";

    fn text(&self, out: &mut String) {
        let mut table = Table::new();
        for check in &self.checks {
            let mark = match check.grade {
                Grade::Ok => "ok",
                Grade::Unknown => "unknown",
                Grade::Look => "LOOK",
                Grade::Broken => "BROKEN",
            };
            table.row([mark.to_owned(), check.what.clone(), check.found.clone()]);
            if let Some(remedy) = &check.remedy {
                table.row([String::new(), String::new(), format!("→ {remedy}")]);
            }
        }
        table.write("", out);
    }
}

/// Runs `doctor`.
pub(super) fn doctor(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = match context::config(global) {
        Ok(config) => config,
        Err(failure) => {
            status::blind::show(global, console)?;
            return Err(failure);
        }
    };
    let machine = Machine::new();
    let mut findings = Findings { checks: Vec::new() };
    findings.ok("config", format!("{} is right", config.file.display()));
    let runtime = context::runtime()?;
    let heard = runtime.block_on(status::hear_daemon(&config.state_dir));
    local(&config, &machine, &heard, &mut findings);
    for source in &config.sources {
        database(source, &config, &machine, &mut findings);
    }
    let live = heard.ok().flatten();
    running_config(&config, live.as_ref(), &mut findings);
    runtime.block_on(regions(&config, &machine, &mut findings));
    console.show(&findings);
    Ok(match findings.worst() {
        Grade::Ok | Grade::Unknown => Exit::Ok,
        Grade::Look => Exit::Failed,
        Grade::Broken => Exit::Usage,
    })
}

fn local(
    config: &AgentConfig,
    machine: &Machine,
    heard: &Result<Option<LiveStatus>, ClientError>,
    findings: &mut Findings,
) {
    let state = StateDir::new(&config.state_dir);
    if let Err(silent) = heard {
        findings.bad(
            Grade::Broken,
            "agent",
            format!("{silent}: nothing is captured meanwhile"),
            "systemctl restart tidemark-agent: it goes on from its spool, and finds what was committed meanwhile",
        );
    } else if StateLock::is_held(state.root()) {
        findings.ok("agent", "running");
    } else if let Some(ended) = Ended::load(config) {
        let remedy = format!("tidemark-agent explain {}", ended.code);
        findings.bad(Grade::Broken, "agent", ended.words(), remedy);
    } else {
        findings.bad(
            Grade::Broken,
            "agent",
            "not running: nothing is captured",
            "systemctl start tidemark-agent (or tidemark-agent run)",
        );
    }
    match bootstrap::load_signing_key(&state.agent_key()) {
        Ok(key) => findings.ok("signing key", format!("key {}", key.public().id())),
        Err(error) => findings.bad(
            Grade::Broken,
            "signing key",
            policy::with_causes(&error),
            "tidemark-agent init makes one; it then has to be enrolled",
        ),
    }
    state_disk(config, findings);
    match machine.clock.ntp() {
        NtpState::Synchronised => findings.ok("clock", "synchronised"),
        NtpState::Unsynchronised => findings.bad(
            Grade::Look,
            "clock",
            "the time service has not synchronised it: times of restore points may be off",
            "timedatectl status",
        ),
        // Containers have none to ask: no fault of theirs, and nothing that was seen to be right.
        NtpState::Unknown => findings.unknown(
            "clock",
            "not known: no time service that can be asked here",
            "on the host: timedatectl status. A clock that is off puts restore points at wrong times; status tells of one \
             that went back",
        ),
    }
}

/// Whether the spool may grow: without room nothing is captured, however well all the rest stands.
fn state_disk(config: &AgentConfig, findings: &mut Findings) {
    let folder = config.state_dir.display();
    let what = "state disk";
    match DiskRoom::of(&config.state_dir, config.spool_keep_free) {
        Ok(disk) => {
            let found = format!(
                "{folder}: {} free, of which {} have to stay free (spool_keep_free = {})",
                output::bytes(disk.free),
                output::bytes(disk.keep),
                config.spool_keep_free
            );
            if disk.usable() >= ROOM_MIN {
                findings.ok(what, found);
            } else {
                findings.bad(
                    Grade::Broken,
                    what,
                    format!("{found}: nothing is captured"),
                    "free space on that disk, move state_dir, or lower spool_keep_free",
                );
            }
        }
        Err(error) => findings.bad(
            Grade::Broken,
            what,
            format!("{folder}: {error}"),
            "tidemark-agent init makes the state directory",
        ),
    }
}

fn database(source: &Source, config: &AgentConfig, machine: &Machine, findings: &mut Findings) {
    let path = match &source.engine {
        Engine::Sqlite { path } => path.as_path(),
        Engine::Postgres { conninfo, slot } => {
            return postgres::look(source, (conninfo, slot), config, findings);
        }
    };
    let what = format!("database {}", source.name);
    // A folder of its own: the daemon's must not be touched.
    let scratch = std::env::temp_dir().join(format!(
        "tidemark-doctor-{}",
        machine.rng.id::<tidemark_format::PutId>().short()
    ));
    let found = look_at((path, source), &scratch, machine);
    drop(std::fs::remove_dir_all(&scratch));
    match found {
        Ok(text) => findings.ok(what, text),
        Err(error) => findings.bad(
            Grade::Broken,
            what,
            policy::with_causes(&error),
            format!(
                "tidemark-agent explain {}",
                crate::source::refusal::of_engine_error(&error).code
            ),
        ),
    }
    let same = config.sources.iter().filter(|other| {
        other.name != source.name
            && other.engine.sqlite().is_some_and(|other_path| {
                std::fs::canonicalize(other_path).ok() == std::fs::canonicalize(path).ok()
            })
    });
    for other in same {
        findings.bad(
            Grade::Broken,
            format!("database {}", source.name),
            format!("is the same file as source {}", other.name),
            "remove one of the two [[source]] tables",
        );
    }
}

fn look_at(
    (path, source): (&Path, &Source),
    scratch: &Path,
    machine: &Machine,
) -> Result<String, tidemark_engine::Error> {
    let engine = bootstrap::sqlite(path, &source.settings, &machine.clock);
    let request = OpenRequest {
        folder: scratch.to_owned(),
        records: &mut std::iter::empty(),
        candidate: machine.rng.id(),
        wake: Wake::nobody(),
    };
    let mut opened = engine.open(request)?;
    let probe = opened.capture.probe()?;
    opened.capture.release();
    let canary = match crate::source::canary::form(&source.settings) {
        None => "",
        Some(_) if is_rollback(&probe) => {
            "; a canary in tidemark_canary, for each of which the whole file is compared: PRAGMA journal_mode=WAL \
             makes that cheap"
        }
        Some(_) => "; a canary in tidemark_canary",
    };
    Ok(format!(
        "{} in {} pages of {} B; SQLite {}{canary}",
        output::bytes(probe.bytes),
        probe.pages,
        probe.page_size,
        probe.version
    ))
}

/// Whether its log holds the pages of before, so that only comparing tells what changed.
fn is_rollback(probe: &tidemark_engine::Probe) -> bool {
    probe
        .facts
        .get("journal_mode")
        .is_some_and(|mode| mode == "rollback")
}

async fn regions(config: &AgentConfig, machine: &Machine, findings: &mut Findings) {
    let agent = agent_key(config);
    let mut held: Vec<(RegionName, Keyring)> = Vec::new();
    let mut devices = Vec::new();
    for (region, opened) in open_regions(&config.regions, &machine.open_options()).await {
        let what = format!("region {}", region.name);
        devices.push(opened.as_ref().ok().and_then(|store| store.device));
        let mut remedy = "check the URL, the credential and the network".to_owned();
        if let (RegionUrl::Dir(folder), Err(error)) = (&region.url, &opened)
            && folders::is_missing(error)
        {
            let owner = folders::owner_of_state(&config.state_dir);
            let make = folders::how_to_make(folder, owner);
            remedy = format!("mount its disk; if the region is new, make its folder: {make}");
        }
        let checked = match opened {
            Ok(store) => {
                let checks = async {
                    let keyring = one_region(config, &store, agent, &what, findings).await?;
                    held.extend(keyring.map(|keyring| (region.name.clone(), keyring)));
                    create_only(&store, machine, &what, findings).await
                };
                match tokio::time::timeout(REGION_WITHIN, checks).await {
                    Ok(done) => done.map_err(|error| policy::with_causes(&error)),
                    Err(_late) => Err(format!("no answer within {}", duration(REGION_WITHIN))),
                }
            }
            Err(error) => Err(policy::with_causes(&error)),
        };
        if let Err(why) = checked {
            findings.bad(Grade::Broken, what, why, remedy);
        }
    }
    failure_domains(config, &devices, findings);
    keyrings::look(config, &held, agent, findings);
    for hole in status::holes(config, machine).await {
        let grade = if hole.is_open { Grade::Look } else { Grade::Ok };
        findings.bad(
            grade,
            format!("region {}", hole.region),
            hole.found,
            hole.remedy,
        );
    }
}

/// The failure domains as the agent counts them: `devices` are those of directories.
fn failure_domains(config: &AgentConfig, devices: &[Option<u64>], findings: &mut Findings) {
    let regions = config.regions.iter().zip(devices);
    let places: Vec<domains::Place<'_>> = regions
        .map(|(region, device)| (region.failure_domain.as_str(), None, *device))
        .collect();
    let counted = domains::counted(&places);
    let number = domains::distinct(counted.iter().map(|(domain, _twin)| domain.as_str()));
    let wide = config
        .sources
        .iter()
        .map(|source| source.settings.durable_in);
    let asked = wide.max().unwrap_or(1);
    let hidden = config.regions.iter().zip(devices);
    let hidden = hidden
        .filter(|(region, device)| matches!(region.url, RegionUrl::Dir(_)) && device.is_none());
    let hidden: Vec<&str> = hidden.map(|(region, _)| region.name.as_str()).collect();
    if !hidden.is_empty() && devices.len() > 1 {
        let found = format!(
            "whether {} is on a disk of its own can't be told while it is away",
            hidden.join(", ")
        );
        let remedy = "mount it: until the agent has seen it, what it holds counts for nothing";
        findings.bad(Grade::Look, "failure domains", found, remedy);
    }
    let remedy = "add a [[region]] somewhere else (another provider, building or country)";
    let found = format!(
        "{number} for {} regions; durable_in asks for {asked}",
        config.regions.len()
    );
    if number < 2 {
        let found = format!("{found}: all copies can be lost at once");
        findings.bad(Grade::Look, "failure domains", found, remedy);
    } else if number < asked {
        findings.bad(Grade::Look, "failure domains", found, remedy);
    } else {
        findings.ok("failure domains", found);
    }
}

/// Whether the running agent has the config that was just read.
fn running_config(config: &AgentConfig, live: Option<&LiveStatus>, findings: &mut Findings) {
    let runs_with = live.and_then(|live| live.config);
    if runs_with.is_some_and(|hash| hash != config.hash) {
        findings.bad(
            Grade::Look,
            "config",
            "the agent runs with an earlier one than the file holds now",
            "systemctl restart tidemark-agent applies it",
        );
    }
}

async fn one_region(
    config: &AgentConfig,
    store: &AgentRegion,
    agent: Option<PublicKey>,
    what: &str,
    findings: &mut Findings,
) -> tidemark_ledger::Result<Option<Keyring>> {
    match read_marker(store.meta.as_ref()).await? {
        Some(marker) => findings.ok(
            what,
            format!("{} answers; its id is {}", store.place, marker.region),
        ),
        None => findings.bad(
            Grade::Broken,
            what,
            "it has no marker: never prepared, emptied, or the disk isn't mounted",
            "check its URL and mount. The agent prepares a new region by itself, but no directory that held copies \
             before: if it was emptied on purpose, give the region another name in the config and restart the agent",
        ),
    }
    let Some(first) = config.recipients.first() else {
        return Ok(None);
    };
    let trust = Trust {
        root: config.root,
        ..Trust::of(first)
    };
    let (keyring, standing) = standing(store.meta.as_ref(), &trust, agent).await?;
    let version = keyring.as_ref().map_or(0, Keyring::version);
    match standing {
        Standing::Enrolled => {
            findings.ok(what, format!("keyring {version} knows this agent"));
        }
        Standing::NotEnrolled => findings.bad(
            Grade::Broken,
            what,
            "this agent is not enrolled: a restore will not accept what it writes",
            format!(
                "on the host with the root key: {}",
                agent.map_or_else(
                    || "tidemark-restore keys enrol".to_owned(),
                    |key| enrolment::command(key.id(), &config.regions)
                )
            ),
        ),
        Standing::Revoked { why } => findings.bad(
            Grade::Broken,
            what,
            why,
            "move config and state_dir away and run tidemark-agent init; the new key has to be enrolled",
        ),
    }
    Ok(keyring)
}

async fn create_only(
    store: &AgentRegion,
    machine: &Machine,
    what: &str,
    findings: &mut Findings,
) -> tidemark_ledger::Result<()> {
    let report = store.probe.probe(&machine.rng.id()).await?;
    if !report.conditional_create {
        findings.bad(
            Grade::Broken,
            what,
            "the store replaces objects that exist (it ignores If-None-Match): fencing is not enforced there, two \
             agents could overwrite each other",
            "tidemark-agent explain TM1604",
        );
    }
    match report.create_only {
        CreateOnly::Enforced => findings.ok(what, "create-only is enforced by the store"),
        CreateOnly::Advisory if store.device.is_some() => findings.ok(
            what,
            "create-only is advisory, as in every directory: whoever may write it may overwrite it",
        ),
        CreateOnly::Advisory => findings.bad(
            Grade::Look,
            what,
            "create-only is advisory: a thief with this host's credential could overwrite backups",
            "a versioned bucket, and config/iam/agent-policy.json for the agent",
        ),
    }
    Ok(())
}
