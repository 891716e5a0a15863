//! The agent's beat: one signed object for all its sources, so that an idle one costs nothing.
//!
//! **Invariant.** A beat's number is durable in the state directory before the beat is created, and
//! is used once: so a taken number means a copy of this directory (see [`crate::state::writer`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark_format::heads::{BeatHead, BeatSource, Facts};
use tidemark_format::sign::SigningKey;
use tidemark_format::{RepoId, SourceName, keys};
use tidemark_host::{Clock, Rng, RngExt as _};
use tidemark_seal::{Sealed, sign};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::Result;
use crate::points::clock_facts;
use crate::ship::region::Command;
use crate::state::WriterState;
use crate::status_live::{Board, LiveSource, SourceState};

/// Makes beats.
#[derive(Debug)]
pub struct Beats {
    /// The repository.
    pub repo: RepoId,
    /// The agent's key.
    pub signer: SigningKey,
    /// The host, for people.
    pub host: String,
    /// How often.
    pub every: Duration,
    /// Open facts: versions, host, config hash.
    pub facts: Facts,
    /// Where the number stands.
    pub path: PathBuf,
    /// The number.
    pub state: WriterState,
    /// What is told.
    pub board: Arc<Board>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Draws put-ids.
    pub rng: Arc<dyn Rng>,
}

impl Beats {
    /// The next beat. Writes the state directory: call it where blocking is allowed.
    ///
    /// # Errors
    /// The disk, or a head that is larger than it may be.
    pub fn make(&mut self) -> Result<Sealed> {
        let number = self.state.last_beat.saturating_add(1);
        let state = WriterState {
            last_beat: number,
            ..self.state.clone()
        };
        state.store(&self.path)?;
        self.state = state;
        let head = BeatHead {
            repo: self.repo,
            number,
            put: self.rng.id(),
            at: self.clock.now(),
            host: self.host.clone(),
            clock: clock_facts(&*self.clock, &self.board),
            every_ms: u64::try_from(self.every.as_millis()).unwrap_or(u64::MAX),
            sources: self.board.read(|sources, _, _| {
                sources
                    .iter()
                    .filter_map(|(name, live)| source(name, live))
                    .collect()
            }),
            facts: self.facts.clone(),
        };
        let key = keys::beat(self.signer.public().id(), number);
        Ok(sign(key, head.put, &head, &self.signer)?)
    }

    /// Beats until `stop`; the first beat was made before. Returns itself for a last beat.
    pub async fn run(
        mut self,
        regions: Vec<UnboundedSender<Command>>,
        stop: CancellationToken,
    ) -> Self {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self,
                () = tokio::time::sleep(self.every) => {}
            }
            let made = tokio::task::spawn_blocking(move || {
                let made = self.make();
                (self, made)
            });
            let Ok((beats, made)) = made.await else {
                // The runtime stops.
                std::future::pending::<()>().await;
                unreachable!("pending never ends");
            };
            self = beats;
            self.send(made, &regions);
        }
    }

    fn send(&self, made: Result<Sealed>, regions: &[UnboundedSender<Command>]) {
        let code = tidemark_host::codes::SPOOL_FULL.id;
        match made {
            Ok(beat) => {
                self.board.clear(code, "beat");
                for region in regions {
                    drop(region.send(Command::Beat(beat.clone())));
                }
            }
            Err(error) => {
                let text = crate::policy::with_causes(&error);
                self.board.alert(code, "beat", &text, self.clock.now());
            }
        }
    }
}

/// What a beat says of a source; nothing of one that has no epoch or was retired.
fn source(name: &SourceName, live: &LiveSource) -> Option<BeatSource> {
    if live.epoch.0 == 0 || matches!(live.state, SourceState::Retired | SourceState::Fenced) {
        return None;
    }
    let trouble = match live.state {
        SourceState::Capturing => None,
        state => Some(state.name().to_owned()),
    };
    let sure = trouble.is_none() && live.pending_since.is_none();
    Some(BeatSource {
        source: name.clone(),
        epoch: live.epoch,
        log_seq: live.log_seq,
        log_link: live.log_link,
        caught_up_at: live.caught_up_at.filter(|_| sure),
        trouble,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tidemark_format::envelope::Envelope;
    use tidemark_format::{Epoch, LogSeq};
    use tidemark_host::{SimClock, TestRng};

    use super::*;

    fn beats(path: PathBuf) -> Beats {
        let rng = TestRng::shared(1);
        Beats {
            repo: RepoId([1; 16]),
            signer: SigningKey::from_secret(&[1; 32]),
            host: "db1".to_owned(),
            every: Duration::from_secs(60),
            facts: Facts::new(),
            state: WriterState::load_or_new(&path, &*rng).unwrap(),
            path,
            board: Arc::new(Board::default()),
            clock: SimClock::at(Timestamp::UNIX_EPOCH).shared(),
            rng,
        }
    }

    #[test]
    fn a_number_is_never_used_again_not_even_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("writer.json");
        let first = beats(path.clone()).make().unwrap();
        let second = beats(path).make().unwrap();
        assert_eq!(keys::beat_number(&first.key), Some(1));
        assert_eq!(keys::beat_number(&second.key), Some(2));
    }

    #[test]
    fn a_beat_says_caught_up_only_of_what_is_captured_and_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let mut beats = beats(dir.path().join("writer.json"));
        let app = SourceName::new("app").unwrap();
        beats.board.source(&app, |live| {
            live.state = SourceState::Capturing;
            live.epoch = Epoch(1);
            live.log_seq = Some(LogSeq(7));
            live.caught_up_at = Some(Timestamp::UNIX_EPOCH);
        });
        let said = |beats: &mut Beats| {
            let sealed = beats.make().unwrap();
            let (_, head) = Envelope::open::<BeatHead>(&sealed.bytes).unwrap();
            head.sources[0].caught_up_at
        };
        assert_eq!(said(&mut beats), Some(Timestamp::UNIX_EPOCH));
        beats.board.source(&app, |live| {
            live.pending_since = Some(Timestamp::UNIX_EPOCH);
        });
        assert_eq!(said(&mut beats), None);
    }
}
