//! The publish fence, seen from the site: what is clicked is clicked once, and what is not known is said.

use serde_json::json;

use super::rig::{Daemon, PracticeSite};

/// The click arrived, the answer did not: never clicked again, whoever resends.
#[tokio::test(flavor = "multi_thread")]
async fn rule_7_a_connection_cut_after_the_post_is_one_post_and_no_second_click() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({"cut_after_store": true})).await;
    daemon.furnish(&["anna"]).await;
    daemon.put_flow("atelier", &quick_confirmation()).await;
    let task = daemon.submit(&practice.site, &[("anna", "cut")]).await;
    let items = daemon.settled(&task).await;
    let posts = practice.posts();
    assert_eq!(posts.len(), 1, "{posts:#?}");
    assert!(["succeeded", "outcome_unknown"].contains(&items[0]["state"].as_str().unwrap()), "{items:#?}");
    assert_eq!(items[0]["attempts"], 1);
}

/// The atelier's flow with a confirmation that gives up soon.
fn quick_confirmation() -> String {
    super::rig::ATELIER.replace("\"timeout\": 30000", "\"timeout\": 3000")
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_8_an_error_after_the_click_is_unknown_and_is_not_tried_again() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({"error_after_share": true})).await;
    daemon.furnish(&["anna"]).await;
    daemon.put_flow("atelier", &quick_confirmation()).await;
    let task = daemon.submit(&practice.site, &[("anna", "error")]).await;
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "outcome_unknown", "{items:#?}");
    assert_eq!(items[0]["wait_reason"], "outcome_unknown");
    assert_eq!(items[0]["error"]["code"], "confirmation_missing");
    assert!(!items[0]["error"]["help"].as_str().unwrap().is_empty());
    assert_eq!(daemon.get(&format!("/api/v1/tasks/{task}")).await.body["state"], "needs_attention");
    // A cancel does not turn it into something it is not.
    daemon.request("POST", &format!("/api/v1/tasks/{task}/cancel"), None).await;
    assert_eq!(daemon.items(&task).await[0]["state"], "outcome_unknown");
    assert_eq!(practice.posts().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_renamed_button_is_an_ordinary_failure() {
    let daemon = Daemon::start_with("max_attempts = 2").await;
    let practice = PracticeSite::start(json!({"rename_share": true})).await;
    daemon.furnish(&["anna"]).await;
    let recording = super::rig::ATELIER.replace("\"timeout\": 15000", "\"timeout\": 2000");
    daemon.put_flow("atelier", &recording).await;
    let task = daemon.submit(&practice.site, &[("anna", "renamed")]).await;
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "failed", "{items:#?}");
    assert_eq!(items[0]["error"]["code"], "element_not_found");
    assert_eq!(items[0]["attempts"], 2);
    assert_eq!(practice.posts().len(), 0);
    let files = &items[0]["evidence"];
    assert!(files.to_string().contains("failure.png"), "{files}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_3_a_file_that_changes_while_its_attempt_runs_is_not_published_as_it_was() {
    let daemon = Daemon::start_with("max_attempts = 3").await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let task = daemon.submit(&practice.site, &[("anna", "changing")]).await;
    let film = daemon.folder.path().join("media/anna-8.mp4");
    daemon.until(&task, |items| items[0]["state"] == "running").await;
    std::fs::write(&film, b"another film altogether").unwrap();
    let items = daemon.settled(&task).await;
    assert_eq!(items[0]["state"], "failed", "{items:#?}\n{}", daemon.logged());
    assert_eq!(items[0]["error"]["code"], "media_changed", "{items:#?}");
    assert_eq!(practice.posts().len(), 0, "what was not accepted does not go out");
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_2_a_key_never_publishes_twice() {
    let daemon = Daemon::start().await;
    let practice = PracticeSite::start(json!({})).await;
    daemon.furnish(&["anna"]).await;
    let film = daemon.film("keyed.mp4");
    let body = json!({"flow": "atelier", "items": [{"profile": "anna", "key": "spring-1", "inputs": {
        "site": practice.site.url(), "account": "anna", "video": film, "caption": "keyed"}}]});
    let first = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!(first.status, 202, "{}", first.body);
    let items = daemon.settled(first.body["task_id"].as_str().unwrap()).await;
    assert_eq!(items[0]["state"], "succeeded");
    let again = daemon.post("/api/v1/bulk-upload/start", &body).await;
    assert_eq!((again.status, again.code()), (409, "key_taken"), "{}", again.body);
    assert!(again.body.to_string().contains(items[0]["id"].as_str().unwrap()), "{}", again.body);
    assert_eq!(practice.posts().len(), 1);
}
