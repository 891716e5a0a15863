//! What `seal` wrote, `open` reads back, and nothing else: one module per kind of object, one for
//! hostile bytes.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test helpers: what fails here fails the test, and sizes are small"
)]

mod bases;
mod hostile;
mod logs;
mod regions;
mod sessions;
mod world;
