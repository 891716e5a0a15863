//! One drill, rung by rung.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use tidemark_engine_postgres::restore::TablespaceMap;
use tidemark_format::sign::PublicKey;
use tidemark_host::Exit;
use tidemark_ledger::Trust;
use tidemark_ledger::history::{LoadOptions, PointsWanted};
use tidemark_ledger::timeline::{POSTGRESQL, Timeline};
use tidemark_open::Opener;
use tidemark_planner::drill::timing::{Spent, Work as Amount, project};
use tidemark_planner::drill::{Check, CheckStatus, Rung, Select, reached, select};
use tidemark_planner::restore::{self as planner, Target as Goal, Why};
use tokio_util::sync::CancellationToken;

use super::boxed::{Ground, Sandboxed};
use super::choose::{self, Field};
use super::course::Course;
use super::fault::words;
use super::record::Writing;
use super::request::{Request, Scenario};
use super::{clocks, examined, ladder, past, signer};
use crate::apply::{self, Done, ServerNeeds, ServerOptions, Work, stopped};
use crate::cli::RestoreArgs;
use crate::commands::restore::{Prepared, Show, closed, damages, execute, opener};
use crate::error::{Error, Result};
use crate::evidence::begun::Begun;
use crate::evidence::{drills, shelf};
use crate::identity::KeyHolder;
use crate::plan::{Avoid, RestorePlan};
use crate::repository::{Repository, Settings, Tools};
use crate::sandbox::SandboxError;
use crate::target::Target;

/// What a drill works with.
pub(super) struct Climb<'a> {
    pub(super) request: &'a Request,
    pub(super) settings: &'a Settings,
    pub(super) tools: &'a Tools,
    pub(super) stop: &'a CancellationToken,
    pub(super) writing: &'a Writing,
    pub(super) begun: Option<&'a Begun>,
    pub(super) trust: Trust,
    pub(super) signer: PublicKey,
}

/// What was looked at.
struct Looked {
    repository: Repository,
    timeline: Timeline,
    past: past::Past,
    notes: Vec<String>,
}

/// What is to be restored.
struct Planned {
    prepared: Prepared,
    plan: RestorePlan,
    field: Field,
    opener: Arc<Opener>,
    needs: Option<ServerNeeds>,
}

/// What was restored.
struct Restored {
    plan: RestorePlan,
    done: Done,
}

impl Climb<'_> {
    /// Climbs as far as it goes. What stops it stands in `course`.
    ///
    /// # Errors
    /// What keeps it from being a drill.
    pub(super) async fn run(&self, course: &mut Course, holder: KeyHolder) -> Result<()> {
        let scenario = self.request.scenario.as_ref();
        if let Some(Scenario::AsOf(at)) = scenario
            && *at > course.timing.declared_at()
            && self.request.plan.plan_id.is_none()
        {
            return Err(Error::TargetText(format!(
                "--scenario as-of={at}: that instant is still to come; name the last one at which everything was trusted. \
                 No drill was made, and none is on record"
            )));
        }
        let settings = choose::regions(scenario, self.settings)?;
        course.observed.scenario = scenario.is_some();
        let looked = match self.stopped(self.look(&settings, course)).await {
            Ok(looked) => looked,
            Err(error) if is_words(&error) && !self.is_lost(&error, &settings).await => {
                return Err(error);
            }
            // A schedule knows its regions: there another repository in their place is what it looks like.
            Err(error @ Error::OtherRepository { .. }) if self.request.plan.plan_id.is_none() => {
                return Err(error);
            }
            Err(error) => {
                course.stopped_by(&error);
                return Ok(());
            }
        };
        if let Some(why) = signer::revoked(&looked.repository.keyring, &self.signer) {
            course.signer_revoked(why);
            return Ok(());
        }
        let ground = Ground::check(self.request, &looked.timeline, course).await?;
        self.note(course);
        let planned = match self.stopped(self.plan(looked, holder, course)).await {
            Ok(planned) => planned,
            Err(error) if is_words(&error) => return Err(error),
            Err(error) => {
                if let Some(refused) = self.means_nothing(&error, course) {
                    return Err(refused);
                }
                course.stopped_by(&error);
                return Ok(());
            }
        };
        self.in_scratch(&ground, &planned, course).await;
        if let Some(scenario) = scenario {
            let other = ground.is_another_host();
            let reached = reached(&course.observed.checks);
            let proved = choose::proof(scenario, self.settings, other, reached);
            proved.into_iter().for_each(|check| course.check(check));
        }
        let repository = &planned.prepared.repository;
        if let Some(why) = signer::revoked_by_now(repository, &self.signer).await {
            course.signer_revoked(why);
        }
        Ok(())
    }

    /// Whether a source is gone that a plan knows and a drill has found there before: nobody mistyped its
    /// name.
    async fn is_lost(&self, error: &Error, settings: &Settings) -> bool {
        let Some(source) = self.request.source.as_ref() else {
            return false;
        };
        if !matches!(error, Error::NoSource { .. }) || self.request.plan.plan_id.is_none() {
            return false;
        }
        let known = async {
            let repository = Repository::open(settings, Some(self.trust), self.tools).await?;
            let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
            let drills = drills::all(&shelf.chains);
            Ok::<_, Error>(drills::of_source(&drills, source).any(|drill| drill.reached.is_some()))
        };
        // What can't be asked is no proof that somebody mistyped it.
        Box::pin(known).await.unwrap_or(true)
    }

    /// Whether somebody named an instant that is still to come, or a place that never was.
    fn means_nothing(&self, error: &Error, course: &Course) -> Option<Error> {
        let Error::NotRecoverable(refused) = error else {
            return None;
        };
        let named = matches!(self.request.select, Select::Named(_));
        if !named || self.request.plan.plan_id.is_some() {
            return None;
        }
        let asked = course.recovery_pt.0.get("target_time");
        let asked = asked.and_then(|at| at.as_str()?.parse::<jiff::Timestamp>().ok());
        let to_come = asked.is_some_and(|at| at > course.timing.declared_at());
        let nowhere = matches!(refused.refusal().why, Why::Unknown(_));
        (to_come || nowhere).then(|| {
            Error::TargetText(format!(
                "--select {}: no drill was made, and nothing is on record: {refused}",
                self.request.select
            ))
        })
    }

    async fn stopped<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        stopped(self.stop, Box::pin(work)).await
    }

    /// What is known by now, for the record of a drill that is killed.
    fn note(&self, course: &Course) {
        if let Some(begun) = self.begun {
            begun.update(&self.writing.unended(course));
        }
    }

    async fn look(&self, settings: &Settings, course: &mut Course) -> Result<Looked> {
        let tools = self.tools;
        let repository = Repository::open(settings, Some(self.trust), tools).await?;
        let asked = self.request.source.as_ref().or(settings.source.as_ref());
        let source = repository.source(asked).await?;
        // The newest state doesn't hang on a month of recovery points, each of which costs a request.
        let points = match (&self.request.select, &self.request.scenario) {
            (Select::Latest, scenario) if !matches!(scenario, Some(Scenario::AsOf(_))) => {
                PointsWanted::OVERVIEW
            }
            _ => PointsWanted::All,
        };
        let options = LoadOptions { points };
        let timeline = repository.timeline(&source, &options);
        let (timeline, past) = join(timeline, past::read(&repository, &source)).await;
        let (timeline, (past, notes)) = (timeline?, past);
        let failed = timeline.failed.len();
        course.unread = repository.away.len().saturating_add(failed);
        course.describe(&timeline, &repository, settings);
        tools.access.note("source", &course.source.0);
        tools.access.regions(
            timeline.histories().map(|(name, _)| name),
            repository.away.iter().map(|away| &away.name),
        );
        course.ended("look");
        Ok(Looked {
            repository,
            timeline,
            past,
            notes,
        })
    }

    /// Chooses, plans, and looks at every head that the plan needs in every region.
    async fn plan(
        &self,
        looked: Looked,
        holder: KeyHolder,
        course: &mut Course,
    ) -> Result<Planned> {
        let Looked {
            repository,
            timeline,
            mut past,
            notes,
        } = looked;
        course.earlier = std::mem::take(&mut past.earlier);
        course.notes.extend(notes);
        course.rung = Rung::Chain;
        let opener = Arc::new(opener(&repository, holder.identity()?, self.tools)?);
        let field = Field::look(&timeline, self.request, &opener, course).await?;
        let asked = field.choose(self.request, self.tools, course)?;
        course.ended("choose");
        let mut prepared = Prepared {
            asked,
            // Nothing is written before the scratch is there.
            target: Target::look(&std::env::temp_dir().join("tidemark-drill"))?,
            server: ServerOptions::default(),
            repository,
            timeline,
            notes: Vec::new(),
            exceptions: Vec::new(),
            accept_older: false,
        };
        prepared.check_freshness(&RestoreArgs::default(), self.tools)?;
        let plan = prepared.plan(&field.avoid).await;
        let plan = plan.map_err(|error| closed::told(error, &prepared, opener.identity()))?;
        course.passed(
            Rung::Chain,
            format!("{} bases, {} log objects", plan.bases.len(), plan.log.len()),
        );
        course.plan(&plan);
        let (goal, timeline) = (&prepared.asked.goal, &prepared.timeline);
        past.kept(self.request, goal, &plan, timeline, course);
        let server = ServerOptions {
            no_finish: true,
            ..ServerOptions::default()
        };
        course.rung = Rung::Ciphertext;
        let needs = apply::look_at_server(&opener, &plan, &server).await?;
        course.ended("chain");
        course.notes.append(&mut prepared.notes);
        course.observed.exceptions.append(&mut prepared.exceptions);
        Ok(Planned {
            prepared,
            plan,
            field,
            opener,
            needs,
        })
    }

    /// Everything that needs the scratch, which is destroyed whatever happens.
    async fn in_scratch(&self, ground: &Ground, planned: &Planned, course: &mut Course) {
        let bytes = planned.plan.needed_bytes();
        let mut scratch = match ground.scratch(self, bytes, course) {
            Ok(scratch) => scratch,
            Err(error) => {
                course.stopped_by(&error);
                return;
            }
        };
        course.ended("scratch");
        self.note(course);
        let restored = Box::pin(self.restore(&mut scratch, planned, course)).await;
        let climbed = match restored {
            Ok(restored) => {
                let examined = self.examine(&mut scratch, planned, &restored, course);
                Box::pin(examined).await.map(|()| Some(restored))
            }
            Err(error) => Err(error),
        };
        course.timing.checked();
        match climbed {
            Ok(Some(restored)) => self.other_copies(planned, &restored, course).await,
            Ok(None) => {}
            Err(Error::Sandbox(error @ SandboxError::NoIsolation { .. })) => {
                course.not_isolated(&error);
            }
            Err(error) => {
                course.stopped_by(&error);
                // What is damaged is worth knowing, too; of regions that are all away nobody learns it.
                course.damages_of(&planned.opener);
                if course.fault.as_ref().map(|fault| fault.exit) != Some(Exit::Region) {
                    self.every_chain(planned, &planned.plan, course).await;
                }
            }
        }
        scratch.destroy(self.tools, course);
        course.ended("destroy");
    }

    /// The restore itself, as `restore` does it, into the scratch.
    async fn restore(
        &self,
        scratch: &mut Sandboxed,
        planned: &Planned,
        course: &mut Course,
    ) -> Result<Restored> {
        course.rung = Rung::Ciphertext;
        let is_server = planned.prepared.timeline.engine() == Some(POSTGRESQL);
        let target = Target::look(&scratch.data())?;
        let target = if is_server {
            target.into_folder()?
        } else {
            target.into_file()?
        };
        let spaces = planned.needs.iter().flat_map(|needs| &needs.tablespaces);
        let moves: Vec<String> = (1..)
            .zip(spaces)
            .map(|(number, old): (u32, _)| {
                let new = scratch.tablespace(number);
                format!("{old}={}", new.display())
            })
            .collect();
        let tablespaces = TablespaceMap::parse(moves.iter().map(String::as_str));
        let work = Work {
            opener: Arc::clone(&planned.opener),
            target,
            server: ServerOptions {
                tablespaces: tablespaces.map_err(|error| Error::TargetText(error.to_string()))?,
                pg_bin: self.request.pg_bin.clone(),
                no_finish: true,
            },
            tools: self.tools.clone(),
            stop: self.stop.clone(),
        };
        let avoid: Avoid = planned.field.avoid.clone();
        let args = RestoreArgs::default();
        let ran = execute(&args, &planned.prepared, &work, Show::Nothing, avoid).await;
        let (plan, done, _needs) = ran?;
        course.within("bases", done.bases);
        course.within("log", done.log);
        course.within("prove", done.prove);
        course.ended("place");
        course.restored(&plan, &done, damages(&work, &plan));
        Ok(Restored { plan, done })
    }

    /// Replay and checks in the sandbox, and what they measure.
    async fn examine(
        &self,
        scratch: &mut Sandboxed,
        planned: &Planned,
        restored: &Restored,
        course: &mut Course,
    ) -> Result<()> {
        course.rung = Rung::Replay;
        let timeline = &planned.prepared.timeline;
        let canary = examined::canary_of(self.request, &restored.plan);
        let ran = scratch.run(self, timeline, &restored.done, canary.is_some());
        let outcome = ran.await?;
        for phase in &outcome.phases {
            course.within(&phase.name, Duration::from_millis(phase.took_ms));
        }
        course.isolation(&outcome);
        let clocks = clocks::gather(
            timeline,
            &planned.prepared.repository,
            &restored.plan,
            self.tools,
        );
        let clocks = clocks.await;
        course.clocks(&clocks);
        let seen = examined::Seen {
            request: self.request,
            asked: &planned.prepared.asked,
            plan: &restored.plan,
            proof: &restored.done.proof,
            complete_until: planned.field.complete_until,
            canary_every_s: canary,
            witness: clocks.witness,
            outcome: &outcome,
        };
        seen.judge(course);
        course.ended("sandbox");
        course.timing.checked();
        // What did not come back was not back after any time.
        if reached(&course.observed.checks) >= Some(Rung::Logical) {
            course.observed.rto_ms = course.timing.rto().and_then(milliseconds);
            self.project(planned, restored, course);
        }
        Ok(())
    }

    /// What a restore of everything, and of the state with the most log, would take.
    fn project(&self, planned: &Planned, restored: &Restored, course: &mut Course) {
        let plan = &restored.plan;
        let bases = plan.bases.iter();
        let bases = bases.map(|base| base.head.stored_bytes.saturating_add(base.size));
        let done = Amount {
            base_bytes: bases.fold(0, u64::saturating_add),
            log_bytes: plan.log.iter().map(|object| object.size).sum(),
            replay_bytes: replayed(&planned.field, plan),
            image_bytes: plan.image_bytes(),
        };
        let timing = &course.timing;
        let spent = Spent {
            fixed: timing.of(&[
                "declare", "look", "choose", "chain", "scratch", "isolate", "start",
            ]),
            bases: timing.of(&["bases"]),
            log: timing.of(&["log"]),
            replay: timing.of(&["replay"]),
            image: timing.of(&["prove", "place", "checks", "sandbox"]),
        };
        let timeline = &planned.prepared.timeline;
        let amount = |other: &planner::RestorePlan| Amount {
            base_bytes: other.base_bytes,
            log_bytes: other.log_bytes,
            replay_bytes: other.replay_bytes,
            image_bytes: image_of(timeline, other).unwrap_or(done.image_bytes),
        };
        let facts = &planned.field.facts;
        let full = planner::plan(facts, &Goal::Latest).ok();
        let worst = select::worst_replay(facts, None);
        let time =
            |plan: &planner::RestorePlan| milliseconds(project(&spent, &done, &amount(plan)));
        course.projected_full_ms = full.as_ref().and_then(time);
        course.projected_worst_ms = worst.as_ref().and_then(time);
    }

    /// Heads and names in every region.
    async fn every_chain(&self, planned: &Planned, plan: &RestorePlan, course: &mut Course) {
        let timeline = &planned.prepared.timeline;
        match stopped(self.stop, Box::pin(ladder::chain(timeline, plan))).await {
            Ok(found) => course.found(found),
            Err(Error::Interrupted) => {}
            Err(error) => {
                let why = tidemark_storage::chain(&error);
                let name = "heads and names in every region";
                let check = Check::new(Rung::Chain, "chain.regions", name, CheckStatus::NotRun);
                course.check(check.why(why.clone()));
                let exception = format!("the regions could not be compared: {why}");
                course.observed.exceptions.push(exception);
            }
        }
    }

    /// Heads and names in every region, then the bytes of the other regions' copies: nobody waits for that
    /// in an emergency.
    async fn other_copies(&self, planned: &Planned, restored: &Restored, course: &mut Course) {
        self.every_chain(planned, &restored.plan, course).await;
        let repository = &planned.prepared.repository;
        if repository.regions.len() < 2 || self.stop.is_cancelled() {
            return;
        }
        match ladder::bodies(&planned.opener, &restored.plan).await {
            Ok(bodies) => {
                let read = ladder::ciphertext(repository, &bodies, &self.tools.rng);
                let read = stopped(self.stop, async { Ok(read.await) }).await;
                if let Ok(found) = read {
                    course.found(found);
                }
            }
            Err(error) => {
                let why = tidemark_storage::chain(&error);
                let name = "bodies in the other regions";
                course.check(
                    Check::new(
                        Rung::Ciphertext,
                        "ciphertext.others",
                        name,
                        CheckStatus::NotRun,
                    )
                    .why(why),
                );
            }
        }
        course.ended("regions");
    }
}

/// Whether an error says that the request itself means nothing.
fn is_words(error: &Error) -> bool {
    matches!(
        error,
        Error::TargetText(_)
            | Error::Time(_)
            | Error::NoRegion
            | Error::NoSource { .. }
            | Error::SourceUnclear { .. }
            | Error::MixedRepositories { .. }
            | Error::RegionUrl(_)
    )
}

/// Bytes that were replayed.
fn replayed(field: &Field, plan: &RestorePlan) -> u64 {
    let (first, last) = (plan.log.first(), plan.log.last());
    first.zip(last).map_or(0, |(first, last)| {
        let (first, last) = (&first.head, &last.head);
        planner::replay_bytes(&field.facts, last.epoch, first.seq, last.seq)
    })
}

/// The size of the database that another plan restores, as its newest base has it.
fn image_of(timeline: &Timeline, plan: &planner::RestorePlan) -> Option<u64> {
    let id = plan.bases.last()?;
    let view = timeline.epoch(plan.epoch)?;
    let base = view
        .bases
        .iter()
        .find(|base| (base.head.generation, base.head.number) == (id.generation, id.number))?;
    Some(base.head.image_bytes)
}

fn milliseconds(time: Duration) -> Option<u64> {
    u64::try_from(time.as_millis()).ok()
}

impl Course {
    /// A rung's own check of the restore.
    pub(super) fn passed(&mut self, rung: Rung, actual: String) {
        let id = format!("{rung}.restore");
        self.check(Check::of(rung, id, words(rung), true).actual(actual));
    }
}
