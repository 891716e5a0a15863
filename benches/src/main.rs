//! One row of the results: measures it and prints measured, goal, MET or MISSED.

fn main() {}
