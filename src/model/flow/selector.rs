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
            return balanced(filled(rest, "xpath/")?, false).map(Self::XPath);
        }
        if let Some(rest) = text.strip_prefix("pierce/") {
            return balanced(filled(rest, "pierce/")?, true).map(Self::Pierce);
        }
        balanced(filled(text, "a CSS selector")?, true).map(Self::Css)
    }
}

fn filled(text: &str, what: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err(format!("{what} needs something to look for")) } else { Ok(text.to_owned()) }
}

/// `Name`, `Name[role="button"]` or `[role="button"]`; other brackets belong to the name.
fn parse_aria(text: &str) -> Result<Selector, String> {
    let mut name = text.trim();
    let (mut role, mut named) = (None, None);
    while let Some((before, attributes)) = name.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) {
        let Some((key, value)) = attributes.split_once('=') else { break };
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        match key.trim() {
            "role" => role = Some(value),
            "name" => named = Some(value),
            other => return Err(format!("aria/ knows the attributes role and name, not `{other}`")),
        }
        name = before.trim_end();
    }
    let name = named.unwrap_or_else(|| name.to_owned());
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() && role.as_ref().is_none_or(String::is_empty) {
        return Err("aria/ needs a name or a role".to_owned());
    }
    Ok(Selector::Aria { name, role: role.filter(|role| !role.is_empty()) })
}

/// Brackets and quotes that do not close are found without a browser. A backslash means nothing in `XPath`.
fn balanced(text: String, escapes: bool) -> Result<String, String> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    for character in text.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, character) {
            (_, '\\') if escapes => escaped = true,
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
            ("aria/[name=\"x  y\"][role=\"link\"]", aria("x y", Some("link"))),
            ("xpath///a[.='\\']", Selector::XPath("//a[.='\\']".to_owned())),
            ("aria/[role='textbox']", aria("", Some("textbox"))),
            ("text/Share it", Selector::Text("Share it".to_owned())),
            ("xpath///input[@name=\"media\"]", Selector::XPath("//input[@name=\"media\"]".to_owned())),
            ("pierce/#a .b", Selector::Pierce("#a .b".to_owned())),
            ("a[href=\"]\"] > b:not(.c)", Selector::Css("a[href=\"]\"] > b:not(.c)".to_owned())),
        ];
        for (text, expected) in table {
            assert_eq!(Selector::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_selector_is_said() {
        for bad in ["", "  ", "text/", "aria/", "xpath/", "a[b", "a)", "a[\"x]", "xpath///a[(]", "aria/x[y=\"z\"]"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
