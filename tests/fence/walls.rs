//! Where a flow stops by itself: at what the site says after the click, and before the click when it is rehearsed.

use serde_json::{Value, json};

use super::judge::{findings, history, item, posts, settled, until};
use super::rig::{Daemon, PracticeSite, run};
use super::rounds::{flow, submit_one};

/// What the site counted, the clicks without a post too.
async fn clicks(daemon: &Daemon, practice: &PracticeSite) -> u64 {
    let answer = daemon.client.get(format!("{}/posts", practice.site.url())).send().await.unwrap();
    answer.json::<Value>().await.unwrap()["clicks"].as_u64().unwrap()
}

async fn profile(daemon: &Daemon, name: &str) -> Value {
    daemon.get(&format!("/api/v1/profiles/{name}")).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_7_a_stop_if_after_arming_is_unknown_and_parks_the_profile_until_a_person_comes() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    daemon.put_flow("atelier", &flow()).await;
    let practice = PracticeSite::start(json!({"verification_after_share": {"times": 1}})).await;
    let first = submit_one(&daemon, &practice, "anna", "first").await;
    let unknown = until(&daemon, &first, "outcome_unknown").await;
    let second = submit_one(&daemon, &practice, "anna", "second").await;
    assert_eq!(posts(&practice, &unknown).len(), 1, "the post went out before the site asked");
    let error = unknown["error"].to_string();
    assert!(error.contains("confirm that it is really anna"), "{error}");
    let parked = profile(&daemon, "anna").await;
    assert!(parked["needs_human"].as_str().unwrap().contains("anna"), "{parked:#}");
    assert_eq!(parked["parked_by"], json!(first));
    // Neither looked at nor followed by another click, however long it takes: seen over some turns of the engine.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let waiting = item(&daemon, &second).await;
        assert_eq!(waiting["state"], "queued", "{waiting:#}");
        assert!(findings(&daemon, &unknown).await.is_empty());
    }
    let until_idle = || async { profile(&daemon, "anna").await["state"] == "needs_human" };
    let began = std::time::Instant::now();
    while !until_idle().await {
        assert!(began.elapsed() < super::rig::PATIENCE, "{}", daemon.logged());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(item(&daemon, &second).await["wait_reason"], "profile_needs_human");
    let unparked = daemon.request("POST", "/api/v1/profiles/anna/unpark", None).await;
    assert_eq!(unparked.status, 200, "{}", unparked.body);
    let first = until(&daemon, &first, "succeeded").await;
    assert_eq!(findings(&daemon, &first).await, ["found"]);
    let second = until(&daemon, &second, "succeeded").await;
    assert_eq!((posts(&practice, &first).len(), posts(&practice, &second).len()), (1, 1));
    assert_eq!((&first["attempts"], clicks(&daemon, &practice).await), (&json!(1), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_10_a_rehearsal_stops_before_the_commit_point_and_publish_goes_through_it() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let practice = PracticeSite::start(json!({})).await;
    let film = daemon.film("one.mp4");
    let (site, video) = (format!("site={}", practice.site.url()), format!("video={}", film.display()));
    let args = ["flows", "run", "atelier", "--profile", "anna", "--key", "spring-1", "--json"];
    let inputs = ["--input", &site, "--input", &video, "--input", "account=anna", "--input", "caption=rehearsed"];
    let rehearse = [&args[..], &inputs[..]].concat();
    let go = |args: Vec<String>| {
        let folder = daemon.folder.path().to_owned();
        let running = move || run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &folder);
        async { tokio::task::spawn_blocking(running).await.unwrap() }
    };
    let words = |args: &[&str]| args.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let ran = go(words(&rehearse)).await;
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{told}{}\n{}", String::from_utf8_lossy(&ran.stderr), daemon.logged());
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["task"]["state"], "succeeded", "{told:#}");
    assert_eq!((practice.posts().len(), clicks(&daemon, &practice).await), (0, 0));
    let rehearsed = told["items"][0].clone();
    let kinds: Vec<_> = history(&daemon, &rehearsed).await.into_iter().map(|(kind, _)| kind).collect();
    assert!(!kinds.contains(&"armed".to_owned()), "{kinds:?}");

    // The same with the click; the rehearsal took no key.
    let ran = go(words(&[&rehearse[..], &["--publish"]].concat())).await;
    let told = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{told}{}\n{}", String::from_utf8_lossy(&ran.stderr), daemon.logged());
    let told: Value = serde_json::from_str(&told).unwrap();
    let published = settled(&daemon, told["items"][0]["id"].as_str().unwrap()).await;
    assert_eq!(published["state"], "succeeded");
    assert_eq!((posts(&practice, &published).len(), clicks(&daemon, &practice).await), (1, 1));
}
