//! The directory store, killed at each of its system calls.
//!
//! The test starts itself again under `strace`, which kills the process just before the nth call of
//! one kind: for every kind and every n until nothing is left to cut. What a process had done
//! before its last call is therefore cut after every call, too. The order of the fsyncs, which a
//! killed process can't show, is read from the calls of a run to the end.

#![expect(clippy::print_stdout, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use jiff::SignedDuration;
use tidemark_storage::{CreateStore, Created, DirStore, ErrorKind, ReadStore};

use crate::{bytes, clock, key, put};

/// Set for the process that is to be killed: the store's root.
const ROOT: &str = "TIDEMARK_TEST_CRASH_ROOT";
/// Every call that touches files, by the names of all machines: `?` passes over unknown ones.
const CALLS: [&str; 9] = [
    "?mkdir,?mkdirat",
    "?open,openat",
    "write",
    "fsync",
    "?rename,?renameat,renameat2",
    "?link,linkat",
    "?unlink,unlinkat",
    "close",
    "?statx,?lstat,?newfstatat",
];
/// More calls of one kind than a run has.
const CUTS_MAX: u32 = 200;

const FIRST: &str = "meta/log/app/00000001/0000000000000000";
const SECOND: &str = "meta/log/app/00000001/0000000000000001";

/// Whether system calls can be cut here.
fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-qq", "true"]).output();
    let why = match tried {
        Ok(tried) if tried.status.success() => return true,
        Ok(tried) => format!(
            "strace may not trace here, a container needs the right to (CAP_SYS_PTRACE): {}",
            String::from_utf8_lossy(&tried.stderr).trim()
        ),
        Err(error) => format!("strace is missing: apt-get install strace ({error})"),
    };
    let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some();
    assert!(!required, "{why}");
    println!("SKIPPED: {why}");
    false
}

/// What the killed process does.
async fn create_both(root: &Path) {
    let store = DirStore::open(root).unwrap();
    for (name, number) in [(FIRST, 1), (SECOND, 2)] {
        let created = store.create(&key(name), bytes(name), &put(number)).await;
        assert_eq!(created.unwrap(), Created::New);
    }
}

/// Runs [`create_both`] under strace with `options`; whether it was killed.
fn run(test: &str, root: &Path, options: &[&str]) -> bool {
    let ran = Command::new("strace")
        .args(["-f", "-qq"])
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(ROOT, root)
        .output()
        .unwrap();
    let killed = ran.status.signal() == Some(9);
    assert!(
        killed || ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    killed
}

/// What must hold after any crash.
async fn check_after_crash(root: &Path, cut: &str) {
    let store = DirStore::open(root).unwrap();
    let listed = store.list("", None, 100).await.unwrap().entries;
    let listed: Vec<&str> = listed.iter().map(|entry| entry.key.as_str()).collect();
    assert!(
        [&[][..], &[FIRST], &[FIRST, SECOND]].contains(&&listed[..]),
        "{cut}: {listed:?}"
    );
    for (name, number) in [(FIRST, 1), (SECOND, 2)] {
        match store.get(&key(name)).await {
            Ok(found) => assert_eq!(found, name, "{cut}: never half of it"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Missing, "{cut}"),
        }
        let there = listed.contains(&name);
        let again = store.create(&key(name), bytes(name), &put(number)).await;
        let wanted = if there {
            Created::AlreadyMine
        } else {
            Created::New
        };
        assert_eq!(again.unwrap(), wanted, "{cut}");
        let other = store.create(&key(name), bytes("other"), &put(9)).await;
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Exists, "{cut}");
        assert_eq!(store.get(&key(name)).await.unwrap(), name, "{cut}");
    }
    let later = clock().now() + SignedDuration::from_hours(48);
    store.sweep_temporary(later).unwrap();
    let left = std::fs::read_dir(root.join(".tidemark-tmp")).unwrap();
    assert_eq!(left.count(), 0, "{cut}: leftovers are swept");
}

/// Cuts a run at every call of every kind; `also` is what strace is told besides.
async fn cut_everywhere(test: &str, also: &[&str]) {
    let mut cuts = 0;
    for calls in CALLS {
        for nth in 1..=CUTS_MAX {
            assert!(nth < CUTS_MAX, "{calls}: it never ends");
            let folder = tempfile::tempdir().unwrap();
            let inject = format!("inject={calls}:signal=KILL:when={nth}");
            let trace = format!("trace=renameat2,{calls}");
            let options = [&["-o", "/dev/null", "-e", &trace], also, &["-e", &inject]].concat();
            let killed = run(test, folder.path(), &options);
            check_after_crash(folder.path(), &format!("{calls} {nth}")).await;
            if !killed {
                break;
            }
            cuts += 1;
        }
    }
    // Two objects, five folders: fewer cuts would mean that strace cut nothing of ours.
    assert!(cuts > 40, "{cuts} cuts");
}

#[tokio::test]
async fn a_create_cut_at_any_system_call_leaves_an_object_whole_or_absent() {
    if let Some(root) = std::env::var_os(ROOT) {
        return create_both(Path::new(&root)).await;
    }
    if strace_works() {
        let test = "crash::a_create_cut_at_any_system_call_leaves_an_object_whole_or_absent";
        cut_everywhere(test, &[]).await;
    }
}

#[tokio::test]
async fn so_does_one_where_a_rename_can_not_refuse_to_replace() {
    if let Some(root) = std::env::var_os(ROOT) {
        return create_both(Path::new(&root)).await;
    }
    if strace_works() {
        let test = "crash::so_does_one_where_a_rename_can_not_refuse_to_replace";
        cut_everywhere(test, &["-e", "inject=renameat2:error=EINVAL"]).await;
    }
}

#[tokio::test]
async fn an_object_is_synced_before_it_has_its_name_and_its_folder_after() {
    if let Some(root) = std::env::var_os(ROOT) {
        return create_both(Path::new(&root)).await;
    }
    if !strace_works() {
        return;
    }
    let test = "crash::an_object_is_synced_before_it_has_its_name_and_its_folder_after";
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    std::fs::create_dir(&root).unwrap();
    let log = folder.path().join("calls");
    let log_text = log.display().to_string();
    let options = ["-y", "-o", &log_text, "-e", "trace=fsync,renameat2,?mkdir"];
    assert!(!run(test, &root, &options));
    let calls = std::fs::read_to_string(&log).unwrap();
    let at = |wanted: &dyn Fn(&str) -> bool| calls.lines().position(wanted);
    let synced = |line: &str, path: &Path| {
        line.contains("fsync(") && line.contains(&format!("<{}>", path.display()))
    };
    let parent = root.join(FIRST).parent().unwrap().to_owned();
    for name in [FIRST, SECOND] {
        let named = at(&|line| line.contains("renameat2(") && line.contains(name)).unwrap();
        let before: Vec<&str> = calls.lines().take(named).collect();
        let after: Vec<&str> = calls.lines().skip(named).collect();
        assert!(
            before
                .last()
                .is_some_and(|line| line.contains("fsync(") && line.contains(".tidemark-tmp/")),
            "{calls}"
        );
        assert!(
            after.get(1).is_some_and(|line| synced(line, &parent)),
            "{calls}"
        );
        // Every folder on the way was synced into its parent before.
        for above in parent
            .ancestors()
            .skip(1)
            .take_while(|at| **at != *folder.path())
        {
            assert!(before.iter().any(|line| synced(line, above)), "{calls}");
        }
    }
}
