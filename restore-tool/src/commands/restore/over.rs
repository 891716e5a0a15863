//! `--delta`: a restore over a data directory that is there. What is refused, and what is asked.

use tidemark_engine::Error as EngineError;
use tidemark_engine_postgres::restore;
use tidemark_host::output::Console;

use crate::apply::{ServerNeeds, ServerOptions};
use crate::cli::RestoreArgs;
use crate::commands::keys;
use crate::error::Result;
use crate::target::{Target, TargetError};

/// What may be restored over; a folder that a server uses may not.
pub(super) fn look(target: Target) -> Result<Target> {
    let target = target.into_existing()?;
    if let Some(folder) = target.existing()
        && let Some(pid) = restore::look(folder).map_err(EngineError::from)?.running
    {
        let folder = folder.to_owned();
        return Err(TargetError::InUse { folder, pid }.into());
    }
    Ok(target)
}

/// What the reader of a plan should know.
pub(super) fn note(target: &Target) -> Option<String> {
    target.existing().map(|folder| {
        format!(
            "{} is restored over: what is right in it is kept, all else is replaced or removed, and it can't be used until that has ended",
            folder.display()
        )
    })
}

/// Only the same cluster's data is replaced, unless it is said in so many words.
pub(super) fn check(
    args: &RestoreArgs,
    target: &Target,
    needs: Option<&ServerNeeds>,
) -> Result<()> {
    let (Some(folder), Some(needs), false) = (target.existing(), needs, args.other_system) else {
        return Ok(());
    };
    let found = restore::look(folder).map_err(EngineError::from)?.system;
    let found = found.map_or_else(|| "(unknown)".to_owned(), |system| system.to_string());
    if found == needs.system {
        return Ok(());
    }
    Err(TargetError::OtherSystem {
        folder: folder.to_owned(),
        found,
        expected: needs.system.clone(),
    }
    .into())
}

/// Tablespaces have places of their own: one that is taken must be known before the first byte is written,
/// above all before a usable folder is taken apart.
pub(super) fn places(
    target: &Target,
    options: &ServerOptions,
    needs: Option<&ServerNeeds>,
) -> Result<()> {
    needs.map_or(Ok(()), |needs| needs.check_places(target, options))
}

/// Asks before anything is replaced.
pub(super) fn confirm(args: &RestoreArgs, target: &Target, console: &Console) -> Result<()> {
    match target.existing() {
        None => Ok(()),
        Some(folder) => keys::confirm(
            &format!("{} is restored over", folder.display()),
            args.yes,
            console,
        ),
    }
}
