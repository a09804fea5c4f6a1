//! Following a task to its end: a bar on a terminal, a line for each change otherwise.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::remote::{Client, RemoteError, encoded};
use super::{exit, render};

/// Over TCP the daemon's own limit is 100 requests a minute.
const LOOK_EVERY: Duration = Duration::from_millis(1_000);
/// States after which nothing happens by itself.
const ENDS: [&str; 5] = ["succeeded", "partially_succeeded", "failed", "canceled", "needs_attention"];

/// Whether nothing will happen by itself any more.
fn is_over(task: &Value) -> bool {
    let moving = ["queued", "running", "retry_wait"];
    let left: u64 = moving.iter().filter_map(|state| task["counts"][*state].as_u64()).sum();
    left == 0 && ENDS.contains(&task["state"].as_str().unwrap_or_default())
}

/// The exit code that a task's counters mean; the worst wins.
#[must_use]
pub fn exit_code(task: &Value) -> u8 {
    let count = |state: &str| task["counts"][state].as_u64().unwrap_or_default();
    if count("outcome_unknown") > 0 {
        exit::OUTCOME_UNKNOWN
    } else if count("held") > 0 {
        exit::NEEDS_HUMAN
    } else if count("failed") > 0 {
        exit::ITEM_FAILED
    } else if count("canceled") > 0 {
        exit::CANCELED
    } else {
        exit::OK
    }
}

fn done(task: &Value) -> u64 {
    let ended = ["succeeded", "failed", "canceled", "outcome_unknown", "held"];
    ended.iter().filter_map(|state| task["counts"][*state].as_u64()).sum()
}

/// What is said of a task while it goes on.
fn line(task: &Value) -> String {
    let reasons = task["wait_reasons"].as_object().into_iter().flatten();
    let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
    let waiting = if reasons.is_empty() { String::new() } else { format!(" (waiting: {})", reasons.join(", ")) };
    format!("{}: {}{waiting}", render::text(task, "state"), render::counts(task))
}

/// Follows until nothing happens by itself any more; the task as it is then.
///
/// # Errors
/// When the daemon cannot be asked.
pub async fn follow(client: &Client, task: &str, quiet: bool) -> Result<Value, RemoteError> {
    let path = format!("/api/v1/tasks/{}", encoded(task));
    let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut items = BTreeMap::new();
    let mut said = String::new();
    let mut counted = Value::Null;
    loop {
        let task = client.get(&path).await?;
        let line = line(&task);
        match &bar {
            Some(bar) => {
                bar.set_length(task["total"].as_u64().unwrap_or_default());
                bar.set_position(done(&task));
                bar.set_message(line);
            }
            None if !quiet && line != said => {
                eprintln!("{line}");
                said = line;
            }
            None => {}
        }
        if !quiet && task["counts"] != counted {
            tell_changes(client, &path, &mut items, bar.as_ref()).await?;
            counted = task["counts"].clone();
        }
        if is_over(&task) {
            if let Some(bar) = bar {
                bar.finish();
            }
            return Ok(task);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Says of each item that ended how it did, once.
async fn tell_changes(
    client: &Client,
    path: &str,
    seen: &mut BTreeMap<String, String>,
    bar: Option<&ProgressBar>,
) -> Result<(), RemoteError> {
    let answer = client.get(&format!("{path}/items?limit=1000")).await?;
    for item in answer["items"].as_array().into_iter().flatten() {
        let (id, state) = (render::text(item, "id"), render::text(item, "state"));
        if seen.insert(id.clone(), state.clone()).as_deref() == Some(state.as_str()) {
            continue;
        }
        let detail = if state == "succeeded" { render::text(item, "url") } else { render::why(item) };
        let line = format!("  {id} {} {state} {detail}", render::text(item, "profile"));
        match (state.as_str(), bar) {
            ("queued" | "running", _) => {}
            (_, Some(bar)) => bar.println(line.trim_end()),
            (_, None) => eprintln!("{}", line.trim_end()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{exit, exit_code, is_over, line};

    #[test]
    fn it_is_over_when_nothing_moves_any_more() {
        let over = |state: &str, counts: serde_json::Value| is_over(&json!({"state": state, "counts": counts}));
        assert!(over("succeeded", json!({"succeeded": 2})));
        assert!(over("needs_attention", json!({"outcome_unknown": 1, "succeeded": 1})));
        assert!(!over("needs_attention", json!({"outcome_unknown": 1, "queued": 1})), "the others still go on");
        assert!(!over("running", json!({"running": 1})));
    }

    #[test]
    fn the_worst_outcome_is_the_exit_code() {
        let code = |counts: serde_json::Value| exit_code(&json!({"counts": counts}));
        assert_eq!(code(json!({"succeeded": 3})), exit::OK);
        assert_eq!(code(json!({"succeeded": 3, "canceled": 1})), exit::CANCELED);
        assert_eq!(code(json!({"failed": 1, "canceled": 1})), exit::ITEM_FAILED);
        assert_eq!(code(json!({"failed": 1, "held": 1})), exit::NEEDS_HUMAN);
        assert_eq!(code(json!({"failed": 1, "outcome_unknown": 1})), exit::OUTCOME_UNKNOWN);
    }

    #[test]
    fn a_line_says_why_it_waits() {
        let task = json!({"state": "queued", "counts": {"queued": 2}, "wait_reasons": {"no_slot": 2}});
        assert_eq!(line(&task), "queued: 2 queued (waiting: 2 no_slot)");
    }
}
