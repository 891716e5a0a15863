//! The programs on real S3 servers: two providers over TLS with a custom CA, the least privilege of
//! `config/iam`, a region that is away, and a thief with the agent's key.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tidemark_format::{Epoch, LogSeq, PointSeq, SourceName, keys};
use tidemark_testkit::net::{Mode, Proxy};
use tidemark_testkit::s3::{Credential, S3Server};
use tidemark_tests::{eventually, read, throughout};

use crate::custody::{Keys, enrol, files_with};
use crate::process::{SOON, Timed};
use crate::site::Site;
use crate::writer::{Habits, Writer, assert_committed_prefix, create, write};

/// Where the repository is in each bucket.
const PREFIX: &str = "fleet/app";

/// A bucket with a credential for the agent and one for the restore host.
pub(crate) struct Bucket<'a> {
    server: &'a S3Server,
    name: String,
    agent: Credential,
    pub(crate) restore: Credential,
}

impl<'a> Bucket<'a> {
    pub(crate) fn new(server: &'a S3Server, versioned: bool) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("e2e-{}", MADE.fetch_add(1, Ordering::Relaxed));
        if versioned {
            server.create_versioned_bucket(&name).expect("a bucket");
        } else {
            server.create_bucket(&name).expect("a bucket");
        }
        let user = |role: &str| {
            let policy = read(format!("config/iam/{role}-policy.json"));
            let policy = policy.replace("BUCKET", &name).replace("PREFIX", PREFIX);
            let allowed = format!("{PREFIX}/works-for-{role}");
            server
                .create_user(&format!("{role}-{name}"), &policy, (&name, &allowed))
                .expect("a user")
        };
        Self {
            agent: user("agent"),
            restore: user("restore"),
            server,
            name,
        }
    }

    /// The region's URL for `role`; the profile has its name.
    pub(crate) fn url(&self, endpoint: &str, role: &str) -> String {
        let ca = self.server.ca();
        format!(
            "s3://{}/{PREFIX}?endpoint={endpoint}&region=us-east-1&ca={}&profile={role}-{}",
            self.name,
            ca.display(),
            self.name
        )
    }
}

/// A site on buckets, with production custody; what the restore host's URLs are.
pub(crate) struct Cloud {
    pub(crate) site: Site,
    pub(crate) restore: Vec<String>,
    pub(crate) keys: Keys,
}

impl Cloud {
    pub(crate) fn new(buckets: &[(&Bucket<'_>, String)]) -> Self {
        let mut site = Site::plan();
        create(&site.database);
        let credentials = site.path("credentials");
        let mut text = String::new();
        for (bucket, _) in buckets {
            for (role, credential) in [("agent", &bucket.agent), ("restore", &bucket.restore)] {
                text.push_str(&profile(&format!("{role}-{}", bucket.name), credential));
            }
        }
        std::fs::write(&credentials, text).expect("credentials are written");
        site.environment(
            "AWS_SHARED_CREDENTIALS_FILE",
            credentials.display().to_string(),
        );
        let urls = |role: &str| -> Vec<String> {
            buckets
                .iter()
                .map(|(bucket, endpoint)| bucket.url(endpoint, role))
                .collect()
        };
        site.regions = urls("agent");
        let keys = Keys::new(&site, "vault");
        site.init_with(&keys.words()).ok();
        site.shorten();
        site.identity.clone_from(&keys.identity);
        let mut cloud = Self {
            restore: urls("restore"),
            site,
            keys,
        };
        let agent = std::mem::replace(&mut cloud.site.regions, cloud.restore.clone());
        enrol(&cloud.site, &cloud.keys);
        cloud.site.regions = agent;
        cloud
    }

    /// The latest state from one region with the restore host's credential.
    #[track_caller]
    fn latest(&self, region: usize) -> i64 {
        let restored = self
            .site
            .restore(&[&self.restore[region]], &["--to", "latest"])
            .ok();
        assert_committed_prefix(&restored.path)
    }
}

fn profile(name: &str, credential: &Credential) -> String {
    format!(
        "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        credential.access_key, credential.secret_key
    )
}

pub(crate) fn address(server: &S3Server) -> SocketAddr {
    let endpoint = server.https_endpoint();
    endpoint
        .trim_start_matches("https://")
        .parse()
        .expect("an address")
}

#[test]
fn agent_on_s3_over_tls_reads_no_data_and_restore_with_its_own_credential_does() {
    let _timed = Timed::start();
    let Some(server) = S3Server::shared() else {
        return;
    };
    let buckets = [Bucket::new(server, true), Bucket::new(server, false)];
    let endpoint = server.https_endpoint();
    let cloud = Cloud::new(&[(&buckets[0], endpoint.clone()), (&buckets[1], endpoint)]);
    let site = &cloud.site;
    let daemon = site.start();
    let journal = write(&site.database, 150);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    eventually("both regions were probed", SOON, || {
        let live = site.status().0;
        let found = [create_only(&live, 0), create_only(&live, 1)];
        (found == ["enforced", "advisory"]).then_some(())
    });
    site.agent(&["doctor"]).says(&["advisory"]);
    daemon.terminate();
    for region in 0..2 {
        assert_eq!(cloud.latest(region), journal.last().unwrap().n);
    }
    // The agent's credential with the right identity: still nothing comes out.
    for region in 0..2 {
        let stolen = site.restore(&[&site.regions[region]], &["--to", "latest"]);
        stolen.refused(16, &[]);
    }
    assert!(files_with(&site.path("host"), &cloud.keys.secrets()).is_empty());
}

fn create_only(status: &Value, region: usize) -> String {
    let name = &status["regions"][region]["name"];
    let live = &status["daemon"]["regions"][name.as_str().expect("a name")];
    live["create_only"]
        .as_str()
        .unwrap_or("not probed")
        .to_owned()
}

#[test]
fn s3_region_that_was_away_catches_up_and_restores_alone() {
    let _timed = Timed::start();
    let Some(server) = S3Server::shared() else {
        return;
    };
    let other = S3Server::start().unwrap();
    let proxy = Proxy::to(address(&other)).unwrap();
    let buckets = [Bucket::new(server, true), Bucket::new(&other, true)];
    let through = format!("https://{}", proxy.addr());
    let cloud = Cloud::new(&[
        (&buckets[0], server.https_endpoint()),
        (&buckets[1], through),
    ]);
    let site = &cloud.site;
    let writer = Writer::start(
        &site.database,
        &Habits {
            per_second: 60,
            checkpoints: Some(5),
        },
    );
    let mut daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    for mode in [Mode::Cut, Mode::BlackHole] {
        proxy.set(mode);
        let before = cloud.latest(0);
        throughout(
            "the agent runs without one region",
            Duration::from_secs(2),
            || daemon.ended().is_none(),
        );
        // Not by `status`, which waits for a region that never answers as long as a store may take.
        eventually("the other region goes on", SOON, || {
            (cloud.latest(0) > before).then_some(())
        });
        proxy.set(Mode::Pass);
        site.wait_shipped();
    }
    proxy.set(Mode::Cut);
    let journal = writer.stop();
    site.wait_shipped_to(1, crate::process::now());
    assert_eq!(cloud.latest(0), journal.last().unwrap().n);
    proxy.set(Mode::Pass);
    site.wait_shipped();
    daemon.assert_running();
    daemon.terminate();
    assert_eq!(cloud.latest(1), journal.last().unwrap().n);
}

#[test]
fn commands_end_in_time_and_say_so_while_a_region_swallows_everything() {
    let _timed = Timed::start();
    let Some(server) = S3Server::shared() else {
        return;
    };
    let proxy = Proxy::to(address(server)).unwrap();
    let buckets = [Bucket::new(server, true), Bucket::new(server, true)];
    let through = format!("https://{}", proxy.addr());
    let cloud = Cloud::new(&[
        (&buckets[0], server.https_endpoint()),
        (&buckets[1], through),
    ]);
    let site = &cloud.site;
    let mut daemon = site.start();
    write(&site.database, 50);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    let silent = site.status().0["regions"][1]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    proxy.set(Mode::BlackHole);
    write(&site.database, 50);
    let within = |words: &[&str], seconds: u64, code: &[i32], says: &[&str]| {
        let ran = site.agent(words);
        let took = ran.took;
        assert!(took < Duration::from_secs(seconds), "{took:?}: {ran}");
        assert!(code.contains(&ran.code), "{ran}");
        ran.says(&[&silent]).says(says);
    };
    // They wait for the same silence: side by side.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            within(
                &["status"],
                90,
                &[1, 2],
                &["can't be read: no answer within"],
            );
        });
        scope.spawn(|| within(&["doctor"], 150, &[2], &["no answer within"]));
        scope.spawn(|| within(&["snapshot"], 300, &[16], &["not yet in", "durable in"]));
    });
    daemon.assert_running();
    proxy.set(Mode::Pass);
    site.wait_shipped();
    site.agent(&["snapshot"]).ok();
    daemon.terminate();
    for region in 0..2 {
        assert_eq!(cloud.latest(region), 100);
    }
}

#[test]
fn stolen_agent_key_overwrites_a_point_and_restore_still_uses_the_first_version() {
    let _timed = Timed::start();
    let Some(server) = S3Server::shared() else {
        return;
    };
    let bucket = Bucket::new(server, true);
    let cloud = Cloud::new(&[(&bucket, server.https_endpoint())]);
    let site = &cloud.site;
    let daemon = site.start();
    let journal = write(&site.database, 100);
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let list = site
        .tool_on(&[&cloud.restore[0]], &["list", "--points", "--json"])
        .ok()
        .json();
    let source = &list["sources"][0];
    for point in source["points"].as_array().expect("points") {
        let number = |name: &str| point[name].as_u64().expect("a number");
        let (epoch, seq) = (epoch(&point["epoch"]), PointSeq(number("seq")));
        let key = format!("{PREFIX}/{}", keys::point(&app(), epoch, seq));
        server
            .overwrite(&bucket.agent, &bucket.name, &key, b"gone")
            .unwrap();
    }
    let logs = log_keys(&cloud);
    for key in &logs {
        let key = format!("{PREFIX}/{key}");
        server
            .overwrite(&bucket.agent, &bucket.name, &key, b"gone")
            .unwrap();
        let deleted = server.delete(&bucket.agent, &bucket.name, &key);
        assert!(deleted.is_err(), "the agent's key deletes");
    }
    assert_eq!(cloud.latest(0), journal.last().unwrap().n);
    site.tool_on(&[&cloud.restore[0]], &["verify"]).ok();
}

/// The keys of the log, by the window that `list` shows.
fn log_keys(cloud: &Cloud) -> Vec<String> {
    let list = cloud
        .site
        .tool_on(&[&cloud.restore[0]], &["list", "--json"])
        .ok()
        .json();
    let window = &list["sources"][0]["windows"][0];
    let (from, to) = (&window["from"], &window["to"]);
    let epoch = epoch(&to["epoch"]);
    let range = from["seq"].as_u64().expect("a number")..=to["seq"].as_u64().expect("a number");
    range
        .map(|seq| keys::log(&app(), epoch, LogSeq(seq)).to_string())
        .collect()
}

fn epoch(value: &Value) -> Epoch {
    let number = value.as_u64().and_then(|number| number.try_into().ok());
    Epoch(number.expect("an epoch"))
}

fn app() -> SourceName {
    SourceName::new("app").expect("a name")
}

#[test]
fn wrong_certificate_authority_and_wrong_credential_are_told_apart_at_start() {
    let _timed = Timed::start();
    let Some(server) = S3Server::shared() else {
        return;
    };
    let bucket = Bucket::new(server, false);
    let other = S3Server::start().unwrap();
    let mut site = Site::plan();
    create(&site.database);
    let text = profile(&format!("agent-{}", bucket.name), &bucket.restore);
    std::fs::write(
        site.path("credentials"),
        text.replace("secret_access_key = ", "secret_access_key = x"),
    )
    .unwrap();
    site.environment(
        "AWS_SHARED_CREDENTIALS_FILE",
        site.path("credentials").display().to_string(),
    );
    let identity = site.identity.display().to_string();
    let url = bucket.url(&server.https_endpoint(), "agent");
    site.regions = vec![url.clone()];
    site.init_with(&["--identity", &identity])
        .ends_with(16)
        .says(&["credential"]);
    let foreign = |path: &Path| path.display().to_string();
    site.regions = vec![url.replace(&foreign(&server.ca()), &foreign(&other.ca()))];
    site.init_with(&["--identity", &identity])
        .ends_with(16)
        .says(&["certificate"]);
    assert!(
        !site.config.exists(),
        "a config was written for a region that can't be used"
    );
}
