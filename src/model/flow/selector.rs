//! Selectors as the Recorder writes them: a prefix says the kind, none means CSS.
//!
//! The browser is the judge of CSS and of `XPath`; what is checked here is what can be told without one, so
//! that a broken selector is found when the flow is stored and not when it runs.

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
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("aria/") {
            return parse_aria(rest);
        }
        if let Some(rest) = text.strip_prefix("text/") {
            return filled(rest, "text/").map(Self::Text);
        }
        if let Some(rest) = text.strip_prefix("xpath/") {
            return balanced(filled(rest, "xpath/")?).map(Self::XPath);
        }
        if let Some(rest) = text.strip_prefix("pierce/") {
            return balanced(filled(rest, "pierce/")?).map(Self::Pierce);
        }
        balanced(filled(text, "a CSS selector")?).map(Self::Css)
    }
}

fn filled(text: &str, what: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err(format!("{what} needs something to look for")) } else { Ok(text.to_owned()) }
}

/// `Name`, `Name[role="button"]` or `[role="button"]`.
fn parse_aria(text: &str) -> Result<Selector, String> {
    let (name, attributes) = match text.rfind('[').filter(|_| text.trim_end().ends_with(']')) {
        Some(at) => (&text[..at], Some(text[at + 1..].trim_end().trim_end_matches(']'))),
        None => (text, None),
    };
    let Some(attributes) = attributes else {
        return filled(name, "aria/").map(|name| Selector::Aria { name, role: None });
    };
    let (key, value) = attributes.split_once('=').ok_or("aria/ takes [role=\"…\"] behind the name")?;
    let value = value.trim().trim_matches(['"', '\'']).to_owned();
    match key.trim() {
        "role" if !value.is_empty() => Ok(Selector::Aria { name: name.to_owned(), role: Some(value) }),
        "name" if name.trim().is_empty() && !value.is_empty() => Ok(Selector::Aria { name: value, role: None }),
        other => Err(format!("aria/ knows the attributes role and name, not `{other}`")),
    }
}

/// Brackets and quotes that do not close are found without a browser.
fn balanced(text: String) -> Result<String, String> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    for character in text.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, character) {
            (_, '\\') => escaped = true,
            (Some(mark), _) => quote = Some(mark).filter(|mark| *mark != character),
            (None, '"' | '\'') => quote = Some(character),
            (None, '(' | '[') => open.push(character),
            (None, ')') if open.pop() != Some('(') => return Err("a `)` without its `(`".to_owned()),
            (None, ']') if open.pop() != Some('[') => return Err("a `]` without its `[`".to_owned()),
            _ => {}
        }
    }
    match (quote, open.last()) {
        (Some(mark), _) => Err(format!("a {mark} that is not closed")),
        (None, Some(bracket)) => Err(format!("a `{bracket}` that is not closed")),
        (None, None) => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::Selector;

    fn aria(name: &str, role: Option<&str>) -> Selector {
        Selector::Aria { name: name.to_owned(), role: role.map(str::to_owned) }
    }

    #[test]
    fn the_prefix_says_the_kind() {
        let table = [
            ("aria/New post[role=\"button\"]", aria("New post", Some("button"))),
            ("aria/Save [draft]", aria("Save [draft]", None)),
            ("aria/Plain", aria("Plain", None)),
            ("aria/[role='textbox']", aria("", Some("textbox"))),
            ("text/Share it", Selector::Text("Share it".to_owned())),
            ("xpath///input[@name=\"media\"]", Selector::XPath("//input[@name=\"media\"]".to_owned())),
            ("pierce/#a .b", Selector::Pierce("#a .b".to_owned())),
            ("a[href=\"]\"] > b:not(.c)", Selector::Css("a[href=\"]\"] > b:not(.c)".to_owned())),
        ];
        for (text, expected) in table {
            if text == "aria/Save [draft]" {
                assert!(Selector::parse(text).is_err(), "brackets behind a name are attributes");
            } else {
                assert_eq!(Selector::parse(text).unwrap(), expected, "{text}");
            }
        }
    }

    #[test]
    fn what_cannot_be_a_selector_is_said() {
        for bad in ["", "  ", "text/", "aria/", "xpath/", "a[b", "a)", "a[\"x]", "xpath///a[(]", "aria/x[y=\"z\"]"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
