//! Keys and their files.
