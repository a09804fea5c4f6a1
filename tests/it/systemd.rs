//! What systemd sees of the daemon: that it is ready, alive and stopping, and the sockets that it passes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::rig::{Daemon, PATIENCE, run, write_config};

/// Passes a TCP and a unix socket, and keeps both open.
struct Parent {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Parent {
    fn new(folder: &Path, ip: &str, env: &[(&str, &str)]) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("daemon.log")).unwrap();
        let mut command = Command::new("python3");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("COVE_")) {
            command.env_remove(name);
        }
        let mut process = command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/systemd/parent.py"))
            .args([ip, folder.join("cove.sock").to_str().unwrap(), env!("CARGO_BIN_EXE_cove"), "serve", "--config"])
            .arg(folder.join("cove.toml"))
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let orders = process.stdin.take();
        let mut answers = BufReader::new(process.stdout.take().unwrap());
        let mut port = String::new();
        answers.read_line(&mut port).unwrap();
        Self { process, orders, answers, address: format!("{ip}:{}", port.trim()) }
    }

    /// The answer's last word. What the daemon prints comes by the same way.
    fn order(&mut self, order: &str, begins: &str) -> String {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the parent ended");
            if let Some(rest) = line.trim().strip_prefix(begins) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        drop(self.orders.take());
        let _ended = self.process.wait();
    }
}

/// One request on a connection of its own; false: refused, cut or another answer.
async fn asks(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /api/v1/health/simple HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let asked = stream.write_all(request.as_bytes()).await.is_ok() && stream.read_to_end(&mut answer).await.is_ok();
    asked && answer.starts_with(b"HTTP/1.1 200 ")
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a client beside the restarts, ended below")]
async fn with_passed_sockets_restarts_refuse_nobody() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), "");
    let mut parent = Parent::new(folder.path(), "127.0.0.1", &[]);
    parent.order("start", "started");
    let enough = Arc::new(AtomicBool::new(false));
    let (answered, failed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, enough) = (parent.address.clone(), enough.clone());
            let (answered, failed) = (answered.clone(), failed.clone());
            tokio::spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let count = if asks(&address).await { &answered } else { &failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = answered.load(Ordering::Relaxed);
        let began = Instant::now();
        while answered.load(Ordering::Relaxed) < before + 20 {
            assert!(
                began.elapsed() < PATIENCE,
                "{}",
                std::fs::read_to_string(folder.path().join("daemon.log")).unwrap()
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(parent.order("stop", "ended"), "0");
        assert!(folder.path().join("cove.sock").exists(), "the socket belongs to whoever passed it");
        parent.order("start", "started");
    }
    enough.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let (answered, failed) = (answered.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    println!("{answered} requests over 5 restarts, {failed} failed");
    assert!(answered > 100 && failed == 0, "{answered} answered, {failed} failed");
    let status = run(&["status"], folder.path());
    assert!(status.status.success(), "the unix socket: {}", String::from_utf8_lossy(&status.stderr));
    assert_eq!(parent.order("stop", "ended"), "0");
}

/// The control: what the same client meets when nobody keeps the socket open.
#[tokio::test(flavor = "multi_thread")]
async fn without_passed_sockets_a_stopped_daemon_refuses() {
    let mut daemon = Daemon::start().await;
    let address = daemon.base.strip_prefix("http://").unwrap().to_owned();
    assert!(asks(&address).await);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!asks(&address).await);
}

#[test]
fn settings_that_differ_from_a_passed_socket_are_refused() {
    for (name, value, ip, parts) in [
        ("COVE_SERVER__LISTEN", "127.0.0.1:9", "127.0.0.1", ["server.listen", "COVE_SERVER__LISTEN", "cove.socket"]),
        ("COVE_SERVER__SOCKET", "/run/other.sock", "127.0.0.1", ["server.socket", "/run/other.sock", "cove.socket"]),
        // Who is let in is judged by the socket that was passed, not by the setting that lost.
        ("COVE_AUTH__REQUIRED", "false", "0.0.0.0", ["server.listen", "0.0.0.0", "everybody is admin"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_config(folder.path(), "");
        let mut parent = Parent::new(folder.path(), ip, &[(name, value)]);
        parent.order("start", "started");
        assert_eq!(parent.order("wait", "ended"), "78", "{name}={value}");
        let told = std::fs::read_to_string(folder.path().join("daemon.log")).unwrap();
        for part in parts {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!folder.path().join("state").exists(), "nothing is touched by a refusal");
    }
}

/// Receives until a message holds this line; all that came.
fn told(notify: &UnixDatagram, line: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut message = [0; 4_096];
    loop {
        let length = notify.recv(&mut message).unwrap_or_else(|error| panic!("{line}: {error}; came: {all:?}"));
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        let found = text.lines().any(|told| told == line);
        all.push(text);
        if found {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let place = tempfile::tempdir().unwrap();
    let path: &'static str = place.path().join("notify").to_str().unwrap().to_owned().leak();
    let notify = UnixDatagram::bind(path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut daemon = Daemon::prepare("", &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "3000000")]);
    daemon.spawn(super::rig::cove());
    let first = told(&notify, "READY=1");
    // Not before it serves.
    daemon.listening().await;
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["parts"]["engine"]["status"]), (200, &"healthy".into()), "{}", health.body);
    assert!(first.last().unwrap().contains(&format!("STATUS=serving {}", daemon.base)), "{first:?}");
    for _ in 0..3 {
        told(&notify, "WATCHDOG=1");
    }
    assert_eq!(daemon.stop(), Some(0));
    let last = told(&notify, "STOPPING=1").pop().unwrap();
    // The drain limit and a minute: the unit's own time-out knows nothing of the setting.
    assert!(last.contains("EXTEND_TIMEOUT_USEC=360000000"), "{last}");
}
