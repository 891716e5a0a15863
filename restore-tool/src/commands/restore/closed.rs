//! What the identity doesn't open: sessions that were sealed before it was a recipient, or after it
//! was none any more. Found before anything is fetched, so that the plan can do without.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};
use tidemark_format::SessionId;
use tidemark_host::Exit;
use tidemark_ledger::timeline::Timeline;
use tidemark_open::{Error as OpenError, Opener};

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
