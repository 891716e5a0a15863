//! Which config this machine's identity last worked with: a change since then is evidence of its own.
//!
//! The program writes no config file, so it can't see who edited one; it sees that the file is another
//! than at the last use, and says so at the next. Only hashes are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tidemark_format::KeyId;
use tidemark_format::evidence::Sha256;
use tidemark_host::files::{self, PRIVATE};

use super::local;

const FILE: &str = "configs-seen.json";

/// A config file that is another than it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    file: String,
    before: Sha256,
    after: Sha256,
}

impl Change {
    /// What a record says of it.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let fields = json!({
            "action": "config-change",
            "request": {
                "file": self.file,
                "before_sha256": self.before,
                "after_sha256": self.after,
            },
            "config_sha256": self.after,
            "result": { "outcome": "ok", "exit": 0 },
        });
        fields.as_object().cloned().unwrap_or_default()
    }
}

/// What was seen, by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    path: PathBuf,
    by_file: BTreeMap<String, Sha256>,
}

impl Seen {
    /// As noted by this signer's last command here.
    pub(super) fn load(state: &Path, signer: KeyId) -> Self {
        let path = local::folder(state, signer).join(FILE);
        let noted = std::fs::read(&path).ok();
        let by_file = noted.and_then(|noted| serde_json::from_slice(&noted).ok());
        Self {
            path,
            by_file: by_file.unwrap_or_default(),
        }
    }

    /// The config `file` holds `now`; whether that is a change.
    pub(super) fn is_now(&mut self, file: &Path, now: Sha256) -> Option<Change> {
        let file = file.display().to_string();
        let before = self.by_file.insert(file.clone(), now);
        before.filter(|before| *before != now).map(|before| Change {
            file,
            before,
            after: now,
        })
    }

    /// Notes it, once a change is on record.
    pub(super) fn save(&self) {
        let Some(folder) = self.path.parent() else {
            return;
        };
        let note = serde_json::to_vec(&self.by_file).unwrap_or_default();
        // Without it the next command says the same again.
        if files::create_private_folder(folder).is_ok() {
            drop(files::write_atomic(&self.path, &note, PRIVATE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sight_of_a_config_is_no_change_and_another_hash_is() {
        let state = tempfile::tempdir().unwrap();
        let signer = KeyId([1; 16]);
        let file = Path::new("/etc/tidemark/restore.toml");
        let (one, two) = (Sha256::of(b"one"), Sha256::of(b"two"));
        let seen = |now: Sha256| {
            let mut seen = Seen::load(state.path(), signer);
            let change = seen.is_now(file, now);
            seen.save();
            change
        };
        assert_eq!(seen(one), None);
        assert_eq!(seen(one), None);
        let change = seen(two).unwrap();
        let fields = change.fields();
        assert_eq!(fields["request"]["before_sha256"], one.to_string());
        assert_eq!(fields["request"]["after_sha256"], two.to_string());
        assert_eq!(seen(two), None);
        let mut other = Seen::load(state.path(), signer);
        assert_eq!(other.is_now(Path::new("/elsewhere.toml"), one), None);
    }
}
