//! The layers, one over the other, and what is wrong in each.
//!
//! Values are gathered as TOML with the place each came from, checked against the table of keys, and
//! only then turned into a [`Config`]. A value that is wrong is never shown when its key is secret; of
//! environment variables only names are told where the value may be one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::keys::{KEYS, Key, Kind, find};
use super::{Config, Resolved, original};

const SYSTEM_FILE: &str = "/etc/cove/cove.toml";
const PREFIX: &str = "COVE_";
/// Between section and key of an environment variable.
const SEPARATOR: &str = "__";
/// A value in a message is cut here.
const SHOWN_CHARACTERS: usize = 120;

/// One mistake, on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `section.key`, or what stands in its place.
    pub key: String,
    /// As written; None for what may be secret or is not a value.
    pub value: Option<String>,
    /// File and line, or the environment variable.
    pub source: Option<String>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(out, " = {}", value.chars().take(SHOWN_CHARACTERS).collect::<String>())?;
        }
        if let Some(source) = &self.source {
            write!(out, " ({source})")?;
        }
        write!(out, ": {}", self.message)
    }
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`: must exist.
    pub file: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub is_root: bool,
}

impl Sources {
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, state_dir: Option<PathBuf>) -> Self {
        // A name or value that is not text cannot be one of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, state_dir, env, is_root: rustix::process::geteuid().is_root() }
    }

    fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn under(&self, variable: &str, otherwise: &str) -> Option<PathBuf> {
        let base = self.var(variable).map(PathBuf::from);
        base.or_else(|| self.var("HOME").map(|home| Path::new(home).join(otherwise)))
    }
}

/// The settings, and how they came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<String>,
    /// `section.key` → where a value came from that is not the default.
    pub origins: BTreeMap<String, String>,
    pub file: Option<PathBuf>,
}

/// What the layers below have said so far.
#[derive(Default)]
pub(super) struct Gathered {
    /// `section.key` → value and place.
    values: BTreeMap<String, (Value, String)>,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<String>,
}

impl Gathered {
    /// Takes a value for a known key, or says what is wrong with it.
    pub fn take(&mut self, key: &Key, value: Value, source: &str) {
        if key.kind.fits(&value) {
            self.values.insert(key.path(), (value, source.to_owned()));
        } else {
            self.errors.push(ConfigError {
                key: key.path(),
                value: Some(value.to_string()),
                source: Some(source.to_owned()),
                message: key.kind.allowed(),
            });
        }
    }

    pub fn wrong(&mut self, key: &str, source: &str, message: String) {
        let (key, source) = (key.to_owned(), Some(source.to_owned()));
        self.errors.push(ConfigError { key, value: None, source, message });
    }
}

pub(super) fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    let mut gathered = Gathered::default();
    let file = find_file(sources);
    if let Some(file) = &file {
        read_file(file, &mut gathered);
    }
    original::read(&sources.env, &mut gathered);
    read_env(sources, &mut gathered);
    if let Some(dir) = &sources.state_dir {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        if let Ok(key) = find("state", "dir") {
            gathered.take(key, dir.display().to_string().into(), "--state-dir");
        }
    }
    let Gathered { values, mut errors, mut warnings } = gathered;
    let mut config = build(&values, &mut errors);
    resolve(&mut config, sources, &mut errors);
    check_whole(&config, &mut errors, &mut warnings);
    if !errors.is_empty() {
        return Err(errors);
    }
    let origins = values.into_iter().map(|(key, (_, source))| (key, source)).collect();
    Ok(Loaded { config, warnings, origins, file })
}

fn find_file(sources: &Sources) -> Option<PathBuf> {
    if sources.file.is_some() {
        return sources.file.clone();
    }
    let own = sources.under("XDG_CONFIG_HOME", ".config").filter(|_| !sources.is_root);
    let candidates = [Some(PathBuf::from(SYSTEM_FILE)), own.map(|folder| folder.join("cove/cove.toml"))];
    candidates.into_iter().flatten().find(|path| path.exists())
}

fn read_file(path: &Path, gathered: &mut Gathered) {
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return gathered.wrong("--config", &shown, format!("the file cannot be read: {error}")),
    };
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let error: toml::de::Error = error;
            let line = error.span().map_or(1, |span| line_of(span.start));
            return gathered.wrong("the file", &format!("{shown} line {line}"), error.message().to_owned());
        }
    };
    // Parsed again for the places of keys; it parsed once already.
    let Ok(spans) = toml::de::DeTable::parse(&text) else { return };
    for (section, entry) in &table {
        let section_spans = spans.get_ref().iter().find(|(name, _)| name.get_ref() == section);
        let at = section_spans.map_or(1, |(name, _)| line_of(name.span().start));
        let Some(entries) = entry.as_table() else {
            let message = find(section, "").err().unwrap_or_else(|| "a section is expected".to_owned());
            gathered.wrong(section, &format!("{shown} line {at}"), message);
            continue;
        };
        if !KEYS.iter().any(|key| key.section == section) {
            let message = find(section, "").err().unwrap_or_default();
            gathered.wrong(&format!("[{section}]"), &format!("{shown} line {at}"), message);
            continue;
        }
        for (name, value) in entries {
            let spans = section_spans.and_then(|(_, entry)| entry.get_ref().as_table());
            let span = spans.and_then(|spans| spans.iter().find(|(key, _)| key.get_ref() == name));
            let source = format!("{shown} line {}", span.map_or(at, |(key, _)| line_of(key.span().start)));
            match find(section, name) {
                Ok(key) => gathered.take(key, value.clone(), &source),
                Err(message) => gathered.wrong(&format!("{section}.{name}"), &source, message),
            }
        }
    }
}

fn read_env(sources: &Sources, gathered: &mut Gathered) {
    for (name, text) in &sources.env {
        let Some((section, key)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once(SEPARATOR)) else {
            continue;
        };
        let source = format!("environment variable {name}");
        match find(&section.to_ascii_lowercase(), &key.to_ascii_lowercase()) {
            Ok(key) => gathered.take(key, key.kind.read(text), &source),
            Err(message) => gathered.wrong(name, &source, message),
        }
    }
}

/// The checked values over the defaults.
fn build(values: &BTreeMap<String, (Value, String)>, errors: &mut Vec<ConfigError>) -> Config {
    let mut table = Table::new();
    for key in KEYS {
        let Some((value, _)) = values.get(&key.path()) else { continue };
        if matches!(key.kind, Kind::Path) && value.as_str() == Some("") {
            continue;
        }
        let section = table.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
        if let Some(section) = section.as_table_mut() {
            section.insert(key.name.to_owned(), value.clone());
        }
    }
    table.try_into().unwrap_or_else(|error: toml::de::Error| {
        // The table of keys let through what the types refuse: a defect that must not be silent.
        let message = format!("a defect of cove: {}", error.message());
        errors.push(ConfigError { key: "the settings".to_owned(), value: None, source: None, message });
        Config::default()
    })
}

/// An explicit state directory moves the default socket into it, so that two daemons never collide.
fn resolve(config: &mut Config, sources: &Sources, errors: &mut Vec<ConfigError>) {
    let own = || sources.under("XDG_STATE_HOME", ".local/state").map(|folder| folder.join("cove"));
    let state_dir = match (&config.state.dir, sources.is_root) {
        (Some(dir), _) => Some(dir.clone()),
        (None, true) => Some(PathBuf::from("/var/lib/cove")),
        (None, false) => own(),
    };
    let Some(state_dir) = state_dir else {
        let message = "HOME is not set either: say where the state lives".to_owned();
        errors.push(ConfigError { key: "state.dir".to_owned(), value: None, source: None, message });
        return;
    };
    let socket = match (&config.server.socket, &config.state.dir, sources.is_root) {
        (Some(socket), _, _) => socket.clone(),
        (None, Some(dir), _) => dir.join("cove.sock"),
        (None, None, true) => PathBuf::from("/run/cove/cove.sock"),
        (None, None, false) => match sources.var("XDG_RUNTIME_DIR") {
            Some(folder) => Path::new(folder).join("cove.sock"),
            None => state_dir.join("cove.sock"),
        },
    };
    config.resolved = Resolved { state_dir, socket };
}

fn check_whole(config: &Config, errors: &mut Vec<ConfigError>, warnings: &mut Vec<String>) {
    if config.engine.retry_base_seconds > config.engine.retry_max_seconds {
        errors.push(ConfigError {
            key: "engine.retry_base_seconds".to_owned(),
            value: Some(config.engine.retry_base_seconds.to_string()),
            source: None,
            message: format!("allowed is at most engine.retry_max_seconds = {}", config.engine.retry_max_seconds),
        });
    }
    for root in &config.media.roots {
        if !root.is_dir() {
            warnings.push(format!("media.roots: {} is not a folder (yet)", root.display()));
        }
    }
}
