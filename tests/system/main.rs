//! system: filled as its subjects arrive.
