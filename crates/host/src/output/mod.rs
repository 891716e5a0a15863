//! The one place that prints: documents to standard output, progress and errors to standard error.
//!
//! A command returns a [`Document`]: a value that is shown as text for people or as one JSON object
//! with `schema` and `version` on top. JSON documents only gain fields within a version.
//!
//! Printing is best effort: a closed pipe must not fail a restore. But an answer that a full disk
//! swallowed was not given, and [`Console::delivered`] says so at the end.

pub mod testing;
mod words;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{Code, Exit};

pub use tidemark_format::words::{count, duration};
pub use words::{Table, age, bytes, instant, local_instant, rate};

/// What a command has to say.
pub trait Document: Serialize {
    /// The document's name in JSON.
    const SCHEMA: &'static str;
    /// Rises when a field changes its meaning or goes.
    const VERSION: u32 = 1;

    /// The same for people: whole lines.
    fn text(&self, out: &mut String);
}

/// The JSON form of a document.
pub fn to_json<D: Document>(document: &D) -> Value {
    let mut value = json!({ "schema": D::SCHEMA, "version": D::VERSION });
    match serde_json::to_value(document) {
        Ok(Value::Object(fields)) => {
            if let Value::Object(top) = &mut value {
                top.extend(fields);
            }
        }
        // Documents are plain structs, so these never happen; a script still gets valid JSON.
        Ok(other) => value["value"] = other,
        Err(error) => value["error"] = Value::String(error.to_string()),
    }
    value
}

/// The text form of a document.
pub fn to_text<D: Document>(document: &D) -> String {
    let mut text = String::new();
    document.text(&mut text);
    text
}

type Sink = Arc<Mutex<Stream>>;

struct Stream {
    to: Box<dyn Write + Send>,
    /// The first error of writing that isn't a reader's leaving.
    failed: Option<std::io::Error>,
}

fn sink(to: Box<dyn Write + Send>) -> Sink {
    Arc::new(Mutex::new(Stream { to, failed: None }))
}

/// Where a command writes. Clones share the streams.
#[derive(Clone)]
pub struct Console {
    out: Sink,
    err: Sink,
    /// Whether JSON was asked for.
    pub json: bool,
    /// Whether a person reads standard output.
    pub out_is_terminal: bool,
    /// Whether a person reads standard error.
    pub err_is_terminal: bool,
    /// Whether a person can answer a question.
    pub can_ask: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("json", &self.json)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// The process's own streams.
    #[must_use]
    pub fn standard(json: bool) -> Self {
        Self {
            out: sink(Box::new(std::io::stdout())),
            err: sink(Box::new(std::io::stderr())),
            json,
            out_is_terminal: std::io::stdout().is_terminal(),
            err_is_terminal: std::io::stderr().is_terminal(),
            can_ask: std::io::stdin().is_terminal() && std::io::stderr().is_terminal(),
        }
    }

    /// Streams of a test: no terminal anywhere.
    #[must_use]
    pub fn captured(out: Box<dyn Write + Send>, err: Box<dyn Write + Send>, json: bool) -> Self {
        Self {
            out: sink(out),
            err: sink(err),
            json,
            out_is_terminal: false,
            err_is_terminal: false,
            can_ask: false,
        }
    }

    /// Shows a document on standard output.
    pub fn show<D: Document>(&self, document: &D) {
        let text = if self.json {
            format!("{}\n", to_json(document))
        } else {
            to_text(document)
        };
        write_all(&self.out, &text);
    }

    /// Writes text to standard output as it stands (completions).
    pub fn raw(&self, text: &str) {
        write_all(&self.out, text);
    }

    /// A note for a person, on standard error; nothing under `--json`.
    pub fn note(&self, text: &str) {
        if !self.json {
            write_all(&self.err, &format!("{text}\n"));
        }
    }

    /// One JSON line on standard error; nothing without `--json`.
    pub fn event(&self, event: &Value) {
        if self.json {
            write_all(&self.err, &format!("{event}\n"));
        }
    }

    /// A document as an intermediate result: text on standard output, an event under `--json`, so
    /// that standard output stays one document.
    pub fn show_first<D: Document>(&self, document: &D) {
        if self.json {
            self.event(&to_json(document));
        } else {
            write_all(&self.out, &to_text(document));
        }
    }

    /// An error as one JSON line on standard error; nothing without `--json`.
    pub fn refuse(&self, schema: &str, code: Code, message: &str) {
        self.event(&json!({
            "schema": schema,
            "version": 1,
            "code": code.id,
            "exit": code.exit.code(),
            "message": message,
            "action": code.action,
        }));
    }

    /// How to end a command that would end with `exit`: as it would, unless its answer could not be
    /// written to standard output, which is then said.
    #[must_use]
    pub fn delivered(&self, exit: Exit) -> Exit {
        let failed = locked(&self.out).failed.take();
        match failed {
            Some(error) if exit == Exit::Ok => {
                let text = format!("can't write the answer to standard output: {error}");
                if self.json {
                    self.event(&json!({ "message": text }));
                } else {
                    self.complain(&format!("error: {text}"));
                }
                Exit::Failed
            }
            _ => exit,
        }
    }

    /// A line on standard error in either mode (errors).
    pub fn complain(&self, text: &str) {
        write_all(&self.err, &format!("{text}\n"));
    }
}

fn locked(sink: &Sink) -> MutexGuard<'_, Stream> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(sink: &Sink, text: &str) {
    let mut stream = locked(sink);
    let written = stream.to.write_all(text.as_bytes());
    // A reader that went away is no reason to stop: the exit code still says how it ended.
    if let Err(error) = written.and_then(|()| stream.to.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        stream.failed.get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Greeting {
        to: &'static str,
    }

    impl Document for Greeting {
        const SCHEMA: &'static str = "tidemark-restore.greeting";

        fn text(&self, out: &mut String) {
            out.push_str("hello ");
            out.push_str(self.to);
            out.push('\n');
        }
    }

    /// A stream whose writes fail.
    struct Failing(std::io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_could_not_be_written_is_no_success_and_a_reader_that_left_is_none_of_ours() {
        use std::io::ErrorKind;
        for (kind, ends) in [
            (ErrorKind::StorageFull, Exit::Failed),
            (ErrorKind::BrokenPipe, Exit::Ok),
        ] {
            let err = testing::Captured::new(false);
            let console = Console {
                err: Arc::clone(&err.console.err),
                ..Console::captured(Box::new(Failing(kind)), Box::new(std::io::sink()), false)
            };
            console.show(&Greeting { to: "you" });
            assert_eq!(console.delivered(Exit::Ok), ends, "{kind}");
            assert_eq!(err.err().is_empty(), ends == Exit::Ok, "{}", err.err());
            console.show(&Greeting { to: "you" });
            assert_eq!(console.delivered(Exit::Key), Exit::Key);
        }
    }

    #[test]
    fn a_document_carries_schema_and_version_on_top() {
        let value = to_json(&Greeting { to: "you" });
        assert_eq!(
            value.to_string(),
            r#"{"schema":"tidemark-restore.greeting","to":"you","version":1}"#
        );
        assert_eq!(to_text(&Greeting { to: "you" }), "hello you\n");
    }
}
