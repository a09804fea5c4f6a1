//! Two sockets joined: what comes from one goes to the other, until both have ended.
//!
//! `upstream` joins a program's socket with its browser's. A message of a few bytes costs one wake-up and two
//! system calls on its way, so each pair has a plain thread: the runtime's workers, which wake each other to share
//! work, cost a third more. Invariants: neither direction waits for the other (a program that only writes
//! still gets its bytes taken), each holds at most [`BUFFER_BYTES`]; whoever gives up waiting for the end ends it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::sync::oneshot;

/// Of each direction: a large message passes in few steps, and a slow reader holds little memory.
const BUFFER_BYTES: usize = 64 * 1024;
const STACK_BYTES: usize = 128 * 1024;

/// A socket that does not block, and what was read of it already.
pub struct End {
    pub socket: OwnedFd,
    pub said: Bytes,
}

/// Returns when both have ended. Dropped before, it cuts both.
pub async fn join(a: End, b: End) -> io::Result<()> {
    let pair = Arc::new((a.socket, b.socket));
    let cut = Cut(pair.clone());
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Whoever waited may be gone.
        let _ = tell.send(run(&pair.0, &pair.1, &a.said, &b.said));
    };
    std::thread::Builder::new().name("relay".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
    let ended = told.await.unwrap_or_else(|_| Err(io::Error::other("the thread ended by a panic")));
    drop(cut);
    ended
}

/// Ends both sockets, and with them the thread that reads them.
struct Cut(Arc<(OwnedFd, OwnedFd)>);

impl Drop for Cut {
    fn drop(&mut self) {
        for socket in [&self.0.0, &self.0.1] {
            // One that is closed by its peer has ended already.
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}

/// One direction.
struct Way {
    buffer: Box<[u8]>,
    /// What was read and is not written yet.
    waiting: std::ops::Range<usize>,
    /// The source has ended, and so was the target told.
    ended: bool,
}

impl Way {
    fn new(said: &[u8]) -> Self {
        let mut buffer = vec![0; BUFFER_BYTES.max(said.len())].into_boxed_slice();
        buffer[..said.len()].copy_from_slice(said);
        Self { buffer, waiting: 0..said.len(), ended: false }
    }

    fn wants_to_read(&self) -> bool {
        self.waiting.is_empty() && !self.ended
    }

    /// Reads where there is nothing to write, and writes what there is.
    fn go_on(&mut self, from: &OwnedFd, to: &OwnedFd, readable: bool) -> io::Result<()> {
        if readable && self.wants_to_read() {
            match rustix::io::read(from, &mut *self.buffer) {
                Ok(0) => {
                    self.ended = true;
                    // It may have ended as well.
                    let _ = rustix::net::shutdown(to, Shutdown::Write);
                }
                Ok(bytes) => self.waiting = 0..bytes,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !self.waiting.is_empty() {
            match rustix::net::send(to, &self.buffer[self.waiting.clone()], rustix::net::SendFlags::NOSIGNAL) {
                Ok(bytes) => self.waiting.start += bytes,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn run(a: &OwnedFd, b: &OwnedFd, a_said: &[u8], b_said: &[u8]) -> io::Result<()> {
    let (mut there, mut back) = (Way::new(a_said), Way::new(b_said));
    there.go_on(a, b, false)?;
    back.go_on(b, a, false)?;
    while !(there.ended && back.ended) {
        let wish = |reads: &Way, writes: &Way| {
            let input = if reads.wants_to_read() { PollFlags::IN } else { PollFlags::empty() };
            let output = if writes.waiting.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            input | output
        };
        let (a_wish, b_wish) = (wish(&there, &back), wish(&back, &there));
        let mut both = [PollFd::new(a, a_wish), PollFd::new(b, b_wish)];
        // One of which nothing is wanted would still tell of its end, again and again.
        let asked = match (a_wish.is_empty(), b_wish.is_empty()) {
            (true, _) => &mut both[1..],
            (_, true) => &mut both[..1],
            _ => &mut both[..],
        };
        match poll(asked, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let readable = |ready: PollFlags| ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let (a_ready, b_ready) = (both[0].revents(), both[1].revents());
        there.go_on(a, b, readable(a_ready))?;
        back.go_on(b, a, readable(b_ready))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    /// The two outer ends of a relay, and the relay.
    fn relayed(said: [&'static [u8]; 2]) -> (UnixStream, UnixStream, impl Future<Output = io::Result<()>>) {
        let end = |said| {
            let (outer, inner) = UnixStream::pair().unwrap();
            inner.set_nonblocking(true).unwrap();
            (outer, End { socket: inner.into(), said: Bytes::from_static(said) })
        };
        let ((a, a_end), (b, b_end)) = (end(said[0]), end(said[1]));
        (a, b, join(a_end, b_end))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_what_was_said_before_goes_first() {
        let (mut a, mut b, relay) = relayed([b"first ", b""]);
        let talk = tokio::task::spawn_blocking(move || {
            a.write_all(b"then").unwrap();
            let mut heard = [0; 10];
            b.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"first then");
            b.write_all(b"answer").unwrap();
            b.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = String::new();
            a.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "answer", "one end is told of the other's");
            // The other way still goes.
            a.write_all(b"bye").unwrap();
            drop(a);
            b.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "answerbye");
        });
        relay.await.unwrap();
        talk.await.unwrap();
    }

    /// Each side writes far more than all buffers hold before it reads anything.
    #[tokio::test]
    async fn two_large_messages_at_once_do_not_wait_for_each_other() {
        const LARGE: usize = 8 * 1024 * 1024;
        let (a, b, relay) = relayed([b"", b""]);
        let side = |mut stream: UnixStream| {
            tokio::task::spawn_blocking(move || {
                let mut reading = stream.try_clone().unwrap();
                let reader = std::thread::spawn(move || {
                    let mut heard = Vec::new();
                    reading.read_to_end(&mut heard).unwrap();
                    heard.len()
                });
                stream.write_all(&vec![7; LARGE]).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                reader.join().unwrap()
            })
        };
        let (ended, a, b) = tokio::join!(relay, side(a), side(b));
        ended.unwrap();
        assert_eq!((a.unwrap(), b.unwrap()), (LARGE, LARGE));
    }

    #[tokio::test]
    async fn one_that_only_writes_is_not_kept_from_it_by_an_end_that_does_not_read() {
        const LARGE: usize = 8 * 1024 * 1024;
        let (mut a, mut b, relay) = relayed([b"", b""]);
        let talk = tokio::task::spawn_blocking(move || {
            a.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            b.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            // Nobody reads of a: it fills up.
            while b.write_all(&[7; 4096]).is_ok() {}
            let reader = std::thread::spawn(move || {
                let mut heard = vec![0; LARGE];
                b.read_exact(&mut heard).unwrap();
                b
            });
            a.write_all(&vec![7; LARGE]).unwrap();
            // Both stay open: the end of one would end the relay before its talk is judged.
            (a, reader.join().unwrap())
        });
        tokio::select! {
            ended = relay => panic!("{ended:?}"),
            talked = talk => drop(talked.unwrap()),
        }
    }

    #[tokio::test]
    async fn whoever_gives_up_cuts_both() {
        let (mut a, mut b, relay) = relayed([b"", b""]);
        assert!(tokio::time::timeout(Duration::from_millis(20), relay).await.is_err());
        let ended = tokio::task::spawn_blocking(move || (a.read(&mut [0; 1]).unwrap(), b.read(&mut [0; 1]).unwrap()));
        assert_eq!(ended.await.unwrap(), (0, 0));
    }
}
