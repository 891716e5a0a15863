//! What `init` says at its end: what was made, and what to do with it.

use std::path::PathBuf;

use serde::Serialize;
use tidemark_format::KeyId;
use tidemark_host::{config::AgentConfig, output::Document};

use crate::enrolment;

use super::{
    Made,
    keys::{Keys, beside},
};

#[derive(Serialize)]
struct RegionLine {
    name: String,
    place: String,
    id: String,
    enrolled: bool,
}

/// A fresh config.
#[derive(Serialize)]
pub(super) struct Initialised {
    config: PathBuf,
    state_dir: PathBuf,
    sources: Vec<String>,
    regions: Vec<RegionLine>,
    agent: KeyId,
    enrolled: bool,
    /// What enrols it.
    enrol: String,
    /// A trial's private files.
    identity: Option<PathBuf>,
    escrow: Option<PathBuf>,
    root: Option<PathBuf>,
    drop_in: Option<PathBuf>,
    systemd: bool,
    /// How many recovery identities can read what the agent writes.
    recipients: usize,
    /// What was found on the server.
    notes: Vec<String>,
}

impl Initialised {
    pub(super) fn new(
        config: &AgentConfig,
        keys: &Keys,
        made: &Made,
        drop_in: Option<PathBuf>,
        systemd: bool,
    ) -> Self {
        let identity = keys.trial.as_ref().map(|trial| trial.identity.clone());
        let line = |region: &super::regions::Prepared| RegionLine {
            name: region.name.clone(),
            place: region.place.clone(),
            id: region.id.to_string(),
            enrolled: region.enrolled,
        };
        Self {
            config: config.file.clone(),
            state_dir: config.state_dir.clone(),
            sources: config
                .sources
                .iter()
                .map(|source| source.name.to_string())
                .collect(),
            regions: made.regions.iter().map(line).collect(),
            agent: made.agent,
            enrolled: made.enrolled,
            enrol: enrolment::command(made.agent, &config.regions),
            escrow: identity.as_deref().map(|path| beside(path, "escrow")),
            root: identity.as_deref().map(|path| beside(path, "root")),
            identity,
            recipients: keys.recipients.len(),
            drop_in,
            systemd,
            notes: Vec::new(),
        }
    }

    pub(super) fn with_notes(self, notes: &[String]) -> Self {
        Self {
            notes: notes.to_vec(),
            ..self
        }
    }

    fn keys_text(&self, out: &mut String) {
        if self.recipients == 1 {
            out.push_str(
                "Keys      ONE recovery identity can read the backups: losing it loses them all. Give --recipient twice,\n          \
                 with both words that tidemark-restore keys new printed, or add one later: tidemark-restore keys enrol\n",
            );
        }
        let (Some(identity), Some(escrow), Some(root)) = (&self.identity, &self.escrow, &self.root)
        else {
            out.push_str("Keys      only public ones: this host can't read what it wrote before\n");
            return;
        };
        out.push_str(&format!(
            "Keys      a trial: the private keys are on this host. Before you rely on it, move\n          \
             {}  to where you restore\n          \
             {}  to a second person\n          \
             {}  offline (it enrols and revokes)\n",
            identity.display(),
            escrow.display(),
            root.display()
        ));
    }
}

impl Document for Initialised {
    const SCHEMA: &'static str = "tidemark-agent.init";

    fn text(&self, out: &mut String) {
        out.push_str(&format!(
            "Config    {}\nState     {}\nSources   {}\n",
            self.config.display(),
            self.state_dir.display(),
            self.sources.join(", ")
        ));
        for region in &self.regions {
            out.push_str(&format!(
                "Region    {}  {}  ready\n",
                region.name, region.place
            ));
        }
        server_text(&self.notes, out);
        self.keys_text(out);
        if let Some(drop_in) = &self.drop_in {
            out.push_str(&format!("Unit      {}\n", drop_in.display()));
        }
        let mut steps = Vec::new();
        if !self.enrolled {
            steps.push(format!(
                "on the host that has the root key:  {}\n     \
                 Until then nothing is protected. A running agent notices by itself and begins.",
                self.enrol
            ));
        }
        steps.push(if self.systemd {
            "systemctl daemon-reload && systemctl enable --now tidemark-agent".to_owned()
        } else {
            format!("tidemark-agent run --config {}", self.config.display())
        });
        steps.push(format!(
            "tidemark-agent status --config {}",
            self.config.display()
        ));
        out.push_str("\nNext\n");
        for (number, step) in steps.iter().enumerate() {
            out.push_str(&format!("  {}. {step}\n", number + 1));
        }
    }
}

/// What was found on the server, below one another.
fn server_text(notes: &[String], out: &mut String) {
    for note in notes {
        let note = note.replace('\n', "\n          ");
        out.push_str(&format!("Server    {note}\n"));
    }
}

/// A source added to a config.
#[derive(Serialize)]
pub(super) struct Added {
    config: PathBuf,
    source: String,
    sources: usize,
    drop_in: Option<PathBuf>,
    notes: Vec<String>,
}

impl Added {
    pub(super) fn new(config: &AgentConfig, source: &str, drop_in: Option<PathBuf>) -> Self {
        Self {
            config: config.file.clone(),
            source: source.to_owned(),
            sources: config.sources.len(),
            drop_in,
            notes: Vec::new(),
        }
    }

    pub(super) fn with_notes(self, notes: &[String]) -> Self {
        Self {
            notes: notes.to_vec(),
            ..self
        }
    }
}

impl Document for Added {
    const SCHEMA: &'static str = "tidemark-agent.init-added";

    fn text(&self, out: &mut String) {
        server_text(&self.notes, out);
        out.push_str(&format!(
            "{} now names {} sources, the newest {}.\n\nNext\n  1. restart the agent to protect it: \
             systemctl restart tidemark-agent\n",
            self.config.display(),
            self.sources,
            self.source
        ));
    }
}
