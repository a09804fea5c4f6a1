//! What tests of the queue stand on: profiles, an external flow, and workers that are a few lines of HTTP.
//!
//! Items of the flow `studio` start when a test claims them and end when it says so, so that every state of the
//! queue can be reached and held without a browser.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::rig::{Answer, Daemon, PATIENCE};

pub const STUDIO: &str = include_str!("../../packaging/examples/studio.json");
/// What no answer may show to anybody but the worker.
pub const SECRET: &str = "open-sesame-7";

/// A claim as a worker holds it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: String,
    pub fence: Value,
    pub body: Value,
}

impl Claimed {
    pub fn item(&self) -> &str {
        self.body["item"]["id"].as_str().unwrap()
    }

    pub fn profile(&self) -> &str {
        self.body["item"]["profile"].as_str().unwrap()
    }

    pub fn media(&self) -> &Value {
        &self.body["item"]["files"]["video"]["sha256"]
    }
}

/// The example's flow with one more input, which is secret.
pub fn recording() -> String {
    let mut recording: Value = serde_json::from_str(STUDIO).unwrap();
    recording["cove"]["inputs"]["code"] = json!({"type": "text", "required": true, "secret": true});
    recording.to_string()
}

pub async fn studio(settings: &str, profiles: &[&str]) -> Daemon {
    let daemon = Daemon::start_with(settings).await;
    daemon.furnish(profiles).await;
    daemon.put_flow("studio", &recording()).await;
    daemon
}

fn item(film: &Path, profile: &str, caption: &str) -> Value {
    json!({"profile": profile, "inputs": {"site": "http://127.0.0.1:9", "account": profile, "video": film,
        "caption": caption, "code": SECRET}})
}

impl Daemon {
    /// One task of the flow `studio` with an item a profile named; `more` are further fields of the request.
    pub async fn order(&self, profiles: &[&str], more: &Value) -> String {
        let film = self.folder.path().join("media/studio.mp4");
        // Once: a file that is written anew is another one.
        if !film.exists() {
            self.film("studio.mp4");
        }
        let items: Vec<Value> =
            (0..).zip(profiles).map(|(number, profile)| item(&film, profile, &format!("film {number}"))).collect();
        let mut body = json!({"flow": "studio", "items": items});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let made = self.post("/api/v1/bulk-upload/start", &body).await;
        assert_eq!(made.status, 202, "{}", made.body);
        made.body["task_id"].as_str().unwrap().to_owned()
    }

    pub async fn ask_claim(&self, worker: &str, ttl_seconds: u32, wait_seconds: u32) -> Answer {
        let asked =
            json!({"kinds": ["studio"], "owner": worker, "ttl_seconds": ttl_seconds, "wait_seconds": wait_seconds});
        self.post("/api/v1/claims", &asked).await
    }

    /// None: there was nothing.
    pub async fn try_claim(&self, worker: &str) -> Option<Claimed> {
        let answer = self.ask_claim(worker, 300, 0).await;
        if answer.status == 204 {
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        Some(claimed(answer))
    }

    pub async fn claim(&self, worker: &str) -> Claimed {
        self.claim_for(worker, 300).await
    }

    pub async fn claim_for(&self, worker: &str, ttl_seconds: u32) -> Claimed {
        let answer = self.ask_claim(worker, ttl_seconds, 20).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        claimed(answer)
    }

    /// `verb` of a claim, its fence added to `body`.
    pub async fn say(&self, claim: &Claimed, verb: &str, body: Value) -> Answer {
        let mut body = body;
        body["fence"] = claim.fence.clone();
        self.post(&format!("/api/v1/claims/{}/{verb}", claim.id), &body).await
    }

    pub async fn arm(&self, claim: &Claimed) -> Answer {
        self.say(claim, "arm", json!({"media_sha256": claim.media()})).await
    }

    pub async fn item(&self, id: &str) -> Value {
        let answer = self.get(&format!("/api/v1/items/{id}")).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// Waits until an item looks like this.
    pub async fn item_until(&self, id: &str, done: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let item = self.item(id).await;
            if done(&item) {
                return item;
            }
            assert!(began.elapsed() < PATIENCE, "{item:#?}\n{}", self.logged());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

fn claimed(answer: Answer) -> Claimed {
    let id = answer.body["claim_id"].as_str().unwrap().to_owned();
    Claimed { id, fence: answer.body["fence"].clone(), body: answer.body }
}
