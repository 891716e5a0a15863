//! The command line: a contract that users' scripts rely on. It grows; nothing in it changes its meaning.
//!
//! Only reads words into values. What they mean together is decided by the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use tidemark_cli::{EVERYWHERE, Hidden};
use tidemark_format::SourceName;
use tidemark_host::point_name::PointName;

/// Protects databases: captures their log continuously and keeps it, encrypted, in several regions.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark-agent",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 with exceptions, 10 no repository,\n\
    11 fenced, 12 key, 13 integrity, 15 space, 16 region, 17 policy, 78 config.\n\
    `status` and `doctor` end with 0 (all well) to 3 (unknown).\n\
    `tidemark-agent explain CODE` says what each means and what to do."
)]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// A place that keeps a copy: dir:/path or s3://bucket/prefix?endpoint=…&region=…
    /// Repeat for each [env: TIDEMARK_REGION, separated by spaces]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "URL")]
    pub region: Vec<String>,
    /// A recovery identity, for trials on one machine (see init) [env: TIDEMARK_IDENTITY]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// The config file [default: /etc/tidemark/agent.toml, then ./agent.toml]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One source; without it, all that the config names
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "NAME")]
    pub source: Option<SourceName>,
    /// Write JSON documents
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
}

/// Options of every command that mean nothing to some.
pub const HIDDEN: &[Hidden] = &[
    ("demo", &["region", "identity", "config", "source"]),
    ("run", &["region", "identity", "source"]),
    ("snapshot", &["region", "identity"]),
    ("status", &["region", "identity"]),
    ("doctor", &["region", "identity"]),
    ("pause", &["region", "identity"]),
    ("resume", &["region", "identity"]),
    ("retire", &["region", "identity"]),
    ("take-over", &["region", "identity"]),
    ("config", &["region", "identity", "source"]),
    ("explain", &["region", "identity", "config", "source"]),
    ("completions", &["region", "identity", "config", "source"]),
    ("man", &["region", "identity", "config", "source"]),
];

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a config, make the agent's key and prepare the regions
    Init(InitArgs),
    /// Protect, lose and restore a small live database here and now, in under a minute
    Demo(DemoArgs),
    /// Protect the configured databases until told to stop: what systemd starts
    Run(RunArgs),
    /// Make a recovery point now; returns when it is durable
    Snapshot(SnapshotArgs),
    /// How much would be lost now, to which instants one can go, what to do next
    Status,
    /// Check everything that protection needs, each finding with its remedy
    Doctor,
    /// Stop shipping for a while; capture goes on into the spool
    Pause {
        /// For how long from now, e.g. 2h; shipping goes on by itself afterwards. A second pause replaces the
        /// first. What is captured meanwhile must fit the spool (spool_max)
        #[arg(long = "for", value_name = "D")]
        duration: String,
        /// Why: shown in status
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Ship again after a pause
    Resume,
    /// Stop protecting a source for good: a last recovery point, then nothing of it is held here
    Retire {
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Continue a source that another agent wrote: ends that agent's epoch for ever
    TakeOver {
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// The config file
    #[command(subcommand)]
    Config(Config),
    /// What an exit code or error code means and what to do
    Explain {
        /// The code; without one, all exit codes
        code: Option<String>,
    },
    /// Write shell completions to standard output
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder; it is made if it isn't there
        dir: PathBuf,
    },
}

/// `init`
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The SQLite database file to protect
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "postgres",
        conflicts_with = "postgres"
    )]
    pub sqlite: Option<PathBuf>,
    /// The PostgreSQL cluster to protect: postgres://user@host/database or "host=… user=…". A password that
    /// stands in it goes into a file that only the agent reads
    #[arg(long, value_name = "URL")]
    pub postgres: Option<String>,
    /// What to call it [default: the file's stem; the cluster's name, or else the database's]
    #[arg(long, value_name = "SOURCE")]
    pub name: Option<SourceName>,
    /// A recovery public key (tmr1…) of `tidemark-restore keys new`; give at least two
    #[arg(long, value_name = "KEY", conflicts_with = "identity")]
    pub recipient: Vec<String>,
    /// Also write the systemd drop-in for this database and these regions
    #[arg(long)]
    pub systemd: bool,
}

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Where to work; kept afterwards [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
}

/// `snapshot`
#[derive(Debug, Clone, Args)]
pub struct SnapshotArgs {
    /// Make a base too
    #[arg(long)]
    pub base: bool,
    /// Name the recovery point, to restore to `point:NAME`: up to 64 letters, digits, - _ . and given once
    #[arg(long, value_name = "POINT")]
    pub name: Option<PointName>,
}

/// `config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say whether a config file is right, with line and caret where it isn't
    Check {
        /// The file; without one, the default
        file: Option<PathBuf>,
    },
    /// Show the config as it holds, defaults included
    Show,
    /// Check the config file, then have the running agent read credentials, certificates, keyring and
    /// recipients again; what changed in the file itself takes a restart
    Reload,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["tidemark-agent"], words].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn init_takes_recipients_or_an_identity_but_not_both() {
        let base = ["init", "--sqlite", "/a.db", "--region", "dir:/r"];
        assert!(parse(&[&base[..], &["--recipient", "a", "--recipient", "b"]].concat()).is_ok());
        assert!(parse(&[&base[..], &["--identity", "/i"]].concat()).is_ok());
        let both = [&base[..], &["--identity", "/i", "--recipient", "a"]].concat();
        assert!(parse(&both).is_err());
    }

    #[test]
    fn init_takes_a_file_or_a_cluster_but_not_both() {
        let region = ["--region", "dir:/r", "--identity", "/i"];
        let with = |words: &[&str]| parse(&[&["init"], words, &region[..]].concat());
        assert!(with(&["--postgres", "postgres://a@h/d"]).is_ok());
        assert!(with(&[]).is_err());
        assert!(with(&["--postgres", "host=h", "--sqlite", "/a.db"]).is_err());
    }

    #[test]
    fn a_pause_says_for_how_long_and_why() {
        assert!(parse(&["pause", "--for", "2h"]).is_err());
        assert!(parse(&["pause", "--for", "2h", "--reason", "migration"]).is_ok());
    }
}
