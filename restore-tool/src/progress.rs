//! How far long work is: a bar with ETA on a terminal, a plain line every 10 s otherwise, one JSON
//! object a line under `--json`.
//!
//! Only reports: nothing waits for it, and a lost line loses nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::style::ProgressTracker;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::json;
use tidemark_host::output::{self, Console};
use tidemark_host::{Clock, Monotonic};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How often the bar is drawn while nothing arrives.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// How often a JSON line is written.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// The progress of one phase. Shared by all who work on it.
#[derive(Debug)]
pub struct Progress {
    phase: &'static str,
    total: AtomicU64,
    done: AtomicU64,
    /// Done by an earlier run: says nothing about how fast this one is.
    kept: u64,
    began: Monotonic,
    clock: Arc<dyn Clock>,
    last_line: Mutex<Monotonic>,
    console: Console,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins a phase of `total` bytes, of which `done` were done by an earlier run.
    #[must_use]
    pub fn begin(
        console: &Console,
        clock: &Arc<dyn Clock>,
        phase: &'static str,
        total: u64,
        done: u64,
    ) -> Arc<Self> {
        let bar = (console.err_is_terminal && !console.json).then(|| bar(phase, total, done));
        let began = clock.monotonic();
        Arc::new(Self {
            phase,
            total: AtomicU64::new(total),
            done: AtomicU64::new(done),
            kept: done,
            began,
            clock: Arc::clone(clock),
            last_line: Mutex::new(began),
            console: console.clone(),
            bar,
        })
    }

    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        let done = self
            .done
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(self.total.load(Ordering::Relaxed)));
            return;
        }
        let every = if self.console.json {
            EVENT_EVERY
        } else {
            LINE_EVERY
        };
        let now = self.clock.monotonic();
        let mut last = self
            .last_line
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now.since(*last) >= every {
            *last = now;
            drop(last);
            self.line(done, now);
        }
    }

    /// The phase is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        } else if self.console.json {
            self.line(self.done.load(Ordering::Relaxed), self.clock.monotonic());
        }
    }

    /// How long it has run.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().since(self.began)
    }

    fn line(&self, done: u64, now: Monotonic) {
        let total = self.total.load(Ordering::Relaxed);
        let elapsed = now.since(self.began);
        let fresh = done.saturating_sub(self.kept);
        let left = eta(fresh, total.saturating_sub(self.kept), elapsed);
        if self.console.json {
            self.console.event(&json!({
                "schema": "tidemark-restore.progress",
                "version": 1,
                "phase": self.phase,
                "bytes_done": done,
                "bytes_total": total,
                "elapsed_seconds": elapsed.as_secs(),
                "eta_seconds": left.map(|left| left.as_secs()),
            }));
        } else {
            let rate = output::rate(fresh, elapsed).map_or_else(String::new, |r| format!(", {r}"));
            let left = left.map_or_else(String::new, |l| format!(", {} left", output::duration(l)));
            self.console.note(&format!(
                "{}: {} of {}{rate}{left}",
                self.phase,
                output::bytes(done),
                output::bytes(total)
            ));
        }
    }
}

fn eta(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    let millis = u64::try_from(elapsed.as_millis()).ok()?;
    let left = total.saturating_sub(done);
    let wait = u128::from(left)
        .checked_mul(u128::from(millis))?
        .checked_div(u128::from(done))?;
    Some(Duration::from_millis(u64::try_from(wait).ok()?))
}

fn bar(phase: &'static str, total: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{msg:10} {wide_bar} {bytes}/{total_bytes}{pace}");
    if let Ok(style) = style {
        bar.set_style(style.with_key("pace", Pace { kept: done }));
    }
    bar.set_message(phase);
    bar.set_position(done);
    bar.enable_steady_tick(REDRAW_EVERY);
    bar
}

/// Speed and time left, once something has arrived: before that nobody knows, and "0s" is a lie.
#[derive(Debug, Clone)]
struct Pace {
    kept: u64,
}

impl Pace {
    fn words(&self, done: u64, total: u64, elapsed: Duration) -> Option<String> {
        let fresh = done.saturating_sub(self.kept);
        let rate = output::rate(fresh, elapsed).filter(|_| fresh > 0)?;
        let left = eta(fresh, total.saturating_sub(self.kept), elapsed)?;
        Some(format!(" {rate} ETA {}", output::duration(left)))
    }
}

impl ProgressTracker for Pace {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, _state: &ProgressState, _now: std::time::Instant) {}

    fn reset(&mut self, _state: &ProgressState, _now: std::time::Instant) {}

    fn write(&self, state: &ProgressState, out: &mut dyn std::fmt::Write) {
        let total = state.len().unwrap_or_default();
        if let Some(words) = self.words(state.pos(), total, state.elapsed()) {
            // A bar that can't be drawn tells nothing, and harms nobody.
            let _undrawn = out.write_str(&words);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_host::SimClock;
    use tidemark_host::output::testing::Captured;

    use super::*;

    #[test]
    fn without_a_terminal_a_line_comes_every_ten_seconds_with_what_is_left() {
        let captured = Captured::new(false);
        let sim = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let progress = Progress::begin(&captured.console, &sim.shared(), "base", 4 << 20, 0);
        sim.advance(Duration::from_secs(9));
        progress.add(1);
        assert_eq!(captured.err(), "");
        sim.advance(Duration::from_secs(1));
        progress.add((1 << 20) - 1);
        assert_eq!(
            captured.err(),
            "base: 1 MiB of 4 MiB, 102 KiB/s, 30 s left\n"
        );
    }

    #[test]
    fn the_time_left_is_hidden_until_something_arrived_and_counts_this_run_alone() {
        let pace = Pace { kept: 50 << 20 };
        let second = Duration::from_secs(1);
        assert_eq!(pace.words(50 << 20, 100 << 20, second), None);
        assert_eq!(pace.words(51 << 20, 100 << 20, Duration::ZERO), None);
        assert_eq!(
            pace.words(60 << 20, 100 << 20, second).as_deref(),
            Some(" 10 MiB/s ETA 4 s")
        );
    }

    #[test]
    fn json_progress_is_one_object_a_line() {
        let captured = Captured::new(true);
        let sim = SimClock::at(jiff::Timestamp::UNIX_EPOCH);
        let progress = Progress::begin(&captured.console, &sim.shared(), "log", 100, 0);
        sim.advance(Duration::from_secs(1));
        progress.add(50);
        let line: serde_json::Value = serde_json::from_str(captured.err().trim()).unwrap();
        assert_eq!(line["phase"], "log");
        assert_eq!(line["eta_seconds"], 1);
    }
}
