//! Flows: the recordings that tasks replay, kept by name and checked before they are kept.
//!
//! Invariant: what is stored has passed `Flow::parse`, and is the very bytes that were sent (a task pins
//! their hash). The checks themselves belong to the model.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Reply, full};
use super::error::{ApiError, Code, FieldError};
use super::form::Walk;
use super::front::Call;
use super::json::parse_json;
use super::profiles::no_body;
use super::{Context, off_runtime};
use crate::model::flow::{Flow, MAX_RECORDING_BYTES, Problem, Severity};
use crate::store::{DeleteFlowError, FlowInfo, PutFlow};

const MAX_NAME_BYTES: usize = 64;

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

fn no_flow() -> ApiError {
    ApiError::not_found("There is no flow of this name.")
}

pub async fn find(context: &Context, name: &str) -> Result<(FlowInfo, Vec<u8>), ApiError> {
    if !is_name(name) {
        return Err(no_flow());
    }
    context.store.flow(name.to_owned()).await?.ok_or_else(no_flow)
}

fn info_json(info: &FlowInfo) -> Value {
    json!({"name": info.name, "hash": info.hash, "bytes": info.bytes, "updated_at": info.updated_at})
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    super::query::Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    let flows: Vec<Value> = context.store.flows().await?.iter().map(info_json).collect();
    Ok(body::json(StatusCode::OK, &json!({"flows": flows, "next_cursor": null})))
}

pub async fn show(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (info, json) = find(&context, call.params.get("name")).await?;
    let mut response = Response::new(full(json));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", info.hash)) {
        headers.insert(header::ETAG, tag);
    }
    Ok(response)
}

/// A recording's problems; 400 where it is no JSON at all.
async fn check_recording(json: Bytes) -> Result<Result<Vec<Problem>, Vec<Problem>>, ApiError> {
    off_runtime(move || {
        // One that is too long for a recording is not looked at, be it JSON or not.
        if json.len() <= MAX_RECORDING_BYTES {
            parse_json(&json)?;
        }
        Ok(Flow::parse(&json).map(|(_, warnings)| warnings))
    })
    .await?
}

fn refused(problems: Vec<Problem>) -> ApiError {
    let errors = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
    let field = |problem: Problem| {
        let detail = match problem.step {
            Some(step) => format!("Step {step}: {}", problem.message),
            None => problem.message,
        };
        FieldError::new(Code::FlowInvalid, problem.pointer, detail)
    };
    let fields: Vec<FieldError> = errors.map(field).collect();
    if fields.is_empty() {
        return ApiError::internal(Code::Internal, "a flow was refused without an error");
    }
    ApiError::fields(fields)
}

pub async fn put(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    context.needs_disk()?;
    let params = std::mem::take(&mut call.params);
    let name = params.get("name");
    let json = call.bytes(&context).await?;
    if json.is_empty() {
        return Err(no_body());
    }
    if !is_name(name) {
        let detail = format!("A flow's name has 1 to {MAX_NAME_BYTES} of the characters a-z 0-9 _ -.");
        return Err(ApiError::field(FieldError::new(Code::InvalidField, "name", detail)));
    }
    let warnings = check_recording(json.clone()).await?.map_err(refused)?;
    let hash = Flow::hash(&json);
    let put = context.store.put_flow(name.to_owned(), hash.clone(), json.to_vec(), context.clock.now()).await?;
    let status = if put == PutFlow::Created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(body::json(status, &json!({"name": name, "hash": hash, "warnings": warnings})))
}

pub async fn delete(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let name = call.params.get("name");
    if !is_name(name) {
        return Err(no_flow());
    }
    match context.store.delete_flow(name.to_owned()).await {
        Ok(()) => Ok(body::empty(StatusCode::NO_CONTENT)),
        Err(DeleteFlowError::NotFound) => Err(no_flow()),
        Err(DeleteFlowError::InUse(task)) => {
            let detail = format!("Task {task} uses it and is not finished; cancel it or wait.");
            Err(ApiError::new(Code::FlowInUse, detail).with_member("task_id", task.to_string()))
        }
        Err(DeleteFlowError::Store(error)) => Err(error.into()),
    }
}

/// Checks the recording in the body, or the stored one.
pub async fn check(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    let params = std::mem::take(&mut call.params);
    let name = params.get("name");
    let posted = call.bytes(&context).await?;
    let json = if posted.is_empty() { Bytes::from(find(&context, name).await?.1) } else { posted };
    let (Ok(problems) | Err(problems)) = check_recording(json).await?;
    Ok(body::json(StatusCode::OK, &json!({"problems": problems})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::read_reply;

    #[test]
    fn a_name_is_plain() {
        for good in ["atelier", "a", "up-load_2", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "a b", "a/b", "..", "a.b", "é", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_refused_recording_tells_every_error_and_no_warning() {
        let problem = |severity, step, pointer: &str| Problem {
            severity,
            step,
            pointer: pointer.to_owned(),
            message: "wrong".to_owned(),
        };
        let problems = vec![
            problem(Severity::Error, Some(3), "/steps/3/type"),
            problem(Severity::Warning, None, "/cove"),
            problem(Severity::Error, None, "/cove/inputs/video"),
        ];
        let response = refused(problems).into_response("r");
        assert_eq!(response.status(), 422);
        let json: Value = serde_json::from_slice(&read_reply(response).await).unwrap();
        assert_eq!(json["code"], "flow_invalid");
        let expected = json!([
            {"pointer": "/steps/3/type", "code": "flow_invalid", "detail": "Step 3: wrong"},
            {"pointer": "/cove/inputs/video", "code": "flow_invalid", "detail": "wrong"}]);
        assert_eq!(json["errors"], expected);
    }
}
