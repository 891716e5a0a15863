//! e2e: filled as its subjects arrive.
