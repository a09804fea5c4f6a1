//! Following a task to its end: a bar on a terminal, a line for each change otherwise.
//!
//! Everybody on the unix socket shares one limit of requests, so that [`Pace`] keeps a follower far below
//! the default one, and a limit that others used up is waited out. Items are asked for when the counters
//! changed, and once at the end, so that no end of an item stays untold. It ends when nothing will happen
//! by itself any more: also when all that is left waits for a person.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::remote::{Client, RemoteError, encoded};
use super::{exit, render, tell};

/// The first requests go out quickly, since a short task is over soon.
const QUICK_REQUESTS: u32 = 20;
const QUICK_EVERY: Duration = Duration::from_millis(500);
const SLOW_EVERY: Duration = Duration::from_secs(3);
/// The API's most.
const PAGE: usize = 1_000;
/// States after which nothing happens by itself.
const ENDS: [&str; 5] = ["succeeded", "partially_succeeded", "failed", "canceled", "needs_attention"];

/// How often to ask: every request costs its wait, so that a task of many pages is looked at less often.
#[derive(Default)]
pub(super) struct Pace {
    asked: u32,
}

impl Pace {
    pub(super) fn after(&mut self, requests: u32) -> Duration {
        self.asked = self.asked.saturating_add(requests);
        let each = if self.asked <= QUICK_REQUESTS { QUICK_EVERY } else { SLOW_EVERY };
        each * requests
    }
}

fn count(task: &Value, state: &str) -> u64 {
    task["counts"][state].as_u64().unwrap_or_default()
}

/// Items that cannot go on before somebody has looked after their profile.
fn parked(task: &Value) -> u64 {
    task["wait_reasons"]["profile_needs_human"].as_u64().unwrap_or_default()
}

/// Whether nothing will happen by itself any more.
fn is_over(task: &Value) -> bool {
    let waiting = count(task, "queued") + count(task, "retry_wait");
    let ended = waiting == 0 && ENDS.contains(&task["state"].as_str().unwrap_or_default());
    count(task, "running") == 0 && (ended || (waiting > 0 && parked(task) >= waiting))
}

/// The exit code that a task's counters mean; the worst wins.
#[must_use]
pub fn exit_code(task: &Value) -> u8 {
    let count = |state: &str| count(task, state);
    if count("outcome_unknown") > 0 {
        exit::OUTCOME_UNKNOWN
    } else if count("held") > 0 || parked(task) > 0 {
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
    ended.iter().map(|state| count(task, state)).sum()
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
    let (mut seen, mut pace) = (BTreeMap::new(), Pace::default());
    let (mut said, mut counted) = (String::new(), Value::Null);
    loop {
        let task = client.look(&path).await?;
        let mut requests = 1;
        let (line, over) = (line(&task), is_over(&task));
        match &bar {
            Some(bar) => {
                bar.set_length(task["total"].as_u64().unwrap_or_default());
                bar.set_position(done(&task));
                bar.set_message(line);
            }
            None if !quiet && line != said => {
                tell(&line);
                said = line;
            }
            None => {}
        }
        if !quiet && (over || task["counts"] != counted) {
            let (items, pages) = pages(client, &path).await?;
            requests += pages;
            tell_changes(&items, &mut seen, bar.as_ref());
            counted = task["counts"].clone();
        }
        if over {
            if let Some(bar) = bar {
                bar.finish();
            }
            return Ok(task);
        }
        tokio::time::sleep(pace.after(requests)).await;
    }
}

/// All items of a task.
///
/// # Errors
/// When the daemon cannot be asked.
pub async fn items(client: &Client, task: &str) -> Result<Vec<Value>, RemoteError> {
    Ok(pages(client, &format!("/api/v1/tasks/{}", encoded(task))).await?.0)
}

/// All items of the task at this path, and in how many requests they came.
async fn pages(client: &Client, path: &str) -> Result<(Vec<Value>, u32), RemoteError> {
    let (mut items, mut requests, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let answer = client.look(&format!("{path}/items?limit={PAGE}{cursor}")).await?;
        requests += 1;
        items.extend(answer["items"].as_array().into_iter().flatten().cloned());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => return Ok((items, requests)),
        }
    }
}

/// Says of each item that ended how it did, once.
fn tell_changes(items: &[Value], seen: &mut BTreeMap<String, String>, bar: Option<&ProgressBar>) {
    for item in items {
        let (id, state) = (render::text(item, "id"), render::text(item, "state"));
        if seen.insert(id.clone(), state.clone()).as_deref() == Some(state.as_str()) {
            continue;
        }
        let detail = if state == "succeeded" { render::text(item, "url") } else { render::why(item) };
        let line = format!("  {id} {} {state} {detail}", render::text(item, "profile"));
        match (state.as_str(), bar) {
            ("queued" | "running", _) => {}
            (_, Some(bar)) => bar.println(line.trim_end()),
            (_, None) => tell(line.trim_end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Pace, exit, exit_code, is_over, line};

    #[test]
    fn it_is_over_when_nothing_moves_any_more() {
        let over = |state: &str, counts: serde_json::Value| is_over(&json!({"state": state, "counts": counts}));
        assert!(over("succeeded", json!({"succeeded": 2})));
        assert!(over("needs_attention", json!({"outcome_unknown": 1, "succeeded": 1})));
        assert!(!over("needs_attention", json!({"outcome_unknown": 1, "queued": 1})), "the others still go on");
        assert!(!over("running", json!({"running": 1})));
    }

    #[test]
    fn it_is_over_when_all_that_is_left_waits_for_a_person() {
        let task = |running: u64, parked: u64| {
            json!({"state": "queued", "counts": {"queued": 1, "retry_wait": 1, "running": running},
                "wait_reasons": {"profile_needs_human": parked}})
        };
        assert!(is_over(&task(0, 2)));
        assert!(!is_over(&task(0, 1)), "the other item still goes on");
        assert!(!is_over(&task(1, 2)));
        assert_eq!(exit_code(&task(0, 2)), exit::NEEDS_HUMAN);
    }

    #[test]
    fn a_follower_leaves_others_most_of_the_default_limit() {
        let limits = crate::config::Limits::default();
        let window = std::time::Duration::from_secs(limits.window_seconds);
        // A quiet task, one that changes at every look, and one of eleven pages.
        for requests in [1, 2, 11] {
            let (mut pace, mut spent, mut now) = (Pace::default(), 0, std::time::Duration::ZERO);
            while now < window {
                spent += requests;
                now += pace.after(requests);
            }
            assert!(spent * 2 <= limits.requests, "{spent} requests in a window, {requests} a look");
        }
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
