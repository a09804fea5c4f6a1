//! What the daemon and the browser host say to each other: JSON lines over a unix socket.
//!
//! Both sides use these types and nothing else. The client's first line is a [`Hello`], answered with
//! a [`Welcome`] or a refusal `{"error":{"code","detail"}}`, after which the host closes. Then every
//! line of the client is a [`Request`], answered by one [`Answer`] with the same id; answers come in
//! any order. Only profile ids, options and paths cross: the two sides may be different users.
//!
//! ```text
//! > {"cove_browser_host":1}
//! < {"cove_browser_host":1,"pid":4711}
//! > {"id":1,"call":"start","profile":"anna","headless":true}
//! < {"id":1,"ok":{"profile":"anna","port":40123,"ws_path":"/devtools/browser/…","pid":4720,…}}
//! > {"id":2,"call":"can_read","path":"/srv/media/a.mp4"}
//! < {"id":2,"error":{"code":"media_unreadable","detail":"…"}}
//! ```
//!
//! A change that an older side would misread raises [`VERSION`]; new optional fields do not.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Failure, ProfileId};

/// The version that this build speaks.
pub const VERSION: u32 = 1;

/// Longest line that either side accepts, in bytes.
pub const MAX_LINE_BYTES: usize = 64 * 1024;
/// Requests of one connection that may be under way; one more is refused.
pub const MAX_CALLS_PER_CONNECTION: usize = 64;

/// From the first byte of a start to an answering `DevTools` port.
pub const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long a browser may take to close by itself before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(5);
/// The same while the host itself ends: everything together stays under two seconds.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(1_200);
/// How long a host answers a `stop` at most; it goes on trying after that.
pub const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// For `can_read`, `running` and `stats`.
pub const QUICK_DEADLINE: Duration = Duration::from_secs(4);

/// The first line of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol version that it speaks.
    pub cove_browser_host: u32,
}

/// The host's answer to a [`Hello`] that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    pub cove_browser_host: u32,
    /// The host's own process.
    pub pid: u32,
}

/// The host's first line, as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Greeting {
    Welcome(Welcome),
    Refused { error: Failure },
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; the answer carries it.
    pub id: u64,
    #[serde(flatten)]
    pub call: Call,
}

/// What can be asked. What is answered under `ok` stands beside each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// A `browser::Session`, once its `DevTools` port accepts connections. The browser belongs to the
    /// host from the first moment: a client that goes away meanwhile can still `stop` it.
    Start { profile: ProfileId, headless: bool },
    /// `null`, once every process is verified dead. A profile that does not run: at once.
    Stop { profile: ProfileId },
    /// An array of `browser::Session`: every browser that answers; one that is still starting is not in it.
    Running,
    /// `true` or `false`: whether the host's user can read this regular file.
    CanRead { path: PathBuf },
    /// A `browser::SessionStats`, or `null` for a profile that does not run.
    Stats { profile: ProfileId },
}

/// The answer to one [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok(serde_json::Value),
    Error(Failure),
}

/// One message as a line.
///
/// # Errors
/// When it cannot be JSON (a path that is not UTF-8) or is longer than [`MAX_LINE_BYTES`].
pub fn line(message: &impl Serialize) -> Result<String, String> {
    let mut line = serde_json::to_string(message).map_err(|error| error.to_string())?;
    line.push('\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("the message is longer than {MAX_LINE_BYTES} bytes"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Call, Greeting, Outcome, Request, Welcome, line};
    use crate::model::{Failure, FailureCode, ProfileId};

    #[test]
    fn lines_are_what_the_documentation_shows() {
        let start = Call::Start { profile: ProfileId::new("anna").unwrap(), headless: true };
        assert_eq!(
            line(&Request { id: 1, call: start.clone() }).unwrap(),
            "{\"id\":1,\"call\":\"start\",\"profile\":\"anna\",\"headless\":true}\n"
        );
        let back: Request =
            serde_json::from_str(r#"{"id":1,"call":"start","profile":"anna","headless":true}"#).unwrap();
        assert_eq!(back.call, start);
        assert_eq!(line(&Request { id: 3, call: Call::Running }).unwrap(), "{\"id\":3,\"call\":\"running\"}\n");
        let error = Outcome::Error(Failure::new(FailureCode::ProfileInUse, "why"));
        let text = "{\"id\":2,\"error\":{\"code\":\"profile_in_use\",\"detail\":\"why\"}}\n";
        assert_eq!(line(&Answer { id: 2, outcome: error.clone() }).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap().outcome, error);
        let ok = Answer { id: 4, outcome: Outcome::Ok(serde_json::Value::Null) };
        assert_eq!(serde_json::from_str::<Answer>(&line(&ok).unwrap()).unwrap(), ok);
    }

    #[test]
    fn a_greeting_is_a_welcome_or_a_refusal() {
        let welcome: Greeting = serde_json::from_str(r#"{"cove_browser_host":1,"pid":7}"#).unwrap();
        assert_eq!(welcome, Greeting::Welcome(Welcome { cove_browser_host: 1, pid: 7 }));
        let refused = serde_json::from_str(r#"{"error":{"code":"provider_down","detail":"no"}}"#).unwrap();
        assert!(matches!(refused, Greeting::Refused { .. }));
    }

    #[test]
    fn a_line_is_bounded() {
        let call = Call::CanRead { path: "x".repeat(super::MAX_LINE_BYTES).into() };
        assert!(line(&Request { id: 1, call }).is_err());
    }
}
