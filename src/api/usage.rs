//! What the daemon and its sessions use, sampled when somebody asks.
//!
//! Called by the handlers of status, health and metrics. Figures of processor time are rates since the previous
//! sample, so one is kept of the daemon, for [`OWN_FRESH`] at least, and one of each session that still runs. Invariant: the provider is
//! asked at most every [`SESSIONS_FRESH`] and waited for at most [`SESSIONS_DEADLINE`]; a session that
//! does not answer in time is shown without figures.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::error::ApiError;
use super::{Context, off_runtime};
use crate::engine::View;
use crate::model::ProfileId;

/// The kernel counts processor time in hundredths of a second: over less than this a rate says nothing.
const OWN_FRESH: Duration = Duration::from_secs(1);
const SESSIONS_FRESH: Duration = Duration::from_secs(5);
const SESSIONS_DEADLINE: Duration = Duration::from_secs(1);
const SESSIONS_AT_A_TIME: usize = 16;
const MIB: f64 = 1024.0 * 1024.0;

#[derive(Default)]
pub struct Usage {
    inner: Mutex<Samples>,
}

#[derive(Default)]
struct Samples {
    own: Option<Load>,
    sessions: HashMap<ProfileId, (Instant, f64)>,
    shown: Option<(Instant, Vec<Value>)>,
}

/// Of the daemon's own processor time: a sample, and the rate that it ended.
#[derive(Clone, Copy)]
struct Load {
    at: Instant,
    cpu_seconds: f64,
    percent: f64,
}

impl Load {
    /// The same until it is old enough; the first is over the whole life so far.
    fn renewed(before: Option<Self>, started: Instant, now: Instant, cpu_seconds: f64) -> Self {
        let (since, used) = match before {
            Some(before) if now.saturating_duration_since(before.at) < OWN_FRESH => return before,
            Some(before) => (before.at, before.cpu_seconds),
            None => (started, 0.0),
        };
        let elapsed = now.saturating_duration_since(since).max(OWN_FRESH).as_secs_f64();
        Self { at: now, cpu_seconds, percent: rounded((cpu_seconds - used).max(0.0) / elapsed * 100.0) }
    }
}

/// What /proc says of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    pub memory_bytes: u64,
    pub machine_bytes: u64,
    /// What programs could still get of it without swapping; None: the kernel does not tell.
    pub available_bytes: Option<u64>,
    pub cpu_seconds: f64,
    pub threads: usize,
    pub fds: usize,
}

/// Percent of one processor between two samples; None for the first.
fn rate(before: Option<(Instant, f64)>, now: Instant, cpu_seconds: f64) -> Option<f64> {
    let (then, used) = before?;
    let elapsed = now.duration_since(then).as_secs_f64();
    (elapsed > 0.0).then(|| rounded((cpu_seconds - used).max(0.0) / elapsed * 100.0))
}

pub fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[expect(clippy::cast_precision_loss, reason = "bytes of memory as megabytes with one decimal")]
pub fn megabytes(bytes: u64) -> f64 {
    rounded(bytes as f64 / MIB)
}

/// A `Name:   123 kB` line of a file in /proc, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

fn read_own() -> Own {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let count = |path: &str| std::fs::read_dir(path).map_or(0, Iterator::count);
    let machine = read("/proc/meminfo");
    // Proportional where the kernel tells it, resident where it does not.
    let memory = kilobytes(&read("/proc/self/smaps_rollup"), "Pss");
    let memory = memory.or_else(|| kilobytes(&read("/proc/self/status"), "VmRSS"));
    Own {
        memory_bytes: memory.unwrap_or(0),
        machine_bytes: kilobytes(&machine, "MemTotal").unwrap_or(0),
        available_bytes: kilobytes(&machine, "MemAvailable"),
        cpu_seconds: cpu_seconds(),
        threads: count("/proc/self/task"),
        fds: count("/proc/self/fd"),
    }
}

/// Processor time of this process since its start; zero where it cannot be told.
fn cpu_seconds() -> f64 {
    let pid = sysinfo::Pid::from_u32(std::process::id());
    let Ok(mut system) = sysinfo::System::new() else { return 0.0 };
    let what = sysinfo::ProcessRefreshKind::nothing().with_cpu();
    system.refresh_processes_specifics(sysinfo::ProcessesToUpdate::Some(&[pid]), false, what);
    let milliseconds = system.process(pid).map_or(0, sysinfo::Process::accumulated_cpu_time);
    Duration::from_millis(milliseconds).as_secs_f64()
}

/// None: the file system cannot be asked.
pub async fn disk_free_mb(path: PathBuf) -> Option<u64> {
    let free = off_runtime(move || rustix::fs::statvfs(&path)).await.ok()?.ok()?;
    Some(free.f_bavail.saturating_mul(free.f_frsize) / (1024 * 1024))
}

/// What this process uses, and percent of one processor over the last second or more.
pub async fn own(context: &Context) -> Result<(Own, Option<f64>), ApiError> {
    let own = off_runtime(read_own).await?;
    let now = Instant::now();
    let mut samples = context.usage.inner.lock().unwrap_or_else(PoisonError::into_inner);
    let load = Load::renewed(samples.own, context.started, now, own.cpu_seconds);
    samples.own = Some(load);
    Ok((own, Some(load.percent)))
}

pub async fn resource_usage(context: &Context, view: &View, free_mb: Option<u64>) -> Result<Value, ApiError> {
    let (own, cpu) = own(context).await?;
    let strain = &view.strain;
    // A session may take as much as there is where nothing else is said.
    let limit = Some(strain.bounds.session_limit_bytes).filter(|limit| *limit > 0).unwrap_or(own.machine_bytes);
    let limit = megabytes(limit);
    let total_limit = Some(strain.bounds.total_limit_bytes).filter(|limit| *limit > 0);
    let held_back = strain.shortage.as_ref();
    let percent = if limit > 0.0 { rounded(megabytes(own.memory_bytes) / limit * 100.0) } else { 0.0 };
    Ok(json!({
        "memory_mb": megabytes(own.memory_bytes),
        "memory_limit_mb": limit,
        "memory_percent": percent,
        "cpu_percent": cpu,
        "num_threads": own.threads,
        "num_fds": own.fds,
        "disk_free_mb": free_mb,
        "sessions_memory_mb": megabytes(strain.sessions_bytes),
        "total_limit_mb": total_limit.map(megabytes),
        "machine": {
            "memory_available_mb": strain.machine.available_bytes.map(megabytes),
            "cpu_percent": strain.machine.cpu_percent.map(rounded),
            "memory_stall_percent": strain.machine.stall_percent,
        },
        "held_back": held_back.map(|short| json!({"wait_reason": short.of.reason().name(), "reason": short.why})),
        "sessions": sessions(context, view).await,
        "timestamp": context.clock.now(),
    }))
}

/// Every session that runs, with what it uses.
async fn sessions(context: &Context, view: &View) -> Vec<Value> {
    let now = Instant::now();
    {
        let samples = context.usage.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shown)) = samples.shown.as_ref().filter(|(at, _)| now.duration_since(*at) < SESSIONS_FRESH) {
            return shown.clone();
        }
    }
    let lent = view.sessions.values().map(|session| &session.profile);
    let mut profiles: Vec<ProfileId> = view.running.keys().chain(view.operators.keys()).chain(lent).cloned().collect();
    profiles.sort();
    profiles.dedup();
    let ask = |profile: ProfileId| async move {
        let answer = timeout(SESSIONS_DEADLINE, context.provider.stats(&profile)).await;
        (profile, answer.ok().and_then(Result::ok).flatten())
    };
    let mut answers: HashMap<ProfileId, _> = HashMap::new();
    let asking = futures_util::stream::iter(profiles.clone()).map(ask).buffer_unordered(SESSIONS_AT_A_TIME);
    let mut asking = Box::pin(asking.take_until(tokio::time::sleep(SESSIONS_DEADLINE)));
    while let Some((profile, stats)) = asking.next().await {
        answers.insert(profile, stats);
    }
    let mut samples = context.usage.inner.lock().unwrap_or_else(PoisonError::into_inner);
    samples.sessions.retain(|profile, _| profiles.contains(profile));
    let shown: Vec<Value> = profiles
        .into_iter()
        .map(|profile| {
            let stats = answers.remove(&profile).flatten();
            let memory = stats.as_ref().map(|stats| megabytes(stats.pss_bytes));
            let cpu = stats.as_ref().and_then(|stats| {
                let before = samples.sessions.insert(profile.clone(), (now, stats.cpu_seconds));
                rate(before, now, stats.cpu_seconds)
            });
            let exact = stats.as_ref().map(|stats| stats.exact);
            json!({"profile": profile, "memory_mb": memory, "memory_exact": exact, "cpu_percent": cpu})
        })
        .collect();
    samples.shown = Some((now, shown.clone()));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        assert_eq!(rate(None, now, 1.0), None);
        assert_eq!(rate(Some((now, 1.0)), later, 2.0), Some(50.0));
        assert_eq!(rate(Some((now, 5.0)), later, 1.0), Some(0.0), "a browser that started anew");
        assert_eq!(rate(Some((now, 1.0)), now, 2.0), None);
    }

    #[test]
    fn however_often_it_is_asked_a_rate_is_over_a_second_at_least() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let first = Load::renewed(None, started, at(10), 0.01);
        assert_eq!(Some(first.percent), Some(1.0), "not a hundred: it is ten milliseconds old");
        let soon = Load::renewed(Some(first), started, at(12), 0.03);
        assert_eq!((soon.at, soon.percent), (first.at, 1.0), "shared");
        let later = Load::renewed(Some(soon), started, at(2_010), 1.01);
        assert_eq!(Some(later.percent), Some(50.0));
    }

    #[test]
    fn proc_lines_are_read_exactly() {
        let text = "PssX:   1 kB\nPss:                 123 kB\nPss_Anon:   7 kB\n";
        assert_eq!(kilobytes(text, "Pss"), Some(123 * 1024));
        assert_eq!(kilobytes(text, "Rss"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let own = read_own();
        assert!(own.memory_bytes > 0 && own.machine_bytes > own.memory_bytes && own.threads > 0 && own.fds > 2);
    }
}
