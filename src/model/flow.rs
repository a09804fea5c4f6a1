//! A flow: a recording of Chrome DevTools Recorder with cove's custom steps, parsed and checked.
//!
//! SKELETON: signatures that the other rooms rely on; the flow room fills them in.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::InputValue;

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
    pub max_length: Option<u64>,
    pub max_bytes: Option<u64>,
    /// File name endings or media types, as in HTML's `accept`.
    pub accept: Vec<String>,
    pub default: Option<serde_json::Value>,
    pub secret: bool,
}

/// One thing wrong with a recording (or worth a warning).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `error` refuses the flow, `warning` does not.
    pub severity: Severity,
    /// 0-based number of the step, where it is about one.
    pub step: Option<usize>,
    /// JSON pointer into the recording.
    pub pointer: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

/// A checked flow: nothing in it can surprise the replay by its shape.
#[derive(Clone, Debug)]
pub struct Flow {
    pub title: String,
    pub inputs: BTreeMap<String, InputSpec>,
    pub max_duration: Duration,
    // steps etc.: the flow room's.
}

impl Flow {
    /// Parses and checks a recording. On success the second part holds warnings alone.
    ///
    /// # Errors
    /// Every problem at once, warnings included, when at least one is an error.
    pub fn parse(_json: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        unimplemented!("flow room")
    }

    /// Lower-case hex SHA-256 of the recording's bytes: what a task pins.
    #[must_use]
    pub fn hash(_json: &[u8]) -> String {
        unimplemented!("flow room")
    }

    /// Whether a step of it is the commit point; without one the flow is at-least-once.
    #[must_use]
    pub fn has_commit(&self) -> bool {
        unimplemented!("flow room")
    }

    /// Turns one item's raw JSON inputs into values, filling in defaults. File inputs stay text here
    /// (`RawInput::File`): whoever can look at the disk resolves them.
    ///
    /// # Errors
    /// Every wrong input: its name (or the unknown name) and what is allowed.
    pub fn take_inputs(
        &self,
        _raw: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<BTreeMap<String, RawInput>, Vec<InputProblem>> {
        unimplemented!("flow room")
    }
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
