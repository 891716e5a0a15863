//! Everything looked at before the first byte is written: the target, the regions, how new they are.

use jiff::tz::TimeZone;
use tidemark_engine_postgres::restore::TablespaceMap;
use tidemark_host::output;
use tidemark_host::time_spec::TimeContext;
use tidemark_ledger::history::{Expect, LoadOptions, PointsWanted};
use tidemark_ledger::timeline::Timeline;

use super::over;
use crate::apply::{ServerNeeds, ServerOptions};
use crate::cli::RestoreArgs;
use crate::error::{Error, Result};
use crate::evidence::access::Access;
use crate::plan::{self, Asked, Avoid, Goal, PlanDocument, RestorePlan};
use crate::repository::{Repository, Settings, Tools};
use crate::target::Target;

/// For freshness and the end of the log.
const NEWEST_POINTS: usize = 4;
/// A region whose newest point is older than this beside another one is an exception, not a moment's
/// lag between two regions that are fed at once.
const LAG_THAT_COUNTS: jiff::SignedDuration = jiff::SignedDuration::from_mins(15);

/// Everything looked at before the first byte is written.
pub(crate) struct Prepared {
    pub(crate) asked: Asked,
    pub(crate) target: Target,
    pub(crate) server: ServerOptions,
    pub(crate) repository: Repository,
    pub(crate) timeline: Timeline,
    pub(crate) notes: Vec<String>,
    pub(crate) exceptions: Vec<String>,
    pub(crate) accept_older: bool,
}

impl Prepared {
    /// What can be refused without asking anybody: words and target.
    pub(super) fn words(
        args: &RestoreArgs,
        tools: &Tools,
    ) -> Result<(Asked, Target, ServerOptions)> {
        let context = TimeContext {
            now: tools.clock.now(),
            local: TimeZone::system(),
            interactive: tools.console.out_is_terminal,
        };
        let moves = args.map_tablespace.iter().map(String::as_str);
        let tablespaces = TablespaceMap::parse(moves);
        let server = ServerOptions {
            tablespaces: tablespaces.map_err(|error| Error::TargetText(error.to_string()))?,
            pg_bin: args.pg_bin.clone(),
            no_finish: args.no_finish,
        };
        let target = Target::look(&args.target)?;
        Ok((Asked::read(args, &context)?, target, server))
    }

    /// What the target must be for this source; only a server has options of its own.
    fn shaped(target: Target, timeline: &Timeline, args: &RestoreArgs) -> Result<Target> {
        if timeline.is_divisible() && args.delta {
            return over::look(target);
        }
        if timeline.is_divisible() {
            return Ok(target.into_folder()?);
        }
        // Before its first base nobody knows what a source is: the plan says that nothing can be had.
        if timeline.engine().is_none() {
            return Ok(target);
        }
        let given = [
            (args.delta, "--delta"),
            (args.no_finish, "--no-finish"),
            (args.pg_bin.is_some(), "--pg-bin"),
            (!args.map_tablespace.is_empty(), "--map-tablespace"),
        ];
        if let Some((_, word)) = given.into_iter().find(|(given, _)| *given) {
            return Err(Error::TargetText(format!(
                "{word} is for PostgreSQL servers, and source {} is none",
                timeline.source()
            )));
        }
        Ok(target.into_file()?)
    }

    pub(super) async fn look(
        args: &RestoreArgs,
        settings: &Settings,
        trust: Option<tidemark_ledger::Trust>,
        tools: &Tools,
    ) -> Result<Self> {
        let (asked, target, server) = Self::words(args, tools)?;
        let repository = Repository::open(settings, trust, tools).await?;
        let source = repository.source(settings.source.as_ref()).await?;
        let points = match asked.goal {
            Goal::Latest | Goal::Position(..) => PointsWanted::Newest(NEWEST_POINTS),
            Goal::Time(_) | Goal::Point(_) | Goal::PointAt(..) | Goal::Lsn(_) | Goal::Xid(_) => {
                PointsWanted::All
            }
        };
        let points = if args.expect.is_some() {
            PointsWanted::All
        } else {
            points
        };
        let timeline = repository
            .timeline(&source, &LoadOptions { points })
            .await?;
        let target = Self::shaped(target, &timeline, args)?;
        let mut prepared = Self {
            asked,
            target,
            server,
            repository,
            timeline,
            notes: Vec::new(),
            exceptions: Vec::new(),
            accept_older: args.accept_older,
        };
        prepared.check_freshness(args, tools)?;
        prepared.notes.extend(over::note(&prepared.target));
        prepared.say_which_of_one_name();
        Ok(prepared)
    }

    /// What the access record says of it.
    pub(super) fn recorded(&self, access: &Access) {
        let source = serde_json::json!({
            "name": self.timeline.source().as_str(),
            "engine": if self.timeline.is_divisible() { "postgres" } else { "sqlite" },
        });
        access.note("source", &source);
        access.regions(
            self.timeline.histories().map(|(name, _)| name),
            self.repository.away.iter().map(|away| &away.name),
        );
    }

    /// Invariant 13: a region that was rolled back shows only good, signed, linked objects.
    pub(crate) fn check_freshness(&mut self, args: &RestoreArgs, tools: &Tools) -> Result<()> {
        if let Some(expect) = &args.expect {
            let expect: Expect = expect.parse().map_err(Error::TargetText)?;
            let unmet: Vec<_> = self
                .timeline
                .histories()
                .map(|(_, history)| expect.check(history))
                .collect();
            let met = unmet.iter().any(std::result::Result::is_ok);
            if let Some(Err(error)) = unmet.into_iter().next().filter(|_| !met) {
                self.stale(format!("no region given has the expected point: {error}"))?;
            }
        }
        self.compare_regions()?;
        if args.expect.is_none() {
            self.say_what_one_region_means(tools);
        }
        self.name_unread_regions();
        self.name_lost_claims();
        Ok(())
    }

    fn compare_regions(&mut self) -> Result<()> {
        let freshness = self.timeline.freshness();
        for region in &freshness.forked {
            self.stale(format!(
                "region {region} holds another newest recovery point under the same name than the other regions"
            ))?;
        }
        for older in &freshness.older {
            let lag = older.newest_here.as_ref().map(|here| {
                older
                    .newest_elsewhere
                    .committed
                    .duration_since(here.committed)
            });
            let words = lag.map_or_else(
                || {
                    format!(
                        "region {} has no recovery point of this source",
                        older.region
                    )
                },
                |lag| {
                    let lag = output::duration(lag.unsigned_abs());
                    format!("region {} is {lag} older than another one", older.region)
                },
            );
            if lag.is_none_or(|lag| lag > LAG_THAT_COUNTS) {
                self.exceptions.push(format!(
                    "{words} (rolled back, or not fed); it is not relied on"
                ));
            } else {
                self.notes.push(words);
            }
        }
        Ok(())
    }

    /// A name may have been given twice: the newest is taken, and it is said.
    fn say_which_of_one_name(&mut self) {
        let Goal::Point(name) = &self.asked.goal else {
            return;
        };
        let all: Vec<String> = plan::points_named(&self.timeline, name)
            .map(|point| {
                let (epoch, seq) = (point.head.epoch, point.head.seq);
                format!(
                    "point:{epoch}/{seq} of {}",
                    output::instant(point.head.committed)
                )
            })
            .collect();
        if let [newest, others @ ..] = all.as_slice()
            && !others.is_empty()
        {
            self.notes.push(format!(
                "{} recovery points are named {name}; the newest is taken, {newest}; also: {}",
                all.len(),
                others.join(", ")
            ));
        }
    }

    fn say_what_one_region_means(&mut self, tools: &Tools) {
        let freshness = self.timeline.freshness();
        if freshness.compared {
            return;
        }
        let now = tools.clock.now();
        let newest = freshness.newest.map_or_else(
            || "it holds no recovery point".to_owned(),
            |tip| {
                format!(
                    "its newest point {tip} is of {}",
                    output::age(now, tip.committed)
                )
            },
        );
        self.notes.push(format!(
                "only one region was read, so nobody can tell whether another holds something newer: {newest}"
            ));
    }

    fn name_unread_regions(&mut self) {
        let away = self.repository.away.iter();
        let away = away.map(|away| {
            format!(
                "region {} could not be read and may hold something newer: {}",
                away.name,
                tidemark_storage::chain(&away.error)
            )
        });
        let failed = self.timeline.failed.iter().map(|(region, error)| {
            format!(
                "region {region} could not be read: {}",
                tidemark_storage::chain(error)
            )
        });
        let unread: Vec<String> = away.chain(failed).collect();
        self.exceptions.extend(unread);
    }

    /// What is signed and linked is restored without the claim, and never silently.
    fn name_lost_claims(&mut self) {
        let lost = self.timeline.troubles().filter(|(_, trouble)| {
            matches!(
                *trouble.error,
                tidemark_ledger::LedgerError::ClaimLost { .. }
            )
        });
        let lost = lost.map(|(region, trouble)| {
            format!("region {region} lacks {}: {}", trouble.key, trouble.error)
        });
        let lost: Vec<String> = lost.collect();
        self.exceptions.extend(lost);
    }

    fn stale(&mut self, why: String) -> Result<()> {
        if !self.accept_older {
            return Err(Error::Stale(why));
        }
        self.exceptions
            .push(format!("{why}; accepted by --accept-older"));
        Ok(())
    }

    pub(crate) async fn plan(&self, avoid: &Avoid) -> Result<RestorePlan> {
        plan::plan(&self.timeline, &self.asked, avoid, self.accept_older).await
    }

    pub(super) fn document(
        &self,
        plan: &RestorePlan,
        needs: Option<&ServerNeeds>,
    ) -> Result<PlanDocument> {
        let mut notes = self.notes.clone();
        notes.extend(self.exceptions.iter().cloned());
        if self.asked.assumed_today {
            notes.push("the time had no day: today was assumed".to_owned());
        }
        if self.asked.assumed_local {
            notes.push("the time had no zone: this machine's was assumed".to_owned());
        }
        let regions = self
            .timeline
            .histories()
            .map(|(name, _)| name.clone())
            .collect();
        let target = self.target.path().display().to_string();
        let free = self.target.free_bytes()?;
        Ok(PlanDocument::new(
            self.timeline.source(),
            plan,
            &self.asked,
            (target, free),
            regions,
            notes,
        )
        .with_server(plan, needs))
    }
}
