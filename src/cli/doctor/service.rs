//! A browser host that runs as a service of its own: does it answer, and who is it?

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::line::Line;
use super::person::Person;
use crate::browser::host::protocol::{Greeting, Hello, MAX_LINE_BYTES, VERSION, line};

/// Socket activation may have to start it first.
const GREETING_WITHIN: Duration = Duration::from_secs(10);

/// Its process.
///
/// # Errors
/// Why nobody greets.
pub async fn greet(socket: &Path) -> Result<u32, String> {
    let greeting = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let (input, mut output) = stream.into_split();
        let hello = line(&Hello { cove_browser_host: VERSION })?;
        output.write_all(hello.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        let mut input = BufReader::new(input.take(MAX_LINE_BYTES as u64));
        input.read_line(&mut answer).await.map_err(|error| error.to_string())?;
        match serde_json::from_str(&answer) {
            Ok(Greeting::Welcome(welcome)) => Ok(welcome.pid),
            Ok(Greeting::Refused { error }) => Err(error.to_string()),
            Err(error) => Err(format!("it does not greet as a browser host does: {error}")),
        }
    };
    timeout(GREETING_WITHIN, greeting)
        .await
        .unwrap_or_else(|_| Err(format!("no greeting within {} s", GREETING_WITHIN.as_secs())))
}

pub fn judge(socket: &Path, found: &Result<u32, String>, host: Option<&Person>) -> Line {
    const NAME: &str = "browser_host";
    let shown = socket.display();
    match (found, host) {
        (Ok(pid), Some(host)) => Line::ok(NAME, format!("process {pid} of {} answers on {shown}", host.name)),
        (Ok(pid), None) => Line::warning(
            NAME,
            format!("process {pid} answers on {shown}, and its user is hidden from here"),
            "run `cove doctor` with sudo",
        ),
        (Err(why), _) => Line::error(
            NAME,
            format!("{shown}: {why}"),
            "start it: `sudo systemctl start cove-browser.socket`, or empty [browser] host_socket to have the daemon start one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::cli::doctor::line::Status;

    #[tokio::test]
    async fn a_host_greets_or_the_line_says_how_to_start_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let nobody = greet(&path).await;
        assert_eq!(judge(&path, &nobody, None).status, Status::Error);
        let listener = UnixListener::bind(&path).unwrap();
        let serve = |answer: &'static str| {
            let listener = &listener;
            async move {
                let (mut io, _) = listener.accept().await.unwrap();
                assert!(io.read(&mut [0; 100]).await.unwrap() > 0);
                io.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let (found, ()) = tokio::join!(greet(&path), serve("{\"cove_browser_host\":1,\"pid\":7}\n"));
        assert_eq!(found, Ok(7));
        assert_eq!(judge(&path, &found, Some(&Person::own().await)).status, Status::Ok);
        assert_eq!(judge(&path, &found, None).status, Status::Warning);
        let refusal = "{\"error\":{\"code\":\"provider_down\",\"detail\":\"another version\"}}\n";
        let (refused, ()) = tokio::join!(greet(&path), serve(refusal));
        assert!(refused.unwrap_err().contains("another version"));
        let (odd, ()) = tokio::join!(greet(&path), serve("220 ready\n"));
        assert!(odd.is_err());
    }
}
