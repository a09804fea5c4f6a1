//! An application that says exactly what a test puts into its mouth, and a port that sends exactly its bytes.
//!
//! For what the simulator cannot do, since it is honest about processes: answers that lead to somebody else's
//! browser, and a DevTools port behind which no process is listed.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Default)]
pub struct Words {
    /// Before a start and after it: what runs.
    pub before: Value,
    pub after: Value,
    pub started: Value,
    pub calls: Vec<String>,
}

pub struct Fake {
    pub api: String,
    pub words: Arc<Mutex<Words>>,
    _server: JoinSet<()>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap());
        let words = Arc::new(Mutex::new(Words { before: json!({}), after: json!({}), ..Words::default() }));
        let (mut server, shared) = (JoinSet::new(), words.clone());
        server.spawn(async move {
            loop {
                let (mut peer, _) = listener.accept().await.unwrap();
                let path = request(&mut peer).await;
                let body = shared.lock().unwrap().answer(&path).to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                drop(peer.write_all(format!("{head}{body}").as_bytes()).await);
            }
        });
        Self { api, words, _server: server }
    }

    pub fn calls(&self, part: &str) -> usize {
        self.words.lock().unwrap().calls.iter().filter(|path| path.contains(part)).count()
    }
}

impl Words {
    fn answer(&mut self, path: &str) -> Value {
        self.calls.push(path.to_owned());
        if path.contains("/start") {
            self.before = self.after.clone();
            return self.started.clone();
        }
        if path.contains("/stop") {
            self.before = json!({});
            return json!({"success": true});
        }
        self.before.clone()
    }
}

/// The path of a request that is read to its end.
async fn request(peer: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 1_024];
    while !text.windows(4).any(|end| end == b"\r\n\r\n") {
        match peer.read(&mut piece).await {
            Ok(read) if read > 0 => text.extend_from_slice(&piece[..read]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// A port that answers every request with these bytes, and then closes, or hangs.
pub struct Port {
    pub number: u16,
    _server: JoinSet<()>,
}

impl Port {
    pub async fn saying(bytes: Vec<u8>, hangs: bool) -> Self {
        Self::at(0, bytes, hangs).await
    }

    /// On a port that was somebody else's.
    pub async fn at(number: u16, bytes: Vec<u8>, hangs: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", number)).await.unwrap();
        let number = listener.local_addr().unwrap().port();
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (mut peer, _) = listener.accept().await.unwrap();
                let bytes = bytes.clone();
                open.spawn(async move {
                    request(&mut peer).await;
                    drop(peer.write_all(&bytes).await);
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { number, _server: server }
    }
}
