//! Health and status: what is well, what is not and why, and what the daemon uses.
//!
//! Invariants: 503 only for what stops cove itself (store, engine, disk, draining), while a provider that
//! is down or a breaker that is open is 200 and `degraded`, since what waits loses nothing; nothing here waits for a browser
//! or a stuck disk longer than [`PART_DEADLINE`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::Context;
use super::body::{self, Reply};
use super::error::ApiError;
use super::front::Call;
use super::snapshots::snapshot_json;
use super::usage::{self, Own};
use super::waits::Waits;
use crate::breaker::BreakerState;
use crate::breaker::board::{BreakerView, Transition};
use crate::engine::{START_BREAKERS, View};
use crate::model::{ItemState, Timestamp};
use crate::ops::backup::{BackupView, Backups};
use crate::ops::maintenance::{Judge, Judgement};
use crate::store::{Pause, StoreStats};

/// For each part that has to be asked.
const PART_DEADLINE: Duration = Duration::from_secs(1);
/// The engine's loop turns every few seconds even when there is nothing to do.
const STUCK_AFTER: Duration = Duration::from_mins(1);
/// Of the last commits the slowest may take so long: every answer that stores something waits for one.
const SLOW_COMMIT_MS: f64 = 1_000.0;
/// Of the machine's memory: with less left the kernel soon ends whatever is largest.
const LEAST_MEMORY_PART: u64 = 20;
/// Of the status.
const MAX_BREAKERS_SHOWN: usize = 100;

pub async fn simple(_: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    Ok(body::json_text(StatusCode::OK, r#"{"ok":true,"status":"healthy"}"#))
}

/// What the parts said.
struct Findings {
    store: Result<StoreStats, String>,
    free_mb: Option<u64>,
    view: Arc<View>,
    breakers: Vec<BreakerView>,
    /// Why the provider's profiles are not known.
    no_list: Option<String>,
    backups: BackupView,
    /// None: not told in time.
    own: Option<Own>,
    /// Why the queue cannot be told, or since when the item that waits longest does.
    oldest: Result<Option<Timestamp>, String>,
}

async fn look(context: &Context) -> Findings {
    let failed = context.store.failed().borrow().is_some();
    let (store, free_mb, own, waits) = tokio::join!(
        timeout(PART_DEADLINE, context.store.stats()),
        timeout(PART_DEADLINE, usage::disk_free_mb(context.state_dir.clone())),
        timeout(PART_DEADLINE, usage::own(context)),
        timeout(PART_DEADLINE, Waits::look(context)),
    );
    let store = match store {
        _ if failed => Err("the state file failed; see the daemon's log".to_owned()),
        Ok(Ok(stats)) => Ok(stats),
        Ok(Err(error)) => {
            tracing::error!("health: {error}");
            Err("the state file failed; see the daemon's log".to_owned())
        }
        Err(_) => Err(format!("the store did not answer within {} s", PART_DEADLINE.as_secs())),
    };
    let free_mb = free_mb.ok().flatten();
    let own = own.ok().and_then(Result::ok).map(|(own, _)| own);
    let oldest = match waits {
        Ok(Ok(waits)) => Ok(waits.oldest),
        Ok(Err(_)) | Err(_) => Err("the queue could not be told".to_owned()),
    };
    let breakers = context.breakers.view(context.clock.now());
    let backups = context.backups.as_ref().map(Backups::view).unwrap_or_default();
    let (view, no_list) = (context.engine.view(), context.roster.trouble());
    Findings { store, free_mb, view, breakers, no_list, backups, own, oldest }
}

impl Findings {
    /// Those that refuse. One that is half open lets calls through: without any it stays so for ever.
    fn open_breakers(&self) -> impl Iterator<Item = &BreakerView> {
        self.breakers.iter().filter(|breaker| matches!(breaker.state, BreakerState::Open { .. }))
    }

    /// Why browsers cannot be started or closed, or whose nobody knows.
    fn provider_trouble(&self) -> Option<String> {
        let on_the_way = |breaker: &&BreakerView| START_BREAKERS.contains(&breaker.name.as_str());
        let breaker = self.open_breakers().find(on_the_way);
        let close = || {
            let (profile, why) = self.view.close_errors.first_key_value()?;
            Some(format!("the browser of {profile} cannot be closed: {why}"))
        };
        let list = || self.no_list.as_ref().map(|why| format!("its profiles cannot be listed: {why}"));
        let refused = || {
            let (profile, refused) = self.view.refused.first_key_value()?;
            Some(format!("{profile} is not started before {}: {}", refused.until, refused.why))
        };
        let told = self.view.provider_down.clone().or_else(|| breaker.map(breaker_told));
        told.or_else(refused).or_else(close).or_else(list)
    }
}

impl Findings {
    fn slow_commits(&self) -> Option<String> {
        let p99_ms = self.store.as_ref().ok()?.commit_p99_ms;
        (p99_ms > SLOW_COMMIT_MS).then(|| format!("commits take up to {p99_ms:.0} ms: the disk of the state is slow"))
    }

    /// Held back while cove itself runs nothing: whatever takes the machine, it is not what waits.
    fn held_back_by_others(&self) -> Option<String> {
        let View { running, operators, sessions, strain, .. } = &*self.view;
        let nothing_runs = running.is_empty() && operators.is_empty() && sessions.is_empty();
        let shortage = strain.shortage.as_ref().filter(|_| nothing_runs)?;
        Some(format!("no session is started, and none runs: {}", shortage.why))
    }

    fn short_memory(&self) -> Option<String> {
        let Some(own) = self.own else { return Some("memory could not be told".to_owned()) };
        let left = own.available_bytes?;
        let mib = |bytes: u64| bytes / (1024 * 1024);
        (left < own.machine_bytes / LEAST_MEMORY_PART).then(|| {
            let (left, all) = (mib(left), mib(own.machine_bytes));
            format!("the machine has {left} MiB of its {all} MiB of memory left")
        })
    }

    /// What these parts show beside their status.
    fn figures(&self, parts: &mut Map<String, Value>, now: Timestamp) {
        parts["store"]["commit_p99_ms"] = json!(self.store.as_ref().ok().map(|stats| stats.commit_p99_ms));
        parts["memory"]["memory_mb"] = json!(self.own.map(|own| usage::megabytes(own.memory_bytes)));
        let available = self.own.and_then(|own| own.available_bytes);
        parts["memory"]["available_mb"] = json!(available.map(usage::megabytes));
        let strain = &self.view.strain;
        parts["resources"]["cpu_percent"] = json!(strain.machine.cpu_percent.map(usage::rounded));
        parts["resources"]["sessions_memory_mb"] = json!(usage::megabytes(strain.sessions_bytes));
        parts["clock"]["suspect"] = self.view.clock_suspect.into();
        let oldest = self.oldest.as_ref().ok().copied().flatten();
        parts["queue"]["oldest_waiting_since"] = json!(oldest);
        parts["queue"]["oldest_waiting_seconds"] = json!(oldest.map(|oldest| now.since(oldest).as_secs()));
        parts["snapshots"]["last_created_at"] = json!(self.backups.last.as_ref().map(|last| last.created_at));
        parts["snapshots"]["last_verified_at"] = json!(self.backups.last_verified_at);
    }
}

/// For a person.
fn breaker_told(breaker: &BreakerView) -> String {
    let state = match breaker.state {
        BreakerState::Open { until } => format!("open until {until}"),
        BreakerState::Closed | BreakerState::HalfOpen => breaker.state.name().to_owned(),
    };
    let error = breaker.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} is {state}{error}", breaker.name)
}

fn part(problem: Option<&str>) -> Value {
    json!({"status": if problem.is_some() { "unhealthy" } else { "healthy" }, "reason": problem})
}

/// The parts, and the status of the whole.
fn judge(findings: &Findings, now: Timestamp) -> (&'static str, Value) {
    let view = &findings.view;
    let disk = match (&view.no_disk, findings.free_mb) {
        (Some(why), _) => Some(why.clone()),
        (None, Some(_)) => None,
        (None, None) => Some("free space could not be told".to_owned()),
    };
    let engine = if view.draining {
        Some("draining: the daemon stops".to_owned())
    } else if view.ready {
        let still = now.since(view.turned_at);
        (still > STUCK_AFTER).then(|| format!("the engine has not turned for {} s", still.as_secs()))
    } else {
        Some("recovery has not finished".to_owned())
    };
    let mut parts = Map::new();
    parts.insert("store".to_owned(), part(findings.store.as_ref().err().map(String::as_str)));
    parts.insert("engine".to_owned(), part(engine.as_deref()));
    parts["engine"]["draining"] = view.draining.into();
    parts["engine"]["turned_at"] = json!(view.turned_at);
    parts.insert("disk".to_owned(), part(disk.as_deref()));
    parts["disk"]["free_mb"] = json!(findings.free_mb);
    let unhealthy = parts.values().any(|part| part["status"] != "healthy");
    let open: Vec<_> = findings.open_breakers().collect();
    let breakers = open.first().map(|first| match open.len() {
        1 => breaker_told(first),
        count => format!("{}; and {} more", breaker_told(first), count - 1),
    });
    let snapshots = findings.backups.trouble.clone();
    let clock = "the wall clock jumped: what is scheduled is held until it is put right, or until `cove resume`";
    let degraded = [
        ("provider", findings.provider_trouble()),
        ("breakers", breakers),
        ("snapshots", snapshots),
        ("memory", findings.short_memory()),
        ("resources", findings.held_back_by_others()),
        ("clock", view.clock_suspect.then(|| clock.to_owned())),
        ("queue", findings.oldest.as_ref().err().cloned()),
    ];
    let slow = findings.slow_commits();
    let status = match (unhealthy, slow.is_some() || degraded.iter().any(|(_, reason)| reason.is_some())) {
        (true, _) => "unhealthy",
        (false, true) => "degraded",
        (false, false) => "healthy",
    };
    for (name, reason) in degraded {
        let status = if reason.is_some() { "degraded" } else { "healthy" };
        parts.insert(name.to_owned(), json!({"status": status, "reason": reason}));
    }
    if let Some(slow) = slow {
        parts.insert("store".to_owned(), json!({"status": "degraded", "reason": slow}));
    }
    findings.figures(&mut parts, now);
    (status, Value::Object(parts))
}

/// On one line: the status, and each part that is not well.
fn line(status: &str, parts: &Value) -> String {
    let unwell = parts.as_object().into_iter().flatten().filter_map(|(name, part)| {
        let reason = part["reason"].as_str()?;
        Some(format!("{name}: {reason}"))
    });
    let unwell = unwell.collect::<Vec<_>>().join("; ");
    if unwell.is_empty() { status.to_owned() } else { format!("{status}: {unwell}") }
}

#[async_trait]
impl Judge for Context {
    async fn judge(&self) -> Judgement {
        let (status, parts) = judge(&look(self).await, self.clock.now());
        Judgement { ok: status != "unhealthy", line: line(status, &parts) }
    }
}

pub async fn health(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let (status, parts) = judge(&look(&context).await, context.clock.now());
    let ok = status != "unhealthy";
    let json = json!({
        "ok": ok,
        "status": status,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "timestamp": context.clock.now(),
        "parts": parts,
    });
    Ok(body::json(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &json))
}

/// Those that are not closed come first.
fn breakers_json(breakers: &[BreakerView]) -> Vec<Value> {
    let moved = |moved: &Transition| json!({"at": moved.at, "from": moved.from.name(), "to": moved.to.name()});
    let show = |breaker: &BreakerView| {
        let mut json = json!({
            "name": breaker.name,
            "state": breaker.state.name(),
            "since": breaker.since,
            "failures_in_a_row": breaker.failures_in_a_row,
            "opened_total": breaker.opened_total,
            "last_error": breaker.last_error,
            "transitions": breaker.transitions.iter().map(moved).collect::<Vec<_>>(),
        });
        if let BreakerState::Open { until } = breaker.state {
            json["open_until"] = json!(until);
        }
        json
    };
    breakers.iter().take(MAX_BREAKERS_SHOWN).map(show).collect()
}

/// Items by state, why those that wait do, and tasks.
fn queue_json(stats: &StoreStats, waits: Option<&Waits>) -> Value {
    let mut queue: Map<String, Value> =
        ItemState::ALL.into_iter().map(|state| (state.name().to_owned(), 0.into())).collect();
    for (state, count) in &stats.items_by_state {
        queue.insert(state.name().to_owned(), (*count).into());
    }
    queue.insert("tasks".to_owned(), stats.tasks.into());
    queue.insert("wait_reasons".to_owned(), json!(waits.map(Waits::json)));
    queue.insert("oldest_waiting_since".to_owned(), json!(waits.and_then(|waits| waits.oldest)));
    Value::Object(queue)
}

/// Which pause it is, since when, and what a person does about it.
fn pause_json(pause: &Pause) -> Value {
    const ACCEPT: &str = "Look at what was published; then `cove resume --accept-duplicates`.";
    match pause {
        Pause::Operator { since } => json!({"kind": "operator", "since": since, "help": "`cove resume` goes on."}),
        Pause::Restored { since, blind } => {
            let help = if *blind { ACCEPT } else { "What was held goes on with `cove resume`." };
            json!({"kind": "restored", "since": since, "blind": blind, "help": help})
        }
        Pause::LedgerDamaged { since, what } => {
            json!({"kind": "ledger_damaged", "since": since, "what": what, "help": ACCEPT})
        }
    }
}

pub async fn status(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    let findings = look(&context).await;
    let view = &findings.view;
    let kind = context.config.browser.provider.name();
    let up = view.provider_down.is_none() && view.breakers.shut_until().is_none();
    let waits = Waits::look(&context).await.ok();
    let resources = usage::resource_usage(&context, view, findings.free_mb).await?;
    let json = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uid": rustix::process::geteuid().as_raw(),
        "uptime_seconds": context.started.elapsed().as_secs(),
        "state": view.state(),
        "pause": view.pause.as_ref().map(pause_json),
        "slots": {"total": view.slots, "busy": view.busy},
        "queue": findings.store.as_ref().ok().map(|stats| queue_json(stats, waits.as_ref())),
        "resource_usage": resources,
        "breakers": breakers_json(&findings.breakers),
        "provider": {"kind": kind, "status": if up { "up" } else { "down" }, "reason": findings.provider_trouble()},
        "last_snapshot": findings.backups.last.as_ref().map(snapshot_json),
    });
    Ok(body::json(StatusCode::OK, &json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::board::Board;
    use crate::breaker::{BreakerLimits, CDP_ATTACH};
    use crate::engine::pressure::{Scarce, Shortage};
    use crate::model::ProfileId;

    fn findings(change: impl FnOnce(&mut View)) -> Findings {
        let mut view = View { ready: true, ..View::default() };
        change(&mut view);
        Findings {
            store: Ok(StoreStats::default()),
            free_mb: Some(1_000),
            view: Arc::new(view),
            breakers: Vec::new(),
            no_list: None,
            backups: BackupView::default(),
            own: Some(Own { machine_bytes: 1_000 << 20, available_bytes: Some(51 << 20), ..Own::default() }),
            oldest: Ok(None),
        }
    }

    #[test]
    fn slow_commits_short_memory_and_a_clock_that_jumped_degrade_and_are_told() {
        let judged = |findings: Findings, part: &str| {
            let (status, parts) = judge(&findings, Timestamp::from_millis(50_000));
            (status, parts[part].clone())
        };
        let stats = StoreStats { commit_p99_ms: 1_500.4, ..StoreStats::default() };
        let (status, store) = judged(Findings { store: Ok(stats), ..findings(|_| {}) }, "store");
        let told = "commits take up to 1500 ms: the disk of the state is slow";
        assert_eq!((status, &store["status"], &store["reason"]), ("degraded", &json!("degraded"), &json!(told)));
        let own = Own { machine_bytes: 1_000 << 20, available_bytes: Some(49 << 20), ..Own::default() };
        let (status, memory) = judged(Findings { own: Some(own), ..findings(|_| {}) }, "memory");
        let told = "the machine has 49 MiB of its 1000 MiB of memory left";
        assert_eq!((status, &memory["reason"]), ("degraded", &json!(told)));
        let (status, clock) = judged(findings(|view| view.clock_suspect = true), "clock");
        assert_eq!((status, &clock["suspect"], clock["reason"].is_string()), ("degraded", &json!(true), true));
        let (status, queue) = judged(Findings { oldest: Err("no".to_owned()), ..findings(|_| {}) }, "queue");
        assert_eq!((status, &queue["reason"]), ("degraded", &json!("no")));
        let since = Timestamp::from_millis(20_000);
        let (status, queue) = judged(Findings { oldest: Ok(Some(since)), ..findings(|_| {}) }, "queue");
        assert_eq!((status, &queue["oldest_waiting_seconds"]), ("healthy", &json!(30)));
        assert_eq!(queue["oldest_waiting_since"], json!(since));
    }

    #[test]
    fn what_others_take_of_the_machine_degrades_while_cove_runs_nothing() {
        let shortage = Some(Shortage { of: Scarce::Cpu, why: "busy".to_owned() });
        let judged = |runs: bool| {
            let (status, parts) = judge(
                &findings(|view| {
                    view.strain.shortage = shortage.clone();
                    view.running.extend(runs.then(|| (ProfileId::new("anna").unwrap(), None)));
                }),
                Timestamp::ZERO,
            );
            (status, parts["resources"]["reason"].clone())
        };
        assert_eq!(judged(false), ("degraded", json!("no session is started, and none runs: busy")));
        assert_eq!(judged(true), ("healthy", Value::Null), "what waits, waits for what runs");
    }

    #[test]
    fn only_what_stops_cove_itself_is_unhealthy() {
        assert_eq!(judge(&findings(|_| {}), Timestamp::ZERO).0, "healthy");
        assert_eq!(
            judge(&findings(|view| view.provider_down = Some("no host".to_owned())), Timestamp::ZERO).0,
            "degraded"
        );
        assert_eq!(judge(&findings(|view| view.ready = false), Timestamp::ZERO).0, "unhealthy");
        assert_eq!(judge(&findings(|view| view.draining = true), Timestamp::ZERO).0, "unhealthy");
        let stuck = Timestamp::ZERO.plus(STUCK_AFTER + Duration::from_secs(1));
        assert_eq!(judge(&findings(|_| {}), stuck).0, "unhealthy");
        let (status, parts) = judge(&findings(|view| view.no_disk = Some("full".to_owned())), Timestamp::ZERO);
        assert_eq!((status, &parts["disk"]["reason"]), ("unhealthy", &json!("full")));
        assert_eq!(line(status, &parts), "unhealthy: disk: full");
        let (status, parts) = judge(&findings(|_| {}), Timestamp::ZERO);
        assert_eq!(line(status, &parts), "healthy");
        let unknown = Findings { free_mb: None, ..findings(|_| {}) };
        assert_eq!(judge(&unknown, Timestamp::ZERO).0, "unhealthy");
        let failed = Findings { store: Err("gone".to_owned()), ..findings(|_| {}) };
        let (status, parts) = judge(&failed, Timestamp::ZERO);
        assert_eq!((status, &parts["store"]["reason"]), ("unhealthy", &json!("gone")));
        assert_eq!(parts["disk"], json!({"status": "healthy", "reason": null, "free_mb": 1_000}));
    }

    #[test]
    fn an_open_breaker_degrades_and_is_named() {
        let board = Board::new(BreakerLimits { failures: 1, open: Duration::from_secs(60), trials: 1 });
        let judged = |now| judge(&Findings { breakers: board.view(now), ..findings(|_| {}) }, now);
        board.succeeded("webhook https://c", Timestamp::ZERO);
        assert_eq!(judged(Timestamp::ZERO).0, "healthy");
        board.failed("webhook https://a", Timestamp::ZERO, "no answer");
        let (status, parts) = judged(Timestamp::ZERO);
        assert_eq!((status, &parts["breakers"]["status"]), ("degraded", &json!("degraded")));
        let told = "webhook https://a is open until 1970-01-01T00:01:00.000Z: no answer";
        assert_eq!(parts["breakers"]["reason"], told);
        assert_eq!(parts["provider"], json!({"status": "healthy", "reason": null}), "it starts no browsers");
        let expected = json!([
            {"name": "webhook https://a", "state": "open", "open_until": "1970-01-01T00:01:00.000Z",
                "since": "1970-01-01T00:00:00.000Z", "failures_in_a_row": 1, "opened_total": 1,
                "last_error": "no answer",
                "transitions": [{"at": "1970-01-01T00:00:00.000Z", "from": "closed", "to": "open"}]},
            {"name": "webhook https://c", "state": "closed", "since": "1970-01-01T00:00:00.000Z",
                "failures_in_a_row": 0, "opened_total": 0, "last_error": null, "transitions": []}]);
        assert_eq!(json!(breakers_json(&board.view(Timestamp::ZERO))), expected);

        board.failed(CDP_ATTACH, Timestamp::ZERO, "attach_failed: port 9");
        let told = "cdp_attach is open until 1970-01-01T00:01:00.000Z: attach_failed: port 9";
        let (status, parts) = judged(Timestamp::ZERO);
        assert_eq!((status, &parts["provider"]["reason"]), ("degraded", &json!(told)));
        assert_eq!(parts["breakers"]["reason"], format!("{told}; and 1 more"));
        let (status, parts) = judged(Timestamp::from_millis(60_000));
        assert_eq!((status, &parts["provider"]["reason"]), ("healthy", &Value::Null), "half open, calls go through");
    }

    #[test]
    fn a_browser_that_cannot_be_closed_degrades_and_is_named() {
        let close_errors = [(ProfileId::new("anna").unwrap(), "browser_lost: process 7".to_owned())].into();
        let (status, parts) = judge(&findings(|view| view.close_errors = close_errors), Timestamp::ZERO);
        let told = "the browser of anna cannot be closed: browser_lost: process 7";
        assert_eq!((status, &parts["provider"]["reason"]), ("degraded", &json!(told)));
    }

    #[test]
    fn a_pause_says_which_it_is_and_how_to_go_on() {
        let since = Timestamp::ZERO;
        let told = |pause: Pause| {
            let json = pause_json(&pause);
            (json["kind"].as_str().unwrap().to_owned(), json["help"].as_str().unwrap().contains("--accept-duplicates"))
        };
        assert_eq!(told(Pause::Operator { since }), ("operator".to_owned(), false));
        assert_eq!(told(Pause::Restored { since, blind: false }), ("restored".to_owned(), false));
        assert_eq!(told(Pause::Restored { since, blind: true }), ("restored".to_owned(), true));
        let damaged = Pause::LedgerDamaged { since, what: "line 3: no checksum".to_owned() };
        assert_eq!(pause_json(&damaged)["what"], "line 3: no checksum");
        assert_eq!(told(damaged), ("ledger_damaged".to_owned(), true));
    }

    #[test]
    fn the_queue_names_every_state() {
        let stats = StoreStats { items_by_state: vec![(ItemState::Queued, 3)], tasks: 2, ..StoreStats::default() };
        let queue = queue_json(&stats, None);
        assert_eq!((&queue["queued"], &queue["failed"], &queue["tasks"]), (&json!(3), &json!(0), &json!(2)));
        assert_eq!(queue.as_object().unwrap().len(), ItemState::ALL.len() + 3);
    }
}
