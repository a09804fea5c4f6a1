//! What a connection beyond the cap is told before it is closed.
//!
//! The server's loop alone makes these. A client that has asked already, or asks at once, gets to see the answer: a
//! close with unread bytes would make the kernel send a reset, which can destroy it. Invariants: nothing that is sent is
//! looked at; one is held for [`HEARD`] twice at most, and [`MAX_TURNED_AWAY`] at a time; beyond that they are closed at once.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::api::carried::Carried;
use crate::api::error::{ApiError, Code};
use crate::api::guard::request_id;
use crate::model::Timestamp;

pub const MAX_TURNED_AWAY: usize = 64;
/// For a request to come, and for the peer's end.
const HEARD: Duration = Duration::from_millis(200);
const PIECE_BYTES: usize = 4 * 1024;

/// The whole answer, as it is sent.
pub fn text() -> Vec<u8> {
    let id = request_id(&HeaderMap::new());
    let error = ApiError::new(Code::TooManyConnections, "Every connection has a request under way; try again.")
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
        .with_header(header::CONNECTION, HeaderValue::from_static("close"));
    let (status, mut headers, body) = error.into_parts(id.as_str());
    // There is no window to tell of, so that the time does not matter.
    Carried::new().add(&mut headers, id, None, Timestamp::ZERO);
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in &headers {
        let value = value.to_str().unwrap_or_default();
        write!(head, "{name}: {value}\r\n").expect("a text takes whatever is written");
    }
    head.push_str("\r\n");
    [head.into_bytes(), body].concat()
}

/// Tells it, and waits a little for the peer to have heard.
pub async fn turn_away(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let mut piece = [0; PIECE_BYTES];
    // In time or not, it is told.
    let _ = timeout(HEARD, io.read(&mut piece)).await;
    let tell = async {
        io.write_all(&text()).await?;
        io.shutdown().await?;
        while io.read(&mut piece).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let told = timeout(HEARD, tell).await;
    tracing::debug!(?told, "a peer was turned away");
}
