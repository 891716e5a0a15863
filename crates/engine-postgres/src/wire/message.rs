//! What servers say.
//!
//! Hostile bytes give a typed error, and reserve no more than they are long.

use bytes::{Buf, Bytes};

use super::error::{ServerError, WireError};

/// A row, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row(pub Vec<Option<Bytes>>);

impl Row {
    /// A column's text; none if it is null, not there or no text.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(column)?.as_ref()?).ok()
    }

    /// What it takes in memory, roughly.
    pub(super) fn memory(&self) -> usize {
        let columns = self.0.len().saturating_mul(size_of::<Option<Bytes>>());
        let bytes = self.0.iter().flatten().map(Bytes::len).sum::<usize>();
        columns
            .saturating_add(bytes)
            .saturating_add(size_of::<Self>())
    }

    /// A column's bytes; none if it is null or not there.
    #[must_use]
    pub fn bytes(&self, column: usize) -> Option<&Bytes> {
        self.0.get(column)?.as_ref()
    }
}

/// How the server wants to know who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// It knows.
    Ok,
    /// The password as it is.
    Cleartext,
    /// A hash of it with this salt.
    Md5([u8; 4]),
    /// One of these mechanisms.
    Sasl(Vec<String>),
    /// A mechanism's next step.
    SaslContinue(Bytes),
    /// A mechanism's end.
    SaslFinal(Bytes),
    /// Something else.
    Other(i32),
}

/// A message of the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Log-in goes on.
    Authentication(Authentication),
    /// A setting's value.
    Parameter {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// What a cancel request would need.
    BackendKey,
    /// The server waits for the next command.
    Ready,
    /// Names of columns.
    Columns(Vec<String>),
    /// A row.
    Row(Row),
    /// A command is done.
    Complete(String),
    /// There was no command.
    Empty,
    /// A command failed.
    Error(ServerError),
    /// Something to know.
    Notice(ServerError),
    /// Of `NOTIFY`, which nothing here listens to.
    Notification,
    /// Copying begins, from the server.
    CopyOut,
    /// Copying begins, to the server.
    CopyIn,
    /// Copying begins, both ways.
    CopyBoth,
    /// A piece of a copy.
    CopyData(Bytes),
    /// A copy's end.
    CopyDone,
}

const CUT: WireError = WireError::Protocol("a message ends before its content does");

fn text(body: &mut Bytes) -> Result<String, WireError> {
    let end = body.iter().position(|byte| *byte == 0).ok_or(CUT)?;
    let text = body.split_to(end);
    body.advance(1);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn array<const N: usize>(body: &mut Bytes) -> Result<[u8; N], WireError> {
    let array = *body.first_chunk::<N>().ok_or(CUT)?;
    body.advance(N);
    Ok(array)
}

fn int16(body: &mut Bytes) -> Result<i16, WireError> {
    array(body).map(i16::from_be_bytes)
}

fn int32(body: &mut Bytes) -> Result<i32, WireError> {
    array(body).map(i32::from_be_bytes)
}

fn take(body: &mut Bytes, n: usize) -> Result<Bytes, WireError> {
    if body.len() < n {
        return Err(CUT);
    }
    Ok(body.split_to(n))
}

/// Reads a message.
pub(super) fn parse(tag: u8, mut body: Bytes) -> Result<Message, WireError> {
    Ok(match tag {
        b'd' => Message::CopyData(body),
        b'D' => Message::Row(row(&mut body)?),
        b'R' => Message::Authentication(authentication(&mut body)?),
        b'S' => Message::Parameter {
            name: text(&mut body)?,
            value: text(&mut body)?,
        },
        b'K' => Message::BackendKey,
        b'Z' => Message::Ready,
        b'T' => Message::Columns(columns(&mut body)?),
        b'C' => Message::Complete(text(&mut body)?),
        b'I' => Message::Empty,
        b'E' => Message::Error(fields(&mut body)?),
        b'N' => Message::Notice(fields(&mut body)?),
        b'A' => Message::Notification,
        b'H' => Message::CopyOut,
        b'G' => Message::CopyIn,
        b'W' => Message::CopyBoth,
        b'c' => Message::CopyDone,
        _ => return Err(WireError::Protocol("a message has an unknown type")),
    })
}

fn count(body: &mut Bytes) -> Result<usize, WireError> {
    usize::try_from(int16(body)?).map_err(|_negative| CUT)
}

fn row(body: &mut Bytes) -> Result<Row, WireError> {
    let count = count(body)?;
    // Each column costs its length at least.
    let mut columns = Vec::with_capacity(count.min(body.len() / 4));
    for _ in 0..count {
        let length = int32(body)?;
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(take(body, length)?),
            Err(_null) => None,
        });
    }
    Ok(Row(columns))
}

fn columns(body: &mut Bytes) -> Result<Vec<String>, WireError> {
    let count = count(body)?;
    let mut names = Vec::with_capacity(count.min(body.len() / 19));
    for _ in 0..count {
        names.push(text(body)?);
        // Table, column, type, its size and modifier, and the format.
        take(body, 18)?;
    }
    Ok(names)
}

fn authentication(body: &mut Bytes) -> Result<Authentication, WireError> {
    Ok(match int32(body)? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(array(body)?),
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                let mechanism = text(body)?;
                if mechanism.is_empty() {
                    break Authentication::Sasl(mechanisms);
                }
                mechanisms.push(mechanism);
            }
        }
        11 => Authentication::SaslContinue(body.split_off(0)),
        12 => Authentication::SaslFinal(body.split_off(0)),
        other => Authentication::Other(other),
    })
}

fn fields(body: &mut Bytes) -> Result<ServerError, WireError> {
    let mut error = ServerError::default();
    loop {
        let [kind] = array(body)?;
        if kind == 0 {
            return Ok(error);
        }
        let value = text(body)?;
        match kind {
            // The severity that is never translated, where the server has it.
            b'V' => error.severity = value,
            b'S' if error.severity.is_empty() => error.severity = value,
            b'C' => error.code = value,
            b'M' => error.message = value,
            b'D' => error.detail = Some(value),
            b'H' => error.hint = Some(value),
            b'R' => error.routine = Some(value),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(tag: u8, body: &'static [u8]) -> Message {
        parse(tag, Bytes::from_static(body)).expect("a message")
    }

    #[test]
    fn rows_keep_null_and_empty_apart() {
        let Message::Row(row) = parsed(b'D', b"\0\x03\0\0\0\x02ab\xFF\xFF\xFF\xFF\0\0\0\0") else {
            panic!("a row");
        };
        assert_eq!(row.text(0), Some("ab"));
        assert_eq!(row.text(1), None);
        assert_eq!(row.text(2), Some(""));
        assert_eq!(row.text(3), None);
    }

    #[test]
    fn errors_are_read_with_what_the_server_adds() {
        let body = b"SFEHLER\0VERROR\0C58P01\0Mno file\0Dthe detail\0Hthe hint\0Fx.c\0Rdo_it\0\0";
        let Message::Error(error) = parsed(b'E', body) else {
            panic!("an error");
        };
        assert_eq!(
            (error.severity.as_str(), error.code.as_str()),
            ("ERROR", "58P01")
        );
        assert_eq!(error.to_string(), "no file (58P01); the detail; the hint");
        assert_eq!(error.routine.as_deref(), Some("do_it"));
    }

    #[test]
    fn mechanisms_are_listed() {
        let body = b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let wanted = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"].map(str::to_owned);
        assert_eq!(
            parsed(b'R', body),
            Message::Authentication(Authentication::Sasl(wanted.to_vec()))
        );
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(tag: u8, body in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(tag, Bytes::from(body)));
        }
    }
}
