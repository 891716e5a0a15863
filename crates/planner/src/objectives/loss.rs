//! Clauses about what is lost and what is kept: exposure, instants, images, recovery points, age.

use std::time::Duration;

use jiff::Timestamp;

use super::exposure::{Gap, Trace};
use super::facts::{DrillFact, Facts, HoleFact};
use super::proof::{RUN_ONE, left_out, next_drill};
use super::words::{before, between, count, instant, lasting};
use super::{Basis, Judged, Verdict};

/// Examples of what is wrong that a verdict lists; it says how many more there are.
const LISTED_MAX: usize = 3;
/// An image that begins on schedule may begin this much later: clocks are put forward, others are made.
const BASE_LATE: Duration = Duration::from_secs(2 * 3600);
/// So many exposures that are too long are no mishap, where most are.
const PACE_MIN: usize = 10;
/// Why an exposure is an upper bound. A clause that is broken has everything read that breaks it.
const NOT_ALL_READ: &str = "; an upper bound: it was short enough for every clause, so not all log and beats between its \
                            ends were read (a stricter clause reads them, and finds less)";
/// Where replay can't end after any commit: an agent that says nothing for so long was not looking.
const BLIND: Duration = Duration::from_secs(180);

/// A history that is too young to show it, if nothing is wrong so far.
pub(super) fn unless_young(judged: Judged, facts: &Facts, over: Duration) -> Judged {
    if judged.verdict != Verdict::Pass {
        return judged;
    }
    let Some(age) = facts.too_young(over) else {
        return judged;
    };
    let measured = format!("{} of {}; {}", lasting(age), lasting(over), judged.measured);
    let begins = facts.begins.map(instant).unwrap_or_default();
    Judged {
        verdict: Verdict::NotYet,
        next: Some(format!(
            "nothing to do but wait: the history begins at {begins}"
        )),
        measured,
        ..judged
    }
}

fn nothing_yet(what: &str) -> Judged {
    Judged::unproved(
        Basis::Measured,
        format!("{what}: nothing of this source can be restored yet"),
    )
    .then("tidemark-agent status on its host says why")
}

fn unread(facts: &Facts) -> String {
    if facts.away.is_empty() {
        return String::new();
    }
    format!(" (not read: {})", facts.away.join("; "))
}

/// The first few of a list, and how many more.
pub(super) fn examples<T>(all: &[T], one: impl Fn(&T) -> String) -> String {
    let shown: Vec<String> = all.iter().take(LISTED_MAX).map(one).collect();
    let more = all.len().saturating_sub(shown.len());
    let shown = shown.join("; ");
    if more == 0 {
        shown
    } else {
        format!("{shown}; and {more} more")
    }
}

/// The gaps and holes that reach into the last `over`, of a history.
fn recent(facts: &Facts, over: Duration) -> (Vec<&Gap>, Vec<&HoleFact>) {
    let since = before(facts.now, over);
    let gaps = facts.gaps.iter().filter(|gap| gap.to > since).collect();
    let holes = facts.holes.iter().filter(|hole| hole.to > since).collect();
    (gaps, holes)
}

pub(super) fn rpo(facts: &Facts, within: Duration, over: Duration) -> Judged {
    let (gaps, holes) = recent(facts, over);
    // Of two that are as long, the one that was read exactly.
    let exactly = |gap: &Gap| !facts.bounds.contains(gap);
    let Some(longest) = gaps.iter().max_by_key(|gap| (gap.length(), exactly(gap))) else {
        return nothing_yet("no exposure can be measured");
    };
    let unread = unread(facts);
    let late: Vec<&&Gap> = gaps.iter().filter(|gap| gap.length() > within).collect();
    let lost: Vec<&&HoleFact> = holes.iter().filter(|hole| hole.length() > within).collect();
    if late.is_empty() && lost.is_empty() {
        let gaps = match holes.len() {
            0 => "no gap".to_owned(),
            some => format!("{} shorter than that", count(some, "gap")),
        };
        let (bound, why) = if exactly(longest) {
            ("", "")
        } else {
            ("at most ", NOT_ALL_READ)
        };
        let measured = format!(
            "longest exposure {bound}{} (until {}) of at most {}, {gaps}{why}{unread}",
            lasting(longest.length()),
            instant(longest.to),
            lasting(within),
        );
        let judged = Judged::pass(Basis::Measured, measured).by(traces(longest));
        return unless_young(judged, facts, over);
    }
    let mut told = Vec::new();
    if !late.is_empty() {
        told.push(format!(
            "{} longer than {}, the longest {}: {}",
            count(late.len(), "exposure"),
            lasting(within),
            lasting(longest.length()),
            examples(&late, |gap| format!(
                "from {} to {} nothing new was safe in any region ({})",
                instant(gap.from),
                instant(gap.to),
                lasting(gap.length())
            ))
        ));
    }
    if !lost.is_empty() {
        let list = examples(&lost, |hole| of_hole(hole));
        told.push(format!(
            "{} that can't be restored: {list}",
            count(lost.len(), "gap")
        ));
    }
    let next = what_next(&gaps, &late);
    let proof: Vec<String> = late
        .iter()
        .take(LISTED_MAX)
        .flat_map(|gap| traces(gap))
        .collect();
    Judged::fail(Basis::Measured, format!("{}{unread}", told.join("; ")))
        .by(proof)
        .then(next)
}

/// What to do about exposures that are too long.
fn what_next(gaps: &[&Gap], late: &[&&Gap]) -> String {
    let lasting_one = late.iter().find(|gap| gap.before.is_none());
    match (pace(gaps, late.len()), lasting_one) {
        (Some(usual), lasting_one) if lasting_one.is_none_or(|gap| gap.length() <= usual * 3) => {
            format!(
                "no outage, the agent's own pace: half of all exposures are {} or longer, as log is shipped (ship_every \
                 in agent.toml) and beats are written no more often; shorten ship_every, or promise no less than the \
                 agent can keep",
                lasting(usual)
            )
        }
        (_, Some(_)) => {
            "it lasts: tidemark-agent status on the source's host says what holds it up".to_owned()
        }
        (_, None) => {
            "it is over: the agent's journal of that time says why (region away, agent stopped); the clause holds \
             again once the window has passed it"
                .to_owned()
        }
    }
}

/// How long exposures are as a rule, if that alone breaks the clause: then nothing was late.
fn pace(gaps: &[&Gap], late: usize) -> Option<Duration> {
    if late < PACE_MIN || late.saturating_mul(2) <= gaps.len() {
        return None;
    }
    let mut lengths: Vec<Duration> = gaps.iter().map(|gap| gap.length()).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied()
}

fn of_hole(hole: &HoleFact) -> String {
    format!(
        "from {} to {} ({})",
        instant(hole.from),
        instant(hole.to),
        hole.why
    )
}

fn traces(gap: &Gap) -> Vec<String> {
    let both = [Some(gap.after), gap.before];
    both.into_iter()
        .flatten()
        .map(|trace| trace.to_string())
        .collect()
}

pub(super) fn pitr(facts: &Facts, within: Duration, over: Duration) -> Judged {
    let (Some(earliest), Some(through)) = (facts.earliest, facts.through) else {
        return nothing_yet("no instant can be restored");
    };
    let since = before(facts.now, over);
    let (gaps, holes) = recent(facts, over);
    let lost: Vec<&&HoleFact> = holes.iter().filter(|hole| hole.length() > within).collect();
    if !lost.is_empty() {
        let measured = format!(
            "{} within the window can't be restored: {}",
            count(lost.len(), "span"),
            examples(&lost, |hole| of_hole(hole))
        );
        return Judged::fail(Basis::Measured, measured)
            .then("tidemark-restore list shows the windows; the clause holds again once the window has passed it");
    }
    if let Some(judged) = coarse(facts, &gaps, within) {
        return judged;
    }
    if let Some(judged) = forgotten(facts, over) {
        return judged;
    }
    precision(facts, within, over, (earliest.max(since), through))
}

/// What was there and can't be restored any more, although it is to be kept: unlike what is not there yet.
fn forgotten(facts: &Facts, over: Duration) -> Option<Judged> {
    let (earliest, begins) = (facts.earliest?, facts.begins?);
    let since = before(facts.now, over);
    if begins > since || earliest <= since {
        return None;
    }
    let measured = format!(
        "nothing before {} can be restored any more, and {} are to be kept",
        instant(earliest),
        lasting(over)
    );
    let judged = Judged::fail(Basis::Measured, measured);
    Some(judged.then("look at recoverable_for in agent.toml"))
}

/// Times in which states can't be told from each other as finely as promised.
fn coarse(facts: &Facts, gaps: &[&Gap], within: Duration) -> Option<Judged> {
    if facts.divisible {
        return None;
    }
    let limit = within.max(BLIND);
    let blind: Vec<&&Gap> = gaps
        .iter()
        .filter(|gap| gap.before.is_some() && gap.length() > limit)
        .collect();
    if !blind.is_empty() {
        let measured = format!(
            "{} in which the agent was not looking: what was committed then comes back as one state: {}",
            count(blind.len(), "time"),
            examples(&blind, |gap| format!(
                "from {} to {}",
                instant(gap.from),
                instant(gap.to)
            ))
        );
        let proof: Vec<String> = blind
            .iter()
            .take(LISTED_MAX)
            .flat_map(|gap| traces(gap))
            .collect();
        return Some(
            Judged::fail(Basis::Measured, measured).by(proof).then(
                "keep the agent running beside the database; its journal says why it was not",
            ),
        );
    }
    let wide = facts
        .coarsest
        .as_ref()
        .filter(|gap| gap.length() > within)?;
    let measured = format!(
        "states are up to {} apart (from {} to {}), more than {}",
        lasting(wide.length()),
        instant(wide.from),
        instant(wide.to),
        lasting(within)
    );
    let judged = Judged::fail(Basis::Measured, measured).by(traces(wide));
    Some(judged.then("shorten ship_every in agent.toml"))
}

/// Why a drill says nothing of a restore's precision, if it doesn't.
fn unmeasured(drill: &DrillFact) -> Option<String> {
    let none = drill.pitr_error.is_none();
    let none = none.then(|| {
        "it measured no precision (no canary at the source, or no instant between two of them was asked for)".to_owned()
    });
    drill.flaw().or(none)
}

/// What drills measured of a restore's precision.
fn precision(
    facts: &Facts,
    within: Duration,
    over: Duration,
    (from, to): (Timestamp, Timestamp),
) -> Judged {
    let window = format!("every instant from {} to {}", instant(from), instant(to));
    let since = before(facts.now, over);
    let measuring: Vec<_> = facts
        .drills
        .iter()
        .filter(|drill| drill.at > since && drill.flaw().is_none())
        .filter_map(|drill| Some((drill, drill.pitr_error?)))
        .collect();
    let notes = left_out(facts, since, unmeasured);
    let Some((worst, error)) = measuring.iter().max_by_key(|(_, error)| *error) else {
        let measured =
            format!("{window} can be restored; no drill has measured the precision{notes}");
        let next = next_drill(facts, since).unwrap_or_else(|| {
            format!(
                "{RUN_ONE}, with --select random and a canary at the source (canary in agent.toml)"
            )
        });
        return Judged::unproved(Basis::Measured, measured).then(next);
    };
    if *error > within {
        let measured = format!(
            "a drill was {} off, more than {}",
            lasting(*error),
            lasting(within)
        );
        return Judged::fail(Basis::Measured, measured)
            .by([worst.id.clone()])
            .then(format!("tidemark-restore evidence show {}", worst.id));
    }
    let measured = format!(
        "{window} can be restored; {} measured an error of at most {}{notes}",
        count(measuring.len(), "drill"),
        lasting(*error)
    );
    let judged = Judged::pass(Basis::Measured, measured)
        .by(measuring.iter().map(|(drill, _)| drill.id.clone()));
    unless_young(judged, facts, over)
}

pub(super) fn kept_at_most(facts: &Facts, within: Option<Duration>) -> Judged {
    let declared = within.or(facts.declared.kept_at_most);
    let Some(oldest) = &facts.oldest else {
        return nothing_yet("nothing is kept");
    };
    let age = between(oldest.at, facts.now);
    let Some(limit) = declared else {
        let measured = format!(
            "the oldest object is {} old; how long the law lets it be kept is declared nowhere",
            lasting(age)
        );
        return Judged::unproved(Basis::Declared, measured)
            .by([oldest.key.clone()])
            .then("write what the law says: kept_at_most under [objectives] in restore.toml, or `within` in the policy");
    };
    let what = format!("the oldest object is {} old", lasting(age));
    if age > limit {
        return Judged::fail(
            Basis::Measured,
            format!("{what}, older than {}", lasting(limit)),
        )
        .by([oldest.key.clone()])
        .then("delete what is too old; this version does not do that by itself");
    }
    Judged::pass(
        Basis::Measured,
        format!("{what}, of at most {}", lasting(limit)),
    )
    .by([oldest.key.clone()])
}

pub(super) fn full_backups(facts: &Facts, every: Duration, over: Duration) -> Judged {
    let Some(newest) = facts.bases.last() else {
        return Judged::fail(Basis::Measured, "no full image of the database is kept")
            .then("tidemark-agent snapshot --base on its host");
    };
    let since = before(facts.now, over);
    let longest_made = facts
        .bases
        .iter()
        .map(|base| between(base.started_at, base.finished_at))
        .max();
    let allowed = every
        .saturating_add(BASE_LATE)
        .saturating_add(longest_made.unwrap_or_default());
    let mut instants: Vec<Timestamp> = facts.bases.iter().map(|base| base.started_at).collect();
    if !facts.retired {
        instants.push(facts.now);
    }
    let gaps: Vec<(Timestamp, Timestamp)> = instants
        .windows(2)
        .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
        .filter(|(from, to)| *to > since && between(*from, *to) > allowed)
        .collect();
    if !gaps.is_empty() {
        let list = examples(&gaps, |(from, to)| {
            format!("none begun from {} to {}", instant(*from), instant(*to))
        });
        return Judged::fail(
            Basis::Measured,
            format!(
                "{} longer than {} without a full image: {list}",
                count(gaps.len(), "time"),
                lasting(every)
            ),
        )
        .by([newest.key.clone()])
        .then("look at base_schedule in agent.toml, and at tidemark-agent status");
    }
    if let Some(judged) = forgotten(facts, over) {
        return judged;
    }
    let kept = facts
        .bases
        .iter()
        .filter(|base| base.finished_at > since)
        .count();
    let measured = format!(
        "{} made in the last {}, never more than {} apart; the newest is of {}",
        count(kept, "full image"),
        lasting(over),
        lasting(allowed),
        instant(newest.started_at)
    );
    let judged = Judged::pass(Basis::Measured, measured).by([newest.key.clone()]);
    unless_young(judged, facts, over)
}

pub(super) fn snapshots(facts: &Facts, every: Duration, over: Duration) -> Judged {
    let Some(newest) = facts.points.last() else {
        return Judged::fail(Basis::Measured, "no recovery point is kept")
            .then("tidemark-agent status on its host says why");
    };
    let since = before(facts.now, over);
    let ends = facts.points.iter().skip(1).map(|point| point.at);
    let last = (!facts.retired).then_some(facts.now);
    let gaps: Vec<(Timestamp, Timestamp)> = facts
        .points
        .iter()
        .zip(ends.chain(last))
        .filter(|(from, to)| *to > since && between(from.at, *to) > every)
        .filter(|(from, to)| !is_idle(facts, from.committed, before(*to, every)))
        .map(|(from, to)| (from.at, to))
        .collect();
    if !gaps.is_empty() {
        let list = examples(&gaps, |(from, to)| {
            format!("none from {} to {}", instant(*from), instant(*to))
        });
        let many = count(gaps.len(), "time");
        let measured = format!(
            "{many} longer than {} without a recovery point: {list}",
            lasting(every)
        );
        return Judged::fail(Basis::Measured, measured)
            .by([newest.name.clone()])
            .then("tidemark-agent status on its host; its journal says what happened then");
    }
    let made = facts.points.iter().filter(|point| point.at > since).count();
    let measured = format!(
        "{} in the last {}, and nothing committed waited for one for more than {}; the newest is {} of {}",
        count(made, "recovery point"),
        lasting(over),
        lasting(every),
        newest.name,
        instant(newest.at)
    );
    let judged = Judged::pass(Basis::Measured, measured).by([newest.name.clone()]);
    unless_young(judged, facts, over)
}

/// Whether it is on record that nothing was committed from one instant to another: the agent went on
/// saying that it is caught up, and no log came.
fn is_idle(facts: &Facts, from: Timestamp, to: Timestamp) -> bool {
    let mut between = facts
        .gaps
        .iter()
        .filter(|gap| from < gap.from && gap.from <= to);
    let no_log = between.all(|gap| !matches!(gap.after, Trace::Log(..)));
    no_log && facts.gaps.iter().any(|gap| gap.from > to)
}
