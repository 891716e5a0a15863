//! `path_style=0`: the bucket in the host name instead of the path, against a real server.
//!
//! The bucket's host name must lead to the server, and no machine's resolver knows it. So the test
//! starts itself again in a mount namespace of its own, whose `/etc/hosts` does; it knows the
//! endpoint's own name not, so that a request that named the bucket in its path would go nowhere.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::process::Command;

use tidemark_storage::ReadMode;
use tidemark_storage::conformance::{Handles, check};
use tidemark_storage::wrap::{RetryPolicy, Retrying};
use tidemark_testkit::s3::{S3Server, VIRTUAL_DOMAIN};

use crate::rng;
use crate::s3::Opener;

/// Set for the process in the namespace.
const INSIDE: &str = "TIDEMARK_TEST_VIRTUAL_HOST";
const TEST: &str = "virtual_host::s3_keeps_the_contract_with_the_bucket_in_the_host_name";
const BUCKET: &str = "by-host-name";

/// Enters a namespace, with `$1` as its hosts, and runs the rest.
const NAMESPACE: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

fn in_namespace(hosts: &std::path::Path, program: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .args([NAMESPACE, "sh"])
        .arg(hosts)
        .arg(program);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract_with_the_bucket_in_the_host_name() {
    if std::env::var_os(INSIDE).is_some() {
        return inside().await;
    }
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    let entry = format!("127.0.0.1 localhost {BUCKET}.{VIRTUAL_DOMAIN}\n");
    std::fs::write(&hosts, entry).unwrap();
    let tried = in_namespace(&hosts, "true".as_ref()).output();
    let refused = match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(format!(
            "no user and mount namespace can be made here, a container or sysctl forbids it: {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        )),
        Err(error) => Some(format!(
            "unshare is missing: apt-get install util-linux ({error})"
        )),
    };
    if let Some(why) = refused {
        let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some();
        assert!(!required, "{why}");
        println!("SKIPPED: {why}");
        return;
    }
    let ran = in_namespace(&hosts, &std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    let complained = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}{complained}");
    assert!(said.contains("1 passed"), "{said}{complained}");
}

async fn inside() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    server.create_bucket(BUCKET).unwrap();
    let opener = Opener::new();
    let port = server.http_port();
    let url = format!(
        "s3://{BUCKET}/a/b?endpoint=http://{VIRTUAL_DOMAIN}:{port}&insecure=1&path_style=0"
    );
    let store = opener.open(&url, server.admin(), ReadMode::Plain).await;
    let handles = Handles::of(Retrying::new(store, RetryPolicy::STANDARD, rng()));
    check(&handles, "suite").await;
    // A server that read the name otherwise would have put it elsewhere.
    let by_path = server.url(BUCKET, "a/b");
    let by_path = opener.open(&by_path, server.admin(), ReadMode::Plain).await;
    let found = tidemark_storage::ReadStore::folders(&by_path, "").await;
    assert!(!found.unwrap().is_empty());
}
