//! A connection to a server: framing, TLS, log-in, simple queries and copy mode.
//!
//! Ordinary clients don't speak the replication protocol, so this one is ours. It knows messages, not
//! what they mean: [`crate::replication`] does.
//!
//! **Cancellation.** [`Connection::next`] may be dropped at any await: bytes that arrived stay in the
//! buffer. A dropped [`Connection::send`] leaves the connection unusable, so drivers never drop one.
//!
//! **Bounds.** A message's length is checked before anything is reserved for it
//! ([`MESSAGE_BYTES_MAX`]); the receive buffer holds one message and what one read brings. The rows of an
//! answer are counted, and so are the settings that a server tells.

mod connect;
mod end_point;
mod error;
mod link;
mod login;
mod message;
mod patient;
mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use self::patient::Patience;
use crate::conninfo::ConnInfo;
pub use error::{ServerError, WireError, WireErrorKind};
pub use link::{LINK, Link};
pub use message::{Message, Row};

/// What the server calls this kind of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Ordinary SQL.
    Sql,
    /// Replication commands and `SHOW`, no database.
    Physical,
    /// Replication commands and ordinary SQL, in the named database.
    Database,
}

/// The largest message: a `CopyData` of log has 128 KiB, a row of settings less.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 256 << 10;
/// The largest answer to a statement, all rows together: a few hundred settings, or a timeline's history.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// A server tells some twenty settings.
const PARAMETERS_MAX: usize = 1000;
/// Notices that are kept for who asked for them: nobody reads as many.
const NOTICES_MAX: usize = 1000;

/// Anything that bytes go through in both directions.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection that is logged in.
pub struct Connection {
    transport: Box<dyn Transport>,
    incoming: BytesMut,
    parameters: BTreeMap<String, String>,
    /// What the server noted, if somebody wants to know.
    notices: Option<Vec<ServerError>>,
    link: Link,
    peer: String,
    patience: Patience,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// What a statement returned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultSet {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows, as text.
    pub rows: Vec<Row>,
    /// What the server says that it did, for example `SELECT`.
    pub tag: String,
}

impl ResultSet {
    /// The value in the first row's column `name`; none if it is null or not there.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let column = self.columns.iter().position(|column| column == name)?;
        self.rows.first()?.text(column)
    }
}

impl Connection {
    fn new(transport: Box<dyn Transport>, peer: String, link: Link) -> Self {
        Self {
            transport,
            incoming: BytesMut::new(),
            parameters: BTreeMap::new(),
            notices: None,
            link,
            peer,
            patience: Patience::default(),
        }
    }

    /// A connection to somebody who says `speech`, whatever is said to them, and hangs up. Nobody is
    /// logged in.
    pub(crate) fn over(speech: &[u8]) -> Self {
        let speech = std::io::Cursor::new(speech.to_vec());
        let transport = tokio::io::join(speech, tokio::io::sink());
        Self::new(Box::new(transport), "nobody".to_owned(), Link::Plain)
    }

    /// As if the server had told its version.
    pub(crate) fn claim_version(&mut self, version: &str) {
        let (name, version) = ("server_version".to_owned(), version.to_owned());
        self.parameters.insert(name, version);
    }

    /// Logs in to the first address of `info`, on a connection that is there.
    pub(crate) async fn log_in_as(mut self, info: &ConnInfo) -> Result<Self, WireError> {
        if let Some(address) = info.addresses.first() {
            let under = login::Under {
                end_point: None,
                private: true,
            };
            login::log_in(&mut self, info, address, Mode::Physical, &under).await?;
        }
        Ok(self)
    }

    /// The address, for people.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// What it goes through.
    #[must_use]
    pub const fn link(&self) -> Link {
        self.link
    }

    /// Whether TLS protects it.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        matches!(self.link, Link::Tls)
    }

    /// A setting that the server told at log-in or since, for example `server_version`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Keeps what the server notes from now on for [`Self::take_notices`].
    pub fn keep_notices(&mut self) {
        self.notices.get_or_insert_default();
    }

    /// What the server noted since the last call.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        self.notices
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The server's major version.
    #[must_use]
    pub fn major(&self) -> Option<u16> {
        let version = self.parameter("server_version")?;
        let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn send(&mut self, tag: u8, body: &[u8]) -> Result<(), WireError> {
        let length = body
            .len()
            .checked_add(4)
            .and_then(|length| i32::try_from(length).ok())
            .ok_or(WireError::TooLong(body.len()))?;
        let mut frame = BytesMut::with_capacity(body.len().saturating_add(5));
        frame.put_u8(tag);
        frame.put_i32(length);
        frame.put_slice(body);
        self.send_raw(&frame).await
    }

    async fn send_raw(&mut self, frame: &[u8]) -> Result<(), WireError> {
        let sent = async {
            self.transport.write_all(frame).await?;
            self.transport.flush().await
        };
        sent.await
            .map_err(|error| WireError::gone(&self.peer, error))
    }

    /// The next message. Settings and notices are taken in on the way.
    ///
    /// # Errors
    /// The connection is gone, or what came is no message. The server's own errors are messages.
    pub async fn next(&mut self) -> Result<Message, WireError> {
        loop {
            let (tag, body) = self.frame().await?;
            match message::parse(tag, body)? {
                Message::Parameter { name, value } => {
                    if self.parameters.len() >= PARAMETERS_MAX {
                        return Err(WireError::Protocol("the server tells settings without end"));
                    }
                    self.parameters.insert(name, value);
                }
                Message::Notice(notice) => self.noted(notice)?,
                Message::Notification => {}
                other => return Ok(other),
            }
        }
    }

    fn noted(&mut self, notice: ServerError) -> Result<(), WireError> {
        tracing::debug!(peer = %self.peer, notice = %notice, "the server notes");
        let Some(notices) = &mut self.notices else {
            return Ok(());
        };
        if notices.len() >= NOTICES_MAX {
            return Err(WireError::Protocol("the server notes things without end"));
        }
        notices.push(notice);
        Ok(())
    }

    /// The next message that is no error; the server's errors become ours.
    ///
    /// # Errors
    /// As [`Self::next`], and what the server reports.
    pub async fn expect(&mut self) -> Result<Message, WireError> {
        match self.next().await? {
            Message::Error(error) => Err(WireError::Server(Box::new(error))),
            other => Ok(other),
        }
    }

    /// From now on what comes is read together every so often, as long as something comes; zero: as it
    /// comes.
    pub(crate) fn read_every(&mut self, wait: Duration) {
        self.patience.set(wait);
    }

    async fn frame(&mut self) -> Result<(u8, Bytes), WireError> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(frame);
            }
            self.incoming.reserve(READ_BYTES);
            let read = self.transport.read_buf(&mut self.incoming).await;
            match read {
                Ok(0) => return Err(WireError::closed(&self.peer)),
                Ok(_more) => {}
                Err(error) => return Err(WireError::gone(&self.peer, error)),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(u8, Bytes)>, WireError> {
        let Some((head, _)) = self.incoming.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let [tag, length @ ..] = *head;
        let body = usize::try_from(i32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_sub(4))
            .filter(|body| *body <= MESSAGE_BYTES_MAX)
            .ok_or(WireError::Protocol("a message has an impossible length"))?;
        if self.incoming.len() < body.saturating_add(5) {
            return Ok(None);
        }
        self.incoming.advance(5);
        Ok(Some((tag, self.incoming.split_to(body).freeze())))
    }

    /// Runs statements by the simple protocol: what each returned.
    ///
    /// # Errors
    /// The connection is gone, or the server refuses one; then the connection still works.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<ResultSet>, WireError> {
        self.start_query(sql).await?;
        self.results().await
    }

    /// Sends statements whose answers are read by [`Self::next`].
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn start_query(&mut self, sql: &str) -> Result<(), WireError> {
        let mut body = BytesMut::with_capacity(sql.len().saturating_add(1));
        if sql.contains('\0') {
            return Err(WireError::Protocol("a statement has a zero byte"));
        }
        body.put_slice(sql.as_bytes());
        body.put_u8(0);
        self.send(b'Q', &body).await
    }

    /// Reads what is left of a query's answers, up to "ready".
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn results(&mut self) -> Result<Vec<ResultSet>, WireError> {
        let mut sets = Vec::new();
        let mut current = ResultSet::default();
        let mut failed = None;
        let mut answered = 0_usize;
        loop {
            match self.next().await? {
                Message::Columns(columns) => current.columns = columns,
                Message::Row(row) => {
                    answered = answered.saturating_add(row.memory());
                    if answered > ANSWER_BYTES_MAX {
                        return Err(WireError::Protocol("an answer is longer than any can be"));
                    }
                    current.rows.push(row);
                }
                Message::Complete(tag) => {
                    current.tag = tag;
                    sets.push(std::mem::take(&mut current));
                }
                Message::Empty => {}
                // The server goes on to "ready" after an error.
                Message::Error(error) => failed = failed.or(Some(error)),
                Message::Ready => break,
                _ => {
                    return Err(WireError::Protocol(
                        "a query was answered by another message",
                    ));
                }
            }
        }
        match failed {
            Some(error) => Err(WireError::Server(Box::new(error))),
            None => Ok(sets),
        }
    }

    /// Runs one statement that returns one row set.
    ///
    /// # Errors
    /// As [`Self::query`].
    pub async fn query_one(&mut self, sql: &str) -> Result<ResultSet, WireError> {
        let sets = self.query(sql).await?;
        sets.into_iter()
            .next()
            .ok_or(WireError::Protocol("a statement was not answered"))
    }

    /// Says good-bye. Dropping the connection does it less politely.
    pub async fn close(mut self) {
        // Nobody cares whether the server still heard it.
        drop(self.send(b'X', &[]).await);
        drop(self.transport.shutdown().await);
    }
}

/// A name or text as a quoted identifier.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a quoted literal; backslashes stay what they are.
#[must_use]
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
