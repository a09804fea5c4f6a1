//! Inputs: what a flow declares, and one item's values checked against it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::InputValue;

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
    pub default: Option<serde_json::Value>,
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
    _specs: &BTreeMap<String, InputSpec>,
    _raw: &serde_json::Map<String, serde_json::Value>,
) -> Result<BTreeMap<String, RawInput>, Vec<InputProblem>> {
    unimplemented!()
}
