//! A receiver of webhooks, written by hand: it keeps what it was sent and answers as it is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cove::model::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::rig::PATIENCE;

#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Status(u16),
    /// With further lines of the head.
    With(u16, &'static str),
    /// Nothing, and the connection stays.
    Hang,
    /// 200 with a body that does not end as long as somebody reads it.
    Endless,
    /// The connection is closed without an answer.
    Close,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub head: String,
    pub body: String,
    pub at: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id").unwrap()
    }

    /// Computed from the scheme's text alone, with nothing of cove and no HMAC of a library.
    pub fn is_signed_with(&self, key: &[u8]) -> bool {
        let signed = format!("{}.{}.{}", self.id(), self.header("webhook-timestamp").unwrap(), self.body);
        let expected = format!("v1,{}", STANDARD.encode(hmac(key, signed.as_bytes())));
        self.header("webhook-signature") == Some(&expected)
    }
}

/// RFC 2104, for keys of at most a block.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    assert!(key.len() <= BLOCK);
    let pad =
        |with: u8| -> Vec<u8> { (0..BLOCK).map(|place| key.get(place).copied().unwrap_or_default() ^ with).collect() };
    let inner = Sha256::digest([pad(0x36).as_slice(), text].concat());
    Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).into()
}

type Plan = Box<dyn Fn(usize) -> Reply + Send>;

struct Shared {
    seen: Mutex<Vec<Request>>,
    /// What to answer to the request of this number.
    plan: Mutex<Plan>,
    /// Bytes of endless bodies that somebody took.
    taken: Mutex<usize>,
}

pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub async fn start(plan: impl Fn(usize) -> Reply + Send + 'static) -> Self {
        Self::serve(None, plan).await
    }

    /// Over TLS, with the certificate that comes back as PEM.
    pub async fn start_tls(plan: impl Fn(usize) -> Reply + Send + 'static) -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let der = made.cert.der().clone();
        let encoded = STANDARD.encode(&der);
        let lines: Vec<_> = encoded.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], key.into())
            .unwrap();
        (Self::serve(Some(TlsAcceptor::from(Arc::new(config))), plan).await, pem)
    }

    async fn serve(tls: Option<TlsAcceptor>, plan: impl Fn(usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Plan = Box::new(plan);
        let shared = Arc::new(Shared { seen: Mutex::default(), plan: Mutex::new(plan), taken: Mutex::default() });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut serving = JoinSet::new();
        let served = Arc::clone(&shared);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (served, tls) = (Arc::clone(&served), tls.clone());
                connections.spawn(async move {
                    let Some(tls) = tls else { return talk(stream, &served).await };
                    // A client that does not trust the certificate goes away in the middle of this.
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(stream, &served).await;
                    }
                });
            }
        });
        Self { address, scheme, shared, _serving: serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.target())
    }

    pub fn target(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().unwrap().clone()
    }

    pub fn taken(&self) -> usize {
        *self.shared.taken.lock().unwrap()
    }

    pub fn answer_with(&self, plan: impl Fn(usize) -> Reply + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Box::new(plan);
    }

    /// Waits until so many requests have come.
    pub async fn until(&self, count: usize) -> Vec<Request> {
        let began = Instant::now();
        loop {
            let seen = self.seen();
            if seen.len() >= count {
                return seen;
            }
            assert!(began.elapsed() < PATIENCE, "{} of {count} came: {seen:#?}", seen.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Requests of one connection, until it ends on either side.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) {
    while let Some(request) = read(&mut stream).await {
        let number = {
            let mut seen = shared.seen.lock().unwrap();
            seen.push(request);
            seen.len() - 1
        };
        let reply = (shared.plan.lock().unwrap())(number);
        let (status, lines) = match reply {
            Reply::Status(status) => (status, ""),
            Reply::With(status, lines) => (status, lines),
            Reply::Hang => return std::future::pending().await,
            Reply::Close => return,
            Reply::Endless => return endless(&mut stream, shared).await,
        };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n{lines}\r\n{{}}");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn endless(stream: &mut (impl AsyncWrite + Unpin), shared: &Shared) {
    const PIECE: &str = "400\r\n";
    let piece = [PIECE.as_bytes(), &[b'x'; 0x400], b"\r\n"].concat();
    let mut next = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    while stream.write_all(&next).await.is_ok() {
        *shared.taken.lock().unwrap() += next.len();
        next.clone_from(&piece);
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(place) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break place + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    assert!(head.starts_with("POST "), "{head}");
    let mut request = Request { path, head, body: String::new(), at: Instant::now() };
    let length: usize = request.header("content-length").unwrap().parse().unwrap();
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    assert_eq!(bytes.len(), end + length, "one request at a time");
    request.body = String::from_utf8(bytes.split_off(end)).unwrap();
    Some(request)
}

/// Seconds since the epoch, as a receiver's own clock has them.
pub fn unix_seconds() -> u64 {
    cove::model::Clock::now(&cove::model::SystemClock).since(Timestamp::ZERO).as_secs()
}
