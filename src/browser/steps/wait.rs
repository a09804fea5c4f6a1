//! Waits: for elements, for expressions, for navigations that a step asserts.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::Run;
use crate::browser::cdp::Trouble;
use crate::browser::locate::{self, Asked, Wanted};
use crate::model::flow::{Action, Operator, Step, Template};
use crate::model::{Failure, FailureCode};

const LOOK_EVERY: Duration = Duration::from_millis(80);

/// Which document the page shows: a number that every new one changes, and the address.
pub(super) type PageMark = Value;

const MARK: &str = "[performance.timeOrigin, location.href]";

impl Run<'_> {
    /// Taken before a step that asserts a navigation.
    pub(super) async fn page_mark(&self, step: &Step) -> PageMark {
        if step.asserted.is_empty() {
            return Value::Null;
        }
        self.tab.evaluate(MARK).await.unwrap_or_default()
    }

    pub(super) async fn wait_for_element(
        &mut self,
        action: &Action,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        let Action::WaitForElement { selectors, operator, count, visible, attributes, properties } = action else {
            return Err(Failure::new(FailureCode::Internal, "not a waitForElement"));
        };
        let wanted = Wanted::render(selectors, self.values)?;
        let mut rendered = Map::new();
        for (name, value) in attributes {
            rendered.insert(name.clone(), self.render(value)?.into());
        }
        let asked = Asked {
            visible: visible.unwrap_or(true),
            attributes: Value::Object(rendered),
            properties: json!(properties),
        };
        let sign = match operator {
            Operator::AtLeast => ">=",
            Operator::Exactly => "==",
            Operator::AtMost => "<=",
        };
        let mut seen = None;
        loop {
            match locate::count(self.tab, &wanted, &asked).await {
                Ok(found) => {
                    let fits = match operator {
                        Operator::AtLeast => found >= *count,
                        Operator::Exactly => found == *count,
                        Operator::AtMost => found <= *count,
                    };
                    if fits {
                        *selector = Some(wanted.describe());
                        return Ok(());
                    }
                    seen = Some(found);
                }
                Err(Trouble::Lost(why)) => return Err(locate::lost(&why)),
                Err(error) => tracing::debug!(%error, "a count failed"),
            }
            if Instant::now() >= until {
                let seen = seen.map_or("the page did not answer".to_owned(), |seen| format!("{seen} fit"));
                let detail = format!("{} {sign} {count}: {seen}", wanted.describe());
                return Err(Failure::new(FailureCode::WaitTimedOut, detail));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Until the expression is true; promises are awaited, and what throws is not true yet.
    pub(super) async fn wait_for_expression(&mut self, expression: &Template, until: Instant) -> Result<(), Failure> {
        let expression = self.render(expression)?;
        let truthy = format!("(async () => Boolean(await ({expression})))()");
        let mut why;
        loop {
            match tokio::time::timeout_at(until, self.tab.evaluate(&truthy)).await {
                Ok(Ok(value)) if value == true => return Ok(()),
                Ok(Ok(_)) => why = "it is not true".to_owned(),
                Ok(Err(Trouble::Lost(lost))) => return Err(locate::lost(&lost)),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = "its promise did not settle".to_owned(),
            }
            if Instant::now() >= until {
                return Err(Failure::new(FailureCode::WaitTimedOut, format!("{expression}: {why}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for the navigations that a step asserts, each within the step's timeout.
    pub(super) async fn asserted(&mut self, step: &Step, before: &PageMark) -> Result<(), Failure> {
        let until = Instant::now() + step.timeout;
        for asserted in &step.asserted {
            let url = asserted.url.as_ref().map(|url| self.render(url)).transpose()?;
            let title = asserted.title.as_ref().map(|title| self.render(title)).transpose()?;
            self.navigated(before, url.as_deref(), title.as_deref(), until).await?;
        }
        Ok(())
    }

    async fn navigated(
        &self,
        before: &PageMark,
        url: Option<&str>,
        title: Option<&str>,
        until: Instant,
    ) -> Result<(), Failure> {
        let state = format!("[{MARK}, document.readyState, document.title]");
        let mut seen = String::new();
        loop {
            match self.tab.evaluate(&state).await {
                Ok(now) => {
                    let at = now[0][1].as_str().unwrap_or_default();
                    let arrived = match url {
                        Some(url) => at == url,
                        None => &now[0] != before,
                    };
                    let titled = title.is_none_or(|title| now[2] == title);
                    if arrived && titled && now[1] == "complete" {
                        return Ok(());
                    }
                    crate::browser::cdp::without_query(at).clone_into(&mut seen);
                }
                Err(Trouble::Lost(why)) => return Err(locate::lost(&why)),
                // Between two pages there is nothing that could answer.
                Err(error) => tracing::debug!(%error, "no page to look at"),
            }
            if Instant::now() >= until {
                let wanted = url.map_or("another page", crate::browser::cdp::without_query);
                let detail = format!("the page should have become {wanted}, it is {seen}");
                return Err(Failure::new(FailureCode::WaitTimedOut, detail));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
