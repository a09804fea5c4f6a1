//! `cove doctor`, the real binary: on a sound machine, on broken ones, and beside a daemon.

mod dolphin;

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::rig::{Daemon, cove, write_config};

const UNSOUND: i32 = 20;
/// Somebody who is not root and has no account.
const STRANGER: u32 = 65_533;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A folder with a configuration, a media root, and a place for temporary files of its own.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), "");
    for name in ["media", "tmp"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    folder
}

/// Runs it to its end; its report and its exit code.
fn doctor_of(mut command: Command, folder: &Path, args: &[&str]) -> (Value, Option<i32>) {
    command.args(["doctor", "--json"]).args(args).arg("--config").arg(folder.join("cove.toml"));
    // What is left in it was left by the command.
    let tmp = folder.join("tmp");
    if tmp.exists() {
        command.env("TMPDIR", &tmp);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&text);
    let report = report.unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    if tmp.exists() {
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "a temporary file is left");
    }
    (report, output.status.code())
}

fn doctor(folder: &Path, env: &[(&str, &str)], args: &[&str]) -> (Value, Option<i32>) {
    let mut command = cove();
    command.envs(env.iter().copied());
    doctor_of(command, folder, args)
}

#[track_caller]
fn line<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no line {name}: {report:#}"))
}

/// The status of a line, and that it names `text`.
#[track_caller]
fn is(report: &Value, name: &str, status: &str, text: &str) {
    let line = line(report, name);
    let all = format!("{} {}", line["found"], line["help"]);
    assert!(line["status"] == status && all.contains(text), "{line:#} should be {status} and say {text}");
}

#[test]
fn a_sound_machine_has_no_error_and_nothing_is_changed() {
    let folder = place();
    let (report, code) = doctor(folder.path(), &[], &[]);
    assert_eq!((&report["ok"], code), (&json!(true), Some(0)), "{report:#}");
    let names: Vec<&str> =
        report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "configuration",
            "daemon",
            "state_directory",
            "state_file",
            "permissions",
            "media_roots",
            "media_browser",
            "disk_space",
            "disk_speed",
            "clock",
            "memory",
            "shared_memory",
            "descriptors",
            "listen",
            "local_users",
            "display",
            "chromium",
            "sandbox",
            "browser_start",
            "cdp",
            "process_tree",
            "profile_start",
            "profile_cdp",
        ]
    );
    for check in report["checks"].as_array().unwrap() {
        let helped = check["help"].as_str().is_some_and(|help| !help.is_empty());
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warning", "error"].contains(&status) && helped == (status != "ok"), "{check:#}");
    }
    is(&report, "daemon", "ok", "none runs");
    is(&report, "chromium", "ok", "hromium");
    is(&report, "sandbox", "warning", "sandbox = false");
    is(&report, "browser_start", "ok", "was stopped");
    is(&report, "cdp", "ok", "on port");
    is(&report, "process_tree", "ok", "exact");
    is(&report, "profile_start", "ok", "not tried: give --profile");
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["cove.toml", "media", "tmp"], "no state directory is made");
}

#[test]
fn people_get_lines_with_what_to_do() {
    let folder = place();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o755);
    let output = cove()
        .args(["doctor", "--config"])
        .arg(folder.path().join("cove.toml"))
        .env("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(UNSOUND), "{text}");
    let help = format!("-> `chmod 700 {}`", state.display());
    assert!(text.contains("error    state_directory") && text.contains(&help), "{text}");
    assert!(text.contains("error    chromium         /nonexistent/chromium does not exist"), "{text}");
    assert!(text.contains(" errors, "), "{text}");
}

#[test]
fn what_is_broken_is_said_and_sets_the_exit_code() {
    let folder = place();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o755);
    let token = folder.path().join("token");
    std::fs::write(&token, "t0ken").unwrap();
    set_mode(&token, 0o644);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let env = [
        ("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium"),
        ("COVE_BROWSER__HEADLESS", "false"),
        ("COVE_BROWSER__SANDBOX", "true"),
        ("COVE_SERVER__LISTEN", address.as_str()),
        ("COVE_RESOURCES__DISK_RESERVE_MB", "1048576"),
        ("COVE_DOLPHIN__API_TOKEN_FILE", token.to_str().unwrap()),
        ("COVE_MEDIA__ROOTS", "/nonexistent/media"),
        ("DISPLAY", ""),
        ("WAYLAND_DISPLAY", ""),
    ];
    let (report, code) = doctor(folder.path(), &env, &[]);
    assert_eq!((&report["ok"], code), (&json!(false), Some(UNSOUND)));
    is(&report, "state_directory", "error", "chmod 700");
    is(&report, "permissions", "error", "chmod 640");
    is(&report, "media_roots", "error", "/nonexistent/media is not there");
    is(&report, "disk_space", "error", "disk_reserve_mb");
    is(&report, "listen", "error", &format!("process {}", std::process::id()));
    is(&report, "display", "error", "headless = false");
    is(&report, "chromium", "error", "/nonexistent/chromium does not exist");
    is(&report, "browser_start", "error", "see the line `chromium`");
    is(&report, "cdp", "error", "no browser could be tried");
    if is_root() {
        is(&report, "sandbox", "error", "root");
    }
}

#[test]
fn a_browser_that_cannot_start_is_an_error_with_its_words() {
    let folder = place();
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "#!/bin/sh\necho 'the library libnss3.so is missing' >&2\nexit 127\n").unwrap();
    set_mode(&broken, 0o755);
    let (report, code) = doctor(folder.path(), &[("COVE_BROWSER__CHROMIUM", broken.to_str().unwrap())], &[]);
    assert_eq!(code, Some(UNSOUND));
    is(&report, "chromium", "warning", "does not tell its version");
    is(&report, "browser_start", "error", "libnss3.so is missing");
    is(&report, "cdp", "error", "did not start");
}

#[test]
fn a_configuration_that_cannot_be_read_is_the_one_thing_said() {
    let folder = place();
    let (report, code) = doctor(folder.path(), &[("COVE_ENGINE__SLOTS", "many"), ("COVE_LOG__LEVEL", "loud and")], &[]);
    assert_eq!(code, Some(UNSOUND));
    is(&report, "configuration", "error", "engine.slots");
    is(&report, "configuration", "error", "log.level");
    assert_eq!(report["checks"].as_array().unwrap().len(), 2, "{report:#}");
}

/// The binary where another user can run it.
fn for_everybody(folder: &Path) -> PathBuf {
    let path = folder.join("cove");
    std::fs::copy(env!("CARGO_BIN_EXE_cove"), &path).unwrap();
    set_mode(&path, 0o755);
    set_mode(folder, 0o755);
    path
}

/// As root this is the package's case: cove is another user, and its browsers have their sandbox.
#[test]
fn root_looks_for_coves_own_user() {
    if !is_root() {
        // An ordinary user is cove itself: a root that it cannot read is found all the same.
        let folder = place();
        set_mode(&folder.path().join("media"), 0o000);
        let (report, code) = doctor(folder.path(), &[], &[]);
        set_mode(&folder.path().join("media"), 0o700);
        is(&report, "media_roots", "error", "cannot be read by cove's user");
        return assert_eq!(code, Some(UNSOUND));
    }
    let folder = place();
    let program = for_everybody(folder.path());
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o700);
    chown(&state, Some(STRANGER), Some(STRANGER)).unwrap();
    set_mode(&folder.path().join("tmp"), 0o777);
    let media = folder.path().join("media");
    std::fs::write(media.join("film.mp4"), "x").unwrap();
    set_mode(&media, 0o755);
    set_mode(&media.join("film.mp4"), 0o600);
    let run = || {
        let mut command = Command::new(&program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("COVE_BROWSER__SANDBOX", "true");
        doctor_of(command, folder.path(), &[])
    };
    let (report, code) = run();
    is(&report, "media_roots", "error", "film.mp4 cannot be read by cove's user (65533)");
    is(&report, "media_roots", "error", "setfacl -R -m u:65533:rX");
    is(&report, "sandbox", "ok", "a browser started with it");
    is(&report, "process_tree", "ok", "exact");
    assert_eq!(code, Some(UNSOUND));
    set_mode(&media.join("film.mp4"), 0o604);
    let (report, code) = run();
    is(&report, "media_roots", "ok", "1 folder and 1 file in them can be read by 65533");
    assert_eq!(code, Some(0), "{report:#}");
}

#[test]
fn a_stranger_is_told_what_he_may_not_see() {
    if !is_root() {
        // Nobody else's files can be made here; that case is judged in the unit tests.
        return;
    }
    let folder = place();
    let program = for_everybody(folder.path());
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o700);
    set_mode(&folder.path().join("tmp"), 0o777);
    let mut command = Command::new("setpriv");
    let user = STRANGER.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", folder.path().join("tmp"));
    command.env("COVE_SERVER__SOCKET", state.join("cove.sock"));
    let (report, code) = doctor_of(command, folder.path(), &["--profile", "anna"]);
    is(&report, "daemon", "warning", "may not open");
    is(&report, "state_directory", "warning", "sudo -u root cove doctor");
    is(&report, "state_file", "warning", "may not be opened by this user");
    is(&report, "disk_speed", "warning", "was not measured");
    is(&report, "profile_start", "warning", "with sudo");
    assert_eq!(code, Some(0), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon_it_asks_and_without_one_it_looks_itself() {
    let mut daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let folder = daemon.folder.path().to_owned();
    let ask = |args: &'static [&'static str]| {
        let folder = folder.clone();
        tokio::task::spawn_blocking(move || doctor(&folder, &[], args))
    };
    let (report, code) = ask(&["--profile", "anna"]).await.unwrap();
    assert_eq!(code, Some(0), "{report:#}");
    is(&report, "daemon", "ok", &format!("process {}, state running", daemon.pid()));
    is(&report, "state_file", "ok", &format!("held by the daemon (process {})", daemon.pid()));
    is(&report, "state_directory", "ok", "mode 0700");
    is(&report, "listen", "ok", "where the daemon listens");
    is(&report, "descriptors", "ok", "of the daemon");
    is(&report, "profile_start", "ok", "`anna` started in");
    is(&report, "profile_cdp", "ok", "Chrome");
    let anna = daemon.get("/api/v1/profiles/anna").await;
    assert_eq!(anna.body["state"], "idle", "{}", anna.body);

    let (report, code) = ask(&["--profile", "nobody"]).await.unwrap();
    is(&report, "profile_start", "error", "`nobody` was not opened");
    assert_eq!(code, Some(UNSOUND));
    daemon.post("/api/v1/profiles/anna/open", &json!({"headless": true})).await;
    daemon.post("/api/v1/pause", &json!({})).await;
    let (report, _) = ask(&["--profile", "anna"]).await.unwrap();
    is(&report, "profile_start", "warning", "in use: it was left alone");
    is(&report, "daemon", "warning", "cove resume");
    let anna = daemon.get("/api/v1/profiles/anna").await;
    assert_eq!(anna.body["state"], "in_use_by_operator", "what a person opened stays open");

    // Stopped: nothing holds the files, and what is looked at stays as it is.
    daemon.stop();
    let before = std::fs::read(daemon.state().join("state.redb")).unwrap();
    let (report, code) = ask(&["--profile", "anna"]).await.unwrap();
    is(&report, "daemon", "ok", "none runs");
    is(&report, "state_file", "warning", "paused");
    is(&report, "profile_start", "ok", "`anna` started in");
    is(&report, "profile_cdp", "ok", "Chrome");
    assert_eq!(code, Some(0), "{report:#}");
    assert!(std::fs::read(daemon.state().join("state.redb")).unwrap() == before, "the state file was changed");
    assert!(daemon.browsers().is_empty());
}

/// `serve --state-dir` beside a configuration that names another folder: what is said is of the daemon's own.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_daemon_with_another_state_directory_nothing_wrong_is_said() {
    let mut daemon = Daemon::prepare("", &[]);
    let folder = daemon.folder.path().to_owned();
    std::fs::create_dir(folder.join("tmp")).unwrap();
    daemon.boot().await;
    // The same file, but for the folder; and it says the daemon's own port, as the default would.
    let config = std::fs::read_to_string(folder.join("cove.toml")).unwrap();
    let port = daemon.base.rsplit_once(':').unwrap().1;
    let other = config
        .replace("127.0.0.1:0", &format!("127.0.0.1:{port}"))
        .replace(&format!("{}/state", folder.display()), &format!("{}/elsewhere", folder.display()));
    assert_ne!(config, other);
    std::fs::write(folder.join("cove.toml"), other).unwrap();
    let place = folder.clone();
    let (report, code) = tokio::task::spawn_blocking(move || doctor(&place, &[], &[])).await.unwrap();
    let state = daemon.state();
    is(&report, "state_directory", "warning", &format!("the configuration says {}/elsewhere", folder.display()));
    is(&report, "state_directory", "warning", &format!("{}, mode 0700", state.display()));
    let held = format!("{}/state.redb, held by the daemon (process {})", state.display(), daemon.pid());
    is(&report, "state_file", "ok", &held);
    is(&report, "listen", "ok", "where the daemon listens");
    assert_eq!(code, Some(0), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_somebody_holds_without_answering_is_an_error_that_names_him() {
    let folder = place();
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    set_mode(&state, 0o700);
    let moment = cove::model::Clock::moment(&cove::model::SystemClock);
    let (store, thread, _) = cove::store::Store::open(&state, moment).unwrap();
    let (report, code) = doctor(folder.path(), &[], &[]);
    is(&report, "state_file", "error", &format!("process {}", std::process::id()));
    assert_eq!(code, Some(UNSOUND));
    drop(store);
    thread.join();
    std::fs::remove_file(state.join("publish.ledger")).unwrap();
    let (report, _) = doctor(folder.path(), &[], &[]);
    is(&report, "state_file", "error", "publish.ledger is not there");
    std::fs::write(state.join("state.redb"), "garbage").unwrap();
    let (report, _) = doctor(folder.path(), &[], &[]);
    is(&report, "state_file", "error", "cove snapshots restore");
}
