//! Snapshots: make one, list them, fetch one, and find out whether it is good.
//!
//! Everything is done by [`Backups`](crate::ops::backup::Backups); a handler asks it. A POST answers when the moment
//! of the snapshot is fixed, with its name; it is listed when it is whole. A verification is waited for, since its
//! result is the answer. Invariant: a name leads to a snapshot in the folder or to nothing.

use std::sync::Arc;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::{self, Reply};
use super::error::{ApiError, Code};
use super::form::Walk;
use super::front::Call;
use super::query::{Listing, Query};
use super::{Context, off_runtime};
use crate::ops::backup::BackupRefused;
use crate::store::snapshot::{Snapshot, SnapshotError, SnapshotReason};

impl From<BackupRefused> for ApiError {
    fn from(refused: BackupRefused) -> Self {
        match refused {
            BackupRefused::Busy => Self::new(Code::SnapshotRunning, refused.to_string()),
            BackupRefused::Unknown => Self::not_found("There is no snapshot of this name."),
            BackupRefused::Stopping | BackupRefused::Failed(SnapshotError::Canceled) => {
                Self::new(Code::Draining, "The daemon stops; send the request again later.")
            }
            BackupRefused::Failed(SnapshotError::Full(what)) => Self::new(Code::NoDisk, what),
            BackupRefused::Failed(SnapshotError::Store(error)) => error.into(),
            BackupRefused::Failed(error @ (SnapshotError::Damaged(_) | SnapshotError::NewerSchema { .. })) => {
                Self::new(Code::SnapshotDamaged, error.to_string())
            }
            BackupRefused::Failed(error @ SnapshotError::Io { .. }) => Self::internal(Code::SnapshotFailed, error),
        }
    }
}

#[must_use]
pub fn snapshot_json(snapshot: &Snapshot) -> Value {
    let manifest = snapshot.manifest.as_ref();
    json!({
        "name": snapshot.name,
        "bytes": snapshot.bytes,
        "created_at": snapshot.created_at,
        "verified": snapshot.is_verified(),
        "verified_at": snapshot.verified_at,
        "sha256": snapshot.sha256,
        "damage": snapshot.damage,
        "reason": manifest.map(|manifest| manifest.reason),
        "schema": manifest.map(|manifest| manifest.schema),
        "media": manifest.map(|manifest| manifest.media),
        "evidence": manifest.map(|manifest| manifest.evidence),
    })
}

pub async fn create(context: Arc<Context>, _: Call) -> Result<Response<Reply>, ApiError> {
    context.needs_disk()?;
    let name = context.backups()?.make(SnapshotReason::Asked).await?;
    Ok(body::json(StatusCode::ACCEPTED, &json!({"name": name})))
}

/// Those of one page, and where the next one begins. Snapshots of one moment stay together.
fn page(all: &[Snapshot], before: Option<u64>, limit: usize) -> (&[Snapshot], Option<u64>) {
    let begin = before.map_or(0, |before| all.partition_point(|one| one.created_at.as_millis() >= before));
    let left = &all[begin..];
    let Some(last) = limit.checked_sub(1).and_then(|last| left.get(last)) else { return (left, None) };
    let end = left.partition_point(|one| one.created_at >= last.created_at);
    (&left[..end], (end < left.len()).then(|| last.created_at.as_millis()))
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["cursor", "limit"], &mut walk);
    let (cursor, limit) = (query.cursor(Listing::Snapshots, &mut walk), query.limit(&mut walk));
    walk.finish()?;
    let backups = context.backups()?.clone();
    let listed = off_runtime(move || backups.list()).await?;
    let (all, making) = listed.map_err(|error| ApiError::internal(Code::SnapshotFailed, error))?;
    let (shown, next) = page(&all, cursor, limit);
    let shown: Vec<_> = shown.iter().map(snapshot_json).collect();
    let next_cursor = Listing::Snapshots.cursor(next);
    Ok(body::json(StatusCode::OK, &json!({"snapshots": shown, "next_cursor": next_cursor, "making": making})))
}

pub async fn download(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let (backups, name) = (context.backups()?.clone(), call.params.get("name").to_owned());
    let asked = name.clone();
    let opened = off_runtime(move || backups.open(&asked)).await?;
    let opened = opened.map_err(|error| ApiError::internal(Code::SnapshotFailed, error))?;
    let (file, bytes) = opened.ok_or_else(|| ApiError::not_found("There is no snapshot of this name."))?;
    let mut response = Response::new(body::file(tokio::fs::File::from_std(file), bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::CONTENT_LENGTH, bytes.into());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A name that opens a snapshot is letters, digits, dots, dashes.
    if let Ok(as_file) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(header::CONTENT_DISPOSITION, as_file);
    }
    Ok(response)
}

pub async fn verify(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let verified = context.backups()?.verify(call.params.get("name").to_owned()).await?;
    match &verified.damage {
        None => Ok(body::json(StatusCode::OK, &snapshot_json(&verified))),
        Some(damage) => Err(ApiError::new(Code::SnapshotDamaged, damage.clone())
            .with_member("verified", false)
            .with_member("name", verified.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, page};
    use crate::model::Timestamp;

    fn at(millis: u64) -> Snapshot {
        Snapshot {
            name: format!("{millis}.snapshot"),
            bytes: 1,
            created_at: Timestamp::from_millis(millis),
            sha256: None,
            verified_at: None,
            damage: None,
            manifest: None,
        }
    }

    #[test]
    fn pages_follow_each_other_and_leave_none_out() {
        let all: Vec<_> = [9, 8, 7, 7, 7, 6].into_iter().map(at).collect();
        for limit in 1..8 {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let (shown, next) = page(&all, cursor, limit);
                seen.extend_from_slice(shown);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{limit}");
        }
        assert_eq!(page(&[], None, 3), (&[][..], None));
    }
}
