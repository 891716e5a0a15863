//! An item of the spool as the shippers see it: read back from its own signed head.
//!
//! Nothing beside the object says where it belongs: the key, the put-id, the link and what the
//! item is stand in the object's head, so the spool can't contradict what is shipped.

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemark_format::envelope::{Envelope, Head, Kind};
use tidemark_format::heads::{BaseHead, LogHead, PointHead};
use tidemark_format::{Epoch, FormatError, Hash, Key, PutId, RegionName, SessionId, keys};

use super::spool::Order;
use crate::ship::lane::Content;

/// The agent's own record beside a base in the spool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BaseRecord {
    /// The regions that hold all packs of the base.
    pub packs_in: Vec<RegionName>,
}

/// A head of the three kinds that stand in a spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemHead {
    /// A log object or gap.
    Log(Box<LogHead>),
    /// A base.
    Base(Box<BaseHead>),
    /// A recovery point.
    Point(Box<PointHead>),
}

impl ItemHead {
    /// The epoch it belongs to.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Log(head) => head.epoch,
            Self::Base(head) => head.epoch,
            Self::Point(head) => head.epoch,
        }
    }
}

/// A sealed object, ready to be created in every region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its place in the spool.
    pub order: Order,
    /// Where it belongs.
    pub key: Key,
    /// The attempt that creates it.
    pub put: PutId,
    /// Its link.
    pub link: Hash,
    /// The session that must be durable before it.
    pub session: Option<SessionId>,
    /// What it is.
    pub content: Content,
    /// All its bytes.
    pub bytes: Bytes,
}

impl Item {
    /// Reads an item from its object and record.
    ///
    /// # Errors
    /// [`FormatError`] when the object isn't of a kind that stands in a spool.
    pub fn read(
        order: Order,
        bytes: Bytes,
        record: &[u8],
    ) -> Result<(Self, ItemHead), FormatError> {
        let envelope = Envelope::parse(&bytes)?;
        let link = envelope.link();
        let (key, put, session, content, head) = match envelope.kind {
            Kind::Log => log(envelope.head()?, link),
            Kind::Base => base(envelope.head()?, link, record)?,
            Kind::Point => point(envelope.head()?),
            other => {
                return Err(FormatError::Kind {
                    expected: LogHead::KIND.name(),
                    found: other.name().to_owned(),
                });
            }
        };
        Ok((
            Self {
                order,
                key,
                put,
                link,
                session,
                content,
                bytes,
            },
            head,
        ))
    }
}

type Parts = (Key, PutId, Option<SessionId>, Content, ItemHead);

fn log(head: LogHead, link: Hash) -> Parts {
    let key = keys::log(&head.source, head.epoch, head.seq);
    let content = Content::Log {
        seq: head.seq,
        link,
        first_commit: lacking_since(&head),
        gap: head.gap.is_some(),
    };
    (
        key,
        head.put,
        head.session,
        content,
        ItemHead::Log(Box::new(head)),
    )
}

/// The first commit of a log object; of a gap, since when something is lacking.
#[must_use]
pub fn lacking_since(head: &LogHead) -> Option<Timestamp> {
    let since = head.gap.as_ref().and_then(|gap| gap.since);
    head.first_commit.or(since)
}

fn base(head: BaseHead, link: Hash, record: &[u8]) -> Result<Parts, FormatError> {
    let record: BaseRecord = serde_json::from_slice(record).map_err(|error| FormatError::Head {
        what: "base's local record",
        why: error.to_string(),
    })?;
    let key = keys::base(&head.source, head.epoch, head.generation, head.number);
    let content = Content::Base {
        reference: head.reference(link),
        parent: head.parent,
        start: head.start,
        packs_in: record.packs_in,
    };
    Ok((
        key,
        head.put,
        Some(head.session),
        content,
        ItemHead::Base(Box::new(head)),
    ))
}

fn point(head: PointHead) -> Parts {
    let key = keys::point(&head.source, head.epoch, head.seq);
    let content = Content::Point {
        seq: head.seq,
        log_seq: head.log_seq,
        base: head.base,
    };
    (
        key,
        head.put,
        None,
        content,
        ItemHead::Point(Box::new(head)),
    )
}
