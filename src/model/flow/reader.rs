//! Reading JSON fields and collecting what is wrong with them, each with its pointer.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Problem, Severity};

/// Problems told of one recording; the rest is as wrong.
const MAX_PROBLEMS: usize = 200;

#[derive(Default)]
pub(super) struct Reader {
    problems: Vec<Problem>,
    /// An error was found, told or not.
    failed: bool,
    /// The step that is being read.
    pub step: Option<usize>,
}

/// A member's name as a part of a JSON pointer.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

impl Reader {
    pub fn error(&mut self, pointer: &str, message: impl Into<String>) {
        self.note(Severity::Error, pointer, message.into());
    }

    pub fn warning(&mut self, pointer: &str, message: impl Into<String>) {
        self.note(Severity::Warning, pointer, message.into());
    }

    /// Of a step that was read before.
    pub fn error_at(&mut self, step: Option<usize>, pointer: &str, message: impl Into<String>) {
        let reading = std::mem::replace(&mut self.step, step);
        self.error(pointer, message);
        self.step = reading;
    }

    pub fn warning_at(&mut self, step: Option<usize>, pointer: &str, message: impl Into<String>) {
        let reading = std::mem::replace(&mut self.step, step);
        self.warning(pointer, message);
        self.step = reading;
    }

    fn note(&mut self, severity: Severity, pointer: &str, message: String) {
        self.failed |= severity == Severity::Error;
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { severity, step: self.step, pointer: pointer.to_owned(), message });
        } else if severity == Severity::Error
            && let Some(warning) = self.problems.iter().rposition(|problem| problem.severity == Severity::Warning)
        {
            self.problems.remove(warning);
            self.problems.push(Problem { severity, step: self.step, pointer: pointer.to_owned(), message });
        }
    }

    /// What is told, and whether there was an error: one that came after too many problems refuses the flow, too.
    pub fn finish(self) -> (Vec<Problem>, bool) {
        (self.problems, self.failed)
    }

    pub fn object<'a>(&mut self, value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.error(pointer, "an object is expected");
        }
        object
    }

    /// Reports members that nobody reads: a misspelled one would be silently without effect.
    pub fn only(&mut self, object: &Map<String, Value>, at: &str, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            self.error(&format!("{at}/{}", escape(name)), format!("unknown; allowed here: {}", known.join(", ")));
        }
    }

    /// A required text.
    pub fn text(&mut self, object: &Map<String, Value>, at: &str, name: &str) -> Option<String> {
        let text = object.get(name).and_then(Value::as_str).map(str::to_owned);
        if text.is_none() {
            self.error(&format!("{at}/{name}"), "a text is required");
        }
        text
    }

    pub fn boolean(&mut self, object: &Map<String, Value>, at: &str, name: &str) -> Option<bool> {
        let value = object.get(name)?;
        if !value.is_boolean() {
            self.error(&format!("{at}/{name}"), "true or false is expected");
        }
        value.as_bool()
    }

    pub fn number(&mut self, object: &Map<String, Value>, at: &str, name: &str) -> Option<f64> {
        let value = object.get(name)?;
        let number = value.as_f64().filter(|number| number.is_finite());
        if number.is_none() {
            self.error(&format!("{at}/{name}"), "a number is expected");
        }
        number
    }

    pub fn integer_in(
        &mut self,
        object: &Map<String, Value>,
        at: &str,
        name: &str,
        range: &RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = object.get(name)?;
        let number = value.as_u64().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("a whole number from {} to {} is expected, not {value}", range.start(), range.end());
            self.error(&format!("{at}/{name}"), message);
        }
        number
    }

    /// A list; missing is empty.
    pub fn list<'a>(&mut self, object: &'a Map<String, Value>, at: &str, name: &str) -> &'a [Value] {
        match object.get(name) {
            None => &[],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.error(&format!("{at}/{name}"), "a list is expected");
                &[]
            }
        }
    }

    /// A required word of a table.
    pub fn one_of<T: Copy>(
        &mut self,
        object: &Map<String, Value>,
        at: &str,
        name: &str,
        table: &[(&str, T)],
    ) -> Option<T> {
        let word = object.get(name).and_then(Value::as_str);
        let found = table.iter().find(|(text, _)| Some(*text) == word).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<_> = table.iter().map(|(text, _)| *text).collect();
            self.error(&format!("{at}/{name}"), format!("one of: {}", allowed.join(", ")));
        }
        found
    }
}
