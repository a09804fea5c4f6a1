//! `POST /api/v1/media`: the body is the file.
//!
//! The store's media folder does the work; here are the limits of the request and the answers. Invariant:
//! an upload that is answered 201 is on the disk under its hash; any other leaves nothing.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use super::Context;
use super::body::{self, Reply, too_large};
use super::error::{ApiError, Code, FieldError};
use super::front::{Call, check_length};
use crate::store::media::{PutError, SHA256_PREFIX};

pub async fn upload(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let max_bytes = context.media.max_bytes();
    check_length(&call.head.headers, max_bytes)?;
    let stored = context.media.put(call.body.pieces(max_bytes)).await.map_err(put_error)?;
    let json = json!({"media": format!("{SHA256_PREFIX}{}", stored.sha256), "bytes": stored.bytes});
    Ok(body::json(StatusCode::CREATED, &json))
}

fn put_error(error: PutError<ApiError>) -> ApiError {
    match error {
        PutError::Empty => {
            ApiError::field(FieldError::new(Code::MediaEmpty, "", "The body is empty; it has to be the file's bytes."))
        }
        PutError::TooLarge { max } => too_large(max),
        PutError::Body(error) => error,
        PutError::NoDisk => ApiError::new(Code::NoDisk, "Nothing was kept; free space in the state directory."),
        PutError::Io(error) => ApiError::internal(Code::Internal, format!("the media folder: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_answer() {
        let code = |error| put_error(error).code();
        assert_eq!(code(PutError::Empty).status(), 422);
        assert_eq!(code(PutError::TooLarge { max: 1 }), Code::BodyTooLarge);
        assert_eq!(code(PutError::NoDisk).status(), 507);
        assert_eq!(code(PutError::Body(ApiError::new(Code::BodyTimeout, ""))), Code::BodyTimeout);
        assert_eq!(code(PutError::Io(std::io::Error::other("x"))), Code::Internal);
    }
}
