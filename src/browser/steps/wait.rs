//! Waits: for elements and for expressions.
//!
//! A wait is looked at once ([`Wait::look`]) or until its step's time is over. What a look saw is told apart from a
//! look that saw nothing: a page that does not answer, and a count that could not be made, prove neither that
//! something is there nor that it is not.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::Run;
use crate::browser::cdp::{Tab, Trouble};
use crate::browser::locate::{self, Asked, Counted, Wanted};
use crate::model::flow::{Action, Operator};
use crate::model::{Failure, FailureCode};

const LOOK_EVERY: Duration = Duration::from_millis(80);
/// Within the grace that a step has beyond its time.
const LAST_LOOK: Duration = Duration::from_millis(500);

/// What a wait waits for, with its templates filled in.
pub(super) enum Wait {
    Element { wanted: Wanted, asked: Asked, operator: Operator, count: u32 },
    Expression { truthy: String, written: String },
}

/// What one look saw.
pub(super) enum Look {
    True,
    /// The page answered, and it is not so.
    False(String),
    /// The expression threw: not true, and perhaps never to be.
    Threw(String),
    /// Nothing can be said.
    Unclear(String),
}

/// How a wait ended that did not find what it waits for.
struct TimedOut {
    failure: Failure,
    /// Its last look was a look.
    looked: bool,
}

impl Wait {
    /// One look, which lasts until `until` at most where an expression's promise does not settle.
    pub(super) async fn look(&self, tab: &Tab, until: Instant) -> Result<Look, Failure> {
        let looked = match self {
            Self::Element { wanted, asked, operator, count } => {
                locate::count(tab, wanted, asked).await.map(|counted| fits(counted, *operator, *count))
            }
            Self::Expression { truthy, .. } => match timeout_at(until, tab.evaluate(truthy)).await {
                Ok(Ok(value)) if value == true => Ok(Look::True),
                Ok(Ok(value)) if value.is_null() => Ok(Look::Unclear("there is no whole page".to_owned())),
                Ok(Ok(_)) => Ok(Look::False("it is not true".to_owned())),
                Ok(Err(trouble)) => Err(trouble),
                Err(_) => Ok(Look::Unclear("its promise did not settle".to_owned())),
            },
        };
        match looked {
            Ok(look) => Ok(look),
            Err(Trouble::Lost(why)) => Err(locate::lost(&why)),
            Err(Trouble::Threw(why)) => Ok(Look::Threw(why)),
            Err(error) => Ok(Look::Unclear(error.to_string())),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Element { wanted, operator, count, .. } => {
                let sign = match operator {
                    Operator::AtLeast => ">=",
                    Operator::Exactly => "==",
                    Operator::AtMost => "<=",
                };
                format!("{} {sign} {count}", wanted.describe())
            }
            Self::Expression { written, .. } => written.clone(),
        }
    }
}

fn fits(Counted { most, whole }: Counted, operator: Operator, count: u32) -> Look {
    let enough = match operator {
        Operator::AtLeast => most >= count,
        Operator::Exactly => whole && most == count,
        Operator::AtMost => whole && most <= count,
    };
    match (enough, whole) {
        (true, _) => Look::True,
        (false, true) => Look::False(format!("{most} fit")),
        (false, false) => Look::Unclear(format!("{most} fit, and not all could be counted")),
    }
}

impl Run<'_> {
    /// The wait of a step; None for every other action.
    pub(super) fn wait_of(&self, action: &Action) -> Result<Option<Wait>, Failure> {
        match action {
            Action::WaitForElement { selectors, operator, count, visible, attributes, properties } => {
                let mut rendered = Map::new();
                for (name, value) in attributes {
                    rendered.insert(name.clone(), self.render(value)?.into());
                }
                let asked = Asked {
                    visible: visible.unwrap_or(true),
                    attributes: Value::Object(rendered),
                    properties: json!(properties),
                };
                let wanted = Wanted::render(selectors, self.values)?;
                Ok(Some(Wait::Element { wanted, asked, operator: *operator, count: *count }))
            }
            Action::WaitForExpression { expression } => {
                // What is not there on the browser's error page, or on half a page, proves nothing.
                let truthy = format!(
                    "(async () => location.protocol !== 'chrome-error:' && document.readyState !== 'loading' \
                     ? Boolean(await ({})) : null)()",
                    self.render(expression)?
                );
                Ok(Some(Wait::Expression { truthy, written: expression.as_written().to_owned() }))
            }
            _ => Ok(None),
        }
    }

    /// Until it is so. Promises are awaited, and what throws is not true yet.
    pub(super) async fn wait_for(
        &mut self,
        wait: &Wait,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        // Whatever interrupts the wait, its last look is not taken for one.
        self.looked = false;
        match self.looking(self.waited(wait, until)).await? {
            Ok(()) => {
                if let Wait::Element { wanted, .. } = wait {
                    *selector = Some(wanted.describe());
                }
                Ok(())
            }
            Err(TimedOut { failure, looked }) => {
                self.looked = looked;
                Err(failure)
            }
        }
    }

    async fn waited(&self, wait: &Wait, until: Instant) -> Result<Result<(), TimedOut>, Failure> {
        loop {
            // The last look is a whole one, too: what it sees is what the wait ends with.
            let (why, looked) = match wait.look(self.tab, until.max(Instant::now() + LAST_LOOK)).await? {
                Look::True => return Ok(Ok(())),
                Look::False(why) => (why, true),
                Look::Threw(why) | Look::Unclear(why) => (why, false),
            };
            if Instant::now() >= until {
                let failure = Failure::new(FailureCode::WaitTimedOut, format!("{}: {why}", wait.describe()));
                return Ok(Err(TimedOut { failure, looked }));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
