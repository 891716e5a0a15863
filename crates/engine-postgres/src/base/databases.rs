//! Whether a base has every database: those in the catalogue are compared with the folders that came.
//!
//! A base backup leaves out what stands behind a symbolic link, and its server only warns of it. Databases
//! come and go meanwhile: what is asked for was there before the base and after it, in the same tablespace.

use std::time::Duration;

use super::error::BaseError;
use super::listing::Listing;
use crate::conninfo::ConnInfo;
use crate::wire::{Connection, Mode, WireError};

/// How long the question may take.
const ASK_MAX: Duration = Duration::from_secs(60);
/// One whose `DROP DATABASE` was interrupted is none any more, and its folder may be gone.
const LIST: &str = "SELECT oid, dattablespace, datname FROM pg_catalog.pg_database \
    WHERE datconnlimit <> -2 ORDER BY oid";

/// All but `pg_default` and `pg_global`.
const SPACES: &str = "SELECT oid FROM pg_catalog.pg_tablespace WHERE oid NOT IN (1663, 1664)";

/// A database of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// Its number, which is its folder's name.
    pub(crate) oid: u32,
    /// Its tablespace's.
    pub(crate) space: u32,
    /// Its name.
    pub(crate) name: String,
}

/// What a server says that it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Catalogue {
    databases: Vec<Database>,
    /// The tablespaces that were made, by their numbers.
    spaces: Vec<u32>,
}

/// Asks on a connection that takes SQL.
pub(super) async fn list(connection: &mut Connection) -> Result<Catalogue, WireError> {
    let set = connection.query_one(LIST).await?;
    let rows = set.rows.iter().filter_map(|row| {
        Some(Database {
            oid: row.text(0)?.parse().ok()?,
            space: row.text(1)?.parse().ok()?,
            name: row.text(2)?.to_owned(),
        })
    });
    let databases = rows.collect();
    let set = connection.query_one(SPACES).await?;
    let spaces = set.rows.iter();
    let spaces = spaces.filter_map(|row| row.text(0)?.parse().ok());
    Ok(Catalogue {
        databases,
        spaces: spaces.collect(),
    })
}

/// Asks once more what is there, and whether all that was there `before` and still is has come.
pub(super) async fn check(
    info: &ConnInfo,
    before: Option<&Catalogue>,
    came: &Listing,
) -> Result<(), BaseError> {
    let Some(before) = before else {
        return Ok(());
    };
    let asked = async {
        let mut connection = Connection::open(info, Mode::Sql).await?;
        let after = list(&mut connection).await;
        connection.close().await;
        after
    };
    // Who could be asked before the base answers after it, as a rule; else nothing can be compared.
    let Ok(Ok(after)) = tokio::time::timeout(ASK_MAX, asked).await else {
        return Ok(());
    };
    compare(before, &after, came)
}

fn compare(before: &Catalogue, after: &Catalogue, came: &Listing) -> Result<(), BaseError> {
    let stayed = |one: &&Database| {
        let mut after = after.databases.iter();
        after.any(|other| (other.oid, other.space) == (one.oid, one.space))
    };
    // Servers up to 15 send nothing of a tablespace inside the data directory, and say nothing of it.
    let mut spaces = before.spaces.iter();
    if let Some(oid) = spaces.find(|oid| after.spaces.contains(oid) && !came.has_space(**oid)) {
        return Err(BaseError::InPlace { oid: *oid });
    }
    let mut stayed = before.databases.iter().filter(stayed);
    match stayed.find(|one| !came.has_database(one.oid, one.space)) {
        None => Ok(()),
        Some(Database { oid, space, name }) => Err(BaseError::DatabaseMissing {
            name: name.clone(),
            oid: *oid,
            space: *space,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(oid: u32, space: u32) -> Database {
        Database {
            oid,
            space,
            name: format!("db{oid}"),
        }
    }

    fn catalogue(databases: &[Database], spaces: &[u32]) -> Catalogue {
        Catalogue {
            databases: databases.to_vec(),
            spaces: spaces.to_vec(),
        }
    }

    #[test]
    fn a_database_that_stayed_and_did_not_come_is_named() {
        let mut came = Listing::default();
        came.file("base/5/PG_VERSION", 0o600);
        let there = database(5, 1663);
        let before = [there.clone(), database(6, 1663), database(7, 1663)];
        // One was dropped, one moved to another tablespace, one is new.
        let after = [there.clone(), database(6, 16385), database(8, 1663)];
        compare(&catalogue(&before, &[]), &catalogue(&after, &[]), &came).unwrap();
        let both = catalogue(&[there, database(9, 1663)], &[]);
        let refused = compare(&both, &both, &came).unwrap_err();
        assert!(
            matches!(&refused, BaseError::DatabaseMissing { oid: 9, name, .. } if name == "db9"),
            "{refused}"
        );
    }

    #[test]
    fn a_tablespace_that_stayed_and_did_not_come_is_named() {
        let mut came = Listing::default();
        came.tablespace(16400, "/srv/fast").unwrap();
        let before = catalogue(&[], &[16400, 16401]);
        compare(&before, &catalogue(&[], &[16400, 16402]), &came).unwrap();
        let refused = compare(&before, &before, &came).unwrap_err();
        assert!(
            matches!(refused, BaseError::InPlace { oid: 16401 }),
            "{refused}"
        );
    }
}
