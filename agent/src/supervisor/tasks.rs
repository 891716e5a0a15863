//! The tasks that a start begins beside the sources: a driver for each region, the control socket, the
//! metrics endpoint.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemark_cli::service::metrics_http;
use tidemark_format::{RegionName, keys};
use tidemark_host::config::AgentConfig;
use tidemark_seal::Sealed;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::sync::CancellationToken;

use super::Rest;
use super::reporter::Reporter;
use crate::beats::Beats;
use crate::control::{self, Asked};
use crate::ship::greet::Greeter;
use crate::ship::link::RegionLink;
use crate::ship::region::{Command, Driver as RegionDriver, Tools};
use crate::source::driver::{Outlet, Shared};
use crate::{AgentError, Result, policy};

/// Requests that wait for the supervisor.
const REQUESTS_MAX: usize = 16;
/// Beats from one look round the regions to the next: two listings for fifteen objects.
const BEATS_A_LOOK: u32 = 15;
/// The longest time between two looks, however rare the beats.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(3600);

/// The beat that greets, and the regions that took it.
pub(super) struct FirstBeat {
    pub(super) beats: Beats,
    pub(super) beat: Sealed,
    pub(super) up: BTreeSet<RegionName>,
}

/// What the tasks are started with.
pub(super) struct Starting {
    pub(super) greeter: Arc<Greeter>,
    pub(super) shared: Arc<Shared>,
    pub(super) links: Vec<Arc<RegionLink>>,
    pub(super) rest: Rest,
    pub(super) stop_rest: CancellationToken,
}

impl Starting {
    /// Starts the regions' drivers.
    pub(super) fn regions(
        &mut self,
        first: &FirstBeat,
        look_every: Duration,
    ) -> (Vec<Outlet>, UnboundedReceiver<AgentError>) {
        let (fatal_to, fatal) = mpsc::unbounded_channel();
        let number = keys::beat_number(&first.beat.key);
        let mut outlets = Vec::new();
        for link in &self.links {
            let tools = self.tools(&fatal_to, look_every);
            let greeted = number.filter(|_| first.up.contains(&link.name));
            let driver = RegionDriver::new(Arc::clone(link), tools, greeted);
            let (commands, receiver) = mpsc::unbounded_channel();
            drop(commands.send(Command::Beat(first.beat.clone())));
            self.rest
                .spawn(driver.run(receiver, self.stop_rest.clone()));
            outlets.push(Outlet {
                link: Arc::clone(link),
                commands,
            });
        }
        (outlets, fatal)
    }

    fn tools(&self, fatal: &UnboundedSender<AgentError>, look_every: Duration) -> Tools {
        Tools {
            greeter: Arc::clone(&self.greeter),
            items: Arc::clone(&self.shared.items),
            disk: self.shared.disk.clone(),
            board: Arc::clone(&self.shared.board),
            metrics: Arc::clone(&self.shared.metrics),
            clock: Arc::clone(&self.shared.clock),
            rng: Arc::clone(&self.shared.rng),
            look_every,
            fatal: fatal.clone(),
        }
    }

    /// Starts the control socket, the metrics endpoint, and the questions after clusters' sizes.
    pub(super) async fn control(
        &mut self,
        config: &AgentConfig,
        reporter: &Arc<Reporter>,
    ) -> Result<mpsc::Receiver<Asked>> {
        self.sizes(config);
        let (asked_to, asked) = mpsc::channel(REQUESTS_MAX);
        let path = self.shared.state.control_socket();
        let stop = self.stop_rest.clone();
        let board = Arc::clone(&self.shared.board);
        let clock = Arc::clone(&self.shared.clock);
        self.rest.spawn(async move {
            if let Err(error) = control::serve(&path, asked_to, stop).await {
                // Protection goes on; commands fall back to reading the regions.
                board.alert(
                    "control.socket",
                    "agent",
                    &policy::with_causes(&error),
                    clock.now(),
                );
            }
        });
        if let Some(address) = config.metrics {
            let listener =
                metrics_http::listen(address)
                    .await
                    .map_err(|source| AgentError::Io {
                        action: "listen for metrics",
                        source,
                    })?;
            let (reporter, metrics) = (Arc::clone(reporter), Arc::clone(&self.shared.metrics));
            let render: metrics_http::Render = Arc::new(move || metrics.render(&reporter.status()));
            self.rest.spawn(metrics_http::serve(
                listener,
                render,
                self.stop_rest.clone(),
            ));
        }
        Ok(asked)
    }
}

/// Where every region's driver is told something.
pub(super) fn commands(outlets: &[Outlet]) -> Vec<UnboundedSender<Command>> {
    let all = outlets.iter().map(|outlet| outlet.commands.clone());
    all.collect()
}

/// How often the regions are looked around. Tied to the beats, so that it costs a fixed share of them;
/// a revoked recipient is sealed to no longer than this.
pub(super) fn look_every(beat_every: Duration) -> Duration {
    beat_every.saturating_mul(BEATS_A_LOOK).min(LOOK_EVERY_MAX)
}
