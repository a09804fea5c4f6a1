//! The engine as a whole: pause and resume.
//!
//! A person's intent, written into the store; the engine reads it at its next look. A pause that a restore
//! or a damaged ledger made is left only with `accept_duplicates` where nothing says what went out since
//! (fence.md rule 19).

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::Context;
use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use crate::store::ResumeRefused;

pub async fn pause(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    context.store.pause(context.clock.now()).await?;
    context.engine.ring();
    Ok(body::json(StatusCode::ACCEPTED, &json!({"state": "paused"})))
}

pub fn read_accept_duplicates(body: Option<&Value>) -> Result<bool, ApiError> {
    let mut walk = Walk::default();
    let fields = body.and_then(|body| walk.object(body, "", &["accept_duplicates"]));
    let accept = fields.and_then(|fields| walk.boolean(fields, "", "accept_duplicates"));
    walk.finish().map(|()| accept.unwrap_or_default())
}

pub async fn resume(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let accept_duplicates = read_accept_duplicates(call.json(&context).await?.as_ref())?;
    match context.store.resume(accept_duplicates, context.clock.now()).await {
        Ok(()) => {
            context.engine.ring();
            Ok(body::json(StatusCode::ACCEPTED, &json!({"state": "running"})))
        }
        Err(ResumeRefused::Store(error)) => Err(error.into()),
        Err(refused) => Err(ApiError::new(Code::ResumeRefused, refused.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read_accept_duplicates;

    #[test]
    fn duplicates_are_accepted_only_in_so_many_words() {
        assert!(!read_accept_duplicates(None).unwrap());
        assert!(!read_accept_duplicates(Some(&json!({}))).unwrap());
        assert!(read_accept_duplicates(Some(&json!({"accept_duplicates": true}))).unwrap());
        for wrong in [json!({"accept_duplicates": "yes"}), json!({"accept": true}), json!([])] {
            assert!(read_accept_duplicates(Some(&wrong)).is_err(), "{wrong}");
        }
    }
}
