//! Every key of the config files: its default as written, and what it is for.
//!
//! `init` writes this table out, one key per line. A comment stands above its key and never begins
//! with a key's name, so that a script can find and change a key by the beginning of its line.

/// A key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// Its name.
    pub name: &'static str,
    /// Its default as TOML; `None` where there is none.
    pub default: Option<&'static str>,
    /// What it is for, in lines.
    pub about: &'static [&'static str],
}

const fn key(name: &'static str, default: &'static str, about: &'static [&'static str]) -> KeySpec {
    KeySpec {
        name,
        default: Some(default),
        about,
    }
}

const fn bare(name: &'static str, about: &'static [&'static str]) -> KeySpec {
    KeySpec {
        name,
        default: None,
        about,
    }
}

/// The keys at the top of `agent.toml`, in order.
pub const AGENT: &[KeySpec] = &[
    key(
        "state_dir",
        "\"/var/lib/tidemark\"",
        &[
            "Where the agent keeps its signing key, spool and page maps. $STATE_DIRECTORY (systemd) wins.",
        ],
    ),
    key(
        "ship_every",
        "\"10s\"",
        &[
            "Changes wait at most this long before they are on their way: what a lost machine loses.",
            "At least 100ms.",
        ],
    ),
    key(
        "snapshot_every",
        "\"5m\"",
        &["A recovery point is sealed at least this often."],
    ),
    key(
        "beat_every",
        "\"1m\"",
        &[
            "A sign of life for all sources together, so that an idle source is known to be caught up.",
        ],
    ),
    key(
        "base_schedule",
        "\"30 2 * * *\"",
        &[
            "When bases are made: 5 fields as crontab (minute hour day month weekday, 0 and 7 are Sunday),",
            "or 6 with seconds first.",
        ],
    ),
    key(
        "base_rate",
        "\"\"",
        &[
            "How many bytes a second bases read at most, such as \"50MiB\"; by the hour of the day:",
            "\"20MiB 8-18, 200MiB\" (the first that fits counts). Empty: as fast as it goes.",
        ],
    ),
    key(
        "timezone",
        "\"UTC\"",
        &["The zone in which the schedule is meant."],
    ),
    key(
        "generation",
        "\"7d\"",
        &["Bases and log are kept and deleted together, in spans of this length."],
    ),
    key(
        "ack",
        "\"spool\"",
        &[
            "When the database may forget its log: once it is in the local spool, or with \"regions\" once it",
            "is durable in them (not for SQLite, which waits for nobody). With PostgreSQL and this agent in",
            "synchronous_standby_names a commit then returns only once it is there.",
        ],
    ),
    key(
        "durable_in",
        "2",
        &[
            "How many failure domains must hold something before it counts as durable.",
            "Without this line: 2, or 1 where there is only one.",
        ],
    ),
    key(
        "memory",
        "\"128MiB\"",
        &["What the agent may use, whatever it protects. At least 32MiB."],
    ),
    key(
        "threads",
        "0",
        &["How many threads hash, compress and encrypt; 0 is one for each core."],
    ),
    key(
        "spool_max",
        "\"10GiB\"",
        &["How much may wait on local disk while regions are away."],
    ),
    key(
        "spool_keep_free",
        "\"10%, at most 10GiB\"",
        &[
            "So much of the spool's file system stays free: a share, a size, or a share with a bound.",
        ],
    ),
    key(
        "protect",
        "\"database\"",
        &[
            "What is spared when the spool is full: the database (a gap is signed and a new base made), or",
            "with \"chain\" the log (the database keeps it and its disk may fill).",
        ],
    ),
    key(
        "wal_max",
        "\"1GiB\"",
        &[
            "SQLite: how long the write-ahead log may grow before the agent lets go and catches up later.",
        ],
    ),
    key(
        "slot_keep_max",
        "\"10GiB\"",
        &[
            "PostgreSQL: how much log the agent's slot may hold back on the server. Past it the agent lets go,",
            "and protects the cluster anew from a base.",
        ],
    ),
    key(
        "recoverable_for",
        "\"30d\"",
        &["Any instant of this window stays recoverable."],
    ),
    key(
        "retain_max",
        "\"90d\"",
        &["Nothing is kept longer than this."],
    ),
    key("compression", "1", &["The zstd level, 1 to 19."]),
    key(
        "rpo",
        "\"\"",
        &[
            "The promised loss at most, such as \"5m\". Shipping and beats must then come twice as often.",
            "May also stand under [objectives], with window and pitr_precision, for all sources or in one.",
            "Empty: none is promised.",
        ],
    ),
    key(
        "canary",
        "\"off\"",
        &[
            "What the agent writes into the database, so that a drill can tell from the restored one alone up to",
            "when it goes: \"table\" (tidemark_canary, in PostgreSQL tidemark.canary: a few rows), \"message\" (into",
            "PostgreSQL's log, no table), or \"off\" (nothing is written). RUNBOOK.md has the cost; retire removes it.",
        ],
    ),
    key(
        "canary_every",
        "\"30s\"",
        &[
            "How often. To prove a precision of one minute, twice a minute: a minute has room for a late one.",
        ],
    ),
    key(
        "residency",
        "[]",
        &[
            "Countries in which regions may be, such as [\"DK\"]. The agent refuses to start with another.",
            "Empty: anywhere.",
        ],
    ),
    key(
        "metrics",
        "\"\"",
        &[
            "Where OpenMetrics are served, such as \"127.0.0.1:9187\"; loopback only. Empty: nowhere.",
        ],
    ),
    bare(
        "recipients",
        &[
            "Public keys that everything is encrypted to (tidemark-restore keys new makes them).",
            "The private ones never touch this machine.",
        ],
    ),
    bare(
        "root",
        &["The root key's fingerprint: only a keyring that it signed is believed."],
    ),
];

/// The keys of a `[[region]]`.
pub const REGION: &[KeySpec] = &[
    bare("name", &[]),
    bare("url", &[]),
    key(
        "country",
        "\"\"",
        &["The country it is in, two letters; needed with residency."],
    ),
    key(
        "failure_domain",
        "\"\"",
        &[
            "Regions that can fail together share a name here and count once. Empty: it fails alone.",
        ],
    ),
];

/// The keys at the top of `restore.toml`, in order.
pub const RESTORE: &[KeySpec] = &[
    key(
        "identity",
        "\"\"",
        &[
            "The file with the recovery identity (private: chmod 600). Empty: --identity or",
            "TIDEMARK_IDENTITY names it where one is needed.",
        ],
    ),
    key(
        "state_dir",
        "\"\"",
        &[
            "Where evidence waits for a region, and a copy of it is kept. Empty: $STATE_DIRECTORY,",
            "else ~/.local/state/tidemark.",
        ],
    ),
    key(
        "memory",
        "\"256MiB\"",
        &["What a restore may use for reading ahead. At least 64MiB."],
    ),
    key(
        "threads",
        "0",
        &["How many threads hash, decompress and decrypt; 0 is one for each core."],
    ),
];

/// The keys of `[drills]`, in order.
pub const DRILLS: &[KeySpec] = &[
    key(
        "look_every",
        "\"1m\"",
        &["How often the repository is looked at for what other hosts did."],
    ),
    key(
        "metrics",
        "\"\"",
        &[
            "Where OpenMetrics of the drills are served, such as \"127.0.0.1:9188\"; loopback only. Empty: nowhere.",
        ],
    ),
    key(
        "metrics_file",
        "\"\"",
        &[
            "A file that they are written to, such as one in the folder of node_exporter's textfile collector.",
            "Empty: none.",
        ],
    ),
    key(
        "timezone",
        "\"UTC\"",
        &[
            "The zone in which schedules are meant. This and what follows may stand in a drill, too.",
        ],
    ),
    key(
        "jitter",
        "\"0s\"",
        &["Starts are put off by up to so long, each host's differently."],
    ),
    key(
        "scratch",
        "\"\"",
        &[
            "The folder in which restored databases lie meanwhile; nothing stays there. Empty: memory if it fits,",
            "else the state directory. Under systemd another folder needs two drop-ins (RUNBOOK, Drills on a schedule).",
        ],
    ),
    key(
        "pg_bin",
        "\"\"",
        &["The folder of PostgreSQL's programs. Empty: the usual places of the right version."],
    ),
    key(
        "timeout",
        "\"6h\"",
        &["A drill that takes longer is ended, inconclusive: it counts as not done."],
    ),
    key(
        "claim_for",
        "\"2m\"",
        &[
            "For how long a host has its turn at first; it then renews. A host that dies loses it so much later,",
            "or as much later as the drill had run.",
        ],
    ),
    key(
        "retry_after",
        "\"15m\"",
        &["An inconclusive drill is tried again so much later, twice at most."],
    ),
    key(
        "overdue_after",
        "\"1d\"",
        &[
            "A drill that was not done by then is overdue: an event, a metric, a line in the status.",
        ],
    ),
    key(
        "allow_source_host",
        "false",
        &[
            "Whether drills may run on the host of the database itself. For trials: such a drill proves no",
            "restore to another host.",
        ],
    ),
];

/// The keys of a `[[drill]]`, in order; those of [`DRILLS`] from `timezone` on may follow.
pub const DRILL: &[KeySpec] = &[
    bare(
        "name",
        &["What it is called: hosts that have a drill of this name take turns."],
    ),
    bare("source", &["The database that is restored."]),
    bare(
        "schedule",
        &["When: 5 fields as crontab (minute hour day month weekday), or 6 with seconds first."],
    ),
    key(
        "select",
        "\"latest\"",
        &[
            "Which state: latest, oldest, random (a minute of the window), worst-replay, or an instant.",
        ],
    ),
    key(
        "scenario",
        "\"\"",
        &[
            "What is supposed: only-region=NAME, without-region=NAME, as-of=TIME, fresh-host. Empty: nothing.",
        ],
    ),
    key(
        "full",
        "true",
        &["Every page and index is checked; with false only the quick checks are made."],
    ),
    key(
        "frameworks",
        "[]",
        &["What it is evidence for, such as [\"SOC2:A1.3\"]."],
    ),
    key("owner", "\"\"", &["Who answers for it."]),
    key("runbook", "\"\"", &["The page that it follows: a URL."]),
];

/// The keys of a `[[drill.assert]]`, in order.
pub const ASSERT: &[KeySpec] = &[
    bare(
        "id",
        &["What records call it. Of a server, database = \"…\" says which one is asked."],
    ),
    bare(
        "sql",
        &["The statement; it answers one value. Only numbers ever leave the sandbox as they are."],
    ),
    bare(
        "expect",
        &[
            "The value that it must be; at_least = N and at_most = N are the other ways. None: only recorded.",
        ],
    ),
    bare(
        "tolerance",
        &["How far a number may be off: 10, or \"5%\"."],
    ),
];

/// The keys of `[objectives]` in `restore.toml`, in order.
pub const OBJECTIVES: &[KeySpec] = &[
    key(
        "rpo",
        "\"\"",
        &[
            "At no moment more than this would be lost, such as \"5m\". This and what follows is judged by",
            "policy check; empty: nothing is promised.",
        ],
    ),
    key(
        "rto",
        "\"\"",
        &["A restore takes no longer than this, as drills measure it."],
    ),
    key(
        "pitr_precision",
        "\"\"",
        &["Any instant of the next key's span can be restored this exactly."],
    ),
    key(
        "window",
        "\"\"",
        &["How far back that is, such as \"30d\"."],
    ),
    key(
        "kept_at_most",
        "\"\"",
        &["Nothing may be kept longer: what the law says."],
    ),
    key(
        "drill_every",
        "\"\"",
        &["A drill that counts comes at least this often."],
    ),
    key(
        "residency",
        "[]",
        &["Countries that copies may stand in, such as [\"DK\"]. Empty: anywhere."],
    ),
    key(
        "people",
        "[]",
        &["Who may hold a key that decrypts, by the names that keys list shows."],
    ),
    key(
        "machines",
        "[]",
        &["The same of hosts that drill or restore with a key of their own."],
    ),
];

/// Keys that belong to the agent as a whole, and why a source can't have its own.
pub const AGENT_WIDE: &[(&str, &str)] = &[
    ("state_dir", "one agent has one state directory"),
    ("memory", "one agent has one bound for all its sources"),
    ("threads", "one agent has one pool for all its sources"),
    (
        "spool_keep_free",
        "it is about the spool's file system, which all sources share",
    ),
    ("residency", "every region gets every source"),
    ("metrics", "one agent has one endpoint"),
    (
        "recipients",
        "one session is sealed for all sources of an agent",
    ),
    ("root", "a repository has one root"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_comment_begins_with_a_keys_name() {
        let drills = || DRILLS.iter().chain(DRILL).chain(ASSERT);
        let all = || {
            AGENT
                .iter()
                .chain(REGION)
                .chain(RESTORE)
                .chain(OBJECTIVES)
                .chain(drills())
        };
        for line in all().flat_map(|key| key.about) {
            let first = line
                .split([' ', ',', ':', '.'])
                .next()
                .unwrap()
                .to_ascii_lowercase();
            assert!(all().all(|key| key.name != first), "{line:?}");
        }
    }

    #[test]
    fn keys_of_the_agent_as_a_whole_are_keys() {
        for (name, _) in AGENT_WIDE {
            assert!(AGENT.iter().any(|key| key.name == *name), "{name}");
        }
    }
}
