//! What the config promises of a source, as `status` sees it: at risk, broken, and what is due. Pure.
//!
//! `policy check` judges promises over their whole window; here stands only how it is now.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_host::config::Objectives;
use tidemark_host::output;

use super::Health;
use crate::evidence::drills::Proof;

/// How a source's promises stand now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Promised {
    /// What is promised, on one line; none if nothing is.
    pub(super) line: Option<String>,
    /// What is at risk or broken.
    pub(super) news: Vec<(Health, String)>,
}

impl Promised {
    /// By what would be lost now, and by the last drill that proves something.
    pub(super) fn of(
        objectives: &Objectives,
        exposure: Option<Duration>,
        proof: Option<&Proof>,
        now: Timestamp,
    ) -> Self {
        let mut promised = Self {
            line: line(objectives),
            news: Vec::new(),
        };
        if let (Some(rpo), Some(exposure)) = (objectives.rpo, exposure) {
            promised.loss(exposure, rpo);
        }
        if let (Some(rto), Some(proof)) = (objectives.rto, proof) {
            promised.time(proof, rto);
        }
        if let (Some(every), Some(proof)) = (objectives.drill_every, proof) {
            promised.drills(proof, every, now);
        }
        promised
    }

    /// Adds what is at risk or broken to what there is to do.
    pub(super) fn tell_on(self, next: &mut Vec<String>, health: &mut Health) {
        for (own, news) in self.news {
            *health = (*health).max(own);
            next.push(news);
        }
    }

    fn tell(&mut self, health: Health, news: String) {
        self.news.push((health, news));
    }

    fn loss(&mut self, exposure: Duration, rpo: Duration) {
        let (lost, most) = (output::duration(exposure), output::duration(rpo));
        if exposure > rpo {
            let news =
                format!("{lost} would be lost now, more than the RPO of {most} that is promised");
            self.tell(Health::Critical, news);
        } else if exposure > rpo / 4 * 3 {
            let news = format!("the RPO of {most} is at risk: {lost} would be lost now");
            self.tell(Health::Warning, news);
        }
    }

    fn time(&mut self, proof: &Proof, rto: Duration) {
        let last = proof.last_proved.as_ref();
        let took = last.and_then(|drill| drill.rto_projected_seconds.or(drill.rto_seconds));
        let took = took.and_then(|took| Duration::try_from_secs_f64(took).ok());
        let Some(took) = took else { return };
        let (by, most) = (output::duration(took), output::duration(rto));
        if took > rto {
            let news = format!(
                "a restore takes {by} by the last drill, longer than the RTO of {most} that is promised"
            );
            self.tell(Health::Critical, news);
        } else if took > rto / 4 * 3 {
            let news =
                format!("the RTO of {most} is at risk: a restore takes {by} by the last drill");
            self.tell(Health::Warning, news);
        }
    }

    fn drills(&mut self, proof: &Proof, every: Duration, now: Timestamp) {
        let last = proof.last_proved.as_ref().filter(|drill| drill.segregated);
        let Some(due) = last.and_then(|drill| drill.at.checked_add(every).ok()) else {
            let news = format!(
                "a drill every {} is promised, and none that counts is on record: tidemark-restore drill run",
                output::duration(every)
            );
            self.tell(Health::Warning, news);
            return;
        };
        let soon = due.checked_sub(every / 10).unwrap_or(due);
        if due < now {
            let news = format!(
                "the promised drill was due {}: tidemark-restore drill run",
                output::age(now, due)
            );
            self.tell(Health::Warning, news);
        } else if soon < now {
            self.tell(
                Health::Ok,
                format!("a drill is due by {}", output::instant(due)),
            );
        }
    }
}

fn line(objectives: &Objectives) -> Option<String> {
    let times = [
        ("RPO", objectives.rpo),
        ("RTO", objectives.rto),
        ("precision", objectives.pitr_precision),
        ("window", objectives.window),
        ("kept at most", objectives.kept_at_most),
        ("a drill every", objectives.drill_every),
    ];
    let told = times.into_iter().filter_map(|(name, time)| {
        let time = time?;
        Some(format!("{name} {}", output::duration(time)))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| {
        format!(
            "{}; tidemark-restore policy check judges it",
            told.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_loss_is_told_before_it_is_more_than_was_promised() {
        let objectives = Objectives {
            rpo: Some(MINUTE * 4),
            ..Objectives::default()
        };
        let told = |exposure: Duration| Promised::of(&objectives, Some(exposure), None, now());
        assert!(told(MINUTE * 2).news.is_empty());
        assert_eq!(told(MINUTE * 4).news[0].0, Health::Warning);
        let (health, news) = told(MINUTE * 5).news.remove(0);
        assert_eq!(health, Health::Critical);
        assert!(
            news.contains("5 min would be lost now") && news.contains("4 min"),
            "{news}"
        );
        assert!(told(MINUTE).line.unwrap().starts_with("RPO 4 min; "));
    }

    #[test]
    fn a_promised_drill_that_never_ran_is_told_and_nothing_promised_is_nothing_told() {
        let objectives = Objectives {
            drill_every: Some(MINUTE * 60 * 24 * 30),
            ..Objectives::default()
        };
        let promised = Promised::of(&objectives, None, Some(&Proof::default()), now());
        assert!(
            promised.news[0]
                .1
                .contains("a drill every 30 d is promised"),
            "{promised:?}"
        );
        let nothing = Promised::of(
            &Objectives::default(),
            Some(MINUTE),
            Some(&Proof::default()),
            now(),
        );
        assert_eq!(nothing, Promised::default());
    }
}
