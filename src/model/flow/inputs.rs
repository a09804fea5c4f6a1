//! Inputs: what a flow declares, and one item's values checked against it.
//!
//! Every wrong input of an item is found at once. A file is only named here: whoever can look at the
//! disk resolves it. An optional input that is missing renders as nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::InputValue;

/// Longest text where the flow says nothing, in characters.
pub const MAX_TEXT_CHARACTERS: u64 = 100_000;

/// What an input may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputType {
    Text,
    File,
    Url,
    Number,
    Bool,
}

impl InputType {
    const fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::File => "the absolute path of a file under a media root, or \"sha256:<hex>\" of uploaded media",
            Self::Url => "an absolute http or https URL",
            Self::Number => "a number",
            Self::Bool => "true or false",
        }
    }
}

/// One declared input (`cove.inputs` of the recording).
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    pub kind: InputType,
    pub required: bool,
    /// In characters.
    pub max_length: Option<u64>,
    pub max_bytes: Option<u64>,
    /// File name endings or media types, as in HTML's `accept`.
    pub accept: Vec<String>,
    pub default: Option<Value>,
    pub secret: bool,
}

/// An input whose form is right; a file is still only named.
#[derive(Clone, Debug, PartialEq)]
pub enum RawInput {
    Value(InputValue),
    /// An absolute path, or `sha256:<hex>`.
    File(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputProblem {
    pub input: String,
    pub message: String,
}

pub(super) fn take(
    specs: &BTreeMap<String, InputSpec>,
    raw: &Map<String, Value>,
) -> Result<BTreeMap<String, RawInput>, Vec<InputProblem>> {
    let mut problems = Vec::new();
    let mut wrong = |input: &str, message: String| problems.push(InputProblem { input: input.to_owned(), message });
    for name in raw.keys().filter(|name| !specs.contains_key(*name)) {
        let known: Vec<_> = specs.keys().map(String::as_str).collect();
        wrong(name, format!("the flow has no such input; it has: {}", known.join(", ")));
    }
    let mut taken = BTreeMap::new();
    for (name, spec) in specs {
        match raw.get(name).filter(|value| !value.is_null()).or(spec.default.as_ref()) {
            None if spec.required => wrong(name, format!("this input is required: {}", spec.kind.expected())),
            None => {
                if let Some(nothing) = nothing(spec.kind) {
                    taken.insert(name.clone(), nothing);
                }
            }
            Some(value) => match read(spec, value) {
                Ok(input) => drop(taken.insert(name.clone(), input)),
                Err(message) => wrong(name, message),
            },
        }
    }
    if problems.is_empty() { Ok(taken) } else { Err(problems) }
}

/// An optional input that is missing. A file that is missing is no file at all.
const fn nothing(kind: InputType) -> Option<RawInput> {
    match kind {
        InputType::File => None,
        InputType::Bool => Some(RawInput::Value(InputValue::Bool(false))),
        InputType::Text | InputType::Url | InputType::Number => Some(RawInput::Value(InputValue::Text(String::new()))),
    }
}

pub(super) fn read(spec: &InputSpec, value: &Value) -> Result<RawInput, String> {
    let value = match (spec.kind, value) {
        (InputType::Text, Value::String(text)) => {
            let limit = spec.max_length.unwrap_or(MAX_TEXT_CHARACTERS);
            let length = text.chars().count() as u64;
            if length > limit {
                return Err(format!("{length} characters; at most {limit} are allowed"));
            }
            if spec.required && text.is_empty() {
                return Err("this input is required and must not be empty".to_owned());
            }
            InputValue::Text(text.clone())
        }
        (InputType::File, Value::String(name)) if name.starts_with('/') || name.starts_with("sha256:") => {
            return Ok(RawInput::File(name.clone()));
        }
        (InputType::Url, Value::String(url)) if is_url(url) => InputValue::Url(url.clone()),
        (InputType::Number, Value::Number(number)) => {
            InputValue::Number(number.as_f64().ok_or("a number of ordinary size is expected")?)
        }
        (InputType::Bool, Value::Bool(flag)) => InputValue::Bool(*flag),
        (kind, other) => return Err(format!("{} is expected, not {}", kind.expected(), name_of(other))),
    };
    Ok(RawInput::Value(value))
}

pub(super) fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        !rest.is_empty() && !rest.starts_with('/') && !url.contains(|c: char| c.is_whitespace() || c.is_control())
    })
}

const fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "this text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::InputValue;
    use super::{InputSpec, InputType, RawInput, take};

    fn spec(kind: InputType, required: bool) -> InputSpec {
        InputSpec { kind, required, max_length: Some(5), max_bytes: None, accept: vec![], default: None, secret: false }
    }

    #[test]
    fn every_wrong_input_is_found_at_once() {
        let specs = [
            ("text", spec(InputType::Text, true)),
            ("file", spec(InputType::File, true)),
            ("url", spec(InputType::Url, true)),
            ("number", spec(InputType::Number, true)),
            ("bool", spec(InputType::Bool, true)),
            ("gone", spec(InputType::Text, true)),
        ];
        let specs = specs.map(|(name, spec)| (name.to_owned(), spec)).into();
        let raw = json!({"text": "too long", "file": "relative.mp4", "url": "ftp://x", "number": "7", "bool": 1,
            "other": 0});
        let problems = take(&specs, raw.as_object().unwrap()).unwrap_err();
        let names: Vec<_> = problems.iter().map(|problem| problem.input.as_str()).collect();
        assert_eq!(names, ["other", "bool", "file", "gone", "number", "text", "url"]);
        assert!(problems[0].message.contains("it has: bool, file"), "{problems:?}");
        assert!(problems[5].message.contains("at most 5"), "{problems:?}");
    }

    #[test]
    fn defaults_and_missing_optional_ones_are_filled_in() {
        let mut with_default = spec(InputType::Number, true);
        with_default.default = Some(json!(2.5));
        let specs = [("n", with_default), ("t", spec(InputType::Text, false)), ("f", spec(InputType::File, false))];
        let specs = specs.map(|(name, spec)| (name.to_owned(), spec)).into();
        let taken = take(&specs, json!({"f": null}).as_object().unwrap()).unwrap();
        assert_eq!(taken["n"], RawInput::Value(InputValue::Number(2.5)));
        assert_eq!(taken["t"], RawInput::Value(InputValue::Text(String::new())));
        assert!(!taken.contains_key("f"));
    }
}
