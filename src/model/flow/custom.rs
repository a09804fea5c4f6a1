//! cove's own steps: `customStep`s, which Chrome and `@puppeteer/replay` let pass.
//!
//! Read with the same strictness as recorded ones: a parameter that nobody reads is an error. Which of them may stand
//! where is [`Place`](super::steps::Place)'s to say.

use std::time::Duration;

use serde_json::{Map, Value};

use super::parse::template;
use super::steps::{Names, Parsed, StepReader};
use super::{Action, ExtractFrom, Step, StopIf, StopReason, StopWhen};

const KNOWN: [&str; 6] = ["upload", "commit", "extract", "screenshot", "optional", "stopIf"];
/// How long an `optional` waits for what may come, in milliseconds.
const APPEARS_MS: std::ops::RangeInclusive<u64> = 1..=30_000;
const DEFAULT_APPEARS_MS: u64 = 2_000;
const MAX_INNER_STEPS: usize = 50;
const MAX_MESSAGE_CHARACTERS: usize = 500;
const MAX_URL_CHARACTERS: usize = 2_000;

/// What a customStep is.
pub(super) enum Custom {
    Commit,
    Action(Box<Action>),
}

impl StepReader<'_> {
    pub(super) fn custom(&mut self, names: &mut Names) -> Option<Custom> {
        let name = self.reader.text(self.step, self.at, "name")?;
        if !KNOWN.contains(&name.as_str()) {
            self.error("/name", format!("unknown step `{name}`; cove knows: {}", KNOWN.join(", ")));
            return None;
        }
        if let Some(message) = self.place.refuses(&name) {
            self.error("/name", message);
            return None;
        }
        if matches!(name.as_str(), "optional" | "stopIf") {
            self.refuse_without_effect(&name);
        }
        let empty = Value::Object(Map::new());
        let parameters = self.step.get("parameters").unwrap_or(&empty);
        let at = format!("{}/parameters", self.at);
        let parameters = self.reader.object(parameters, &at)?;
        let (number, timeout, place) = (self.number, self.timeout, self.place);
        let mut inner = StepReader { reader: self.reader, step: parameters, at: &at, number, timeout, place };
        let action = match name.as_str() {
            "commit" => {
                inner.reader.only(parameters, &at, &[]);
                return Some(Custom::Commit);
            }
            "upload" => inner.upload(names),
            "extract" => inner.extract(names),
            "optional" => inner.optional(names),
            "stopIf" => inner.stop_if(names),
            _ => {
                inner.reader.only(parameters, &at, &["name"]);
                inner.evidence_name().map(|name| Action::Screenshot { name })
            }
        };
        action.map(Box::new).map(Custom::Action)
    }

    /// Steps that wait for nothing of their own.
    fn refuse_without_effect(&mut self, name: &str) {
        for member in ["timeout", "assertedEvents"] {
            if self.step.contains_key(member) {
                let message = match (name, member) {
                    ("optional", "timeout") => "the time of an `optional` stands in its parameters".to_owned(),
                    _ => format!("`{member}` has no effect on `{name}`"),
                };
                self.error(&format!("/{member}"), message);
            }
        }
    }

    fn optional(&mut self, names: &mut Names) -> Option<Action> {
        self.reader.only(self.step, self.at, &["steps", "timeout"]);
        let appears = self.reader.integer_in(self.step, self.at, "timeout", &APPEARS_MS).unwrap_or(DEFAULT_APPEARS_MS);
        let listed = self.reader.list(self.step, self.at, "steps");
        if listed.is_empty() || listed.len() > MAX_INNER_STEPS {
            self.error("/steps", format!("a list of 1 to {MAX_INNER_STEPS} steps is required"));
        }
        let mut steps: Vec<Step> = Vec::new();
        for (number, step) in listed.iter().take(MAX_INNER_STEPS).enumerate() {
            let at = format!("{}/steps/{number}", self.at);
            let (timeout, place) = (self.timeout, self.place.inside());
            let Some(step) = self.reader.object(step, &at) else { continue };
            let reader = StepReader { reader: self.reader, step, at: &at, number, timeout, place };
            if let Some(Parsed::Step(step, uses)) = reader.read() {
                names.extend(uses);
                steps.push(*step);
            }
        }
        let first = steps.first().filter(|step| step.number == 0)?;
        if !looks(&first.action) {
            let message = "the first step looks for what may come: a click, doubleClick, hover, change, upload, \
                waitForElement, waitForExpression, or a scroll of an element";
            self.error("/steps/0", message);
        }
        Some(Action::Optional { steps, appears: Duration::from_millis(appears) })
    }

    fn stop_if(&mut self, names: &mut Names) -> Option<Action> {
        self.reader.only(self.step, self.at, &["selectors", "url", "reason", "message"]);
        let when = match (self.step.contains_key("selectors"), self.step.contains_key("url")) {
            (true, false) => self.selectors(names).map(StopWhen::Visible),
            (false, true) => self.stop_url(names),
            _ => {
                self.error("", "stopIf takes either `selectors` or `url`");
                None
            }
        };
        let reasons = [
            ("needs_human", StopReason::NeedsHuman),
            ("rate_limited", StopReason::RateLimited),
            ("rejected", StopReason::Rejected),
        ];
        let reason = self.reader.one_of(self.step, self.at, "reason", &reasons);
        let message = self.template("message", names)?;
        if !(1..=MAX_MESSAGE_CHARACTERS).contains(&message.as_written().chars().count()) {
            self.error("/message", format!("a message for a person has 1 to {MAX_MESSAGE_CHARACTERS} characters"));
        }
        Some(Action::StopIf(StopIf { when: when?, reason: reason?, message }))
    }

    /// A part of the address. What is left of it without stars and templates must say something.
    fn stop_url(&mut self, names: &mut Names) -> Option<StopWhen> {
        let text = self.template("url", names)?;
        let written = text.as_written();
        let spaces = text.names().is_empty() && written.contains(char::is_whitespace);
        let says = written.chars().any(char::is_alphanumeric);
        if !says || spaces || written.chars().count() > MAX_URL_CHARACTERS {
            let message = format!(
                "a part of the page's address, such as `/login` or `/accounts/*/challenge` (`*` stands for any \
                 characters), of at most {MAX_URL_CHARACTERS} characters, without spaces"
            );
            self.error("/url", message);
            return None;
        }
        Some(StopWhen::UrlContains(text))
    }

    fn upload(&mut self, names: &mut Names) -> Option<Action> {
        self.reader.only(self.step, self.at, &["selectors", "files"]);
        let selectors = self.selectors(names);
        let listed = self.reader.list(self.step, self.at, "files");
        if listed.is_empty() {
            self.error("/files", "at least one file is required, for example [\"{{ video }}\"]");
        }
        let mut files = Vec::new();
        for (number, file) in listed.iter().enumerate() {
            let pointer = format!("{}/files/{number}", self.at);
            match file.as_str() {
                Some(text) => files.extend(template(self.reader, &pointer, text, names)),
                None => self.reader.error(&pointer, "a text is expected, for example \"{{ video }}\""),
            }
        }
        Some(Action::Upload { selectors: selectors?, files })
    }

    fn extract(&mut self, names: &mut Names) -> Option<Action> {
        self.reader.only(self.step, self.at, &["name", "selectors", "attribute", "expression"]);
        let name = self.evidence_name();
        let from = match (self.step.contains_key("selectors"), self.step.contains_key("expression")) {
            (true, false) => {
                let attribute = match self.step.get("attribute") {
                    Some(_) => Some(self.reader.text(self.step, self.at, "attribute")?),
                    None => None,
                };
                ExtractFrom::Element { selectors: self.selectors(names)?, attribute }
            }
            (false, true) => ExtractFrom::Expression(self.template("expression", names)?),
            _ => {
                self.error("", "extract takes either `selectors` (and `attribute`) or `expression`");
                return None;
            }
        };
        Some(Action::Extract { name: name?, from })
    }

    /// A name that becomes a file's or a result's.
    fn evidence_name(&mut self) -> Option<String> {
        let name = self.reader.text(self.step, self.at, "name")?;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if name.is_empty() || name.len() > 64 || !plain {
            self.error("/name", "a name has 1 to 64 of the characters a-z A-Z 0-9 _ -");
            return None;
        }
        Some(name)
    }
}

/// Waits for something of the page before it does anything.
const fn looks(action: &Action) -> bool {
    match action {
        Action::Click { .. }
        | Action::Hover { .. }
        | Action::Change { .. }
        | Action::Upload { .. }
        | Action::WaitForElement { .. }
        | Action::WaitForExpression { .. } => true,
        Action::Scroll { selectors, .. } => selectors.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
