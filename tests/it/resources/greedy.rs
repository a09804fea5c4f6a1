//! A site whose page eats memory: at once, or behind the click that publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// 1.6 GB in 16 pieces, a tenth of a second apart. Every 20 s something appears that can be waited for, so that a flow
/// stays as long as it takes.
const PAGE: &str = r"<!doctype html><button id=share>Share</button><script>
    const held = [];
    const eat = () => setInterval(() => { if (held.length < 16) held.push(new Uint8Array(100 * 2 ** 20).fill(1)); }, 100);
    document.querySelector('#share').onclick = () => { fetch('/clicked', {method: 'POST'}); eat(); };
    for (const seconds of [20, 40, 60, 80])
        setTimeout(() => document.body.append(Object.assign(document.createElement('p'), {id: `t${seconds}`, textContent: seconds})), seconds * 1000);
    if (location.search === '?before') eat();
</script>";

pub struct GreedySite {
    base: String,
    clicks: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl GreedySite {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (clicks, mut serving) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let counted = clicks.clone();
        serving.spawn(async move {
            let mut answers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                answers.spawn(answer(stream, counted.clone()));
            }
        });
        Self { base, clicks, _serving: serving }
    }

    pub fn clicks(&self) -> usize {
        self.clicks.load(Ordering::Relaxed)
    }

    /// `before`: it eats before the commit point; else behind it.
    pub fn recording(&self, when: &str) -> String {
        let wait = |id: &str| json!({"type": "waitForElement", "selectors": [id], "timeout": 30_000});
        let navigate = json!({"type": "navigate", "url": format!("{}/?{when}", self.base)});
        let commit = json!({"type": "customStep", "name": "commit", "parameters": {}});
        let click = json!({"type": "click", "selectors": ["#share"]});
        let waits = ["#t20", "#t40", "#t60", "#t80", "#never"].map(wait);
        let steps = match when {
            "before" => [vec![navigate], waits.to_vec(), vec![commit, click, wait("#never")]].concat(),
            _ => [vec![navigate, commit, click], waits.to_vec()].concat(),
        };
        json!({"title": when, "steps": steps}).to_string()
    }
}

/// One request a connection.
async fn answer(mut stream: TcpStream, clicks: Arc<AtomicUsize>) {
    let mut head = vec![0; 4_096];
    let Ok(read) = stream.read(&mut head).await else { return };
    if head[..read].starts_with(b"POST /clicked") {
        clicks.fetch_add(1, Ordering::Relaxed);
    }
    let length = PAGE.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    // A browser that went away needs no page.
    let _gone = stream.write_all(format!("{head}{PAGE}").as_bytes()).await;
}
