//! Connections over real sockets, with a made-up app behind them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::api::body::{RequestBody, full};

/// Answers by path.
#[derive(Default)]
struct Fake {
    reached: Notify,
    release: Notify,
}

impl App for Fake {
    async fn answer(&self, request: Request<Incoming>, peer: Peer, consumed: &Arc<AtomicBool>) -> Response<Reply> {
        let (head, body) = request.into_parts();
        let body = RequestBody::new(body, Arc::clone(consumed));
        match head.uri.path() {
            "/wait" => {
                self.reached.notify_one();
                self.release.notified().await;
                Response::new(full("waited"))
            }
            "/refuse" => {
                let mut response = Response::new(full("refused"));
                response.headers_mut().insert("connection", "close".parse().unwrap());
                response
            }
            _ => {
                let bytes = body.collect(1 << 20).await.map_or(0, |bytes| bytes.len());
                Response::new(full(format!("{} {bytes}", if peer.is_unix() { "Unix" } else { "Address" })))
            }
        }
    }
}

struct Running {
    app: Arc<Fake>,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    server: JoinSet<()>,
    socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

async fn running(max_connections: usize) -> Running {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let unix = UnixListener::bind(&socket).unwrap();
    let (app, stop) = (Arc::new(Fake::default()), CancellationToken::new());
    let mut server = JoinSet::new();
    let bounds = Bounds { max_connections, proxies: Vec::new() };
    server.spawn(run(Arc::clone(&app), tcp, Some(unix), bounds, stop.clone()));
    Running { app, address, stop, server, socket, _dir: dir }
}

async fn send(io: &mut (impl AsyncWrite + Unpin), text: &str) {
    io.write_all(text.as_bytes()).await.unwrap();
}

/// Until the peer closes.
async fn read_all(io: &mut (impl AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    io.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn read_until(io: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        text.push(io.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn both_listeners_answer_and_a_stop_ends_them() {
    let mut running = running(8).await;
    let mut tcp = TcpStream::connect(running.address).await.unwrap();
    send(&mut tcp, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut tcp, "Address 0").await;
    let mut unix = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    send(&mut unix, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").await;
    read_until(&mut unix, "Unix 3").await;
    running.stop.cancel();
    running.server.join_next().await.unwrap().unwrap();
    assert_eq!(read_all(&mut tcp).await, "", "an idle connection is closed");
    assert!(TcpStream::connect(running.address).await.is_err());
}

#[tokio::test]
async fn a_running_request_is_finished_at_a_stop() {
    let mut running = running(8).await;
    let mut tcp = TcpStream::connect(running.address).await.unwrap();
    send(&mut tcp, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    running.app.reached.notified().await;
    running.stop.cancel();
    running.app.release.notify_one();
    let answer = read_all(&mut tcp).await;
    assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer}");
    running.server.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn at_the_cap_the_longest_idle_makes_room_and_busy_ones_do_not() {
    let running = running(2).await;
    let mut busy = TcpStream::connect(running.address).await.unwrap();
    send(&mut busy, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    running.app.reached.notified().await;
    let mut half = TcpStream::connect(running.address).await.unwrap();
    send(&mut half, "GET / HTTP/1.1\r\nHo").await;
    let mut honest = TcpStream::connect(running.address).await.unwrap();
    send(&mut honest, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    running.app.reached.notified().await;
    // Reset or end: the half head was cut for the honest one.
    assert!(half.read(&mut [0; 64]).await.map_or(0, |read| read) == 0);
    let mut refused = TcpStream::connect(running.address).await.unwrap();
    let answer = read_all(&mut refused).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    let mut operator = tokio::net::UnixStream::connect(&running.socket).await.unwrap();
    send(&mut operator, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut operator, "Unix 0").await;
    running.app.release.notify_one();
    running.app.release.notify_one();
    read_until(&mut busy, "waited").await;
    running.app.release.notify_one();
    read_until(&mut honest, "waited").await;
}

#[tokio::test]
async fn an_answer_before_the_body_reaches_the_sender() {
    let running = running(2).await;
    let mut tcp = TcpStream::connect(running.address).await.unwrap();
    let body = vec![b'x'; 8 << 20];
    send(&mut tcp, &format!("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    let (mut read, mut write) = tcp.split();
    let (sent, answer) = tokio::join!(write.write_all(&body), read_until(&mut read, "refused"));
    sent.expect("the rest of the body is taken");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_head_has_its_bounds() {
    let running = running(4).await;
    for head in [
        format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD_BYTES)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1)),
    ] {
        let mut tcp = TcpStream::connect(running.address).await.unwrap();
        send(&mut tcp, &head).await;
        let answer = read_until(&mut tcp, "\r\n").await;
        assert_eq!(answer, "HTTP/1.1 431 Request Header Fields Too Large\r\n");
    }
}
