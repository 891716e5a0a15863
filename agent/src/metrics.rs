//! What is counted, in OpenMetrics. Labels are bounded: sources, regions, constant names; never a
//! position or a time.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tidemark_format::{RegionName, SourceName};

use crate::objectives::{Standing, standings};
use crate::status_live::{LiveStatus, region_exposure};

/// A source and a region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Lane {
    source: String,
    region: String,
}

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfSource {
    source: String,
}

/// A region.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfRegion {
    region: String,
}

/// A region and what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Failure {
    region: String,
    kind: &'static str,
}

/// A source's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct State {
    source: String,
    state: &'static str,
}

/// A promise of a source's config.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OfObjective {
    source: String,
    objective: &'static str,
}

/// An alert that stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlertLabels {
    code: String,
    about: String,
}

type Seconds = Gauge<f64, AtomicU64>;

/// The counters and gauges of a daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    exposure: Family<OfSource, Seconds>,
    region_exposure: Family<Lane, Seconds>,
    backlog: Family<Lane, Gauge>,
    point: Family<Lane, Gauge>,
    state: Family<State, Gauge>,
    log_lost: Family<OfSource, Seconds>,
    canary: Family<OfSource, Seconds>,
    canary_number: Family<OfSource, Gauge>,
    at_risk: Family<OfObjective, Gauge>,
    up: Family<OfRegion, Gauge>,
    spool: Gauge,
    spool_limit: Gauge,
    alerts: Gauge,
    alert: Family<AlertLabels, Gauge>,
    objects: Family<Lane, Counter>,
    bytes: Family<Lane, Counter>,
    points: Family<OfSource, Counter>,
    bases: Family<OfSource, Counter>,
    failures: Family<Failure, Counter>,
    put: Family<OfRegion, Histogram, fn() -> Histogram>,
}

fn put_histogram() -> Histogram {
    Histogram::new([
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tidemark"),
            exposure: Family::default(),
            region_exposure: Family::default(),
            backlog: Family::default(),
            point: Family::default(),
            state: Family::default(),
            log_lost: Family::default(),
            canary: Family::default(),
            canary_number: Family::default(),
            at_risk: Family::default(),
            up: Family::default(),
            spool: Gauge::default(),
            spool_limit: Gauge::default(),
            alerts: Gauge::default(),
            alert: Family::default(),
            objects: Family::default(),
            bytes: Family::default(),
            points: Family::default(),
            bases: Family::default(),
            failures: Family::default(),
            put: Family::new_with_constructor(put_histogram),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        let seconds = || Unit::Seconds;
        let text = "Age of the oldest commit that is not durable in W failure domains";
        r.register_with_unit("exposure", text, seconds(), self.exposure.clone());
        let text = "Age of the oldest commit that is not durable in this region";
        r.register_with_unit(
            "region_exposure",
            text,
            seconds(),
            self.region_exposure.clone(),
        );
        let text = "Spooled bytes that this region still lacks";
        r.register_with_unit("backlog", text, Unit::Bytes, self.backlog.clone());
        let text = "Number of the last recovery point that is durable in this region";
        r.register("recovery_point", text, self.point.clone());
        r.register(
            "source_state",
            "1 for the state a source is in",
            self.state.clone(),
        );
        let text = "When the log of a server was last found not to go on: instants before can't all be restored";
        r.register_with_unit("log_lost_timestamp", text, seconds(), self.log_lost.clone());
        let text = "The instant in the last canary that was written into the database";
        r.register_with_unit("canary_timestamp", text, seconds(), self.canary.clone());
        let text = "The number of the last canary";
        r.register("canary_number", text, self.canary_number.clone());
        let text = "1 while what the config promises is at risk or broken: three quarters of it are used up";
        r.register("objective_at_risk", text, self.at_risk.clone());
        r.register("region_up", "Whether the region answers", self.up.clone());
        r.register_with_unit(
            "spool",
            "Bytes in the spool",
            Unit::Bytes,
            self.spool.clone(),
        );
        let text = "Most bytes that the spool may hold";
        r.register_with_unit("spool_limit", text, Unit::Bytes, self.spool_limit.clone());
        r.register(
            "alerts",
            "Conditions that a person should know",
            self.alerts.clone(),
        );
        let text =
            "1 for each condition that stands: its code, which explain knows, and what it is about";
        r.register("alert_active", text, self.alert.clone());
        r.register(
            "shipped_objects",
            "Objects created in a region",
            self.objects.clone(),
        );
        let text = "Bytes of objects created in a region";
        r.register_with_unit("shipped", text, Unit::Bytes, self.bytes.clone());
        r.register(
            "recovery_points_sealed",
            "Recovery points sealed",
            self.points.clone(),
        );
        r.register("bases_sealed", "Bases sealed", self.bases.clone());
        r.register(
            "region_failures",
            "Requests that failed, by kind",
            self.failures.clone(),
        );
        let text = "Time that creating an object took";
        r.register_with_unit("put", text, seconds(), self.put.clone());
    }

    /// An object was created.
    pub fn shipped(&self, source: &SourceName, region: &RegionName, bytes: u64, took: Duration) {
        let lane = Lane {
            source: source.to_string(),
            region: region.to_string(),
        };
        self.objects.get_or_create(&lane).inc();
        self.bytes.get_or_create(&lane).inc_by(bytes);
        let region = OfRegion {
            region: region.to_string(),
        };
        self.put.get_or_create(&region).observe(took.as_secs_f64());
    }

    /// A request failed.
    pub fn failed(&self, region: &RegionName, kind: &'static str) {
        self.failures
            .get_or_create(&Failure {
                region: region.to_string(),
                kind,
            })
            .inc();
    }

    /// A point was sealed.
    pub fn point_sealed(&self, source: &SourceName) {
        self.points
            .get_or_create(&OfSource {
                source: source.to_string(),
            })
            .inc();
    }

    /// A base was sealed.
    pub fn base_sealed(&self, source: &SourceName) {
        self.bases
            .get_or_create(&OfSource {
                source: source.to_string(),
            })
            .inc();
    }

    /// The text, with the gauges set to how things stand.
    #[must_use]
    pub fn render(&self, status: &LiveStatus) -> String {
        self.set(status);
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing into a string can't fail.
            Err(std::fmt::Error) => String::new(),
        }
    }

    fn set(&self, status: &LiveStatus) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.state.clear();
        for (name, live) in &status.sources {
            let source = OfSource {
                source: name.to_string(),
            };
            self.exposure
                .get_or_create(&source)
                .set(status.exposure(name).as_secs_f64());
            let state = State {
                source: name.to_string(),
                state: live.state.name(),
            };
            self.state.get_or_create(&state).set(1);
            if let Some(at) = live.log_lost_at {
                let seconds = at.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
                self.log_lost.get_or_create(&source).set(seconds);
            }
            let canary = live.canary.as_ref();
            if let Some((seq, at)) = canary.and_then(|canary| canary.seq.zip(canary.at)) {
                let seconds = at.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
                self.canary.get_or_create(&source).set(seconds);
                self.canary_number.get_or_create(&source).set(whole(seq));
            }
            for (region, lane) in &live.lanes {
                let labels = Lane {
                    source: name.to_string(),
                    region: region.to_string(),
                };
                let exposure = region_exposure(live, lane, status.at).as_secs_f64();
                self.region_exposure.get_or_create(&labels).set(exposure);
                self.backlog
                    .get_or_create(&labels)
                    .set(whole(lane.backlog_bytes));
                let point = lane.point_through.map_or(-1, |seq| whole(seq.0));
                self.point.get_or_create(&labels).set(point);
            }
        }
        self.at_risk.clear();
        for (name, standing) in standings(status) {
            let labels = OfObjective {
                source: name.to_string(),
                objective: "rpo",
            };
            let at_risk = i64::from(standing != Standing::Held);
            self.at_risk.get_or_create(&labels).set(at_risk);
        }
        for (name, live) in &status.regions {
            let region = OfRegion {
                region: name.to_string(),
            };
            self.up.get_or_create(&region).set(i64::from(live.up));
        }
        self.spool.set(whole(status.spool_bytes));
        self.spool_limit.set(whole(status.spool_max));
        self.alert.clear();
        for alert in &status.alerts {
            let labels = AlertLabels {
                code: alert.code.clone(),
                about: alert.about.clone(),
            };
            self.alert.get_or_create(&labels).set(1);
        }
        self.alerts.set(whole(
            u64::try_from(status.alerts.len()).unwrap_or(u64::MAX),
        ));
    }
}

/// Metrics as drivers share them.
pub type SharedMetrics = Arc<Metrics>;
