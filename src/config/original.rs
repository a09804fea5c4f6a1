//! The names that the original system's operators know, as environment variables.
//!
//! Some are settings of cove; some name what this version does not do yet; some have no meaning here
//! any more. The last two are accepted and named in one warning each, without their values.

use std::collections::BTreeMap;

use super::keys::find;
use super::load::Gathered;

/// The original's defaults: tasks at a time per worker, and workers.
const TASKS_PER_WORKER: i64 = 3;
const WORKERS: i64 = 5;

const LATER: [&str; 7] = [
    "MEMORY_LIMIT_MB",
    "DB_MIN_CONNECTIONS",
    "DB_MAX_CONNECTIONS",
    "HEARTBEAT_INTERVAL_SECS",
    "DOLPHIN_API_HOST",
    "DOLPHIN_API_TOKEN",
    "WORKER_API_TOKEN",
];
const WITHOUT_MEANING: [&str; 6] =
    ["DB_PASSWORD", "SECRET_KEY", "DATABASE_URL", "WEB_UI_PORT", "UI_API_BASE", "UI_API_TOKEN"];

pub(super) fn read(env: &BTreeMap<String, String>, gathered: &mut Gathered) {
    slots(env, gathered);
    if let Some(port) = env.get("WORKER_BASE_PORT") {
        match port.trim().parse::<u16>() {
            Ok(port) => take(gathered, ("server", "listen"), format!("127.0.0.1:{port}").into(), "WORKER_BASE_PORT"),
            Err(_) => wrong(gathered, "WORKER_BASE_PORT", "allowed is a port from 0 to 65535"),
        }
    }
    for (name, key) in [("RATE_LIMIT_REQUESTS", "requests"), ("RATE_LIMIT_WINDOW", "window_seconds")] {
        if let Some(text) = env.get(name) {
            match number(text) {
                Some(number) => take(gathered, ("limits", key), number.into(), name),
                None => wrong(gathered, name, "allowed is a whole number"),
            }
        }
    }
    if let Some(level) = env.get("LOG_LEVEL") {
        let level = match level.to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            "critical" => "error".to_owned(),
            other => other.to_owned(),
        };
        take(gathered, ("log", "level"), level.into(), "LOG_LEVEL");
    }
    warn(env, gathered, &LATER, "accepted, and not used by this version");
    warn(env, gathered, &WITHOUT_MEANING, "accepted, and without meaning here");
}

/// Slots are the product of the original's two numbers.
fn slots(env: &BTreeMap<String, String>, gathered: &mut Gathered) {
    let mut factor = |name: &str, otherwise: i64| match env.get(name) {
        None => Some(otherwise),
        Some(text) => {
            let number = number(text).filter(|number| *number > 0);
            if number.is_none() {
                wrong(gathered, name, "allowed is a whole number above 0");
            }
            number
        }
    };
    let given = ["WORKERS_COUNT", "MAX_CONCURRENT_TASKS"].into_iter().filter(|name| env.contains_key(*name));
    let names: Vec<_> = given.collect();
    let (workers, tasks) = (factor("WORKERS_COUNT", WORKERS), factor("MAX_CONCURRENT_TASKS", TASKS_PER_WORKER));
    if let (Some(workers), Some(tasks), false) = (workers, tasks, names.is_empty()) {
        take(gathered, ("engine", "slots"), workers.saturating_mul(tasks).into(), &names.join(" × "));
    }
}

fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

fn take(gathered: &mut Gathered, (section, name): (&str, &str), value: toml::Value, variable: &str) {
    let source = format!("environment variable {variable}");
    match find(section, name) {
        Ok(key) => gathered.take(key, value, &source),
        Err(message) => gathered.wrong(variable, &source, message),
    }
}

fn wrong(gathered: &mut Gathered, variable: &str, message: &str) {
    gathered.wrong(variable, &format!("environment variable {variable}"), message.to_owned());
}

fn warn(env: &BTreeMap<String, String>, gathered: &mut Gathered, names: &[&str], what: &str) {
    let set: Vec<_> = names.iter().copied().filter(|name| env.contains_key(*name)).collect();
    if !set.is_empty() {
        gathered.warnings.push(format!("{}: {what}", set.join(", ")));
    }
}
