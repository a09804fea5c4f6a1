//! The room as a whole: precedence, all mistakes at once, the default file, the original's names, secrets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::load::load_with;
use super::{Config, ConfigError, DEFAULT_FILE, Loaded, ProviderKind, Sources, keys};

/// A user with a home, and the variables given.
fn sources(variables: &[(&str, &str)]) -> Sources {
    let all = [("HOME", "/home/a")].iter().chain(variables);
    let env = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Sources { file: None, state_dir: None, env, is_root: false }
}

/// Without the machine's own file.
fn load(sources: &Sources) -> Result<Loaded, Vec<ConfigError>> {
    load_with(sources, Path::new("/nonexistent/cove.toml"))
}

fn lines(errors: &[ConfigError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cove.toml");
    std::fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn the_table_names_the_same_keys_as_the_structs() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut of_structs: Vec<String> = Vec::new();
    for (section, content) in &defaults {
        of_structs.extend(content.as_table().unwrap().keys().map(|name| format!("{section}.{name}")));
    }
    let mut of_table: Vec<String> = keys::KEYS.iter().map(keys::Key::path).collect();
    of_structs.sort();
    of_table.sort();
    assert_eq!(of_structs, of_table);
    assert_eq!(keys::sections().len(), defaults.len(), "the keys of a section stand together");
}

#[test]
fn every_default_passes_its_own_check() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    for key in keys::KEYS {
        key.check(defaults[key.section][key.name].clone(), "default").unwrap();
    }
}

#[test]
fn the_default_file_shows_every_key_with_its_default() {
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let uncommented: Vec<&str> =
        DEFAULT_FILE.lines().map(|line| if is_key(&line) { &line[1..] } else { line }).collect();
    let text = uncommented.join("\n");
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
    let document: toml::Table = toml::from_str(&text).unwrap();
    for key in keys::KEYS {
        assert!(document[key.section].get(key.name).is_some(), "{} is not in the file", key.path());
    }
    let (_dir, path) = written(&text);
    let loaded = load(&Sources { file: Some(path), ..sources(&[]) }).unwrap();
    assert_eq!(loaded.config, load(&sources(&[])).unwrap().config);
    assert_eq!(loaded.origins, BTreeMap::new());
    // As installed, nothing is set.
    assert_eq!(toml::from_str::<Config>(DEFAULT_FILE).unwrap(), Config::default());
}

#[test]
fn each_layer_covers_the_one_below() {
    let (_dir, path) =
        written("[engine]\nslots = 2\nmax_attempts = 7\n[limits]\nrequests = 1\n[state]\ndir = \"/file\"\n");
    let mut sources = sources(&[]);
    sources.file = Some(path.clone());
    let slots = |sources: &Sources| {
        let loaded = load(sources).unwrap();
        (loaded.config.engine.slots, loaded.origins["engine.slots"].clone())
    };
    assert_eq!(slots(&sources), (2, format!("{} line 2", path.display())));
    sources.env.insert("WORKERS_COUNT".into(), "2".into());
    assert_eq!(slots(&sources), (6, "WORKERS_COUNT".to_owned()));
    sources.env.insert("COVE_ENGINE__SLOTS".into(), "9".into());
    assert_eq!(slots(&sources), (9, "COVE_ENGINE__SLOTS".to_owned()));

    let state = |sources: &Sources| load(sources).unwrap().config.state_dir();
    assert_eq!(state(&sources), Path::new("/file"));
    sources.env.insert("COVE_STATE__DIR".into(), "/env".into());
    assert_eq!(state(&sources), Path::new("/env"));
    sources.state_dir = Some("/line".into());
    let loaded = load(&sources).unwrap();
    assert_eq!((loaded.config.state_dir(), loaded.config.socket_path()), ("/line".into(), "/line/cove.sock".into()));
    assert_eq!((loaded.origins["state.dir"].as_str(), loaded.config.engine.max_attempts), ("--state-dir", 7));
    assert_eq!(loaded.file, Some(path));
    // Empty in the environment is the default again, whatever the file says.
    sources.state_dir = None;
    sources.env.insert("COVE_STATE__DIR".into(), String::new());
    assert_eq!(state(&sources), Path::new("/home/a/.local/state/cove"));
}

#[test]
fn the_file_is_the_one_named_else_the_systems_else_the_users() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, slots: u32| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("engine.slots = {slots}\n")).unwrap();
        path
    };
    let mut sources = sources(&[("XDG_CONFIG_HOME", dir.path().to_str().unwrap())]);
    let system = dir.path().join("etc.toml");
    assert_eq!(load_with(&sources, &system).unwrap().file, None);
    let user = file("cove/cove.toml", 1);
    assert_eq!(load_with(&sources, &system).unwrap().file, Some(user));
    let system = file("etc.toml", 2);
    assert_eq!(load_with(&sources, &system).unwrap().file, Some(system.clone()));
    let named = file("named.toml", 3);
    sources.file = Some(named.clone());
    let loaded = load_with(&sources, &system).unwrap();
    assert_eq!((loaded.file, loaded.config.engine.slots), (Some(named), 3));
    sources.file = Some(dir.path().join("none.toml"));
    let errors = lines(&load_with(&sources, &system).unwrap_err());
    assert!(errors.len() == 1 && errors[0].contains("none.toml") && errors[0].contains("cannot be read"), "{errors:?}");
}

#[test]
fn all_mistakes_of_all_sources_come_at_once() {
    let (_dir, path) = written("[engine]\nslots = 0\nslot = 1\n[media]\nroots = [\"videos\"]\n[nosuch]\na = 1\n");
    let mut sources = sources(&[
        ("COVE_ENGINE__SLOTS", "many"),
        ("COVE_ENGINE__SLOT", "1"),
        ("COVE_ENGIN__SLOTS", "1"),
        ("COVE_Log__Level", "info"),
        ("COVE_BROWSER__HEADLESS", "yes"),
        ("COVE_LOG__LEVEL", "verbose"),
        ("COVE_MEDIA__ROOTS", "[\"/a\", 3]"),
        ("COVE_SERVER__LISTEN", "localhost"),
        ("WORKER_BASE_PORT", "70000"),
        ("WORKERS_COUNT", "0"),
        ("MAX_CONCURRENT_TASKS", "-1"),
        ("COVE_CONFIG", "x"),
        ("COVE_URL", "y"),
    ]);
    sources.file = Some(path);
    let errors = lines(&load(&sources).unwrap_err());
    let expected = [
        "engine.slots = 0 (",
        "engine.slot (",
        "media.roots = [\"videos\"] (",
        "nosuch (",
        "engine.slots = many (COVE_ENGINE__SLOTS): allowed is 1 to 256",
        "engine.slot (COVE_ENGINE__SLOT): unknown key; allowed in [engine] is slots, ",
        "engin.slots (COVE_ENGIN__SLOTS): unknown section; allowed is engine, ",
        "log.level (COVE_Log__Level): unknown variable; it is written COVE_LOG__LEVEL",
        "browser.headless = yes (COVE_BROWSER__HEADLESS): allowed is true or false",
        "log.level = \"verbose\" (COVE_LOG__LEVEL): allowed is off, error, ",
        "media.roots = [\"/a\", 3] (COVE_MEDIA__ROOTS): allowed is a list of absolute paths",
        "server.listen = \"localhost\" (COVE_SERVER__LISTEN): allowed is an address with a port",
        "server.listen = 70000 (WORKER_BASE_PORT): allowed is a port, 0 to 65535",
        "engine.slots = 0 (WORKERS_COUNT): allowed is a number from 1",
        "engine.slots = -1 (MAX_CONCURRENT_TASKS): allowed is a number from 1",
    ];
    for start in expected {
        assert!(errors.iter().any(|error| error.starts_with(start)), "{start}\nnot in\n{}", errors.join("\n"));
    }
    assert_eq!(errors.len(), expected.len(), "{}", errors.join("\n"));
}

#[test]
fn every_key_can_come_from_the_environment() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    for key in keys::KEYS {
        let text = match &defaults[key.section][key.name] {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        load(&sources(&[(&key.variable(), &text)])).unwrap();
    }
    for roots in ["/srv/a, /srv/b,", "[\"/srv/a\", \"/srv/b\"]"] {
        let loaded = load(&sources(&[("COVE_MEDIA__ROOTS", roots)])).unwrap();
        assert_eq!(loaded.config.media.roots, [Path::new("/srv/a"), Path::new("/srv/b")]);
        assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    }
    assert_eq!(load(&sources(&[("COVE_MEDIA__ROOTS", "")])).unwrap().config.media.roots, [] as [PathBuf; 0]);
}

#[test]
fn the_originals_names_set_their_keys() {
    let loaded = load(&sources(&[
        ("WORKERS_COUNT", "4"),
        ("MAX_CONCURRENT_TASKS", " 8 "),
        ("WORKER_BASE_PORT", "9000"),
        ("RATE_LIMIT_REQUESTS", "50"),
        ("RATE_LIMIT_WINDOW", "30"),
        ("LOG_LEVEL", "WARNING"),
        ("MEMORY_LIMIT_MB", "1500"),
        ("DOLPHIN_API_HOST", "localhost:3002"),
        ("DOLPHIN_API_TOKEN", "s3cret"),
    ]));
    let loaded = loaded.unwrap();
    let config = &loaded.config;
    assert_eq!((config.engine.slots, config.limits.requests, config.limits.window_seconds), (32, 50, 30));
    assert_eq!((config.server.listen.to_string().as_str(), config.log.level.as_str()), ("127.0.0.1:9000", "warn"));
    assert_eq!((config.dolphin.api_host.as_str(), config.resources.session_limit_mb), ("http://localhost:3002", 1_500));
    assert!(!format!("{loaded:?}").contains("s3cret"), "a token is read where it is used");
    assert_eq!(loaded.origins["engine.slots"], "WORKERS_COUNT × MAX_CONCURRENT_TASKS");
    assert_eq!(loaded.warnings, [] as [String; 0]);

    let slots = |name: &str, value: &str| load(&sources(&[(name, value)])).map(|loaded| loaded.config.engine.slots);
    assert_eq!((slots("MAX_CONCURRENT_TASKS", "2"), slots("WORKERS_COUNT", "1")), (Ok(10), Ok(3)));
    assert_eq!(slots("WORKERS_COUNT", ""), Ok(15), "empty is not set");
    let errors = lines(&slots("WORKERS_COUNT", "86").unwrap_err());
    assert_eq!(errors, ["engine.slots = 258 (WORKERS_COUNT): allowed is 1 to 256"]);
    assert!(slots("WORKERS_COUNT", "18446744073709551615").is_err());

    let (_dir, path) = written("server.listen = \"[::1]:1\"\n");
    let ported = load(&Sources { file: Some(path), ..sources(&[("WORKER_BASE_PORT", "9001")]) }).unwrap();
    assert_eq!(ported.config.server.listen.to_string(), "[::1]:9001");
}

#[test]
fn limits_of_the_machine_are_bounded_and_all_sessions_may_take_as_much_as_one() {
    let errors_of = |variables: &[(&str, &str)]| lines(&load(&sources(variables)).unwrap_err());
    let errors = errors_of(&[("MEMORY_LIMIT_MB", "a lot"), ("COVE_RESOURCES__CPU_THRESHOLD_PERCENT", "101")]);
    let expected = [
        "resources.session_limit_mb = a lot (MEMORY_LIMIT_MB): allowed is 0 to 1048576",
        "resources.cpu_threshold_percent = 101 (COVE_RESOURCES__CPU_THRESHOLD_PERCENT): allowed is 0 to 100",
    ];
    assert_eq!(errors, expected);
    let errors = errors_of(&[("COVE_RESOURCES__TOTAL_LIMIT_MB", "511")]);
    let expected = "resources.total_limit_mb = 511 (COVE_RESOURCES__TOTAL_LIMIT_MB): allowed is 0 (no limit), or 512 \
                    (resources.session_estimate_mb) or more";
    assert_eq!(errors, [expected]);
    for good in [&[("COVE_RESOURCES__TOTAL_LIMIT_MB", "512")][..], &[("COVE_RESOURCES__SESSION_ESTIMATE_MB", "9999")]] {
        assert!(load(&sources(good)).is_ok(), "{good:?}");
    }
}

#[test]
fn a_bad_profile_of_dolphin_is_a_mistake_of_the_configuration() {
    let profiles = |text: &str| load(&sources(&[("COVE_DOLPHIN__PROFILES", text)])).map(|loaded| loaded.config.dolphin);
    let named = profiles("43499381=Anna, 7").unwrap().named_profiles();
    let shown: Vec<_> = named.iter().map(|profile| (profile.id, profile.name.as_deref())).collect();
    assert_eq!(shown, [(43_499_381, Some("Anna")), (7, None)]);
    for bad in ["anna", "7,7=Ben", "0", "7="] {
        let errors = lines(&profiles(bad).unwrap_err());
        assert!(errors.len() == 1 && errors[0].starts_with("dolphin.profiles = "), "{errors:?}");
        assert!(errors[0].contains("allowed is a list of profiles, each an id"), "{errors:?}");
    }
    let hosts = |text: &str| load(&sources(&[("DOLPHIN_API_HOST", text)])).map(|loaded| loaded.config.dolphin.api_host);
    assert_eq!(hosts("127.0.0.1"), Ok("http://127.0.0.1:3001".to_owned()));
    assert!(hosts("a b").is_err());
}

#[test]
fn what_is_not_used_is_named_without_its_value() {
    let names = [
        "DB_MIN_CONNECTIONS",
        "DB_MAX_CONNECTIONS",
        "HEARTBEAT_INTERVAL_SECS",
        "DB_PASSWORD",
        "SECRET_KEY",
        "DATABASE_URL",
        "WEB_UI_PORT",
        "UI_API_BASE",
        "UI_API_TOKEN",
    ];
    let taken = std::iter::once(("WORKER_API_TOKEN", "s3cret"));
    let variables: Vec<(&str, &str)> = names.iter().map(|name| (*name, "s3cret")).chain(taken).collect();
    let loaded = load(&sources(&variables)).unwrap();
    assert_eq!(loaded.warnings.len(), 2);
    assert!(loaded.warnings[0].ends_with(&format!(": {}", names[..3].join(", "))), "{}", loaded.warnings[0]);
    assert!(loaded.warnings[1].ends_with(&format!(": {}", names[3..].join(", "))), "{}", loaded.warnings[1]);
    assert!(!format!("{loaded:?}").contains("s3cret"));
    assert_eq!(loaded.config, load(&sources(&[])).unwrap().config);
}

#[test]
fn no_secret_is_ever_in_an_error() {
    let errors = load(&sources(&[
        ("COVE_DOLPHIN__API_TOKEN", "s3cret"),
        ("COVE_DOLPHIN__API_TOKEN_FILE", "s3cret"),
        ("COVE_DOLPHIN__API_HOST", "http://a:s3cret@host"),
        ("COVE_TOKENS__ADMIN", "s3cret"),
        ("SECRET_KEY", "s3cret"),
    ]));
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), 4);
    assert!(!format!("{errors:?}\n{}", lines(&errors).join("\n")).contains("s3cret"), "{errors:?}");
}

#[test]
fn serve_refuses_what_the_other_commands_accept() {
    assert_eq!(Config::default().check_serve(), []);
    let loaded = load(&sources(&[
        ("COVE_AUTH__REQUIRED", "false"),
        ("COVE_BROWSER__PROVIDER", "dolphin"),
        ("COVE_SERVER__LISTEN", "0.0.0.0:8088"),
    ]));
    let loaded = loaded.unwrap();
    assert_eq!(loaded.config.browser.provider, ProviderKind::Dolphin);
    let errors = lines(&loaded.check_serve());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("server.listen = \"0.0.0.0:8088\" (COVE_SERVER__LISTEN): "), "{errors:?}");
    for listen in ["127.9.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
        let loaded = load(&sources(&[("COVE_AUTH__REQUIRED", "false"), ("COVE_SERVER__LISTEN", listen)])).unwrap();
        assert_eq!(loaded.config.check_serve(), []);
    }
}

#[test]
fn what_needs_two_keys_is_told_where_it_was_written() {
    let errors_of = |variables| lines(&load(&sources(variables)).unwrap_err());
    let errors = errors_of(&[("COVE_ENGINE__RETRY_BASE_SECONDS", "3600")]);
    let expected = "engine.retry_base_seconds = 3600 (COVE_ENGINE__RETRY_BASE_SECONDS): allowed is 1800 \
                    (engine.retry_max_seconds) or less";
    assert_eq!(errors, [expected]);
    let errors = errors_of(&[("COVE_ENGINE__RETRY_MAX_SECONDS", "5")]);
    assert!(errors.len() == 1 && errors[0].starts_with("engine.retry_max_seconds = 5 ("), "{errors:?}");

    let long = format!("/{}", "x".repeat(110));
    let errors = errors_of(&[("COVE_STATE__DIR", &long)]);
    assert!(errors.len() == 1 && errors[0].contains("(COVE_STATE__DIR)") && errors[0].contains("107"), "{errors:?}");
    assert!(load(&sources(&[("COVE_STATE__DIR", &long), ("COVE_SERVER__SOCKET", "/run/c.sock")])).is_ok());
}

#[test]
fn without_a_home_a_user_must_name_the_state_directory() {
    let mut sources = Sources { env: BTreeMap::new(), ..sources(&[]) };
    let errors = lines(&load(&sources).unwrap_err());
    assert!(errors.len() == 1 && errors[0].starts_with("state.dir ("), "{errors:?}");
    sources.state_dir = Some("relative".into());
    let state = load(&sources).unwrap().config.state_dir();
    assert!(state.is_absolute() && state.ends_with("relative"), "{}", state.display());
}

#[test]
fn the_effective_configuration_loads_to_itself_and_shows_every_key() {
    let loaded = load(&sources(&[("COVE_MEDIA__ROOTS", "/srv/a \"b\""), ("COVE_ENGINE__SLOTS", "3")])).unwrap();
    let text = loaded.config.to_toml();
    let (_dir, path) = written(&text);
    let again = load(&Sources { file: Some(path), ..sources(&[]) }).unwrap();
    assert_eq!(again.config, loaded.config);
    for key in keys::KEYS {
        assert!(text.lines().any(|line| line.starts_with(&format!("{} = ", key.name))), "{}", key.path());
    }
}
