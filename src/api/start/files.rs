//! The files that a start names: resolved, checked against the flow, and asked of the browser's side.
//!
//! Invariants: a name that stands in many inputs is resolved and hashed once; the provider is asked
//! before anything is accepted, but its silence accepts (the start of the attempt checks again), and all
//! its answers together take no longer than [`ASKING_DEADLINE`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};

use super::request::Request;
use super::{Inputs, Raw};
use crate::api::error::{ApiError, Code, FieldError};
use crate::api::form::{Walk, pointer};
use crate::api::{Context, sized};
use crate::browser::Provider;
use crate::model::flow::{Flow, InputSpec, RawInput};
use crate::model::{FailureCode, FileInput, InputValue};
use crate::store::media::{MediaError, SHA256_PREFIX};

/// One answer of the provider.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// All of them.
const ASKING_DEADLINE: Duration = Duration::from_secs(10);
const AT_A_TIME: usize = 8;

/// Turns the raw inputs into values. What is wrong goes to `walk`, at each place that names the file.
/// `bytes`: how much there is.
pub async fn resolve(
    context: &Context,
    flow: &Arc<Flow>,
    request: &Request,
    bytes: usize,
    raw: Vec<Raw>,
    walk: Walk,
) -> Result<(Inputs, Walk), ApiError> {
    let mut names: Vec<String> = raw
        .iter()
        .flat_map(BTreeMap::values)
        .filter_map(|input| if let RawInput::File(name) = input { Some(name.clone()) } else { None })
        .collect();
    names.sort_unstable();
    names.dedup();
    let resolve = |name: String| async move {
        let file = context.media.resolve(&name).await;
        (name, file)
    };
    let files: Files = stream::iter(names).map(resolve).buffer_unordered(AT_A_TIME).collect().await;
    let found = files.values().filter_map(|file| file.as_ref().ok()).map(|file| file.path.clone());
    let unreadable = unreadable(context.provider.as_ref(), found.collect(), ANSWER_DEADLINE).await;
    let (flow, places) = (Arc::clone(flow), request.inputs.iter().map(|placed| placed.at.clone()).collect());
    sized(bytes, move || fill(&flow, raw, places, &files, &unreadable, walk)).await
}

type Files = HashMap<String, Result<FileInput, MediaError>>;

/// `places`: where each of the maps stands.
fn fill(
    flow: &Flow,
    raw: Vec<Raw>,
    places: Vec<String>,
    files: &Files,
    unreadable: &[PathBuf],
    mut walk: Walk,
) -> (Inputs, Walk) {
    let mut inputs = Inputs::with_capacity(raw.len());
    for (map, place) in raw.into_iter().zip(places) {
        let mut values = BTreeMap::new();
        for (input, value) in map {
            let value = match value {
                RawInput::Value(value) => value,
                RawInput::File(name) => {
                    let at = pointer(&place, &input);
                    match judge(&name, &files[&name], flow.inputs.get(&input), unreadable, at) {
                        Ok(file) => InputValue::File(file.clone()),
                        Err(error) => {
                            walk.report(error);
                            continue;
                        }
                    }
                }
            };
            values.insert(input, value);
        }
        inputs.push(values);
    }
    (inputs, walk)
}

/// Whether one input may hold this file.
fn judge<'a>(
    name: &str,
    file: &'a Result<FileInput, MediaError>,
    spec: Option<&InputSpec>,
    unreadable: &[PathBuf],
    at: String,
) -> Result<&'a FileInput, FieldError> {
    let file = match file {
        Ok(file) => file,
        Err(error) => return Err(media_error(error, at)),
    };
    if let Some(max) = spec.and_then(|spec| spec.max_bytes).filter(|max| file.bytes > *max) {
        let detail = format!("The file has {} bytes; the flow takes at most {max} here.", file.bytes);
        return Err(FieldError::new(Code::MediaTooLarge, at, detail));
    }
    let accept = spec.map(|spec| spec.accept.as_slice()).unwrap_or_default();
    // An upload has no name that could tell its type.
    if !name.starts_with(SHA256_PREFIX) && !accepts(accept, &file.path) {
        let detail = format!("The flow takes only {} here.", accept.join(", "));
        return Err(FieldError::new(Code::InvalidMedia, at, detail));
    }
    if unreadable.contains(&file.path) {
        let mut error = FieldError::new(
            Code::MediaUnreadable,
            at,
            "The browser's user cannot read the file, so no site would get it.",
        );
        error.help = Some(FailureCode::MediaUnreadable.help());
        return Err(error);
    }
    Ok(file)
}

fn media_error(error: &MediaError, at: String) -> FieldError {
    let code = match error {
        MediaError::BadName | MediaError::NotRegular | MediaError::Changing | MediaError::Io(_) => Code::InvalidMedia,
        MediaError::NotUploaded | MediaError::Missing => Code::MediaNotFound,
        MediaError::Outside => Code::MediaOutsideRoots,
        MediaError::Empty => Code::MediaEmpty,
        MediaError::TooLarge { .. } => Code::MediaTooLarge,
        MediaError::Unreadable => Code::MediaUnreadable,
    };
    let detail = match error {
        MediaError::Io(inner) => {
            tracing::warn!("a media file could not be read: {inner}");
            "The file could not be read; see the daemon's log.".to_owned()
        }
        told => format!("{told}."),
    };
    FieldError::new(code, at, detail)
}

/// As HTML's `accept`: endings of file names, media types, or `video/*` and the like.
fn accepts(accept: &[String], path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let kind = media_type(&ending);
    let fits = |accepted: &String| {
        let accepted = accepted.trim().to_ascii_lowercase();
        if let Some(wanted) = accepted.strip_prefix('.') {
            return wanted == ending;
        }
        let Some(kind) = kind else { return accepted == "*/*" };
        accepted == "*/*" || accepted == kind || accepted.strip_suffix('*').is_some_and(|group| kind.starts_with(group))
    };
    accept.is_empty() || accept.iter().any(fits)
}

/// The media type of an ending, for those that sites take.
fn media_type(ending: &str) -> Option<&'static str> {
    Some(match ending {
        "mp4" | "m4v" => "video/mp4",
        "mov" | "qt" => "video/quicktime",
        "webm" => "video/webm",
        "mkv" => "video/x-matroska",
        "avi" => "video/x-msvideo",
        "mpg" | "mpeg" => "video/mpeg",
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "heic" => "image/heic",
        "mp3" => "audio/mpeg",
        "m4a" => "audio/mp4",
        "wav" => "audio/wav",
        "txt" => "text/plain",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

/// The files that the provider says its browsers cannot read. After its first silence it is not asked on.
async fn unreadable(provider: &dyn Provider, paths: Vec<PathBuf>, patience: Duration) -> Vec<PathBuf> {
    let silent = AtomicBool::new(false);
    let ask = |path: PathBuf| {
        let silent = &silent;
        async move {
            if silent.load(Ordering::Relaxed) {
                return None;
            }
            match timeout(patience, provider.can_read(&path)).await {
                Ok(Ok(readable)) => (!readable).then_some(path),
                Ok(Err(failure)) => {
                    silent.store(true, Ordering::Relaxed);
                    tracing::info!("media is accepted unasked: {failure}");
                    None
                }
                Err(_) => {
                    silent.store(true, Ordering::Relaxed);
                    tracing::info!("media is accepted unasked: the provider did not answer in time");
                    None
                }
            }
        }
    };
    let answers = stream::iter(paths).map(ask).buffer_unordered(AT_A_TIME).take_until(sleep(ASKING_DEADLINE));
    answers.filter_map(std::future::ready).collect().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::{Session, SessionStats, StartGate, StartOptions};
    use crate::model::flow::InputType;
    use crate::model::{Failure, ProfileId};
    use std::sync::atomic::AtomicUsize;

    #[expect(clippy::unnecessary_wraps, reason = "what the media folder answers")]
    fn file(path: &str) -> Result<FileInput, MediaError> {
        let sha256 = "0".repeat(64);
        Ok(FileInput { path: path.into(), sha256, bytes: 10, device: 1, inode: 1, mtime_ns: 1 })
    }

    fn spec(max_bytes: Option<u64>, accept: &[&str]) -> InputSpec {
        InputSpec {
            kind: InputType::File,
            required: true,
            max_length: None,
            max_bytes,
            accept: accept.iter().map(|text| (*text).to_owned()).collect(),
            default: None,
            secret: false,
        }
    }

    #[test]
    fn a_file_has_to_fit_its_input() {
        let path = PathBuf::from("/srv/1.mp4");
        let judge_with = |name: &str, spec: &InputSpec, unreadable: &[PathBuf]| {
            judge(name, &file("/srv/1.mp4"), Some(spec), unreadable, "/items/0/inputs/video".to_owned())
                .map(|file| file.bytes)
                .map_err(|error| error.code)
        };
        assert_eq!(judge_with("/srv/1.mp4", &spec(Some(10), &["video/*"]), &[]), Ok(10));
        assert_eq!(judge_with("/srv/1.mp4", &spec(Some(9), &[]), &[]), Err(Code::MediaTooLarge));
        assert_eq!(judge_with("/srv/1.mp4", &spec(None, &["image/*"]), &[]), Err(Code::InvalidMedia));
        assert_eq!(judge_with("sha256:..", &spec(None, &["image/*"]), &[]), Ok(10), "an upload has no name");
        let unreadable = judge("/srv/1.mp4", &file("/srv/1.mp4"), None, &[path], "/x".to_owned()).unwrap_err();
        assert_eq!(unreadable.code, Code::MediaUnreadable);
        assert!(unreadable.help.unwrap().contains("cove-media"));
    }

    #[test]
    fn every_reason_of_the_media_folder_has_its_code() {
        let code = |error: MediaError| media_error(&error, String::new()).code.name();
        assert_eq!(code(MediaError::Outside), "media_outside_roots");
        assert_eq!(code(MediaError::Missing), "media_not_found");
        assert_eq!(code(MediaError::NotUploaded), "media_not_found");
        assert_eq!(code(MediaError::Empty), "media_empty");
        assert_eq!(code(MediaError::TooLarge { bytes: 2, max: 1 }), "media_too_large");
        assert_eq!(code(MediaError::Unreadable), "media_unreadable");
        let inner = MediaError::Io(std::io::Error::other("/secret/path"));
        assert!(!media_error(&inner, String::new()).detail.contains("secret"));
    }

    #[test]
    fn accept_is_read_as_html_reads_it() {
        let accepts = |accept: &[&str], path: &str| {
            let accept: Vec<String> = accept.iter().map(|text| (*text).to_owned()).collect();
            accepts(&accept, Path::new(path))
        };
        assert!(accepts(&[], "/a"));
        assert!(accepts(&[".mp4", ".MOV"], "/a.mov"));
        assert!(accepts(&["video/mp4"], "/a.MP4"));
        assert!(accepts(&["image/*", "video/*"], "/a.webm"));
        assert!(accepts(&["*/*"], "/a.unknown"));
        for (accept, path) in [(".mp4", "/a.mov"), ("video/*", "/a.png"), ("video/*", "/mp4"), ("video/mp4", "/a.webm")]
        {
            assert!(!accepts(&[accept], path), "{accept} {path}");
        }
    }

    /// Answers by the file's name.
    #[derive(Default)]
    struct Host {
        asked: AtomicUsize,
    }

    #[async_trait::async_trait]
    impl Provider for Host {
        async fn start_through(&self, _: &ProfileId, _: StartOptions, _: &dyn StartGate) -> Result<Session, Failure> {
            unreachable!("an HTTP handler starts no browser")
        }
        async fn stop(&self, _: &ProfileId) -> Result<(), Failure> {
            unreachable!("an HTTP handler stops no browser")
        }
        async fn running(&self) -> Result<Vec<Session>, Failure> {
            unreachable!("not asked")
        }
        async fn stats(&self, _: &ProfileId) -> Result<Option<SessionStats>, Failure> {
            unreachable!("not asked")
        }
        async fn can_read(&self, path: &Path) -> Result<bool, Failure> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match path.to_str().unwrap() {
                "/hangs" => std::future::pending().await,
                "/down" => Err(Failure::new(FailureCode::ProviderDown, "no host")),
                path => Ok(path != "/closed"),
            }
        }
    }

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[tokio::test]
    async fn only_a_clear_no_refuses_a_file() {
        let (host, patience) = (Host::default(), Duration::from_mins(1));
        assert_eq!(unreadable(&host, paths(&["/open", "/closed"]), patience).await, paths(&["/closed"]));
        assert!(unreadable(&host, paths(&["/down"]), patience).await.is_empty());
    }

    #[tokio::test]
    async fn a_silent_provider_is_not_asked_ten_thousand_times() {
        let (host, patience) = (Host::default(), Duration::from_millis(5));
        assert!(unreadable(&host, vec![PathBuf::from("/hangs"); 10_000], patience).await.is_empty());
        assert_eq!(host.asked.load(Ordering::Relaxed), AT_A_TIME);
    }
}
