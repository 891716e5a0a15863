//! A site whose database is a PostgreSQL cluster of the test's own: `init --postgres`, the agent, and
//! what the server says. Restores join it through [`PgSite::site`], whose regions and identity they use.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tidemark_testkit::postgres::{Cluster, Options, Postgres, Stop};
use tidemark_tests::eventually;

use crate::process::{Daemon, Ran, SOON, now};
use crate::site::Site;

/// The role that the agent logs in as.
pub(crate) const ROLE: &str = "tidemark";
/// The slot that `init` names for a source called `main`.
pub(crate) const SLOT: &str = "tidemark_main";
/// Until a first base is made and everything is in every region, on a busy machine.
const PROTECTED_WITHIN: Duration = Duration::from_secs(240);

/// A site with a cluster.
pub(crate) struct PgSite {
    pub(crate) site: Site,
    pub(crate) cluster: Cluster,
}

impl PgSite {
    /// A new cluster with a role for the agent; no config yet.
    pub(crate) fn plan(postgres: &Postgres, options: &Options) -> Self {
        let cluster = Cluster::start(postgres, options).expect("a cluster");
        cluster.sql(&format!(
            "CREATE ROLE {ROLE} LOGIN REPLICATION; GRANT pg_monitor TO {ROLE}; \
             CREATE TABLE load (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), text text)"
        ));
        Self {
            site: Site::plan(),
            cluster,
        }
    }

    /// [`Self::plan`], `init` for a trial, and the intervals of tests.
    pub(crate) fn new(postgres: &Postgres, options: &Options) -> Self {
        let made = Self::plan(postgres, options);
        made.init(&made.conninfo()).ok();
        made.site.shorten();
        made
    }

    /// [`Self::new`] with a standby, which the connection string names, too.
    pub(crate) fn pair(postgres: &Postgres) -> (Self, Cluster) {
        let made = Self::plan(postgres, &Options::default());
        let standby = made.cluster.standby("standby").expect("a standby");
        made.init(&conninfo(&[&made.cluster, &standby])).ok();
        made.site.shorten();
        (made, standby)
    }

    /// The primary dies once its standby has everything, which takes over.
    #[track_caller]
    pub(crate) fn fail_over(&self, standby: &Cluster) {
        wait_caught_up(&self.cluster, standby);
        self.cluster.stop(Stop::Kill).expect("killed");
        standby.promote().expect("promoted");
    }

    /// How the agent reaches the cluster.
    pub(crate) fn conninfo(&self) -> String {
        conninfo(&[&self.cluster])
    }

    /// `init --postgres` under the name `main`.
    pub(crate) fn init(&self, conninfo: &str) -> Ran {
        let mut command = self.site.command("tidemark-agent");
        command.args(["init", "--postgres", conninfo, "--name", "main"]);
        for region in &self.site.regions {
            command.args(["--region", region]);
        }
        command.arg("--identity").arg(&self.site.identity);
        Ran::of(command.arg("--config").arg(&self.site.config))
    }

    /// Writes rows `ids`, each a transaction.
    pub(crate) fn load(&self, ids: std::ops::Range<u32>) {
        load(&self.cluster, ids);
    }

    /// The agent runs, its first base is complete, and every region holds everything committed by now.
    #[track_caller]
    pub(crate) fn start_protected(&self) -> Daemon {
        let daemon = self.site.start();
        self.wait_protected();
        daemon
    }

    /// Every region has a recovery point and holds everything committed by now.
    #[track_caller]
    pub(crate) fn wait_protected(&self) {
        self.wait_protected_to(now());
    }

    /// Every region has a recovery point and holds everything committed by `at`.
    #[track_caller]
    pub(crate) fn wait_protected_to(&self, at: Timestamp) {
        let regions = self.site.regions.len();
        eventually(
            "every region protects the cluster",
            PROTECTED_WITHIN,
            || {
                let status = self.site.status();
                let names = status.regions();
                let holds = |name: &&String| {
                    status.safe_until(name) >= Some(at) && status.point(name).is_some()
                };
                (names.iter().filter(holds).count() == regions).then_some(())
            },
        );
    }

    /// What the running agent says of the source.
    pub(crate) fn live(&self) -> Value {
        self.site.status().0["daemon"]["sources"]["main"].clone()
    }

    /// The agent's slot on the server: whether somebody streams from it, and from where on it keeps log.
    pub(crate) fn slot(&self) -> Option<(bool, String)> {
        slot(&self.cluster)
    }
}

/// A connection string that names clusters, in this order.
pub(crate) fn conninfo(clusters: &[&Cluster]) -> String {
    let hosts: Vec<String> = clusters
        .iter()
        .map(|cluster| cluster.socket_dir().display().to_string())
        .collect();
    let ports: Vec<String> = clusters
        .iter()
        .map(|cluster| cluster.port().to_string())
        .collect();
    let target = if clusters.len() > 1 {
        " target_session_attrs=primary"
    } else {
        ""
    };
    format!(
        "host={} port={} user={ROLE} dbname=postgres{target}",
        hosts.join(","),
        ports.join(",")
    )
}

/// Writes rows `ids` to a cluster, each a transaction.
pub(crate) fn load(cluster: &Cluster, ids: std::ops::Range<u32>) {
    let mut script = String::new();
    for id in ids {
        script.push_str(&format!(
            "INSERT INTO load (id, text) VALUES ({id}, repeat(md5('{id}'), 20));\n"
        ));
    }
    cluster.sql(&script);
}

/// Waits until a standby has replayed everything that its primary has written by now.
#[track_caller]
pub(crate) fn wait_caught_up(primary: &Cluster, standby: &Cluster) {
    let end = primary.query("SELECT pg_current_wal_lsn()");
    eventually("the standby has everything", SOON, || {
        let behind = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
        (standby.query(&behind) == "t").then_some(())
    });
}

/// The agent's slot on a cluster.
pub(crate) fn slot(cluster: &Cluster) -> Option<(bool, String)> {
    let row = cluster.query(&format!(
        "SELECT active, restart_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    ));
    let (active, restart) = row.split_once('|')?;
    Some((active == "t", restart.to_owned()))
}
