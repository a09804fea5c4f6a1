//! One step of a recording; cove's own are read in `custom.rs`.
//!
//! What Chrome writes and the replay does not need (`duration`, `deviceType`) passes; what this
//! version cannot replay is an error that says so.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::custom::Custom;
use super::keys::stroke;
use super::parse::{TIMEOUT_MS, template};
use super::reader::{Reader, escape};
use super::{Action, AssertedNavigation, MouseButton, Operator, Selector, Selectors, Step, Template};

/// cove's own steps may wait longer than the Recorder's.
const CUSTOM_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=600_000;
/// What stands for a value when a selector is checked before any value is known.
const PLACEHOLDER: &str = "x";
const MAX_ALTERNATIVES: usize = 50;
/// Every type of step that can be replayed.
const KNOWN: [&str; 13] = [
    "setViewport",
    "navigate",
    "click",
    "doubleClick",
    "hover",
    "change",
    "keyDown",
    "keyUp",
    "scroll",
    "close",
    "waitForElement",
    "waitForExpression",
    "customStep",
];

pub(super) enum Parsed {
    Commit,
    /// The step, and the (pointer, name) of every template name in it.
    Step(Box<Step>, Vec<(String, String)>),
}

pub(super) struct StepReader<'a> {
    pub reader: &'a mut Reader,
    pub step: &'a Map<String, Value>,
    /// Its pointer.
    pub at: &'a str,
    pub number: usize,
    /// Of the flow, in milliseconds.
    pub timeout: u64,
    pub place: Place,
}

pub(super) type Names = Vec<(String, String)>;

/// Where a step stands, and so what it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Flow,
    Optional,
    /// Read-only.
    Verify,
    /// A banner in the way of a verify may be closed.
    VerifyOptional,
}

impl Place {
    const VERIFY: [&'static str; 8] =
        ["navigate", "waitForElement", "waitForExpression", "scroll", "extract", "screenshot", "stopIf", "optional"];
    const VERIFY_OPTIONAL: [&'static str; 8] =
        ["click", "hover", "keyDown", "keyUp", "scroll", "waitForElement", "waitForExpression", "screenshot"];
    const NOT_OPTIONAL: [&'static str; 5] = ["commit", "extract", "stopIf", "optional", "close"];

    /// Why no step of this kind stands here.
    pub(super) fn refuses(self, kind: &str) -> Option<String> {
        match self {
            Self::Optional if Self::NOT_OPTIONAL.contains(&kind) => {
                let never = Self::NOT_OPTIONAL.join(", ");
                Some(format!("`{kind}` never stands inside an `optional`, nor does any of: {never}"))
            }
            Self::Verify if !Self::VERIFY.contains(&kind) => {
                Some(format!("`{kind}` is not read-only; a verify holds: {}", Self::VERIFY.join(", ")))
            }
            Self::VerifyOptional if !Self::VERIFY_OPTIONAL.contains(&kind) => {
                let allowed = Self::VERIFY_OPTIONAL.join(", ");
                Some(format!("`{kind}` closes no banner; an `optional` of a verify holds: {allowed}"))
            }
            _ => None,
        }
    }

    /// That of the steps inside an `optional` that stands here.
    pub(super) const fn inside(self) -> Self {
        match self {
            Self::Flow | Self::Optional => Self::Optional,
            Self::Verify | Self::VerifyOptional => Self::VerifyOptional,
        }
    }
}

impl StepReader<'_> {
    pub fn read(mut self) -> Option<Parsed> {
        let kind = self.reader.text(self.step, self.at, "type")?;
        let custom = kind == "customStep";
        let refused = if custom || !KNOWN.contains(&kind.as_str()) { None } else { self.place.refuses(&kind) };
        if let Some(message) = refused {
            self.error("/type", message);
            return None;
        }
        self.refuse_targets();
        if KNOWN.contains(&kind.as_str()) {
            self.refuse_unknown(&kind);
        }
        let range = if custom { CUSTOM_TIMEOUT_MS } else { TIMEOUT_MS };
        let timeout = self.reader.integer_in(self.step, self.at, "timeout", &range).unwrap_or(self.timeout);
        let mut names = Names::new();
        let asserted = self.asserted(&mut names);
        let action = if custom {
            match self.custom(&mut names)? {
                Custom::Commit => return Some(Parsed::Commit),
                Custom::Action(action) => *action,
            }
        } else {
            self.recorded(&kind, &mut names)?
        };
        let step = Step { number: self.number, timeout: Duration::from_millis(timeout), action, asserted };
        Some(Parsed::Step(Box::new(step), names))
    }

    pub(super) fn error(&mut self, member: &str, message: impl Into<String>) {
        let pointer = format!("{}{member}", self.at);
        self.reader.error(&pointer, message);
    }

    fn refuse_targets(&mut self) {
        if self.step.get("target").is_some_and(|target| target != "main") {
            self.error("/target", "steps in popups and other targets are not supported by this version");
        }
        if self.step.get("frame").and_then(Value::as_array).is_some_and(|frame| !frame.is_empty()) {
            self.error("/frame", "steps in frames are not supported by this version");
        }
    }

    /// What stands in every recorded step, read or not.
    const COMMON: [&'static str; 6] = ["type", "target", "frame", "timeout", "assertedEvents", "comment"];

    /// A misspelt field would be silently without effect, and a wait without effect confirms everything.
    fn refuse_unknown(&mut self, kind: &str) {
        let own: &[&str] = match kind {
            "setViewport" => &["width", "height", "deviceScaleFactor", "isMobile", "hasTouch", "isLandscape"],
            "navigate" => &["url"],
            "click" | "doubleClick" => {
                &["selectors", "offsetX", "offsetY", "button", "duration", "deviceType", "modifiers"]
            }
            "hover" => &["selectors"],
            "change" => &["selectors", "value"],
            "keyDown" | "keyUp" => &["key", "selectors"],
            "scroll" => &["selectors", "x", "y"],
            "waitForElement" => &["selectors", "operator", "count", "visible", "attributes", "properties"],
            "waitForExpression" => &["expression"],
            "customStep" => &["name", "parameters"],
            _ => &[],
        };
        let known: Vec<&str> = own.iter().copied().chain(Self::COMMON).collect();
        self.reader.only(self.step, self.at, &known);
    }

    fn recorded(&mut self, kind: &str, names: &mut Names) -> Option<Action> {
        Some(match kind {
            "setViewport" => self.viewport()?,
            "navigate" => Action::Navigate { url: self.template("url", names)? },
            "click" => self.click(1, names)?,
            "doubleClick" => self.click(2, names)?,
            "hover" => Action::Hover { selectors: self.selectors(names)? },
            "change" => {
                let selectors = self.selectors(names);
                Action::Change { selectors: selectors?, value: self.template("value", names)? }
            }
            "keyDown" => Action::KeyDown { key: self.key()? },
            "keyUp" => Action::KeyUp { key: self.key()? },
            "scroll" => {
                let selectors = if self.step.contains_key("selectors") { Some(self.selectors(names)?) } else { None };
                let x = self.reader.number(self.step, self.at, "x").unwrap_or_default();
                let y = self.reader.number(self.step, self.at, "y").unwrap_or_default();
                Action::Scroll { selectors, x, y }
            }
            "close" => Action::Close,
            "waitForElement" => self.wait_for_element(names)?,
            "waitForExpression" => Action::WaitForExpression { expression: self.template("expression", names)? },
            "emulateNetworkConditions" => {
                self.error("/type", "emulateNetworkConditions is not supported by this version");
                return None;
            }
            other => {
                let message = format!("unknown step type `{other}`; known are: {}", KNOWN.join(", "));
                self.error("/type", message);
                return None;
            }
        })
    }

    fn viewport(&mut self) -> Option<Action> {
        let side = 1..=16_384;
        let (step, at) = (self.step, self.at);
        let mut side_of = |name| match self.reader.integer_in(step, at, name, &side) {
            Some(pixels) => u32::try_from(pixels).ok(),
            None if step.contains_key(name) => None,
            None => {
                self.reader.error(&format!("{at}/{name}"), "pixels are required");
                None
            }
        };
        let (width, height) = (side_of("width"), side_of("height"));
        let factor = self.reader.number(step, at, "deviceScaleFactor").unwrap_or(1.0);
        Some(Action::SetViewport {
            width: width?,
            height: height?,
            device_scale_factor: factor,
            is_mobile: self.reader.boolean(step, at, "isMobile").unwrap_or(false),
            has_touch: self.reader.boolean(step, at, "hasTouch").unwrap_or(false),
            is_landscape: self.reader.boolean(step, at, "isLandscape").unwrap_or(false),
        })
    }

    fn click(&mut self, count: u32, names: &mut Names) -> Option<Action> {
        let selectors = self.selectors(names);
        let (step, at) = (self.step, self.at);
        let offset = match (self.reader.number(step, at, "offsetX"), self.reader.number(step, at, "offsetY")) {
            (Some(x), Some(y)) => Some((x, y)),
            _ => None,
        };
        let button = if step.contains_key("button") {
            let buttons = [
                ("primary", MouseButton::Primary),
                ("auxiliary", MouseButton::Auxiliary),
                ("secondary", MouseButton::Secondary),
                ("back", MouseButton::Back),
                ("forward", MouseButton::Forward),
            ];
            self.reader.one_of(step, at, "button", &buttons)?
        } else {
            MouseButton::Primary
        };
        Some(Action::Click { selectors: selectors?, button, offset, count })
    }

    fn key(&mut self) -> Option<String> {
        let key = self.reader.text(self.step, self.at, "key")?;
        if stroke(&key).is_none() {
            self.error("/key", "a key is a single character or a name such as Enter, Tab, ArrowDown, Shift or F5");
            return None;
        }
        Some(key)
    }

    fn wait_for_element(&mut self, names: &mut Names) -> Option<Action> {
        let selectors = self.selectors(names);
        let (step, at) = (self.step, self.at);
        let operator = if step.contains_key("operator") {
            let table = [(">=", Operator::AtLeast), ("==", Operator::Exactly), ("<=", Operator::AtMost)];
            self.reader.one_of(step, at, "operator", &table)?
        } else {
            Operator::AtLeast
        };
        let count = self.reader.integer_in(step, at, "count", &(0..=100_000)).unwrap_or(1);
        if operator == Operator::AtLeast && count == 0 {
            self.error("/count", "at least 0 is always true: a wait for nothing");
        }
        let visible = self.reader.boolean(step, at, "visible");
        let mut attributes = BTreeMap::new();
        if let Some(wanted) =
            step.get("attributes").and_then(|map| self.reader.object(map, &format!("{at}/attributes")))
        {
            for (name, value) in wanted {
                let pointer = format!("{at}/attributes/{}", escape(name));
                match value.as_str() {
                    Some(text) => {
                        attributes.insert(name.clone(), template(self.reader, &pointer, text, names)?);
                    }
                    None => self.reader.error(&pointer, "a text is expected"),
                }
            }
        }
        let properties = step.get("properties").and_then(|map| self.reader.object(map, &format!("{at}/properties")));
        if step.get("properties").is_some_and(|properties| properties.to_string().contains("{{")) {
            self.error("/properties", "templates in properties are not supported by this version");
        }
        let properties = properties.map(|map| map.clone().into_iter().collect()).unwrap_or_default();
        let count = u32::try_from(count).ok()?;
        Some(Action::WaitForElement { selectors: selectors?, operator, count, visible, attributes, properties })
    }

    pub(super) fn template(&mut self, member: &str, names: &mut Names) -> Option<Template> {
        let text = self.reader.text(self.step, self.at, member)?;
        template(self.reader, &format!("{}/{member}", self.at), &text, names)
    }

    fn asserted(&mut self, names: &mut Names) -> Vec<AssertedNavigation> {
        let mut asserted = Vec::new();
        for (number, event) in self.reader.list(self.step, self.at, "assertedEvents").iter().enumerate() {
            let pointer = format!("{}/assertedEvents/{number}", self.at);
            let Some(event) = self.reader.object(event, &pointer) else { continue };
            if event.get("type").and_then(Value::as_str) != Some("navigation") {
                self.reader.error(&format!("{pointer}/type"), "only `navigation` can be asserted");
                continue;
            }
            let mut part = |member: &str| {
                let text = event.get(member).and_then(Value::as_str).filter(|text| !text.is_empty())?;
                template(self.reader, &format!("{pointer}/{member}"), text, names)
            };
            asserted.push(AssertedNavigation { url: part("url"), title: part("title") });
        }
        asserted
    }

    /// `selectors`: a list of alternatives, each a text or a chain of texts; or one text.
    pub(super) fn selectors(&mut self, names: &mut Names) -> Option<Selectors> {
        let pointer = format!("{}/selectors", self.at);
        let alternatives: Vec<&Value> = match self.step.get("selectors") {
            Some(Value::Array(list)) if !list.is_empty() && list.len() <= MAX_ALTERNATIVES => list.iter().collect(),
            Some(text @ Value::String(_)) => vec![text],
            _ => {
                let message = format!("a list of 1 to {MAX_ALTERNATIVES} selectors is required");
                self.reader.error(&pointer, message);
                return None;
            }
        };
        let mut read = Vec::new();
        for (number, alternative) in alternatives.into_iter().enumerate() {
            let at = format!("{pointer}/{number}");
            let chain: Vec<(String, &Value)> = match alternative {
                Value::Array(chain) if !chain.is_empty() => {
                    chain.iter().enumerate().map(|(part, text)| (format!("{at}/{part}"), text)).collect()
                }
                text => vec![(at, text)],
            };
            let parts: Vec<_> = chain.iter().filter_map(|(at, text)| self.selector(at, text, names)).collect();
            if parts.len() == chain.len() {
                read.push(parts);
            }
        }
        if read.is_empty() { None } else { Some(Selectors(read)) }
    }

    fn selector(&mut self, at: &str, text: &Value, names: &mut Names) -> Option<Template> {
        let Some(text) = text.as_str() else {
            self.reader.error(at, "a selector is a text");
            return None;
        };
        let template = template(self.reader, at, text, names)?;
        let stand_in = template.names().iter().map(|name| (name.clone(), PLACEHOLDER.to_owned())).collect();
        let rendered = template.render(&stand_in).unwrap_or_else(|_| PLACEHOLDER.to_owned());
        if let Err(message) = Selector::parse(&rendered) {
            self.reader.error(at, message);
            return None;
        }
        Some(template)
    }
}
