//! The SQLite engine against the real SQLite: applications in processes of their own, captured,
//! crashed, restored and compared byte by byte.

mod bases;
mod behind;
mod bounds;
mod canary;
mod capture;
mod catch_up;
mod conformance;
mod crash;
mod refusals;
mod restore;
mod rollback;
mod support;
mod waits;
mod watched;
mod worlds;

#[test]
fn child_process_entry() {
    support::be_a_child();
}
