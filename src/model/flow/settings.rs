//! The top-level key `cove` of a recording, which Chrome ignores: inputs, origins, verify, and whose steps they are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::inputs::{InputSpec, InputType, read as read_input};
use super::origin::origin_of;
use super::reader::{Reader, escape};
use super::verify::{self, RawVerify};

const MAX_DURATION_SECONDS: std::ops::RangeInclusive<u64> = 1..=7_200;
const DEFAULT_DURATION_SECONDS: u64 = 600;
const MAX_KIND_BYTES: usize = 64;
/// The time of arming: known to the steps of `verify`, and to them alone.
pub(super) const ARMED_AT: &str = "armed_at";
/// What an input cannot be called.
const RESERVED_NAMES: [&str; 1] = [ARMED_AT];

pub(super) struct Settings {
    pub inputs: BTreeMap<String, InputSpec>,
    pub origins: Vec<String>,
    pub max_duration: Duration,
    pub verify: Option<RawVerify>,
    pub external: Option<String>,
}

/// `timeout` is the flow's, in milliseconds.
pub(super) fn read(reader: &mut Reader, document: &Map<String, Value>, timeout: u64) -> Settings {
    let mut settings = Settings {
        inputs: BTreeMap::new(),
        origins: Vec::new(),
        max_duration: Duration::from_secs(DEFAULT_DURATION_SECONDS),
        verify: None,
        external: None,
    };
    let Some(cove) = document.get("cove") else { return settings };
    let Some(cove) = reader.object(cove, "/cove") else { return settings };
    reader.only(cove, "/cove", &["inputs", "verify", "origins", "max_duration", "external"]);
    if let Some(inputs) = cove.get("inputs").and_then(|inputs| reader.object(inputs, "/cove/inputs")) {
        for (name, spec) in inputs {
            if let Some(spec) = read_spec(reader, name, spec) {
                settings.inputs.insert(name.clone(), spec);
            }
        }
    }
    for (number, origin) in reader.list(cove, "/cove", "origins").iter().enumerate() {
        let pointer = format!("/cove/origins/{number}");
        match origin.as_str().and_then(origin_of).filter(|parsed| Some(parsed.as_str()) == origin.as_str()) {
            Some(origin) => settings.origins.push(origin),
            None => reader.error(&pointer, "an origin is `https://host` or `http://host:port`, without a path"),
        }
    }
    if let Some(seconds) = reader.integer_in(cove, "/cove", "max_duration", &MAX_DURATION_SECONDS) {
        settings.max_duration = Duration::from_secs(seconds);
    }
    settings.verify = cove.get("verify").and_then(|verify| verify::read(reader, verify, timeout));
    settings.external = cove.get("external").and_then(|kind| read_kind(reader, kind));
    settings
}

/// Workers ask for kinds by this name.
#[must_use]
pub fn is_external_kind(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=MAX_KIND_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

fn read_kind(reader: &mut Reader, kind: &Value) -> Option<String> {
    let read = kind.as_str().filter(|kind| is_external_kind(kind)).map(str::to_owned);
    if read.is_none() {
        let message = format!("a kind of outside worker has 1 to {MAX_KIND_BYTES} of the characters a-z 0-9 _ -");
        reader.error("/cove/external", message);
    }
    read
}

fn read_spec(reader: &mut Reader, name: &str, spec: &Value) -> Option<InputSpec> {
    let at = format!("/cove/inputs/{}", escape(name));
    if !is_name(name) {
        reader.error(&at, "an input's name has letters, digits and `_`, and does not begin with a digit");
    }
    let spec = reader.object(spec, &at)?;
    reader.only(spec, &at, &["type", "required", "max_length", "max_bytes", "accept", "default", "secret"]);
    let kind = reader.one_of(
        spec,
        &at,
        "type",
        &[
            ("text", InputType::Text),
            ("file", InputType::File),
            ("url", InputType::Url),
            ("number", InputType::Number),
            ("bool", InputType::Bool),
        ],
    )?;
    let accept = reader.list(spec, &at, "accept");
    let texts: Vec<_> = accept.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect();
    if texts.len() != accept.len() {
        reader.error(&format!("{at}/accept"), "a list of file name endings or media types, each a text");
    }
    let mut read = InputSpec {
        kind,
        required: reader.boolean(spec, &at, "required").unwrap_or(false),
        max_length: reader.integer_in(spec, &at, "max_length", &(1..=u64::from(u32::MAX))),
        max_bytes: reader.integer_in(spec, &at, "max_bytes", &(1..=u64::MAX >> 12)),
        accept: texts,
        default: None,
        secret: reader.boolean(spec, &at, "secret").unwrap_or(false),
    };
    if let Some(default) = spec.get("default").filter(|default| !default.is_null()) {
        match read_input(&read, default) {
            Ok(_) => read.default = Some(default.clone()),
            Err(message) => reader.error(&format!("{at}/default"), message),
        }
    }
    Some(read)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !RESERVED_NAMES.contains(&name)
}
