//! What comes from a PostgreSQL server, from its log, or from the engine's own folder, spoiled.

use std::{hint::black_box, io, path::Path};

use tidemark_engine_postgres::conninfo::{ConnInfo, Surroundings, settle};
use tidemark_engine_postgres::fuzzing;
use tidemark_format::postgres::{LogRange, layout::Layout};

use crate::hostile::{attack, files};

const GOLDEN: &str = "tests/format/golden/postgres-v1";

#[test]
fn payloads_and_layouts_of_postgresql_survive_hostile_bytes() {
    attack("postgres-payload", files(GOLDEN), |bytes| {
        if let Ok(range) = LogRange::decode(bytes) {
            black_box(range.end());
            black_box(range.encode());
        }
        drop(black_box(Layout::decode(bytes)));
    });
}

#[test]
fn logs_of_postgresql_survive_hostile_bytes() {
    attack("postgres-log", Vec::new(), fuzzing::log);
}

#[test]
fn records_of_postgresqls_log_with_a_right_checksum_survive_hostile_content() {
    attack("postgres-record", Vec::new(), fuzzing::record);
}

#[test]
fn archives_of_base_backups_survive_hostile_bytes() {
    attack("postgres-archive", Vec::new(), fuzzing::archive);
}

#[test]
fn histories_of_timelines_survive_hostile_bytes() {
    attack("postgres-history", Vec::new(), fuzzing::timeline);
}

#[test]
fn records_and_digests_of_the_postgresql_engine_survive_hostile_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = fuzzing::sound_files(folder.path());
    attack("postgres-files", seeds, |bytes| {
        fuzzing::own_file(folder.path(), bytes);
    });
}

/// A user whose every file has the same content.
struct Around<'a>(&'a str);

impl Surroundings for Around<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/somebody".to_owned())
    }

    fn read(&self, _: &Path) -> io::Result<Option<String>> {
        Ok(Some(self.0.to_owned()))
    }

    fn mode(&self, _: &Path) -> Option<u32> {
        Some(0o600)
    }

    fn user(&self) -> Option<String> {
        Some("somebody".to_owned())
    }
}

#[test]
fn connection_strings_services_and_passfiles_survive_hostile_text() {
    attack("postgres-conninfo", Vec::new(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let around = Around(&text);
        for string in [&*text, "service=main", "host=db dbname=app user=somebody"] {
            if let Ok(info) = ConnInfo::parse(string, &around) {
                for address in &info.addresses {
                    black_box(info.password_for(address));
                }
            }
            drop(black_box(settle(string, &around, Path::new("/p"))));
        }
    });
}

/// Somebody who listens to servers.
struct Listener {
    runtime: tokio::runtime::Runtime,
    info: ConnInfo,
}

/// A panic in it is reported, and it isn't used again.
impl std::panic::RefUnwindSafe for Listener {}

impl Listener {
    fn hears(&self, bytes: &[u8]) {
        self.runtime.block_on(fuzzing::speech(&self.info, bytes));
    }
}

#[test]
fn whatever_a_server_says_survives_hostile_bytes() {
    let listener = Listener {
        runtime: tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap(),
        info: ConnInfo::parse("host=/s user=u password=secret", &Around("")).unwrap(),
    };
    attack("postgres-wire", Vec::new(), |bytes| listener.hears(bytes));
}
