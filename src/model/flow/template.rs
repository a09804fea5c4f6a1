//! Templates: `{{ name }}` in any string of a step.
//!
//! A name and nothing else stands between the braces: a recording that somebody sends is data, and must
//! not be able to compute. minijinja renders, strictly: a name without a value is an error, and nothing
//! is escaped, since the text goes into a page's field and not into HTML.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};

/// A string of a recording, as written; its syntax is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    names: BTreeSet<String>,
}

impl Template {
    /// # Errors
    /// A syntax error, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        if !is_template(text) {
            return Ok(Self { text: text.to_owned(), names: BTreeSet::new() });
        }
        only_names(text)?;
        let environment = environment();
        let template = environment.template_from_str(text).map_err(|error| in_words(&error))?;
        let names = template.undeclared_variables(false).into_iter().collect();
        Ok(Self { text: text.to_owned(), names })
    }

    /// Names that it refers to.
    #[must_use]
    pub const fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// The text with `values` filled in.
    ///
    /// # Errors
    /// A name without a value, in words.
    pub fn render(&self, values: &BTreeMap<String, String>) -> Result<String, String> {
        if !is_template(&self.text) {
            return Ok(self.text.clone());
        }
        environment().render_str(&self.text, values).map_err(|error| in_words(&error))
    }

    /// The one name that is the whole text, where it is.
    #[must_use]
    pub fn sole_name(&self) -> Option<&str> {
        let inner = self.text.trim().strip_prefix("{{")?.strip_suffix("}}")?.trim();
        self.names.iter().map(String::as_str).find(|name| *name == inner)
    }

    #[must_use]
    pub fn as_written(&self) -> &str {
        &self.text
    }
}

fn is_template(text: &str) -> bool {
    text.contains("{{")
}

fn only_names(text: &str) -> Result<(), String> {
    if text.contains("{%") || text.contains("{#") {
        return Err("only `{{ name }}` is allowed, no statements and no comments".to_owned());
    }
    for part in text.split("{{").skip(1) {
        let (inner, _) = part.split_once("}}").ok_or("a `{{` that is not closed")?;
        let name = inner.trim();
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!("`{name}` is no name; only `{{{{ name }}}}` is allowed"));
        }
    }
    Ok(())
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("only the newline differs from the default"));
    environment
}

fn in_words(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Template;

    #[test]
    fn names_are_filled_in_and_nothing_is_escaped() {
        let values = BTreeMap::from([("caption".to_owned(), "<b> & \"ü\"\n".to_owned())]);
        let template = Template::new("{{ caption }}!\n").unwrap();
        assert_eq!(template.render(&values).unwrap(), "<b> & \"ü\"\n!\n");
        assert_eq!(template.names().iter().map(String::as_str).collect::<Vec<_>>(), ["caption"]);
        assert_eq!(template.sole_name(), None);
        assert_eq!(Template::new(" {{caption }} ").unwrap().sole_name(), Some("caption"));
        for plain in ["a { b } }}", "100 {% off", "{# x #}"] {
            assert_eq!(Template::new(plain).unwrap().render(&values).unwrap(), plain);
        }
    }

    #[test]
    fn a_name_without_a_value_and_bad_syntax_are_errors() {
        assert!(Template::new("{{ other }}").unwrap().render(&BTreeMap::new()).is_err());
        for bad in ["{{ caption", "{{ }}", "{{ a }}{% if a %}", "{{ a b }}", "{{ a * 9 }}", "{{ 'x' }}", "{{ a.b }}"] {
            assert!(Template::new(bad).is_err(), "{bad}");
        }
    }
}
