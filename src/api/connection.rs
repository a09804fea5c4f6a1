//! The byte stream under one connection: a peer that does not read is given up, and one whose body was
//! refused still gets to see why.
//!
//! The server bounds the wait for a head; nobody else bounds a peer that stops reading, or the close. So:
//! a peer may keep answers waiting for [`STALL`] in all, which reading at [`LEAST_BYTES_PER_SECOND`] gives
//! back, so that one who takes a byte now and then is given up as well; and when a request was answered before its body
//! was read, closing waits a little and discards what still comes, since a close with unread bytes makes
//! the kernel send a reset that can destroy the answer on its way. The server room alone makes these.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use super::server::Entry;

/// Longest time that a peer may keep writes waiting.
pub const STALL: Duration = Duration::from_secs(20);
/// Pace at which patience grows again; the bytes that the kernel holds for the peer count as read.
const LEAST_BYTES_PER_SECOND: u64 = 16 * 1024;
/// Longest time that a close waits for the rest of an unread body.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// A head and a body that are not longer are sent as one piece: the kernel takes that in less time than two.
const SHORT_BYTES: usize = 1024;

pub struct Guarded<I> {
    io: I,
    stalled: Option<Stalled>,
    /// What is left of the time that the peer may keep writes waiting.
    patience: Duration,
    /// Whether the last request's body was read to its end; shared with the body itself.
    consumed: Arc<AtomicBool>,
    /// Told when the peer keeps a write waiting.
    entry: Arc<Entry>,
    lingering: Option<Lingering>,
    stall: Duration,
    linger: Duration,
}

struct Stalled {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

struct Lingering {
    until: Pin<Box<Sleep>>,
    left: usize,
}

impl<I> Guarded<I> {
    pub fn new(io: I, consumed: Arc<AtomicBool>, entry: Arc<Entry>) -> Self {
        Self { io, stalled: None, patience: STALL, consumed, entry, lingering: None, stall: STALL, linger: LINGER }
    }

    /// The stream without its watch.
    pub fn into_inner(self) -> I {
        self.io
    }

    /// What was taken by the peer, or by the kernel for it.
    fn written(&mut self, poll: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = poll {
            let bytes = u64::try_from(*bytes).unwrap_or(u64::MAX);
            let gained = Duration::from_millis(bytes.saturating_mul(1_000) / LEAST_BYTES_PER_SECOND);
            self.patience = self.patience.saturating_add(gained).min(self.stall);
        }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if let Some(stalled) = self.stalled.take() {
                self.patience = self.patience.saturating_sub(stalled.since.elapsed());
                self.entry.set_stalled(false);
            }
            return poll;
        }
        let patience = self.patience;
        let begin = || {
            self.entry.set_stalled(true);
            Stalled { since: Instant::now(), end: Box::pin(sleep(patience)) }
        };
        let stalled = self.stalled.get_or_insert_with(begin);
        ready!(stalled.end.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// All pieces as one, where there is room for them.
fn joined<'a>(pieces: &[io::IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut length = 0;
    for piece in pieces {
        room.get_mut(length..length + piece.len())?.copy_from_slice(piece);
        length += piece.len();
    }
    Some(&room[..length])
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, buf);
        let poll = self.watch(cx, poll);
        self.written(&poll);
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = match joined(bufs, &mut [0; SHORT_BYTES]) {
            Some(short) => Pin::new(&mut self.io).poll_write(cx, short),
            None => Pin::new(&mut self.io).poll_write_vectored(cx, bufs),
        };
        let poll = self.watch(cx, poll);
        self.written(&poll);
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            let poll = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.watch(cx, poll))?;
            if this.consumed.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger;
        let lingering =
            this.lingering.get_or_insert_with(|| Lingering { until: Box::pin(sleep(linger)), left: LINGER_BYTES });
        let mut discarded = [0; 8 * 1024];
        loop {
            if lingering.until.as_mut().poll(cx).is_ready() || lingering.left == 0 {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut discarded);
            // The peer is told already; how its sending ends makes no difference.
            if ready!(Pin::new(&mut this.io).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            lingering.left = lingering.left.saturating_sub(buf.filled().len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_util::sync::CancellationToken;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_hours(1);

    fn guarded(io: DuplexStream, consumed: bool, stall: Duration, linger: Duration) -> Guarded<DuplexStream> {
        let entry = Arc::new(Entry::new(None, CancellationToken::new()));
        Guarded { stall, patience: stall, linger, ..Guarded::new(io, Arc::new(AtomicBool::new(consumed)), entry) }
    }

    #[test]
    fn pieces_become_one_where_they_have_room() {
        let pieces = ["head", "", "body"].map(|piece| io::IoSlice::new(piece.as_bytes()));
        assert_eq!(joined(&pieces, &mut [0; 8]), Some(&b"headbody"[..]));
        assert_eq!(joined(&pieces, &mut [0; 7]), None);
        assert_eq!(joined(&[], &mut [0; 7]), Some(&b""[..]));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = duplex(4);
        let error = guarded(ours, true, SHORT, LONG).write_all(b"more than four").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_a_byte_now_and_then_is_given_up_too() {
        let (ours, mut theirs) = duplex(4);
        let mut ours = guarded(ours, true, Duration::from_millis(40), LONG);
        let began = Instant::now();
        let drips = async {
            while began.elapsed() < Duration::from_secs(20) && theirs.read_u8().await.is_ok() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let sends = async {
            let sent = ours.write_all(&vec![b'x'; 100_000]).await;
            drop(ours);
            sent
        };
        let (sent, ()) = tokio::join!(sends, drips);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_close_waits_for_an_unread_body_and_not_for_ever() {
        let (ours, mut theirs) = duplex(64);
        theirs.write_all(b"rest of a body").await.unwrap();
        guarded(ours, false, LONG, SHORT).shutdown().await.unwrap();

        let (ours, mut theirs) = duplex(8);
        let mut waits = guarded(ours, false, LONG, LONG);
        let sends = async move { theirs.write_all(b"more than the pipe holds").await };
        let (closed, sent) = tokio::join!(waits.shutdown(), sends);
        closed.unwrap();
        sent.expect("what is still sent is taken, and the peer's end ends the wait");

        let (ours, mut theirs) = duplex(64);
        guarded(ours, true, LONG, LONG).shutdown().await.expect("nothing unread, no wait");
        assert_eq!(theirs.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
