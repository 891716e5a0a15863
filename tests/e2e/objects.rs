//! Objects in a directory region, as a person with a file manager sees them: found, damaged, moved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tidemark_format::envelope::Kind;

/// Every object below `prefix` of a directory region, by key, in order.
pub(crate) fn objects(region: &Path, prefix: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![region.to_owned()];
    while let Some(folder) = folders.pop() {
        // What is being written comes and goes.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let key = path.strip_prefix(region).expect("below the region");
            let key = key.to_str().expect("keys are ASCII").to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if key.starts_with(prefix) {
                found.insert(key, path);
            }
        }
    }
    found
}

/// The keys below `prefix`.
pub(crate) fn keys(region: &Path, prefix: &str) -> Vec<String> {
    objects(region, prefix).into_keys().collect()
}

/// What an object is, by its envelope.
pub(crate) fn kind(bytes: &[u8]) -> Option<Kind> {
    let kind = *bytes.get(9)?;
    Kind::ALL.into_iter().find(|known| *known as u8 == kind)
}

/// Flips one bit in the middle of an object.
pub(crate) fn flip(path: &Path) {
    let mut bytes = read(path);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(path, &bytes);
}

/// Cuts off an object's last byte.
pub(crate) fn truncate(path: &Path) {
    let bytes = read(path);
    write(path, &bytes[..bytes.len() - 1]);
}

/// Lets two objects change places.
pub(crate) fn swap(one: &Path, other: &Path) {
    let (first, second) = (read(one), read(other));
    write(one, &second);
    write(other, &first);
}

/// An object's bytes.
pub(crate) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Overwrites an object, as only somebody outside the programs does.
pub(crate) fn write(path: &Path, bytes: &[u8]) {
    remove(path);
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Deletes an object.
pub(crate) fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Copies a folder with everything in it, as `cp -a` does.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(
        copied.expect("cp runs").success(),
        "{} to {}",
        from.display(),
        to.display()
    );
}
