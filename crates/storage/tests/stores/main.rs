//! Every store and wrapper against one contract, and the S3 store against a real server.

mod crash;
mod faults;
mod local;
mod s3;
mod strange;
mod virtual_host;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use tidemark_format::{Key, PutId};

/// A key that is known to be valid.
fn key(text: &str) -> Key {
    Key::new(text).expect("a valid key")
}

fn put(number: u8) -> PutId {
    PutId([number; 16])
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The machine's clock: these tests talk to real servers.
fn clock() -> Arc<dyn tidemark_host::Clock> {
    tidemark_host::SystemClock::shared()
}

fn rng() -> Arc<dyn tidemark_host::Rng> {
    tidemark_host::TestRng::shared(7)
}
