//! The peer: Litestream, with its defaults and one replica.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::process::{Running, Usage};
use crate::region::Region;

/// In the name of each of its files.
const FILE: &str = ".ltx";

/// A configured Litestream, not running by itself.
#[derive(Debug)]
pub(crate) struct Litestream {
    home: PathBuf,
    database: PathBuf,
    region: Region,
}

impl Litestream {
    /// Writes a config that ships `database` to `region` every second, as Tidemark is set here.
    pub(crate) fn prepare(home: &Path, database: &Path, region: &Region) -> Result<Self> {
        std::fs::create_dir_all(home)?;
        let replica: String = region
            .replica()
            .iter()
            .map(|line| format!("      {line}\n"))
            .collect();
        let text = format!(
            "dbs:\n  - path: {}\n    replica:\n{replica}      sync-interval: 1s\n",
            database.display()
        );
        std::fs::write(home.join("litestream.yml"), text)?;
        Ok(Self {
            home: home.to_owned(),
            database: database.to_owned(),
            region: region.clone(),
        })
    }

    /// Starts it.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut command = self.command();
        command
            .arg("replicate")
            .arg("-config")
            .arg(self.home.join("litestream.yml"));
        Running::start(&mut command, &self.home.join("replicate.log"))
    }

    /// Starts it and waits until its region can restore.
    pub(crate) fn start_protected(&self) -> Result<Running> {
        let mut process = self.start()?;
        self.wait_restorable(&mut process)?;
        Ok(process)
    }

    /// Waits until its region holds the first image; answers since when.
    pub(crate) fn wait_restorable(&self, process: &mut Running) -> Result<Instant> {
        self.region.wait_for(FILE, process)
    }

    /// Restores the latest state.
    pub(crate) fn restore(&self, target: &Path) -> Result<Usage> {
        let mut command = self.command();
        command
            .arg("restore")
            .arg("-config")
            .arg(self.home.join("litestream.yml"));
        command.arg("-o").arg(target).arg(&self.database);
        Running::start(&mut command, &self.home.join("restore.log"))?.finish()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        // It refuses to start with a bundle of authorities in the environment.
        command.current_dir(&self.home).env_remove("AWS_CA_BUNDLE");
        command
    }
}

/// Where `tests/install-servers` puts it.
fn program() -> PathBuf {
    let tools = std::env::var_os("TIDEMARK_TOOLS")
        .map(PathBuf::from)
        .or_else(|| {
            std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tidemark-tools"))
        });
    tools.unwrap_or_default().join("bin/litestream")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data;
    use crate::load::{Kind, Load};
    use crate::region::Provider;

    fn is_installed() -> bool {
        let found = program().exists();
        let required = std::env::var_os("TIDEMARK_REQUIRE_SERVERS").is_some_and(|v| v == "1");
        assert!(
            found || !required,
            "litestream is missing: run tests/install-servers"
        );
        if !found {
            println!("SKIPPED: litestream is missing (tests/install-servers)");
        }
        found
    }

    #[test]
    fn what_the_peer_replicated_through_the_witness_comes_back() {
        if !is_installed() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (home, database) = (folder.path(), folder.path().join("app.db"));
        data::make(&database, 1 << 20, 4096).expect("a database");
        let provider = Provider::start().expect("an S3 server");
        let buckets = [provider.region("a"), Region::Folder(home.join("region"))];
        for (number, region) in buckets.iter().enumerate() {
            let place = home.join(number.to_string());
            let peer = Litestream::prepare(&place, &database, region).expect("a config");
            let process = peer.start_protected().expect("it replicates");
            let load = Load::run_here(&database, Kind::Append, 50, 1.0).expect("a load");
            std::thread::sleep(std::time::Duration::from_secs(3));
            assert!(process.usage().expect("usage").memory_bytes > 1 << 20);
            process.stop().expect("it ends");
            let target = home.join(format!("back-{number}.db"));
            peer.restore(&target).expect("it restores");
            let newest: i64 = data::open(&target)
                .expect("a database")
                .query_row("SELECT max(id) FROM entry", [], |row| row.get(0))
                .expect("a row");
            assert_eq!(
                u64::try_from(newest).ok(),
                load.last().map(|commit| commit.row)
            );
        }
        let requests = buckets[0].requests();
        assert!(
            requests.iter().any(crate::proxy::Seen::created),
            "{requests:?}"
        );
    }
}
