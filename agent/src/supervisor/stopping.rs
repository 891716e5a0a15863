//! Stopping: everything in order, and whoever asks for something meanwhile is told so at once.

use std::sync::Arc;
use std::time::Duration;

use tidemark_format::Hash;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::refused;
use super::reporter::Reporter;
use super::start::Running;
use crate::control::{Asked, Request, Response};
use crate::source::driver::Ended;
use crate::status_live::LiveStatus;
use crate::{AgentError, Result, systemd};

/// How long all of stopping may take, drains included; past it what is left stays in the spool.
const STOP_TIME: Duration = Duration::from_secs(90);
/// How long the last beat may take.
const LAST_BEAT_TIME: Duration = Duration::from_secs(3);

impl Running {
    /// Stops everything in order.
    pub(super) async fn stop(mut self, at_once: bool) -> Result<()> {
        tracing::info!("stopping");
        self.answer_meanwhile();
        if !at_once {
            self.stop_sources.cancel();
            let drained = self.drain();
            if tokio::time::timeout(STOP_TIME, drained).await.is_err() {
                tracing::warn!(
                    "stopped with work left: it is in the spool and goes on at the next start"
                );
            }
            self.last_beat().await;
        }
        self.beats.shutdown().await;
        self.sources.shutdown().await;
        self.stop_rest.cancel();
        while self.rest.join_next().await.is_some() {}
        if let Some(pool) = self.pool.take() {
            // Its threads may be in a turn: not on an async thread.
            drop(tokio::task::spawn_blocking(move || pool.stop()).await);
        }
        self.fenced_or_done()
    }

    async fn drain(&mut self) {
        let mut extend = tokio::time::interval(Duration::from_secs(5));
        while !self.sources.is_empty() {
            tokio::select! {
                biased;
                ended = self.sources.join_next() => {
                    if let Some(Ok((source, Ended::Fenced(why)))) = ended {
                        self.fenced.get_or_insert((source, why));
                    }
                }
                Some(source) = self.no_room.recv() => self.make_room(&source),
                _tick = extend.tick() => systemd::extend(),
            }
        }
    }

    /// Whoever asks for something from now on isn't kept waiting for what won't be done.
    fn answer_meanwhile(&mut self) {
        let (_nobody, none) = mpsc::channel(1);
        let asked = std::mem::replace(&mut self.asked, none);
        let (reporter, config) = (Arc::clone(&self.reporter), self.config);
        let stop = self.stop_rest.clone();
        self.rest.spawn(refuse(asked, reporter, config, stop));
    }

    /// The last beat says where everything ended.
    async fn last_beat(&mut self) {
        self.stop_beats.cancel();
        let Some(Ok(mut beats)) = self.beats.join_next().await else {
            return;
        };
        let made = tokio::task::spawn_blocking(move || beats.make()).await;
        let Ok(Ok(beat)) = made else { return };
        let sends = self.links.iter().filter(|link| link.is_up()).map(|link| {
            let (link, greeter) = (Arc::clone(link), Arc::clone(&self.greeter));
            let beat = beat.clone();
            async move {
                // The last beat is a courtesy: the points say what counts.
                drop(greeter.beat(&link, &beat).await);
            }
        });
        let all = futures_util::future::join_all(sends);
        drop(tokio::time::timeout(LAST_BEAT_TIME, all).await);
    }
}

/// Says how things stand, and refuses everything else.
async fn refuse(
    mut asked: mpsc::Receiver<Asked>,
    reporter: Arc<Reporter>,
    config: Hash,
    stop: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = asked.recv() => next,
        };
        let Some(Asked { request, answer }) = next else {
            return;
        };
        let response = if let Request::Status = request {
            Response::Status(Box::new(LiveStatus {
                config: Some(config),
                ..reporter.status()
            }))
        } else {
            refused(&AgentError::Stopping)
        };
        // Who asked may have gone.
        drop(answer.send(response));
    }
}
