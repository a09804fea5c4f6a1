//! Templates: `{{ name }}` in any string of a step.

use std::collections::BTreeMap;

/// A string of a recording, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(String);

impl Template {
    /// # Errors
    /// A syntax error, in words.
    pub fn new(_text: &str) -> Result<Self, String> {
        unimplemented!()
    }

    /// Names that it refers to.
    #[must_use]
    pub fn names(&self) -> std::collections::BTreeSet<String> {
        unimplemented!()
    }

    /// The text with `values` filled in.
    ///
    /// # Errors
    /// A name without a value, in words.
    pub fn render(&self, _values: &BTreeMap<String, String>) -> Result<String, String> {
        unimplemented!()
    }

    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.0
    }
}
