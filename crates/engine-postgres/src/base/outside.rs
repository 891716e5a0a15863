//! Settings that live outside the data directory: found and read, or noted as missing.
//!
//! Debian keeps `postgresql.conf`, `pg_hba.conf` and `pg_ident.conf` in `/etc`; included files may
//! stand anywhere. They are asked for by SQL on an ordinary connection, then on our own disk if the
//! server is on this machine. Nothing here stops a base: what could not be had is said in the layout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_format::postgres::layout::{CONFIG_FOLDER, OutsideFile, is_safe_path};

use super::databases::{self, Catalogue};
use crate::conninfo::{Address, ConnInfo};
use crate::wire::{Connection, Mode, WireError, quote_literal};

/// A file of settings that is larger is none.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// All of them together, in memory until the base ends.
const ALL_BYTES_MAX: u64 = 4 << 20;
/// How long all the questions may take.
const ASK_MAX: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Content by the path in the base.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) listed: Vec<OutsideFile>,
    /// What may be missing from the list.
    pub(crate) notes: Vec<String>,
    /// The databases and tablespaces that there are; none if the server can't be asked.
    pub(crate) catalogue: Option<Catalogue>,
}

/// Looks for them.
pub(crate) async fn collect(info: &ConnInfo) -> Outside {
    let mut outside = Outside::default();
    let asked = tokio::time::timeout(ASK_MAX, ask(info, &mut outside)).await;
    match asked {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outside.notes.push(format!(
            "settings outside the data directory are unknown: no ordinary connection to the server ({error})"
        )),
        Err(_elapsed) => outside
            .notes
            .push("settings outside the data directory may be missing: the server took too long to answer".to_owned()),
    }
    outside
}

async fn ask(info: &ConnInfo, outside: &mut Outside) -> Result<(), WireError> {
    let mut connection = Connection::open(info, Mode::Sql).await?;
    outside.catalogue = databases::list(&mut connection).await.ok();
    let local = info
        .addresses
        .iter()
        .all(|address| matches!(address, Address::Unix { .. }));
    let Some(data) = setting(&mut connection, "data_directory").await else {
        outside.notes.push(
            "settings outside the data directory are unknown: this role may not see where they are; GRANT pg_read_all_settings (or pg_monitor) TO it"
                .to_owned(),
        );
        return Ok(());
    };
    let mut sources = BTreeSet::new();
    let mut home = None;
    for name in ["config_file", "hba_file", "ident_file"] {
        if let Some(path) = setting(&mut connection, name).await {
            if name == "config_file" {
                home = Path::new(&path).parent().map(Path::to_path_buf);
            }
            sources.insert(path);
        }
    }
    included(&mut connection, &mut sources, &mut outside.notes).await;
    for source in sources {
        if Path::new(&source).starts_with(&data) {
            continue;
        }
        let listed = match read(&mut connection, &source, local).await {
            Ok(bytes) => keep(outside, source, home.as_deref(), bytes),
            Err(why) => missing(source, why),
        };
        outside.listed.push(listed);
    }
    connection.close().await;
    Ok(())
}

fn missing(source: String, why: impl Into<String>) -> OutsideFile {
    OutsideFile {
        source,
        path: None,
        missing: Some(why.into()),
    }
}

/// Takes a file in, under a path of its own.
fn keep(outside: &mut Outside, source: String, home: Option<&Path>, bytes: Vec<u8>) -> OutsideFile {
    let held: usize = outside.files.iter().map(|(_, bytes)| bytes.len()).sum();
    if (held + bytes.len()) as u64 > ALL_BYTES_MAX {
        return missing(source, "there are more settings than a base keeps");
    }
    let Some(path) = place(&source, home) else {
        return missing(source, "its path can't be kept");
    };
    outside.files.push((path.clone(), bytes));
    OutsideFile {
        source,
        path: Some(path),
        missing: None,
    }
}

/// Where a file is kept: as it stands beside the main file, else by its whole path.
fn place(source: &str, home: Option<&Path>) -> Option<String> {
    let path = Path::new(source);
    let beside = home.and_then(|home| path.strip_prefix(home).ok());
    let kept = match beside {
        Some(beside) => PathBuf::from(CONFIG_FOLDER).join(beside),
        None => {
            let whole = path.strip_prefix("/").ok()?;
            PathBuf::from(CONFIG_FOLDER).join("elsewhere").join(whole)
        }
    };
    let kept = kept.to_str()?.to_owned();
    is_safe_path(&kept).then_some(kept)
}

/// A setting, if this role may see it.
async fn setting(connection: &mut Connection, name: &str) -> Option<String> {
    let sql = format!(
        "SELECT setting FROM pg_settings WHERE name = {}",
        quote_literal(name)
    );
    let set = connection.query_one(&sql).await.ok()?;
    set.value("setting")
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
}

/// Adds the files that the main ones include.
async fn included(
    connection: &mut Connection,
    sources: &mut BTreeSet<String>,
    notes: &mut Vec<String>,
) {
    let mut views = vec![("pg_file_settings", "sourcefile")];
    if connection.major() >= Some(16) {
        views.push(("pg_hba_file_rules", "file_name"));
        views.push(("pg_ident_file_mappings", "file_name"));
    }
    for (view, column) in views {
        let sql =
            format!("SELECT DISTINCT {column} FROM {view} WHERE {column} IS NOT NULL ORDER BY 1");
        match connection.query_one(&sql).await {
            Ok(set) => sources.extend(set.rows.iter().filter_map(|row| row.text(0)).map(str::to_owned)),
            Err(error) => notes.push(format!(
                "files that the settings include are not known from {view} ({error}): GRANT SELECT ON {view} and EXECUTE on the function behind it"
            )),
        }
    }
}

/// A file's content, from the server or from our own disk.
async fn read(connection: &mut Connection, source: &str, local: bool) -> Result<Vec<u8>, String> {
    let name = quote_literal(source);
    let sql = format!(
        "SELECT encode(pg_read_binary_file({name}, 0, {}), 'hex') AS content",
        FILE_BYTES_MAX + 1
    );
    let bytes = match connection.query_one(&sql).await {
        Ok(set) => set
            .value("content")
            .and_then(from_hex)
            .ok_or("the server sent no content")?,
        Err(error) if !local => {
            return Err(format!(
                "{error}: GRANT pg_read_server_files and EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint)"
            ));
        }
        // Settings are small: no thread is needed for them.
        Err(error) => std::fs::read(source).map_err(|disk| {
            format!("neither the server ({error}) nor our own user ({disk}) reads it")
        })?,
    };
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() {
        bytes.collect()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_beside_one_another_as_they_stood() {
        let home = Some(Path::new("/etc/postgresql/15/main"));
        let placed = |source| place(source, home);
        assert_eq!(
            placed("/etc/postgresql/15/main/conf.d/a.conf").as_deref(),
            Some("tidemark-config/conf.d/a.conf")
        );
        assert_eq!(
            placed("/srv/common.conf").as_deref(),
            Some("tidemark-config/elsewhere/srv/common.conf")
        );
        assert_eq!(placed("/etc/../x"), None);
        assert_eq!(placed("x.conf"), None);
    }

    #[test]
    fn hexadecimal_text_is_read() {
        assert_eq!(from_hex("00fFa0"), Some(vec![0, 255, 160]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("0x"), None);
        assert_eq!(from_hex(""), Some(Vec::new()));
    }

    #[test]
    fn too_many_settings_are_noted_instead_of_kept() {
        let mut outside = Outside::default();
        let big = vec![0; usize::try_from(ALL_BYTES_MAX).unwrap()];
        assert!(
            keep(&mut outside, "/a".to_owned(), None, big)
                .missing
                .is_none()
        );
        assert!(
            keep(&mut outside, "/b".to_owned(), None, vec![1])
                .missing
                .is_some()
        );
        assert_eq!(outside.files.len(), 1);
    }
}
