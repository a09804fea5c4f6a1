//! The settings of one process: what they are, their defaults, and what `serve` refuses.
//!
//! [`Config::load`] is the way in for the command line; every other room reads the plain structs. What is read
//! wins in this order: command line, `COVE_SECTION__KEY`, the original system's names, the file, defaults.
//! Invariants: a loaded configuration is complete (state directory and socket are resolved) and within
//! the ranges of `keys`; all mistakes are reported at once; no value that may be a secret is in a message.
//! Not here: telling a daemon's settings from a client's (`COVE_URL`, `COVE_TOKEN` belong to the command
//! line), and what of them a running daemon takes over (`daemon::reload`).

pub mod dolphin;
mod empty_is_none;
mod environment;
mod error;
mod file;
mod keys;
mod load;
mod network;
mod places;
mod resources;
#[cfg(test)]
mod tests;

pub use error::ConfigError;
pub use load::{Loaded, Sources};
pub use network::Network;
pub use resources::Resources;

/// The commented default file, as it is installed.
pub const DEFAULT_FILE: &str = include_str!("../packaging/cove.toml");

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Job, Schedule, Zone};

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub state: State,
    pub media: Media,
    pub engine: Engine,
    pub retention: Retention,
    pub snapshots: Snapshots,
    pub maintenance: Maintenance,
    pub resources: Resources,
    pub browser: Browser,
    pub dolphin: Dolphin,
    pub auth: Auth,
    pub limits: Limits,
    pub locks: Locks,
    pub breakers: Breakers,
    pub log: Log,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Beyond loopback only where tokens are required and one is there. Port 0: any free port.
    pub listen: SocketAddr,
    /// Unix socket. None: see [`Config::socket_path`].
    #[serde(with = "empty_is_none")]
    pub socket: Option<PathBuf>,
    /// Largest JSON body, in bytes.
    pub max_body_bytes: u64,
    pub max_connections: u32,
    /// Names beside the loopback ones that the daemon answers to, as a proxy passes them on.
    pub allowed_hosts: Vec<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// None: `$XDG_STATE_HOME/cove`, or `/var/lib/cove` for root.
    #[serde(with = "empty_is_none")]
    pub dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// Folders whose files an item may name. The daemon's own media folder is always one.
    pub roots: Vec<PathBuf>,
    /// Largest media file, in bytes.
    pub max_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Engine {
    /// Attempts at a time.
    pub slots: u32,
    pub max_attempts: u32,
    /// Back-off of an item: base × 2^n up to the maximum, full jitter.
    pub retry_base_seconds: u64,
    pub retry_max_seconds: u64,
    pub max_items_per_task: u32,
    /// How long a stop waits for armed attempts.
    pub drain_seconds: u64,
    /// Evidence of one attempt, in bytes.
    pub evidence_max_bytes: u64,
    /// How long a profile rests after its site said that it did too much.
    pub rate_limited_rest_seconds: u64,
    /// Items that start in an hour of what was missed while the daemon was down; 0: no cap.
    pub catch_up_per_hour: u32,
    /// Browsers lent to programs at a time; they take no slot.
    pub sessions: u32,
}

/// How long finished tasks are kept; whichever bound is met first. Keys are kept for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    pub task_days: u64,
    pub tasks: u64,
    /// Of uploads, from when the last task that named them was forgotten, or else from when they came.
    pub media_days: u64,
}

/// Where snapshots lie, how long, and what is in them beside the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshots {
    /// None: see [`Config::snapshots_dir`].
    #[serde(with = "empty_is_none")]
    pub dir: Option<PathBuf>,
    pub keep_days: u64,
    pub keep_count: u64,
    pub include_media: bool,
    pub include_evidence: bool,
}

/// When each job runs, as a cron expression; empty or `off`: never by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Maintenance {
    /// Of the expressions. Empty: the system's, and UTC where that cannot be told.
    pub time_zone: String,
    pub health_check: String,
    pub lock_cleanup: String,
    pub retention: String,
    pub snapshot: String,
    pub snapshot_verification: String,
    pub compaction: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    Chromium,
    Dolphin,
}

impl ProviderKind {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Dolphin => "dolphin",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Browser {
    pub provider: ProviderKind,
    /// The browser's binary; None: look for chromium, chromium-browser, google-chrome.
    #[serde(with = "empty_is_none")]
    pub chromium: Option<PathBuf>,
    pub headless: bool,
    /// Chromium's own sandbox.
    pub sandbox: bool,
    /// Socket of a browser host that runs as its own service; None: the daemon starts one as its child.
    #[serde(with = "empty_is_none")]
    pub host_socket: Option<PathBuf>,
    /// Between the begin of one start and that of the next, while one is on its way.
    pub start_stagger_ms: u64,
}

/// What to do with a profile that runs already, and not for cove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// It is the operator's: its items wait.
    Wait,
    /// Stop it, and start it again for cove.
    StopAndStart,
}

/// A Dolphin Anty on this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dolphin {
    /// Base address of the application's local API.
    pub api_host: String,
    /// File whose first line is the token; None: no token.
    #[serde(with = "empty_is_none")]
    pub api_token_file: Option<PathBuf>,
    /// Base address of the vendor's API.
    pub cloud_host: String,
    /// Profiles that may be used, each an id or `id=name`; empty: all that the token can see.
    pub profiles: Vec<String>,
    pub on_duplicate: OnDuplicate,
    /// Starts at a time.
    pub parallel_starts: u32,
    /// Between the begin of one start and that of the next.
    pub start_stagger_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// False: every call is admin; on loopback and the unix socket alone.
    pub required: bool,
    /// Reads that need no token on loopback, once there is a token. Of no effect while `required` is false.
    pub open_on_loopback: Vec<String>,
    /// File whose first line is a token of any form; it is taken over at each start, as admin.
    #[serde(with = "empty_is_none")]
    pub token_file: Option<PathBuf>,
}

/// Rate limits per window; 0 switches one off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub window_seconds: u64,
    pub task_starts: u32,
    pub health: u32,
    pub metrics: u32,
    /// What outside programs call as often as they work: locks, claims, and sessions that are lent already.
    pub locks: u32,
    pub requests: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Locks {
    /// Of a lock whose owner does not say.
    pub ttl_minutes: u64,
}

/// When a target that keeps failing is left alone, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breakers {
    /// Failures in a row that open a breaker.
    pub failures: u32,
    pub open_seconds: u64,
    /// Calls that have to succeed after that before it is closed.
    pub half_open_calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human text on a terminal, journald under systemd, JSON otherwise.
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or tracing's filter syntax.
    pub level: String,
    pub format: LogFormat,
    /// Beside standard error or the journal. None: no file.
    #[serde(with = "empty_is_none")]
    pub file: Option<PathBuf>,
    /// Another file is begun then, and each day.
    pub max_size_mb: u64,
    /// Of the files before, by number and by age.
    pub keep: u64,
    pub keep_days: u64,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8088)),
            socket: None,
            max_body_bytes: 16 * 1024 * 1024,
            max_connections: 1_280,
            allowed_hosts: Vec::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self { roots: Vec::new(), max_bytes: 16 * 1024 * 1024 * 1024 }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            slots: 15,
            max_attempts: 3,
            retry_base_seconds: 30,
            retry_max_seconds: 1_800,
            max_items_per_task: 10_000,
            drain_seconds: 300,
            evidence_max_bytes: 64 * 1024 * 1024,
            rate_limited_rest_seconds: 3_600,
            catch_up_per_hour: 60,
            sessions: 8,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { task_days: 90, tasks: 100_000, media_days: 1 }
    }
}

impl Default for Snapshots {
    fn default() -> Self {
        Self { dir: None, keep_days: 7, keep_count: 30, include_media: false, include_evidence: false }
    }
}

impl Default for Maintenance {
    fn default() -> Self {
        Self {
            time_zone: String::new(),
            health_check: "*/5 * * * *".to_owned(),
            lock_cleanup: "*/15 * * * *".to_owned(),
            retention: "5 * * * *".to_owned(),
            snapshot: "0 3 * * *".to_owned(),
            snapshot_verification: "30 3 * * *".to_owned(),
            compaction: "0 4 * * SUN".to_owned(),
        }
    }
}

impl Maintenance {
    /// A loaded configuration has no expression that is none.
    #[must_use]
    pub fn schedule(&self, job: Job) -> Option<Schedule> {
        let text = match job {
            Job::HealthCheck => &self.health_check,
            Job::LockCleanup => &self.lock_cleanup,
            Job::Retention => &self.retention,
            Job::Snapshot => &self.snapshot,
            Job::SnapshotVerification => &self.snapshot_verification,
            Job::Compaction => &self.compaction,
        };
        Schedule::parse(text).ok().flatten()
    }

    #[must_use]
    pub fn zone(&self) -> Zone {
        Some(self.time_zone.as_str()).filter(|name| !name.is_empty()).and_then(Zone::named).unwrap_or_else(Zone::system)
    }
}

impl Default for Browser {
    fn default() -> Self {
        Self {
            provider: ProviderKind::Chromium,
            chromium: None,
            headless: true,
            sandbox: true,
            host_socket: None,
            start_stagger_ms: 500,
        }
    }
}

impl Default for Dolphin {
    fn default() -> Self {
        Self {
            api_host: "http://127.0.0.1:3001".to_owned(),
            api_token_file: None,
            cloud_host: "https://dolphin-anty-api.com".to_owned(),
            profiles: Vec::new(),
            on_duplicate: OnDuplicate::Wait,
            parallel_starts: 3,
            start_stagger_ms: 1_000,
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        let open_on_loopback = keys::OPEN_ON_LOOPBACK.iter().map(ToString::to_string).collect();
        Self { required: true, open_on_loopback, token_file: None }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { window_seconds: 60, task_starts: 5, health: 200, metrics: 20, locks: 1_000_000, requests: 100 }
    }
}

impl Default for Locks {
    fn default() -> Self {
        Self { ttl_minutes: 60 }
    }
}

impl Default for Breakers {
    fn default() -> Self {
        Self { failures: 5, open_seconds: 60, half_open_calls: 3 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, file: None, max_size_mb: 100, keep: 5, keep_days: 30 }
    }
}

impl Config {
    /// The state directory. A loaded configuration always names it; a default one is root's.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.state.dir.clone().unwrap_or_else(|| PathBuf::from(places::ROOT_STATE_DIR))
    }

    /// Where the snapshots lie: in the state directory, unless another place is named.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.snapshots.dir.clone().unwrap_or_else(|| self.state_dir().join(places::SNAPSHOTS_NAME))
    }

    /// The unix socket. A loaded configuration always names it; a default one is in the state directory.
    #[must_use]
    pub fn socket_path(&self) -> PathBuf {
        self.server.socket.clone().unwrap_or_else(|| self.state_dir().join(places::SOCKET_NAME))
    }

    /// The effective configuration as a file that loads to the same.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("sections of numbers, texts and lists of texts are always TOML; paths are UTF-8")
    }

    /// The same without what somebody may have written a secret into.
    #[must_use]
    pub fn to_toml_without_secrets(&self) -> String {
        let mut table: toml::Table = toml::from_str(&self.to_toml()).expect("what was written can be read");
        for key in keys::KEYS.iter().filter(|key| key.secret) {
            if let Some(section) = table.get_mut(key.section).and_then(toml::Value::as_table_mut) {
                section.remove(key.name);
            }
        }
        toml::to_string(&table).expect("a table that was read can be written")
    }

    /// Whether nobody beyond this machine can connect.
    #[must_use]
    pub fn listens_on_loopback(&self) -> bool {
        self.server.listen.ip().to_canonical().is_loopback()
    }

    /// The proxies whose word counts. A loaded configuration has no other entries.
    #[must_use]
    pub fn trusted_networks(&self) -> Vec<Network> {
        self.server.trusted_proxies.iter().filter_map(|entry| entry.parse().ok()).collect()
    }

    /// What `serve` alone refuses; every other command works with it.
    #[must_use]
    pub fn check_serve(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut refuse = |key: &str, value: String, message: &str| {
            errors.push(ConfigError::new(key, "in effect", message).with_value(value));
        };
        if !self.auth.required && !self.listens_on_loopback() {
            let message = "with [auth] required = false everybody is admin, so allowed is a loopback address, such as \
                           127.0.0.1:8088; set it to true to be reached from elsewhere";
            refuse("server.listen", format!("\"{}\"", self.server.listen), message);
        }
        errors
    }
}
