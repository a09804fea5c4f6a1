//! `POST /api/v1/bulk-upload/start`: from a body to a task that is on the disk.
//!
//! The handler reads the form ([`request`]), looks up the flow, the profiles and the files ([`files`]),
//! and hands one [`NewTask`] to the store, which decides in its transaction. Invariants: whatever is
//! wrong is told at once and nothing of the request is kept; an idempotent replay is answered before
//! anything is looked up (its files may be gone by now) and spends nothing; the engine's bell rings only
//! after the commit.

mod files;
pub mod request;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::{self, Reply, is_json};
use super::error::{ApiError, Code, FieldError};
use super::flows::find as find_named;
use super::form::{Walk, pointer};
use super::front::{Call, SpendsNothing};
use super::json::parse_json;
use super::profiles::{Directory, no_body};
use super::routes::Route;
use super::{Context, sized};
use crate::model::flow::{Flow, RawInput};
use crate::model::{InputValue, OnUnknown, ProfileId, TaskState};
use crate::store::{EnqueueError, Enqueued, FlowInfo, Idempotency, NewItem, NewTask};
use request::{Bounds, KEY_BYTES, Request};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The state of a task that is gone together with what it was.
pub const PRUNED: &str = "pruned";
const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");
/// Scope of every Idempotency-Key while there are no tokens.
const LOCAL_SCOPE: &str = "local";
const REHEARSAL: &str = "/api/v1/flows/{name}/run";
/// No body has it: a key that is known conflicts with it.
const NO_BODY_HASH: [u8; 32] = [0; 32];
/// How often a request is checked again because its flow was replaced meanwhile.
const FLOW_CHANGES: usize = 3;
/// What an input counts for at least, where it is told how much there is to do.
const INPUT_BYTES: usize = 64;
/// Submits that look things up at a time: more than the readers of the store would only stand in their line.
pub const AT_A_TIME: usize = 4;

/// `HEAD`: only the headers that the front puts on every answer.
pub async fn limits(_: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    Ok(body::empty(StatusCode::OK))
}

pub async fn start(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    submit(context, call, None).await
}

/// The same body without its flow, which the path names: every step before the commit point.
pub async fn rehearse(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let flow = call.params.get("name").to_owned();
    submit(context, call, Some(flow)).await
}

/// What the same request was answered before, for one that the rate limit refuses. A key that nobody knows costs one
/// look, and its body is not read. None: the limit's refusal is the answer, whatever else is wrong.
pub async fn replay(context: &Context, route: &Route, call: Call) -> Option<Response<Reply>> {
    if !route.is_order() {
        return None;
    }
    let key = idempotency_key(&call.head.headers).ok()??;
    let rehearsed = (route.path == REHEARSAL).then(|| call.params.get("name").to_owned());
    let mut idempotency = Idempotency { scope: key_scope(&call), key, body_hash: NO_BODY_HASH };
    let looked = context.store.find_replay(idempotency.clone()).await;
    if !matches!(looked, Err(EnqueueError::IdempotencyConflict { .. })) || !is_json(&call.head.headers) {
        return None;
    }
    let body = call.bytes(context).await.ok()?;
    idempotency.body_hash = sized(body.len(), move || body_hash(&body, rehearsed.as_deref())).await.ok()?;
    let enqueued = context.store.find_replay(idempotency).await.ok()??;
    Some(accepted(&enqueued))
}

/// Whose keys these are.
fn key_scope(call: &Call) -> String {
    call.caller.token.map_or_else(|| LOCAL_SCOPE.to_owned(), |token| token.to_string())
}

/// `rehearsed`: the flow of a rehearsal.
async fn submit(context: Arc<Context>, call: Call, rehearsed: Option<String>) -> Result<Response<Reply>, ApiError> {
    if context.engine.view().draining {
        return Err(draining());
    }
    let key = idempotency_key(&call.head.headers)?;
    let scope = key_scope(&call);
    let bytes = call.bytes(&context).await?;
    if bytes.is_empty() {
        return Err(no_body());
    }
    let idempotency = match key {
        Some(key) => {
            let body = bytes.clone();
            let rehearsed = rehearsed.clone();
            let body_hash = sized(body.len(), move || body_hash(&body, rehearsed.as_deref())).await?;
            Some(Idempotency { scope, key, body_hash })
        }
        None => None,
    };
    if let Some(idempotency) = &idempotency {
        let replay = context.store.find_replay(idempotency.clone()).await;
        if let Some(enqueued) = replay.map_err(|error| refused(error, None))? {
            return Ok(accepted(&enqueued));
        }
    }
    context.needs_disk()?;
    let rehearsal = rehearsed.is_some();
    if let Some(flow) = &rehearsed {
        find_named(&context, flow).await?;
    }
    let size = bytes.len();
    let (request, mut walk) = read(&context, bytes, rehearsed, idempotency.as_ref()).await?;
    for _ in 0..FLOW_CHANGES {
        let submitted = Submitted { request: &request, size, rehearsal, idempotency: idempotency.clone() };
        let new = prepare(&context, submitted, walk).await?;
        match context.store.enqueue(new, context.clock.now()).await {
            Ok(enqueued) => {
                if !enqueued.replayed {
                    context.engine.ring();
                }
                return Ok(accepted(&enqueued));
            }
            Err(EnqueueError::FlowChanged) => walk = Walk::default(),
            Err(error) => return Err(refused(error, Some(&request))),
        }
    }
    Err(refused(EnqueueError::FlowChanged, Some(&request)))
}

fn draining() -> ApiError {
    ApiError::new(Code::Draining, "The daemon stops; send the request again when it runs.")
}

/// 1 to 255 visible ASCII characters, once.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let visible = |text: &&str| KEY_BYTES.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if let (Some(key), None) = (value.to_str().ok().filter(visible), values.next()) {
        return Ok(Some(key.to_owned()));
    }
    let (least, most) = (KEY_BYTES.start(), KEY_BYTES.end());
    let detail = format!("`Idempotency-Key` is given once and has {least} to {most} visible ASCII characters.");
    Err(ApiError::field(FieldError::new(Code::InvalidField, "Idempotency-Key", detail)))
}

/// A rehearsal is another request than a publication of the same body.
fn body_hash(body: &[u8], rehearsed: Option<&str>) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix(body);
    if let Some(flow) = rehearsed {
        hasher.update(b"\0rehearsal\0");
        hasher.update(flow);
    }
    hasher.finalize().into()
}

async fn read(
    context: &Context,
    bytes: Bytes,
    rehearsed: Option<String>,
    idempotency: Option<&Idempotency>,
) -> Result<(Request, Walk), ApiError> {
    let bounds = Bounds {
        max_items: usize::try_from(context.config.engine.max_items_per_task).unwrap_or(usize::MAX),
        default_max_attempts: context.config.engine.max_attempts,
        idempotency_key: idempotency.map(|idempotency| idempotency.key.clone()),
        now: context.clock.now(),
    };
    sized(bytes.len(), move || {
        let mut body: Value = parse_json(&bytes)?;
        let mut walk = Walk::default();
        if let (Some(fields), Some(flow)) = (body.as_object_mut(), rehearsed)
            && fields.insert("flow".to_owned(), flow.into()).is_some()
        {
            walk.wrong(Code::UnknownField, "/flow", "The path names the flow.");
        }
        Ok((request::read(&body, &bounds, &mut walk), walk))
    })
    .await?
}

/// A request that was read.
struct Submitted<'a> {
    request: &'a Request,
    /// Bytes of its body.
    size: usize,
    rehearsal: bool,
    idempotency: Option<Idempotency>,
}

/// Looks everything up. All that is wrong is told together.
async fn prepare(context: &Context, submitted: Submitted<'_>, mut walk: Walk) -> Result<NewTask, ApiError> {
    let Submitted { request, size, rehearsal, idempotency } = submitted;
    let (profiles, stored) = {
        // For the look alone: whoever has much to read in a body keeps nobody waiting.
        let turn = context.submits.acquire().await;
        let _turn = turn.map_err(|closed| ApiError::internal(Code::Internal, closed))?;
        context.store.profiles_and_flow(request.flow.clone()).await?
    };
    let directory = Directory::of(context, profiles);
    let profiles: Vec<Option<ProfileId>> = request
        .profiles
        .iter()
        .map(|placed| match directory.find(&placed.value) {
            Ok(profile) => Some(profile.id.clone()),
            Err(unfit) => {
                walk.wrong(unfit.code(), &placed.at, unfit.to_string());
                None
            }
        })
        .collect();
    let Some((name, hash, flow)) = find_flow(context, request, stored, &mut walk).await? else {
        return Err(walk
            .finish()
            .err()
            .unwrap_or_else(|| ApiError::internal(Code::Internal, "a start without a flow")));
    };
    if request.on_unknown == OnUnknown::Retry && flow.verify.is_none() {
        let detail = "`retry` needs a flow with a `verify`: without one nobody can tell that it is not there.";
        walk.wrong(Code::InvalidField, "/on_unknown", detail);
    }
    if let Some(detail) = no_rehearsal(&flow).filter(|_| rehearsal) {
        walk.wrong(Code::InvalidField, "/flow", detail);
    }
    // Each of the inputs gets what the flow says of those that it does not give.
    let bytes = size.saturating_add(request.inputs.len().saturating_mul(flow.inputs.len()).saturating_mul(INPUT_BYTES));
    let (raw, walk) = take_inputs(&flow, request, bytes, walk).await?;
    let (inputs, walk) = files::resolve(context, &flow, request, bytes, raw, walk).await?;
    walk.finish()?;
    let item = |row: &request::Row| NewItem {
        profile: profiles[row.profile].clone().expect("a profile that is not found is told above"),
        inputs: inputs[row.inputs].clone(),
        key: row.key.clone(),
        not_before: row.not_before,
        not_after: row.not_after,
    };
    Ok(NewTask {
        flow: name,
        flow_hash: hash,
        priority: request.priority,
        max_attempts: request.max_attempts,
        spacing_seconds: request.spacing_seconds,
        on_unknown: request.on_unknown,
        external: flow.external.clone(),
        verifiable: flow.verify.is_some(),
        rehearsal,
        items: request.rows.iter().map(item).collect(),
        idempotency,
        webhook: request.webhook.clone(),
    })
}

/// Why a rehearsal of this flow could publish.
fn no_rehearsal(flow: &Flow) -> Option<&'static str> {
    if flow.external.is_some() {
        Some("The flow is an outside worker's, which knows no rehearsal.")
    } else if flow.has_commit() {
        None
    } else {
        Some("The flow has no `commit` step: nothing says where a rehearsal has to stop.")
    }
}

/// None: it is told in `walk`.
async fn find_flow(
    context: &Context,
    request: &Request,
    stored: Option<(FlowInfo, Vec<u8>)>,
    walk: &mut Walk,
) -> Result<Option<(String, String, Arc<Flow>)>, ApiError> {
    if request.flow.is_none() {
        return Ok(None);
    }
    let Some((info, json)) = stored else {
        walk.wrong(Code::UnknownFlow, "/flow", "There is no flow of this name; `cove flows add` stores one.");
        return Ok(None);
    };
    match context.parse_flow(&info.hash, json).await? {
        Ok(flow) => Ok(Some((info.name, info.hash, flow))),
        Err(problems) => {
            let detail = format!("The stored flow has {} problems; see its check.", problems.len());
            walk.wrong(Code::FlowInvalid, "/flow", detail);
            Ok(None)
        }
    }
}

type Raw = BTreeMap<String, RawInput>;

/// The inputs as the flow takes them; an empty map where something is wrong with them.
async fn take_inputs(
    flow: &Arc<Flow>,
    request: &Request,
    bytes: usize,
    mut walk: Walk,
) -> Result<(Vec<Raw>, Walk), ApiError> {
    let (flow, inputs) = (Arc::clone(flow), request.inputs.clone());
    sized(bytes, move || {
        let take = |placed: &request::Placed<_>| {
            if walk.is_full() {
                return Raw::new();
            }
            flow.take_inputs(&placed.value).unwrap_or_else(|problems| {
                for problem in problems {
                    walk.wrong(Code::InvalidInput, pointer(&placed.at, &problem.input), problem.message);
                }
                Raw::new()
            })
        };
        let raw = inputs.iter().map(take).collect();
        (raw, walk)
    })
    .await
}

/// Inputs with their files resolved, one map for each of the request's.
type Inputs = Vec<BTreeMap<String, InputValue>>;

fn accepted(enqueued: &Enqueued) -> Response<Reply> {
    let warning = |duplicate: &crate::store::PossibleDuplicate| {
        json!({"code": "possible_duplicate", "index": duplicate.index, "item_id": duplicate.older_item,
            "detail": "The same flow, profile and media were accepted before, and no key says that this is another thing."})
    };
    let mut json = json!({
        "task_id": enqueued.task,
        "state": enqueued.state.map_or(PRUNED, TaskState::name),
        "items": enqueued.items,
        "warnings": enqueued.warnings.iter().map(warning).collect::<Vec<_>>(),
    });
    if enqueued.pruned {
        json["pruned"] = json!(true);
    }
    let mut response = body::json(StatusCode::ACCEPTED, &json);
    if enqueued.replayed {
        response.headers_mut().insert(IDEMPOTENT_REPLAY, HeaderValue::from_static("true"));
        response.extensions_mut().insert(SpendsNothing);
    }
    response
}

/// Why the store did not take the task.
fn refused(error: EnqueueError, request: Option<&Request>) -> ApiError {
    match error {
        EnqueueError::UnknownFlow => {
            ApiError::field(FieldError::new(Code::UnknownFlow, "/flow", "There is no flow of this name."))
        }
        EnqueueError::FlowChanged => {
            ApiError::new(Code::FlowChanged, "The flow was replaced while the request was checked; send it again.")
        }
        EnqueueError::UnknownProfile { index } => {
            let at = place(request, index, |request, row| request.profiles.get(row.profile).map(|p| p.at.clone()));
            ApiError::field(FieldError::new(Code::UnknownProfile, at, "There is no profile with this id or name."))
        }
        EnqueueError::KeyTaken { index, item } => {
            let of_header = |row: &request::Row| row.key_of_header.then(|| "Idempotency-Key".to_owned());
            let row = request.and_then(|request| request.rows.get(usize::try_from(index).ok()?));
            let at = row.and_then(of_header).unwrap_or_else(|| format!("/items/{index}/key"));
            let detail = format!(
                "The key belongs to item {item}, which waits, runs, or may have published; nothing was accepted."
            );
            let mut field = FieldError::new(Code::KeyTaken, at, detail);
            field.item = Some(item.to_string());
            ApiError::field(field).with_member("item_id", item.to_string())
        }
        EnqueueError::IdempotencyConflict { task } => {
            let detail = format!("This Idempotency-Key made task {task} with another body; use a new key.");
            ApiError::new(Code::IdempotencyConflict, detail).with_member("task_id", task.to_string())
        }
        EnqueueError::KnownToTheLedgerAlone => {
            let detail = "The request with this Idempotency-Key was published, at least in part, before the state was restored, and what else it said is not known any more: look at what went out, and send the rest under a new key.";
            ApiError::new(Code::IdempotencyConflict, detail)
        }
        EnqueueError::Store(error) => error.into(),
    }
}

/// Where in the body something about an item stands.
fn place(
    request: Option<&Request>,
    index: u32,
    find: impl FnOnce(&Request, &request::Row) -> Option<String>,
) -> String {
    let row = request.and_then(|request| Some((request, request.rows.get(usize::try_from(index).ok()?)?)));
    row.and_then(|(request, row)| find(request, row)).unwrap_or_else(|| format!("/items/{index}"))
}

#[cfg(test)]
mod tests;
