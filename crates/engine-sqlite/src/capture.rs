//! Capturing a database in WAL mode.
//!
//! - Polls move the read mark hand over hand and copy what was committed into memory.
//! - When the WAL has grown, the two-phase hand-off puts it into the database file: the bulk without
//!   any lock, the last frames under the write lock, which is held for milliseconds and only taken
//!   if it is free at once.
//! - At rest everything is in the file and the mark sits on READ_LOCK(0), where it holds up no
//!   checkpoint of the application.
//! - At `wal_max_bytes`, if a reader keeps the log from being put into the file, the mark is released.
//!   So it is when polls fail, or when what is captured can't be cut and the log grows on (see
//!   [`crate::bound`]). Capture goes on as long as the log isn't restarted; if it is, the catch-up
//!   compares page by page. At half of it, or when all of it is in the file, a mark is taken again.

use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::canary::{Canary, CanaryOutcome};
use tidemark_engine::{BaseSlice, BaseStart, Capture, Error, LogCut, Poll, Probe, Workspace};
use tidemark_format::LogSeq;
use tidemark_host::Monotonic;

use crate::behind::Guard;
use crate::bound::{Bound, Grows};
use crate::canary::CanaryPen;
use crate::core::{Core, Position};
use crate::error::SqliteError;
use crate::holds::{Holds, LOCKED_MAX, LockedBound};
use crate::log::{Captured, Hold, Log};
use crate::marks::{Checkpoint, Marks};
use crate::pending::Pending;
use crate::scan::DiffSlice;
use crate::shm::WalIndex;
use crate::tail::Cursor;
use crate::wal;

/// While the WAL grows: how long a mark stands.
const MARK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked whether another process waits for our mark with the write lock in its
/// hands (two system calls); then the mark moves at once.
const MARK_FAST: Duration = Duration::from_millis(5);
/// The same for an application that ran such checkpoints lately: SQLite asks again after 1 ms, 2 ms,
/// 5 ms, and every step missed is one that its commits wait longer.
const MARK_KEEN: Duration = Duration::from_millis(1);
const KEEN_FOR: Duration = Duration::from_secs(60);
/// Such a checkpoint runs: it waits for us once more when everything is in the file.
const MARK_AT_ONCE: Duration = Duration::from_micros(300);
const IDLE_SOON: Duration = Duration::from_millis(50);
const IDLE_LONG: Duration = Duration::from_millis(250);
/// The path is looked at this often for another file under the same name.
const PLACE_EVERY: Duration = Duration::from_millis(500);
/// After this long without a commit, what is left in the WAL goes into the file.
const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// A hand-off that an application's reader kept from ending is tried again after this.
const HAND_OFF_AGAIN: Duration = Duration::from_millis(500);
/// How often the unlocked phase is repeated at most.
const BULK_ROUNDS: u32 = 5;
/// Fewer frames than this are left to the locked phase of a hand-off.
const TAIL_FRAMES: u32 = 64;
/// More than this is too much for the locked phase: the next poll tries again.
const LOCKED_TAIL_BYTES: u64 = 2 << 20;
/// How long a hand-off looks for a moment without a writer.
const ASK_WRITE_LOCK: Duration = Duration::from_millis(2);
/// The larger the log, the more of the two above, up to this many times.
const PRESSURE_MAX: u32 = 4;
/// A log this many times too large is worth a longer locked phase than others should wait for: the
/// alternative is to let go at `wal_max_bytes`.
const PRESSURE_EXTREME: u64 = 16;
/// The alert of `wal_max` ends when the log is small again, or was wholly in the file for so long: each
/// commit beside a reader that pins it could raise it anew.
const WAL_MAX_CALM: Duration = Duration::from_secs(10);
/// Read from the file by one poll of a catch-up.
const DIFF_BYTES: u32 = 8 << 20;

/// When things were done last.
#[derive(Debug, Default)]
struct Times {
    full: Monotonic,
    change: Monotonic,
    place: Monotonic,
    hand_off: Monotonic,
    settle: Monotonic,
}

/// A database in WAL mode, being captured. Field order is drop order: connections before files.
#[derive(Debug)]
pub(crate) struct WalCapture {
    marks: Marks,
    pen: CanaryPen,
    log: Log,
    core: Core,
    times: Times,
    /// The index under which the mark was moved last.
    marked: Option<WalIndex>,
    /// Notices what is written to the file behind SQLite's back.
    guard: Guard,
    released: bool,
    /// When the log was last seen above `wal_max` with frames that aren't in the file, and why.
    above_max: Option<(Monotonic, Grows)>,
    bound: Bound,
    hand_off_wait: Duration,
    holds: Holds,
}

impl WalCapture {
    pub(crate) fn new(marks: Marks, log: Log, core: Core) -> Self {
        let now = core.clock.monotonic();
        let times = Times {
            full: Monotonic::default(),
            change: now,
            place: now,
            hand_off: now,
            settle: now,
        };
        Self {
            marks,
            pen: CanaryPen::default(),
            log,
            core,
            times,
            marked: None,
            guard: Guard::new(),
            released: false,
            above_max: None,
            bound: Bound::default(),
            hand_off_wait: Duration::ZERO,
            holds: Holds::begin(now),
        }
    }

    fn answer(&self, next: Duration) -> Poll {
        self.core.poll_answer(next, self.log.at_commit())
    }

    fn log_bytes(&self, index: &WalIndex) -> u64 {
        u64::from(index.frames) * wal::frame_bytes(self.core.page_size())
    }

    fn poll_once(&mut self, work: &mut Workspace) -> Result<Poll, SqliteError> {
        let now = self.core.clock.monotonic();
        if now.since(self.times.place) >= PLACE_EVERY {
            self.times.place = now;
            self.core.file.check_in_place()?;
            self.log.shm.check_in_place()?;
            self.log.tail.check_in_place()?;
        }
        if !self.released && !self.marks.is_held() {
            self.reacquire()?;
        }
        self.note_marks();
        let waited_for = self.log.shm.blocking_checkpoint_elsewhere();
        self.holds.looked(now, waited_for);
        if !waited_for && self.may_wait(now) {
            return Ok(self.answer(self.look_again(now)));
        }
        self.times.full = now;
        self.guard.look(&mut self.core, &self.log.shm)?;
        let before = self.log.cursor;
        let captured = self.log.capture(&mut self.core, work)?;
        if self.log.cursor != before {
            self.times.change = now;
        }
        self.note_calm(&captured, now);
        if self.released {
            self.poll_released(&captured, now)?;
            return Ok(self.answer(MARK_EVERY));
        }
        self.note_hidden(&captured.index);
        if self.core.lost.is_some() {
            self.let_go_if_behind(now)?;
            if !self.released {
                self.begin_catch_up()?;
            }
            return Ok(self.answer(Duration::ZERO));
        }
        if captured.all {
            self.bound.is_kept();
            self.keep_the_log_small(&captured.index, now, work)?;
        } else {
            self.let_go_if_behind(now)?;
        }
        let more = self.catch_up(captured.all, work)?;
        self.note_rest()?;
        if self.guard.is_due(now) && self.may_read_file() {
            self.guard.check(&mut self.core, &mut self.log, work)?;
        }
        // What this poll's own checkpoints wrote is told from what others write after it.
        self.guard.look(&mut self.core, &self.log.shm)?;
        let next = match (more, waited_for) {
            (true, _) => Duration::ZERO,
            (false, true) => MARK_AT_ONCE,
            (false, false) => self.pace(now),
        };
        Ok(self.answer(next))
    }

    /// Notes when the mark sits on READ_LOCK(0), which SQLite gives when everything is in the file.
    fn note_rest(&mut self) -> Result<(), SqliteError> {
        let Some(index) = self.log.shm.read()? else {
            return Ok(());
        };
        let end = Cursor::at_end(&index);
        let held = !self.released && self.marks.is_held() && self.marked == Some(index);
        if held && index.is_backfilled() && self.log.cursor.is_at(&end) {
            self.guard.mark_rests(end);
        }
        Ok(())
    }

    /// How long until it is looked again whether somebody waits.
    fn look_again(&self, now: Monotonic) -> Duration {
        if self.holds.waited_within(now, KEEN_FOR) {
            MARK_KEEN
        } else {
            MARK_FAST
        }
    }

    /// Without a mark a restart of the log is a loss, however it came that there is none.
    fn note_marks(&mut self) {
        if !self.marks.is_held() {
            self.log.hold = Hold::None;
            self.guard.mark_moves();
        }
    }

    /// The mark was moved a moment ago and nobody waits for it: this poll was only to see that.
    fn may_wait(&self, now: Monotonic) -> bool {
        let since = now.since(self.times.full);
        let quiet = !self.released && self.core.lost.is_none() && self.core.diff.is_none();
        let soon = !since.is_zero() && since < MARK_EVERY;
        quiet && soon && !self.core.is_full()
    }

    /// How long until the next poll.
    fn pace(&self, now: Monotonic) -> Duration {
        let idle = now.since(self.times.change);
        if self.core.is_full() || idle < SETTLE_AFTER * 2 {
            self.look_again(now)
        } else if idle < Duration::from_secs(30) {
            IDLE_SOON
        } else {
            IDLE_LONG
        }
    }

    /// Moves the mark if the log went on, hands off if it is large or at rest, releases at its bound.
    fn keep_the_log_small(
        &mut self,
        index: &WalIndex,
        now: Monotonic,
        work: &mut Workspace,
    ) -> Result<(), SqliteError> {
        if self.marked != Some(*index) {
            self.move_mark(work)?;
        }
        let index = self.log.index(&self.core)?;
        let bytes = self.log_bytes(&index);
        if index.is_backfilled() {
            // However large: the next commit begins it anew, or isn't in the file.
            return Ok(());
        }
        if bytes >= self.core.config.hand_off_bytes {
            if now.since(self.times.hand_off) >= self.hand_off_wait {
                self.hand_off(work)?;
            }
        } else if now.since(self.times.change) >= SETTLE_AFTER
            && now.since(self.times.settle) >= SETTLE_AFTER
        {
            self.times.settle = now;
            self.marks.checkpoint()?;
            self.move_mark(work)?;
        }
        if bytes > self.core.config.wal_max_bytes && self.is_above_max(&self.log.index(&self.core)?)
        {
            self.release_mark(bytes, now, Grows::BehindAReader)?;
        }
        Ok(())
    }

    /// Takes the next mark, captures up to it, gives up the old one.
    fn move_mark(&mut self, work: &mut Workspace) -> Result<(), SqliteError> {
        let before = self.log.index(&self.core)?;
        let (log, core) = (&mut self.log, &mut self.core);
        let mut after = None;
        let moved = self.marks.move_on(|| {
            let captured = log.capture(core, work)?;
            after = Some(captured.index);
            Ok::<_, SqliteError>(captured.all)
        });
        match moved {
            Ok(true) => {
                self.guard.mark_moves();
                self.log.hold =
                    after.map_or(Hold::MaybeAtRest, |after| hold_after(&before, &after));
                // It was taken somewhere between the two: where they differ it may stand before the
                // last commit, and must move again although no other commit comes.
                self.marked = Some(before);
                self.holds.mark_moved(self.core.clock.monotonic());
                Ok(())
            }
            Ok(false) | Err(SqliteError::Busy { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The phase of a hand-off that holds up nobody.
    fn bulk(&mut self, work: &mut Workspace) -> Result<(), SqliteError> {
        // Each round leaves less, for it takes less time; under the heaviest load it stops shrinking.
        let mut left = u32::MAX;
        for _round in 0..BULK_ROUNDS {
            let index = self.log.index(&self.core)?;
            let now_left = index.frames - index.backfilled;
            let few = now_left <= TAIL_FRAMES && self.holds.expected(now_left).is_some();
            if now_left == 0 || few || now_left > left / 4 * 3 {
                break;
            }
            left = now_left;
            let begun = self.core.clock.monotonic();
            self.marks.checkpoint()?;
            let took = self.core.clock.monotonic().since(begun);
            self.holds.checkpointed(now_left, took);
            self.move_mark(work)?;
        }
        Ok(())
    }

    /// The two-phase sealed hand-off.
    fn hand_off(&mut self, work: &mut Workspace) -> Result<(), SqliteError> {
        self.bulk(work)?;
        let before = self.log.index(&self.core)?;
        let bound = self.locked_bound(&before);
        if !bound.allows(&before, &self.holds) {
            self.holds.forget();
            self.times.hand_off = self.core.clock.monotonic();
            self.hand_off_wait = HAND_OFF_AGAIN;
            return Ok(());
        }
        self.guard.mark_moves();
        let (log, core, holds) = (&mut self.log, &mut self.core, &self.holds);
        let clock = Arc::clone(&core.clock);
        let (asked, mut locked) = (clock.monotonic(), None);
        let patient = || clock.monotonic().since(asked) < ASK_WRITE_LOCK * bound.pressure;
        let done = self.marks.sealed_hand_off(patient, || {
            locked = Some(clock.monotonic());
            // Others wait from here on: looked at before it is read.
            if !bound.allows(&log.index(core)?, holds) {
                return Ok(false);
            }
            Ok::<_, SqliteError>(log.capture(core, work)?.all)
        });
        let now = clock.monotonic();
        if let Some(locked) = locked {
            self.holds.write_locked(now.since(locked));
        }
        match done {
            Ok(Some(checkpoint)) => {
                let after = self.log.index(&self.core)?;
                self.log.hold = hold_after(&before, &after);
                self.marked = Some(after);
                self.times.hand_off = now;
                self.hand_off_wait = match checkpoint {
                    Checkpoint::Complete => {
                        self.guard.mark_rests(self.log.cursor);
                        Duration::ZERO
                    }
                    Checkpoint::Partial => HAND_OFF_AGAIN,
                };
                Ok(())
            }
            // The write lock wasn't free: the next poll tries again.
            Ok(None) | Err(SqliteError::Busy { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn locked_bound(&self, index: &WalIndex) -> LockedBound {
        let times = self.log_bytes(index) / self.core.config.hand_off_bytes.max(1);
        let pressure = u32::try_from(times)
            .unwrap_or(u32::MAX)
            .clamp(1, PRESSURE_MAX);
        let frame_bytes = wal::frame_bytes(self.core.page_size());
        let frames = (LOCKED_TAIL_BYTES / frame_bytes).max(1);
        LockedBound {
            pressure,
            frames: u32::try_from(frames).unwrap_or(u32::MAX) * pressure,
            time: (times < PRESSURE_EXTREME).then_some(LOCKED_MAX),
        }
    }

    /// More than its bound is in the log, and can't be put into the file.
    fn is_above_max(&self, index: &WalIndex) -> bool {
        !index.is_backfilled() && self.log_bytes(index) > self.core.config.wal_max_bytes
    }

    /// Lets go of a log that can't be captured to its end, once it is too large.
    fn let_go_if_behind(&mut self, now: Monotonic) -> Result<(), SqliteError> {
        let Some(index) = self.log.shm.read()?.filter(|_| self.marks.is_held()) else {
            return Ok(());
        };
        let (bytes, max) = (self.log_bytes(&index), self.core.config.wal_max_bytes);
        if !self.is_above_max(&index) {
            self.bound.is_kept();
        } else if self.bound.is_over(bytes, max, self.log.cursor.frame, now) {
            self.release_mark(bytes, now, Grows::UnderUs)?;
        }
        Ok(())
    }

    /// Lets go of a log that is too large, for nobody knows when a poll will succeed.
    fn let_go(&mut self) -> Result<(), SqliteError> {
        let index = self.log.shm.read()?;
        let above = index.filter(|index| self.marks.is_held() && self.is_above_max(index));
        let now = self.core.clock.monotonic();
        above.map_or(Ok(()), |index| {
            self.release_mark(self.log_bytes(&index), now, Grows::UnderUs)
        })
    }

    /// Ends the alert of `wal_max` when the reason for it is gone for good.
    fn note_calm(&mut self, captured: &Captured, now: Monotonic) {
        let Some((above, grows)) = self.above_max else {
            return;
        };
        let small = self.log_bytes(&captured.index) <= self.core.config.wal_max_bytes / 2;
        let follows = captured.all && self.core.lost.is_none() && self.core.diff.is_none();
        if !small && !captured.index.is_backfilled() {
            self.above_max = Some((now, grows));
        } else if !self.released
            && (small || now.since(above) >= WAL_MAX_CALM)
            // Else the log grows anew until we let go of it again.
            && (follows || grows == Grows::BehindAReader)
        {
            self.above_max = None;
            self.core.alerts.remove("sqlite.wal-max");
        }
    }

    fn release_mark(
        &mut self,
        bytes: u64,
        now: Monotonic,
        grows: Grows,
    ) -> Result<(), SqliteError> {
        self.guard.mark_moves();
        self.bound.is_kept();
        self.above_max = Some((now, grows));
        self.log.hold = Hold::None;
        self.marked = None;
        self.released = true;
        self.core.alerts.insert(
            "sqlite.wal-max",
            format!(
                "the WAL has {} MiB, more than wal_max ({} MiB): {}",
                bytes >> 20,
                self.core.config.wal_max_bytes >> 20,
                grows.text()
            ),
        );
        self.marks.release()
    }

    /// Without a mark: waits until the log is small again.
    fn poll_released(&mut self, captured: &Captured, now: Monotonic) -> Result<(), SqliteError> {
        // A mark that was taken again, and then something failed.
        self.let_go()?;
        if now.since(self.times.settle) >= Duration::from_secs(1) {
            self.times.settle = now;
            self.marks.checkpoint()?;
        }
        let index = self.log.index(&self.core)?;
        let small = self.log_bytes(&index) <= self.core.config.wal_max_bytes / 2;
        if (small || index.is_backfilled()) && (captured.all || self.core.lost.is_some()) {
            self.reacquire()?;
            self.released = false;
        }
        Ok(())
    }

    /// Takes a mark where none was held: what happened meanwhile shows in the log.
    fn reacquire(&mut self) -> Result<(), SqliteError> {
        self.log.hold = Hold::None;
        self.guard.mark_moves();
        self.marks.acquire()?;
        self.marked = None;
        if !self.core.file.uses_wal()? {
            return Err(SqliteError::ModeChanged {
                path: self.core.file.path().to_path_buf(),
            });
        }
        // Compared under the mark: from here on nothing is missed.
        let index = self.log.index(&self.core)?;
        if !self.log.tail.holds(&self.log.cursor, &index)? {
            self.core
                .lost
                .get_or_insert_with(|| "the WAL was restarted while no mark kept it".to_owned());
        }
        // The hold stays `None` until the mark was moved: there may be frames below it to capture.
        Ok(())
    }

    /// What the log hid of a file that was written behind SQLite's back shows once readers don't need
    /// the log any more.
    fn note_hidden(&mut self, index: &WalIndex) {
        if self.core.diff.is_some() {
            return;
        }
        let over = self.core.state.behind.is_some_and(|hid| hid != index.salts);
        if over {
            self.core.state.behind = None;
        }
        if self.log.hides && (over || index.is_backfilled()) {
            self.log.hides = false;
            self.core.lost.get_or_insert_with(|| {
                "the WAL under which the file was written behind SQLite's back is over".to_owned()
            });
        }
    }

    /// Starts comparing from the first page.
    pub(crate) fn begin_catch_up(&mut self) -> Result<(), SqliteError> {
        self.core.void_base();
        self.core.pending = Pending::default();
        self.core.complete_until = None;
        self.core.full = false;
        self.log.restart(&mut self.core)?;
        if self.marks.is_held() {
            // At rest there is nothing to capture; otherwise frames follow and nothing restarts.
            self.log.hold = Hold::MaybeAtRest;
        }
        self.core.begin_diff(true);
        Ok(())
    }

    /// A slice of a running catch-up; says whether there is more to do at once.
    fn catch_up(&mut self, captured: bool, work: &mut Workspace) -> Result<bool, SqliteError> {
        if self.core.diff.is_none() || self.core.book.is_none() {
            return Ok(false);
        }
        if !captured || self.log.is_rewinding() {
            return Ok(!self.core.is_full());
        }
        Ok(self.core.diff_slice(DIFF_BYTES, work)? == DiffSlice::More)
    }

    /// The file holds captured commits and nothing else.
    fn may_read_file(&self) -> bool {
        !self.released
            && self.marks.is_held()
            // Captured at least up to the mark.
            && self.marked.is_some()
            && self.core.lost.is_none()
            && self.core.diff.is_none()
            && !self.log.is_rewinding()
            && !self.log.hides
    }
}

/// What a mark taken between the two indexes allows.
fn hold_after(before: &WalIndex, after: &WalIndex) -> Hold {
    // On READ_LOCK(0) everything up to its own snapshot, which isn't before `before`, is in the file.
    if before.salts == after.salts && after.backfilled < before.frames {
        Hold::Pinned
    } else {
        Hold::MaybeAtRest
    }
}

impl Capture for WalCapture {
    fn poll(&mut self, work: &mut Workspace) -> Result<Poll, Error> {
        match self.poll_once(work) {
            Ok(poll) => Ok(poll),
            // Somebody is in the middle of something: not worth an error.
            Err(SqliteError::Busy { .. }) => {
                let now = self.core.clock.monotonic();
                self.let_go_if_behind(now)
                    .map_or_else(|error| Err(error.into()), |()| Ok(self.answer(MARK_FAST)))
            }
            Err(error) => {
                self.keep_bounds();
                Err(error.into())
            }
        }
    }

    fn keep_bounds(&mut self) {
        // What keeps the index from being read, or the mark from being given up, is told by a poll.
        drop(self.let_go());
    }

    fn cut(&mut self, next_seq: LogSeq, work: &mut Workspace) -> Result<Option<LogCut>, Error> {
        self.note_marks();
        if self.core.lost.is_none() {
            self.guard.look(&mut self.core, &self.log.shm)?;
        }
        // What was committed since the last poll goes with it, if it can be read right now.
        match self.log.capture(&mut self.core, work) {
            Ok(_) | Err(SqliteError::Busy { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // Not while the next poll will find pages that a log of earlier hid.
        if self.may_read_file()
            && self
                .core
                .state
                .behind
                .is_none_or(|hid| hid == self.log.cursor.salts)
        {
            self.guard.check(&mut self.core, &mut self.log, work)?;
        }
        let position = Position {
            cursor: Some(self.log.cursor),
            rewound_from: self.log.rewound_from,
            stamp: None,
            at_commit: self.log.at_commit(),
        };
        Ok(self.core.cut(next_seq, &position)?)
    }

    fn sealed(&mut self, seq: LogSeq) -> Result<(), Error> {
        Ok(self.core.seal(seq)?)
    }

    fn give_up(&mut self) -> Result<(), Error> {
        Ok(self.core.give_up()?)
    }

    fn map_synced(&mut self) -> Result<Option<LogSeq>, Error> {
        Ok(self.core.sync_map()?)
    }

    fn open_generation(&mut self, digest_key: [u8; 32]) -> Result<(), Error> {
        Ok(self.core.open_generation(digest_key)?)
    }

    fn begin_base(&mut self, next_seq: LogSeq, complete: bool) -> Result<BaseStart, Error> {
        // The smaller the log, the less is captured twice.
        let mut work = Workspace::new();
        if !self.released && self.core.lost.is_none() {
            self.hand_off(&mut work)?;
        }
        self.log.rewind(&self.core)?;
        Ok(self.core.begin_base(next_seq, complete)?)
    }

    fn base_slice(&mut self, max_bytes: usize, _work: &mut Workspace) -> Result<BaseSlice, Error> {
        if self.may_read_file() {
            Ok(self.core.base_slice(max_bytes)?)
        } else {
            Ok(BaseSlice::default())
        }
    }

    fn base_stands(&mut self) -> Result<(), Error> {
        Ok(self.core.check_base_stands()?)
    }

    fn base_done(&mut self) -> Result<(), Error> {
        Ok(self.core.base_done()?)
    }

    fn base_abandoned(&mut self) {
        self.core.base_abandoned();
    }

    fn canary(&mut self, canary: &Canary) {
        if self.core.config.canary {
            self.pen.write(self.core.file.path(), canary);
        }
    }

    fn canary_outcome(&mut self) -> Option<CanaryOutcome> {
        self.pen.take_told()
    }

    fn probe(&mut self) -> Result<Probe, Error> {
        let index = self.log.index(&self.core)?;
        let mut probe = self.core.probe("wal", self.log_bytes(&index))?;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let held = [
            ("write_lock_held_max_ms", self.holds.write_lock),
            ("checkpoint_kept_waiting_max_ms", self.holds.mark),
        ];
        let held = held.map(|(name, time)| (name.to_owned(), ms(time).into()));
        probe.facts.extend(held);
        Ok(probe)
    }

    fn release(self: Box<Self>) {}
}
