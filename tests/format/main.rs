//! Persisted bytes: golden files of every kind, decoded for ever, by us and by `docs/decode.py`.
//!
//! `tests/format/golden/v1` was written once and is never written again: a change that makes one of
//! these tests fail is a change of the format, which needs another version.

#![expect(clippy::print_stdout, reason = "a skipped test says so")]
#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

mod decode;
mod drill;
mod future;
mod golden;
mod make;
mod postgres;
