//! The pool for work that keeps a core busy: hashing, compressing, encrypting.
//!
//! One per process, sized by the config, so that async tasks never block and a hundred sources
//! share a few threads. In a simulation [`Cpu::Inline`] does the work at once, on the caller's
//! thread. A job whose future was dropped before it began is not run.

use std::any::Any;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

/// The pool could not be started.
#[derive(Debug, thiserror::Error)]
#[error("can't start {threads} worker threads; is TasksMax or the process limit too low?")]
pub struct CpuError {
    threads: usize,
    #[source]
    source: rayon::ThreadPoolBuildError,
}

/// Where heavy computation runs. Clones share one pool.
#[derive(Clone)]
pub enum Cpu {
    /// On the caller's thread, before the call returns.
    Inline,
    /// On the shared pool.
    Pool(Arc<rayon::ThreadPool>),
}

impl Cpu {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// When the system refuses to start them.
    pub fn pool(threads: NonZeroUsize) -> Result<Self, CpuError> {
        let threads = threads.get();
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("cpu-{n}"))
            .build()
            .map(|pool| Self::Pool(Arc::new(pool)))
            .map_err(|source| CpuError { threads, source })
    }

    /// How many jobs can run at once.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self {
            Self::Inline => 1,
            Self::Pool(pool) => pool.current_num_threads(),
        }
    }

    /// Starts `work`; await the job for its result. A panic in `work` is raised where it is awaited.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Job<T> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            if !sender.is_closed() {
                // Nobody waits any more: that is the caller's way to cancel, not a failure.
                drop(sender.send(catch_unwind(AssertUnwindSafe(work))));
            }
        };
        match self {
            Self::Inline => work(),
            Self::Pool(pool) => pool.spawn(work),
        }
        Job { receiver }
    }

    /// Runs `work` in the pool and blocks until it is done, so that rayon's parallel iterators in
    /// it use the pool's threads. Not for async code.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Inline => work(),
            Self::Pool(pool) => pool.install(work),
        }
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline => f.write_str("Cpu::Inline"),
            Self::Pool(pool) => write!(f, "Cpu::Pool({})", pool.current_num_threads()),
        }
    }
}

/// Work handed to a [`Cpu`]; a future of its result.
#[derive(Debug)]
#[must_use = "a job that is dropped before it began is not run"]
pub struct Job<T> {
    receiver: oneshot::Receiver<Result<T, Box<dyn Any + Send>>>,
}

impl<T> Future for Job<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.receiver).poll(context)) {
            Ok(Ok(value)) => Poll::Ready(value),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_closed) => unreachable!("the pool runs every job that somebody waits for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn work_runs_on_the_pools_threads_and_inline_on_the_callers() {
        let pool = Cpu::pool(NonZeroUsize::new(2).unwrap()).unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        assert!(block_on(pool.run(name)).unwrap().starts_with("cpu-"));
        assert_eq!(block_on(Cpu::Inline.run(name)), name());
        assert_eq!(pool.threads(), 2);
    }

    #[test]
    #[should_panic(expected = "at work")]
    fn a_panic_is_raised_where_the_job_is_awaited() {
        let pool = Cpu::pool(NonZeroUsize::MIN).unwrap();
        block_on(pool.run(|| panic!("at work")));
    }
}
