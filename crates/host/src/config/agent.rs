//! `agent.toml`, checked.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use tidemark_format::{Hash, KeyId, SourceName, recipient::RecipientKey};
use toml::Spanned;

use super::diagnose::{ConfigError, Findings, ProblemKind, Span};
use super::raw::with_settings;
use super::regions::{self, Country, RawRegion, Region, failure_domains, parsed};
use super::settings::{Draft, Located, set, size_from};
use super::sources::{RawSource, Source, Sources};
use super::{Surroundings, keys};
use crate::{ByteSize, KeepFree, files};

/// The agent's config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The file it was read from.
    pub file: PathBuf,
    /// BLAKE3 of that file.
    pub hash: Hash,
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// The bound on memory.
    pub memory: ByteSize,
    /// Threads for heavy work; `None` is one for each core.
    pub threads: Option<NonZeroUsize>,
    /// The bound on the spool, all sources together.
    pub spool_max: ByteSize,
    /// What stays free of the spool's file system.
    pub spool_keep_free: KeepFree,
    /// Countries that regions may be in; empty is anywhere.
    pub residency: Vec<Country>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Whom sessions are sealed to; at least one.
    pub recipients: Vec<RecipientKey>,
    /// The id of the root key that signs the keyring.
    pub root: KeyId,
    /// At least one.
    pub regions: Vec<Region>,
    /// At least one.
    pub sources: Vec<Source>,
}

/// Below this not even one object could be compressed while the next is captured.
const MEMORY_MIN: ByteSize = ByteSize::mib(32);

with_settings! {
    /// `agent.toml` as written.
    RawAgent {
        state_dir: Option<Spanned<String>>,
        memory: Option<Spanned<String>>,
        threads: Option<Spanned<i64>>,
        spool_keep_free: Option<Spanned<String>>,
        residency: Vec<Spanned<String>>,
        metrics: Option<Spanned<String>>,
        recipients: Vec<Spanned<String>>,
        root: Option<Spanned<String>>,
        region: Vec<Spanned<RawRegion>>,
        source: Vec<Spanned<RawSource>>,
    }
}

impl AgentConfig {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`]; when the file was read, with every problem in it.
    pub fn load(path: &Path, around: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let text = files::read_text(path).map_err(ConfigError::Unreadable)?;
        let path = std::path::absolute(path).unwrap_or_else(|_no_directory| path.to_owned());
        Self::parse(&text, &path, around)
    }

    /// Checks `text` as the content of `file`, against whose folder relative paths are read.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with every problem.
    pub fn parse(text: &str, file: &Path, around: &Surroundings<'_>) -> Result<Self, ConfigError> {
        let mut findings = Findings::new(file, text);
        let mut raw: RawAgent = match toml::from_str(text) {
            Ok(raw) => raw,
            Err(error) => return Err(findings.syntax(&error, &belongs_elsewhere)),
        };
        let folder = file.parent().unwrap_or_else(|| Path::new("/"));
        let named = raw.region.len();
        let regions = check_regions(&mut raw, &mut findings);
        let mut draft = Draft::defaults(failure_domains(&regions));
        let domains = domains_of(&regions, named);
        draft.apply(raw.take_settings(), &mut findings);
        let spool_max = draft.spool_max.value;
        let sources = {
            let mut sources = Sources {
                draft,
                domains,
                folder,
                around,
                findings: &mut findings,
            };
            sources.check(std::mem::take(&mut raw.source))
        };
        let recipients = check_recipients(&raw.recipients, &mut findings);
        let root = check_root(raw.root.as_ref(), &recipients, &mut findings);
        let mut memory = located(ByteSize::mib(128));
        set(&mut memory, raw.memory, &mut findings, |text| {
            size_from(MEMORY_MIN, text)
        });
        let mut spool_keep_free = located(KeepFree::DEFAULT);
        set(
            &mut spool_keep_free,
            raw.spool_keep_free,
            &mut findings,
            |text| {
                text.parse()
                    .map_err(|error: crate::size::KeepFreeError| error.to_string())
            },
        );
        let mut threads = located(None);
        set(&mut threads, raw.threads, &mut findings, read_threads);
        let mut metrics = located(None);
        set(&mut metrics, raw.metrics, &mut findings, read_metrics);
        let mut state_dir = located(PathBuf::from("/var/lib/tidemark"));
        set(&mut state_dir, raw.state_dir, &mut findings, |text| {
            read_path(folder, text)
        });
        let residency = raw
            .residency
            .iter()
            .filter_map(|text| parsed(text, &mut findings))
            .collect();
        let checked = root.map(|root| Self {
            file: file.to_owned(),
            hash: Hash::of(text.as_bytes()),
            state_dir: around
                .state_directory
                .map_or(state_dir.value, Path::to_owned),
            memory: memory.value,
            threads: threads.value,
            spool_max,
            spool_keep_free: spool_keep_free.value,
            residency,
            metrics: metrics.value,
            recipients: recipients.into_iter().map(|(key, _)| key).collect(),
            root,
            regions,
            sources,
        });
        findings.finish(checked)
    }

    /// How often the agent beats: as often as the most demanding source wants.
    #[must_use]
    pub fn beat_every(&self) -> Duration {
        let shortest = self
            .sources
            .iter()
            .map(|source| source.settings.beat_every)
            .min();
        shortest.unwrap_or(Duration::from_secs(60))
    }

    /// How many failure domains the regions have.
    #[must_use]
    pub fn failure_domains(&self) -> usize {
        failure_domains(&self.regions)
    }

    /// The source of that name.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == *name)
    }
}

/// How many failure domains there may be: while one of the `named` regions can't be read, nobody knows.
fn domains_of(regions: &[Region], named: usize) -> usize {
    if regions.len() < named {
        return usize::MAX;
    }
    failure_domains(regions)
}

const fn located<T>(value: T) -> Located<T> {
    Located { value, span: None }
}

/// A known key in the wrong table: says where it belongs.
fn belongs_elsewhere(key: &str, valid: &[&str]) -> Option<String> {
    let in_source = valid.contains(&"sqlite");
    if in_source && let Some((_, why)) = keys::AGENT_WIDE.iter().find(|(name, _)| *name == key) {
        return Some(format!(
            "`{key}` stands above the first [[region]], not in a source: {why}"
        ));
    }
    if !in_source && ["sqlite", "postgres", "slot"].contains(&key) {
        return Some(format!("`{key}` belongs into a [[source]]"));
    }
    let of_region = keys::REGION.iter().any(|spec| spec.name == key);
    if of_region && !valid.contains(&"failure_domain") {
        return Some(format!("`{key}` belongs into a [[region]]"));
    }
    if valid.contains(&"failure_domain") && keys::AGENT.iter().any(|spec| spec.name == key) {
        return Some(format!("`{key}` stands above the first [[region]]"));
    }
    None
}

fn check_regions(raw: &mut RawAgent, findings: &mut Findings<'_>) -> Vec<Region> {
    if raw.region.is_empty() {
        findings.value(
            &None,
            "there is no [[region]]: name at least one place for the copies",
        );
    }
    let checked = regions::check(std::mem::take(&mut raw.region), findings);
    // Unreadable countries are noted where the list itself is checked.
    let allowed: Vec<Country> = raw
        .residency
        .iter()
        .filter_map(|text| text.get_ref().parse().ok())
        .collect();
    for (region, span) in &checked {
        let inside = region
            .country
            .as_ref()
            .is_some_and(|country| allowed.contains(country));
        if !raw.residency.is_empty() && !inside {
            let place = region
                .country
                .as_ref()
                .map_or("a country it doesn't name", Country::as_str);
            let list = allowed
                .iter()
                .map(Country::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            findings.add(
                ProblemKind::Residency,
                span,
                format!(
                    "region `{}` is in {place}, outside residency = [{list}]",
                    region.name
                ),
                Some("set the region's country if it is inside, or remove the region".to_owned()),
            );
        }
    }
    checked.into_iter().map(|(region, _)| region).collect()
}

/// The recipients that can be read, and where they stand.
fn check_recipients(
    raw: &[Spanned<String>],
    findings: &mut Findings<'_>,
) -> Vec<(RecipientKey, Span)> {
    if raw.is_empty() {
        findings.value(
            &None,
            "there are no recipients: without one nobody could ever decrypt a copy",
        );
    }
    let mut checked: Vec<(RecipientKey, Span)> = Vec::new();
    for text in raw {
        let Some(key) = parsed::<RecipientKey>(text, findings) else {
            continue;
        };
        let span = Some(text.span());
        if checked.iter().any(|(known, _)| known.public == key.public) {
            findings.value(&span, "this recipient stands here twice");
        } else if checked
            .first()
            .is_some_and(|(first, _)| first.repo != key.repo)
        {
            findings.conflict(
                &span,
                "this recipient belongs to another repository than the first one",
                "all recipients must come from one `tidemark-restore keys new`, or be added by it",
            );
        }
        checked.push((key, span));
    }
    checked
}

/// The root's id: given, or the one that the recipients carry.
fn check_root(
    raw: Option<&Spanned<String>>,
    recipients: &[(RecipientKey, Span)],
    findings: &mut Findings<'_>,
) -> Option<KeyId> {
    let root = match raw {
        Some(text) => match text.get_ref().parse::<KeyId>() {
            Ok(root) => root,
            Err(_not_hex) => {
                let message =
                    "this is not a root's fingerprint: it has 32 hex digits, as the key card shows";
                findings.value(&Some(text.span()), message);
                return None;
            }
        },
        None => recipients.first()?.0.root,
    };
    for (key, span) in recipients {
        if key.root != root {
            findings.conflict(
                span,
                format!(
                    "this recipient names root {}, not {}",
                    key.root.short(),
                    root.short()
                ),
                "compare with the printed key card: one of the two is another repository's",
            );
        }
    }
    Some(root)
}

pub(super) fn read_threads(number: &i64) -> Result<Option<NonZeroUsize>, String> {
    match usize::try_from(*number) {
        Ok(threads) if threads <= 1024 => Ok(NonZeroUsize::new(threads)),
        _ => Err(format!(
            "{number} is not a number of threads: write 0 (one for each core) to 1024"
        )),
    }
}

/// Reads an address on loopback; empty is none.
pub(super) fn read_metrics(text: &String) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address: SocketAddr = text
        .parse()
        .map_err(|_error| format!("{text:?} is not an address: write \"127.0.0.1:9187\""))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{text:?} is not on loopback: metrics tell about your data, put a proxy in front"
        ));
    }
    Ok(Some(address))
}

/// A path, made absolute by the config's folder, without `.` and `..` as far as text can tell.
pub(super) fn read_path(folder: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{text:?} is not a path"));
    }
    let mut path = PathBuf::new();
    for part in folder.join(text).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    Ok(path)
}
