//! databases: filled as its subjects arrive.
