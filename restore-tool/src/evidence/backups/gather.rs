//! From what the regions show of a source to rows. Pure over what was loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_format::heads::{BaseHead, PointHead};
use tidemark_format::{BaseNumber, Epoch, Hash, LogSeq, PointSeq, RegionName, SourceName, keys};
use tidemark_ledger::timeline::Timeline;
use tidemark_ledger::{Keyring, Verified};

use super::{Backup, Signer, State, What};

/// What stands beside the regions' own words.
#[derive(Debug, Default)]
pub struct Beside {
    /// By a base's link: the instant at the end of the log object from which on it is usable.
    pub reaches: BTreeMap<Hash, Timestamp>,
    /// By the link of a base or of a log object: the newest drill that restored from or to it.
    pub drilled: BTreeMap<Hash, Arc<str>>,
    /// Regions that could not be read.
    pub unread: Vec<String>,
}

/// Every base and recovery point that some region shows, by the time of its seal.
#[must_use]
pub fn all(timeline: &Timeline, keyring: &Keyring, beside: &Beside) -> Vec<Backup> {
    let mut gathered = Gathered {
        timeline,
        keyring,
        beside,
        unread: Arc::from(beside.unread.join(" ")),
        signers: BTreeMap::new(),
        troubles: troubles(timeline),
        rows: Vec::new(),
    };
    gathered.bases();
    gathered.points();
    gathered.lost();
    let mut rows = gathered.rows;
    rows.sort_by(|one, other| {
        let place = |row: &Backup| (row.sealed, row.what, row.epoch, row.generation, row.number);
        place(one).cmp(&place(other))
    });
    rows
}

/// The copies of one object.
struct Copies<'a, H> {
    first: &'a Verified<H>,
    regions: Vec<RegionName>,
    others: Vec<RegionName>,
    is_void: bool,
}

impl<'a, H> Copies<'a, H> {
    fn add<K: Ord>(
        all: &mut BTreeMap<K, Self>,
        place: K,
        copy: &'a Verified<H>,
        region: &RegionName,
        is_void: bool,
    ) {
        let copies = all.entry(place).or_insert_with(|| Self {
            first: copy,
            regions: Vec::new(),
            others: Vec::new(),
            is_void,
        });
        if copies.first.link == copy.link {
            copies.regions.push(region.clone());
        } else {
            copies.others.push(region.clone());
        }
    }
}

/// What does not count, by key, and in which region.
type Troubles = BTreeMap<String, Vec<String>>;

fn troubles(timeline: &Timeline) -> Troubles {
    let own = |kind: &str| format!("meta/{kind}/{}/", timeline.source());
    let (points, bases) = (own("point"), own("base"));
    let mut found = Troubles::new();
    for (region, trouble) in timeline.troubles() {
        if trouble.key.starts_with(&points) || trouble.key.starts_with(&bases) {
            let why = tidemark_storage::chain(trouble.error.as_ref());
            let said = found.entry(trouble.key.clone()).or_default();
            said.push(format!("{region}: {why}"));
        }
    }
    found
}

struct Gathered<'a> {
    timeline: &'a Timeline,
    keyring: &'a Keyring,
    beside: &'a Beside,
    unread: Arc<str>,
    signers: BTreeMap<[u8; 32], Arc<Signer>>,
    troubles: Troubles,
    rows: Vec<Backup>,
}

impl Gathered<'_> {
    fn bases(&mut self) {
        let mut all: BTreeMap<(Epoch, LogSeq, BaseNumber), Copies<'_, BaseHead>> = BTreeMap::new();
        for (region, history) in self.timeline.histories() {
            for epoch in history.all_epochs() {
                let here = epoch.bases.iter().chain(&epoch.orphans);
                let here = here.map(|base| (base, false));
                let void = epoch.void_bases.iter().chain(&epoch.void_orphans);
                for (base, is_void) in here.chain(void.map(|base| (base, true))) {
                    let place = (base.head.epoch, base.head.generation, base.head.number);
                    Copies::add(&mut all, place, base, region, is_void);
                }
            }
        }
        let views = self.timeline.epochs().iter();
        let usable: BTreeSet<Hash> = views
            .flat_map(|view| view.bases.iter().map(|base| base.link))
            .collect();
        let newest = newest(&all);
        for (place, copies) in &all {
            let is_usable = usable.contains(&copies.first.link);
            let row = self.base(copies, is_usable);
            self.place(row, copies, *place, &newest);
        }
    }

    fn base(&mut self, copies: &Copies<'_, BaseHead>, is_usable: bool) -> Backup {
        let base = copies.first;
        let head = &base.head;
        let parent = head.parent.as_ref();
        Backup {
            what: What::Base,
            engine: head.engine.clone(),
            incarnation: head.incarnation.to_string(),
            generation: Some(head.generation),
            begun: Some(head.started_at),
            sealed: Some(head.finished_at),
            reaches_from: self.beside.reaches.get(&base.link).copied(),
            log: Some(head.start),
            rests_on: parent
                .map(|on| format!("base:{}/{}/{}", head.epoch, on.generation, on.number)),
            image_bytes: Some(head.image_bytes),
            stored_bytes: Some(head.stored_bytes.saturating_add(base.size)),
            state: if is_usable || copies.is_void {
                State::Whole
            } else {
                State::Unusable
            },
            drilled: self.beside.drilled.get(&base.link).cloned(),
            ..self.bare(What::Base, head.epoch, u64::from(head.number.0), base)
        }
    }

    fn points(&mut self) {
        let mut all: BTreeMap<(Epoch, PointSeq), Copies<'_, PointHead>> = BTreeMap::new();
        for (region, history) in self.timeline.histories() {
            for epoch in history.all_epochs() {
                let here = epoch.points.iter().map(|point| (point, false));
                let void = epoch.void_points.iter().map(|point| (point, true));
                for (point, is_void) in here.chain(void) {
                    let place = (point.head.epoch, point.head.seq);
                    Copies::add(&mut all, place, point, region, is_void);
                }
            }
        }
        let newest = newest(&all);
        let mut before: Option<(Epoch, LogSeq)> = None;
        for (place, copies) in &all {
            let row = self.point(copies, before);
            if !copies.is_void {
                before = Some((place.0, copies.first.head.log_seq));
            }
            self.place(row, copies, *place, &newest);
        }
    }

    fn point(&mut self, copies: &Copies<'_, PointHead>, before: Option<(Epoch, LogSeq)>) -> Backup {
        let point = copies.first;
        let head = &point.head;
        let base = &head.base;
        let first = match before {
            Some((epoch, last)) if epoch == head.epoch => last.next(),
            _ => LogSeq(0),
        };
        let log = self.timeline.epoch(head.epoch).map(|view| {
            let own = view.names.range(first..head.log_seq.next().max(first));
            own.map(|(_, size)| *size).fold(0, u64::saturating_add)
        });
        Backup {
            engine: head.engine.clone(),
            incarnation: head.incarnation.to_string(),
            name: head.name.clone(),
            sealed: Some(head.at),
            synchronised: head.clock.synchronised,
            reaches_from: self.beside.reaches.get(&base.link).copied(),
            covers_until: Some(head.committed),
            log: Some(head.log_seq),
            rests_on: Some(format!(
                "base:{}/{}/{}",
                head.epoch, base.generation, base.number
            )),
            stored_bytes: log.filter(|_| !copies.is_void),
            drilled: self.beside.drilled.get(&head.log_link).cloned(),
            ..self.bare(What::RecoveryPoint, head.epoch, head.seq.0, point)
        }
    }

    /// What every object has.
    fn bare<H>(&mut self, what: What, epoch: Epoch, number: u64, of: &Verified<H>) -> Backup {
        let keyring = self.keyring;
        let signer = self.signers.entry(of.signer.0).or_insert_with(|| {
            let member = keyring.member(&of.signer);
            Arc::new(Signer {
                key: of.signer.id(),
                name: member.map_or_else(String::new, |member| member.name.clone()),
                standing: match member {
                    Some(member) if member.revoked.is_some() => "revoked",
                    Some(_) => "enrolled",
                    None => "not enrolled",
                },
            })
        });
        let signer = Some(Arc::clone(signer));
        Backup {
            signer,
            link: Some(of.link),
            ..self.nothing(what, epoch, number, of.key.to_string())
        }
    }

    fn nothing(&self, what: What, epoch: Epoch, number: u64, key: String) -> Backup {
        Backup {
            what,
            source: self.timeline.source().clone(),
            engine: self.timeline.engine().unwrap_or_default().to_owned(),
            incarnation: String::new(),
            epoch,
            generation: None,
            number,
            name: None,
            begun: None,
            sealed: None,
            synchronised: None,
            reaches_from: None,
            covers_until: None,
            log: None,
            rests_on: None,
            image_bytes: None,
            stored_bytes: None,
            regions: Vec::new(),
            without: Vec::new(),
            behind: Vec::new(),
            unread: Arc::clone(&self.unread),
            state: State::Whole,
            doubts: Vec::new(),
            drilled: None,
            signer: None,
            link: None,
            key,
        }
    }

    /// Which regions have it, which lack it, and which are not as far yet.
    fn place<K: Ord + Copy, H>(
        &mut self,
        mut row: Backup,
        copies: &Copies<'_, H>,
        place: K,
        newest: &BTreeMap<RegionName, K>,
    ) {
        row.regions.clone_from(&copies.regions);
        let read = self.timeline.histories().map(|(name, _)| name);
        for region in read.chain(&self.timeline.lacking) {
            if row.regions.contains(region) {
                continue;
            }
            // Nothing later of that kind is there: it may be on its way.
            if newest.get(region).is_some_and(|last| *last < place) {
                row.behind.push(region.clone());
            } else {
                row.without.push(region.clone());
            }
        }
        row.doubts = self.troubles.remove(&row.key).unwrap_or_default();
        let others = copies.others.iter();
        row.doubts
            .extend(others.map(|region| format!("{region}: another object is under this name")));
        row.state = match row.state {
            _ if copies.is_void => State::Void,
            State::Whole if row.without.is_empty() && row.behind.is_empty() => State::Whole,
            State::Whole => State::InPart,
            state => state,
        };
        self.rows.push(row);
    }

    /// What no region has a good copy of.
    fn lost(&mut self) {
        for (key, doubts) in std::mem::take(&mut self.troubles) {
            let Some((what, epoch, generation, number)) = named(&key, self.timeline.source())
            else {
                continue;
            };
            let read = self.timeline.histories().map(|(name, _)| name);
            let without = read.chain(&self.timeline.lacking).cloned().collect();
            let row = Backup {
                generation,
                without,
                state: State::Lost,
                doubts,
                ..self.nothing(what, epoch, number, key)
            };
            self.rows.push(row);
        }
    }
}

/// The newest place of a kind in each region.
fn newest<K: Ord + Copy, H>(all: &BTreeMap<K, Copies<'_, H>>) -> BTreeMap<RegionName, K> {
    let mut newest = BTreeMap::new();
    for (place, copies) in all {
        for region in copies.regions.iter().chain(&copies.others) {
            newest.insert(region.clone(), *place);
        }
    }
    newest
}

/// What a key in `meta/point/` or `meta/base/` of a source names.
fn named(key: &str, source: &SourceName) -> Option<(What, Epoch, Option<LogSeq>, u64)> {
    let [_, _, points, bases] = keys::all_epochs(source);
    let (what, rest) = match (key.strip_prefix(&points), key.strip_prefix(&bases)) {
        (Some(rest), _) => (What::RecoveryPoint, rest),
        (None, Some(rest)) => (What::Base, rest),
        (None, None) => return None,
    };
    let mut parts = rest.split('/');
    let epoch = parts.next().and_then(Epoch::from_key)?;
    let generation = match what {
        What::Base => Some(parts.next().and_then(LogSeq::from_key)?),
        What::RecoveryPoint => None,
    };
    let number = parts.next()?.parse().ok()?;
    Some((what, epoch, generation, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_what_it_names() {
        let app = SourceName::new("app").unwrap();
        let point = keys::point(&app, Epoch(2), PointSeq(17));
        assert_eq!(
            named(point.as_str(), &app),
            Some((What::RecoveryPoint, Epoch(2), None, 17))
        );
        let base = keys::base(&app, Epoch(2), LogSeq(40), BaseNumber(3));
        assert_eq!(
            named(base.as_str(), &app),
            Some((What::Base, Epoch(2), Some(LogSeq(40)), 3))
        );
        let log = keys::log(&app, Epoch(2), LogSeq(1));
        assert_eq!(named(log.as_str(), &app), None);
        let other = SourceName::new("ap").unwrap();
        assert_eq!(named(point.as_str(), &other), None);
    }
}
