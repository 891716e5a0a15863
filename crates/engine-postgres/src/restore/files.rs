//! Pages of a base into files.
//!
//! The newest base's table says which files there are and how long; pages that lie past a file's end
//! there, or belong to a file that is gone, are dropped. `global/pg_control` is written under another
//! name until everything else stands: without it no server starts on a folder that is not whole.
//!
//! **Bounds.** At most [`OPEN_FILES_MAX`] files are open, however many there are.
//! **Failure:** every write may be repeated. **Order:** any, from several threads; but file 0, the
//! layout, comes before files of tablespaces, for it says where those go.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tidemark_engine::PageRun;
use tidemark_format::body::FileEntry;
use tidemark_format::postgres::layout::{LAYOUT_PATH, Layout, UNIT_BYTES, is_safe_path};

use super::delta::{Wanted, write_differing};
use super::error::RestoreError;
use super::spaces::{Spaces, TablespaceMap};
use super::tree::{RunAs, Tree, set_mode};

/// Of [`UNIT_BYTES`].
pub(super) const PAGE: usize = 8192;
/// Well below the 1024 that a process has by default.
const OPEN_FILES_MAX: usize = 256;
pub(super) const SPACES: &str = "pg_tblspc/";
pub(super) const CONTROL_PATH: &str = "global/pg_control";
/// Its name until everything else stands.
pub(super) const CONTROL_HIDDEN: &str = "global/pg_control.tidemark";
/// Folders that a server wants, whether or not there was anything in them.
pub(super) const FOLDERS: [&str; 23] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
    ".tidemark",
];

/// The files of a target.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tree: Tree,
    target: std::path::PathBuf,
    map: TablespaceMap,
    owner: Option<RunAs>,
    /// What is there is compared, and stays where it is right.
    compare: bool,
    /// Bytes that were right.
    kept: AtomicU64,
    table: OnceLock<Vec<FileEntry>>,
    layout: OnceLock<Arc<Layout>>,
    spaces: OnceLock<Spaces>,
    /// One thread at a time takes the tablespaces' places.
    taking: Mutex<()>,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_number: HashMap<u32, (Arc<File>, u64)>,
    uses: u64,
}

impl OpenFiles {
    fn get(&mut self, number: u32) -> Option<Arc<File>> {
        self.uses = self.uses.saturating_add(1);
        let (file, used) = self.by_number.get_mut(&number)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn put(&mut self, number: u32, file: &Arc<File>) {
        if self.by_number.len() >= OPEN_FILES_MAX {
            // A quarter at once: the search for the oldest is not made for every file.
            let mut uses: Vec<u64> = self.by_number.values().map(|(_, used)| *used).collect();
            uses.sort_unstable();
            let bound = uses.get(OPEN_FILES_MAX / 4).copied().unwrap_or_default();
            self.by_number.retain(|_, (_, used)| *used > bound);
        }
        self.by_number.insert(number, (Arc::clone(file), self.uses));
    }
}

impl Files {
    pub(super) fn new(
        tree: Tree,
        target: &Path,
        map: TablespaceMap,
        owner: Option<RunAs>,
        compare: bool,
    ) -> Self {
        Self {
            tree,
            target: target.to_path_buf(),
            map,
            owner,
            compare,
            kept: AtomicU64::new(0),
            table: OnceLock::new(),
            layout: OnceLock::new(),
            spaces: OnceLock::new(),
            taking: Mutex::new(()),
            open: Mutex::new(OpenFiles::default()),
        }
    }

    /// Takes the newest base's table.
    pub(super) fn expect(&self, files: &[FileEntry]) -> Result<(), RestoreError> {
        let bad = |why: String| RestoreError::Table { why };
        if files.first().is_none_or(|first| first.path != LAYOUT_PATH) {
            return Err(bad(format!("its first file is not {LAYOUT_PATH}")));
        }
        let mut seen = HashSet::new();
        for file in files.iter().filter(|file| !file.path.is_empty()) {
            if !is_safe_path(&file.path) {
                return Err(bad(format!("{:?} leaves the data directory", file.path)));
            }
            let ours = file.path.starts_with(".tidemark/") && file.path != LAYOUT_PATH;
            if ours || file.path == CONTROL_HIDDEN || !seen.insert(file.path.as_str()) {
                return Err(bad(format!("{:?} can't be in it", file.path)));
            }
            if i64::try_from(file.bytes).is_err() {
                return Err(bad(format!("{:?} is longer than a file can be", file.path)));
            }
        }
        let known = self.table.get_or_init(|| files.to_vec());
        if known == files {
            Ok(())
        } else {
            Err(RestoreError::Contract("two tables of the newest base"))
        }
    }

    /// Takes away what the newest base doesn't have.
    pub(super) fn prune(&self) -> Result<(), RestoreError> {
        if !self.compare {
            return Ok(());
        }
        let pruned = Wanted::of_main(self.table()?).prune_main(&self.tree);
        pruned.map_err(RestoreError::io(
            "removing what does not belong",
            self.tree.path(),
        ))
    }

    /// Bytes of pages that were right already.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    fn table(&self) -> Result<&[FileEntry], RestoreError> {
        let table = self.table.get().map(Vec::as_slice);
        table.ok_or(RestoreError::Contract("pages before the table of files"))
    }

    /// The layout, once its file is whole.
    pub(super) fn layout(&self) -> Result<Arc<Layout>, RestoreError> {
        if let Some(layout) = self.layout.get() {
            return Ok(Arc::clone(layout));
        }
        let path = self.tree.join(LAYOUT_PATH);
        let bytes = self
            .tree
            .read(LAYOUT_PATH)
            .map_err(RestoreError::io("reading the layout", &path))?;
        let mut bytes = bytes.ok_or(RestoreError::Contract(
            "the layout (file 0) is not written before what needs it",
        ))?;
        if let Some(entry) = self.table.get().and_then(|table| table.first()) {
            bytes.truncate(usize::try_from(entry.bytes).unwrap_or(usize::MAX));
        }
        let layout = Layout::decode(&bytes).map_err(RestoreError::Layout)?;
        if layout.block_bytes != UNIT_BYTES {
            return Err(RestoreError::LayoutDiffers {
                why: format!("pages of {} bytes are not supported", layout.block_bytes),
            });
        }
        Ok(Arc::clone(self.layout.get_or_init(|| Arc::new(layout))))
    }

    /// Takes the place of a tablespace that replay makes: it does so where the server had it, and nothing
    /// of anybody else's may stand there.
    pub(super) fn take_made(&self, oid: u32, place: &[u8]) -> Result<(), RestoreError> {
        use std::os::unix::ffi::OsStrExt as _;
        let place = Path::new(std::ffi::OsStr::from_bytes(place));
        // One inside the data directory belongs to nobody else.
        if place.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(tree) = self.spaces()?.tree(oid)
            && tree.path() != place
        {
            return Err(RestoreError::TablespaceMade {
                oid,
                place: place.to_path_buf(),
                why: "the server makes it there again on the way, so it can't be mapped elsewhere",
            });
        }
        super::spaces::take_made(&self.tree, oid, place, self.owner)
    }

    /// The tablespaces' folders; their places are taken at the first call.
    fn spaces(&self) -> Result<&Spaces, RestoreError> {
        if let Some(spaces) = self.spaces.get() {
            return Ok(spaces);
        }
        let _one = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spaces) = self.spaces.get() {
            return Ok(spaces);
        }
        let layout = self.layout()?;
        let spaces = if layout.tablespaces.is_empty() {
            self.map.places(&layout, &self.target)?;
            Spaces::default()
        } else {
            let places = self.map.places(&layout, &self.target)?;
            Spaces::take(&self.tree, &layout, places, self.owner, self.compare)?
        };
        for (oid, tree) in spaces.iter().filter(|_| self.compare) {
            Wanted::of_space(self.table()?, oid)
                .prune_space(tree)
                .map_err(RestoreError::io(
                    "removing what does not belong",
                    tree.path(),
                ))?;
        }
        Ok(self.spaces.get_or_init(|| spaces))
    }

    /// The folder that holds `path`, and the path in it.
    fn place<'a>(&'a self, path: &'a str) -> Result<(&'a Tree, &'a str), RestoreError> {
        if path == CONTROL_PATH {
            return Ok((&self.tree, CONTROL_HIDDEN));
        }
        let Some((oid, inside)) = path
            .strip_prefix(SPACES)
            .and_then(|rest| rest.split_once('/'))
            .and_then(|(oid, inside)| Some((oid.parse().ok()?, inside)))
        else {
            return Ok((&self.tree, path));
        };
        match self.spaces()?.tree(oid) {
            // A server keeps one folder there, and so do we.
            Some(tree) if inside.starts_with("PG_") => Ok((tree, inside)),
            Some(_) => Err(RestoreError::Table {
                why: format!("{path:?} is not a tablespace's"),
            }),
            // Inside the data directory (allow_in_place_tablespaces).
            None => Ok((&self.tree, path)),
        }
    }

    fn open(&self, number: u32, path: &str) -> Result<Arc<File>, RestoreError> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().get(number) {
            return Ok(file);
        }
        let (tree, inside) = self.place(path)?;
        let file = tree.file(inside);
        let file = file.map_err(RestoreError::io("making a file", &tree.join(inside)))?;
        let file = Arc::new(file);
        lock().put(number, &file);
        Ok(file)
    }

    /// Writes a run of pages, as far as the newest table has room for it.
    pub(super) fn write(&self, run: &PageRun) -> Result<(), RestoreError> {
        let bad = |why| RestoreError::Run {
            file: run.file,
            why,
        };
        let table = self.table()?;
        let place = usize::try_from(run.file).unwrap_or(usize::MAX);
        let entry = table.get(place).ok_or_else(|| bad("no such file"))?;
        if run.page_size != UNIT_BYTES {
            return Err(bad("pages are not of 8192 bytes"));
        }
        let unit = u64::from(UNIT_BYTES);
        let length = u64::from(run.count).saturating_mul(unit);
        if u64::try_from(run.bytes.len()) != Ok(length) {
            return Err(bad("there are more or fewer bytes than pages"));
        }
        let end = run.first.checked_add(u64::from(run.count));
        if end.is_none_or(|end| end > u64::MAX / unit) {
            return Err(bad("it lies past the end of any file"));
        }
        let pages = entry.bytes.div_ceil(unit);
        if entry.path.is_empty() || run.first >= pages {
            return Ok(());
        }
        let at = run.first.saturating_mul(unit);
        let wanted = usize::try_from(entry.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let bytes = run.bytes.get(..wanted).unwrap_or(&run.bytes);
        let file = self.open(run.file, &entry.path)?;
        let written = if self.compare {
            write_differing(&file, bytes, at)
        } else {
            file.write_all_at(bytes, at).map(|()| 0)
        };
        let kept = written.map_err(RestoreError::io(
            "writing a file",
            &self.tree.join(&entry.path),
        ))?;
        self.kept.fetch_add(kept, Ordering::Relaxed);
        Ok(())
    }

    /// Brings every file to its true length and mode, and makes the folders and links. May be repeated.
    pub(super) fn complete(&self) -> Result<Arc<Layout>, RestoreError> {
        let layout = self.layout()?;
        let spaces = self.spaces()?;
        self.folders(&layout)?;
        for entry in self.table()?.iter().filter(|entry| !entry.path.is_empty()) {
            self.complete_file(entry, &layout)?;
        }
        for (oid, tree) in spaces.iter() {
            let link = format!("{SPACES}{oid}");
            self.tree
                .link(&link, tree.path())
                .map_err(RestoreError::io(
                    "linking a tablespace",
                    &self.tree.join(&link),
                ))?;
        }
        self.remove_other_links(spaces)?;
        // The links are there; the map would lead the server to the places of the source.
        let map = "tablespace_map";
        self.tree
            .remove(map)
            .map_err(RestoreError::io("removing a file", &self.tree.join(map)))?;
        Ok(layout)
    }

    /// Links of tablespaces that the base doesn't have; what they lead to is left alone.
    fn remove_other_links(&self, spaces: &Spaces) -> Result<(), RestoreError> {
        let folder = self.tree.join(SPACES);
        let io = |error| RestoreError::io("looking at tablespaces", &folder)(error);
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.parse().is_ok_and(|oid| spaces.tree(oid).is_some());
            if !ours && entry.path().is_symlink() {
                let removed = self.tree.remove(&format!("{SPACES}{name}"));
                removed.map_err(io)?;
            }
        }
        Ok(())
    }

    fn folders(&self, layout: &Layout) -> Result<(), RestoreError> {
        let usual = FOLDERS.iter().map(|folder| (*folder).to_owned());
        for folder in usual.chain(layout.folders.iter().cloned()) {
            let linked = folder
                .strip_prefix(SPACES)
                .and_then(|oid| oid.parse::<u32>().ok())
                .is_some_and(|oid: u32| layout.tablespaces.iter().any(|space| space.oid == oid));
            if linked {
                continue;
            }
            let (tree, inside) = self.place(&folder)?;
            tree.folder(inside, layout.mode(&folder, true))
                .map_err(RestoreError::io("making a folder", &tree.join(inside)))?;
        }
        // Of all modes a server accepts two.
        let mode = if layout.folder_mode & 0o070 == 0o050 {
            0o750
        } else {
            0o700
        };
        self.tree
            .set_mode(mode)
            .map_err(RestoreError::io("setting the mode", self.tree.path()))
    }

    fn complete_file(&self, entry: &FileEntry, layout: &Layout) -> Result<(), RestoreError> {
        let (tree, inside) = self.place(&entry.path)?;
        let path = tree.join(inside);
        let io = |action| RestoreError::io(action, &path);
        let missing = entry.bytes > 0;
        let file = if missing {
            tree.existing(inside).map_err(io("opening a file"))?
        } else {
            Some(tree.file(inside).map_err(io("making a file"))?)
        };
        let found = match &file {
            Some(file) => file.metadata().map_err(io("measuring a file"))?.len(),
            None => 0,
        };
        let Some(file) = file.filter(|_| found >= entry.bytes) else {
            return Err(RestoreError::Incomplete {
                path: entry.path.clone(),
                found,
                listed: entry.bytes,
            });
        };
        if found > entry.bytes {
            file.set_len(entry.bytes).map_err(io("cutting a file"))?;
        }
        tree.give(&file).map_err(io("giving a file to its owner"))?;
        set_mode(&file, layout.mode(&entry.path, false) | 0o600).map_err(io("setting the mode"))
    }

    /// Gives `pg_control` its name: from now on a server may be started here.
    pub(super) fn show_control(&self) -> Result<(), RestoreError> {
        self.forget_open_files();
        self.tree
            .rename(CONTROL_HIDDEN, CONTROL_PATH)
            .map_err(RestoreError::io(
                "renaming pg_control",
                &self.tree.join(CONTROL_PATH),
            ))
    }

    /// The content of `pg_control`, under either name.
    pub(super) fn control(&self) -> Result<Vec<u8>, RestoreError> {
        let path = self.tree.join(CONTROL_PATH);
        for name in [CONTROL_HIDDEN, CONTROL_PATH] {
            let bytes = self.tree.read(name);
            if let Some(bytes) = bytes.map_err(RestoreError::io("reading pg_control", &path))? {
                return Ok(bytes);
            }
        }
        Err(RestoreError::Control {
            path,
            why: "it is missing",
        })
    }

    fn forget_open_files(&self) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_number
            .clear();
    }

    /// Makes everything written so far durable.
    pub(super) fn sync(&self) -> Result<(), RestoreError> {
        let sync = |tree: &Tree| {
            tree.sync()
                .map_err(RestoreError::io("syncing the target", tree.path()))
        };
        sync(&self.tree)?;
        for (_, tree) in self.spaces.get().into_iter().flat_map(Spaces::iter) {
            let same = tree.same_device(&self.tree);
            if !same.map_err(RestoreError::io("looking at a tablespace", tree.path()))? {
                sync(tree)?;
            }
        }
        Ok(())
    }

    /// Bytes and pages of all files together.
    pub(super) fn pages(&self) -> u64 {
        let table = self.table.get().map(Vec::as_slice).unwrap_or_default();
        table
            .iter()
            .filter(|entry| !entry.path.is_empty())
            .map(|entry| entry.bytes.div_ceil(u64::from(UNIT_BYTES)))
            .fold(0, u64::saturating_add)
    }
}
