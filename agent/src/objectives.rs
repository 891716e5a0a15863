//! Promises that are about to break: an event, an alert and a metric before they are broken.
//!
//! A source whose config promises an RPO is at risk once three quarters of it are used up: a config whose
//! own intervals take more than half of it is refused, so that is never ordinary.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_format::SourceName;
use tidemark_host::{codes, output};

use crate::status_live::{Board, LiveSource, LiveStatus, SourceState};

/// How a promised RPO stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Well.
    Held,
    /// Three quarters of it are used up.
    AtRisk,
    /// More would be lost now than was promised.
    Broken,
}

impl Standing {
    /// Of an exposure.
    #[must_use]
    pub fn of(exposure: Duration, rpo: Duration) -> Self {
        if exposure > rpo {
            Self::Broken
        } else if exposure > rpo / 4 * 3 {
            Self::AtRisk
        } else {
            Self::Held
        }
    }
}

/// What a source's config promises, while anything of it is captured.
fn promised(live: &LiveSource) -> Option<Duration> {
    let rpo = live.rpo_ms.filter(|_| live.state != SourceState::Retired)?;
    Some(Duration::from_millis(rpo))
}

/// How each source that promises an RPO stands.
pub fn standings(status: &LiveStatus) -> impl Iterator<Item = (&SourceName, Standing)> {
    status.sources.iter().filter_map(|(name, live)| {
        let rpo = promised(live)?;
        Some((name, Standing::of(status.exposure(name), rpo)))
    })
}

/// Raises and takes back the alerts.
pub fn look(board: &Board, now: Timestamp) {
    let promised: Vec<(SourceName, Duration)> = board.read(|sources, _, _| {
        let all = sources.iter();
        all.filter_map(|(name, live)| Some((name.clone(), promised(live)?)))
            .collect()
    });
    for (name, rpo) in promised {
        let exposure = board.exposure_of(&name, now).unwrap_or_default();
        let standing = Standing::of(exposure, rpo);
        let (at_risk, broken) = (codes::OBJECTIVE_AT_RISK.id, codes::OBJECTIVE_BROKEN.id);
        let about = name.as_str();
        if standing != Standing::AtRisk {
            board.clear(at_risk, about);
        }
        if standing != Standing::Broken {
            board.clear(broken, about);
        }
        let used = output::duration(exposure);
        let rpo = output::duration(rpo);
        match standing {
            Standing::Held => {}
            Standing::AtRisk => board.alert(
                at_risk,
                about,
                &format!("what was committed {used} ago is not durable yet, and an RPO of {rpo} is promised"),
                now,
            ),
            Standing::Broken => board.alert(
                broken,
                about,
                &format!("{used} would be lost now, and an RPO of {rpo} is promised"),
                now,
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_promise_is_at_risk_before_it_is_broken() {
        let minute = Duration::from_secs(60);
        for (exposure, standing) in [
            (0, Standing::Held),
            (150, Standing::Held),
            (226, Standing::AtRisk),
            (300, Standing::AtRisk),
            (301, Standing::Broken),
        ] {
            let exposure = Duration::from_secs(exposure);
            assert_eq!(Standing::of(exposure, minute * 5), standing, "{exposure:?}");
        }
    }

    #[test]
    fn the_alert_of_a_risk_gives_way_to_that_of_the_breach_and_both_end() {
        let board = Board::default();
        let app = SourceName::new("app").unwrap();
        board.source(&app, |live| {
            live.state = SourceState::Capturing;
            live.rpo_ms = Some(100_000);
            live.pending_since = Some(at(100));
        });
        let codes_at = |second: i64| {
            look(&board, at(second));
            let alerts = board.alerts().into_iter();
            alerts.map(|alert| alert.code).collect::<Vec<_>>()
        };
        assert!(codes_at(150).is_empty());
        assert_eq!(codes_at(180), ["TM1702"]);
        assert!(
            board.alerts()[0]
                .message
                .contains("an RPO of 1 min 40 s is promised")
        );
        assert_eq!(codes_at(201), ["TM1703"]);
        board.source(&app, |live| live.pending_since = None);
        assert!(codes_at(202).is_empty());
        board.source(&app, |live| {
            live.pending_since = Some(at(100));
            live.state = SourceState::Retired;
        });
        assert!(
            codes_at(900).is_empty(),
            "of a retired source nothing is promised"
        );
    }
}
