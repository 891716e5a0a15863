//! Who runs this program, and where: as the system tells it, not as anybody claims.

use serde::Serialize;
use tidemark_format::evidence::Sha256;
use tidemark_host::facts::HostFacts;

/// Where the machine's id stands.
const MACHINE_ID: &str = "/etc/machine-id";
/// No login is behind a process: what the kernel says for a service.
const NO_LOGIN: u32 = u32::MAX;

/// Who, and on which machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// The user's name, if the machine's own list has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's number.
    pub uid: u32,
    /// Who logged in, by the kernel's audit: stays through su and sudo.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Who asked sudo, as sudo says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// The machine's name.
    pub host: String,
    /// The machine's id, hashed: tells machines apart and gives the id not away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id_sha256: Option<Sha256>,
    /// The machine as an agent on it is called in its beats.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host_id: String,
}

impl Actor {
    /// Asks the system.
    #[must_use]
    pub fn gather(sudo_user: Option<String>) -> Self {
        let uid = rustix::process::getuid().as_raw();
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let machine = read(MACHINE_ID).filter(|id| !id.trim().is_empty());
        let login = read("/proc/self/loginuid").and_then(|text| text.trim().parse().ok());
        let facts = HostFacts::gather();
        Self {
            user: read("/etc/passwd").and_then(|users| user_name(&users, uid)),
            uid,
            login_uid: login.filter(|uid| *uid != NO_LOGIN),
            sudo_user: sudo_user.filter(|user| !user.is_empty()),
            host: facts.hostname,
            machine_id_sha256: machine.map(|id| machine_id_sha256(&id)),
            host_id: facts.host_id,
        }
    }
}

/// The name of a user in the format of passwd(5).
fn user_name(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == uid).then(|| name.to_owned())
    })
}

/// machine-id(5) asks for a hash that is bound to the application.
fn machine_id_sha256(id: &str) -> Sha256 {
    Sha256::of(format!("tidemark-machine-v1\0{}", id.trim()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n";
        assert_eq!(user_name(users, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(users, 1), None);
    }

    #[test]
    fn the_machines_id_is_not_given_away() {
        let hashed = machine_id_sha256("0123\n").to_string();
        assert_eq!(hashed, machine_id_sha256("0123").to_string());
        assert!(!hashed.contains("0123\n"));
        let actor = Actor::gather(Some(String::new()));
        assert!(actor.sudo_user.is_none() && !actor.host.is_empty());
    }
}
