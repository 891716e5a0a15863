//! `plan` and `restore`.
//!
//! Both look at the target, the repository and the plan in the same way; `restore` then executes.
//! When a base turns out to have no good copy anywhere, the next older one is taken, and when a log
//! object has none, a base behind it: the same state is reached by another way, and the damage is
//! reported. So is what was sealed before the identity was a recipient gone round, before anything is
//! fetched. Where there is no other way nothing is delivered, and the error names what can be had.

mod again;
pub(crate) mod closed;
mod over;
mod prepare;
mod report;
mod server;

use std::sync::Arc;

use tidemark_format::envelope::Kind;
use tidemark_format::heads::Role;
use tidemark_format::{Hash, SessionId, keys};
use tidemark_host::{Exit, RegionUrl};
use tidemark_open::{Error as OpenError, ErrorKind, Opener, RegionReader, RegionSet};
use tokio_util::sync::CancellationToken;

pub use report::Report;

pub(crate) use prepare::Prepared;
pub(crate) use report::damages;

use crate::apply::{self, Done, ServerNeeds, Work, stopped};
use crate::cli::RestoreArgs;
use crate::error::{Error, Result};
use crate::identity;
use crate::plan::{Avoid, Reached, RestorePlan};
use crate::repository::{Repository, Settings, Tools};

/// `plan`.
///
/// # Errors
/// What a restore would refuse.
pub async fn plan_only(args: &RestoreArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let prepared = Prepared::look(args, settings, trust, tools).await?;
    let opener = opener_at_hand(&prepared, settings, tools)?;
    let mut found = Found::default();
    let never = CancellationToken::new();
    let plan = settle(&prepared, opener.as_deref(), &never, &mut found).await?;
    prepared.target.check_space(plan.needed_bytes())?;
    let needs = match &opener {
        Some(opener) => apply::look_at_server(opener, &plan, &prepared.server).await?,
        None => None,
    };
    over::check(args, &prepared.target, needs.as_ref())?;
    over::places(&prepared.target, &prepared.server, needs.as_ref())?;
    tools
        .console
        .show(&prepared.document(&plan, needs.as_ref())?);
    Ok(if prepared.exceptions.is_empty() && plan.beyond.is_none() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
}

/// Opens what only the identity opens (whether it does, what the base's server needs), if one is at hand
/// that needs no passphrase. Without it the plan says less.
fn opener_at_hand(
    prepared: &Prepared,
    settings: &Settings,
    tools: &Tools,
) -> Result<Option<Arc<Opener>>> {
    let path = settings.identity.as_deref();
    let identity = path.and_then(|path| tidemark_open::Identity::load(path, None).ok());
    let opener = identity.map(|identity| opener(&prepared.repository, identity, tools));
    Ok(opener.transpose()?.map(Arc::new))
}

/// What a restore's access record says before anything is known.
pub fn begin(args: &RestoreArgs, settings: &Settings, tools: &Tools) {
    let request = serde_json::json!({
        "to": args.to,
        "before": args.before,
        "target": args.target.display().to_string(),
        "accept_older": args.accept_older,
        "expect": args.expect,
        "delta": args.delta,
        "other_system": args.other_system,
        "no_finish": args.no_finish,
        "pg_bin": args.pg_bin.as_ref().map(|folder| folder.display().to_string()),
        "map_tablespace": args.map_tablespace,
    });
    let reason = args.reason.as_deref();
    tools
        .access
        .begin("restore", &request, reason, settings, tools);
}

/// `restore`.
///
/// # Errors
/// Nothing is at the target then; what was fetched is kept for the next try.
pub async fn run(
    args: &RestoreArgs,
    settings: &Settings,
    tools: &Tools,
    stop: &CancellationToken,
) -> Result<Exit> {
    let began = tools.clock.monotonic();
    // Before a passphrase is asked for.
    Prepared::words(args, tools)?;
    let identity = identity::load(settings, &tools.console)?;
    tools.access.used(&identity);
    let trust = identity::trust(&identity);
    let prepared = stopped(stop, Prepared::look(args, settings, Some(trust), tools)).await?;
    prepared.recorded(&tools.access);
    let opener = opener(&prepared.repository, identity, tools)?;
    let work = Work {
        opener: Arc::new(opener),
        target: prepared.target.clone(),
        server: prepared.server.clone(),
        tools: tools.clone(),
        stop: stop.clone(),
    };
    let show = Show::Plan;
    let (plan, done, needs) = execute(args, &prepared, &work, show, Avoid::default()).await?;
    let took = tools.clock.monotonic().since(began);
    let report = Report::new(&prepared, &work, &plan, &done, took, settings);
    let report = report.with_server(&prepared, &done, needs.as_ref());
    tools.console.show(&report);
    report.recorded(&plan, &tools.access);
    Ok(if report.exceptions.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
}

/// What is shown of a restore before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// The plan.
    Plan,
    /// Nothing: whoever asked for the restore shows it in words of their own.
    Nothing,
}

/// Executes the plan, without what `avoid` names; when something it needs is damaged everywhere, one that
/// reaches the same state without it. If there is none, the error names what can be had instead.
pub(crate) async fn execute(
    args: &RestoreArgs,
    prepared: &Prepared,
    work: &Work,
    show: Show,
    avoid: Avoid,
) -> Result<(RestorePlan, Done, Option<ServerNeeds>)> {
    let mut found = Found {
        avoid,
        damage: None,
    };
    let mut asked_whether = false;
    loop {
        let plan = settle(prepared, Some(&work.opener), &work.stop, &mut found).await?;
        let ran = async {
            let looked = apply::look_at_server(&work.opener, &plan, &work.server);
            let needs = stopped(&work.stop, looked).await?;
            over::check(args, &work.target, needs.as_ref())?;
            over::places(&work.target, &work.server, needs.as_ref())?;
            if show == Show::Plan {
                let document = prepared.document(&plan, needs.as_ref())?;
                work.tools.console.show_first(&document);
            }
            if !std::mem::replace(&mut asked_whether, true) {
                over::confirm(args, &work.target, &work.tools.console)?;
            }
            let done = apply::execute(work, prepared.timeline.source(), &plan).await?;
            Ok((done, needs))
        };
        match ran.await {
            Ok((done, needs)) => return Ok((plan, done, needs)),
            Err(error) => {
                if !leave_out(&mut found.avoid, &plan, &error) {
                    return Err(error);
                }
                found.damage = Some((error, plan.end));
            }
        }
    }
}

/// What the plans so far met.
#[derive(Default)]
struct Found {
    /// What the next one does without.
    avoid: Avoid,
    /// The last error, and the state that was to be reached.
    damage: Option<(Error, Reached)>,
}

/// A plan without what was found damaged, whose sessions the identity opens.
async fn settle(
    prepared: &Prepared,
    opener: Option<&Opener>,
    stop: &CancellationToken,
    found: &mut Found,
) -> Result<RestorePlan> {
    loop {
        let planned = stopped(stop, prepared.plan(&found.avoid)).await;
        let met = found.damage.take();
        let plan = match (planned, &met) {
            // Past the newest recovery point the log may end earlier: that is less than was asked for.
            (Ok(plan), Some((_, asked)))
                if !prepared.accept_older
                    && (plan.end.epoch, plan.end.seq) < (asked.epoch, asked.seq) =>
            {
                let damage = met.map(|(damage, _)| damage);
                return Err(damage.map_or(Error::Interrupted, |damage| {
                    instead_of(damage, Some(plan.end))
                }));
            }
            (Ok(plan), _) => plan,
            (Err(without), _) => return Err(refused(without, met, prepared, opener)),
        };
        let Some(opener) = opener else {
            return Ok(plan);
        };
        let looked =
            async { Ok(closed::look(opener, &prepared.timeline, &plan, &mut found.avoid).await) };
        match stopped(stop, looked).await? {
            None => return Ok(plan),
            // What is damaged is the cause; that the others are not for this identity comes of it.
            Some(error) => {
                let damaged = met.filter(|(damage, _)| !is_of_key(damage));
                found.damage = damaged.or(Some((error, plan.end)));
            }
        }
    }
}

/// Whether an error is that the identity doesn't open something.
fn is_of_key(error: &Error) -> bool {
    matches!(error, Error::Open(error) if error.kind() == ErrorKind::Key)
}

/// Why no plan can be made any more, after what was met on the way.
fn refused(
    without: Error,
    met: Option<(Error, Reached)>,
    prepared: &Prepared,
    opener: Option<&Opener>,
) -> Error {
    if matches!(without, Error::Interrupted) {
        return without;
    }
    let is_closed = closed::is_closed(&without);
    match met {
        Some((damage, _)) if is_closed && !is_of_key(&damage) => Error::DamagedOnTheWay {
            what: "is damaged",
            instead: "everything else that leads there was sealed to other identities than the one given: take another \
                      one, or the escrow, or give a region that has a good copy"
                .to_owned(),
            damage: Box::new(damage),
        },
        // Says itself what the identity opens.
        Some((damage, _)) if !is_closed => instead_of(damage, nearest(&without)),
        _ => match opener {
            Some(opener) => closed::told(without, prepared, opener.identity()),
            None => without,
        },
    }
}

/// The nearest state that can be restored, as a refusal knows it.
fn nearest(refused: &Error) -> Option<Reached> {
    let Error::NotRecoverable(refused) = refused else {
        return None;
    };
    let refusal = refused.refusal();
    let reach = refusal.before.as_ref().or(refusal.after.as_ref());
    reach.map(Reached::from)
}

/// Invariant 5: the error names the latest instant that is provable without what is damaged.
fn instead_of(damage: Error, reached: Option<Reached>) -> Error {
    let instead = reached.map_or_else(
        || "without it nothing in the regions given can be restored: give all regions".to_owned(),
        |reached| {
            let (epoch, seq) = (reached.epoch, reached.seq);
            format!(
                "the latest instant that can be restored without it is {reached}: run the same command with --to log:{epoch}:{seq}"
            )
        },
    );
    let what = match &damage {
        Error::Open(error) if error.kind() == ErrorKind::Key => {
            "was not sealed to the identity given"
        }
        _ => "is damaged",
    };
    Error::DamagedOnTheWay {
        what,
        instead,
        damage: Box::new(damage),
    }
}

/// Opens with one identity from all regions that answer.
///
/// # Errors
/// No region answers.
pub(crate) fn opener(
    repository: &Repository,
    identity: tidemark_open::Identity,
    tools: &Tools,
) -> Result<Opener> {
    // Directories first, else the order given. Not by speed: whose damage is met and told would hang on
    // a moment's latency.
    let mut regions: Vec<_> = repository.regions.iter().collect();
    regions.sort_by_key(|region| !matches!(region.config.url, RegionUrl::Dir(_)));
    let readers = regions.into_iter().map(|region| RegionReader {
        name: region.name().clone(),
        store: Arc::clone(&region.store.read),
    });
    let set = RegionSet::new(readers.collect(), Arc::clone(&tools.clock))?;
    let keyring = Arc::clone(&repository.keyring);
    // A revoked agent's sessions still open what it wrote before: the log's heads decide about that.
    let known = move |signer: &tidemark_format::sign::PublicKey, _kind: Kind| {
        keyring
            .member(signer)
            .is_some_and(|member| member.role == Role::Agent)
    };
    Ok(Opener::new(
        identity,
        Arc::new(set),
        Arc::new(known),
        tools.cpu.clone(),
    ))
}

/// Notes what must be done without, if the error is one of damage; whether that was news.
fn leave_out(avoid: &mut Avoid, plan: &RestorePlan, error: &Error) -> bool {
    let Error::Open(open @ OpenError::NoGoodCopy { key, .. }) = error else {
        return false;
    };
    // A region that doesn't answer has lost nothing.
    if !matches!(open.kind(), ErrorKind::Integrity | ErrorKind::Missing) {
        return false;
    }
    let before = (avoid.bases.len(), avoid.log.len());
    let sealed_in = |session: Option<SessionId>| {
        session.is_some_and(|session| keys::session(session).as_str() == key)
    };
    for object in &plan.log {
        if object.key.as_str() == key || sealed_in(object.head.session) {
            let place = (object.head.epoch, object.head.seq);
            avoid
                .log
                .entry(place)
                .or_insert_with(|| tidemark_storage::chain(open));
        }
    }
    let named = plan
        .bases
        .iter()
        .find(|base| base.key.as_str() == key || sealed_in(Some(base.head.session)));
    // A pack doesn't say which base of the chain lists it: all of them are left out, newest first.
    let of_a_base =
        key.starts_with(&format!("{}pack/", keys::DATA)) || key.starts_with("data/session/");
    let left_out = named.or_else(|| plan.base().filter(|_| of_a_base));
    let known = |link: &Hash| avoid.bases.contains(link);
    if let Some(link) = left_out.map(|base| base.link).filter(|link| !known(link)) {
        avoid.bases.push(link);
    }
    (avoid.bases.len(), avoid.log.len()) != before
}
