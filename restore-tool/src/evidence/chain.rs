//! Judges what regions hold of one signer's chain: pure, so that every way to break a chain is a test.
//!
//! **Invariants.** A record counts only if its signer signed it, under its own number, after the record
//! whose SHA-256 it names. Whatever doesn't fit is named: a chain is never shortened to what fits. Cut
//! off at its end in every place that is read, a chain looks whole; that is why what this machine wrote
//! is compared, too ([`Place::is_local`]), and why exports name first and last numbers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;
use tidemark_format::evidence::{RECORD_BYTES_MAX, Sha256};
use tidemark_format::heads::Role;
use tidemark_format::sign::PublicKey;
use tidemark_format::{KeyId, keys};
use tidemark_ledger::{Keyring, LedgerError, Subject};

use super::record::Record;

/// What one place holds of one signer's records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The region's name, or this machine.
    pub name: String,
    /// Whether it is this machine's own copy, which need not hold what other machines wrote.
    pub is_local: bool,
    /// Bytes by number.
    pub records: BTreeMap<u64, Bytes>,
    /// Numbers whose bytes could not be had, or are no record for sure, and why.
    pub unfit: BTreeMap<u64, String>,
    /// The first number that was read, where not all of them were.
    pub from: u64,
}

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The chain is not what its signer wrote.
    Integrity,
    /// The chain is whole; something about it is to be known or done.
    Exception,
}

/// A record that regions had and have no more, of which this machine has a copy.
const REMOVED: &str = "removed";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub weight: Weight,
    /// What it is, for scripts: `damaged`, `reordered`, `missing`, `removed`, `broken-link`, `forked`,
    /// `only-in`, `not-enrolled`, `not-trusted`, `foreign-repository`.
    pub what: &'static str,
    /// Whose chain.
    pub signer: KeyId,
    /// Which record; none if it is about the chain.
    pub seq: Option<u64>,
    /// Where, if it is not about every place.
    pub place: Option<String>,
    /// What is wrong.
    pub why: String,
}

impl Finding {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let object = self.seq.map_or_else(
            || format!("signer {}", self.signer),
            |seq| keys::evidence(self.signer, seq).to_string(),
        );
        match &self.place {
            Some(place) => format!("{object} in {place}: {}", self.why),
            None => format!("{object}: {}", self.why),
        }
    }
}

/// A signer as the keyring knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The root signed it in.
    Enrolled,
    /// It asks to be enrolled, or hasn't asked yet.
    NotEnrolled,
    /// The root took its right away; what it signed before that counts.
    Revoked,
    /// It is enrolled for something else.
    WrongRole,
}

impl Standing {
    /// For people.
    #[must_use]
    pub const fn words(&self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::NotEnrolled => "not enrolled yet",
            Self::Revoked => "revoked",
            Self::WrongRole => "enrolled in another role",
        }
    }
}

/// One signer's chain, judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Whose.
    pub signer: KeyId,
    /// Its public key, if it is known.
    pub public: Option<PublicKey>,
    /// As the keyring calls it.
    pub name: Option<String>,
    /// What the keyring says of it.
    pub standing: Standing,
    /// The records that are the signer's, by number.
    pub records: BTreeMap<u64, Record>,
    /// What is not as it should be, the weightiest first.
    pub findings: Vec<Finding>,
}

impl Chain {
    /// Why what one of its records says doesn't count; none if it does.
    #[must_use]
    pub fn doubt(&self, record: &Record) -> Option<String> {
        let mut findings = self.findings.iter();
        let wrong = findings.find(|finding| {
            // What was removed in regions is whole where it is left: what it says counts, most of all a failure.
            finding.weight == Weight::Integrity
                && finding.what != REMOVED
                && finding.seq == Some(record.seq())
        });
        if let Some(finding) = wrong {
            return Some(finding.why.clone());
        }
        match self.standing {
            Standing::NotEnrolled => Some(format!(
                "its signer {} is not enrolled yet (tidemark-restore keys enrol)",
                self.signer
            )),
            Standing::WrongRole => Some("its signer may not sign evidence".to_owned()),
            // What a revoked signer signed before counts; what came later is a finding.
            Standing::Enrolled | Standing::Revoked => None,
        }
    }
}

/// Judges what `places` hold of `signer`'s chain, by the keyring and the public keys of `asking`.
#[must_use]
pub fn judge(
    signer: KeyId,
    places: &[Place],
    keyring: &Keyring,
    asking: &BTreeMap<KeyId, PublicKey>,
) -> Chain {
    let member = keyring
        .members()
        .iter()
        .rev()
        .find(|member| member.key.id() == signer);
    let mut public = asking.clone();
    public.extend(member.map(|member| (signer, member.key)));
    let mut judge = Judge {
        signer,
        findings: Vec::new(),
    };
    // Of an excerpt only what every place was asked for.
    let first = places.iter().map(|place| place.from).max().unwrap_or(0);
    let numbers: BTreeSet<u64> = places
        .iter()
        .flat_map(|place| place.records.keys().chain(place.unfit.keys()))
        .copied()
        .filter(|number| *number >= first)
        .collect();
    let mut records: BTreeMap<u64, Record> = BTreeMap::new();
    let mut versions: BTreeMap<u64, Vec<Sha256>> = BTreeMap::new();
    for number in &numbers {
        let good = judge.copies(*number, places, &public, keyring);
        let before = number.checked_sub(1);
        let last = before.and_then(|before| versions.get(&before));
        // Of two records under one number, the one that goes on from the record before.
        let follows = |record: &&Record| match (&record.statement.predicate.prev_sha256, last) {
            (Some(prev), Some(last)) => last.contains(prev),
            (None, None) => *number == 0,
            _ => false,
        };
        let taken = good.iter().find(follows).or_else(|| good.first());
        records.extend(taken.map(|record| (*number, record.clone())));
        versions.insert(*number, good.iter().map(|record| record.sha256).collect());
    }
    judge.gaps(&numbers, first);
    judge.links(&records, &versions);
    judge.spread(&records, places);
    let standing = judge.standing(&records, keyring, member.map(|member| member.role));
    judge.findings.sort();
    judge.findings.dedup();
    Chain {
        signer,
        public: records
            .values()
            .next()
            .map(|record| record.signer)
            .or_else(|| public.get(&signer).copied()),
        name: member.map(|member| member.name.clone()),
        standing,
        records,
        findings: judge.findings,
    }
}

struct Judge {
    signer: KeyId,
    findings: Vec<Finding>,
}

impl Judge {
    fn find(
        &mut self,
        (weight, what): (Weight, &'static str),
        seq: Option<u64>,
        place: Option<&str>,
        why: String,
    ) {
        self.findings.push(Finding {
            weight,
            what,
            signer: self.signer,
            seq,
            place: place.map(str::to_owned),
            why,
        });
    }

    /// The records under one number that are the signer's: one, unless the chain is forked.
    fn copies(
        &mut self,
        number: u64,
        places: &[Place],
        public: &BTreeMap<KeyId, PublicKey>,
        keyring: &Keyring,
    ) -> Vec<Record> {
        let mut good: Vec<(Record, &str)> = Vec::new();
        for place in places {
            let unfit = place.unfit.get(&number).cloned();
            let read = match (unfit, place.records.get(&number)) {
                (Some(why), _) => Err(("damaged", why)),
                (None, None) => continue,
                (None, Some(bytes)) => self.copy(number, bytes, public, keyring),
            };
            match read {
                Ok(record) if good.iter().any(|(one, _)| one.bytes == record.bytes) => {}
                Ok(record) => good.push((record, &place.name)),
                Err((what, why)) => {
                    let named = Some(place.name.as_str());
                    self.find((Weight::Integrity, what), Some(number), named, why);
                }
            }
        }
        if good.len() > 1 {
            let holders: Vec<&str> = good.iter().map(|(_, place)| *place).collect();
            let why = format!(
                "two records stand under this number, one in {}: the same identity wrote on two machines that did not see \
                 each other's regions, or somebody wants to hide one",
                holders.join(", another in ")
            );
            self.find((Weight::Integrity, "forked"), Some(number), None, why);
        }
        good.into_iter().map(|(record, _)| record).collect()
    }

    fn copy(
        &self,
        number: u64,
        bytes: &Bytes,
        public: &BTreeMap<KeyId, PublicKey>,
        keyring: &Keyring,
    ) -> Result<Record, (&'static str, String)> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(("damaged", "it is larger than a record may be".to_owned()));
        }
        let record = Record::read(bytes, self.signer, public).map_err(|why| ("damaged", why))?;
        if record.seq() != number {
            let why = format!(
                "the record is number {} of its chain and stands at number {number}: the chain was reordered",
                record.seq()
            );
            return Err(("reordered", why));
        }
        let repo = record.text("/repository");
        if repo.is_some_and(|repo| repo != keyring.repo().to_string()) {
            let why = format!("it is about repository {}", repo.unwrap_or_default());
            return Err(("foreign-repository", why));
        }
        Ok(record)
    }

    fn gaps(&mut self, numbers: &BTreeSet<u64>, first: u64) {
        let mut next = first;
        for number in numbers {
            if *number > next {
                let last = number.saturating_sub(1);
                let what = if last == next {
                    format!("record {next} is missing")
                } else {
                    format!("records {next} to {last} are missing")
                };
                let why = format!("{what} in every place that was read, and later ones are there");
                self.find((Weight::Integrity, "missing"), Some(next), None, why);
            }
            next = number.saturating_add(1);
        }
    }

    fn links(&mut self, records: &BTreeMap<u64, Record>, versions: &BTreeMap<u64, Vec<Sha256>>) {
        for (number, record) in records {
            let prev = record.statement.predicate.prev_sha256;
            let before = number.checked_sub(1);
            let fits = match (before, prev) {
                (None, None) => true,
                // What is missing or damaged before it was named already.
                (Some(before), Some(prev)) => versions
                    .get(&before)
                    .is_none_or(|all| all.is_empty() || all.contains(&prev)),
                (None, Some(_)) | (Some(_), None) => false,
            };
            if !fits {
                let why = prev.map_or_else(
                    || "it names no record before it: the chain was reordered or begun anew".to_owned(),
                    |prev| {
                        format!(
                            "it follows a record with the SHA-256 {prev}, which is not the one before it: the chain was \
                             reordered, or the record before it replaced"
                        )
                    },
                );
                self.find((Weight::Integrity, "broken-link"), Some(*number), None, why);
            }
        }
    }

    /// Good records that not every place has.
    fn spread(&mut self, records: &BTreeMap<u64, Record>, places: &[Place]) {
        let regions = || places.iter().filter(|place| !place.is_local);
        let holds = |place: &Place, number: &u64| {
            place.records.contains_key(number) || place.unfit.contains_key(number)
        };
        let lost: Vec<u64> = records
            .keys()
            .filter(|number| !regions().any(|place| holds(place, number)))
            .copied()
            .collect();
        // A region gets a record only after all before it: later ones show that these were there.
        let last = regions()
            .flat_map(|place| place.records.keys().chain(place.unfit.keys()))
            .max();
        let (removed, cut): (Vec<u64>, Vec<u64>) =
            lost.iter().partition(|number| last > Some(*number));
        for number in removed {
            let why = "it was removed: it stands in no region that was read, and later records of this signer do; \
                       this machine has a copy, which the next command that leaves a record with this identity \
                       stores again, and says so"
                .to_owned();
            self.find((Weight::Integrity, REMOVED), Some(number), None, why);
        }
        if let (Some(first), true) = (cut.first(), regions().next().is_some()) {
            let why = format!(
                "{} that this machine stored are in no region that was read: cut off there at the chain's end, or in a \
                 region that is not given here",
                counted(cut.len())
            );
            self.find((Weight::Exception, "only-in"), Some(*first), None, why);
        }
        for place in regions() {
            let lacking: Vec<u64> = records
                .keys()
                .filter(|number| !holds(place, number) && !lost.contains(number))
                .copied()
                .collect();
            if let Some(first) = lacking.first() {
                let why = format!(
                    "{} not here, only in other regions; the next command that leaves a record with this identity copies \
                     them",
                    if lacking.len() == 1 {
                        "this record is".to_owned()
                    } else {
                        format!("this and {} are", counted(lacking.len().saturating_sub(1)))
                    }
                );
                let name = Some(place.name.as_str());
                self.find((Weight::Exception, "only-in"), Some(*first), name, why);
            }
        }
    }

    fn standing(
        &mut self,
        records: &BTreeMap<u64, Record>,
        keyring: &Keyring,
        role: Option<Role>,
    ) -> Standing {
        let mut standing = match role {
            None => Standing::NotEnrolled,
            Some(_) => Standing::Enrolled,
        };
        for (number, record) in records {
            let subject = Subject::Evidence {
                number: *number,
                at: record.created_at(),
                sha256: record.sha256,
            };
            let judged = keyring.check(&record.signer, &[Role::Drill, Role::Keeper], &subject);
            match judged {
                Ok(member) if member.revoked.is_some() => standing = Standing::Revoked,
                Ok(_) | Err(LedgerError::UnknownSigner { .. }) => {}
                Err(error) => {
                    standing = match &error {
                        LedgerError::WrongRole { .. } => Standing::WrongRole,
                        _ => Standing::Revoked,
                    };
                    let why = error.to_string();
                    self.find((Weight::Integrity, "not-trusted"), Some(*number), None, why);
                }
            }
        }
        if standing == Standing::NotEnrolled {
            let why = "signer not enrolled yet: run keys enrol with the root key, or nobody has vouched for these records"
                .to_owned();
            self.find((Weight::Exception, "not-enrolled"), None, None, why);
        }
        standing
    }
}

fn counted(records: usize) -> String {
    tidemark_host::output::count(records, "record")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tidemark_format::PutId;
    use tidemark_format::heads::{Anchors, EvidenceAnchor, Revocation};
    use tidemark_format::sign::SigningKey;
    use tidemark_host::TestRng;
    use tidemark_ledger::custody::{Change, NewKeys, amend, first_keyring, member};

    use super::*;
    use crate::evidence::record::{ACCESS, Draft};

    const AT: Timestamp = Timestamp::UNIX_EPOCH;

    fn key() -> SigningKey {
        SigningKey::from_secret(&[7; 32])
    }

    /// A keyring of a repository, in which the signer is enrolled or not.
    async fn keyring(role: Option<Role>) -> Keyring {
        let keys = NewKeys::generate(&TestRng::seeded(1), AT);
        let store = tidemark_storage::MemoryStore::new("memory");
        let recipients = vec![keys.identity.entry()];
        let put = PutId([1; 16]);
        let first = first_keyring(&keys.root, recipients, vec![], put, AT).unwrap();
        first.create(&store).await.unwrap();
        let trust = keys.root.trust();
        let keyring = Keyring::load(&store, &trust).await.unwrap();
        let Some(role) = role else { return keyring };
        let member = member(role, key().public(), "drills".into(), AT);
        let changes = vec![Change::AddMember(member)];
        let next = amend(&keyring, &keys.root, changes, PutId([2; 16]), AT).unwrap();
        next.create(&store).await.unwrap();
        Keyring::load(&store, &trust).await.unwrap()
    }

    /// A chain of so many records.
    fn chain(keyring: &Keyring, length: u64) -> Vec<Record> {
        let mut all: Vec<Record> = Vec::new();
        for seq in 0..length {
            let rng = TestRng::seeded(seq);
            let draft = Draft::new(ACCESS, vec![], serde_json::Map::new(), AT, &rng);
            let prev = all.last().map(|record| record.sha256);
            all.push(draft.sign(seq, prev, keyring.repo(), &key()).unwrap());
        }
        all
    }

    fn place(name: &str, records: &[(u64, &Record)]) -> Place {
        Place {
            name: name.to_owned(),
            records: records
                .iter()
                .map(|(seq, record)| (*seq, record.bytes.clone()))
                .collect(),
            ..Place::default()
        }
    }

    fn whats(keyring: &Keyring, places: &[Place]) -> Vec<&'static str> {
        let chain = judge(key().public().id(), places, keyring, &BTreeMap::new());
        chain.findings.iter().map(|finding| finding.what).collect()
    }

    #[tokio::test]
    async fn a_whole_chain_of_an_enrolled_signer_has_nothing_to_find() {
        for role in [Role::Drill, Role::Keeper] {
            let keyring = keyring(Some(role)).await;
            let all = chain(&keyring, 3);
            let whole = [(0, &all[0]), (1, &all[1]), (2, &all[2])];
            let places = [place("a", &whole), place("b", &whole)];
            assert_eq!(whats(&keyring, &places), Vec::<&str>::new());
        }
    }

    #[tokio::test]
    async fn a_signer_that_the_root_has_not_vouched_for_or_in_another_role_is_named() {
        let keyring_without = keyring(None).await;
        let all = chain(&keyring_without, 1);
        let places = [place("a", &[(0, &all[0])])];
        assert_eq!(whats(&keyring_without, &places), ["not-enrolled"]);
        let agents = keyring(Some(Role::Agent)).await;
        assert_eq!(whats(&agents, &places), ["not-trusted"]);
    }

    #[tokio::test]
    async fn a_backdated_record_of_a_revoked_signer_is_refused() {
        let before = keyring(Some(Role::Drill)).await;
        // All of them state the same instant, long before the revocation.
        let all = chain(&before, 3);
        let [zero, one, two] = all.as_slice() else {
            panic!("three records");
        };
        let revoked = |evidence: Option<Vec<EvidenceAnchor>>| {
            let keys = NewKeys::generate(&TestRng::seeded(1), AT);
            let at = AT.checked_add(jiff::SignedDuration::from_hours(1)).unwrap();
            let mut revocation = Revocation::new(at, "stolen".into());
            revocation.anchors = Some(Anchors {
                evidence,
                ..Anchors::default()
            });
            let key = key().public();
            let change = Change::RevokeMember { key, revocation };
            let before = before.clone();
            async move {
                let store = tidemark_storage::MemoryStore::new("memory");
                let recipients = vec![keys.identity.entry()];
                let put = PutId([1; 16]);
                let first = first_keyring(&keys.root, recipients, vec![], put, AT).unwrap();
                first.create(&store).await.unwrap();
                let first = Keyring::load(&store, before.trust()).await.unwrap();
                let member = member(Role::Drill, key, "drills".into(), AT);
                let changes = vec![Change::AddMember(member)];
                let next = amend(&first, &keys.root, changes, PutId([2; 16]), AT).unwrap();
                next.create(&store).await.unwrap();
                let second = Keyring::load(&store, before.trust()).await.unwrap();
                let next = amend(&second, &keys.root, vec![change], PutId([3; 16]), at).unwrap();
                next.create(&store).await.unwrap();
                Keyring::load(&store, before.trust()).await.unwrap()
            }
        };
        let places = [place("a", &[(0, zero), (1, one), (2, two)])];
        let anchor = |record: &Record| EvidenceAnchor {
            seq: record.seq(),
            sha256: record.sha256,
        };
        let to_the_last = revoked(Some(vec![anchor(two)])).await;
        assert_eq!(whats(&to_the_last, &places), Vec::<&str>::new());
        let to_the_second = revoked(Some(vec![anchor(one)])).await;
        let found = judge(
            key().public().id(),
            &places,
            &to_the_second,
            &BTreeMap::new(),
        );
        let refused: Vec<_> = found
            .findings
            .iter()
            .map(|one| (one.what, one.seq))
            .collect();
        assert_eq!(refused, [("not-trusted", Some(2))]);
        assert!(found.doubt(two).is_some() && found.doubt(one).is_none());
        // Another record under the number that is named.
        let other = EvidenceAnchor {
            seq: 1,
            sha256: Sha256::of(b"another"),
        };
        let replaced = revoked(Some(vec![other])).await;
        assert_eq!(whats(&replaced, &places), ["not-trusted", "not-trusted"]);
        let nothing = revoked(Some(vec![])).await;
        assert_eq!(whats(&nothing, &places).len(), 3);
        // Revocations of before anchors were known go by the date.
        let dated = revoked(None).await;
        assert_eq!(whats(&dated, &places), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn a_missing_a_moved_and_a_replaced_record_are_told_apart() {
        let keyring = keyring(Some(Role::Drill)).await;
        let all = chain(&keyring, 4);
        let [zero, one, two, three] = all.as_slice() else {
            panic!("four records");
        };
        let gap = [place("a", &[(0, zero), (3, three)])];
        let found = judge(key().public().id(), &gap, &keyring, &BTreeMap::new()).findings;
        assert_eq!(found.len(), 1);
        assert!(
            found[0].why.contains("records 1 to 2 are missing"),
            "{found:?}"
        );
        let headless = [place("a", &[(1, one), (2, two)])];
        assert_eq!(whats(&keyring, &headless), ["missing"]);
        let moved = [place("a", &[(0, zero), (1, two), (2, one)])];
        assert_eq!(whats(&keyring, &moved), ["reordered", "reordered"]);
        // Signed by the right key, but after another record.
        let draft = Draft::again(one);
        let other = draft
            .sign(2, Some(Sha256::of(b"x")), keyring.repo(), &key())
            .unwrap();
        let replaced = [place("a", &[(0, zero), (1, one), (2, &other)])];
        assert_eq!(whats(&keyring, &replaced), ["broken-link"]);
        let begun_anew = draft.sign(1, None, keyring.repo(), &key()).unwrap();
        let anew = [place("a", &[(0, zero), (1, &begun_anew)])];
        assert_eq!(whats(&keyring, &anew), ["broken-link"]);
    }

    #[tokio::test]
    async fn damage_in_one_place_is_named_while_another_has_the_good_record() {
        let keyring = keyring(Some(Role::Drill)).await;
        let all = chain(&keyring, 2);
        let whole = [(0, &all[0]), (1, &all[1])];
        let mut damaged = place("b", &whole);
        let mut bytes = all[0].bytes.to_vec();
        bytes[90] ^= 1;
        damaged.records.insert(0, bytes.into());
        let places = [place("a", &whole), damaged];
        let chain = judge(key().public().id(), &places, &keyring, &BTreeMap::new());
        assert_eq!(chain.records.len(), 2);
        assert_eq!(chain.findings.len(), 1);
        assert_eq!(chain.findings[0].place.as_deref(), Some("b"));
    }

    #[tokio::test]
    async fn two_records_under_one_number_and_a_record_in_one_place_only_are_told_apart() {
        let keyring = keyring(Some(Role::Drill)).await;
        let all = chain(&keyring, 2);
        let other = Draft::new(
            ACCESS,
            vec![],
            serde_json::Map::new(),
            AT,
            &TestRng::seeded(99),
        );
        let prev = Some(all[0].sha256);
        let other = other.sign(1, prev, keyring.repo(), &key()).unwrap();
        let one = place("a", &[(0, &all[0]), (1, &all[1])]);
        let forked = [one.clone(), place("b", &[(0, &all[0]), (1, &other)])];
        assert_eq!(whats(&keyring, &forked), ["forked"]);
        let lagging = [one.clone(), place("b", &[(0, &all[0])])];
        assert_eq!(whats(&keyring, &lagging), ["only-in"]);
        // This machine's own copy need not be whole, and tells what was cut off at the end.
        let local = |records: &[(u64, &Record)]| Place {
            is_local: true,
            ..place("this machine", records)
        };
        let whole = [one, local(&[(1, &all[1])])];
        assert_eq!(whats(&keyring, &whole), Vec::<&str>::new());
        let cut = [place("a", &[(0, &all[0])]), local(&[(1, &all[1])])];
        assert_eq!(whats(&keyring, &cut), ["only-in"]);
    }

    #[tokio::test]
    async fn a_record_that_only_this_machine_has_while_regions_have_later_ones_was_removed() {
        let keyring = keyring(Some(Role::Drill)).await;
        let all = chain(&keyring, 3);
        let regions = [(0, &all[0]), (2, &all[2])];
        let own = Place {
            is_local: true,
            ..place("this machine", &[(1, &all[1])])
        };
        let places = [place("a", &regions), place("b", &regions), own];
        let chain = judge(key().public().id(), &places, &keyring, &BTreeMap::new());
        let found: Vec<_> = chain
            .findings
            .iter()
            .map(|one| (one.weight, one.what, one.seq))
            .collect();
        assert_eq!(found, [(Weight::Integrity, "removed", Some(1))]);
        let told = chain.findings[0].sentence();
        assert!(told.contains("it was removed"), "{told}");
        // What it says counts: a failure is not undone by removing its record.
        assert_eq!(chain.doubt(&all[1]), None);
        // Without the copy it is missing, as before.
        assert_eq!(whats(&keyring, &places[..2]), ["missing"]);
    }

    #[tokio::test]
    async fn a_hostile_number_costs_nothing_and_is_named() {
        let keyring = keyring(Some(Role::Drill)).await;
        let all = chain(&keyring, 1);
        let mut hostile = place("a", &[(0, &all[0])]);
        hostile.records.insert(u64::MAX, Bytes::from_static(b"{}"));
        hostile
            .unfit
            .insert(7, "it is larger than a record may be".into());
        let found = whats(&keyring, &[hostile]);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found
                .iter()
                .all(|what| ["damaged", "missing"].contains(what))
        );
    }
}
