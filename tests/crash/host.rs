//! A browser host that starts nothing: it answers as the real one does when a browser does not come up, so
//! that attempts begin and end without one.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

pub struct Host {
    _connections: tokio_util::task::AbortOnDropHandle<()>,
}

impl Host {
    pub fn listen(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        #[expect(clippy::disallowed_methods, reason = "aborted with the host")]
        let serving = tokio::spawn(serve(listener));
        Self { _connections: tokio_util::task::AbortOnDropHandle::new(serving) }
    }
}

async fn serve(listener: UnixListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream));
    }
}

async fn converse(stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).unwrap();
        let answer = match request["call"].as_str() {
            None => json!({"cove_browser_host": 1, "pid": std::process::id()}),
            Some("start") => {
                json!({"id": request["id"], "error": {"code": "browser_start_failed", "detail": "made up"}})
            }
            Some("can_read") => json!({"id": request["id"], "ok": true}),
            Some("running") => json!({"id": request["id"], "ok": []}),
            Some(_) => json!({"id": request["id"], "ok": null}),
        };
        // The daemon may have been killed.
        if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
