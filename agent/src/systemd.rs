//! What systemd is told: READY when it is true, the exposure in one line, a keep-alive only while
//! everything moves.

use std::time::Duration;

use jiff::Timestamp;
pub use tidemark_cli::service::notify::{alive, extend, ready, status, stopping, watchdog};
use tidemark_host::{codes, duration};

use crate::ship::looking::AGENT;
use crate::status_live::{Board, SourceState};

/// Whether every source is in hand, or has said why not.
#[must_use]
pub fn is_ready(board: &Board, sources: usize) -> bool {
    board.read(|live, _, _| {
        live.len() >= sources && live.values().all(|source| source.state.is_settled())
    })
}

/// The status line: the worst exposure, each region, what needs somebody.
#[must_use]
pub fn status_line(board: &Board, now: Timestamp) -> String {
    if let Some(text) = board.message(codes::NOT_ENROLLED.id, AGENT) {
        return format!("NOT PROTECTED · {text}");
    }
    let mut line = match board.worst_exposure(now) {
        Some((source, exposure)) => {
            let seconds = Duration::from_secs(exposure.as_secs());
            format!("exposure {} ({source})", duration::render(seconds))
        }
        None => "nothing to protect".to_owned(),
    };
    let tail = board.read(|sources, regions, alerts| {
        let mut line = String::new();
        for (name, region) in regions {
            line.push_str(&format!(
                " · {name} {}",
                if region.up { "ok" } else { "AWAY" }
            ));
        }
        let odd = sources
            .iter()
            .filter(|(_, live)| live.state != SourceState::Capturing);
        for (name, live) in odd.take(3) {
            line.push_str(&format!(" · {name} {}", live.state.name()));
        }
        if alerts > 0 {
            line.push_str(&format!(" · {alerts} alert(s): tidemark-agent status"));
        }
        line
    });
    line.push_str(&tail);
    line
}

#[cfg(test)]
mod tests {
    use tidemark_format::{RegionName, SourceName};

    use super::*;

    #[test]
    fn the_status_line_names_the_exposure_and_what_is_wrong() {
        let board = Board::default();
        let now = Timestamp::from_second(100).unwrap();
        board.source(&SourceName::new("app").unwrap(), |live| {
            live.state = SourceState::Capturing;
            live.pending_since = Some(Timestamp::from_second(89).unwrap());
        });
        board.region(&RegionName::new("aarhus").unwrap(), |live| live.up = true);
        assert_eq!(status_line(&board, now), "exposure 11s (app) · aarhus ok");
        board.region(&RegionName::new("odense").unwrap(), |live| live.up = false);
        assert!(status_line(&board, now).ends_with("odense AWAY"));
    }

    #[test]
    fn the_status_line_of_an_agent_that_is_not_enrolled_is_the_command_that_is_missing() {
        let board = Board::default();
        let now = Timestamp::from_second(100).unwrap();
        let app = SourceName::new("app").unwrap();
        board.source(&app, |live| live.state = SourceState::WaitingForEnrolment);
        board.alert(codes::NOT_ENROLLED.id, AGENT, "run keys enrol", now);
        assert_eq!(status_line(&board, now), "NOT PROTECTED · run keys enrol");
        assert!(is_ready(&board, 1), "nothing more will come by waiting");
        board.clear(codes::NOT_ENROLLED.id, AGENT);
        assert!(status_line(&board, now).contains("waiting-for-enrolment"));
    }

    #[test]
    fn ready_waits_until_every_source_is_in_hand_or_says_why_not() {
        let board = Board::default();
        let app = SourceName::new("app").unwrap();
        assert!(!is_ready(&board, 1));
        board.source(&app, |_| {});
        assert!(!is_ready(&board, 1));
        board.source(&app, |live| live.state = SourceState::WaitingForDatabase);
        assert!(is_ready(&board, 1));
    }
}
