//! From a goal to a plan: `planner` decides over what was read; here the heads are read.
//!
//! **Fails closed.** Before a plan is handed out, every log object from the base's start to the end
//! has a good, linked head in some region; what hasn't goes back to `planner` as a hole, and it
//! decides again or names what can be had.

mod document;
mod target;

use jiff::Timestamp;
use tidemark_format::heads::{BaseHead, LogHead, PointHead};
use tidemark_format::{Epoch, Key, LogSeq, PointSeq, RegionName, keys};
use tidemark_host::codes::{self, Code};
use tidemark_ledger::Verified;
use tidemark_planner::restore::{
    self as planner, BaseId, Bound, Mark, PointName, Proof, ServerLog, Stop, Target, Why,
};

pub use document::{ASSUMED_BYTES_PER_SECOND, PlanDocument, RECORDED, assumed_time};
pub use target::{Asked, Goal};
pub use tidemark_cli::recoverable::{Beyond, Reached, Recoverable, ServerReached, Window};
pub use tidemark_ledger::survey::{Avoid, Scope, Survey};
use tidemark_ledger::timeline::{EpochView, Lack, Timeline};

use crate::error::{Error, Result};

/// Segments at both ends of a server's log, and the one that it begins when recovery is over.
const WAL_SPARE_BYTES: u64 = 48 << 20;
/// Where recovery points stand.
const POINTS: &str = "meta/point/";
/// Heads that turn out bad while a plan is checked: each is another turn, and more is hopeless.
const TURNS_MAX: usize = 16;

/// What was asked for can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}{}", lines(more))]
pub struct NotRecoverable {
    refusal: Box<planner::NotRecoverable>,
    /// Bases that would have served, and what may have been meant.
    more: Vec<String>,
    code: Box<Code>,
}

impl NotRecoverable {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        *self.code
    }

    /// Whether it is there, and the identity doesn't open it.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self.refusal.why, Why::Closed { .. })
    }

    /// Whether the identity opens nothing of the source at all.
    #[must_use]
    pub const fn opens_nothing(&self) -> bool {
        self.is_closed() && self.refusal.earliest.is_none()
    }

    /// Says more.
    pub(crate) fn add(&mut self, line: String) {
        self.more.push(line);
    }

    /// What `planner` said.
    #[must_use]
    pub const fn refusal(&self) -> &planner::NotRecoverable {
        &self.refusal
    }
}

/// How the times of a source's commits are known.
#[must_use]
pub fn commit_times(timeline: &Timeline) -> &'static str {
    if timeline.is_divisible() {
        RECORDED
    } else {
        "observed"
    }
}

/// What of a source can be restored, as it stands at an instant.
///
/// # Errors
/// No region can be read.
pub async fn recoverable(timeline: &Timeline, now: Timestamp) -> Result<Recoverable> {
    let survey = Survey::new(timeline, &Avoid::default(), Scope::Whole).await?;
    Ok(Recoverable::at(planner::recoverable(&survey.facts()), now))
}

/// What a restore will do.
#[derive(Debug, Clone)]
#[must_use = "a plan that nobody executes restores nothing"]
pub struct RestorePlan {
    /// The bases, oldest first; each builds on the one before.
    pub bases: Vec<Verified<BaseHead>>,
    /// Every log object from the last base's start to the end.
    pub log: Vec<Verified<LogHead>>,
    /// The state it reaches; if replay ends inside the last log object, that object's end, and the last
    /// instant before the stop that is known without reading it.
    pub end: Reached,
    /// Where in the last log object replay ends.
    pub stop: Stop,
    /// Whether that is exactly the state at the instant asked for.
    pub exact: bool,
    /// Whether a recovery point covers the end.
    pub sealed: bool,
    /// Why nothing that was committed up to the target is missing.
    pub because: String,
    /// Where `latest` was asked for: what is later and can't be restored from the regions read.
    pub beyond: Option<Beyond>,
    /// What some region has lost; another one had it.
    pub exceptions: Vec<String>,
    /// Log objects that a region shows nothing of yet, because it is fed more slowly.
    pub behind: Vec<(RegionName, Key)>,
}

impl RestorePlan {
    /// Bytes to read at most.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let bases = self
            .bases
            .iter()
            .map(|base| base.head.stored_bytes.saturating_add(base.size));
        let log = self.log.iter().map(|object| object.size);
        bases.chain(log).fold(0, u64::saturating_add)
    }

    /// Bytes of the restored database: as the last log object says, and no less than its bases, which
    /// are written first.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        let bases = self
            .bases
            .iter()
            .map(|base| base.head.image_bytes)
            .max()
            .unwrap_or(0);
        let fact = |object: &Verified<LogHead>, name: &str| object.head.facts.get(name)?.as_u64();
        let end = self
            .log
            .last()
            .and_then(|end| fact(end, "pages")?.checked_mul(fact(end, "page_size")?));
        bases.max(end.unwrap_or(0))
    }

    /// Bytes that the target takes: a server keeps its log, too.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        let log = |object: Option<&Verified<LogHead>>| ServerLog::read(&object?.head.facts);
        let start = log(self.log.first()).and_then(|log| log.start);
        let end = log(self.log.last()).and_then(|log| log.end);
        let wal = start.zip(end).map(|(start, end)| {
            let log = end.since(start);
            log.saturating_add(WAL_SPARE_BYTES)
        });
        self.image_bytes().saturating_add(wal.unwrap_or(0))
    }

    /// Notes what stands past the end: with it the end is not all that there is.
    fn past_the_end(&mut self, beyond: Option<planner::Beyond>, inclusive: bool) {
        self.beyond = beyond.map(Beyond::from);
        if let Some(beyond) = self.beyond.as_ref().filter(|_| inclusive) {
            let newest = if beyond.is_certain() {
                "and not the newest"
            } else {
                "and perhaps not the newest"
            };
            self.because =
                format!("it is the last state that the regions read can bring back, {newest}");
        }
    }

    /// The newest base.
    #[must_use]
    pub fn base(&self) -> Option<&Verified<BaseHead>> {
        self.bases.last()
    }
}

/// Plans a restore of `timeline` to what was asked for, without what `avoid` names (it turned
/// out to be damaged everywhere). With `accept_older` `latest` may end before a recovery
/// point that some region shows.
///
/// # Errors
/// [`NotRecoverable`], or no region can be read.
pub async fn plan(
    timeline: &Timeline,
    asked: &Asked,
    avoid: &Avoid,
    accept_older: bool,
) -> Result<RestorePlan> {
    let scope = match asked.goal {
        Goal::Latest | Goal::Position(..) => Scope::Newest,
        Goal::Time(_) | Goal::Point(_) | Goal::PointAt(..) | Goal::Lsn(_) | Goal::Xid(_) => {
            Scope::Whole
        }
    };
    let mut survey = Survey::new(timeline, avoid, scope).await?;
    let mut target = resolve(timeline, &mut survey, asked).await?;
    for _ in 0..TURNS_MAX {
        let facts = survey.facts();
        let decided = match planner::plan(&facts, &target) {
            Ok(decided) => decided,
            Err(refusal) => match (&target, &refusal.latest) {
                (Target::Latest, Some(older)) if accept_older => {
                    target = Target::Position {
                        epoch: older.epoch,
                        seq: older.seq,
                    };
                    continue;
                }
                _ => return Err(refused(&survey, refusal)),
            },
        };
        if let Some(mut plan) = check(timeline, &mut survey, &decided).await? {
            if asked.goal == Goal::Latest {
                let end = (plan.end.epoch, plan.end.seq);
                plan.past_the_end(planner::beyond(&survey.facts(), end), asked.inclusive);
            }
            return Ok(plan);
        }
    }
    Err(Error::Unproved(
        "too much of this source's log is damaged to plan a restore".to_owned(),
    ))
}

/// A place that only the log of a server knows, if that is what was asked for. Reads the heads that may
/// tell of it.
async fn mark(timeline: &Timeline, survey: &mut Survey<'_>, asked: &Asked) -> Result<Option<Mark>> {
    asked.suits(timeline.engine(), |epoch, seq| {
        let points = timeline.epoch(epoch).map(|view| view.points.iter());
        let mut points = points.into_iter().flatten();
        points.any(|point| point.head.seq == seq)
    })?;
    let bound = if asked.inclusive {
        Bound::Included
    } else {
        Bound::Excluded
    };
    let mark = match &asked.goal {
        Goal::Lsn(at) => {
            let begins = |head: &LogHead| ServerLog::read(&head.facts).and_then(|log| log.start);
            let before = |head: &LogHead| begins(head).is_some_and(|start| start <= *at);
            survey.back_until(before).await?;
            return Ok(Some(Mark::Lsn(*at, bound)));
        }
        Goal::Xid(id) => Mark::Xid(*id, bound),
        Goal::Point(name) if timeline.is_divisible() => {
            if points_named(timeline, name).next().is_some() {
                return Ok(None);
            }
            Mark::Name(name.clone())
        }
        Goal::Latest | Goal::Time(_) | Goal::Position(..) | Goal::Point(_) | Goal::PointAt(..) => {
            return Ok(None);
        }
    };
    survey.back_until(|_| false).await?;
    Ok(Some(mark))
}

/// Reads what the goal needs and turns it into `planner`'s words.
async fn resolve(timeline: &Timeline, survey: &mut Survey<'_>, asked: &Asked) -> Result<Target> {
    if let Some(mark) = mark(timeline, survey, asked).await? {
        return Ok(Target::Mark(mark));
    }
    let position = match &asked.goal {
        Goal::Time(at) => {
            survey.around(*at).await?;
            if timeline.is_divisible() {
                survey.on_past(*at).await?;
            }
            return Ok(if asked.inclusive {
                Target::At(*at)
            } else {
                Target::Before(*at)
            });
        }
        Goal::Latest if asked.inclusive => return Ok(Target::Latest),
        // A mark, and none was found: no way leads here.
        Goal::Lsn(_) | Goal::Xid(_) => return Err(Error::TargetText(asked.text.clone())),
        Goal::Latest => match planner::plan(&survey.facts(), &Target::Latest) {
            Ok(latest) => (latest.epoch, latest.last_log),
            Err(refusal) => return Err(refused(survey, refusal)),
        },
        Goal::Position(epoch, seq) => (*epoch, *seq),
        Goal::Point(name) => {
            let Some(position) = points_named(timeline, name).next() else {
                return Ok(Target::Point(PointName::Name(name.clone())));
            };
            let position = (position.head.epoch, position.head.log_seq);
            survey.back_to_a_commit(position.0, position.1).await?;
            if asked.inclusive {
                return Ok(Target::Point(PointName::Name(name.clone())));
            }
            position
        }
        Goal::PointAt(epoch, seq) => {
            let target = Target::Point(PointName::At {
                epoch: *epoch,
                seq: *seq,
            });
            let Some(log_seq) = numbered(timeline, *epoch, *seq)? else {
                return Ok(target);
            };
            survey.back_to_a_commit(*epoch, log_seq).await?;
            if asked.inclusive {
                return Ok(target);
            }
            (*epoch, log_seq)
        }
    };
    let (epoch, seq) = position;
    survey.back_to_a_commit(epoch, seq).await?;
    survey.on_to_a_position(epoch, seq.next()).await?;
    if asked.inclusive {
        return Ok(Target::Position { epoch, seq });
    }
    if let Some(before) = seq.previous() {
        survey.back_to_a_commit(epoch, before).await?;
    }
    let before = survey.position_before(epoch, seq);
    // Nothing before it: the position itself is refused with the window's beginning.
    Ok(Target::Position {
        epoch,
        seq: before.unwrap_or(LogSeq(u64::MAX)),
    })
}

/// The recovery points that carry a name, the newest first.
pub fn points_named<'a>(
    timeline: &'a Timeline,
    name: &'a str,
) -> impl Iterator<Item = &'a Verified<PointHead>> {
    let points = timeline
        .epochs()
        .iter()
        .rev()
        .flat_map(|view| view.points.iter().rev());
    points.filter(move |point| point.head.name.as_deref() == Some(name))
}

/// The last log object that a recovery point covers. Another one that is called like its number is
/// not passed over in silence.
fn numbered(timeline: &Timeline, epoch: Epoch, seq: PointSeq) -> Result<Option<LogSeq>> {
    let text = format!("{epoch}/{seq}");
    let other = points_named(timeline, &text)
        .find(|point| (point.head.epoch, point.head.seq) != (epoch, seq));
    if let Some(other) = other {
        let (epoch, seq, log) = (other.head.epoch, other.head.seq, other.head.log_seq);
        return Err(Error::TargetText(format!(
            "point:{text} is the number of one recovery point and the name of another, point:{epoch}/{seq}: name the state that you mean by its position, as list shows it (the latter's is log:{epoch}:{log})"
        )));
    }
    let points = timeline.epoch(epoch).map(|view| view.points.iter());
    let mut found = points.into_iter().flatten();
    Ok(found
        .find(|point| point.head.seq == seq)
        .map(|point| point.head.log_seq))
}

/// Reads every head of a decided restore. `None`: something wasn't as assumed, decide again.
async fn check(
    timeline: &Timeline,
    survey: &mut Survey<'_>,
    decided: &planner::RestorePlan,
) -> Result<Option<RestorePlan>> {
    let Some(view) = timeline.epoch(decided.epoch) else {
        return Ok(None);
    };
    let places = survey
        .settle(decided.epoch, decided.first_log..decided.last_log.next())
        .await?;
    let Some(bases) = chain(view, &decided.bases) else {
        // The newest of them names another parent than the one that stands under that number.
        let newest = decided.bases.last().and_then(|id| find(view, id));
        if let Some(base) = newest {
            survey.avoid(base.link);
        }
        return Ok(None);
    };
    let Some(base) = bases.last() else {
        return Ok(None);
    };
    let mut log = Vec::with_capacity(places.len());
    let (mut exceptions, mut behind) = (Vec::new(), Vec::new());
    for place in places {
        let why = place.told_lost();
        let Some(object) = place.found else {
            return Ok(None);
        };
        if survey.is_closed(object.head.session) {
            return Ok(None);
        }
        if object.head.gap.is_some() || object.head.incarnation != base.head.incarnation {
            return Ok(None);
        }
        if place.seq == base.head.usable_from && object.link != base.head.usable_link {
            // The base was made on another chain than this one.
            survey.avoid(base.link);
            return Ok(None);
        }
        let late = place.troubles.iter();
        let late = late.filter(|one| one.lack == Lack::Behind);
        behind.extend(late.map(|one| (one.region.clone(), object.key.clone())));
        if !why.is_empty() {
            exceptions.push(format!("{}: {why}", object.key));
        }
        log.push(object);
    }
    exceptions.extend(bases_lost(timeline));
    exceptions.extend(points_lost(timeline));
    let (epoch, seq) = (decided.epoch, decided.last_log);
    Ok(Some(RestorePlan {
        bases,
        log,
        end: Reached {
            epoch,
            seq,
            at: decided.reached,
            server: decided.server.map(Into::into),
        },
        stop: decided.stop.clone(),
        exact: decided.exact,
        sealed: decided.sealed,
        because: because(decided),
        beyond: None,
        exceptions,
        behind,
    }))
}

fn because(decided: &planner::RestorePlan) -> String {
    let epoch = decided.epoch;
    match &decided.proof {
        Proof::LaterObject(seq) if decided.stop != Stop::End => {
            format!(
                "replay ends inside log:{epoch}:{seq}, ahead of its first commit past the instant"
            )
        }
        Proof::LaterObject(seq) if !decided.exact => format!(
            "to the ship interval: log:{epoch}:{seq} holds commits from before the instant and from after it and is left out (--to log:{epoch}:{seq} takes it whole)"
        ),
        Proof::LaterObject(seq) => {
            format!("the next log object, log:{epoch}:{seq}, holds later commits")
        }
        Proof::SameInstant => "a commit stands at this very instant".to_owned(),
        Proof::Point(point) => {
            format!("point:{epoch}/{point} says that nothing else was committed")
        }
        Proof::Beat => "the agent's beat says that nothing else was committed".to_owned(),
        Proof::Object => format!(
            "log:{epoch}:{} itself says that nothing else was committed",
            decided.last_log
        ),
        Proof::AskedFor if decided.stop != Stop::End => "this was asked for".to_owned(),
        Proof::AskedFor => "this position was asked for".to_owned(),
        Proof::EndOfLog => "it is the end of the log in the regions read".to_owned(),
    }
}

fn find(view: &EpochView, id: &BaseId) -> Option<Verified<BaseHead>> {
    let same = |base: &&Verified<BaseHead>| {
        base.head.generation == id.generation && base.head.number == id.number
    };
    view.bases.iter().find(same).cloned()
}

/// Bases that a region has lost: its newest recovery point names them, itself or through the bases
/// that it names, and a point comes last.
fn bases_lost(timeline: &Timeline) -> Vec<String> {
    let mut lines = Vec::new();
    for (region, history) in timeline.histories() {
        let Some(point) = history.newest_point() else {
            continue;
        };
        let mut named = Some(point.head.base);
        while let Some(reference) = named {
            let mut own = history
                .epochs()
                .flat_map(|epoch| epoch.bases.iter().chain(&epoch.orphans));
            if let Some(base) = own.find(|base| base.link == reference.link) {
                named = base.head.parent;
                continue;
            }
            let (source, epoch) = (&point.head.source, point.head.epoch);
            let key = keys::base(source, epoch, reference.generation, reference.number);
            let mut troubles = history.troubles().iter();
            let why = troubles
                .find(|trouble| trouble.key == key.as_str())
                .map_or_else(
                    || "it is not there".to_owned(),
                    |trouble| tidemark_storage::chain(trouble.error.as_ref()),
                );
            lines.push(format!("{key}: {region}: {why}"));
            named = None;
        }
    }
    lines
}

/// Recovery points that don't count, newer than every one that does: they may have covered more.
fn points_lost(timeline: &Timeline) -> Vec<String> {
    let newest = timeline.newest_point();
    let newest = newest.map(|point| (point.head.epoch, point.head.seq));
    let of_point = timeline.troubles().filter_map(|(region, trouble)| {
        let key = Key::new(trouble.key.as_str()).ok()?;
        let is_point = key.as_str().starts_with(POINTS);
        let (_, epoch, seq) = keys::dense(&key).ok().filter(|_| is_point)?;
        let newer = newest.is_none_or(|newest| newest < (epoch, PointSeq(seq)));
        let why = tidemark_storage::chain(trouble.error.as_ref());
        newer.then(|| format!("{key}: {region}: {why}"))
    });
    of_point.collect()
}

fn chain(view: &EpochView, ids: &[BaseId]) -> Option<Vec<Verified<BaseHead>>> {
    let chain: Option<Vec<Verified<BaseHead>>> = ids.iter().map(|id| find(view, id)).collect();
    // Bases were put together from several regions: each must name the very one before it.
    chain.filter(|chain| {
        chain.windows(2).all(|pair| match pair {
            [parent, child] => child.head.parent == Some(parent.head.reference(parent.link)),
            _ => true,
        }) && chain
            .first()
            .is_some_and(|first| first.head.parent.is_none())
    })
}

fn lines(more: &[String]) -> String {
    more.iter().map(|line| format!("; {line}")).collect()
}

fn refused(survey: &Survey<'_>, refusal: Box<planner::NotRecoverable>) -> Error {
    let (damaged, missing) = match &refusal.why {
        Why::NothingYet | Why::NoBase { .. } => (survey.damaged_bases(), survey.missing_bases()),
        // A signed gap stops nobody who has a base from behind it.
        Why::Hole { .. } => (Vec::new(), survey.missing_bases()),
        _ => (Vec::new(), Vec::new()),
    };
    let code = match &refusal.why {
        Why::Closed { .. } => codes::WRONG_IDENTITY,
        _ if !damaged.is_empty() => codes::DAMAGED,
        _ if !missing.is_empty() => codes::MISSING_OBJECT,
        Why::TooLate => codes::AFTER_WINDOW,
        Why::NothingYet | Why::TooEarly | Why::NoBase { .. } => codes::BEFORE_WINDOW,
        Why::Unknown(_) | Why::OtherLife { .. } => codes::NO_SUCH_STATE,
        Why::NotAPosition => codes::IN_GAP,
        Why::Hole { epoch, seq, .. } => match survey.place(*epoch, *seq) {
            Some(place) if place.found.is_some() => codes::IN_GAP,
            Some(place) if place.is_damaged() => codes::DAMAGED,
            Some(_) | None => codes::MISSING_OBJECT,
        },
    };
    let more = damaged.into_iter().chain(missing);
    Error::NotRecoverable(NotRecoverable {
        refusal,
        more: more.collect(),
        code: Box::new(code),
    })
}
