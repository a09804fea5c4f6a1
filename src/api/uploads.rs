//! `POST /api/v1/media`: the body is the file.
//!
//! The store's media folder does the work; here are the limits of the request and the answers. Invariant:
//! an upload that is answered 201 is on the disk under its hash; any other leaves nothing.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use super::body::{self, Reply, too_large};
use super::error::{ApiError, Code, FieldError};
use super::front::{Call, check_length, declared_length};
use super::{Context, off_runtime};
use crate::store::media::{PutError, SHA256_PREFIX};

pub async fn upload(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    context.needs_disk()?;
    let max_bytes = context.media.max_bytes();
    check_length(&call.head.headers, max_bytes)?;
    if let Some(bytes) = declared_length(&call.head.headers) {
        let media = context.media.clone();
        let has_room = off_runtime(move || media.has_room_for(bytes)).await?;
        if !has_room.map_err(|error| put_error(PutError::Io(error)))? {
            return Err(put_error(PutError::NoDisk));
        }
    }
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
        PutError::NoDisk => {
            ApiError::new(Code::NoDisk, "Nothing was kept; free space on the disk of the state directory.")
        }
        PutError::Io(error) => ApiError::internal(Code::MediaFailed, format!("the media folder: {error}")),
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
        let failed = code(PutError::Io(std::io::Error::other("x")));
        assert_eq!((failed, failed.status()), (Code::MediaFailed, 507));
    }
}
