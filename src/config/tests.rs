//! Precedence, mistakes all at once, and the default file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Config, ConfigError, Loaded, Sources, keys};

const DEFAULT_FILE: &str = include_str!("../../packaging/cove.toml");

fn sources(folder: &Path, text: &str, env: &[(&str, &str)]) -> Sources {
    let file = folder.join("cove.toml");
    std::fs::write(&file, text).unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: Some(file), state_dir: None, env, is_root: true }
}

fn load(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<ConfigError>> {
    let folder = tempfile::tempdir().unwrap();
    Config::load(&sources(folder.path(), text, env))
}

fn lines(errors: &[ConfigError]) -> Vec<String> {
    errors.iter().map(|error| error.to_string().replace(error.source.as_deref().unwrap_or("-"), "-")).collect()
}

#[test]
fn the_default_file_says_the_defaults_and_every_key() {
    let uncommented: String = DEFAULT_FILE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ") => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let loaded = load(&uncommented, &[]).unwrap();
    let defaults = load("", &[]).unwrap().config;
    assert_eq!(loaded.config, defaults);
    assert_eq!(loaded.origins.len(), keys::KEYS.len(), "a key is missing in the default file");
    assert_eq!(load(DEFAULT_FILE, &[]).unwrap().config, defaults);
    // And the table of keys knows every field of the settings.
    let fields = toml::Table::try_from(Config::default()).unwrap();
    for (section, entries) in &fields {
        for name in entries.as_table().unwrap().keys() {
            assert!(keys::find(section, name).is_ok(), "{section}.{name}");
        }
    }
}

#[test]
fn the_stronger_source_wins() {
    let file = "[engine]\nslots = 2\nmax_attempts = 7\n[log]\nlevel = \"debug\"\n[limits]\nrequests = 9\n";
    let env = [("COVE_ENGINE__SLOTS", "4"), ("WORKERS_COUNT", "3"), ("LOG_LEVEL", "WARNING"), ("HOME", "/root")];
    let loaded = load(file, &env).unwrap();
    let config = &loaded.config;
    assert_eq!((config.engine.slots, config.engine.max_attempts), (4, 7));
    assert_eq!((config.log.level.as_str(), config.limits.requests, config.limits.health), ("warn", 9, 200));
    assert_eq!(loaded.origins["engine.slots"], "environment variable COVE_ENGINE__SLOTS");
    assert_eq!(loaded.origins["log.level"], "environment variable LOG_LEVEL");
    assert!(loaded.origins["engine.max_attempts"].ends_with("cove.toml line 3"), "{:?}", loaded.origins);
    assert!(!loaded.origins.contains_key("limits.health"));
}

#[test]
fn the_originals_names_are_understood() {
    let env = [
        ("WORKERS_COUNT", "4"),
        ("MAX_CONCURRENT_TASKS", "6"),
        ("WORKER_BASE_PORT", "9000"),
        ("RATE_LIMIT_REQUESTS", "50"),
        ("RATE_LIMIT_WINDOW", "30"),
        ("DOLPHIN_API_TOKEN", "hush-hush"),
        ("DB_PASSWORD", "hush-too"),
    ];
    let loaded = load("", &env).unwrap();
    assert_eq!(loaded.config.engine.slots, 24);
    assert_eq!(loaded.config.server.listen.port(), 9000);
    assert_eq!((loaded.config.limits.requests, loaded.config.limits.window_seconds), (50, 30));
    assert_eq!(loaded.warnings.len(), 2);
    assert!(!format!("{loaded:?}").contains("hush"), "a secret is shown");
    let wrong = load("", &[("WORKERS_COUNT", "many"), ("WORKER_BASE_PORT", "99999")]).unwrap_err();
    assert_eq!(wrong.len(), 2);
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let file = "[server]\nlisten = \"8088\"\nsokcet = \"/x\"\n[engine]\nslots = 0\nmax_attempts = \"3\"\n\
        [media]\nroots = [\"relative\"]\n[browser]\nprovider = \"firefox\"\n[limit]\nrequests = 1\n\
        [auth]\nrequired = \"no\"\n[log]\nlevel = \"cove=loud\"\n";
    let errors = load(file, &[("COVE_ENGINE__SLOT", "3"), ("COVE_URL", "x")]).unwrap_err();
    let told = lines(&errors);
    for expected in [
        "server.listen = \"8088\" (-): allowed is an address with a port",
        "server.sokcet (-): there is no such key; [server] has: socket, ",
        "engine.slots = 0 (-): allowed is a whole number from 1 to 256",
        "engine.max_attempts = \"3\" (-): allowed is a whole number",
        "media.roots = [\"relative\"] (-): allowed is a list of absolute paths",
        "browser.provider = \"firefox\" (-): allowed is one of: chromium, dolphin",
        "[limit] (-): there is no section [limit]; there are: limits, ",
        "auth.required = \"no\" (-): allowed is true or false",
        "log.level = \"cove=loud\" (-): allowed is error, warn",
        "COVE_ENGINE__SLOT (-): there is no such key; [engine] has: slots, ",
    ] {
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}\n{told:#?}");
    }
    assert_eq!(errors.len(), 10, "{told:#?}");
    assert!(errors.iter().filter(|error| error.to_string().contains("cove.toml line ")).count() == 9, "{errors:#?}");
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_one_mistake() {
    let errors = load("[server\nlisten = 1", &[]).unwrap_err();
    assert!(errors.len() == 1 && errors[0].to_string().contains("line 1"), "{errors:?}");
    let missing = Sources { file: Some("/nonexistent/cove.toml".into()), is_root: true, ..Sources::default() };
    assert!(Config::load(&missing).unwrap_err()[0].to_string().contains("cannot be read"));
}

#[test]
fn lists_and_flags_come_from_the_environment_too() {
    let env = [("COVE_MEDIA__ROOTS", "/a, /b"), ("COVE_BROWSER__SANDBOX", "0"), ("COVE_DOLPHIN__PROFILES", "[\"1\"]")];
    let config = load("", &env).unwrap().config;
    assert_eq!(config.media.roots, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert!(!config.browser.sandbox);
    assert_eq!(config.dolphin.profiles, ["1"]);
}

#[test]
fn places_follow_the_user_and_an_explicit_directory_takes_the_socket_along() {
    let home = |env: &[(&str, &str)], is_root| {
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(&Sources { env, is_root, ..Sources::default() }).unwrap().config;
        (config.state_dir().display().to_string(), config.socket_path().display().to_string())
    };
    let pair = |dir: &str, socket: &str| (dir.to_owned(), socket.to_owned());
    assert_eq!(home(&[], true), pair("/var/lib/cove", "/run/cove/cove.sock"));
    let user = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1")];
    assert_eq!(home(&user, false), pair("/home/u/.local/state/cove", "/run/user/1/cove.sock"));
    let moved = [("HOME", "/home/u"), ("COVE_STATE__DIR", "/srv/cove"), ("XDG_RUNTIME_DIR", "/run/user/1")];
    assert_eq!(home(&moved, false), pair("/srv/cove", "/srv/cove/cove.sock"));
    assert!(Config::load(&Sources::default()).is_err(), "no HOME and not root");
}

#[test]
fn serve_refuses_what_this_version_cannot_keep() {
    let loaded = load("[server]\nlisten = \"0.0.0.0:80\"\n[browser]\nprovider = \"dolphin\"\n", &[]).unwrap();
    let keys: Vec<_> = loaded.config.check_serve().into_iter().map(|error| error.key).collect();
    assert_eq!(keys, ["auth.required", "server.listen", "browser.provider"]);
    assert!(load("[auth]\nrequired = false\n", &[]).unwrap().config.check_serve().is_empty());
}

#[test]
fn what_is_shown_can_be_read_again() {
    let loaded = load("[engine]\nslots = 3\n[media]\nroots = [\"/srv\"]\n", &[]).unwrap();
    assert_eq!(load(&loaded.config.to_toml(), &[]).unwrap().config, loaded.config);
}
