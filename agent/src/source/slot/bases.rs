//! The slot's part in a base: it begins once it may, and is read slice by slice.

use std::collections::VecDeque;
use std::time::Duration;

use tidemark_engine::{ErrorKind, Workspace};
use tidemark_host::Monotonic;

use super::{Event, Slot};

/// How soon a base that waits for its database (a checkpoint, the log's end) is asked again.
const SLICE_WAIT: Duration = Duration::from_millis(20);

/// A base that waits for its turn or runs.
#[derive(Debug, Default)]
pub(super) struct BaseTurn {
    pub(super) asked: Option<(Option<[u8; 32]>, bool)>,
    pub(super) slices: VecDeque<usize>,
    /// Its last slice was read: those that were asked for ahead are not wanted.
    is_read: bool,
    /// How far the last slice came, and when the next is read if it came no further than the one before.
    done: u64,
    pub(super) wait_until: Option<Monotonic>,
}

impl Slot {
    /// Begins the base that was asked for, once it may.
    pub(super) fn begin_base(&mut self) {
        let Some((generation, complete)) = self.base.asked else {
            return;
        };
        if generation.is_some() && !self.unsealed.is_empty() {
            return;
        }
        let Some(capture) = &mut self.capture else {
            return;
        };
        self.base.asked = None;
        self.base.is_read = false;
        self.base.wait_until = None;
        let opened = generation.map_or(Ok(()), |key| capture.open_generation(key));
        match opened.and_then(|()| capture.begin_base(self.next_seq, complete)) {
            Ok(start) => {
                // The cut it starts with is made at once: it may open a generation.
                self.force = true;
                self.send(Event::BaseBegan(start));
            }
            Err(error) => {
                let message = crate::policy::with_causes(&error);
                self.send(Event::BaseFailed { message });
                self.fail(&error);
            }
        }
    }

    pub(super) fn confirm_base(&mut self) {
        // Without a capture the driver hears of the base's end anyway.
        let Some(capture) = &mut self.capture else {
            return;
        };
        let event = match capture.base_stands() {
            Ok(()) => Event::BaseConfirmed,
            Err(error) => Event::BaseFailed {
                message: crate::policy::with_causes(&error),
            },
        };
        self.send(event);
    }

    pub(super) fn slice(&mut self, work: &mut Workspace) {
        let Some(capture) = &mut self.capture else {
            return;
        };
        if self.base.is_read {
            self.base.slices.clear();
        }
        let now = self.parts.clock.monotonic();
        if self.base.wait_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(max_bytes) = self.base.slices.pop_front() else {
            return;
        };
        match capture.base_slice(max_bytes, work) {
            Ok(slice) => {
                let stands = slice.runs.is_empty() && slice.progress.done == self.base.done;
                self.base.wait_until = (stands && !slice.done).then(|| now.after(SLICE_WAIT));
                self.base.done = slice.progress.done;
                self.base.is_read = slice.done;
                self.send(Event::Slice(slice));
            }
            // Something was missed meanwhile: this base is given up.
            Err(error) if error.kind() == ErrorKind::Retry => {
                self.base = BaseTurn::default();
                self.send(Event::BaseFailed {
                    message: crate::policy::with_causes(&error),
                });
            }
            Err(error) => {
                self.base.slices.push_front(max_bytes);
                self.fail(&error);
            }
        }
    }
}
