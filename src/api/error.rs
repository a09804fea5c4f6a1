//! Every error that the API answers with, in one table, and its shape: `application/problem+json`.
//!
//! Handlers build an [`ApiError`] from a [`Code`]; only this file turns one into an answer. Invariant:
//! no error has a status below 400 (checked when the table is compiled), and what happened inside is
//! logged with the request's id and never shown. Codes are stable: a client may compare them.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::body::{Reply, full};
use crate::store::StoreError;

/// Wrong fields told in one answer; a request can hold ten thousand.
pub const MAX_FIELD_ERRORS: usize = 100;
const DRAINING_RETRY_AFTER_SECONDS: &str = "10";

macro_rules! codes {
    ($($code:ident $text:literal $status:literal $title:literal;)+) => {
        /// A stable name for what went wrong; `snake_case` in JSON.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($code,)+
        }

        $(const _: () = assert!($status >= 400 && $status < 600, "an error is never a success");)+

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $text,)+ }
            }

            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status,)+ }
            }

            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)+ }
            }
        }
    };
}

codes! {
    // The request as such.
    InvalidJson "invalid_json" 400 "The body is not JSON";
    BrokenBody "broken_body" 400 "The body ended early";
    UnexpectedBody "unexpected_body" 400 "A request that reads has no body";
    UnsupportedTransfer "unsupported_transfer_encoding" 400 "The body comes in a coding that cove does not take";
    TokenMissing "token_missing" 401 "A token is needed";
    TokenInvalid "token_invalid" 401 "The token is not known";
    TokenExpired "token_expired" 401 "The token has expired";
    TokenRevoked "token_revoked" 401 "The token was revoked";
    MissingScope "missing_scope" 403 "The token may not do this";
    CrossSite "cross_site" 403 "Requests from other sites are refused";
    NotFound "not_found" 404 "There is nothing here";
    MethodNotAllowed "method_not_allowed" 405 "The path does not know this method";
    BodyTimeout "body_timeout" 408 "The body came too slowly";
    BodyTooLarge "body_too_large" 413 "The body is too large";
    UnsupportedContentType "unsupported_content_type" 415 "The body must be application/json";
    UnsupportedEncoding "unsupported_content_encoding" 415 "The body must not be encoded";
    WrongHost "wrong_host" 421 "The Host header does not name this daemon";
    UpgradeRequired "upgrade_required" 426 "The path wants a WebSocket";
    RateLimited "rate_limited" 429 "Too many requests";
    // Fields of the request.
    InvalidRequest "invalid_request" 422 "Fields of the request are wrong";
    InvalidField "invalid_field" 422 "A field is wrong";
    MissingField "missing_field" 422 "A field is missing";
    UnknownField "unknown_field" 422 "The request has a field that cove does not know";
    NotSupported "not_supported" 422 "This version cannot do that yet";
    UnknownFlow "unknown_flow" 422 "There is no flow of this name";
    UnknownProfile "unknown_profile" 422 "There is no such profile";
    AmbiguousProfile "ambiguous_profile" 422 "Several profiles have this name";
    InvalidInput "invalid_input" 422 "An input does not fit the flow";
    DuplicateKey "duplicate_key" 422 "A key stands twice in the request";
    InvalidMedia "invalid_media" 422 "A file input cannot be used";
    MediaOutsideRoots "media_outside_roots" 422 "A file is not under a media root";
    MediaNotFound "media_not_found" 422 "A file is not there";
    MediaEmpty "media_empty" 422 "A file is empty";
    MediaTooLarge "media_too_large" 422 "A file is too large";
    MediaUnreadable "media_unreadable" 422 "A file cannot be read where it is needed";
    FlowInvalid "flow_invalid" 422 "The recording cannot be a flow";
    // States.
    IdempotencyConflict "idempotency_conflict" 409 "The Idempotency-Key came before with another body";
    KeyTaken "key_taken" 409 "The key belongs to another item";
    FlowChanged "flow_changed" 409 "The flow was replaced at this moment";
    FlowInUse "flow_in_use" 409 "A task that is not finished uses the flow";
    ProfileExists "profile_exists" 409 "A profile of this name exists";
    ProfileBusy "profile_busy" 409 "The profile is in use";
    ProfileNotOpen "profile_not_open" 409 "The profile is not open";
    Canceled "canceled" 409 "A cancel was requested";
    MediaMismatch "media_mismatch" 409 "The media are not those of the item";
    NotUnknown "not_unknown" 409 "The item's outcome is known";
    DeliveryNotGivenUp "delivery_not_given_up" 409 "The delivery was not given up";
    ResumeRefused "resume_refused" 409 "A human has to look first";
    TooManyTokens "too_many_tokens" 409 "No more tokens fit";
    StaleFence "stale_fence" 409 "The lock has another fence or another owner";
    AlreadyArmed "already_armed" 409 "The item is armed already";
    NotHeld "not_held" 409 "Nobody holds this lock";
    SnapshotRunning "snapshot_running" 409 "A snapshot is being made or verified";
    SnapshotDamaged "snapshot_damaged" 409 "The snapshot is not good";
    JobRunning "job_running" 409 "The job runs already";
    SessionEnded "session_ended" 409 "The session is over";
    // The daemon.
    Internal "internal" 500 "A defect of cove";
    BadGateway "browser_unreachable" 502 "The browser did not answer";
    Draining "draining" 503 "The daemon stops";
    NotReady "not_ready" 503 "The daemon is not ready";
    TooManyConnections "too_many_connections" 503 "All connections are in use";
    TooManyListeners "too_many_listeners" 503 "No more listeners fit";
    TooManyWaiting "too_many_waiting" 503 "No more requests may wait";
    SessionsFull "sessions_full" 503 "All sessions are lent";
    ProviderDown "provider_down" 503 "No browser can be started now";
    NoMemory "no_memory" 503 "The machine has no memory for another browser now";
    NoCpu "no_cpu" 503 "The machine's processors have no time for another browser now";
    Restored "restored" 503 "The state was restored and a human has not resumed yet";
    StoreFailed "store_failed" 503 "The state file failed";
    NoDisk "no_disk" 507 "No space is left";
    MediaFailed "media_failed" 507 "The file could not be stored";
    SnapshotFailed "snapshot_failed" 507 "The folder of the snapshots cannot be used";
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub code: Code,
    /// JSON pointer into the body; for a query parameter or a header its name.
    pub pointer: String,
    pub detail: String,
    /// What to do, where the detail does not say it.
    pub help: Option<&'static str>,
    pub item: Option<String>,
}

impl FieldError {
    pub fn new(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { code, pointer: pointer.into(), detail: detail.into(), help: None, item: None }
    }

    fn json(&self) -> Value {
        let mut json = json!({"pointer": self.pointer, "code": self.code.name(), "detail": self.detail});
        if let Some(help) = self.help {
            json["help"] = help.into();
        }
        if let Some(item) = &self.item {
            json["item_id"] = item.clone().into();
        }
        json
    }
}

/// What a handler answers instead of a result. Boxed: it travels in every `Result` of the room.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    detail: String,
    fields: Vec<FieldError>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// For the log alone.
    internal: Option<String>,
}

impl ApiError {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let (fields, members, headers) = (Vec::new(), Map::new(), Vec::new());
        Self(Box::new(Inner { code, detail, fields, members, headers, internal: None }))
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, what)
    }

    /// A failure inside: `what` is logged and not shown.
    pub fn internal(code: Code, what: impl std::fmt::Display) -> Self {
        let mut error = Self::new(code, "See the daemon's log for this request's id.");
        error.0.internal = Some(what.to_string());
        error
    }

    /// One wrong field, under its own code.
    pub fn field(field: FieldError) -> Self {
        Self::fields(vec![field])
    }

    /// Wrong fields: under their own code where they agree on it.
    ///
    /// # Panics
    /// Without any field there is no error.
    pub fn fields(mut fields: Vec<FieldError>) -> Self {
        let first = fields.first().expect("an error has at least one wrong field");
        let agree = fields.iter().all(|field| field.code == first.code);
        let code = if agree { first.code } else { Code::InvalidRequest };
        let detail = match fields.len() {
            1 => first.detail.clone(),
            n if n > MAX_FIELD_ERRORS => format!("More than {MAX_FIELD_ERRORS} fields are wrong; the first are told."),
            n => format!("{n} fields are wrong."),
        };
        fields.truncate(MAX_FIELD_ERRORS);
        let mut error = Self::new(code, detail);
        error.0.fields = fields;
        error
    }

    #[must_use]
    pub fn with_member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub const fn code(&self) -> Code {
        self.0.code
    }

    /// The answer. Logs what is kept from the client.
    pub fn into_response(self, request_id: &str) -> Response<Reply> {
        let (status, headers, body) = self.into_parts(request_id);
        let mut response = Response::new(full(body));
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        response
    }

    /// The same before it is an answer.
    pub fn into_parts(self, request_id: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        let error = *self.0;
        if let Some(internal) = &error.internal {
            tracing::error!(request_id, code = error.code.name(), "{internal}");
        }
        let problem = Problem {
            r#type: format!("urn:cove:error:{}", error.code.name()),
            title: error.code.title(),
            status: error.code.status(),
            detail: &error.detail,
            code: error.code.name(),
            request_id,
            errors: error.fields.iter().map(FieldError::json).collect(),
            members: &error.members,
        };
        let body = serde_json::to_vec(&problem).expect("a problem is plain JSON");
        let status = StatusCode::from_u16(error.code.status()).expect("the table holds valid statuses");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(error.headers);
        if error.code == Code::Draining {
            // Another one may be here by then.
            headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static(DRAINING_RETRY_AFTER_SECONDS));
        }
        (status, headers, body)
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    errors: Vec<Value>,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::new(Code::Draining, "The daemon stops; send the request again later."),
            StoreError::Full(what) => {
                let mut full =
                    Self::new(Code::NoDisk, "Nothing was stored; free space on the disk of the state directory.");
                full.0.internal = Some(what);
                full
            }
            StoreError::Failed(_) | StoreError::Corrupt(_) => Self::internal(Code::StoreFailed, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::body::read_reply;

    #[tokio::test]
    async fn every_code_answers_with_its_own_status_and_the_same_shape() {
        let mut names = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(names.insert(code.name()), "{} twice", code.name());
            assert!(code.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", code.name());
            assert!(!code.title().is_empty() && !code.title().ends_with('.'));
            let response = ApiError::new(*code, "why").into_response("r1");
            assert_eq!(response.status().as_u16(), code.status());
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
            let json: Value = serde_json::from_slice(&read_reply(response).await).unwrap();
            let expected = json!({"type": format!("urn:cove:error:{}", code.name()), "title": code.title(),
                "status": code.status(), "detail": "why", "code": code.name(), "request_id": "r1", "errors": []});
            assert_eq!(json, expected);
        }
    }

    #[tokio::test]
    async fn what_happened_inside_is_not_shown() {
        let error = ApiError::from(StoreError::Failed("secret path".to_owned()));
        assert_eq!(error.code(), Code::StoreFailed);
        let body = read_reply(error.into_response("r")).await;
        assert!(!String::from_utf8(body.to_vec()).unwrap().contains("secret path"));
        assert_eq!(ApiError::from(StoreError::Closed).code(), Code::Draining);
    }

    #[tokio::test]
    async fn fields_that_agree_give_their_code_and_are_bounded() {
        let field = |code, n| FieldError::new(code, format!("/items/{n}"), "wrong");
        assert_eq!(ApiError::fields(vec![field(Code::UnknownFlow, 0)]).code(), Code::UnknownFlow);
        let mixed = ApiError::fields(vec![field(Code::UnknownFlow, 0), field(Code::InvalidField, 1)]);
        assert_eq!(mixed.code(), Code::InvalidRequest);
        let many = (0..=MAX_FIELD_ERRORS).map(|n| field(Code::InvalidField, n)).collect();
        let body = read_reply(ApiError::fields(many).into_response("r")).await;
        let json: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["errors"].as_array().unwrap().len(), MAX_FIELD_ERRORS);
        assert_eq!(json["errors"][7]["pointer"], "/items/7");
    }
}
