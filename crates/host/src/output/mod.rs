//! The one place that prints: documents to standard output, progress and errors to standard error.
//!
//! A command returns a [`Document`]: a value that is shown as text for people or as one JSON object
//! with `schema` and `version` on top. JSON documents only gain fields within a version.
//!
//! Printing is best effort: a closed pipe must not fail a restore.

pub mod testing;
mod words;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

pub use words::{Table, age, bytes, count, duration, instant, local_instant, rate};

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

type Sink = Arc<Mutex<Box<dyn Write + Send>>>;

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
            out: Arc::new(Mutex::new(Box::new(std::io::stdout()))),
            err: Arc::new(Mutex::new(Box::new(std::io::stderr()))),
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
            out: Arc::new(Mutex::new(out)),
            err: Arc::new(Mutex::new(err)),
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

    /// A line on standard error in either mode (errors).
    pub fn complain(&self, text: &str) {
        write_all(&self.err, &format!("{text}\n"));
    }
}

fn write_all(sink: &Sink, text: &str) {
    let mut sink: MutexGuard<'_, _> = sink.lock().unwrap_or_else(PoisonError::into_inner);
    // A reader that went away is no reason to stop: the exit code still says how it ended.
    drop(sink.write_all(text.as_bytes()).and_then(|()| sink.flush()));
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
