//! Where copies go: a folder, or a bucket behind the witness.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidemark_format::envelope::Envelope;
use tidemark_testkit::s3::{Credential, S3Server};

use crate::process::Running;
use crate::proxy::{Proxy, Seen};

/// The longest that anything measured here may take.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);
const BUCKET: &str = "bench";

/// An S3 server with the witness before it.
#[derive(Debug)]
pub(crate) struct Provider {
    server: S3Server,
    proxy: Proxy,
}

impl Provider {
    /// Starts one.
    pub(crate) fn start() -> Result<Self> {
        let server = S3Server::start()?;
        server.create_bucket(BUCKET)?;
        let proxy = Proxy::start(server.http_port())?;
        Ok(Self { server, proxy })
    }

    /// A region in it with a way of its own, so that it can be cut off alone.
    pub(crate) fn region_apart(&self, prefix: &str) -> Result<Region> {
        Ok(Region::Bucket {
            prefix: prefix.to_owned(),
            proxy: Proxy::start(self.server.http_port())?,
            credential: self.server.admin().clone(),
            secure: self.secure(),
        })
    }

    /// A region in it, below `prefix`.
    pub(crate) fn region(&self, prefix: &str) -> Region {
        Region::Bucket {
            prefix: prefix.to_owned(),
            proxy: self.proxy.clone(),
            credential: self.server.admin().clone(),
            secure: self.secure(),
        }
    }

    fn secure(&self) -> Secure {
        Secure {
            endpoint: self.server.https_endpoint(),
            authority: self.server.ca(),
        }
    }
}

/// The way to a bucket over TLS, past the witness.
#[derive(Clone, Debug)]
pub(crate) struct Secure {
    /// Its URL.
    pub(crate) endpoint: String,
    /// The PEM file of the authority that vouches for it.
    pub(crate) authority: PathBuf,
}

/// One place that keeps a copy.
#[derive(Clone, Debug)]
pub(crate) enum Region {
    /// A folder.
    Folder(PathBuf),
    /// Part of a bucket.
    Bucket {
        /// Where in it.
        prefix: String,
        /// The witness.
        proxy: Proxy,
        /// Who we are there.
        credential: Credential,
        /// Past the witness.
        secure: Secure,
    },
}

impl Region {
    /// As Tidemark takes it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Folder(path) => format!("dir:{}", path.display()),
            Self::Bucket { prefix, proxy, .. } => {
                let (endpoint, profile) = (proxy.endpoint(), proxy.name());
                format!(
                    "s3://{BUCKET}/{prefix}?endpoint={endpoint}&region=us-east-1&path_style=1&insecure=1&profile={profile}"
                )
            }
        }
    }

    /// As Tidemark takes it, over TLS and past the witness: for comparisons with what speaks only TLS.
    pub(crate) fn secure_url(&self) -> String {
        match self {
            Self::Folder(_) => self.url(),
            Self::Bucket {
                prefix,
                proxy,
                secure,
                ..
            } => format!(
                "s3://{BUCKET}/{prefix}?endpoint={}&region=us-east-1&path_style=1&ca={}&profile={}",
                secure.endpoint,
                secure.authority.display(),
                proxy.name()
            ),
        }
    }

    /// As pgBackRest's configuration takes it, over TLS; a folder must be one that it may write to.
    pub(crate) fn repository(&self) -> Result<Vec<String>> {
        Ok(match self {
            Self::Folder(path) => vec![
                "repo1-type=posix".to_owned(),
                format!("repo1-path={}", path.display()),
            ],
            Self::Bucket {
                prefix,
                credential,
                secure,
                ..
            } => {
                let address = secure.endpoint.trim_start_matches("https://");
                let (_, port) = address.split_once(':').context("no port")?;
                vec![
                    "repo1-type=s3".to_owned(),
                    format!("repo1-path=/{prefix}"),
                    format!("repo1-s3-bucket={BUCKET}"),
                    // It finds no address in a certificate, only names.
                    "repo1-s3-endpoint=localhost".to_owned(),
                    format!("repo1-storage-port={port}"),
                    "repo1-s3-region=us-east-1".to_owned(),
                    "repo1-s3-uri-style=path".to_owned(),
                    format!("repo1-s3-key={}", credential.access_key),
                    format!("repo1-s3-key-secret={}", credential.secret_key),
                ]
            }
        })
    }

    /// As Litestream's configuration takes it.
    pub(crate) fn replica(&self) -> Vec<String> {
        match self {
            Self::Folder(path) => {
                vec!["type: file".to_owned(), format!("path: {}", path.display())]
            }
            Self::Bucket {
                prefix,
                proxy,
                credential,
                ..
            } => vec![
                "type: s3".to_owned(),
                format!("bucket: {BUCKET}"),
                format!("path: {prefix}"),
                format!("endpoint: {}", proxy.endpoint()),
                "region: us-east-1".to_owned(),
                "force-path-style: true".to_owned(),
                format!("access-key-id: {}", credential.access_key),
                format!("secret-access-key: {}", credential.secret_key),
            ],
        }
    }

    /// The section with this region's credential for a file of AWS profiles; none for a folder.
    pub(crate) fn profile(&self) -> String {
        match self {
            Self::Folder(_) => String::new(),
            Self::Bucket {
                proxy, credential, ..
            } => format!(
                "[{}]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
                proxy.name(),
                credential.access_key,
                credential.secret_key
            ),
        }
    }

    /// From now on nothing reaches it: connections are closed at once.
    pub(crate) fn cut_off(&self) -> Result<()> {
        let Self::Bucket { proxy, .. } = self else {
            anyhow::bail!("a folder can't be cut off, use a bucket");
        };
        proxy.cut();
        Ok(())
    }

    /// The requests that were made to it; none for a folder.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        match self {
            Self::Folder(_) => Vec::new(),
            Self::Bucket { prefix, proxy, .. } => {
                let mine = format!("/{BUCKET}/{prefix}/");
                let listing = format!("prefix={}", prefix.replace('/', "%2F"));
                let seen = proxy.seen().into_iter();
                seen.filter(|s| s.path.starts_with(&mine) || s.path.contains(&listing))
                    .collect()
            }
        }
    }

    /// The log objects that came to be in it: the request, and the signed head.
    pub(crate) fn log_objects(&self) -> Result<Vec<(Seen, Value)>> {
        let mut found = Vec::new();
        for request in self.requests() {
            if !(request.created() && request.path.contains("/meta/log/")) {
                continue;
            }
            let envelope = Envelope::parse(&request.start)
                .with_context(|| format!("the head of {} does not fit", request.path))?;
            let head = serde_json::from_slice(envelope.head_json())?;
            found.push((request, head));
        }
        Ok(found)
    }

    /// Bytes that were put into it so far.
    pub(crate) fn created_bytes(&self) -> u64 {
        let puts = self.requests().into_iter().filter(|s| s.method == "PUT");
        puts.map(|s| s.bytes).sum()
    }

    /// When the first object with `part` in its name was durable here, if it is.
    pub(crate) fn first(&self, part: &str) -> Option<Instant> {
        match self {
            Self::Folder(path) => {
                let found = files(path).into_iter().any(|(file, _)| file.contains(part));
                found.then(Instant::now)
            }
            Self::Bucket { .. } => {
                let requests = self.requests();
                requests
                    .iter()
                    .find(|s| s.created() && s.path.contains(part))
                    .map(|s| s.answered)
            }
        }
    }

    /// Waits until an object with `part` in its name is durable here; answers since when.
    pub(crate) fn wait_for(&self, part: &str, process: &mut Running) -> Result<Instant> {
        let started = Instant::now();
        loop {
            if let Some(at) = self.first(part) {
                return Ok(at);
            }
            process.must_run()?;
            ensure!(
                started.elapsed() < WAIT_MAX,
                "no {part} in {} within {WAIT_MAX:?}",
                self.url()
            );
            std::thread::sleep(POLL);
        }
    }

    /// How many sources have a recovery point in a folder.
    pub(crate) fn protected(&self) -> Result<usize> {
        let Self::Folder(path) = self else {
            anyhow::bail!("a bucket's contents are not counted, use a folder");
        };
        let points = path.join("meta/point");
        Ok(std::fs::read_dir(points).map_or(0, Iterator::count))
    }

    /// Objects and bytes that a folder holds.
    pub(crate) fn held(&self) -> Result<(u64, u64)> {
        let Self::Folder(path) = self else {
            anyhow::bail!("a bucket's contents are not counted, use a folder");
        };
        let files = files(path);
        Ok((
            files.len() as u64,
            files.iter().map(|(_, bytes)| bytes).sum(),
        ))
    }
}

/// Every file below a folder, with its size; what vanishes meanwhile, or is still being written under
/// a temporary name, is left out.
fn files(root: &Path) -> Vec<(String, u64)> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().contains("tmp") {
                continue;
            }
            match entry.metadata() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) => found.push((entry.path().to_string_lossy().into_owned(), kind.len())),
                Err(_) => {}
            }
        }
    }
    found
}
