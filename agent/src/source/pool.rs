//! The capture pool: a few OS threads take turns with all sources, by a heap of due times.
//!
//! **Invariants.** A slot is on one thread at a time, and every due time is served in order. The
//! number of threads doesn't depend on the number of databases, and each thread lends its one
//! [`Workspace`] to whoever it serves.
//!
//! **Cancellation.** [`Pool::stop`] lets the turn that runs end, drops all slots (which lets go of
//! the databases) and joins the threads.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tidemark_engine::Workspace;
use tidemark_host::{Clock, Monotonic};

/// Something that is given turns.
pub trait Turns: Send {
    /// Works for a short while; says after how long it wants the next turn (`None`: when woken).
    fn turn(&mut self, work: &mut Workspace) -> Option<Duration>;
}

/// A slot's number in its pool.
pub type SlotId = u64;

struct Entry {
    /// `None` while a thread has it.
    slot: Option<Box<dyn Turns>>,
    due: Option<Monotonic>,
    woken: bool,
    removed: bool,
}

#[derive(Default)]
struct Waiting {
    heap: BinaryHeap<Reverse<(Monotonic, SlotId)>>,
    entries: BTreeMap<SlotId, Entry>,
    next_id: SlotId,
    stopping: bool,
    /// By thread: since when it is in a turn.
    turns: Vec<Option<Monotonic>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes slots; cheap to clone.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    /// Gives the slot its next turn as soon as a thread is free.
    pub fn wake(&self, id: SlotId) {
        let now = self.shared.clock.monotonic();
        let mut waiting = self.shared.lock();
        let Some(entry) = waiting.entries.get_mut(&id) else {
            return;
        };
        if entry.slot.is_none() {
            entry.woken = true;
            return;
        }
        if entry.due.is_some_and(|due| due <= now) {
            return;
        }
        entry.due = Some(now);
        waiting.heap.push(Reverse((now, id)));
        drop(waiting);
        self.shared.changed.notify_one();
    }
}

/// The threads and their slots.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads.len())
    }
}

impl Pool {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system refuses to start one.
    pub fn start(threads: NonZeroUsize, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let waiting = Waiting {
            turns: vec![None; threads.get()],
            ..Waiting::default()
        };
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            changed: Condvar::new(),
            clock,
        });
        let mut pool = Self {
            shared,
            threads: Vec::new(),
        };
        for number in 0..threads.get() {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("capture-{number}"));
            pool.threads
                .push(builder.spawn(move || serve(&shared, number))?);
        }
        Ok(pool)
    }

    /// Adds a slot; `make` is given its number. It gets its first turn at once.
    pub fn add<S: Turns + 'static>(&self, make: impl FnOnce(SlotId) -> S) -> SlotId {
        let mut waiting = self.shared.lock();
        let id = waiting.next_id;
        waiting.next_id = id.saturating_add(1);
        let now = self.shared.clock.monotonic();
        let entry = Entry {
            slot: Some(Box::new(make(id))),
            due: Some(now),
            woken: false,
            removed: false,
        };
        waiting.entries.insert(id, entry);
        waiting.heap.push(Reverse((now, id)));
        drop(waiting);
        self.shared.changed.notify_one();
        id
    }

    /// Takes a slot out and drops it, at the end of its turn if it has one.
    pub fn remove(&self, id: SlotId) {
        let mut waiting = self.shared.lock();
        let gone = match waiting.entries.get_mut(&id) {
            Some(entry) if entry.slot.is_none() => {
                entry.removed = true;
                None
            }
            Some(_) => waiting.entries.remove(&id),
            None => None,
        };
        drop(waiting);
        // Letting go of a database may take a while: not under the lock.
        drop(gone);
    }

    /// What wakes slots.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker {
            shared: Arc::clone(&self.shared),
        }
    }

    /// How long the longest turn that runs now has taken: a thread that hangs shows here.
    #[must_use]
    pub fn longest_turn(&self) -> Duration {
        let now = self.shared.clock.monotonic();
        let waiting = self.shared.lock();
        let longest = waiting
            .turns
            .iter()
            .flatten()
            .map(|since| now.since(*since))
            .max();
        longest.unwrap_or(Duration::ZERO)
    }

    /// Ends the turns, drops the slots and joins the threads.
    pub fn stop(mut self) {
        self.shutdown();
    }

    fn shutdown(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so by itself.
            drop(thread.join());
        }
        let entries = std::mem::take(&mut self.shared.lock().entries);
        drop(entries);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn serve(shared: &Shared, number: usize) {
    let mut work = Workspace::new();
    while let Some((id, mut slot)) = take(shared, number) {
        let again = slot.turn(&mut work);
        give_back(shared, number, id, slot, again);
    }
}

/// Waits for the next slot that is due, and takes it.
fn take(shared: &Shared, number: usize) -> Option<(SlotId, Box<dyn Turns>)> {
    let mut waiting = shared.lock();
    loop {
        if waiting.stopping {
            return None;
        }
        let now = shared.clock.monotonic();
        let wait = match waiting.heap.peek() {
            Some(Reverse((due, _))) if *due > now => Some(due.since(now)),
            Some(_) => None,
            None => Some(Duration::MAX),
        };
        if let Some(wait) = wait {
            waiting = if wait == Duration::MAX {
                shared
                    .changed
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = shared.changed.wait_timeout(waiting, wait);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
            continue;
        }
        let Some(Reverse((due, id))) = waiting.heap.pop() else {
            continue;
        };
        // An entry whose due time moved left its old place in the heap: pass over it.
        let slot = waiting
            .entries
            .get_mut(&id)
            .filter(|entry| entry.due == Some(due))
            .and_then(|entry| {
                entry.due = None;
                entry.slot.take()
            });
        if let Some(slot) = slot {
            if let Some(turn) = waiting.turns.get_mut(number) {
                *turn = Some(now);
            }
            return Some((id, slot));
        }
    }
}

fn give_back(
    shared: &Shared,
    number: usize,
    id: SlotId,
    slot: Box<dyn Turns>,
    again: Option<Duration>,
) {
    let now = shared.clock.monotonic();
    let mut waiting = shared.lock();
    if let Some(turn) = waiting.turns.get_mut(number) {
        *turn = None;
    }
    let Some(entry) = waiting.entries.get_mut(&id) else {
        return;
    };
    if entry.removed {
        waiting.entries.remove(&id);
        drop(waiting);
        drop(slot);
        return;
    }
    let woken = std::mem::take(&mut entry.woken);
    entry.slot = Some(slot);
    entry.due = if woken {
        Some(now)
    } else {
        again.map(|wait| now.after(wait))
    };
    if let Some(due) = entry.due {
        waiting.heap.push(Reverse((due, id)));
        drop(waiting);
        shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use tidemark_host::SystemClock;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    struct Counter {
        id: SlotId,
        turns: Sender<SlotId>,
        again: Option<Duration>,
    }

    impl Turns for Counter {
        fn turn(&mut self, _work: &mut Workspace) -> Option<Duration> {
            self.turns.send(self.id).unwrap_or_default();
            self.again
        }
    }

    fn pool(threads: usize) -> Pool {
        Pool::start(NonZeroUsize::new(threads).unwrap(), SystemClock::shared()).unwrap()
    }

    #[test]
    fn many_slots_take_turns_on_few_threads() {
        let pool = pool(2);
        let (turns, seen) = channel();
        for _ in 0..50 {
            let turns = turns.clone();
            let again = Some(Duration::from_millis(1));
            pool.add(|id| Counter { id, turns, again });
        }
        let mut count = [0u32; 50];
        while count.contains(&0) || count.contains(&1) {
            let id = seen.recv_timeout(SOON).unwrap();
            count[usize::try_from(id).unwrap()] += 1;
        }
        pool.stop();
    }

    #[test]
    fn a_slot_that_sleeps_gets_a_turn_when_it_is_woken() {
        let pool = pool(1);
        let (turns, seen) = channel();
        let id = pool.add(|id| Counter {
            id,
            turns,
            again: None,
        });
        assert_eq!(seen.recv_timeout(SOON), Ok(id));
        for _ in 0..3 {
            pool.waker().wake(id);
            assert_eq!(seen.recv_timeout(SOON), Ok(id));
        }
        pool.remove(id);
        pool.waker().wake(id);
        pool.stop();
        assert!(seen.recv().is_err());
    }
}
