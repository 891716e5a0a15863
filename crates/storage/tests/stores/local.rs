//! The directory, the memory store and the wrappers.

use std::path::Path;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tidemark_format::{Key, RegionName};
use tidemark_host::RegionUrl;
use tidemark_storage::conformance::{Handles, check};
use tidemark_storage::wrap::{
    FaultControl, Faulty, Limited, MetaOnly, Meter, Metered, Prefixed, RetryPolicy, Retrying,
};
use tidemark_storage::{
    CreateOnly, CreateStore, Created, DirStore, Error, ErrorKind, MemoryStore, Op, Probe, ReadMode,
    ReadStore,
    region::{self, OpenOptions},
};

use crate::{bytes, clock, key, put, rng};

fn dir_store(path: &Path) -> DirStore {
    DirStore::open(path).expect("the folder is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    check(&Handles::of(MemoryStore::new("a")), "suite").await;
    check(
        &Handles::of(MemoryStore::versioned("b").with_mode(ReadMode::OldestVersion)),
        "suite",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    check(&Handles::of(dir_store(folder.path())), "suite").await;
    let temporary = std::fs::read_dir(folder.path().join(".tidemark-tmp"))
        .unwrap()
        .count();
    assert_eq!(temporary, 0, "no unfinished file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrapper_keeps_the_contract() {
    let memory = || MemoryStore::new("wrapped");
    check(&Handles::of(Limited::new(memory(), 2)), "suite").await;
    check(
        &Handles::of(Retrying::new(memory(), RetryPolicy::STANDARD, rng())),
        "suite",
    )
    .await;
    check(
        &Handles::of(Metered::new(memory(), Meter::new(clock()))),
        "suite",
    )
    .await;
    check(
        &Handles::of(Faulty::new(memory(), FaultControl::seeded(1))),
        "suite",
    )
    .await;
    check(
        &Handles::of(Prefixed::new(memory(), "below/this").unwrap()),
        "suite",
    )
    .await;
    let store = memory();
    let narrowed = Handles {
        read: Arc::new(MetaOnly::new(store.clone())),
        create: Arc::new(store.clone()),
        delete: Some(Arc::new(store)),
    };
    check(&narrowed, "suite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_that_regions_are_opened_with_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let url = RegionUrl::Dir(folder.path().join("new"));
    let name = RegionName::new("here").unwrap();
    let options = OpenOptions {
        create_directory: true,
        ..OpenOptions::new(clock(), rng())
    };
    let opened = region::open(&name, &url, &options).await.unwrap();
    let delete = region::open_for_deletion(&name, &url, &options)
        .await
        .unwrap();
    let handles = Handles {
        read: Arc::clone(&opened.read),
        create: Arc::clone(&opened.create),
        delete: Some(delete),
    };
    check(&handles, "suite").await;
    assert!(opened.meter.snapshot().of(Op::Create).unwrap().bytes > 20 << 20);
    assert_eq!(opened.meter.snapshot().in_flight, 0);
    assert_eq!(
        opened.probe.probe(&put(1)).await.unwrap().create_only,
        CreateOnly::Advisory
    );
}

#[tokio::test]
async fn the_agents_view_refuses_to_read_data() {
    let folder = tempfile::tempdir().unwrap();
    let url = RegionUrl::Dir(folder.path().to_owned());
    let name = RegionName::new("here").unwrap();
    let options = OpenOptions::new(clock(), rng());
    let agent = region::open_for_agent(&name, &url, &options).await.unwrap();
    let data = key("data/pack/app/x");
    agent
        .create
        .create(&data, bytes("secret"), &put(1))
        .await
        .unwrap();

    for refused in [
        agent.meta.get(&data).await.err(),
        agent.meta.get_range(&data, 0..1).await.err(),
        agent.meta.head(&data).await.err(),
        agent.meta.versions(&data).await.err(),
        agent.meta.list("data/", None, 1).await.err(),
        agent.meta.list("", None, 1).await.err(),
        agent.meta.list("met", None, 1).await.err(),
    ] {
        assert_eq!(refused.expect("refused").kind(), ErrorKind::Denied);
    }
    agent
        .urgent
        .create(&key("meta/beat"), bytes("x"), &put(1))
        .await
        .unwrap();
    assert_eq!(
        agent
            .meta
            .list("meta/", None, 9)
            .await
            .unwrap()
            .entries
            .len(),
        1
    );
}

#[tokio::test]
async fn a_directory_leaves_foreign_files_alone_and_out_of_listings() {
    let folder = tempfile::tempdir().unwrap();
    let store = dir_store(folder.path());
    std::fs::create_dir_all(folder.path().join("meta/sub")).unwrap();
    std::fs::write(folder.path().join("meta/has a space"), "x").unwrap();
    std::fs::write(folder.path().join("meta/fine"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("meta/link")).unwrap();
    std::fs::create_dir_all(folder.path().join(".tidemark-tmp")).unwrap();
    std::fs::write(folder.path().join(".tidemark-tmp/unfinished"), "x").unwrap();

    let page = store.list("", None, 100).await.unwrap();
    assert_eq!(
        page.entries
            .iter()
            .map(|e| e.key.as_str())
            .collect::<Vec<_>>(),
        ["meta/fine"]
    );
    assert_eq!(
        store.get(&key("meta/sub")).await.unwrap_err().kind(),
        ErrorKind::Missing
    );
    assert!(
        store.get(&key("meta/link")).await.is_err(),
        "links are not followed"
    );
    let over = store.create(&key("meta/link"), bytes("x"), &put(1)).await;
    assert_eq!(over.unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(
        std::fs::read(folder.path().join("meta/has a space")).unwrap(),
        b"x"
    );
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_unreachable_and_never_empty() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("disk");
    let missing = DirStore::open(&root).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Unreachable);
    assert!(missing.to_string().contains("mounted"), "{missing}");

    std::fs::create_dir(&root).unwrap();
    let store = dir_store(&root);
    std::fs::rename(&root, folder.path().join("unplugged")).unwrap();
    let kinds = [
        store.get(&key("meta/x")).await.unwrap_err().kind(),
        store.head(&key("meta/x")).await.unwrap_err().kind(),
        store.list("", None, 1).await.unwrap_err().kind(),
        store
            .create(&key("meta/x"), bytes("x"), &put(1))
            .await
            .unwrap_err()
            .kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Unreachable; 4]);
    assert!(!root.exists(), "a create must not make the mount point");
}

#[tokio::test]
async fn sweeping_takes_only_what_is_a_day_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = dir_store(folder.path());
    let temporary = folder.path().join(".tidemark-tmp");
    std::fs::create_dir(&temporary).unwrap();
    std::fs::write(temporary.join("unfinished"), "x").unwrap();
    let now = clock().now();
    assert_eq!(store.sweep_temporary(now).unwrap(), 0);
    let tomorrow: Timestamp = now.checked_add(SignedDuration::from_hours(25)).unwrap();
    assert_eq!(store.sweep_temporary(tomorrow).unwrap(), 1);
}

#[tokio::test]
async fn an_object_in_a_directory_is_read_only_and_its_bytes_tell_whose_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = dir_store(folder.path());
    let name = key("meta/log/app/1");
    assert_eq!(
        store.create(&name, bytes("one"), &put(1)).await.unwrap(),
        Created::New
    );
    let mode = std::fs::metadata(folder.path().join(name.as_str()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o222, 0, "nobody writes an object again");
    assert_eq!(
        store.create(&name, bytes("one"), &put(2)).await.unwrap(),
        Created::AlreadyMine
    );
    let other = store
        .create(&name, bytes("two"), &put(1))
        .await
        .unwrap_err();
    assert!(matches!(other, Error::Exists { put_id: None, .. }));
}

#[tokio::test]
async fn two_directories_on_one_device_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let (a, b) = (
        DirStore::create_root(&a).unwrap(),
        DirStore::create_root(&b).unwrap(),
    );
    assert_eq!(a.device_id(), b.device_id());
}

#[tokio::test]
async fn the_oldest_version_is_read_where_versions_are_kept() {
    let store = MemoryStore::versioned("v");
    let name = key("meta/point/1");
    store.create(&name, bytes("true"), &put(1)).await.unwrap();
    store.overwrite(&name, bytes("forged"));
    assert_eq!(store.get(&name).await.unwrap(), "forged");
    let oldest = store.with_mode(ReadMode::OldestVersion);
    assert_eq!(oldest.get(&name).await.unwrap(), "true");
    assert_eq!(oldest.versions(&name).await.unwrap().len(), 2);
}

#[test]
fn errors_say_what_happened_what_it_means_and_what_to_do() {
    let missing = DirStore::open(Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "dir:/nowhere/at/all could not be reached while listing : the directory is not there: is its disk mounted?"
    );
    let chain = tidemark_storage::chain(&missing);
    assert!(
        chain.ends_with("No such file or directory (os error 2)"),
        "{chain}"
    );
    assert!(Key::new("a/../b").is_err(), "keys can't leave the root");
}
