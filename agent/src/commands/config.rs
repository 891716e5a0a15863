//! `config check` and `config show`.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tidemark_host::{
    Exit,
    config::{ConfigFile, write},
    output::{Console, Document},
};

use super::{Failure, context};
use crate::cli::Global;

#[derive(Serialize)]
struct Checked {
    file: PathBuf,
    sources: usize,
    regions: usize,
}

impl Document for Checked {
    const SCHEMA: &'static str = "tidemark-agent.config-check";

    fn text(&self, out: &mut String) {
        out.push_str(&format!(
            "{} is right: {} protected in {}.\n",
            self.file.display(),
            tidemark_host::output::count(self.sources, "source"),
            tidemark_host::output::count(self.regions, "region"),
        ));
    }
}

/// Says whether a config file is right.
pub(super) fn check(
    global: &Global,
    file: Option<&Path>,
    console: &Console,
) -> Result<Exit, Failure> {
    let path = match file {
        Some(file) => file.to_owned(),
        None => ConfigFile::Agent.find(global.config.as_deref())?,
    };
    let config = context::load(&path)?;
    console.show(&Checked {
        file: path,
        sources: config.sources.len(),
        regions: config.regions.len(),
    });
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Shown {
    file: PathBuf,
    toml: String,
}

impl Document for Shown {
    const SCHEMA: &'static str = "tidemark-agent.config";

    fn text(&self, out: &mut String) {
        out.push_str(&self.toml);
    }
}

/// Shows the config as it holds.
pub(super) fn show(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    console.show(&Shown {
        file: config.file.clone(),
        toml: write::effective(&config),
    });
    Ok(Exit::Ok)
}
