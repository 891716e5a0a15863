//! What a process says while it works, on standard error: text on a terminal, one JSON object per
//! line for machines, and priority prefixes under systemd.
//!
//! Under systemd standard error is the journal's stream (`JOURNAL_STREAM` names it): each line then
//! begins with `<N>`, the syslog priority, so that `journalctl -p err` works without a journald
//! library. Answers of commands go to standard output and never through here.

use std::fmt;
use std::io::{IsTerminal, stderr};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Which events are written; the syntax is `info,tidemark_storage=debug`.
pub const FILTER_VARIABLE: &str = "TIDEMARK_LOG";
/// `text`, `json` or `journal`, where the choice by the surroundings is wrong.
pub const FORMAT_VARIABLE: &str = "TIDEMARK_LOG_FORMAT";

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, message, fields; in colour on a terminal.
    Text,
    /// One JSON object per line.
    Json,
    /// For the journal: a priority prefix, no time.
    Journal,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter can't be read.
    #[error(
        "{FILTER_VARIABLE}={text:?} is not a log filter: write a level such as \"info\" or \"debug\""
    )]
    Filter {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody set it up before.
    #[error("logging was set up twice: this is a bug, please report it")]
    Twice(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// The surroundings that decide on the format.
#[derive(Debug, Clone, Default)]
pub struct LogSurroundings {
    /// `--log-json` was given.
    pub json: bool,
    /// The value of [`FORMAT_VARIABLE`].
    pub format: Option<String>,
    /// The value of [`FILTER_VARIABLE`].
    pub filter: Option<String>,
    /// Standard error is the journal's stream.
    pub journal: bool,
}

impl LogSurroundings {
    /// Looks around; `json` is the command line's wish.
    #[must_use]
    pub fn of_process(json: bool) -> Self {
        let variable = |name| {
            std::env::var(name)
                .ok()
                .filter(|value: &String| !value.is_empty())
        };
        Self {
            json,
            format: variable(FORMAT_VARIABLE),
            filter: variable(FILTER_VARIABLE),
            journal: variable("JOURNAL_STREAM").is_some_and(|stream| is_standard_error(&stream)),
        }
    }

    /// The format that fits.
    #[must_use]
    pub fn choose(&self) -> LogFormat {
        match self.format.as_deref() {
            _ if self.json => LogFormat::Json,
            Some("json") => LogFormat::Json,
            Some("text") => LogFormat::Text,
            Some("journal") => LogFormat::Journal,
            _ if self.journal => LogFormat::Journal,
            _ => LogFormat::Text,
        }
    }
}

/// What a daemon says by itself. The SDK tells at INFO which access key it found: that is nobody's
/// state change.
const DAEMON: &str = "info,aws_config=warn";

/// Writes this process's events to standard error from now on. `quiet` commands (all but the
/// daemons) show warnings and errors only, unless the filter says otherwise.
///
/// # Errors
/// [`LogError`] when the filter can't be read or logging was set up before.
pub fn start(surroundings: &LogSurroundings, quiet: bool) -> Result<(), LogError> {
    let filter = surroundings
        .filter
        .as_deref()
        .unwrap_or(if quiet { "warn" } else { DAEMON });
    let colour = stderr().is_terminal();
    let subscriber = subscriber(surroundings.choose(), filter, colour, stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(LogError::Twice)
}

/// A subscriber that writes to `writer`; also for tests, which hand in a buffer.
///
/// # Errors
/// [`LogError::Filter`].
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colour: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|source| LogError::Filter {
        text: filter.to_owned(),
        source,
    })?;
    let common = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    Ok(match format {
        LogFormat::Text => Box::new(common.with_target(false).with_ansi(colour).finish()),
        LogFormat::Json => Box::new(common.json().flatten_event(true).finish()),
        LogFormat::Journal => Box::new(
            common
                .with_ansi(false)
                .event_format(JournalLine::default())
                .finish(),
        ),
    })
}

/// A line with the syslog priority in front, as sd-daemon(3) describes it.
struct JournalLine {
    line: Format<Full, ()>,
}

impl Default for JournalLine {
    fn default() -> Self {
        let line = tracing_subscriber::fmt::format()
            .without_time()
            .with_level(false);
        Self {
            line: line.with_target(false).with_ansi(false),
        }
    }
}

impl<S, N> FormatEvent<S, N> for JournalLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.line.format_event(context, writer, event)
    }
}

/// Syslog priorities: 3 error, 4 warning, 6 informational, 7 debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Whether `stream`, a `DEVICE:INODE`, is our standard error: it may have been redirected since.
fn is_standard_error(stream: &str) -> bool {
    let Ok(stat) = rustix::fs::fstat(stderr()) else {
        return false;
    };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = subscriber(format, "info", false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(region = "aarhus", "region is away");
            tracing::info!("shipped");
            tracing::debug!("not shown");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn journal_lines_begin_with_their_priority() {
        let text = logged(LogFormat::Journal);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].starts_with("<3>") && lines[0].contains("region is away"),
            "{text}"
        );
        assert!(lines[0].contains("aarhus"), "{text}");
        assert!(lines[1].starts_with("<6>"), "{text}");
    }

    #[test]
    fn json_lines_carry_fields_at_the_top() {
        let text = logged(LogFormat::Json);
        let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first["region"], "aarhus");
        assert_eq!(first["level"], "ERROR");
    }

    #[test]
    fn the_format_follows_the_command_line_then_the_variable_then_the_journal() {
        let mut around = LogSurroundings::default();
        assert_eq!(around.choose(), LogFormat::Text);
        around.journal = true;
        assert_eq!(around.choose(), LogFormat::Journal);
        around.format = Some("text".to_owned());
        assert_eq!(around.choose(), LogFormat::Text);
        around.json = true;
        assert_eq!(around.choose(), LogFormat::Json);
    }

    #[test]
    fn a_filter_that_can_not_be_read_is_refused() {
        let refused = subscriber(LogFormat::Text, "a=b=c", false, io::sink)
            .err()
            .unwrap();
        assert!(refused.to_string().contains(FILTER_VARIABLE));
    }
}
