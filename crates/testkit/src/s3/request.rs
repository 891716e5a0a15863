//! One signed request (AWS signature version 4) over plain HTTP: enough to make buckets, users and
//! policies without an SDK.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::Credential;

const REGION: &str = "us-east-1";
const SOCKET_SECONDS_MAX: u64 = 10;

/// Which API is asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Service {
    S3,
    Iam,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) service: Service,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// In canonical form: sorted, every name with `=`.
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Request<'_> {
    /// Sends it to the server on `port` and reads the answer.
    pub(super) fn send(&self, port: u16, credential: &Credential) -> Result<Answer> {
        let host = format!("127.0.0.1:{port}");
        let head = self.head(&host, credential, now());
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(SOCKET_SECONDS_MAX)))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(self.body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok(Answer {
            status: status.context("no HTTP status")?,
            body: body.to_owned(),
        })
    }

    /// Request line and headers. HTTP/1.0, so that the answer ends with the connection.
    fn head(&self, host: &str, credential: &Credential, now: jiff::Timestamp) -> String {
        let service = match self.service {
            Service::S3 => "s3",
            Service::Iam => "iam",
        };
        let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = time.get(..8).unwrap_or_default();
        let payload = hex::encode(Sha256::digest(self.body));
        let canonical = format!(
            "{}\n{}\n{}\nhost:{host}\nx-amz-content-sha256:{payload}\nx-amz-date:{time}\n\nhost;x-amz-content-sha256;x-amz-date\n{payload}",
            self.method, self.path, self.query
        );
        let scope = format!("{day}/{REGION}/{service}/aws4_request");
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            hex::encode(Sha256::digest(canonical.as_bytes()))
        );
        let mut key = format!("AWS4{}", credential.secret_key).into_bytes();
        for part in [day, REGION, service, "aws4_request", &to_sign] {
            key = hmac(&key, part.as_bytes());
        }
        let separator = if self.query.is_empty() { "" } else { "?" };
        format!(
            "{} {}{separator}{} HTTP/1.0\r\nHost: {host}\r\nx-amz-date: {time}\r\nx-amz-content-sha256: {payload}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nAuthorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={}\r\n\r\n",
            self.method,
            self.path,
            self.query,
            self.body.len(),
            credential.access_key,
            hex::encode(&key)
        )
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "signatures need the real time, also in tests"
)]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// HMAC-SHA-256.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    let hashed;
    let key = if key.len() > block.len() {
        hashed = Sha256::digest(key);
        hashed.as_slice()
    } else {
        key
    };
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    let inner = Sha256::new()
        .chain_update(block.map(|b| b ^ 0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(block.map(|b| b ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

/// Escapes a form's value.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_gives_the_published_test_vector() {
        let mac = hmac(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(
            hex::encode(mac),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
