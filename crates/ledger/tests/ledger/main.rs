//! The ledger over stores in memory: what counts, what doesn't, and who is told what.

#[cfg(test)]
mod copies;
#[cfg(test)]
mod custody;
#[cfg(test)]
mod fencing;
#[cfg(test)]
mod history;
#[cfg(test)]
mod keyring;
#[cfg(test)]
mod region;
#[cfg(test)]
mod revoked;
#[cfg(test)]
mod support;
