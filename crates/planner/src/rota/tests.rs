//! Drills over a simulated clock and a repository of steps: a month of them, two hosts, summer time,
//! downtime, hosts that die, drills that come to nothing.

use jiff::tz::TimeZone;

use super::*;

const RULES: Rules = Rules {
    jitter: Duration::ZERO,
    retry_after: Duration::from_secs(900),
    overdue_after: Duration::from_secs(86_400),
    attempts_max: 3,
};
/// A drill's own length.
const RUNS: SignedDuration = SignedDuration::from_mins(7);
const LEAST: Duration = Duration::from_secs(120);
/// How often a host looks although nothing is due.
const LOOKS: SignedDuration = SignedDuration::from_mins(30);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, TimeZone::get(zone).unwrap()).unwrap()
}

/// What stands in the repository: create-only.
#[derive(Default)]
struct Shared {
    slots: BTreeMap<Timestamp, Vec<Step>>,
    written: u64,
}

impl Shared {
    fn next(&self, slot: Timestamp) -> u32 {
        let steps = self.slots.get(&slot);
        u32::try_from(steps.map_or(0, Vec::len)).unwrap()
    }

    /// Creates a step unless its number is taken.
    fn write(&mut self, slot: Timestamp, seq: u32, make: impl FnOnce(Hash) -> Step) -> bool {
        let steps = self.slots.entry(slot).or_default();
        if steps.iter().any(|step| step.seq == seq) {
            return false;
        }
        self.written += 1;
        steps.push(make(Hash::of(&self.written.to_le_bytes())));
        true
    }

    /// Slots that came to a result, each as often as it did.
    fn results(&self) -> Vec<Timestamp> {
        let all = self.slots.iter();
        all.flat_map(|(slot, steps)| {
            let done = steps.iter().filter(|step| step.conclusive);
            done.map(|_| *slot)
        })
        .collect()
    }
}

struct Run {
    slot: Timestamp,
    claim: Hash,
    began: Timestamp,
    renew: Timestamp,
    ends: Timestamp,
}

struct Host {
    id: KeyId,
    schedule: Schedule,
    rules: Rules,
    since: Timestamp,
    /// Its clock minus the true time.
    skew: SignedDuration,
    up: bool,
    seen: BTreeMap<Hash, Timestamp>,
    run: Option<Run>,
    /// A claim of its own from before it died.
    own: Option<Hash>,
    runs: u32,
    /// What the next runs come to; conclusive when nothing is said.
    fates: Vec<bool>,
}

impl Host {
    fn new(id: u8, schedule: &Schedule, since: Timestamp) -> Self {
        Self {
            id: KeyId([id; 16]),
            schedule: schedule.clone(),
            rules: RULES,
            since,
            skew: SignedDuration::ZERO,
            up: true,
            seen: BTreeMap::new(),
            run: None,
            own: None,
            runs: 0,
            fates: Vec::new(),
        }
    }

    fn standing(&mut self, shared: &Shared, now: Timestamp) -> Standing {
        let mut slots = shared.slots.clone();
        for step in slots.values_mut().flatten() {
            let first = *self.seen.entry(step.link).or_insert(now);
            step.seen_for = Duration::try_from(now.duration_since(first)).unwrap();
            step.abandoned =
                self.run.is_none() && self.own == Some(step.claim.unwrap_or(step.link));
        }
        let drill = DrillName::new("nightly").unwrap();
        let known = Known {
            schedule: &self.schedule,
            rules: &self.rules,
            slots: &slots,
            since: self.since,
            seed: seed(&drill, self.id),
        };
        Standing::judge(&known, now + self.skew)
    }

    /// Does what is to be done now; when to come back.
    #[expect(clippy::too_many_lines, reason = "one turn of a host, in its order")]
    fn act(&mut self, shared: &mut Shared, now: Timestamp) -> Timestamp {
        if !self.up {
            return now + LOOKS;
        }
        let clock = now + self.skew;
        if let Some(run) = &mut self.run {
            let step = |step, conclusive, until| {
                move |link| Step {
                    seq: 0,
                    step,
                    link,
                    claim: None,
                    at: clock,
                    until,
                    seen_for: Duration::ZERO,
                    abandoned: false,
                    conclusive,
                    same_schedule: true,
                }
            };
            let (slot, claim, seq) = (run.slot, run.claim, shared.next(run.slot));
            let own = |made: Step| Step {
                seq,
                claim: Some(claim),
                ..made
            };
            if now >= run.ends {
                let conclusive = self.fates.pop().unwrap_or(true);
                let end = step(DrillStep::Ended, conclusive, None);
                shared.write(slot, seq, |link| own(end(link)));
                (self.run, self.own) = (None, None);
                return now;
            }
            if now >= run.renew {
                let ran = Duration::try_from(now.duration_since(run.began)).unwrap();
                let until = clock + SignedDuration::try_from(hold(ran, LEAST)).unwrap();
                let held = step(DrillStep::Held, false, Some(until));
                shared.write(slot, seq, |link| own(held(link)));
                run.renew = now + SignedDuration::try_from(hold(ran, LEAST) / 2).unwrap();
            }
            return run.renew.min(run.ends);
        }
        let standing = self.standing(shared, now);
        if let Turn::Due { slot, at, .. } = standing.turn
            && at <= clock
        {
            let seq = shared.next(slot);
            let until = Some(clock + SignedDuration::try_from(LEAST).unwrap());
            let mut claim = None;
            let taken = shared.write(slot, seq, |link| {
                claim = Some(link);
                Step {
                    seq,
                    step: DrillStep::Taken,
                    link,
                    claim: None,
                    at: clock,
                    until,
                    seen_for: Duration::ZERO,
                    abandoned: false,
                    conclusive: false,
                    same_schedule: true,
                }
            });
            if taken {
                self.runs += 1;
                self.own = claim;
                self.run = Some(Run {
                    slot,
                    claim: claim.unwrap(),
                    began: now,
                    renew: now + SignedDuration::try_from(LEAST / 2).unwrap(),
                    ends: now + RUNS,
                });
            }
            return now + SignedDuration::from_secs(1);
        }
        let again = standing
            .look_again()
            .map_or(now + LOOKS, |at| at - self.skew);
        again.clamp(now + SignedDuration::from_secs(1), now + LOOKS)
    }

    fn die(&mut self) {
        (self.up, self.run) = (false, None);
    }

    fn come_back(&mut self) {
        self.up = true;
        self.seen.clear();
    }
}

/// Lets time pass; `events` come at their time.
fn pass(
    hosts: &mut [Host],
    shared: &mut Shared,
    from: Timestamp,
    to: Timestamp,
    mut events: impl FnMut(Timestamp, &mut [Host]),
) {
    let mut now = from;
    while now < to {
        events(now, hosts);
        let wakes: Vec<Timestamp> = hosts.iter_mut().map(|host| host.act(shared, now)).collect();
        let next = wakes.into_iter().min().unwrap();
        now = next.max(now + SignedDuration::from_secs(1));
    }
}

fn slots_of(schedule: &Schedule, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let mut all = Vec::new();
    let mut slot = schedule.next_after(from);
    while let Some(at) = slot.filter(|at| *at < to) {
        all.push(at);
        slot = schedule.next_after(at);
    }
    all
}

#[test]
fn two_hosts_run_every_slot_of_a_month_once_through_the_end_of_summer_time() {
    let nightly = schedule("30 2 * * *", "Europe/Copenhagen");
    let (from, to) = (at("2026-10-10T12:00:00Z"), at("2026-11-10T12:00:00Z"));
    let mut hosts = [1, 2].map(|id| Host::new(id, &nightly, from));
    for host in &mut hosts {
        host.rules.jitter = Duration::from_secs(1800);
    }
    let mut shared = Shared::default();
    pass(&mut hosts, &mut shared, from, to, |_, _| {});
    let expected = slots_of(&nightly, from, to);
    assert_eq!(expected.len(), 31);
    assert_eq!(shared.results(), expected);
    // Jitter shares the work out.
    assert!(hosts.iter().all(|host| host.runs > 5), "{}", hosts[0].runs);
}

#[test]
fn the_hour_that_does_not_exist_is_drilled_once_and_so_is_the_one_that_comes_twice() {
    for (day, from) in [(29, "2026-03-28T12:00:00Z"), (25, "2026-10-24T12:00:00Z")] {
        let nightly = schedule("30 2 * * *", "Europe/Copenhagen");
        let from = at(from);
        let to = from + SignedDuration::from_hours(24);
        let mut hosts = [1, 2].map(|id| Host::new(id, &nightly, from));
        let mut shared = Shared::default();
        pass(&mut hosts, &mut shared, from, to, |_, _| {});
        assert_eq!(shared.results().len(), 1, "on the {day}th");
    }
}

#[test]
fn downtime_of_a_week_is_caught_up_with_by_one_run_that_says_how_many_it_stands_for() {
    let nightly = schedule("0 3 * * *", "UTC");
    let from = at("2026-11-01T00:00:00Z");
    let mut hosts = [Host::new(1, &nightly, from)];
    let mut shared = Shared::default();
    pass(
        &mut hosts,
        &mut shared,
        from,
        at("2026-11-20T00:00:00Z"),
        |now, hosts| match now {
            now if now < at("2026-11-05T12:00:00Z") => {}
            now if now < at("2026-11-12T12:00:00Z") => hosts[0].die(),
            _ if !hosts[0].up => hosts[0].come_back(),
            _ => {}
        },
    );
    let back = at("2026-11-12T12:00:30Z");
    let before: BTreeMap<_, _> = shared
        .slots
        .iter()
        .filter(|(slot, _)| **slot < at("2026-11-06T00:00:00Z"))
        .map(|(slot, steps)| (*slot, steps.clone()))
        .collect();
    let then = Shared {
        slots: before,
        written: 1000,
    };
    let told = Host::new(1, &nightly, from).standing(&then, back);
    assert_eq!(
        told.turn,
        Turn::Due {
            slot: at("2026-11-12T03:00:00Z"),
            at: at("2026-11-12T03:00:00Z"),
            attempt: 1
        }
    );
    assert_eq!((told.missed, told.overdue), (6, true));
    assert_eq!(told.due_since, Some(at("2026-11-06T03:00:00Z")));
    let results = shared.results();
    let of_the_gap: Vec<_> = results
        .iter()
        .filter(|slot| **slot > at("2026-11-05T12:00:00Z") && **slot < at("2026-11-13T00:00:00Z"))
        .collect();
    assert_eq!(of_the_gap, [&at("2026-11-12T03:00:00Z")]);
    assert_eq!(results.len(), 5 + 1 + 7);
}

#[test]
fn a_dead_claimants_slot_is_taken_by_the_other_host() {
    let nightly = schedule("0 3 * * *", "UTC");
    let from = at("2026-11-01T00:00:00Z");
    let mut hosts = [1, 2].map(|id| Host::new(id, &nightly, from));
    let mut shared = Shared::default();
    let mut killed = None;
    pass(
        &mut hosts,
        &mut shared,
        from,
        at("2026-11-02T00:00:00Z"),
        |now, hosts| {
            let running = hosts.iter_mut().find(|host| host.run.is_some());
            if let Some(host) = running
                && killed.is_none()
                && now >= at("2026-11-01T03:03:00Z")
            {
                host.die();
                killed = Some(host.id);
            }
        },
    );
    assert_eq!(shared.results(), [at("2026-11-01T03:00:00Z")]);
    let survivor = hosts.iter().find(|host| Some(host.id) != killed).unwrap();
    assert_eq!(survivor.runs, 1);
    let end = shared.slots.values().flatten().find(|step| step.conclusive);
    // It was held for two minutes at a time: the successor needed that, and its own run.
    assert!(end.unwrap().at < at("2026-11-01T03:20:00Z"), "{end:?}");
}

#[test]
fn a_host_that_comes_back_takes_its_own_dead_turn_at_once() {
    let nightly = schedule("0 3 * * *", "UTC");
    let from = at("2026-11-01T00:00:00Z");
    let mut hosts = [Host::new(1, &nightly, from)];
    let mut shared = Shared::default();
    let mut deaths = 0;
    pass(
        &mut hosts,
        &mut shared,
        from,
        at("2026-11-02T00:00:00Z"),
        |now, hosts| {
            if hosts[0].run.is_some() && deaths == 0 && now >= at("2026-11-01T03:01:00Z") {
                hosts[0].die();
                hosts[0].come_back();
                deaths += 1;
            }
        },
    );
    let end = shared.slots.values().flatten().find(|step| step.conclusive);
    assert!(end.unwrap().at < at("2026-11-01T03:10:00Z"), "{end:?}");
    assert_eq!(hosts[0].runs, 2);
}

#[test]
fn clocks_that_differ_by_a_minute_run_no_slot_twice() {
    let often = schedule("*/15 * * * *", "UTC");
    let from = at("2026-11-01T00:00:00Z");
    let mut hosts = [1, 2].map(|id| Host::new(id, &often, from));
    hosts[1].skew = SignedDuration::from_secs(60);
    let mut shared = Shared::default();
    let to = at("2026-11-02T00:00:00Z");
    pass(&mut hosts, &mut shared, from, to, |_, _| {});
    let results = shared.results();
    let mut once = results.clone();
    once.dedup();
    assert_eq!(results, once);
    assert!(results.len() >= 94, "{}", results.len());
}

#[test]
fn an_inconclusive_run_is_tried_again_later_and_given_up_after_three() {
    let nightly = schedule("0 3 * * *", "UTC");
    let from = at("2026-11-01T00:00:00Z");
    let mut hosts = [Host::new(1, &nightly, from)];
    hosts[0].fates = vec![true, false];
    let mut shared = Shared::default();
    let to = at("2026-11-02T00:00:00Z");
    pass(&mut hosts, &mut shared, from, to, |_, _| {});
    assert_eq!((hosts[0].runs, shared.results().len()), (2, 1));
    let starts: Vec<_> = shared.slots[&at("2026-11-01T03:00:00Z")]
        .iter()
        .filter(|step| step.step == DrillStep::Taken)
        .map(|step| step.at)
        .collect();
    assert!(starts[1] >= starts[0] + RUNS + SignedDuration::from_mins(15));
    // Never conclusive: three tries a slot, and the standing says so.
    hosts[0].fates = vec![false; 3];
    let (from, to) = (to, at("2026-11-02T12:00:00Z"));
    pass(&mut hosts, &mut shared, from, to, |_, _| {});
    assert_eq!(hosts[0].runs, 5);
    let slot = at("2026-11-02T03:00:00Z");
    let standing = hosts[0].standing(&shared, to);
    assert_eq!(standing.turn, Turn::GivenUp { slot });
    assert_eq!((standing.due_since, standing.overdue), (Some(slot), false));
    let standing = hosts[0].standing(&shared, at("2026-11-03T03:00:00Z"));
    assert!(standing.overdue, "{standing:?}");
}

#[test]
fn a_turn_that_was_given_back_is_free_at_once_and_is_no_try() {
    let nightly = schedule("0 3 * * *", "UTC");
    let mut shared = Shared::default();
    let slot = at("2026-11-01T03:00:00Z");
    for seq in [0, 1] {
        let first = shared.slots.get(&slot).map(|steps| steps[0].link);
        shared.write(slot, seq, |link| Step {
            seq,
            step: [DrillStep::Taken, DrillStep::Released][usize::try_from(seq).unwrap()],
            link,
            claim: first,
            at: slot,
            until: Some(slot + SignedDuration::from_mins(2)),
            seen_for: Duration::ZERO,
            abandoned: false,
            conclusive: false,
            same_schedule: true,
        });
    }
    let mut host = Host::new(1, &nightly, at("2026-10-01T00:00:00Z"));
    let standing = host.standing(&shared, slot);
    let due = Turn::Due {
        slot,
        at: slot,
        attempt: 1,
    };
    assert_eq!(standing.turn, due);
}

#[test]
fn a_schedule_that_is_new_here_begins_with_its_next_slot() {
    let monthly = schedule("0 3 1 * *", "UTC");
    let now = at("2026-11-20T12:00:00Z");
    let mut host = Host::new(1, &monthly, now);
    let standing = host.standing(&Shared::default(), now);
    assert_eq!(standing.turn, Turn::Wait);
    assert_eq!(standing.next, Some(at("2026-12-01T03:00:00Z")));
    assert_eq!((standing.due_since, standing.missed), (None, 0));
    // Known since before the slot, it is caught up with.
    host.since = at("2026-10-20T00:00:00Z");
    let standing = host.standing(&Shared::default(), now);
    assert!(
        matches!(standing.turn, Turn::Due { .. }) && standing.overdue,
        "{standing:?}"
    );
}

#[test]
fn a_host_that_joins_catches_up_with_what_the_others_missed_under_the_same_schedule_only() {
    let monthly = schedule("0 3 1 * *", "UTC");
    let (slot, now) = (at("2026-10-01T03:00:00Z"), at("2026-11-20T12:00:00Z"));
    for same_schedule in [true, false] {
        let mut shared = Shared::default();
        shared.write(slot, 0, |link| Step {
            seq: 0,
            step: DrillStep::Ended,
            link,
            claim: None,
            at: slot,
            until: None,
            seen_for: Duration::ZERO,
            abandoned: false,
            conclusive: true,
            same_schedule,
        });
        let standing = Host::new(1, &monthly, now).standing(&shared, now);
        let is_due = matches!(standing.turn, Turn::Due { .. });
        assert_eq!(is_due, same_schedule, "{standing:?}");
        assert_eq!(standing.overdue, same_schedule);
    }
}

#[test]
fn the_newest_slot_is_found_however_rare_slots_are() {
    for (text, now, expected) in [
        (
            "* * * * * *",
            "2026-11-22T10:00:00.5Z",
            "2026-11-22T10:00:00Z",
        ),
        ("0 3 * * *", "2026-11-22T02:59:59Z", "2026-11-21T03:00:00Z"),
        ("0 0 29 2 *", "2027-11-22T00:00:00Z", "2024-02-29T00:00:00Z"),
        (
            "0 9-17 * * 1-5",
            "2026-11-22T10:00:00Z",
            "2026-11-20T17:00:00Z",
        ),
    ] {
        let found = latest(&schedule(text, "UTC"), at(now));
        assert_eq!(found, Some(at(expected)), "{text}");
    }
}

#[test]
fn a_turn_is_held_longer_the_longer_the_drill_has_run_and_never_without_end() {
    let secs = Duration::from_secs;
    assert_eq!(hold(secs(0), LEAST), LEAST);
    assert_eq!(hold(secs(600), LEAST), secs(600));
    assert_eq!(hold(secs(86_400), LEAST), HOLD_MAX);
}
