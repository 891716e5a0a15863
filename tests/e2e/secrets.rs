//! A password in a connection string: whatever is run, and whatever goes wrong, nothing prints it.

use tidemark_testkit::postgres::{MAJORS, Options, Postgres};

use crate::pg_site::{PgSite, ROLE};
use crate::process::Ran;

/// Long enough that no part of it is there by chance.
const SECRET: &str = "Zq7secretZq7";

#[track_caller]
fn silent(what: &str, ran: &Ran) {
    let said = format!("{}\n{}", ran.out, ran.err);
    assert!(!said.contains("Zq7"), "{what} printed the password: {said}");
}

/// A server that takes the password of [`SECRET`], a config for it, and a look at everything that is said.
struct Watched {
    site: PgSite,
    config: String,
}

impl Watched {
    fn new(postgres: &Postgres) -> Self {
        let options = Options {
            tcp: true,
            ..Options::default()
        };
        let site = PgSite::plan(postgres, &options);
        site.cluster
            .sql(&format!("ALTER ROLE {ROLE} PASSWORD '{SECRET}'"));
        site.cluster.set_hba(
            "host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256",
        );
        let made = Self {
            site,
            config: String::new(),
        };
        silent("init", &made.site.init(&made.url()).ok());
        made.site.site.shorten();
        let config = std::fs::read_to_string(&made.site.site.config).unwrap();
        Self { config, ..made }
    }

    fn url(&self) -> String {
        let port = self.site.cluster.port();
        format!("postgres://{ROLE}:{SECRET}@127.0.0.1:{port}/postgres")
    }

    /// A person writes it into the config all the same.
    fn write(&self, conninfo: &str) {
        let line = |line: &str| {
            if line.starts_with("postgres = ") {
                format!("postgres = {conninfo:?}")
            } else {
                line.to_owned()
            }
        };
        let lines: Vec<String> = self.config.lines().map(line).collect();
        std::fs::write(&self.site.site.config, lines.join("\n")).unwrap();
    }

    /// Runs all that says something of a source.
    #[track_caller]
    fn look(&self, when: &str) {
        for words in [
            &["config", "show"][..],
            &["config", "show", "--json"],
            &["config", "check"],
            &["status"],
            &["status", "--json"],
            &["doctor"],
            &["doctor", "--json"],
        ] {
            silent(&format!("{when}: {words:?}"), &self.site.site.agent(words));
        }
    }
}

#[test]
fn no_command_no_log_and_no_error_prints_a_password() {
    let Some(postgres) = Postgres::of(MAJORS[MAJORS.len() - 1]) else {
        return;
    };
    let watched = Watched::new(&postgres);
    let site = &watched.site;
    watched.write(&watched.url());
    let daemon = site.start_protected();
    watched.look("running");
    let log = daemon.log();
    assert!(!log.contains("Zq7"), "{log}");
    daemon.terminate();
    watched.look("stopped");
    // The server wants another one now; the config has it in the other form.
    site.cluster
        .sql(&format!("ALTER ROLE {ROLE} PASSWORD 'another'"));
    let port = site.cluster.port();
    watched.write(&format!(
        "host=127.0.0.1 port={port} user={ROLE} password='{SECRET}' dbname=postgres"
    ));
    watched.look("refused");
    let refused = format!("password refused for role {ROLE}");
    site.site.agent(&["doctor"]).says(&[&refused]);
}

#[test]
fn connection_string_that_can_not_be_read_is_named_and_not_shown() {
    let Some(postgres) = Postgres::of(MAJORS[MAJORS.len() - 1]) else {
        return;
    };
    let watched = Watched::new(&postgres);
    for broken in [
        format!("postgres://{ROLE}:{SECRET}@127.0.0.1:port/postgres"),
        format!("postgres://{ROLE}:{SECRET}/x@127.0.0.1/postgres"),
        format!("postgres://{ROLE}:{SECRET}?x@127.0.0.1/postgres"),
        format!("postgres://{ROLE}:{SECRET}%zz@127.0.0.1/postgres"),
        format!("host=127.0.0.1 password={SECRET} {SECRET}"),
        format!("host=127.0.0.1 password='{SECRET}"),
        format!("host=127.0.0.1 password={SECRET} colour=red"),
    ] {
        watched.write(&broken);
        for words in [
            &["config", "check"][..],
            &["config", "show"],
            &["status"],
            &["doctor"],
        ] {
            let ran = watched.site.site.agent(words);
            assert_ne!(ran.code, 0, "{broken}: {ran}");
            silent(&broken, &ran);
        }
        silent(&broken, &watched.site.init(&broken));
    }
    watched.write("");
    watched
        .site
        .site
        .agent(&["config", "check"])
        .ends_with(78)
        .says(&["names no server"]);
}
