//! Child processes with what they cost: CPU seconds, and the largest memory they ever held.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Between two looks at a process's memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A process that was asked to end and does not is a bug of its own.
const END_WITHIN: Duration = Duration::from_secs(60);

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// VmHWM.
    pub(crate) memory_bytes: u64,
    /// From its start to its end, or to now.
    pub(crate) seconds: f64,
}

/// A running child; killed when its value goes.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    started: Instant,
    memory: Arc<AtomicU64>,
    output: PathBuf,
    name: String,
}

impl Running {
    /// Starts `command` with its output in a file, shown when it fails.
    pub(crate) fn start(command: &mut Command, output: &Path) -> Result<Self> {
        let file = File::create(output)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let name = command.get_program().to_string_lossy().into_owned();
        let started = Instant::now();
        let child = command.spawn().with_context(|| name.clone())?;
        let memory = Arc::new(AtomicU64::new(0));
        let (pid, seen) = (child.id(), Arc::clone(&memory));
        std::thread::spawn(move || {
            while let Some(now) = high_water(pid) {
                seen.fetch_max(now, Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self {
            child,
            started,
            memory,
            output: output.to_owned(),
            name,
        })
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in brackets may hold anything; what follows it does not.
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|f| f.parse::<u64>().ok())
            .sum();
        let now = high_water(self.child.id()).unwrap_or_default();
        Ok(Usage {
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            memory_bytes: self.memory.fetch_max(now, Ordering::Relaxed).max(now),
            seconds: self.started.elapsed().as_secs_f64(),
        })
    }

    /// Fails if it has ended by itself.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.name, self.said());
        }
        Ok(())
    }

    /// Waits for it to end well; answers what it used.
    pub(crate) fn finish(mut self) -> Result<Usage> {
        // Left unreaped for a moment, so that its times can still be read.
        waitid(
            WaitId::Pid(self.pid()?),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )?;
        let usage = self.usage()?;
        let status = self.child.wait()?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.name,
            self.said()
        );
        Ok(usage)
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::TERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                asked.elapsed() < END_WITHIN,
                "{} ignores SIGTERM:\n{}",
                self.name,
                self.said()
            );
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.child.id())?).context("a process id")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn high_water(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes * 1024)
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
