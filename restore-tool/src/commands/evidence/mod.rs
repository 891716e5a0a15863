//! `evidence`: what is on file, whether it is whole, and how an auditor gets it.
//!
//! Reading needs no identity: records are signed, not encrypted. What is wrong with a chain is shown by
//! every one of these commands, and ends each of them with 13.

mod backups;
mod documents;
mod export;
mod sign_off;
mod verify;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tidemark_host::Exit;
use tidemark_host::time_spec::{self, TimeContext};

use self::documents::{Listed, Shown};
use crate::cli::{Evidence, Period};
use crate::error::{Error, Result};
use crate::evidence::chain::{Chain, Weight};
use crate::evidence::rows::{Kind, Row, Selection};
use crate::evidence::shelf::{self, Shelf};
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// Backups are no records.
const NOT_ON_RECORD: &str = "--kind backups: they are not on record, they stand in the regions; tidemark-restore list --points \
                             shows them, and evidence export --kind backups writes them out for an auditor";

/// Runs one of them.
///
/// # Errors
/// No region can be read, or what was asked for isn't there.
pub async fn run(command: Evidence, settings: &Settings, tools: &Tools) -> Result<Exit> {
    match command {
        Evidence::List { period, kind } => list(&period, kind, settings, tools).await,
        Evidence::Show { id } => show(&id, settings, tools).await,
        Evidence::Verify { path, since } => {
            let since = since.as_deref();
            match path {
                None => verify::regions(since, settings, tools).await,
                Some(path) => verify::exported(&path, since, settings, tools).await,
            }
        }
        Evidence::SignOff {
            id,
            reviewer,
            ticket,
            decision,
        } => {
            let review = sign_off::Review {
                reviewer,
                ticket,
                decision,
            };
            Box::pin(sign_off::run(&id, &review, settings, tools)).await
        }
        Evidence::Export(args) => Box::pin(export::run(&args, settings, tools)).await,
    }
}

async fn open(settings: &Settings, tools: &Tools) -> Result<(Repository, Shelf)> {
    let trust = identity::trust_if_at_hand(settings);
    let repository = Repository::open(settings, trust, tools).await?;
    let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
    Ok((repository, shelf))
}

/// How a command ends that shows records: what is wrong with a chain counts, what is still to be done
/// about it doesn't.
fn exit(shelf: &Shelf) -> Exit {
    let mut findings = shelf.chains.iter().flat_map(|chain| &chain.findings);
    if findings.any(|finding| finding.weight == Weight::Integrity) {
        Exit::Integrity
    } else if shelf.away.is_empty() {
        Exit::Ok
    } else {
        Exit::Exceptions
    }
}

async fn list(period: &Period, kind: Kind, settings: &Settings, tools: &Tools) -> Result<Exit> {
    if kind == Kind::Backups {
        return Err(Error::TargetText(NOT_ON_RECORD.to_owned()));
    }
    let selection = selection(kind, period, settings, tools)?;
    let (repository, shelf) = open(settings, tools).await?;
    let rows = selection.rows(&shelf.chains);
    tools.console.show(&Listed::new(&rows, &shelf, &repository));
    Ok(exit(&shelf))
}

async fn show(id: &str, settings: &Settings, tools: &Tools) -> Result<Exit> {
    let (_, shelf) = open(settings, tools).await?;
    let row = find(&shelf.chains, id)?;
    tools.console.show(&Shown::new(&row));
    Ok(exit(&shelf))
}

/// The record that a person names by its id or the beginning of it.
fn find<'a>(chains: &'a [Chain], id: &str) -> Result<Row<'a>> {
    let all = Selection {
        kind: Kind::All,
        ..Selection::default()
    };
    let id = id.trim().to_ascii_lowercase();
    let mut rows = all.rows(chains);
    rows.retain(|row| !id.is_empty() && row.record.id().starts_with(&id));
    match rows.len() {
        1 => Ok(rows.remove(0)),
        0 => Err(Error::TargetText(format!(
            "no record's id is or begins with {id:?}: tidemark-restore evidence list shows them"
        ))),
        several => Err(Error::TargetText(format!(
            "{several} records' ids begin with {id:?}: give more of it"
        ))),
    }
}

fn selection(kind: Kind, period: &Period, settings: &Settings, tools: &Tools) -> Result<Selection> {
    let instant = |text: &Option<String>, end: bool| {
        text.as_deref()
            .map(|text| instant(text, end, tools))
            .transpose()
    };
    Ok(Selection {
        kind,
        source: settings.source.clone(),
        from: instant(&period.from, false)?,
        to: instant(&period.to, true)?,
    })
}

/// An instant as selections have it: the first that is in, or the first that is out again.
fn instant(text: &str, end: bool, tools: &Tools) -> Result<Timestamp> {
    if let Ok(day) = text.parse::<Date>() {
        let day = if end {
            day.tomorrow().unwrap_or(day)
        } else {
            day
        };
        let start = day.to_zoned(TimeZone::UTC);
        return start
            .map(|start| start.timestamp())
            .map_err(|error| Error::TargetText(error.to_string()));
    }
    let context = TimeContext {
        now: tools.clock.now(),
        local: TimeZone::UTC,
        interactive: tools.console.out_is_terminal,
    };
    let at = time_spec::parse(text, &context)?.at;
    let just_after = at.checked_add(SignedDuration::from_millis(1)).unwrap_or(at);
    Ok(if end { just_after } else { at })
}

#[cfg(test)]
mod tests {
    use tidemark_host::output::testing::Captured;
    use tidemark_host::{Cpu, SimClock, SystemRng};

    use super::*;
    use crate::evidence::access::Access;

    #[test]
    fn a_day_is_in_from_its_beginning_to_its_end() {
        let tools = Tools {
            clock: SimClock::at("2026-11-22T12:00:00Z".parse().unwrap()).shared(),
            rng: SystemRng::shared(),
            cpu: Cpu::pool(std::num::NonZeroUsize::MIN).unwrap(),
            console: Captured::new(false).console,
            access: Access::default(),
        };
        for (text, end, at) in [
            ("2026-11-01", false, "2026-11-01T00:00:00Z"),
            ("2026-11-30", true, "2026-12-01T00:00:00Z"),
            ("2026-11-01T10:00:00Z", false, "2026-11-01T10:00:00Z"),
            ("2026-11-01T10:00:00Z", true, "2026-11-01T10:00:00.001Z"),
            ("-2h", false, "2026-11-22T10:00:00Z"),
        ] {
            let read = instant(text, end, &tools).unwrap().to_string();
            assert_eq!(read, at, "{text}");
        }
        assert!(instant("november", false, &tools).is_err());
    }
}
