//! The daemon's loop: look, run what is due, tell, wait.
//!
//! One drill at a time: it may take all of the machine. While it runs its turn is kept, and systemd hears
//! that the loop turns; a drill that takes longer than its `timeout` is ended.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tidemark_cli::service::{metrics_http, notify, signals};
use tidemark_host::files::{self, PUBLIC};
use tidemark_host::{Clock, Exit};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::conduct::Conduct;
use super::metrics;
use super::rota::{Looked, Rota};
use crate::error::{Error, Result};
use crate::policy;
use crate::repository::{Settings, Tools};

/// The shortest wait, whatever is due: between two tries at one turn.
const WAIT_MIN: Duration = Duration::from_millis(200);
/// While another host is expected to end, the regions are looked at so much more often.
const LOOKS_SOONER: u32 = 12;
/// How often more time is asked for while stopping.
const EXTEND_EVERY: Duration = Duration::from_secs(5);

/// Reads the settings anew.
pub(super) type Gather<'a> = &'a (dyn Fn() -> Result<Settings> + Send + Sync);

/// The daemon.
pub(super) struct Driver<'a> {
    pub(super) rota: Rota,
    pub(super) conduct: &'a dyn Conduct,
    pub(super) gather: Gather<'a>,
    pub(super) tools: Tools,
    pub(super) stop: CancellationToken,
}

impl Driver<'_> {
    /// Runs until it is stopped.
    ///
    /// # Errors
    /// The metrics' address can't be bound, or signals not heard.
    pub(super) async fn run(mut self) -> Result<Exit> {
        let reload = Arc::new(Notify::new());
        let listening = signals::hang_up(Arc::clone(&reload)).map_err(|source| Error::Io {
            action: "listen to signals",
            source,
        })?;
        let served = CancellationToken::new();
        self.serve_metrics(&served).await?;
        let pulse = Pulse {
            every: notify::watchdog(),
            stop: self.stop.clone(),
        };
        let mut ready = false;
        while !self.stop.is_cancelled() {
            let looked = pulse.during(self.rota.look()).await;
            self.publish();
            if !ready {
                ready = true;
                notify::ready();
                let drills = self.rota.names().count();
                tracing::info!(drills, "ready: the schedule of drills is owned here");
            }
            if let Some(due) = looked.due.first() {
                let ran = self.rota.run(due, self.conduct, &self.stop);
                let ran = pulse.during(ran).await;
                if let Err(error) = &ran {
                    let (drill, why) = (&due.planned.drill.name, tidemark_storage::chain(error));
                    let code = policy::code(error).id;
                    tracing::warn!(code, drill = %drill, error = %why, "no turn could be taken; it is tried again");
                }
                self.publish();
                let wait = match ran {
                    Ok(Some(_ran)) => Duration::ZERO,
                    Ok(None) => WAIT_MIN,
                    Err(_told) => self.rota.settings.drills.look_every,
                };
                self.wait(&pulse, wait, &reload).await;
            } else {
                let wait = self.until(&looked);
                self.wait(&pulse, wait, &reload).await;
            }
        }
        tracing::info!("stopping");
        notify::stopping();
        served.cancel();
        listening.abort();
        Ok(Exit::Ok)
    }

    /// How long nothing will be due.
    fn until(&self, looked: &Looked) -> Duration {
        let every = self.rota.settings.drills.look_every;
        let now = self.tools.clock.now();
        let due = looked
            .look_again
            .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        let wait = match due {
            Some(due) if due.is_zero() => every / LOOKS_SOONER,
            Some(due) => due.min(every),
            None => every,
        };
        wait.max(WAIT_MIN)
    }

    async fn wait(&mut self, pulse: &Pulse, time: Duration, reload: &Notify) {
        let stop = self.stop.clone();
        let woken = pulse.during(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => false,
                () = reload.notified() => true,
                () = tokio::time::sleep(time) => false,
            }
        });
        if woken.await {
            self.reload();
        }
    }

    /// SIGHUP: config, identity, credentials and keyrings are read again.
    fn reload(&mut self) {
        let changed = (self.gather)().and_then(|settings| self.rota.change(settings));
        match changed {
            Ok(()) => tracing::info!("SIGHUP: config, identity and regions are read again"),
            Err(error) => {
                let (code, why) = (policy::code(&error).id, tidemark_storage::chain(&error));
                tracing::error!(code, error = %why, "SIGHUP: what was read can't be used; everything stays as it was");
            }
        }
    }

    async fn serve_metrics(&self, stop: &CancellationToken) -> Result<()> {
        let Some(address) = self.rota.settings.drills.metrics else {
            return Ok(());
        };
        let listener = metrics_http::listen(address)
            .await
            .map_err(|source| Error::Io {
                action: "listen for metrics",
                source,
            })?;
        let (board, clock) = (self.rota.board.clone(), Arc::clone(&self.tools.clock));
        let render: metrics_http::Render = Arc::new(move || metrics::render(&board, clock.now()));
        tokio::spawn(metrics_http::serve(listener, render, stop.clone()));
        Ok(())
    }

    fn publish(&self) {
        let (board, clock) = (&self.rota.board, &self.tools.clock);
        notify::status(&board.line(clock.now()));
        if let Some(path) = &self.rota.settings.drills.metrics_file {
            write_metrics(path, &self.rota, clock.as_ref());
        }
    }
}

/// Writes the metrics where a collector picks them up.
pub(super) fn write_metrics(path: &Path, rota: &Rota, clock: &dyn Clock) {
    let text = metrics::render(&rota.board, clock.now());
    if let Err(error) = files::write_atomic(path, text.as_bytes(), PUBLIC) {
        let why = tidemark_storage::chain(&error);
        tracing::warn!(file = %path.display(), error = %why, "the metrics could not be written");
    }
}

/// Tells systemd that the loop turns, and that stopping takes a while.
struct Pulse {
    every: Option<Duration>,
    stop: CancellationToken,
}

impl Pulse {
    /// Awaits `work`, which is to yield.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let every = self
            .every
            .map_or(EXTEND_EVERY, |every| (every / 3).min(EXTEND_EVERY));
        let mut tick = tokio::time::interval(every.max(WAIT_MIN));
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _tick = tick.tick() => {
                    if self.every.is_some() {
                        notify::alive();
                    }
                    if self.stop.is_cancelled() {
                        notify::stopping();
                    }
                }
            }
        }
    }
}
