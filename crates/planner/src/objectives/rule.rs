//! What a clause asks for: its kind and how much of it is enough.

use std::fmt;
use std::time::Duration;

/// How often something is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Every {
    /// In every month of the calendar, in UTC.
    Month,
    /// Never longer apart than this.
    Time(Duration),
}

/// What a clause of a policy asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// At no moment more than this would have been lost.
    Rpo {
        /// The most.
        within: Duration,
        /// Judged over this long.
        over: Duration,
    },
    /// Any instant can be restored.
    Pitr {
        /// With this precision.
        within: Duration,
        /// As far back as this.
        over: Duration,
    },
    /// A restore takes no longer than this, as drills measure it.
    Rto {
        /// The longest.
        within: Duration,
        /// The drill that shows it is no older than this.
        over: Duration,
    },
    /// Nothing is kept longer than this; none takes what is declared.
    KeptAtMost {
        /// The longest.
        within: Option<Duration>,
    },
    /// Full images of the database are made and kept.
    FullBackups {
        /// How often.
        every: Duration,
        /// Kept, and judged, over this long.
        over: Duration,
    },
    /// Recovery points are made.
    Snapshots {
        /// How often.
        every: Duration,
        /// Judged over this long.
        over: Duration,
    },
    /// Restores are exercised in a non-production environment, with evidence.
    Drill {
        /// How often.
        every: Every,
        /// Judged over this long.
        over: Duration,
        /// Only drills of a disaster count: a lost region, a state as of earlier, a fresh host.
        scenario: bool,
        /// Only drills that a person signed off count.
        signed_off: bool,
    },
    /// What drills restored was isolated and destroyed.
    IsolatedDrills {
        /// Judged over this long.
        over: Duration,
    },
    /// Data can be handed back: somebody has done it.
    ReturnOfData {
        /// No longer ago than this.
        over: Duration,
    },
    /// Copies stand in several places.
    Locations {
        /// How many.
        at_least: usize,
    },
    /// Copies stand only in these countries.
    Residency {
        /// Two letters each.
        countries: Vec<String>,
        /// By what the stores themselves say, not by a label.
        probed: bool,
    },
    /// The agent's credential can do no more than it must.
    LeastPrivilege,
    /// What crosses a network is encrypted there.
    EncryptedInTransit,
    /// The backups that are stored are encrypted.
    EncryptedAtRest,
    /// The database itself is stored encrypted.
    DatabaseAtRest,
    /// Only named people can decrypt.
    NamedPeople {
        /// At most so many.
        people_max: Option<usize>,
    },
    /// Every use of the backups is on record.
    AccessLog,
    /// Who has access is reviewed.
    AccessReview {
        /// No longer ago than this.
        over: Duration,
    },
    /// Access that is no longer needed is removed.
    RemovalOfAccess,
    /// A standby server is there.
    HotStandby,
    /// Somebody is told.
    Alerting,
    /// Data is deleted on request.
    Disposal,
}

/// What stands beside a clause's kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// How much, or how long, at most.
    pub within: Option<Duration>,
    /// How far back it is judged.
    pub over: Option<Duration>,
    /// How often.
    pub every: Option<Every>,
    /// How many at least.
    pub at_least: Option<usize>,
    /// How many people at most.
    pub people_max: Option<usize>,
    /// Countries.
    pub countries: Vec<String>,
    /// Only drills of a disaster.
    pub scenario: bool,
    /// Only drills that were signed off.
    pub signed_off: bool,
    /// Only what was probed.
    pub probed: bool,
}

/// Why a clause can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// The key that is wrong; `kind` if one is missing.
    pub key: &'static str,
    /// What is wrong, and what to write.
    pub message: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Every kind, with the keys that it needs and those that it may have.
const KINDS: &[(&str, &[&str], &[&str])] = &[
    ("rpo", &["within", "over"], &[]),
    ("pitr", &["within", "over"], &[]),
    ("rto", &["within", "over"], &[]),
    ("kept-at-most", &[], &["within"]),
    ("full-backups", &["every", "over"], &[]),
    ("snapshots", &["every", "over"], &[]),
    ("drill", &["every", "over"], &["scenario", "signed_off"]),
    ("isolated-drills", &["over"], &[]),
    ("return-of-data", &["over"], &[]),
    ("locations", &["at_least"], &[]),
    ("residency", &["countries"], &["probed"]),
    ("least-privilege", &[], &[]),
    ("encrypted-in-transit", &[], &[]),
    ("encrypted-at-rest", &[], &[]),
    ("database-encrypted-at-rest", &[], &[]),
    ("named-people", &[], &["people_max"]),
    ("access-log", &[], &[]),
    ("access-review", &["over"], &[]),
    ("removal-of-access", &[], &[]),
    ("hot-standby", &[], &[]),
    ("alerting", &[], &[]),
    ("disposal", &[], &[]),
];

impl Parameters {
    /// The keys that are given.
    fn given(&self) -> impl Iterator<Item = &'static str> {
        [
            ("within", self.within.is_some()),
            ("over", self.over.is_some()),
            ("every", self.every.is_some()),
            ("at_least", self.at_least.is_some()),
            ("people_max", self.people_max.is_some()),
            ("countries", !self.countries.is_empty()),
            ("scenario", self.scenario),
            ("signed_off", self.signed_off),
            ("probed", self.probed),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
    }

    fn time(&self, key: &'static str) -> Duration {
        let time = match key {
            "within" => self.within,
            "over" => self.over,
            _ => match self.every {
                Some(Every::Time(time)) => Some(time),
                Some(Every::Month) | None => None,
            },
        };
        // What a kind needs was checked before.
        time.unwrap_or(Duration::ZERO)
    }
}

impl Rule {
    /// Reads a clause's kind and what stands beside it.
    ///
    /// # Errors
    /// A kind that doesn't exist; a key that it needs or that isn't its own.
    pub fn read(kind: &str, parameters: &Parameters) -> Result<Self, RuleError> {
        let wrong = |key, message| RuleError { key, message };
        let Some((_, needs, may)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
            let all: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
            let message = format!("{kind:?} is no kind of clause; kinds: {}", all.join(", "));
            return Err(wrong("kind", message));
        };
        if let Some(key) = parameters
            .given()
            .find(|key| !needs.contains(key) && !may.contains(key))
        {
            let message = format!("`{key}` means nothing to a clause of kind {kind:?}");
            return Err(wrong(key, message));
        }
        let given: Vec<&str> = parameters.given().collect();
        if let Some(key) = needs.iter().find(|key| !given.contains(*key)) {
            let message = format!("a clause of kind {kind:?} needs `{key}`");
            return Err(wrong("kind", message));
        }
        if parameters.every == Some(Every::Month) && kind != "drill" {
            let message = "\"month\" is for drills: write a time, such as \"1d\"".to_owned();
            return Err(wrong("every", message));
        }
        Ok(Self::of(kind, parameters))
    }

    /// A kind whose keys were checked.
    fn of(kind: &str, p: &Parameters) -> Self {
        let (within, over) = (p.time("within"), p.time("over"));
        let every = p.time("every");
        match kind {
            "rpo" => Self::Rpo { within, over },
            "pitr" => Self::Pitr { within, over },
            "rto" => Self::Rto { within, over },
            "kept-at-most" => Self::KeptAtMost { within: p.within },
            "full-backups" => Self::FullBackups { every, over },
            "snapshots" => Self::Snapshots { every, over },
            "drill" => Self::Drill {
                every: p.every.unwrap_or(Every::Month),
                over,
                scenario: p.scenario,
                signed_off: p.signed_off,
            },
            "isolated-drills" => Self::IsolatedDrills { over },
            "return-of-data" => Self::ReturnOfData { over },
            "locations" => Self::Locations {
                at_least: p.at_least.unwrap_or_default(),
            },
            "residency" => Self::Residency {
                countries: p.countries.clone(),
                probed: p.probed,
            },
            "least-privilege" => Self::LeastPrivilege,
            "encrypted-in-transit" => Self::EncryptedInTransit,
            "encrypted-at-rest" => Self::EncryptedAtRest,
            "database-encrypted-at-rest" => Self::DatabaseAtRest,
            "named-people" => Self::NamedPeople {
                people_max: p.people_max,
            },
            "access-log" => Self::AccessLog,
            "access-review" => Self::AccessReview { over },
            "removal-of-access" => Self::RemovalOfAccess,
            "hot-standby" => Self::HotStandby,
            "alerting" => Self::Alerting,
            _ => Self::Disposal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_with_the_keys_that_it_needs() {
        let time = Duration::from_secs(60);
        for (kind, needs, _) in KINDS {
            let mut parameters = Parameters::default();
            let refused = Rule::read(kind, &parameters);
            assert_eq!(refused.is_err(), !needs.is_empty(), "{kind}");
            for key in *needs {
                match *key {
                    "within" => parameters.within = Some(time),
                    "over" => parameters.over = Some(time),
                    "every" => parameters.every = Some(Every::Time(time)),
                    "at_least" => parameters.at_least = Some(2),
                    _ => parameters.countries = vec!["DK".to_owned()],
                }
            }
            Rule::read(kind, &parameters).unwrap();
        }
    }

    #[test]
    fn what_means_nothing_to_a_kind_is_refused_by_name() {
        let parameters = Parameters {
            at_least: Some(2),
            within: Some(Duration::from_secs(1)),
            ..Parameters::default()
        };
        let refused = Rule::read("locations", &parameters).unwrap_err();
        assert_eq!(refused.key, "within");
        let refused = Rule::read("loctions", &parameters).unwrap_err();
        assert!(refused.message.contains("locations"), "{refused}");
        let month = Parameters {
            every: Some(Every::Month),
            over: Some(Duration::from_secs(1)),
            ..Parameters::default()
        };
        assert_eq!(Rule::read("snapshots", &month).unwrap_err().key, "every");
        assert!(Rule::read("drill", &month).is_ok());
    }
}
