//! The commands over whole repositories, made by the real write path in directories.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod auditor;
mod backups;
mod beyond;
mod closed;
mod damage;
mod drills;
mod evidence;
mod keys;
mod look;
mod policy;
mod program;
mod restore;
mod resume;
mod sandbox;
mod server;
mod silence;
mod world;
