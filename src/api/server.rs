//! Listeners and connections: accepts, bounds and closes them. It knows HTTP's framing, no routes.
//!
//! [`run`] owns every connection in one `JoinSet` and returns when all have ended. Invariants: at most
//! `max_connections` are kept, and at the cap the one that has waited longest without a request makes
//! room, so that idle or half-open peers never shut out an honest one; a head takes at most
//! [`HEAD_TIMEOUT`]; a stop lets running requests finish for [`CLOSE_TIMEOUT`], then cuts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::Layer;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::Predicate;

use super::body::Reply;
use super::connection::Guarded;
use super::peer::{Peer, User};

/// For a whole head, and for an idle connection's next one.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a stop waits for running requests.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);
/// At a stop, what a connection has for its first request, from when it was accepted. With sockets that stay open over
/// a restart nobody is refused only if those who were just let in are heard.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_BUFFER_BYTES: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;
/// Shorter answers fit one packet anyway.
const COMPRESSED_FROM_BYTES: u64 = 1_400;
/// What a connection has to send its first request before it may make room for others.
const FIRST_CHANCE: Duration = Duration::from_millis(100);
/// Between looks for one that may.
const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// Wait after a failed accept: the usual cause (no file descriptors) does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// Answers requests. Never fails: an error is an answer too.
pub trait App: Send + Sync + 'static {
    /// `consumed` is set when the request's body was read to its end.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        consumed: Arc<AtomicBool>,
    ) -> impl Future<Output = Response<Reply>> + Send;
}

/// One connection, as the cap sees it.
struct Entry {
    busy: AtomicBool,
    since: Mutex<Instant>,
    cut: CancellationToken,
    /// The first request has come.
    begun: CancellationToken,
}

impl Entry {
    fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Comes back with the first request, or when there was time enough for one.
    async fn first_request(&self) {
        let left = self.waiting_since().map_or(Duration::ZERO, |since| FIRST_REQUEST.saturating_sub(since.elapsed()));
        // In time or not: what follows is the same.
        let _ = timeout(left, self.begun.cancelled()).await;
    }

    fn waiting_since(&self) -> Option<Instant> {
        let idle = !self.busy.load(Ordering::Relaxed);
        idle.then(|| *self.since.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether one more connection fits.
enum Room {
    Free,
    /// When this one is cut.
    Of(u64),
    /// All that wait have only just come.
    Soon,
    /// All are at work.
    None,
}

/// All connections.
struct Registry {
    max: usize,
    entries: HashMap<u64, Arc<Entry>>,
    next: u64,
}

impl Registry {
    /// Who makes room for another.
    fn room(&self, now: Instant) -> Room {
        if self.entries.len() < self.max {
            return Room::Free;
        }
        let waiting = |(id, entry): (&u64, &Arc<Entry>)| entry.waiting_since().map(|since| (since, *id));
        match self.entries.iter().filter_map(waiting).min() {
            None => Room::None,
            Some((since, _)) if now.duration_since(since) < FIRST_CHANCE => Room::Soon,
            Some((_, longest)) => Room::Of(longest),
        }
    }

    /// None: the cap is reached and every connection has a request under way. A connection that has only just
    /// come is let have its say first: meanwhile others wait in the kernel's queue.
    async fn admit(registry: &mut Self) -> Option<(u64, Arc<Entry>)> {
        let cut = loop {
            match registry.room(Instant::now()) {
                Room::Free => break None,
                Room::Of(longest) => break Some(longest),
                Room::Soon => sleep(ROOM_PAUSE).await,
                Room::None => return None,
            }
        };
        Some(registry.add(cut))
    }

    fn add(&mut self, cut: Option<u64>) -> (u64, Arc<Entry>) {
        if let Some(entry) = cut.and_then(|longest| self.entries.remove(&longest)) {
            entry.cut.cancel();
        }
        self.next += 1;
        let (busy, since) = (AtomicBool::new(false), Mutex::new(Instant::now()));
        let (cut, begun) = (CancellationToken::new(), CancellationToken::new());
        let entry = Arc::new(Entry { busy, since, cut, begun });
        self.entries.insert(self.next, Arc::clone(&entry));
        (self.next, entry)
    }
}

/// Serves until `stop`, then until every connection has ended.
pub async fn run<A: App>(
    app: Arc<A>,
    tcp: TcpListener,
    unix: Option<UnixListener>,
    max_connections: usize,
    stop: CancellationToken,
) {
    let mut registry = Registry { max: max_connections.max(1), entries: HashMap::new(), next: 0 };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => reap(&mut registry, ended),
            accepted = tcp.accept() => match accepted {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!("no TCP_NODELAY: {error}");
                    }
                    let Some((id, entry)) = Registry::admit(&mut registry).await else {
                        refuse(&stream.try_write(REFUSAL));
                        continue;
                    };
                    let peer = Peer::Address(peer.ip());
                    connections.spawn(connection(stream, Arc::clone(&app), peer, id, entry, stop.clone()));
                }
                Err(error) => pause(&error).await,
            },
            accepted = accept_unix(unix.as_ref()) => match accepted {
                Ok(stream) => {
                    let Some((id, entry)) = Registry::admit(&mut registry).await else {
                        refuse(&stream.try_write(REFUSAL));
                        continue;
                    };
                    let user = stream.peer_cred().ok().map(|user| User { uid: user.uid(), gid: user.gid() });
                    connections.spawn(connection(stream, Arc::clone(&app), Peer::Unix(user), id, entry, stop.clone()));
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop((tcp, unix));
    while let Some(ended) = connections.join_next().await {
        reap(&mut registry, ended);
    }
}

fn reap(registry: &mut Registry, ended: Result<u64, tokio::task::JoinError>) {
    match ended {
        Ok(id) => drop(registry.entries.remove(&id)),
        // Its entry is the first that will be cut at the cap; a panic is caught before it comes here.
        Err(error) => tracing::error!("a connection ended badly: {error}"),
    }
}

fn refuse(written: &io::Result<usize>) {
    tracing::warn!(told = written.is_ok(), "a connection was refused: all are in use");
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

/// One connection until its end; gives back its number.
async fn connection<A, I>(io: I, app: Arc<A>, peer: Peer, id: u64, entry: Arc<Entry>, stop: CancellationToken) -> u64
where
    A: App,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let consumed = Arc::new(AtomicBool::new(true));
    let io = TokioIo::new(Guarded::new(io, Arc::clone(&consumed)));
    let cut = entry.cut.clone();
    let counted = Arc::clone(&entry);
    let answer = tower::service_fn(move |request| {
        let (app, consumed, entry) = (Arc::clone(&app), Arc::clone(&consumed), Arc::clone(&counted));
        async move {
            let busy = Busy::begin(entry);
            let response = app.answer(request, peer, consumed).await;
            Ok::<_, Infallible>(response.map(|inner| Watched { inner, _busy: busy }))
        }
    });
    let compressed = CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(LargeText);
    let service = TowerToHyperService::new(compressed.layer(answer));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(MAX_HEADERS);
    http.max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_BUFFER_BYTES);
    let mut served = pin!(http.serve_connection(io, service).with_upgrades());
    let ended = tokio::select! {
        // The stop first: an answer that becomes ready at the same moment still says `Connection: close`.
        biased;
        () = stop.cancelled() => {
            if !entry.begun.is_cancelled() {
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
        () = cut.cancelled() => return id,
        ended = served.as_mut() => ended,
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
        const TEXTS: [&str; 6] =
            ["application/json", "application/problem+json", "text/html", "text/plain", "text/css", "text/javascript"];
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        let long = response.body().size_hint().exact().is_some_and(|bytes| bytes >= COMPRESSED_FROM_BYTES);
        long && TEXTS.contains(&kind)
    }
}

/// Marks its connection busy from the head to the last byte handed over.
struct Busy(Arc<Entry>);

impl Busy {
    fn begin(entry: Arc<Entry>) -> Self {
        entry.set_busy(true);
        entry.begun.cancel();
        Self(entry)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
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
