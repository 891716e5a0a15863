//! Places, keys and people.

use super::*;

const LOCATIONS: Rule = Rule::Locations { at_least: 2 };

#[test]
fn several_places_pass_as_declared_and_one_disk_or_one_domain_fails() {
    let mut facts = good();
    let passed = judged(
        &LOCATIONS,
        &facts,
        Verdict::Pass,
        &[
            "2 places",
            "a (DK, no failure domain declared)",
            "that these places differ is declared in restore.toml",
            "checked by nobody",
        ],
    );
    assert_eq!(passed.basis, Basis::Declared);
    facts.regions[1].failure_domain = "a".to_owned();
    judged(
        &LOCATIONS,
        &facts,
        Verdict::Fail,
        &["1 place of at least 2"],
    );
    let mut facts = good();
    for region in &mut facts.regions {
        region.device = Some(7);
    }
    judged(
        &LOCATIONS,
        &facts,
        Verdict::Fail,
        &["directories of one device are one place"],
    );
    let mut facts = good();
    facts.regions[1].committed = None;
    judged(
        &LOCATIONS,
        &facts,
        Verdict::Fail,
        &["holding nothing of this source: b"],
    );
    // One that has got nothing for a week is no copy.
    let mut facts = good();
    facts.regions[1].committed = Some(ago(DAY * 7));
    judged(
        &LOCATIONS,
        &facts,
        Verdict::Fail,
        &[
            "1 place of at least 2",
            "b is 6 d 23 h behind",
            "gets nothing",
        ],
    );
}

#[test]
fn places_that_nobody_declared_or_that_could_not_be_read_are_not_proved() {
    let mut facts = good();
    facts.regions[1].country = None;
    judged(
        &LOCATIONS,
        &facts,
        Verdict::NotProved,
        &["where b is, is declared nowhere"],
    );
    let mut facts = good();
    facts.regions.pop();
    facts.away.push("b: refused".to_owned());
    judged(
        &LOCATIONS,
        &facts,
        Verdict::NotProved,
        &["not read: b: refused"],
    );
}

#[test]
fn regions_that_nothing_declared_tells_apart_are_not_several_places_however_many_devices_there_are()
{
    let mut facts = good();
    facts.regions[1].country = Some("DK".to_owned());
    judged(
        &LOCATIONS,
        &facts,
        Verdict::NotProved,
        &["in 1 place of at least 2", "countries that differ"],
    );
    for (region, device) in facts.regions.iter_mut().zip([7, 8]) {
        (region.device, region.transport) = (Some(device), Transport::Directory);
    }
    judged(
        &LOCATIONS,
        &facts,
        Verdict::NotProved,
        &["a directory shows nothing of where it is"],
    );
    // Somebody who names both places answers for it; one who names one does not.
    let name = |facts: &mut Facts, number: usize| {
        let region = &mut facts.regions[number];
        region.domain_named = true;
        region.failure_domain = format!("room-{number}");
    };
    name(&mut facts, 0);
    judged(&LOCATIONS, &facts, Verdict::NotProved, &["1 place"]);
    name(&mut facts, 1);
    let passed = judged(
        &LOCATIONS,
        &facts,
        Verdict::Pass,
        &["b (DK, failure domain room-1)", "checked by nobody"],
    );
    assert_eq!(passed.basis, Basis::Declared);
}

#[test]
fn one_country_only_passes_by_its_label_and_fails_by_another() {
    let rule = |probed| Rule::Residency {
        countries: vec!["DK".to_owned()],
        probed,
    };
    let mut facts = good();
    judged(
        &rule(false),
        &facts,
        Verdict::Fail,
        &["b is in SE, and only DK is allowed"],
    );
    facts.regions[1].country = Some("DK".to_owned());
    let passed = judged(
        &rule(false),
        &facts,
        Verdict::Pass,
        &["2 regions in DK by its label alone"],
    );
    assert_eq!(passed.basis, Basis::Declared);
    judged(
        &rule(true),
        &facts,
        Verdict::NotProved,
        &["labels alone are not proof"],
    );
    facts.regions[1].country = None;
    // A label that is missing is no matter where none would help.
    judged(
        &rule(true),
        &facts,
        Verdict::NotProved,
        &["labels alone are not proof", "provider's own statement"],
    );
    judged(
        &rule(false),
        &facts,
        Verdict::NotProved,
        &["declared nowhere of: b"],
    );
}

#[test]
fn least_privilege_passes_by_signed_probes_alone_and_a_directory_fails_it() {
    let mut facts = good();
    let passed = judged(
        &Rule::LeastPrivilege,
        &facts,
        Verdict::Pass,
        &["can't overwrite", "point:1/9"],
    );
    assert_eq!(passed.basis, Basis::Probed);
    facts.regions[1].create_only = None;
    judged(
        &Rule::LeastPrivilege,
        &facts,
        Verdict::NotProved,
        &["no signed probe of: b"],
    );
    facts.regions[1].create_only = Some("advisory".to_owned());
    judged(
        &Rule::LeastPrivilege,
        &facts,
        Verdict::Fail,
        &["could overwrite what is in b", "a directory can't"],
    );
}

#[test]
fn in_transit_passes_over_tls_and_fails_over_plain_http_or_to_the_server() {
    let rule = Rule::EncryptedInTransit;
    let mut facts = good();
    judged(&rule, &facts, Verdict::Pass, &["TLS to a and b"]);
    facts.regions[0].transport = Transport::Plain;
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["plain http leads to a", "https"],
    );
    facts.regions[0].transport = Transport::Tls;
    facts.regions[0].agent_plain = Some(true);
    judged(&rule, &facts, Verdict::Fail, &["plain http leads to a"]);
    facts.regions[0].agent_plain = None;
    judged(&rule, &facts, Verdict::NotProved, &["in no signed object"]);
    let mut facts = good();
    facts.server_link = ServerLink::Plain(Some("log:1:7".to_owned()));
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["without encryption", "sslmode"],
    );
    facts.server_link = ServerLink::Unknown;
    judged(&rule, &facts, Verdict::NotProved, &["its server"]);
    facts.server_link = ServerLink::Safe("TLSv1.3".to_owned(), Some("log:1:7".to_owned()));
    judged(&rule, &facts, Verdict::Pass, &["by TLSv1.3"]);
}

#[test]
fn directories_alone_show_no_encryption_in_transit() {
    let rule = Rule::EncryptedInTransit;
    let mut facts = good();
    facts.regions[0].transport = Transport::Directory;
    let mixed = judged(&rule, &facts, Verdict::Pass, &["TLS to b", "by its URL"]);
    assert_eq!(mixed.basis, Basis::Declared);
    facts.regions[1].transport = Transport::Directory;
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["a and b (a directory", "no connection with TLS was seen"],
    );
    let socket = "a socket on the same machine".to_owned();
    facts.server_link = ServerLink::Safe(socket, None);
    judged(&rule, &facts, Verdict::NotProved, &["a socket"]);
    facts.server_link = ServerLink::Safe("TLS".to_owned(), None);
    judged(&rule, &facts, Verdict::Pass, &["its server by TLS"]);
}

#[test]
fn that_backups_are_encrypted_says_nothing_of_the_database_itself() {
    let mut facts = good();
    facts.bodies = 12;
    judged(
        &Rule::DatabaseAtRest,
        &facts,
        Verdict::NotProved,
        &[
            "the database itself",
            "the backups: each of 12 objects",
            "volume",
        ],
    );
    facts.plain_bodies.push("meta/log/app/1/3".to_owned());
    judged(
        &Rule::DatabaseAtRest,
        &facts,
        Verdict::Fail,
        &["1 object not encrypted"],
    );
}

#[test]
fn at_rest_passes_by_the_format_and_fails_by_a_plain_object() {
    let mut facts = good();
    facts.bodies = 12;
    judged(
        &Rule::EncryptedAtRest,
        &facts,
        Verdict::Pass,
        &["the backups: each of 12 objects", "AES-256-GCM"],
    );
    facts.plain_bodies.push("meta/log/app/1/3".to_owned());
    judged(
        &Rule::EncryptedAtRest,
        &facts,
        Verdict::Fail,
        &["1 object not encrypted", "meta/log/app/1/3"],
    );
    let nothing = Facts::new(now());
    let judged = judge(&Rule::EncryptedAtRest, &nothing);
    assert_eq!(judged.verdict, Verdict::NotProved);
}

fn holder(key: &str, name: &str, revoked: Option<Duration>) -> Holder {
    Holder {
        key: key.to_owned(),
        name: name.to_owned(),
        revoked_at: revoked.map(ago),
    }
}

#[test]
fn named_people_pass_as_declared_and_a_stranger_with_a_key_fails() {
    let rule = Rule::NamedPeople {
        people_max: Some(2),
    };
    let mut facts = good();
    facts.holders = vec![
        holder("k1", "Ann", None),
        holder("k2", "Bo", None),
        holder("k3", "drill host", None),
        holder("k4", "Cy", Some(DAY)),
    ];
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["Ann, Bo and drill host", "declared nowhere"],
    );
    facts.declared.people = vec!["Ann".to_owned(), "Bo".to_owned()];
    facts.declared.machines = vec!["drill host".to_owned()];
    let passed = judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["can decrypt: Ann, Bo", "by the names of their keys alone"],
    );
    assert_eq!(passed.basis, Basis::Declared);
    facts.holders[3].revoked_at = None;
    judged(&rule, &facts, Verdict::Fail, &["Cy (k4)", "keys revoke"]);
    facts.declared.people.push("Cy".to_owned());
    judged(
        &rule,
        &facts,
        Verdict::Fail,
        &["3 people can decrypt, of at most 2"],
    );
}

#[test]
fn the_record_of_uses_passes_whole_and_fails_broken() {
    let mut facts = good();
    judged(&Rule::AccessLog, &facts, Verdict::NotProved, &["no use"]);
    facts.access = AccessLog {
        records: 5,
        first: Some(ago(DAY * 30)),
        last: Some(ago(DAY)),
        ..AccessLog::default()
    };
    judged(
        &Rule::AccessLog,
        &facts,
        Verdict::Pass,
        &["5 records", "tool-recorded", "--format csv"],
    );
    facts.access.unvouched = 2;
    facts.access.strangers = vec!["k7".to_owned()];
    judged(
        &Rule::AccessLog,
        &facts,
        Verdict::NotProved,
        &[
            "2 of 5 records by signers that are not enrolled",
            "k7",
            "keys enrol k7 --root",
        ],
    );
    facts.access.strangers.push("k8".to_owned());
    judged(
        &Rule::AccessLog,
        &facts,
        Verdict::NotProved,
        &["keys enrol --all"],
    );
    facts.access.broken.push("record 3 is missing".to_owned());
    judged(
        &Rule::AccessLog,
        &facts,
        Verdict::Fail,
        &["record 3 is missing", "evidence verify"],
    );
}

#[test]
fn a_review_of_access_passes_once_it_is_signed_off_and_fails_when_it_is_old_or_rejected() {
    let rule = Rule::AccessReview { over: DAY * 366 };
    let mut facts = good();
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["no review", "--for-review"],
    );
    facts.reviews.push(ReviewFact {
        id: "v1".to_owned(),
        keyring_version: 3,
        at: None,
        reviewer: String::new(),
        approved: false,
        same_identity: false,
        rejected: None,
        discounted: None,
    });
    judged(
        &rule,
        &facts,
        Verdict::NotProved,
        &["nobody has signed it off", "v1"],
    );
    facts.reviews[0].at = Some(ago(DAY * 10));
    facts.reviews[0].reviewer = "Ann".to_owned();
    facts.reviews[0].approved = true;
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["version 3", "reviewed by Ann", "1 change since"],
    );
    let other = judge(&rule, &facts);
    assert!(!other.measured.contains("same identity"), "{other:?}");
    facts.reviews[0].same_identity = true;
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &[
            "with the same identity that put the list on record",
            "declared only",
        ],
    );
    facts.reviews[0].rejected = Some("by Ann at 2026-11-12 11:59:58 UTC (T-1)".to_owned());
    judged(
        &rule,
        &facts,
        Verdict::Pass,
        &["was approved, after it was rejected by Ann at 2026-11-12 11:59:58 UTC"],
    );
    facts.reviews[0].approved = false;
    judged(&rule, &facts, Verdict::Fail, &["was rejected"]);
    facts.reviews[0].approved = true;
    facts.reviews[0].at = Some(ago(DAY * 400));
    judged(&rule, &facts, Verdict::Fail, &["more than 366 d ago"]);
}

#[test]
fn access_is_removed_if_nothing_newer_opens_with_the_key() {
    let mut facts = good();
    facts.holders = vec![holder("k1", "Ann", None), holder("k2", "Bo", Some(DAY * 5))];
    facts.sessions = vec![
        session("old", DAY * 6, &["k1", "k2"]),
        session("new", DAY, &["k1"]),
    ];
    let mut nobody = facts.clone();
    nobody.holders[1].revoked_at = None;
    judged(
        &Rule::RemovalOfAccess,
        &nobody,
        Verdict::NotProved,
        &["no removal to judge", "keys revoke"],
    );
    judged(
        &Rule::RemovalOfAccess,
        &facts,
        Verdict::Pass,
        &["removed: Bo on 2026-11-17", "2 sessions"],
    );
    facts.sessions.push(session("leak", HOUR, &["k1", "k2"]));
    judged(
        &Rule::RemovalOfAccess,
        &facts,
        Verdict::Fail,
        &["Bo lost access", "still opens", "leak"],
    );
    facts.sessions[2] = session("odd", HOUR, &["k9"]);
    judged(
        &Rule::RemovalOfAccess,
        &facts,
        Verdict::Fail,
        &["the root never signed"],
    );
    let nothing = judge(&Rule::RemovalOfAccess, &Facts::new(now()));
    assert_eq!(nothing.verdict, Verdict::NotProved);
}

fn session(key: &str, age: Duration, sealed_to: &[&str]) -> SessionFact {
    SessionFact {
        key: key.to_owned(),
        at: ago(age),
        sealed_to: sealed_to.iter().map(|key| (*key).to_owned()).collect(),
    }
}
