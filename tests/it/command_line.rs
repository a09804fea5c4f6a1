//! The command line against a running daemon: what a person types, what it prints, how it exits.

use serde_json::Value;

use super::rig::{Daemon, PracticeSite, run};

fn out(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_is_added_run_followed_and_shown() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(serde_json::json!({})).await;
    let folder = daemon.folder.path();
    let flow = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/flows/atelier.json");
    let checked = run(&["flows", "check", flow], folder);
    assert!(checked.status.success() && out(&checked).contains("ok: "), "{}", out(&checked));
    let added = run(&["flows", "add", "atelier", flow], folder);
    assert!(added.status.success(), "{}", err(&added));
    assert!(out(&run(&["flows", "list"], folder)).contains("atelier"));
    assert!(run(&["profiles", "add", "anna"], folder).status.success());
    let film = daemon.film("one.mp4");
    let (site, video) = (format!("site={}", practice.site.url()), format!("video={}", film.display()));
    let args = ["run", "atelier", "--profile", "anna", "--input", &site, "--input", &video];
    let ran = run(&[&args[..], &["--input", "account=anna", "--input", "caption=by hand"]].concat(), folder);
    assert_eq!(ran.status.code(), Some(0), "{}{}", out(&ran), err(&ran));
    assert!(out(&ran).contains("succeeded") && out(&ran).contains("post_url"), "{}", out(&ran));
    assert_eq!(practice.posts()[0].caption, "by hand");

    let listed: Value = serde_json::from_str(&out(&run(&["tasks", "list", "--json"], folder))).unwrap();
    let id = listed["tasks"][0]["id"].as_str().unwrap().to_owned();
    let shown = out(&run(&["tasks", "show", &id], folder));
    assert!(shown.contains("armed") && shown.contains("succeeded"), "{shown}");
    assert_eq!(run(&["tasks", "watch", &id], folder).status.code(), Some(0));
    assert!(out(&run(&["status"], folder)).contains("slots"));
    assert!(out(&run(&["profiles", "list"], folder)).contains("anna"));
    let missing = run(&["run", "atelier", "--profile", "nobody", "--input", &site, "--no-follow"], folder);
    assert_eq!(missing.status.code(), Some(4), "{}", err(&missing));
    for part in ["/items/0/profile", "/items/0/inputs/caption", "/items/0/inputs/video"] {
        assert!(err(&missing).contains(part), "{part}: {}", err(&missing));
    }
    assert!(run(&["pause"], folder).status.success());
    let more = run(&[&args[..], &["--input", "account=anna", "--input", "caption=x", "--no-follow"]].concat(), folder);
    let id = out(&more).trim().to_owned();
    assert!(out(&run(&["tasks", "show", &id], folder)).contains("paused"));
    assert!(run(&["tasks", "cancel", &id], folder).status.success());
    assert_eq!(run(&["tasks", "watch", &id], folder).status.code(), Some(12));
    assert!(run(&["resume"], folder).status.success());
}

#[test]
fn nobody_there_and_a_bad_flow_say_so() {
    let folder = tempfile::tempdir().unwrap();
    super::rig::write_config(folder.path(), "");
    let alone = run(&["status"], folder.path());
    assert_eq!(alone.status.code(), Some(3));
    assert!(err(&alone).contains("cove.sock") && err(&alone).contains("cove serve"), "{}", err(&alone));
    let flow = folder.path().join("bad.json");
    std::fs::write(&flow, r#"{"title":"t","steps":[{"type":"tap"}]}"#).unwrap();
    let checked = run(&["flows", "check", flow.to_str().unwrap()], folder.path());
    assert_eq!(checked.status.code(), Some(1));
    assert!(out(&checked).contains("step 0  /steps/0/type  error: unknown step type"), "{}", out(&checked));
    let shown = run(&["config", "show"], folder.path());
    assert!(shown.status.success() && out(&shown).contains("engine.retry_base_seconds"), "{}", out(&shown));
    assert!(out(&run(&["config", "check"], folder.path())).contains("ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_opened_for_a_person_and_closed_again() {
    let daemon = Daemon::start().await;
    daemon.furnish(&["anna"]).await;
    let opened = daemon.post("/api/v1/profiles/anna/open", &serde_json::json!({"headless": true})).await;
    assert_eq!(opened.status, 202, "{}", opened.body);
    let began = std::time::Instant::now();
    let profile = loop {
        let profile = daemon.get("/api/v1/profiles/anna").await.body;
        if profile["opened"]["ready"] == true {
            break profile;
        }
        assert!(began.elapsed() < super::rig::PATIENCE, "{profile}\n{}", daemon.logged());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(profile["state"], "in_use_by_operator");
    let link = format!("{}{}", daemon.base, profile["devtools_url"].as_str().unwrap());
    let page = daemon.client.get(&link).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("DevTools"));
    // Items of this profile wait, and say why.
    let practice = PracticeSite::start(serde_json::json!({})).await;
    let task = daemon.submit(&practice.site, &[("anna", "after the person")]).await;
    daemon.until(&task, |items| items[0]["wait_reason"] == "profile_in_use_by_operator").await;
    assert_eq!(daemon.request("POST", "/api/v1/profiles/anna/close", None).await.status, 202);
    assert_eq!(daemon.settled(&task).await[0]["state"], "succeeded");
    assert_eq!(daemon.client.get(&link).send().await.unwrap().status(), 404, "the link outlived the person");
}

/// What is no token of cove's is not shown to whoever listens there.
#[tokio::test(flavor = "multi_thread")]
async fn a_mistyped_token_stays_here() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let good = cove::model::token::TokenText::from_random(&[7; 40]).unwrap();
    let typo = good.reveal().replacen('7', "8", 1);
    let file = folder.path().join("token");
    for (token, why) in [(typo.as_str(), "check"), (&typo[..20], "36 characters"), ("cove_a b", "letters")] {
        std::fs::write(&file, token).unwrap();
        let file = file.to_str().unwrap();
        for command in [["status", "--json"], ["tokens", "list"], ["snapshots", "list"]] {
            let mut asked = super::rig::cove();
            let output = asked.args(command).args(["--url", &url, "--token-file", file]).output().unwrap();
            let told = err(&output);
            assert_eq!(output.status.code(), Some(2), "{token}: {told}");
            assert!(told.contains(why) && told.contains(file) && !told.contains(token), "{told}");
        }
    }
    let mut asked = super::rig::cove();
    let output = asked.args(["status", "--url", &url]).env("COVE_TOKEN", &typo).output().unwrap();
    assert!(output.status.code() == Some(2) && err(&output).contains("COVE_TOKEN"), "{}", err(&output));
    let nobody = listener.accept().map(drop).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock, "nobody came");

    // The doctor looks all the same, without it.
    listener.set_nonblocking(false).unwrap();
    let asked = std::thread::spawn(move || {
        use std::io::Read as _;
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut piece) = (Vec::new(), [0; 1024]);
        while !heard.ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut piece).unwrap();
            assert_ne!(read, 0, "a whole head");
            heard.extend_from_slice(&piece[..read]);
        }
        String::from_utf8(heard).unwrap()
    });
    let output = super::rig::cove().args(["doctor", "--url", &url]).env("COVE_TOKEN", &typo).output().unwrap();
    assert!(err(&output).contains("mistyped") && !err(&output).contains(&typo), "{}", err(&output));
    let heard = asked.join().unwrap();
    assert!(heard.starts_with("GET ") && !heard.contains(&typo) && !heard.contains("uthorization"), "{heard}");
}
