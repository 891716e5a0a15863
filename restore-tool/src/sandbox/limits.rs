//! How much of the machine a sandbox may take: set by the child on itself, inherited by the server.

use std::collections::BTreeMap;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::job::Limits;

/// Dies before anything else does when memory runs out.
const FIRST_TO_GO: &str = "900";

/// Sets the limits, and tells which are in force.
pub(super) fn apply(limits: &Limits) -> BTreeMap<String, String> {
    // A memory dump holds rows.
    lower(Resource::Core, 0);
    lower(Resource::As, limits.memory_bytes);
    lower(Resource::Nproc, limits.processes);
    // Without it the system's own choice holds.
    std::fs::write("/proc/self/oom_score_adj", FIRST_TO_GO).ok();
    let told = |resource| match getrlimit(resource).current {
        Some(value) => value.to_string(),
        None => "unlimited".to_owned(),
    };
    BTreeMap::from([
        ("core_bytes".to_owned(), told(Resource::Core)),
        ("address_space_bytes".to_owned(), told(Resource::As)),
        ("processes".to_owned(), told(Resource::Nproc)),
        ("seconds".to_owned(), limits.seconds.to_string()),
    ])
}

/// Never raises one.
fn lower(resource: Resource, wanted: u64) {
    let now = getrlimit(resource);
    let value = now.maximum.map_or(wanted, |most| most.min(wanted));
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    // What is in force is told, whatever became of this.
    setrlimit(resource, limit).ok();
}
