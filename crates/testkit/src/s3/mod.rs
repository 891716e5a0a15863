//! A real S3 server for tests: SeaweedFS, started on random loopback ports.
//!
//! `tests/install-servers` installs it. Without it a test prints `SKIPPED: …` and passes, unless
//! `TIDEMARK_REQUIRE_SERVERS=1` says that a missing server is a failure (as `tests/run` does).
//!
//! **Cancellation:** the server dies with the process that started it, however that ends: a shell
//! around it waits for the end of a pipe that only the test process holds.

mod request;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use request::{Request, Service};

use crate::{ports, tls};

/// How long the server may take to answer a signed put.
const START_SECONDS_MAX: u64 = 60;
/// Servers take the first label of a host name below this one for the bucket. No resolver knows it.
pub const VIRTUAL_DOMAIN: &str = "s3.test";
/// How long a new user's key may take to be known everywhere.
const USER_SECONDS_MAX: u64 = 120;
/// Between two looks at something that comes.
const POLL: Duration = Duration::from_millis(50);

/// Runs the server, and ends it with everything it stored when the pipe on standard input closes.
const GUARD: &str = r#"dir="$1"; shift; "$@" </dev/null >"$dir/log" 2>&1 & child=$!
cat >/dev/null; kill -9 "$child" 2>/dev/null; wait "$child" 2>/dev/null; rm -rf "$dir""#;

/// An access key and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

impl Credential {
    /// Writes it as a shared-credentials file with one profile, `default`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_profile(&self, path: &Path) -> Result<()> {
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            self.access_key, self.secret_key
        );
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// A running server. It dies when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    guard: Child,
    dir: PathBuf,
    http_port: u16,
    https_port: u16,
    admin: Credential,
}

/// The server's program, or why there is none.
fn program() -> Result<PathBuf> {
    let tools = std::env::var_os("TIDEMARK_TOOLS")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidemark-tools"))
        });
    let path = tools
        .context("neither TIDEMARK_TOOLS nor HOME is set")?
        .join("bin/weed");
    ensure!(
        path.is_file(),
        "no S3 server at {}: run tests/install-servers",
        path.display()
    );
    Ok(path)
}

/// Where a server keeps its data: SeaweedFS makes everything read-only within a minute of its file system having
/// less than a hundredth free, which on a large disk may still be gigabytes. Then memory serves.
fn roomy_folder() -> PathBuf {
    const PARTS_FREE_MIN: u64 = 20;
    const MEMORY: &str = "/dev/shm";
    const MEMORY_MIN: u64 = 2 << 30;
    let free = |path: &Path| {
        let found = rustix::fs::statvfs(path).ok()?;
        Some((found.f_bavail, found.f_blocks, found.f_frsize))
    };
    let temporary = std::env::temp_dir();
    let short =
        free(&temporary).is_some_and(|(free, all, _)| free.saturating_mul(PARTS_FREE_MIN) < all);
    let memory = free(Path::new(MEMORY))
        .is_some_and(|(free, _, block)| free.saturating_mul(block) >= MEMORY_MIN);
    if short && memory {
        PathBuf::from(MEMORY)
    } else {
        temporary
    }
}

impl S3Server {
    /// The server that all tests of this process share; `None` if it isn't installed.
    ///
    /// # Panics
    /// If it can't be started, or isn't installed and `TIDEMARK_REQUIRE_SERVERS=1`.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<S3Server>> = OnceLock::new();
        SHARED
            .get_or_init(|| match program() {
                Ok(_) => Some(Self::start().expect("the S3 server starts")),
                Err(why) if std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some() => {
                    panic!("{why:#}")
                }
                Err(_) => None,
            })
            .as_ref()
            .or_else(|| {
                skipped();
                None
            })
    }

    /// Starts a server of one's own: another provider.
    ///
    /// # Errors
    /// If it isn't installed or doesn't come up.
    pub fn start() -> Result<Self> {
        let program = program()?;
        let dir = tempfile::Builder::new()
            .prefix("tidemark-s3-")
            .tempdir_in(roomy_folder())?
            .keep();
        tls::make(&dir)?;
        // Another process may take a port between looking and starting: then try others.
        let mut last = None;
        for _ in 0..3 {
            match Self::start_in(&program, &dir) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
            std::fs::create_dir_all(&dir)?;
            tls::make(&dir)?;
        }
        Err(last.context("no start was tried")?)
    }

    fn start_in(program: &Path, dir: &Path) -> Result<Self> {
        let ports = ports::free(6)?;
        let [http, https, master, volume, filer, admin_port] = ports[..] else {
            bail!("six ports were asked for");
        };
        let admin = Credential {
            access_key: "tidemarkadmin".to_owned(),
            secret_key: format!("secret{:016x}", ports::random()),
        };
        let data = dir.join("data");
        std::fs::create_dir_all(&data)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", GUARD, "guard"])
            .arg(dir)
            .arg(program)
            .arg("mini");
        command.arg(format!("-dir={}", data.display()));
        command.args([
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-webdav=false",
            "-admin.ui=false",
        ]);
        // Every bucket takes volumes of its own. Left to itself the server allows as many as the disk's
        // free space holds of full ones, so that on a fairly full disk the last buckets can't be written.
        command.args(["-volume.max=1000", "-master.volumeSizeLimitMB=64"]);
        command.args([
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam.readOnly=false",
        ]);
        command.arg(format!("-s3.domainName={VIRTUAL_DOMAIN}"));
        for (flag, port) in [
            ("s3.port", http),
            ("s3.port.https", https),
            ("master.port", master),
            ("volume.port", volume),
            ("filer.port", filer),
            ("admin.port", admin_port),
        ] {
            command.arg(format!("-{flag}={port}"));
        }
        command.arg(format!(
            "-s3.cert.file={}",
            dir.join("server.pem").display()
        ));
        command.arg(format!("-s3.key.file={}", dir.join("server.key").display()));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("AWS_")) {
                command.env_remove(name);
            }
        }
        let guard = command
            .env("AWS_ACCESS_KEY_ID", &admin.access_key)
            .env("AWS_SECRET_ACCESS_KEY", &admin.secret_key)
            .env("HOME", dir)
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting a shell")?;
        let server = Self {
            guard,
            dir: dir.to_owned(),
            http_port: http,
            https_port: https,
            admin,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Ready means that a signed put succeeds; the port answers earlier.
    fn wait_until_ready(&self) -> Result<()> {
        let mut last = String::new();
        for _ in 0..(START_SECONDS_MAX * 1000) / 50 {
            let ready = self
                .send(&self.admin, "PUT", "/tidemark-ready", "", b"")
                .and_then(|()| self.send(&self.admin, "PUT", "/tidemark-ready/object", "", b"x"));
            match ready {
                Ok(()) => return Ok(()),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(POLL);
        }
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let end = log.len().saturating_sub(2000);
        bail!(
            "the S3 server did not come up: {last}\n{}",
            log.get(end..).unwrap_or_default()
        )
    }

    /// The URL of its plain port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// The URL of its TLS port, whose certificate leads to [`Self::ca`].
    #[must_use]
    pub fn https_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.https_port)
    }

    /// The plain port.
    #[must_use]
    pub const fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The PEM file of its certificate authority.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The credential that may do everything.
    #[must_use]
    pub const fn admin(&self) -> &Credential {
        &self.admin
    }

    /// The region URL of a bucket and prefix, over plain http.
    #[must_use]
    pub fn url(&self, bucket: &str, prefix: &str) -> String {
        format!(
            "s3://{bucket}/{prefix}?endpoint={}&region=us-east-1&insecure=1",
            self.endpoint()
        )
    }

    /// The region URL of a bucket and prefix, over TLS.
    #[must_use]
    pub fn https_url(&self, bucket: &str, prefix: &str) -> String {
        format!(
            "s3://{bucket}/{prefix}?endpoint={}&region=us-east-1&ca={}",
            self.https_endpoint(),
            self.ca().display()
        )
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create_bucket(&self, bucket: &str) -> Result<()> {
        self.send(&self.admin, "PUT", &format!("/{bucket}"), "", b"")
    }

    /// Makes a bucket that keeps versions.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create_versioned_bucket(&self, bucket: &str) -> Result<()> {
        self.create_bucket(bucket)?;
        let body = br#"<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>"#;
        self.send(
            &self.admin,
            "PUT",
            &format!("/{bucket}"),
            "versioning=",
            body,
        )
    }

    /// A plain, unconditional put: what a thief with a stolen key would do.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn overwrite(
        &self,
        credential: &Credential,
        bucket: &str,
        key: &str,
        body: &[u8],
    ) -> Result<()> {
        self.send(credential, "PUT", &format!("/{bucket}/{key}"), "", body)
    }

    /// A plain delete.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn delete(&self, credential: &Credential, bucket: &str, key: &str) -> Result<()> {
        self.send(credential, "DELETE", &format!("/{bucket}/{key}"), "", b"")
    }

    /// Makes a user who may do what `policy` (IAM JSON) says, and waits until its key works for
    /// `allowed`, a put that the policy allows.
    ///
    /// # Errors
    /// When the server refuses, or the key doesn't become known.
    pub fn create_user(
        &self,
        name: &str,
        policy: &str,
        allowed: (&str, &str),
    ) -> Result<Credential> {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)])?;
        self.iam(&[
            ("Action", "PutUserPolicy"),
            ("UserName", name),
            ("PolicyName", "tidemark"),
            ("PolicyDocument", policy),
        ])?;
        let made = self.iam(&[("Action", "CreateAccessKey"), ("UserName", name)])?;
        let credential = Credential {
            access_key: element(&made, "AccessKeyId")?,
            secret_key: element(&made, "SecretAccessKey")?,
        };
        let (bucket, key) = allowed;
        let mut last = String::new();
        for _ in 0..(USER_SECONDS_MAX * 1000) / 50 {
            match self.overwrite(&credential, bucket, key, b"the key works") {
                Ok(()) => return Ok(credential),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(POLL);
        }
        bail!("the key of {name} does not become known: {last}")
    }

    fn iam(&self, form: &[(&str, &str)]) -> Result<String> {
        let mut body = String::from("Version=2010-05-08");
        for (name, value) in form {
            body.push_str(&format!("&{name}={}", request::escape(value)));
        }
        let request = Request {
            service: Service::Iam,
            method: "POST",
            path: "/",
            query: "",
            body: body.as_bytes(),
        };
        let answer = request.send(self.http_port, &self.admin)?;
        ensure!(
            answer.status == 200,
            "IAM {}: {} {}",
            form[0].1,
            answer.status,
            answer.body
        );
        Ok(answer.body)
    }

    fn send(
        &self,
        credential: &Credential,
        method: &str,
        path: &str,
        query: &str,
        body: &[u8],
    ) -> Result<()> {
        let request = Request {
            service: Service::S3,
            method,
            path,
            query,
            body,
        };
        let answer = request.send(self.http_port, credential)?;
        ensure!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        Ok(())
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Closing the pipe tells the shell to kill the server; then it ends.
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

fn skipped() {
    crate::say_skipped("no S3 server; run tests/install-servers");
}

/// The text of the first `<name>` in `xml`.
fn element(xml: &str, name: &str) -> Result<String> {
    let (_, rest) = xml
        .split_once(&format!("<{name}>"))
        .with_context(|| format!("no {name} in {xml}"))?;
    let (text, _) = rest
        .split_once('<')
        .with_context(|| format!("{name} has no end"))?;
    Ok(text.to_owned())
}
