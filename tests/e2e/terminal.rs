//! A person at a terminal: questions, Ctrl-C. On a real pseudo-terminal, made by
//! `script` of util-linux, whose own standard input is the keyboard.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tidemark_tests::eventually;

use crate::process::{Ran, SOON};
use crate::site::Site;

/// Ctrl-C.
const CTRL_C: &str = "\x03";

/// A command on a terminal of its own.
#[derive(Debug)]
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    screen: PathBuf,
}

impl Terminal {
    /// Starts `command` with `columns` on the screen.
    fn start(command: &Command, columns: u32, screen: &Path) -> Self {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words
            .map(|word| format!("'{}'", word.to_str().expect("plain words")))
            .collect();
        let line = format!("stty cols {columns} rows 24; exec {}", words.join(" "));
        let mut script = Command::new("script");
        script
            .args(["-q", "-e", "-f", "-c", &line])
            .arg("/dev/null");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => script.env(name, value),
                None => script.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            script.current_dir(folder);
        }
        let file = std::fs::File::create(screen).expect("a file for the screen");
        let mut child = script
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .expect("script, of util-linux, runs");
        let keyboard = child.stdin.take().expect("a pipe");
        Self {
            child,
            keyboard,
            screen: screen.to_owned(),
        }
    }

    /// Everything that was written to the screen so far.
    fn screen(&self) -> String {
        let bytes = std::fs::read(&self.screen).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the screen has shown `word`.
    #[track_caller]
    fn shows(&mut self, word: &str) {
        eventually(&format!("{word:?} on the screen"), SOON, || {
            let screen = self.screen();
            let ended = self.child.try_wait().expect("a child");
            assert!(
                screen.contains(word) || ended.is_none(),
                "ended without {word:?}: {screen}"
            );
            screen.contains(word).then_some(())
        });
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("keys");
        self.keyboard.flush().expect("keys");
    }

    /// Waits for its end; the exit code and the whole screen.
    #[track_caller]
    fn end(mut self) -> (i32, String) {
        let status = eventually("the command ends", SOON, || {
            self.child.try_wait().expect("a child")
        });
        (status.code().expect("an exit code"), self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn passphrase_is_asked_for_unseen_and_ctrl_c_ends_the_question() {
    let site = Site::new();
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let sealed = site.path("sealed");
    let mut new = site.command("tidemark-restore");
    new.args(["keys", "new", "--passphrase", "--out"])
        .arg(&sealed);
    let mut terminal = Terminal::start(&new, 80, &site.path("screen-new"));
    terminal.shows("passphrase");
    terminal.types("a very long secret\r");
    terminal.shows("Again");
    terminal.types("a very long secret\r");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("very long"), "{screen}");

    let mut check = site.command("tidemark-restore");
    check.args(["keys", "check", "--region", &site.regions[0], "--identity"]);
    check.arg(&sealed);
    let asked = |name: &str, keys: &str| {
        let mut terminal = Terminal::start(&check, 80, &site.path(name));
        terminal.shows("Passphrase of");
        terminal.types(keys);
        terminal.end()
    };
    let (code, screen) = asked("screen-wrong", "another one\r");
    assert_eq!(code, 12, "{screen}");
    assert!(screen.contains("TM1206"), "{screen}");
    let (code, screen) = asked("screen-given-up", CTRL_C);
    assert_eq!(code, 1, "{screen}");
    // Without a terminal nobody is asked, and the way out is named.
    Ran::of(&mut check)
        .ends_with(12)
        .says(&["--passphrase-file"]);
}
