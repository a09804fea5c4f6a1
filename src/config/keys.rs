//! Every key of the configuration and what it may hold: the one table that checks and messages read.
//!
//! A value of any source becomes a [`toml::Value`] and passes [`Key::check`] before it is used. A test
//! proves that this table and the structs of [`Config`](super::Config) name the same keys.
//! Not here: where a value comes from (`file`, `environment`) and what needs two keys at once (`load`).

use std::net::SocketAddr;
use std::path::Path;

use toml::Value;

use super::error::ConfigError;
use super::{dolphin, network};
use crate::model::schedule::{ALLOWED_SCHEDULES, ALLOWED_TIME_ZONES};
use crate::model::{Schedule, Zone};

const DAY_SECONDS: u64 = 24 * 60 * 60;
const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const TIB_IN_MB: u64 = 1 << 20;
/// Twice the ballast, which lies inside the reserve.
const LEAST_RESERVE_MB: u64 = 32;

/// What a key may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// From the first to the second, both included.
    Integer(u64, u64),
    Bool,
    Choice(&'static [&'static str]),
    /// `address:port`.
    Address,
    /// An absolute path; empty is the default.
    Path,
    Paths,
    /// An `http` or `https` address without a user and a password in it; empty is the default.
    Url,
    /// Profiles of Dolphin Anty.
    Profiles,
    /// Names to answer to.
    Hosts,
    Networks,
    /// Any of these words.
    Words(&'static [&'static str]),
    LogFilter,
    /// A cron expression; empty or `off` is none.
    Schedule,
    /// Empty is the system's.
    TimeZone,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub section: &'static str,
    pub name: &'static str,
    pub rule: Rule,
    /// Somebody may write a secret here, even if only by mistake: its value is never shown in an error.
    pub secret: bool,
}

const fn key(section: &'static str, name: &'static str, rule: Rule) -> Key {
    Key { section, name, rule, secret: false }
}

pub(super) const OPEN_ON_LOOPBACK: &[&str] = &["health", "metrics", "status", "locks"];

pub(super) static KEYS: &[Key] = &[
    key("server", "listen", Rule::Address),
    key("server", "socket", Rule::Path),
    key("server", "max_body_bytes", Rule::Integer(KIB, GIB)),
    key("server", "max_connections", Rule::Integer(8, 65_536)),
    key("server", "allowed_hosts", Rule::Hosts),
    key("server", "trusted_proxies", Rule::Networks),
    key("state", "dir", Rule::Path),
    key("media", "roots", Rule::Paths),
    key("media", "max_bytes", Rule::Integer(KIB, 1024 * GIB)),
    key("engine", "slots", Rule::Integer(1, 256)),
    key("engine", "max_attempts", Rule::Integer(1, 100)),
    key("engine", "retry_base_seconds", Rule::Integer(1, DAY_SECONDS)),
    key("engine", "retry_max_seconds", Rule::Integer(1, 7 * DAY_SECONDS)),
    key("engine", "max_items_per_task", Rule::Integer(1, 100_000)),
    key("engine", "drain_seconds", Rule::Integer(0, DAY_SECONDS)),
    key("engine", "evidence_max_bytes", Rule::Integer(64 * KIB, 16 * GIB)),
    key("engine", "rate_limited_rest_seconds", Rule::Integer(1, 7 * DAY_SECONDS)),
    key("engine", "catch_up_per_hour", Rule::Integer(0, 1_000_000)),
    key("engine", "sessions", Rule::Integer(0, 256)),
    key("retention", "task_days", Rule::Integer(1, 3_650)),
    key("retention", "tasks", Rule::Integer(0, 100_000_000)),
    key("retention", "media_days", Rule::Integer(1, 3_650)),
    key("snapshots", "dir", Rule::Path),
    key("snapshots", "keep_days", Rule::Integer(1, 3_650)),
    key("snapshots", "keep_count", Rule::Integer(1, 10_000)),
    key("snapshots", "include_media", Rule::Bool),
    key("snapshots", "include_evidence", Rule::Bool),
    key("maintenance", "time_zone", Rule::TimeZone),
    key("maintenance", "health_check", Rule::Schedule),
    key("maintenance", "lock_cleanup", Rule::Schedule),
    key("maintenance", "retention", Rule::Schedule),
    key("maintenance", "snapshot", Rule::Schedule),
    key("maintenance", "snapshot_verification", Rule::Schedule),
    key("maintenance", "compaction", Rule::Schedule),
    key("resources", "disk_reserve_mb", Rule::Integer(LEAST_RESERVE_MB, TIB_IN_MB)),
    key("resources", "memory_reserve_mb", Rule::Integer(0, TIB_IN_MB)),
    key("resources", "session_estimate_mb", Rule::Integer(0, TIB_IN_MB)),
    key("resources", "session_limit_mb", Rule::Integer(0, TIB_IN_MB)),
    key("resources", "total_limit_mb", Rule::Integer(0, TIB_IN_MB)),
    key("resources", "cpu_threshold_percent", Rule::Integer(0, 100)),
    key("resources", "memory_stall_percent", Rule::Integer(0, 100)),
    key("browser", "provider", Rule::Choice(&["chromium", "dolphin"])),
    key("browser", "chromium", Rule::Path),
    key("browser", "headless", Rule::Bool),
    key("browser", "sandbox", Rule::Bool),
    key("browser", "host_socket", Rule::Path),
    key("browser", "start_stagger_ms", Rule::Integer(0, 60_000)),
    key("dolphin", "api_host", Rule::Url),
    Key { secret: true, ..key("dolphin", "api_token_file", Rule::Path) },
    key("dolphin", "cloud_host", Rule::Url),
    key("dolphin", "profiles", Rule::Profiles),
    key("dolphin", "on_duplicate", Rule::Choice(&["wait", "stop_and_start"])),
    key("dolphin", "parallel_starts", Rule::Integer(1, 32)),
    key("dolphin", "start_stagger_ms", Rule::Integer(0, 60_000)),
    key("auth", "required", Rule::Bool),
    key("auth", "open_on_loopback", Rule::Words(OPEN_ON_LOOPBACK)),
    Key { secret: true, ..key("auth", "token_file", Rule::Path) },
    key("limits", "window_seconds", Rule::Integer(1, DAY_SECONDS)),
    key("limits", "task_starts", Rule::Integer(0, 1_000_000)),
    key("limits", "health", Rule::Integer(0, 1_000_000)),
    key("limits", "metrics", Rule::Integer(0, 1_000_000)),
    key("limits", "locks", Rule::Integer(0, 1_000_000)),
    key("limits", "requests", Rule::Integer(0, 1_000_000)),
    key("locks", "ttl_minutes", Rule::Integer(1, 7 * 24 * 60)),
    key("breakers", "failures", Rule::Integer(1, 1_000)),
    key("breakers", "open_seconds", Rule::Integer(1, DAY_SECONDS)),
    key("breakers", "half_open_calls", Rule::Integer(1, 100)),
    key("log", "level", Rule::LogFilter),
    key("log", "format", Rule::Choice(&["auto", "text", "json", "journald"])),
    key("log", "file", Rule::Path),
    key("log", "max_size_mb", Rule::Integer(1, 1024 * 1024)),
    key("log", "keep", Rule::Integer(1, 1_000)),
    key("log", "keep_days", Rule::Integer(1, 3_650)),
];

/// The sections, in the order of the table.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable of this key.
    pub fn variable(&self) -> String {
        format!("COVE_{}__{}", self.section.to_uppercase(), self.name.to_uppercase())
    }

    /// An error about this key's value, which is shown unless it may be a secret.
    pub fn error(&self, value: &str, source: &str, message: impl Into<String>) -> ConfigError {
        let error = ConfigError::new(self.path(), source, message);
        let may_be_secret = self.secret || (self.rule == Rule::Url && value.contains('@'));
        if may_be_secret { error } else { error.with_value(value) }
    }

    /// The value as it can be used; `None` is an empty value that means the default.
    pub fn check(&self, value: Value, source: &str) -> Result<Option<Value>, ConfigError> {
        if matches!(self.rule, Rule::Path | Rule::Url) && value.as_str() == Some("") {
            return Ok(None);
        }
        match self.rule.objection(&value) {
            None => Ok(Some(value)),
            Some(message) => Err(self.error(&value.to_string(), source, message)),
        }
    }
}

impl Rule {
    /// What is allowed, for a message that begins with "allowed is".
    pub fn allowed(self) -> String {
        match self {
            Self::Integer(min, max) => format!("{min} to {max}"),
            Self::Bool => "true or false".to_owned(),
            Self::Choice(words) => words.join(", "),
            Self::Address => "an address with a port, such as 127.0.0.1:8088 or [::1]:8088".to_owned(),
            Self::Path => "an absolute path as text".to_owned(),
            Self::Paths => "a list of absolute paths".to_owned(),
            Self::Url => "an http:// or https:// address as text, without a user and password in it".to_owned(),
            Self::Profiles => dolphin::ALLOWED_PROFILES.to_owned(),
            Self::Hosts => network::ALLOWED_HOSTS.to_owned(),
            Self::Networks => network::ALLOWED_NETWORKS.to_owned(),
            Self::Words(words) => format!("a list of any of {}", words.join(", ")),
            Self::LogFilter => {
                "off, error, warn, info, debug, trace, or a filter such as info,cove::engine=debug".to_owned()
            }
            Self::Schedule => ALLOWED_SCHEDULES.to_owned(),
            Self::TimeZone => ALLOWED_TIME_ZONES.to_owned(),
        }
    }

    fn objection(self, value: &Value) -> Option<String> {
        let list = |accepts: &dyn Fn(&str) -> bool| {
            value.as_array().is_some_and(|list| list.iter().all(|entry| entry.as_str().is_some_and(accepts)))
        };
        let text = value.as_str();
        let fits = match self {
            Self::Integer(min, max) => {
                value.as_integer().is_some_and(|n| u64::try_from(n).is_ok_and(|n| (min..=max).contains(&n)))
            }
            Self::Bool => value.is_bool(),
            Self::Choice(words) => text.is_some_and(|text| words.contains(&text)),
            Self::Address => text.is_some_and(|text| text.parse::<SocketAddr>().is_ok()),
            Self::Path => text.is_some_and(is_absolute_path),
            Self::Paths => list(&is_absolute_path),
            Self::Url => text.is_some_and(is_url),
            Self::Profiles => {
                list(&|_| true) && {
                    let entries = value.as_array().into_iter().flatten();
                    dolphin::are_profiles(entries.filter_map(Value::as_str))
                }
            }
            Self::Hosts => list(&network::is_host),
            Self::Networks => list(&|text| text.parse::<network::Network>().is_ok()),
            Self::Words(words) => list(&|text| words.contains(&text)),
            Self::LogFilter => text.is_some_and(is_log_filter),
            Self::Schedule => text.is_some_and(|text| Schedule::parse(text).is_ok()),
            Self::TimeZone => text.is_some_and(|text| text.is_empty() || Zone::named(text).is_some()),
        };
        (!fits).then(|| {
            let wrong_type = value.type_str() != self.type_name();
            let hint =
                if wrong_type { format!(", not {} in TOML", with_article(value.type_str())) } else { String::new() };
            format!("allowed is {}{hint}", self.allowed())
        })
    }

    /// TOML's name of the type.
    const fn type_name(self) -> &'static str {
        match self {
            Self::Integer(..) => "integer",
            Self::Bool => "boolean",
            Self::Choice(_)
            | Self::Address
            | Self::Path
            | Self::Url
            | Self::LogFilter
            | Self::Schedule
            | Self::TimeZone => "string",
            Self::Paths | Self::Profiles | Self::Hosts | Self::Networks | Self::Words(_) => "array",
        }
    }
}

fn with_article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {type_name}")
}

fn is_absolute_path(text: &str) -> bool {
    Path::new(text).is_absolute() && !text.contains('\0')
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(|c: char| c == '@' || c.is_whitespace() || c.is_control())
    })
}

/// The filter's parser takes a lone word that is no level for a target's name and so silences everything
/// else: `verbose` would be an empty log. Such a word is refused.
fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let lone_word = |directive: &str| {
        let word = directive.trim();
        !word.contains(['=', '[']) && !LEVELS.contains(&word.to_ascii_lowercase().as_str())
    };
    !text.trim().is_empty()
        && (text.contains('[') || !text.split(',').any(lone_word))
        && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::{KEYS, Key, Rule, find, is_log_filter, is_url};

    fn key(path: &str) -> &'static Key {
        let (section, name) = path.split_once('.').unwrap();
        find(section, name).unwrap()
    }

    #[test]
    fn both_ends_of_every_range_are_allowed_and_their_neighbours_refused() {
        let mut ranges = 0;
        for key in KEYS {
            let Rule::Integer(min, max) = key.rule else { continue };
            ranges += 1;
            let (min, max) = (i64::try_from(min).unwrap(), i64::try_from(max).unwrap());
            for good in [min, max] {
                assert_eq!(key.check(Value::Integer(good), "x").unwrap(), Some(Value::Integer(good)), "{}", key.path());
            }
            for bad in [min - 1, max + 1, i64::MIN] {
                let error = key.check(Value::Integer(bad), "x").unwrap_err();
                assert_eq!(error.message, format!("allowed is {min} to {max}"), "{}", key.path());
                assert_eq!(error.value, Some(bad.to_string()));
            }
        }
        assert_eq!(ranges, 41);
    }

    #[test]
    fn a_wrong_type_is_named_as_toml_names_it() {
        let error = key("engine.slots").check(Value::String("4".into()), "x").unwrap_err();
        assert_eq!(error.to_string(), "engine.slots = \"4\" (x): allowed is 1 to 256, not a string in TOML");
        let error = key("media.roots").check(Value::Integer(1), "x").unwrap_err();
        assert!(error.message.ends_with("not an integer in TOML"), "{error}");
    }

    #[test]
    fn paths_are_absolute_and_empty_is_the_default() {
        assert_eq!(key("server.socket").check(Value::String(String::new()), "x").unwrap(), None);
        assert!(key("server.socket").check(Value::String("run/cove.sock".into()), "x").is_err());
        let roots = |list: &[&str]| key("media.roots").check(Value::from(list.to_vec()), "x");
        assert!(roots(&["/srv", "/media/a b"]).is_ok() && roots(&[]).is_ok());
        assert!(roots(&["/srv", "media"]).is_err() && roots(&[""]).is_err());
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let error = key("dolphin.api_token_file").check(Value::String("ey-the-token".into()), "x").unwrap_err();
        assert!(error.value.is_none() && !error.to_string().contains("ey-the"), "{error}");
        let error = key("dolphin.api_host").check(Value::String("http://me:pass@host".into()), "x").unwrap_err();
        assert!(error.value.is_none() && !error.to_string().contains("pass@"), "{error}");
    }

    #[test]
    fn schedules_and_time_zones() {
        let check = |path: &str, text: &str| key(path).check(Value::String(text.to_owned()), "x");
        for good in ["", "off", "0 3 * * *", "*/5 8-18 * * MON-FRI"] {
            assert!(check("maintenance.snapshot", good).unwrap().is_some(), "{good}");
        }
        let error = check("maintenance.snapshot", "daily").unwrap_err().to_string();
        let told = "maintenance.snapshot = \"daily\" (x): allowed is a cron expression of five fields";
        assert!(error.starts_with(told) && error.ends_with("or \"off\""), "{error}");
        for good in ["", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires"] {
            assert!(check("maintenance.time_zone", good).is_ok(), "{good}");
        }
        let error = check("maintenance.time_zone", "Berlin").unwrap_err().to_string();
        assert!(error.contains("allowed is a name of the time zone database, such as Europe/Berlin"), "{error}");
    }

    #[test]
    fn urls_words_and_log_filters() {
        assert!(is_url("http://127.0.0.1:3001") && is_url("https://host/v1.0"));
        assert!(!is_url("127.0.0.1:3001") && !is_url("http://") && !is_url("ftp://host") && !is_url("http://a b"));
        for good in ["info", "WARN", "info,hyper=off", "cove[attempt{item}]=trace", "cove::engine=debug"] {
            assert!(is_log_filter(good), "{good}");
        }
        for bad in ["", " ", "verbose", "info,verbose", "cove=loud", "cove[=x"] {
            assert!(!is_log_filter(bad), "{bad}");
        }
        let words = |list: &[&str]| key("auth.open_on_loopback").check(Value::from(list.to_vec()), "x");
        assert!(words(&["health", "locks"]).is_ok() && words(&["tasks"]).is_err());
    }
}
