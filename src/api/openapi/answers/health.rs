//! The bodies of health, status and metrics.
//!
//! Called by the table of all answers, which has the words that schemas are made of.

use serde_json::{Value, json};

use super::{count, flag, list, map_of, maybe, maybe_text, maybe_time, number, object, of, text, time, words};
use crate::breaker::BreakerState;
use crate::model::WaitReason;

fn breaker() -> Value {
    let moved = object([("at", time()), ("from", words(BreakerState::NAMES)), ("to", words(BreakerState::NAMES))]);
    object([
        ("name", text()),
        ("state", words(BreakerState::NAMES)),
        ("since", time()),
        ("failures_in_a_row", count()),
        ("opened_total", count()),
        ("last_error", maybe_text()),
        ("transitions", list(moved)),
        ("?open_until", time()),
    ])
}

fn status() -> Value {
    let session = object([
        ("profile", text()),
        ("memory_mb", json!({"type": ["number", "null"]})),
        ("memory_exact", json!({"type": ["boolean", "null"]})),
        ("cpu_percent", json!({"type": ["number", "null"]})),
    ]);
    let maybe_number = || json!({"type": ["number", "null"], "minimum": 0});
    let machine = object([
        ("memory_available_mb", maybe_number()),
        ("cpu_percent", maybe_number()),
        ("memory_stall_percent", maybe_number()),
    ]);
    let held_back = object([
        ("wait_reason", words([WaitReason::NoMemory, WaitReason::NoCpu].map(WaitReason::name))),
        ("reason", text()),
    ]);
    let usage = object([
        ("memory_mb", number()),
        ("memory_limit_mb", number()),
        ("sessions_memory_mb", number()),
        ("total_limit_mb", maybe_number()),
        ("machine", machine),
        ("held_back", maybe(held_back)),
        ("memory_percent", number()),
        ("cpu_percent", json!({"type": ["number", "null"]})),
        ("num_threads", count()),
        ("num_fds", count()),
        ("disk_free_mb", json!({"type": ["integer", "null"], "minimum": 0})),
        ("sessions", list(session)),
        ("timestamp", time()),
    ]);
    let provider =
        object([("kind", words(["chromium", "dolphin"])), ("status", words(["up", "down"])), ("reason", maybe_text())]);
    object([
        ("version", text()),
        ("pid", count()),
        ("uid", count()),
        ("uptime_seconds", count()),
        ("state", words(["running", "paused", "draining", "restored", "starting"])),
        ("pause", json!({"type": ["object", "null"], "additionalProperties": true})),
        ("slots", object([("total", count()), ("busy", count())])),
        ("queue", json!({"type": ["object", "null"], "additionalProperties": true})),
        ("resource_usage", usage),
        ("breakers", list(breaker())),
        ("provider", provider),
        ("last_snapshot", maybe(of("Snapshot"))),
    ])
}

pub(super) fn health_and_status() -> Vec<(&'static str, Value)> {
    let statuses = || words(["healthy", "degraded", "unhealthy"]);
    let part = |more: &[(&str, Value)]| {
        let mut part = object([("status", statuses()), ("reason", maybe_text())]);
        for (name, schema) in more {
            part["properties"][*name] = schema.clone();
        }
        part
    };
    let maybe_number = || json!({"type": ["number", "null"], "minimum": 0});
    let free = || json!({"type": ["integer", "null"], "minimum": 0});
    let parts = object([
        ("store", part(&[("commit_p99_ms", maybe_number())])),
        ("engine", part(&[("draining", flag()), ("turned_at", time())])),
        ("disk", part(&[("free_mb", free())])),
        ("provider", part(&[])),
        ("breakers", part(&[])),
        ("memory", part(&[("memory_mb", maybe_number()), ("available_mb", maybe_number())])),
        ("resources", part(&[("cpu_percent", maybe_number()), ("sessions_memory_mb", maybe_number())])),
        ("clock", part(&[("suspect", flag())])),
        ("queue", part(&[("oldest_waiting_since", maybe_time()), ("oldest_waiting_seconds", free())])),
        ("snapshots", part(&[("last_created_at", maybe_time()), ("last_verified_at", maybe_time())])),
    ]);
    let health = object([
        ("ok", flag()),
        ("status", statuses()),
        ("version", text()),
        ("uptime_seconds", count()),
        ("timestamp", time()),
        ("parts", parts),
    ]);
    let times = || {
        let parts = [
            ("count", count()),
            ("sum", number()),
            ("min", number()),
            ("max", number()),
            ("mean", number()),
            ("p50", number()),
            ("p90", number()),
            ("p95", number()),
            ("p99", number()),
        ];
        object(parts)
    };
    let metrics = object([
        ("timestamp", time()),
        ("uptime_seconds", count()),
        ("counters", map_of(number())),
        ("gauges", map_of(number())),
        ("histograms", map_of(times())),
        ("timers", map_of(times())),
        ("database_pools", map_of(map_of(number()))),
    ]);
    let point = json!({"type": "array", "prefixItems": [time(), number()], "items": false, "minItems": 2});
    let history = object([("name", text()), ("step_seconds", count()), ("points", list(point))]);
    vec![
        ("Simple", object([("ok", flag()), ("status", words(["healthy"]))])),
        ("Health", health),
        ("Status", status()),
        ("Metrics", metrics),
        ("MetricsHistory", history),
        ("State", object([("state", words(["running", "paused"]))])),
        ("Document", json!({"type": "object", "additionalProperties": true})),
    ]
}
