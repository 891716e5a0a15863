//! What the identity doesn't open: sessions that were sealed before it was a recipient, or after it
//! was none any more. Found before anything is fetched, so that the plan can do without.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::SessionId;
use tidemark_host::{Exit, output};
use tidemark_ledger::timeline::Timeline;
use tidemark_open::{Error as OpenError, Identity, Opener};

use super::prepare::Prepared;
use crate::error::Error;
use crate::plan::{Avoid, RestorePlan};
use crate::policy;

/// Sessions asked for at once: each is one small object.
const SESSIONS_AT_ONCE: usize = 16;

/// Tries the sessions that `plan` needs. If one is not for this identity, those of all bases are
/// tried, too, so that the next plan, or the refusal, knows what does open; the error is of the first.
///
/// A session that is damaged or missing is no matter here: what needs it says so.
pub(super) async fn look(
    opener: &Opener,
    timeline: &Timeline,
    plan: &RestorePlan,
    avoid: &mut Avoid,
) -> Option<Error> {
    let bases = plan.bases.iter().map(|base| base.head.session);
    let log = plan.log.iter().filter_map(|object| object.head.session);
    let unknown = |session: &SessionId| !avoid.closed.contains(session);
    let needed: BTreeSet<SessionId> = bases.chain(log).filter(unknown).collect();
    let (closed, first) = tried(opener, needed).await;
    let first = first?;
    avoid.closed.extend(closed);
    let bases = timeline.epochs().iter().flat_map(|view| &view.bases);
    let others: BTreeSet<SessionId> = bases
        .map(|base| base.head.session)
        .filter(|session| !avoid.closed.contains(session))
        .collect();
    let (closed, _) = tried(opener, others).await;
    avoid.closed.extend(closed);
    Some(Error::Open(first))
}

/// Tries the sessions of all bases; those that are not for this identity.
pub(crate) async fn of_bases(opener: &Opener, timeline: &Timeline) -> Vec<SessionId> {
    let bases = timeline.epochs().iter().flat_map(|view| &view.bases);
    let sessions: BTreeSet<SessionId> = bases.map(|base| base.head.session).collect();
    tried(opener, sessions).await.0
}

/// The error, with why that is so and what to do about it, as far as the keyring knows.
pub(crate) fn told(error: Error, prepared: &Prepared, identity: &Identity) -> Error {
    let Error::NotRecoverable(mut refused) = error else {
        return error;
    };
    if !refused.is_closed() {
        return Error::NotRecoverable(refused);
    }
    let key = identity.recipient();
    let entries = prepared.repository.keyring.head().recipients.iter();
    let entry = entries.rev().find(|entry| entry.key == key);
    let id = key.id();
    let source = prepared.timeline.source();
    match entry.map(|entry| (entry, &entry.revoked)) {
        None => refused.add(format!(
            "this identity ({id}) was never enrolled here: take one that is (tidemark-restore keys list) or the escrow; to \
             add it, tidemark-restore keys enrol --recipient {key} --root FILE, and it opens what comes from the next \
             complete base on"
        )),
        Some((_, Some(revoked))) => refused.add(format!(
            "this identity ({id}) was revoked on {} ({}), and nothing is sealed to it since: take another one or the escrow",
            output::instant(revoked.at),
            revoked.reason
        )),
        Some((entry, None)) => {
            refused.add(format!(
                "this identity ({id}) was enrolled on {}, and what was sealed before stays closed to it: for that, take \
                 another one or the escrow",
                output::instant(entry.added_at)
            ));
            if refused.opens_nothing() {
                refused.add(format!(
                    "no complete base of {source} was made since: tidemark-agent snapshot --base, on its host, makes one"
                ));
            }
        }
    }
    Error::NotRecoverable(refused)
}

/// Whether an error says that the identity doesn't open what is needed, and what it does open.
pub(super) fn is_closed(error: &Error) -> bool {
    matches!(error, Error::NotRecoverable(_)) && policy::code(error).exit == Exit::Key
}

async fn tried(
    opener: &Opener,
    sessions: BTreeSet<SessionId>,
) -> (Vec<SessionId>, Option<OpenError>) {
    let tries = sessions
        .into_iter()
        .map(|session| async move { (session, opener.session(session).await) });
    let tried: Vec<_> = stream::iter(tries)
        .buffered(SESSIONS_AT_ONCE)
        .collect()
        .await;
    let (mut closed, mut first) = (Vec::new(), None);
    for (session, opened) in tried {
        if let Err(error @ OpenError::NotARecipient { .. }) = opened {
            closed.push(session);
            first = first.or(Some(error));
        }
    }
    (closed, first)
}
