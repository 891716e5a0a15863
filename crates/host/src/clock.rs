//! Time, injected: the only place where the operating system's clocks are read.
//!
//! Wall time informs people and stands in points and beats; it never decides order. Waiting and
//! deadlines use [`Clock::monotonic`], which never goes back. [`Clock::since_boot`] goes on while
//! the machine sleeps and, beside the wall time, lets a drill tell a stepped clock from a real gap.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A point on a clock that never goes back; only differences have a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// A point `since_origin` after the clock's arbitrary origin.
    #[must_use]
    pub const fn from_origin(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// How long after `earlier` this is; zero if it is before it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `wait` later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// What is known about the wall clock's synchronisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NtpState {
    /// A time service says that the clock is synchronised.
    Synchronised,
    /// A time service runs and has not synchronised the clock since boot.
    Unsynchronised,
    /// No time service that we can read.
    Unknown,
}

/// The clocks of this machine, or of a simulation.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time. It may step, in both directions.
    fn now(&self) -> Timestamp;

    /// Time for waiting and deadlines. It never goes back.
    fn monotonic(&self) -> Monotonic;

    /// Time since boot, sleep included.
    fn since_boot(&self) -> Duration;

    /// Whether somebody keeps the wall clock right.
    fn ntp(&self) -> NtpState;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// systemd-timesyncd makes this folder when it starts and the file in it once it is synchronised.
const TIMESYNC_FOLDER: &str = "/run/systemd/timesync";

impl SystemClock {
    /// The machine's clocks, ready to be handed on.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where the wall clock is read"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(read(rustix::time::ClockId::Monotonic))
    }

    fn since_boot(&self) -> Duration {
        read(rustix::time::ClockId::Boottime)
    }

    fn ntp(&self) -> NtpState {
        let folder = Path::new(TIMESYNC_FOLDER);
        if folder.join("synchronized").exists() {
            NtpState::Synchronised
        } else if folder.exists() {
            NtpState::Unsynchronised
        } else {
            NtpState::Unknown
        }
    }
}

fn read(clock: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    // Both clocks start at boot or later: neither part is ever negative.
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// A clock that stands still until it is moved: for tests and simulations.
///
/// Clones share one time.
#[derive(Debug, Clone)]
pub struct SimClock {
    state: Arc<Mutex<SimState>>,
}

#[derive(Debug)]
struct SimState {
    wall: Timestamp,
    monotonic: Duration,
    boot: Duration,
    ntp: NtpState,
}

impl SimClock {
    /// A clock that shows `wall`, one hour after boot, synchronised.
    #[must_use]
    pub fn at(wall: Timestamp) -> Self {
        let hour = Duration::from_secs(3600);
        let state = SimState {
            wall,
            monotonic: hour,
            boot: hour,
            ntp: NtpState::Synchronised,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// This clock as the trait object that components take.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Clock> {
        Arc::new(self.clone())
    }

    /// Lets `time` pass on all three clocks.
    pub fn advance(&self, time: Duration) {
        let mut state = self.lock();
        state.monotonic = state.monotonic.saturating_add(time);
        state.boot = state.boot.saturating_add(time);
        state.wall = step(
            state.wall,
            SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX),
        );
    }

    /// Steps the wall clock alone, as NTP or an operator does; a negative step goes back.
    pub fn step_wall(&self, by: SignedDuration) {
        let mut state = self.lock();
        state.wall = step(state.wall, by);
    }

    /// Sets the wall clock alone.
    pub fn set_wall(&self, wall: Timestamp) {
        self.lock().wall = wall;
    }

    /// Sets what [`Clock::ntp`] answers.
    pub fn set_ntp(&self, ntp: NtpState) {
        self.lock().ntp = ntp;
    }

    fn lock(&self) -> MutexGuard<'_, SimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn step(wall: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    };
    wall.checked_add(by).unwrap_or(end)
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.lock().wall
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.lock().monotonic)
    }

    fn since_boot(&self) -> Duration {
        self.lock().boot
    }

    fn ntp(&self) -> NtpState {
        self.lock().ntp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_monotonic_clock_does_not_go_back() {
        let clock = SystemClock;
        let before = clock.monotonic();
        assert!(clock.monotonic() >= before);
        assert!(clock.since_boot() > Duration::ZERO);
    }

    #[test]
    fn a_simulated_wall_clock_steps_back_and_the_monotonic_one_does_not() {
        let clock = SimClock::at(Timestamp::UNIX_EPOCH);
        let start = clock.monotonic();
        clock.advance(Duration::from_secs(10));
        clock.step_wall(SignedDuration::from_secs(-60));
        assert_eq!(clock.now().as_second(), -50);
        assert_eq!(clock.monotonic().since(start), Duration::from_secs(10));
    }

    #[test]
    fn clones_of_a_simulated_clock_share_one_time() {
        let clock = SimClock::at(Timestamp::UNIX_EPOCH);
        let shared = clock.shared();
        clock.advance(Duration::from_secs(1));
        assert_eq!(shared.now().as_second(), 1);
    }
}
