//! Opening a server for capture: what happened since, the slot, and a new life where the old one ended.
//!
//! **Crash consistency.** A new life is stored before it is told, and only after its slot was made; a
//! crash between makes it again. The state of the life before stays until then.
//!
//! **Blocking.** Opening and retiring wait for the server, up to [`Limits::answer_max`] for each question
//! (and the connection's own limit for each address); they are called by threads of the agent's, never by
//! the runtime's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tidemark_engine::canary::CanaryForm;
use tidemark_engine::{Engine, Error, OpenRequest, Opened, Verdict};
use tidemark_format::postgres::Lsn;
use tidemark_format::{Incarnation, LogSeq, SourceName};
use tidemark_host::{Clock, Pace, Rate};
use tokio::runtime::Handle;

use crate::base::{self, Bases};
use crate::canary::{self, TakenAway};
use crate::capture::plan::{Plan, Sought, branch_of, decide};
use crate::capture::record::{Cursor, State, StateFolder};
use crate::capture::server::{Connector, LookError, Looked, look, slot_of, within};
use crate::capture::{Ack, Begin, Limits, LogMemory, PgCapture, Seen, drop_slot};
use crate::conninfo::{ConnInfo, Surroundings};
use crate::error::PostgresError;
use crate::replication;
use crate::wire::{Connection, Mode, WireError, WireErrorKind};

/// Majors whose log can be read.
const MAJORS: std::ops::RangeInclusive<u16> = 14..=18;
/// A slot's name is no longer than this (`NAMEDATALEN` less one).
const SLOT_NAME_MAX: usize = 63;
/// Threads that read a data directory unless told otherwise.
const BASE_READERS: usize = 2;
/// Memory for the log of an engine that shares none.
const LOG_MEMORY: u64 = 16 << 20;
const SLOT_PREFIX: &str = "tidemark_";

/// How a server is captured.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// As libpq's users write it.
    pub conninfo: String,
    /// The replication slot.
    pub slot: String,
    /// What the server is told as flushed.
    pub ack: Ack,
    /// How much log the slot may hold on the server.
    pub slot_keep_max: Option<u64>,
    /// How canaries are written, if they are.
    pub canary: Option<CanaryForm>,
    /// Base backups begin with a checkpoint at once instead of at leisure.
    pub fast_checkpoint: bool,
    /// How fast bases are read.
    pub base_rate: Rate,
    /// The zone of the rate's hours.
    pub zone: TimeZone,
    /// Threads that read a data directory while a base is taken from it.
    pub base_readers: usize,
    /// Times and sizes.
    pub limits: Limits,
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The connection string may hold a password.
        f.debug_struct("PostgresConfig")
            .field("slot", &self.slot)
            .field("ack", &self.ack)
            .field("slot_keep_max", &self.slot_keep_max)
            .finish_non_exhaustive()
    }
}

impl PostgresConfig {
    /// The server that `conninfo` names, as the source `source`.
    #[must_use]
    pub fn new(conninfo: impl Into<String>, source: &SourceName) -> Self {
        Self {
            conninfo: conninfo.into(),
            slot: slot_name(source),
            ack: Ack::Spool,
            slot_keep_max: None,
            canary: None,
            fast_checkpoint: true,
            base_rate: Rate::unlimited(),
            zone: TimeZone::UTC,
            base_readers: BASE_READERS,
            limits: Limits::default(),
        }
    }
}

/// The slot of a source: its name in the letters that a slot may have.
#[must_use]
pub fn slot_name(source: &SourceName) -> String {
    let plain = format!("{SLOT_PREFIX}{}", source.as_str().replace('-', "_"));
    if plain.len() <= SLOT_NAME_MAX {
        return plain;
    }
    // Two long names that begin alike still have two slots.
    let hash = blake3::hash(source.as_str().as_bytes()).to_hex();
    let head: String = plain.chars().take(SLOT_NAME_MAX - 9).collect();
    let tail: String = hash.chars().take(8).collect();
    format!("{head}_{tail}")
}

/// The PostgreSQL engine for one server.
pub struct PostgresEngine {
    config: PostgresConfig,
    connector: Connector,
    runtime: Handle,
    clock: Arc<dyn Clock>,
    memory: Arc<LogMemory>,
}

impl fmt::Debug for PostgresEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostgresEngine").field(&self.config).finish()
    }
}

/// What is known of the past.
struct Past {
    state: Option<State>,
    sealed: Vec<(LogSeq, Lsn)>,
}

/// A life that goes on or begins.
struct Life {
    state: State,
    verdict: Verdict,
    /// Cuts sealed before whose records were kept.
    sealed: Vec<(LogSeq, Lsn)>,
    /// What the server said about itself.
    seen: Seen,
    /// The way to it, and to no other server.
    info: ConnInfo,
}

impl PostgresEngine {
    /// An engine for the server that `config` names; its tasks run on `runtime`.
    #[must_use]
    pub fn new(
        config: PostgresConfig,
        around: Arc<dyn Surroundings + Send + Sync>,
        runtime: Handle,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let connector = Connector::new(config.conninfo.clone(), config.slot.clone(), around);
        Self {
            config,
            connector,
            runtime,
            clock,
            memory: LogMemory::new(LOG_MEMORY, 1),
        }
    }

    /// As it is, but what waits in memory to be cut is bounded together with what other sources hold.
    #[must_use]
    pub fn sharing(self, memory: Arc<LogMemory>) -> Self {
        Self { memory, ..self }
    }

    /// Looks at the server, and says how the past and it fit together.
    async fn settle(&self, past: Past, candidate: Incarnation) -> Result<Life, PostgresError> {
        let (slot, limit) = (&self.config.slot, self.config.limits.answer_max);
        let sought = past.state.as_ref();
        let sought = sought.map_or(Sought::ANYTHING, State::sought);
        let looked = look(&self.connector, slot, limit, &sought).await;
        let looked = looked.map_err(opening)?;
        check_version(looked.version.as_deref())?;
        let seen = Seen {
            version: looked.version.clone(),
            standby: looked.view.standby,
            link: looked.connection.link(),
            identity: looked.view.identity.clone(),
        };
        let info = looked.info.clone();
        let slot = looked.view.slot.as_ref();
        if let Some(kind) = slot
            .map(|slot| &slot.kind)
            .filter(|kind| *kind != "physical")
        {
            return Err(PostgresError::ForeignSlot {
                slot: self.config.slot.clone(),
                kind: kind.clone(),
            });
        }
        let Some(mut state) = past.state else {
            let state = self.new_life(looked, None, candidate).await?;
            return Ok(Life {
                state,
                verdict: Verdict::New,
                sealed: Vec::new(),
                seen,
                info,
            });
        };
        let reason = state.broken.clone().or_else(|| broken(&looked, &state));
        if let Some(reason) = reason {
            let state = self.new_life(looked, Some(&state), candidate).await?;
            return Ok(Life {
                state,
                verdict: Verdict::NewIncarnation { reason },
                sealed: Vec::new(),
                seen,
                info,
            });
        }
        state.follows(looked.view.identity.timeline);
        state.acked = told_before(&looked, &state, self.config.ack);
        let verdict = match state.sealed {
            Some(_) => Verdict::Continues,
            None => Verdict::New,
        };
        Ok(Life {
            state,
            verdict,
            sealed: past.sealed,
            seen,
            info,
        })
    }

    /// Begins a life where a new slot begins to keep log.
    async fn new_life(
        &self,
        looked: Looked,
        before: Option<&State>,
        candidate: Incarnation,
    ) -> Result<State, PostgresError> {
        let Looked {
            mut connection,
            view,
            info,
            ..
        } = looked;
        let (slot, limit) = (&self.config.slot, self.config.limits.answer_max);
        if view.slot.is_some() {
            // It keeps what nobody will read any more. It waits for a connection of ours to be let go.
            let dropping = replication::drop_slot(&mut connection, slot);
            match within(limit, "drop the slot", dropping).await {
                Err(LookError::Slow { .. }) => {
                    return Err(PostgresError::SlotBusy { slot: slot.clone() });
                }
                dropped => dropped.map_err(opening)?,
            }
        }
        let making = replication::create_slot(&mut connection, slot);
        match within(limit, "make the slot", making).await {
            Err(LookError::Wire(source))
                if source.server().is_some() && source.kind() != WireErrorKind::Denied =>
            {
                return Err(slot_refused(source));
            }
            made => made.map_err(opening)?,
        }
        let made = slot_of(&mut connection, &info, slot);
        let made = within(limit, "show the slot", made)
            .await
            .map_err(opening)?;
        let restart = made.and_then(|slot| slot.restart).ok_or_else(|| {
            opening(LookError::Wire(WireError::Protocol(
                "a slot that was made keeps no log",
            )))
        })?;
        connection.close().await;
        let timeline = branch_of(&view, restart);
        let cursor = Cursor::begin(view.identity.system, timeline, view.segment, restart);
        let lives = before.map_or(1, |state| state.lives.saturating_add(1));
        let incarnation = another(candidate, &cursor, lives);
        let mut state = State::begin(incarnation, lives, cursor);
        // The slot may begin before its fork.
        state.follows(view.identity.timeline);
        Ok(state)
    }

    fn bases(
        &self,
        folder: &StateFolder,
        (state, info): (&State, ConnInfo),
        request: &OpenRequest<'_>,
    ) -> Result<Bases, Error> {
        let settings = base::Settings {
            info,
            runtime: self.runtime.clone(),
            label: format!("tidemark {}", self.config.slot),
            fast_checkpoint: self.config.fast_checkpoint,
            pace: Pace::new(
                self.config.base_rate.clone(),
                self.config.zone.clone(),
                Arc::clone(&self.clock),
            ),
            readers: self.config.base_readers,
            wake: request.wake.clone(),
        };
        Bases::open(folder.bases(state.incarnation), settings)
    }
}

/// What is known from before, records included.
fn past(
    folder: &StateFolder,
    records: &mut dyn Iterator<Item = (LogSeq, Vec<u8>)>,
) -> Result<Past, PostgresError> {
    let mut state = folder.load()?;
    let mut sealed = Vec::new();
    if let Some(state) = &mut state {
        state.acked = state.acked.max(folder.noted_acked());
        match state.replay(records, folder.path()) {
            Ok(ends) => sealed = ends,
            Err(error) => {
                state.broken.get_or_insert_with(|| error.to_string());
            }
        }
    }
    Ok(Past { state, sealed })
}

/// Why the log can't go on, as far as the server's words tell.
fn broken(looked: &Looked, state: &State) -> Option<String> {
    match decide(&looked.view, &state.place()) {
        Plan::Broken(reason) => Some(reason),
        // The receiver waits, and says so.
        Plan::Stream { .. } | Plan::Wait(_) => None,
    }
}

/// What the server was told before: it must not hear less. Its slot begins at what it heard last.
fn told_before(looked: &Looked, state: &State, ack: Ack) -> u64 {
    let end = state.cursor.told().0;
    let sealed = match (ack, state.sealed) {
        (Ack::Spool, Some(_)) => end,
        _ => 0,
    };
    let slot = looked.view.slot.as_ref().and_then(|slot| slot.restart);
    let heard = slot
        .map(|restart| restart.0)
        .filter(|at| *at <= state.cursor.end.at && state.sealed.is_some());
    state.acked.max(sealed).max(heard.unwrap_or(0))
}

/// The id of a new life. The candidate may be the life before, which the agent remembers and this folder
/// may have lost: no life may ever go on under the id of another.
fn another(candidate: Incarnation, cursor: &Cursor, lives: u64) -> Incarnation {
    let mut hasher = blake3::Hasher::new_derive_key("tidemark postgresql incarnation v1");
    hasher.update(candidate.as_bytes());
    for number in [lives, cursor.system, cursor.end.at] {
        hasher.update(&number.to_le_bytes());
    }
    let mut id = [0; Incarnation::LEN];
    hasher.finalize_xof().fill(&mut id);
    Incarnation(id)
}

fn check_version(version: Option<&str>) -> Result<(), PostgresError> {
    let found = version.unwrap_or("of an unknown version");
    let digits = found.split(|c: char| !c.is_ascii_digit()).next();
    let major: Option<u16> = digits.and_then(|digits| digits.parse().ok());
    if major.is_some_and(|major| MAJORS.contains(&major)) {
        return Ok(());
    }
    Err(PostgresError::Version {
        found: found.to_owned(),
    })
}

fn opening(error: LookError) -> PostgresError {
    match error {
        LookError::ConnInfo(error) => PostgresError::ConnInfo(error),
        LookError::Wire(error) => PostgresError::connecting(error),
        LookError::Slow { what, seconds } => PostgresError::Slow { what, seconds },
        LookError::Stale(stale) => PostgresError::Stale(stale),
    }
}

fn slot_refused(source: WireError) -> PostgresError {
    PostgresError::Refused {
        what: "make the replication slot",
        advice: "Raise max_replication_slots, set wal_level to replica or higher, or drop a slot that nobody uses; it is tried again",
        source,
    }
}

impl Engine for PostgresEngine {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened, Error> {
        let folder = StateFolder::open(request.folder.clone())?;
        let mut request = request;
        let past = past(&folder, &mut request.records)?;
        let life = self
            .runtime
            .block_on(Box::pin(self.settle(past, request.candidate)))?;
        folder.note_acked(life.state.acked)?;
        folder.store(&life.state)?;
        folder.forget_others(life.state.incarnation);
        let bases = self.bases(&folder, (&life.state, life.info), &request)?;
        let (needs_complete_base, unfinished_base) = (bases.needs_complete(), bases.unfinished());
        let incarnation = life.state.incarnation;
        let begin = Begin {
            state: life.state,
            folder,
            bases,
            sealed: life.sealed,
            seen: life.seen,
            connector: self.connector.clone(),
            slot: self.config.slot.clone(),
            ack: self.config.ack,
            keep_max: self.config.slot_keep_max,
            canary: self.config.canary,
            limits: self.config.limits.where_waited_for(self.config.ack),
            memory: Arc::clone(&self.memory),
            clock: Arc::clone(&self.clock),
            wake: request.wake.clone(),
        };
        Ok(Opened {
            capture: Box::new(PgCapture::begin(begin, &self.runtime)),
            incarnation,
            verdict: life.verdict,
            needs_complete_base,
            unfinished_base,
        })
    }

    fn retire(&self) -> Result<Option<String>, Error> {
        let slot = &self.config.slot;
        let dropping = drop_slot(&self.connector, slot, self.config.limits.answer_max);
        let was_there = self.runtime.block_on(Box::pin(dropping)).map_err(|error| {
            PostgresError::NotRetired {
                slot: slot.clone(),
                source: Box::new(opening(error)),
            }
        })?;
        Ok(was_there.then(|| {
            format!(
                "the replication slot {slot} was dropped: the server keeps no log for us any more"
            )
        }))
    }

    fn remove_canary(&self) -> Result<Option<String>, Error> {
        let taking = take_away(&self.connector, self.config.limits.answer_max);
        let taken = self.runtime.block_on(Box::pin(taking)).map_err(|error| {
            PostgresError::CanaryRemains {
                source: Box::new(opening(error)),
            }
        })?;
        Ok(match taken {
            TakenAway::Nothing => None,
            TakenAway::Everything => Some("the canary's table and schema were dropped".to_owned()),
            TakenAway::Table => Some(
                "the canary's table was dropped; the schema tidemark stays, for it holds other things or belongs \
                 to another role"
                    .to_owned(),
            ),
        })
    }
}

/// Takes the canary's table away.
async fn take_away(connector: &Connector, limit: Duration) -> Result<TakenAway, LookError> {
    let info = connector.info().map_err(LookError::ConnInfo)?;
    let mut connection = Connection::open(&info, Mode::Sql).await?;
    let taking = canary::take_away(&mut connection);
    let taken = within(limit, "drop the canary's table", taking).await?;
    connection.close().await;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> SourceName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_slot_has_the_name_of_its_source() {
        assert_eq!(slot_name(&name("app")), "tidemark_app");
        assert_eq!(slot_name(&name("15-main")), "tidemark_15_main");
        let (one, two) = (
            format!("{}a", "x".repeat(60)),
            format!("{}b", "x".repeat(60)),
        );
        let (one, two) = (slot_name(&name(&one)), slot_name(&name(&two)));
        assert!(one != two && one.len() == 63 && two.len() == 63);
    }

    #[test]
    fn versions_that_are_not_known_are_refused() {
        for known in ["14.23", "15.19 (Debian 15.19-0+deb12u1)", "18.1"] {
            assert!(check_version(Some(known)).is_ok(), "{known}");
        }
        for other in ["13.22", "19beta1", "", "?"] {
            assert!(check_version(Some(other)).is_err(), "{other}");
        }
    }

    #[test]
    fn a_new_life_never_has_the_id_of_the_one_before() {
        use tidemark_format::postgres::{SegmentSize, TimelineId};
        let cursor = Cursor::begin(7, TimelineId(1), SegmentSize::DEFAULT, Lsn(0x0300_0000));
        let (old, new) = (Incarnation([1; 16]), Incarnation([2; 16]));
        let once = another(old, &cursor, 1);
        assert!(once != old && once != another(new, &cursor, 1));
        assert!(once != another(old, &cursor, 2) && once != another(once, &cursor, 1));
    }
}
