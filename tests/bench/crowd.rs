//! H1: a crowd of peers that hold their connections in every way there is, and an honest client among them.
//!
//! A test runs it in small, the bench `crowd` in full. What is measured: how long the honest client waits,
//! when each kind of peer is let go, and what the crowd costs in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// What a slow reader asks for, again and again without reading.
const PAGE: &str = "/";
/// Enough that the kernel cannot hold the answers.
const READER_ASKS: usize = 20_000;
const READER_BUFFER_BYTES: u32 = 4_096;
/// Nothing may last longer.
const GIVEN_UP: Duration = Duration::from_secs(60);
const HONEST_EVERY: Duration = Duration::from_millis(10);

#[derive(Clone, Copy)]
pub struct Crowd {
    pub heads: usize,
    pub bodies: usize,
    pub idle: usize,
    pub readers: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Head,
    Body,
    Idle,
    Reader,
}

pub struct Figures {
    pub honest_requests: usize,
    pub honest_p50: Duration,
    pub honest_p99: Duration,
    pub honest_worst: Duration,
    /// When the last of each kind was let go.
    pub heads_gone: Duration,
    pub bodies_gone: Duration,
    pub idle_gone: Duration,
    pub readers_gone: Duration,
    pub memory_before_kib: u64,
    pub memory_most_kib: u64,
}

impl Figures {
    pub fn told(&self) -> String {
        format!(
            "honest: {} requests, p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms; let go after: heads {:.1} s, idle {:.1} s, \
             bodies {:.1} s, readers {:.1} s; memory {:.1} MiB, at most {:.1} MiB (+{:.1})",
            self.honest_requests,
            self.honest_p50.as_secs_f64() * 1e3,
            self.honest_p99.as_secs_f64() * 1e3,
            self.honest_worst.as_secs_f64() * 1e3,
            self.heads_gone.as_secs_f64(),
            self.idle_gone.as_secs_f64(),
            self.bodies_gone.as_secs_f64(),
            self.readers_gone.as_secs_f64(),
            mib(self.memory_before_kib),
            mib(self.memory_most_kib),
            mib(self.memory_most_kib.saturating_sub(self.memory_before_kib)),
        )
    }
}

fn mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap()) / 1024.0
}

fn memory_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Until the daemon lets go of the connection; whatever it says first is read.
async fn until_gone(stream: &mut TcpStream) {
    let mut piece = [0; 4096];
    while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
}

async fn head(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: half").await?;
    until_gone(&mut stream).await;
    Ok(())
}

async fn body(address: &str) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let (mut read, mut write) = stream.into_split();
    let head = format!(
        "POST /api/v1/bulk-upload/start HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: 100000\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await?;
    let drips = async {
        while write.write_all(b" ").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let answer = async {
        let mut piece = [0; 4096];
        while read.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! { () = drips => {} () = answer => {} }
    Ok(())
}

/// Half of them have never said a word.
async fn idle(address: &str, speaks: bool) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    if speaks {
        let ask = format!("GET /api/v1/health/simple HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(ask.as_bytes()).await?;
    }
    until_gone(&mut stream).await;
    Ok(())
}

/// Asks for much, and takes a byte a second. That it was let go of is seen by what can be sent.
async fn reader(address: &str) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(READER_BUFFER_BYTES)?;
    let stream = socket.connect(address.parse().unwrap()).await?;
    let (mut read, mut write) = stream.into_split();
    let ask = format!("GET {PAGE} HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(READER_ASKS);
    let asks = async {
        let mut sent = 0;
        while sent < ask.len() {
            let Ok(more) = write.write(&ask.as_bytes()[sent..]).await else { return };
            sent += more;
        }
        while write.write_all(b"\r\n").await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let takes = async {
        while read.read_u8().await.is_ok() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! { () = asks => {} () = takes => {} }
    Ok(())
}

async fn ask_honestly(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let ask = format!("GET /api/v1/health/simple HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

/// # Panics
/// When the honest client is not answered, or a peer of the crowd is never let go.
#[expect(clippy::disallowed_methods, reason = "a measuring program")]
pub async fn measure(address: &str, pid: u32, crowd: Crowd) -> Figures {
    cove::browser::host::raise_open_files();
    assert!(ask_honestly(address).await.unwrap());
    let memory_before_kib = memory_kib(pid);
    let began = Instant::now();
    let mut peers = JoinSet::new();
    let kinds = [
        (Kind::Head, crowd.heads),
        (Kind::Body, crowd.bodies),
        (Kind::Idle, crowd.idle),
        (Kind::Reader, crowd.readers),
    ];
    for (kind, count) in kinds {
        for number in 0..count {
            let address = address.to_owned();
            peers.spawn(async move {
                let begun = Instant::now();
                let ends = async {
                    // A connection that was cut while it was made is one that was let go.
                    let _ = match kind {
                        Kind::Head => head(&address).await,
                        Kind::Body => body(&address).await,
                        Kind::Idle => idle(&address, number % 2 == 0).await,
                        Kind::Reader => reader(&address).await,
                    };
                };
                assert!(timeout(GIVEN_UP, ends).await.is_ok(), "{kind:?} is never let go");
                (kind, begun.elapsed())
            });
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn(honest(address.to_owned(), pid, over.clone()));
    let mut gone = std::collections::BTreeMap::new();
    while let Some(ended) = peers.join_next().await {
        let (kind, after) = ended.unwrap();
        let last: &mut Duration = gone.entry(kind).or_default();
        *last = after.max(*last);
    }
    over.store(true, Ordering::Relaxed);
    let (mut times, memory_most_kib) = honest.await.unwrap();
    assert!(began.elapsed() < 2 * GIVEN_UP);
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
    let gone = |kind| gone.get(&kind).copied().unwrap_or_default();
    Figures {
        honest_requests: times.len(),
        honest_p50: at(50),
        honest_p99: at(99),
        honest_worst: at(100),
        heads_gone: gone(Kind::Head),
        bodies_gone: gone(Kind::Body),
        idle_gone: gone(Kind::Idle),
        readers_gone: gone(Kind::Reader),
        memory_before_kib,
        memory_most_kib,
    }
}

/// The time of each request, on a connection of its own, and the most memory that was seen.
async fn honest(address: String, pid: u32, over: Arc<AtomicBool>) -> (Vec<Duration>, u64) {
    let (mut times, mut most) = (Vec::new(), 0);
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        assert!(ask_honestly(&address).await.unwrap(), "the honest client is refused");
        times.push(begun.elapsed());
        most = most.max(memory_kib(pid));
        sleep(HONEST_EVERY).await;
    }
    (times, most)
}
