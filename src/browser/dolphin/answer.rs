//! What Dolphin's answers mean: from any bytes to a few cases. Pure; never panics, never trusts.
//!
//! Read by `local` and `cloud`. Lenient where builds of the application are known to differ (both forms of
//! the endpoint, numbers as text, an error in any of its shapes), strict where a wrong reading could touch
//! somebody else's browser: a map of running profiles that is not one is no map. Texts for people are cut
//! and freed of control characters. What a case leads to is not known here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::dolphin::{is_profile_number, profile_number};

/// Of a text that an answer says, in bytes.
const MAX_TEXT_BYTES: usize = 300;
/// `/devtools/browser/` and a UUID are 54.
const MAX_WS_PATH_BYTES: usize = 128;
const WS_PATH_BEGIN: &str = "/devtools/browser/";
/// Of a profile's name as Dolphin has it, in bytes; a longer one is cut.
pub const MAX_NAME_BYTES: usize = 256;

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub meaning: Meaning,
    pub status: u16,
    pub code: Option<String>,
    /// Empty where the answer says nothing that can be read.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The profile runs already: nothing was launched.
    Duplicate,
    /// Its files are held by a browser that has not quite ended: nothing was launched.
    Locked,
    /// A launch that failed for a moment's reason.
    InitConnection,
    /// Never on this plan.
    PlanForbids,
    /// Not so many at a time on this plan.
    PlanLimit,
    TooManyLaunches,
    /// Nobody is signed in to the application, or its sign-in is stale.
    SignedOut,
    /// Our own mistake.
    BadRequest,
    /// The profile is not there, not for this account, or not to be used as it is.
    NoAccess,
    /// Whatever answers here is not this API, or not this version of it.
    NotTheApi,
    /// It failed, and says so in the API's own form.
    Failed,
    /// Nothing that the API would say.
    Unreadable,
}

impl Meaning {
    /// The application is there and knows what it says: no ground for leaving it alone.
    pub const fn is_sound(self, status: u16) -> bool {
        match self {
            Self::Unreadable => false,
            Self::Failed => status < 500,
            _ => true,
        }
    }
}

impl Refusal {
    /// Of a start: it was Dolphin that said no, and it works. A page of a proxy, or of whatever else has the port,
    /// is as much of a failure as none.
    pub const fn is_dolphins_own(&self) -> bool {
        self.meaning.is_sound(self.status) && !matches!(self.meaning, Meaning::NotTheApi)
    }

    /// Of a start: this profile is why it failed, and others may well start. A failure of the application itself
    /// has a status of 500 and more, as far as anything is known of it, and whoever says no and nothing else
    /// does not speak of a profile.
    pub const fn is_of_the_profile(&self) -> bool {
        match self.meaning {
            Meaning::NoAccess | Meaning::Locked => true,
            Meaning::Failed => self.status < 500 && (self.code.is_some() || !self.text.is_empty()),
            _ => false,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "HTTP {}", self.status)?;
        if let Some(code) = &self.code {
            write!(out, ", {code}")?;
        }
        if !self.text.is_empty() {
            write!(out, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// Where a started browser says that it listens. Either part may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub port: Option<u16>,
    pub ws_path: Option<String>,
}

/// An answer to a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    Ready(Endpoint),
    /// It runs, and cannot be driven.
    WithoutAutomation,
    Refused(Refusal),
}

/// One profile in the map of those that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    pub pid: Option<u32>,
}

pub type RunningMap = BTreeMap<u64, Running>;

#[must_use]
pub fn start(status: u16, body: &[u8]) -> Started {
    let Some(json) = object(body) else { return Started::Refused(refusal(status, body)) };
    let automation = json.get("automation").and_then(Value::as_object);
    // An answer without `success` that names an endpoint has started a browser all the same.
    let success = truth(json.get("success")).unwrap_or(automation.is_some());
    if !success || !is_ok(status) {
        return Started::Refused(refusal(status, body));
    }
    match automation {
        Some(automation) => Started::Ready(endpoint(automation)),
        None => Started::WithoutAutomation,
    }
}

fn endpoint(automation: &Map<String, Value>) -> Endpoint {
    let text = automation.get("wsEndpoint").and_then(Value::as_str).unwrap_or_default().trim();
    let (port_of_url, ws_path) = ws_endpoint(text);
    let port = automation.get("port").and_then(number).and_then(|port| u16::try_from(port).ok());
    Endpoint { port: port.filter(|port| *port != 0).or(port_of_url), ws_path }
}

/// A path, or a whole `ws://host:port/path`.
#[must_use]
pub fn ws_endpoint(text: &str) -> (Option<u16>, Option<String>) {
    let rest = text.strip_prefix("ws://").or_else(|| text.strip_prefix("wss://"));
    let (authority, path) = match rest {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", text),
    };
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).filter(|port| *port != 0);
    (port, ws_path(path))
}

/// It becomes a part of an address: nothing but an id of one browser passes.
fn ws_path(path: &str) -> Option<String> {
    let id = path.strip_prefix(WS_PATH_BEGIN)?;
    let plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    (plain && path.len() <= MAX_WS_PATH_BYTES).then(|| path.to_owned())
}

/// An answer to a stop, or to a sign-in: both say no more than whether it went well.
pub fn outcome(status: u16, body: &[u8]) -> Result<(), Refusal> {
    let success = object(body).and_then(|json| truth(json.get("success")));
    if is_ok(status) && success == Some(true) { Ok(()) } else { Err(refusal(status, body)) }
}

/// The map of running profiles: ids as keys and nothing else.
pub fn running(status: u16, body: &[u8]) -> Result<RunningMap, Refusal> {
    let map = object(body).filter(|_| is_ok(status));
    let profiles = map.and_then(|map| {
        let one = |(id, value): (&String, &Value)| {
            let pid = value.get("pid").and_then(number).and_then(|pid| u32::try_from(pid).ok());
            Some((profile_number(id)?, Running { pid: pid.filter(|pid| *pid != 0) }))
        };
        map.iter().map(one).collect::<Option<RunningMap>>()
    });
    profiles.ok_or_else(|| refusal(status, body))
}

/// The path of the browser that answers on a DevTools port.
#[must_use]
pub fn browser_path(status: u16, body: &[u8]) -> Option<String> {
    let json = object(body).filter(|_| is_ok(status))?;
    ws_endpoint(json.get("webSocketDebuggerUrl")?.as_str()?).1
}

/// One profile of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: u64,
    /// Its id where it has none.
    pub name: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPage {
    pub profiles: Vec<Listed>,
    /// By any of the signs: the last page's number, no next one, nothing on it.
    pub is_last: bool,
}

/// `page` is the number that was asked for.
pub fn list_page(status: u16, body: &[u8], page: u32) -> Result<ListPage, Refusal> {
    let json = object(body).filter(|_| is_ok(status)).ok_or_else(|| refusal(status, body))?;
    let rows = json.get("data").and_then(Value::as_array).ok_or_else(|| refusal(status, body))?;
    let profiles = rows.iter().filter_map(|row| {
        let id = row.get("id").and_then(number).filter(|id| is_profile_number(*id))?;
        let name = row.get("name").and_then(Value::as_str).map(|name| clean(name, MAX_NAME_BYTES));
        Some(Listed { id, name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_string()) })
    });
    let last_page = json.get("last_page").and_then(number).is_some_and(|last| u64::from(page) >= last);
    let no_next = json.get("next_page_url").is_some_and(Value::is_null);
    Ok(ListPage { profiles: profiles.collect(), is_last: last_page || no_next || rows.is_empty() })
}

/// Whether one profile is there, for this account.
pub fn one_profile(status: u16, body: &[u8], id: u64) -> Result<(), Refusal> {
    let json = object(body).filter(|_| is_ok(status));
    let found = json.as_ref().and_then(|json| number(json.get("data")?.get("id")?));
    if found == Some(id) { Ok(()) } else { Err(refusal(status, body)) }
}

/// What an answer that says no says.
#[must_use]
pub fn refusal(status: u16, body: &[u8]) -> Refusal {
    let json = object(body);
    let (code, text) = match &json {
        Some(json) => said(json),
        None => (None, clean(&String::from_utf8_lossy(&body[..body.len().min(4 * MAX_TEXT_BYTES)]), MAX_TEXT_BYTES)),
    };
    let meaning = by_words(code.as_deref(), &text).unwrap_or_else(|| by_status(status, json.as_ref()));
    Refusal { meaning, status, code, text }
}

/// Code and text out of every shape that was seen: beside each other, nested, or only one of them.
fn said(json: &Map<String, Value>) -> (Option<String>, String) {
    let places =
        [json.get("errorObject"), json.get("error").and_then(|error| error.get("errorObject")), json.get("error")];
    let objects = || places.iter().copied().flatten().filter_map(Value::as_object).chain([json]);
    let find = |names: &[&str]| objects().find_map(|place| names.iter().find_map(|name| words(place.get(*name)?)));
    let code = find(&["code"]).or_else(|| find(&["type"]).filter(|word| word.starts_with("E_")));
    let text = json.get("error").and_then(words).or_else(|| find(&["text", "message"]));
    (code, text.unwrap_or_default())
}

/// A text that is not empty.
fn words(value: &Value) -> Option<String> {
    value.as_str().map(|text| clean(text, MAX_TEXT_BYTES)).filter(|text| !text.is_empty())
}

fn by_words(code: Option<&str>, text: &str) -> Option<Meaning> {
    let code = code.unwrap_or_default().to_ascii_uppercase();
    let text = text.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    let meaning = match code.as_str() {
        "E_BROWSER_RUN_DUPLICATE" => Meaning::Duplicate,
        "FREE_PLAN_PROFILE_LIMIT_EXCEEDED" => Meaning::PlanLimit,
        // `.._ACCESS_DENIED`, `.._WRONG_PASSWORD`, and what newer builds may add.
        code if code.starts_with("E_BROWSER_PROFILE_") => Meaning::NoAccess,
        _ if has(&["e_browser_run_duplicate", "already running"]) => Meaning::Duplicate,
        _ if has(&["ebusy", "resource busy or locked", "devtoolsactiveport", "profile is locked", "still running"]) => {
            Meaning::Locked
        }
        _ if has(&["initconnectionerror"]) || code == "INITCONNECTIONERROR" => Meaning::InitConnection,
        _ if has(&["free plan you can't use automation"]) => Meaning::PlanForbids,
        _ if has(&["invalid session token", "token refresh timeout", "refresh token"]) => Meaning::SignedOut,
        _ => return None,
    };
    Some(meaning)
}

/// `json`: the body, where it is an object.
fn by_status(status: u16, json: Option<&Map<String, Value>>) -> Meaning {
    match (status, json) {
        (401, _) => Meaning::SignedOut,
        (402, _) => Meaning::PlanForbids,
        (429, _) => Meaning::TooManyLaunches,
        (499, _) => Meaning::PlanLimit,
        (400 | 422, _) => Meaning::BadRequest,
        // Without JSON a proxy said no, or another program has the port.
        (403 | 404, Some(_)) => Meaning::NoAccess,
        (300..=399, _) | (400..=499, None) => Meaning::NotTheApi,
        // A success that is not in the form of one has no meaning, unless it says no.
        (200..=299, Some(json)) if truth(json.get("success")) == Some(false) || json.contains_key("error") => {
            Meaning::Failed
        }
        (200..=299, _) => Meaning::Unreadable,
        (_, Some(json))
            if json.contains_key("success") || json.contains_key("error") || json.contains_key("message") =>
        {
            Meaning::Failed
        }
        _ => Meaning::Unreadable,
    }
}

const fn is_ok(status: u16) -> bool {
    status >= 200 && status < 300
}

fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(body).ok()
}

fn truth(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(truth) => Some(*truth),
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => Some(number.as_u64()? != 0),
        _ => None,
    }
}

/// A whole number, also as text.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// One line without control characters and without blanks in a row, cut at `max_bytes`.
fn clean(text: &str, max_bytes: usize) -> String {
    let mut out = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > max_bytes {
            out.truncate(out.floor_char_boundary(max_bytes));
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests;
