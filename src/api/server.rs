//! Listeners and connections: accepts, bounds and closes them. It knows HTTP's framing, no routes.
//!
//! [`run`] owns every connection in one `JoinSet` and returns when all have ended. Invariants: at most
//! `max_connections` are kept over TCP and [`UNIX_CONNECTIONS`] beside them on the unix socket, and at a cap the one
//! that has waited longest without a request makes
//! room, so that idle or half-open peers never shut out an honest one; a head takes at most
//! [`HEAD_TIMEOUT`]; a stop lets running requests finish for [`CLOSE_TIMEOUT`], then cuts.

mod refusal;
mod room;

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

use super::body::Reply;
use super::connection::Guarded;
use super::peer::{Peer, User};
use crate::config::Network;
use room::{Busy, Registry};

pub use room::Entry;

/// For a whole head, and for an idle connection's next one.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for running requests.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_BUFFER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// Shorter answers fit one packet anyway.
const COMPRESSED_FROM_BYTES: u64 = 1_400;
/// On the unix socket, beside all others: whatever happens over TCP, the operator gets in.
const UNIX_CONNECTIONS: usize = 64;
/// Wait after a failed accept: the usual cause (no file descriptors) does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests. Never fails: an error is an answer too.
pub trait App: Send + Sync + 'static {
    /// `consumed` is set when the request's body was read to its end.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        consumed: &Arc<AtomicBool>,
    ) -> impl Future<Output = Response<Reply>> + Send;
}

/// How many connections are kept, and whose count for themselves.
pub struct Bounds {
    pub max_connections: usize,
    /// Those that speak for many.
    pub proxies: Vec<Network>,
}

/// Which of the two registries a connection is in, and its number there.
type Number = (bool, u64);

/// Serves until `stop`, then until every connection has ended.
pub async fn run<A: App>(
    app: Arc<A>,
    tcp: TcpListener,
    unix: Option<UnixListener>,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let mut by_tcp = Registry::new(bounds.max_connections, stop.clone());
    let mut by_unix = Registry::new(UNIX_CONNECTIONS, stop.clone());
    let (mut connections, mut refusals) = (JoinSet::new(), Refusals::default());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => reap(&mut by_tcp, &mut by_unix, ended),
            // Before the others: a crowd over TCP does not keep the operator waiting.
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => {
                    let Some((id, entry)) = Registry::admit(&mut by_unix, None).await else {
                        refusals.refuse(stream);
                        continue;
                    };
                    let user = stream.peer_cred().ok().map(|user| User { uid: user.uid(), gid: user.gid() });
                    let number = (true, id);
                    connections.spawn(connection(stream, Arc::clone(&app), Peer::Unix(user), number, entry, stop.clone()));
                }
                Err(error) => pause(&error).await,
            },
            accepted = tcp.accept() => match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!("no TCP_NODELAY: {error}");
                    }
                    let origin = room::origin(peer.ip(), &bounds.proxies);
                    let Some((id, entry)) = Registry::admit(&mut by_tcp, origin).await else {
                        refusals.refuse(stream);
                        continue;
                    };
                    let (peer, number) = (Peer::Address(peer.ip()), (false, id));
                    connections.spawn(connection(stream, Arc::clone(&app), peer, number, entry, stop.clone()));
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop((tcp, unix));
    while let Some(ended) = connections.join_next().await {
        reap(&mut by_tcp, &mut by_unix, ended);
    }
}

fn reap(by_tcp: &mut Registry, by_unix: &mut Registry, ended: Result<Number, tokio::task::JoinError>) {
    match ended {
        Ok((true, id)) => by_unix.remove(id),
        Ok((false, id)) => by_tcp.remove(id),
        // Its entry is the first that will be cut at the cap; a panic is caught before it comes here.
        Err(error) => tracing::error!("a connection ended badly: {error}"),
    }
}

/// Those that are being told that there is no room.
#[derive(Default)]
struct Refusals(JoinSet<()>);

impl Refusals {
    fn refuse(&mut self, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        tracing::warn!("a connection was refused: all are in use");
        while self.0.try_join_next().is_some() {}
        if self.0.len() < refusal::MAX_TURNED_AWAY {
            self.0.spawn(refusal::turn_away(io));
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!("accept failed: {error}");
    sleep(ACCEPT_PAUSE).await;
}

async fn accept_unix(listener: Option<&UnixListener>) -> io::Result<tokio::net::UnixStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

/// What one connection's requests have in common.
struct Link<A> {
    app: Arc<A>,
    peer: Peer,
    entry: Arc<Entry>,
    /// Whether the last request's body was read to its end.
    consumed: Arc<AtomicBool>,
}

async fn answer<A: App>(link: Arc<Link<A>>, request: Request<Incoming>) -> Result<Response<Watched>, Infallible> {
    let busy = Busy::begin(Arc::clone(&link.entry));
    let encodings = accepted_encodings(request.headers());
    let response = link.app.answer(request, link.peer, &link.consumed).await;
    let response = if LargeText.should_compress(&response) { compressed(response, encodings).await } else { response };
    Ok(response.map(|inner| Watched { inner, _busy: busy }))
}

/// What the client takes, alone: the rest of the head goes to the app.
fn accepted_encodings(headers: &HeaderMap) -> HeaderMap {
    headers.get_all(ACCEPT_ENCODING).iter().map(|value| (ACCEPT_ENCODING, value.clone())).collect()
}

/// As the client takes it. Most answers are too short for that, and do not come here.
async fn compressed(response: Response<Reply>, encodings: HeaderMap) -> Response<Reply> {
    let mut request = Request::new(());
    *request.headers_mut() = encodings;
    let mut made = Some(response);
    let made = tower::service_fn(move |_| ready(Ok::<_, Infallible>(made.take().expect("it is asked once"))));
    let layer = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(LargeText);
    let Ok(response) = layer.layer(made).call(request).await;
    response.map(|body| body.map_err(io::Error::other).boxed_unsync())
}

/// One connection until its end; gives back its number.
async fn connection<A, I>(
    io: I,
    app: Arc<A>,
    peer: Peer,
    id: Number,
    entry: Arc<Entry>,
    stop: CancellationToken,
) -> Number
where
    A: App,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let consumed = Arc::new(AtomicBool::new(true));
    let io = TokioIo::new(Guarded::new(io, Arc::clone(&consumed), Arc::clone(&entry)));
    let link = Arc::new(Link { app, peer, entry: Arc::clone(&entry), consumed });
    let service = service_fn(move |request| answer(Arc::clone(&link), request));
    let mut http = http1::Builder::new();
    // The time of a head is bounded here and not by hyper, which would set a timer anew for each request.
    http.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_BUFFER_BYTES);
    let mut served = pin!(http.serve_connection(io, service).with_upgrades());
    let ended = tokio::select! {
        // The stop first: an answer that becomes ready at the same moment still says `Connection: close`.
        biased;
        () = entry.cut.cancelled() => {
            if !stop.is_cancelled() {
                return id;
            }
            if !entry.has_begun() {
                tokio::select! {
                    biased;
                    _ = served.as_mut() => return id,
                    () = entry.first_request() => {}
                }
            }
            // Without a request there is only the end of an answer to flush.
            let bound = if entry.waiting_since().is_some() { FLUSH_TIMEOUT } else { CLOSE_TIMEOUT };
            served.as_mut().graceful_shutdown();
            match timeout(bound, served).await {
                Ok(ended) => ended,
                Err(_) => return id,
            }
        }
        ended = served.as_mut() => ended,
        () = entry.silent_for(HEAD_TIMEOUT) => return id,
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
    id
}

/// What is worth compressing: text of some length. Events are not: each has to go out at once.
#[derive(Clone, Copy)]
struct LargeText;

impl Predicate for LargeText {
    fn should_compress<B: Body>(&self, response: &Response<B>) -> bool {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        response.body().size_hint().exact().is_some_and(|bytes| is_large_text(kind.unwrap_or_default(), bytes))
    }
}

/// Whether an answer of this type and length is compressed for who takes it so.
pub fn is_large_text(content_type: &str, bytes: u64) -> bool {
    const TEXTS: [&str; 6] =
        ["application/json", "application/problem+json", "text/html", "text/plain", "text/css", "text/javascript"];
    let kind = content_type.split(';').next().unwrap_or_default();
    bytes >= COMPRESSED_FROM_BYTES && TEXTS.contains(&kind)
}

struct Watched {
    inner: Reply,
    _busy: Busy,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests;
