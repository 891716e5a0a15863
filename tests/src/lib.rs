//! What the test targets share: where the tree is, what cargo says about it, the programs it builds.
//!
//! Everything here panics with what it tried when the tree is not as it must be: a test that cannot
//! look at its subject has failed.

mod markdown;
mod programs;
mod tree;
mod wait;

pub use markdown::{Link, Table, TestName, links, shell_lines, table_under, test_names};
pub use programs::program;
pub use tree::{Source, cargo_metadata, cargo_tree, read, root, rust_sources, test_functions};
pub use wait::{eventually, eventually_ok, throughout};
