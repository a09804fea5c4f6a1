//! The daemon, if one runs: what it says of itself.
//!
//! Asked over its socket (or `--url`) like by any other command. Where it answers, the other checks take from
//! it which process and user cove is; where none runs, everything is looked at without it.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::line::Line;
use crate::cli::remote::{Client, RemoteError};

const NAME: &str = "daemon";

/// What was found where the daemon should be.
#[derive(Debug)]
pub enum Daemon {
    /// It told its status; `unwell` is what its health says beside `healthy`.
    Answers {
        status: Value,
        unwell: Option<Unwell>,
    },
    /// It runs and does not tell.
    Refuses {
        why: String,
        wants_token: bool,
    },
    /// Nobody is there.
    Absent {
        tried: String,
    },
    /// The socket is there, and is not for us.
    Forbidden {
        tried: String,
    },
    Broken {
        tried: String,
        why: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Unwell {
    /// It works on, as far as it can.
    pub degraded: bool,
    pub why: String,
}

impl Daemon {
    /// Somebody answers.
    pub fn runs(&self) -> bool {
        !matches!(self, Self::Absent { .. } | Self::Forbidden { .. })
    }

    /// Its process and user.
    pub fn process(&self) -> Option<(u32, u32)> {
        let Self::Answers { status, .. } = self else { return None };
        let number = |name: &str| u32::try_from(status[name].as_u64()?).ok();
        Some((number("pid")?, number("uid")?))
    }
}

/// `socket`: where to look before asking; None with `--url`.
pub async fn look(client: &Client, socket: Option<&PathBuf>) -> Daemon {
    if let Some(path) = socket {
        let tried = path.display().to_string();
        match UnixStream::connect(path).map_err(|error| error.kind()) {
            Err(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Daemon::Absent { tried },
            Err(ErrorKind::PermissionDenied) => return Daemon::Forbidden { tried },
            _ => {}
        }
    }
    match client.get("/api/v1/status").await {
        Ok(status) => Daemon::Answers { status, unwell: unwell(client.get("/api/v1/health").await) },
        Err(RemoteError::Refused(problem) | RemoteError::Limited { problem, .. }) => {
            let wants_token = matches!(problem["status"].as_u64(), Some(401 | 403));
            let why =
                ["detail", "title"].iter().find_map(|name| problem[name].as_str()).unwrap_or("it does not say why");
            Daemon::Refuses { why: why.to_owned(), wants_token }
        }
        Err(RemoteError::Unreachable { tried, .. }) if socket.is_none() => Daemon::Absent { tried },
        Err(RemoteError::Unreachable { tried, why }) => Daemon::Broken { tried, why },
        Err(error @ RemoteError::Unexpected(_)) => Daemon::Broken {
            tried: socket.map(|path| path.display().to_string()).unwrap_or_default(),
            why: error.to_string(),
        },
    }
}

fn unwell(health: Result<Value, RemoteError>) -> Option<Unwell> {
    match health {
        Ok(health) if health["status"] == "healthy" => None,
        Ok(health) => {
            let parts = health["parts"].as_object();
            let reasons = parts.into_iter().flatten().filter_map(|(name, part)| Some((name, part["reason"].as_str()?)));
            let why = reasons.map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ");
            Some(Unwell { degraded: health["status"] == "degraded", why })
        }
        // 503: its body is no problem document.
        Err(RemoteError::Unexpected(text)) => Some(Unwell { degraded: false, why: text }),
        Err(error) => Some(Unwell { degraded: false, why: error.to_string() }),
    }
}

pub fn judge(daemon: &Daemon, version: &str) -> Line {
    let status = match daemon {
        Daemon::Answers { status, unwell: None } => status,
        Daemon::Answers { unwell: Some(Unwell { degraded: true, why }), .. } => {
            return Line::warning(
                NAME,
                format!("runs, and something that it needs does not: {why}"),
                "`cove status` shows what waits for it",
            );
        }
        Daemon::Answers { unwell: Some(Unwell { why, .. }), .. } => {
            return Line::error(
                NAME,
                format!("runs, but is not healthy: {why}"),
                "its log has more: `journalctl -u cove -n 100`",
            );
        }
        Daemon::Refuses { why, wants_token: true } => {
            return Line::warning(
                NAME,
                format!("runs, but does not tell how it is: {why}"),
                "give a token, with --token-file or in COVE_TOKEN",
            );
        }
        Daemon::Refuses { why, .. } => {
            return Line::error(NAME, format!("runs, but does not serve: {why}"), why.clone());
        }
        Daemon::Absent { tried } => {
            return Line::ok(NAME, format!("none runs ({tried}); everything is looked at without it"));
        }
        Daemon::Forbidden { tried } => {
            return Line::warning(
                NAME,
                format!("this user may not open {tried}: what the daemon knows is not looked at"),
                "run `cove doctor` as the daemon's user, or with sudo",
            );
        }
        Daemon::Broken { tried, why } => {
            return Line::error(
                NAME,
                format!("something is at {tried} and does not answer as cove does: {why}"),
                "see what it is: `ss -lxp`",
            );
        }
    };
    let (theirs, state) = (status["version"].as_str().unwrap_or("?"), status["state"].as_str().unwrap_or("?"));
    let found = format!("runs, version {theirs}, process {}, state {state}", status["pid"]);
    if theirs != version {
        return Line::warning(
            NAME,
            format!("{found}; this command is version {version}"),
            "restart it: `systemctl restart cove`",
        );
    }
    match state {
        "paused" => Line::warning(NAME, format!("{found}: nothing is started"), "`cove resume` when it shall go on"),
        "restored" => Line::warning(
            NAME,
            format!("{found}: a human has to look before anything is published"),
            "look at `cove items list --state held`, then `cove resume`",
        ),
        _ => Line::ok(NAME, found),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::line::Status;

    fn answers(state: &str, version: &str, unwell: Option<Unwell>) -> Daemon {
        Daemon::Answers { status: json!({"version": version, "pid": 7, "uid": 3, "state": state}), unwell }
    }

    #[test]
    fn each_way_of_a_daemon_to_be_has_its_line() {
        let unwell = |degraded| Some(Unwell { degraded, why: "disk: full".to_owned() });
        let tried = || "/s".to_owned();
        for (daemon, status, text) in [
            (answers("running", "1", None), Status::Ok, "process 7"),
            (Daemon::Absent { tried: tried() }, Status::Ok, "none runs (/s)"),
            (answers("running", "2", None), Status::Warning, "this command is version 1"),
            (answers("paused", "1", None), Status::Warning, "nothing is started"),
            (answers("restored", "1", None), Status::Warning, "a human"),
            (answers("running", "1", unwell(true)), Status::Warning, "disk: full"),
            (answers("running", "1", unwell(false)), Status::Error, "disk: full"),
            (Daemon::Refuses { why: "no token".to_owned(), wants_token: true }, Status::Warning, "no token"),
            (Daemon::Refuses { why: "no space".to_owned(), wants_token: false }, Status::Error, "no space"),
            (Daemon::Forbidden { tried: tried() }, Status::Warning, "may not open /s"),
            (Daemon::Broken { tried: tried(), why: "html".to_owned() }, Status::Error, "html"),
        ] {
            let line = judge(&daemon, "1");
            assert_eq!(line.status, status, "{line:?}");
            assert!(line.found.contains(text), "{line:?}");
        }
        assert_eq!(answers("running", "1", None).process(), Some((7, 3)));
        assert!(!Daemon::Absent { tried: tried() }.runs());
    }

    #[test]
    fn health_is_told_part_by_part() {
        assert_eq!(unwell(Ok(json!({"status": "healthy"}))), None);
        let degraded =
            json!({"status": "degraded", "parts": {"store": {"reason": null}, "provider": {"reason": "down"}}});
        assert_eq!(unwell(Ok(degraded)), Some(Unwell { degraded: true, why: "provider: down".to_owned() }));
        let sick = unwell(Err(RemoteError::Unexpected("503 {}".to_owned()))).unwrap();
        assert!(!sick.degraded);
    }

    #[tokio::test]
    async fn nobody_at_a_socket_is_absence_and_a_foreign_answer_is_not() {
        use tokio::io::AsyncWriteExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let client = Client::unix(&path).unwrap();
        assert!(matches!(look(&client, Some(&path)).await, Daemon::Absent { .. }));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let stranger = async {
            loop {
                let (mut io, _) = listener.accept().await.unwrap();
                let _ = io.write_all(b"220 ready\r\n").await;
            }
        };
        let found = tokio::select! {
            found = look(&client, Some(&path)) => found,
            () = stranger => unreachable!(),
        };
        assert!(matches!(found, Daemon::Broken { .. }), "{found:?}");
    }
}
