//! The two shipped programs, as a user runs them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says where")]

mod canary;
mod commands;
mod custody;
mod damage;
mod demo;
mod evidence;
mod fencing;
mod holes;
mod instants;
mod kill;
mod lost_host;
mod machine;
mod manual;
mod objects;
mod people;
mod pg_base;
mod pg_damage;
mod pg_delta;
mod pg_done;
mod pg_kill;
mod pg_lives;
mod pg_load;
mod pg_restore;
mod pg_site;
mod pg_traps;
mod postgres;
mod process;
mod refusals;
mod s3;
mod scale;
mod secrets;
mod site;
mod space;
mod status;
mod systemd;
mod terminal;
mod torture;
mod trouble;
mod unreadable;
mod weather;
mod writer;
