//! `plan` and `restore`.
//!
//! Both look at the target, the repository and the plan in the same way; `restore` then executes.
//! When a base turns out to have no good copy anywhere, the next older one is taken: the same state
//! is reached by a longer way, and the damage is reported.

mod prepare;
mod report;

use std::sync::Arc;

use tidemark_format::envelope::Kind;
use tidemark_format::heads::Role;
use tidemark_format::{Hash, keys};
use tidemark_host::Exit;
use tidemark_open::{Opener, RegionReader, RegionSet};
use tokio_util::sync::CancellationToken;

pub use report::Report;

use prepare::Prepared;

use crate::apply::{self, Done, Work, stopped};
use crate::cli::RestoreArgs;
use crate::error::{Error, Result};
use crate::identity;
use crate::plan::RestorePlan;
use crate::repository::{Repository, Settings, Tools};

/// `plan`.
///
/// # Errors
/// What a restore would refuse.
pub async fn plan_only(args: &RestoreArgs, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let prepared = Prepared::look(args, settings, trust, tools).await?;
    let plan = prepared.plan(&[]).await?;
    prepared.target.check_space(plan.image_bytes())?;
    tools.console.show(&prepared.document(&plan)?);
    Ok(if prepared.exceptions.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
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
    let trust = identity::trust(&identity);
    let prepared = stopped(stop, Prepared::look(args, settings, Some(trust), tools)).await?;
    let opener = opener(&prepared.repository, identity, tools)?;
    let work = Work {
        opener: Arc::new(opener),
        target: prepared.target.clone(),
        tools: tools.clone(),
        stop: stop.clone(),
    };
    let (plan, done) = execute(&prepared, &work).await?;
    let took = tools.clock.monotonic().since(began);
    let report = Report::new(&prepared, &work, &plan, &done, took, settings);
    tools.console.show(&report);
    Ok(if report.exceptions.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    })
}

/// Executes the plan; when a base is damaged everywhere, one that does without it.
async fn execute(prepared: &Prepared, work: &Work) -> Result<(RestorePlan, Done)> {
    let mut avoid: Vec<Hash> = Vec::new();
    let mut damage: Option<Error> = None;
    loop {
        let planned = stopped(&work.stop, prepared.plan(&avoid)).await;
        let plan = match (planned, damage.take()) {
            (Ok(plan), _) => plan,
            (Err(Error::Interrupted), _) => return Err(Error::Interrupted),
            // Nothing does without it: the damage is what must be told.
            (Err(_without), Some(damage)) => return Err(damage),
            (Err(error), None) => return Err(error),
        };
        work.tools.console.show_first(&prepared.document(&plan)?);
        match apply::execute(work, prepared.timeline.source(), &plan).await {
            Ok(done) => return Ok((plan, done)),
            Err(error) => match damaged_base(&plan, &error, &avoid) {
                Some(link) => {
                    avoid.push(link);
                    damage = Some(error);
                }
                None => return Err(error),
            },
        }
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
    let readers = repository.regions.iter().map(|region| RegionReader {
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

/// The base without which to try again, if the error is one of a base's objects.
fn damaged_base(plan: &RestorePlan, error: &Error, avoid: &[Hash]) -> Option<Hash> {
    let Error::Open(tidemark_open::Error::NoGoodCopy { key, .. }) = error else {
        return None;
    };
    let of_base = |key: &str| {
        key.starts_with("meta/base/") || key.starts_with(&format!("{}pack/", keys::DATA))
    };
    if !of_base(key) {
        return None;
    }
    let named = plan.bases.iter().find(|base| base.key.as_str() == key);
    // A pack doesn't say which base of the chain lists it: all of them are left out, newest first.
    named
        .or_else(|| plan.base())
        .map(|base| base.link)
        .filter(|link| !avoid.contains(link))
}
