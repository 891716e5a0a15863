//! Listing: the keys below a prefix in byte order, without reading more folders than needed.
//!
//! A folder's keys all begin with its name and a `/`, so sorting entries by name, folders with a
//! `/` appended, gives the byte order of whole keys (`a-b` before `a/b`), as S3 has it.

use std::fs;
use std::io;
use std::path::Path;

use tidemark_format::Key;

use super::{Inner, TEMPORARY, failed, modified};
use crate::{ListEntry, ListPage, Op, Result};

struct Walk<'a> {
    inner: &'a Inner,
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    page: ListPage,
}

impl Inner {
    /// One page of a listing.
    pub(super) fn walk(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        let start = prefix
            .rfind('/')
            .map_or("", |at| prefix.get(..=at).unwrap_or(""));
        if !self.is_inside(start)? {
            return Ok(ListPage::default());
        }
        let mut walk = Walk {
            inner: self,
            prefix,
            after: after.map(Key::as_str),
            limit: limit.max(1),
            page: ListPage::default(),
        };
        walk.folder(start)?;
        Ok(walk.page)
    }

    /// The folders directly below `prefix`.
    pub(super) fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        if !self.is_inside(prefix)? {
            return Ok(Vec::new());
        }
        let names = self.names(&self.root.join(prefix), prefix)?;
        let folders = names.into_iter().filter(|(_, is_folder)| *is_folder);
        let mut folders: Vec<_> = folders
            .map(|(name, _)| name.trim_end_matches('/').to_owned())
            .collect();
        folders.sort_unstable();
        Ok(folders)
    }

    /// Whether `folder` stays below the root, whatever the caller put together; fails if the root
    /// itself is gone.
    fn is_inside(&self, folder: &str) -> Result<bool> {
        if !self.root_is_there() {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            return Err(failed(&self.place, Op::List, folder, gone));
        }
        Ok(!folder.starts_with('/') && folder.split('/').all(|part| part != ".."))
    }

    /// The entries of one folder in the order of keys; folders end in `/`.
    fn names(&self, path: &Path, folder: &str) -> Result<Vec<(String, bool)>> {
        let fail = |error: io::Error| failed(&self.place, Op::List, folder, error);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            // Nothing there yet, or deleted while we walk: an empty folder.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(fail(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if folder.is_empty() && name == TEMPORARY {
                continue;
            }
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() {
                names.push((format!("{name}/"), true));
            } else if kind.is_file() {
                names.push((name, false));
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

impl Walk<'_> {
    /// Adds what is below `folder` (empty, or ending in `/`).
    fn folder(&mut self, folder: &str) -> Result<()> {
        let path = self.inner.root.join(folder);
        for (name, is_folder) in self.inner.names(&path, folder)? {
            if self.page.more {
                return Ok(());
            }
            let key = format!("{folder}{name}");
            if !self.concerns(&key, is_folder) {
                continue;
            }
            if is_folder {
                self.folder(&key)?;
            } else {
                self.file(&key, &path.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether a file, or anything below a folder, can be part of the answer.
    fn concerns(&self, key: &str, is_folder: bool) -> bool {
        let in_prefix = key.starts_with(self.prefix) || (is_folder && self.prefix.starts_with(key));
        let after = self.after.is_none_or(|after| {
            // Every key below a folder sorts after `after`, or the folder holds `after` itself.
            key > after || (is_folder && after.starts_with(key))
        });
        in_prefix && after
    }

    fn file(&mut self, key: &str, path: &Path) -> Result<()> {
        let Ok(key) = Key::new(key) else {
            return Ok(());
        };
        if self.page.entries.len() >= self.limit {
            self.page.more = true;
            return Ok(());
        }
        match fs::symlink_metadata(path) {
            Ok(found) => {
                let entry = ListEntry {
                    key,
                    size: found.len(),
                    modified: modified(&found),
                };
                self.page.entries.push(entry);
                Ok(())
            }
            // Deleted by the keeper while we walk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(&self.inner.place, Op::List, key.as_str(), error)),
        }
    }
}
