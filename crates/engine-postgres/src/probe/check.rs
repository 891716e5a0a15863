//! What is wrong with a server for protecting it, and what to do about each.

use super::{Server, Wanted, is_recycled};
use crate::conninfo::ConnInfo;
use crate::wire::{WireError, WireErrorKind};

/// The majors that are supported.
const SUPPORTED: std::ops::RangeInclusive<u16> = 14..=18;
/// Connections that the agent needs: the stream, the question for the server's position, a base.
const SENDERS_NEEDED: u64 = 3;
/// A shorter time-out than this cuts connections that are merely busy, in milliseconds.
const SENDER_TIMEOUT_MIN_MS: i64 = 5_000;
const MIB: u64 = 1 << 20;
/// The database of the connection string is not there.
const NO_DATABASE: &str = "3D000";

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fine,
    /// It works, and somebody should look.
    Look,
    /// It can't be protected like this.
    Broken,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Reaching the server.
    Connection,
    /// Logging in to it.
    LogIn,
    /// Setting up TLS.
    Tls,
    /// The database of the connection string.
    Database,
    /// What the servers of the connection string are to one another.
    Servers,
    /// The role's rights.
    Privileges,
    /// The server's version.
    Version,
    /// A setting, or what it leads to.
    Setting(&'static str),
    /// The agent's slot.
    Slot,
    /// Where bases are read.
    Bases,
    /// Canaries.
    Canary,
}

impl Topic {
    /// As people read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::LogIn => "log-in",
            Self::Tls => "TLS",
            Self::Database => "database",
            Self::Servers => "servers",
            Self::Privileges => "privileges",
            Self::Version => "version",
            Self::Setting(name) => name,
            Self::Slot => "slot",
            Self::Bases => "bases",
            Self::Canary => "canary",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub topic: Topic,
    /// How bad it is.
    pub grade: Grade,
    /// What was found and what it means.
    pub found: String,
    /// What to do, as a statement where one does it; for what is fine, what would make it better.
    pub remedy: Option<String>,
}

impl Finding {
    pub(super) fn fine(topic: Topic, found: impl Into<String>) -> Self {
        Self {
            topic,
            grade: Grade::Fine,
            found: found.into(),
            remedy: None,
        }
    }

    /// It is as it should be, and could be better.
    pub(super) fn hint(topic: Topic, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..Self::fine(topic, found)
        }
    }

    pub(super) fn look(topic: Topic, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            topic,
            grade: Grade::Look,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    pub(super) fn broken(
        topic: Topic,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            topic,
            grade: Grade::Broken,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let line = next.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = next.source();
    }
    text
}

/// Neither way of connecting worked.
pub(super) fn of_connection(info: &ConnInfo, error: &WireError) -> Finding {
    let text = told(error);
    match error.kind() {
        WireErrorKind::Denied => super::login::refused(info, error.code(), text),
        WireErrorKind::Tls => Finding::broken(
            Topic::Tls,
            text,
            "sslmode and sslrootcert in the connection string, ssl = on and a certificate on the server",
        ),
        WireErrorKind::Busy => Finding::broken(
            Topic::Connection,
            text,
            "the server starts, stops or has no connection left: try again, or raise max_connections",
        ),
        WireErrorKind::Gone | WireErrorKind::Refused | WireErrorKind::Protocol => Finding::broken(
            Topic::Connection,
            text,
            "look whether the server runs and listens there (listen_addresses, port, unix_socket_directories), \
             and at the firewall between",
        ),
    }
}

/// Replication works, ordinary SQL doesn't.
pub(super) fn of_sql(
    info: &ConnInfo,
    code: Option<&str>,
    error: &dyn std::error::Error,
) -> Finding {
    if code == Some(NO_DATABASE) {
        return Finding::broken(
            Topic::Database,
            format!(
                "there is no database {:?} on the server. All of its databases are protected, whichever is named; \
                 the named one is asked about the server, and takes bases from the data directory",
                info.database
            ),
            "name one that is there in the connection string, such as dbname=postgres",
        );
    }
    Finding::look(
        Topic::Connection,
        format!(
            "replication works, and database {:?} can't be asked about the server: {}",
            info.database,
            told(error)
        ),
        format!(
            "a line for the database in pg_hba.conf, beside the one for replication:\n{}",
            super::hba_lines(info).join("\n")
        ),
    )
}

/// Ordinary SQL works, replication doesn't.
pub(super) fn of_replication(info: &ConnInfo, error: &WireError) -> Finding {
    let lines = super::hba_lines(info).join("\n");
    match error.code() {
        Some("28000") => Finding::broken(
            Topic::LogIn,
            format!(
                "the server takes no replication connection: {}",
                told(error)
            ),
            format!("in pg_hba.conf, then SELECT pg_reload_conf():\n{lines}"),
        ),
        Some("42501") => Finding::broken(
            Topic::Privileges,
            told(error),
            format!("ALTER ROLE {} REPLICATION;", identifier(&info.user)),
        ),
        Some("53300" | "53400") => Finding::broken(
            Topic::Setting("max_wal_senders"),
            told(error),
            "ALTER SYSTEM SET max_wal_senders = 10; then restart the server",
        ),
        _ => of_connection(info, error),
    }
}

/// A name as SQL wants it.
pub(super) fn identifier(name: &str) -> String {
    let is_plain = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if is_plain && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() {
        return name.to_owned();
    }
    crate::wire::quote_identifier(name)
}

/// Everything that can be said of a server that answers.
#[must_use]
pub fn judge(server: &Server, wanted: &Wanted, application_name: Option<&str>) -> Vec<Finding> {
    let mut found = vec![version(server), privileges(server), wal_level(server)];
    found.push(super::folder::judge(server));
    found.push(senders(server));
    found.push(slot(server, wanted));
    found.push(keep_size(server, wanted));
    found.extend(durability(server));
    found.extend(timeouts(server));
    let name = application_name.unwrap_or(&wanted.application_name);
    found.extend(synchronous(server, wanted, name));
    found.extend(super::canary::judge(server, wanted));
    found
}

fn version(server: &Server) -> Finding {
    let text = format!("PostgreSQL {}", server.version);
    if SUPPORTED.contains(&server.major) {
        return Finding::fine(Topic::Version, text);
    }
    let (first, last) = (SUPPORTED.start(), SUPPORTED.end());
    Finding::broken(
        Topic::Version,
        format!("{text} is none of those that are supported"),
        format!("PostgreSQL {first} to {last} can be protected"),
    )
}

fn privileges(server: &Server) -> Finding {
    let role = identifier(&server.user);
    if !server.may_replicate && !server.is_superuser {
        return Finding::broken(
            Topic::Privileges,
            format!("role {} may not replicate", server.user),
            format!("ALTER ROLE {role} REPLICATION;"),
        );
    }
    if !server.monitors && !server.is_superuser {
        return Finding::look(
            Topic::Privileges,
            format!(
                "role {} may replicate, and doesn't see sizes and statistics of the whole cluster",
                server.user
            ),
            format!("GRANT pg_monitor TO {role};"),
        );
    }
    if server.is_superuser {
        return Finding::look(
            Topic::Privileges,
            format!(
                "role {} is a superuser: far more than the agent needs",
                server.user
            ),
            super::role_statements("tidemark").join("\n"),
        );
    }
    Finding::fine(
        Topic::Privileges,
        format!("role {} may replicate", server.user),
    )
}

fn wal_level(server: &Server) -> Finding {
    let topic = Topic::Setting("wal_level");
    match server.settings.get("wal_level").map(String::as_str) {
        Some(level @ ("replica" | "logical")) => Finding::fine(topic, level),
        other => Finding::broken(
            topic,
            format!(
                "{}: the log doesn't hold what a restore needs",
                other.unwrap_or("unknown")
            ),
            "ALTER SYSTEM SET wal_level = 'replica'; then restart the server",
        ),
    }
}

fn senders(server: &Server) -> Finding {
    let topic = Topic::Setting("max_wal_senders");
    let max = at_least_zero(server.number("max_wal_senders"));
    let ours = server.slot.as_ref().is_some_and(|slot| slot.is_active);
    // An agent that runs has all but the one for a base.
    let needed = if ours { 1 } else { SENDERS_NEEDED };
    let free = max.saturating_sub(server.senders);
    let found = format!("{max}, {free} free");
    if free >= needed {
        return Finding::fine(topic, found);
    }
    let wanted = server.senders.saturating_add(needed).max(10);
    Finding::broken(
        topic,
        format!("{found}: the agent needs {needed}"),
        format!("ALTER SYSTEM SET max_wal_senders = {wanted}; then restart the server"),
    )
}

fn slot(server: &Server, wanted: &Wanted) -> Finding {
    let name = &wanted.slot;
    let Some(slot) = &server.slot else {
        return gone(server, wanted).unwrap_or_else(|| room_for_slot(server, name));
    };
    if slot.kind != "physical" {
        return Finding::broken(
            Topic::Slot,
            format!("{name} is a {} slot, of somebody else", slot.kind),
            "name another one: slot = \"…\" in the [[source]]",
        );
    }
    let held = slot.held_bytes.unwrap_or(0) / MIB;
    if slot.is_lost() {
        let why = slot
            .invalidation
            .as_ref()
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        return Finding::broken(
            Topic::Slot,
            format!("{name} is lost{why}: the server has recycled log that was not captured"),
            "the agent makes it anew and takes a base by itself; raise max_slot_wal_keep_size so that it need not",
        );
    }
    let active = if slot.is_active {
        "in use"
    } else {
        "nobody reads from it"
    };
    let found = format!("{name}, {active}, holds {held} MiB of log back");
    if !slot.is_active && slot.held_bytes > Some(wanted.slot_keep_max) {
        return Finding::look(
            Topic::Slot,
            found,
            format!(
                "start the agent; if it is gone for good: SELECT pg_drop_replication_slot('{name}');"
            ),
        );
    }
    Finding::fine(Topic::Slot, found)
}

/// The slot of a server that was captured is not there.
fn gone(server: &Server, wanted: &Wanted) -> Option<Finding> {
    let (name, followed) = (&wanted.slot, wanted.followed.as_ref()?);
    let next = followed.next();
    if is_recycled(server.oldest_log.as_deref(), Some(followed)) {
        return Some(Finding::broken(
            Topic::Slot,
            format!(
                "{name} is gone, and the server has removed log from {next} on, up to where it was captured: what was \
                 committed since can't be captured any more"
            ),
            "start the agent: it makes the slot anew and begins a new incarnation with a complete base, and what is \
             committed from then on is protected",
        ));
    }
    Some(Finding::look(
        Topic::Slot,
        format!(
            "{name} is gone: the server keeps its log from {next} on, up to where it was captured, for nobody, and \
             may remove it any moment"
        ),
        "start the agent now: it makes the slot anew, and goes on without a hole if the log is still there",
    ))
}

fn room_for_slot(server: &Server, name: &str) -> Finding {
    let max = at_least_zero(server.number("max_replication_slots"));
    if server.slots < max {
        return Finding::fine(
            Topic::Slot,
            format!("{name}: the agent makes it when it starts"),
        );
    }
    Finding::broken(
        Topic::Setting("max_replication_slots"),
        format!("all {max} are in use: there is none for the agent"),
        format!(
            "ALTER SYSTEM SET max_replication_slots = {}; then restart the server",
            max.saturating_add(5)
        ),
    )
}

fn keep_size(server: &Server, wanted: &Wanted) -> Finding {
    let topic = Topic::Setting("max_slot_wal_keep_size");
    let wanted_mib = (wanted.slot_keep_max / MIB).max(1);
    let statement = format!(
        "ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf();",
        wanted_mib.saturating_mul(2)
    );
    match server.number("max_slot_wal_keep_size") {
        Some(-1) | None => Finding::look(
            topic,
            "no limit: if the agent is away for long, its slot lets the log fill the server's disk",
            statement,
        ),
        Some(mib) if at_least_zero(Some(mib)) < wanted_mib => Finding::look(
            topic,
            format!(
                "{mib} MB, less than slot_keep_max: the server drops the log before the agent would let go"
            ),
            statement,
        ),
        Some(mib) => Finding::fine(topic, format!("{mib} MB")),
    }
}

fn durability(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    if !server.is_on("fsync") {
        found.push(Finding::look(
            Topic::Setting("fsync"),
            "off: a crash of the server's machine may leave a damaged database, which is then backed up as it is",
            "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
        ));
    }
    if !server.is_on("full_page_writes") {
        found.push(Finding::look(
            Topic::Setting("full_page_writes"),
            "off: a page torn by a crash can't be mended by replay, and no base can be taken from a standby",
            "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
        ));
    }
    found.push(if server.is_on("data_checksums") {
        Finding::fine(
            Topic::Setting("data_checksums"),
            "on: bases check every page",
        )
    } else {
        Finding::look(
            Topic::Setting("data_checksums"),
            "off: damage on the server's disk is not noticed, neither by it nor by a base",
            "with the server stopped: pg_checksums --enable --pgdata DIRECTORY",
        )
    });
    found
}

fn timeouts(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    let sender = server.number("wal_sender_timeout").unwrap_or(60_000);
    if sender > 0 && sender < SENDER_TIMEOUT_MIN_MS {
        found.push(Finding::look(
            Topic::Setting("wal_sender_timeout"),
            format!("{sender} ms: the server hangs up on an agent that is only busy"),
            "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();",
        ));
    }
    if server.number("idle_replication_slot_timeout") > Some(0) {
        found.push(Finding::look(
            Topic::Setting("idle_replication_slot_timeout"),
            "set: a slot is dropped when the agent is away for that long, and a new base is needed then",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        ));
    }
    found
}

/// Whether commits wait for the agent as the config means it.
fn synchronous(server: &Server, wanted: &Wanted, name: &str) -> Vec<Finding> {
    let topic = Topic::Setting("synchronous_standby_names");
    let names = server.settings.get("synchronous_standby_names");
    let names = names.map_or("", String::as_str);
    let listed = lists(names, name);
    if !wanted.waits_for_regions {
        return listed
            .then(|| {
                Finding::look(
                    topic,
                    format!(
                        "commits wait for {name}, and ack = \"spool\" answers them from the agent's own disk: one \
                         disaster can take both"
                    ),
                    "ack = \"regions\" in the [[source]] makes them wait for the regions",
                )
            })
            .into_iter()
            .collect();
    }
    if !listed {
        let statement = format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{}'; SELECT pg_reload_conf();",
            identifier(name)
        );
        let found = format!("{names:?} doesn't name {name}: no commit waits for the regions");
        return vec![Finding::broken(topic, found, statement)];
    }
    let commit = server.settings.get("synchronous_commit");
    let commit = commit.map_or("on", String::as_str);
    let mut found = vec![Finding::fine(topic, names)];
    if matches!(commit, "off" | "local" | "remote_write") {
        found.push(Finding::look(
            Topic::Setting("synchronous_commit"),
            format!("{commit}: commits don't wait until the regions hold them"),
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf();",
        ));
    }
    found
}

/// Whether `synchronous_standby_names` lists a name; `*` lists everybody.
fn lists(names: &str, name: &str) -> bool {
    let inner = match (names.find('('), names.rfind(')')) {
        (Some(from), Some(to)) if from < to => names.get(from.saturating_add(1)..to),
        _ => Some(names),
    };
    inner.unwrap_or_default().split(',').any(|one| {
        let one = one.trim();
        let bare = one.trim_matches('"');
        one == "*" || (!bare.is_empty() && bare.eq_ignore_ascii_case(name))
    })
}

fn at_least_zero(number: Option<i64>) -> u64 {
    number
        .and_then(|number| u64::try_from(number).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lsn;
    use crate::capture::Followed;
    use crate::probe::SlotState;

    fn wanted() -> Wanted {
        Wanted {
            slot: "tidemark_main".to_owned(),
            application_name: "tidemark_main".to_owned(),
            waits_for_regions: false,
            slot_keep_max: 10 << 30,
            canary: None,
            followed: None,
            runs_as: 0,
        }
    }

    fn server() -> Server {
        let settings = [
            ("wal_level", "replica"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("max_slot_wal_keep_size", "20480"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("data_checksums", "on"),
            ("wal_sender_timeout", "60000"),
            ("synchronous_standby_names", ""),
            ("synchronous_commit", "on"),
        ];
        Server {
            version: "16.4".to_owned(),
            major: 16,
            user: "tidemark".to_owned(),
            may_replicate: true,
            monitors: true,
            settings: settings
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Server::default()
        }
    }

    fn bad(server: &Server, wanted: &Wanted) -> Vec<(&'static str, Grade, String)> {
        judge(server, wanted, None)
            .into_iter()
            .filter(|finding| finding.grade > Grade::Fine)
            .map(|finding| {
                let remedy = finding.remedy.expect("what is wrong has a remedy");
                (finding.topic.name(), finding.grade, remedy)
            })
            .collect()
    }

    #[test]
    fn a_server_that_is_set_up_well_has_no_findings() {
        assert_eq!(bad(&server(), &wanted()), []);
    }

    #[test]
    fn every_setting_that_is_wrong_has_its_statement() {
        for (name, value, grade, says) in [
            (
                "wal_level",
                "minimal",
                Grade::Broken,
                "wal_level = 'replica'",
            ),
            (
                "max_wal_senders",
                "2",
                Grade::Broken,
                "max_wal_senders = 10",
            ),
            ("max_slot_wal_keep_size", "-1", Grade::Look, "= '20480MB'"),
            ("max_slot_wal_keep_size", "64", Grade::Look, "= '20480MB'"),
            ("fsync", "off", Grade::Look, "fsync = on"),
            (
                "full_page_writes",
                "off",
                Grade::Look,
                "full_page_writes = on",
            ),
            (
                "data_checksums",
                "off",
                Grade::Look,
                "pg_checksums --enable",
            ),
            ("wal_sender_timeout", "1000", Grade::Look, "'60s'"),
            ("idle_replication_slot_timeout", "60", Grade::Look, "= 0"),
        ] {
            let mut server = server();
            server.settings.insert(name.to_owned(), value.to_owned());
            let found = bad(&server, &wanted());
            let [(topic, was, remedy)] = found.as_slice() else {
                panic!("{name}: {found:?}")
            };
            assert_eq!((*topic, *was), (name, grade));
            assert!(remedy.contains(says), "{name}: {remedy}");
        }
    }

    #[test]
    fn a_role_needs_replication_and_no_more() {
        let mut one = server();
        one.may_replicate = false;
        assert_eq!(
            bad(&one, &wanted())[0].2,
            "ALTER ROLE tidemark REPLICATION;"
        );
        one = server();
        one.monitors = false;
        assert_eq!(bad(&one, &wanted())[0].2, "GRANT pg_monitor TO tidemark;");
        one = server();
        one.is_superuser = true;
        assert_eq!(bad(&one, &wanted())[0].1, Grade::Look);
    }

    #[test]
    fn a_slot_that_is_lost_or_has_no_room_is_told() {
        let mut one = server();
        one.slots = 10;
        assert_eq!(bad(&one, &wanted())[0].0, "max_replication_slots");
        one.slot = Some(SlotState {
            kind: "physical".to_owned(),
            wal_status: Some("lost".to_owned()),
            ..SlotState::default()
        });
        assert_eq!(bad(&one, &wanted())[0].1, Grade::Broken);
        one.slot = Some(SlotState {
            kind: "physical".to_owned(),
            held_bytes: Some(11 << 30),
            ..SlotState::default()
        });
        let found = bad(&one, &wanted());
        assert!(found[0].2.contains("pg_drop_replication_slot"), "{found:?}");
    }

    #[test]
    fn a_slot_that_went_while_the_agent_was_away_is_told_with_what_it_costs() {
        let captured = Wanted {
            followed: Some(Followed::at(Lsn(0x0300_1000))),
            ..wanted()
        };
        let mut server = server();
        let grade_of = |server: &Server, wanted: &Wanted| slot(server, wanted).grade;
        assert_eq!(grade_of(&server, &wanted()), Grade::Fine, "a new source");
        for (oldest, grade) in [
            (Some("0000000000000003"), Grade::Look),
            (Some("0000000000000004"), Grade::Broken),
            // Who may not list the log does not know more.
            (None, Grade::Look),
        ] {
            server.oldest_log = oldest.map(str::to_owned);
            let gone = slot(&server, &captured);
            assert_eq!(gone.grade, grade, "{oldest:?}");
            assert!(gone.found.contains("0/3001000"), "{gone:?}");
        }
    }

    #[test]
    fn a_database_that_is_not_there_is_broken_and_one_that_refuses_is_not() {
        let info = ConnInfo::parse("host=db1 user=x dbname=nope", &crate::conninfo::Process);
        let info = info.expect("valid");
        let error = std::io::Error::other("the server's words");
        let found = of_sql(&info, Some("3D000"), &error);
        assert!(found.grade == Grade::Broken && found.found.contains("\"nope\""));
        assert_eq!(of_sql(&info, Some("28000"), &error).grade, Grade::Look);
        assert_eq!(of_sql(&info, None, &error).grade, Grade::Look);
    }

    #[test]
    fn commits_wait_for_the_regions_only_if_the_server_names_the_agent() {
        let waits = Wanted {
            waits_for_regions: true,
            ..wanted()
        };
        let mut one = server();
        let found = bad(&one, &waits);
        assert!(found[0].2.contains("= 'tidemark_main'"), "{found:?}");
        let mut set = |value: &str| {
            let name = "synchronous_standby_names".to_owned();
            one.settings.insert(name, value.to_owned());
            (bad(&one, &waits).len(), bad(&one, &wanted()).len())
        };
        for named in [
            "tidemark_main",
            "*",
            "ANY 1 (\"tidemark_main\", b)",
            "FIRST 1 (a, TIDEMARK_MAIN)",
        ] {
            assert_eq!(set(named), (0, 1), "{named}");
        }
        assert_eq!(set("other"), (1, 0));
    }

    #[test]
    fn names_are_quoted_where_sql_wants_it() {
        assert_eq!(identifier("tidemark"), "tidemark");
        assert_eq!(identifier("Tide-mark"), "\"Tide-mark\"");
        assert_eq!(identifier("1a"), "\"1a\"");
    }
}
