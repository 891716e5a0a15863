//! Policies over a server's real records: what its connections really were, drills of a cluster, and a gap
//! between two lives of it.

use std::net::{IpAddr, UdpSocket};

use serde_json::Value;
use tidemark_testkit::postgres::{Options, Stop};

use crate::pg_restore::newest;
use crate::pg_site::{PgSite, ROLE};
use crate::policy::stands;
use crate::policy_proof::start_elsewhere;
use crate::process::{Timed, is_root, skip};

/// An address of this machine that is not its loopback: nothing is sent to find it.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

/// The agent runs by another connection string until everything is in every region.
fn captured(site: &PgSite, host: &str, mode: &str, ids: std::ops::Range<u32>) -> Value {
    let conninfo = format!(
        "host={host} port={} user={ROLE} password=secret dbname=postgres sslmode={mode}",
        site.cluster.port()
    );
    let agent = site.site.first_agent();
    agent.set("postgres", &format!("\"{conninfo}\""));
    let daemon = start_elsewhere(&site.site);
    site.wait_protected();
    site.load(ids);
    site.wait_protected();
    daemon.terminate();
    judged(site, "loadster")
}

/// Judges a policy, however it ends.
#[track_caller]
fn judged(site: &PgSite, policy: &str) -> Value {
    let words = ["policy", "check", "--policy", policy, "--json"];
    site.site.tool(&words).json()
}

#[test]
fn encryption_on_the_way_from_a_server_is_judged_by_what_the_connection_was() {
    let _timed = Timed::start();
    if !is_root() {
        skip("only root lets an agent have a machine-id of its own");
        return;
    }
    let Some(postgres) = newest() else { return };
    let Some(own) = own_address() else {
        skip("this machine has no address but its loopback");
        return;
    };
    let options = Options {
        tcp: true,
        ..Options::default()
    };
    let site = PgSite::new(&postgres, &options.with("listen_addresses", "*"));
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} PASSWORD 'secret'"));
    site.cluster.set_hba(&format!(
        "host all,replication all {own}/32 scram-sha-256\nhost all,replication all 127.0.0.1/32 scram-sha-256"
    ));
    let own = own.to_string();
    // A connection string that asks for nothing, and a server that has TLS
    let judged = captured(&site, &own, "prefer", 0..5);
    stands(
        &judged,
        "in-transit",
        "PASS",
        &["by TLS, by chance", "log:1:"],
    );
    let judged = captured(&site, &own, "require", 5..10);
    stands(
        &judged,
        "in-transit",
        "PASS",
        &["reaches its server by TLS\"", "log:1:"],
    );
    // The same string, once the server has none
    site.cluster.sql("ALTER SYSTEM SET ssl = off");
    site.cluster.sql("SELECT pg_reload_conf()");
    let judged = captured(&site, &own, "prefer", 10..15);
    let words = [
        "over a network without encryption",
        "sslmode=verify-full",
        "log:1:",
    ];
    stands(&judged, "in-transit", "FAIL", &words);
    // AND a drill of it, where production does not answer, proves what a drill of a file does
    site.cluster.stop(Stop::Fast).expect("stopped");
    let bin = site.cluster.postgres().bin().display().to_string();
    let ran = site
        .site
        .tool(&["drill", "run", "--json", "--pg-bin", &bin]);
    assert_eq!(ran.json()["verdict"], "PASS", "{ran}");
    let id = ran.json()["evidence_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let root = format!("{}.root", site.site.identity.display());
    let enrol = ["keys", "enrol", "--all", "--root", &root];
    site.site.tool(&enrol).ok();
    let soc2 = self::judged(&site, "soc2");
    stands(&soc2, "restore-test", "PASS", &["1 drill since", &id]);
    stands(
        &soc2,
        "production-data",
        "PASS",
        &["probed", "could not be reached", &id],
    );
    let tasklexa = self::judged(&site, "tasklexa");
    stands(&tasklexa, "rto", "PASS", &["at most 1 d", &id]);
}
