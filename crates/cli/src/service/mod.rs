//! What the daemons of both programs share: what systemd is told, signals, the metrics endpoint.

pub mod metrics_http;
pub mod notify;
pub mod signals;
