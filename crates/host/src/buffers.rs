//! Large buffers, used again.
//!
//! A fresh buffer of 8 MiB costs two thousand page faults, and as many pages to be zeroed: as much as
//! filling it, and several times that on a virtual machine whose host has to find the memory first.
//!
//! **Bounds.** A few buffers wait to be taken again ([`IDLE_MAX`]), each as large as one was that was
//! needed; they go with the pool.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

/// Smaller ones come from memory that the process has anyway.
const WORTH_KEEPING: usize = 256 << 10;
/// How many wait at most.
const IDLE_MAX: usize = 4;
/// Capacities are multiples of it, so that a buffer fits what comes next, too.
const STEP: usize = 1 << 20;
/// One that is so many times larger is not used up for less.
const WASTE_MAX: usize = 3;

type Idle = Mutex<Vec<Vec<u8>>>;

/// A pool of buffers. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<Idle>);

impl Buffers {
    /// An empty buffer for `size` bytes.
    #[must_use]
    pub fn take(&self, size: usize) -> Vec<u8> {
        if size < WORTH_KEEPING {
            return Vec::with_capacity(size);
        }
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = idle.iter().enumerate();
        let most = size.next_multiple_of(STEP).saturating_mul(WASTE_MAX);
        let fits = fits.filter(|(_, buffer)| (size..=most).contains(&buffer.capacity()));
        let best = fits.min_by_key(|(_, buffer)| buffer.capacity());
        if let Some((at, _)) = best {
            return idle.swap_remove(at);
        }
        // None of those that wait is of the size that is needed now.
        idle.pop();
        drop(idle);
        Vec::with_capacity(size.next_multiple_of(STEP))
    }

    /// What a buffer was filled with; it comes back when the last of that is dropped.
    #[must_use]
    pub fn filled(&self, buffer: Vec<u8>) -> Bytes {
        if buffer.capacity() < WORTH_KEEPING {
            return Bytes::from(buffer);
        }
        Bytes::from_owner(Lent {
            buffer,
            home: Arc::downgrade(&self.0),
        })
    }
}

/// A buffer that somebody reads.
struct Lent {
    buffer: Vec<u8>,
    home: Weak<Idle>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        let mut idle = home.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            idle.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_slice_of_it_is_gone() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(3 << 20);
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"content");
        let bytes = buffers.filled(buffer);
        let slice = bytes.slice(3..);
        drop(bytes);
        let other = buffers.take(3 << 20);
        assert_ne!(other.as_ptr(), place, "it is read");
        assert_eq!(slice, b"tent"[..]);
        drop(slice);
        let again = buffers.take(2 << 20);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }

    #[test]
    fn few_wait_and_others_make_room_for_the_size_that_is_needed() {
        let buffers = Buffers::default();
        let idle = |buffers: &Buffers| buffers.0.lock().unwrap().len();
        drop(buffers.filled(buffers.take(1000)));
        assert_eq!(idle(&buffers), 0);
        let many: Vec<_> = (0..10)
            .map(|_| buffers.filled(buffers.take(STEP)))
            .collect();
        drop(many);
        assert_eq!(idle(&buffers), IDLE_MAX);
        let large = buffers.take(STEP + 1);
        assert!(large.capacity() > STEP);
        assert_eq!(idle(&buffers), IDLE_MAX - 1, "one of them makes room");
        drop(buffers.filled(large));
        assert_eq!(idle(&buffers), IDLE_MAX);
        drop(buffers.take(9 * STEP));
        drop(buffers.filled(buffers.take(9 * STEP)));
        let small = buffers.take(STEP / 2);
        assert!(small.capacity() <= 3 * STEP, "{}", small.capacity());
    }

    #[test]
    fn what_is_read_outlives_its_pool() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(STEP);
        buffer.extend_from_slice(b"content");
        let bytes = buffers.filled(buffer);
        drop(buffers);
        assert_eq!(bytes, b"content"[..]);
    }
}
