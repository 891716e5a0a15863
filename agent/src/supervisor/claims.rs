//! Epochs: resumed from the state directory, or claimed for a new source.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidemark_format::{Key, PutId, RegionId, RegionName, SourceName};
use tidemark_host::files;
use tidemark_ledger::fencing::{Claimed, RegionHandle, claim_new};
use tidemark_storage::{
    CreateStore, Created, Error as StorageError, ListPage, ObjectInfo, Op, Place, ReadStore,
    Version,
};

use crate::ship::greet::{Greeter, handle};
use crate::ship::link::RegionLink;
use crate::state::{SourceRecord, Spool, SpoolUsage, StateDir};
use crate::{AgentError, Result};

/// A source's own state, replayed.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) record: SourceRecord,
    pub(super) spool: Spool,
    pub(super) orders: Vec<u64>,
}

/// Reads a source's record and spool; `None` if it was never claimed here. Blocks.
pub(super) fn load(
    state: &StateDir,
    source: &SourceName,
    usage: &SpoolUsage,
) -> Result<Option<Local>> {
    let Some(mut record) = SourceRecord::load(&state.record(source))? else {
        return Ok(None);
    };
    let (spool, mut orders) = Spool::open(&state.spool(source), usage.clone())?;
    let mut foreign = Vec::new();
    let known = record.next_order;
    for order in orders.iter().copied().filter(|order| *order >= known) {
        let (item, head) = spool.item(order)?;
        if head.epoch() != record.epoch {
            foreign.push(order);
            continue;
        }
        record.replay(&item, &head);
    }
    // Left over from the epoch before a take-over: void.
    for order in foreign {
        spool.remove(order)?;
        orders.retain(|kept| *kept != order);
    }
    Ok(Some(Local {
        record,
        spool,
        orders,
    }))
}

/// Writes the record of an epoch that was just claimed. Blocks.
pub(super) fn store_claim(state: &StateDir, source: &SourceName, claimed: &Claimed) -> Result<()> {
    let follows = claimed.follows.clone();
    let record = SourceRecord::claimed(source.clone(), claimed.epoch, claimed.writer, follows);
    files::create_private_folder(&state.source(source))?;
    files::write_atomic(&state.record(source), &record.to_bytes(), files::PRIVATE)?;
    // What an earlier epoch left is void, and its page map says nothing about this one.
    for folder in [state.spool(source), state.engine(source)] {
        remove_folder(&folder)?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(AgentError::Io {
            action: "remove what an earlier epoch left",
            source,
        }),
    }
}

/// Every region as the ledger's fencing takes it; one that can't be reached answers so.
pub(super) fn handles(
    links: &[Arc<RegionLink>],
    domains: &BTreeMap<RegionName, String>,
) -> Vec<RegionHandle> {
    links
        .iter()
        .map(|link| {
            let domain = domains.get(&link.name).unwrap_or(&link.domain);
            let open = link.open_stores().filter(|_| link.is_up());
            let reached = open.and_then(|stores| handle(link, &stores, domain).ok());
            reached.unwrap_or_else(|| {
                let away = Arc::new(Away {
                    place: Place::new(link.name.as_str()),
                });
                RegionHandle {
                    name: link.name.clone(),
                    id: RegionId([0xff; 16]),
                    domain: domain.clone(),
                    read: Arc::<Away>::clone(&away) as Arc<dyn ReadStore>,
                    create: away,
                }
            })
        })
        .collect()
}

/// Claims a source that nobody ever claimed.
pub(super) async fn claim(
    greeter: &Greeter,
    regions: &[RegionHandle],
    source: &SourceName,
    durable_in: usize,
) -> Result<Claimed> {
    let keyring = greeter.keyring().ok_or_else(|| AgentError::NoRegion {
        why: "no region has shown a keyring that names this agent".to_owned(),
    })?;
    Ok(claim_new(
        regions,
        durable_in,
        &greeter.as_writer(source, greeter.writer, &keyring),
    )
    .await?)
}

/// A region that can't be reached now.
#[derive(Debug)]
struct Away {
    place: Place,
}

impl Away {
    fn error(&self, op: Op, key: &str) -> StorageError {
        StorageError::Unreachable {
            place: self.place.clone(),
            op,
            key: key.to_owned(),
            why: "it has not answered this agent yet".to_owned(),
            source: None,
        }
    }
}

#[async_trait]
impl ReadStore for Away {
    async fn get(&self, key: &Key) -> tidemark_storage::Result<Bytes> {
        Err(self.error(Op::Get, key.as_str()))
    }

    async fn get_range(&self, key: &Key, _range: Range<u64>) -> tidemark_storage::Result<Bytes> {
        Err(self.error(Op::Get, key.as_str()))
    }

    async fn head(&self, key: &Key) -> tidemark_storage::Result<ObjectInfo> {
        Err(self.error(Op::Head, key.as_str()))
    }

    async fn list(
        &self,
        prefix: &str,
        _start_after: Option<&Key>,
        _limit: usize,
    ) -> tidemark_storage::Result<ListPage> {
        Err(self.error(Op::List, prefix))
    }

    async fn folders(&self, prefix: &str) -> tidemark_storage::Result<Vec<String>> {
        Err(self.error(Op::List, prefix))
    }

    async fn versions(&self, key: &Key) -> tidemark_storage::Result<Vec<Version>> {
        Err(self.error(Op::List, key.as_str()))
    }
}

#[async_trait]
impl CreateStore for Away {
    async fn create(
        &self,
        key: &Key,
        _body: Bytes,
        _put: &PutId,
    ) -> tidemark_storage::Result<Created> {
        Err(self.error(Op::Create, key.as_str()))
    }
}
