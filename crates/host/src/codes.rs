//! The stable codes that `explain` knows: exit codes and error codes, with what to do.
//!
//! Scripts and runbooks rely on them: a code is never reused or given another meaning. An error code
//! is `TM`, the two digits of its exit code and two of its own, so that either leads to the other.

use std::fmt;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// It did not work; the message says why.
    Failed = 1,
    /// The command line can't be understood, or asks for what is never done.
    Usage = 2,
    /// Done, and something beside it was not as it should be.
    Exceptions = 3,
    /// The region answers and holds no repository, or no such source.
    NoRepository = 10,
    /// Another writer has the source. systemd doesn't restart the agent.
    Fenced = 11,
    /// A key is missing, wrong, revoked or unknown.
    Key = 12,
    /// Bytes, links or signatures are not as they must be.
    Integrity = 13,
    /// The instant asked for can't be reached; the message names what can.
    NotRecoverable = 14,
    /// No room on a disk.
    Space = 15,
    /// A region doesn't answer or refuses.
    Region = 16,
    /// A rule that the config or a policy sets would be broken.
    Policy = 17,
    /// A drill failed its objective.
    Drill = 18,
    /// The config can't be used. systemd doesn't restart the agent.
    Config = 78,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Self; 14] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Exceptions,
        Self::NoRepository,
        Self::Fenced,
        Self::Key,
        Self::Integrity,
        Self::NotRecoverable,
        Self::Space,
        Self::Region,
        Self::Policy,
        Self::Drill,
        Self::Config,
    ];

    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The exit code with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// Its short name, as the help lists it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Exceptions => "with exceptions",
            Self::NoRepository => "no repository",
            Self::Fenced => "fenced",
            Self::Key => "key",
            Self::Integrity => "integrity",
            Self::NotRecoverable => "not recoverable to there",
            Self::Space => "space",
            Self::Region => "region",
            Self::Policy => "policy",
            Self::Drill => "drill",
            Self::Config => "config",
        }
    }

    /// What it means.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "Done as asked.",
            Self::Failed => "It did not work; the message says why.",
            Self::Usage => "The command line can't be understood, or asks for what is never done.",
            Self::Exceptions => "Done, and something beside it was not as it should be.",
            Self::NoRepository => "The region answers and holds no repository, or no such source.",
            Self::Fenced => "Another writer has the source. systemd doesn't restart the agent.",
            Self::Key => {
                "A key is missing, wrong, revoked or unknown. systemd doesn't restart the agent."
            }
            Self::Integrity => "Bytes, links or signatures are not as they must be.",
            Self::NotRecoverable => {
                "The instant asked for can't be reached; the message names what can."
            }
            Self::Space => "No room on a disk.",
            Self::Region => "A region doesn't answer or refuses.",
            Self::Policy => "A rule that the config or a policy sets would be broken.",
            Self::Drill => "A drill failed its objective.",
            Self::Config => "The config can't be used. systemd doesn't restart the agent.",
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code(), self.name())
    }
}

/// An error that has a name of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    /// `TM` and four digits; the first two are the exit code's.
    pub id: &'static str,
    /// How a command ends that meets it.
    pub exit: Exit,
    /// One line.
    pub title: &'static str,
    /// What it means for the data.
    pub meaning: &'static str,
    /// What to do now.
    pub action: &'static str,
}

impl Code {
    /// The section of the runbook that says more.
    #[must_use]
    pub fn runbook(&self) -> String {
        let section = match (self.id, self.exit) {
            ("TM0102", _) => "lost-host",
            ("TM0103", _) => "wal-grows",
            ("TM0108", _) => "paused",
            ("TM1501", _) => "spool-full",
            ("TM7806", _) => "not-the-owner",
            ("TM0104", _) => "clock-stepped-back",
            ("TM0107", _) => "nothing-is-shipped",
            ("TM7808" | "TM7809" | "TM7810", _) => "database-refused",
            ("TM0109" | "TM0114", _) => "server-away",
            ("TM0119", _) => "two-primaries",
            ("TM0110", _) => "log-lost",
            ("TM0116" | "TM0117", _) => "restore-a-server",
            ("TM0131" | "TM0132", _) => "canary",
            ("TM0111", _) => "commits-wait",
            ("TM0112" | "TM0113" | "TM0118", _) => "slot-holds-log",
            ("TM0115" | "TM0120" | "TM7811" | "TM7812" | "TM7813" | "TM7814", _) => {
                "server-refused"
            }
            ("TM0141" | "TM1801" | "TM1802" | "TM1803" | "TM1804", _) => "drills-on-a-schedule",
            (_, Exit::Fenced) => "fenced",
            ("TM1702" | "TM1703", _) => "objective-at-risk",
            ("TM1208", _) => "not-enrolled",
            ("TM1210", _) => "agent-revoked",
            ("TM1211", _) => "keyrings-disagree",
            (_, Exit::Key) => "key-lost",
            (_, Exit::Integrity) => "damage-in-a-region",
            (_, Exit::NotRecoverable) => "wrong-statement",
            (_, Exit::Space) => "disk-full",
            (_, Exit::Region) => "region-away",
            (_, Exit::Config | Exit::Policy) => "config-refused",
            (
                _,
                Exit::Ok
                | Exit::Failed
                | Exit::Usage
                | Exit::Exceptions
                | Exit::NoRepository
                | Exit::Drill,
            ) => "runbook",
        };
        format!("docs/RUNBOOK.md#{section}")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

macro_rules! codes {
    ($($name:ident = $id:literal, $exit:ident, $title:literal, $meaning:literal, $action:literal;)*) => {
        $(
            #[doc = concat!("`", $id, "`: ", $title, ".")]
            pub const $name: Code = Code {
                id: $id, exit: Exit::$exit, title: $title, meaning: $meaning, action: $action,
            };
        )*

        /// Every error code, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    FAILED = "TM0101", Failed, "the command failed",
        "Something went wrong that has no code of its own; the message above names it and its \
         causes.",
        "Read the causes from the last one up. If they don't say what to do, run the command \
         again with TIDEMARK_LOG=debug and report the output.";
    SOURCE_UNREADABLE = "TM0102", Failed, "the database can't be read",
        "The source's file is gone, can't be opened, or is no database any more. Everything \
         captured before is safe in the regions; nothing new is protected until it is back.",
        "Check the path and the file's owner. If the database is lost, restore it: \
         tidemark-restore plan shows how far back and how long.";
    WAL_HELD = "TM0103", Failed, "the write-ahead log grows",
        "An application holds a read transaction open, so no checkpoint can shorten the WAL; or the \
         agent can't take on what is committed (no room for its spool or state). At wal_max it lets \
         its own mark go and catches up from the database's pages later; the window shows the \
         coarser span.",
        "Find the process with the open transaction and end it: lsof or fuser on the -wal file shows which \
         processes have the database open. Raise wal_max if such readers are normal for you. If other \
         alerts name a full disk or spool, make room there first.";
    CLOCK_STEPPED = "TM0104", Failed, "the clock stepped backwards",
        "The wall clock now shows an earlier time than the last commit that was seen. Order and \
         safety don't depend on it; times of commits are held at the last one until the clock \
         passes it.",
        "Check the time service (timedatectl). Restores by time near the step may name a position \
         instead.";
    STATE_IN_USE = "TM0105", Failed, "the state directory is in use",
        "Another process runs on this state directory: an agent, or an owner of the schedule of drills. \
         Two would overwrite each other's state.",
        "Stop the other one (its process id stands in the message), or give this one a config \
         with a state_dir of its own.";
    INTERRUPTED = "TM0106", Failed, "interrupted",
        "The command was stopped by a signal. What was finished is kept.",
        "Run the same command again: it resumes.";
    SHIPPER_HANGS = "TM0107", Failed, "nothing is shipped to a region that answers",
        "Something waits to be shipped to a region, the region is not away, and nothing moves: the \
         agent itself hangs there. What is captured is in the spool; other regions go on.",
        "Restart the agent: it goes on from the spool. Under systemd that happens by itself. Report \
         the journal of the last hour.";
    PAUSED = "TM0108", Failed, "shipping is paused",
        "Somebody paused it. Capture goes on into the spool; what is in no region yet would be lost with this host.",
        "status says until when and why. tidemark-agent resume ships again now; by itself it goes on at that time.";
    SERVER_AWAY = "TM0109", Failed, "the database server can't be reached",
        "No PostgreSQL server answers where the config says, or none that takes part as asked. Everything captured \
         before is safe; nothing new is protected until it answers, and its slot keeps the log for the agent \
         meanwhile.",
        "Look whether the server runs and listens there, and at the network between. tidemark-agent doctor names \
         what it meets. If the server is lost: tidemark-restore plan.";
    LOG_LOST = "TM0110", Failed, "the server's log does not go on where it was captured",
        "The server has dropped log that was not captured (its slot was lost or dropped), or it is another copy of \
         the cluster now. A new incarnation with a complete base begins by itself; instants in between can't be \
         restored, everything before them can.",
        "status says when the new base is complete. Raise max_slot_wal_keep_size and slot_keep_max if the agent \
         was away for longer than they allow.";
    COMMITS_WAIT = "TM0111", Failed, "commits wait for the regions",
        "ack = \"regions\": a commit returns only when as many failure domains as durable_in hold it, and fewer \
         answer now. What has committed is safe; applications hang until enough regions answer.",
        "Bring a region back; commits then go on by themselves. To leave the synchronous mode at once, on the \
         server: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();";
    SLOT_HOLDS = "TM0112", Failed, "the slot holds much log back on the server",
        "The agent can't take log as fast as the server writes it, or not at all, and the server keeps it on its \
         own disk meanwhile. At slot_keep_max the agent lets go and begins anew from a base.",
        "Look for what holds the agent up (status: regions, spool), or raise slot_keep_max if the server's disk has \
         room.";
    SLOT_REMAINS = "TM0113", Failed, "a replication slot could not be dropped",
        "The source is retired, and its slot still stands on the server: it keeps log there, until the disk is full.",
        "Drop it on the server: SELECT pg_drop_replication_slot('NAME'); the message has the name.";
    SLOT_IN_USE = "TM0114", Failed, "another program reads from the replication slot",
        "Only one can. As a rule it is another agent that protects the same server under the same source name, or a \
         connection of this one that the server has not given up yet.",
        "It passes within wal_sender_timeout if the connection is dead. Otherwise stop the other agent, or give this \
         source another name or slot.";
    SERVER_REFUSES = "TM0115", Failed, "the server refuses what capture needs",
        "A setting or a limit of the server stands against it: wal_level, max_wal_senders, max_replication_slots. \
         Nothing is captured until it is changed.",
        "tidemark-agent doctor prints the statement for each; wal_level and the limits need a restart of the server.";
    NO_SERVER_PROGRAMS = "TM0116", Failed, "the server's programs are missing on this host",
        "The restored server's log is replayed by PostgreSQL itself, of the very major version that the lost server \
         had, run by a user other than root. Nothing was written yet.",
        "Install that version (Debian: apt install postgresql-15), or name its folder with --pg-bin DIR; \
         --no-finish leaves recovery to a host that has it.";
    RECOVERY_FAILED = "TM0117", Failed, "the server could not end its recovery",
        "PostgreSQL was started on the restored files and stopped before it had replayed the log to where it \
         was to. Nothing was handed over.",
        "The last lines of its log stand in the message. Run the same command again: it begins anew. If it ends in the \
         same way, restore to an earlier instant and report it.";
    SLOT_ELSEWHERE = "TM0118", Failed, "a server that is not captured keeps log for our slot",
        "The connection string names several servers, and one that the agent does not capture has its slot: the old \
         primary after a fail-over, as a rule. It keeps log for nobody, until its disk is full.",
        "Drop it on that server: SELECT pg_drop_replication_slot('NAME'); the message has both names. After a \
         fail-back the agent makes it anew.";
    TWO_PRIMARIES = "TM0119", Failed, "servers of the connection string have parted",
        "The connection string names several servers of one cluster, and not all of them are on the timeline that is \
         captured: an old primary that came back after a fail-over and takes writes, as a rule. What is committed on \
         one that is not captured is in no backup. The agent never goes back to an older timeline by itself.",
        "The message has each server with its timeline. Stop the stale one, and bring it back as a standby \
         (pg_rewind). If the older one is right, leave only it in the connection string and restart the agent.";
    OPEN_LINK = "TM0120", Failed, "the connection to the server is not protected",
        "The connection string says nothing of sslmode, so TLS is used only where nobody between takes it away, and \
         no certificate is checked: whoever stands between can read the log along, and learn what the password is \
         proved with.",
        "Add sslmode=verify-full and sslrootcert to the connection string; sslmode=disable says that the network \
         between is trusted.";
    CANARY_MISSING = "TM0131", Failed, "no canary can be written",
        "The config wants canaries in the database, and none could be written for a while. What is committed is \
         protected all the same. A drill can't tell from the restored database alone up to when it goes.",
        "The message says why: for a table that the role may not make, tidemark-agent doctor prints the statement. \
         If no canaries are wanted: canary = \"off\".";
    CANARY_REMAINS = "TM0132", Failed, "the canary's table could not be dropped",
        "No canaries are wanted any more, and the table that they were kept in still stands in the database. It has \
         a few rows, and nothing writes it.",
        "The message says why, and the statement that drops it. The agent tries again when it starts.";
    DRILL_INCONCLUSIVE = "TM0141", Failed, "a drill came to no result",
        "What the drill needs around it was not there (a region, space, a program, time), or it was stopped. It says \
         nothing of the backups, and counts as not done.",
        "The cause stands in the message and in the record (evidence show). The schedule tries again after \
         retry_after, twice; then the drill counts as not done until its next slot.";
    USAGE = "TM0201", Usage, "the command can't be run as it was given",
        "An argument is missing, unknown or contradicts another, or names what is not there.",
        "The message names the argument, and what to write or to make; --help shows all of them.";
    TARGET_EXISTS = "TM0202", Usage, "the target is not empty",
        "A restore never overwrites: the target exists, or a -wal, -shm or -journal file stands \
         beside it that a database would replay into the restored file.",
        "Restore to a new path, look at the result, then move it into place with the application \
         stopped.";
    NOT_CONFIRMED = "TM0203", Usage, "not confirmed, so nothing was changed",
        "It changes something that can't be taken back, and needs a yes: typed at a terminal, or \
         given as --yes where there is none.",
        "Read what it would do. If you mean it, say yes, or run it with --yes.";
    TIME_UNCLEAR = "TM0204", Usage, "the time can't be understood",
        "The text is no time, has no zone where nobody can check it, or names an hour that came \
         twice or never because clocks were moved.",
        "Write it with a zone: \"2026-05-01 14:31:00 UTC\".";
    SOURCE_UNCLEAR = "TM0205", Usage, "several sources, and none was named",
        "The repository protects more than one database, and the command is about one.",
        "Name it: --source NAME. tidemark-restore list shows the names.";
    WITH_EXCEPTIONS = "TM0301", Exceptions, "done, with exceptions",
        "The result is there and usable, and something beside it was not as it should be: a \
         damaged copy in one region, a region that was away.",
        "Read the listed exceptions; verify names each damaged object in its region.";
    NO_REPOSITORY = "TM1001", NoRepository, "no repository there",
        "The region answers, and holds no repository at this prefix.",
        "Check bucket and prefix. For a new one: tidemark-agent init.";
    NO_SOURCE = "TM1002", NoRepository, "no such source in the repository",
        "The repository is there and has no source of this name.",
        "tidemark-restore list shows the names.";
    FENCED = "TM1101", Fenced, "fenced: another writer has taken over",
        "A higher epoch of this source exists: another agent was told to take over. This one must \
         not write any more; systemd doesn't restart it.",
        "If the other one is right, retire this agent. If this one is right, stop the other and \
         run tidemark-agent take-over here.";
    FOREIGN_WRITER = "TM1102", Fenced, "another writer uses the same epoch",
        "An object that this agent was about to write exists and is somebody else's: most likely \
         this machine or its state directory was cloned.",
        "Decide which machine is the source. On that one, and only there, run tidemark-agent \
         take-over.";
    NEWER_CHAIN = "TM1103", Fenced, "the repository is newer than this agent's state",
        "The source's chain goes on past what this state directory knows: it was lost, or \
         restored from an old copy.",
        "If no other agent writes this source, run tidemark-agent take-over; it begins a new \
         epoch and a new base.";
    NO_IDENTITY = "TM1201", Key, "no recovery identity",
        "Decrypting needs the private key of a recipient, and none was given.",
        "Name the file: --identity FILE, or TIDEMARK_IDENTITY.";
    WRONG_IDENTITY = "TM1202", Key, "this identity can't open it",
        "The session was not sealed to this identity: it belongs to another repository, or was \
         added or removed at another time.",
        "tidemark-restore keys list shows which recipients can open what. Use another identity, \
         or the escrow.";
    SIGNER_REVOKED = "TM1203", Key, "signed by a revoked key",
        "The object was signed by a key that the keyring had revoked before.",
        "Treat the host of that key as suspect. Restore to a time before the revocation; keys \
         list shows it.";
    SIGNER_UNKNOWN = "TM1204", Key, "signed by an unknown key",
        "No keyring signed by this repository's root names the signer in this role.",
        "If it is your new agent, enrol it: tidemark-restore keys enrol. Otherwise somebody else \
         wrote into the region.";
    SECRET_EXPOSED = "TM1205", Key, "a secret file can be read by others",
        "Keys and identities must be readable by their owner alone.",
        "chmod 600 FILE, and consider who may have read it.";
    WRONG_PASSPHRASE = "TM1206", Key, "wrong passphrase",
        "The identity file is protected, and the passphrase doesn't open it.",
        "Try again; without it use another recipient's identity or the escrow.";
    WRONG_ROOT = "TM1207", Key, "the keyring is signed by another root",
        "The root's fingerprint in the config or identity isn't the one in the region: this is \
         another repository, or the region was replaced.",
        "Compare the fingerprint with the printed key card before you trust either.";
    NOT_ENROLLED = "TM1208", Key, "this agent is not enrolled yet",
        "Its signing key isn't in the keyring: nothing that it writes would count. It has asked to \
         be enrolled, and goes on by itself once it is.",
        "On the host with the root key: tidemark-restore keys enrol. status prints the whole \
         command; tidemark-restore keys list shows the request.";
    NO_SUCH_KEY = "TM1209", Key, "no such key",
        "The key named isn't in the keyring or among the requests, or nobody asks to be enrolled.",
        "tidemark-restore keys list shows members, recipients and requests.";
    AGENT_REVOKED = "TM1210", Key, "this agent's key was revoked",
        "The root took the agent's key back: nothing that it signs counts any more, so it has \
         stopped. What it had written before stays restorable; systemd doesn't restart it.",
        "If this host is to be protected again, move config and state_dir away, run tidemark-agent \
         init and enrol the new key.";
    KEYRINGS_DISAGREE = "TM1211", Key, "the regions' keyrings disagree",
        "Two regions hold different keyrings, both signed by this root, so a new version could follow \
         only one of them and would leave the other region unreadable. Nothing is signed or copied \
         until that is settled. Each region can be restored from by itself.",
        "Look at each region alone (tidemark-restore keys list --region URL), decide which one is right, \
         and give the other a new, empty prefix; the agent fills it.";
    LAST_RECIPIENT = "TM1212", Key, "the last recipient stays",
        "Without a recipient nobody could read what is written from then on.",
        "Add another recipient first: tidemark-restore keys new --repository, then keys enrol \
         --recipient. Then revoke this one.";
    KEY_CHANGE = "TM1213", Key, "the keyring was not changed",
        "The change asked for can't be made: the key is there already, is gone already, or somebody \
         else changed the keyring at the same time.",
        "tidemark-restore keys list shows how things stand.";
    KEY_FILE = "TM1214", Key, "a key file can't be used",
        "The file named is not the kind of key file that is needed here, is damaged, or is under a \
         passphrase where none can be asked for.",
        "The identity is the file that keys new --out names; the root key's file has .root at its end, \
         the escrow's .escrow.";
    DAMAGED = "TM1301", Integrity, "an object is damaged",
        "Its bytes don't match their hash: bit rot, truncation, or a change by somebody.",
        "Restore falls back to another region by itself. Afterwards: tidemark-restore verify on \
         each region.";
    BAD_SIGNATURE = "TM1302", Integrity, "a signature is wrong",
        "The object was not written by who it says.",
        "Do not restore past it. Keep the region as it is and compare with another one.";
    MISSING_OBJECT = "TM1303", Integrity, "an object is missing",
        "The chain names an object that no given region has.",
        "Give all regions. If it is gone everywhere, the message names the latest instant that is \
         provable without it.";
    STALE_REGION = "TM1304", Integrity, "a region is older than it should be",
        "Another region, or --expect, knows a newer recovery point: this region was rolled back \
         or not fed.",
        "Use the newer region. --accept-older takes the older state, knowingly.";
    BROKEN_LINK = "TM1305", Integrity, "objects don't belong together",
        "An object is valid by itself and doesn't follow its predecessor: swapped, replayed or \
         from a voided epoch.",
        "Restore to before it; compare the regions with verify.";
    WRONG_DIGEST = "TM1306", Integrity, "the restored database differs from the source",
        "After replay the digest isn't the one the agent recorded. The file was not handed over.",
        "Try another region and report it: this must not happen.";
    AFTER_WINDOW = "TM1401", NotRecoverable, "later than what is recoverable",
        "The regions given hold nothing provable at that instant yet.",
        "The message names the latest instant. Other regions may hold more.";
    BEFORE_WINDOW = "TM1402", NotRecoverable, "earlier than what is recoverable",
        "The window begins later: the source was not protected then, or retention has passed.",
        "tidemark-restore list shows the windows.";
    IN_GAP = "TM1403", NotRecoverable, "inside a gap",
        "The log was given up there, as a signed gap says, for instance because the spool was \
         full while all regions were away.",
        "Restore to just before or just after it; the message names both.";
    NO_SUCH_STATE = "TM1404", NotRecoverable, "no such position or recovery point",
        "The regions given hold no log object or recovery point of that number or name.",
        "tidemark-restore list --points shows all of them with their names; a position is written log:1:50, a \
         recovery point point:1/4 or point:NAME.";
    SPOOL_FULL = "TM1501", Space, "the spool is full",
        "Regions were away longer than spool_max allows. By protect = \"database\" the oldest \
         unshipped ranges are given up as a signed gap and a new base is made.",
        "Bring the regions back or raise spool_max; status shows when it is full.";
    DISK_FULL = "TM1502", Space, "not enough space",
        "Restore: the target or scratch folder can't hold the result. Agent: the disk of state_dir has no more \
         than spool_keep_free, so the spool can't grow and nothing is captured; or a directory region's disk is \
         full. The database goes on either way.",
        "Restore: tidemark-restore plan says how much is needed; free that, run the same command again: it resumes. \
         Agent: free space on the disk that the message names; it goes on by itself.";
    REGION_AWAY = "TM1601", Region, "a region doesn't answer",
        "Name, network, TLS or the store itself; the causes say which.",
        "The agent goes on with the others and spools. tidemark-agent doctor probes each step.";
    REGION_DENIED = "TM1602", Region, "a region refuses access",
        "The credential is missing, wrong, expired, or lacks a right that the message names.",
        "Compare the key's policy with config/iam; tidemark-agent doctor tries each right.";
    NOT_ENOUGH_REGIONS = "TM1603", Region, "too few regions",
        "Fewer failure domains answer than durable_in or a fence needs.",
        "Bring regions back; a take-over must fence N - W + 1 of them.";
    REPLACES = "TM1604", Region, "a region's store replaces objects that exist",
        "It ignores If-None-Match, so two writers could replace each other's objects there: fencing is not \
         enforced in that region, and a name there proves nothing.",
        "Use another store, or a bucket policy that refuses writes without the header. Until then run no second \
         agent against that region.";
    RESIDENCY = "TM1701", Policy, "a region outside the residency list",
        "The config allows certain countries only, and a region is in another one or doesn't say.",
        "Set the region's country, or remove the region. Nothing was written.";
    OBJECTIVE_AT_RISK = "TM1702", Policy, "an objective is at risk",
        "Of something that a config promises of a source three quarters are used up. Of an RPO: something holds \
         shipping up; nothing is lost yet, and if the host were lost now, less than was promised would be. \
         tidemark-restore run tells it of rto, drill_every and kept_at_most, too.",
        "The message says what was found. Of an RPO tidemark-agent status says which region or what else holds it \
         up; it ends by itself once everything is durable again.";
    OBJECTIVE_BROKEN = "TM1703", Policy, "an objective is broken",
        "Something that a config promises of a source is not kept. Of an RPO: if the host were lost now, more would \
         be lost. The time stands in the history: policy check will show it for as long as its window.",
        "The message says what was found. Of an RPO tidemark-agent status says which region or what else holds it \
         up: bring it back, or make room. Of an RTO or of drills: tidemark-restore drill run.";
    DRILL_FAILED = "TM1801", Drill, "a drill failed",
        "What was restored is not what was promised: a check failed, or it took too long, or too much was lost. Until \
         it is understood, take it that a restore would end in the same way.",
        "tidemark-restore evidence show ID names the rung and the cause. Mend that, and drill again: \
         tidemark-restore drill run.";
    DRILL_OVERDUE = "TM1802", Drill, "a scheduled drill was not done",
        "The schedule called for it, and by overdue_after no drill came to a result: nobody runs the schedule, every \
         try was inconclusive, or no region could be read. What is not drilled is not proved.",
        "The message says which and why. Look at the journal of tidemark-restore; by hand: tidemark-restore drill run \
         --source NAME.";
    DRILL_NOT_HERE = "TM1803", Drill, "a drill must not run on this host",
        "The source runs here, or production answers from here. A drill brings production data back, and proves \
         nothing of the loss of a host on that very host.",
        "Run it on another host. For a trial on one machine: --allow-source-host; that drill is recorded as not \
         segregated: it counts for no clause on drills, isolation or precision, and its time to be back only as one \
         measured on the source's own host.";
    SCRATCH_REMAINS = "TM1804", Drill, "a drill's scratch could not be destroyed",
        "What was restored for the drill still lies where it was restored, and something is in the way of its removal. \
         It holds production data.",
        "The message says where and what is in the way: end that process, or unmount what is mounted there, and \
         remove the folder. Then drill again.";
    CONFIG_UNKNOWN_KEY = "TM7801", Config, "an unknown key in the config",
        "Unknown keys are refused, because a mistyped one would silently leave its default.",
        "The message marks the key and lists those that exist.";
    CONFIG_INVALID = "TM7802", Config, "a value in the config is not valid",
        "The message marks the value and says what is allowed.",
        "Correct it and run: tidemark-agent config check.";
    CONFIG_CONFLICT = "TM7803", Config, "settings contradict each other",
        "Each value is fine by itself, and together they can't hold, as the message shows.",
        "Change one of the two that it names.";
    CONFIG_MISSING = "TM7804", Config, "no config file",
        "None was named, and there is none at the default places.",
        "Run tidemark-agent init, or name one: --config FILE.";
    ENGINE_UNSUPPORTED = "TM7805", Config, "this build has no engine for the source",
        "The config names a database that this build can't protect yet.",
        "Use a build that supports it, or remove the source.";
    NOT_THE_OWNER = "TM7806", Config, "the agent is not the database's owner",
        "Opening a SQLite database makes -wal and -shm files; made by another user, the \
         application couldn't write them.",
        "Run one agent per owner: init --systemd writes a drop-in with the right User=.";
    NETWORK_FILE_SYSTEM = "TM7807", Config, "the database is on a network file system",
        "SQLite's locks and shared memory don't work there, so it can't be captured without risk.",
        "Run the agent on the machine that has the file on a local disk.";
    EXCLUSIVE_DATABASE = "TM7808", Config, "the application holds the database exclusively",
        "With locking_mode = EXCLUSIVE nobody else can read it.",
        "Set locking_mode = NORMAL in the application.";
    READ_ONLY_FOLDER = "TM7809", Config, "the database's folder can't be written",
        "SQLite keeps -wal and -shm files beside a database; where it can't make or open them, \
         nobody can read the database while it is written.",
        "Let the agent's user write the folder: its owner and mode, and ReadWritePaths= in the \
         unit (init --systemd writes them).";
    NOT_A_DATABASE = "TM7810", Config, "the file is not a database",
        "The path names a folder, a pipe, a device, an encrypted database or another kind of file. \
         It was not written to.",
        "Correct the path in the config, or put the database there: it is taken up by itself.";
    SERVER_LOG_IN = "TM7811", Config, "the server doesn't let the agent in",
        "The role or its password is wrong, it may not replicate, or pg_hba.conf has no line for it. Nothing is \
         captured until it may.",
        "tidemark-agent doctor prints the statements and the lines for pg_hba.conf. The agent tries again by itself.";
    SERVER_TLS = "TM7812", Config, "TLS with the server can't be set up as asked",
        "The server has no TLS, or its certificate is not signed by sslrootcert or doesn't name the host.",
        "Compare sslmode and sslrootcert in the connection string with the server's certificate. Lowering sslmode \
         lets anybody in between read along.";
    SERVER_VERSION = "TM7813", Config, "this version of PostgreSQL can't be protected",
        "Supported are 14 to 18.",
        "Upgrade the server, or the agent.";
    CONNECTION_STRING = "TM7814", Config, "the connection string can't be used",
        "It is well formed, and names something that is not there: a service, a passfile, a certificate; or a slot \
         that belongs to somebody else.",
        "The message names it. The agent's user must be able to read what it names.";
}

/// What alerts are called that are no error code, and the code that says what they mean.
const ALERTS: [(&str, Code); 36] = [
    ("base.failed", FAILED),
    ("canary.missing", CANARY_MISSING),
    ("canary.remains", CANARY_REMAINS),
    ("control.socket", FAILED),
    ("log.gap", IN_GAP),
    ("log.lost", LOG_LOST),
    ("paused", PAUSED),
    ("point.failed", FAILED),
    ("postgresql.bad-pages", DAMAGED),
    ("postgresql.base-waits", SERVER_AWAY),
    ("postgresql.commits-wait", COMMITS_WAIT),
    ("postgresql.denied", SERVER_LOG_IN),
    ("postgresql.garbled", SERVER_AWAY),
    ("postgresql.left-out", WITH_EXCEPTIONS),
    ("postgresql.log-damaged", DAMAGED),
    ("postgresql.refused", SERVER_REFUSES),
    ("postgresql.parted", TWO_PRIMARIES),
    ("postgresql.slot-busy", SLOT_IN_USE),
    ("postgresql.slot-keep-max", SLOT_HOLDS),
    ("postgresql.slot-refused", SERVER_REFUSES),
    ("postgresql.unreachable", SERVER_AWAY),
    ("postgresql.waits", SERVER_AWAY),
    ("server.link", OPEN_LINK),
    ("server.parted", TWO_PRIMARIES),
    ("server.setup", SERVER_REFUSES),
    ("slot.elsewhere", SLOT_ELSEWHERE),
    ("slot.remains", SLOT_REMAINS),
    ("source.claim", NOT_ENOUGH_REGIONS),
    ("spool.gap", SPOOL_FULL),
    ("spool.write", DISK_FULL),
    ("sqlite.locked", EXCLUSIVE_DATABASE),
    ("sqlite.max-stall", FAILED),
    ("sqlite.wal-max", WAL_HELD),
    ("state.write", DISK_FULL),
    ("store.create-only", REPLACES),
    ("task.ended", FAILED),
];

/// The code that says what an alert's name means: `TM1601`, `region.TM1601`, `sqlite.wal-max`.
#[must_use]
pub fn of_alert(name: &str) -> Option<Code> {
    let name = name.trim().to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    let mut all = ALL.iter().copied();
    let named = ALERTS.iter().find(|(alert, _)| *alert == name);
    all.find(|code| code.id.eq_ignore_ascii_case(last))
        .or_else(|| named.map(|(_, code)| *code))
}

/// What `explain` prints for `asked`: an error code, an alert's name, or an exit code's number or name, in
/// any case.
#[must_use]
pub fn explain(asked: &str) -> Option<String> {
    let asked = of_alert(asked).map_or(asked, |code| code.id);
    if let Some(code) = ALL
        .iter()
        .find(|code| code.id.eq_ignore_ascii_case(asked.trim()))
    {
        return Some(format!(
            "{}: {}\n\nWhat it means  {}\nWhat to do     {}\nExit code      {}\nMore           {}\n",
            code.id,
            code.title,
            code.meaning,
            code.action,
            code.exit,
            code.runbook()
        ));
    }
    let named = |exit: &Exit| {
        exit.name()
            .replace(' ', "-")
            .eq_ignore_ascii_case(asked.trim())
    };
    let numbered = asked.trim().parse().ok().and_then(Exit::from_code);
    let exit = numbered.or_else(|| Exit::ALL.into_iter().find(named))?;
    let mut text = format!("exit code {exit}\n\n{}\n", exit.meaning());
    for code in ALL.iter().filter(|code| code.exit == exit) {
        let Code {
            id, title, action, ..
        } = code;
        text.push_str(&format!("\n{id}: {title}\n  {action}\n"));
    }
    Some(text)
}

/// The list that `explain` prints when it is asked for nothing, or for something unknown.
#[must_use]
pub fn overview() -> String {
    let mut text = String::from("Exit codes\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {:<4}{}\n", exit.code(), exit.name()));
    }
    text.push_str("Error codes\n");
    for code in ALL {
        text.push_str(&format!("  {}  {}\n", code.id, code.title));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_unique_and_carries_its_exit_codes_digits() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ALL {
            assert!(seen.insert(code.id), "{} stands twice", code.id);
            assert!(
                code.id.starts_with(&format!("TM{:02}", code.exit.code())),
                "{}",
                code.id
            );
            assert_eq!(code.id.len(), 6);
        }
        assert!(
            ALL.windows(2).all(|pair| pair[0].id < pair[1].id),
            "in order"
        );
    }

    #[test]
    fn the_exit_codes_are_those_that_scripts_rely_on() {
        let numbers: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(
            numbers,
            [0, 1, 2, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 78]
        );
    }

    #[test]
    fn codes_and_exit_codes_are_explained_and_others_are_not() {
        let fenced = explain("tm1101").unwrap();
        assert!(
            fenced.contains("take-over") && fenced.contains("11 (fenced)"),
            "{fenced}"
        );
        assert!(explain("11").unwrap().contains("TM1102"));
        assert_eq!(explain("no-repository"), explain("10"));
        assert_eq!(explain("TM9999"), None);
        assert_eq!(explain("99"), None);
        assert!(overview().contains("TM7801"));
    }

    #[test]
    fn what_alerts_print_is_explained() {
        let said = |name: &str| explain(name).unwrap_or_default();
        assert!(said("region.TM1601").starts_with("TM1601"));
        assert!(said("sqlite.wal-max").starts_with("TM0103"));
        assert!(said("log.gap").starts_with("TM1403"));
        assert!(said("paused").starts_with("TM0108"));
        for (name, code) in ALERTS {
            assert!(said(name).starts_with(code.id), "{name}");
        }
    }

    #[test]
    fn every_code_leads_to_a_section_that_the_runbook_has() {
        let book = include_str!("../../../docs/RUNBOOK.md");
        let sections: Vec<String> = book
            .lines()
            .filter_map(|line| line.strip_prefix("# ").or_else(|| line.strip_prefix("## ")))
            .map(|title| title.to_ascii_lowercase().replace(' ', "-"))
            .collect();
        for code in ALL {
            let (_, section) = code
                .runbook()
                .split_once('#')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .unwrap();
            assert!(sections.contains(&section), "{}: {section}", code.id);
        }
    }
}
