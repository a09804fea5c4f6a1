//! Reads the text of a JSON body into a value, and refuses what a plain reader takes in silence.
//!
//! Every JSON body comes through [`parse_json`], `readers` for the fuzzer too. Invariants: of two members of one name
//! none is dropped unseen; a body of [`MAX_VALUES`] values and more is not read to its end, since each takes many
//! times its text. How deep a body nests is bounded by `serde_json`. What a value means is `form`'s.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::{ApiError, Code, FieldError};
use super::form::pointer;

/// Enough for a task of every item that one may have, with dozens of inputs each.
pub const MAX_VALUES: usize = 500_000;

/// # Errors
/// 400 where it is no JSON or has too many values; 422 that names a member which is there twice.
pub fn parse_json(bytes: &[u8]) -> Result<Value, ApiError> {
    read(bytes).map_err(|refused| match refused {
        Refused::Twice(at) => {
            ApiError::field(FieldError::new(Code::InvalidField, at, "This field is there twice; say it once."))
        }
        Refused::NotJson(why) => ApiError::new(Code::InvalidJson, format!("Not JSON: {why}.")),
    })
}

#[derive(Debug, PartialEq)]
enum Refused {
    /// Points to the second of two members of one name.
    Twice(String),
    NotJson(String),
}

fn read(bytes: &[u8]) -> Result<Value, Refused> {
    let mut reading = Reading { left: MAX_VALUES, at: String::new(), twice: None };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Seed(&mut reading).deserialize(&mut deserializer);
    let whole = value.and_then(|value| deserializer.end().map(|()| value));
    whole.map_err(|error| reading.twice.map_or_else(|| Refused::NotJson(error.to_string()), Refused::Twice))
}

struct Reading {
    left: usize,
    /// The pointer to what is being read.
    at: String,
    twice: Option<String>,
}

struct Seed<'r>(&'r mut Reading);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.left = self.0.left.checked_sub(1).ok_or_else(|| {
            D::Error::custom(format_args!("a body of more than {MAX_VALUES} values; send it in several"))
        })?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let outer = self.0.at.len();
        let mut values = Vec::new();
        loop {
            self.0.at = pointer(&self.0.at, values.len());
            let Some(value) = seq.next_element_seed(Seed(&mut *self.0))? else { break };
            values.push(value);
            self.0.at.truncate(outer);
        }
        self.0.at.truncate(outer);
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let outer = self.0.at.len();
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.0.at = pointer(&self.0.at, &name);
            if fields.contains_key(&name) {
                let twice = self.0.twice.insert(self.0.at.clone());
                return Err(A::Error::custom(format_args!("{twice} is there twice")));
            }
            let value = map.next_value_seed(Seed(&mut *self.0))?;
            fields.insert(name, value);
            self.0.at.truncate(outer);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MAX_VALUES, Refused, read};

    #[test]
    fn a_body_is_read_as_a_plain_reader_reads_it() {
        for text in [
            "null",
            "true",
            "-1",
            "18446744073709551615",
            "1.5e3",
            r#""a\u0041""#,
            "[]",
            "{}",
            r#" {"a": [1, {"b~/": null}], "c": {"a": ""}} "#,
        ] {
            let plain: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read(text.as_bytes()).unwrap(), plain, "{text}");
        }
        for wrong in ["", "{", "[1,]", "1 2", r#"{"a":1,}"#, "\"\u{1}\"", "1e999"] {
            assert!(matches!(read(wrong.as_bytes()), Err(Refused::NotJson(_))), "{wrong}");
        }
        assert!(matches!(read("[".repeat(200).as_bytes()), Err(Refused::NotJson(_))));
    }

    #[test]
    fn a_member_that_is_there_twice_is_named() {
        for (text, at) in [
            (r#"{"key":"a","key":"a"}"#, "/key"),
            (r#"{"a":[0,{"b/c":1,"d":2,"b\/c":3}]}"#, "/a/1/b~1c"),
            (r#"[{"a":1},{"a":{"b":1,"b":[]}}]"#, "/1/a/b"),
        ] {
            assert_eq!(read(text.as_bytes()), Err(Refused::Twice(at.to_owned())), "{text}");
        }
        assert_eq!(read(br#"[{"a":1},{"a":2}]"#).unwrap(), json!([{"a": 1}, {"a": 2}]));
    }

    #[test]
    fn a_body_of_too_many_values_is_refused() {
        let of = |values: usize| format!("[{}0]", "0,".repeat(values - 2));
        assert!(read(of(MAX_VALUES).as_bytes()).is_ok());
        assert!(matches!(read(of(MAX_VALUES + 1).as_bytes()), Err(Refused::NotJson(_))));
    }
}
