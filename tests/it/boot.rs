//! Starting: what is refused, with which exit code, and that nothing is touched by a refusal.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;

use super::rig::{Daemon, PATIENCE, PracticeSite, cove, signal, write_config};

/// Runs `cove serve` until it refuses; exit code and stderr.
fn refused(folder: &Path, env: &[(&str, &str)]) -> (Option<i32>, String) {
    let config = folder.join("cove.toml");
    let mut command = cove();
    command.args(["serve", "--config"]).arg(config).envs(env.iter().copied());
    let output = command.stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cove.toml"), "[server]\nlisten = \"8088\"\n[engine]\nslot = 3\n").unwrap();
    let (code, told) = refused(folder.path(), &[("COVE_LOG__LEVEL", "cove=loud")]);
    assert_eq!(code, Some(78), "{told}");
    for part in ["server.listen", "line 2", "engine.slot", "slots", "COVE_LOG__LEVEL"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn nobody_beyond_this_machine_is_let_in_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), "");
    let (code, told) = refused(folder.path(), &[("COVE_SERVER__LISTEN", "0.0.0.0:0")]);
    assert!(
        code == Some(78) && told.contains("server.listen") && told.contains("everybody is admin"),
        "{code:?} {told}"
    );
    let (code, told) = refused(folder.path(), &[("COVE_SERVER__LISTEN", "0.0.0.0:0"), ("COVE_AUTH__REQUIRED", "true")]);
    assert!(code == Some(78) && told.contains("cove tokens create"), "{code:?} {told}");
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), "");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, told) = refused(folder.path(), &[("COVE_SERVER__LISTEN", &address)]);
    assert!(code == Some(1) && told.contains(&address) && told.contains("in use"), "{code:?} {told}");
}

#[test]
fn a_file_that_is_no_state_file_is_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), "");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let path = state.join(cove::store::STATE_FILE);
    std::fs::write(&path, "my holiday photos").unwrap();
    let (code, told) = refused(folder.path(), &[]);
    assert!(code == Some(78) && told.contains("not a state file"), "{code:?} {told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "my holiday photos");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_is_refused_with_78_and_a_second_daemon_is_told_of_the_first() {
    let mut daemon = Daemon::start().await;
    let (code, told) = refused(daemon.folder.path(), &[("COVE_SERVER__SOCKET", "/nonexistent/s")]);
    assert!(code == Some(1) && told.contains("another process holds"), "{code:?} {told}");
    let made = super::rig::run(&["snapshots", "create"], daemon.folder.path());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let name = String::from_utf8(made.stdout).unwrap();
    assert_eq!(daemon.stop(), Some(0));
    let schema: redb::TableDefinition<&str, u32> = redb::TableDefinition::new("schema");
    let db = redb::Database::open(daemon.state().join(cove::store::STATE_FILE)).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(schema).unwrap().insert("version", 99).unwrap();
    txn.commit().unwrap();
    drop(db);
    let (code, told) = refused(daemon.folder.path(), &[]);
    let way_back = format!("cove snapshots restore {}", daemon.state().join("snapshots").join(name.trim()).display());
    assert!(code == Some(78) && told.contains("newer") && told.contains(&way_back), "{code:?} {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_items_wait_and_say_so_and_lose_no_attempt() {
    let daemon = Daemon::start_as("", &[("COVE_BROWSER__CHROMIUM", "/nonexistent/chromium")]).await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "no browser")]).await;
    let items = daemon.until(&task, |items| items[0]["wait_reason"] == "provider_down").await;
    assert_eq!((&items[0]["state"], &items[0]["attempts"]), (&json!("queued"), &json!(0)), "{items:#?}");
    assert_eq!(items[0]["error"]["code"], "browser_not_found", "{items:#?}");
    assert!(items[0]["error"]["help"].as_str().unwrap().contains("chromium"));
    let health = daemon.get("/api/v1/health").await;
    assert_eq!((health.status, &health.body["status"]), (200, &json!("degraded")), "{}", health.body);
    assert!(health.body["parts"]["provider"]["reason"].as_str().unwrap().contains("/nonexistent/chromium"));
}

/// Limits and the log's level change in a running daemon; what waits for a restart is named, and settings with a
/// mistake change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_settings_again() {
    let daemon = Daemon::start().await;
    let config = daemon.folder.path().join("cove.toml");
    let written = std::fs::read_to_string(&config).unwrap();
    let limit = async |wanted: Option<&str>| {
        let began = Instant::now();
        loop {
            let answer = daemon.get("/api/v1/tasks").await;
            let limit = answer.headers.get("x-ratelimit-limit").map(|limit| limit.to_str().unwrap().to_owned());
            if limit.as_deref() == wanted {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{limit:?}, not {wanted:?}\n{}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    limit(None).await;
    std::fs::write(&config, written.replace("\nrequests = 0\n", "\nrequests = 123456\n") + "slots = 3\n").unwrap();
    signal(daemon.pid(), rustix::process::Signal::HUP);
    limit(Some("123456")).await;
    // What was done is told after it was done.
    let told = async |texts: &[&str]| {
        let began = Instant::now();
        while !texts.iter().all(|text| daemon.logged().contains(text)) {
            assert!(began.elapsed() < PATIENCE, "{texts:?}: {}", daemon.logged());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    told(&["engine.slots", "take effect at the next start"]).await;
    // A mistake anywhere: all of it is refused, and the daemon goes on.
    std::fs::write(&config, written.replace("\nrequests = 0\n", "\nrequests = 7\n") + "slots = 0\n").unwrap();
    signal(daemon.pid(), rustix::process::Signal::HUP);
    told(&["nothing was changed"]).await;
    limit(Some("123456")).await;
    assert_eq!(daemon.get("/api/v1/status").await.body["slots"]["total"], 15);
}

/// The browser host needs no token, and its environment can be read for as long as it runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_browser_host_knows_no_token() {
    let secret = [("WORKER_API_TOKEN", "worker-s3cret-of-32-characters-long"), ("DOLPHIN_API_TOKEN", "dolphin-s3cret")];
    let daemon = super::rig::Daemon::start_as("", &secret).await;
    let environment =
        |pid: u32| String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).unwrap()).into_owned();
    assert!(environment(daemon.pid()).contains("worker-s3cret"), "the daemon itself has it");
    let state = daemon.state().display().to_string();
    let hosts: Vec<u32> = super::rig::processes_with("browser-host")
        .into_iter()
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&state))
        })
        .collect();
    assert_eq!(hosts.len(), 1, "{hosts:?}");
    assert!(!environment(hosts[0]).contains("s3cret"), "{}", environment(hosts[0]));
}
