//! What a start answers, for each thing the store can say.

use hyper::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::api::body::read_reply;
use crate::model::{ItemId, TaskId, TaskState, Timestamp};
use crate::store::{PossibleDuplicate, StoreError};

fn enqueued(replayed: bool) -> Enqueued {
    let warnings = vec![PossibleDuplicate { index: 1, older_item: ItemId::new(4) }];
    Enqueued { task: TaskId::new(3), state: Some(TaskState::Queued), items: 2, replayed, pruned: false, warnings }
}

async fn problem(error: EnqueueError) -> Value {
    let mut walk = Walk::default();
    let bounds = Bounds { max_items: 9, default_max_attempts: 3, idempotency_key: None, now: Timestamp::ZERO };
    let body = json!({"flow": "f", "profiles": ["anna", "ben"], "inputs_list": [{}]});
    let request = request::read(&body, &bounds, &mut walk);
    walk.finish().unwrap();
    let response = refused(error, Some(&request)).into_response("r");
    serde_json::from_slice(&read_reply(response).await).unwrap()
}

#[tokio::test]
async fn a_task_that_is_gone_is_not_called_a_success() {
    let json_of = async |state| {
        let told = Enqueued { state, items: 3, pruned: true, warnings: Vec::new(), ..enqueued(true) };
        let read = read_reply(accepted(&told)).await;
        serde_json::from_slice::<Value>(&read).unwrap()
    };
    let known = json_of(Some(TaskState::Failed)).await;
    assert_eq!((&known["task_id"], &known["state"], &known["items"]), (&json!("t3"), &json!("failed"), &json!(3)));
    assert_eq!((&known["pruned"], &json_of(None).await["state"]), (&json!(true), &json!("pruned")));
}

#[tokio::test]
async fn an_accepted_task_is_202_with_its_warnings() {
    let response = accepted(&enqueued(false));
    assert_eq!(response.status(), 202);
    assert!(!response.headers().contains_key(IDEMPOTENT_REPLAY));
    assert!(response.extensions().get::<SpendsNothing>().is_none());
    let json: Value = serde_json::from_slice(&read_reply(response).await).unwrap();
    assert_eq!([&json["task_id"], &json["state"], &json["items"]], [&json!("t3"), &json!("queued"), &json!(2)]);
    assert_eq!(json["warnings"][0]["code"], "possible_duplicate");
    assert_eq!((&json["warnings"][0]["index"], &json["warnings"][0]["item_id"]), (&json!(1), &json!("i4")));
}

#[test]
fn a_replay_says_so_and_spends_nothing() {
    let response = accepted(&enqueued(true));
    assert_eq!(response.status(), 202);
    assert_eq!(response.headers()[IDEMPOTENT_REPLAY], "true");
    assert!(response.extensions().get::<SpendsNothing>().is_some());
}

#[tokio::test]
async fn what_the_store_refuses_is_told_at_its_place() {
    let taken = problem(EnqueueError::KeyTaken { index: 1, item: ItemId::new(9) }).await;
    assert_eq!((&taken["status"], &taken["code"], &taken["item_id"]), (&json!(409), &json!("key_taken"), &json!("i9")));
    assert_eq!(
        (&taken["errors"][0]["pointer"], &taken["errors"][0]["item_id"]),
        (&json!("/items/1/key"), &json!("i9"))
    );
    let known = problem(EnqueueError::KnownToTheLedgerAlone).await;
    assert_eq!((&known["status"], &known["code"]), (&json!(409), &json!("idempotency_conflict")));
    let conflict = problem(EnqueueError::IdempotencyConflict { task: TaskId::new(3) }).await;
    assert_eq!((&conflict["status"], &conflict["code"]), (&json!(409), &json!("idempotency_conflict")));
    let profile = problem(EnqueueError::UnknownProfile { index: 1 }).await;
    assert_eq!((&profile["status"], &profile["errors"][0]["pointer"]), (&json!(422), &json!("/profiles/1")));
    let flow = problem(EnqueueError::UnknownFlow).await;
    assert_eq!((&flow["code"], &flow["errors"][0]["pointer"]), (&json!("unknown_flow"), &json!("/flow")));
    assert_eq!(problem(EnqueueError::FlowChanged).await["status"], 409);
    assert_eq!(problem(EnqueueError::Store(StoreError::Closed)).await["status"], 503);
}

#[test]
fn an_idempotency_key_is_visible_ascii_and_given_once() {
    let key = |values: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        }
        idempotency_key(&headers)
    };
    assert_eq!(key(&[]).unwrap(), None);
    assert_eq!(key(&[b"spring-2026/1"]).unwrap().as_deref(), Some("spring-2026/1"));
    assert!(key(&[&[b'x'; 255]]).is_ok());
    for bad in [&[b"".as_slice()][..], &[b"a b"], &["é".as_bytes()], &[b"a\tb"], &[&[b'x'; 256]], &[b"a", b"a"]] {
        assert_eq!(key(bad).unwrap_err().code().status(), 422, "{bad:?}");
    }
}
