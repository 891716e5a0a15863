//! Objects of `meta/` and `data/` by name, from whichever region has a good copy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tidemark_format::{
    Hash, Key, RegionName, SessionId,
    body::BaseIndex,
    envelope::{Envelope, Head, Kind},
    heads::{BaseHead, LogHead},
    keys,
    sign::PublicKey,
};
use tidemark_host::{Buffers, Cpu};
use tokio::sync::OnceCell;

use crate::{
    Error, Identity, LOG_BYTES_MAX, RegionSet, Result, SessionSecret, bodies::open_log_into,
    open_base,
};

/// The most that a base's index may hold: what `seal` refuses to exceed.
pub const BASE_INDEX_BYTES_MAX: usize = 256 << 20;

/// A log object of that many bytes fills a buffer that is worth using again.
const LARGE_OBJECT: usize = 256 << 10;
/// What most of those hold.
const LARGE_PAYLOAD: usize = 9 << 20;

/// Whether the keyring knows a key as an agent's, revoked or not: asked for the signers of sessions.
pub type SignerCheck = Arc<dyn Fn(&PublicKey, Kind) -> bool + Send + Sync>;

/// A log object, opened.
#[derive(Debug, Clone)]
pub struct OpenedLog {
    /// Its head.
    pub head: LogHead,
    /// What the engine put in.
    pub payload: Bytes,
    /// The region whose copy was good.
    pub region: RegionName,
}

/// A base, opened.
#[derive(Debug, Clone)]
pub struct OpenedBase {
    /// Its head.
    pub head: BaseHead,
    /// Its files, packs and runs.
    pub index: BaseIndex,
    /// The region whose copy was good.
    pub region: RegionName,
}

/// Opens objects with one identity; a session is opened once.
pub struct Opener {
    identity: Identity,
    regions: Arc<RegionSet>,
    signers: SignerCheck,
    cpu: Cpu,
    sessions: Mutex<BTreeMap<SessionId, Arc<OnceCell<Arc<SessionSecret>>>>>,
    payloads: Buffers,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl Opener {
    /// Opens what is in `regions` and sealed to `identity`.
    #[must_use]
    pub fn new(
        identity: Identity,
        regions: Arc<RegionSet>,
        signers: SignerCheck,
        cpu: Cpu,
    ) -> Self {
        Self {
            identity,
            regions,
            signers,
            cpu,
            sessions: Mutex::default(),
            payloads: Buffers::default(),
        }
    }

    /// The identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The regions.
    #[must_use]
    pub const fn regions(&self) -> &Arc<RegionSet> {
        &self.regions
    }

    pub(crate) const fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// A session's secret.
    ///
    /// # Errors
    /// Of kind `Key` when it wasn't sealed to this identity; [`Error::NoGoodCopy`].
    pub async fn session(&self, session: SessionId) -> Result<Arc<SessionSecret>> {
        let cell = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sessions.entry(session).or_default())
        };
        let open = async || {
            let key = keys::session(session);
            let check = |bytes: &Bytes| {
                let (secret, signer) = SessionSecret::open(&self.identity, &key, bytes)?;
                if (self.signers)(&signer, Kind::Session) {
                    Ok(Arc::new(secret))
                } else {
                    Err(Error::Signer {
                        key: key.to_string(),
                        signer: signer.id(),
                    })
                }
            };
            Ok(self.regions.fetch_with(&key, check).await?.value)
        };
        cell.get_or_try_init(open).await.map(Arc::clone)
    }

    /// The log object at `key` whose link is `link`, as `ledger` checked it.
    ///
    /// # Errors
    /// Of kind `Key`, or [`Error::NoGoodCopy`].
    pub async fn log(&self, key: &Key, link: Hash) -> Result<OpenedLog> {
        let session = |head: &LogHead| head.session;
        let buffers = self.payloads.clone();
        let open = move |key: &Key, bytes: &[u8], secret: &SessionSecret| {
            let large = bytes.len() >= LARGE_OBJECT;
            let mut payload = buffers.take(if large { LARGE_PAYLOAD } else { 0 });
            let head = open_log_into(key, bytes, secret, LOG_BYTES_MAX, &mut payload)?;
            Ok((head, buffers.filled(payload)))
        };
        let ((head, payload), region) = self.open_linked(key, link, session, open).await?;
        Ok(OpenedLog {
            head,
            payload,
            region,
        })
    }

    /// The base at `key` whose link is `link`, as `ledger` checked it.
    ///
    /// # Errors
    /// Of kind `Key`, or [`Error::NoGoodCopy`].
    pub async fn base(&self, key: &Key, link: Hash) -> Result<OpenedBase> {
        let session = |head: &BaseHead| Some(head.session);
        let open = |key: &Key, bytes: &[u8], secret: &SessionSecret| {
            open_base(key, bytes, secret, BASE_INDEX_BYTES_MAX)
        };
        let ((head, index), region) = self.open_linked(key, link, session, open).await?;
        Ok(OpenedBase {
            head,
            index,
            region,
        })
    }

    /// Goes through the copies until one has the right link and opens.
    async fn open_linked<H: Head, T: Send + 'static>(
        &self,
        key: &Key,
        link: Hash,
        session: impl Fn(&H) -> Option<SessionId>,
        open: impl Fn(&Key, &[u8], &SessionSecret) -> Result<T> + Clone + Send + 'static,
    ) -> Result<(T, RegionName)> {
        let mut copies = self.regions.copies(key);
        while let Some((at, bytes)) = copies.next(None).await {
            match self
                .open_copy(key, link, &bytes, &session, open.clone())
                .await
            {
                Ok(value) => return Ok((value, copies.name(at))),
                Err(error) => copies.refuse(at, error)?,
            }
        }
        Err(copies.into_error())
    }

    async fn open_copy<H: Head, T: Send + 'static>(
        &self,
        key: &Key,
        link: Hash,
        bytes: &Bytes,
        session: &impl Fn(&H) -> Option<SessionId>,
        open: impl Fn(&Key, &[u8], &SessionSecret) -> Result<T> + Clone + Send + 'static,
    ) -> Result<T> {
        let session = {
            let envelope = Envelope::parse(bytes).map_err(Error::format(key))?;
            if envelope.link() != link {
                return Err(Error::Unlinked {
                    key: key.to_string(),
                    expected: link,
                });
            }
            session(&envelope.head::<H>().map_err(Error::format(key))?)
        };
        let session = session.ok_or_else(|| Error::Misplaced {
            key: key.to_string(),
            why: "it is a gap, which holds nothing",
        })?;
        let secret = self.session(session).await?;
        let (key, bytes) = (key.clone(), bytes.clone());
        self.cpu.run(move || open(&key, &bytes, &secret)).await
    }
}
