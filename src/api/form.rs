//! Reading JSON by hand, so that every wrong field of a request is told at once, each with its pointer.
//!
//! Handlers with a JSON body read it through [`Walk`]. It knows types, bounds and unknown names; what a
//! field means is the handler's. Invariant: nothing is ignored, neither an unknown field nor a value of
//! another type; an optional field that is null counts as absent. At most [`MAX_FIELD_ERRORS`] wrong
//! fields are told (and one more is kept, to know that there were more).

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{ApiError, Code, FieldError, MAX_FIELD_ERRORS};

/// Of the address of a published thing.
const MAX_URL_BYTES: usize = 2_048;

/// The pointer to a member of what `base` points to.
pub fn pointer(base: &str, member: impl Display) -> String {
    format!("{base}/{}", member.to_string().replace('~', "~0").replace('/', "~1"))
}

#[derive(Default)]
pub struct Walk {
    errors: Vec<FieldError>,
}

impl Walk {
    pub fn wrong(&mut self, code: Code, pointer: impl Into<String>, detail: impl Into<String>) {
        self.report(FieldError::new(code, pointer, detail));
    }

    pub fn report(&mut self, error: FieldError) {
        if !self.is_full() {
            self.errors.push(error);
        }
    }

    /// More wrong fields would not be told: looking for them is in vain.
    pub fn is_full(&self) -> bool {
        self.errors.len() > MAX_FIELD_ERRORS
    }

    pub fn is_clean(&self) -> bool {
        self.errors.is_empty()
    }

    /// # Errors
    /// The wrong fields, if there are any.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.errors.is_empty() { Ok(()) } else { Err(ApiError::fields(self.errors)) }
    }

    /// An object with no other fields than `known`.
    pub fn object<'a>(&mut self, value: &'a Value, at: &str, known: &[&str]) -> Option<&'a Map<String, Value>> {
        let fields = self.map(value, at)?;
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let allowed = known.join(", ");
            self.wrong(
                Code::UnknownField,
                pointer(at, name),
                format!("Not a field of this request; known: {allowed}."),
            );
        }
        Some(fields)
    }

    /// An object with any fields.
    pub fn map<'a>(&mut self, value: &'a Value, at: &str) -> Option<&'a Map<String, Value>> {
        let fields = value.as_object();
        if fields.is_none() {
            self.wrong(Code::InvalidField, at, format!("Expected an object, got {}.", kind(value)));
        }
        fields
    }

    pub fn array<'a>(&mut self, value: &'a Value, at: &str) -> Option<&'a Vec<Value>> {
        let items = value.as_array();
        if items.is_none() {
            self.wrong(Code::InvalidField, at, format!("Expected a list, got {}.", kind(value)));
        }
        items
    }

    pub fn string<'a>(&mut self, value: &'a Value, at: &str) -> Option<&'a str> {
        let text = value.as_str();
        if text.is_none() {
            self.wrong(Code::InvalidField, at, format!("Expected a string, got {}.", kind(value)));
        }
        text
    }

    /// A field that has to be there, and not null.
    pub fn required<'a>(&mut self, fields: &'a Map<String, Value>, at: &str, name: &str) -> Option<&'a Value> {
        let value = optional(fields, name);
        if value.is_none() {
            self.wrong(Code::MissingField, pointer(at, name), format!("`{name}` is missing."));
        }
        value
    }

    /// A whole number within bounds; None where it is absent or wrong.
    pub fn integer(
        &mut self,
        fields: &Map<String, Value>,
        at: &str,
        name: &str,
        range: &RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = optional(fields, name)?;
        let number = whole_number(value).filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.wrong(
                Code::InvalidField,
                pointer(at, name),
                format!("Expected a whole number from {least} to {most}."),
            );
        }
        number
    }

    /// A duration within bounds, in whole seconds; None where it is absent or wrong.
    pub fn seconds(
        &mut self,
        fields: &Map<String, Value>,
        at: &str,
        name: &str,
        range: &RangeInclusive<i64>,
    ) -> Option<Duration> {
        self.integer(fields, at, name, range).map(|seconds| Duration::from_secs(seconds.unsigned_abs()))
    }

    /// Text that parses to `T`; None where it is absent or wrong.
    pub fn parsed<T>(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let at = pointer(at, name);
        let text = self.string(optional(fields, name)?, &at)?;
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.wrong(Code::InvalidField, at, format!("{error}."));
                None
            }
        }
    }

    /// The address of a page, which people will click on; None where it is absent or wrong.
    pub fn web_address(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Option<String> {
        let at = pointer(at, name);
        let url = self.string(optional(fields, name)?, &at)?;
        let web = url.starts_with("http://") || url.starts_with("https://");
        if !web || url.len() > MAX_URL_BYTES || url.chars().any(char::is_control) {
            let detail = format!("Expected an http or https address of at most {MAX_URL_BYTES} bytes.");
            self.wrong(Code::InvalidField, at, detail);
            return None;
        }
        Some(url.to_owned())
    }

    /// A boolean; None where it is absent or wrong.
    pub fn boolean(&mut self, fields: &Map<String, Value>, at: &str, name: &str) -> Option<bool> {
        let value = optional(fields, name)?;
        if value.as_bool().is_none() {
            self.wrong(Code::InvalidField, pointer(at, name), format!("Expected true or false, got {}.", kind(value)));
        }
        value.as_bool()
    }
}

/// JSON has one kind of number: 5.0 is 5.
fn whole_number(value: &Value) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough to be exact")]
    let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 2_f64.powi(53)).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(whole))
}

/// A field that may be absent or null.
pub fn optional<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_wrong_fields_are_told_with_their_pointers() {
        let mut walk = Walk::default();
        let body = json!({"a/b~c": 1, "count": 7, "when": "soon", "on": "yes", "name": 5, "null": null});
        let fields = walk.object(&body, "", &["count", "when", "on", "name", "null"]).unwrap();
        assert_eq!(walk.integer(fields, "", "count", &(0..=6)), None);
        assert_eq!(walk.integer(fields, "", "absent", &(0..=6)), None);
        assert_eq!(walk.integer(fields, "", "null", &(0..=6)), None);
        assert_eq!(walk.parsed::<crate::model::Timestamp>(fields, "", "when"), None);
        assert_eq!(walk.boolean(fields, "", "on"), None);
        assert_eq!(walk.string(&fields["name"], "/name"), None);
        assert!(walk.required(fields, "", "null").is_none());
        let pointers: Vec<_> = walk.errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/a~1b~0c", "/count", "/when", "/on", "/name", "/null"]);
        assert_eq!(walk.finish().unwrap_err().code(), Code::InvalidRequest);
    }

    #[test]
    fn what_is_right_is_taken() {
        let mut walk = Walk::default();
        let body = json!({"count": -3, "when": "2026-12-01T09:00:00Z", "on": true});
        let fields = walk.object(&body, "", &["count", "when", "on"]).unwrap();
        assert_eq!(walk.integer(fields, "", "count", &(-3..=3)), Some(-3));
        assert!(walk.parsed::<crate::model::Timestamp>(fields, "", "when").is_some());
        assert_eq!(walk.boolean(fields, "", "on"), Some(true));
        assert!(walk.finish().is_ok());
        for (number, taken) in [(json!(2.0), Some(2)), (json!(1.5), None), (json!(1e300), None), (json!(-0.0), Some(0))]
        {
            let mut walk = Walk::default();
            let body = json!({"count": number});
            assert_eq!(walk.integer(body.as_object().unwrap(), "", "count", &(0..=3)), taken, "{body}");
            assert_eq!(walk.is_clean(), taken.is_some());
        }
    }

    #[test]
    fn only_what_a_person_may_click_on_is_an_address() {
        let long = format!("http://{}", "x".repeat(MAX_URL_BYTES));
        for bad in [json!("javascript:alert(1)"), json!("/p/1"), json!("http://a\nb"), json!(long), json!(7)] {
            let mut walk = Walk::default();
            assert_eq!(walk.web_address(json!({"url": bad}).as_object().unwrap(), "", "url"), None);
            assert_eq!(walk.errors[0].pointer, "/url", "{bad}");
        }
        let mut walk = Walk::default();
        let good = json!({"url": "https://x/p/1", "none": null});
        assert_eq!(walk.web_address(good.as_object().unwrap(), "", "url").as_deref(), Some("https://x/p/1"));
        assert_eq!(walk.web_address(good.as_object().unwrap(), "", "none"), None);
        assert!(walk.is_clean());
    }

    #[test]
    fn what_is_told_is_bounded() {
        let mut walk = Walk::default();
        for n in 0..10_000 {
            walk.wrong(Code::InvalidField, format!("/{n}"), "");
        }
        assert_eq!(walk.errors.len(), MAX_FIELD_ERRORS + 1);
    }
}
