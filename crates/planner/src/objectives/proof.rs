//! Clauses that drills prove: time to be back, that restores are exercised, that nothing leaks by it.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::facts::{DrillFact, DrillVerdict, Facts};
use super::loss::examples;
use super::rule::Every;
use super::words::{before, between, count, day, instant, lasting, listed};
use super::{Basis, Judged, Verdict};

/// What leads to a drill that counts.
pub(super) const RUN_ONE: &str = "tidemark-restore drill run, on a host that is not the source's";

/// The most months that are told by name.
const MONTHS_MAX: usize = 6;

fn show(drill: &DrillFact) -> String {
    format!("tidemark-restore evidence show {}", drill.id)
}

/// What lets drills count that were made already, if that is all that lacks.
pub(super) fn next_drill(facts: &Facts, since: Timestamp) -> Option<String> {
    let mut told = facts.drills.iter().filter(|drill| drill.at > since);
    told.any(DrillFact::waits_for_enrolment).then(|| {
        "tidemark-restore keys enrol --all --root FILE.root, where the root key is: what that signer wrote then counts"
            .to_owned()
    })
}

/// A time to be back is one wherever it was measured; on the source's own host it is called that.
pub(super) fn rto(facts: &Facts, within: Duration, over: Duration) -> Judged {
    let since = before(facts.now, over);
    let mut told = facts.drills.iter().rev().filter(|drill| drill.at > since);
    // An inconclusive one says nothing, and one that doesn't count can't excuse a failure before it.
    let newest = told.find(|drill| drill.silence().is_none());
    let notes = left_out(facts, since, DrillFact::silence);
    let Some(drill) = newest else {
        let measured = format!(
            "no drill of the last {} that counts has measured it{notes}",
            lasting(over)
        );
        let next = next_drill(facts, since).unwrap_or_else(|| RUN_ONE.to_owned());
        return Judged::unproved(Basis::Measured, measured).then(next);
    };
    let beside = drill.beside();
    if drill.verdict == DrillVerdict::Fail {
        let measured = format!(
            "the newest drill ({}{beside}) failed: {}{notes}",
            day(drill.at),
            drill.because
        );
        return Judged::fail(Basis::Measured, measured)
            .by([drill.id.clone()])
            .then(show(drill));
    }
    let Some(took) = drill.rto else {
        let measured = format!("the newest drill ({}) says no time", day(drill.at));
        return Judged::unproved(Basis::Measured, measured)
            .by([drill.id.clone()])
            .then(RUN_ONE);
    };
    let projected = drill.rto_projected.unwrap_or(took);
    let worst = took.max(projected);
    let other = if drill.segregated {
        ""
    } else {
        "; that another host would take no longer is not shown"
    };
    let measured = format!(
        "back in {} by the drill of {}{beside}, by projection {} for the full size and the worst replay; at most {}{other}{notes}",
        lasting(took),
        day(drill.at),
        lasting(projected),
        lasting(within)
    );
    // What was tried breaks it by itself; that the worst would hold too is computed, not tried.
    let basis = if took > within || projected <= took {
        Basis::Measured
    } else {
        Basis::Projected
    };
    if worst > within {
        let next = "restore from a faster region, or make bases more often, so that less is to be replayed";
        return Judged::fail(basis, measured)
            .by([drill.id.clone()])
            .then(next);
    }
    Judged::pass(basis, measured).by([drill.id.clone()])
}

/// Whether drills came often enough. `filter` is whether only drills of a disaster count, and only those
/// that were signed off.
pub(super) fn cadence(facts: &Facts, every: Every, over: Duration, filter: (bool, bool)) -> Judged {
    let (scenario, signed_off) = filter;
    let since = before(facts.now, over);
    let right: Vec<&DrillFact> = facts
        .drills
        .iter()
        .filter(|drill| drill.at > since && drill.flaw().is_none())
        .filter(|drill| !scenario || drill.scenario.is_some())
        .collect();
    let counted: Vec<&DrillFact> = right
        .iter()
        .copied()
        .filter(|drill| !signed_off || drill.signed_off.is_some())
        .collect();
    let failed = newest_failed(facts, since, scenario);
    if let (None, true, Some(waiting)) = (failed, counted.is_empty(), right.last()) {
        return unsigned(waiting);
    }
    let begins = facts.begins.unwrap_or(facts.now).max(since);
    let missed = match every {
        Every::Month => months_without(&counted, begins, facts.now),
        Every::Time(apart) => times_without(&counted, begins, facts.now, apart),
    };
    let what = if scenario {
        "drill of a disaster"
    } else {
        "drill"
    };
    let notes = left_out(facts, since, DrillFact::flaw);
    let young = facts.too_young(over);
    let so_far = young.map(|age| format!("so far ({} of {}): ", lasting(age), lasting(over)));
    let so_far = so_far.unwrap_or_default();
    if !missed.is_empty() {
        let more = missed.len().saturating_sub(MONTHS_MAX);
        let mut shown: Vec<String> = missed.into_iter().take(MONTHS_MAX).collect();
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        let measured = format!("no {what} that counts in {}{notes}", listed(&shown));
        let judged = Judged::fail(Basis::Measured, measured);
        return judged
            .by(counted.last().map(|drill| drill.id.clone()))
            .then(next_of(scenario));
    }
    if let Some(failed) = failed {
        return broken(failed, &counted, what);
    }
    let Some(newest) = counted.last() else {
        let judged = Judged::new(
            Verdict::NotYet,
            Basis::Measured,
            format!(
                "no {what} that counts yet; the history is {} old{notes}",
                lasting(between(begins, facts.now))
            ),
        );
        return judged.then(next_of(scenario));
    };
    held(&counted, newest, (what, begins), (&so_far, &notes))
}

/// The newest drill that says anything, if it failed: what passed before it is no proof of today.
fn newest_failed(facts: &Facts, since: Timestamp, scenario: bool) -> Option<&DrillFact> {
    let newest = facts.drills.iter().rev().find(|drill| {
        drill.at > since
            && drill.discounted.is_none()
            && drill.verdict != DrillVerdict::Inconclusive
            && (!scenario || drill.scenario.is_some())
    });
    newest.filter(|drill| drill.verdict == DrillVerdict::Fail)
}

/// They came often enough, and the newest failed.
fn broken(failed: &DrillFact, counted: &[&DrillFact], what: &str) -> Judged {
    let before = counted.last().map_or_else(
        || "none before it counts".to_owned(),
        |last| {
            format!(
                "{} before it passed, the last at {}",
                count(counted.len(), what),
                instant(last.at)
            )
        },
    );
    let measured = format!(
        "the newest {what}, of {}, failed: {}; {before}",
        instant(failed.at),
        failed.because
    );
    let next = format!("{}; then another drill", show(failed));
    Judged::fail(Basis::Measured, measured)
        .by([failed.id.clone()])
        .then(next)
}

/// One that passed and that nobody has looked at.
fn unsigned(waiting: &DrillFact) -> Judged {
    let measured = format!(
        "the drill of {} ({}) is not signed off: nobody says what was learned from it",
        day(waiting.at),
        waiting.scenario.as_deref().unwrap_or("plain")
    );
    Judged::unproved(Basis::Measured, measured)
        .by([waiting.id.clone()])
        .then(format!(
            "tidemark-restore evidence sign-off {} --reviewer NAME --ticket URL --decision approved",
            waiting.id
        ))
}

/// They came often enough.
fn held(
    counted: &[&DrillFact],
    newest: &DrillFact,
    (what, begins): (&str, Timestamp),
    (so_far, notes): (&str, &str),
) -> Judged {
    let exceptions = if newest.verdict == DrillVerdict::PassWithExceptions {
        format!(" with exceptions ({})", newest.because)
    } else {
        String::new()
    };
    let reviewed = newest.signed_off.as_ref();
    let reviewed = reviewed.map(|who| format!(", signed off by {who}"));
    let measured = format!(
        "{so_far}{} since {}, the newest of {} passed{exceptions}{}{notes}",
        count(counted.len(), what),
        day(begins),
        day(newest.at),
        reviewed.unwrap_or_default()
    );
    let ids = counted.iter().rev().take(3).map(|drill| drill.id.clone());
    Judged::pass(Basis::Measured, measured).by(ids)
}

fn next_of(scenario: bool) -> String {
    if scenario {
        "tidemark-restore drill run --scenario fresh-host (or without-region=NAME), then evidence sign-off".to_owned()
    } else {
        RUN_ONE.to_owned()
    }
}

/// The drills that were made and don't count, with the reason.
pub(super) fn left_out(
    facts: &Facts,
    since: Timestamp,
    why: impl Fn(&DrillFact) -> Option<String>,
) -> String {
    let all: Vec<String> = facts
        .drills
        .iter()
        .rev()
        .filter(|drill| drill.at > since)
        .filter_map(|drill| Some(format!("{}: {}", day(drill.at), why(drill)?)))
        .collect();
    if all.is_empty() {
        String::new()
    } else {
        format!(
            "; {} not counted: {}",
            all.len(),
            examples(&all, Clone::clone)
        )
    }
}

/// Whole months of the calendar, and the running one once it has none and the one before had none.
fn months_without(counted: &[&DrillFact], begins: Timestamp, now: Timestamp) -> Vec<String> {
    let month = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        Date::new(date.year(), date.month(), 1).unwrap_or(date)
    };
    let held: Vec<Date> = counted.iter().map(|drill| month(drill.at)).collect();
    let (mut at, last) = (month(begins), month(now));
    // The month in which a history begins is no whole one.
    if at
        .to_zoned(TimeZone::UTC)
        .is_ok_and(|start| start.timestamp() < begins)
    {
        at = next_month(at);
    }
    let mut missed = Vec::new();
    while at < last {
        if !held.contains(&at) {
            missed.push(at.strftime("%B %Y").to_string());
        }
        at = next_month(at);
    }
    missed
}

fn next_month(at: Date) -> Date {
    at.checked_add(jiff::Span::new().months(1))
        .unwrap_or(Date::MAX)
}

/// Times longer than `apart` without one.
fn times_without(
    counted: &[&DrillFact],
    begins: Timestamp,
    now: Timestamp,
    apart: Duration,
) -> Vec<String> {
    let mut instants = vec![begins];
    instants.extend(counted.iter().map(|drill| drill.at));
    instants.push(now);
    instants
        .windows(2)
        .filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
        .filter(|(from, to)| between(*from, *to) > apart)
        .map(|(from, to)| {
            format!(
                "the {} from {} to {}",
                lasting(between(from, to)),
                day(from),
                day(to)
            )
        })
        .collect()
}

pub(super) fn isolated(facts: &Facts, over: Duration) -> Judged {
    let since = before(facts.now, over);
    let (all, empty): (Vec<&DrillFact>, Vec<&DrillFact>) = facts
        .drills
        .iter()
        .filter(|drill| drill.at > since)
        .partition(|drill| restored(drill));
    let aside = match empty.len() {
        0 => String::new(),
        some => format!(
            "; {} that ended before anything was restored had nothing to isolate",
            count(some, "drill")
        ),
    };
    if all.is_empty() {
        let measured = format!(
            "no drill of the last {} shows where restored data goes{aside}",
            lasting(over)
        );
        return Judged::unproved(Basis::Probed, measured).then(RUN_ONE);
    }
    let (wrong, unknown) = leaks(&all);
    let tell = |all: &[Leak<'_>]| {
        let text = examples(all, |(_, why)| why.clone());
        let ids: Vec<String> = all
            .iter()
            .take(3)
            .map(|(drill, _)| drill.id.clone())
            .collect();
        (text, ids)
    };
    if let Some((first, _)) = wrong.first() {
        let next = show(first);
        let (text, ids) = tell(&wrong);
        let measured = format!("production data did not stay in its sandbox: {text}");
        return Judged::fail(Basis::Probed, measured).by(ids).then(next);
    }
    if !unknown.is_empty() {
        let (text, ids) = tell(&unknown);
        return Judged::unproved(Basis::Probed, text).by(ids).then(RUN_ONE);
    }
    if let Some(beside) = all.iter().find(|drill| !drill.segregated) {
        let measured = format!(
            "the drill of {} ran on the source's own host",
            day(beside.at)
        );
        return Judged::unproved(Basis::Probed, measured)
            .by([beside.id.clone()])
            .then(RUN_ONE);
    }
    let measured = format!(
        "{}: from inside the network could not be reached, no row left, what was restored was destroyed and is \
         absent{aside}",
        count(all.len(), "drill")
    );
    Judged::pass(Basis::Probed, measured).by(all.iter().rev().take(3).map(|drill| drill.id.clone()))
}

/// A drill, and what is wrong with where its data went.
type Leak<'a> = (&'a DrillFact, String);

/// Whether there was anything to isolate: one that ended before it restored anything had nothing.
fn restored(drill: &DrillFact) -> bool {
    let passed = match drill.verdict {
        DrillVerdict::Pass | DrillVerdict::PassWithExceptions => true,
        DrillVerdict::Fail | DrillVerdict::Inconclusive => false,
    };
    passed
        || drill.egress_refused.is_some()
        || drill.destroyed.is_some()
        || drill.rows_exported.is_some_and(|rows| rows > 0)
}

/// What left a sandbox, and of which drills nobody can tell.
fn leaks<'a>(all: &[&'a DrillFact]) -> (Vec<Leak<'a>>, Vec<Leak<'a>>) {
    let mut wrong = Vec::new();
    let mut unknown = Vec::new();
    for drill in all {
        let on = day(drill.at);
        if drill.egress_refused == Some(false) {
            wrong.push((
                *drill,
                format!("{on}: the network could be reached from inside"),
            ));
        }
        if drill.destroyed == Some(false) {
            wrong.push((*drill, format!("{on}: what was restored was not destroyed")));
        }
        if drill.rows_exported.is_some_and(|rows| rows > 0) {
            wrong.push((*drill, format!("{on}: rows left the sandbox")));
        }
        if drill.egress_refused.is_none() || drill.destroyed.is_none() {
            unknown.push((*drill, format!("{on}: its record does not say")));
        }
    }
    (wrong, unknown)
}

/// A try to bring the data back: when, whether it worked, its record, and what is to be known of where.
type Return<'a> = (Timestamp, bool, &'a str, &'static str);

pub(super) fn return_of_data(facts: &Facts, over: Duration) -> Judged {
    let since = before(facts.now, over);
    let restores = facts.returns.iter();
    let restores = restores.map(|one| (one.at, one.worked, one.id.as_str(), ""));
    let drills = facts.drills.iter().filter(|one| one.silence().is_none());
    let drills = drills.map(|one| {
        let worked = one.verdict != DrillVerdict::Fail;
        (one.at, worked, one.id.as_str(), one.beside())
    });
    let newest: Option<Return<'_>> = restores
        .chain(drills)
        .filter(|(at, ..)| *at > since)
        .max_by_key(|(at, ..)| *at);
    let notes = left_out(facts, since, DrillFact::silence);
    let Some((at, worked, id, beside)) = newest else {
        let measured = format!(
            "no restore of the last {} that counts is on record{notes}",
            lasting(over)
        );
        let next = next_drill(facts, since).unwrap_or_else(|| RUN_ONE.to_owned());
        return Judged::unproved(Basis::Measured, measured).then(next);
    };
    if !worked {
        let measured = format!(
            "the newest try to bring the data back, of {}{beside}, failed{notes}",
            instant(at)
        );
        return Judged::fail(Basis::Measured, measured)
            .by([id])
            .then(format!("tidemark-restore evidence show {id}"));
    }
    let measured = format!(
        "the whole database was brought back on {}{beside}; one customer's data by itself only where it is a source of \
         its own{notes}",
        day(at)
    );
    Judged::pass(Basis::Measured, measured).by([id])
}
