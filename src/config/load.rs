//! Puts the sources together: each layer covers the one below, and all mistakes come out at once.
//!
//! A mistake in a lower layer is told even where a higher one covers it: it would bite on the day the
//! upper one goes away. Invariant: what comes out has passed every check, and names its state directory
//! and its socket. Reads nothing of the process but through [`Sources`], and the files it names.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Value;

use super::error::ConfigError;
use super::places::{Places, SYSTEM_FILE};
use super::{Config, environment, file};

/// The kernel's limit of a unix socket's path, without the closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// A checked value; `None` was written empty and stands for the default.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub value: Option<Value>,
    pub source: String,
}

/// By `section.key`.
pub(super) type Entries = BTreeMap<String, Entry>;

/// What a configuration is made of.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`: this file and no other.
    pub file: Option<PathBuf>,
    /// `--state-dir`; relative to the working directory.
    pub state_dir: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub is_root: bool,
}

impl Sources {
    /// This process' environment and user. What is not UTF-8 in it is refused where a key reads it.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, state_dir: Option<PathBuf>) -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, state_dir, env, is_root: rustix::process::geteuid().is_root() }
    }
}

/// A configuration, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
    /// `section.key` to where its value came from, for every value that is not the default.
    pub origins: BTreeMap<String, String>,
    /// The same for every value that somebody wrote, also where it is the default.
    pub set: BTreeMap<String, String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Loaded {
    /// [`Config::check_serve`], with the place that each value came from.
    #[must_use]
    pub fn check_serve(&self) -> Vec<ConfigError> {
        let mut errors = self.config.check_serve();
        for error in &mut errors {
            error.source = self.origins.get(&error.key).map_or_else(|| "the default".to_owned(), Clone::clone);
        }
        errors
    }
}

impl Config {
    /// Reads all sources. The errors are every mistake there is, none of them with a secret in it.
    pub fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
        load_with(sources, Path::new(SYSTEM_FILE))
    }
}

pub(super) fn load_with(sources: &Sources, system_file: &Path) -> Result<Loaded, Vec<ConfigError>> {
    let places = Places { env: &sources.env, is_root: sources.is_root };
    let mut errors = Vec::new();
    let mut warnings = Vec::new();
    let file = sources.file.clone().or_else(|| default_file(places, system_file));
    let mut entries = file.as_deref().map_or_else(Entries::new, |path| file::read(path, &mut errors));
    entries.extend(environment::read_original(&sources.env, &entries, &mut errors, &mut warnings));
    entries.extend(environment::read_own(&sources.env, &mut errors));
    if let Some(path) = &sources.state_dir {
        match command_line_state_dir(path) {
            Ok(entry) => drop(entries.insert("state.dir".to_owned(), entry)),
            Err(error) => errors.push(error),
        }
    }
    let config = match assemble(&entries) {
        Ok(mut config) => {
            check_together(&config, &entries, &mut errors);
            resolve(&mut config, places, &entries, &mut errors);
            config
        }
        Err(error) => {
            errors.push(error);
            return Err(errors);
        }
    };
    if !errors.is_empty() {
        return Err(errors);
    }
    warnings.extend(config.media.roots.iter().filter_map(|root| root_warning(root)));
    let (origins, set) = (origins(&entries), written(&entries));
    Ok(Loaded { config, warnings, origins, set, file })
}

/// A file that is there but cannot be read is chosen all the same, and is an error then: running
/// with other settings than the machine's would be worse.
fn default_file(places: Places<'_>, system_file: &Path) -> Option<PathBuf> {
    let there = |path: &Path| !matches!(path.try_exists(), Ok(false));
    let user_file = places.user_file();
    [Some(system_file.to_owned()), user_file].into_iter().flatten().find(|path| there(path))
}

fn command_line_state_dir(path: &Path) -> Result<Entry, ConfigError> {
    let source = "--state-dir";
    let error = |message: String| ConfigError::new("state.dir", source, message);
    let absolute = std::path::absolute(path).map_err(|why| error(format!("is not a folder's path: {why}")))?;
    let text = absolute.to_str().ok_or_else(|| error("is not UTF-8 text".to_owned()))?;
    Ok(Entry { value: Some(Value::String(text.to_owned())), source: source.to_owned() })
}

fn assemble(entries: &Entries) -> Result<Config, ConfigError> {
    let mut document = toml::Table::new();
    for (path, entry) in entries {
        let (Some((section, name)), Some(value)) = (path.split_once('.'), &entry.value) else { continue };
        let section = document.entry(section).or_insert_with(|| Value::Table(toml::Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.to_owned(), value.clone());
        }
    }
    // Every value has passed its key's check. Should a check ever allow what a struct does not, the
    // error must not quote the value, which may be a secret.
    Config::deserialize(document).map_err(|_| {
        let message = "the checks allowed a value that no setting can hold; this is a defect of cove";
        ConfigError::new("the configuration", "all sources together", message)
    })
}

/// What needs two keys at once.
fn check_together(config: &Config, entries: &Entries, errors: &mut Vec<ConfigError>) {
    check_total_limit(config, entries, errors);
    let (base, max) = (config.engine.retry_base_seconds, config.engine.retry_max_seconds);
    if base > max {
        let place = |key: &str| entries.get(key).map(|entry| entry.source.clone());
        let at_fault = if place("engine.retry_max_seconds").is_some() || place("engine.retry_base_seconds").is_none() {
            ("engine.retry_max_seconds", max, format!("allowed is {base} (engine.retry_base_seconds) or more"))
        } else {
            ("engine.retry_base_seconds", base, format!("allowed is {max} (engine.retry_max_seconds) or less"))
        };
        let (key, value, message) = at_fault;
        let source = place(key).unwrap_or_else(|| "the default".to_owned());
        errors.push(ConfigError::new(key, source, message).with_value(value.to_string()));
    }
}

/// With less than one session's estimate for all of them nothing would ever start.
fn check_total_limit(config: &Config, entries: &Entries, errors: &mut Vec<ConfigError>) {
    let (total, estimate) = (config.resources.total_limit_mb, config.resources.session_estimate_mb);
    if total == 0 || total >= estimate {
        return;
    }
    let place = |key: &str| entries.get(key).map(|entry| entry.source.clone());
    let source = place("resources.total_limit_mb").unwrap_or_else(|| "the default".to_owned());
    let message = format!("allowed is 0 (no limit), or {estimate} (resources.session_estimate_mb) or more");
    errors.push(ConfigError::new("resources.total_limit_mb", source, message).with_value(total.to_string()));
}

/// Fills in the state directory and the socket.
fn resolve(config: &mut Config, places: Places<'_>, entries: &Entries, errors: &mut Vec<ConfigError>) {
    let chosen = config.state.dir.is_some();
    let Some(state_dir) = config.state.dir.clone().or_else(|| places.state_dir()) else {
        // A `--state-dir` with a mistake of its own has been told already.
        if !errors.iter().any(|error| error.key == "state.dir") {
            let message = "neither XDG_STATE_HOME nor HOME names a folder: set [state] dir, or give --state-dir";
            errors.push(ConfigError::new("state.dir", "the environment", message));
        }
        return;
    };
    let socket = config.server.socket.clone().unwrap_or_else(|| places.socket(&state_dir, chosen));
    if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
        let source_of = |key: &str| entries.get(key).filter(|entry| entry.value.is_some());
        let source = source_of("server.socket").or_else(|| source_of("state.dir"));
        let source = source.map_or_else(|| "the default".to_owned(), |entry| entry.source.clone());
        let message =
            format!("allowed is a path of at most {MAX_SOCKET_PATH_BYTES} bytes: set [server] socket to a shorter one");
        errors.push(ConfigError::new("server.socket", source, message).with_value(socket.display().to_string()));
    }
    config.state.dir = Some(state_dir);
    config.server.socket = Some(socket);
}

fn written(entries: &Entries) -> BTreeMap<String, String> {
    let valued = entries.iter().filter(|(_, entry)| entry.value.is_some());
    valued.map(|(path, entry)| (path.clone(), entry.source.clone())).collect()
}

fn root_warning(root: &Path) -> Option<String> {
    let shown = root.display();
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(format!("media.roots: {shown} is not a folder; no item can name a file in it")),
        Err(error) => Some(format!("media.roots: {shown} cannot be used now: {error}")),
    }
}

fn origins(entries: &Entries) -> BTreeMap<String, String> {
    let defaults = toml::Table::try_from(Config::default()).expect("the defaults are always TOML");
    let is_default = |path: &str, value: &Value| {
        path.split_once('.').and_then(|(section, name)| defaults.get(section)?.get(name)) == Some(value)
    };
    let differing =
        entries.iter().filter(|(path, entry)| entry.value.as_ref().is_some_and(|value| !is_default(path, value)));
    differing.map(|(path, entry)| (path.clone(), entry.source.clone())).collect()
}
