//! From a connection string to a connection: addresses in their order, TLS, log-in, the right role.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::login::{Under, log_in};
use super::patient::{Patience, Patient};
use super::{Connection, Link, Mode, Transport, WireError, WireErrorKind, end_point, tls};
use crate::conninfo::{Address, ConnInfo, Keepalives, SslMode, TargetSession};

/// How long one address may take unless the connection string says otherwise.
const CONNECT_SECONDS: u64 = 10;
/// The request for TLS, as the protocol has it.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

impl Connection {
    /// Connects and logs in: to the first address that answers and has the role asked for.
    ///
    /// # Errors
    /// None will do; the error of the only address, or what each of several said.
    pub async fn open(info: &ConnInfo, mode: Mode) -> Result<Self, WireError> {
        let mut errors = Vec::new();
        for target in rounds(info.target) {
            for address in &info.addresses {
                match open_one(info, address, mode, *target).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => errors.push(error),
                }
            }
        }
        Err(none_will_do(errors))
    }

    /// Connects and logs in to every address that answers and has the role asked for, to all of them at
    /// once; in the order of the connection string, at least one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_all(info: &ConnInfo, mode: Mode) -> Result<Vec<Self>, WireError> {
        let mut errors = Vec::new();
        for target in rounds(info.target) {
            let mut tasks = JoinSet::new();
            for (index, address) in info.addresses.iter().cloned().enumerate() {
                let (info, target) = (info.clone(), *target);
                tasks.spawn(async move {
                    let opened = open_one(&info, &address, mode, target).await;
                    (index, opened)
                });
            }
            let mut tried = tasks.join_all().await;
            tried.sort_by_key(|(index, _)| *index);
            let mut opened = Vec::new();
            for (_, one) in tried {
                match one {
                    Ok(connection) => opened.push(connection),
                    Err(error) => errors.push(error),
                }
            }
            if !opened.is_empty() {
                return Ok(opened);
            }
        }
        Err(none_will_do(errors))
    }
}

/// What is tried, one after the other.
const fn rounds(target: TargetSession) -> &'static [TargetSession] {
    match target {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        TargetSession::Any => &[TargetSession::Any],
        TargetSession::ReadWrite => &[TargetSession::ReadWrite],
        TargetSession::ReadOnly => &[TargetSession::ReadOnly],
        TargetSession::Primary => &[TargetSession::Primary],
        TargetSession::Standby => &[TargetSession::Standby],
    }
}

/// What people hear of several addresses, none of which will do.
fn none_will_do(mut errors: Vec<WireError>) -> WireError {
    // A person must act on a wrong password, whatever the other addresses say.
    let telling = errors
        .iter()
        .position(|error| matches!(error.kind(), WireErrorKind::Denied | WireErrorKind::Tls));
    if errors.len() == 1 {
        return errors.swap_remove(0);
    }
    if let Some(index) = telling {
        return errors.swap_remove(index);
    }
    WireError::NoTarget(errors.iter().map(told).collect())
}

/// An error with its causes.
fn told(error: &WireError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

async fn open_one(
    info: &ConnInfo,
    address: &Address,
    mode: Mode,
    target: TargetSession,
) -> Result<Connection, WireError> {
    let timeout = info
        .connect_timeout
        .unwrap_or(Duration::from_secs(CONNECT_SECONDS));
    let opened = async {
        let mut connection = logged_in(info, address, mode).await?;
        if target != TargetSession::Any {
            suits(&mut connection, target).await?;
        }
        Ok(connection)
    };
    tokio::time::timeout(timeout, opened)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(WireError::Timeout {
                peer: address.to_string(),
                seconds: timeout.as_secs(),
            })
        })
}

/// Tries with and without TLS as the mode says.
async fn logged_in(
    info: &ConnInfo,
    address: &Address,
    mode: Mode,
) -> Result<Connection, WireError> {
    let local = matches!(address, Address::Unix { .. });
    let (first, second) = match info.ssl {
        _ if local => (false, None),
        SslMode::Disable => (false, None),
        SslMode::Allow => (false, Some(true)),
        SslMode::Prefer => (true, Some(false)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (true, None),
    };
    let refused = |error: &WireError| {
        // "No pg_hba.conf entry" for this kind of connection; a server without TLS.
        error.code() == Some("28000") || error.kind() == WireErrorKind::Tls
    };
    match (attempt(info, address, mode, first).await, second) {
        (Err(error), Some(encrypted)) if refused(&error) => {
            match attempt(info, address, mode, encrypted).await {
                // What we refuse ourselves has its own remedy.
                Err(second @ WireError::Login { .. }) => Err(second),
                // Without TLS there, only the second try was one: what it says is the cause.
                opened if opened.is_ok() || matches!(error, WireError::NoTls(_)) => opened,
                // What the server said first is what people should hear.
                _second => Err(error),
            }
        }
        (opened, _) => opened,
    }
}

async fn attempt(
    info: &ConnInfo,
    address: &Address,
    mode: Mode,
    encrypted: bool,
) -> Result<Connection, WireError> {
    let peer = address.to_string();
    let unreachable = |source| WireError::Unreachable {
        peer: peer.clone(),
        source,
    };
    let patience = Patience::default();
    let (transport, under, link): (Box<dyn Transport>, Under, Link) = match address {
        Address::Unix { folder, port } => {
            let stream = unix(folder, *port).await.map_err(unreachable)?;
            let stream = Patient::new(stream, patience.clone());
            let under = Under {
                end_point: None,
                private: true,
            };
            (Box::new(stream), under, Link::UnixSocket)
        }
        Address::Tcp { host, at, port } => {
            let stream = match at {
                Some(at) => TcpStream::connect((*at, *port)).await,
                None => TcpStream::connect((host.as_str(), *port)).await,
            };
            let stream = stream.map_err(unreachable)?;
            let link = match stream.peer_addr() {
                _ if encrypted => Link::Tls,
                Ok(there) if there.ip().to_canonical().is_loopback() => Link::Loopback,
                Ok(_) | Err(_) => Link::Plain,
            };
            tune(&stream, &info.keepalives).map_err(unreachable)?;
            let stream = Patient::new(stream, patience.clone());
            if encrypted {
                let (transport, under) = wrap(info, host, &peer, stream).await?;
                (transport, under, link)
            } else {
                let under = Under {
                    end_point: None,
                    private: false,
                };
                (Box::new(stream), under, link)
            }
        }
    };
    let mut connection = Connection::new(transport, peer, link);
    connection.patience = patience;
    log_in(&mut connection, info, address, mode, &under).await?;
    Ok(connection)
}

async fn unix(folder: &Path, port: u16) -> std::io::Result<UnixStream> {
    let name = format!(".s.PGSQL.{port}");
    match folder.to_str().and_then(|folder| folder.strip_prefix('@')) {
        Some(abstract_name) => UnixStream::connect(format!("\0{abstract_name}/{name}")).await,
        None => UnixStream::connect(folder.join(name)).await,
    }
}

fn tune(stream: &TcpStream, keepalives: &Keepalives) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    if !keepalives.on {
        return Ok(());
    }
    sockopt::set_socket_keepalive(stream, true)?;
    if let Some(idle) = keepalives.idle {
        sockopt::set_tcp_keepidle(stream, idle)?;
    }
    if let Some(interval) = keepalives.interval {
        sockopt::set_tcp_keepintvl(stream, interval)?;
    }
    if let Some(count) = keepalives.count {
        sockopt::set_tcp_keepcnt(stream, count)?;
    }
    if let Some(timeout) = keepalives.user_timeout {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    }
    Ok(())
}

async fn wrap(
    info: &ConnInfo,
    host: &str,
    peer: &str,
    mut stream: Patient<TcpStream>,
) -> Result<(Box<dyn Transport>, Under), WireError> {
    let gone = |source| WireError::gone(peer, source);
    stream.write_all(&TLS_REQUEST).await.map_err(gone)?;
    // One byte, and not one more: what follows it belongs to TLS.
    match stream.read_u8().await.map_err(gone)? {
        b'S' => {}
        b'N' => {
            return Err(WireError::NoTls(peer.to_owned()));
        }
        _ => {
            return Err(WireError::Protocol(
                "the request for TLS was not understood",
            ));
        }
    }
    let config = tls::config(info, peer)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| WireError::Tls {
        peer: peer.to_owned(),
        why: format!("{host:?} is no name that a certificate can have"),
        source: Some(Box::new(error)),
    })?;
    let stream = TlsConnector::from(Arc::clone(&config))
        .connect(name, stream)
        .await
        .map_err(|error| WireError::Tls {
            peer: peer.to_owned(),
            why: "the server's certificate or handshake is refused; check sslrootcert and that the certificate names this host".to_owned(),
            source: Some(Box::new(error)),
        })?;
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first);
    let under = Under {
        end_point: certificate.and_then(|certificate| end_point::of(certificate)),
        private: true,
    };
    Ok((Box::new(stream), under))
}

/// Whether the server has the role that is asked for.
async fn suits(connection: &mut Connection, target: TargetSession) -> Result<(), WireError> {
    // Servers from 14 on tell both at log-in; asking works on replication connections, too.
    let standby = told_or_shown(connection, "in_hot_standby").await? == "on";
    let read_only =
        standby || told_or_shown(connection, "default_transaction_read_only").await? == "on";
    let (suits, wanted) = match target {
        TargetSession::Any | TargetSession::PreferStandby => (true, "any"),
        TargetSession::ReadWrite => (!read_only, "one that takes writes"),
        TargetSession::ReadOnly => (read_only, "one that takes no writes"),
        TargetSession::Primary => (!standby, "a primary"),
        TargetSession::Standby => (standby, "a standby"),
    };
    if suits {
        return Ok(());
    }
    Err(WireError::NoTarget(vec![format!(
        "{} is {}, and {wanted} is asked for (target_session_attrs)",
        connection.peer(),
        if standby { "a standby" } else { "a primary" }
    )]))
}

async fn told_or_shown(connection: &mut Connection, name: &str) -> Result<String, WireError> {
    if let Some(value) = connection.parameter(name) {
        return Ok(value.to_owned());
    }
    let shown = connection.query_one(&format!("SHOW {name}")).await?;
    Ok(shown
        .rows
        .first()
        .and_then(|row| row.text(0))
        .unwrap_or_default()
        .to_owned())
}
