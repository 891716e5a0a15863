//! A pack: everything that an auditor needs to judge a period without this program and without access
//! to the regions; and the check of one.
//!
//! `region/` in it has the layout of a region, so that the pack is judged by the code that judges
//! regions. Only the list of files is unsigned: whoever changes the CSV and the list is caught by
//! comparing its rows with the records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use bytes::Bytes;
use serde_json::json;
use tidemark_format::envelope::Envelope;
use tidemark_format::evidence::Sha256;
use tidemark_format::sign::PublicKey;
use tidemark_format::{FormatError, keys};
use tidemark_host::files::{self, FileError, PRIVATE};
use tidemark_ledger::{Keyring, LedgerError, Trust};
use tidemark_storage::{DirStore, ReadStore as _};

use super::csv::{self, Meta, SignerMeta};
use super::html;
use super::rows::Row;
use super::shelf::{self, Shelf};
use crate::error::{Error, Result};
use crate::repository::{Repository, self_declared};

const SUMS: &str = "SHA256SUMS";
const TABLE: &str = "evidence.csv";
const TABLE_META: &str = "evidence.csv.meta.json";
const REGION: &str = "region";
const VERIFY: &str = include_str!("pack/verify.py");
const HOWTO: &str = include_str!("pack/HOWTO.md");
/// No file of a pack is larger.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Writes a pack into the new folder `out`.
///
/// # Errors
/// The keyring can't be read, or the folder not be written.
pub async fn write(
    out: &Path,
    rows: &[Row<'_>],
    shelf: &Shelf,
    repository: &Repository,
    mut meta: Meta,
) -> Result<()> {
    let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let table = csv::render(rows);
    TABLE.clone_into(&mut meta.file);
    meta.sha256 = Sha256::of(table.as_bytes());
    contents.insert("index.html".to_owned(), html::render(rows, &meta).into());
    contents.insert(TABLE.to_owned(), table.into());
    contents.insert(TABLE_META.to_owned(), pretty(&meta));
    contents.insert("verify.py".to_owned(), VERIFY.into());
    contents.insert("HOWTO.md".to_owned(), howto(shelf).into());
    let keyrings = keyrings(repository).await?;
    let root = root_key(&keyrings)?;
    contents.insert("keys/root.pem".to_owned(), root.to_pem().into());
    contents.insert("keyring.json".to_owned(), excerpt(repository, &root));
    for (key, bytes) in keyrings {
        contents.insert(format!("{REGION}/{key}"), bytes.to_vec());
    }
    for chain in &shelf.chains {
        if let Some(public) = chain.public {
            let name = format!("keys/{}.pem", chain.signer);
            contents.insert(name, public.to_pem().into());
        }
        for (seq, record) in &chain.records {
            let key = keys::evidence(chain.signer, *seq);
            contents.insert(format!("{REGION}/{key}"), record.bytes.to_vec());
        }
    }
    let sums = contents
        .iter()
        .map(|(name, bytes)| format!("{}  {name}\n", Sha256::of(bytes)));
    let sums: String = sums.collect();
    files::create_private_folder(out)?;
    for (name, bytes) in &contents {
        let path = out.join(name);
        if let Some(folder) = path.parent() {
            files::create_private_folder(folder)?;
        }
        files::write_new(&path, bytes, PRIVATE)?;
    }
    // Last: a pack that was cut short has no list.
    files::write_new(&out.join(SUMS), sums.as_bytes(), PRIVATE)?;
    Ok(())
}

fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// The recipe, with a record of this pack in its example.
fn howto(shelf: &Shelf) -> String {
    let chain = shelf.chains.iter().find(|chain| !chain.records.is_empty());
    let Some((signer, seq)) =
        chain.and_then(|chain| Some((chain.signer, *chain.records.keys().next()?)))
    else {
        let by_hand = HOWTO.split("## One record by hand").next();
        return by_hand.unwrap_or(HOWTO).to_owned();
    };
    let record = format!("{REGION}/{}", keys::evidence(signer, seq));
    HOWTO
        .replace("python3 - RECORD", &format!("python3 - {record}"))
        .replace("keys/SIGNER.pem", &format!("keys/{signer}.pem"))
}

/// Every version of the keyring as it is stored.
async fn keyrings(repository: &Repository) -> Result<Vec<(tidemark_format::Key, Bytes)>> {
    let mut all = Vec::new();
    let newest = repository
        .regions
        .iter()
        .max_by_key(|region| region.keyring_version);
    let Some(region) = newest else {
        return Err(Error::NoRegion);
    };
    for version in 1..=region.keyring_version {
        let key = keys::keyring(version);
        let bytes = region.store.read.get(&key).await?;
        all.push((key, bytes));
    }
    Ok(all)
}

/// The root's public key, of which the repository's name pins the fingerprint.
///
/// # Errors
/// The keyring's first version can't be read, or is not signed by that root.
pub async fn root(repository: &Repository) -> Result<PublicKey> {
    let region = repository.regions.first().ok_or(Error::NoRegion)?;
    let key = keys::keyring(1);
    let first = region.store.read.get(&key).await?;
    let root = root_key(&[(key.clone(), first)])?;
    if root.id() == repository.trust.root {
        return Ok(root);
    }
    Err(Error::Ledger(LedgerError::Format {
        key: key.to_string(),
        source: FormatError::Invalid {
            what: "keyring",
            why: "another key than the root's signed it",
        },
    }))
}

fn root_key(keyrings: &[(tidemark_format::Key, Bytes)]) -> Result<PublicKey> {
    let Some((key, first)) = keyrings.first() else {
        return Err(Error::NoRegion);
    };
    let envelope = Envelope::parse(first).map_err(|source| LedgerError::Format {
        key: key.to_string(),
        source,
    })?;
    Ok(envelope.signer)
}

/// The keyring for people.
fn excerpt(repository: &Repository, root: &PublicKey) -> Vec<u8> {
    let keyring = &repository.keyring;
    let members: Vec<_> = keyring
        .members()
        .iter()
        .map(|member| {
            let revoked = member.revoked.as_ref();
            json!({
                "key": member.key.id(),
                "public_key": member.key,
                "role": member.role,
                "name": member.name,
                "added_at": member.added_at,
                "revoked_at": revoked.map(|revoked| revoked.at),
                "revoked_because": revoked.map(|revoked| &revoked.reason),
            })
        })
        .collect();
    let recipients: Vec<_> = keyring
        .head()
        .recipients
        .iter()
        .map(|entry| {
            json!({
                "key": entry.key.id(),
                "name": entry.name,
                "added_at": entry.added_at,
                "revoked_at": entry.revoked.as_ref().map(|revoked| revoked.at),
            })
        })
        .collect();
    pretty(&json!({
        "repository": repository.trust.repo,
        "root": { "key": root.id(), "public_key": root },
        "version": keyring.version(),
        "members": members,
        "recipients": recipients,
    }))
}

/// Judges the pack in `folder`: its chains, and what is wrong with its files.
///
/// # Errors
/// It is no pack, or its keyring can't be trusted.
pub async fn verify(folder: &Path, trust: Option<Trust>) -> Result<(Shelf, Vec<String>)> {
    let mut wrong = check_sums(folder)?;
    let store = DirStore::open(&folder.join(REGION))?;
    let trust = match trust {
        Some(trust) => trust,
        None => self_declared(&store).await?,
    };
    let keyring = Keyring::load(&store, &trust).await?;
    let shelf = shelf::of_store("the pack", &store, &keyring).await?;
    wrong.extend(check_table(folder, &shelf, &keyring)?);
    let first = keys::keyring(1);
    let root = root_key(&[(first.clone(), store.get(&first).await?)])?;
    wrong.extend(check_keys(folder, &shelf, &root));
    Ok((shelf, wrong))
}

/// What was wrong with the chains where the pack in `folder` was made, as its unsigned list says.
///
/// # Errors
/// It is no pack.
pub fn found_at_export(folder: &Path) -> Result<Vec<String>> {
    let meta: Meta =
        serde_json::from_slice(&read(&folder.join(TABLE_META))?).map_err(|_bad| no_pack(folder))?;
    Ok(meta.findings)
}

/// Every listed file is as it was, and no other is there.
fn check_sums(folder: &Path) -> Result<Vec<String>> {
    let list = folder.join(SUMS);
    let list = String::from_utf8(read(&list)?).map_err(|_binary| no_pack(folder))?;
    let mut wrong = Vec::new();
    let mut listed = BTreeSet::from([SUMS.to_owned()]);
    for line in list.lines() {
        let (sum, name) = line.split_once("  ").ok_or_else(|| no_pack(folder))?;
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(no_pack(folder));
        }
        listed.insert(name.to_owned());
        match read(&folder.join(name)) {
            Ok(bytes) if Sha256::of(&bytes).to_string() == sum => {}
            Ok(_) => wrong.push(format!("{name} is not the file that was exported")),
            Err(error) => wrong.push(format!("{name}: {}", tidemark_storage::chain(&error))),
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found)?;
    let strange = found.into_iter().filter(|name| !listed.contains(name));
    wrong.extend(strange.map(|name| format!("{name} was not exported")));
    Ok(wrong)
}

/// The keys that openssl is given are those that signed: who checks by hand trusts them.
fn check_keys(folder: &Path, shelf: &Shelf, root: &PublicKey) -> Vec<String> {
    let signers = shelf.chains.iter();
    let signers = signers.filter_map(|chain| Some((chain.signer.to_string(), chain.public?)));
    let all = std::iter::once(("root".to_owned(), *root)).chain(signers);
    all.map(|(name, key)| (format!("keys/{name}.pem"), key))
        .filter(|(name, key)| {
            read(&folder.join(name)).is_ok_and(|pem| pem != key.to_pem().as_bytes())
        })
        .map(|(name, _)| format!("{name} is another key than the one that signed"))
        .collect()
}

/// The table is what its records give.
fn check_table(folder: &Path, shelf: &Shelf, keyring: &Keyring) -> Result<Vec<String>> {
    let meta: Meta =
        serde_json::from_slice(&read(&folder.join(TABLE_META))?).map_err(|_bad| no_pack(folder))?;
    let rows = meta.selection.rows(&shelf.chains);
    let mut wrong = Vec::new();
    let table = read(&folder.join(TABLE))?;
    if csv::render(&rows).into_bytes() != table {
        wrong.push(format!("{TABLE} does not say what the records say"));
    }
    if meta.file != TABLE || meta.sha256 != Sha256::of(&table) {
        wrong.push(format!("{TABLE_META} is about another file than {TABLE}"));
    }
    if meta.repository != keyring.repo().to_string() {
        wrong.push(format!("{TABLE_META} names another repository"));
    }
    if meta.rows != rows.len() || meta.signers != SignerMeta::all(&shelf.chains, &rows) {
        wrong.push(format!(
            "{TABLE_META} names other numbers than the records have"
        ));
    }
    Ok(wrong)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |source| FileError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let size = path.metadata().map_err(failed)?.len();
    if size > FILE_BYTES_MAX {
        return Err(no_pack(path));
    }
    Ok(std::fs::read(path).map_err(failed)?)
}

fn no_pack(path: &Path) -> Error {
    Error::Ledger(LedgerError::Format {
        key: path.display().to_string(),
        source: FormatError::Invalid {
            what: "evidence pack",
            why: "it is not what evidence export --format pack writes",
        },
    })
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    let failed = |source| FileError::Io {
        action: "read",
        path: folder.to_owned(),
        source,
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(root, &path, found)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            found.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
