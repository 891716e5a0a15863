//! Log-in: start-up message, passwords, SCRAM with channel binding.

use bytes::{BufMut as _, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    self, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};

use super::message::{Authentication, Message};
use super::{Connection, Mode, WireError};
use crate::conninfo::{Address, ChannelBinding, ConnInfo, Password};

/// Protocol 3.0.
const PROTOCOL: i32 = 196_608;

/// A server asks for 4096 unless told otherwise. Each costs time that nobody else of the runtime has:
/// this many are a quarter of a second.
const SCRAM_ROUNDS_MAX: u64 = 1_000_000;

/// How often the password is to be hashed, as a SCRAM challenge says it.
fn rounds(challenge: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(challenge).ok()?;
    let rounds = text.split(',').find_map(|part| part.strip_prefix("i="))?;
    rounds.parse().ok()
}

/// What the log-in needs to know of the connection under it.
pub(super) struct Under {
    /// The server's certificate as RFC 5929 hashes it; none without TLS or for odd signatures.
    pub(super) end_point: Option<Vec<u8>>,
    /// Nobody else can listen: TLS, or a socket on this machine.
    pub(super) private: bool,
}

pub(super) async fn log_in(
    connection: &mut Connection,
    info: &ConnInfo,
    address: &Address,
    mode: Mode,
    under: &Under,
) -> Result<(), WireError> {
    connection.send_raw(&start_up(info, mode)).await?;
    let password = info.password_for(address);
    let mut bound = false;
    loop {
        match connection.expect().await? {
            Message::Authentication(Authentication::Ok) => break,
            Message::Authentication(Authentication::Sasl(mechanisms)) => {
                let password = wanted(connection, info, password.as_ref())?;
                let binding = channel(connection, info, under, &mechanisms)?;
                bound = matches!(binding, Channel::Bound(_));
                scram(connection, password, binding).await?;
            }
            Message::Authentication(Authentication::Md5(salt)) => {
                let password = wanted(connection, info, password.as_ref())?;
                let hash = md5_hash(info.user.as_bytes(), password.reveal().as_bytes(), salt);
                send_password(connection, hash.as_bytes()).await?;
            }
            Message::Authentication(Authentication::Cleartext) => {
                let password = wanted(connection, info, password.as_ref())?;
                if !under.private && !info.may_send_clear_text(address) {
                    return Err(refuse(
                        connection,
                        "the server asks for the password in clear text, and the connection is not encrypted: use sslmode=require (or sslmode=disable, if the network between is trusted), or scram-sha-256 in pg_hba.conf",
                    ));
                }
                send_password(connection, password.reveal().as_bytes()).await?;
            }
            Message::Authentication(other) => {
                return Err(refuse(
                    connection,
                    format!(
                        "the server asks for a log-in that is not built ({other:?}): use scram-sha-256 in pg_hba.conf"
                    ),
                ));
            }
            _ => {
                return Err(WireError::Protocol(
                    "log-in was answered by another message",
                ));
            }
        }
    }
    if info.channel_binding == ChannelBinding::Require && !bound {
        return Err(refuse(
            connection,
            "channel_binding=require, and the server let us in without it: use scram-sha-256 in pg_hba.conf, over TLS",
        ));
    }
    loop {
        match connection.expect().await? {
            Message::BackendKey => {}
            Message::Ready => return Ok(()),
            _ => {
                return Err(WireError::Protocol(
                    "log-in was answered by another message",
                ));
            }
        }
    }
}

fn refuse(connection: &Connection, why: impl Into<String>) -> WireError {
    WireError::Login {
        peer: connection.peer().to_owned(),
        why: why.into(),
    }
}

fn wanted<'a>(
    connection: &Connection,
    info: &ConnInfo,
    password: Option<&'a Password>,
) -> Result<&'a Password, WireError> {
    password.ok_or_else(|| {
        let ignored = info.passfile.ignored().map_or_else(String::new, |path| {
            format!(
                " ({} was not used because others may read it: chmod 600)",
                path.display()
            )
        });
        refuse(
            connection,
            format!(
                "the server asks for the password of {:?} and there is none: put it into ~/.pgpass or PGPASSWORD{ignored}",
                info.user
            ),
        )
    })
}

fn start_up(info: &ConnInfo, mode: Mode) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(PROTOCOL);
    let mut put = |name: &str, value: &str| {
        body.put_slice(name.as_bytes());
        body.put_u8(0);
        body.put_slice(value.as_bytes());
        body.put_u8(0);
    };
    put("user", &info.user);
    match mode {
        Mode::Sql => put("database", &info.database),
        Mode::Physical => put("replication", "true"),
        Mode::Database => {
            put("database", &info.database);
            put("replication", "database");
        }
    }
    put("client_encoding", "UTF8");
    // Texts of positions and times must not depend on the role's settings.
    put("DateStyle", "ISO, YMD");
    put("TimeZone", "UTC");
    if let Some(name) = &info.application_name {
        put("application_name", name);
    }
    if let Some(options) = &info.options {
        put("options", options);
    }
    body.put_u8(0);
    let length = body.len().saturating_add(4);
    let mut frame = BytesMut::with_capacity(length);
    frame.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
    frame.put_slice(&body);
    frame.freeze()
}

async fn send_password(connection: &mut Connection, secret: &[u8]) -> Result<(), WireError> {
    let mut body = BytesMut::with_capacity(secret.len().saturating_add(1));
    body.put_slice(secret);
    body.put_u8(0);
    connection.send(b'p', &body).await
}

enum Channel {
    /// Bound to this hash.
    Bound(Vec<u8>),
    /// We could, the server can't: says so, so that nobody in between can take the offer away.
    Possible,
    /// We can't.
    Impossible,
}

fn channel(
    connection: &Connection,
    info: &ConnInfo,
    under: &Under,
    mechanisms: &[String],
) -> Result<Channel, WireError> {
    let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let usable = under
        .end_point
        .as_ref()
        .filter(|_| info.channel_binding != ChannelBinding::Disable);
    match usable {
        Some(hash) if offers(SCRAM_SHA_256_PLUS) => Ok(Channel::Bound(hash.clone())),
        _ if info.channel_binding == ChannelBinding::Require => Err(refuse(
            connection,
            "channel_binding=require, and it can't be had: it needs TLS and a server that offers SCRAM-SHA-256-PLUS",
        )),
        _ if !offers(SCRAM_SHA_256) => Err(refuse(
            connection,
            format!("the server offers only {mechanisms:?}: use scram-sha-256 in pg_hba.conf"),
        )),
        Some(_) => Ok(Channel::Possible),
        None => Ok(Channel::Impossible),
    }
}

async fn scram(
    connection: &mut Connection,
    password: &Password,
    channel: Channel,
) -> Result<(), WireError> {
    let (mechanism, binding) = match channel {
        Channel::Bound(hash) => (
            SCRAM_SHA_256_PLUS,
            sasl::ChannelBinding::tls_server_end_point(hash),
        ),
        Channel::Possible => (SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
        Channel::Impossible => (SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
    };
    let mut scram = ScramSha256::new(password.reveal().as_bytes(), binding);
    let mut body = BytesMut::new();
    body.put_slice(mechanism.as_bytes());
    body.put_u8(0);
    let first = scram.message();
    body.put_i32(i32::try_from(first.len()).unwrap_or(i32::MAX));
    body.put_slice(first);
    connection.send(b'p', &body).await?;
    let Message::Authentication(Authentication::SaslContinue(challenge)) =
        connection.expect().await?
    else {
        return Err(WireError::Protocol("SCRAM was answered by another message"));
    };
    let odd =
        |connection: &Connection| refuse(connection, "the server's SCRAM messages are not valid");
    if rounds(&challenge).is_some_and(|rounds| rounds > SCRAM_ROUNDS_MAX) {
        return Err(odd(connection));
    }
    scram.update(&challenge).map_err(|_why| odd(connection))?;
    connection.send(b'p', scram.message()).await?;
    let Message::Authentication(Authentication::SaslFinal(proof)) = connection.expect().await?
    else {
        return Err(WireError::Protocol("SCRAM was answered by another message"));
    };
    scram.finish(&proof).map_err(|_why| {
        refuse(
            connection,
            "the server does not know the password either: this is not the server it says it is",
        )
    })
}
