//! What a connection goes through, as the connection itself knows: not what a connection string asks for.

/// Under which name a log object's facts say over which kind of connection its log came.
pub const LINK: &str = "link";

/// What lies between us and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// A socket in this machine's file system.
    UnixSocket,
    /// This machine's own loopback, unencrypted.
    Loopback,
    /// TLS was negotiated.
    Tls,
    /// A network, unencrypted.
    Plain,
}

impl Link {
    /// As facts write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnixSocket => "unix-socket",
            Self::Loopback => "loopback",
            Self::Tls => "tls",
            Self::Plain => "plain",
        }
    }
}
