//! `keys card`: a page to print. It holds no secret.

use jiff::Timestamp;
use serde::Serialize;
use tidemark_host::Exit;
use tidemark_host::output::{self, Document};

use crate::error::Result;
use crate::evidence::pack;
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// The card.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Card {
    /// The repository.
    pub repository: String,
    /// The root's fingerprint.
    pub root: String,
    /// The root's public key itself, as `keys/root.pem` of an evidence pack holds it, in hex.
    pub root_public_key: String,
    /// Region URLs.
    pub regions: Vec<String>,
    /// Who can read: name and key id.
    pub recipients: Vec<String>,
    /// Sources.
    pub sources: Vec<String>,
    /// When it was made.
    pub at: Timestamp,
}

pub(super) async fn run(settings: &Settings, tools: &Tools) -> Result<Exit> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let sources = repository.sources().await?;
    let recipients = repository
        .keyring
        .recipients()
        .map(|entry| format!("{} ({})", entry.name, entry.key.id()))
        .collect();
    tools.console.show(&Card {
        repository: repository.trust.repo.to_string(),
        root: repository.trust.root.to_string(),
        root_public_key: pack::root(&repository).await?.to_string(),
        regions: settings
            .regions
            .iter()
            .map(|region| region.url.to_string())
            .collect(),
        recipients,
        sources: sources
            .into_iter()
            .map(|source| source.to_string())
            .collect(),
        at: tools.clock.now(),
    });
    Ok(Exit::Ok)
}

impl Document for Card {
    const SCHEMA: &'static str = "tidemark-restore.keys-card";

    fn text(&self, out: &mut String) {
        let regions: Vec<String> = self
            .regions
            .iter()
            .map(|url| format!("--region '{url}'"))
            .collect();
        let regions = regions.join(" ");
        let source = self.sources.first().map_or("NAME", String::as_str);
        out.push_str(&format!(
            "================================ BREAK GLASS ================================\n\
             Tidemark repository {}\n\
             Root fingerprint    {}\n\
             Root public key     {}\n\
             Printed             {}\n\
             Sources             {}\n\n\
             Where the copies are\n",
            self.repository,
            self.root,
            self.root_public_key,
            output::instant(self.at),
            self.sources.join(", "),
        ));
        for url in &self.regions {
            out.push_str(&format!(
                "  {url}\n  reached with the credential of: ______________________________\n"
            ));
        }
        out.push_str(
            "\nWho can read them (the file tidemark-identity-1 of one of these is needed)\n",
        );
        for recipient in &self.recipients {
            out.push_str(&format!(
                "  {recipient}\n  kept by: ____________________  phone: ____________________\n"
            ));
        }
        out.push_str(&format!(
            "\nThe root key is kept by: ______________________________\n\n\
             How to get a database back, on any Linux host with tidemark-restore\n\
             \x20 tidemark-restore status {regions}\n\
             \x20 tidemark-restore list {regions}\n\
             \x20 tidemark-restore restore --source {source} --to latest --target PATH \\\n\
             \x20     --identity FILE {regions}\n\
             After a wrong statement: --before 'YYYY-MM-DD HH:MM:SS UTC' instead of --to latest.\n\
             Compare the root fingerprint above with the one that list prints, the root public key\n\
             with the one that verify.py of an evidence pack prints.\n\
             =============================================================================\n"
        ));
    }
}
