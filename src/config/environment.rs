//! The environment: `COVE_SECTION__KEY` for every key, and the names that the original's operators know.
//!
//! Invariant: no value of a variable is in a warning, and none in an error but that of a known key that
//! holds no secret. Of the original's names, some set a key, the rest is accepted so that an old
//! environment file keeps working, and named in a warning. `COVE_CONFIG`, `COVE_URL`, `COVE_TOKEN` and the
//! like have no `__` and belong to the command line.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize as _;
use toml::Value;
use toml::de::ValueDeserializer;

use super::error::ConfigError;
use super::file::{unknown_key, unknown_section};
use super::keys::{self, KEYS, Key, Rule};
use super::load::{Entries, Entry};
use super::{Config, dolphin};

type Environment = BTreeMap<String, String>;

/// What this version has no use for.
const NOT_USED: &[&str] = &["DB_MIN_CONNECTIONS", "DB_MAX_CONNECTIONS", "HEARTBEAT_INTERVAL_SECS"];
/// What belongs to parts of the original that are not here at all.
const IGNORED: &[&str] = &["DB_PASSWORD", "SECRET_KEY", "DATABASE_URL", "WEB_UI_PORT", "UI_API_BASE", "UI_API_TOKEN"];

/// The original's slots were workers times tasks of one worker; these are its defaults of the two.
const WORKERS: (&str, u64) = ("WORKERS_COUNT", 5);
const TASKS_OF_A_WORKER: (&str, u64) = ("MAX_CONCURRENT_TASKS", 3);

/// `COVE_SECTION__KEY`.
pub(super) fn read_own(env: &Environment, errors: &mut Vec<ConfigError>) -> Entries {
    let mut entries = Entries::new();
    for (variable, text) in env {
        let Some((section, name)) = variable.strip_prefix("COVE_").and_then(|rest| rest.split_once("__")) else {
            continue;
        };
        let checked = match KEYS.iter().find(|key| key.variable() == *variable) {
            Some(key) => value_of(key, text, variable).map(|entry| (key.path(), entry)),
            None => Err(unknown(section, name, variable)),
        };
        match checked {
            Ok((key, entry)) => drop(entries.insert(key, entry)),
            Err(error) => errors.push(error),
        }
    }
    entries
}

fn unknown(section: &str, name: &str, variable: &str) -> ConfigError {
    let (section, name) = (section.to_lowercase(), name.to_lowercase());
    let message = if let Some(key) = keys::find(&section, &name) {
        format!("unknown variable; it is written {}", key.variable())
    } else if keys::sections().contains(&section.as_str()) {
        unknown_key(&section, &name)
    } else {
        unknown_section(&section)
    };
    ConfigError::new(format!("{section}.{name}"), variable, message)
}

/// Text of a variable as the key's type, checked.
fn value_of(key: &Key, text: &str, variable: &str) -> Result<Entry, ConfigError> {
    // The process' environment was decoded with this mark for what is not UTF-8.
    if text.contains('\u{fffd}') {
        return Err(ConfigError::new(key.path(), variable, "is not UTF-8 text"));
    }
    let refuse = || key.error(text, variable, format!("allowed is {}", key.rule.allowed()));
    let trimmed = text.trim();
    let value = match key.rule {
        Rule::Integer(..) => Value::Integer(trimmed.parse().map_err(|_| refuse())?),
        Rule::Bool => Value::Boolean(trimmed.parse().map_err(|_| refuse())?),
        Rule::Paths | Rule::Profiles | Rule::Hosts | Rule::Networks | Rule::Words(_) => {
            list_of(trimmed).ok_or_else(|| {
                key.error(
                    text,
                    variable,
                    format!("allowed is {}: a TOML array, or separated by commas", key.rule.allowed()),
                )
            })?
        }
        Rule::Choice(_)
        | Rule::Address
        | Rule::Path
        | Rule::Url
        | Rule::LogFilter
        | Rule::Schedule
        | Rule::TimeZone => Value::String(trimmed.to_owned()),
    };
    Ok(Entry { value: key.check(value, variable)?, source: variable.to_owned() })
}

/// A TOML array, or words between commas; empty is the empty list.
fn list_of(text: &str) -> Option<Value> {
    if text.starts_with('[') {
        let value = Value::deserialize(ValueDeserializer::parse(text).ok()?).ok()?;
        return value.is_array().then_some(value);
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Some(Value::Array(words.map(|word| Value::String(word.to_owned())).collect()))
}

/// The original's names. `below` is what the file says, of which `WORKER_BASE_PORT` keeps the address.
pub(super) fn read_original(
    env: &Environment,
    below: &Entries,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) -> Entries {
    let set = |name: &str| env.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let mut entries = Entries::new();
    let mut add = |path: &str, text: &str, variable: &str| {
        let (section, name) = path.split_once('.').expect("written below as section.key");
        let key = keys::find(section, name).expect("a key of the table");
        match value_of(key, text, variable) {
            Ok(entry) => drop(entries.insert(path.to_owned(), entry)),
            Err(error) => errors.push(error),
        }
    };
    if let Some(text) = set("RATE_LIMIT_REQUESTS") {
        add("limits.requests", text, "RATE_LIMIT_REQUESTS");
    }
    if let Some(text) = set("RATE_LIMIT_WINDOW") {
        add("limits.window_seconds", text, "RATE_LIMIT_WINDOW");
    }
    if let Some(text) = set("MEMORY_LIMIT_MB") {
        add("resources.session_limit_mb", text, "MEMORY_LIMIT_MB");
    }
    if let Some(text) = set("LOG_LEVEL") {
        add("log.level", &level_of(text), "LOG_LEVEL");
    }
    if let Some(text) = set("DOLPHIN_API_HOST") {
        add("dolphin.api_host", &dolphin::api_host(text), "DOLPHIN_API_HOST");
    }
    if let Some(text) = set("WORKER_BASE_PORT") {
        match text.parse::<u16>() {
            Ok(port) => add("server.listen", &with_port(below, port).to_string(), "WORKER_BASE_PORT"),
            Err(_) => errors.push(named("server.listen", "WORKER_BASE_PORT", text, "a port, 0 to 65535")),
        }
    }
    match slots(set(WORKERS.0), set(TASKS_OF_A_WORKER.0)) {
        Ok(Some((slots, source))) => match value_of(slots_key(), &slots.to_string(), &source) {
            Ok(entry) => drop(entries.insert(slots_key().path(), entry)),
            Err(error) => errors.push(error),
        },
        Ok(None) => {}
        Err(mistakes) => errors.extend(mistakes),
    }
    warn(warnings, "not used by this version", NOT_USED.iter().filter(|name| set(name).is_some()));
    warn(warnings, "ignored, since cove has nothing of the kind", IGNORED.iter().filter(|name| set(name).is_some()));
    entries
}

fn warn<'a>(warnings: &mut Vec<String>, why: &str, names: impl Iterator<Item = &'a &'a str>) {
    let names: Vec<&str> = names.copied().collect();
    if !names.is_empty() {
        warnings.push(format!("set in the environment and {why}: {}", names.join(", ")));
    }
}

fn slots_key() -> &'static Key {
    keys::find("engine", "slots").expect("a key of the table")
}

/// The product and where it came from; `None`: neither is set.
fn slots(workers: Option<&str>, tasks: Option<&str>) -> Result<Option<(u64, String)>, Vec<ConfigError>> {
    let mut mistakes = Vec::new();
    let mut sources = Vec::new();
    let mut factor = |(name, default): (&'static str, u64), text: Option<&str>| {
        let Some(text) = text else { return default };
        sources.push(name);
        text.parse().ok().filter(|count| *count > 0).unwrap_or_else(|| {
            mistakes.push(named("engine.slots", name, text, "a number from 1"));
            default
        })
    };
    let product = factor(WORKERS, workers).saturating_mul(factor(TASKS_OF_A_WORKER, tasks));
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok((!sources.is_empty()).then(|| (product, sources.join(" × "))))
}

fn named(key: &str, variable: &str, text: &str, allowed: &str) -> ConfigError {
    ConfigError::new(key, variable, format!("allowed is {allowed}")).with_value(text)
}

fn with_port(below: &Entries, port: u16) -> SocketAddr {
    let written = below.get("server.listen").and_then(|entry| entry.value.as_ref()?.as_str()?.parse().ok());
    let mut address: SocketAddr = written.unwrap_or(Config::default().server.listen);
    address.set_port(port);
    address
}

/// The original's levels are Python's.
fn level_of(text: &str) -> String {
    match text.to_ascii_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        "critical" | "fatal" => "error".to_owned(),
        "notset" => "trace".to_owned(),
        "debug" | "info" | "error" => text.to_ascii_lowercase(),
        _ => text.to_owned(),
    }
}
