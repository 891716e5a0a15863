//! Gives what root made to the database's owner, who is the one the agent runs as.

use std::{
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
};

use tidemark_host::{RegionUrl, config::AgentConfig};

use super::Failure;

/// Hands the state directory, and what is root's in directory regions, to `owner`. Does nothing for
/// anybody but root, or for root's own databases.
pub(super) fn hand_over(config: &AgentConfig, owner: (u32, u32)) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() || owner.0 == 0 {
        return Ok(());
    }
    give(&config.state_dir, owner)?;
    for region in &config.regions {
        if let RegionUrl::Dir(path) = &region.url {
            give(path, owner)?;
        }
    }
    Ok(())
}

/// What a command that root ran made is the agent's again: it belongs to whom the state directory does.
pub(super) fn hand_back(config: &AgentConfig) -> Result<(), Failure> {
    let folder = &config.state_dir;
    let meta = std::fs::metadata(folder).map_err(|source| Failure::Folder {
        path: folder.clone(),
        source,
    })?;
    hand_over(config, (meta.uid(), meta.gid()))
}

/// Links are not followed, and what already belongs to somebody is left to them.
fn give(path: &Path, owner: (u32, u32)) -> Result<(), Failure> {
    let failed = |source| Failure::Folder {
        path: path.to_owned(),
        source,
    };
    let meta = path.symlink_metadata().map_err(failed)?;
    if meta.is_symlink() {
        return Ok(());
    }
    if meta.uid() == 0 {
        chown(path, Some(owner.0), Some(owner.1)).map_err(failed)?;
    }
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).map_err(failed)? {
            give(&entry.map_err(failed)?.path(), owner)?;
        }
    }
    Ok(())
}
