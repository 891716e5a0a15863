//! Hostile bytes against every decoder: a typed error, never a panic, never an allocation beyond
//! what the object's size allows.
//!
//! Inputs are golden files and the checked-in corpus (`tests/fuzz/corpus/DECODER/`), cut, flipped
//! and spliced, beside wholly random bytes. `TIDEMARK_FUZZ_SECONDS` says how long each decoder is
//! tried (1 by default; `tests/run` gives 20). The decoders run one after another, because the
//! memory they take is measured.

#![expect(
    clippy::print_stdout,
    reason = "how much was tried is part of the result"
)]

mod decoders;
mod hostile;
mod postgres;
