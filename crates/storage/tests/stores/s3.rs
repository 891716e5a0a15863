//! The S3 store against a real server: plain and TLS, as administrator and with the least
//! privilege of `config/iam/`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemark_format::RegionName;
use tidemark_host::RegionUrl;
use tidemark_storage::conformance::{Handles, check};
use tidemark_storage::wrap::{MetaOnly, RetryPolicy, Retrying};
use tidemark_storage::{
    CreateOnly, CreateStore, Created, DeleteStore, Error, ErrorKind, Probe, ReadMode, ReadStore,
    S3Options, S3Store, Witness,
    region::{OpenOptions, open},
};
use tidemark_testkit::net::{Mode, Proxy};
use tidemark_testkit::s3::{Credential, S3Server};

use crate::{bytes, clock, key, put, rng};

pub(crate) struct Opener {
    folder: TempDir,
}

impl Opener {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("set up"),
        }
    }

    fn credentials(&self, credential: &Credential) -> PathBuf {
        let path = self.folder.path().join(&credential.access_key);
        credential.write_profile(&path).expect("set up");
        path
    }

    pub(crate) async fn open(&self, url: &str, credential: &Credential, mode: ReadMode) -> S3Store {
        self.try_open(url, credential, mode)
            .await
            .expect("the store opens")
    }

    async fn try_open(
        &self,
        url: &str,
        credential: &Credential,
        mode: ReadMode,
    ) -> Result<S3Store, Error> {
        let RegionUrl::S3(url) = url.parse().expect("set up") else {
            panic!("an S3 URL: {url}")
        };
        let options = S3Options {
            mode,
            credentials_file: Some(self.credentials(credential)),
            clock: clock(),
        };
        S3Store::open(&RegionName::new("r").expect("set up"), &url, &options).await
    }
}

/// One of the policies that we give to people, for one bucket and prefix.
fn policy(name: &str, bucket: &str, prefix: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../config/iam")
        .join(name);
    let text = std::fs::read_to_string(path).expect("set up");
    text.replace("BUCKET", bucket).replace("PREFIX", prefix)
}

fn agent(server: &S3Server, bucket: &str) -> Credential {
    let policy = policy("agent-policy.json", bucket, "p");
    let probe = format!("p/meta/user-of-{bucket}");
    server
        .create_user(&format!("agent-{bucket}"), &policy, (bucket, &probe))
        .expect("set up")
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_over_http() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("plain").unwrap();
    let opener = Opener::new();
    let store = opener
        .open(&server.url("plain", "a/b"), server.admin(), ReadMode::Plain)
        .await;
    check(
        &Handles::of(Retrying::new(store, RetryPolicy::STANDARD, rng())),
        "suite",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checksum_of_the_url_is_accepted_by_the_server() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("checksums").unwrap();
    let opener = Opener::new();
    for checksum in ["crc32c", "sha256", "crc32", "off"] {
        for url in [
            server.url("checksums", "http"),
            server.https_url("checksums", "tls"),
        ] {
            let url = format!("{url}&checksum={checksum}");
            let store = opener.open(&url, server.admin(), ReadMode::Plain).await;
            let name = key(&format!("data/{checksum}"));
            assert_eq!(
                store.create(&name, bytes("x"), &put(1)).await.unwrap(),
                Created::New
            );
            assert_eq!(store.get(&name).await.unwrap(), "x");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_takes_the_credential_that_systemd_gives_under_its_name() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("systemd").unwrap();
    let folder = tempfile::tempdir().unwrap();
    server
        .admin()
        .write_profile(&folder.path().join("aarhus"))
        .unwrap();
    let options = OpenOptions {
        credentials_directory: Some(folder.path().to_owned()),
        ..OpenOptions::new(clock(), rng())
    };
    let url: RegionUrl = server.url("systemd", "p").parse().unwrap();
    let region = open(&RegionName::new("aarhus").unwrap(), &url, &options)
        .await
        .unwrap();
    region
        .create
        .create(&key("meta/region"), bytes("x"), &put(1))
        .await
        .unwrap();
    assert_eq!(region.read.folders("").await.unwrap(), ["meta"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_over_tls_with_a_ca_of_its_own() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("secure").unwrap();
    let opener = Opener::new();
    let store = opener
        .open(
            &server.https_url("secure", "p"),
            server.admin(),
            ReadMode::Plain,
        )
        .await;
    check(
        &Handles::of(Retrying::new(store, RetryPolicy::STANDARD, rng())),
        "suite",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_on_a_versioned_bucket_in_both_modes() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_versioned_bucket("versions").unwrap();
    let opener = Opener::new();
    for (scope, mode) in [
        ("plain", ReadMode::Plain),
        ("oldest", ReadMode::OldestVersion),
    ] {
        let store = opener
            .open(&server.url("versions", "p"), server.admin(), mode)
            .await;
        check(
            &Handles::of(Retrying::new(store, RetryPolicy::STANDARD, rng())),
            scope,
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_with_the_agents_least_privilege() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("least").unwrap();
    let credential = agent(server, "least");
    let opener = Opener::new();
    let store = Arc::new(
        opener
            .open(
                &server.https_url("least", "p"),
                &credential,
                ReadMode::Plain,
            )
            .await,
    );
    let retrying =
        |store: &Arc<S3Store>| Retrying::new(Arc::clone(store), RetryPolicy::STANDARD, rng());
    let handles = Handles {
        read: Arc::new(MetaOnly::new(retrying(&store))),
        create: Arc::new(retrying(&store)),
        delete: None,
    };
    check(&handles, "suite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_credential_reads_no_data_and_deletes_nothing() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("powers").unwrap();
    let credential = agent(server, "powers");
    let opener = Opener::new();
    let store = opener
        .open(&server.url("powers", "p"), &credential, ReadMode::Plain)
        .await;
    let data = key("data/pack/app/00000001/0000000000000000/ab");

    assert_eq!(
        store.create(&data, bytes("x"), &put(1)).await.unwrap(),
        Created::New
    );
    let again = store.create(&data, bytes("x"), &put(1)).await.unwrap();
    assert_eq!(
        again,
        Created::AlreadyMine,
        "an unguessable name is our own lost response"
    );
    assert_eq!(
        store.get(&data).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    assert_eq!(
        store.get_range(&data, 0..1).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    assert_eq!(
        store.head(&data).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    assert_eq!(
        store.list("data/", None, 1).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );
    assert_eq!(
        store.list("", None, 1).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );

    let meta = key("meta/log/app/00000001/0000000000000000");
    store.create(&meta, bytes("log"), &put(1)).await.unwrap();
    assert!(store.delete(&meta).await.is_err());
    assert_eq!(store.get(&meta).await.unwrap(), "log", "it is still there");
    assert!(
        server
            .delete(
                &credential,
                "powers",
                "p/meta/log/app/00000001/0000000000000000"
            )
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overwrite_with_the_agents_key_does_not_reach_a_restore() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_versioned_bucket("stolen").unwrap();
    let credential = agent(server, "stolen");
    let opener = Opener::new();
    let url = server.url("stolen", "p");
    let store = opener.open(&url, &credential, ReadMode::Plain).await;
    let point = key("meta/point/app/00000001/0000000000000000");
    store
        .create(&point, bytes("the true point"), &put(1))
        .await
        .unwrap();

    server
        .overwrite(&credential, "stolen", &format!("p/{point}"), b"forged")
        .expect("S3's PutObject overwrites");
    // Even the administrator's plain delete only adds a marker.
    let hidden = key("meta/point/app/00000001/0000000000000001");
    store
        .create(&hidden, bytes("hidden"), &put(1))
        .await
        .unwrap();
    server
        .delete(server.admin(), "stolen", &format!("p/{hidden}"))
        .unwrap();

    let restore_policy = policy("restore-policy.json", "stolen", "p");
    let reader = server
        .create_user(
            "restore",
            &restore_policy,
            ("stolen", "p/meta/user-restore"),
        )
        .unwrap();
    let plain = opener.open(&url, &reader, ReadMode::Plain).await;
    assert_eq!(plain.get(&point).await.unwrap(), "forged");
    for listed_first in [false, true] {
        let restore = opener.open(&url, &reader, ReadMode::OldestVersion).await;
        if listed_first {
            let page = restore.list("meta/point/", None, 10).await.unwrap();
            assert_eq!(page.entries.len(), 2, "a deletion marker hides nothing");
            assert_eq!(page.entries[0].size, 14, "the size of the first version");
        }
        assert_eq!(restore.get(&point).await.unwrap(), "the true point");
        assert_eq!(restore.get_range(&point, 4..8).await.unwrap(), "true");
        assert_eq!(restore.head(&point).await.unwrap().put_id, Some(put(1)));
        assert_eq!(restore.get(&hidden).await.unwrap(), "hidden");
        assert_eq!(restore.versions(&point).await.unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_tells_enforced_from_advisory() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_versioned_bucket("probed").unwrap();
    server.create_bucket("unversioned").unwrap();
    let opener = Opener::new();
    let probe = async |bucket: &str, credential: &Credential| {
        let store = opener
            .open(&server.url(bucket, "p"), credential, ReadMode::Plain)
            .await;
        let first = store.probe(&put(9)).await.unwrap();
        assert_eq!(
            store.probe(&put(8)).await.unwrap(),
            first,
            "probing again says the same"
        );
        first
    };

    let least = probe("probed", &agent(server, "probed")).await;
    assert_eq!(least.create_only, CreateOnly::Enforced, "{least:?}");
    assert_eq!(least.versioned, Some(true));
    assert!(least.conditional_create);

    let admin = probe("probed", server.admin()).await;
    assert_eq!(admin.create_only, CreateOnly::Advisory, "{admin:?}");

    let without = probe("unversioned", &agent(server, "unversioned")).await;
    assert_eq!(without.create_only, CreateOnly::Advisory, "{without:?}");
    assert_eq!(without.versioned, Some(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_deletes_every_version_and_reads_no_data() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_versioned_bucket("kept").unwrap();
    let opener = Opener::new();
    let url = server.url("kept", "p");
    let admin = opener
        .open(&url, server.admin(), ReadMode::OldestVersion)
        .await;
    let old = key("data/pack/app/old");
    admin.create(&old, bytes("one"), &put(1)).await.unwrap();
    server
        .overwrite(server.admin(), "kept", "p/data/pack/app/old", b"two")
        .unwrap();
    server
        .delete(server.admin(), "kept", "p/data/pack/app/old")
        .unwrap();

    let policy = policy("keeper-policy.json", "kept", "p");
    let keeper = server
        .create_user("keeper", &policy, ("kept", "p/meta/user-keeper"))
        .unwrap();
    let keeper = opener.open(&url, &keeper, ReadMode::Plain).await;
    keeper.delete(&old).await.unwrap();
    assert_eq!(
        admin.versions(&old).await.unwrap_err().kind(),
        ErrorKind::Missing
    );
    assert_eq!(
        admin.get(&old).await.unwrap_err().kind(),
        ErrorKind::Missing
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misconfigured_is_said_and_not_tried_again() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    let opener = Opener::new();
    let url = server.url("no-such-bucket", "p");
    let nothing = opener.open(&url, server.admin(), ReadMode::Plain).await;
    let name = key("meta/x");
    assert_eq!(
        nothing.get(&name).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        nothing.head(&name).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        nothing.list("meta/", None, 1).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );

    let wrong = Credential {
        secret_key: "wrong".to_owned(),
        ..server.admin().clone()
    };
    let opener = Opener::new();
    let wrong = opener
        .open(&server.url("plain2", "p"), &wrong, ReadMode::Plain)
        .await;
    assert_eq!(
        wrong.get(&name).await.unwrap_err().kind(),
        ErrorKind::Unknown
    );

    let bad_ca = opener.folder.path().join("bad.pem");
    std::fs::write(
        &bad_ca,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let url = format!(
        "s3://bucket/p?endpoint=https://127.0.0.1:1&ca={}",
        bad_ca.display()
    );
    let bad = opener
        .try_open(&url, server.admin(), ReadMode::Plain)
        .await
        .unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_is_refused_with_the_remedy() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    let opener = Opener::new();
    // A CA that has nothing to do with the server's.
    let other = S3Server::start().unwrap();
    let url = format!(
        "s3://bucket/p?endpoint={}&ca={}",
        server.https_endpoint(),
        other.ca().display()
    );
    let store = opener.open(&url, server.admin(), ReadMode::Plain).await;
    let error = store.get(&key("meta/x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(
        error.to_string().contains("add ca="),
        "{}",
        tidemark_storage::chain(&error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_away_is_unreachable_and_comes_back() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket("away").unwrap();
    let proxy = Proxy::to(SocketAddr::from(([127, 0, 0, 1], server.http_port()))).unwrap();
    let opener = Opener::new();
    let url = format!("s3://away/p?endpoint=http://{}&insecure=1", proxy.addr());
    let store = opener.open(&url, server.admin(), ReadMode::Plain).await;
    let name = key("meta/log/1");

    proxy.set(Mode::Cut);
    let cut = store.create(&name, bytes("x"), &put(1)).await.unwrap_err();
    assert_eq!(cut.kind(), ErrorKind::Unreachable);
    proxy.set(Mode::Delay(Duration::from_millis(20)));
    // A connection from the time of the outage may still lie in the pool: who meets it is told, as the
    // retries are that a region is opened with, and tries again.
    let mut met = 0;
    let created = loop {
        match store.create(&name, bytes("x"), &put(1)).await {
            Ok(created) => break created,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unreachable),
        }
        met += 1;
        assert!(met < 10, "it does not come back");
    };
    assert_eq!(created, Created::New);
    proxy.set(Mode::Pass);
    assert_eq!(store.get(&name).await.unwrap(), "x");
    let offset = store.date_offset().expect("answers carry a date");
    assert!(
        offset.abs() < jiff::SignedDuration::from_secs(30),
        "{offset}"
    );
}
