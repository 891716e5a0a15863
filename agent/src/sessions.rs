//! The process's session: begun when first needed, replaced after a day, durable in a region before
//! anything that uses it.
//!
//! **Invariants.** A session's sealed secret is fsynced in the state directory before the session is
//! handed out, and stays there until every region has it. So a missing file means "durable in every
//! region".

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidemark_format::recipient::RecipientKey;
use tidemark_format::sign::SigningKey;
use tidemark_format::{KeyId, RegionName, RepoId, SessionId, keys};
use tidemark_host::files::{self, FileError};
use tidemark_host::{Clock, Rng};
use tidemark_seal::{Sealed, Session};

use crate::Result;
use crate::state::{SpoolError, StateDir};

#[derive(Debug, Default)]
struct Held {
    current: Option<Session>,
    recipients: Vec<RecipientKey>,
    /// By session: the regions that have it.
    durable: BTreeMap<SessionId, BTreeSet<RegionName>>,
}

/// The sessions of a state directory.
#[derive(Debug)]
pub struct Sessions {
    state: StateDir,
    repo: RepoId,
    signer: SigningKey,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    /// Every region that must have a session before its file may go.
    regions: BTreeSet<RegionName>,
    held: Mutex<Held>,
}

impl Sessions {
    /// The sessions in `state`, sealed to `recipients` from now on.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new(
        state: StateDir,
        signer: SigningKey,
        recipients: Vec<RecipientKey>,
        regions: BTreeSet<RegionName>,
        clocks: (Arc<dyn Clock>, Arc<dyn Rng>),
        repo: RepoId,
    ) -> std::result::Result<Self, FileError> {
        files::create_private_folder(&state.sessions())?;
        let held = Held {
            recipients,
            ..Held::default()
        };
        let (clock, rng) = clocks;
        Ok(Self {
            state,
            repo,
            signer,
            clock,
            rng,
            regions,
            held: Mutex::new(held),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seals to these from the next session on, which begins at once if they are others than now.
    pub fn adopt(&self, recipients: Vec<RecipientKey>) {
        let mut held = self.lock();
        if !recipients.is_empty() && held.recipients != recipients {
            held.recipients = recipients;
            held.current = None;
        }
    }

    /// Who can open what is sealed from now on.
    #[must_use]
    pub fn readers(&self) -> BTreeSet<KeyId> {
        self.lock()
            .recipients
            .iter()
            .map(RecipientKey::id)
            .collect()
    }

    /// The session to seal in now. Writes a file when one begins: call it where blocking is allowed.
    ///
    /// # Errors
    /// Recipients that nothing can be sealed to; the disk.
    pub fn current(&self) -> Result<Session> {
        let now = self.clock.now();
        let mut held = self.lock();
        if let Some(session) = held
            .current
            .as_ref()
            .filter(|session| !session.is_over(now))
        {
            return Ok(session.clone());
        }
        let (session, sealed) =
            Session::begin(self.repo, &held.recipients, &self.signer, &*self.rng, now)?;
        files::write_atomic(
            &self.state.session(session.id()),
            &sealed.bytes,
            files::PRIVATE,
        )?;
        held.current = Some(session.clone());
        tracing::info!(session = %session.id(), "a session begins");
        Ok(session)
    }

    /// The sealed secret to be created in `region` before an object of `session`; `None` if it is
    /// there already.
    ///
    /// # Errors
    /// The disk, or a file that isn't a session.
    pub fn lacking(
        &self,
        session: SessionId,
        region: &RegionName,
    ) -> std::result::Result<Option<Sealed>, SpoolError> {
        let durable = self
            .lock()
            .durable
            .get(&session)
            .is_some_and(|held| held.contains(region));
        if durable {
            return Ok(None);
        }
        let path = self.state.session(session);
        match std::fs::read(&path) {
            Ok(bytes) => sealed(session, bytes, &path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SpoolError::Io {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// The region has the session now. The file goes once all have it and nobody seals in it.
    pub fn is_durable(&self, session: SessionId, region: &RegionName) {
        let mut held = self.lock();
        let regions = held.durable.entry(session).or_default();
        regions.insert(region.clone());
        let everywhere = self.regions.is_subset(regions);
        let current = held
            .current
            .as_ref()
            .is_some_and(|current| current.id() == session);
        drop(held);
        if everywhere && !current {
            // Best effort: a file that stays is sent again after a restart, which changes nothing.
            drop(std::fs::remove_file(self.state.session(session)));
        }
    }

    /// The region lost everything it held.
    pub fn are_lost_in(&self, region: &RegionName) {
        for regions in self.lock().durable.values_mut() {
            regions.remove(region);
        }
    }

    /// Every session whose file is still there.
    #[must_use]
    pub fn kept(&self) -> Vec<SessionId> {
        let Ok(entries) = std::fs::read_dir(self.state.sessions()) else {
            return Vec::new();
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names
            .filter_map(|name| name.to_str().and_then(|name| name.parse().ok()))
            .collect()
    }
}

fn sealed(
    session: SessionId,
    bytes: Vec<u8>,
    path: &Path,
) -> std::result::Result<Sealed, SpoolError> {
    let damaged = || SpoolError::Damaged {
        path: PathBuf::from(path),
    };
    Sealed::from_spool(keys::session(session), Bytes::from(bytes)).map_err(|_cut| damaged())
}
