//! How a person makes the folder of a directory region that isn't there: `init` does it, a region that is
//! added to the config by hand needs it done.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The commands for `folder`, whose owner is to be the user `owner`.
pub(crate) fn how_to_make(folder: &Path, owner: u32) -> String {
    let path = quoted(folder);
    let make = format!("mkdir -p {path}");
    if owner == 0 {
        return make;
    }
    format!("{make} && chown {} {path}", user(owner))
}

/// What the daemon says of a folder that it has never seen: it makes none, for an unmounted disk looks
/// the same.
pub(crate) fn never_seen(folder: &Path) -> String {
    let own = rustix::process::geteuid().as_raw();
    format!(
        "if this region is new, make its folder: {}; under systemd it also stands in ReadWritePaths= of the unit's \
         drop-in",
        how_to_make(folder, own)
    )
}

/// Whether something failed because a file or folder isn't there.
pub(crate) fn is_missing(error: &dyn std::error::Error) -> bool {
    let mut cause = error.source();
    while let Some(one) = cause {
        // A store keeps what the system said behind a shared pointer.
        let shared = one.downcast_ref::<tidemark_storage::Cause>();
        let said = match shared {
            Some(cause) => cause.downcast_ref::<std::io::Error>(),
            None => one.downcast_ref::<std::io::Error>(),
        };
        if said.is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return true;
        }
        cause = one.source();
    }
    false
}

/// Whom the agent's state belongs to, which is who runs it.
pub(crate) fn owner_of_state(state_dir: &Path) -> u32 {
    let found = std::fs::metadata(state_dir).map(|meta| meta.uid());
    found.unwrap_or_else(|_not_there| rustix::process::geteuid().as_raw())
}

/// The name of a user; a bare number is as good where there is none.
pub(crate) fn user(id: u32) -> String {
    name_in("/etc/passwd", id)
}

/// The name of a group.
pub(crate) fn group(id: u32) -> String {
    name_in("/etc/group", id)
}

fn name_in(table: &str, id: u32) -> String {
    let number = id.to_string();
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(number.as_str())).then(|| name.to_owned())
    });
    found.unwrap_or(number)
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_can_be_typed_as_they_stand() {
        let nobody = u32::MAX - 7;
        assert_eq!(
            how_to_make(Path::new("/mnt/b"), nobody),
            format!("mkdir -p /mnt/b && chown {nobody} /mnt/b")
        );
        assert_eq!(how_to_make(Path::new("/mnt/b"), 0), "mkdir -p /mnt/b");
        assert_eq!(
            how_to_make(Path::new("/mnt/my disk's"), 0),
            "mkdir -p '/mnt/my disk'\\''s'"
        );
        assert_eq!(user(0), "root");
    }
}
