//! `evidence sign-off`: a person's decision about a record, as a record of its own. The record that it is
//! about stays as it is; so does an earlier decision, beside which a newer one counts.

use serde_json::{Map, json};
use tidemark_format::{KeyId, keys};
use tidemark_host::Exit;

use super::documents::SignedOff;
use crate::cli::Decision;
use crate::error::{Error, Result};
use crate::evidence::access::tell;
use crate::evidence::actor::Actor;
use crate::evidence::book::{self, Desk, Pen};
use crate::evidence::chain::Weight;
use crate::evidence::record::{Draft, SIGN_OFF, field, hashed};
use crate::evidence::rows::Row;
use crate::evidence::shelf;
use crate::identity;
use crate::repository::{Repository, Settings, Tools};

/// What a reviewer says.
#[derive(Debug)]
pub(super) struct Review {
    pub(super) reviewer: String,
    pub(super) ticket: String,
    pub(super) decision: Decision,
}

pub(super) async fn run(
    id: &str,
    review: &Review,
    settings: &Settings,
    tools: &Tools,
) -> Result<Exit> {
    let identity = identity::load(settings, &tools.console)?;
    let trust = identity::trust(&identity);
    let repository = Repository::open(settings, Some(trust), tools).await?;
    let shelf = shelf::read(&repository, settings.state.as_deref()).await?;
    let row = super::find(&shelf.chains, id)?;
    may_be_reviewed(&row)?;
    let decision = match review.decision {
        Decision::Approved => "approved",
        Decision::Rejected => "rejected",
    };
    let record = row.record;
    let signer: KeyId = record.signer.id();
    let mut fields = Map::new();
    fields.insert(
        "review".to_owned(),
        json!({
            "evidence_id": record.id(),
            "signer": signer.to_string(),
            "seq": record.seq(),
            "sha256": record.sha256.to_string(),
            "reviewer": field(&review.reviewer),
            "ticket": field(&review.ticket),
            "decision": decision,
        }),
    );
    let key = identity.recipient().id().to_string();
    fields.insert("key_ids".to_owned(), json!([key]));
    let actor = Actor::gather(settings.sudo_user.clone());
    fields.insert("actor".to_owned(), field(&actor));
    let place = keys::evidence(signer, record.seq());
    let subject = vec![hashed(place.as_str(), record.sha256)];
    let now = tools.clock.now();
    let draft = Draft::new(SIGN_OFF, subject, fields, now, tools.rng.as_ref());
    let pen = Pen::of(&identity);
    let written = book::append(&Desk::of(settings), &pen, &draft, tools).await;
    let written = written.map_err(|error| Error::TargetText(error.to_string()))?;
    tell(&written, "review", &tools.console);
    let lacking = written.lacking.iter();
    let exceptions: Vec<String> = lacking
        .map(|(region, why)| format!("{region}: {why}"))
        .collect();
    let whole = exceptions.is_empty();
    tools.console.show(&SignedOff {
        id: written.record.id(),
        about: record.id(),
        decision: decision.to_owned(),
        same_signer: pen.key.public() == record.signer,
        regions: written.stored.iter().map(ToString::to_string).collect(),
        exceptions,
    });
    Ok(if whole { Exit::Ok } else { Exit::Exceptions })
}

/// Nobody can approve what isn't as it was written, and a review is not reviewed.
fn may_be_reviewed(row: &Row<'_>) -> Result<()> {
    if row.record.kind() == SIGN_OFF {
        return Err(Error::TargetText(
            "that is itself a review: name the record that it is about, and the newer decision counts".to_owned(),
        ));
    }
    let mut findings = row.chain.findings.iter();
    let wrong = findings.find(|finding| {
        finding.weight == Weight::Integrity && finding.seq == Some(row.record.seq())
    });
    wrong.map_or(Ok(()), |finding| {
        Err(Error::Unproved(format!(
            "this record can't be signed off: {}",
            finding.sentence()
        )))
    })
}
