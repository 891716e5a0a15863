//! What of a source can be restored, as both programs show it: the same words and the same JSON over the
//! one judgement of `planner`, so that neither can promise what the other refuses.

mod beyond;
mod reached;

use jiff::Timestamp;
use serde::Serialize;
use tidemark_host::output::{self, Table};
use tidemark_planner::restore as planner;

pub use beyond::Beyond;
pub use reached::{Reached, ServerReached, Window};

/// How many windows a status screen shows, the newest; `list` shows all.
const WINDOWS_SHOWN: usize = 5;

/// Instants that can't be restored, between two windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// Up to here nothing is missing.
    pub from: Timestamp,
    /// The first instant after it that can be restored.
    pub to: Timestamp,
    /// The last state before it.
    pub after: Reached,
    /// The first state after it.
    pub before: Reached,
    /// Why.
    pub why: String,
    /// Somebody may not have heard of it yet: it counts as a warning.
    pub is_news: bool,
}

/// What of a source can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Recoverable {
    /// Every instant in one of these can be restored, oldest first.
    pub windows: Vec<Window>,
    /// Between them, oldest first: no instant in one of these can.
    pub holes: Vec<Hole>,
    /// Everything committed up to here comes back.
    pub recoverable_through: Option<Timestamp>,
    /// What is later and can't be restored from the regions read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
}

impl Recoverable {
    /// As it stands at an instant.
    #[must_use]
    pub fn at(judged: planner::Recoverable, now: Timestamp) -> Self {
        let holes = judged.holes.iter().map(|hole| Hole {
            from: hole.from,
            to: hole.to(),
            after: (&hole.after).into(),
            before: (&hole.before).into(),
            why: hole.why.to_string(),
            is_news: hole.is_news(now),
        });
        Self {
            holes: holes.collect(),
            recoverable_through: judged.through(),
            windows: judged.windows.into_iter().map(Window::from).collect(),
            beyond: judged.beyond.map(Beyond::from),
        }
    }

    /// The rows of a status screen: the newest windows with the holes between them, in the order of time.
    pub fn rows(&self, table: &mut Table) {
        if self.windows.is_empty() {
            table.row(["Recoverable", "nothing yet"]);
        }
        let hidden = self.windows.len().saturating_sub(WINDOWS_SHOWN);
        if hidden > 0 {
            let earlier = output::count(hidden, "earlier window");
            table.row([
                "Recoverable".to_owned(),
                format!("{earlier} with holes between: tidemark-restore list shows all"),
            ]);
        }
        for window in self.windows.iter().skip(hidden) {
            let hole = self.holes.iter().find(|hole| hole.before == window.from);
            table_row(table, hole.map(|hole| ("Hole", hole.line())));
            table_row(table, Some(("Recoverable", window.line())));
        }
    }

    /// What a person should hear who has not yet, each as a sentence: it makes a status a warning.
    #[must_use]
    pub fn news(&self) -> Vec<String> {
        let holes = self.holes.iter().filter(|hole| hole.is_news);
        let holes = holes.map(Hole::sentence);
        holes
            .chain(self.beyond.iter().map(Beyond::sentence))
            .collect()
    }
}

fn table_row(table: &mut Table, row: Option<(&str, String)>) {
    if let Some((label, text)) = row {
        table.row([label.to_owned(), text]);
    }
}

impl Window {
    /// From the first instant to the last, as a status screen shows it.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} to {}",
            output::instant(self.from.at),
            output::instant(self.covers_until.max(self.to.at))
        )
    }
}

impl Hole {
    /// From when to when, and why.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} can't be restored: {}", self.span(), self.why)
    }

    fn span(&self) -> String {
        format!(
            "{} to {}",
            output::instant(self.from),
            output::instant(self.to)
        )
    }

    fn sentence(&self) -> String {
        format!(
            "what was committed from {} can't be restored to an instant in between: {}. Nothing mends that any more; \
             what is before and after can be restored. This is said for a day",
            self.span(),
            self.why
        )
    }
}

#[cfg(test)]
mod tests {
    use tidemark_format::{Epoch, LogSeq};
    use tidemark_planner::restore::{Hole as Judged, HoleWhy, Reach, RecoverableWindow};

    use super::*;

    fn reach(second: i64) -> Reach {
        Reach {
            epoch: Epoch(1),
            seq: LogSeq(second.unsigned_abs()),
            at: Timestamp::from_second(second).unwrap(),
            server: None,
        }
    }

    fn window(from: i64, to: i64) -> RecoverableWindow {
        RecoverableWindow {
            from: reach(from),
            to: reach(to),
            until: reach(to).at,
            sealed_to: None,
        }
    }

    fn judged(windows: usize) -> planner::Recoverable {
        let starts = (0..windows).map(|n| i64::try_from(n).unwrap() * 100);
        let windows: Vec<_> = starts.map(|at| window(at, at + 50)).collect();
        let pairs = windows.iter().zip(windows.iter().skip(1));
        let holes = pairs.map(|(before, after)| Judged {
            after: before.to.clone(),
            from: before.until,
            before: after.from.clone(),
            why: HoleWhy::OtherLife {
                epoch: Epoch(1),
                seq: LogSeq(7),
            },
        });
        planner::Recoverable {
            holes: holes.collect(),
            windows,
            beyond: None,
        }
    }

    fn screen(shown: &Recoverable) -> String {
        let (mut table, mut out) = (Table::new(), String::new());
        shown.rows(&mut table);
        table.write("", &mut out);
        out
    }

    #[test]
    fn holes_stand_between_the_windows_that_they_part() {
        let shown = Recoverable::at(judged(2), reach(200).at);
        let text = screen(&shown);
        let lines: Vec<&str> = text.lines().collect();
        let [first, hole, second] = lines[..] else {
            panic!("{text}")
        };
        assert!(
            first.contains("00:00:00 UTC to 1970-01-01 00:00:50"),
            "{text}"
        );
        assert!(hole.starts_with("Hole") && hole.contains("00:00:50 UTC to 1970-01-01 00:01:40"));
        assert!(hole.contains("log:1:7 begins another life"), "{hole}");
        assert!(
            second.contains("00:01:40 UTC to 1970-01-01 00:02:30"),
            "{text}"
        );
        assert_eq!(shown.news().len(), 1);
        assert_eq!(
            Recoverable::at(judged(2), reach(200_000).at).news(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_screen_shows_the_newest_windows_and_says_that_there_are_others() {
        let text = screen(&Recoverable::at(judged(9), reach(2000).at));
        assert_eq!(text.lines().count(), 1 + 2 * WINDOWS_SHOWN, "{text}");
        assert!(text.contains("4 earlier windows"), "{text}");
        assert!(screen(&Recoverable::default()).contains("nothing yet"));
    }
}
