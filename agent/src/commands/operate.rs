//! Commands that act on a protected source: through the running daemon where there is one.

use std::{io::Write as _, time::Duration};

use serde::Serialize;
use tidemark_format::{RegionName, SourceName};
use tidemark_host::{
    Exit, codes,
    config::AgentConfig,
    duration,
    lock::LockError,
    output::{Console, Document, instant},
};
use tidemark_ledger::fencing::Claimed;

use super::{Failure, context, ended, names, ownership, status};
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
    /// All of the config.
    #[serde(skip)]
    regions: Vec<RegionName>,
}

impl Sealed {
    fn new(points: Vec<SealedPoint>, config: &AgentConfig) -> Self {
        let regions = config.regions.iter().map(|region| region.name.clone());
        Self {
            points,
            regions: regions.collect(),
        }
    }
}

impl Sealed {
    /// Durable is durable; a region that is away makes it an exception.
    fn exit(&self) -> Exit {
        if self.points.iter().all(|point| point.away.is_empty()) {
            Exit::Ok
        } else {
            Exit::Exceptions
        }
    }
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
            let lacks = self
                .regions
                .iter()
                .filter(|name| !point.durable_in.contains(name));
            let lacks: Vec<&str> = lacks.map(RegionName::as_str).collect();
            let lacks = if lacks.is_empty() {
                String::new()
            } else {
                format!("; not yet in {}", lacks.join(", "))
            };
            let away: Vec<&str> = point.away.iter().map(RegionName::as_str).collect();
            let lacks = match away.as_slice() {
                [] => lacks,
                [one] => format!("{lacks} ({one} doesn't answer, and has it as soon as it does)"),
                several => format!(
                    "{lacks} ({} don't answer, and have it as soon as they do)",
                    several.join(", ")
                ),
            };
            out.push_str(&format!(
                "{}: recovery point {}{name} is durable in {}{lacks}: everything committed up to {}\n",
                point.source,
                point.seq,
                regions.join(", "),
                instant(point.committed)
            ));
            if let Some(note) = &point.note {
                out.push_str(&format!("{}: {note}\n", point.source));
            }
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
    // What is asked for may take long, a sign of life may not.
    let asked = match client.status().await {
        Ok(_alive) => client.ask(request).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(response) => Ok(Some(response)),
        // It closed the connection with the question open: it was stopped meanwhile.
        Err(ClientError::Broken { source, .. }) if is_closed(&source) => Err(Failure::Refused {
            code: codes::INTERRUPTED.id.to_owned(),
            message: "the agent stopped before it was done; what it had sealed is kept. Run the command again \
                      when it runs"
                .to_owned(),
        }),
        Err(error) => Err(Failure::Control(error)),
    }
}

fn is_closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// Who answers: the daemon, or this process, which holds the state directory now.
enum Reached {
    Daemon(Response),
    Lock(Box<bootstrap::Components>),
}

/// Asks the daemon, or takes the lock where none runs. One that is starting or stopping holds the lock
/// and doesn't listen: it is waited for.
async fn ask_or_lock(config: &AgentConfig, request: &Request) -> Result<Reached, Failure> {
    let runtime = tokio::runtime::Handle::current();
    let mut waited = Duration::ZERO;
    loop {
        if let Some(response) = ask(config, request).await? {
            return Ok(Reached::Daemon(response));
        }
        match bootstrap::components(config, &runtime) {
            Ok(components) => return Ok(Reached::Lock(Box::new(components))),
            Err(AgentError::Lock(LockError::Held { .. })) if waited < LISTENS_WITHIN => {
                tokio::time::sleep(LOOK_EVERY).await;
                waited += LOOK_EVERY;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn show(response: Response, config: &AgentConfig, console: &Console) -> Result<Exit, Failure> {
    match response {
        Response::Points { points } => {
            let sealed = Sealed::new(points, config);
            console.show(&sealed);
            return Ok(sealed.exit());
        }
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
    if let Some(name) = &args.name {
        let asked = names::refuse_taken(&config, global.source.as_ref(), name, console);
        context::runtime()?.block_on(asked)?;
    }
    let request = Request::snapshot(
        global.source.clone(),
        args.base,
        args.name.as_ref().map(ToString::to_string),
        DURABLE_WITHIN,
    );
    // What is built here may go on working on the runtime it is built on.
    let runtime = context::service_runtime()?;
    let components = match runtime.block_on(ask_or_lock(&config, &request))? {
        Reached::Daemon(response) => return show(response, &config, console),
        Reached::Lock(components) => components,
    };
    console.note("No agent runs on this state directory: capturing once, now.");
    let points = runtime.block_on(crate::snapshot_once(
        &config,
        *components,
        request,
        Shutdown::default(),
    ));
    ownership::hand_back(&config)?;
    let sealed = Sealed::new(points?, &config);
    console.show(&sealed);
    Ok(sealed.exit())
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
    let stays = if yes || !console.can_ask {
        String::new()
    } else {
        context::runtime()?.block_on(status::newest_point(&config, &source))
    };
    confirm(
        "take-over",
        yes,
        &format!(
            "{stays}Take {source} over from the agent that wrote it? That agent is stopped for ever; what it \
             has not shipped by now is not accepted any more."
        ),
        console,
    )?;
    let runtime = context::service_runtime()?;
    let components = bootstrap::components(&config, runtime.handle())?;
    let taken = runtime.block_on(crate::take_over(&config, components, Some(&source)));
    ownership::hand_back(&config)?;
    let taken = taken?;
    ended::forget(&config);
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
        Some(response) => show(response, config, console),
        None => Err(AgentError::Refused(format!(
            "no agent runs on {}: start it first (systemctl start tidemark-agent)",
            config.state_dir.display()
        ))
        .into()),
    }
}

pub(super) fn known(config: &AgentConfig, source: Option<&SourceName>) -> Result<(), Failure> {
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
