//! Selectors as the Recorder writes them: a prefix says the kind, none means CSS.

/// One selector, rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Css(String),
    /// By accessible name and, where given, role (`aria/Name[role="button"]`).
    Aria {
        name: String,
        role: Option<String>,
    },
    /// The smallest element that contains the text.
    Text(String),
    XPath(String),
    /// CSS that looks into open shadow roots.
    Pierce(String),
}

impl Selector {
    /// # Errors
    /// What is wrong with it and what is allowed.
    pub fn parse(_text: &str) -> Result<Self, String> {
        unimplemented!()
    }
}
