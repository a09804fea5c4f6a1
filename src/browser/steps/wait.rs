//! Waits: for elements and for expressions.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::Run;
use crate::browser::cdp::Trouble;
use crate::browser::locate::{self, Asked, Counted, Wanted};
use crate::model::flow::{Action, Operator, Template};
use crate::model::{Failure, FailureCode};

const LOOK_EVERY: Duration = Duration::from_millis(80);

impl Run<'_> {
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
                Ok(Counted { most: found, whole }) => {
                    let fits = match operator {
                        Operator::AtLeast => found >= *count,
                        Operator::Exactly => whole && found == *count,
                        Operator::AtMost => whole && found <= *count,
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
    pub(super) async fn wait_for_expression(&mut self, wanted: &Template, until: Instant) -> Result<(), Failure> {
        let expression = self.render(wanted)?;
        // What is not there on the browser's error page, or on half a page, proves nothing.
        let truthy = format!(
            "(async () => location.protocol !== 'chrome-error:' && document.readyState !== 'loading' \
             && Boolean(await ({expression})))()"
        );
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
                return Err(Failure::new(FailureCode::WaitTimedOut, format!("{}: {why}", wanted.as_written())));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
