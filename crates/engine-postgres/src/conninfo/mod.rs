//! Connection strings, as users of libpq know them.
//!
//! A value is looked for, in this order, in the connection string (URL or `key=value`), the service
//! that it or `PGSERVICE` names, the environment (`PGHOST` …), libpq's defaults; a password at last in
//! the passfile. What is not supported is refused by name: silently ignoring `sslmode` would be worse
//! than not connecting.
//!
//! Pure: environment and files come in through [`Surroundings`].

mod parse;
mod passfile;
mod process;
mod service;
mod settle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use passfile::Passfile;
pub use process::{Process, check_text};
pub use settle::{Settled, settle};

/// What a process has around it.
pub trait Surroundings {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;
    /// A file's content; `None` if it is not there.
    ///
    /// # Errors
    /// It is there and can't be read.
    fn read(&self, path: &Path) -> std::io::Result<Option<String>>;
    /// The permission bits of a file.
    fn mode(&self, path: &Path) -> Option<u32>;
    /// The name of the operating system's user.
    fn user(&self) -> Option<String>;
}

/// Why a connection string can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnInfoError {
    /// It is neither a URL nor pairs of key and value.
    #[error(
        "the connection string can't be read: {0}; write postgres://user@host/database or host=… user=…"
    )]
    Syntax(String),
    /// A keyword that libpq doesn't know either.
    #[error("the connection string has an unknown parameter {0:?}")]
    Unknown(String),
    /// A keyword of libpq's that means something here that isn't built.
    #[error("the connection parameter {name} is not supported here: {why}")]
    Unsupported {
        /// The keyword.
        name: String,
        /// Why, and what to do instead.
        why: &'static str,
    },
    /// A value that its keyword doesn't take.
    #[error("{name}={value:?} is not valid: expected {expected}")]
    Value {
        /// The keyword.
        name: String,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Lists of hosts and ports that don't fit one another.
    #[error("{0}")]
    Lists(String),
    /// A service that is defined nowhere.
    #[error("the service {name:?} is in none of {looked:?}")]
    Service {
        /// The service.
        name: String,
        /// Files that were looked into.
        looked: Vec<PathBuf>,
    },
    /// A file that is there and can't be read.
    #[error("{} can't be read: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
}

type Result<T> = std::result::Result<T, ConnInfoError>;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// By name or number; `at` avoids the look-up (`hostaddr`).
    Tcp {
        /// The name: certificates are checked against it.
        host: String,
        /// The number to connect to.
        at: Option<std::net::IpAddr>,
        /// The port.
        port: u16,
    },
    /// A socket in a folder (or, with `@`, in the abstract namespace).
    Unix {
        /// The folder.
        folder: PathBuf,
        /// Names the socket in it.
        port: u16,
    },
}

impl Address {
    /// What the passfile calls it.
    #[must_use]
    pub fn passfile_host(&self) -> String {
        match self {
            Self::Tcp { host, .. } => host.clone(),
            Self::Unix { folder, .. } if folder == Path::new(parse::SOCKET_FOLDER) => {
                "localhost".to_owned()
            }
            Self::Unix { folder, .. } => folder.display().to_string(),
        }
    }

    /// Whether nobody else is between: a socket, or an address of this very machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { at: Some(at), .. } => at.is_loopback(),
            Self::Tcp { host, at: None, .. } => {
                let number: Option<std::net::IpAddr> = host.parse().ok();
                host == "localhost" || number.is_some_and(|at| at.is_loopback())
            }
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } | Self::Unix { port, .. } => *port,
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { folder, port } => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

/// How much of TLS is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    Disable,
    /// If the server refuses otherwise.
    Allow,
    /// If the server has it.
    Prefer,
    /// Always, with whomever.
    Require,
    /// With a certificate of a known authority.
    VerifyCa,
    /// That names this host.
    VerifyFull,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// Whether the log-in is bound to the TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server offers it.
    Prefer,
    /// Or no log-in.
    Require,
}

/// Which of several servers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// The first that answers.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that doesn't.
    ReadOnly,
    /// One that isn't in recovery.
    Primary,
    /// One that is.
    Standby,
    /// A standby, or else any.
    PreferStandby,
}

/// Where the trusted authorities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// This file.
    File(PathBuf),
    /// The operating system's.
    System,
}

/// A password that doesn't show up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whether and how TCP finds out that the other side is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalives {
    /// Off if false.
    pub on: bool,
    /// Quiet seconds before the first probe.
    pub idle: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
    /// Probes without an answer.
    pub count: Option<u32>,
    /// How long sent bytes may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// How to reach a server, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// To be tried in this order.
    pub addresses: Vec<Address>,
    /// The role.
    pub user: String,
    /// The database, for ordinary SQL.
    pub database: String,
    /// As given; if not, [`Passfile`] may know one per address.
    pub password: Option<Password>,
    /// What the passfile holds.
    pub passfile: Passfile,
    /// How much of TLS is wanted.
    pub ssl: SslMode,
    /// Trusted authorities; none if there is no file.
    pub roots: Option<Roots>,
    /// Versions of TLS that will do: the oldest and the newest.
    pub tls_versions: (TlsVersion, TlsVersion),
    /// The client's certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Whether the log-in is bound to the TLS connection.
    pub channel_binding: ChannelBinding,
    /// Which of several servers will do.
    pub target: TargetSession,
    /// How long one address may take.
    pub connect_timeout: Option<Duration>,
    /// What the server calls us (`synchronous_standby_names` matches it).
    pub application_name: Option<String>,
    /// Settings for the session, as the server's command line would have them.
    pub options: Option<String>,
    /// How TCP finds out that the other side is gone.
    pub keepalives: Keepalives,
}

impl ConnInfo {
    /// Reads a connection string, with everything that libpq would add to it.
    ///
    /// # Errors
    /// [`ConnInfoError`].
    pub fn parse(text: &str, around: &dyn Surroundings) -> Result<Self> {
        let mut given = parse::read(text)?;
        let service = given
            .remove("service")
            .or_else(|| around.variable("PGSERVICE"));
        if let Some(name) = service {
            for (key, value) in service::find(&name, around)? {
                given.entry(key).or_insert(value);
            }
        }
        for (key, variable) in parse::VARIABLES {
            if let Some(value) = around.variable(variable).filter(|value| !value.is_empty()) {
                given.entry((*key).to_owned()).or_insert(value);
            }
        }
        parse::check(given, around)
    }

    /// The password for an address, from the string or the passfile.
    #[must_use]
    pub fn password_for(&self, address: &Address) -> Option<Password> {
        self.password.clone().or_else(|| {
            self.passfile
                .find(
                    &address.passfile_host(),
                    address.port(),
                    &self.database,
                    &self.user,
                )
                .map(|password| Password(password.to_owned()))
        })
    }
}

impl ConnInfo {
    /// Whether a password may go to `address` as it is, without TLS: nobody is between, or the connection
    /// string says that TLS is not wanted. `prefer` says nothing of the kind: who takes TLS away could
    /// have the password, too.
    #[must_use]
    pub fn may_send_clear_text(&self, address: &Address) -> bool {
        address.is_local() || matches!(self.ssl, SslMode::Disable | SslMode::Allow)
    }

    /// Whether somebody between could take TLS away without anybody's knowledge: the mode that holds where
    /// none is written, and a server on another machine.
    #[must_use]
    pub fn leaves_tls_to_chance(&self, address: &Address) -> bool {
        self.ssl == SslMode::Prefer && !address.is_local()
    }
}

/// Pairs of keyword and value.
type Pairs = BTreeMap<String, String>;
