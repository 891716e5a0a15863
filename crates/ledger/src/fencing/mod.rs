//! Who may write a source.
