//! What an attempt left: the list of an item's files, and one file.
//!
//! Evidence is hostile: pages decide what is in it. Invariants: only a name in the item's own list is
//! ever looked for on the disk, a symlink is not followed, and what is sent is text or a picture that no
//! browser will run (`nosniff`, `Content-Security-Policy: sandbox`).

use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use hyper::Response;
use hyper::header::{self, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::query::Query;
use super::{Context, off_runtime, tasks};
use crate::browser::evidence::path_of;
use crate::model::{EvidenceFile, Fence, Item};

const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The files of an item, each with the URL that leads to it and to no other.
pub fn files(item: &Item) -> Vec<Value> {
    let json = |file: &EvidenceFile| {
        let name = utf8_percent_encode(&file.file, PLAIN);
        let same = |by_attempt: bool| {
            let attempt = |other: &EvidenceFile| !by_attempt || other.attempt == file.attempt;
            item.evidence.iter().filter(|other| other.file == file.file && attempt(other)).count()
        };
        let which = match (same(false), same(true)) {
            (1, _) => String::new(),
            (_, 1) => format!("?attempt={}", file.attempt),
            // An attempt that was not counted has its number again.
            _ => format!("?fence={}", file.fence),
        };
        let url = format!("/api/v1/items/{}/evidence/{name}{which}", item.id);
        json!({"attempt": file.attempt, "file": file.file, "bytes": file.bytes, "kind": file.kind, "url": url})
    };
    item.evidence.iter().map(json).collect()
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let item = tasks::find_item(&context, call.params.get("id")).await?;
    Ok(body::json(hyper::StatusCode::OK, &json!({"files": files(&item)})))
}

/// The last file of this name, or the one that the query picks.
fn pick<'a>(item: &'a Item, name: &str, attempt: Option<u32>, fence: Option<Fence>) -> Option<&'a EvidenceFile> {
    item.evidence
        .iter()
        .filter(|file| file.file == name)
        .filter(|file| attempt.is_none_or(|attempt| file.attempt == attempt))
        .filter(|file| fence.is_none_or(|fence| file.fence == fence))
        .max_by_key(|file| file.fence)
}

/// Never anything that a browser would run.
fn content_type(name: &str) -> &'static str {
    let (_, ending) = name.rsplit_once('.').unwrap_or_default();
    match ending {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        _ => "text/plain; charset=utf-8",
    }
}

pub async fn show(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["attempt", "fence"], &mut walk);
    let attempt = query.parsed("attempt", &mut walk, "a number of an attempt", |text| text.parse().ok());
    let fence = query.parsed("fence", &mut walk, "a fence", |text| text.parse().ok());
    walk.finish()?;
    let item = tasks::find_item(&context, call.params.get("id")).await?;
    let name = call.params.get("file");
    let missing = || ApiError::not_found("The item has no such file.");
    let file = pick(&item, name, attempt, fence).ok_or_else(missing)?;
    // The list is the engine's own, but a name is a path only if it is one part of one.
    if name.contains('/') || name.contains('\0') || name == ".." || name == "." {
        return Err(missing());
    }
    let path = path_of(&context.state_dir, item.id, file);
    let opened: std::io::Result<_> = off_runtime(move || {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).expect("open flags fit an int");
        let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(std::io::ErrorKind::NotFound.into()) }
    })
    .await?;
    let (opened, bytes) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(ApiError::not_found("The file is no longer kept."));
        }
        Err(error) => return Err(ApiError::internal(Code::Internal, format!("evidence of {}: {error}", item.id))),
    };
    let mut response = Response::new(body::file(tokio::fs::File::from_std(opened), bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::tests::waiting_item;

    #[test]
    fn the_last_file_of_a_name_is_taken_unless_the_query_picks_one() {
        let item = waiting_item();
        let fence = |attempt, fence| pick(&item, "failure.png", attempt, fence).map(|file| file.fence.raw());
        assert_eq!(fence(None, None), Some(12));
        assert_eq!(fence(Some(1), None), Some(11));
        assert_eq!(fence(None, Some(Fence::new(11))), Some(11));
        assert_eq!(fence(Some(3), None), None);
        assert!(pick(&item, "../../cove.redb", None, None).is_none());
    }

    #[test]
    fn an_uncounted_attempt_is_told_apart_by_its_fence() {
        let mut item = waiting_item();
        item.evidence[0].attempt = 2;
        let urls: Vec<_> = files(&item).iter().map(|file| file["url"].as_str().unwrap().to_owned()).collect();
        assert!(urls[0].ends_with("failure.png?fence=f11") && urls[1].ends_with("failure.png?fence=f12"), "{urls:?}");
    }

    #[test]
    fn nothing_that_runs_is_sent() {
        assert_eq!(content_type("before.png"), "image/png");
        for name in ["page.html", "x.svg", "trace.jsonl", "png", "a.PNG", ""] {
            assert_eq!(content_type(name), "text/plain; charset=utf-8", "{name}");
        }
    }
}
