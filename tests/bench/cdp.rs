//! A CDP client that is as plain as can be: a blocking socket, one question at a time. What it measures is
//! the other side.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

pub struct Cdp {
    stream: BufReader<TcpStream>,
    last: u64,
    frame: Vec<u8>,
}

impl Cdp {
    /// `url` is `ws://host:port/path`.
    pub fn connect(url: &str) -> Self {
        let (host, path) = url.strip_prefix("ws://").unwrap().split_once('/').unwrap();
        let stream = TcpStream::connect(host).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::with_capacity(256 * 1024, stream);
        let ask = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.get_mut().write_all(ask.as_bytes()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { stream, last: 0, frame: Vec::new() }
    }

    /// Asks and waits for that answer; what comes between is passed over.
    pub fn call(&mut self, method: &str, params: &Value, session: Option<&str>) -> Value {
        self.last += 1;
        let mut asked = serde_json::json!({"id": self.last, "method": method, "params": params});
        if let Some(session) = session {
            asked["sessionId"] = session.into();
        }
        self.send(asked.to_string().as_bytes());
        loop {
            self.receive();
            let answer: Value = serde_json::from_slice(&self.frame).unwrap();
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{answer}");
                return answer["result"].clone();
            }
        }
    }

    /// One question of a few bytes and its answer, which nobody reads.
    pub fn ping(&mut self) {
        self.send(br#"{"id":1,"method":"Browser.getVersion"}"#);
        self.receive();
    }

    /// One frame of text. The mask is zero: it leaves the bytes as they are.
    fn send(&mut self, text: &[u8]) {
        self.frame.clear();
        self.frame.push(0x81);
        match u16::try_from(text.len()) {
            Ok(length @ 0..=125) => self.frame.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                self.frame.push(0x80 | 0x7e);
                self.frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                self.frame.push(0xff);
                self.frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        self.frame.extend([0; 4]);
        self.frame.extend_from_slice(text);
        self.stream.get_mut().write_all(&self.frame).unwrap();
    }

    /// One message, in `frame`.
    fn receive(&mut self) {
        self.frame.clear();
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head).unwrap();
            let length = match head[1] & 0x7f {
                126 => {
                    let mut long = [0; 2];
                    self.stream.read_exact(&mut long).unwrap();
                    u64::from(u16::from_be_bytes(long))
                }
                127 => {
                    let mut long = [0; 8];
                    self.stream.read_exact(&mut long).unwrap();
                    u64::from_be_bytes(long)
                }
                short => u64::from(short),
            };
            let read = (&mut self.stream).take(length).read_to_end(&mut self.frame).unwrap();
            assert_eq!(read as u64, length, "the browser ended");
            if head[0] & 0x80 != 0 {
                return;
            }
        }
    }
}
