//! The restore tool: brings databases back from a repository and says what it proved.
//!
//! It needs one region and a recovery identity, nothing else: no agent, no config, no local state
//! (invariant 4). It never writes into a source's log.
//!
//! **Fails closed** (invariant 5): a gap, a wrong hash or a bad signature before the newest recovery
//! point is an error that names the latest instant that is provable. It never hands over less than
//! was asked for.

pub mod apply;
pub mod cli;
pub mod commands;
pub mod daemon;
pub mod drill;
mod elsewhere;
pub mod error;
pub mod evidence;
pub mod identity;
pub mod manual;
pub mod patience;
pub mod plan;
pub mod policies;
pub mod policy;
pub mod progress;
pub mod repository;
pub mod sandbox;
pub mod target;

use tidemark_host::Exit;
use tidemark_host::output::Console;

use crate::error::Error;

/// Says on standard error what went wrong, what it means and what to do; returns how to end.
pub fn report(error: &Error, console: &Console) -> Exit {
    let code = policy::code(error);
    let text = tidemark_storage::chain(error);
    if console.json {
        console.refuse("tidemark-restore.error", code, &text);
    } else {
        console.complain(&format!("error: {text}"));
        console.complain(&format!(
            "  {}: tidemark-restore explain {}",
            code.title, code.id
        ));
    }
    code.exit
}
