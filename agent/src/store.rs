//! The items of all spools, from memory while they are fresh, else from disk.
//!
//! A region that keeps up reads each item from memory, once for all regions; one that lags reads
//! the spool. What is held in memory is bounded by bytes: the oldest goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_format::SourceName;

use crate::state::{Item, Order, Spool, SpoolError};

#[derive(Debug, Default)]
struct Fresh {
    items: BTreeMap<SourceName, BTreeMap<Order, Arc<Item>>>,
    /// In the order they came; items that are gone are passed over.
    queue: VecDeque<(SourceName, Order)>,
    bytes: u64,
}

impl Fresh {
    fn take(&mut self, source: &SourceName, order: Order) {
        if let Some(item) = self
            .items
            .get_mut(source)
            .and_then(|items| items.remove(&order))
        {
            self.bytes = self.bytes.saturating_sub(size(&item));
        }
    }
}

fn size(item: &Item) -> u64 {
    u64::try_from(item.bytes.len()).unwrap_or(u64::MAX)
}

/// The items of all spools.
#[derive(Debug)]
pub struct ItemStore {
    spools: Mutex<BTreeMap<SourceName, Arc<Spool>>>,
    fresh: Mutex<Fresh>,
    fresh_bytes_max: u64,
}

impl ItemStore {
    /// A store that keeps at most `fresh_bytes_max` in memory.
    #[must_use]
    pub fn new(fresh_bytes_max: u64) -> Self {
        Self {
            spools: Mutex::default(),
            fresh: Mutex::default(),
            fresh_bytes_max,
        }
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A source's spool takes part.
    pub fn open(&self, source: &SourceName, spool: Arc<Spool>) {
        let mut spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
        spools.insert(source.clone(), spool);
    }

    /// An item was just spooled.
    pub fn put(&self, source: &SourceName, item: Arc<Item>) {
        let mut fresh = self.fresh();
        fresh.bytes = fresh.bytes.saturating_add(size(&item));
        fresh.queue.push_back((source.clone(), item.order));
        fresh
            .items
            .entry(source.clone())
            .or_default()
            .insert(item.order, item);
        while fresh.bytes > self.fresh_bytes_max {
            let Some((source, order)) = fresh.queue.pop_front() else {
                break;
            };
            fresh.take(&source, order);
        }
    }

    /// An item is no longer needed.
    pub fn forget(&self, source: &SourceName, order: Order) {
        let mut fresh = self.fresh();
        fresh.take(source, order);
        // Keep the queue as short as what it speaks of.
        while let Some((source, order)) = fresh.queue.front().cloned() {
            if fresh
                .items
                .get(&source)
                .is_some_and(|items| items.contains_key(&order))
            {
                break;
            }
            fresh.queue.pop_front();
        }
    }

    /// An item. Reads the disk if it isn't fresh: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn item(&self, source: &SourceName, order: Order) -> Result<Arc<Item>, SpoolError> {
        if let Some(item) = self.fresh_item(source, order) {
            return Ok(item);
        }
        let spool = {
            let spools = self.spools.lock().unwrap_or_else(PoisonError::into_inner);
            spools.get(source).cloned()
        };
        let spool = spool.ok_or_else(|| SpoolError::Damaged {
            path: source.as_str().into(),
        })?;
        let (item, _head) = spool.item(order)?;
        Ok(Arc::new(item))
    }

    /// An item, if it is in memory.
    #[must_use]
    pub fn fresh_item(&self, source: &SourceName, order: Order) -> Option<Arc<Item>> {
        self.fresh()
            .items
            .get(source)
            .and_then(|items| items.get(&order))
            .cloned()
    }

    /// Bytes in memory.
    #[must_use]
    pub fn fresh_bytes(&self) -> u64 {
        self.fresh().bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tidemark_format::{Hash, LogSeq, PutId, keys};

    use super::*;
    use crate::ship::lane::Content;

    fn item(order: Order) -> Arc<Item> {
        Arc::new(Item {
            order,
            key: keys::readme(),
            put: PutId([0; 16]),
            link: Hash::of(b""),
            session: None,
            content: Content::Log {
                seq: LogSeq(order),
                link: Hash::of(b""),
                first_commit: None,
                gap: false,
            },
            bytes: Bytes::from_static(&[0; 100]),
        })
    }

    #[test]
    fn fresh_items_are_bounded_by_bytes_and_the_oldest_goes_first() {
        let store = ItemStore::new(250);
        let app = SourceName::new("app").unwrap();
        for order in 0..3 {
            store.put(&app, item(order));
        }
        assert!(store.fresh_item(&app, 0).is_none());
        assert!(store.fresh_item(&app, 2).is_some());
        assert_eq!(store.fresh_bytes(), 200);
        store.forget(&app, 1);
        store.forget(&app, 2);
        assert_eq!(store.fresh_bytes(), 0);
        assert!(store.fresh().queue.is_empty());
    }
}
