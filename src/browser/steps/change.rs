//! `change`: a new value for whatever the element is.
//!
//! Text goes in as a person's would, by focus, select all and insert, so that the page's own input events
//! run; and it is read back, since rich editors rebuild their DOM and may refuse. Rich editors show their
//! text with line breaks of their own, so whitespace is compared loosely.

use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::input::InsertTextParams;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Run;
use super::act::failed;
use crate::browser::cdp::Handle;
use crate::browser::locate::{self, Wanted};
use crate::model::flow::Selectors;
use crate::model::{Failure, FailureCode};

const READ_BACK_EVERY: Duration = Duration::from_millis(50);
/// Of a value in a message.
const SHOWN_CHARACTERS: usize = 80;

const KIND: &str = "function () {
  if (this instanceof HTMLSelectElement) return 'select';
  if (this instanceof HTMLTextAreaElement) return 'text';
  if (this instanceof HTMLInputElement) {
    if (['checkbox', 'radio'].includes(this.type)) return 'check';
    if (['color', 'date', 'datetime-local', 'month', 'range', 'time', 'week'].includes(this.type)) return 'native';
    if (['button', 'file', 'hidden', 'image', 'reset', 'submit'].includes(this.type)) return 'none';
    return 'text';
  }
  return this.isContentEditable ? 'editable' : 'none';
}";

/// Options by value, then by what they show; all that the page offers where none fits.
const SELECT: &str = "function (wanted) {
  const options = [...this.options];
  const squeeze = (text) => text.replace(/\\s+/g, ' ').trim();
  const option = options.find((option) => option.value === wanted)
    ?? options.find((option) => squeeze(option.label || option.text) === squeeze(wanted));
  if (!option || option.disabled) return options.map((option) => option.value);
  if (this.multiple) options.forEach((other) => { other.selected = other === option; });
  else this.value = option.value;
  this.dispatchEvent(new Event('input', { bubbles: true }));
  this.dispatchEvent(new Event('change', { bubbles: true }));
  return null;
}";

/// Through the setter of the prototype: frameworks replace the element's own.
const NATIVE: &str = "function (wanted) {
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
  this.focus();
  set.call(this, wanted);
  this.dispatchEvent(new Event('input', { bubbles: true }));
  this.dispatchEvent(new Event('change', { bubbles: true }));
  return this.value;
}";

const SELECT_ALL: &str = "function () {
  this.focus();
  if (typeof this.select === 'function') this.select();
  else getSelection().selectAllChildren(this);
  return this.isContentEditable ? this.innerText : this.value;
}";

const READ: &str = "function () { return this.isContentEditable ? this.innerText : this.value; }";

/// What leaving the field would say.
const CHANGED: &str = "function () { this.dispatchEvent(new Event('change', { bubbles: true })); }";

impl Run<'_> {
    pub(super) async fn change(
        &mut self,
        selectors: &Selectors,
        value: &str,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        let wanted = Wanted::render(selectors, self.values)?;
        let (found, point) = self.looking(locate::actionable(self.tab, &wanted, None, until)).await?;
        *selector = Some(found.selector.clone());
        let refused = |trouble| failed(trouble, FailureCode::TextNotAccepted, &found.selector);
        let kind = self.tab.value_of(&found.handle, KIND, &[]).await.map_err(refused)?;
        match kind.as_str() {
            Some("select") => {
                let offered = self.tab.value_of(&found.handle, SELECT, &[json!(value)]).await.map_err(refused)?;
                if offered.is_null() {
                    return Ok(());
                }
                let told = format!("no option `{}`; it offers {offered}", shown(value));
                Err(not_accepted(&found.selector, self.unless_secret(value, &told)))
            }
            Some("check") => {
                let on = matches!(value, "true" | "on" | "1" | "checked");
                let state = "function () { return this.checked; }";
                if self.tab.value_of(&found.handle, state, &[]).await.map_err(refused)? != on {
                    self.click(point, crate::model::flow::MouseButton::Primary, 1).await?;
                    if self.tab.value_of(&found.handle, state, &[]).await.map_err(refused)? != on {
                        return Err(not_accepted(&found.selector, &format!("it did not turn {on}")));
                    }
                }
                Ok(())
            }
            Some("native") => {
                let kept = self.tab.value_of(&found.handle, NATIVE, &[json!(value)]).await.map_err(refused)?;
                // A colour comes back in lower case.
                if kept.as_str().is_some_and(|kept| kept.eq_ignore_ascii_case(value)) {
                    return Ok(());
                }
                let told = format!("it keeps {kept} and not `{}`", shown(value));
                Err(not_accepted(&found.selector, self.unless_secret(value, &told)))
            }
            Some("text" | "editable") => self.type_text(&wanted, &found.handle, &found.selector, value, until).await,
            _ => Err(not_accepted(&found.selector, "it is not a field that can be changed")),
        }
    }

    async fn type_text(
        &mut self,
        wanted: &Wanted,
        field: &Handle,
        selector: &str,
        value: &str,
        until: Instant,
    ) -> Result<(), Failure> {
        let refused = |trouble| failed(trouble, FailureCode::TextNotAccepted, selector);
        let before = self.tab.value_of(field, SELECT_ALL, &[]).await.map_err(refused)?;
        if !value.is_empty() {
            self.tab.call(InsertTextParams::new(value)).await.map_err(refused)?;
        } else if before.as_str().is_some_and(|before| !before.trim().is_empty()) {
            self.key_down("Delete").await?;
            self.key_up("Delete").await?;
        }
        let mut held = self.read_back(field, wanted, until).await?;
        while squeeze(&held) != squeeze(value) {
            if Instant::now() >= until {
                let told = format!("it shows `{}` and not `{}`", shown(&held), shown(value));
                return Err(not_accepted(selector, self.unless_secret(value, &told)));
            }
            sleep(READ_BACK_EVERY).await;
            held = self.read_back(field, wanted, until).await?;
        }
        // An editor that replaced the element has heard its own events.
        if let Err(error) = self.tab.value_of(field, CHANGED, &[]).await {
            tracing::debug!(%error, "no change event");
        }
        Ok(())
    }

    /// A message, unless it would tell of a secret: a part of one that a page kept is not known from other text.
    fn unless_secret<'a>(&self, put_in: &str, message: &'a str) -> &'a str {
        if self.evidence.is_secret(put_in) { "it does not show the secret that was put in" } else { message }
    }

    /// What the field holds now; an editor may have put another element in its place.
    async fn read_back(&self, field: &Handle, wanted: &Wanted, until: Instant) -> Result<String, Failure> {
        let connected = "function () { return this.isConnected; }";
        if let Ok(connected) = self.tab.value_of(field, connected, &[]).await
            && connected == true
            && let Ok(text) = self.tab.value_of(field, READ, &[]).await
        {
            return Ok(text.as_str().unwrap_or_default().to_owned());
        }
        let found = locate::attached(self.tab, wanted, until).await?;
        let text = self.tab.value_of(&found.handle, READ, &[]).await;
        let text = text.map_err(|trouble| failed(trouble, FailureCode::TextNotAccepted, &found.selector))?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }
}

fn not_accepted(selector: &str, why: &str) -> Failure {
    Failure::new(FailureCode::TextNotAccepted, format!("{selector}: {why}"))
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}

/// Runs of whitespace are one space, and what has no width is nothing.
fn squeeze(text: &str) -> String {
    let seen: String = text.chars().filter(|c| !matches!(c, '\u{200b}' | '\u{feff}' | '\u{2060}')).collect();
    seen.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::squeeze;

    #[test]
    fn whitespace_of_editors_is_compared_loosely() {
        assert_eq!(squeeze("a\n\n\nb\u{a0}c\u{200b}"), squeeze("a\n\nb c"));
        assert_ne!(squeeze("ab"), squeeze("a b"));
    }
}
