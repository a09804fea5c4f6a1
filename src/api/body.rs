//! Bodies, in both directions: what is read from a request is bounded in size and time, what is sent
//! is bytes or a file in pieces.
//!
//! Every handler reads through [`RequestBody`]. Invariant: a body that is larger than its limit or
//! slower than [`GRACE`] plus [`LEAST_BYTES_PER_SECOND`] ends in an error, never in a longer wait.
//! Whether a body was read to its end is told to the connection, which lingers if it was not.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Response, StatusCode, header};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tokio_util::io::ReaderStream;

use super::error::{ApiError, Code};

/// The body of an answer.
pub type Reply = UnsyncBoxBody<Bytes, io::Error>;

/// Time that every body has, however small.
const GRACE: Duration = Duration::from_secs(20);
/// A body must come at least as fast, averaged over its whole time.
const LEAST_BYTES_PER_SECOND: u64 = 16 * 1024;
const FILE_PIECE_BYTES: usize = 64 * 1024;

/// The body of a request, not yet read. The default is none.
#[derive(Default)]
pub struct RequestBody {
    /// None: the request came without one.
    inner: Option<UnsyncBoxBody<Bytes, BodyFailed>>,
    /// Set when the body was read to its end.
    consumed: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BodyFailed(String);

impl RequestBody {
    pub fn new<B>(body: B, consumed: Arc<AtomicBool>) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let empty = body.is_end_stream();
        consumed.store(empty, Ordering::Relaxed);
        let inner = (!empty).then(|| body.map_err(|error| BodyFailed(error.to_string())).boxed_unsync());
        Self { inner, consumed }
    }

    /// Whether the request came without a body.
    pub fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    /// The whole body in memory.
    pub async fn collect(self, max_bytes: u64) -> Result<Bytes, ApiError> {
        let mut pieces = std::pin::pin!(self.pieces(max_bytes));
        let Some(first) = pieces.try_next().await? else { return Ok(Bytes::new()) };
        let Some(second) = pieces.try_next().await? else { return Ok(first) };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(piece) = pieces.try_next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The body piece by piece, with its size and pace watched.
    pub fn pieces(self, max_bytes: u64) -> impl Stream<Item = Result<Bytes, ApiError>> + Send {
        self.pieces_within(max_bytes, GRACE)
    }

    fn pieces_within(self, max_bytes: u64, grace: Duration) -> impl Stream<Item = Result<Bytes, ApiError>> + Send {
        let declared = self.inner.as_ref().map_or(0, |inner| inner.size_hint().lower());
        let state = Pieces { body: self, begun: Instant::now(), received: 0 };
        stream::try_unfold(state, move |mut state| async move {
            if declared > max_bytes {
                return Err(too_large(max_bytes));
            }
            loop {
                let seconds = state.received / LEAST_BYTES_PER_SECOND;
                let deadline = state.begun + grace + Duration::from_secs(seconds);
                let Some(inner) = state.body.inner.as_mut() else { return Ok(None) };
                let frame = timeout_at(deadline, inner.frame()).await.map_err(|_| too_slow())?;
                let Some(frame) = frame else {
                    state.body.consumed.store(true, Ordering::Relaxed);
                    return Ok(None);
                };
                let frame = frame.map_err(|error| ApiError::new(Code::BrokenBody, error.to_string()))?;
                let Ok(piece) = frame.into_data() else { continue };
                state.received += u64::try_from(piece.len()).expect("a piece's length fits");
                if state.received > max_bytes {
                    return Err(too_large(max_bytes));
                }
                return Ok(Some((piece, state)));
            }
        })
    }
}

struct Pieces {
    body: RequestBody,
    begun: Instant,
    received: u64,
}

pub fn too_large(max_bytes: u64) -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("At most {max_bytes} bytes are accepted here."))
        .with_header(header::CONNECTION, HeaderValue::from_static("close"))
}

fn too_slow() -> ApiError {
    ApiError::new(Code::BodyTimeout, "The body came too slowly; send it again.")
        .with_header(header::CONNECTION, HeaderValue::from_static("close"))
}

/// Whether the declared content type is JSON, once, in no other encoding than JSON has.
pub fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let Ok(text) = only.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let utf8 = |part: &str| {
        let charset = part.split_once('=').filter(|(name, _)| name.eq_ignore_ascii_case("charset"));
        charset.is_some_and(|(_, charset)| charset.trim_matches('"').eq_ignore_ascii_case("utf-8"))
    };
    parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) && parts.all(utf8)
}

/// A body of bytes.
pub fn full(bytes: impl Into<Bytes>) -> Reply {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> Response<Reply> {
    json_text(status, value.to_string())
}

/// A JSON answer that is text already.
pub fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// The first `bytes` of an open file, in pieces.
pub fn file(file: tokio::fs::File, bytes: u64) -> Reply {
    let pieces = ReaderStream::with_capacity(tokio::io::AsyncReadExt::take(file, bytes), FILE_PIECE_BYTES);
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

#[cfg(test)]
pub async fn read_reply(response: Response<Reply>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body<S>(pieces: S) -> RequestBody
    where
        S: Stream<Item = Result<&'static str, io::Error>> + Send + 'static,
    {
        let frames = pieces.map(|piece| piece.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
        RequestBody::new(StreamBody::new(Box::pin(frames)), Arc::default())
    }

    #[tokio::test]
    async fn a_body_is_bounded_in_size() {
        let two = || body(stream::iter([Ok("abc"), Ok("de")]));
        assert_eq!(two().collect(5).await.unwrap(), "abcde");
        assert_eq!(two().collect(4).await.unwrap_err().code(), Code::BodyTooLarge);
        let declared = RequestBody::new(Full::new(Bytes::from_static(b"abcde")), Arc::default());
        assert_eq!(declared.collect(4).await.unwrap_err().code(), Code::BodyTooLarge);
        let cut = body(stream::iter([Ok("abc"), Err(io::Error::other("cut"))]));
        assert_eq!(cut.collect(9).await.unwrap_err().code(), Code::BrokenBody);
    }

    #[tokio::test]
    async fn a_body_that_drips_or_hangs_is_given_up() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some((Ok("x"), ()))
        });
        let hang = stream::once(std::future::pending());
        for slow in [body(drip), body(hang)] {
            let pieces: Result<Vec<Bytes>, _> =
                slow.pieces_within(u64::MAX, Duration::from_millis(20)).try_collect().await;
            assert_eq!(pieces.unwrap_err().code(), Code::BodyTimeout);
        }
    }

    #[tokio::test]
    async fn a_body_that_was_not_read_is_known() {
        let consumed = Arc::new(AtomicBool::new(false));
        let unread = RequestBody::new(Full::new(Bytes::from_static(b"abc")), Arc::clone(&consumed));
        assert!(!unread.is_empty());
        drop(unread);
        assert!(!consumed.load(Ordering::Relaxed));
        let read = RequestBody::new(Full::new(Bytes::from_static(b"abc")), Arc::clone(&consumed));
        read.collect(3).await.unwrap();
        assert!(consumed.load(Ordering::Relaxed));
        RequestBody::new(Full::new(Bytes::new()), Arc::clone(&consumed));
        assert!(consumed.load(Ordering::Relaxed));
    }

    #[test]
    fn json_is_named_once_and_exactly() {
        let headers = |types: &[&'static str]| {
            let mut map = HeaderMap::new();
            for kind in types {
                map.append(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            map
        };
        assert!(is_json(&headers(&["application/json"])));
        assert!(is_json(&headers(&["Application/JSON; charset=utf-8"])));
        for wrong in [&["text/plain"][..], &[], &["application/json", "text/plain"], &["application/jsonp"], &[""]] {
            assert!(!is_json(&headers(wrong)), "{wrong:?}");
        }
    }
}
