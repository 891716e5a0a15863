//! Stores as they are in the world: what each of them says differently, and what stands between
//! them and us. Scripted, for no real server can be told to say it.

use std::sync::Arc;

use tidemark_format::RegionName;
use tidemark_host::RegionUrl;
use tidemark_storage::region::{OpenOptions, open};
use tidemark_storage::{
    CreateOnly, CreateStore, Created, ErrorKind, Probe as _, ReadMode, ReadStore, chain,
};
use tidemark_testkit::s3::Credential;

use crate::wire::{Scripted, answer, error, quick};
use crate::{bytes, clock, key, put, rng};

const PAGE: &str = "<!DOCTYPE html><html><title>Welcome to the hotel's network</title></html>";

fn web_page(status: &str) -> String {
    answer(status, "Content-Type: text/html\r\n", PAGE)
}

#[tokio::test]
async fn a_web_page_is_never_taken_for_a_store() {
    let server = Scripted::answering(vec![web_page("200 OK"); 4]);
    let store = server.store(ReadMode::Plain).await;
    let name = key("meta/x");
    let created = store.create(&name, bytes("body"), &put(1)).await;
    let listed = store.list("meta/", None, 10).await;
    let read = store.get(&name).await;
    let part = store.get_range(&name, 0..8).await;
    for error in [
        created.unwrap_err(),
        listed.unwrap_err(),
        read.unwrap_err(),
        part.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{}", chain(&error));
        assert!(error.to_string().contains("web page"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn the_error_pages_of_proxies_are_sorted_by_their_status() {
    let server = Scripted::answering(vec![
        web_page("502 Bad Gateway"),
        web_page("403 Forbidden"),
        web_page("403 Forbidden"),
        web_page("429 Too Many Requests"),
        web_page("407 Proxy Authentication Required"),
    ]);
    let store = server.store(ReadMode::Plain).await;
    let name = key("meta/x");
    let mut kinds = Vec::new();
    kinds.push(store.get(&name).await.unwrap_err().kind());
    kinds.push(store.get(&name).await.unwrap_err().kind());
    for _ in 0..3 {
        let refused = store.create(&name, bytes("body"), &put(1)).await;
        kinds.push(refused.unwrap_err().kind());
    }
    assert_eq!(
        kinds,
        [
            ErrorKind::Unreachable,
            ErrorKind::Unknown,
            ErrorKind::Denied,
            ErrorKind::Unreachable,
            ErrorKind::Invalid
        ]
    );
}

#[tokio::test]
async fn clocks_credentials_and_regions_are_named() {
    let elsewhere = "x-amz-bucket-region: eu-north-1\r\n";
    let server = Scripted::answering(vec![
        error("403 Forbidden", "RequestTimeTooSkewed"),
        error("400 Bad Request", "ExpiredToken"),
        answer("301 Moved Permanently", elsewhere, ""),
        error("307 Temporary Redirect", "TemporaryRedirect"),
        error("400 Bad Request", "AuthorizationHeaderMalformed"),
    ]);
    let store = server.store(ReadMode::Plain).await;
    let name = key("meta/x");
    for (kind, words) in [
        (ErrorKind::Unreachable, "set this host's clock"),
        (ErrorKind::Unreachable, "credential has expired"),
        (ErrorKind::Invalid, "set region=eu-north-1"),
        (ErrorKind::Invalid, "set region="),
        (ErrorKind::Invalid, "set region="),
    ] {
        let refused = store.create(&name, bytes("body"), &put(1)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), kind, "{}", chain(&refused));
        assert!(refused.to_string().contains(words), "{}", chain(&refused));
    }
    // A redirected HEAD has nothing but its head.
    let server = Scripted::answering(vec![answer("301 Moved Permanently", elsewhere, "")]);
    let store = server.store(ReadMode::Plain).await;
    let refused = store.head(&name).await.unwrap_err();
    assert!(
        refused.to_string().contains("set region=eu-north-1"),
        "{}",
        chain(&refused)
    );
}

#[tokio::test]
async fn the_probe_finds_a_store_that_ignores_conditions() {
    let ok = || answer("200 OK", "", "");
    let unknown = error("501 Not Implemented", "NotImplemented");
    let server = Scripted::answering(vec![ok(), ok(), unknown.clone()]);
    let store = server.store(ReadMode::Plain).await;
    let report = store.probe(&put(9)).await.unwrap();
    assert!(!report.conditional_create);
    assert_eq!(report.create_only, CreateOnly::Advisory);
    assert!(
        report.because.contains("ignores If-None-Match"),
        "{report:?}"
    );
    let puts = server.heads();
    assert!(
        puts[..2]
            .iter()
            .all(|head| head.contains("if-none-match: *"))
    );
    // One that refuses the header says so at the first create.
    let server = Scripted::answering(vec![unknown]);
    let store = server.store(ReadMode::Plain).await;
    let refused = store.create(&key("meta/x"), bytes("body"), &put(1)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(
        refused.to_string().contains("conditional puts are needed"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_store_without_versions_is_read_as_it_is() {
    let server = Scripted::answering(vec![
        error("404 Not Found", "NoSuchKey"),
        error("501 Not Implemented", "NotImplemented"),
        error("404 Not Found", "NoSuchKey"),
        answer("200 OK", "", "x"),
    ]);
    let store = server.store(ReadMode::OldestVersion).await;
    let name = key("meta/x");
    assert_eq!(
        store.get(&name).await.unwrap_err().kind(),
        ErrorKind::Missing
    );
    assert_eq!(store.get(&name).await.unwrap(), "x");
}

/// A page of a listing: its keys, whether there is more, and the token for it.
fn page(keys: &[&str], more: bool, token: Option<&str>) -> String {
    let keys: String = keys
        .iter()
        .map(|key| format!("<Contents><Key>p/{key}</Key><Size>1</Size></Contents>"))
        .collect();
    let token = token.map_or(String::new(), |token| {
        format!("<NextContinuationToken>{token}</NextContinuationToken>")
    });
    answer(
        "200 OK",
        "Content-Type: application/xml\r\n",
        &format!(
            "<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{keys}</ListBucketResult>"
        ),
    )
}

#[tokio::test]
async fn a_listing_goes_on_over_empty_pages_and_without_tokens() {
    let server = Scripted::answering(vec![
        page(&[], true, Some("one")),
        page(&["meta/a", "meta/b"], true, Some("two")),
        page(&[], true, Some("three")),
        page(&["meta/c"], true, None),
        page(&["meta/c", "meta/d"], false, None),
    ]);
    let store = server.store(ReadMode::Plain).await;
    let listed = store.list("meta/", None, 100).await.unwrap();
    let names: Vec<&str> = listed.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(names, ["meta/a", "meta/b", "meta/c", "meta/d"]);
    assert!(!listed.more);
    let asked = server.heads();
    assert!(asked[2].contains("continuation-token=two"), "{}", asked[2]);
    assert!(
        asked[4].contains("start-after=p%2fmeta%2fc"),
        "{}",
        asked[4]
    );
}

#[tokio::test]
async fn a_listing_that_leads_nowhere_never_passes_for_a_whole_one() {
    let endless = || page(&["meta/a"], true, None);
    let server = Scripted::answering(vec![
        page(&[], true, None),
        endless(),
        endless(),
        page(&[], true, Some("same")),
        page(&[], true, Some("same")),
        page(&[], true, None),
    ]);
    let store = server.store(ReadMode::Plain).await;
    for kind in [
        ErrorKind::Unreachable,
        ErrorKind::Invalid,
        ErrorKind::Unreachable,
    ] {
        let listed = store.list("meta/", None, 100).await;
        assert_eq!(listed.unwrap_err().kind(), kind);
    }
    let folders = store.folders("meta/").await;
    assert_eq!(folders.unwrap_err().kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn a_range_is_what_was_asked_for_also_where_ranges_are_ignored() {
    let whole = || answer("200 OK", "", "0123456789");
    let part = answer(
        "206 Partial Content",
        "Content-Range: bytes 2-4/10\r\n",
        "234",
    );
    let server = Scripted::answering(vec![part, whole(), whole(), whole()]);
    let store = server.store(ReadMode::Plain).await;
    let name = key("meta/x");
    assert_eq!(store.get_range(&name, 2..5).await.unwrap(), "234");
    assert_eq!(store.get_range(&name, 2..5).await.unwrap(), "234");
    assert_eq!(store.get_range(&name, 8..20).await.unwrap(), "89");
    assert_eq!(store.get_range(&name, 10..20).await.unwrap(), "");
}

#[tokio::test]
async fn an_object_that_was_compressed_on_its_way_is_refused_with_the_reason() {
    let zipped = answer("200 OK", "Content-Encoding: gzip\r\n", "x");
    let server = Scripted::answering(vec![zipped]);
    let store = server.store(ReadMode::Plain).await;
    let refused = store.get(&key("meta/x")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unreachable);
    assert!(refused.to_string().contains("gzip"), "{refused}");
}

#[tokio::test]
async fn one_dead_region_takes_no_retries_from_another() {
    const CREATES: u8 = 40;
    // GIVEN two regions opened alike: one that never has an answer, and one that has its answer at
    // the very last of the tries that a request is given
    let tries = quick().tries_max;
    let busy = || error("503 Service Unavailable", "SlowDown");
    let dead = Scripted::answering(vec![busy(); usize::from(CREATES) * 50]);
    let mut script = vec![busy(); usize::try_from(tries - 1).unwrap()];
    script.push(answer("200 OK", "", ""));
    let slow = Scripted::answering(script);
    let folder = tempfile::tempdir().unwrap();
    let credential = Credential {
        access_key: "a".to_owned(),
        secret_key: "s".to_owned(),
    };
    for name in ["dead", "slow"] {
        credential.write_profile(&folder.path().join(name)).unwrap();
    }
    let options = OpenOptions {
        credentials_directory: Some(folder.path().to_owned()),
        retry: quick(),
        ..OpenOptions::new(clock(), rng())
    };
    let region = async |name: &str, server: &Scripted| {
        let url: RegionUrl = server.url().parse().unwrap();
        open(&RegionName::new(name).unwrap(), &url, &options)
            .await
            .unwrap()
    };
    let dead_region = region("dead", &dead).await;
    let slow_region = region("slow", &slow).await;
    // WHEN many requests to the dead one fail, all at once, again and again
    let attempts = (0..CREATES).map(|number| {
        let create = Arc::clone(&dead_region.create);
        tokio::spawn(async move {
            let name = key(&format!("meta/log/{number}"));
            create.create(&name, bytes("x"), &put(number)).await
        })
    });
    for attempt in attempts.collect::<Vec<_>>() {
        let failed = attempt.await.unwrap();
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unreachable);
    }
    // THEN each of them had all its tries, and so has the one request to the other region
    assert_eq!(
        dead.heads().len(),
        usize::from(CREATES) * usize::try_from(tries).unwrap()
    );
    let created = slow_region
        .create
        .create(&key("meta/log/1"), bytes("x"), &put(1))
        .await;
    assert_eq!(created.unwrap(), Created::New);
    assert_eq!(slow.heads().len(), usize::try_from(tries).unwrap());
}
