//! Clauses about places, keys and people: where copies stand, who can read them, who did.

use std::collections::BTreeSet;
use std::time::Duration;

use super::facts::{Facts, Holder, RegionFact, ServerLink, Transport};
use super::loss::examples;
use super::words::{before, between, count, day, instant, lasting, listed};
use super::{Basis, Judged, Verdict};

/// An agent's session ends within a day; the next one adopts the keyring.
const SESSION_MAX: Duration = Duration::from_secs(25 * 3600);
/// A region that is so far behind the others holds an old state, not a copy.
const BEHIND_MAX: Duration = Duration::from_secs(3600);

fn names<'a>(regions: impl IntoIterator<Item = &'a RegionFact>) -> Vec<&'a str> {
    regions
        .into_iter()
        .map(|region| region.name.as_str())
        .collect()
}

fn declared_in(facts: &Facts) -> String {
    facts.declared_in.as_ref().map_or_else(
        || "declared nowhere".to_owned(),
        |file| format!("declared in {file}"),
    )
}

pub(super) fn locations(facts: &Facts, at_least: usize) -> Judged {
    let newest = facts.regions.iter().filter_map(|one| one.committed).max();
    let behind = |one: &&RegionFact| {
        let late = between(one.committed?, newest?);
        (late > BEHIND_MAX).then_some(late)
    };
    let (late, holding): (Vec<&RegionFact>, Vec<&RegionFact>) = facts
        .regions
        .iter()
        .filter(|one| one.committed.is_some())
        .partition(|one| behind(one).is_some());
    let late: Vec<String> = late
        .iter()
        .filter_map(|one| Some(format!("{} is {} behind", one.name, lasting(behind(one)?))))
        .collect();
    let domains: BTreeSet<&str> = holding
        .iter()
        .map(|one| one.failure_domain.as_str())
        .collect();
    let devices: BTreeSet<u64> = holding.iter().filter_map(|one| one.device).collect();
    let directories = holding.iter().filter(|one| one.device.is_some()).count();
    // Directories of one disk fail together, whatever their names are.
    let places = domains.len().min(
        holding
            .len()
            .saturating_sub(directories)
            .saturating_add(devices.len()),
    );
    let told: Vec<String> = holding.iter().map(|one| placed(one)).collect();
    let told = listed(&told);
    if places < at_least {
        let one_device = directories > devices.len();
        return too_few(facts, (places, at_least), &told, (one_device, &late));
    }
    let proof = holding.iter().map(|one| one.place.clone());
    let is_placed = |one: &&RegionFact| one.country.is_some() || one.domain_named;
    if let Some(unplaced) = holding.iter().find(|one| !is_placed(one)) {
        let measured = format!(
            "copies in {}: {told}; where {} is, is declared nowhere",
            count(holding.len(), "region"),
            unplaced.name
        );
        return Judged::unproved(Basis::Declared, measured)
            .by(proof)
            .then("write country and failure_domain of every [[region]] into restore.toml");
    }
    let apart = declared_apart(&holding);
    if apart < at_least {
        let directory = if directories > 0 {
            "; a directory shows nothing of where it is, whatever device it is on"
        } else {
            ""
        };
        let measured = format!(
            "copies in {}: {told}; by what {} says they are in {} of at least {at_least}{directory}",
            count(holding.len(), "region"),
            facts.declared_in.as_deref().unwrap_or("the config"),
            count(apart, "place")
        );
        return Judged::unproved(Basis::Declared, measured).by(proof).then(
            "if they do stand apart, name each one's place in restore.toml (failure_domain of its [[region]], or \
             countries that differ): somebody then answers for it, and the clause says so",
        );
    }
    let measured = format!(
        "copies in {}: {told}; that these places differ is {} and was checked by nobody",
        count(apart, "place"),
        declared_in(facts)
    );
    Judged::pass(Basis::Declared, measured).by(proof)
}

/// A region, with what a person said of its place and what is only its name.
fn placed(one: &RegionFact) -> String {
    let country = one.country.as_deref().unwrap_or("country not declared");
    if one.domain_named {
        format!(
            "{} ({country}, failure domain {})",
            one.name, one.failure_domain
        )
    } else {
        format!("{} ({country}, no failure domain declared)", one.name)
    }
}

/// In how many places regions are by what people declared alone: countries that differ, or failure domains
/// that somebody named. A region's own name says nothing of where it is.
fn declared_apart(holding: &[&RegionFact]) -> usize {
    let named = holding.iter().filter(|one| one.domain_named);
    let domains: BTreeSet<&str> = named.map(|one| one.failure_domain.as_str()).collect();
    let countries = holding.iter().filter_map(|one| one.country.as_deref());
    let countries: BTreeSet<&str> = countries.collect();
    domains.len().max(countries.len())
}

/// Fewer places than are promised.
fn too_few(
    facts: &Facts,
    (places, at_least): (usize, usize),
    told: &str,
    (one_device, late): (bool, &[String]),
) -> Judged {
    let mut measured = format!(
        "copies in {} of at least {at_least}: {told}",
        count(places, "place")
    );
    if one_device {
        measured.push_str("; directories of one device are one place");
    }
    if !late.is_empty() {
        measured.push_str(&format!("; no copy of today's state: {}", listed(late)));
    }
    let empty = facts.regions.iter().filter(|one| one.committed.is_none());
    let empty = names(empty);
    if !empty.is_empty() {
        let empty = listed(&empty);
        measured.push_str(&format!("; holding nothing of this source: {empty}"));
    }
    for away in &facts.away {
        measured.push_str(&format!("; not read: {away}"));
    }
    let judged = if facts.away.is_empty() {
        Judged::fail(Basis::Declared, measured)
    } else {
        Judged::unproved(Basis::Declared, measured)
    };
    let next = if late.is_empty() {
        "add a [[region]] elsewhere to agent.toml, then restart the agent (systemctl restart tidemark-agent)"
    } else {
        "tidemark-agent status on the source's host says why that region gets nothing"
    };
    judged.then(next)
}

pub(super) fn residency(facts: &Facts, countries: &[String], probed: bool) -> Judged {
    let allowed = listed(countries);
    let outside: Vec<String> = facts
        .regions
        .iter()
        .filter_map(|one| Some((one, one.country.as_ref()?)))
        .filter(|(_, country)| !countries.contains(country))
        .map(|(one, country)| format!("{} is in {country}", one.name))
        .collect();
    if !outside.is_empty() {
        let measured = format!(
            "{}, and only {allowed} is allowed; {}",
            listed(&outside),
            declared_in(facts)
        );
        return Judged::fail(Basis::Declared, measured)
            .then("remove that region from agent.toml, and what is in it; residency = […] there keeps others out");
    }
    if probed {
        // No label would help: this comes before those that lack.
        let measured = "what the stores themselves say of where they keep objects, and whether they copy them elsewhere, \
                        is not asked by this version: labels alone are not proof";
        return Judged::unproved(Basis::Probed, measured).then(
            "show the auditor the provider's own statement for each bucket (location, replication)",
        );
    }
    let nowhere: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| one.country.is_none())
        .collect();
    if !nowhere.is_empty() || facts.regions.is_empty() {
        let measured = format!(
            "the country is declared nowhere of: {}",
            listed(&names(nowhere))
        );
        return Judged::unproved(Basis::Declared, measured)
            .then("write country = \"…\" of every [[region]] into restore.toml");
    }
    let measured = format!(
        "{} in {allowed} by its label alone, {}",
        count(facts.regions.len(), "region"),
        declared_in(facts)
    );
    Judged::pass(Basis::Declared, measured).by(facts.regions.iter().map(|one| one.place.clone()))
}

pub(super) fn least_privilege(facts: &Facts) -> Judged {
    let level = |one: &RegionFact, level: &str| one.create_only.as_deref() == Some(level);
    let advisory: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| level(one, "advisory"))
        .collect();
    let proof: Vec<String> = facts
        .regions
        .iter()
        .filter_map(|one| one.probed_by.clone())
        .collect();
    if !advisory.is_empty() {
        let measured = format!(
            "a stolen agent key could overwrite what is in {}: the store does not keep it from that",
            listed(&names(advisory))
        );
        return Judged::fail(Basis::Probed, measured).by(proof).then(
            "a directory can't keep it: use buckets with versions that the agent may not delete, or Object Lock, with \
             config/iam/agent-policy.json",
        );
    }
    let unknown: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| !level(one, "enforced"))
        .collect();
    if !unknown.is_empty() || facts.regions.is_empty() {
        let measured = format!("no signed probe of: {}", listed(&names(unknown)));
        return Judged::unproved(Basis::Probed, measured)
            .by(proof)
            .then("the agent probes at its start, and the next recovery point carries the result");
    }
    let measured = format!(
        "the agent's credential can't overwrite in any of {}, as it probed and signed",
        count(facts.regions.len(), "region")
    );
    Judged::pass(Basis::Probed, measured).by(proof)
}

pub(super) fn in_transit(facts: &Facts) -> Judged {
    let plain: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| one.transport == Transport::Plain || one.agent_plain == Some(true))
        .collect();
    if !plain.is_empty() {
        let measured = format!("plain http leads to {}", listed(&names(plain)));
        return Judged::fail(Basis::Measured, measured)
            .then("use https in its URL, here and in agent.toml");
    }
    if let ServerLink::Plain(proof) = &facts.server_link {
        let measured = "the agent reads its server over a network without encryption";
        return Judged::fail(Basis::Measured, measured)
            .by(proof.clone())
            .then("sslmode=verify-full in the connection string of agent.toml");
    }
    if facts.server_link == ServerLink::Unknown {
        let measured = "how the agent reaches its server is in no signed object of this source";
        return Judged::unproved(Basis::Measured, measured)
            .then("an agent of this version signs it with its next recovery point");
    }
    let unsaid: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| one.transport == Transport::Tls && one.agent_plain.is_none())
        .collect();
    if !unsaid.is_empty() || facts.regions.is_empty() {
        let measured = format!(
            "TLS from here; how the agent reaches {} is in no signed object",
            listed(&names(unsaid))
        );
        return Judged::unproved(Basis::Measured, measured)
            .then("an agent of this version signs it with its next recovery point");
    }
    ways(facts)
}

/// Nothing goes unencrypted that is known of: what was seen to be encrypted, and what has no network.
fn ways(facts: &Facts) -> Judged {
    let tls: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| one.transport == Transport::Tls)
        .collect();
    let directories: Vec<&RegionFact> = facts
        .regions
        .iter()
        .filter(|one| one.transport == Transport::Directory)
        .collect();
    let mut told = vec!["everything is encrypted before it leaves the database's host".to_owned()];
    let tls_seen = tls.len();
    if tls_seen > 0 {
        told.push(format!("TLS to {}", listed(&names(tls))));
    }
    let local = directories.len();
    if local > 0 {
        told.push(format!(
            "no network that is known of to {} (a directory, by its URL; whether it is mounted from elsewhere is not \
             looked at)",
            listed(&names(directories))
        ));
    }
    let mut proof: Vec<String> = facts
        .regions
        .iter()
        .filter_map(|one| one.probed_by.clone())
        .collect();
    if let ServerLink::Safe(how, said) = &facts.server_link {
        told.push(format!("the agent reaches its server by {how}"));
        proof.extend(said.clone());
    }
    let server_tls =
        matches!(&facts.server_link, ServerLink::Safe(how, _) if how.starts_with("TLS"));
    if tls_seen == 0 && !server_tls {
        told.push("no connection with TLS was seen, so there was nothing to judge".to_owned());
        return Judged::unproved(Basis::Declared, told.join("; "))
            .by(proof)
            .then("a region that is reached by https, or what shows the auditor that nothing leaves this machine");
    }
    // That no network leads to a directory is what its URL says.
    let basis = if local > 0 {
        Basis::Declared
    } else {
        Basis::Measured
    };
    Judged::pass(basis, told.join("; ")).by(proof)
}

pub(super) fn at_rest(facts: &Facts) -> Judged {
    if let Some(first) = facts.plain_bodies.first() {
        let measured = format!(
            "{} not encrypted, such as {first}",
            count(facts.plain_bodies.len(), "object")
        );
        return Judged::fail(Basis::Measured, measured)
            .by(facts.plain_bodies.iter().take(3).cloned())
            .then("this program never writes such an object: find out who did");
    }
    if facts.bodies == 0 {
        return Judged::unproved(Basis::Measured, "no object with data was looked at");
    }
    let measured = format!(
        "the backups: each of {} looked at is encrypted with AES-256-GCM under a key of its own, sealed to recipients' \
         public keys; the format knows no other",
        count(facts.bodies, "object")
    );
    Judged::pass(Basis::Measured, measured)
        .by(facts.sessions.last().map(|session| session.key.clone()))
}

/// What is said of the database itself is no property of its backups.
pub(super) fn database_at_rest(facts: &Facts) -> Judged {
    let backups = at_rest(facts);
    if backups.verdict != Verdict::Pass {
        return backups;
    }
    let measured = format!(
        "how the database itself is stored is not looked at, and nothing on record says it; {}",
        backups.measured
    );
    Judged::unproved(Basis::Measured, measured)
        .by(backups.proof)
        .then("show the auditor the encryption of the volume that the database is on, or the provider's statement of it")
}

pub(super) fn named_people(facts: &Facts, people_max: Option<usize>) -> Judged {
    let active: Vec<&Holder> = facts
        .holders
        .iter()
        .filter(|one| one.revoked_at.is_none())
        .collect();
    let declared = &facts.declared;
    let held: Vec<&str> = active.iter().map(|one| one.name.as_str()).collect();
    if declared.people.is_empty() && declared.machines.is_empty() {
        let measured = format!(
            "keys that decrypt: {}; which people that is, is declared nowhere",
            listed(&held)
        );
        return Judged::unproved(Basis::Declared, measured)
            .by(active.iter().map(|one| one.key.clone()))
            .then("name them under [objectives] in restore.toml: people = […], machines = […], as keys list calls them");
    }
    let known = |name: &String| declared.people.contains(name) || declared.machines.contains(name);
    let strangers: Vec<&&Holder> = active.iter().filter(|one| !known(&one.name)).collect();
    if !strangers.is_empty() {
        let list: Vec<String> = strangers
            .iter()
            .map(|one| format!("{} ({})", one.name, one.key))
            .collect();
        let measured = format!(
            "not on the list of people, and can decrypt: {}",
            listed(&list)
        );
        return Judged::fail(Basis::Declared, measured)
            .by(strangers.iter().map(|one| one.key.clone()))
            .then("tidemark-restore keys revoke KEY --reason TEXT, or add the name to people in restore.toml");
    }
    let people: Vec<&str> = held
        .iter()
        .copied()
        .filter(|name| declared.people.iter().any(|one| one == name))
        .collect();
    let distinct: BTreeSet<&str> = people.iter().copied().collect();
    if let Some(most) = people_max.filter(|most| distinct.len() > *most) {
        let measured = format!(
            "{} can decrypt, of at most {most}: {}",
            count(distinct.len(), "person"),
            listed(&people)
        );
        return Judged::fail(Basis::Declared, measured.replace("persons", "people"))
            .then("tidemark-restore keys revoke KEY --reason TEXT");
    }
    let measured = format!(
        "can decrypt: {}; by the names of their keys alone: that each is one person, and which, is {} and was checked by \
         nobody",
        listed(&held),
        declared_in(facts)
    );
    Judged::pass(Basis::Declared, measured).by(active.iter().map(|one| one.key.clone()))
}

pub(super) fn access_log(facts: &Facts) -> Judged {
    let log = &facts.access;
    if !log.broken.is_empty() {
        let measured = format!(
            "the record of uses is not as it was written: {}",
            examples(&log.broken, Clone::clone)
        );
        return Judged::fail(Basis::Measured, measured).then("tidemark-restore evidence verify");
    }
    let (Some(first), Some(last)) = (log.first, log.last) else {
        return Judged::unproved(Basis::Measured, "no use of a recovery key is on record")
            .then("the next restore, keys check or drill leaves one");
    };
    if !log.strangers.is_empty() {
        let measured = format!(
            "{} of {} by signers that are not enrolled, so nobody vouches for them: {}",
            log.unvouched,
            count(log.records, "record"),
            listed(&log.strangers)
        );
        let which = match log.strangers.as_slice() {
            [one] => one.as_str(),
            _ => "--all",
        };
        return Judged::unproved(Basis::Measured, measured).then(format!(
            "tidemark-restore keys enrol {which} --root FILE.root, where the root key is"
        ));
    }
    let measured = format!(
        "{} from {} to {}, signed by who is enrolled and chained without a gap; tool-recorded: whoever reads with a stolen key and another \
         program leaves none",
        count(log.records, "record"),
        day(first),
        day(last)
    );
    Judged::pass(Basis::Measured, measured)
        .by(["tidemark-restore evidence export --kind access --format csv"])
}

pub(super) fn access_review(facts: &Facts, over: Duration) -> Judged {
    let next = "tidemark-restore keys list --for-review, then evidence sign-off of the record that it names";
    let reviews = || facts.reviews.iter().filter(|one| one.discounted.is_none());
    let signed = reviews().filter_map(|one| Some((one.at?, one)));
    let Some((at, newest)) = signed.max_by_key(|(at, _)| *at) else {
        let measured = match reviews().next_back() {
            Some(_) => "the list of keys was recorded for a review, and nobody has signed it off",
            None => "no review of the list of keys is on record",
        };
        return Judged::unproved(Basis::Measured, measured)
            .by(reviews().next_back().map(|one| one.id.clone()))
            .then(next);
    };
    let of = format!(
        "version {} of the keyring, reviewed by {} on {}",
        newest.keyring_version,
        newest.reviewer,
        day(at)
    );
    let rejected = newest.rejected.as_ref();
    let rejected = rejected.map(|who| format!(", after it was rejected {who}"));
    let rejected = rejected.unwrap_or_default();
    if !newest.approved {
        return Judged::fail(Basis::Measured, format!("{of}, was rejected"))
            .by([newest.id.clone()])
            .then("change the keyring as the review asks, then have it reviewed again");
    }
    if at < before(facts.now, over) {
        let measured = format!(
            "the newest review, {of}, is more than {} ago",
            lasting(over)
        );
        return Judged::fail(Basis::Measured, measured)
            .by([newest.id.clone()])
            .then(next);
    }
    let since = facts.keyring_version.saturating_sub(newest.keyring_version);
    let changes = match since {
        0 => "nothing changed since".to_owned(),
        some => format!(
            "{} since",
            count(usize::try_from(some).unwrap_or(usize::MAX), "change")
        ),
    };
    let alone = if newest.same_identity {
        "; signed off with the same identity that put the list on record: that somebody else looked at it is declared only"
    } else {
        ""
    };
    Judged::pass(
        Basis::Measured,
        format!("{of}, was approved{rejected}{alone}; {changes}"),
    )
    .by([newest.id.clone()])
}

pub(super) fn removal_of_access(facts: &Facts) -> Judged {
    let Some(newest) = facts.sessions.iter().max_by_key(|session| session.at) else {
        return Judged::unproved(
            Basis::Measured,
            "no session of an agent was found: to whom it seals can't be seen",
        );
    };
    let holder = |key: &String| facts.holders.iter().find(|one| one.key == *key);
    for session in &facts.sessions {
        for key in &session.sealed_to {
            let Some(holder) = holder(key) else {
                let measured = format!(
                    "what was written since {} opens with key {key}, which the root never signed",
                    instant(session.at)
                );
                return Judged::fail(Basis::Measured, measured)
                    .by([session.key.clone()])
                    .then("the agent's config has it as recipient: take it out, or enrol it");
            };
            let Some(revoked) = holder.revoked_at else {
                continue;
            };
            if before(session.at, SESSION_MAX) > revoked {
                let measured = format!(
                    "{} lost access on {}, and what was written since {} still opens with that key",
                    holder.name,
                    instant(revoked),
                    instant(session.at)
                );
                return Judged::fail(Basis::Measured, measured)
                    .by([session.key.clone()])
                    .then("take the key out of recipients in agent.toml, then restart the agent (systemctl restart tidemark-agent)");
            }
        }
    }
    let removed: Vec<String> = facts
        .holders
        .iter()
        .filter_map(|one| Some(format!("{} on {}", one.name, day(one.revoked_at?))))
        .collect();
    let sealed = format!(
        "{} looked at, each sealed to keys that the root signed",
        count(facts.sessions.len(), "session")
    );
    if removed.is_empty() {
        let measured =
            format!("nobody's access was removed so far: there is no removal to judge; {sealed}");
        return Judged::unproved(Basis::Measured, measured)
            .by([newest.key.clone()])
            .then(
                "nothing until somebody leaves; then tidemark-restore keys revoke KEY --reason TEXT, and this clause shows \
                 that nothing newer opens with that key",
            );
    }
    let measured = format!(
        "removed: {}; nothing newer is sealed to them; {sealed}",
        listed(&removed)
    );
    Judged::pass(Basis::Measured, measured).by([newest.key.clone()])
}
