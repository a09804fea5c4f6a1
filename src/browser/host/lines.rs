//! Bounded lines from a socket, for both sides of the host's protocol.
//!
//! A line that is too long, is not UTF-8, or is begun and not finished in time is an error, after which
//! the connection is of no use. Cancel-safe: what was read of a line is kept for the next call, so that
//! a reader may wait for several things at once.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::time::timeout;

use super::protocol::MAX_LINE_BYTES;

/// From the first byte of a line to its last.
const UNFINISHED_LINE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Lines<R> {
    source: BufReader<R>,
    /// The part of a line that is here.
    begun: Vec<u8>,
    unfinished_deadline: Duration,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(source: R) -> Self {
        Self { source: BufReader::new(source), begun: Vec::new(), unfinished_deadline: UNFINISHED_LINE_DEADLINE }
    }

    /// The next line without its end; None at the end of the stream. How long a peer may be silent
    /// between lines is the caller's to say.
    ///
    /// # Errors
    /// When the stream fails, or what comes is not a line.
    pub async fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            let available = if self.begun.is_empty() {
                self.source.fill_buf().await?
            } else {
                let more = timeout(self.unfinished_deadline, self.source.fill_buf()).await;
                more.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            };
            if available.is_empty() {
                return if self.begun.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if self.begun.len() + part.len() >= MAX_LINE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"));
            }
            self.begun.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.source.consume(used);
            if end.is_some() {
                let line = String::from_utf8(std::mem::take(&mut self.begun));
                return line.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::io::AsyncWriteExt;

    use super::{Lines, MAX_LINE_BYTES};

    #[tokio::test]
    async fn lines_are_whole_bounded_and_text() {
        let mut lines = Lines::new(b"one\n\ntwo\n".as_slice());
        for expected in [Some("one"), Some(""), Some("two"), None] {
            assert_eq!(lines.next().await.unwrap().as_deref(), expected);
        }
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert_eq!(Lines::new(long.as_slice()).next().await.unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(Lines::new(b"cut".as_slice()).next().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(Lines::new(b"\xff\n".as_slice()).next().await.unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_call_given_up_loses_nothing() {
        let (mut write, read) = tokio::io::duplex(64);
        let mut lines = Lines::new(read);
        write.write_all(b"ha").await.unwrap();
        tokio::select! {
            biased;
            _ = lines.next() => unreachable!("there is no end of a line yet"),
            () = tokio::task::yield_now() => {}
        }
        write.write_all(b"lf\n").await.unwrap();
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("half"));
    }

    #[tokio::test]
    async fn half_a_line_is_not_waited_for_for_ever() {
        let (mut write, read) = tokio::io::duplex(64);
        write.write_all(b"ha").await.unwrap();
        let mut lines = Lines::new(read);
        lines.unfinished_deadline = std::time::Duration::from_millis(20);
        assert_eq!(lines.next().await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
