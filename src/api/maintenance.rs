//! The maintenance over HTTP: the jobs and how their last runs ended, and a run by hand.
//!
//! Everything is done by [`Maintenance`](crate::ops::maintenance::Maintenance). A run is not waited for: 202 says that the job
//! counts as running, and the list tells how it ended.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::query::Query;
use crate::model::{Job, JobResult};
use crate::ops::maintenance::RunRefused;
use crate::ops::maintenance::plan::JobRow;

fn job_json(row: &JobRow) -> Value {
    let last = row.last.as_ref();
    let failed = last.filter(|last| last.result == JobResult::Failure);
    let seconds = last.map(|last| std::time::Duration::from_millis(last.duration_ms).as_secs_f64());
    json!({
        "name": row.job.name(),
        "schedule": row.schedule,
        "last_run_at": last.map(|last| last.started_at),
        "last_duration_seconds": seconds,
        "last_result": last.map(|last| last.result.name()),
        "last_detail": last.map(|last| &last.detail),
        "last_error": failed.map(|last| &last.detail),
        "next_run_at": row.next_at,
        "running": row.running,
    })
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    let jobs: Vec<Value> = context.maintenance()?.rows().await?.iter().map(job_json).collect();
    Ok(body::json(StatusCode::OK, &json!({"jobs": jobs, "next_cursor": null})))
}

pub async fn run(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let job = Job::from_name(call.params.get("job")).ok_or_else(|| {
        let names = Job::ALL.map(Job::name).join(", ");
        ApiError::not_found(&format!("There is no job of this name; there are {names}."))
    })?;
    match context.maintenance()?.run_now(job).await {
        Ok(row) => Ok(body::json(StatusCode::ACCEPTED, &job_json(&row))),
        Err(refused @ RunRefused::Running) => Err(ApiError::new(Code::JobRunning, refused.to_string())),
        Err(RunRefused::Stopping) => {
            Err(ApiError::new(Code::Draining, "The daemon stops; send the request again later."))
        }
        Err(RunRefused::Store(error)) => Err(error.into()),
    }
}
