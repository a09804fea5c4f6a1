//! H4: a page of another site in a real Chromium. It may try whatever a page can, and reads and changes nothing.

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::rig::{Daemon, PATIENCE};

/// Tries to read from and to change TARGET, and reports what it saw to its own origin.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><script>
const target = "TARGET", seen = [];
const paths = ["/api/v1/health/simple", "/api/v1/status", "/api/v1/tasks", "/metrics", "/api/v1/tokens", "/"];
async function read(name, options, path) {
  try {
    const answer = await fetch(target + path, options);
    const text = await answer.text();
    seen.push({name, path, bytes: text.length, status: answer.status});
  } catch (error) { seen.push({name, path, bytes: 0, error: String(error)}); }
}
function element(tag, path) {
  return new Promise(done => {
    const made = document.createElement(tag);
    made.onload = () => {
      let bytes = 0;
      try { bytes = made.contentDocument ? made.contentDocument.documentElement.outerHTML.length : 0; } catch {}
      if (tag === "img") bytes = made.naturalWidth;
      done(seen.push({name: tag, path, bytes, loaded: true}));
    };
    made.onerror = () => done(seen.push({name: tag, path, bytes: 0}));
    made.src = target + path;
    document.documentElement.append(made);
    setTimeout(() => done(0), 3000);
  });
}
function socket(path) {
  return new Promise(done => {
    const made = new WebSocket(target.replace("http", "ws") + path);
    made.onopen = () => done(seen.push({name: "socket", path, bytes: 1}));
    made.onerror = () => done(seen.push({name: "socket", path, bytes: 0}));
  });
}
function form() {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.name = "sink";
    document.documentElement.append(frame);
    const made = document.createElement("form");
    made.method = "POST"; made.action = target + "/api/v1/pause"; made.target = "sink"; made.enctype = "text/plain";
    document.documentElement.append(made);
    made.submit();
    setTimeout(done, 1500);
  });
}
(async () => {
  for (const path of paths) {
    await read("cors", {}, path);
    await read("no-cors", {mode: "no-cors"}, path);
    await read("credentials", {credentials: "include"}, path);
    await read("token", {headers: {authorization: "Bearer x"}}, path);
    for (const tag of ["iframe", "script", "img"]) await element(tag, path);
  }
  const post = {method: "POST", mode: "no-cors"};
  await read("post", post, "/api/v1/pause");
  await read("text", {...post, body: "{}", headers: {"content-type": "text/plain"}}, "/api/v1/pause");
  await read("json", {method: "POST", body: "{}", headers: {"content-type": "application/json"}}, "/api/v1/pause");
  await read("delete", {method: "DELETE"}, "/api/v1/flows/atelier");
  await read("profile", {...post, body: '{"name":"evil"}', headers: {"content-type": "text/plain"}}, "/api/v1/profiles");
  await read("media", {...post, body: "film"}, "/api/v1/media");
  navigator.sendBeacon(target + "/api/v1/pause", "x");
  await socket("/api/v1/sessions/s1/cdp/x");
  await form();
  await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"#;

/// A site that serves the page, and answers everything else with some bytes.
struct Hostile {
    port: u16,
    report: Arc<Mutex<Option<Value>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Hostile {
    #[expect(clippy::disallowed_methods, reason = "aborted with the site")]
    async fn start(target: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = format!("http://localhost:{port}");
        let page = PAGE.replace("TARGET", target.unwrap_or(&own));
        let report = Arc::new(Mutex::new(None));
        let kept = report.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                let (page, kept) = (page.clone(), kept.clone());
                tokio::spawn(async move {
                    let Some((path, body)) = request(&mut io).await else { return };
                    if path == "/report" {
                        *kept.lock().unwrap() = serde_json::from_slice(&body).ok();
                    }
                    let body = if path == "/page" { page } else { "some bytes".to_owned() };
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    // A browser that has gone away has what it wanted.
                    let _ = io.write_all((head + &body).as_bytes()).await;
                });
            }
        });
        Self { port, report, serving }
    }
}

/// Path and body of one request.
async fn request(io: &mut tokio::net::TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if io.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        let head = text[..end].to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            let path = text.split(' ').nth(1)?.to_owned();
            return Some((path, bytes[end + 4..].to_vec()));
        }
    }
}

/// Opens the page in a Chromium of its own; what it reported.
async fn visit(site: &Hostile, host: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = tokio::process::Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--remote-debugging-port=0", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", folder.path().display()))
        .arg(format!("http://{host}:{}/page", site.port))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let report = loop {
        if let Some(report) = site.report.lock().unwrap().take() {
            break report;
        }
        assert!(began.elapsed() < 2 * PATIENCE, "the page does not report");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    browser.kill().await.unwrap();
    site.serving.abort();
    report.as_array().unwrap().clone()
}

fn bytes(report: &[Value]) -> u64 {
    report.iter().filter_map(|seen| seen["bytes"].as_u64()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn h4_a_page_of_another_site_reads_and_changes_nothing() {
    // No tokens: nothing but the guards stands between the page and the daemon.
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    for host in ["127.0.0.1", "localhost"] {
        let site = Hostile::start(Some(&daemon.base)).await;
        let report = visit(&site, host).await;
        assert!(report.len() > 40, "{report:#?}");
        assert_eq!(
            bytes(&report),
            0,
            "{host}: {:#?}",
            report.iter().filter(|seen| seen["bytes"] != 0).collect::<Vec<_>>()
        );
        println!("H4: from {host}, {} tries, 0 bytes read", report.len());
    }
    assert_eq!(daemon.get("/api/v1/status").await.body["state"], "running");
    assert_eq!(daemon.get("/api/v1/flows/atelier").await.status, 200);
    assert_eq!(daemon.get("/api/v1/profiles").await.body["profiles"].as_array().unwrap().len(), 1);
    assert!(!daemon.logged().contains("panicked"), "{}", daemon.logged());
}

/// The control: what the page cannot read of the daemon, it can read of its own site.
#[tokio::test(flavor = "multi_thread")]
async fn h4_the_same_page_reads_its_own_site() {
    let site = Hostile::start(None).await;
    let report = visit(&site, "localhost").await;
    assert!(bytes(&report) > 200, "{report:#?}");
}
