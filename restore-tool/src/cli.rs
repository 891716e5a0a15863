//! The command line: a contract that users' scripts rely on. It grows; nothing in it changes its meaning.
//!
//! Only reads words into values. What they mean together is decided by the commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tidemark_cli::{EVERYWHERE, Hidden};
use tidemark_format::recipient::RecipientKey;
use tidemark_format::{Incarnation, KeyId, SourceName};

use crate::evidence::rows::Kind;

/// Brings databases back from a Tidemark repository, and proves what it brought back.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark-restore",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 with exceptions, 10 no repository,\n\
    11 fenced, 12 key, 13 integrity, 14 not recoverable to there, 15 space, 16 region,\n\
    17 policy, 18 drill, 78 config.\n\
    `tidemark-restore explain CODE` says what each means and what to do."
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
    /// A place that holds the repository: dir:/path or s3://bucket/prefix?endpoint=…&region=…
    /// Repeat for each copy you have [env: TIDEMARK_REGION, separated by spaces]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "URL")]
    pub region: Vec<String>,
    /// The recovery identity file, needed to decrypt; - reads it from standard input
    /// [env: TIDEMARK_IDENTITY]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Where the identity's passphrase stands, for use without a terminal
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The config file [default: /etc/tidemark/restore.toml, then ./restore.toml; none is needed]
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The source; may be left out when the repository holds only one
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "NAME")]
    pub source: Option<SourceName>,
    /// Write JSON documents; progress goes to standard error as one JSON object a line
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
}

/// All of them but `--json`.
const PLACES: &[&str] = &["region", "identity", "passphrase_file", "config", "source"];

/// Options of every command that mean nothing to some.
pub const HIDDEN: &[Hidden] = &[
    (
        "config",
        &["region", "identity", "passphrase_file", "source"],
    ),
    ("sandbox-run", PLACES),
    ("explain", PLACES),
    ("completions", PLACES),
    ("man", PLACES),
];

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a restore.toml with every key in it, and with --schedule a drill for each source
    Init(InitArgs),
    /// Own the schedule of drills: the daemon that systemd runs, until SIGTERM; SIGHUP has the config
    /// read again
    Run,
    /// Recovery keys: new ones, a card to print, who has access, check, enrol and revoke
    #[command(subcommand)]
    Keys(Keys),
    /// Show sources, windows without gaps, recovery points and the unsealed tail (needs no identity)
    List(ListArgs),
    /// Show what a restore would do: bytes, time, disk needed, the exact instant
    Plan(RestoreArgs),
    /// Bring a database back
    Restore(RestoreArgs),
    /// Hand a segment or a history of PostgreSQL's log to a server: its restore_command, as
    /// `tidemark-restore wal-get %f %p`
    #[command(
        after_help = "Exit codes of wal-get alone: 0 the file is there, 1 there is no such file, 126 it can't be told: \
        the server then stops instead of taking the log's end for reached."
    )]
    WalGet(WalGetArgs),
    /// Read every byte and check it; with --quick signatures and links alone, without an identity
    Verify(VerifyArgs),
    /// How much would be lost now, how long to be back, to which instants, is it proved, what next
    #[command(
        after_help = "Exit codes of status alone: 0 ok, 1 warning, 2 critical, 3 unknown (as monitoring plugins use them)."
    )]
    Status,
    /// Who used the backups, when and why, and what drills proved: show, verify, review, export
    #[command(subcommand)]
    Evidence(Evidence),
    /// Judge a policy's clauses by what is on record
    #[command(
        subcommand,
        after_help = "Exit codes of policy check: 0 every clause holds, 17 one fails, 3 one is not proved or not yet."
    )]
    Policy(PolicyCommand),
    /// Examine a restored database inside a sandbox: what a drill starts for itself
    #[command(hide = true)]
    SandboxRun {
        /// The drill's scratch; `-` has the first line of standard input name it
        folder: PathBuf,
    },
    /// Restore into a sandbox, measure what was lost and how long it took, leave signed evidence
    #[command(subcommand)]
    Drill(Drill),
    /// What an exit code means and what to do
    Explain {
        /// The exit code or its name; without one, all of them
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
    /// The config file
    #[command(subcommand)]
    Config(Config),
}

/// `keys …`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make the keys of a new repository (an identity, its escrow copy and the root key), or with
    /// --repository one more identity of an existing one
    New {
        /// The identity file; of a new repository FILE.escrow and FILE.root stand beside it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Protect the identity by a passphrase, asked for or read from --passphrase-file (the escrow
        /// copy opens without, for when it is lost)
        #[arg(long)]
        passphrase: bool,
        /// An existing repository, named by any of its public keys (tmr1…; keys list shows them)
        #[arg(long, value_name = "KEY")]
        repository: Option<RecipientKey>,
        /// Whose the identity is, or what for [default with --repository: the file's name]
        #[arg(long, value_name = "TEXT", requires = "repository")]
        name: Option<String>,
    },
    /// A card to print and keep where people look when everything is gone
    Card,
    /// Who may sign, to whom secrets are sealed, and who asks to be enrolled
    List {
        /// Put the list on record, for a review of who has access: evidence sign-off then takes it
        #[arg(long)]
        for_review: bool,
    },
    /// Prove that the identity opens what is written now
    Check,
    /// Sign agents' requests to be enrolled, or add a recipient
    Enrol {
        /// The key that asks, or its first 8 digits or more; without one, the only request
        #[arg(value_name = "KEYID", conflicts_with = "all")]
        key: Option<KeyWord>,
        /// Every request
        #[arg(long)]
        all: bool,
        /// A recovery public key to seal to from now on; requests are then signed only if they are
        /// named, too (except in a repository's first keyring)
        #[arg(long, value_name = "KEY")]
        recipient: Vec<RecipientKey>,
        /// What the recipient is called in the keyring
        #[arg(long, value_name = "TEXT", requires = "recipient")]
        name: Option<String>,
        /// The root key file
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
    },
    /// Take a key's access away
    Revoke {
        /// The member's or recipient's key, or its first 8 digits or more
        #[arg(value_name = "KEYID")]
        key: KeyWord,
        /// Why: kept in the keyring for ever
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// The root key file
        #[arg(long, value_name = "FILE")]
        root: PathBuf,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

/// `policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show every clause with the policy's own words, what was found, the verdict and what it rests on
    /// (needs no identity)
    Check {
        /// tasklexa, heretask, soc2, loadster, xaasware, or a file of that form [default: what the
        /// objectives of the config promise]
        #[arg(long, value_name = "NAME|FILE")]
        policy: Option<String>,
    },
}

/// A key as a person names it: its id, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyWord(String);

/// Fewer digits could be meant for something else.
const KEY_DIGITS_MIN: usize = 8;
const KEY_DIGITS: usize = 32;

impl KeyWord {
    /// Whether `id` is, or begins with, what was typed.
    #[must_use]
    pub fn names(&self, id: KeyId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl std::fmt::Display for KeyWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for KeyWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim().to_ascii_lowercase();
        let fits = (KEY_DIGITS_MIN..=KEY_DIGITS).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Self(text));
        }
        Err(format!(
            "a key is named by its {KEY_DIGITS} hex digits, or by its first {KEY_DIGITS_MIN} or more, as \
             `tidemark-restore keys list` shows them"
        ))
    }
}

/// `init`
#[derive(Debug, Clone, Default, Args)]
pub struct InitArgs {
    /// Drill every source (or the one that --source names) by this crontab line, in UTC
    #[arg(long, value_name = "CRONTAB")]
    pub schedule: Option<String>,
}

/// `list`
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Show every recovery point, not only the newest and the named ones
    #[arg(long)]
    pub points: bool,
}

/// `plan` and `restore`.
#[derive(Debug, Clone, Default, Args)]
pub struct RestoreArgs {
    /// Where to: an instant (included), latest, a position log:EPOCH:SEQ, or a recovery point
    /// point:NAME or point:EPOCH/SEQ; of PostgreSQL also a position of its log (0/3000060), a
    /// transaction xid:ID, or point:NAME of a restore point that was named on the server
    #[arg(
        long,
        value_name = "TARGET",
        allow_hyphen_values = true,
        required_unless_present = "before",
        conflicts_with = "before"
    )]
    pub to: Option<String>,
    /// Just short of there: excludes that instant or position (for the wrong UPDATE)
    #[arg(long, value_name = "TARGET", allow_hyphen_values = true)]
    pub before: Option<String>,
    /// The file to make, which must not exist; of PostgreSQL the data directory, which must not exist
    /// or be empty
    #[arg(long, value_name = "PATH")]
    pub target: PathBuf,
    /// The repository is known to have reached this point: refuse anything older
    #[arg(long, value_name = "SEQ:HASH")]
    pub expect: Option<String>,
    /// Restore from a region although another one, or --expect, shows that it was rolled back
    #[arg(long)]
    pub accept_older: bool,
    /// PostgreSQL: over the data directory that is at PATH: keeps what is right in it, writes what differs,
    /// removes what does not belong. It can't be used until that has ended
    #[arg(long)]
    pub delta: bool,
    /// With --delta: although the folder is of another database cluster
    #[arg(long, requires = "delta")]
    pub other_system: bool,
    /// With --delta: don't ask
    #[arg(long, requires = "delta")]
    pub yes: bool,
    /// PostgreSQL: leave recovery to the server that you start; where it ends is then not proved
    #[arg(long)]
    pub no_finish: bool,
    /// PostgreSQL: the folder of the server's programs [default: the usual places of the right version]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// PostgreSQL: put the tablespace that was at OLD on the lost server (a path, or its object id) at NEW.
    /// Repeat for each
    #[arg(long, value_name = "OLD=NEW")]
    pub map_tablespace: Vec<String>,
    /// Why, for the access record that a restore leaves: a ticket, an incident
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `wal-get`
#[derive(Debug, Clone, Default, Args)]
pub struct WalGetArgs {
    /// The file's name, as the server asks for it (%f)
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Where to put it (%p)
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Segments that are fetched ahead of replay; 0 for none
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub prefetch: u32,
    /// How long an answer "there is no such file" holds without asking again, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub retry: u64,
    /// The life of the server whose log is wanted, as plan shows it [default: the newest]
    #[arg(long, value_name = "ID")]
    pub incarnation: Option<Incarnation>,
    /// Answer although a region that may hold more can't be read
    #[arg(long)]
    pub accept_older: bool,
    /// Only fetch ahead, from FILE on: what the command starts for itself
    #[arg(long, hide = true)]
    pub ahead: bool,
}

/// `verify`
#[derive(Debug, Clone, Default, Args)]
pub struct VerifyArgs {
    /// Signatures and links alone: needs no identity and reads only the objects' heads
    #[arg(long)]
    pub quick: bool,
    /// Why, for the access record that reading every byte leaves
    #[arg(long, value_name = "TEXT", conflicts_with = "quick")]
    pub reason: Option<String>,
}

/// `evidence …`
#[derive(Debug, Subcommand)]
pub enum Evidence {
    /// The records on file, the oldest first (needs no identity)
    List {
        /// The period
        #[command(flatten)]
        period: Period,
        /// Which records [default: all]
        #[arg(long, value_enum, default_value = "all", hide_default_value = true)]
        kind: Kind,
    },
    /// One record, as it was signed, with what was decided about it (needs no identity)
    Show {
        /// The record's id or the beginning of it, as list shows it
        id: String,
    },
    /// Check every signature, number and link, in every region, or in what was exported (needs no
    /// identity)
    Verify {
        /// An exported pack's folder, or one record's file; without one, the regions
        path: Option<PathBuf>,
        /// An earlier pack: every record in it must still be there, unchanged. Shows what was cut off at
        /// the end of a chain, which looks whole by itself
        #[arg(long, value_name = "PACK")]
        since: Option<PathBuf>,
    },
    /// Record that a person reviewed a record, and the decision; the record itself stays as it is
    SignOff {
        /// The record's id or the beginning of it, as list shows it
        id: String,
        /// Who reviewed it
        #[arg(long, value_name = "NAME")]
        reviewer: String,
        /// The ticket that has the discussion: a URL or a number
        #[arg(long, value_name = "TEXT")]
        ticket: String,
        /// What was decided
        #[arg(long, value_enum)]
        decision: Decision,
    },
    /// Write the records of a period, or every full backup and recovery point, for an auditor, failures
    /// included (needs no identity)
    Export(ExportArgs),
}

/// A decision about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Decision {
    /// It is as it should be.
    Approved,
    /// It is not.
    Rejected,
}

/// A period.
#[derive(Debug, Clone, Default, Args)]
pub struct Period {
    /// Made or sealed at this instant or later; a day begins at 00:00 UTC
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    pub from: Option<String>,
    /// Made or sealed by this instant; a day is included to its end
    #[arg(long, value_name = "DATE", allow_hyphen_values = true)]
    pub to: Option<String>,
}

/// `evidence export`
#[derive(Debug, Clone, Default, Args)]
pub struct ExportArgs {
    /// Which records, or the backups as the regions have them now (these not as a pack)
    #[arg(long, value_enum, default_value_t)]
    pub kind: Kind,
    /// The period; all that is on file
    #[command(flatten)]
    pub period: Period,
    /// How
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The file, or with pack the folder, to make; it must not exist. A .meta.json beside a file says how
    /// it was made, with row count and SHA-256 [default: standard output, without that]
    #[arg(long, value_name = "PATH", required_if_eq("format", "pack"))]
    pub out: Option<PathBuf>,
}

/// How records are written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// One row each, RFC 4180
    #[default]
    Csv,
    /// One JSON document
    Json,
    /// One JSON object a line, for a log collector
    Ndjson,
    /// One page that prints well
    Html,
    /// A folder with all of it, the signed records, keys, and how to verify it without this program
    Pack,
}

/// `drill …`
#[derive(Debug, Subcommand)]
pub enum Drill {
    /// Run one drill now, from the declaration of the disaster to the signed record
    #[command(
        after_help = "Exit codes: 0 passed, 3 passed with exceptions, 18 failed; an inconclusive drill ends with the code \
        of what kept it from an answer (16 region, 15 space, 1 others) and counts as none."
    )]
    ///
    /// Of a restore.toml it takes the regions and the identity, and of its drills of this source: every
    /// assertion, pg_bin unless --pg-bin is given, and allow_source_host where all of them have it. Nothing
    /// else of them is taken: not the schedule, select, scenario, scratch or timeout.
    Run(Box<DrillArgs>),
    /// Drills on schedule and what is overdue, past drills, how far each recovery point has been proved, and
    /// when (needs no identity)
    List,
}

/// `drill run`
#[derive(Debug, Clone, Default, Args)]
pub struct DrillArgs {
    /// Run what is due of the drills in restore.toml, once, as a timer does on hosts without the daemon
    #[arg(long, conflicts_with_all = [
        "select", "scenario", "allow_source_host", "reason", "rpo", "rto", "precision", "quick", "no_counts", "timeout",
        "scratch", "pg_bin",
    ])]
    pub due: bool,
    /// Which state: latest, oldest, random (a random minute of all that can be restored), worst-replay (the
    /// most log to replay), or what restore --to takes
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "latest",
        allow_hyphen_values = true
    )]
    pub select: String,
    /// Under which conditions: only-region=NAME, without-region=NAME, as-of=TIME (nothing written later is
    /// believed), or fresh-host
    #[arg(long, value_name = "SCENARIO")]
    pub scenario: Option<String>,
    /// Although the source runs on this host: recorded as not segregated, so it counts for no clause on drills,
    /// isolation or precision; a time to be back counts as measured on the source's own host
    #[arg(long)]
    pub allow_source_host: bool,
    /// Why, for the records: a ticket, an exercise
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The loss that is bearable, such as 5m: more fails the drill
    #[arg(long, value_name = "DURATION")]
    pub rpo: Option<String>,
    /// How soon the database must be back, such as 4h: later fails the drill
    #[arg(long, value_name = "DURATION")]
    pub rto: Option<String>,
    /// How exact an instant must be met, such as 1m: further off fails the drill
    #[arg(long, value_name = "DURATION")]
    pub precision: Option<String>,
    /// Leave out the checks that read everything
    #[arg(long)]
    pub quick: bool,
    /// Don't count rows
    #[arg(long)]
    pub no_counts: bool,
    /// The longest that the drill may take, such as 2h: then it is ended, inconclusive [default: a day for what
    /// runs in the sandbox]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,
    /// The folder in which the scratch is made, and destroyed [default: in memory if it fits]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// PostgreSQL: the folder of the server's programs [default: the usual places of the right version]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
}

/// `config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Say whether a config file is right, with line and caret where it isn't
    Check {
        /// The file; without one, the default
        file: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["tidemark-restore"], words].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_key_is_named_by_at_least_eight_digits() {
        let id = KeyId([0xab; 16]);
        for (text, named) in [
            ("abababab", true),
            ("ABABABAB", true),
            ("ababababc", false),
            (&"ab".repeat(16), true),
        ] {
            assert_eq!(text.parse::<KeyWord>().unwrap().names(id), named, "{text}");
        }
        for text in ["abababa", "not-digits", "", &"ab".repeat(17)] {
            let error = text.parse::<KeyWord>().unwrap_err();
            assert!(error.contains("first 8 or more"), "{error}");
        }
    }

    #[test]
    fn options_of_every_command_stand_before_or_after_it() {
        for words in [
            ["--region", "dir:/a", "--region", "dir:/b", "list", "--json"],
            ["list", "--json", "--region", "dir:/a", "--region", "dir:/b"],
        ] {
            let cli = parse(&words).unwrap();
            assert_eq!(cli.global.region, ["dir:/a", "dir:/b"]);
            assert!(cli.global.json);
        }
    }

    #[test]
    fn a_restore_takes_exactly_one_of_to_and_before() {
        assert!(parse(&["restore", "--target", "/t"]).is_err());
        assert!(
            parse(&[
                "restore", "--to", "latest", "--before", "latest", "--target", "/t"
            ])
            .is_err()
        );
        assert!(
            parse(&["restore", "--to", "latest"]).is_err(),
            "a target is needed"
        );
        let Command::Restore(args) = parse(&["restore", "--to", "-90m", "--target", "/t"])
            .unwrap()
            .command
        else {
            panic!("not a restore");
        };
        assert_eq!(args.to.as_deref(), Some("-90m"));
    }
}
