//! A socket that is read now and then, instead of whenever something arrives.
//!
//! A busy server sends its log in a message for each commit, thousands a second, and waking up for
//! each costs more than what it brings. While [`Patience`] is set and data comes, the socket is taken away
//! from the runtime and tried again after each wait; what came meanwhile waits in the kernel, and a server
//! whose socket is full waits, too. When nothing comes for a while it is watched as any other.
//!
//! **Cancellation.** A read may be dropped at any time: a wait goes on with the next one.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

/// What one read brings at most: sockets of one machine hold three times as much.
const READ_BYTES: usize = 64 << 10;
/// After so many waits for nothing the runtime watches the socket again.
const EMPTY_MAX: u32 = 8;

/// How long a socket waits between two reads; clones share it. Zero: it is read as data comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Patience(Arc<AtomicU64>);

impl Patience {
    pub(super) fn set(&self, wait: Duration) {
        let nanoseconds = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanoseconds, Ordering::Relaxed);
    }

    fn wait(&self) -> Option<Duration> {
        let nanoseconds = self.0.load(Ordering::Relaxed);
        (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
    }
}

/// A socket of the runtime, and the same one without it.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin + Sized {
    /// Non-blocking, watched by nobody.
    type Bare: Read + Write + Send + Unpin;

    fn into_bare(self) -> io::Result<Self::Bare>;
    fn from_bare(bare: Self::Bare) -> io::Result<Self>;
}

impl Socket for TcpStream {
    type Bare = std::net::TcpStream;

    fn into_bare(self) -> io::Result<Self::Bare> {
        self.into_std()
    }

    fn from_bare(bare: Self::Bare) -> io::Result<Self> {
        Self::from_std(bare)
    }
}

impl Socket for UnixStream {
    type Bare = std::os::unix::net::UnixStream;

    fn into_bare(self) -> io::Result<Self::Bare> {
        self.into_std()
    }

    fn from_bare(bare: Self::Bare) -> io::Result<Self> {
        Self::from_std(bare)
    }
}

enum State<S: Socket> {
    /// The runtime tells when something arrives.
    Watched(S),
    /// Nobody does.
    Bare(S::Bare),
    /// It was lost on the way from one to the other.
    Lost,
}

/// A socket with [`Patience`].
pub(super) struct Patient<S: Socket> {
    state: State<S>,
    patience: Patience,
    pause: Pin<Box<Sleep>>,
    pauses: bool,
    empty: u32,
    scratch: Vec<u8>,
}

impl<S: Socket> Patient<S> {
    pub(super) fn new(socket: S, patience: Patience) -> Self {
        Self {
            state: State::Watched(socket),
            patience,
            pause: Box::pin(tokio::time::sleep_until(Instant::now())),
            pauses: false,
            empty: 0,
            scratch: Vec::new(),
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        if let State::Watched(socket) = std::mem::replace(&mut self.state, State::Lost) {
            self.state = State::Bare(socket.into_bare()?);
            self.empty = 0;
            self.pauses = false;
            self.scratch.resize(READ_BYTES, 0);
        }
        Ok(())
    }

    fn watch(&mut self) -> io::Result<&mut S> {
        if matches!(self.state, State::Bare(_))
            && let State::Bare(bare) = std::mem::replace(&mut self.state, State::Lost)
        {
            self.state = State::Watched(S::from_bare(bare)?);
            self.scratch = Vec::new();
        }
        match &mut self.state {
            State::Watched(socket) => Ok(socket),
            State::Bare(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn pause_for(&mut self, wait: Duration) {
        self.pause.as_mut().reset(Instant::now() + wait);
        self.pauses = true;
    }
}

impl<S: Socket> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let bare = match &mut this.state {
                State::Bare(bare) => bare,
                State::Watched(_) | State::Lost => {
                    let before = buffer.filled().len();
                    ready!(Pin::new(this.watch()?).poll_read(context, buffer))?;
                    if buffer.filled().len() > before && this.patience.wait().is_some() {
                        this.leave()?;
                    }
                    return Poll::Ready(Ok(()));
                }
            };
            if this.pauses {
                ready!(this.pause.as_mut().poll(context));
                this.pauses = false;
            }
            let most = buffer.remaining().min(this.scratch.len());
            let read = bare.read(this.scratch.get_mut(..most).unwrap_or_default());
            match read {
                Ok(bytes) => {
                    this.empty = 0;
                    buffer.put_slice(this.scratch.get(..bytes).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    this.empty = this.empty.saturating_add(1);
                    match this.patience.wait() {
                        Some(wait) if this.empty <= EMPTY_MAX => this.pause_for(wait),
                        _ => drop(this.watch()?),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<S: Socket> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let State::Bare(bare) = &mut this.state {
            match bare.write(bytes) {
                // It is watched until there is room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
        Pin::new(this.watch()?).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().state {
            State::Watched(socket) => Pin::new(socket).poll_flush(context),
            // A socket keeps nothing back.
            State::Bare(_) | State::Lost => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().watch()?).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const WAIT: Duration = Duration::from_millis(5);

    fn pair() -> (Patient<UnixStream>, UnixStream, Patience) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let patience = Patience::default();
        (Patient::new(ours, patience.clone()), theirs, patience)
    }

    fn is_watched(socket: &Patient<UnixStream>) -> bool {
        matches!(socket.state, State::Watched(_))
    }

    #[tokio::test]
    async fn without_patience_the_runtime_watches_it() {
        let (mut ours, mut theirs, _patience) = pair();
        for _ in 0..3 {
            theirs.write_all(b"log").await.unwrap();
            let mut read = [0; 3];
            ours.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"log");
            assert!(is_watched(&ours));
        }
    }

    #[tokio::test]
    async fn what_comes_during_a_wait_is_read_together() {
        let (mut ours, mut theirs, patience) = pair();
        patience.set(WAIT);
        let mut read = vec![0; 100];
        theirs.write_all(b"first").await.unwrap();
        assert_eq!(ours.read(&mut read).await.unwrap(), 5);
        assert!(!is_watched(&ours));
        // The next read finds nothing and waits.
        assert!(
            tokio::time::timeout(Duration::from_millis(1), ours.read(&mut read))
                .await
                .is_err()
        );
        for _ in 0..10 {
            theirs.write_all(b"more.").await.unwrap();
        }
        assert_eq!(ours.read(&mut read).await.unwrap(), 50);
        assert_eq!(&read[..10], b"more.more.");
    }

    #[tokio::test]
    async fn silence_gives_it_back_to_the_runtime_and_data_ends_silence() {
        let (mut ours, mut theirs, patience) = pair();
        patience.set(WAIT);
        theirs.write_all(b"first").await.unwrap();
        let mut read = vec![0; 100];
        assert_eq!(ours.read(&mut read).await.unwrap(), 5);
        // (On a busy machine time passes without anybody looking: more than once, then.)
        for _ in 0..200 {
            let silent = tokio::time::timeout(WAIT * (EMPTY_MAX + 20), ours.read(&mut read)).await;
            assert!(silent.is_err());
            if is_watched(&ours) {
                break;
            }
        }
        assert!(is_watched(&ours));
        theirs.write_all(b"second").await.unwrap();
        assert_eq!(ours.read(&mut read).await.unwrap(), 6);
        assert!(!is_watched(&ours));
    }

    #[tokio::test]
    async fn the_end_and_the_other_direction_work_while_nobody_watches() {
        let (mut ours, mut theirs, patience) = pair();
        patience.set(WAIT);
        theirs.write_all(b"x").await.unwrap();
        let mut read = vec![0; 100];
        assert_eq!(ours.read(&mut read).await.unwrap(), 1);
        // More than a socket holds, so that it has to be watched until there is room.
        let long = vec![7; 4 << 20];
        let reading = tokio::spawn(async move {
            let mut found = vec![0; 4 << 20];
            theirs.read_exact(&mut found).await.unwrap();
            found
        });
        ours.write_all(&long).await.unwrap();
        ours.flush().await.unwrap();
        assert_eq!(reading.await.unwrap(), long);
        assert_eq!(ours.read(&mut read).await.unwrap(), 0, "they hung up");
    }
}
