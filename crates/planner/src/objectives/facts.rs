//! What is on record of one source, as plain facts. Whoever read the repository fills them in and has
//! checked signatures and links; here nothing is trusted or doubted any more.

use std::time::Duration;

use jiff::Timestamp;

use super::exposure::Gap;
use super::words;

/// What is known of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// When it was looked.
    pub now: Timestamp,
    /// Whether nothing is captured any more, as somebody asked.
    pub retired: bool,
    /// Whether replay may end after any commit: a server's log.
    pub divisible: bool,
    /// Regions that could not be read, and why: what only they hold is not known.
    pub away: Vec<String>,
    /// The first instant from which on anything is known.
    pub begins: Option<Timestamp>,
    /// The earliest instant that can be restored.
    pub earliest: Option<Timestamp>,
    /// The last.
    pub through: Option<Timestamp>,
    /// Every time in which what would be lost grew, over as long as any clause asks, oldest first.
    pub gaps: Vec<Gap>,
    /// Those of them between whose ends not everything was read: upper bounds.
    pub bounds: Vec<Gap>,
    /// Times within the windows that can't be restored.
    pub holes: Vec<HoleFact>,
    /// How far apart two states are that can be told from each other, at most, where replay can't
    /// end after any commit; none if no log was read.
    pub coarsest: Option<Gap>,
    /// The oldest object that is kept.
    pub oldest: Option<OldestObject>,
    /// Full images, oldest first.
    pub bases: Vec<BaseMade>,
    /// Recovery points, oldest first.
    pub points: Vec<PointMade>,
    /// Drills, oldest first.
    pub drills: Vec<DrillFact>,
    /// Restores that people made, oldest first.
    pub returns: Vec<ReturnFact>,
    /// The regions.
    pub regions: Vec<RegionFact>,
    /// Where regions are declared: a file and its date.
    pub declared_in: Option<String>,
    /// To whom secrets are sealed.
    pub holders: Vec<Holder>,
    /// Sessions of the agents.
    pub sessions: Vec<SessionFact>,
    /// Objects with a body, and how many were looked at.
    pub bodies: usize,
    /// Those of them whose body is not encrypted.
    pub plain_bodies: Vec<String>,
    /// How the agent reaches its database.
    pub server_link: ServerLink,
    /// The record of uses.
    pub access: AccessLog,
    /// Reviews of who has access, oldest first.
    pub reviews: Vec<ReviewFact>,
    /// The keyring's version.
    pub keyring_version: u32,
    /// What a person declared.
    pub declared: Declared,
}

impl Facts {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            retired: false,
            divisible: false,
            away: Vec::new(),
            begins: None,
            earliest: None,
            through: None,
            gaps: Vec::new(),
            bounds: Vec::new(),
            holes: Vec::new(),
            coarsest: None,
            oldest: None,
            bases: Vec::new(),
            points: Vec::new(),
            drills: Vec::new(),
            returns: Vec::new(),
            regions: Vec::new(),
            declared_in: None,
            holders: Vec::new(),
            sessions: Vec::new(),
            bodies: 0,
            plain_bodies: Vec::new(),
            server_link: ServerLink::NoServer,
            access: AccessLog::default(),
            reviews: Vec::new(),
            keyring_version: 0,
            declared: Declared::default(),
        }
    }

    /// How old the history is, if that is less than `over`.
    pub(super) fn too_young(&self, over: Duration) -> Option<Duration> {
        let begins = self.begins?;
        let age = words::between(begins, self.now);
        (age < over).then_some(age)
    }
}

/// A time that can't be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoleFact {
    /// The last state before it.
    pub from: Timestamp,
    /// The first after it.
    pub to: Timestamp,
    /// Why.
    pub why: String,
}

impl HoleFact {
    pub(super) fn length(&self) -> Duration {
        words::between(self.from, self.to)
    }
}

/// The oldest object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestObject {
    /// Its name.
    pub key: String,
    /// When it was made.
    pub at: Timestamp,
}

/// A full image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseMade {
    /// Its name.
    pub key: String,
    /// When reading the database began.
    pub started_at: Timestamp,
    /// When it was stored.
    pub finished_at: Timestamp,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointMade {
    /// As `--to` takes it.
    pub name: String,
    /// When it was sealed.
    pub at: Timestamp,
    /// Everything committed up to here is in it.
    pub committed: Timestamp,
}

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrillVerdict {
    /// Everything was as it should be.
    Pass,
    /// The database came back, and something beside it was not as it should be.
    PassWithExceptions,
    /// It failed.
    Fail,
    /// It could not be carried out: counts for nothing.
    Inconclusive,
}

/// A drill, as its record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillFact {
    /// The record's id.
    pub id: String,
    /// When it was declared.
    pub at: Timestamp,
    /// How it ended.
    pub verdict: DrillVerdict,
    /// Why it ended so.
    pub because: String,
    /// Why the record doesn't count, whatever it says: its signer isn't enrolled, its chain is broken.
    pub discounted: Option<String>,
    /// Whether it ran where production doesn't.
    pub segregated: bool,
    /// Which disaster was exercised; none for a plain one.
    pub scenario: Option<String>,
    /// From the declaration to the last check.
    pub rto: Option<Duration>,
    /// The same for the full size and the worst replay.
    pub rto_projected: Option<Duration>,
    /// How far the state that came back is from the one asked for.
    pub pitr_error: Option<Duration>,
    /// What a try to reach the network from inside ended with: true if it failed, as it must.
    pub egress_refused: Option<bool>,
    /// Whether what it restored was destroyed, and that was verified.
    pub destroyed: Option<bool>,
    /// Rows that left the sandbox.
    pub rows_exported: Option<u64>,
    /// Who signed it off, if somebody did; and who rejected it before.
    pub signed_off: Option<String>,
}

impl DrillFact {
    /// Why it says nothing at all, if it doesn't: neither that it worked nor that it failed.
    pub(super) fn silence(&self) -> Option<String> {
        let inconclusive = self.verdict == DrillVerdict::Inconclusive;
        let why = inconclusive.then(|| "it was inconclusive".to_owned());
        self.discounted.clone().or(why)
    }

    /// Whether it would count if the root vouched for who signed it.
    pub(super) fn waits_for_enrolment(&self) -> bool {
        self.discounted
            .as_ref()
            .is_some_and(|why| why.contains("keys enrol"))
    }

    /// What is to be known of where it ran.
    pub(super) const fn beside(&self) -> &'static str {
        if self.segregated {
            ""
        } else {
            " on the source's own host"
        }
    }

    /// Why it doesn't count as a restore to a non-production environment, if it doesn't.
    pub(super) fn flaw(&self) -> Option<String> {
        if let Some(why) = &self.discounted {
            return Some(why.clone());
        }
        match self.verdict {
            DrillVerdict::Fail => Some(format!("it failed: {}", self.because)),
            DrillVerdict::Inconclusive => Some("it was inconclusive".to_owned()),
            DrillVerdict::Pass | DrillVerdict::PassWithExceptions if !self.segregated => {
                Some("it ran on the source's own host".to_owned())
            }
            DrillVerdict::Pass | DrillVerdict::PassWithExceptions => None,
        }
    }
}

/// A restore that a person made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnFact {
    /// The record's id.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// Whether the data came back.
    pub worked: bool,
}

/// What a region's URL says of the way there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    Tls,
    /// A network, unencrypted.
    Plain,
    /// A directory: no network that is known of.
    Directory,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionFact {
    /// Its name.
    pub name: String,
    /// Its URL without options.
    pub place: String,
    /// The country it is declared to be in.
    pub country: Option<String>,
    /// Regions of one domain fail together.
    pub failure_domain: String,
    /// Whether a person declared that; else it is the region's name.
    pub domain_named: bool,
    /// The device of a directory, where it can be looked at.
    pub device: Option<u64>,
    /// The way there, as this tool goes it.
    pub transport: Transport,
    /// Whether the agent, as it signs, goes there unencrypted; none if it doesn't say.
    pub agent_plain: Option<bool>,
    /// `enforced` or `advisory`, as the agent probed and signed.
    pub create_only: Option<String>,
    /// The recovery point that says so.
    pub probed_by: Option<String>,
    /// Everything committed up to here is in it; none if it holds nothing of the source.
    pub committed: Option<Timestamp>,
}

/// To whom secrets are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The key's id.
    pub key: String,
    /// Whose it is, as the root signed it.
    pub name: String,
    /// When access was taken away.
    pub revoked_at: Option<Timestamp>,
}

/// A session of an agent: everything of it opens with one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFact {
    /// Its name.
    pub key: String,
    /// When it began.
    pub at: Timestamp,
    /// Ids of the keys that open it.
    pub sealed_to: Vec<String>,
}

/// How an agent reaches its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerLink {
    /// It reads a file: there is nothing to encrypt.
    NoServer,
    /// On the same machine, or encrypted: how, and the object that says so.
    Safe(String, Option<String>),
    /// Over a network, unencrypted; the object that says so.
    Plain(Option<String>),
    /// Nobody signed how.
    Unknown,
}

/// The record of uses of recovery keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessLog {
    /// How many records.
    pub records: usize,
    /// When the first was made.
    pub first: Option<Timestamp>,
    /// When the last was made.
    pub last: Option<Timestamp>,
    /// What is wrong with the chains.
    pub broken: Vec<String>,
    /// How many of the records are by signers that nobody vouched for.
    pub unvouched: usize,
    /// Those signers.
    pub strangers: Vec<String>,
}

/// A review of who has access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewFact {
    /// The reviewed record's id.
    pub id: String,
    /// The keyring's version that was reviewed.
    pub keyring_version: u32,
    /// When it was signed off; none if it wasn't.
    pub at: Option<Timestamp>,
    /// By whom.
    pub reviewer: String,
    /// Whether it was approved.
    pub approved: bool,
    /// Whether the decision is signed by the identity that put the list on record.
    pub same_identity: bool,
    /// Who rejected it before that decision, and when; none if nobody did.
    pub rejected: Option<String>,
    /// Why it doesn't count, whatever it says.
    pub discounted: Option<String>,
}

/// What a person declared, in a config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Declared {
    /// Nothing may be kept longer.
    pub kept_at_most: Option<Duration>,
    /// People who may hold a recovery key, by the names in the keyring.
    pub people: Vec<String>,
    /// Machines that may.
    pub machines: Vec<String>,
}
