//! Commands that act on a protected source: through the running daemon where there is one.

use std::{io::Write as _, time::Duration};

use serde::Serialize;
use tidemark_format::SourceName;
use tidemark_host::{
    Exit,
    config::AgentConfig,
    duration,
    lock::LockError,
    output::{Console, Document, instant},
};
use tidemark_ledger::fencing::Claimed;

use super::{Failure, context, ownership};
use crate::{
    AgentError, Shutdown, bootstrap,
    cli::{Global, SnapshotArgs},
    control::{Client, ClientError, Request, Response, SealedPoint},
    state::StateDir,
};

/// How long a daemon may hold the state directory without listening yet.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long `snapshot` and `retire` wait for the regions.
const DURABLE_WITHIN: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Sealed {
    points: Vec<SealedPoint>,
}

impl Document for Sealed {
    const SCHEMA: &'static str = "tidemark-agent.snapshot";

    fn text(&self, out: &mut String) {
        for point in &self.points {
            let name = point
                .name
                .as_ref()
                .map(|name| format!(" {name:?}"))
                .unwrap_or_default();
            let regions: Vec<&str> = point
                .durable_in
                .iter()
                .map(|region| region.as_str())
                .collect();
            out.push_str(&format!(
                "{}: recovery point {}{name} is durable in {}: everything committed up to {}\n",
                point.source,
                point.seq,
                regions.join(", "),
                instant(point.committed)
            ));
        }
    }
}

#[derive(Serialize)]
struct Done {
    message: String,
}

impl Document for Done {
    const SCHEMA: &'static str = "tidemark-agent.done";

    fn text(&self, out: &mut String) {
        out.push_str(&self.message);
        out.push('\n');
    }
}

/// Asks the daemon; `None` when none runs.
async fn ask(config: &AgentConfig, request: &Request) -> Result<Option<Response>, Failure> {
    let socket = StateDir::new(&config.state_dir).control_socket();
    let mut client = match Client::connect(&socket).await {
        Ok(client) => client,
        Err(ClientError::NotRunning { .. }) => return Ok(None),
        Err(error) => return Err(Failure::Control(error)),
    };
    Ok(Some(client.ask(request).await.map_err(Failure::Control)?))
}

/// Who answers: the daemon, or this process, which holds the state directory now.
enum Reached {
    Daemon(Response),
    Lock(Box<bootstrap::Components>),
}

/// Asks the daemon, or takes the lock where none runs. One that is starting or stopping holds the lock
/// and doesn't listen: it is waited for.
async fn ask_or_lock(config: &AgentConfig, request: &Request) -> Result<Reached, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        if let Some(response) = ask(config, request).await? {
            return Ok(Reached::Daemon(response));
        }
        match bootstrap::components(config) {
            Ok(components) => return Ok(Reached::Lock(Box::new(components))),
            Err(AgentError::Lock(LockError::Held { .. })) if waited < LISTENS_WITHIN => {
                tokio::time::sleep(LOOK_EVERY).await;
                waited += LOOK_EVERY;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(response: Response, console: &Console) -> Result<Exit, Failure> {
    match response {
        Response::Points { points } => console.show(&Sealed { points }),
        Response::Done { message } => console.show(&Done { message }),
        Response::Status(live) => console.show(&Done {
            message: format!("process {}", live.pid),
        }),
        Response::Refused { code, message } => return Err(Failure::Refused { code, message }),
    }
    Ok(Exit::Ok)
}

/// `snapshot`: through the daemon, or once by itself.
pub(super) fn snapshot(
    global: &Global,
    args: &SnapshotArgs,
    console: &Console,
) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    known(&config, global.source.as_ref())?;
    let request = Request::snapshot(
        global.source.clone(),
        args.base,
        args.name.clone(),
        DURABLE_WITHIN,
    );
    let components = match context::runtime()?.block_on(ask_or_lock(&config, &request))? {
        Reached::Daemon(response) => return show(response, console),
        Reached::Lock(components) => components,
    };
    console.note("No agent runs on this state directory: capturing once, now.");
    let runtime = context::service_runtime()?;
    let points = runtime.block_on(crate::snapshot_once(
        &config,
        *components,
        request,
        Shutdown::default(),
    ));
    ownership::hand_back(&config)?;
    let points = points?;
    console.show(&Sealed { points });
    Ok(Exit::Ok)
}

/// `pause`.
pub(super) fn pause(
    global: &Global,
    length: &str,
    reason: &str,
    console: &Console,
) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    known(&config, global.source.as_ref())?;
    let length = duration::parse(length).map_err(|error| Failure::Usage(error.to_string()))?;
    let request = Request::Pause {
        source: global.source.clone(),
        for_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        reason: reason.to_owned(),
    };
    through_daemon(&config, &request, console)
}

/// `resume`.
pub(super) fn resume(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    known(&config, global.source.as_ref())?;
    through_daemon(
        &config,
        &Request::Resume {
            source: global.source.clone(),
        },
        console,
    )
}

/// `config reload`: a file that is wrong is refused here, and hurts nothing that runs.
pub(super) fn reload(global: &Global, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    through_daemon(
        &config,
        &Request::Reload {
            config: config.hash,
        },
        console,
    )
}

/// `retire`.
pub(super) fn retire(global: &Global, yes: bool, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    let source = one_source(&config, global.source.as_ref())?;
    confirm(
        "retire",
        yes,
        &format!("Stop protecting {source} for good? What is in the regions stays."),
        console,
    )?;
    through_daemon(&config, &Request::Retire { source }, console)
}

/// `take-over`: no daemon may run meanwhile.
pub(super) fn take_over(global: &Global, yes: bool, console: &Console) -> Result<Exit, Failure> {
    let config = context::config(global)?;
    let source = one_source(&config, global.source.as_ref())?;
    confirm(
        "take-over",
        yes,
        &format!(
            "Take {source} over from the agent that wrote it? That agent is stopped for ever; what it \
             has not shipped by now is not accepted any more."
        ),
        console,
    )?;
    let components = bootstrap::components(&config)?;
    let runtime = context::service_runtime()?;
    let taken = runtime.block_on(crate::take_over(&config, components, Some(&source)));
    ownership::hand_back(&config)?;
    let taken = taken?;
    let lines: Vec<String> = taken
        .iter()
        .map(|(source, claimed)| taken_words(source, claimed))
        .collect();
    console.show(&Done {
        message: lines.join("\n"),
    });
    Ok(Exit::Ok)
}

fn taken_words(source: &SourceName, claimed: &Claimed) -> String {
    let from = claimed.follows.as_ref().map_or_else(
        || "nothing had been written before".to_owned(),
        |end| {
            let last = end
                .seq
                .map_or_else(|| "no object".to_owned(), |seq| format!("object {seq}"));
            format!("epoch {} ended with {last}", end.epoch)
        },
    );
    format!(
        "{source} is yours from epoch {} on; {from}. Start the agent: systemctl start tidemark-agent",
        claimed.epoch
    )
}

fn through_daemon(
    config: &AgentConfig,
    request: &Request,
    console: &Console,
) -> Result<Exit, Failure> {
    match context::runtime()?.block_on(ask(config, request))? {
        Some(response) => show(response, console),
        None => Err(AgentError::Refused(format!(
            "no agent runs on {}: start it first (systemctl start tidemark-agent)",
            config.state_dir.display()
        ))
        .into()),
    }
}

fn known(config: &AgentConfig, source: Option<&SourceName>) -> Result<(), Failure> {
    match source {
        Some(name) if config.source(name).is_none() => Err(unknown(config, name)),
        _all_or_known => Ok(()),
    }
}

fn unknown(config: &AgentConfig, name: &SourceName) -> Failure {
    let known: Vec<&str> = config
        .sources
        .iter()
        .map(|source| source.name.as_str())
        .collect();
    AgentError::UnknownSource {
        name: name.to_string(),
        known: known.join(", "),
    }
    .into()
}

fn one_source(config: &AgentConfig, named: Option<&SourceName>) -> Result<SourceName, Failure> {
    known(config, named)?;
    match (named, config.sources.as_slice()) {
        (Some(name), _) => Ok(name.clone()),
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => Err(Failure::Usage(
            "several sources: say which with --source NAME".to_owned(),
        )),
    }
}

/// Asks on the terminal, unless `--yes` was given.
fn confirm(
    command: &'static str,
    yes: bool,
    question: &str,
    console: &Console,
) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !console.can_ask {
        return Err(Failure::NotConfirmed(command));
    }
    let mut asked = std::io::stderr();
    let mut answer = String::new();
    let heard = write!(asked, "{question} [y/N] ")
        .and_then(|()| asked.flush())
        .and_then(|()| std::io::stdin().read_line(&mut answer));
    match heard {
        Ok(_length) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        _no_or_broken => Err(Failure::Declined),
    }
}
