//! What holds for the tree itself: arrows between crates, tidiness, documents that tell the truth,
//! units that stay hardened. Needs no server and no network.

mod architecture;
mod documents;
mod licences;
mod tidy;
mod units;
