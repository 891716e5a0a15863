//! What the PostgreSQL rows share: a cluster as a server in use is set, clients that commit at a rate,
//! and what the signed heads of log objects say.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod pgbackrest;
pub(crate) mod receivewal;
pub(crate) mod restored;
