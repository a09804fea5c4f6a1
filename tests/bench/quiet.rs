//! A daemon with nothing to do: how soon it is gone when it is told to, and what it costs to leave it running.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Daemon, percentile, post, put_flow};

const DRAINS: usize = 20;
/// After the start, until its first looks are over.
const SETTLES: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);

/// Items wait and none is armed: from SIGTERM to the end of the process.
pub async fn drain() {
    let mut took = Vec::new();
    for _ in 0..DRAINS {
        let mut daemon = Daemon::start("").await;
        put_flow(&daemon.base).await;
        post(&daemon.base, "/api/v1/profiles", &json!({"name": "anna"})).await;
        let film = daemon.folder.path().join("media/1.mp4");
        std::fs::write(&film, "film").unwrap();
        let item = |number: usize| {
            json!({"profile": "anna", "not_before": "2100-01-01T00:00:00Z", "inputs": {"site": "http://127.0.0.1:9",
                "account": "anna", "video": film, "caption": number.to_string()}})
        };
        let items: Vec<_> = (0..100).map(item).collect();
        post(&daemon.base, "/api/v1/bulk-upload/start", &json!({"flow": "atelier", "items": items})).await;
        let began = Instant::now();
        daemon.stop();
        took.push(began.elapsed());
    }
    println!(
        "drain with nothing armed            {:8.1} ms   median of {DRAINS}, worst {:.1} (at most 1000)",
        percentile(&mut took.clone(), 50),
        percentile(&mut took, 100)
    );
}

/// Seconds of a processor that a process has used.
#[expect(clippy::cast_precision_loss, reason = "a figure for a person")]
fn used(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// The scheduler, the sampler, the guards: all that goes on while nothing does.
pub async fn idle_cpu() {
    let mut daemon = Daemon::start("").await;
    tokio::time::sleep(SETTLES).await;
    let (before, began) = (used(daemon.child.id()), Instant::now());
    tokio::time::sleep(WATCHED).await;
    let part = (used(daemon.child.id()) - before) / began.elapsed().as_secs_f64() * 100.0;
    println!(
        "processor of the idle daemon        {part:8.2} %    of a core, over {} s (at most 0.5)",
        WATCHED.as_secs()
    );
    daemon.stop();
}
