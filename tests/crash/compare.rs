//! What is there, against what a client sent and was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{Kind, Sent, recording};
use super::rig::{Daemon, PATIENCE, answer};

/// What is there, against what was sent and answered.
pub async fn compare(daemon: &Daemon, sent: &[Sent]) {
    wait_for_cancels(daemon, sent).await;
    compare_tasks(daemon, sent).await;
    compare_pause(daemon, sent).await;
    compare_flows(daemon, sent).await;
    let listed = daemon.get("/api/v1/profiles").await.body;
    let names: BTreeSet<&str> =
        listed["profiles"].as_array().unwrap().iter().filter_map(|profile| profile["name"].as_str()).collect();
    for one in sent {
        match (&one.kind, &one.answer) {
            (Kind::Profile { name }, Some((201, _))) => assert!(names.contains(name.as_str()), "{name} is lost"),
            (Kind::Upload { content }, Some((201, body))) => {
                let sha256 = body["media"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
                let path = daemon.state().join("media").join(&sha256[..2]).join(&sha256);
                assert_eq!(&std::fs::read_to_string(path).unwrap(), content);
            }
            _ => {}
        }
    }
}

async fn compare_tasks(daemon: &Daemon, sent: &[Sent]) {
    let mut there: BTreeMap<String, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    let mut keys: BTreeMap<String, u32> = BTreeMap::new();
    for item in every_item(daemon).await {
        let caption = item["inputs"]["caption"].as_str().unwrap().to_owned();
        let task = item["task_id"].as_str().unwrap().to_owned();
        let ended = ["failed", "canceled"].contains(&item["state"].as_str().unwrap());
        if let Some(key) = item["key"].as_str().filter(|_| !ended) {
            *keys.entry(key.to_owned()).or_default() += 1;
        }
        there.entry(caption).or_default().entry(task).or_default().push(item);
    }
    let twice: Vec<_> = keys.iter().filter(|(_, holders)| **holders > 1).collect();
    assert!(twice.is_empty(), "keys that two items hold: {twice:?}");
    let canceled: BTreeSet<&str> = sent.iter().filter_map(canceled_task).collect();
    for one in sent {
        let Kind::Submit { caption, items, .. } = &one.kind else { continue };
        let made = there.remove(caption).unwrap_or_default();
        assert!(made.len() <= 1, "{caption} is there {} times", made.len());
        let answered = one.answer.as_ref().filter(|(status, _)| *status == 202);
        if let Some((_, body)) = answered {
            let task = body["task_id"].as_str().unwrap();
            assert!(made.contains_key(task), "{task} ({caption}) had its answer and is lost");
        }
        if matches!(&one.answer, Some((status, _)) if *status != 202) {
            assert!(made.is_empty(), "{caption} was refused and is there");
        }
        for (task, rows) in &made {
            assert_eq!(rows.len(), *items, "{task} is there by halves");
            let may_run = rows.iter().any(|row| ["queued", "retry_wait"].contains(&row["state"].as_str().unwrap()));
            assert!(!canceled.contains(task.as_str()) || !may_run, "{task} was canceled and may still run");
        }
    }
    assert!(there.is_empty(), "nobody sent these: {:?}", there.keys());
}

fn canceled_task(sent: &Sent) -> Option<&str> {
    match (&sent.kind, &sent.answer) {
        (Kind::Cancel { task }, Some((202, _))) => Some(task),
        _ => None,
    }
}

/// The engine carries them out at its next look.
async fn wait_for_cancels(daemon: &Daemon, sent: &[Sent]) {
    let began = Instant::now();
    for task in sent.iter().filter_map(canceled_task).collect::<BTreeSet<_>>() {
        loop {
            let task = daemon.get(&format!("/api/v1/tasks/{task}")).await;
            assert_eq!(task.status, 200, "{}", task.body);
            let counts = &task.body["counts"];
            if ["queued", "retry_wait", "running"].iter().all(|state| counts[*state].as_u64().unwrap_or(0) == 0) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "canceled, and: {}\n{}", task.body, daemon.logged());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn every_item(daemon: &Daemon) -> Vec<Value> {
    let mut items = Vec::new();
    let mut path = "/api/v1/items?limit=1000".to_owned();
    loop {
        let page = daemon.get(&path).await.body;
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/items?limit=1000&cursor={cursor}"),
            None => return items,
        }
    }
}

async fn compare_pause(daemon: &Daemon, sent: &[Sent]) {
    let mut possible = BTreeSet::from(["running"]);
    for one in sent {
        let to = match one.kind {
            Kind::Pause => "paused",
            Kind::Resume => "running",
            _ => continue,
        };
        match &one.answer {
            Some((202, _)) => possible = BTreeSet::from([to]),
            Some(_) => {}
            None => drop(possible.insert(to)),
        }
    }
    let status = daemon.get("/api/v1/status").await.body;
    assert!(possible.contains(status["state"].as_str().unwrap()), "{possible:?}: {status}");
}

async fn compare_flows(daemon: &Daemon, sent: &[Sent]) {
    let mut possible: BTreeMap<&str, BTreeSet<Option<u64>>> = BTreeMap::new();
    for one in sent {
        let (name, is) = match &one.kind {
            Kind::Flow { name, version } => (name.as_str(), Some(*version)),
            Kind::DeleteFlow { name } => (name.as_str(), None),
            _ => continue,
        };
        let entry = possible.entry(name).or_insert_with(|| BTreeSet::from([None]));
        match &one.answer {
            Some((200 | 201 | 204 | 404, _)) => *entry = BTreeSet::from([is]),
            Some(_) => {}
            None => drop(entry.insert(is)),
        }
    }
    for (name, versions) in possible {
        let got = daemon.client.get(format!("{}/api/v1/flows/{name}", daemon.base));
        let found = answer(got).await;
        let fits = versions.iter().any(|version| match version {
            Some(version) => {
                found.status == 200 && found.body == serde_json::from_str::<Value>(&recording(*version)).unwrap()
            }
            None => found.status == 404,
        });
        assert!(fits, "{name}: one of {versions:?} expected, found {} {}", found.status, found.body["title"]);
    }
}
