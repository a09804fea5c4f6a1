//! Asking the system whether its clock is synchronised, while the wall clock is suspect.
//!
//! A child of the loop. systemd's `timedatectl` knows it of whatever keeps the time; where there is none, or it
//! does not know, nothing is said, and a human decides by `cove resume`.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Message;
use super::event::Event;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn ask(mailbox: mpsc::Sender<Message>) {
    let mut command = Command::new("timedatectl");
    command.args(["show", "--property=NTPSynchronized", "--value"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let answer = timeout(ANSWER_WITHIN, command.output()).await;
    let synchronised = answer.is_ok_and(|output| output.is_ok_and(|output| output.stdout.trim_ascii() == b"yes"));
    if synchronised {
        // Without the loop nobody is left to listen.
        drop(mailbox.send(Message::Event(Event::ClockSynchronised)).await);
    }
}
