//! The daemon as a whole: greets the regions, claims or resumes every source, starts one task for
//! each region and source, answers the control socket, and stops it all in order.
//!
//! ```text
//! start:  records → first beat → regions greeted in order of names → claims → drivers → control
//! stop:   sources drain (last cut, last point) → last beat → regions → threads → lock
//! ```
//!
//! **Failure.** A copy of the state directory ends everything at once, and so does a revoked key: nothing
//! that it signs counts. An agent that isn't enrolled yet runs and waits. A fenced source ends alone;
//! when no source is left, the agent ends with exit code 11. Whatever else fails is tried again by
//! whoever met it. When the last source is retired the agent stays and says "nothing to protect":
//! ending would only make the service manager start it again.

mod claims;
mod clock_watch;
mod copies;
mod domains;
mod filling;
mod keeper;
mod prepare;
pub(crate) mod remains;
mod reporter;
mod shippers;
mod sizes;
mod sources;
mod start;
mod stopping;
mod taking_over;
mod tasks;
mod trust;
mod watching;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemark_format::SourceName;
use tidemark_host::config::AgentConfig;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::Components;
use crate::control::{Asked, Request, Response, SealedPoint};
use crate::source::driver::Ended;
use crate::source::requests::Request as SourceRequest;
use crate::status_live::LiveStatus;
use crate::{AgentError, Result, policy, systemd};

use start::Running;
pub use taking_over::take_over;

/// How often READY, the status line and the watchdog are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How the process's signals reach the agent.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Drain and stop.
    pub stop: CancellationToken,
    /// Stop at once; what is sealed is in the spool.
    pub abort: CancellationToken,
    /// No stop: read credentials, keyring and recipients again.
    pub reload: Arc<Notify>,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// [`AgentError`]: fenced, cloned, nothing reachable, or what the state directory says.
pub async fn run(config: &AgentConfig, components: Components, shutdown: Shutdown) -> Result<()> {
    let mut running = Running::start(config, components).await?;
    let result = running.watch(&shutdown).await;
    systemd::stopping();
    let stopped = tokio::select! {
        biased;
        () = shutdown.abort.cancelled() => Err(AgentError::Refused("stopped at once, as asked".to_owned())),
        stopped = running.stop(is_at_once(&result)) => stopped,
    };
    result.and(stopped)
}

/// Captures every source once, without a daemon: starts, takes a snapshot, stops.
///
/// # Errors
/// As [`run`], and [`AgentError::Late`] when it isn't durable in time.
pub async fn snapshot_once(
    config: &AgentConfig,
    components: Components,
    snapshot: Request,
    shutdown: Shutdown,
) -> Result<Vec<SealedPoint>> {
    let mut running = Running::start(config, components).await?;
    if let Some(error) = running.not_enrolled() {
        running.stop(true).await?;
        return Err(error);
    }
    let (answer, mut answered) = oneshot::channel();
    running.dispatch(Asked {
        request: snapshot,
        answer,
    });
    let response = tokio::select! {
        biased;
        response = &mut answered => response.map_err(|_gone| AgentError::Refused("the agent is stopping".to_owned())),
        result = running.watch(&shutdown) => {
            result.and(Err(AgentError::Refused("interrupted".to_owned())))
        }
    };
    let stopped = running.stop(is_at_once(&response)).await;
    match response? {
        // Why the source has ended says more than that it has.
        Response::Refused { .. } if matches!(stopped, Err(AgentError::Fenced { .. })) => {
            stopped.map(|()| Vec::new())
        }
        Response::Points { points } => stopped.map(|()| points),
        Response::Refused { message, .. } => Err(AgentError::Refused(message)),
        Response::Status(_) | Response::Done { .. } => Ok(Vec::new()),
    }
}

impl Running {
    /// Watches over everything until it is to stop.
    async fn watch(&mut self, shutdown: &Shutdown) -> Result<()> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.abort.cancelled() => return Ok(()),
                () = shutdown.stop.cancelled() => return Ok(()),
                Some(error) = self.fatal.recv() => match error {
                    AgentError::Cloned(collision) => self.weigh_copy(*collision).await?,
                    error => return Err(error),
                },
                () = shutdown.reload.notified() => self.reload(None, None),
                Some(ended) = self.sources.join_next() => {
                    if let Some(result) = self.source_ended(ended) {
                        return result;
                    }
                }
                Some(asked) = self.asked.recv() => self.dispatch(asked),
                Some(source) = self.no_room.recv() => self.make_room(&source),
                _tick = look.tick() => self.look(),
            }
        }
    }

    /// What a source's end means for the agent.
    fn source_ended(
        &mut self,
        ended: std::result::Result<(SourceName, Ended), tokio::task::JoinError>,
    ) -> Option<Result<()>> {
        match ended {
            Ok((source, Ended::Fenced(why))) => {
                self.requests.remove(&source);
                let why = copies::own_key_words(why, self.shared.signer.public().id());
                self.fenced.get_or_insert((source, why));
            }
            Ok((source, Ended::Retired)) => {
                self.requests.remove(&source);
                tracing::info!(source = %source, "the source is retired");
                self.take_away_remains(&source, remains::TRY_EVERY);
            }
            Ok((_, Ended::Drained)) => {}
            // A task that panicked leaves a source unprotected: systemd starts us anew.
            Err(error) => {
                let source = std::io::Error::other(error);
                return Some(Err(AgentError::Io {
                    action: "go on without a source's task",
                    source,
                }));
            }
        }
        // With none left and none fenced there is nothing to protect, and nothing wrong.
        let over = self.sources.is_empty() && self.fenced.is_some();
        over.then(|| self.fenced_or_done())
    }

    fn fenced_or_done(&mut self) -> Result<()> {
        match self.fenced.take() {
            Some((source_name, why)) => Err(AgentError::Fenced { source_name, why }),
            None => Ok(()),
        }
    }

    /// Hands a request to whom it concerns; the answer comes by itself.
    pub(crate) fn dispatch(&mut self, asked: Asked) {
        let Asked { request, answer } = asked;
        match request {
            Request::Status => {
                let status = Box::new(self.status());
                drop(answer.send(Response::Status(status)));
            }
            Request::Snapshot {
                source,
                base,
                name,
                wait_ms,
            } => {
                if let Some(error) = self.not_enrolled() {
                    drop(answer.send(refused(&error)));
                    return;
                }
                let wait = Duration::from_millis(wait_ms);
                let ask = |answer| SourceRequest::Snapshot {
                    base,
                    name: name.clone(),
                    wait,
                    answer,
                };
                self.ask(source.as_ref(), ask, answer, |points| Response::Points {
                    points,
                });
            }
            Request::Pause {
                source,
                for_ms,
                reason,
            } => {
                let time =
                    jiff::SignedDuration::from_millis(i64::try_from(for_ms).unwrap_or(i64::MAX));
                let now = self.shared.clock.now();
                let until = now.checked_add(time).unwrap_or(jiff::Timestamp::MAX);
                let message =
                    format!("shipping is paused until {until}; capture goes on into the spool");
                let ask = |answer| SourceRequest::Pause {
                    until,
                    reason: reason.clone(),
                    answer,
                };
                self.ask(source.as_ref(), ask, answer, |_| Response::Done { message });
            }
            Request::Resume { source } => {
                let ask = |answer| SourceRequest::Resume { answer };
                let message = "shipping goes on".to_owned();
                self.ask(source.as_ref(), ask, answer, |_| Response::Done { message });
            }
            Request::Reload { config } => self.reload(Some(config), Some(answer)),
            Request::Retire { source } => {
                let ask = |answer| SourceRequest::Retire { answer };
                self.ask(Some(&source), ask, answer, |points| Response::Points {
                    points,
                });
            }
        }
    }

    /// Asks one source, or all, and answers when all have.
    fn ask<T: Send + 'static>(
        &mut self,
        source: Option<&SourceName>,
        ask: impl Fn(oneshot::Sender<Result<T>>) -> SourceRequest,
        answer: oneshot::Sender<Response>,
        response: impl FnOnce(Vec<T>) -> Response + Send + 'static,
    ) {
        let chosen: BTreeMap<SourceName, mpsc::Sender<SourceRequest>> = self
            .requests
            .iter()
            .filter(|(name, _)| source.is_none_or(|wanted| wanted == *name))
            .map(|(name, requests)| (name.clone(), requests.clone()))
            .collect();
        if chosen.is_empty() {
            drop(answer.send(refused(&self.no_such_source(source))));
            return;
        }
        let waits: Vec<_> = chosen
            .into_values()
            .map(|requests| {
                let (sender, receiver) = oneshot::channel();
                let request = ask(sender);
                async move {
                    drop(requests.send(request).await);
                    receiver.await.unwrap_or_else(|_gone| {
                        Err(AgentError::Refused("the source has ended".to_owned()))
                    })
                }
            })
            .collect();
        self.rest.spawn(async move {
            let results = futures_util::future::join_all(waits).await;
            let all: Result<Vec<T>> = results.into_iter().collect();
            drop(answer.send(all.map_or_else(|error| refused(&error), response)));
        });
    }

    fn no_such_source(&self, source: Option<&SourceName>) -> AgentError {
        let known: Vec<&str> = self.requests.keys().map(SourceName::as_str).collect();
        match source {
            Some(source) => AgentError::UnknownSource {
                name: source.to_string(),
                known: known.join(", "),
            },
            None => AgentError::Refused("no source is being captured".to_owned()),
        }
    }

    /// How things stand.
    pub(crate) fn status(&self) -> LiveStatus {
        LiveStatus {
            config: Some(self.config),
            spool_bytes_per_s: self.filling.rate(),
            ..self.reporter.status()
        }
    }
}

/// Whether nothing may be shipped any more: what would be sealed last would not count.
const fn is_at_once<T>(result: &Result<T>) -> bool {
    matches!(
        result,
        Err(AgentError::Cloned(_) | AgentError::Revoked { .. })
    )
}

fn refused(error: &AgentError) -> Response {
    Response::Refused {
        code: policy::code(error).id.to_owned(),
        message: policy::with_causes(error),
    }
}

/// Tasks that end with the agent.
pub(crate) type Rest = JoinSet<()>;
