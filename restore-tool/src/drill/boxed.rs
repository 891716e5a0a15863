//! The ground that a drill stands on: whether it may run here, its scratch, its sandbox.

use std::path::PathBuf;

use serde_json::json;
use tidemark_engine::examine::{Questions, Statement};
use tidemark_engine_postgres::examine::ReplayGoal;
use tidemark_host::HostFacts;
use tidemark_ledger::timeline::{POSTGRESQL, Timeline};

use super::climb::Climb;
use super::course::Course;
use super::left::{Noted, sweep};
use super::request::Request;
use crate::apply::Done;
use crate::error::{Error, Result};
use crate::repository::Tools;
use crate::sandbox::{
    self, Job, Options, Outcome, Production, Scratch, Segregation, Wanted, refuse_here,
};

/// The fact of a base that names the cluster.
const SYSTEM: &str = "system";

/// A host on which this drill may run.
#[derive(Debug)]
pub(super) struct Ground {
    segregation: Segregation,
}

impl Ground {
    /// Refuses the source's own host, and what answers as production.
    ///
    /// # Errors
    /// [`crate::sandbox::SandboxError::Refused`].
    pub(super) async fn check(
        request: &Request,
        timeline: &Timeline,
        course: &mut Course,
    ) -> Result<Self> {
        let here = HostFacts::gather();
        let mut production = Production {
            addresses: request.production.clone(),
            ..Production::default()
        };
        for view in timeline.epochs() {
            let points = view.points.iter().map(|point| &point.head.facts);
            let bases = view.bases.iter().map(|base| &base.head.facts);
            points.chain(bases).for_each(|facts| production.note(facts));
            let mut systems = view.bases.iter().filter_map(|base| {
                let system = base.head.facts.get(SYSTEM)?;
                system.as_u64().or_else(|| system.as_str()?.parse().ok())
            });
            production.system = systems.next_back().or(production.system);
        }
        let allowed = request.allow_source_host;
        let segregation = refuse_here(&production, &here, allowed).await?;
        let section = &mut course.environment;
        section.set("host", &here.hostname);
        section.set("host_id", &here.host_id);
        section.set("os", &here.kernel);
        section.set(
            "segregated_from_source",
            &json!({
                "value": segregation.segregated,
                "how": segregation.how,
                "unknown": segregation.unknown,
            }),
        );
        if !segregation.segregated {
            course.notes.push(format!(
                "{}: the drill proves the backup, and satisfies no policy that asks for another host",
                segregation.how
            ));
        }
        Ok(Self { segregation })
    }

    /// Whether it is another host than the source's, as far as that is known.
    pub(super) const fn is_another_host(&self) -> bool {
        self.segregation.segregated
    }

    /// A scratch for so many bytes. What earlier drills left behind is destroyed first.
    ///
    /// # Errors
    /// The sandbox's.
    pub(super) fn scratch(
        &self,
        climb: &Climb<'_>,
        bytes: u64,
        course: &mut Course,
    ) -> Result<Sandboxed> {
        let state = climb.settings.state.as_deref();
        let left = state.map(|state| sweep(state, climb.tools.clock.as_ref(), true));
        for left in left.into_iter().flatten() {
            let exception =
                format!("of an earlier drill that was killed something is left: {left}");
            course.observed.exceptions.push(exception);
        }
        let wanted = Wanted {
            folder: climb.request.scratch.clone(),
            bytes,
        };
        let run = climb.writing.run_id.as_str();
        let mut noted = None;
        let scratch = Scratch::make_noted(&wanted, climb.tools.rng.as_ref(), |path| {
            noted = state.and_then(|state| Noted::write(state, run, path));
        });
        let scratch = match scratch {
            Ok(scratch) => scratch,
            Err(error) => {
                // What was made of it is gone, or is found by its note.
                drop(noted);
                return Err(error.into());
            }
        };
        let section = &mut course.environment;
        section.set("sandbox_id", &run);
        section.set("scratch", &scratch.describe());
        section.set("scratch_kind", &scratch.kind());
        section.set("scratch_path", &scratch.path().display().to_string());
        Ok(Sandboxed { scratch, noted })
    }
}

/// A scratch, and what runs in it.
#[derive(Debug)]
pub(super) struct Sandboxed {
    scratch: Scratch,
    noted: Option<Noted>,
}

impl Sandboxed {
    /// What the database is called.
    pub(super) fn data(&self) -> PathBuf {
        self.scratch.data()
    }

    /// Where a tablespace goes.
    pub(super) fn tablespace(&self, number: u32) -> PathBuf {
        self.scratch.path().join(format!("tablespace-{number}"))
    }

    /// Runs the restored database, and asks it.
    ///
    /// # Errors
    /// The sandbox's.
    pub(super) async fn run(
        &mut self,
        climb: &Climb<'_>,
        timeline: &Timeline,
        done: &Done,
        canary: bool,
    ) -> Result<Outcome> {
        let request = climb.request;
        let questions = Questions {
            full: request.full,
            canary,
            counts: request.counts,
            statements: request
                .assertions
                .iter()
                .map(|assertion| Statement {
                    id: assertion.id.clone(),
                    database: assertion.database.clone(),
                    sql: assertion.sql.clone(),
                })
                .collect(),
            statement_seconds: None,
        };
        let is_server = timeline.engine() == Some(POSTGRESQL);
        let engine = if is_server { POSTGRESQL } else { "sqlite" };
        let mut job = Job::new(engine, self.scratch.data(), questions);
        if is_server {
            let goal = ReplayGoal::of(&done.proof.facts);
            job.replay = Some(goal.ok_or_else(|| {
                Error::Unproved("the restore does not say where replay must end".to_owned())
            })?);
        }
        job.pg_bin.clone_from(&request.pg_bin);
        job.libraries.clone_from(&request.libraries);
        job.limits = request.limits;
        let settings = climb.settings;
        let secrets = [
            &settings.identity,
            &settings.passphrase_file,
            &settings.credentials,
        ];
        job.forbidden = secrets.into_iter().flatten().cloned().collect();
        let options = Options::default();
        Ok(sandbox::run(job, &self.scratch, &options, climb.stop).await?)
    }

    /// Destroys it, and looks whether it is gone.
    pub(super) fn destroy(self, tools: &Tools, course: &mut Course) {
        let teardown = match self.scratch.destroy(tools.clock.as_ref()) {
            Ok(destroyed) => {
                if let Some(noted) = self.noted {
                    noted.gone();
                }
                let completed_at = tools.clock.now();
                json!({
                    "method": destroyed.method,
                    "completed_at": completed_at,
                    "verified_absent": destroyed.verified_absent,
                    "scratch_key_destroyed": destroyed.scratch_key_destroyed,
                })
            }
            Err(error) => {
                // The note stays: the next drill tries again.
                let why = tidemark_storage::chain(&error);
                course.observed.scratch_left = Some(why.clone());
                json!({ "verified_absent": false, "why": why })
            }
        };
        course.handling.set("teardown", &teardown);
    }
}
