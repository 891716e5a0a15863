//! From plan to database: bases in parallel, then the log in order.
pub mod units;
