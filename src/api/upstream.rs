//! One exchange with a session's DevTools port: a file, or a WebSocket.
//!
//! The handlers of DevTools and of lent sessions call this. Invariants: no exchange takes longer than [`DEADLINE`] and no
//! file more than [`MAX_FILE_BYTES`]; the connection is driven by whoever waits for it, so nothing is left
//! behind when a request goes away. A WebSocket that both sides have agreed to is two
//! streams of bytes that are passed on as they come. It knows neither tokens nor which paths may be asked for.

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::connection::Guarded;
use super::error::{ApiError, Code};
use super::relay::{self, End};

pub const DEADLINE: Duration = Duration::from_secs(5);
const MAX_FILE_BYTES: usize = 32 * 1024 * 1024;

/// What a WebSocket handshake carries on to the browser. Not `Origin`: the browser refuses any.
const HANDSHAKE: [HeaderName; 4] = [
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_PROTOCOL,
];

pub fn wants_socket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// What is passed on of a request for a WebSocket.
pub fn handshake(headers: &HeaderMap) -> HeaderMap {
    HANDSHAKE.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

/// A file of the browser's.
pub struct Answer {
    pub status: StatusCode,
    pub content_type: Option<HeaderValue>,
    pub body: Bytes,
}

pub fn unreachable(why: impl Display) -> ApiError {
    ApiError::internal(Code::BadGateway, format!("the browser of a profile: {why}"))
}

/// The connection's own work; whoever waits for an answer polls it. None once it has ended.
struct Driver(Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>);

impl Driver {
    async fn run(&mut self) -> hyper::Result<()> {
        let Some(work) = &mut self.0 else { return Ok(()) };
        let ended = work.await;
        self.0 = None;
        ended
    }
}

/// Waits for `exchange` while the connection is driven.
async fn driven<T>(driver: &mut Driver, exchange: impl Future<Output = hyper::Result<T>>) -> hyper::Result<T> {
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = exchange.as_mut() => answer,
        // The connection may end first and leave an answer that is whole, or say why there is none.
        ended = driver.run() => {
            ended?;
            exchange.await
        }
    }
}

async fn ask(port: u16, path: &str, headers: HeaderMap) -> Result<(Driver, Response<Incoming>), ApiError> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(unreachable)?;
    // A small message is sent at once, not when the one before it was acknowledged.
    stream.set_nodelay(true).map_err(unreachable)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    let mut driver = Driver(Some(Box::pin(connection.with_upgrades())));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse().map_err(unreachable)?;
    *request.headers_mut() = headers;
    let host = HeaderValue::from_str(&format!("127.0.0.1:{port}")).map_err(unreachable)?;
    request.headers_mut().insert(header::HOST, host);
    let answer = driven(&mut driver, sender.send_request(request)).await.map_err(unreachable)?;
    Ok((driver, answer))
}

pub async fn get(port: u16, path: &str) -> Result<Answer, ApiError> {
    let fetch = async {
        let close = HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static("close"))]);
        let (mut driver, answer) = ask(port, path, close).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_FILE_BYTES).collect();
        let body = driven(&mut driver, async { Ok(body.await) }).await.map_err(unreachable)?.map_err(unreachable)?;
        let content_type = head.headers.get(header::CONTENT_TYPE).cloned();
        Ok(Answer { status: head.status, content_type, body: body.to_bytes() })
    };
    timeout(DEADLINE, fetch).await.map_err(|_| unreachable("no answer in time"))?
}

/// A WebSocket that the browser has agreed to.
pub struct Socket {
    /// What the browser answered, for the other side.
    pub headers: HeaderMap,
    driver: Driver,
    theirs: OnUpgrade,
}

pub async fn socket(port: u16, path: &str, mut headers: HeaderMap) -> Result<Socket, ApiError> {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let (driver, mut answer) =
        timeout(DEADLINE, ask(port, path, headers)).await.map_err(|_| unreachable("no answer in time"))??;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(unreachable(format!("it refused a WebSocket with {}", answer.status())));
    }
    let theirs = hyper::upgrade::on(&mut answer);
    let mut headers = HeaderMap::new();
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_PROTOCOL,
    ] {
        if let Some(value) = answer.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    Ok(Socket { headers, driver, theirs })
}

impl Socket {
    /// Passes bytes both ways until one side ends.
    pub async fn join(mut self, ours: OnUpgrade) {
        let both = async { tokio::try_join!(self.driver.run(), self.theirs, ours) };
        match timeout(DEADLINE, both).await {
            Ok(Ok(((), theirs, ours))) => {
                let ended = pass_on(theirs, ours).await;
                tracing::debug!(?ended, "a DevTools connection ended");
            }
            Ok(Err(error)) => tracing::debug!("a DevTools connection did not come about: {error}"),
            Err(_) => tracing::debug!("a DevTools connection did not come about in time"),
        }
    }
}

/// The sockets themselves: the layers that HTTP needed over them bound waits that a tunnel may make.
async fn pass_on(theirs: Upgraded, ours: Upgraded) -> io::Result<()> {
    let other = |_| io::Error::other("the connection is no socket");
    let theirs = theirs.downcast::<TokioIo<TcpStream>>().map_err(other)?;
    let theirs = End { socket: theirs.io.into_inner().into_std()?.into(), said: theirs.read_buf };
    let ours = match ours.downcast::<TokioIo<Guarded<TcpStream>>>() {
        Ok(ours) => End { socket: ours.io.into_inner().into_inner().into_std()?.into(), said: ours.read_buf },
        Err(ours) => {
            let ours = ours.downcast::<TokioIo<Guarded<UnixStream>>>().map_err(other)?;
            End { socket: ours.io.into_inner().into_inner().into_std()?.into(), said: ours.read_buf }
        }
    };
    relay::join(theirs, ours).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use crate::api::server::Entry;

    async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        head
    }

    /// A port that takes one connection, reads a head, and goes on with `rest`.
    async fn port<T: Send + 'static, F: Future<Output = T> + Send>(
        rest: impl FnOnce(TcpStream, Vec<u8>) -> F + Send + 'static,
    ) -> (u16, JoinSet<T>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut set = JoinSet::new();
        set.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let asked = head(&mut stream).await;
            rest(stream, asked).await
        });
        (port, set)
    }

    /// A port that answers one connection with `text`, then closes it.
    async fn peer(text: &'static str) -> (u16, JoinSet<Vec<u8>>) {
        port(move |mut stream, asked| async move {
            stream.write_all(text.as_bytes()).await.unwrap();
            asked
        })
        .await
    }

    #[tokio::test]
    async fn a_file_is_fetched_from_the_port_by_its_own_name() {
        let (port, mut set) = peer("HTTP/1.1 200 OK\r\nContent-Type: text/css\r\nContent-Length: 2\r\n\r\nab").await;
        let answer = get(port, "/devtools/a.css").await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"ab"[..]));
        assert_eq!(answer.content_type.unwrap(), "text/css");
        let asked = String::from_utf8(set.join_next().await.unwrap().unwrap()).unwrap().to_ascii_lowercase();
        assert!(
            asked.starts_with("get /devtools/a.css http/1.1\r\n")
                && asked.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{asked}"
        );
        assert!(!asked.contains("origin"));
    }

    /// A port that agrees to one WebSocket, sends what it gets back, and ends after `done`.
    async fn echo() -> (u16, JoinSet<()>) {
        let agreed = "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: k\r\n\r\n";
        port(move |mut stream, _| async move {
            stream.write_all(agreed.as_bytes()).await.unwrap();
            let mut heard = [0; 4];
            while heard != *b"done" {
                stream.read_exact(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
            }
        })
        .await
    }

    #[tokio::test]
    async fn bytes_go_both_ways_until_one_side_ends() {
        let (port, _browser) = echo().await;
        let (mut person, served) = UnixStream::pair().unwrap();
        let entry = Entry::new(None, tokio_util::sync::CancellationToken::new());
        let entry = std::sync::Arc::new(entry);
        let served = Guarded::new(served, std::sync::Arc::default(), entry);
        let tunnels = std::sync::Arc::new(std::sync::Mutex::new(JoinSet::new()));
        let kept = std::sync::Arc::clone(&tunnels);
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let (ours, tunnels) = (hyper::upgrade::on(&mut request), std::sync::Arc::clone(&kept));
            async move {
                let socket = socket(port, "/devtools/page/1", HeaderMap::new()).await.unwrap();
                let mut answer = Response::new(Empty::<Bytes>::new());
                *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *answer.headers_mut() = socket.headers.clone();
                tunnels.lock().unwrap().spawn(socket.join(ours));
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        let mut serving = JoinSet::new();
        serving.spawn(http.serve_connection(TokioIo::new(served), service).with_upgrades());
        let ask = b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        person.write_all(ask).await.unwrap();
        let head = String::from_utf8(head(&mut person).await).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && head.contains("sec-websocket-accept: k"), "{head}");
        for text in [b"ping", b"done"] {
            person.write_all(text).await.unwrap();
            let mut back = [0; 4];
            person.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, text);
        }
        assert_eq!(person.read(&mut [0; 1]).await.unwrap(), 0, "the browser's end is passed on");
    }

    #[tokio::test]
    async fn a_browser_that_answers_badly_is_unreachable() {
        for text in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"] {
            let (port, _set) = peer(text).await;
            assert_eq!(get(port, "/x").await.err().unwrap().code(), Code::BadGateway, "{text}");
        }
        let (port, _set) = peer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(socket(port, "/x", HeaderMap::new()).await.err().unwrap().code(), Code::BadGateway);
    }
}
