//! For tests only: real servers, a TCP proxy, and what several test suites share.
//!
//! Not a dependency of anything that ships.
mod faketime;
pub mod net;
mod ports;
pub mod postgres;
pub mod s3;
pub mod sqlite;
mod tls;

pub use faketime::FakeTime;

/// Says that a test does nothing here, and why: a suite that is skipped is loud.
#[expect(clippy::print_stderr, reason = "a skipped suite is loud")]
fn say_skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}
