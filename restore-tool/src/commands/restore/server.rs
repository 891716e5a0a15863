//! What a restored server has to tell: where it ended by its own log, how to start it, where the
//! settings are that lived outside its data directory.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::Value;
use tidemark_format::postgres::layout::CONFIG_FOLDER;
use tidemark_format::postgres::{Lsn, TimelineId};

use super::again;
use super::prepare::Prepared;
use super::report::{NOT_PROVED, Report, quote};
use crate::apply::{Done, ServerNeeds};
use crate::plan::{Reached, ServerReached};

/// The engine's facts about the end.
const FACTS: &str = "postgres";
/// A server doesn't start without it.
const SETTINGS: &str = "postgresql.conf";

impl Report {
    /// The same of a server, if the source is one.
    pub(super) fn with_server(
        mut self,
        prepared: &Prepared,
        done: &Done,
        needs: Option<&ServerNeeds>,
    ) -> Self {
        let Some(needs) = needs else { return self };
        self.commit_times = crate::plan::RECORDED;
        if let Some(facts) = done.proof.facts.get(FACTS) {
            self.reached = reached(self.reached, facts);
            let kept = facts.get("kept_bytes").and_then(Value::as_u64);
            self.kept_bytes = kept.filter(|_| prepared.target.is_over());
            let stopped = facts.get("stopped").and_then(Value::as_str);
            self.because = stopped.map_or(self.because, str::to_owned);
            let links = facts.get("links_not_made").and_then(Value::as_array);
            let links: Vec<&str> = links
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            if !links.is_empty() {
                self.exceptions.push(format!(
                    "symbolic links of the lost server's data directory were not made: {}",
                    links.join(", ")
                ));
            }
        }
        self.start = start(prepared.target.path(), needs, self.proof);
        self
    }
}

/// The state that the server itself says it reached.
fn reached(planned: Reached, facts: &Value) -> Reached {
    let text = |name: &str| facts.get(name)?.as_str();
    let at: Option<Timestamp> = text("ended_at").and_then(|at| at.parse().ok());
    let lsn: Option<Lsn> = text("lsn").and_then(|lsn| lsn.parse().ok());
    let timeline = facts.get("replayed_timeline").and_then(Value::as_u64);
    let timeline = timeline.and_then(|id| id.try_into().ok()).map(TimelineId);
    let told = timeline.zip(lsn);
    Reached {
        at: at.unwrap_or(planned.at),
        server: told
            .map(|(timeline, lsn)| ServerReached { timeline, lsn })
            .or(planned.server),
        ..planned
    }
}

/// How to start it, line by line.
fn start(target: &Path, needs: &ServerNeeds, proof: &str) -> Vec<String> {
    let shown = quote(&target.display().to_string());
    let mut lines = Vec::new();
    let outside = found_settings(&target.join(CONFIG_FOLDER));
    if target.join(CONFIG_FOLDER).is_dir() {
        lines.push(format!(
            "# settings that the lost server kept outside its data directory: {shown}/{CONFIG_FOLDER}/"
        ));
    }
    if !target.join(SETTINGS).is_file()
        && let Some(outside) = outside
    {
        let outside = quote(&outside.display().to_string());
        lines.push(format!(
            "cp {outside} {shown}/{SETTINGS}   # look through it first: data_directory, hba_file, paths"
        ));
    }
    lines.extend(prepared_transactions(target));
    let pg_ctl = needs.programs.as_ref().map_or_else(
        || "pg_ctl".to_owned(),
        |programs| quote(&programs.folder.join("pg_ctl").display().to_string()),
    );
    lines.push(format!(
        "{pg_ctl} -D {shown} -l {shown}.log start   # as the user that owns it; under systemd: the service whose data_directory this is"
    ));
    if proof == NOT_PROVED {
        lines.push(
            "# its first start replays the log and promotes it; archive_mode, primary_conninfo and jobs are as the lost server had them"
                .to_owned(),
        );
        lines.push(
            "# it is done when psql -c 'SELECT pg_is_in_recovery()' says f: until then it takes no writes, and is not at its end"
                .to_owned(),
        );
    }
    lines
}

/// Where the server keeps each transaction that is prepared and not ended.
const PREPARED: &str = "pg_twophase";

/// What a server needs that starts with prepared transactions: its settings are those of the base, and may
/// be older than they.
fn prepared_transactions(target: &Path) -> Option<String> {
    let waiting = std::fs::read_dir(target.join(PREPARED)).ok()?.count();
    let allowed = again::setting(target, "max_prepared_transactions");
    let allowed: usize = allowed.and_then(|text| text.parse().ok()).unwrap_or(0);
    let transactions = tidemark_host::output::count(waiting, "prepared transaction");
    (waiting > allowed).then(|| {
        format!(
            "# first set max_prepared_transactions = {waiting} or more in {SETTINGS}: {transactions} came back that nobody has \
             ended, and the setting of the time of the base is {allowed}, with which the server does not start"
        )
    })
}

/// The lost server's main file of settings, where it was kept.
fn found_settings(folder: &Path) -> Option<PathBuf> {
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                waiting.push(path);
            } else if entry.file_name() == SETTINGS {
                return Some(path);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_comes_back_with_prepared_transactions_is_given_the_setting_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path();
        assert_eq!(prepared_transactions(target), None);
        let waiting = target.join(PREPARED);
        std::fs::create_dir(&waiting).unwrap();
        assert_eq!(prepared_transactions(target), None);
        for name in ["000002F1", "000002F2"] {
            std::fs::write(waiting.join(name), b"x").unwrap();
        }
        let said = prepared_transactions(target).unwrap();
        assert!(
            said.contains("max_prepared_transactions = 2 or more"),
            "{said}"
        );
        let settings = "max_prepared_transactions = 1\n";
        std::fs::write(target.join(SETTINGS), settings).unwrap();
        assert!(prepared_transactions(target).is_some());
        let settings = "max_prepared_transactions = 10\n";
        std::fs::write(target.join(SETTINGS), settings).unwrap();
        assert_eq!(prepared_transactions(target), None);
    }
}
