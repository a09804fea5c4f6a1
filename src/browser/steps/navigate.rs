//! Loading pages, and waiting for navigations that a step asserts.
//!
//! A navigation is asked of the page itself, and its end is seen in the page: a new document that is
//! complete. chromiumoxide's own `Page.navigate` waits for lifecycle events that it sometimes misses, and
//! holds back every later navigation meanwhile. No step waits for an idle network.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::Run;
use super::act::failed;
use crate::browser::cdp::{Trouble, without_query};
use crate::browser::locate;
use crate::model::flow::{Step, Template, is_new_tab, origin_of};
use crate::model::{Failure, FailureCode};

const LOOK_EVERY: Duration = Duration::from_millis(40);
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// Which document the page shows: a number that every new one changes, and the address.
pub(super) type PageMark = Value;

const MARK: &str = "[performance.timeOrigin, location.href]";
const STATE: &str = "[[performance.timeOrigin, location.href], document.readyState, document.title]";

/// What Chromium shows in place of a page that it could not load.
const ERROR_PAGE: &str = "chrome-error://";

/// Starts the navigation; answers whether the page stays and only its fragment changes, and the mark of the
/// page that it leaves: taken in one go, a page that arrives meanwhile by itself is not taken for the one asked for.
const ASSIGN: &str = "((url) => {
  const target = new URL(url);
  const here = new URL(location.href);
  const stays = target.hash !== '' && target.href.split('#')[0] === here.href.split('#')[0];
  setTimeout(() => location.assign(target.href), 0);
  return [stays, [performance.timeOrigin, location.href]];
})";

impl Run<'_> {
    /// The page now. Without its mark any page would look like another one: a page that gives none is a failure.
    pub(super) async fn page_mark(&self, step: &Step) -> Result<PageMark, Failure> {
        self.ask_page(MARK, "the page before the navigation", step).await
    }

    /// Whether the page that is shown may be acted on, however it came there: the flow's list says where its
    /// main frame may be.
    pub(super) async fn inside_origins(&self, step: &Step) -> Result<(), Failure> {
        let origins = &self.flow.origins;
        if origins.is_empty() {
            return Ok(());
        }
        let at = self.ask_page("[location.origin, location.href]", "the page's origin", step).await?;
        let href = at[1].as_str().unwrap_or_default();
        // Neither is anybody's page, and neither can hold what a flow acts on.
        let nowhere = is_new_tab(href) || href.starts_with(ERROR_PAGE);
        if nowhere || origins.iter().any(|origin| at[0] == origin.as_str()) {
            return Ok(());
        }
        let shown = without_query(href);
        let detail = format!("the page is {shown}, which is not in the flow's origins: {}", origins.join(", "));
        Err(Failure::new(FailureCode::OriginBlocked, detail))
    }

    async fn ask_page(&self, expression: &str, what: &str, step: &Step) -> Result<Value, Failure> {
        let until = Instant::now() + step.timeout;
        loop {
            match self.tab.evaluate(expression).await {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= until || matches!(error, Trouble::Lost(_)) => {
                    return Err(failed(error, FailureCode::NavigationFailed, what));
                }
                // Between two pages there is nothing that could answer.
                Err(error) => tracing::debug!(%error, "no page to look at"),
            }
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn navigate(&self, url: &Template, until: Instant) -> Result<(), Failure> {
        let url = self.render(url)?;
        if is_new_tab(&url) {
            return Ok(());
        }
        let shown = without_query(&url).to_owned();
        let origins = &self.flow.origins;
        if !origins.is_empty() && !origin_of(&url).is_some_and(|origin| origins.contains(&origin)) {
            let detail = format!("{shown} is not in the flow's origins: {}", origins.join(", "));
            return Err(Failure::new(FailureCode::OriginBlocked, detail));
        }
        if origin_of(&url).is_none() {
            let detail = format!("`{shown}` is no absolute http or https URL");
            return Err(Failure::new(FailureCode::FlowInvalid, detail));
        }
        let refused = |trouble| failed(trouble, FailureCode::NavigationFailed, &shown);
        self.tab.observed.forget_failed_document();
        let argument = serde_json::to_string(&url)
            .map_err(|error| Failure::new(FailureCode::FlowInvalid, format!("the URL: {error}")))?;
        let begun = self.tab.evaluate(&format!("{ASSIGN}({argument})")).await.map_err(refused)?;
        if begun[0] == true {
            return Ok(());
        }
        self.looking(self.loaded(&begun[1], &shown, until)).await
    }

    /// Back to the empty page that a flow begins with. A page that stays all the same is left by the flow's own first
    /// navigation, or is told by it.
    pub(super) async fn leave(&self) {
        let until = Instant::now() + LEAVE_DEADLINE;
        let left = async {
            let begun = self.tab.evaluate(&format!("{ASSIGN}('about:blank')")).await;
            let begun = begun.map_err(|trouble| failed(trouble, FailureCode::NavigationFailed, "the empty page"))?;
            self.loaded(&begun[1], "the empty page", until).await
        };
        if let Ok(Err(failure)) = timeout_at(until, left).await {
            tracing::debug!(%failure, "the page of the look before the flow is not left");
        }
    }

    /// While a navigation is under way the browser may hold every call back until the new page is there.
    async fn state(&self, until: Instant) -> Result<Value, Trouble> {
        timeout_at(until, self.tab.evaluate(STATE)).await.unwrap_or(Err(Trouble::Slow))
    }

    async fn loaded(&self, before: &PageMark, shown: &str, until: Instant) -> Result<(), Failure> {
        loop {
            match self.state(until).await {
                Ok(now) if now[0][0] != before[0] && now[1] == "complete" => {
                    if !now[0][1].as_str().unwrap_or_default().starts_with(ERROR_PAGE) {
                        return Ok(());
                    }
                    let why = self.tab.observed.failed_document();
                    let why = why.unwrap_or_else(|| "the browser shows its error page".to_owned());
                    return Err(Failure::new(FailureCode::NavigationFailed, format!("{shown}: {why}")));
                }
                Ok(_) => {}
                Err(Trouble::Lost(why)) => return Err(locate::lost(&why)),
                // Between two pages there is nothing that could answer.
                Err(error) => tracing::debug!(%error, "no page to look at"),
            }
            if Instant::now() >= until {
                let why = self.tab.observed.failed_document();
                let why = why.unwrap_or_else(|| "it did not load in the step's time".to_owned());
                return Err(Failure::new(FailureCode::NavigationFailed, format!("{shown}: {why}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the navigations that a step asserts, each within the step's timeout. Once armed, being at the
    /// asserted address is not enough: the page must have changed since `before`. Earlier steps may find it changed
    /// already, since recordings put the navigation of a keyDown to its keyUp.
    pub(super) async fn asserted(&mut self, step: &Step, before: Option<PageMark>) -> Result<(), Failure> {
        let until = Instant::now() + step.timeout;
        let moved = self.armed_at.is_some();
        let before = before.unwrap_or_default();
        for asserted in &step.asserted {
            let url = asserted.url.as_ref().map(|url| self.render(url)).transpose()?;
            let title = asserted.title.as_ref().map(|title| self.render(title)).transpose()?;
            self.looking(self.navigated(&before, moved, url.as_deref(), title.as_deref(), until)).await?;
        }
        Ok(())
    }

    async fn navigated(
        &self,
        before: &PageMark,
        moved: bool,
        url: Option<&str>,
        title: Option<&str>,
        until: Instant,
    ) -> Result<(), Failure> {
        let mut seen = String::new();
        loop {
            match self.state(until).await {
                Ok(now) => {
                    let at = now[0][1].as_str().unwrap_or_default();
                    let arrived = match url {
                        Some(url) => at == url && (!moved || &now[0] != before),
                        // The browser's own error page is another document, and complete, too.
                        None => &now[0] != before && !at.starts_with(ERROR_PAGE),
                    };
                    let titled = title.is_none_or(|title| now[2] == title);
                    if arrived && titled && now[1] == "complete" {
                        return Ok(());
                    }
                    without_query(at).clone_into(&mut seen);
                }
                Err(Trouble::Lost(why)) => return Err(locate::lost(&why)),
                // Between two pages there is nothing that could answer.
                Err(error) => tracing::debug!(%error, "no page to look at"),
            }
            if Instant::now() >= until {
                let wanted = url.map_or("another page", without_query);
                let detail = format!("the page should have become {wanted}, it is {seen}");
                return Err(Failure::new(FailureCode::WaitTimedOut, detail));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
