//! A store in an S3 bucket, of AWS or of anybody who speaks its protocol.
//!
//! **Invariants.** Creates carry `If-None-Match: *`. A 412 is never taken at its word: the put-id
//! beside the object tells a lost response from a lost race. 403 on a read means "unknown". One
//! call is one attempt: the SDK's own retries are off, because they can't tell our lost response
//! from somebody else's object; [`crate::wrap::Retrying`] goes around.
//!
//! **Whose object is it?** The put-id is stored as `x-amz-meta-put-id` and read back with HEAD.
//! Below `data/` names are unguessable and the agent may not read there: "exists already" is our
//! own earlier try. Elsewhere an owner that can't be read is an `Exists` without a put-id.
//!
//! **Failure.** Timeouts, lost connections, 5xx, throttling, the 409 of a conditional put and a
//! 200 with an error inside are `Unreachable`. Every attempt ends: connecting after
//! [`CONNECT_SECONDS_MAX`], an answer after [`ANSWER_SECONDS_MAX`], a body after a time that grows
//! with its size.
//!
//! **What it deliberately doesn't do:** multipart. Objects are of about 8 MiB, held in memory and
//! sent as one plain PUT with the checksum in a header, which every server understands.

mod client;
mod errors;
mod observe;
mod probe;
mod read;
mod versions;
mod write;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use jiff::{SignedDuration, Timestamp};
use tidemark_format::{Key, RegionName};
use tidemark_host::{Buffers, Checksum, Clock, S3Url};

use crate::{Error, Op, Place, ReadMode, Result, Witness};
use observe::Observer;

/// How long a connection may take to be made.
const CONNECT_SECONDS_MAX: u64 = 5;
/// How long the first byte of an answer may take.
const ANSWER_SECONDS_MAX: u64 = 30;
/// A body may stand still for so long before the attempt is given up.
const STALL_SECONDS_MAX: u64 = 30;
/// The slowest link on which a body still gets through: 64 KiB/s.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;
/// Keys whose first version is remembered from listings (about 200 bytes each).
const FIRST_VERSIONS_MAX: usize = 50_000;

/// How to open an S3 store.
#[derive(Debug, Clone)]
pub struct S3Options {
    /// Which version reads take.
    pub mode: ReadMode,
    /// A file of credentials in the format of AWS's shared credentials, used before any other.
    pub credentials_file: Option<PathBuf>,
    /// Measures the store's Date headers against our time.
    pub clock: Arc<dyn Clock>,
}

/// Whether the bucket keeps versions, as its answers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versioning {
    NotKnown,
    Kept,
    NotKept,
}

/// A store in a bucket. Clones share one client.
#[derive(Debug, Clone)]
pub struct S3Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    place: Place,
    bucket: String,
    /// Empty, or ends in `/`.
    prefix: String,
    checksum: Checksum,
    /// Payloads are signed on plain http only: TLS and the checksum protect them otherwise.
    sign_payload: bool,
    mode: ReadMode,
    observer: Arc<Observer>,
    versioning: AtomicU8,
    first_versions: Mutex<HashMap<Key, String>>,
    buffers: Buffers,
}

impl S3Store {
    /// Prepares a client; nothing is asked of the store yet. `name` tells regions apart where the
    /// SDK keeps state per name.
    ///
    /// # Errors
    /// `Invalid` for a bad CA file or a missing AWS region.
    pub async fn open(name: &RegionName, url: &S3Url, options: &S3Options) -> Result<Self> {
        let place = Place::new(&tidemark_host::RegionUrl::S3(url.clone()).place());
        let observer = Arc::new(Observer::new(Arc::clone(&options.clock)));
        let client = client::build(name, url, options, &place, &observer).await?;
        let prefix = if url.prefix.is_empty() {
            String::new()
        } else {
            format!("{}/", url.prefix)
        };
        Ok(Self {
            inner: Arc::new(Inner {
                client,
                place,
                bucket: url.bucket.clone(),
                prefix,
                checksum: url.checksum,
                sign_payload: url.is_http(),
                mode: options.mode,
                observer,
                versioning: AtomicU8::new(0),
                first_versions: Mutex::default(),
                buffers: Buffers::default(),
            }),
        })
    }
}

impl Inner {
    fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    fn versioning(&self) -> Versioning {
        match self.versioning.load(Ordering::Relaxed) {
            1 => Versioning::Kept,
            2 => Versioning::NotKept,
            _ => Versioning::NotKnown,
        }
    }

    /// Remembers what an answer showed; versions, once seen, stay.
    fn saw_version(&self, version: Option<&str>) {
        let seen = if version.is_some_and(|id| !id.is_empty()) {
            1
        } else {
            2
        };
        if self.versioning() != Versioning::Kept {
            self.versioning.store(seen, Ordering::Relaxed);
        }
    }

    /// Runs one attempt of `call`, which moves about `bytes`, to its end or its deadline.
    async fn attempt<T>(
        &self,
        op: Op,
        key: &str,
        bytes: u64,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let deadline = attempt_time(bytes);
        match tokio::time::timeout(deadline, call).await {
            Ok(result) => result,
            Err(elapsed) => Err(Error::unreachable(
                &self.place,
                op,
                key,
                format!(
                    "no end after {} s: is the link too slow or cut?",
                    deadline.as_secs()
                ),
                Some(Arc::new(elapsed)),
            )),
        }
    }
}

/// How long one attempt that moves `bytes` may take.
fn attempt_time(bytes: u64) -> Duration {
    Duration::from_secs(CONNECT_SECONDS_MAX + ANSWER_SECONDS_MAX + bytes / SLOWEST_BYTES_PER_SECOND)
}

impl Witness for S3Store {
    fn date_offset(&self) -> Option<SignedDuration> {
        self.inner.observer.date_offset()
    }
}

fn timestamp(time: Option<&aws_sdk_s3::primitives::DateTime>) -> Option<Timestamp> {
    Timestamp::from_second(time?.secs()).ok()
}
