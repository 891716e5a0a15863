//! `keys check`: proves that the identity opens what agents write now, in every region.

use tidemark_format::SourceName;
use tidemark_format::heads::LogHead;
use tidemark_host::Exit;
use tidemark_host::output;
use tidemark_ledger::Verified;
use tidemark_ledger::history::{LoadOptions, PointsWanted};

use super::documents::KeysChecked;
use tidemark_ledger::timeline::Timeline;

use crate::commands::restore::opener;
use crate::error::{Error, Result};
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// Heads looked at for the newest object with content.
const LOOK_BACK: u64 = 16;

pub(super) async fn run(settings: &Settings, tools: &Tools) -> Result<Exit> {
    let identity = identity::load(settings, &tools.console)?;
    tools.access.used(&identity);
    let (id, name) = (
        identity.recipient().id(),
        identity.name().map(str::to_owned),
    );
    let trust = identity::trust(&identity);
    let repository = Repository::open(settings, Some(trust), tools).await?;
    let opener = opener(&repository, identity, tools)?;
    let sources: Vec<SourceName> = match &settings.source {
        Some(source) => vec![repository.source(Some(source)).await?],
        None => repository.sources().await?.into_iter().collect(),
    };
    let mut opens = Vec::new();
    for source in sources {
        let options = LoadOptions {
            points: PointsWanted::Newest(1),
        };
        let timeline = repository.timeline(&source, &options).await?;
        let Some(object) = newest(&timeline).await? else {
            continue;
        };
        opener.log(&object.key, object.link).await?;
        let at = output::instant(object.head.captured_at);
        opens.push(format!(
            "source {source}: opens log object {} of {at}",
            object.head.seq
        ));
    }
    if opens.is_empty() {
        return Err(Error::NothingWritten);
    }
    tools.console.show(&KeysChecked {
        identity: id,
        name,
        opens,
    });
    let away = repository.away.is_empty();
    Ok(if away { Exit::Ok } else { Exit::Exceptions })
}

/// The newest log object that holds something.
async fn newest(timeline: &Timeline) -> Result<Option<Verified<LogHead>>> {
    for view in timeline.epochs().iter().rev() {
        let Some(last) = view.names.keys().next_back().copied() else {
            continue;
        };
        let from = tidemark_format::LogSeq(last.0.saturating_sub(LOOK_BACK));
        let places = timeline.log(view.epoch, from..last.next()).await?;
        let found = places.into_iter().rev().filter_map(|place| place.found);
        if let Some(object) = found
            .into_iter()
            .find(|object| object.head.session.is_some())
        {
            return Ok(Some(object));
        }
    }
    Ok(None)
}
