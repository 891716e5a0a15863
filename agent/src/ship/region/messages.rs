//! What passes between a region's driver and everybody else.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::{Epoch, Hash, LogSeq, RegionName, SourceName, WriterId};
use tidemark_host::{Clock, Rng};
use tidemark_seal::Sealed;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::AgentError;
use crate::disk::Disk;
use crate::metrics::SharedMetrics;
use crate::ship::greet::Greeter;
use crate::ship::lane::{Content, GiveUp, Lane};
use crate::ship::queue::Ends;
use crate::status_live::Board;
use crate::store::ItemStore;

/// Finds the link of a log object that this agent sealed.
pub type LinkOf = Arc<dyn Fn(LogSeq) -> Option<Hash> + Send + Sync>;

/// A source as a region's driver gets to know it.
pub struct Opening {
    /// The source.
    pub source: SourceName,
    /// The writer's term.
    pub epoch: Epoch,
    /// Who claimed it.
    pub writer: WriterId,
    /// The region's lane.
    pub lane: Lane,
    /// Where spool and log end.
    pub ends: Ends,
    /// The region holds this epoch's claim already: it need not be looked at.
    pub joined: bool,
    /// Finds the link of an object of ours.
    pub link_of: LinkOf,
    /// Where reports go.
    pub to: UnboundedSender<Report>,
    /// Nothing is shipped at first.
    pub held: bool,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opening({}, epoch {})", self.source, self.epoch)
    }
}

/// What a region's driver is told.
#[derive(Debug)]
pub enum Command {
    /// A source takes part.
    Open(Box<Opening>),
    /// An item was appended to its spool.
    Appended {
        /// The source.
        source: SourceName,
        /// The object's bytes.
        bytes: u64,
        /// What it is.
        content: Content,
    },
    /// What waits of the source is given up here, so far.
    GiveUp(SourceName, GiveUp),
    /// Nothing of the source is shipped until told otherwise.
    Hold(SourceName, bool),
    /// Nothing of the source is begun any more, until it is opened again; reported once nothing is
    /// under way.
    Freeze(SourceName),
    /// The newest beat.
    Beat(Sealed),
    /// Look whether the region still holds what was durable there; [`Report::Found`] says what came of it.
    LookFor {
        /// The source.
        source: SourceName,
        /// Whose question it is.
        ticket: u64,
    },
    /// Open the region anew and look around in it now; the answer says what came of it.
    Reload(oneshot::Sender<String>),
}

/// What a region's driver reports about a source.
#[derive(Debug)]
pub enum Report {
    /// The lane moved.
    Lane {
        /// The region.
        region: RegionName,
        /// The lane as it is now.
        lane: Lane,
    },
    /// Nothing of the source is under way, and nothing will be begun.
    Frozen {
        /// The region.
        region: RegionName,
        /// The lane as it is. The item at its cursor may have been tried.
        lane: Lane,
    },
    /// What came of [`Command::LookFor`].
    Found {
        /// The region.
        region: RegionName,
        /// Whose question it was.
        ticket: u64,
        /// What was found.
        found: Found,
    },
    /// Another writer has the source.
    Fenced {
        /// Whose it is, for people.
        why: String,
    },
}

/// Whether a region holds what was durable there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It does.
    There,
    /// It doesn't: its lane has begun anew.
    Gone,
    /// It doesn't answer.
    Away,
}

/// What a region's driver works with.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Greets.
    pub greeter: Arc<Greeter>,
    /// The items to ship.
    pub items: Arc<ItemStore>,
    /// Where blocking work on files is done.
    pub disk: Disk,
    /// Where people look.
    pub board: Arc<Board>,
    /// Counters.
    pub metrics: SharedMetrics,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Draws waits.
    pub rng: Arc<dyn Rng>,
    /// How often a greeted region is looked around for new keyrings and claims.
    pub look_every: Duration,
    /// Why everything must stop: a copy of this state directory was met, or the key was revoked.
    pub fatal: UnboundedSender<AgentError>,
}
