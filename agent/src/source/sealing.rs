//! From a cut to an item in the spool that every region has been handed.

use std::sync::Arc;

use tidemark_engine::LogCut;
use tidemark_format::LogSeq;
use tidemark_format::heads::LogHead;
use tidemark_seal::{LogDraft, Sealed, Session, seal_log};

use super::driver::{Driver, WaitingCut};
use super::slot::Command;
use crate::room::Shortage;
use crate::ship::lane::Content;
use crate::ship::region::Command as RegionCommand;
use crate::state::item::lacking_since;
use crate::state::source::Restorable;
use crate::state::{Item, Order};
use crate::{Result, policy};

/// Room that is asked for beside an object's own bytes: its record and the next point.
const SPARE_BYTES: u64 = 64 << 10;

impl Driver {
    /// Seals what waits, as far as the spool has room.
    pub(super) async fn seal_waiting(&mut self) {
        // What waits while a range is given up is captured anew.
        if self.gap.is_some() {
            return;
        }
        while let Some(waiting) = self.waiting.pop_front() {
            let bytes = payload_bytes(&waiting.cut).saturating_add(SPARE_BYTES);
            if let Some(shortage) = self.shortage(bytes) {
                self.waiting.push_front(waiting);
                self.no_room(shortage);
                return;
            }
            match self.seal(&waiting).await {
                Ok(()) => {
                    self.room_again();
                    drop(waiting.permit);
                }
                Err(error) => {
                    self.waiting.push_front(waiting);
                    self.alert("spool.write", &policy::with_causes(&error));
                    self.no_room(Shortage::Disk);
                    return;
                }
            }
        }
        self.clear("spool.write");
    }

    fn shortage(&self, bytes: u64) -> Option<Shortage> {
        let own = self.parts.spool.bytes().saturating_add(bytes);
        let own = (own > self.parts.settings.spool_max.get()).then_some(Shortage::Spool);
        own.or_else(|| self.shared.room.shortage(bytes))
    }

    async fn seal(&mut self, waiting: &WaitingCut) -> Result<()> {
        let session = self.session().await?;
        let draft = self.draft(waiting.seq, &waiting.cut, waiting.at);
        let (signer, rng) = (self.shared.signer.clone(), Arc::clone(&self.shared.rng));
        let level = self.parts.settings.compression;
        let cut = Arc::clone(&waiting.cut);
        let work = move || seal_log(&session, draft, &cut.payload, level, &signer, &*rng);
        let (sealed, head) = self.shared.cpu.run(work).await?;
        let record = Arc::clone(&waiting.cut);
        self.spool_log(sealed, head, move || record.record.clone())
            .await
    }

    /// Does blocking work on a thread for it, a few sources at a time.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.shared.disk.run(action, work).await
    }

    /// The session to seal in now.
    pub(super) async fn session(&self) -> Result<Session> {
        let sessions = Arc::clone(&self.shared.sessions);
        self.blocking("begin a session", move || sessions.current())
            .await?
    }

    fn draft(&self, seq: LogSeq, cut: &LogCut, at: jiff::Timestamp) -> LogDraft {
        let record = &self.record;
        LogDraft {
            source: record.source.clone(),
            engine: self.parts.engine.to_owned(),
            incarnation: record.incarnation.unwrap_or_else(|| [0; 16].into()),
            epoch: record.epoch,
            seq,
            prev: record.log.link,
            follows: record.follows.clone().filter(|_| seq == LogSeq(0)),
            generation: record.generation.as_ref().map_or(seq, |open| open.opened),
            restorable: cut.restorable,
            transactions: cut.transactions,
            first_commit: cut.first_commit,
            last_commit: cut.last_commit,
            captured_at: record.not_before_the_log(at),
            facts: cut
                .facts
                .clone()
                .into_iter()
                .chain(self.canary_fact())
                .collect(),
        }
    }

    /// Spools a log object, tells the slot, and hands it to every region.
    pub(super) async fn spool_log(
        &mut self,
        sealed: Sealed,
        head: LogHead,
        record: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<()> {
        let (seq, link) = (head.seq, sealed.link);
        let content = Content::Log {
            seq,
            link,
            first_commit: lacking_since(&head),
            gap: head.gap.is_some(),
        };
        let order = self.append(&sealed, head.session, content, record).await?;
        self.record.log_sealed(&head, link);
        self.unsynced.push_back((seq, order));
        if let Some(last) = self.record.log.restorable.filter(|last| last.seq == seq) {
            self.ends.sealed(Restorable { ..last });
        }
        let end = head
            .facts
            .get("postgres")
            .and_then(|facts| facts.get("end"));
        let end = end.and_then(|end| end.as_str()).map(str::to_owned);
        self.show(|live| {
            live.log_seq = Some(seq);
            live.log_link = Some(link);
            live.position = end;
        });
        self.parts.slot.tell(Command::Sealed(seq));
        Ok(())
    }

    /// Spools an item at the record's next order and hands it to every region. The record itself is
    /// the caller's to change, right after.
    pub(super) async fn append(
        &mut self,
        sealed: &Sealed,
        session: Option<tidemark_format::SessionId>,
        content: Content,
        record: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Order> {
        let order = self.record.next_order;
        let spool = Arc::clone(&self.parts.spool);
        let bytes = sealed.bytes.clone();
        let work = move || spool.append(order, &bytes, &record());
        self.blocking("write the spool", work).await??;
        let item = Item {
            order,
            key: sealed.key.clone(),
            put: sealed.put,
            link: sealed.link,
            session,
            content: content.clone(),
            bytes: sealed.bytes.clone(),
        };
        let bytes = u64::try_from(sealed.bytes.len()).unwrap_or(u64::MAX);
        self.shared.items.put(&self.record.source, Arc::new(item));
        for outlet in &self.parts.outlets {
            let command = RegionCommand::Appended {
                source: self.record.source.clone(),
                bytes,
                content: content.clone(),
            };
            drop(outlet.commands.send(command));
        }
        self.changed();
        Ok(order)
    }
}

fn payload_bytes(cut: &LogCut) -> u64 {
    u64::try_from(cut.payload.len().saturating_add(cut.record.len())).unwrap_or(u64::MAX)
}
