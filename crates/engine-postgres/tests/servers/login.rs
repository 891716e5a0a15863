//! Log-in on real servers: TLS in every mode, SCRAM with channel binding, MD5, clear text, roles.

use tidemark_engine_postgres::conninfo::{ConnInfo, ConnInfoError};
use tidemark_engine_postgres::wire::{Connection, Mode, WireError, WireErrorKind};
use tidemark_testkit::postgres::{Cluster, Options, Postgres};

use crate::replication::Nothing;

fn listening(postgres: &Postgres) -> Cluster {
    let options = Options {
        tcp: true,
        ..Options::default()
    };
    let cluster = Cluster::start(postgres, &options).expect("a cluster");
    cluster.sql("SET password_encryption = 'scram-sha-256'; CREATE ROLE s LOGIN REPLICATION PASSWORD 'pässword one'");
    cluster.sql("SET password_encryption = 'md5'; CREATE ROLE m LOGIN PASSWORD 'two'");
    cluster
}

fn info(cluster: &Cluster, more: &str) -> Result<ConnInfo, ConnInfoError> {
    let text = format!(
        "hostaddr=127.0.0.1 port={} dbname=postgres {more}",
        cluster.port()
    );
    ConnInfo::parse(&text, &Nothing)
}

async fn open(cluster: &Cluster, more: &str) -> Result<Connection, WireError> {
    let info = info(cluster, more).expect("a connection string");
    Connection::open(&info, Mode::Sql).await
}

async fn encrypted(cluster: &Cluster, more: &str) -> bool {
    let mut connection = open(cluster, more).await.expect(more);
    let asked = connection
        .query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .await
        .expect("answered");
    assert_eq!(asked.value("ssl") == Some("t"), connection.is_encrypted());
    connection.is_encrypted()
}

async fn refused(cluster: &Cluster, more: &str, kind: WireErrorKind, word: &str) {
    let error = open(cluster, more).await.expect_err(more);
    assert_eq!(error.kind(), kind, "{more}: {error}");
    assert!(error.to_string().contains(word), "{more}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_strict_as_its_mode_says() {
    let Some(postgres) = Postgres::of(15) else {
        return;
    };
    let cluster = listening(&postgres);
    let ca = cluster.socket_dir().join("ca.pem");
    let ca = ca.display();
    let other = tempfile::tempdir().expect("a folder");
    let stranger = Cluster::start(
        &postgres,
        &Options {
            tcp: true,
            ..Options::default()
        },
    )
    .expect("another cluster, with another authority");
    let strange = stranger.socket_dir().join("ca.pem");
    let strange = strange.display();
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    let who = "user=s password='pässword one'";
    // Modes that encrypt, and those that don't.
    assert!(!encrypted(&cluster, &format!("{who} sslmode=disable")).await);
    assert!(!encrypted(&cluster, &format!("{who} sslmode=allow")).await);
    assert!(encrypted(&cluster, &format!("{who} sslmode=prefer")).await);
    assert!(encrypted(&cluster, &format!("{who} sslmode=require")).await);
    // Who the server is: the authority, and the name in the certificate.
    let verified = |mode: &str, host: &str, root: &dyn std::fmt::Display| {
        format!("{who} host={host} sslmode={mode} sslrootcert={root}")
    };
    assert!(encrypted(&cluster, &verified("verify-full", "localhost", &ca)).await);
    assert!(encrypted(&cluster, &verified("verify-full", "127.0.0.1", &ca)).await);
    assert!(encrypted(&cluster, &verified("verify-ca", "db.example", &ca)).await);
    let tls = WireErrorKind::Tls;
    refused(
        &cluster,
        &verified("verify-full", "db.example", &ca),
        tls,
        "sslrootcert",
    )
    .await;
    for mode in ["require", "verify-ca", "verify-full"] {
        refused(
            &cluster,
            &verified(mode, "localhost", &strange),
            tls,
            "sslrootcert",
        )
        .await;
    }
    let nothing = other.path().join("no.pem");
    refused(
        &cluster,
        &verified("verify-ca", "localhost", &nothing.display()),
        tls,
        "no.pem",
    )
    .await;
    // What the server wants decides where the mode leaves it open.
    cluster.set_hba("hostssl all all 127.0.0.1/32 scram-sha-256");
    assert!(encrypted(&cluster, &format!("{who} sslmode=allow")).await);
    refused(
        &cluster,
        &format!("{who} sslmode=disable"),
        WireErrorKind::Denied,
        "no encryption",
    )
    .await;
    cluster.set_hba("hostnossl all all 127.0.0.1/32 scram-sha-256");
    assert!(!encrypted(&cluster, &format!("{who} sslmode=prefer")).await);
    without_tls(&cluster, who).await;
}

/// The same server once it has no TLS.
async fn without_tls(cluster: &Cluster, who: &str) {
    cluster.sql("ALTER SYSTEM SET ssl = off");
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    assert!(!encrypted(cluster, &format!("{who} sslmode=prefer")).await);
    let (tls, denied) = (WireErrorKind::Tls, WireErrorKind::Denied);
    refused(cluster, &format!("{who} sslmode=require"), tls, "ssl = on").await;
    // What keeps people out is told, and not the TLS that their mode can do without.
    let wrong = "user=s password=wrong sslmode=prefer";
    refused(cluster, wrong, denied, "password authentication").await;
    cluster.set_hba("");
    let nobody = format!("{who} sslmode=prefer");
    refused(cluster, &nobody, denied, "no pg_hba.conf entry").await;
    let none = format!("{who} sslmode=require");
    refused(cluster, &none, tls, "ssl = on").await;
}

async fn passwords_of_every_kind(postgres: &Postgres) {
    let cluster = listening(postgres);
    let binding = "sslmode=require channel_binding=require";
    let scram = "user=s password='pässword one'";
    // SCRAM, bound to its connection and not.
    cluster.set_hba("host all all 127.0.0.1/32 scram-sha-256");
    assert!(encrypted(&cluster, &format!("{scram} {binding}")).await);
    assert!(!encrypted(&cluster, &format!("{scram} sslmode=disable")).await);
    assert!(
        encrypted(
            &cluster,
            &format!("{scram} sslmode=require channel_binding=disable")
        )
        .await
    );
    let denied = WireErrorKind::Denied;
    refused(
        &cluster,
        &format!("{scram} sslmode=disable channel_binding=require"),
        denied,
        "PLUS",
    )
    .await;
    refused(
        &cluster,
        "user=s password=wrong sslmode=require",
        denied,
        "28P01",
    )
    .await;
    refused(&cluster, "user=s sslmode=require", denied, ".pgpass").await;
    // MD5, which can't be bound.
    cluster.set_hba("host all all 127.0.0.1/32 md5");
    assert!(encrypted(&cluster, "user=m password=two sslmode=require").await);
    assert!(!encrypted(&cluster, "user=m password=two sslmode=disable").await);
    refused(
        &cluster,
        &format!("user=m password=two {binding}"),
        denied,
        "channel_binding",
    )
    .await;
    // Clear text only where nobody else can listen, or where the string says that nobody does.
    cluster.set_hba("host all all 127.0.0.1/32 password");
    assert!(encrypted(&cluster, &format!("{scram} sslmode=require")).await);
    assert!(!encrypted(&cluster, &format!("{scram} sslmode=disable")).await);
    cluster.sql("ALTER SYSTEM SET ssl = off");
    cluster.set_hba("host all all 127.0.0.1/32 password");
    assert!(!encrypted(&cluster, &format!("{scram} sslmode=prefer")).await);
    // (This machine under a name that does not say so.)
    let elsewhere = async |more: &str| {
        let port = cluster.port();
        let text = format!("host=127.1 port={port} dbname=postgres {scram} {more}");
        let info = ConnInfo::parse(&text, &Nothing).expect("valid");
        Connection::open(&info, Mode::Sql).await
    };
    let error = elsewhere("").await.expect_err("refused");
    assert!(error.to_string().contains("clear text"), "{error}");
    elsewhere("sslmode=disable")
        .await
        .expect("as it was written");
    cluster.sql("ALTER SYSTEM RESET ssl");
    // A replication connection logs in like any other.
    cluster.set_hba("host replication s 127.0.0.1/32 scram-sha-256");
    let info = info(&cluster, scram).expect("valid");
    let mut connection = Connection::open(&info, Mode::Physical)
        .await
        .expect("let in");
    let who = tidemark_engine_postgres::replication::identify(&mut connection).await;
    assert_eq!(who.expect("told").timeline.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_every_kind_are_used_as_safely_as_they_can_be_on_every_major() {
    for postgres in Postgres::all() {
        passwords_of_every_kind(&postgres).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_first_with_the_role_asked_for_is_taken() {
    let Some(postgres) = Postgres::of(16) else {
        return;
    };
    let primary = Cluster::start(&postgres, &Options::default()).expect("a cluster");
    let standby = primary.standby("s").expect("a standby");
    let hosts = format!(
        "host=/nowhere,{},{}",
        standby.socket_dir().display(),
        primary.socket_dir().display()
    );
    let peer = async |target: &str, mode: Mode| {
        let text = format!("{hosts} user=postgres dbname=postgres target_session_attrs={target}");
        let info = ConnInfo::parse(&text, &Nothing).expect("valid");
        let connection = Connection::open(&info, mode).await?;
        Ok::<String, WireError>(connection.peer().to_owned())
    };
    let is = |peer: String, cluster: &Cluster| {
        peer.starts_with(&cluster.socket_dir().display().to_string())
    };
    for mode in [Mode::Sql, Mode::Physical] {
        assert!(is(peer("any", mode).await.expect("one"), &standby));
        assert!(is(peer("standby", mode).await.expect("one"), &standby));
        assert!(is(peer("read-only", mode).await.expect("one"), &standby));
        assert!(is(peer("primary", mode).await.expect("one"), &primary));
        assert!(is(peer("read-write", mode).await.expect("one"), &primary));
        assert!(is(
            peer("prefer-standby", mode).await.expect("one"),
            &standby
        ));
    }
    drop(standby);
    assert!(is(
        peer("prefer-standby", Mode::Sql).await.expect("one"),
        &primary
    ));
    let error = peer("standby", Mode::Sql).await.expect_err("there is none");
    assert_eq!(error.kind(), WireErrorKind::Busy);
    assert!(
        error.to_string().contains("target_session_attrs"),
        "{error}"
    );
}
