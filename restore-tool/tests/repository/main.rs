//! The commands over whole repositories, made by the real write path in directories.

mod restore;
mod world;
