//! A volume whose key is made for it, given to the kernel, and kept by nobody.
//!
//! An image file on the disk, a loop device, dm-crypt in plain mode (no header, nothing to attack later),
//! a file system. All by the system's own programs; where one is missing, or this user may not, there is
//! no volume, and the scratch is a plain folder and recorded as one.
//!
//! The key goes to `cryptsetup` through a pipe, never to a file or an argument. Closing the volume wipes it
//! from the kernel: what remains on the disk is noise.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tidemark_host::{Rng, RngExt as _};

/// What the image stands beside the mounted folder as.
const IMAGE: &str = "image";
/// Where volumes that are open stand.
const MAPPED: &str = "/dev/mapper";
const NEEDED: [&str; 5] = ["losetup", "cryptsetup", "mkfs.ext4", "mount", "umount"];
const PLACES: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// A volume, mounted over the scratch's folder.
#[derive(Debug)]
pub(super) struct Volume {
    image: PathBuf,
    device: Option<String>,
    name: String,
    folder: PathBuf,
    programs: Programs,
}

/// Where the system's programs are.
#[derive(Debug, Clone)]
struct Programs(Vec<PathBuf>);

impl Programs {
    fn command(&self, name: &str) -> Command {
        let there = self.0.iter().map(|folder| folder.join(name));
        let program = there.into_iter().find(|program| program.is_file());
        let mut command = Command::new(program.unwrap_or_else(|| PathBuf::from(name)));
        command.stdin(Stdio::null());
        command
    }

    fn are_there(&self) -> bool {
        let is_there = |name: &str| self.0.iter().any(|folder| folder.join(name).is_file());
        NEEDED.iter().all(|name| is_there(name))
    }
}

impl Volume {
    /// Makes one of `bytes` and mounts it over `folder`; none where that can't be done.
    pub(super) fn make(folder: &Path, bytes: u64, rng: &dyn Rng) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        Self::with(
            Programs(PLACES.map(PathBuf::from).to_vec()),
            folder,
            bytes,
            rng,
        )
    }

    fn with(programs: Programs, folder: &Path, bytes: u64, rng: &dyn Rng) -> Option<Self> {
        if !programs.are_there() {
            return None;
        }
        let mut volume = Self::named(programs, folder)?;
        if volume.open(bytes, rng).is_some() {
            return Some(volume);
        }
        // Half of one is none: the folder stays plain.
        volume.close().ok();
        None
    }

    fn named(programs: Programs, folder: &Path) -> Option<Self> {
        let name = folder.file_name()?.to_str()?.to_owned();
        let image = folder.with_file_name(format!("{name}.{IMAGE}"));
        Some(Self {
            image,
            device: None,
            name,
            folder: folder.to_path_buf(),
            programs,
        })
    }

    /// One that a killed drill left.
    pub(super) fn adopt(folder: &Path) -> Option<Self> {
        let mut volume = Self::named(Programs(PLACES.map(PathBuf::from).to_vec()), folder)?;
        if !volume.image.is_file() {
            return None;
        }
        let listed = volume
            .programs
            .command("losetup")
            .arg("-j")
            .arg(&volume.image)
            .output()
            .ok()?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        volume.device = listed.split_once(':').map(|(device, _)| device.to_owned());
        Some(volume)
    }

    fn open(&mut self, bytes: u64, rng: &dyn Rng) -> Option<()> {
        let image = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.image)
            .ok()?;
        // A file system needs some for itself.
        image.set_len(bytes.saturating_add(bytes / 16)).ok()?;
        drop(image);
        let mut attach = self.programs.command("losetup");
        attach.args(["--find", "--show"]).arg(&self.image);
        let attached = attach
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let device = String::from_utf8_lossy(&attached.stdout).trim().to_owned();
        self.device = Some(device.clone());
        let mut crypt = self.programs.command("cryptsetup");
        crypt.args([
            "open",
            "--type=plain",
            "--cipher=aes-xts-plain64",
            "--key-size=512",
            "--key-file=-",
            "--batch-mode",
            &device,
            &self.name,
        ]);
        let mut child = crypt
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let key: zeroize::Zeroizing<[u8; 64]> = zeroize::Zeroizing::new(rng.bytes());
        child.stdin.take()?.write_all(key.as_slice()).ok()?;
        child
            .wait()
            .ok()
            .filter(std::process::ExitStatus::success)?;
        let mapped = Path::new(MAPPED).join(&self.name);
        let mut format = self.programs.command("mkfs.ext4");
        done(
            format
                .args(["-q", "-m0", "-O", "^has_journal"])
                .arg(&mapped),
        )?;
        done(
            self.programs
                .command("mount")
                .arg(&mapped)
                .arg(&self.folder),
        )
    }

    /// Unmounts, forgets the key, removes the image.
    pub(super) fn close(self) -> Result<(), String> {
        let failed = |what: &str| format!("{what} failed; its image is {}", self.image.display());
        let mapped = Path::new(MAPPED).join(&self.name);
        if mapped.symlink_metadata().is_ok() {
            // It may not have been mounted yet.
            done(self.programs.command("umount").arg(&self.folder));
            done(
                self.programs
                    .command("cryptsetup")
                    .arg("close")
                    .arg(&self.name),
            )
            .ok_or_else(|| failed("closing its volume"))?;
        }
        if let Some(device) = &self.device {
            done(self.programs.command("losetup").arg("-d").arg(device))
                .ok_or_else(|| failed("detaching its device"))?;
        }
        match std::fs::remove_file(&self.image) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("removing its image"))
            }
            _ if mapped.symlink_metadata().is_ok() => Err(failed("closing its volume")),
            _ => Ok(()),
        }
    }
}

fn done(command: &mut Command) -> Option<()> {
    let output = command.output().ok()?;
    output.status.success().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_host::SystemRng;

    /// Programs that write down how they were called; `broken` fails.
    fn pretenders(dir: &Path, broken: &str) -> Programs {
        for name in NEEDED {
            let exit = i32::from(name == broken);
            let text = format!(
                r#"#!/bin/sh
echo "{name} $*" >>{log}
case "{name}{exit} $1" in
  "losetup0 --find") echo /dev/loop9 ;;
  "cryptsetup0 open") wc -c >>{log} ;;
esac
exit {exit}
"#,
                log = dir.join("log").display(),
            );
            // Written by another process: a child of some other test may hold what this one has open, and
            // a program can't be run while anybody has it open for writing.
            let mut writer = Command::new("sh");
            writer.args(["-c", r#"printf %s "$2" >"$1"; chmod 755 "$1""#, "sh"]);
            let written = writer.arg(dir.join(name)).arg(text).status().unwrap();
            assert!(written.success());
        }
        Programs(vec![dir.to_path_buf()])
    }

    fn log(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("log")).unwrap_or_default()
    }

    #[test]
    fn a_volume_is_opened_with_a_key_that_stands_nowhere_and_closed_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tidemark-drill-1");
        let programs = pretenders(dir.path(), "");
        let volume = Volume::with(programs, &folder, 1 << 20, &SystemRng).expect("a volume");
        assert!(volume.image.is_file());
        let called = log(dir.path());
        assert!(
            called.contains("--key-file=- --batch-mode /dev/loop9 tidemark-drill-1"),
            "{called}"
        );
        let taken = called.lines().any(|line| line.trim() == "64");
        assert!(taken, "64 bytes of key came through the pipe: {called}");
        let image = volume.image.clone();
        volume.close().unwrap();
        assert!(log(dir.path()).contains("losetup -d /dev/loop9"));
        assert!(!image.exists());
    }

    #[test]
    fn where_a_step_fails_there_is_no_volume_and_nothing_is_left_of_it() {
        for broken in ["losetup", "cryptsetup", "mkfs.ext4", "mount"] {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path().join("tidemark-drill-1");
            let programs = pretenders(dir.path(), broken);
            assert!(
                Volume::with(programs, &folder, 1 << 20, &SystemRng).is_none(),
                "{broken}"
            );
            let image = dir.path().join("tidemark-drill-1.image");
            let detached = log(dir.path()).contains("losetup -d");
            assert_eq!(detached, broken != "losetup", "{broken}");
            assert!(!image.exists(), "{broken}");
        }
    }

    #[test]
    fn without_the_programs_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let programs = Programs(vec![dir.path().to_path_buf()]);
        assert!(Volume::with(programs, &dir.path().join("x"), 1, &SystemRng).is_none());
    }
}
