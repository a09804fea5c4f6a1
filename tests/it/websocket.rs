//! A WebSocket client of a few lines, for what a real client would hide: how an upgrade is refused, and that a
//! connection is cut.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::rig::PATIENCE;

pub struct Socket(TcpStream);

/// An upgrade that was refused.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub body: Value,
}

/// `url` is `ws://host:port/path`.
pub async fn connect(url: &str) -> Result<Socket, Refused> {
    connect_as(url, "").await
}

/// `more` are further lines of the head.
pub async fn connect_as(url: &str, more: &str) -> Result<Socket, Refused> {
    let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let ask = format!(
        "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    );
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 101 {
        // The answer to the key above, as RFC 6455 has it in its example.
        assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        return Ok(Socket(stream));
    }
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    Err(Refused { status, body: serde_json::from_slice(&body).unwrap() })
}

impl Socket {
    /// One short message; its mask is zero and leaves the bytes as they are.
    pub async fn send(&mut self, method: &str, params: &Value) {
        let text = json!({"id": 1, "method": method, "params": params}).to_string();
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).unwrap();
        let frame = [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    /// Asks, and takes the next message for the answer.
    pub async fn call(&mut self, method: &str, params: &Value) -> Value {
        self.send(method, params).await;
        let answer = timeout(PATIENCE, self.receive()).await.unwrap();
        assert_eq!(answer["id"], 1, "{answer}");
        answer["result"].clone()
    }

    async fn receive(&mut self) -> Value {
        assert_eq!(self.0.read_u8().await.unwrap(), 0x81, "one whole text");
        let length = match self.0.read_u8().await.unwrap() {
            126 => usize::from(self.0.read_u16().await.unwrap()),
            127 => usize::try_from(self.0.read_u64().await.unwrap()).unwrap(),
            short => usize::from(short),
        };
        let mut text = vec![0; length];
        self.0.read_exact(&mut text).await.unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Whether the other side ends it, in time.
    pub async fn ended(&mut self) -> bool {
        let mut rest = [0; 4096];
        let end = async { while self.0.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
        timeout(PATIENCE + Duration::from_secs(1), end).await.is_ok()
    }
}
