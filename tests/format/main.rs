//! format: filled as its subjects arrive.
