//! What this machine and this program are, as it stands in points, beats and evidence.

use serde::{Deserialize, Serialize};
use tidemark_format::Hash;

/// This build's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The machine a process runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Names the machine without giving its machine id away; the same after a reboot. Empty when
    /// the machine has no id.
    pub host_id: String,
    /// Its host name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// This program's version.
    pub version: String,
}

/// Where systemd and D-Bus keep the machine's id.
const MACHINE_ID_FILES: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

impl HostFacts {
    /// Asks the system.
    #[must_use]
    pub fn gather() -> Self {
        let system = rustix::system::uname();
        let machine_id = MACHINE_ID_FILES.iter().find_map(|path| {
            std::fs::read_to_string(path)
                .ok()
                .filter(|id| !id.trim().is_empty())
        });
        Self {
            host_id: machine_id.map(|id| host_id(&id)).unwrap_or_default(),
            hostname: system.nodename().to_string_lossy().into_owned(),
            kernel: system.release().to_string_lossy().into_owned(),
            version: VERSION.to_owned(),
        }
    }
}

/// machine-id(5) asks not to publish the id itself: a hash bound to this program is shown instead.
fn host_id(machine_id: &str) -> String {
    let hash = Hash::of(format!("tidemark-host-v1\0{}", machine_id.trim()).as_bytes());
    hash.to_string().chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_id_does_not_give_the_machine_id_away() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(host_id(id), host_id(&format!("{id}\n")));
        assert_ne!(host_id(id), id);
        assert_eq!(host_id(id).len(), 32);
    }

    #[test]
    fn the_system_tells_its_name_and_kernel() {
        let facts = HostFacts::gather();
        assert!(!facts.hostname.is_empty() && !facts.kernel.is_empty());
    }
}
