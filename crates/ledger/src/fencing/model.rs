//! Every interleaving of writers and take-overs for small N and W, explored exhaustively.
//!
//! The world: one old writer that ships in order to every region, and one or two take-overs, each
//! reaching a subset of the regions, which ship under their own epoch when they are through. Any
//! of them may stop at any step, for its next step need not be taken. In **every** reachable state:
//!
//! - what a writer could acknowledge (stored in W regions) is on the chain of every take-over that
//!   is through with a higher epoch;
//! - no name has two acknowledged objects.
//!
//! The same exploration with the wrong rule (an epoch ends at its lowest fence) must find losses:
//! so the test can fail.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tidemark_format::{Epoch, LogSeq, WriterId};

use super::state::{Action, Decision, EpochSeen, Event, Mode, Observation, Rules, TakeOver};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Object(WriterId),
    Fence(Epoch),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Store {
    claims: BTreeMap<Epoch, WriterId>,
    log: BTreeMap<(Epoch, LogSeq), Entry>,
}

impl Store {
    fn next(&self, epoch: Epoch) -> (LogSeq, bool) {
        let last = self
            .log
            .range((epoch, LogSeq(0))..=(epoch, LogSeq(u64::MAX)))
            .next_back();
        match last {
            None => (LogSeq(0), false),
            Some(((_, seq), Entry::Fence(_))) => (*seq, true),
            Some(((_, seq), Entry::Object(_))) => (seq.next(), false),
        }
    }

    fn observe(&self) -> Observation {
        let seen = self.claims.iter().map(|(epoch, writer)| {
            let (next, fenced) = self.next(*epoch);
            (
                *epoch,
                EpochSeen {
                    writer: Some(*writer),
                    next,
                    fenced,
                },
            )
        });
        seen.collect()
    }
}

/// A writer that ships `limit` objects, in order in each region.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shipper {
    id: WriterId,
    epoch: Epoch,
    next: Vec<u64>,
    limit: u64,
    stopped: bool,
}

impl Shipper {
    fn acknowledged(&self, seq: u64, durable_in: usize) -> bool {
        self.next.iter().filter(|next| **next > seq).count() >= durable_in
    }

    /// Joins a region if need be (claim, fences below), then creates the next object.
    fn ship(&mut self, region: usize, store: &mut Store) {
        match store.claims.get(&self.epoch) {
            Some(writer) if *writer == self.id => {}
            Some(_) => return self.stopped = true,
            None => {
                if store.claims.keys().any(|epoch| *epoch > self.epoch) {
                    return self.stopped = true;
                }
                store.claims.insert(self.epoch, self.id);
                let below: Vec<Epoch> = store.claims.range(..self.epoch).map(|(e, _)| *e).collect();
                for epoch in below {
                    let (at, fenced) = store.next(epoch);
                    if !fenced {
                        store.log.insert((epoch, at), Entry::Fence(self.epoch));
                    }
                }
            }
        }
        let name = (self.epoch, LogSeq(self.next[region]));
        match store.log.get(&name) {
            None => {
                store.log.insert(name, Entry::Object(self.id));
                self.next[region] += 1;
            }
            Some(_) => self.stopped = true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Taker {
    id: WriterId,
    machine: TakeOver,
    reaches: Vec<bool>,
    decision: Option<Decision>,
    /// The writer of the epoch it follows, as its link names it.
    follows: Option<WriterId>,
    shipper: Option<Shipper>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    stores: Vec<Store>,
    old: Shipper,
    takers: Vec<Taker>,
}

#[derive(Debug, Clone, Copy)]
struct Setup {
    regions: usize,
    durable_in: usize,
    objects: u64,
    takers: u8,
    lowest_fence: bool,
}

const OLD: WriterId = WriterId([0; 16]);

impl World {
    fn start(setup: &Setup, reaches: &[Vec<bool>]) -> Self {
        let rules = Rules::new((0..setup.regions).collect(), setup.durable_in);
        let mut store = Store::default();
        store.claims.insert(Epoch(1), OLD);
        let shipper = Shipper {
            id: OLD,
            epoch: Epoch(1),
            next: vec![0; setup.regions],
            limit: setup.objects,
            stopped: false,
        };
        let takers = reaches.iter().zip(1..).map(|(reaches, number)| {
            let id = WriterId([number; 16]);
            let machine = TakeOver::new(rules.clone(), Mode::TakeOver, id);
            let machine = if setup.lowest_fence {
                machine.with_lowest_fence()
            } else {
                machine
            };
            Taker {
                id,
                machine,
                reaches: reaches.clone(),
                decision: None,
                follows: None,
                shipper: None,
            }
        });
        Self {
            stores: vec![store; setup.regions],
            old: shipper,
            takers: takers.collect(),
        }
    }

    fn successors(&self) -> Vec<Self> {
        let mut next = Vec::new();
        for region in 0..self.stores.len() {
            if !self.old.stopped && self.old.next[region] < self.old.limit {
                let mut world = self.clone();
                world.old.ship(region, &mut world.stores[region]);
                next.push(world);
            }
        }
        for at in 0..self.takers.len() {
            for action in self.takers[at].machine.actions() {
                let mut world = self.clone();
                world.act(at, action);
                next.push(world);
            }
            let Some(shipper) = &self.takers[at].shipper else {
                continue;
            };
            for region in 0..self.stores.len() {
                if !shipper.stopped && shipper.next[region] < shipper.limit {
                    let mut world = self.clone();
                    let mut shipper = shipper.clone();
                    shipper.ship(region, &mut world.stores[region]);
                    world.takers[at].shipper = Some(shipper);
                    next.push(world);
                }
            }
        }
        next
    }

    fn act(&mut self, at: usize, action: Action) {
        let taker = &mut self.takers[at];
        let event = perform(taker, action, &mut self.stores);
        taker.machine.on(event);
        if let Ok(Some(decision)) = taker.machine.outcome() {
            let decision = decision.clone();
            taker.follows =
                decision
                    .follows
                    .zip(decision.read_from)
                    .map(|(name, region)| match self.stores[region].log[&name] {
                        Entry::Object(writer) => writer,
                        Entry::Fence(_) => panic!("the end of an epoch is an object"),
                    });
            taker.shipper = Some(Shipper {
                id: taker.id,
                epoch: decision.epoch,
                next: vec![0; self.stores.len()],
                limit: 1,
                stopped: false,
            });
            taker.decision = Some(decision);
        }
    }

    /// The epochs on a taker's chain: who wrote each, and its last object that counts.
    fn chain(&self, taker: &Taker) -> BTreeMap<Epoch, (WriterId, LogSeq)> {
        let mut chain = BTreeMap::new();
        let mut current = Some(taker);
        while let Some(taker) = current {
            let follows = taker
                .decision
                .as_ref()
                .and_then(|decision| decision.follows);
            let Some(((epoch, last), writer)) = follows.zip(taker.follows) else {
                break;
            };
            chain.insert(epoch, (writer, last));
            current = self.takers.iter().find(|other| other.id == writer);
        }
        chain
    }

    /// Every acknowledged object: epoch, sequence, writer.
    fn acknowledged(&self, setup: &Setup) -> Vec<(Epoch, LogSeq, WriterId)> {
        let shippers = self
            .takers
            .iter()
            .filter_map(|taker| taker.shipper.as_ref());
        let mut all = Vec::new();
        for shipper in shippers.chain([&self.old]) {
            let seqs = 0..shipper.limit;
            let seqs = seqs.filter(|seq| shipper.acknowledged(*seq, setup.durable_in));
            all.extend(seqs.map(|seq| (shipper.epoch, LogSeq(seq), shipper.id)));
        }
        all
    }

    fn fault(&self, setup: &Setup) -> Option<String> {
        let acknowledged = self.acknowledged(setup);
        let mut names = BTreeSet::new();
        for (epoch, seq, _) in &acknowledged {
            if !names.insert((*epoch, *seq)) {
                return Some(format!("two acknowledged objects {epoch}/{seq}"));
            }
        }
        for taker in &self.takers {
            let Some(decision) = &taker.decision else {
                continue;
            };
            let chain = self.chain(taker);
            for (epoch, seq, writer) in &acknowledged {
                let kept = chain
                    .get(epoch)
                    .is_some_and(|(by, last)| by == writer && seq <= last);
                if *epoch < decision.epoch && !kept {
                    return Some(format!("epoch {} lost {epoch}/{seq}", decision.epoch));
                }
            }
        }
        None
    }
}

fn perform(taker: &Taker, action: Action, stores: &mut [Store]) -> Event {
    let (Action::Observe { region } | Action::Claim { region, .. } | Action::Fence { region, .. }) =
        action;
    if !taker.reaches[region] {
        return Event::Lost { region };
    }
    let store = &mut stores[region];
    match action {
        Action::Observe { region } => Event::Observed {
            region,
            seen: store.observe(),
        },
        Action::Claim { region, epoch } => {
            if *store.claims.entry(epoch).or_insert(taker.id) == taker.id {
                Event::Claimed { region }
            } else {
                Event::ClaimTaken { region }
            }
        }
        Action::Fence { region, epoch, at } => {
            let ours = *store
                .claims
                .iter()
                .rfind(|(_, by)| **by == taker.id)
                .unwrap()
                .0;
            match *store.log.entry((epoch, at)).or_insert(Entry::Fence(ours)) {
                Entry::Object(_) => Event::Occupied { region, at },
                Entry::Fence(by) if by > ours => Event::Outrun { region, by },
                Entry::Fence(_) => Event::Fenced { region, at },
            }
        }
    }
}

fn subsets(regions: usize) -> Vec<Vec<bool>> {
    let all = 0..(1_usize << regions);
    all.map(|mask| (0..regions).map(|at| mask & (1 << at) != 0).collect())
        .collect()
}

/// Explores everything; returns how many states there are, how many takers got through in some
/// state, and the first fault.
fn explore(setup: &Setup) -> (usize, usize, Option<String>) {
    let reaches = subsets(setup.regions);
    let mut open: Vec<World> = match setup.takers {
        1 => reaches
            .iter()
            .map(|one| World::start(setup, std::slice::from_ref(one)))
            .collect(),
        _ => {
            let pairs = reaches
                .iter()
                .flat_map(|a| reaches.iter().map(move |b| (a, b)));
            pairs
                .map(|(a, b)| World::start(setup, &[a.clone(), b.clone()]))
                .collect()
        }
    };
    let mut seen: HashSet<u64> = HashSet::new();
    let mut through = 0;
    while let Some(world) = open.pop() {
        if !seen.insert(fingerprint(&world)) {
            continue;
        }
        if let Some(fault) = world.fault(setup) {
            return (seen.len(), through, Some(fault));
        }
        through += world
            .takers
            .iter()
            .filter(|taker| taker.decision.is_some())
            .count();
        open.extend(world.successors());
    }
    (seen.len(), through, None)
}

/// States are told apart by 64 bits: among a million, two meet by chance once in 37 million runs.
fn fingerprint(world: &World) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn setups(regions: std::ops::RangeInclusive<usize>, takers: u8, objects: u64) -> Vec<Setup> {
    let all =
        regions.flat_map(|regions| (1..=regions).map(move |durable_in| (regions, durable_in)));
    let setup = |(regions, durable_in)| Setup {
        regions,
        durable_in,
        objects,
        takers,
        lowest_fence: false,
    };
    all.map(setup).collect()
}

#[test]
fn a_take_over_loses_no_acknowledged_object_in_any_interleaving() {
    for setup in setups(1..=3, 1, 3) {
        let (states, through, fault) = explore(&setup);
        println!("{setup:?}: {states} states");
        assert_eq!(fault, None, "{setup:?}");
        assert!(
            through > 0,
            "{setup:?}: nobody got through, so nothing was tested"
        );
    }
}

#[test]
fn two_take_overs_at_once_never_acknowledge_two_objects_under_one_name() {
    for setup in setups(1..=2, 2, 1) {
        let (states, through, fault) = explore(&setup);
        println!("{setup:?}: {states} states");
        assert_eq!(fault, None, "{setup:?}");
        assert!(
            through > 0,
            "{setup:?}: nobody got through, so nothing was tested"
        );
    }
}

#[test]
fn ending_an_epoch_at_the_lowest_fence_loses_acknowledged_objects() {
    let wrong = Setup {
        regions: 3,
        durable_in: 2,
        objects: 2,
        takers: 1,
        lowest_fence: true,
    };
    let (_, _, fault) = explore(&wrong);
    assert!(fault.is_some_and(|fault| fault.contains("lost 1/")));
}
