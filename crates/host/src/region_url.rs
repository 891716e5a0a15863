//! Region URLs: `dir:/path` and `s3://bucket/prefix?endpoint=…`, parsed and checked once.
//!
//! Pure text: nothing is opened here. Every option is known or refused by name, and plain http is
//! refused unless asked for, so that a URL that parses can be trusted to mean what it says.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tidemark_format::Key;

/// The options that an `s3:` URL may carry, for messages.
const OPTIONS: &str =
    "endpoint, region, profile, ca, path_style, insecure, checksum (crc32c, sha256, crc32 or off)";

/// Where a region is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionUrl {
    /// A directory, by its absolute path.
    Dir(PathBuf),
    /// A bucket, and a prefix in it.
    S3(S3Url),
}

/// An S3 bucket, a prefix in it, and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Url {
    /// The bucket's name.
    pub bucket: String,
    /// Folder names joined by `/`, without a first or last one; empty for the whole bucket.
    pub prefix: String,
    /// The server's URL; AWS itself if absent.
    pub endpoint: Option<String>,
    /// The AWS region; from the environment or profile if absent.
    pub region: Option<String>,
    /// The profile in the shared credentials.
    pub profile: Option<String>,
    /// A PEM file with the certificates that the server's must lead to, instead of the system's.
    pub ca: Option<PathBuf>,
    /// Bucket in the path instead of the host name; if absent, wherever an endpoint is given.
    pub path_style: Option<bool>,
    /// Whether plain http is wanted.
    pub insecure: bool,
    /// The checksum sent with every object.
    pub checksum: Checksum,
}

/// The checksum in the header of every put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// CRC-32C: fast, and what most servers know.
    #[default]
    Crc32c,
    /// SHA-256.
    Sha256,
    /// CRC-32.
    Crc32,
    /// None, for servers that refuse the header. Reading verifies hashes in any case.
    Off,
}

impl Checksum {
    /// As it stands in a URL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32c => "crc32c",
            Self::Sha256 => "sha256",
            Self::Crc32 => "crc32",
            Self::Off => "off",
        }
    }
}

/// Why a region URL was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegionUrlError {
    /// Neither `dir:` nor `s3://`.
    #[error("{0:?} is not a region URL: use dir:/path or s3://bucket/prefix?endpoint=…")]
    Scheme(String),
    /// A relative or unusual path.
    #[error("{0:?}: a directory region needs an absolute path without '?', as in dir:/mnt/backup")]
    Path(String),
    /// No bucket, or one that S3 doesn't allow.
    #[error(
        "{0:?} is not a bucket's name: 3 to 63 lower-case letters, digits, '-' or '.', as in s3://bucket/prefix"
    )]
    Bucket(String),
    /// A prefix with characters that keys don't have.
    #[error("{0:?} is not a prefix: use folder names of letters, digits, '.', '_' and '-'")]
    Prefix(String),
    /// An option nobody knows.
    #[error("{0:?} is not an option of an s3: URL; known are {OPTIONS}")]
    UnknownOption(String),
    /// The same option twice.
    #[error("option {0:?} is given twice")]
    Twice(String),
    /// A value that the option doesn't take.
    #[error("{value:?} is not a value for {option}: use {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Plain http without saying so.
    #[error(
        "endpoint {0:?} is not encrypted in transit: use https, or add insecure=1 for a trial (it fails the encrypted-in-transit clause of every policy)"
    )]
    Insecure(String),
}

impl RegionUrl {
    /// The URL without its options: how errors and status name the region's place.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Dir(path) => format!("dir:{}", path.display()),
            Self::S3(s3) if s3.prefix.is_empty() => format!("s3://{}", s3.bucket),
            Self::S3(s3) => format!("s3://{}/{}", s3.bucket, s3.prefix),
        }
    }

    /// Whether bytes cross a network unencrypted (a directory's network, if any, isn't known).
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        match self {
            Self::Dir(_) => false,
            Self::S3(s3) => s3.insecure && s3.is_http(),
        }
    }
}

impl S3Url {
    /// Whether the bucket stands in the path.
    #[must_use]
    pub fn uses_path_style(&self) -> bool {
        self.path_style.unwrap_or_else(|| self.endpoint.is_some())
    }

    /// Whether the endpoint is plain http.
    #[must_use]
    pub fn is_http(&self) -> bool {
        self.endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.starts_with("http:"))
    }

    fn set(&mut self, option: &str, value: String) -> Result<(), RegionUrlError> {
        let twice = || RegionUrlError::Twice(option.to_owned());
        let once = |slot: &mut Option<String>, value| match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(twice()),
        };
        match option {
            "endpoint" => once(&mut self.endpoint, endpoint(value)?),
            "region" => once(&mut self.region, nonempty("region", value)?),
            "profile" => once(&mut self.profile, nonempty("profile", value)?),
            "ca" => match self.ca.replace(absolute(value)?) {
                None => Ok(()),
                Some(_) => Err(twice()),
            },
            "path_style" => match self.path_style.replace(boolean("path_style", value)?) {
                None => Ok(()),
                Some(_) => Err(twice()),
            },
            "insecure" => {
                self.insecure = boolean("insecure", value)?;
                Ok(())
            }
            "checksum" => {
                self.checksum = checksum(value)?;
                Ok(())
            }
            other => Err(RegionUrlError::UnknownOption(other.to_owned())),
        }
    }
}

fn nonempty(option: &'static str, value: String) -> Result<String, RegionUrlError> {
    if value.is_empty() {
        return Err(RegionUrlError::Value {
            option,
            value,
            expected: "a name",
        });
    }
    Ok(value)
}

fn absolute(value: String) -> Result<PathBuf, RegionUrlError> {
    if value.starts_with('/') {
        return Ok(PathBuf::from(value));
    }
    Err(RegionUrlError::Value {
        option: "ca",
        value,
        expected: "the absolute path of a PEM file",
    })
}

fn boolean(option: &'static str, value: String) -> Result<bool, RegionUrlError> {
    match value.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(RegionUrlError::Value {
            option,
            value,
            expected: "1 or 0",
        }),
    }
}

fn checksum(value: String) -> Result<Checksum, RegionUrlError> {
    [
        Checksum::Crc32c,
        Checksum::Sha256,
        Checksum::Crc32,
        Checksum::Off,
    ]
    .into_iter()
    .find(|known| known.name() == value)
    .ok_or(RegionUrlError::Value {
        option: "checksum",
        value,
        expected: "crc32c, sha256, crc32 or off",
    })
}

fn endpoint(value: String) -> Result<String, RegionUrlError> {
    let host = value
        .strip_prefix("https://")
        .or_else(|| value.strip_prefix("http://"));
    let plausible = host.is_some_and(|host| {
        !host.is_empty()
            && !host.starts_with('/')
            && host
                .bytes()
                .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'@'))
    });
    if !plausible {
        return Err(RegionUrlError::Value {
            option: "endpoint",
            value,
            expected: "https://host or https://host:port",
        });
    }
    Ok(value.trim_end_matches('/').to_owned())
}

/// Undoes `%41`; text that isn't such an escape stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = if *first == b'%' {
            tail.first_chunk().and_then(hex_byte)
        } else {
            None
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            tail.get(2..).unwrap_or_default()
        } else {
            tail
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_byte(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// Escapes what would end an option's value.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' => escaped.push_str("%25"),
            '&' => escaped.push_str("%26"),
            '#' => escaped.push_str("%23"),
            ' ' => escaped.push_str("%20"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'.'))
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
        && !name.contains("..")
}

fn parse_s3(rest: &str) -> Result<S3Url, RegionUrlError> {
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if !is_bucket(bucket) {
        return Err(RegionUrlError::Bucket(bucket.to_owned()));
    }
    let prefix = prefix.trim_end_matches('/');
    if !prefix.is_empty() && Key::new(prefix).is_err() {
        return Err(RegionUrlError::Prefix(prefix.to_owned()));
    }
    let mut url = S3Url {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: None,
        region: None,
        profile: None,
        ca: None,
        path_style: None,
        insecure: false,
        checksum: Checksum::default(),
    };
    for option in options.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        url.set(name, unescape(value))?;
    }
    match &url.endpoint {
        Some(endpoint) if url.is_http() && !url.insecure => {
            Err(RegionUrlError::Insecure(endpoint.clone()))
        }
        _ => Ok(url),
    }
}

impl FromStr for RegionUrl {
    type Err = RegionUrlError;

    fn from_str(text: &str) -> Result<Self, RegionUrlError> {
        if let Some(path) = text.strip_prefix("dir:") {
            // dir:///mnt/backup is how some would write it.
            let path = path.strip_prefix("//").unwrap_or(path);
            let path_ok = path.starts_with('/') && !path.contains(['?', '\0']);
            return if path_ok {
                Ok(Self::Dir(PathBuf::from(path)))
            } else {
                Err(RegionUrlError::Path(path.to_owned()))
            };
        }
        match text.strip_prefix("s3://") {
            Some(rest) => parse_s3(rest).map(Self::S3),
            None => Err(RegionUrlError::Scheme(text.chars().take(200).collect())),
        }
    }
}

impl fmt::Display for RegionUrl {
    /// The URL as it can be parsed again, options in a fixed order. It holds no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        let Self::S3(s3) = self else { return Ok(()) };
        let path_style = s3.path_style.map(|on| u8::from(on).to_string());
        let checksum = (s3.checksum != Checksum::default()).then(|| s3.checksum.name().to_owned());
        let options = [
            ("endpoint", s3.endpoint.clone()),
            ("region", s3.region.clone()),
            ("profile", s3.profile.clone()),
            ("ca", s3.ca.as_ref().map(|path| path.display().to_string())),
            ("path_style", path_style),
            ("insecure", s3.insecure.then(|| "1".to_owned())),
            ("checksum", checksum),
        ];
        let given = options
            .iter()
            .filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (at, (name, value)) in given.enumerate() {
            let separator = if at == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={}", escape(value))?;
        }
        Ok(())
    }
}

impl Serialize for RegionUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RegionUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RegionUrl, RegionUrlError> {
        text.parse()
    }

    #[test]
    fn a_directory_needs_an_absolute_path() {
        assert_eq!(
            parse("dir:/mnt/a"),
            Ok(RegionUrl::Dir(PathBuf::from("/mnt/a")))
        );
        assert_eq!(
            parse("dir:///mnt/a"),
            Ok(RegionUrl::Dir(PathBuf::from("/mnt/a")))
        );
        for bad in ["dir:", "dir:relative", "dir:/a?x=1"] {
            assert!(matches!(parse(bad), Err(RegionUrlError::Path(_))), "{bad}");
        }
    }

    #[test]
    fn every_option_is_read_and_written_back() {
        let text = "s3://bucket/a/b?endpoint=https://127.0.0.1:8333&region=eu-north-1&profile=p&ca=/etc/ca.pem&path_style=0&checksum=sha256";
        let url = parse(text).unwrap();
        assert_eq!(url.to_string(), text);
        let RegionUrl::S3(s3) = &url else {
            panic!("an S3 URL")
        };
        assert_eq!((s3.bucket.as_str(), s3.prefix.as_str()), ("bucket", "a/b"));
        assert_eq!(s3.checksum, Checksum::Sha256);
        assert!(!s3.uses_path_style());
        assert_eq!(url.place(), "s3://bucket/a/b");
    }

    #[test]
    fn escaped_values_are_read_and_written_back() {
        let url = parse("s3://bucket?endpoint=https%3A%2F%2Fhost&profile=a%26b").unwrap();
        assert_eq!(
            url.to_string(),
            "s3://bucket?endpoint=https://host&profile=a%26b"
        );
        assert_eq!(parse(&url.to_string()), Ok(url));
    }

    #[test]
    fn an_endpoint_means_path_style_unless_said_otherwise() {
        let RegionUrl::S3(aws) = parse("s3://bucket/p?region=eu-north-1").unwrap() else {
            panic!()
        };
        assert!(!aws.uses_path_style());
        let RegionUrl::S3(own) = parse("s3://bucket?endpoint=https://h").unwrap() else {
            panic!()
        };
        assert!(own.uses_path_style());
    }

    #[test]
    fn plain_http_must_be_asked_for() {
        let refused = parse("s3://bucket?endpoint=http://h:1");
        assert!(matches!(refused, Err(RegionUrlError::Insecure(_))));
        assert!(
            parse("s3://bucket?endpoint=http://h:1&insecure=1")
                .unwrap()
                .is_plain_http()
        );
        assert!(
            !parse("s3://bucket?endpoint=https://h:1&insecure=1")
                .unwrap()
                .is_plain_http()
        );
    }

    #[test]
    fn unknown_options_are_refused_naming_the_known_ones() {
        let error = parse("s3://bucket?endpiont=https://h")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("endpiont") && error.contains("path_style"),
            "{error}"
        );
    }

    #[test]
    fn bad_parts_are_refused() {
        for bad in [
            "/path",
            "S3://bucket",
            "s3://",
            "s3://B/x",
            "s3://bu",
            "s3://bucket/../x",
            "s3://bucket//x",
            "s3://bucket?path_style=maybe",
            "s3://bucket?checksum=md5",
            "s3://bucket?endpoint=ftp://h",
            "s3://bucket?endpoint=https://user@h",
            "s3://bucket?region=a&region=b",
            "s3://bucket?ca=relative.pem",
            "s3://bucket?region=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
