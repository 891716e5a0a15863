//! Randomness, injected: the only place where the operating system's generator is asked.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A source of random bytes.
pub trait Rng: fmt::Debug + Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// What is made from random bytes. Works on every [`Rng`], also behind a pointer.
pub trait RngExt: Rng {
    /// `N` random bytes.
    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// A random 16-byte id.
    fn id<T: From<[u8; 16]>>(&self) -> T {
        T::from(self.bytes())
    }

    /// A number from 0 up to and without `bound`, for jitter (the bias is below 2⁻³² for bounds that fit 32 bits);
    /// 0 if `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        u64::from_le_bytes(self.bytes())
            .checked_rem(bound)
            .unwrap_or(0)
    }
}

impl<R: Rng + ?Sized> RngExt for R {}

/// The operating system's generator.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRng;

impl SystemRng {
    /// The system's generator, ready to be handed on.
    #[must_use]
    pub fn shared() -> Arc<dyn Rng> {
        Arc::new(Self)
    }
}

impl Rng for SystemRng {
    /// # Panics
    /// If the kernel has no generator. Nothing made without one could be secret, so nothing may go on.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where randomness is taken"
    )]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel's random generator answers");
    }
}

/// A generator that repeats itself: the same seed, the same bytes. Never for keys that protect anything.
#[derive(Debug)]
pub struct TestRng {
    state: Mutex<u64>,
}

impl TestRng {
    /// The generator of `seed`.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self {
            state: Mutex::new(seed),
        }
    }

    /// The generator of `seed` as the trait object that components take.
    #[must_use]
    pub fn shared(seed: u64) -> Arc<dyn Rng> {
        Arc::new(Self::seeded(seed))
    }
}

impl Rng for TestRng {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            let word = split_mix(&mut state).to_le_bytes();
            for (byte, random) in chunk.iter_mut().zip(word) {
                *byte = random;
            }
        }
    }
}

/// SplitMix64, one step: short, and every seed gives a full-period stream.
const fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use tidemark_format::ObjectId;

    use super::*;

    #[test]
    fn the_system_gives_a_new_id_each_time() {
        let rng = SystemRng::shared();
        assert_ne!(rng.id::<ObjectId>(), rng.id::<ObjectId>());
    }

    #[test]
    fn one_seed_gives_the_same_bytes_again() {
        let (one, two) = (TestRng::seeded(7), TestRng::seeded(7));
        assert_eq!(one.bytes::<37>(), two.bytes::<37>());
        assert_ne!(one.bytes::<8>(), TestRng::seeded(8).bytes::<8>());
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let rng = TestRng::seeded(1);
        assert!((0..1000).all(|_| rng.below(7) < 7));
        assert_eq!(rng.below(0), 0);
    }
}
