//! `config check`.

use serde::Serialize;
use tidemark_host::output::Document;

/// A config file that can be used.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ConfigChecked {
    /// The file.
    pub file: String,
    /// Where its regions are.
    pub regions: Vec<String>,
}

impl Document for ConfigChecked {
    const SCHEMA: &'static str = "tidemark-restore.config-check";

    fn text(&self, out: &mut String) {
        out.push_str(&format!("{} is right\n", self.file));
        for region in &self.regions {
            out.push_str(&format!("  region {region}\n"));
        }
    }
}
