//! The JSON of tasks, items and events, exactly as api.md has it.
//!
//! Pure: what has to be looked up (why an item waits, which inputs are secret) comes in as arguments.
//! Invariant: a secret input is never shown, and where it is not known which are, none is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::evidence;
use crate::model::{InputValue, Item, ItemState, TaskState, Timestamp, WaitReason};
use crate::store::{EventRow, TaskRow};

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
    json["wait_reasons"] = json!(reasons);
    if row.waiting_left_out > 0 {
        json["wait_reasons_left_out"] = json!(row.waiting_left_out);
    }
    json
}

pub fn item(item: &Item, wait: Wait, is_secret: impl Fn(&str) -> bool) -> Value {
    let inputs: Map<String, Value> = item
        .inputs
        .iter()
        .map(|(name, value)| (name.clone(), if is_secret(name) { MASK.into() } else { input(value) }))
        .collect();
    let error = item
        .failure
        .as_ref()
        .map(|failure| json!({"code": failure.code.name(), "message": failure.detail, "help": failure.code.help()}));
    json!({
        "id": item.id,
        "task_id": item.task,
        "index": item.index,
        "profile": item.profile,
        "state": item.state.name(),
        "wait_reason": wait.map(|(reason, _)| reason.name()),
        "wait_until": wait.and_then(|(_, until)| until),
        "attempts": item.attempts,
        "fence": item.fence,
        "key": item.key,
        "inputs": inputs,
        "result": item.result,
        "url": item.url,
        "error": error,
        "evidence": evidence::files(item),
        "created_at": item.created_at,
        "started_at": item.started_at,
        "finished_at": item.finished_at,
    })
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

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::model::{
        Counts, EvidenceFile, Failure, FailureCode, Fence, FileInput, Intent, ItemId, OnUnknown, Place, ProfileId,
        Task, TaskEvent, TaskId,
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
            fence: Some(Fence::new(12)),
            started_at: Some(Timestamp::from_millis(2_000)),
            failure: Some(Failure::new(FailureCode::WaitTimedOut, "no dialog")),
            evidence: vec![evidence(11, 1, "failure.png"), evidence(12, 2, "failure.png"), evidence(12, 2, "a b.png")],
            ..Item::new(ItemId::new(7), TaskId::new(3), ProfileId::new("anna").unwrap(), Timestamp::from_millis(1_000))
        }
    }

    #[test]
    fn an_item_has_exactly_the_shape_of_the_contract() {
        let wait = Some((WaitReason::RetryBackoff, Some(Timestamp::from_millis(9_000))));
        let json = item(&waiting_item(), wait, |name| name == "code");
        let expected = json!({
            "id": "i7", "task_id": "t3", "index": 2, "profile": "anna", "state": "retry_wait",
            "wait_reason": "retry_backoff", "wait_until": "1970-01-01T00:00:09.000Z",
            "attempts": 2, "fence": "f12", "key": "spring-1",
            "inputs": {"caption": "Привет", "code": "***", "count": 5, "ratio": 0.5, "loud": true,
                "video": "/srv/media/1.mp4"},
            "result": {}, "url": null,
            "error": {"code": "wait_timed_out", "message": "no dialog", "help": FailureCode::WaitTimedOut.help()},
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

    #[test]
    fn without_its_flow_every_input_is_masked() {
        let json = item(&waiting_item(), None, |_| true);
        assert!(json["inputs"].as_object().unwrap().values().all(|value| value == "***"));
        assert_eq!((&json["wait_reason"], &json["wait_until"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn a_task_has_all_eight_counters() {
        let mut counts = Counts::default();
        counts.add(ItemState::Queued);
        counts.add(ItemState::Succeeded);
        let task_of = |finished_at| Task {
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
            webhook: None,
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
