//! The record that every use of a recovery identity or a root key leaves: who, when, why, what, and how
//! it ended.
//!
//! A command says [`Access::begin`], adds what it learns, and the dispatcher says [`Access::end`]
//! whatever happened, failures and stops by a signal included. Without an identity nobody could sign:
//! then nothing was decrypted either, or (`keys enrol`, `keys revoke`) the keyring's new version, which
//! the root signed, is the record.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemark_format::RegionName;
use tidemark_format::evidence::{Sha256, Subject};
use tidemark_host::output::Console;
use tidemark_host::{Exit, Monotonic};
use tidemark_open::Identity;

use super::actor::Actor;
use super::book::{self, Desk, Pen, Written};
use super::record::{ACCESS, Draft, field};
use crate::error::Error;
use crate::policy;
use crate::repository::{Settings, Tools};

/// What is being done, as long as the command runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Access(Arc<Mutex<Option<Trace>>>);

#[derive(Debug)]
struct Trace {
    fields: Map<String, Value>,
    subject: Vec<Subject>,
    desk: Desk,
    config_file: Option<PathBuf>,
    sudo_user: Option<String>,
    pen: Option<Pen>,
    began: Monotonic,
    began_at: Timestamp,
}

impl Access {
    /// A command begins that uses a key. `request` is what was asked for; secrets don't belong in it.
    pub fn begin(
        &self,
        action: &str,
        request: &impl Serialize,
        reason: Option<&str>,
        settings: &Settings,
        tools: &Tools,
    ) {
        let mut fields = Map::new();
        fields.insert("action".to_owned(), action.into());
        fields.insert("request".to_owned(), field(request));
        if let Some(reason) = reason {
            fields.insert("reason".to_owned(), field(&reason));
        }
        let trace = Trace {
            fields,
            subject: Vec::new(),
            desk: Desk::of(settings),
            config_file: settings.config_file.clone(),
            sudo_user: settings.sudo_user.clone(),
            pen: None,
            began: tools.clock.monotonic(),
            began_at: tools.clock.now(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(trace);
    }

    fn with(&self, change: impl FnOnce(&mut Trace)) {
        let mut trace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trace) = trace.as_mut() {
            change(trace);
        }
    }

    /// This identity is used, and signs the record.
    pub fn used(&self, identity: &Identity) {
        self.with(|trace| {
            let key = identity.recipient().id().to_string();
            trace.fields.insert("key_ids".to_owned(), json!([key]));
            trace.pen = Some(Pen::of(identity));
        });
    }

    /// Whatever identity is at hand without asking for a passphrase signs the record.
    pub fn used_if_at_hand(&self, settings: &Settings) {
        let path = settings.identity.as_deref();
        if let Some(Ok(identity)) = path.map(|path| Identity::load(path, None)) {
            self.with(|trace| trace.pen = Some(Pen::of(&identity)));
        }
    }

    /// A field of the record.
    pub fn note(&self, name: &str, value: &impl Serialize) {
        self.with(|trace| drop(trace.fields.insert(name.to_owned(), field(value))));
    }

    /// The regions that answered, and those that didn't.
    pub fn regions<'a>(
        &self,
        read: impl Iterator<Item = &'a RegionName>,
        away: impl Iterator<Item = &'a RegionName>,
    ) {
        let list = |names: Vec<&RegionName>| {
            let all = names.into_iter();
            Value::Array(all.map(|name| json!({ "region": name.as_str() })).collect())
        };
        let (read, away) = (list(read.collect()), list(away.collect()));
        self.with(|trace| {
            trace.fields.insert("read_from".to_owned(), read);
            trace.fields.insert("regions_away".to_owned(), away);
        });
    }

    /// An object of the repository that it is about.
    pub fn about(&self, subject: Subject) {
        self.with(|trace| trace.subject.push(subject));
    }

    /// The command ended: the record is written. Nothing that goes wrong here changes how it ended.
    pub async fn end(&self, result: &Result<Exit, Error>, tools: &Tools) {
        let trace = {
            let mut trace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            trace.take()
        };
        let Some(mut trace) = trace else { return };
        let Some(pen) = trace.pen.take() else { return };
        let took = tools.clock.monotonic().since(trace.began);
        let mut fields = trace.fields;
        fields.insert(
            "timing".to_owned(),
            json!({
                "started_at": trace.began_at,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
        );
        fields.insert("result".to_owned(), outcome(result));
        fields.insert("actor".to_owned(), field(&Actor::gather(trace.sudo_user)));
        let config = trace.config_file.and_then(|file| std::fs::read(file).ok());
        if let Some(config) = config {
            let digest = Sha256::of(&config).to_string();
            fields.insert("config_sha256".to_owned(), digest.into());
        }
        let now = tools.clock.now();
        let draft = Draft::new(ACCESS, trace.subject, fields, now, tools.rng.as_ref());
        let written = Box::pin(book::append(&trace.desk, &pen, &draft, tools)).await;
        match written {
            Ok(written) => tell(&written, "access", &tools.console),
            Err(error) => tools
                .console
                .note(&format!("no access record was written: {error}")),
        }
    }
}

fn outcome(result: &Result<Exit, Error>) -> Value {
    match result {
        Ok(exit) => {
            let outcome = match exit {
                Exit::Ok => "ok",
                Exit::Exceptions => "exceptions",
                _ => "failed",
            };
            json!({ "outcome": outcome, "exit": exit.code() })
        }
        Err(error) => {
            let code = policy::code(error);
            let text = field(&tidemark_storage::chain(error));
            json!({
                "outcome": "failed",
                "exit": code.exit.code(),
                "code": code.id,
                "error": text,
            })
        }
    }
}

/// Says what a person must know of a record that was written: nothing, if all went well.
pub fn tell(written: &Written, what: &str, console: &Console) {
    if written.asked {
        let key = written.record.signer.id();
        console.note(&format!(
            "note: what this identity does is recorded, signed by key {key}, which now asks to be enrolled: \
             tidemark-restore keys enrol {key} --root FILE.root"
        ));
    }
    if !written.stored.is_empty() {
        return;
    }
    let why: Vec<String> = written
        .lacking
        .iter()
        .map(|(region, why)| format!("{region}: {why}"))
        .collect();
    let why = if why.is_empty() {
        "no region was given".to_owned()
    } else {
        why.join("; ")
    };
    let record = String::from_utf8_lossy(&written.record.bytes);
    let file = written
        .waits
        .as_ref()
        .map(|file| file.display().to_string());
    console.event(&json!({
        "schema": "tidemark-restore.evidence-waits",
        "version": 1,
        "file": file,
        "why": why,
        "record": record,
    }));
    let keeps = file.map_or_else(
        || "it can't be kept here either (no state folder), so keep this line:".to_owned(),
        |file| format!("it waits in {file}, and the next command with this identity sends it:"),
    );
    console.note(&format!(
        "note: no region took the {what} record ({why}); {keeps}\n{record}"
    ));
}
