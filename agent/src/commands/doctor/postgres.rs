//! What `doctor` says about a PostgreSQL cluster: everything that the server can be asked, each finding
//! with its statement.

use tidemark_engine_postgres::Followed;
use tidemark_engine_postgres::conninfo::{ConnInfo, Process};
use tidemark_engine_postgres::probe::{self, Wanted};
use tidemark_host::config::{Ack, AgentConfig, Source};
use tidemark_host::output::bytes;

use super::super::context;
use super::{Findings, Grade};
use crate::folders;
use crate::source::canary;
use crate::state::{SourceRecord, StateDir};

/// Looks at the cluster of a source.
pub(super) fn look(
    source: &Source,
    (conninfo, slot): (&str, &str),
    config: &AgentConfig,
    findings: &mut Findings,
) {
    let what = format!("database {}", source.name);
    let info = match ConnInfo::parse(conninfo, &Process) {
        Ok(info) => info,
        Err(error) => {
            let remedy = "correct it in the config; the agent's user must be able to read the files it names";
            findings.bad(Grade::Broken, what, error.to_string(), remedy);
            return;
        }
    };
    let wanted = Wanted {
        slot: slot.to_owned(),
        application_name: slot.to_owned(),
        waits_for_regions: source.settings.ack == Ack::Regions,
        slot_keep_max: source.settings.slot_keep_max.get(),
        canary: canary::form(&source.settings),
        followed: followed(source, config),
        runs_as: folders::owner_of_state(&config.state_dir),
    };
    let Ok(runtime) = context::runtime() else {
        return;
    };
    let found = runtime.block_on(probe::look(&info, &wanted));
    if let Some(size) = found
        .server
        .as_ref()
        .and_then(|server| server.database_bytes)
    {
        findings.ok(
            what.clone(),
            format!("{} in all its databases", bytes(size)),
        );
    }
    for check in found.checks {
        let topic = format!("{what}: {}", check.topic.name());
        let grade = match check.grade {
            probe::Grade::Fine => Grade::Ok,
            probe::Grade::Look => Grade::Look,
            probe::Grade::Broken => Grade::Broken,
        };
        match check.remedy {
            Some(remedy) => findings.bad(grade, topic, check.found, remedy),
            None => findings.ok(topic, check.found),
        }
    }
}

/// What was captured of the source so far, unless it is retired.
fn followed(source: &Source, config: &AgentConfig) -> Option<Followed> {
    let state = StateDir::new(&config.state_dir);
    let record = SourceRecord::load(&state.record(&source.name))
        .ok()
        .flatten();
    if record.is_some_and(|record| record.retired.is_some()) {
        return None;
    }
    Followed::load(&state.engine(&source.name))
}
