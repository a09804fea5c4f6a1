//! A client of the daemon: JSON over its unix socket, or over a URL.
//!
//! Every call has a deadline. What the daemon refuses comes back as its own problem document, so that the
//! command line can show each wrong field; what cannot be reached says what was tried.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::Value;

use super::exit;
use crate::outbound;

/// For one call. Submitting hashes files that may be large.
const DEADLINE: Duration = Duration::from_mins(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// A limit is waited out in pieces: never in a busy loop, and never so long that a daemon that was
/// restarted with another limit is not asked again.
const SHORTEST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(
        "no daemon answers at {tried} ({why}). Start it with `cove serve` or `systemctl start cove`, or say where it is with --socket or --url"
    )]
    Unreachable { tried: String, why: String },
    #[error("{}", problem_text(.0))]
    Refused(Value),
    /// Refused for now: the daemon says when to ask again.
    #[error("{}", problem_text(.problem))]
    Limited { problem: Value, after: Duration },
    #[error("the daemon answered what this version does not understand: {0}")]
    Unexpected(String),
}

impl RemoteError {
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Refused(_) | Self::Limited { .. } => exit::REFUSED,
            Self::Unexpected(_) => exit::FAILED,
        }
    }
}

/// A problem document as a person reads it: what, then each wrong field on a line of its own.
fn problem_text(problem: &Value) -> String {
    let text = |name: &str| problem[name].as_str().unwrap_or_default();
    let mut lines = vec![match (text("title"), text("detail")) {
        (title, "") => title.to_owned(),
        (title, detail) => format!("{title}: {detail}"),
    }];
    for error in problem["errors"].as_array().into_iter().flatten() {
        let part = |name: &str| error[name].as_str().unwrap_or_default();
        lines.push(format!("  {}: {}", part("pointer"), part("detail")));
        if !part("help").is_empty() {
            lines.push(format!("    {}", part("help")));
        }
    }
    if !text("request_id").is_empty() {
        lines.push(format!("  (request {})", text("request_id")));
    }
    lines.join("\n")
}

pub struct Client {
    http: reqwest::Client,
    base: String,
    /// For messages.
    tried: String,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn url(base: &str) -> anyhow::Result<Self> {
        // A site of another machine is believed by the certificates that this system trusts.
        let https = base.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
        let http = with_deadlines(if https { outbound::anywhere() } else { outbound::local() }).build()?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { http, tried: base.clone(), base, token: None })
    }

    /// # Errors
    /// When no HTTP client can be made.
    pub fn unix(path: &Path) -> anyhow::Result<Self> {
        let http = with_deadlines(outbound::local()).unix_socket(PathBuf::from(path)).build()?;
        Ok(Self { http, base: "http://localhost".to_owned(), tried: path.display().to_string(), token: None })
    }

    /// Sent as a bearer token with every call.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// # Errors
    /// See [`RemoteError`]; so for every call.
    pub async fn get(&self, path: &str) -> Result<Value, RemoteError> {
        self.send(self.http.get(self.at(path))).await
    }

    /// A GET of somebody who looks again and again, and for whom a limit that is used up is no answer: it
    /// waits as long as the daemon says. The caller's own end (Ctrl-C) is the end of the wait.
    pub async fn look(&self, path: &str) -> Result<Value, RemoteError> {
        loop {
            match self.get(path).await {
                Err(RemoteError::Limited { after, .. }) => {
                    tokio::time::sleep(after.clamp(SHORTEST_WAIT, LONGEST_WAIT)).await;
                }
                answered => return answered,
            }
        }
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, RemoteError> {
        self.send(self.http.post(self.at(path)).json(body)).await
    }

    /// The same with headers of its own.
    pub async fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Value, RemoteError> {
        let request = self.http.post(self.at(path)).json(body);
        self.send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    /// JSON as it stands in a file.
    pub async fn put_bytes(&self, path: &str, body: Vec<u8>) -> Result<Value, RemoteError> {
        let request = self.http.put(self.at(path)).header("content-type", "application/json");
        self.send(request.body(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, RemoteError> {
        self.send(self.http.delete(self.at(path))).await
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, RemoteError> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let unreachable =
            |error: reqwest::Error| RemoteError::Unreachable { tried: self.tried.clone(), why: innermost(&error) };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER).and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        let bytes = answer.bytes().await.map_err(unreachable)?;
        if status.is_success() && bytes.is_empty() {
            return Ok(Value::Null);
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(value) if status.is_success() => Ok(value),
            Ok(problem) if problem["title"].is_string() => Err(match after {
                Some(seconds) if status == StatusCode::TOO_MANY_REQUESTS => {
                    RemoteError::Limited { problem, after: Duration::from_secs(seconds) }
                }
                _ => RemoteError::Refused(problem),
            }),
            _ => {
                let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
                Err(RemoteError::Unexpected(format!("{status} {text}")))
            }
        }
    }
}

fn with_deadlines(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder.timeout(DEADLINE).connect_timeout(CONNECT_DEADLINE)
}

/// reqwest's own words are about itself; the cause is what a person can act on.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// A part of a path.
#[must_use]
pub fn encoded(part: &str) -> String {
    percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::{Client, RemoteError, encoded};

    /// One answer over a unix socket; what was asked comes back.
    async fn answer(status: &str, body: &str) -> (Result<serde_json::Value, RemoteError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let served = async {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = io.read(&mut head).await.unwrap();
            io.write_all(text.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..read]).into_owned()
        };
        let client = Client::unix(&path).unwrap().with_token(Some("secret".to_owned()));
        tokio::join!(client.get("/api/v1/x"), served)
    }

    #[tokio::test]
    async fn answers_and_refusals_come_back_whole() {
        let (value, asked) = answer("200 OK", r#"{"a":1}"#).await;
        assert_eq!(value.unwrap(), json!({"a": 1}));
        let asked = asked.to_ascii_lowercase();
        assert!(asked.contains("host: localhost") && asked.contains("authorization: bearer secret"), "{asked}");
        let problem = json!({"title": "Fields are wrong", "detail": "2 fields", "request_id": "r1", "errors": [
            {"pointer": "/items/0/inputs/video", "detail": "a file is missing", "help": "put it there"}]});
        let (refused, _) = answer("422 Unprocessable", &problem.to_string()).await;
        let error = refused.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Fields are wrong: 2 fields\n  /items/0/inputs/video: a file is missing\n    put it there\n  (request r1)"
        );
        assert_eq!(error.exit_code(), super::exit::REFUSED);
        let (odd, _) = answer("502 Bad", "<html>").await;
        assert!(matches!(odd.unwrap_err(), RemoteError::Unexpected(text) if text.contains("<html>")));
    }

    /// The answers in turn, then nobody listens any more.
    fn serve(path: &std::path::Path, answers: &'static [&'static str]) -> impl Future<Output = ()> {
        let listener = UnixListener::bind(path).unwrap();
        async move {
            for answer in answers {
                let (mut io, _) = listener.accept().await.unwrap();
                assert!(io.read(&mut [0; 4096]).await.unwrap() > 0);
                io.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_limit_is_told_to_who_asks_once_and_waited_out_by_who_looks() {
        const LATER: &str = "HTTP/1.1 429 Too Many\r\nretry-after: 35\r\ncontent-length: 16\r\n\
            connection: close\r\n\r\n{\"title\":\"many\"}";
        const NOW: &str = "HTTP/1.1 429 Too Many\r\nretry-after: 0\r\ncontent-length: 16\r\n\
            connection: close\r\n\r\n{\"title\":\"many\"}";
        const GRANTED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n{\"a\":1}";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let client = Client::unix(&path).unwrap();
        let asked = async {
            let error = client.get("/x").await.unwrap_err();
            assert!(matches!(&error, RemoteError::Limited { after, .. } if after.as_secs() == 35), "{error:?}");
            assert_eq!((error.to_string().as_str(), error.exit_code()), ("many", super::exit::REFUSED));
            client.look("/x").await.unwrap()
        };
        let ((), answer) = tokio::join!(serve(&path, &[LATER, NOW, NOW, GRANTED]), asked);
        assert_eq!(answer, json!({"a": 1}));
    }

    #[tokio::test]
    async fn nobody_there_says_what_was_tried() {
        let error = Client::unix("/nonexistent/cove.sock".as_ref()).unwrap().get("/x").await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/cove.sock (No such file"), "{error}");
        assert_eq!(error.exit_code(), super::exit::UNREACHABLE);
    }

    #[test]
    fn parts_of_paths_are_encoded() {
        assert_eq!(encoded("a b/c"), "a%20b%2Fc");
    }
}
