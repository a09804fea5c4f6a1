//! `kill -9` of the daemon, of the browser, of both, over the whole length of an attempt.
//!
//! The site is the judge: no item is posted twice, and every item ends `succeeded` with its post or
//! `outcome_unknown`. `ROUNDS=n` runs more of them; the seed is printed and taken by `SEED=`.

use std::time::Duration;

use serde_json::{Value, json};

use super::rig::{Daemon, PracticeSite, signal};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// What a kill may leave, compared with what the site received.
fn judge(items: &[Value], practice: &PracticeSite) {
    let posts = practice.posts();
    for item in items {
        let caption = item["inputs"]["caption"].as_str().unwrap();
        let profile = item["inputs"]["account"].as_str().unwrap();
        let posted = posts.iter().filter(|post| post.caption == caption && post.profile == profile).count();
        match item["state"].as_str().unwrap() {
            "succeeded" => assert_eq!(posted, 1, "{item:#}"),
            "outcome_unknown" => assert!(posted <= 1, "{item:#}"),
            other => panic!("{other}: {item:#}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_task_posts_nothing_twice() {
    let seed = number("SEED", fastrand::u64(..1 << 40));
    println!("SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    for round in 0..number("ROUNDS", 6) {
        let mut daemon = Daemon::start_with("slots = 2").await;
        let practice = PracticeSite::start(json!({})).await;
        daemon.furnish(&["anna", "boris"]).await;
        let sent = [("anna", "1"), ("boris", "22"), ("anna", "333"), ("boris", "4444")];
        let task = daemon.submit(&practice.site, &sent).await;
        let after = Duration::from_millis(dice.u64(50..4_000));
        let whom = dice.u8(..3);
        tokio::time::sleep(after).await;
        println!("round {round}: after {after:?}, whom {whom}");
        if whom > 0 {
            for pid in daemon.browsers() {
                // It may have ended by itself since it was listed.
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if whom < 2 {
            daemon.kill();
            daemon.boot().await;
        }
        let items = daemon.settled(&task).await;
        judge(&items, &practice);
        assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
        assert!(daemon.browsers().is_empty(), "browsers are left");
    }
}

/// Armed, then killed: the one moment where nobody can know. The item says so and is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn rule_15_killed_after_the_click_is_unknown_or_confirmed_and_never_clicked_again() {
    let mut daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({"cut_after_store": true})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "armed")]).await;
    daemon.until(&task, |_| !practice.posts().is_empty()).await;
    daemon.kill();
    daemon.boot().await;
    let items = daemon.settled(&task).await;
    judge(&items, &practice);
    assert_eq!(items[0]["state"], "outcome_unknown", "{items:#?}");
    assert_eq!(items[0]["error"]["code"], "restarted_after_commit");
    assert_eq!(practice.posts().len(), 1);
}

/// A browser host that is a service of its own outlives the daemon: its browser is looked at, not stopped.
#[tokio::test(flavor = "multi_thread")]
async fn rule_15_a_browser_that_survived_confirms_what_was_armed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let mut host = super::rig::cove()
        .args(["browser-host", "--sandbox", "false", "--socket"])
        .arg(&socket)
        .arg("--profiles-dir")
        .arg(folder.path().join("profiles"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let setting = socket.display().to_string().leak();
    let mut daemon = Daemon::start_as("", &[("COVE_BROWSER__HOST_SOCKET", setting)]).await;
    let practice = PracticeSite::start(json!({"slow": 4_000})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "survivor")]).await;
    let began = std::time::Instant::now();
    loop {
        let events = daemon.get(&format!("/api/v1/tasks/{task}/events")).await.body;
        if events.to_string().contains("\"armed\"") {
            break;
        }
        assert!(began.elapsed() < super::rig::PATIENCE, "{events}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The click goes out right after; the confirmation is seconds away.
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.kill();
    assert!(!super::rig::processes_with(&folder.path().join("profiles").display().to_string()).is_empty());
    daemon.boot().await;
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}\n{}", daemon.logged());
    assert_eq!(items[0]["attempts"], 1);
    assert_eq!(practice.posts().len(), 1);
    assert_eq!(daemon.stop(), Some(0));
    signal(host.id(), rustix::process::Signal::TERM);
    assert!(host.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_hands_back_what_is_not_armed_without_costing_an_attempt() {
    let mut daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "handed back")]).await;
    daemon.until(&task, |items| items[0]["state"] == "running").await;
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    assert!(daemon.browsers().is_empty(), "browsers are left");
    assert!(!daemon.state().join("listen").exists());
    daemon.boot().await;
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "succeeded", "{items:#?}");
    assert_eq!(items[0]["attempts"], 1, "{items:#?}");
    assert_eq!(practice.posts().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    let daemon = Daemon::start_with("drain_seconds = 300").await;
    let practice = PracticeSite::start(json!({"cut_after_store": true})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "slow")]).await;
    daemon.until(&task, |_| !practice.posts().is_empty()).await;
    signal(daemon.pid(), rustix::process::Signal::TERM);
    let mut daemon = daemon;
    // The first waits for the armed attempt; this one does not.
    assert_eq!(daemon.stop(), Some(0), "{}", daemon.logged());
    daemon.boot().await;
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "outcome_unknown", "{items:#?}");
    assert_eq!(practice.posts().len(), 1);
}
