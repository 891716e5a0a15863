//! How an agent reaches the server that it captures: as its connections knew it, which is in every log
//! object; else as its config asks for it, which is in its recovery points.

use jiff::Timestamp;
use serde_json::Value;
use tidemark_engine_postgres::wire::LINK;
use tidemark_ledger::survey::Survey;
use tidemark_ledger::timeline::{POSTGRESQL, Timeline};
use tidemark_planner::objectives::{ServerLink, Trace};

use crate::error::Result;

/// What the config of an agent asks for, by source.
const SERVER_LINKS: &str = "server_links";

/// Judges the links of what was captured since an instant.
///
/// # Errors
/// A region stops answering.
pub(super) async fn of(
    timeline: &Timeline,
    survey: &mut Survey<'_>,
    since: Timestamp,
) -> Result<ServerLink> {
    if timeline.engine() != Some(POSTGRESQL) {
        return Ok(ServerLink::NoServer);
    }
    let newest = timeline.newest_point();
    if let Some(point) = newest {
        let seq = point.head.log_seq;
        survey.read(point.head.epoch, seq..seq.next()).await?;
    }
    let asked = newest.and_then(|point| point.head.facts.get(SERVER_LINKS));
    let asked = asked.and_then(|links| links.get(timeline.source().as_str()));
    let asked = asked.and_then(Value::as_str);
    let said: Vec<(&str, String)> = survey
        .heads()
        .filter(|object| object.head.captured_at > since || newest_is(timeline, &object.head))
        .filter_map(|object| {
            let link = object.head.facts.get(LINK)?.as_str()?;
            let trace = Trace::Log(object.head.epoch, object.head.seq);
            Some((link, trace.to_string()))
        })
        .collect();
    let plain = said.iter().rev().find(|(link, _)| *link == "plain");
    Ok(match plain.or_else(|| said.last()) {
        Some((link, trace)) => judged(link, asked, Some(trace.clone())),
        None => asked.map_or(ServerLink::Unknown, |asked| judged(asked, None, None)),
    })
}

/// Whether an object is the one that the newest point names.
fn newest_is(timeline: &Timeline, head: &tidemark_format::heads::LogHead) -> bool {
    let newest = timeline.newest_point();
    newest.is_some_and(|point| (point.head.epoch, point.head.log_seq) == (head.epoch, head.seq))
}

fn judged(link: &str, asked: Option<&str>, said: Option<String>) -> ServerLink {
    let how = match (link, asked) {
        ("unix-socket", _) => "a socket on the same machine",
        ("loopback", _) => "the same machine's loopback",
        ("tls", Some("plain")) => {
            "TLS, by chance: its sslmode would go on without, where the server or somebody between has none"
        }
        ("tls", _) => "TLS",
        ("plain", _) => return ServerLink::Plain(said),
        _ => return ServerLink::Unknown,
    };
    ServerLink::Safe(how.to_owned(), said)
}
