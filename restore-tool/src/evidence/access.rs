//! The record that every use of a recovery identity or a root key leaves: who, when, why, what, and how
//! it ended.
//!
//! A command says [`Access::begin`], adds what it learns, and the dispatcher says [`Access::end`]
//! whatever happened, failures and stops by a signal included. A process that is killed leaves a note
//! ([`super::begun`]), of which the next command makes the record. Without an identity nobody could sign:
//! then nothing was decrypted either, or (`keys enrol`, `keys revoke`) the keyring's new version, which
//! the root signed, is the record.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemark_format::RegionName;
use tidemark_format::evidence::{Sha256, Subject};
use tidemark_format::sign::PublicKey;
use tidemark_host::output::Console;
use tidemark_host::{Exit, Monotonic};
use tidemark_open::Identity;

use super::actor::Actor;
use super::begun::{Begun, RUN_ID, Unended};
use super::book::{self, Desk, Pen, Written};
use super::config_seen::Seen;
use super::record::{ACCESS, Draft, field, new_id};
use crate::error::Error;
use crate::policy;
use crate::repository::{Settings, Tools};

/// What is being done, as long as the command runs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Access(Arc<Mutex<Option<Trace>>>, Arc<Mutex<Option<String>>>);

#[derive(Debug)]
struct Trace {
    fields: Map<String, Value>,
    subject: Vec<Subject>,
    desk: Desk,
    config_file: Option<PathBuf>,
    sudo_user: Option<String>,
    pen: Option<Pen>,
    /// The note of this run on this machine.
    begun: Option<Begun>,
    began: Monotonic,
    began_at: Timestamp,
}

impl Trace {
    /// What is to be on record if this process dies now.
    fn unended(&self) -> Unended {
        let mut fields = self.fields.clone();
        let actor = Actor::gather(self.sudo_user.clone());
        fields.insert("actor".to_owned(), field(&actor));
        Unended::access(ACCESS, fields, self.began_at)
    }

    /// From here on the key may be used: a note stands before it is.
    fn signs(&mut self, pen: Pen) {
        let run_id = self.fields.get(RUN_ID).and_then(Value::as_str);
        if let (Some(state), Some(run_id)) = (&self.desk.state, run_id) {
            let signer = pen.key.public().id();
            self.begun = Begun::note(state, signer, run_id, &self.unended());
        }
        self.pen = Some(pen);
    }

    /// The config as it is now; and what was seen of it before.
    fn config(&self, pen: &Pen) -> Option<(Sha256, Option<Seen>)> {
        let file = self.config_file.as_ref()?;
        let digest = Sha256::of(&std::fs::read(file).ok()?);
        let state = self.desk.state.as_deref();
        let seen = state.map(|state| Seen::load(state, pen.key.public().id()));
        Some((digest, seen))
    }
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
        let began_at = tools.clock.now();
        let run_id = new_id(began_at, tools.rng.as_ref());
        fields.insert(RUN_ID.to_owned(), run_id.into());
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
            begun: None,
            began: tools.clock.monotonic(),
            began_at,
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
            trace.signs(Pen::of(identity));
        });
    }

    /// Whatever identity is at hand without asking for a passphrase signs the record.
    pub fn used_if_at_hand(&self, settings: &Settings) {
        let path = settings.identity.as_deref();
        if let Some(Ok(identity)) = path.map(|path| Identity::load(path, None)) {
            self.with(|trace| trace.signs(Pen::of(&identity)));
        }
    }

    /// Leaves no record after all if it would be signed by this key, which may sign no more.
    pub fn unless_signed_by(&self, key: &PublicKey) {
        self.with(|trace| {
            if trace
                .pen
                .as_ref()
                .is_some_and(|pen| pen.key.public() == *key)
            {
                trace.pen = None;
                trace.begun.take().into_iter().for_each(Begun::ended);
            }
        });
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
            if let Some(begun) = &trace.begun {
                begun.update(&trace.unended());
            }
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
        // The wrong file: with it nothing was or could be opened there, and no region would take its record.
        if matches!(result, Err(Error::OtherRepository { .. })) {
            trace.begun.take().into_iter().for_each(Begun::ended);
            return;
        }
        let Some(pen) = trace.pen.take() else { return };
        let took = tools.clock.monotonic().since(trace.began);
        let (now, rng) = (tools.clock.now(), tools.rng.as_ref());
        let actor = field(&Actor::gather(trace.sudo_user.clone()));
        let config = trace.config(&pen);
        let mut fields = trace.fields;
        fields.insert(
            "timing".to_owned(),
            json!({
                "started_at": trace.began_at,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            }),
        );
        fields.insert("result".to_owned(), outcome(result));
        fields.insert("actor".to_owned(), actor.clone());
        let mut before = Vec::new();
        let mut seen = None;
        if let (Some((digest, noted)), Some(file)) = (config, &trace.config_file) {
            fields.insert("config_sha256".to_owned(), digest.to_string().into());
            seen = noted;
            if let Some(change) = seen.as_mut().and_then(|seen| seen.is_now(file, digest)) {
                let mut fields = change.fields();
                fields.insert("actor".to_owned(), actor);
                before.push(Draft::new(ACCESS, Vec::new(), fields, now, rng));
            }
        }
        let draft = Draft::new(ACCESS, trace.subject, fields, now, rng);
        let written = book::append_after(&trace.desk, &pen, &before, &draft, tools);
        match Box::pin(written).await {
            Ok(written) => {
                if let Some(seen) = seen.filter(|_| written.before == before.len()) {
                    seen.save();
                }
                if written.is_safe() {
                    trace.begun.into_iter().for_each(Begun::ended);
                }
                self.tell_later(&written, "access", &tools.console);
            }
            Err(error) => tools
                .console
                .note(&format!("no access record was written: {error}")),
        }
    }

    /// As [`tell`]; what a person has to copy comes after what went wrong with the command itself.
    fn tell_later(&self, written: &Written, what: &str, console: &Console) {
        let last = told(written, what, console);
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// Says what there is to say after everything else.
    pub fn last_words(&self, console: &Console) {
        let last = self.1.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(last) = last {
            console.note(&last);
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
    if let Some(last) = told(written, what, console) {
        console.note(&last);
    }
}

/// Records that somebody had removed stand in their regions again: nobody should find only that.
fn put_back(written: &Written, console: &Console) {
    for (region, numbers) in &written.put_back {
        let shown: Vec<String> = numbers.iter().take(3).map(u64::to_string).collect();
        let more = match numbers.len().saturating_sub(shown.len()) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        console.note(&format!(
            "warning: evidence had been removed in region {region}: record {}{more} of signer {} was not there, and later \
             ones were; it is stored there again. Find out who can delete there",
            shown.join(", "),
            written.record.signer.id()
        ));
        console.event(&json!({
            "schema": "tidemark-restore.evidence-put-back",
            "version": 1,
            "region": region.as_str(),
            "signer": written.record.signer.id(),
            "seqs": numbers,
        }));
    }
}

/// The same, but for what is to be said last.
fn told(written: &Written, what: &str, console: &Console) -> Option<String> {
    if let Some(enrol) = written.enrol.as_ref().filter(|_| written.asked) {
        let key = written.record.signer.id();
        console.note(&format!(
            "note: what this identity does is recorded, signed by key {key}, which now asks to be enrolled: \
             {enrol}"
        ));
    }
    put_back(written, console);
    if !written.stored.is_empty() {
        return None;
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
    Some(match file {
        Some(file) => format!(
            "note: no region took the {what} record ({why}); it waits in {file}, and the next command with this identity \
             sends it"
        ),
        None => format!(
            "note: no region took the {what} record ({why}); it can't be kept here either (no state folder), so keep this \
             line:\n{record}"
        ),
    })
}
