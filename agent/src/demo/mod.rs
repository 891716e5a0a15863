//! `demo`: the main job on real input, in under a minute, with the two shipped programs as children.
//!
//! It makes a small live database, protects it into two directory regions, kills the agent and
//! deletes database and agent state as if the host were lost, and restores to a chosen second from
//! one region. What it prints it has checked; any doubt is a failed demo, exit 1.

mod programs;
mod shop;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tidemark_host::{
    Clock, Exit, Rng, RngExt as _, SystemClock, SystemRng,
    output::{Console, Document, duration, instant},
};

use self::{
    programs::{Program, Programs},
    shop::LiveShop,
};
use crate::{cli::DemoArgs, commands::Failure, state::StateDir};

/// How often the demo's agent ships: short, so that a minute shows something.
const SHIP_EVERY: &str = "500ms";
/// What the demo's ship interval and the agent's reaction may cost in precision, with room for a
/// busy machine.
const PRECISION_MAX: SignedDuration = SignedDuration::from_secs(3);
/// How long the shop stays live after the point to which it is restored.
const LIVE_AFTER: Duration = Duration::from_secs(4);

/// What the demo proved.
#[derive(Debug, Serialize)]
struct Proved {
    folder: PathBuf,
    kept: bool,
    restored_to: Timestamp,
    orders_committed: usize,
    orders_by_then: usize,
    orders_restored: usize,
    newest_restored: Timestamp,
    precision_ms: i128,
    integrity_check: String,
    seconds: u64,
}

impl Document for Proved {
    const SCHEMA: &'static str = "tidemark-agent.demo";

    fn text(&self, out: &mut String) {
        out.push_str(&format!(
            "\nProved, on this machine, just now:\n\
             - {} orders were committed while the agent ran; agent and host were then lost at once.\n\
             - Asked for {}, one region alone gave back {} orders: the first {}, each as it was\n  \
               committed, none invented and none from later ({} had been placed by then).\n\
             - The newest of them was placed {} ms before the instant asked for.\n\
             - SQLite's integrity_check says: {}. The restored bytes' digest equals the source's.\n\
             - All of it took {}.\n",
            self.orders_committed,
            instant(self.restored_to),
            self.orders_restored,
            self.orders_restored,
            self.orders_by_then,
            self.precision_ms,
            self.integrity_check,
            duration(Duration::from_secs(self.seconds)),
        ));
        if self.kept {
            out.push_str(&format!(
                "Everything is left in {} to look at.\n",
                self.folder.display()
            ));
        }
    }
}

/// The demo's folder; removed at the end unless the user named it.
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    fn make(wanted: Option<&Path>, rng: &dyn Rng) -> Result<Self, Failure> {
        let path = match wanted {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!(
                "tidemark-demo-{}",
                rng.id::<tidemark_format::PutId>().short()
            )),
        };
        let failed = |source| Failure::Folder {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let folder = Self {
            path,
            kept: wanted.is_some(),
        };
        let empty = std::fs::read_dir(&folder.path).is_ok_and(|mut all| all.next().is_none());
        if empty {
            Ok(folder)
        } else {
            Err(Failure::NotEmpty(folder.path.clone()))
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: a temporary folder that stays is no reason to fail.
            drop(std::fs::remove_dir_all(&self.path));
        }
    }
}

/// Runs the demo.
pub(crate) fn demo(args: &DemoArgs, console: &Console) -> Result<Exit, Failure> {
    let clock = SystemClock::shared();
    let began = clock.monotonic();
    let programs = Programs::find()?;
    let folder = Folder::make(args.dir.as_deref(), SystemRng::shared().as_ref())?;
    let mut proved = perform(&programs, &folder, clock.as_ref(), console)?;
    proved.seconds = clock.monotonic().since(began).as_secs();
    console.show(&proved);
    Ok(Exit::Ok)
}

fn perform(
    programs: &Programs,
    folder: &Folder,
    clock: &dyn Clock,
    console: &Console,
) -> Result<Proved, Failure> {
    let place = Places::below(&folder.path);
    console.note("1. A shop opens: a live SQLite database, an order every 20 ms.");
    std::fs::create_dir_all(&place.app).map_err(|source| Failure::Folder {
        path: place.app.clone(),
        source,
    })?;
    let shop = LiveShop::open(&place.database)?;

    console.note("2. tidemark-agent init: keys, a config, two directory regions.");
    programs.agent(&place.init())?;
    place.fit_a_minute()?;

    console.note("3. tidemark-agent run: base and log go to both regions.");
    let log = folder.path.join("agent.log");
    let mut daemon = programs.start(&["run", "--config", &text(&place.config)], &log)?;
    daemon.wait_until_it_answers(&StateDir::new(&place.state).control_socket())?;
    programs.agent(&[
        "snapshot",
        "--config",
        &text(&place.config),
        "--name",
        "opening",
    ])?;
    std::thread::sleep(LIVE_AFTER);
    let wanted = clock.now();
    console.note(&format!(
        "   Remember this instant: {}. The shop goes on.",
        instant(wanted)
    ));
    std::thread::sleep(LIVE_AFTER);
    console.note(
        programs
            .agent(&["status", "--config", &text(&place.config)])?
            .trim_end(),
    );

    console.note("4. Disaster: agent killed, database and agent state gone, first region gone.");
    daemon.kill()?;
    let orders = shop.close()?;
    place.lose_host()?;

    console.note("5. tidemark-restore, with the second region and the identity alone:");
    let restored = programs.run(Program::Restore, &place.restore(wanted))?;
    console.note(restored.trim_end());
    if !restored.contains("equal to the source") {
        return Err(wrong(
            "the restore did not prove that the bytes are the source's",
        ));
    }
    compare(&place, &orders, wanted, folder)
}

fn compare(
    place: &Places,
    orders: &[shop::Order],
    wanted: Timestamp,
    folder: &Folder,
) -> Result<Proved, Failure> {
    let (integrity_check, restored) = shop::read(&place.restored)?;
    let by_then = orders
        .iter()
        .filter(|order| order.placed_at <= wanted)
        .count();
    let newest = restored
        .last()
        .ok_or_else(|| wrong("the restored database is empty"))?;
    if orders.get(..restored.len()) != Some(restored.as_slice()) {
        return Err(wrong(
            "the restored orders are not the first ones that were committed",
        ));
    }
    if integrity_check != "ok" {
        return Err(wrong(&format!("integrity_check: {integrity_check}")));
    }
    if restored.len() > by_then {
        return Err(wrong("orders from after the instant asked for came back"));
    }
    let precision = wanted.duration_since(newest.placed_at);
    if precision > PRECISION_MAX {
        return Err(wrong(&format!(
            "the newest order is {precision:#} older than what was asked for"
        )));
    }
    Ok(Proved {
        folder: folder.path.clone(),
        kept: folder.kept,
        restored_to: wanted,
        orders_committed: orders.len(),
        orders_by_then: by_then,
        orders_restored: restored.len(),
        newest_restored: newest.placed_at,
        precision_ms: precision.as_millis(),
        integrity_check,
        seconds: 0,
    })
}

fn wrong(what: &str) -> Failure {
    Failure::Demo {
        what: what.to_owned(),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where the demo keeps what.
struct Places {
    app: PathBuf,
    database: PathBuf,
    config: PathBuf,
    state: PathBuf,
    identity: PathBuf,
    regions: [PathBuf; 2],
    restored: PathBuf,
}

impl Places {
    fn below(folder: &Path) -> Self {
        Self {
            app: folder.join("host"),
            database: folder.join("host/shop.db"),
            config: folder.join("host/agent.toml"),
            state: folder.join("host/.tidemark"),
            identity: folder.join("safe/identity"),
            regions: [folder.join("region-a"), folder.join("region-b")],
            restored: folder.join("restored.db"),
        }
    }

    fn init(&self) -> Vec<String> {
        let mut words = vec!["init".to_owned()];
        for (option, value) in [
            ("--sqlite", text(&self.database)),
            ("--region", format!("dir:{}", text(&self.regions[0]))),
            ("--region", format!("dir:{}", text(&self.regions[1]))),
            ("--identity", text(&self.identity)),
            ("--config", text(&self.config)),
        ] {
            words.extend([option.to_owned(), value]);
        }
        words
    }

    /// The config as `init` writes it, with intervals that fit a minute, and without the share of the
    /// disk that a real agent leaves free: what a demo takes is small, and it shall not wait for room.
    fn fit_a_minute(&self) -> Result<(), Failure> {
        let failed = |source| Failure::Folder {
            path: self.config.clone(),
            source,
        };
        let config = std::fs::read_to_string(&self.config).map_err(failed)?;
        let mut seen = 0;
        let lines: Vec<String> = config
            .lines()
            .map(|line| {
                let key = line.trim_start_matches(['#', ' ']).split([' ', '=']).next();
                let value = match key {
                    Some("ship_every") => SHIP_EVERY,
                    Some("snapshot_every") => "2s",
                    Some("spool_keep_free") => "0%",
                    _ => return line.to_owned(),
                };
                if !line.contains('=') {
                    return line.to_owned();
                }
                seen += 1;
                format!("{} = \"{value}\"", key.unwrap_or_default())
            })
            .collect();
        if seen < 3 {
            return Err(wrong(
                "the config that init wrote has no ship_every, snapshot_every or spool_keep_free line",
            ));
        }
        std::fs::write(&self.config, lines.join("\n") + "\n").map_err(failed)
    }

    fn lose_host(&self) -> Result<(), Failure> {
        for gone in [&self.state, &self.app, &self.regions[0]] {
            if gone.exists() {
                std::fs::remove_dir_all(gone).map_err(|source| Failure::Folder {
                    path: gone.clone(),
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn restore(&self, wanted: Timestamp) -> Vec<String> {
        let mut words = vec!["restore".to_owned()];
        for (option, value) in [
            ("--region", format!("dir:{}", text(&self.regions[1]))),
            ("--identity", text(&self.identity)),
            ("--to", wanted.to_string()),
            ("--target", text(&self.restored)),
        ] {
            words.extend([option.to_owned(), value]);
        }
        words
    }
}
