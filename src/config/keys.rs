//! Every key: its section, its name, what it may be. One table, which the loader, the messages and the
//! test of the default file read.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::Value;

/// What a value may be.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Bool,
    Integer(RangeInclusive<i64>),
    /// An address with a port.
    Address,
    /// An absolute path; an empty text is "not set".
    Path,
    /// Absolute paths.
    Paths,
    /// An http or https URL.
    Url,
    Texts,
    OneOf(&'static [&'static str]),
    ListOf(&'static [&'static str]),
    /// A level or tracing's filter syntax.
    Filter,
}

pub(super) struct Key {
    pub section: &'static str,
    pub name: &'static str,
    pub kind: Kind,
}

impl Key {
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

const SECONDS_A_DAY: i64 = 86_400;
const MEBIBYTE: i64 = 1024 * 1024;
const OPEN: &[&str] = &["health", "metrics", "status", "locks"];

macro_rules! keys {
    ($($section:ident . $name:ident $kind:expr;)+) => {
        pub(super) static KEYS: &[Key] = &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            kind: $kind,
        }),+];
    };
}

keys! {
    server.listen Kind::Address;
    server.socket Kind::Path;
    server.max_body_bytes Kind::Integer(1024..=1024 * MEBIBYTE);
    server.max_connections Kind::Integer(8..=65_536);
    state.dir Kind::Path;
    media.roots Kind::Paths;
    media.max_bytes Kind::Integer(1..=1024 * 1024 * MEBIBYTE);
    engine.slots Kind::Integer(1..=256);
    engine.max_attempts Kind::Integer(1..=100);
    engine.retry_base_seconds Kind::Integer(0..=SECONDS_A_DAY);
    engine.retry_max_seconds Kind::Integer(0..=SECONDS_A_DAY);
    engine.max_items_per_task Kind::Integer(1..=100_000);
    engine.drain_seconds Kind::Integer(0..=3_600);
    engine.evidence_max_bytes Kind::Integer(MEBIBYTE..=16 * 1024 * MEBIBYTE);
    browser.provider Kind::OneOf(&["chromium", "dolphin"]);
    browser.chromium Kind::Path;
    browser.headless Kind::Bool;
    browser.sandbox Kind::Bool;
    browser.host_socket Kind::Path;
    dolphin.api_host Kind::Url;
    dolphin.api_token_file Kind::Path;
    dolphin.cloud_host Kind::Url;
    dolphin.profiles Kind::Texts;
    auth.required Kind::Bool;
    auth.open_on_loopback Kind::ListOf(OPEN);
    limits.window_seconds Kind::Integer(1..=SECONDS_A_DAY);
    limits.task_starts Kind::Integer(0..=1_000_000);
    limits.health Kind::Integer(0..=1_000_000);
    limits.metrics Kind::Integer(0..=1_000_000);
    limits.requests Kind::Integer(0..=1_000_000);
    log.level Kind::Filter;
    log.format Kind::OneOf(&["auto", "text", "json", "journald"]);
}

impl Kind {
    /// What is allowed, for a message.
    pub fn allowed(&self) -> String {
        match self {
            Self::Bool => "allowed is true or false".to_owned(),
            Self::Integer(range) => format!("allowed is a whole number from {} to {}", range.start(), range.end()),
            Self::Address => "allowed is an address with a port, for example \"127.0.0.1:8088\"".to_owned(),
            Self::Path => "allowed is an absolute path, or \"\" for the default".to_owned(),
            Self::Paths => "allowed is a list of absolute paths, for example [\"/srv/media\"]".to_owned(),
            Self::Url => "allowed is an http or https URL, for example \"http://127.0.0.1:3001\"".to_owned(),
            Self::Texts => "allowed is a list of texts".to_owned(),
            Self::OneOf(words) => format!("allowed is one of: {}", words.join(", ")),
            Self::ListOf(words) => format!("allowed is a list of: {}", words.join(", ")),
            Self::Filter => {
                "allowed is error, warn, info, debug, trace, or a filter such as \"info,cove=debug\"".to_owned()
            }
        }
    }

    pub fn fits(&self, value: &Value) -> bool {
        let texts = |fits: &dyn Fn(&str) -> bool| {
            value.as_array().is_some_and(|list| list.iter().all(|entry| entry.as_str().is_some_and(fits)))
        };
        let text = |fits: &dyn Fn(&str) -> bool| value.as_str().is_some_and(fits);
        match self {
            Self::Bool => value.is_bool(),
            Self::Integer(range) => value.as_integer().is_some_and(|number| range.contains(&number)),
            Self::Address => text(&|text| text.parse::<SocketAddr>().is_ok()),
            Self::Path => text(&|text| text.is_empty() || Path::new(text).is_absolute()),
            Self::Paths => texts(&|text| Path::new(text).is_absolute()),
            Self::Url => text(&|text| text.starts_with("http://") || text.starts_with("https://")),
            Self::Texts => texts(&|_| true),
            Self::OneOf(words) => text(&|text| words.contains(&text)),
            Self::ListOf(words) => texts(&|text| words.contains(&text)),
            Self::Filter => {
                text(&|text| !text.trim().is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok())
            }
        }
    }

    /// A value from an environment variable: lists as TOML or with commas.
    pub fn read(&self, text: &str) -> Value {
        match self {
            Self::Bool => match text {
                "true" | "1" | "yes" | "on" => true.into(),
                "false" | "0" | "no" | "off" => false.into(),
                other => other.into(),
            },
            Self::Integer(_) => text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::from),
            Self::Paths | Self::Texts | Self::ListOf(_) => {
                let table = toml::from_str::<toml::Table>(&format!("list = {text}"));
                match table.ok().and_then(|mut table| table.remove("list")).filter(Value::is_array) {
                    Some(list) => list,
                    None => {
                        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                        Value::Array(entries.map(Value::from).collect())
                    }
                }
            }
            Self::Address | Self::Path | Self::Url | Self::OneOf(_) | Self::Filter => text.into(),
        }
    }
}

/// The key of a name, or the names that come nearest.
pub(super) fn find(section: &str, name: &str) -> Result<&'static Key, String> {
    let known = |key: &&Key| key.section == section && key.name == name;
    if let Some(key) = KEYS.iter().find(known) {
        return Ok(key);
    }
    let mut names: Vec<&str> = KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect();
    if names.is_empty() {
        names = KEYS.iter().map(|key| key.section).collect();
        names.dedup();
        nearest_first(&mut names, section);
        return Err(format!("there is no section [{section}]; there are: {}", names.join(", ")));
    }
    nearest_first(&mut names, name);
    Err(format!("there is no such key; [{section}] has: {}", names.join(", ")))
}

/// Orders names by how much they share with what was written.
fn nearest_first(names: &mut [&str], written: &str) {
    let pairs = |text: &str| -> Vec<(char, char)> { text.chars().zip(text.chars().skip(1)).collect() };
    let wanted = pairs(written);
    names.sort_by_key(|name| std::cmp::Reverse(pairs(name).iter().filter(|pair| wanted.contains(pair)).count()));
}
