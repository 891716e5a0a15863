//! What systemd is told: READY when it is true, how things stand in one line, a keep-alive.
//!
//! Without `NOTIFY_SOCKET` all of this is silence.

use std::time::Duration;

use sd_notify::NotifyState;

/// How much more time is asked for while stopping; asked for again before it is over.
const EXTEND: Duration = Duration::from_secs(20);

/// Tells systemd; it not listening is no error of ours.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(error = %error, "systemd doesn't listen");
    }
}

/// Everything that was promised at the start is true.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The daemon stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
    extend();
}

/// The stop takes longer.
pub fn extend() {
    let micros = u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
}

/// The line that `systemctl status` shows.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// Everything moves.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants to hear that everything moves, if it does.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}
