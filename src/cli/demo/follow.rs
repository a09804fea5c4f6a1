//! Follows the demo's task through the API: a bar on a terminal, a line per change elsewhere.
//!
//! It always says why something is not running; what the daemon shows is passed on, not interpreted.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use super::children::Child;
use crate::cli::remote::Client;

const POLL: Duration = Duration::from_millis(300);
/// One call to the daemon or the site.
const CALL: Duration = Duration::from_secs(30);

/// A task as the API shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub state: String,
    pub total: u64,
    pub counts: BTreeMap<String, u64>,
    #[serde(default)]
    pub wait_reasons: BTreeMap<String, u64>,
}

impl Task {
    fn count(&self, state: &str) -> u64 {
        self.counts.get(state).copied().unwrap_or(0)
    }

    /// Nothing more happens without a person.
    fn is_over(&self) -> bool {
        ["queued", "running", "retry_wait"].iter().all(|state| self.count(state) == 0)
    }

    fn ended(&self) -> u64 {
        ["succeeded", "failed", "canceled"].iter().map(|state| self.count(state)).sum()
    }

    /// What is going on, in one line.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        for state in ["succeeded", "running", "queued", "retry_wait", "outcome_unknown", "held", "failed", "canceled"] {
            match self.count(state) {
                0 => {}
                number => parts.push(format!("{number} {state}")),
            }
        }
        let reasons: Vec<String> = self
            .wait_reasons
            .iter()
            .filter(|(_, number)| **number > 0)
            .map(|(reason, number)| format!("{reason} {number}"))
            .collect();
        if !reasons.is_empty() {
            parts.push(format!("waiting for: {}", reasons.join(", ")));
        }
        parts.join(", ")
    }
}

/// An item as the API shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub id: String,
    pub state: String,
    pub wait_reason: Option<String>,
    #[serde(default)]
    pub attempts: u32,
    pub fence: Option<String>,
    #[serde(default)]
    pub inputs: Value,
    pub error: Option<Trouble>,
    #[serde(default)]
    pub evidence: Vec<Evidence>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Trouble {
    pub code: String,
    pub message: String,
    pub help: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    pub attempt: u32,
    pub file: String,
    pub kind: String,
}

impl Item {
    pub fn caption(&self) -> Option<&str> {
        self.inputs.get("caption").and_then(Value::as_str)
    }

    /// Why it is not published, for a person. None: it is.
    pub fn why_not(&self) -> Option<String> {
        if self.state == "succeeded" {
            return None;
        }
        let reason = self.wait_reason.as_ref().map(|reason| format!(" ({reason})"));
        let error = self.error.as_ref().map(|error| {
            let help = error.help.as_ref().map(|help| format!(" {help}")).unwrap_or_default();
            format!(" after {} attempts: {}: {}{help}", self.attempts, error.code, error.message)
        });
        Some(format!("item {} is {}{}{}", self.id, self.state, reason.unwrap_or_default(), error.unwrap_or_default()))
    }
}

#[derive(Deserialize)]
struct Items {
    items: Vec<Item>,
}

/// One call with a deadline, its answer in the shape that is needed.
pub async fn ask<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<T> {
    let answer = bounded(client.get(path)).await.with_context(|| format!("GET {path}"))?;
    serde_json::from_value(answer.clone()).with_context(|| format!("GET {path} answered {answer}"))
}

/// Gives a call its deadline.
pub async fn bounded<T, E>(call: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: Into<anyhow::Error>,
{
    let answer = tokio::time::timeout(CALL, call).await;
    answer.with_context(|| format!("no answer within {} s", CALL.as_secs()))?.map_err(Into::into)
}

pub async fn items(client: &Client, task: &str) -> anyhow::Result<Vec<Item>> {
    Ok(ask::<Items>(client, &format!("/api/v1/tasks/{task}/items")).await?.items)
}

/// Follows until nothing more happens, or `deadline`; answers the task as last seen.
pub async fn follow(client: &Client, task: &str, daemon: &mut Child, deadline: Instant) -> anyhow::Result<Task> {
    let path = format!("/api/v1/tasks/{task}");
    let mut shown = Shown::new();
    loop {
        daemon.check()?;
        let now: Task = ask(client, &path).await?;
        shown.show(&now);
        if now.is_over() || Instant::now() >= deadline {
            shown.finish();
            return Ok(now);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What stands on the terminal, or was printed last.
struct Shown {
    bar: Option<ProgressBar>,
    last: String,
}

impl Shown {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {bar:24.green} {pos}/{len} {spinner} {msg}");
            let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, last: String::new() }
    }

    fn show(&mut self, task: &Task) {
        let line = task.line();
        match &self.bar {
            Some(bar) => {
                bar.set_length(task.total);
                bar.set_position(task.ended());
                bar.set_message(line);
            }
            None if line != self.last => {
                println!("  {}/{}: {line}", task.ended(), task.total);
                self.last = line;
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Item, Task};

    #[test]
    fn a_task_is_over_when_only_people_can_move_it() {
        let task = |counts| -> Task {
            serde_json::from_value(json!({
                "id": "t1", "state": "running", "total": 6, "counts": counts, "wait_reasons": {"no_slot": 2}
            }))
            .unwrap()
        };
        assert!(!task(json!({"succeeded": 5, "retry_wait": 1})).is_over());
        let stuck = task(json!({"succeeded": 4, "outcome_unknown": 1, "failed": 1, "queued": 0}));
        assert!(stuck.is_over());
        assert_eq!(stuck.ended(), 5);
        assert_eq!(stuck.line(), "4 succeeded, 1 outcome_unknown, 1 failed, waiting for: no_slot 2");
    }

    #[test]
    fn an_item_says_why_it_is_not_published() {
        let item = |value| -> Item { serde_json::from_value(value).unwrap() };
        let done =
            item(json!({"id": "i1", "state": "succeeded", "attempts": 1, "inputs": {"caption": "c"}, "error": null}));
        assert_eq!((done.why_not(), done.caption()), (None, Some("c")));
        let stuck = item(json!({
            "id": "i2", "state": "retry_wait", "wait_reason": "retry_backoff", "attempts": 2, "fence": "f9",
            "error": {"code": "element_not_found", "message": "no Share button", "help": "Look at the screenshot."},
            "evidence": [{"attempt": 2, "file": "failure.png", "kind": "screenshot", "bytes": 3, "url": "/x"}]
        }));
        assert_eq!(
            stuck.why_not().unwrap(),
            "item i2 is retry_wait (retry_backoff) after 2 attempts: element_not_found: no Share button Look at the screenshot."
        );
    }
}
