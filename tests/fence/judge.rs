//! The judge: what cove says of each item, compared with the posts that the site counted.
//!
//! It knows nothing of the daemon but its answers. Never two posts; `succeeded` is exactly one; a verify that said
//! found or not found was right; and what stays unknown is settled by the truth, and rightly.

use std::time::{Duration, Instant};

use cove::cli::practice::Post;
use serde_json::{Value, json};

use super::rig::{Daemon, PATIENCE, PracticeSite};

/// What the site has of one item.
pub fn posts(practice: &PracticeSite, item: &Value) -> Vec<Post> {
    let (caption, profile) = (&item["inputs"]["caption"], &item["inputs"]["account"]);
    practice.posts().into_iter().filter(|post| *caption == post.caption && *profile == post.profile).collect()
}

/// What is wrong with an item that ended, if anything is.
pub fn verdict(item: &Value, posts: usize) -> Result<(), String> {
    match (item["state"].as_str().unwrap_or_default(), posts) {
        (state, 2..) => Err(format!("published {posts} times, and it is {state}: {item:#}")),
        ("succeeded" | "outcome_unknown", 1) | ("outcome_unknown" | "failed" | "canceled", 0) => Ok(()),
        ("succeeded", 0) => Err(format!("succeeded without a post: {item:#}")),
        (state, posts) => Err(format!("{state} with {posts} posts: {item:#}")),
    }
}

pub async fn item(daemon: &Daemon, id: &str) -> Value {
    let answer = daemon.get(&format!("/api/v1/items/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// Kinds and details of what the item went through, oldest first.
pub async fn history(daemon: &Daemon, item: &Value) -> Vec<(String, String)> {
    let path = format!("/api/v1/tasks/{}/events?limit=1000", item["task_id"].as_str().unwrap());
    let mut events = daemon.get(&path).await.body["events"].as_array().unwrap().clone();
    events.retain(|event| event["item"] == item["id"]);
    events.sort_by_key(|event| event["number"].as_u64());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| (text(&event["kind"]), text(&event["detail"]))).collect()
}

/// The findings of its verifies so far.
pub async fn findings(daemon: &Daemon, item: &Value) -> Vec<String> {
    let history = history(daemon, item).await;
    history.into_iter().filter(|(kind, _)| kind == "verified").map(|(_, detail)| detail).collect()
}

/// Waits until nothing moves the item any more by itself: it ended, or it is unknown and was looked at once.
pub async fn settled(daemon: &Daemon, id: &str) -> Value {
    let began = Instant::now();
    let first = item(daemon, id).await;
    loop {
        // Asked in this order: a look that ends in between has changed the item that is read after it.
        let history = history(daemon, &first).await;
        let now = item(daemon, id).await;
        let looked = history.iter().any(|(kind, _)| kind == "verified");
        match now["state"].as_str().unwrap() {
            "succeeded" | "failed" | "canceled" => return now,
            "outcome_unknown" if looked => return now,
            _ => {}
        }
        assert!(began.elapsed() < PATIENCE, "{now:#}\n{history:#?}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for a state.
pub async fn until(daemon: &Daemon, id: &str, state: &str) -> Value {
    let began = Instant::now();
    loop {
        let item = item(daemon, id).await;
        if item["state"] == state {
            return item;
        }
        assert!(began.elapsed() < PATIENCE, "not {state}: {item:#}\n{}", daemon.logged());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How an item came to its end after a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Without ever being unknown.
    Straight,
    /// A verify found it.
    Verified,
    /// A person said that it is out there.
    SaidPublished,
    /// A person said that it is not, and it was published then.
    SaidNotPublished,
}

/// Brings an item to its end and judges it: automatic answers must be right, and what is left is settled by what the
/// site knows.
pub async fn judge(daemon: &Daemon, practice: &PracticeSite, id: &str) -> Way {
    let item = settled(daemon, id).await;
    let posts = posts(practice, &item).len();
    let fail = |why: String| panic!("{why}\n{}", daemon.logged());
    verdict(&item, posts).unwrap_or_else(fail);
    let found = findings(daemon, &item).await;
    let state = item["state"].as_str().unwrap();
    assert_ne!(state, "failed", "one kill fails nothing: {item:#}\n{}", daemon.logged());
    if state == "succeeded" {
        return if found.iter().any(|finding| finding == "found") { Way::Verified } else { Way::Straight };
    }
    for finding in &found {
        let right = if posts == 0 { finding != "found" } else { finding.starts_with("inconclusive") };
        assert!(right, "the verify said {finding}, and the site has {posts}: {item:#}\n{}", daemon.logged());
    }
    let outcome = if posts == 1 { "published" } else { "not_published" };
    let resolved = daemon.post(&format!("/api/v1/items/{id}/resolve"), &json!({"outcome": outcome})).await;
    assert_eq!(resolved.status, 200, "{}", resolved.body);
    let item = settled(daemon, id).await;
    assert_eq!(item["state"], "succeeded", "{item:#}\n{}", daemon.logged());
    verdict(&item, self::posts(practice, &item).len()).unwrap_or_else(fail);
    if posts == 1 { Way::SaidPublished } else { Way::SaidNotPublished }
}
