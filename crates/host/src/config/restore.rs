//! `restore.toml`, checked. A restore needs none: regions and identity may all be arguments.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::agent::{read_path, read_threads};
use super::diagnose::{ConfigError, Findings};
use super::drills::{self, DrillChecks, Drills, RawDrill, RawDrills};
use super::objectives::{self, Promises, RawObjectives};
use super::regions::{self, RawRegion, Region};
use super::settings::{Located, set, size_from};
use crate::{ByteSize, RegionUrl, files};

/// The restore tool's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreConfig {
    /// The file with the recovery identity.
    pub identity: Option<PathBuf>,
    /// Where evidence waits and is kept; `None` is the usual place.
    pub state_dir: Option<PathBuf>,
    /// The bound on what is read ahead.
    pub memory: ByteSize,
    /// Threads for heavy work; `None` is one for each core.
    pub threads: Option<NonZeroUsize>,
    /// Where to read from; may be empty when regions come as arguments.
    pub regions: Vec<Region>,
    /// What is drilled on a schedule.
    pub drills: Drills,
    /// What is promised of the sources.
    pub objectives: Promises,
}

/// Reading ahead from two regions needs a few packs of 8 MiB in flight.
const MEMORY_MIN: ByteSize = ByteSize::mib(64);

/// `restore.toml` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRestore {
    identity: Option<Spanned<String>>,
    state_dir: Option<Spanned<String>>,
    memory: Option<Spanned<String>>,
    threads: Option<Spanned<i64>>,
    #[serde(default)]
    region: Vec<Spanned<RawRegion>>,
    objectives: Option<RawObjectives>,
    drills: Option<RawDrills>,
    #[serde(default)]
    drill: Vec<Spanned<RawDrill>>,
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self {
            identity: None,
            state_dir: None,
            memory: ByteSize::mib(256),
            threads: None,
            regions: Vec::new(),
            drills: Drills::default(),
            objectives: Promises::default(),
        }
    }
}

impl RestoreConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`]; when the file was read, with every problem in it.
    pub fn load(path: &Path, checks: &DrillChecks<'_>) -> Result<Self, ConfigError> {
        let text = files::read_text(path).map_err(ConfigError::Unreadable)?;
        let path = std::path::absolute(path).unwrap_or_else(|_no_directory| path.to_owned());
        Self::parse_with(&text, &path, checks)
    }

    /// As [`Self::parse_with`], taking the words of drills unread.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with every problem.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, file, &DrillChecks::NONE)
    }

    /// Checks `text` as the content of `file`, against whose folder relative paths are read.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with every problem.
    pub fn parse_with(
        text: &str,
        file: &Path,
        checks: &DrillChecks<'_>,
    ) -> Result<Self, ConfigError> {
        let mut findings = Findings::new(file, text);
        let raw: RawRestore = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => return Err(findings.syntax(&error, &|_key, _valid| None)),
        };
        let folder = file.parent().unwrap_or_else(|| Path::new("/"));
        let defaults = Self::default();
        let path_or_none = |text: &String| match text.as_str() {
            "" => Ok(None),
            text => read_path(folder, text).map(Some),
        };
        let nowhere = || Located {
            value: None,
            span: None,
        };
        let (mut identity, mut state_dir) = (nowhere(), nowhere());
        set(&mut identity, raw.identity, &mut findings, path_or_none);
        drills::check_place(&identity, checks, &mut findings);
        set(&mut state_dir, raw.state_dir, &mut findings, path_or_none);
        let mut memory = Located {
            value: defaults.memory,
            span: None,
        };
        set(&mut memory, raw.memory, &mut findings, |text| {
            size_from(MEMORY_MIN, text)
        });
        let mut threads = Located {
            value: None,
            span: None,
        };
        set(&mut threads, raw.threads, &mut findings, read_threads);
        let regions = regions::check(raw.region, &mut findings);
        let regions: Vec<Region> = regions.into_iter().map(|(region, _)| region).collect();
        let objectives = objectives::check(raw.objectives, &mut findings);
        let drills = drills::check(
            raw.drills,
            raw.drill,
            (folder, &regions),
            checks,
            &mut findings,
        );
        let (identity, memory, threads) = (identity.value, memory.value, threads.value);
        findings.finish(Some(Self {
            identity,
            state_dir: state_dir.value,
            memory,
            threads,
            regions,
            drills,
            objectives,
        }))
    }

    /// What the command line says wins: given regions replace the file's.
    #[must_use]
    pub fn with_arguments(mut self, regions: &[RegionUrl], identity: Option<&Path>) -> Self {
        if !regions.is_empty() {
            self.regions = Region::from_urls(regions);
        }
        if let Some(identity) = identity {
            self.identity = Some(identity.to_owned());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RestoreConfig, String> {
        RestoreConfig::parse(text, Path::new("/etc/tidemark/restore.toml"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(parse(""), Ok(RestoreConfig::default()));
    }

    #[test]
    fn an_identity_is_read_beside_the_config() {
        let config = parse("identity = \"identity\"").unwrap();
        assert_eq!(
            config.identity,
            Some(PathBuf::from("/etc/tidemark/identity"))
        );
    }

    #[test]
    fn regions_of_the_command_line_replace_those_of_the_file() {
        let config = parse("[[region]]\nname = \"a\"\nurl = \"dir:/a\"\n").unwrap();
        let urls = ["dir:/b".parse().unwrap()];
        assert_eq!(
            config.clone().with_arguments(&[], None).regions[0]
                .name
                .as_str(),
            "a"
        );
        assert_eq!(
            config.with_arguments(&urls, None).regions[0].name.as_str(),
            "b"
        );
    }

    #[test]
    fn unknown_keys_are_refused_with_near_ones() {
        let refused = parse("identiy = \"x\"").unwrap_err();
        assert!(
            refused.contains("restore.toml:1:1: unknown key `identiy`"),
            "{refused}"
        );
        assert!(refused.contains("did you mean identity?"), "{refused}");
    }
}
