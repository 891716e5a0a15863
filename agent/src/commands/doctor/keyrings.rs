//! What all regions' keyrings together say: one to all of them, as far in each, and two people who can read.

use tidemark_format::{KeyId, RegionName, sign::PublicKey};
use tidemark_host::config::AgentConfig;
use tidemark_ledger::{Keyring, custody};

use super::{Findings, Grade};
use crate::{enrolment, ship::greet::recipients};

/// Looks at the keyrings that the regions hold.
pub(super) fn look(
    config: &AgentConfig,
    held: &[(RegionName, Keyring)],
    agent: Option<PublicKey>,
    findings: &mut Findings,
) {
    let named: Vec<_> = held.iter().map(|(name, keyring)| (name, keyring)).collect();
    let newest = held.iter().map(|(_, keyring)| keyring);
    let newest = newest.max_by_key(|keyring| keyring.version());
    let versions = named
        .iter()
        .map(|(name, keyring)| (name.as_str(), keyring.version()));
    let versions: Vec<(&str, u32)> = versions.collect();
    match (custody::agree(&named), lag(&versions)) {
        (Err(error), _) => findings.bad(
            Grade::Broken,
            "keyrings",
            error.to_string(),
            "tidemark-agent explain TM1211",
        ),
        (Ok(()), Some(lag)) => {
            let known = newest.and_then(|keyring| member(keyring, agent));
            let remedy = known.map_or_else(
                || "tidemark-restore keys enrol, with every region".to_owned(),
                |key| enrolment::command(key, &config.regions),
            );
            let remedy = format!("on the host with the root key, it signs nothing new: {remedy}");
            findings.bad(Grade::Look, "keyrings", lag, remedy);
        }
        (Ok(()), None) if held.len() > 1 => findings.ok("keyrings", "the same in every region"),
        (Ok(()), None) => {}
    }
    // As the agent seals: the keyring decides, and the config counts where it says nothing.
    let readers = match newest {
        Some(keyring) => recipients(keyring, &config.recipients).len(),
        None => config.recipients.len(),
    };
    if readers < 2 {
        findings.bad(
            Grade::Look,
            "recipients",
            "only one recovery identity can read the backups: losing it loses them all",
            "add a second one: tidemark-restore keys new --repository, then keys enrol --recipient",
        );
    } else {
        findings.ok("recipients", format!("{readers} recovery identities"));
    }
}

/// Which regions lack versions that another one holds, in words.
fn lag(versions: &[(&str, u32)]) -> Option<String> {
    let newest = versions.iter().map(|(_, version)| *version).max()?;
    let ahead: Vec<&str> = versions
        .iter()
        .filter(|(_, version)| *version == newest)
        .map(|(region, _)| *region)
        .collect();
    let behind: Vec<String> = versions
        .iter()
        .filter(|(_, version)| *version < newest)
        .map(|(region, version)| format!("{region} has version {version}"))
        .collect();
    (!behind.is_empty()).then(|| {
        format!(
            "{}, and {} version {newest}: whoever reads only the older ones doesn't know who was enrolled or revoked since",
            behind.join(", "),
            ahead.join(", ")
        )
    })
}

/// A key that the root knows, which `keys enrol` takes without signing anything: this agent's if it can.
fn member(keyring: &Keyring, agent: Option<PublicKey>) -> Option<KeyId> {
    let live = || {
        let members = keyring.members().iter();
        members
            .filter(|member| member.revoked.is_none())
            .map(|member| member.key)
    };
    let own = live().find(|key| Some(*key) == agent);
    own.or_else(|| live().next()).map(|key| key.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_lag_are_named_with_the_version_that_they_have() {
        assert_eq!(lag(&[]), None);
        assert_eq!(lag(&[("a", 3)]), None);
        assert_eq!(lag(&[("a", 3), ("b", 3)]), None);
        let said = lag(&[("a", 3), ("b", 2), ("c", 3)]).unwrap();
        assert!(
            said.starts_with("b has version 2, and a, c version 3:"),
            "{said}"
        );
    }
}
