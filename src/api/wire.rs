//! The JSON of tasks, items and events, exactly as api.md has it.
//!
//! Pure: what has to be looked up (why an item waits, which inputs are secret) comes in as arguments.
//! Invariant: a secret input is never shown, and where it is not known which are, none is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::evidence;
use crate::model::{
    Delivery, DeliveryState, InputValue, Item, ItemState, Resolution, TaskState, Timestamp, WaitReason,
};
use crate::store::{EventRow, News, TaskRow};

/// Shown in place of a secret.
const MASK: &str = "***";

pub type Wait = Option<(WaitReason, Option<Timestamp>)>;

/// A task; `reasons` counts why its waiting items wait.
pub fn task(row: &TaskRow, reasons: &BTreeMap<&'static str, u64>) -> Value {
    let task = &row.task;
    let counts: Map<String, Value> =
        ItemState::ALL.into_iter().map(|state| (state.name().to_owned(), task.counts.of(state).into())).collect();
    let state: TaskState = task.counts.state();
    let mut json = json!({
        "id": task.id,
        "flow": task.flow,
        "state": state.name(),
        "counts": counts,
        "total": task.counts.total(),
        "created_at": task.created_at,
    });
    if task.rehearsal {
        json["rehearsal"] = json!(true);
    }
    if let Some(finished) = task.finished_at {
        json["finished_at"] = json!(finished);
    }
    if let Some(asked) = row.intent.cancel_requested_at {
        json["cancel_requested_at"] = json!(asked);
    }
    if let Some(asked) = row.intent.paused_at {
        json["paused_at"] = json!(asked);
    }
    if let Some(webhook) = &task.webhook {
        json["webhook"] = json!({"url": webhook.shown_url()});
    }
    json["wait_reasons"] = json!(reasons);
    if row.waiting_left_out > 0 {
        json["wait_reasons_left_out"] = json!(row.waiting_left_out);
    }
    json
}

/// `more`: what the reason to wait does not say by itself.
pub fn item(item: &Item, wait: Wait, more: Option<&str>, is_secret: impl Fn(&str) -> bool) -> Value {
    let inputs: Map<String, Value> = item
        .inputs
        .iter()
        .map(|(name, value)| (name.clone(), if is_secret(name) { MASK.into() } else { input(value) }))
        .collect();
    // Of the last attempt that ended; while one runs it would read as if that had failed. The log keeps it.
    let failure = item.failure.as_ref().filter(|_| item.state != ItemState::Running);
    let error = failure
        .map(|failure| json!({"code": failure.code.name(), "message": failure.detail, "help": failure.code.help()}));
    json!({
        "id": item.id,
        "task_id": item.task,
        "index": item.index,
        "profile": item.profile,
        "state": item.state.name(),
        "wait_reason": wait.map(|(reason, _)| reason.name()),
        "wait_until": wait.and_then(|(_, until)| until),
        "wait_detail": more,
        "attempts": item.attempts,
        "fence": item.fence,
        "key": item.key,
        "priority": item.priority,
        "not_before": item.not_before,
        "not_after": item.not_after,
        "inputs": inputs,
        "result": item.result,
        "url": item.url,
        "error": error,
        "resolution": resolution(item),
        "evidence": evidence::files(item),
        "created_at": item.created_at,
        "started_at": item.started_at,
        "finished_at": item.finished_at,
    })
}

/// What was said of an unknown outcome, as far as the item itself tells: only a person gives up on one that may have
/// published, and only a resolution clears what was armed. That it was published the store keeps beside it.
fn resolution(item: &Item) -> Option<&'static str> {
    let settled = if item.state == ItemState::Failed && item.may_have_published() {
        Resolution::GiveUp
    } else if item.cleared_fence.is_some() && item.cleared_fence == item.armed_fence {
        Resolution::NotPublished
    } else {
        return None;
    };
    Some(settled.name())
}

fn input(value: &InputValue) -> Value {
    match value {
        InputValue::Text(text) | InputValue::Url(text) => json!(text),
        InputValue::Bool(flag) => json!(flag),
        InputValue::File(file) => json!(file.path.to_string_lossy()),
        // As it was sent: 5, not 5.0. `Display` of a number prints the shortest text that reads back.
        InputValue::Number(number) => serde_json::from_str(&number.to_string()).unwrap_or(Value::Null),
    }
}

pub fn event(row: &EventRow) -> Value {
    let mut json =
        json!({"number": row.number, "at": row.event.at, "kind": row.event.kind, "detail": row.event.detail});
    if let Some(item) = row.event.item {
        json["item"] = json!(item);
    }
    json
}

/// One of the news of the feed: the name of its kind, and what it says.
pub fn news(news: &News) -> (&'static str, Value) {
    match news {
        News::Line { task, row } => {
            let mut json = json!({"task_id": task});
            if let (Value::Object(all), Value::Object(line)) = (&mut json, event(row)) {
                all.extend(line);
            }
            ("task", json)
        }
        News::Engine { at, state } => ("engine", json!({"at": at, "state": state})),
        News::Breaker { at, name, from, to, last_error } => {
            ("breaker", json!({"at": at, "name": name, "from": from, "to": to, "last_error": last_error}))
        }
    }
}

/// A delivery of a webhook; `wait` says why one that waits is not tried now.
pub fn delivery(delivery: &Delivery, wait: Wait) -> Value {
    let last = delivery.last.as_ref();
    let ended = |state| delivery.ended_at.filter(|_| delivery.state == state);
    let waits = (delivery.state == DeliveryState::Pending).then_some(delivery.next_at);
    json!({
        "id": delivery.id,
        "task_id": delivery.task,
        "item": delivery.item,
        "event": delivery.event.name(),
        "state": delivery.state.name(),
        "wait_reason": wait.map(|(reason, _)| reason.name()),
        "attempts": delivery.attempts,
        "next_at": wait.map_or(waits, |(_, until)| until.max(waits)),
        "created_at": delivery.created_at,
        "delivered_at": ended(DeliveryState::Delivered),
        "given_up_at": ended(DeliveryState::GivenUp),
        "last_try_at": last.map(|last| last.at),
        "last_duration_ms": last.map(|last| last.took_ms),
        "last_status": last.and_then(|last| last.status),
        "last_error": last.and_then(|last| last.error.as_deref()),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{
        Counts, EvidenceFile, Failure, FailureCode, Fence, FileInput, Intent, ItemId, OnUnknown, Place, ProfileId,
        Secret, Task, TaskEvent, TaskId, Tried, Webhook,
    };

    /// An item that waits, with an input of every kind.
    pub fn waiting_item() -> Item {
        let file = FileInput {
            path: "/srv/media/1.mp4".into(),
            sha256: "0".repeat(64),
            bytes: 3,
            device: 1,
            inode: 2,
            mtime_ns: 3,
        };
        let inputs = [
            ("caption", InputValue::Text("Привет".to_owned())),
            ("code", InputValue::Text("1234".to_owned())),
            ("count", InputValue::Number(5.0)),
            ("ratio", InputValue::Number(0.5)),
            ("loud", InputValue::Bool(true)),
            ("video", InputValue::File(file)),
        ];
        let evidence = |fence, attempt, file: &str| EvidenceFile {
            fence: Fence::new(fence),
            attempt,
            file: file.to_owned(),
            bytes: 9,
            kind: "screenshot".to_owned(),
        };
        Item {
            index: 2,
            inputs: inputs.map(|(name, value)| (name.to_owned(), value)).into(),
            key: Some("spring-1".to_owned()),
            state: ItemState::RetryWait,
            due_at: Timestamp::from_millis(9_000),
            place: Place::Due,
            attempts: 2,
            not_after: Some(Timestamp::from_millis(10_000)),
            fence: Some(Fence::new(12)),
            started_at: Some(Timestamp::from_millis(2_000)),
            failure: Some(Failure::new(FailureCode::WaitTimedOut, "no dialog")),
            evidence: vec![evidence(11, 1, "failure.png"), evidence(12, 2, "failure.png"), evidence(12, 2, "a b.png")],
            ..Item::new(ItemId::new(7), TaskId::new(3), ProfileId::new("anna").unwrap(), Timestamp::from_millis(1_000))
        }
    }

    #[test]
    fn what_runs_shows_no_error_of_the_try_before() {
        let error = |state| item(&Item { state, ..waiting_item() }, None, None, |_| false)["error"].clone();
        assert_eq!(error(ItemState::Running), Value::Null);
        assert_eq!(error(ItemState::RetryWait)["code"], "wait_timed_out");
    }

    #[test]
    fn what_was_said_of_an_unknown_outcome_is_shown() {
        let fence = Some(Fence::new(12));
        let unknown = Item { state: ItemState::OutcomeUnknown, armed_fence: fence, ..waiting_item() };
        assert_eq!(resolution(&unknown), None);
        assert_eq!(resolution(&Item { state: ItemState::Failed, ..unknown.clone() }), Some("give_up"));
        let cleared = Item { state: ItemState::Queued, cleared_fence: fence, ..unknown };
        assert_eq!(resolution(&cleared), Some("not_published"));
        assert_eq!(resolution(&Item { armed_fence: Some(Fence::new(13)), ..cleared }), None, "armed anew");
        assert_eq!(resolution(&Item { state: ItemState::Failed, ..waiting_item() }), None);
    }

    #[test]
    fn an_item_has_exactly_the_shape_of_the_contract() {
        let wait = Some((WaitReason::RetryBackoff, Some(Timestamp::from_millis(9_000))));
        let json = item(&waiting_item(), wait, Some("more"), |name| name == "code");
        let expected = json!({
            "id": "i7", "task_id": "t3", "index": 2, "profile": "anna", "state": "retry_wait",
            "wait_reason": "retry_backoff", "wait_until": "1970-01-01T00:00:09.000Z",
            "wait_detail": "more", "attempts": 2, "fence": "f12", "key": "spring-1",
            "priority": 0, "not_before": null, "not_after": "1970-01-01T00:00:10.000Z",
            "inputs": {"caption": "Привет", "code": "***", "count": 5, "ratio": 0.5, "loud": true,
                "video": "/srv/media/1.mp4"},
            "result": {}, "url": null,
            "error": {"code": "wait_timed_out", "message": "no dialog", "help": FailureCode::WaitTimedOut.help()},
            "resolution": null,
            "evidence": [
                {"attempt": 1, "file": "failure.png", "bytes": 9, "kind": "screenshot",
                    "url": "/api/v1/items/i7/evidence/failure.png?attempt=1"},
                {"attempt": 2, "file": "failure.png", "bytes": 9, "kind": "screenshot",
                    "url": "/api/v1/items/i7/evidence/failure.png?attempt=2"},
                {"attempt": 2, "file": "a b.png", "bytes": 9, "kind": "screenshot",
                    "url": "/api/v1/items/i7/evidence/a%20b.png"}],
            "created_at": "1970-01-01T00:00:01.000Z", "started_at": "1970-01-01T00:00:02.000Z", "finished_at": null,
        });
        assert_eq!(json, expected);
    }

    /// What a webhook tells of an item is what the API shows of it, less what is not known or not told then.
    #[test]
    fn a_webhook_tells_of_an_item_as_the_api_does() {
        let told = Delivery {
            id: crate::model::DeliveryId::new(9),
            task: TaskId::new(3),
            item: Some(ItemId::new(7)),
            event: crate::model::HookEvent::Failed,
            created_at: Timestamp::ZERO,
            target: "https://host".to_owned(),
            facts: crate::model::Facts::of_item(&waiting_item()),
            state: DeliveryState::Pending,
            attempts: 0,
            next_at: Timestamp::ZERO,
            first_tried_at: None,
            ended_at: None,
            last: None,
        };
        let mut shown = item(&waiting_item(), None, None, |_| true);
        let untold = [
            "wait_reason",
            "wait_until",
            "wait_detail",
            "priority",
            "not_before",
            "not_after",
            "inputs",
            "resolution",
            "evidence",
        ];
        for untold in untold {
            shown.as_object_mut().unwrap().remove(untold).unwrap();
        }
        assert_eq!(told.body()["data"], shown);
    }

    #[test]
    fn a_delivery_shows_why_it_waits_and_how_it_ended() {
        let mut row = Delivery {
            id: crate::model::DeliveryId::new(9),
            task: TaskId::new(3),
            item: Some(ItemId::new(7)),
            event: crate::model::HookEvent::OutcomeUnknown,
            created_at: Timestamp::from_millis(1_000),
            target: "https://host".to_owned(),
            facts: crate::model::Facts::of_item(&waiting_item()),
            state: DeliveryState::Pending,
            attempts: 1,
            next_at: Timestamp::from_millis(5_000),
            first_tried_at: Some(Timestamp::from_millis(2_000)),
            ended_at: None,
            last: Some(Tried::new(Timestamp::from_millis(2_000), 12, Some(500), Some("500".to_owned()))),
        };
        let open = Some((WaitReason::BreakerOpenUntil, Some(Timestamp::from_millis(9_000))));
        let expected = json!({"id": "h9", "task_id": "t3", "item": "i7", "event": "item.outcome_unknown",
            "state": "pending", "wait_reason": "breaker_open_until", "attempts": 1,
            "next_at": "1970-01-01T00:00:09.000Z", "created_at": "1970-01-01T00:00:01.000Z", "delivered_at": null,
            "given_up_at": null, "last_try_at": "1970-01-01T00:00:02.000Z", "last_duration_ms": 12,
            "last_status": 500, "last_error": "500"});
        assert_eq!(delivery(&row, open), expected);
        assert_eq!(delivery(&row, None)["next_at"], "1970-01-01T00:00:05.000Z");
        row.state = DeliveryState::GivenUp;
        row.ended_at = Some(Timestamp::from_millis(3_000));
        let json = delivery(&row, None);
        assert_eq!((&json["given_up_at"], &json["next_at"]), (&json!("1970-01-01T00:00:03.000Z"), &Value::Null));
    }

    #[test]
    fn without_its_flow_every_input_is_masked() {
        let json = item(&waiting_item(), None, None, |_| true);
        assert!(json["inputs"].as_object().unwrap().values().all(|value| value == "***"));
        assert_eq!((&json["wait_reason"], &json["wait_until"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_task_has_all_eight_counters() {
        let mut counts = Counts::default();
        counts.add(ItemState::Queued);
        counts.add(ItemState::Succeeded);
        let task_of = |finished_at: Option<Timestamp>| Task {
            id: TaskId::new(3),
            flow: "atelier".to_owned(),
            flow_hash: "0".repeat(64),
            priority: 0,
            max_attempts: 3,
            spacing_seconds: 0,
            on_unknown: OnUnknown::Hold,
            external: None,
            verifiable: false,
            rehearsal: false,
            idempotency: None,
            webhook: finished_at.and_then(|_| Webhook::new("https://host/x?token=t", Secret::new("s").ok()).ok()),
            created_at: Timestamp::from_millis(1_000),
            counts,
            finished_at,
        };
        let row = TaskRow { task: task_of(None), intent: Intent::default(), waiting: vec![], waiting_left_out: 0 };
        let expected = json!({"id": "t3", "flow": "atelier", "state": "queued",
            "counts": {"queued": 1, "running": 0, "retry_wait": 0, "held": 0, "outcome_unknown": 0, "succeeded": 1,
                "failed": 0, "canceled": 0},
            "total": 2, "created_at": "1970-01-01T00:00:01.000Z", "wait_reasons": {"no_slot": 1}});
        assert_eq!(task(&row, &BTreeMap::from([("no_slot", 1)])), expected);
        let intent = Intent { cancel_requested_at: Some(Timestamp::from_millis(2_000)), paused_at: None };
        let row = TaskRow {
            task: task_of(Some(Timestamp::from_millis(3_000))),
            intent,
            waiting: vec![],
            waiting_left_out: 0,
        };
        let json = task(&row, &BTreeMap::new());
        assert!(json.get("wait_reasons_left_out").is_none());
        assert_eq!(json["finished_at"], "1970-01-01T00:00:03.000Z");
        assert_eq!(json["cancel_requested_at"], "1970-01-01T00:00:02.000Z");
        assert_eq!(json["wait_reasons"], json!({}));
        assert_eq!(json["webhook"], json!({"url": "https://host/x?***"}), "neither the query nor the secret");
    }

    #[test]
    fn an_event_names_its_item_where_it_has_one() {
        let of = |item| {
            let event = TaskEvent { at: Timestamp::ZERO, item, kind: "armed".to_owned(), detail: String::new() };
            super::event(&EventRow { number: 4, event })
        };
        let expected = json!({"number": 4, "at": "1970-01-01T00:00:00.000Z", "kind": "armed", "detail": ""});
        assert_eq!(of(None), expected);
        assert_eq!(of(Some(ItemId::new(7)))["item"], "i7");
    }
}
