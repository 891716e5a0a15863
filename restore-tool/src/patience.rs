//! How long the tool waits for regions that say nothing.
//!
//! All regions are asked at the same time. A region is *silent* while none of its requests ends: one that
//! is slow and lives is never silent for long, however long all of its answers take together.
//!
//! **Failure.** Once another region has answered, a silent one is given up after [`Patience::going_on`] and
//! is away for this command: nothing waits for it again. Where none has answered, it is waited for up to
//! [`Patience::giving_up`]. Either is told while it happens, because a person may be watching.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tidemark_format::RegionName;
use tidemark_host::output::{self, Console};
use tidemark_storage::wrap::Meter;
use tokio::time::MissedTickBehavior;

use crate::error::{Error, Result};

/// Looks at the silent ones within the shorter wait.
const LOOKS: u32 = 10;

/// How long a region may say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// While another one has answered; before anyone has, that is when it is told.
    pub going_on: Duration,
    /// While none has answered.
    pub giving_up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            going_on: Duration::from_secs(10),
            giving_up: Duration::from_secs(120),
        }
    }
}

/// Where a region's requests are counted, once it is asked anything.
pub(crate) type Heard = Arc<OnceLock<Arc<Meter>>>;

/// A region that was asked and has not answered yet.
struct Silent<'a> {
    name: &'a RegionName,
    heard: Heard,
    answers: u64,
    quiet: Duration,
    told: bool,
}

impl Silent<'_> {
    /// How long it has been silent, a look later.
    fn looked(&mut self, later: Duration) -> Duration {
        let answers = self
            .heard
            .get()
            .map_or(0, |meter| meter.snapshot().requests());
        if answers == self.answers {
            self.quiet = self.quiet.saturating_add(later);
        } else {
            (self.answers, self.quiet) = (answers, Duration::ZERO);
        }
        self.quiet
    }
}

/// Asks every region of `names` with `ask` and waits for what they answer, in the order of `names`.
pub(crate) async fn all<'a, T, F>(
    names: impl IntoIterator<Item = &'a RegionName>,
    patience: Patience,
    console: &Console,
    ask: impl Fn(usize, Heard) -> F,
) -> Vec<Result<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut silent: Vec<Silent<'a>> = names
        .into_iter()
        .map(|name| Silent {
            name,
            heard: Heard::default(),
            answers: 0,
            quiet: Duration::ZERO,
            told: false,
        })
        .collect();
    let asked = silent.iter().enumerate().map(|(at, region)| {
        let answer = ask(at, Arc::clone(&region.heard));
        async move { (at, answer.await) }
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut answers: Vec<Option<Result<T>>> = silent.iter().map(|_| None).collect();
    let every = patience.going_on / LOOKS;
    let mut looks = tokio::time::interval(every.max(Duration::from_millis(1)));
    // What this machine slept through was no silence of theirs.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    while answers.iter().any(Option::is_none) {
        tokio::select! {
            biased;
            Some((at, answer)) = asked.next() => {
                if let Some(place) = answers.get_mut(at) {
                    place.get_or_insert(answer);
                }
            }
            _ = looks.tick() => give_up(&mut silent, &mut answers, every, patience, console),
        }
    }
    answers.into_iter().flatten().collect()
}

/// Gives those up that have been silent for too long, and tells of those that are waited for.
fn give_up<T>(
    silent: &mut [Silent<'_>],
    answers: &mut [Option<Result<T>>],
    later: Duration,
    patience: Patience,
    console: &Console,
) {
    let others: Vec<&str> = silent
        .iter()
        .zip(&*answers)
        .filter(|(_, answer)| matches!(answer, Some(Ok(_))))
        .map(|(region, _)| region.name.as_str())
        .collect();
    let others = others.join(", ");
    for (region, answer) in silent.iter_mut().zip(answers) {
        if answer.is_some() {
            continue;
        }
        let quiet = region.looked(later);
        let bound = if others.is_empty() {
            patience.giving_up
        } else {
            patience.going_on
        };
        let (name, waited) = (region.name, output::duration(quiet));
        if quiet >= bound {
            *answer = Some(Err(Error::RegionSilent {
                region: name.clone(),
                waited: quiet,
            }));
            if !others.is_empty() {
                console.note(&format!(
                    "region {name} does not answer (nothing for {waited}); going on with {others}"
                ));
            }
        } else if quiet >= patience.going_on && !region.told {
            region.told = true;
            console.note(&format!(
                "region {name} does not answer (nothing for {waited}); waiting for it, up to {} in all",
                output::duration(patience.giving_up)
            ));
        }
    }
}
