//! Which server of a connection string is captured, chosen as capture chooses, and whether the others have
//! parted from it.

use super::SlotElsewhere;
use super::check::{Finding, Topic};
use crate::capture::plan::{Sought, View};
use crate::capture::server::{chosen, view_of};
use crate::capture::{Followed, Stale};
use crate::conninfo::ConnInfo;
use crate::replication::identify;
use crate::wire::{Connection, Mode, WireError};

const EXPLAIN: &str = "tidemark-agent explain TM0119";

/// The server that is captured.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) peer: String,
    pub(super) system: u64,
    /// TLS protects the connection.
    pub(super) encrypted: bool,
    /// Others that take writes, too.
    pub(super) parted: Option<String>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Unreached {
    Wire(WireError),
    Stale(Stale),
}

impl From<WireError> for Unreached {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// Nobody answers but servers that the cluster has left behind.
pub(super) fn of_stale(stale: &Stale) -> Finding {
    Finding::broken(Topic::Servers, stale.to_string(), EXPLAIN)
}

/// More than one server takes writes.
pub(super) fn of_parted(words: &str) -> Finding {
    Finding::broken(Topic::Servers, words, EXPLAIN)
}

/// A server that is not captured has the agent's slot.
pub(super) fn of_slot(one: &SlotElsewhere, slot: &str) -> Finding {
    let held = one.held_bytes.unwrap_or(0) >> 20;
    Finding::look(
        Topic::Slot,
        format!(
            "{} is not captured, has {slot} too, and keeps its log for it ({held} MiB)",
            one.peer
        ),
        format!("on that server: SELECT pg_drop_replication_slot('{slot}');"),
    )
}

struct Found {
    peer: String,
    encrypted: bool,
    view: View,
}

/// Makes replication connections, and chooses.
pub(super) async fn captured(
    info: &ConnInfo,
    followed: Option<&Followed>,
) -> Result<Captured, Unreached> {
    if info.addresses.len() == 1 {
        let mut connection = Connection::open(info, Mode::Physical).await?;
        let identity = identify(&mut connection).await?;
        let captured = Captured {
            peer: connection.peer().to_owned(),
            system: identity.system,
            encrypted: connection.is_encrypted(),
            parted: None,
        };
        connection.close().await;
        return Ok(captured);
    }
    let mut found = look_at_all(info).await?;
    let views: Vec<(&str, &View)> = found
        .iter()
        .map(|one| (one.peer.as_str(), &one.view))
        .collect();
    let sought = followed.map_or(&Sought::ANYTHING, Followed::sought);
    let index = chosen(info, &views, sought).map_err(Unreached::Stale)?;
    let parted = parted(&views, index);
    let one = found.swap_remove(index);
    Ok(Captured {
        peer: one.peer,
        system: one.view.identity.system,
        encrypted: one.encrypted,
        parted,
    })
}

async fn look_at_all(info: &ConnInfo) -> Result<Vec<Found>, WireError> {
    let mut found = Vec::new();
    let mut failed = None;
    for mut connection in Connection::open_all(info, Mode::Physical).await? {
        match view_of(&mut connection).await {
            Ok(view) => found.push(Found {
                peer: connection.peer().to_owned(),
                encrypted: connection.is_encrypted(),
                view,
            }),
            Err(error) => failed = failed.or(Some(error)),
        }
        connection.close().await;
    }
    match failed {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

/// Says of servers of one system that more than one of them takes writes.
fn parted(views: &[(&str, &View)], chosen: usize) -> Option<String> {
    let system = views.get(chosen)?.1.identity.system;
    let mut primaries: Vec<_> = views
        .iter()
        .filter(|(_, view)| !view.standby && view.identity.system == system)
        .map(|(peer, view)| (view.identity.timeline, *peer))
        .collect();
    primaries.dedup_by_key(|(_, peer)| *peer);
    if primaries.len() < 2 {
        return None;
    }
    primaries.sort();
    let list: Vec<String> = primaries
        .iter()
        .map(|(timeline, peer)| format!("{peer} (timeline {timeline})"))
        .collect();
    let newest = primaries.last().map(|(timeline, _)| *timeline);
    let stale: Vec<&str> = primaries
        .iter()
        .filter(|(timeline, _)| Some(*timeline) < newest)
        .map(|(_, peer)| *peer)
        .collect();
    let advice = if stale.is_empty() {
        "one is a copy of the other, and only you can tell which one is right: stop the other one"
            .to_owned()
    } else {
        let stale = stale.join(", ");
        format!(
            "{stale} is stale, as a rule the primary of before a fail-over: stop it, and make it a standby again (pg_rewind)"
        )
    };
    Some(format!(
        "servers of one cluster take writes beside one another: {}. What is committed on one that is not captured is in no backup; {advice}",
        list.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use tidemark_format::postgres::{Lsn, SegmentSize, TimelineId};

    use super::*;
    use crate::replication::Identity;

    fn view(timeline: u32, standby: bool) -> View {
        View {
            identity: Identity {
                system: 7,
                timeline: TimelineId(timeline),
                flushed: Lsn(0x0300_0000),
            },
            segment: SegmentSize::DEFAULT,
            standby,
            history: None,
            slot: None,
        }
    }

    #[test]
    fn servers_that_take_writes_beside_one_another_are_told_and_the_stale_one_is_named() {
        let (new, old, standby) = (view(2, false), view(1, false), view(2, true));
        let said = parted(&[("db1:5432", &old), ("db2:5432", &new)], 1).expect("told");
        assert!(
            said.contains("db2:5432 (timeline 2)") && said.contains("; db1:5432 is stale"),
            "{said}"
        );
        assert_eq!(parted(&[("a", &new), ("b", &standby)], 0), None);
        let twins = parted(&[("a", &new), ("b", &new)], 0).expect("told");
        assert!(twins.contains("only you can tell"), "{twins}");
        assert_eq!(parted(&[("a", &new), ("a", &new)], 0), None, "named twice");
        let mut other = view(1, false);
        other.identity.system = 8;
        assert_eq!(parted(&[("a", &new), ("b", &other)], 0), None);
    }
}
