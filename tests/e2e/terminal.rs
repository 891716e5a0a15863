//! A person at a terminal: the bar of long work, questions, Ctrl-C. On a real pseudo-terminal, made by
//! `script` of util-linux, whose own standard input is the keyboard.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use tidemark_testkit::net::{Mode, Proxy};
use tidemark_testkit::s3::S3Server;
use tidemark_tests::eventually;

use crate::process::{Ran, SOON};
use crate::s3::{Bucket, Cloud, address};
use crate::site::Site;
use crate::writer::{assert_same_pages, open};

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

    /// Presses Ctrl-C until it ends: the first may come before there is anybody to hear it.
    #[track_caller]
    fn give_up(mut self) -> (i32, String) {
        let status = eventually("the command ends", SOON, || {
            // Whoever has ended reads no keys.
            drop(self.keyboard.write_all(CTRL_C.as_bytes()));
            self.child.try_wait().expect("a child")
        });
        (status.code().expect("an exit code"), self.screen())
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

/// The times left that a bar has shown, in its own words.
fn times_left(screen: &str) -> Vec<&str> {
    let shown = screen.split("ETA ").skip(1);
    shown
        .filter_map(|rest| rest.split(['\r', '\n', '\x1b']).next())
        .map(str::trim_end)
        .collect()
}

#[test]
fn long_restore_shows_a_bar_with_an_eta_and_goes_on_after_ctrl_c() {
    let Some(server) = S3Server::shared() else {
        return;
    };
    let proxy = Proxy::to(address(server)).unwrap();
    let bucket = Bucket::new(server, true);
    let cloud = Cloud::new(&[(&bucket, server.https_endpoint())]);
    let site = &cloud.site;
    let app = open(&site.database);
    app.execute_batch(
        "CREATE TABLE bulk_too (bytes BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL \
         SELECT i + 1 FROM n WHERE i < 5500) INSERT INTO bulk_too SELECT randomblob(16000) FROM n",
    )
    .unwrap();
    drop(app);
    let daemon = site.start();
    site.agent(&["snapshot"]).ok();
    site.wait_shipped();
    daemon.terminate();
    let url = bucket.url(&format!("https://{}", proxy.addr()), "restore");
    let target = site.path("back.db");
    let mut restore = site.restore_command(&[&url], &target);
    restore.args(["--to", "latest"]);

    proxy.set(Mode::Throttle(2_000_000));
    let mut terminal = Terminal::start(&restore, 100, &site.path("screen-1"));
    terminal.shows("ETA ");
    eventually("a time left that was reckoned", SOON, || {
        let screen = terminal.screen();
        let left = times_left(&screen);
        left.iter().any(|left| *left != "0 s").then_some(())
    });
    terminal.shows("/s ETA");
    terminal.types(CTRL_C);
    let (code, screen) = terminal.end();
    assert_eq!(code, 1, "{screen}");
    assert!(screen.contains("goes on where it was"), "{screen}");
    assert!(!target.exists(), "{screen}");

    // A link that went dead doesn't hold the person who has had enough.
    proxy.set(Mode::BlackHole);
    let terminal = Terminal::start(&restore, 20, &site.path("screen-2"));
    let (code, screen) = terminal.give_up();
    assert!(code == 1 || code == 130, "{code}: {screen}");

    proxy.set(Mode::Pass);
    let terminal = Terminal::start(&restore, 100, &site.path("screen-3"));
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("equal to the source"), "{screen}");
    assert_same_pages(&site.database, &target);
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
