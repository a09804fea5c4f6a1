//! Pairs of acquire and release a second over HTTP, each durable before it is answered.
//!
//! The client shares two cores with the daemon, so it is as small as it can be: requests written by hand,
//! one connection a worker kept open, answers read no further than needed.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONNECTIONS: usize = 16;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);

const LENGTH: &[u8] = b"\r\ncontent-length: ";

/// A client of one connection that is kept open.
pub struct Connection {
    stream: TcpStream,
    host: String,
    answer: Vec<u8>,
}

impl Connection {
    pub async fn open(host: &str) -> Self {
        let stream = TcpStream::connect(host).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, host: host.to_owned(), answer: Vec::with_capacity(4_096) }
    }

    /// Sends one request; the answer's body, which has to be a good one.
    pub async fn post(&mut self, path: &str, body: &str) -> &str {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        self.send(request).await
    }

    pub async fn get(&mut self, path: &str) -> &str {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.send(request).await
    }

    async fn send(&mut self, request: String) -> &str {
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.answer.clear();
        let (begin, end) = loop {
            assert_ne!(self.stream.read_buf(&mut self.answer).await.unwrap(), 0, "the daemon closed the connection");
            if let Some(head) = memchr::memmem::find(&self.answer, b"\r\n\r\n") {
                let (begin, length) = (head + 4, content_length(&self.answer[..head]));
                if self.answer.len() >= begin + length {
                    break (begin, begin + length);
                }
            }
        };
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        assert!(self.answer.starts_with(b"HTTP/1.1 20"), "{}", text(&self.answer));
        text(&self.answer[begin..end])
    }
}

/// Looked for from behind, where hyper puts it: what is measured is the server, and not how long a client reads heads.
fn content_length(head: &[u8]) -> usize {
    let line = memchr::memmem::rfind(head, LENGTH).expect("an answer of one piece") + LENGTH.len();
    let digits = head[line..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0'))
}

async fn pairs(host: String, worker: usize, until: Instant, from: Instant) -> Vec<Duration> {
    let mut connection = Connection::open(&host).await;
    let mut took = Vec::new();
    let mut number = 0_u64;
    while Instant::now() < until {
        number += 1;
        let lock = format!("\"kind\":\"bench\",\"key\":\"{worker}-{number}\",\"owner\":\"worker-{worker}\"");
        let began = Instant::now();
        let acquired = connection.post("/api/v1/locks/acquire", &format!("{{{lock},\"ttl_seconds\":60}}")).await;
        let fence = acquired.split('"').nth(5).unwrap().to_owned();
        assert!(acquired.starts_with("{\"acquired\":true") && fence.starts_with('f'), "{acquired}");
        connection.post("/api/v1/locks/release", &format!("{{{lock},\"fence\":\"{fence}\"}}")).await;
        if began >= from {
            took.push(began.elapsed());
        }
    }
    took
}

/// Of the pairs that began in the measured time: how many a second, and how long each took.
pub async fn measure(base: &str) -> (f64, Vec<Duration>) {
    let host = base.strip_prefix("http://").unwrap();
    let from = Instant::now() + WARM_UP;
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        workers.spawn(pairs(host.to_owned(), worker, from + MEASURED, from));
    }
    let mut took = Vec::new();
    while let Some(done) = workers.join_next().await {
        took.extend(done.unwrap());
    }
    let pairs = f64::from(u32::try_from(took.len()).unwrap());
    (pairs / MEASURED.as_secs_f64(), took)
}
