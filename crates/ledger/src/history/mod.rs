//! A source's history in one region.

/// placeholder
#[derive(Debug)]
pub struct SourceHistory;
