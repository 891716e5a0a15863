//! A connection that waits for each answer, with nothing between the application and the socket that
//! would take time of its own: startup, simple queries, trust on a Unix socket.

use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};
use tidemark_testkit::postgres::Cluster;

/// Protocol 3.0.
const PROTOCOL: u32 = 196_608;

/// A session.
#[derive(Debug)]
pub(crate) struct Client {
    socket: BufReader<UnixStream>,
}

impl Client {
    /// Logs in as the superuser.
    pub(crate) fn connect(cluster: &Cluster) -> Result<Self> {
        let name = format!(".s.PGSQL.{}", cluster.port());
        let stream = UnixStream::connect(cluster.socket_dir().join(name))?;
        let mut client = Self {
            socket: BufReader::new(stream),
        };
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        client.send(None, &body)?;
        client.answer()?;
        Ok(client)
    }

    /// Runs statements; the last field of the last row, if there was one.
    pub(crate) fn run(&mut self, sql: &str) -> Result<Option<String>> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.answer().with_context(|| sql.to_owned())
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?;
        let mut message = Vec::with_capacity(body.len() + 5);
        message.extend(kind);
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.socket.get_mut().write_all(&message)?;
        Ok(())
    }

    /// Reads up to the server's "ready".
    fn answer(&mut self) -> Result<Option<String>> {
        let (mut last, mut refused) = (None, None);
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'D' => last = last_field(&body)?,
                b'E' => refused = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'R' => ensure!(
                    body.starts_with(&[0, 0, 0, 0]),
                    "the server wants a password"
                ),
                b'Z' => match refused {
                    Some(why) => bail!("the server: {why}"),
                    None => return Ok(last),
                },
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.socket.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length))?;
        let mut body = vec![
            0;
            length
                .checked_sub(4)
                .context("a message without a length")?
        ];
        self.socket.read_exact(&mut body)?;
        if kind == b'E' && body.starts_with(b"SFATAL") {
            bail!("the server: {}", String::from_utf8_lossy(&body));
        }
        Ok((kind, body))
    }
}

/// The last field of a row.
fn last_field(mut row: &[u8]) -> Result<Option<String>> {
    let fields = u16::from_be_bytes(take(&mut row)?);
    let mut last = None;
    for _ in 0..fields {
        let length = i32::from_be_bytes(take(&mut row)?);
        last = match usize::try_from(length) {
            Ok(length) => {
                let (field, rest) = row.split_at_checked(length).context("a cut row")?;
                row = rest;
                Some(String::from_utf8_lossy(field).into_owned())
            }
            // NULL.
            Err(_) => None,
        };
    }
    Ok(last)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk().context("a cut row")?;
    *bytes = rest;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_field_of_a_row() {
        let row = b"\0\x02\0\0\0\x01a\0\0\0\x040/1F";
        assert_eq!(last_field(row).expect("a row"), Some("0/1F".to_owned()));
        assert_eq!(last_field(b"\0\x01\xff\xff\xff\xff").expect("a row"), None);
        assert!(last_field(b"\0\x01\0\0\0\x05abc").is_err());
    }
}
