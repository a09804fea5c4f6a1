//! What a person asks of tasks, items and profiles: cancel, pause, resume, retry, resolve, unpark.
//!
//! Handlers write intent and ring the engine, which carries it out; a resolution and a retry are written
//! whole, since they move only what the engine does not touch. Invariant: what was ever armed is queued
//! again by nothing here but a person's `not_published` (fence.md rule 14).

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::{Walk, optional};
use super::front::Call;
use super::profiles::{current_json, find as find_profile, no_body};
use super::tasks::{Viewer, find_item, no_task, parse_task_id};
use crate::model::{Resolution, TaskId};
use crate::store::{Ask, ResolveRefused};

/// Skipped items that an answer names.
const MAX_SKIPPED_SHOWN: usize = 1_000;
const MAX_NOTE_BYTES: usize = 2_000;

pub async fn cancel(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    ask(&context, parse_task_id(call.params.get("id"))?, Ask::Cancel).await
}

pub async fn pause(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    ask(&context, parse_task_id(call.params.get("id"))?, Ask::Pause).await
}

pub async fn resume(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    ask(&context, parse_task_id(call.params.get("id"))?, Ask::Resume).await
}

/// Intent only: it counts from now on, and what runs is told by the engine.
async fn ask(context: &Context, id: TaskId, ask: Ask) -> Result<Response<Reply>, ApiError> {
    if !context.store.ask(id, ask, context.clock.now()).await? {
        return Err(no_task());
    }
    context.engine.ring();
    Ok(body::json(StatusCode::ACCEPTED, &task_json(context, id).await?))
}

async fn task_json(context: &Context, id: TaskId) -> Result<Value, ApiError> {
    let row = context.store.task(id).await?.ok_or_else(no_task)?;
    Ok(Viewer::new(context).await?.task(&row))
}

/// Failed items once more; those that may have published are named and left alone.
pub async fn retry(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let id = parse_task_id(call.params.get("id"))?;
    let (mut retried, mut skipped, mut left_out) = (0, Vec::new(), 0_usize);
    let mut from = Some(0);
    while let Some(first) = from {
        let step = context.store.retry(id, first, context.clock.now()).await?.ok_or_else(no_task)?;
        retried += step.retried;
        for (item, reason) in step.skipped {
            if skipped.len() < MAX_SKIPPED_SHOWN {
                skipped.push(json!({"item_id": item, "reason": reason.name()}));
            } else {
                left_out += 1;
            }
        }
        from = step.next;
    }
    context.engine.ring();
    let mut json = task_json(&context, id).await?;
    json["retried"] = json!(retried);
    json["skipped"] = json!(skipped);
    if left_out > 0 {
        json["skipped_left_out"] = json!(left_out);
    }
    Ok(body::json(StatusCode::ACCEPTED, &json))
}

pub struct Resolve {
    resolution: Resolution,
    url: Option<String>,
    note: String,
}

pub fn read_resolve(body: &Value) -> Result<Resolve, ApiError> {
    let mut walk = Walk::default();
    let names = Resolution::ALL.map(Resolution::name).join("`, `");
    let mut read = Resolve { resolution: Resolution::GiveUp, url: None, note: String::new() };
    if let Some(fields) = walk.object(body, "", &["outcome", "url", "note"]) {
        if let Some(value) = walk.required(fields, "", "outcome") {
            match value.as_str().and_then(Resolution::parse) {
                Some(resolution) => read.resolution = resolution,
                None => walk.wrong(Code::InvalidField, "/outcome", format!("Expected one of `{names}`.")),
            }
        }
        read.url = walk.web_address(fields, "", "url");
        if read.resolution != Resolution::Published && optional(fields, "url").is_some() {
            walk.wrong(Code::InvalidField, "/url", "A `url` goes with the outcome `published`.");
        }
        if let Some(note) = optional(fields, "note").and_then(|value| walk.string(value, "/note")) {
            if note.len() > MAX_NOTE_BYTES {
                walk.wrong(Code::InvalidField, "/note", format!("A note has at most {MAX_NOTE_BYTES} bytes."));
            }
            note.clone_into(&mut read.note);
        }
    }
    walk.finish().map(|()| read)
}

/// Settles an unknown outcome. A verify that runs for it is stopped; its profile stays locked until the
/// browser is dead, so that nothing of the item starts before.
pub async fn resolve(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    let params = std::mem::take(&mut call.params);
    let asked = read_resolve(&call.json(&context).await?.ok_or_else(no_body)?)?;
    let id = find_item(&context, params.get("id")).await?.id;
    let Resolve { resolution, url, note } = asked;
    let item = match context.store.resolve(id, resolution, url, note, context.clock.now()).await {
        Ok(item) => item,
        Err(ResolveRefused::Store(error)) => return Err(error.into()),
        Err(ResolveRefused::NotFound) => return Err(ApiError::not_found("There is no item with this id.")),
        Err(ResolveRefused::NotUnknown(state)) => {
            let detail = format!("The item is {state}; only an outcome_unknown can be resolved.");
            return Err(ApiError::new(Code::NotUnknown, detail).with_member("state", state.name()));
        }
    };
    context.engine.resolved(id).await;
    context.engine.ring();
    Ok(body::json(StatusCode::OK, &Viewer::new(&context).await?.item(&item).await?))
}

/// A person has done what the site asked for; what waits in the profile goes on.
pub async fn unpark(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let found = find_profile(&context, call.params.get("id")).await?;
    let gone = || ApiError::not_found("There is no such profile.");
    let profile = context.store.unpark(found.id).await?.ok_or_else(gone)?;
    context.engine.ring();
    Ok(body::json(StatusCode::OK, &current_json(&context, call.caller, &profile).await?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Code, Resolution, read_resolve};

    #[test]
    fn a_resolution_is_read_strictly() {
        let read = read_resolve(&json!({"outcome": "published", "url": "https://x/p/1", "note": "seen"})).unwrap();
        assert_eq!(read.resolution, Resolution::Published);
        assert_eq!((read.url.as_deref(), read.note.as_str()), (Some("https://x/p/1"), "seen"));
        assert!(read_resolve(&json!({"outcome": "not_published"})).is_ok());
        for wrong in [
            json!({}),
            json!({"outcome": "yes"}),
            json!({"outcome": "give_up", "url": "https://x"}),
            json!({"outcome": "published", "url": "javascript:alert(1)"}),
            json!({"outcome": "published", "note": "x".repeat(2_001)}),
            json!({"outcome": "published", "by": "me"}),
            json!([]),
        ] {
            assert_eq!(read_resolve(&wrong).err().map(|error| error.code().status()), Some(422), "{wrong}");
        }
        let unknown = read_resolve(&json!({"outcome": "published", "by": "me"})).err().unwrap();
        assert_eq!(unknown.code(), Code::UnknownField);
    }
}
