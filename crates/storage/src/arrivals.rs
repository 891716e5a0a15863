//! Who wants to know of the bytes of an answer while they still arrive: a progress bar on a slow link.
//!
//! Only tells. A store that has an answer at once tells nothing, and bytes of a try that broke off
//! were told, too: the watcher caps what it makes of them. It is called often and must be quick.

use std::sync::Arc;

/// Is told of bytes as they arrive.
pub type Watcher = Arc<dyn Fn(u64) + Send + Sync>;

tokio::task_local! {
    static WATCHER: Watcher;
}

/// Runs `reading`; `watcher` is told of the bytes that arrive for it.
pub async fn watched<F: Future>(watcher: Watcher, reading: F) -> F::Output {
    WATCHER.scope(watcher, reading).await
}

/// Some bytes of an answer arrived.
pub(crate) fn arrived(bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    // Outside of `watched` nobody wants to know.
    let _nobody = WATCHER.try_with(|watcher| watcher(bytes));
}
