//! One contract, many stores: what every store and every wrapper must do.
//!
//! Call [`check`] with the handles of an empty store, or of one whose keys below the suite's
//! `scope` are free. A violation panics with what was expected, as a test's assertion does.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_format::{Key, PutId};

use crate::{CreateStore, Created, DeleteStore, Error, ErrorKind, ReadStore};

/// Racers for one contended name.
const RACERS: u8 = 16;
/// Above the size of any object that is usual here.
const LARGE_BYTES: usize = 20 << 20;

/// The handles of one store.
#[derive(Debug, Clone)]
pub struct Handles {
    /// Reads what `create` makes.
    pub read: Arc<dyn ReadStore>,
    /// Creates.
    pub create: Arc<dyn CreateStore>,
    /// Deletes, where the credential allows it.
    pub delete: Option<Arc<dyn DeleteStore>>,
}

impl Handles {
    /// All three powers of one store.
    pub fn of<S: ReadStore + CreateStore + DeleteStore + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            read: Arc::<S>::clone(&store),
            create: Arc::<S>::clone(&store),
            delete: Some(store),
        }
    }

    /// What can be read and created, but not deleted.
    pub fn create_only<S: ReadStore + CreateStore + 'static>(store: S) -> Self {
        let store = Arc::new(store);
        Self {
            read: Arc::<S>::clone(&store),
            create: store,
            delete: None,
        }
    }
}

/// Runs the whole suite below `meta/SCOPE/`.
///
/// # Panics
/// When the store breaks the contract.
pub async fn check(handles: &Handles, scope: &str) {
    let suite = Suite {
        handles: handles.clone(),
        root: format!("meta/{scope}"),
    };
    suite.what_is_created_can_be_read().await;
    suite.a_retry_with_the_same_put_is_ours().await;
    suite.another_put_finds_the_name_taken().await;
    suite.exactly_one_of_sixteen_racers_wins().await;
    suite.ranges_are_cut_at_the_end().await;
    suite.missing_is_said_for_what_is_not_there().await;
    suite.odd_keys_stay_apart().await;
    suite.listings_are_ordered_and_paged().await;
    suite
        .folders_are_told_without_listing_what_is_in_them()
        .await;
    suite.empty_and_large_objects_are_whole().await;
    suite.deleting_is_final_and_repeatable().await;
}

struct Suite {
    handles: Handles,
    root: String,
}

fn put(number: u8) -> PutId {
    PutId([number; 16])
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.expect_err("the call should fail").kind()
}

impl Suite {
    fn key(&self, name: &str) -> Key {
        Key::new(format!("{}/{name}", self.root)).expect("a valid key")
    }

    async fn create(&self, name: &str, body: &'static [u8]) -> Created {
        let created = self
            .handles
            .create
            .create(&self.key(name), Bytes::from_static(body), &put(1))
            .await;
        created.unwrap_or_else(|error| panic!("creating {name}: {error}"))
    }

    async fn what_is_created_can_be_read(&self) {
        let key = self.key("plain/object");
        assert_eq!(self.create("plain/object", b"content").await, Created::New);
        assert_eq!(
            self.handles.read.get(&key).await.expect("readable"),
            "content"
        );
        let info = self.handles.read.head(&key).await.expect("known");
        assert_eq!(info.size, 7);
        assert!(
            info.put_id.is_none_or(|id| id == put(1)),
            "a put-id is kept as given"
        );
        let versions = self.handles.read.versions(&key).await.expect("versions");
        assert_eq!(versions.len(), 1, "one version after one create");
        assert!(versions[0].latest);
    }

    async fn a_retry_with_the_same_put_is_ours(&self) {
        assert_eq!(self.create("retry", b"same").await, Created::New);
        assert_eq!(self.create("retry", b"same").await, Created::AlreadyMine);
        let read = self.handles.read.get(&self.key("retry")).await;
        assert_eq!(read.expect("readable"), "same");
    }

    async fn another_put_finds_the_name_taken(&self) {
        let key = self.key("taken");
        assert_eq!(self.create("taken", b"first").await, Created::New);
        let second = self
            .handles
            .create
            .create(&key, Bytes::from_static(b"second"), &put(2))
            .await;
        match second {
            Err(Error::Exists { put_id, .. }) => {
                assert!(
                    put_id.is_none_or(|id| id == put(1)),
                    "whose it is, if anything"
                );
            }
            other => panic!("expected Exists, got {other:?}"),
        }
        assert_eq!(
            self.handles.read.get(&key).await.expect("readable"),
            "first"
        );
    }

    async fn exactly_one_of_sixteen_racers_wins(&self) {
        for round in 0..2 {
            let key = self.key(&format!("race/{round}"));
            let racers = (0..RACERS).map(|racer| {
                let (create, key) = (Arc::clone(&self.handles.create), key.clone());
                tokio::spawn(async move {
                    let body = Bytes::from(vec![racer; 1000 + usize::from(racer)]);
                    (racer, create.create(&key, body, &put(racer)).await)
                })
            });
            let mut winners = Vec::new();
            for racer in racers.collect::<Vec<_>>() {
                match racer.await.expect("a racer ends") {
                    (racer, Ok(Created::New | Created::AlreadyMine)) => winners.push(racer),
                    (_, Err(error)) if error.kind() == ErrorKind::Exists => {}
                    (racer, Err(error)) => panic!("racer {racer}: {error}"),
                }
            }
            assert_eq!(
                winners.len(),
                1,
                "exactly one winner in round {round}: {winners:?}"
            );
            let stored = self.handles.read.get(&key).await.expect("readable");
            assert_eq!(
                stored.first(),
                winners.first(),
                "the winner's bytes are stored"
            );
            assert_eq!(stored.len(), 1000 + usize::from(winners[0]));
        }
    }

    async fn ranges_are_cut_at_the_end(&self) {
        self.create("ranges", b"0123456789").await;
        let key = self.key("ranges");
        let cases = [
            (0..4, "0123"),
            (3..7, "3456"),
            (9..10, "9"),
            (5..100, "56789"),
            (0..10, "0123456789"),
            (10..20, ""),
            (4..4, ""),
        ];
        for (range, expected) in cases {
            let read = self.handles.read.get_range(&key, range.clone()).await;
            assert_eq!(
                read.unwrap_or_else(|error| panic!("{range:?}: {error}")),
                expected
            );
        }
    }

    async fn missing_is_said_for_what_is_not_there(&self) {
        let key = self.key("nothing/here");
        assert_eq!(kind(self.handles.read.get(&key).await), ErrorKind::Missing);
        assert_eq!(
            kind(self.handles.read.get_range(&key, 0..5).await),
            ErrorKind::Missing
        );
        assert_eq!(kind(self.handles.read.head(&key).await), ErrorKind::Missing);
        assert_eq!(
            kind(self.handles.read.versions(&key).await),
            ErrorKind::Missing
        );
        let listed = self
            .handles
            .read
            .list(&format!("{}/nothing/", self.root), None, 10)
            .await;
        assert!(listed.expect("listable").entries.is_empty());
    }

    async fn odd_keys_stay_apart(&self) {
        let long = "x".repeat(200);
        let odd = [
            "a.b",
            "a-b",
            "a_b",
            "A.B",
            ".hidden",
            "trailing.",
            "-",
            "_",
            "0",
            &long,
        ];
        for name in odd {
            let key = self.key(&format!("odd/{name}"));
            let body = Bytes::copy_from_slice(name.as_bytes());
            let created = self.handles.create.create(&key, body, &put(1)).await;
            assert_eq!(created.expect("creatable"), Created::New, "{name}");
        }
        for name in odd {
            let read = self
                .handles
                .read
                .get(&self.key(&format!("odd/{name}")))
                .await;
            assert_eq!(read.expect("readable"), name);
        }
        let listed = self
            .handles
            .read
            .list(&format!("{}/odd/", self.root), None, 100)
            .await;
        assert_eq!(listed.expect("listable").entries.len(), odd.len());
    }

    async fn listings_are_ordered_and_paged(&self) {
        let names = ["0", "1", "2a", "2b", "Z", "a", "b", "in/1", "in/2"];
        for name in names {
            self.create(&format!("list/{name}"), b"x").await;
        }
        let expected: Vec<_> = names
            .iter()
            .map(|name| self.key(&format!("list/{name}")))
            .collect();
        let prefix = format!("{}/list/", self.root);
        for limit in [1, 2, 4, names.len(), 100] {
            let mut seen = Vec::new();
            loop {
                let page = self.handles.read.list(&prefix, seen.last(), limit).await;
                let page = page.expect("listable");
                assert!(page.entries.len() <= limit, "no more than asked for");
                seen.extend(page.entries.into_iter().map(|entry| entry.key));
                if !page.more {
                    break;
                }
            }
            assert_eq!(seen, expected, "limit {limit}");
        }
        for (part, count) in [
            ("list/2", 2),
            ("list/in", 2),
            ("list/in/", 2),
            ("list/x", 0),
        ] {
            let page = self
                .handles
                .read
                .list(&format!("{}/{part}", self.root), None, 100)
                .await;
            assert_eq!(page.expect("listable").entries.len(), count, "{part}");
        }
        let after = self.key("list/in/1");
        let page = self
            .handles
            .read
            .list(&prefix, Some(&after), 9)
            .await
            .expect("listable");
        assert_eq!(page.entries.len(), 1, "start_after is excluded");
        assert_eq!(page.entries[0].size, 1);
    }

    async fn folders_are_told_without_listing_what_is_in_them(&self) {
        // As bytes '-' comes before '/', and '0' after it: where servers' orders differ.
        let names = ["b/x", "a/1", "a/2/3", "a-/4", "a.", "a0/x", "c/d/e", "f"];
        for name in names {
            self.create(&format!("tree/{name}"), b"x").await;
        }
        let read = &self.handles.read;
        let all = read
            .list(&format!("{}/tree/", self.root), None, 100)
            .await
            .expect("listable");
        let seen: BTreeSet<_> = all.entries.into_iter().map(|entry| entry.key).collect();
        assert_eq!(
            seen,
            names
                .iter()
                .map(|name| self.key(&format!("tree/{name}")))
                .collect()
        );

        let below = async |part: &str| {
            read.folders(&format!("{}/{part}", self.root))
                .await
                .expect("listable")
        };
        assert_eq!(below("tree/").await, ["a", "a-", "a0", "b", "c"]);
        assert_eq!(below("tree/a/").await, ["2"]);
        assert_eq!(below("tree/nothing/").await, Vec::<String>::new());
    }

    async fn empty_and_large_objects_are_whole(&self) {
        self.create("empty", b"").await;
        assert!(
            self.handles
                .read
                .get(&self.key("empty"))
                .await
                .expect("readable")
                .is_empty()
        );
        let info = self
            .handles
            .read
            .head(&self.key("empty"))
            .await
            .expect("known");
        assert_eq!(info.size, 0);
        let ranged = self.handles.read.get_range(&self.key("empty"), 0..10).await;
        assert!(ranged.expect("readable").is_empty());

        let key = self.key("large");
        let body: Bytes = (0..LARGE_BYTES)
            .map(|at| at.to_le_bytes()[at % 3])
            .collect();
        let created = self
            .handles
            .create
            .create(&key, body.clone(), &put(1))
            .await;
        assert_eq!(created.expect("creatable"), Created::New);
        let read = self.handles.read.get(&key).await.expect("readable");
        assert!(read == body, "every byte of a large object comes back");
        let end = LARGE_BYTES as u64;
        let tail = self
            .handles
            .read
            .get_range(&key, end - 5..end)
            .await
            .expect("readable");
        assert_eq!(tail, body.slice(LARGE_BYTES - 5..));
    }

    async fn deleting_is_final_and_repeatable(&self) {
        let Some(delete) = &self.handles.delete else {
            return;
        };
        let key = self.key("deleted/object");
        self.create("deleted/object", b"gone soon").await;
        delete.delete(&key).await.expect("deletable");
        assert_eq!(kind(self.handles.read.get(&key).await), ErrorKind::Missing);
        delete.delete(&key).await.expect("deleting again succeeds");
        let listed = self
            .handles
            .read
            .list(&format!("{}/deleted/", self.root), None, 10)
            .await;
        assert!(listed.expect("listable").entries.is_empty());
        assert_eq!(self.create("deleted/object", b"again").await, Created::New);
    }
}
