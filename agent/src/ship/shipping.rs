//! One item into one region, and what a failure on the way means.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::SourceName;
use tidemark_host::{Clock, codes};

use super::greet::GreetError;
use super::lane::{Admission, Content, Lane};
use super::link::{RegionLink, ShipError, ToCreate};
use crate::disk::Disk;
use crate::folders;
use crate::policy::{self, Response, Verdict};
use crate::state::{Item, Order, SpoolError};
use crate::store::ItemStore;

/// An item that is settled in a region.
pub(super) struct Shipped {
    pub(super) item: Arc<Item>,
    pub(super) how: Admission,
    pub(super) took: Duration,
}

/// Reads an item, and creates it if what it refers to is there.
pub(super) async fn ship(
    link: &RegionLink,
    from: (&Arc<ItemStore>, &Disk),
    clock: &dyn Clock,
    which: (&SourceName, Order),
    lane: &Lane,
) -> Result<Shipped, ShipError> {
    let (source, order) = which;
    let (items, disk) = from;
    let item = match items.fresh_item(source, order) {
        Some(item) => item,
        None => read(items, disk, source, order).await?,
    };
    let how = lane.admit(&link.name, &item.content);
    let began = clock.monotonic();
    if how == Admission::Ship {
        // What these rest on is there only if the place is the one that it was.
        if let Content::Base { .. } | Content::Point { .. } = item.content {
            link.is_the_same().await?;
        }
        link.create(&ToCreate::from(&*item)).await?;
    }
    Ok(Shipped {
        item,
        how,
        took: clock.monotonic().since(began),
    })
}

async fn read(
    items: &Arc<ItemStore>,
    disk: &Disk,
    source: &SourceName,
    order: Order,
) -> Result<Arc<Item>, SpoolError> {
    let (items, name) = (Arc::clone(items), source.clone());
    let read = disk
        .run("read the spool", move || items.item(&name, order))
        .await;
    read.unwrap_or_else(|error| Err(SpoolError::cancelled(source, error)))
}

/// Why a region is away, for people; of a folder that was never there, with how to make it.
pub(crate) fn away_text(link: &RegionLink, error: &dyn std::error::Error) -> String {
    let text = policy::with_causes(error);
    match link.new_directory() {
        Some(folder) if folders::is_missing(error) => {
            format!("{text}; {}", folders::never_seen(folder))
        }
        _ => text,
    }
}

/// What it means that a region or a source in it can't be used.
pub(super) fn meaning(error: &GreetError) -> Verdict {
    match error {
        GreetError::Cloned(_) => Verdict {
            response: Response::Stop,
            code: codes::FOREIGN_WRITER,
        },
        GreetError::NotEnrolled { .. } => Verdict {
            response: Response::Alert,
            code: codes::NOT_ENROLLED,
        },
        GreetError::Revoked(_) => Verdict {
            response: Response::Stop,
            code: codes::AGENT_REVOKED,
        },
        GreetError::Ledger(error) => policy::of_ledger(error),
        GreetError::Ship(error) => ship_meaning(error),
    }
}

/// What it means that an object was not created.
pub(super) const fn ship_meaning(error: &ShipError) -> Verdict {
    match error {
        ShipError::Region(error) => policy::of_region(error.kind()),
        ShipError::Emptied { .. } | ShipError::NotMounted { .. } => Verdict {
            response: Response::Alert,
            code: codes::NO_REPOSITORY,
        },
        ShipError::Spool(_) => Verdict {
            response: Response::Alert,
            code: codes::DAMAGED,
        },
        ShipError::Foreign { .. } => Verdict {
            response: Response::Stop,
            code: codes::FOREIGN_WRITER,
        },
    }
}
