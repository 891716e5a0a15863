//! The log as the server streams it, from a position on one timeline to that timeline's end.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tidemark_format::postgres::{Lsn, TimelineId};

use super::number;
use crate::wal::PgTime;
use crate::wire::{Connection, Message, ResultSet, WireError, quote_identifier};

/// A timeline's end: its successor, as the server's own row says (ids are not consecutive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The branch that follows.
    pub next: TimelineId,
    /// Where it leaves this one.
    pub at: Lsn,
}

/// How streaming began.
#[derive(Debug)]
pub enum Started {
    /// It streams.
    Streaming(Stream),
    /// The position is the very end of that timeline: there is nothing to stream.
    Ended(Connection, Switch),
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// Bytes of the log.
    Data {
        /// Where they begin.
        start: Lsn,
        /// Up to where the server's log is flushed.
        server_end: Lsn,
        /// The server's clock.
        at: PgTime,
        /// The log.
        bytes: Bytes,
    },
    /// The server is there.
    Keepalive {
        /// Up to where its log is flushed.
        server_end: Lsn,
        /// The server's clock.
        at: PgTime,
        /// It wants to hear from us at once, or it will hang up.
        reply_wanted: bool,
    },
    /// The timeline has ended; [`Stream::into_connection`] gives back the connection.
    Ended(Switch),
    /// The server shuts down cleanly, and everything was sent.
    Stopped,
}

/// What we tell the server: "last byte plus one" each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flushed {
    /// Received.
    pub written: Lsn,
    /// Safe: a synchronous commit waits for it, and what is before it may be recycled.
    pub flushed: Lsn,
    /// What `remote_apply` waits for.
    pub applied: Lsn,
}

/// A log that streams.
#[derive(Debug)]
pub struct Stream {
    connection: Connection,
    /// The server has ended the copy; what it says about that so far.
    ending: Option<ResultSet>,
    /// It is still to be told that we end it, too.
    owes_end: bool,
}

/// Starts streaming `timeline` from `at`, holding `slot` if one is named. The server wants to have been
/// asked who it is before ([`super::identify`]).
///
/// # Errors
/// The connection's, or the server's: 58P01 if that log is recycled, XX000 if the position is not on
/// that timeline, 55006 if the slot is in use. Some come only with the first event, after the server has
/// agreed to stream.
pub async fn start(
    mut connection: Connection,
    slot: Option<&str>,
    at: Lsn,
    timeline: TimelineId,
) -> Result<Started, WireError> {
    let slot = slot.map_or_else(String::new, |slot| {
        format!("SLOT {} ", quote_identifier(slot))
    });
    let command = format!("START_REPLICATION {slot}PHYSICAL {at} TIMELINE {timeline}");
    connection.start_query(&command).await?;
    match connection.next().await? {
        Message::CopyBoth => Ok(Started::Streaming(Stream {
            connection,
            ending: None,
            owes_end: false,
        })),
        // Exactly at a timeline's end the server goes straight to its successor's row.
        Message::Columns(columns) => {
            let switch = read_switch(&mut connection, columns).await?;
            Ok(Started::Ended(connection, switch))
        }
        Message::Error(error) => {
            // "Ready" follows, unless the server hangs up.
            drop(connection.results().await);
            Err(WireError::Server(Box::new(error)))
        }
        _ => Err(WireError::Protocol(
            "START_REPLICATION was answered by another message",
        )),
    }
}

const ODD_SWITCH: WireError =
    WireError::Protocol("the end of a timeline was not told as it should be");

/// Reads the row that names a timeline's successor, and everything up to "ready".
async fn read_switch(
    connection: &mut Connection,
    columns: Vec<String>,
) -> Result<Switch, WireError> {
    let mut set = ResultSet {
        columns,
        ..ResultSet::default()
    };
    loop {
        let message = connection.expect().await?;
        if let Some(switch) = gather(&mut set, message)? {
            return Ok(switch);
        }
    }
}

/// Takes in one of the messages that tell a timeline's end; the switch with the last of them.
fn gather(set: &mut ResultSet, message: Message) -> Result<Option<Switch>, WireError> {
    match message {
        Message::Columns(columns) => set.columns = columns,
        Message::Row(row) => set.rows.push(row),
        Message::Complete(_) | Message::CopyDone => {}
        Message::Ready => {
            let next = number::<u32>(set, "next_tli").filter(|id| *id > 0);
            return Ok(Some(Switch {
                next: TimelineId(next.ok_or(ODD_SWITCH)?),
                at: number(set, "next_tli_startpos").ok_or(ODD_SWITCH)?,
            }));
        }
        _ => return Err(ODD_SWITCH),
    }
    Ok(None)
}

impl Stream {
    /// The next event. May be dropped while it waits.
    ///
    /// # Errors
    /// The connection's, or the server's; the stream is over then.
    pub async fn next(&mut self) -> Result<StreamEvent, WireError> {
        loop {
            if self.owes_end {
                // Said twice, if this was dropped in the middle, it is ignored the second time.
                self.connection.send(b'c', &[]).await?;
                self.owes_end = false;
            }
            let message = self.connection.expect().await?;
            if let Some(set) = &mut self.ending {
                if let Some(switch) = gather(set, message)? {
                    return Ok(StreamEvent::Ended(switch));
                }
                continue;
            }
            match message {
                Message::CopyData(data) => return event(data),
                Message::CopyDone => {
                    self.ending = Some(ResultSet::default());
                    self.owes_end = true;
                }
                Message::Complete(_) => return Ok(StreamEvent::Stopped),
                _ => return Err(WireError::Protocol("the stream carries another message")),
            }
        }
    }

    /// From now on what comes is read together every so often; zero: as it comes.
    pub fn read_every(&mut self, wait: Duration) {
        self.connection.read_every(wait);
    }

    /// Tells the server how far we are; with `reply` it answers at once, which shows that it lives.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn report(
        &mut self,
        flushed: Flushed,
        now: PgTime,
        reply: bool,
    ) -> Result<(), WireError> {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        body.put_u64(flushed.written.0);
        body.put_u64(flushed.flushed.0);
        body.put_u64(flushed.applied.0);
        body.put_i64(now.0);
        body.put_u8(u8::from(reply));
        self.connection.send(b'd', &body).await
    }

    /// Whom it streams from.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.connection.peer()
    }

    /// The connection, once the timeline has ended.
    #[must_use]
    pub fn into_connection(mut self) -> Connection {
        self.connection.read_every(Duration::ZERO);
        self.connection
    }
}

/// Reads a copy message of the stream.
fn event(mut data: Bytes) -> Result<StreamEvent, WireError> {
    const CUT: WireError = WireError::Protocol("a message of the stream is cut");
    let tag = data.try_get_u8().map_err(|_short| CUT)?;
    let mut long = || data.try_get_u64().map(Lsn).map_err(|_short| CUT);
    match tag {
        b'w' => {
            let (start, server_end) = (long()?, long()?);
            let at = PgTime(data.try_get_i64().map_err(|_short| CUT)?);
            Ok(StreamEvent::Data {
                start,
                server_end,
                at,
                bytes: data,
            })
        }
        b'k' => {
            let server_end = long()?;
            let at = PgTime(data.try_get_i64().map_err(|_short| CUT)?);
            let reply_wanted = data.try_get_u8().map_err(|_short| CUT)? != 0;
            Ok(StreamEvent::Keepalive {
                server_end,
                at,
                reply_wanted,
            })
        }
        _ => Err(WireError::Protocol("the stream carries an unknown message")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn data_and_keepalives_are_read() {
        let mut data = vec![b'w'];
        for number in [0x10_u64, 0x20, 5] {
            data.extend(number.to_be_bytes());
        }
        data.extend(b"log");
        assert_eq!(
            event(data.into()).expect("data"),
            StreamEvent::Data {
                start: Lsn(0x10),
                server_end: Lsn(0x20),
                at: PgTime(5),
                bytes: Bytes::from_static(b"log"),
            }
        );
        let mut keepalive = vec![b'k'];
        for number in [0x30_u64, 6] {
            keepalive.extend(number.to_be_bytes());
        }
        keepalive.push(1);
        assert_eq!(
            event(keepalive.into()).expect("a keepalive"),
            StreamEvent::Keepalive {
                server_end: Lsn(0x30),
                at: PgTime(6),
                reply_wanted: true,
            }
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..60)) {
            drop(event(Bytes::from(data)));
        }
    }
}
