//! The two forms of a connection string, and what each keyword takes.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Address, ChannelBinding, ConnInfo, ConnInfoError, Keepalives, Pairs, Passfile, Password,
    Result, Roots, SslMode, Surroundings, TargetSession, TlsVersion,
};

/// Where Debian's servers put their sockets.
pub(super) const SOCKET_FOLDER: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
/// Instead of a file: the authorities that the operating system trusts.
const SYSTEM_ROOTS: &str = "system";

/// Keywords that the environment can give.
pub(super) const VARIABLES: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("application_name", "PGAPPNAME"),
    ("options", "PGOPTIONS"),
    ("gssencmode", "PGGSSENCMODE"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
];

/// Keywords that change nothing here: what they ask for is so anyway, or isn't libpq's business.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "krbsrvname",
    "gsslib",
    "sslcompression",
    "sslsni",
    "replication",
    "min_protocol_version",
    "max_protocol_version",
];

/// Keywords that would have to have an effect.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "sslcrl",
        "revocation lists are not read; leave the parameter out",
    ),
    (
        "sslcrldir",
        "revocation lists are not read; leave the parameter out",
    ),
    (
        "sslpassword",
        "use a key file without a passphrase that only this user can read",
    ),
    (
        "sslkeylogfile",
        "keys of TLS connections are not written anywhere",
    ),
    (
        "requirepeer",
        "the server's user is not checked; use TLS to know the server",
    ),
    (
        "require_auth",
        "use channel_binding=require, or pg_hba.conf on the server",
    ),
    ("oauth_issuer", "log-in by OAuth is not built"),
    ("oauth_client_id", "log-in by OAuth is not built"),
    ("oauth_client_secret", "log-in by OAuth is not built"),
    ("oauth_scope", "log-in by OAuth is not built"),
    ("servicefile", "name the file by PGSERVICEFILE"),
    ("scram_client_key", "give the password, or a passfile"),
    ("scram_server_key", "give the password, or a passfile"),
];

/// Reads either form.
pub(super) fn read(text: &str) -> Result<Pairs> {
    let text = text.trim();
    let url = ["postgresql://", "postgres://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    match url {
        Some(rest) => read_url(rest),
        None => read_pairs(text),
    }
}

/// What a port is; and what may have been meant.
const PORT_EXPECTED: &str =
    "a number from 1 to 65535 (in a URL, a password's / ? @ and : are written %2F %3F %40 and %3A)";

fn syntax(why: impl Into<String>) -> ConnInfoError {
    ConnInfoError::Syntax(why.into())
}

fn read_pairs(text: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| {
            syntax("its last words have no '=' (a value with spaces stands in quotes)")
        })?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(syntax(
                "what stands before a '=' is no keyword (a value with spaces stands in quotes)",
            ));
        }
        let (value, after) = read_value(after.trim_start())?;
        put(&mut pairs, key, value)?;
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value, quoted or not; `\` before a quote or itself.
fn read_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted.is_some() => {
                let after = body.get(at..).and_then(|rest| rest.strip_prefix('\''));
                return Ok((value, after.unwrap_or_default()));
            }
            space if quoted.is_none() && space.is_whitespace() => {
                return Ok((value, body.get(at..).unwrap_or_default()));
            }
            other => value.push(other),
        }
    }
    if quoted.is_some() {
        return Err(syntax("a quote is not closed"));
    }
    Ok((value, ""))
}

fn read_url(rest: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, database) = match rest.split_once('/') {
        Some((authority, database)) => (authority, database),
        None => (rest, ""),
    };
    let hosts = match authority.rsplit_once('@') {
        Some((login, hosts)) => {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            put_if(&mut pairs, "user", decode(user)?)?;
            put_if(&mut pairs, "password", decode(password.unwrap_or(""))?)?;
            hosts
        }
        None => authority,
    };
    read_hosts(&mut pairs, hosts)?;
    put_if(&mut pairs, "dbname", decode(database)?)?;
    for pair in query
        .unwrap_or("")
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| syntax("a parameter behind '?' has no '='"))?;
        let (key, value) = (decode(key)?, decode(value)?);
        // As libpq, for what other drivers call it.
        let (key, value) = match (key.as_str(), value.as_str()) {
            ("ssl", "true") => ("sslmode".to_owned(), "require".to_owned()),
            _ => (key, value),
        };
        pairs.remove(&key);
        put(&mut pairs, &key, value)?;
    }
    Ok(pairs)
}

fn read_hosts(pairs: &mut Pairs, hosts: &str) -> Result<()> {
    if hosts.is_empty() {
        return Ok(());
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for host in hosts.split(',') {
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (name, after) = rest
                    .split_once(']')
                    .ok_or_else(|| syntax("an address in brackets has no ']'"))?;
                let port = after.strip_prefix(':').unwrap_or(after);
                if !after.is_empty() && !after.starts_with(':') {
                    return Err(syntax("behind the ']' of an address comes no ':'"));
                }
                (name, port)
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        names.push(decode(name)?);
        ports.push(port.to_owned());
    }
    put_if(pairs, "host", names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        put(pairs, "port", ports.join(","))?;
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    // What is decoded may be a password: it is named and not shown.
    let bad = || syntax("a '%' is not followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().ok_or_else(bad)?, rest.next().ok_or_else(bad)?];
        let digits = std::str::from_utf8(&digits).ok();
        let plain = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = plain.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.filter(|byte| *byte != 0).ok_or_else(bad)?);
    }
    String::from_utf8(bytes).map_err(|_not_utf8| syntax("what is written with '%' is not UTF-8"))
}

fn put_if(pairs: &mut Pairs, key: &str, value: String) -> Result<()> {
    if value.is_empty() {
        return Ok(());
    }
    put(pairs, key, value)
}

/// In `key=value` strings the last one counts, as with libpq.
fn put(pairs: &mut Pairs, key: &str, value: String) -> Result<()> {
    if let Some((name, why)) = UNSUPPORTED.iter().find(|(name, _)| *name == key) {
        return Err(ConnInfoError::Unsupported {
            name: (*name).to_owned(),
            why,
        });
    }
    pairs.insert(key.to_owned(), value);
    Ok(())
}

/// Takes values out of the pairs.
struct Values(Pairs);

impl Values {
    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).filter(|value| !value.is_empty())
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.text(key) else {
            return Ok(None);
        };
        match read(&value) {
            Some(read) => Ok(Some(read)),
            None => Err(ConnInfoError::Value {
                name: key.to_owned(),
                value,
                expected,
            }),
        }
    }

    fn choice<T: Copy>(
        &mut self,
        key: &str,
        expected: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>> {
        self.parsed(key, expected, |value| {
            let found = choices.iter().find(|(name, _)| *name == value);
            found.map(|(_, choice)| *choice)
        })
    }

    fn seconds(&mut self, key: &str) -> Result<Option<Duration>> {
        let seconds = self.parsed(key, "a whole number of seconds", |value| {
            value.trim().parse::<i64>().ok()
        })?;
        // Zero and less mean the default of the system.
        Ok(seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs))
    }
}

/// Every keyword's value checked, defaults filled in.
pub(super) fn check(mut given: Pairs, around: &dyn Surroundings) -> Result<ConnInfo> {
    let passfile = Passfile::load(&mut given, around)?;
    let mut values = Values(given);
    let addresses = addresses(&mut values)?;
    let user = values
        .text("user")
        .or_else(|| around.user())
        .ok_or_else(|| syntax("no user is named, and the system's user has no name"))?;
    let database = values.text("dbname").unwrap_or_else(|| user.clone());
    let ssl = ssl_mode(&mut values)?;
    let roots = roots(&mut values, ssl, around)?;
    let tls_versions = tls_versions(&mut values)?;
    let client_certificate = client_certificate(&mut values, around)?;
    let channel_binding = values
        .choice(
            "channel_binding",
            "disable, prefer or require",
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
        )?
        .unwrap_or(ChannelBinding::Prefer);
    let target = target(&mut values)?;
    // libpq waits two seconds at least.
    let connect_timeout = values
        .seconds("connect_timeout")?
        .map(|timeout| timeout.max(Duration::from_secs(2)));
    let info = ConnInfo {
        addresses,
        user,
        database,
        password: values.text("password").map(Password),
        passfile,
        ssl,
        roots,
        tls_versions,
        client_certificate,
        channel_binding,
        target,
        connect_timeout,
        application_name: values.text("application_name"),
        options: values.text("options"),
        keepalives: keepalives(&mut values)?,
    };
    values.choice("sslnegotiation", "postgres", &[("postgres", ())])?;
    values.choice(
        "gssencmode",
        "disable or prefer (GSSAPI is not built)",
        &[("disable", ()), ("prefer", ())],
    )?;
    values.choice("load_balance_hosts", "disable", &[("disable", ())])?;
    match values
        .0
        .into_keys()
        .find(|key| !WITHOUT_EFFECT.contains(&key.as_str()))
    {
        Some(key) => Err(ConnInfoError::Unknown(key)),
        None => Ok(info),
    }
}

fn list(value: Option<String>) -> Vec<String> {
    value.map_or_else(Vec::new, |value| {
        value
            .split(',')
            .map(|item| item.trim().to_owned())
            .collect()
    })
}

fn addresses(values: &mut Values) -> Result<Vec<Address>> {
    let hosts = list(values.text("host"));
    let numbers = list(values.text("hostaddr"));
    let ports = list(values.text("port"));
    let count = hosts.len().max(numbers.len()).max(1);
    if !hosts.is_empty() && !numbers.is_empty() && hosts.len() != numbers.len() {
        return Err(ConnInfoError::Lists(format!(
            "host names {} servers and hostaddr {}: they must name the same",
            hosts.len(),
            numbers.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(ConnInfoError::Lists(format!(
            "there are {} ports for {count} hosts: give one, or one for each",
            ports.len()
        )));
    }
    (0..count)
        .map(|index| {
            let host = hosts.get(index).map_or("", String::as_str);
            let number = numbers.get(index).map_or("", String::as_str);
            let port = ports
                .get(index)
                .or_else(|| ports.first())
                .map_or("", String::as_str);
            address(host, number, port)
        })
        .collect()
}

/// Where a port should be may stand a password with a `/` or `?` in it.
fn shown_port(text: &str) -> &str {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text
    } else {
        "…"
    }
}

fn address(host: &str, number: &str, port: &str) -> Result<Address> {
    let value = |name: &str, value: &str, expected| ConnInfoError::Value {
        name: name.to_owned(),
        value: value.to_owned(),
        expected,
    };
    let port = match port {
        "" => PORT,
        text => text
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| value("port", shown_port(text), PORT_EXPECTED))?,
    };
    let at: Option<IpAddr> = match number {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_not_an_address| value("hostaddr", text, "an IP address"))?,
        ),
    };
    if at.is_none() && (host.starts_with('/') || host.starts_with('@')) {
        return Ok(Address::Unix {
            folder: PathBuf::from(host),
            port,
        });
    }
    if host.is_empty() && at.is_none() {
        return Ok(Address::Unix {
            folder: PathBuf::from(SOCKET_FOLDER),
            port,
        });
    }
    let host = if host.is_empty() { number } else { host };
    Ok(Address::Tcp {
        host: host.to_owned(),
        at,
        port,
    })
}

fn ssl_mode(values: &mut Values) -> Result<SslMode> {
    let given = values.choice(
        "sslmode",
        "disable, allow, prefer, require, verify-ca or verify-full",
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Allow),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
    )?;
    // As libpq: who trusts every public authority has to look at the name, too.
    let public = values
        .0
        .get("sslrootcert")
        .is_some_and(|roots| roots == SYSTEM_ROOTS);
    let default = if public {
        SslMode::VerifyFull
    } else {
        SslMode::Prefer
    };
    Ok(given.unwrap_or(default))
}

/// Versions of TLS that will do: the oldest and the newest.
fn tls_versions(values: &mut Values) -> Result<(TlsVersion, TlsVersion)> {
    let oldest = values.choice(
        "ssl_min_protocol_version",
        "TLSv1.2 or TLSv1.3",
        &[
            // Older ones are not spoken: what is newer will do.
            ("TLSv1", TlsVersion::V1_2),
            ("TLSv1.1", TlsVersion::V1_2),
            ("TLSv1.2", TlsVersion::V1_2),
            ("TLSv1.3", TlsVersion::V1_3),
        ],
    )?;
    let newest = values.choice(
        "ssl_max_protocol_version",
        "TLSv1.2 or TLSv1.3 (older ones are not spoken)",
        &[("TLSv1.2", TlsVersion::V1_2), ("TLSv1.3", TlsVersion::V1_3)],
    )?;
    let oldest = oldest.unwrap_or(TlsVersion::V1_2);
    let newest = newest.unwrap_or(TlsVersion::V1_3);
    if oldest > newest {
        return Err(ConnInfoError::Lists(
            "ssl_min_protocol_version is newer than ssl_max_protocol_version: no TLS is left"
                .to_owned(),
        ));
    }
    Ok((oldest, newest))
}

fn home_file(name: &str, around: &dyn Surroundings) -> Option<PathBuf> {
    let home = around.variable("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".postgresql").join(name))
}

fn is_there(path: &Path, around: &dyn Surroundings) -> bool {
    around.mode(path).is_some()
}

fn roots(values: &mut Values, ssl: SslMode, around: &dyn Surroundings) -> Result<Option<Roots>> {
    let given = values.text("sslrootcert");
    if given.as_deref() == Some(SYSTEM_ROOTS) {
        if ssl != SslMode::VerifyFull {
            return Err(ConnInfoError::Value {
                name: "sslmode".to_owned(),
                value: "weaker than verify-full".to_owned(),
                expected: "verify-full, because sslrootcert=system trusts every public authority",
            });
        }
        return Ok(Some(Roots::System));
    }
    let path = given
        .map(PathBuf::from)
        .or_else(|| home_file("root.crt", around).filter(|path| is_there(path, around)));
    if path.is_none() && matches!(ssl, SslMode::VerifyCa | SslMode::VerifyFull) {
        return Err(ConnInfoError::Value {
            name: "sslrootcert".to_owned(),
            value: String::new(),
            expected: "the file of the authority to trust, or system",
        });
    }
    Ok(path.map(Roots::File))
}

fn client_certificate(
    values: &mut Values,
    around: &dyn Surroundings,
) -> Result<Option<(PathBuf, PathBuf)>> {
    let sent = values.choice(
        "sslcertmode",
        "allow or disable (a server that wants a certificate asks for it)",
        &[("allow", true), ("disable", false)],
    )?;
    let certificate = values
        .text("sslcert")
        .map(PathBuf::from)
        .or_else(|| home_file("postgresql.crt", around).filter(|path| is_there(path, around)));
    let key = values
        .text("sslkey")
        .map(PathBuf::from)
        .or_else(|| home_file("postgresql.key", around).filter(|path| is_there(path, around)));
    Ok(certificate.zip(key).filter(|_| sent.unwrap_or(true)))
}

fn target(values: &mut Values) -> Result<TargetSession> {
    let given = values.choice(
        "target_session_attrs",
        "any, read-write, read-only, primary, standby or prefer-standby",
        &[
            ("any", TargetSession::Any),
            ("read-write", TargetSession::ReadWrite),
            ("read-only", TargetSession::ReadOnly),
            ("primary", TargetSession::Primary),
            ("standby", TargetSession::Standby),
            ("prefer-standby", TargetSession::PreferStandby),
        ],
    )?;
    Ok(given.unwrap_or(TargetSession::Any))
}

fn keepalives(values: &mut Values) -> Result<Keepalives> {
    let on = values.choice("keepalives", "0 or 1", &[("0", false), ("1", true)])?;
    let count = values.parsed("keepalives_count", "a whole number", |value| {
        value.trim().parse::<u32>().ok()
    })?;
    let user_timeout = values.parsed("tcp_user_timeout", "milliseconds", |value| {
        value.trim().parse::<u64>().ok()
    })?;
    Ok(Keepalives {
        on: on.unwrap_or(true),
        idle: values.seconds("keepalives_idle")?,
        interval: values.seconds("keepalives_interval")?,
        count: count.filter(|count| *count > 0),
        user_timeout: user_timeout
            .filter(|timeout| *timeout > 0)
            .map(Duration::from_millis),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Default)]
    struct Around {
        variables: BTreeMap<&'static str, &'static str>,
        files: BTreeMap<&'static str, (&'static str, u32)>,
    }

    impl Surroundings for Around {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn read(&self, path: &Path) -> std::io::Result<Option<String>> {
            let file = path.to_str().and_then(|path| self.files.get(path));
            Ok(file.map(|(text, _)| (*text).to_owned()))
        }

        fn mode(&self, path: &Path) -> Option<u32> {
            let file = path.to_str().and_then(|path| self.files.get(path));
            file.map(|(_, mode)| *mode)
        }

        fn user(&self) -> Option<String> {
            Some("system".to_owned())
        }
    }

    fn parse(text: &str) -> Result<ConnInfo> {
        ConnInfo::parse(text, &Around::default())
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            at: None,
            port,
        }
    }

    #[test]
    fn nothing_means_the_local_socket_and_the_systems_user() {
        let info = parse("").expect("valid");
        let folder = PathBuf::from(SOCKET_FOLDER);
        assert_eq!(info.addresses, [Address::Unix { folder, port: 5432 }]);
        assert_eq!(
            (info.user.as_str(), info.database.as_str()),
            ("system", "system")
        );
        assert_eq!(info.ssl, SslMode::Prefer);
        assert_eq!(info.target, TargetSession::Any);
    }

    #[test]
    fn urls_are_read_with_everything_in_them() {
        let info = parse(
            "postgres://back%40up:pa%3Ass@db1,db2:5433,[::1]:5434/app?sslmode=verify-full\
             &sslrootcert=/etc/ca.pem&target_session_attrs=primary&connect_timeout=1\
             &application_name=tide%20mark",
        )
        .expect("valid");
        assert_eq!(
            info.addresses,
            [tcp("db1", 5432), tcp("db2", 5433), tcp("::1", 5434)]
        );
        assert_eq!(info.addresses[2].to_string(), "[::1]:5434");
        assert_eq!(info.user, "back@up");
        assert_eq!(info.password.as_ref().map(Password::reveal), Some("pa:ss"));
        assert_eq!(info.database, "app");
        assert_eq!(info.roots, Some(Roots::File("/etc/ca.pem".into())));
        assert_eq!(info.target, TargetSession::Primary);
        assert_eq!(info.connect_timeout, Some(Duration::from_secs(2)));
        assert_eq!(info.application_name.as_deref(), Some("tide mark"));
        assert!(
            !format!("{info:?}").contains("pa:ss"),
            "no secret in a debug print"
        );
    }

    #[test]
    fn sockets_are_named_by_their_folder_in_both_forms() {
        for text in [
            "postgresql://%2Frun%2Fpg:5433/app",
            "postgres:///app?host=/run/pg&port=5433",
            "host=/run/pg port=5433 dbname=app",
        ] {
            let info = parse(text).expect(text);
            let folder = PathBuf::from("/run/pg");
            assert_eq!(
                info.addresses,
                [Address::Unix { folder, port: 5433 }],
                "{text}"
            );
            assert_eq!(info.database, "app");
        }
    }

    #[test]
    fn pairs_may_be_quoted_and_spaced() {
        let info =
            parse("host = 'db 1' user='it\\'s me' password = a\\\\b\\ c  dbname=x").expect("valid");
        assert_eq!(info.addresses, [tcp("db 1", 5432)]);
        assert_eq!(info.user, "it's me");
        assert_eq!(info.password.as_ref().map(Password::reveal), Some("a\\b c"));
    }

    #[test]
    fn the_environment_fills_in_what_the_string_leaves_open() {
        let around = Around {
            variables: BTreeMap::from([
                ("PGHOST", "env"),
                ("PGUSER", "env-user"),
                ("PGSSLMODE", "disable"),
                ("PGPORT", ""),
            ]),
            ..Around::default()
        };
        let info = ConnInfo::parse("user=mine", &around).expect("valid");
        assert_eq!(info.addresses, [tcp("env", 5432)]);
        assert_eq!((info.user.as_str(), info.ssl), ("mine", SslMode::Disable));
    }

    #[test]
    fn a_service_stands_between_the_string_and_the_environment() {
        let around = Around {
            variables: BTreeMap::from([("HOME", "/home/x"), ("PGUSER", "env"), ("PGPORT", "1")]),
            files: BTreeMap::from([(
                "/home/x/.pg_service.conf",
                ("[prod]\nhost=db1\nuser=service\n", 0o644),
            )]),
        };
        let info = ConnInfo::parse("service=prod dbname=mine", &around).expect("valid");
        assert_eq!(info.addresses, [tcp("db1", 1)]);
        assert_eq!(
            (info.user.as_str(), info.database.as_str()),
            ("service", "mine")
        );
        let error = ConnInfo::parse("service=gone", &around).expect_err("unknown");
        assert!(
            error.to_string().contains("/home/x/.pg_service.conf"),
            "{error}"
        );
    }

    #[test]
    fn the_passfile_is_used_only_if_nobody_else_can_read_it() {
        let around = |mode| Around {
            variables: BTreeMap::from([("HOME", "/home/x")]),
            files: BTreeMap::from([("/home/x/.pgpass", ("db1:*:*:me:secret\n", mode))]),
        };
        let private = ConnInfo::parse("host=db1 user=me", &around(0o600)).expect("valid");
        let password = private.password_for(&private.addresses[0]);
        assert_eq!(password.as_ref().map(Password::reveal), Some("secret"));
        let open = ConnInfo::parse("host=db1 user=me", &around(0o640)).expect("valid");
        assert_eq!(open.password_for(&open.addresses[0]), None);
        assert_eq!(open.passfile.ignored(), Some(Path::new("/home/x/.pgpass")));
    }

    #[test]
    fn lists_of_hosts_and_ports_must_fit() {
        let info = parse("host=a,b,/tmp port=5433").expect("valid");
        assert_eq!(
            info.addresses.iter().map(Address::port).collect::<Vec<_>>(),
            [5433; 3]
        );
        assert!(parse("host=a,b port=1,2,3").is_err());
        assert!(parse("host=a,b hostaddr=127.0.0.1").is_err());
        let numbered = parse("host=name hostaddr=127.0.0.1").expect("valid");
        assert_eq!(
            numbered.addresses,
            [Address::Tcp {
                host: "name".to_owned(),
                at: Some("127.0.0.1".parse().expect("an address")),
                port: 5432
            }]
        );
    }

    /// Every keyword of libpq's, 18.
    const KEYWORDS: &[(&str, &str)] = &[
        ("application_name", "x"),
        ("channel_binding", "prefer"),
        ("client_encoding", "auto"),
        ("connect_timeout", "5"),
        ("dbname", "d"),
        ("fallback_application_name", "x"),
        ("gssdelegation", "0"),
        ("gssencmode", "prefer"),
        ("gsslib", "gssapi"),
        ("host", "h"),
        ("hostaddr", "127.0.0.1"),
        ("keepalives", "1"),
        ("keepalives_count", "3"),
        ("keepalives_idle", "10"),
        ("keepalives_interval", "10"),
        ("krbsrvname", "postgres"),
        ("load_balance_hosts", "disable"),
        ("max_protocol_version", "3.0"),
        ("min_protocol_version", "3.0"),
        ("oauth_client_id", "x"),
        ("oauth_client_secret", "x"),
        ("oauth_issuer", "x"),
        ("oauth_scope", "x"),
        ("options", "-cx=y"),
        ("passfile", "/nowhere"),
        ("password", "x"),
        ("port", "5432"),
        ("replication", "true"),
        ("require_auth", "scram-sha-256"),
        ("requirepeer", "postgres"),
        ("scram_client_key", "x"),
        ("scram_server_key", "x"),
        ("service", "x"),
        ("servicefile", "/nowhere"),
        ("ssl_max_protocol_version", "TLSv1.3"),
        ("ssl_min_protocol_version", "TLSv1.2"),
        ("sslcert", "/x"),
        ("sslcertmode", "allow"),
        ("sslcompression", "0"),
        ("sslcrl", "/x"),
        ("sslcrldir", "/x"),
        ("sslkey", "/x"),
        ("sslkeylogfile", "/x"),
        ("sslmode", "prefer"),
        ("sslnegotiation", "postgres"),
        ("sslpassword", "x"),
        ("sslrootcert", "/x"),
        ("sslsni", "1"),
        ("target_session_attrs", "any"),
        ("tcp_user_timeout", "1000"),
        ("user", "u"),
    ];

    #[test]
    fn every_keyword_of_libpq_is_honoured_or_refused_by_its_name() {
        for (name, value) in KEYWORDS {
            if let Err(error) = parse(&format!("{name}={value}")) {
                let told = error.to_string();
                assert!(!matches!(error, ConnInfoError::Unknown(_)), "{told}");
                assert!(told.contains(name) || *name == "service", "{name}: {told}");
            }
        }
    }

    #[test]
    fn what_concerns_tls_is_never_weaker_than_asked_for() {
        let info = parse("host=a sslrootcert=system").expect("valid");
        assert_eq!(info.ssl, SslMode::VerifyFull);
        let info = parse("host=a ssl_min_protocol_version=TLSv1.3").expect("valid");
        assert_eq!(info.tls_versions, (TlsVersion::V1_3, TlsVersion::V1_3));
        let info = parse("host=a").expect("valid");
        assert_eq!(info.tls_versions, (TlsVersion::V1_2, TlsVersion::V1_3));
        let files = "host=a sslcert=/c sslkey=/k";
        assert!(parse(files).expect("valid").client_certificate.is_some());
        let never = parse(&format!("{files} sslcertmode=disable"));
        assert!(never.expect("valid").client_certificate.is_none());
    }

    #[test]
    fn what_is_not_supported_or_not_known_is_refused_by_name() {
        for (text, word) in [
            ("host=a sslcrl=x", "sslcrl"),
            ("host=a nonsense=1", "nonsense"),
            ("host=a sslmode=maybe", "verify-full"),
            ("host=a port=0", "65535"),
            ("host=a port=x", "65535"),
            ("host=a hostaddr=b", "IP address"),
            ("host=a sslmode=verify-full", "sslrootcert"),
            ("host=a sslrootcert=system sslmode=require", "verify-full"),
            ("host=a sslrootcert=system sslmode=prefer", "verify-full"),
            ("host=a gssencmode=require", "GSSAPI"),
            ("host=a sslcertmode=require", "allow or disable"),
            ("host=a ssl_max_protocol_version=TLSv1.1", "TLSv1.2"),
            (
                "host=a ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
                "no TLS is left",
            ),
            ("host=a load_balance_hosts=random", "disable"),
            ("host=a sslnegotiation=direct", "postgres"),
            ("host", "no '='"),
            ("host='a", "quote"),
            ("postgres://a%zz@b/", "hexadecimal"),
            ("postgres://[::1/", "]"),
            ("postgres://h/d?x", "no '='"),
            ("postgres://h/d?a=b", "\"a\""),
            ("postgres://h/d%00", "%"),
            ("channel_binding=yes", "require"),
            ("target_session_attrs=leader", "prefer-standby"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_goes_out_in_clear_text_only_where_somebody_said_so_or_nobody_is_between() {
        let info = |text: &str| ConnInfo::parse(text, &Around::default()).expect("valid");
        for (text, clear, chance) in [
            ("host=db1", false, true),
            ("host=db1 sslmode=prefer", false, true),
            ("host=10.0.0.1", false, true),
            ("host=db1 sslmode=disable", true, false),
            ("host=db1 sslmode=allow", true, false),
            ("host=db1 sslmode=require", false, false),
            ("host=localhost", true, false),
            ("host=127.0.0.1", true, false),
            ("host=::1", true, false),
            ("host=db1 hostaddr=127.0.0.1", true, false),
            ("host=/run/postgresql", true, false),
        ] {
            let info = info(text);
            let address = &info.addresses[0];
            assert_eq!(info.may_send_clear_text(address), clear, "{text}");
            assert_eq!(info.leaves_tls_to_chance(address), chance, "{text}");
        }
    }
}
