//! What a replay keeps of the page: pictures, the page's text at a failure, the console.
//!
//! The steps call it. Whatever the page does, keeping ends within its own deadline, and it decides nothing: what
//! could not be kept is told and the replay goes on. The picture before the commit point is the one exception,
//! and its caller makes it one.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::page::{CaptureScreenshotFormat, CaptureScreenshotParams};
use tokio::time::timeout;

use super::Run;
use crate::browser::cdp::{Trouble, without_query};
use crate::browser::locate;
use crate::model::{Failure, FailureCode};

/// A page that draws nothing must not hang an attempt.
const SCREENSHOT_DEADLINE: Duration = Duration::from_secs(10);
/// For what is kept at one moment, whatever the page does: the end of a replay must not wait for a page that hangs.
pub(super) const KEEPING_DEADLINE: Duration = Duration::from_secs(10);
/// Of the page's text at a failure.
const PAGE_TEXT_CHARACTERS: usize = 100_000;

impl Run<'_> {
    pub(super) async fn screenshot(&mut self, file: &str) -> Result<(), String> {
        let params = CaptureScreenshotParams::builder().format(CaptureScreenshotFormat::Png).build();
        let taken = timeout(SCREENSHOT_DEADLINE, self.tab.call(params)).await;
        let taken = taken.map_err(|_| format!("not taken within {} s", SCREENSHOT_DEADLINE.as_secs()))?;
        let data = taken.map_err(|trouble| trouble.to_string())?.data;
        let text: &str = data.as_ref();
        let png = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
        let png = png.map_err(|error| error.to_string())?;
        self.evidence.screenshot(file, &png).await.map_err(|error| error.to_string())
    }

    /// A picture that changes nothing when it fails.
    pub(super) async fn keep_after(&mut self) {
        if self.tab.is_lost() {
            return;
        }
        if let Err(why) = self.screenshot("after.png").await {
            self.notes.push(format!("the picture after the commit point: {why}"));
        }
    }

    /// A picture at a chosen place. One that is not kept is told and changes nothing.
    pub(super) async fn keep_named(&mut self, name: &str) -> Result<(), Failure> {
        let kind = if self.in_baseline { "baseline" } else { "shot" };
        let Err(why) = self.screenshot(&format!("{kind}-{name}.png")).await else { return Ok(()) };
        if self.tab.is_lost() {
            return Err(locate::lost(&why));
        }
        let remark = format!("the picture `{name}` was not kept: {why}");
        self.notes.push(remark.clone());
        self.remark = Some(remark);
        Ok(())
    }

    /// The page as it was at a failure. Nothing here changes the outcome.
    pub(super) async fn keep_failure(&mut self, failure: &Failure) {
        if self.tab.is_lost() || failure.code == FailureCode::Canceled {
            return;
        }
        if timeout(KEEPING_DEADLINE, self.keep_page(failure)).await.is_err() {
            tracing::debug!("the page of the failure did not answer");
        }
    }

    async fn keep_page(&mut self, failure: &Failure) {
        if let Err(why) = self.screenshot("failure.png").await {
            tracing::debug!(why, "no picture of the failure");
        }
        let text = self.tab.evaluate("document.body ? document.body.innerText : ''").await;
        let text: String = match &text {
            // Masked before it is cut: a cut could leave a part of a secret.
            Ok(text) => {
                let text = self.evidence.masked(text.as_str().unwrap_or_default());
                text.chars().take(PAGE_TEXT_CHARACTERS).collect()
            }
            Err(Trouble::Lost(_)) => return,
            Err(error) => error.to_string(),
        };
        let text = format!("{failure}\n{}\n\n{text}\n", without_query(&self.tab.url().await));
        if let Err(error) = self.evidence.text("failure.txt", "page_text", &text).await {
            tracing::debug!(%error, "no text of the failure");
        }
    }

    pub(super) async fn keep_console(&mut self) {
        let lines = self.tab.observed.take();
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.evidence.lines("console.jsonl", "console", &lines).await {
            tracing::debug!(%error, "no console in the evidence");
        }
    }
}
