//! A flow: a recording of Chrome DevTools Recorder with cove's custom steps, parsed and checked.
//!
//! [`Flow::parse`] finds every problem at once (`parse.rs`, `check.rs`); what it returns cannot surprise the
//! replay by its shape. A flow stays a valid recording: Chrome can import it again. Strings are templates
//! until the replay renders them with one item's inputs. Nothing here touches a browser or the disk.

mod check;
mod custom;
mod inputs;
mod keys;
mod origin;
mod parse;
mod reader;
mod selector;
mod settings;
mod steps;
mod template;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::FailureCode;
pub use inputs::{InputProblem, InputSpec, InputType, RawInput};
pub use keys::{KeyStroke, stroke};
pub use origin::{is_new_tab, origin_of, url_contains};
pub use parse::MAX_RECORDING_BYTES;
pub use selector::Selector;
pub use settings::is_external_kind;
pub use template::Template;

/// A checked flow.
#[derive(Clone, Debug)]
pub struct Flow {
    pub title: String,
    pub inputs: BTreeMap<String, InputSpec>,
    pub steps: Vec<Step>,
    /// Position in `steps` of the click (or key) at the commit point: the one right after `commit`.
    pub commit: Option<usize>,
    /// The only origins that the main frame may be navigated to by the flow; empty: any.
    pub origins: Vec<String>,
    /// For a whole attempt, and for a whole verify.
    pub max_duration: Duration,
    /// How to look, read-only, whether it was published (fence.md rule 12).
    pub verify: Option<Verify>,
    /// The kind of outside worker that takes its items. Its steps are checked and never replayed: they tell the
    /// worker's author what is done.
    pub external: Option<String>,
}

/// The steps that look whether an item was published. The last wait among them is the proof; behind it only
/// `extract` and `screenshot` stand, which tell more of what was found.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Position of the wait that proves the signed-in view; without one a time-out is inconclusive.
    pub signed_in: Option<usize>,
    pub steps: Vec<Step>,
    /// It matches the time of arming, and so cannot be true before it.
    pub uses_armed_at: bool,
}

impl Verify {
    /// Position of the proof; the check has seen that there is one.
    #[must_use]
    pub fn proof(&self) -> usize {
        self.steps.iter().rposition(|step| step.action.is_wait()).unwrap_or(self.steps.len())
    }
}

/// One step; `commit` itself is not a step but [`Flow::commit`].
#[derive(Clone, Debug)]
pub struct Step {
    /// 0-based number in the recording.
    pub number: usize,
    pub timeout: Duration,
    pub action: Action,
    /// Navigations that must follow (`assertedEvents`); an empty URL means any.
    pub asserted: Vec<AssertedNavigation>,
}

#[derive(Clone, Debug)]
pub struct AssertedNavigation {
    pub url: Option<Template>,
    pub title: Option<Template>,
}

/// Alternatives, each a chain of selectors (ancestor first, piercing shadow roots). The texts are
/// templates; [`Selector::parse`] reads each after rendering, and has read it once at the check.
#[derive(Clone, Debug)]
pub struct Selectors(pub Vec<Vec<Template>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MouseButton {
    Primary,
    Auxiliary,
    Secondary,
    Back,
    Forward,
}

#[derive(Clone, Debug)]
pub enum Action {
    SetViewport {
        width: u32,
        height: u32,
        device_scale_factor: f64,
        is_mobile: bool,
        has_touch: bool,
        is_landscape: bool,
    },
    Navigate {
        url: Template,
    },
    /// `count` is 2 for doubleClick. The offset is from the element's top left corner.
    Click {
        selectors: Selectors,
        button: MouseButton,
        offset: Option<(f64, f64)>,
        count: u32,
    },
    Hover {
        selectors: Selectors,
    },
    Change {
        selectors: Selectors,
        value: Template,
    },
    KeyDown {
        key: String,
    },
    KeyUp {
        key: String,
    },
    /// The page without selectors.
    Scroll {
        selectors: Option<Selectors>,
        x: f64,
        y: f64,
    },
    Close,
    WaitForElement {
        selectors: Selectors,
        operator: Operator,
        count: u32,
        visible: Option<bool>,
        attributes: BTreeMap<String, Template>,
        /// Property name → JSON value expected.
        properties: BTreeMap<String, serde_json::Value>,
    },
    WaitForExpression {
        expression: Template,
    },
    Upload {
        selectors: Selectors,
        files: Vec<Template>,
    },
    Extract {
        name: String,
        from: ExtractFrom,
    },
    Screenshot {
        name: String,
    },
    /// Steps for what may or may not come, such as a banner: skipped when the first of them finds nothing within
    /// `appears`, and given up when a later one fails. Never ends an attempt, never confirms one.
    Optional {
        steps: Vec<Step>,
        appears: Duration,
    },
    /// From here on, to the end of the flow: ends it when the page says so.
    StopIf(StopIf),
}

/// What ends an attempt, before arming and after it (fence.md rule 7).
#[derive(Clone, Debug)]
pub struct StopIf {
    pub when: StopWhen,
    pub reason: StopReason,
    /// For a person.
    pub message: Template,
}

#[derive(Clone, Debug)]
pub enum StopWhen {
    /// An element of one of the alternatives is visible.
    Visible(Selectors),
    /// The page's address contains this text; `*` stands for any characters.
    UrlContains(Template),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    NeedsHuman,
    RateLimited,
    Rejected,
}

impl StopReason {
    #[must_use]
    pub const fn code(self) -> FailureCode {
        match self {
            Self::NeedsHuman => FailureCode::NeedsHuman,
            Self::RateLimited => FailureCode::RateLimited,
            Self::Rejected => FailureCode::Rejected,
        }
    }
}

#[derive(Clone, Debug)]
pub enum ExtractFrom {
    /// The element's attribute, or its text.
    Element {
        selectors: Selectors,
        attribute: Option<String>,
    },
    Expression(Template),
}

/// How many elements `waitForElement` wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    AtLeast,
    Exactly,
    AtMost,
}

impl Action {
    /// The name of the step in a recording, for traces and messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetViewport { .. } => "setViewport",
            Self::Navigate { .. } => "navigate",
            Self::Click { count: 2, .. } => "doubleClick",
            Self::Click { .. } => "click",
            Self::Hover { .. } => "hover",
            Self::Change { .. } => "change",
            Self::KeyDown { .. } => "keyDown",
            Self::KeyUp { .. } => "keyUp",
            Self::Scroll { .. } => "scroll",
            Self::Close => "close",
            Self::WaitForElement { .. } => "waitForElement",
            Self::WaitForExpression { .. } => "waitForExpression",
            Self::Upload { .. } => "upload",
            Self::Extract { .. } => "extract",
            Self::Screenshot { .. } => "screenshot",
            Self::Optional { .. } => "optional",
            Self::StopIf(_) => "stopIf",
        }
    }

    /// What it is when the page does not answer while this is done.
    #[must_use]
    pub const fn hung(&self) -> FailureCode {
        match self {
            Self::Navigate { .. } => FailureCode::NavigationFailed,
            Self::WaitForElement { .. } | Self::WaitForExpression { .. } => FailureCode::WaitTimedOut,
            Self::Extract { .. } => FailureCode::ExpressionFailed,
            Self::Upload { .. } => FailureCode::UploadRefused,
            _ => FailureCode::ElementNotActionable,
        }
    }

    /// Sends the page something by which it may navigate; all others only look, or end what was begun.
    #[must_use]
    pub const fn may_navigate(&self) -> bool {
        matches!(
            self,
            Self::Navigate { .. }
                | Self::Click { .. }
                | Self::Change { .. }
                | Self::KeyDown { .. }
                | Self::Upload { .. }
                | Self::Optional { .. }
        )
    }

    /// Proves, after the commit point, that the thing went out (fence.md rule 7).
    #[must_use]
    pub const fn is_wait(&self) -> bool {
        matches!(self, Self::WaitForElement { .. } | Self::WaitForExpression { .. })
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Error,
    Warning,
}

impl Flow {
    /// Parses and checks a recording. On success the second part holds warnings alone.
    ///
    /// # Errors
    /// Every problem at once, warnings included, when at least one is an error.
    pub fn parse(json: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        parse::parse(json)
    }

    /// Lower-case hex SHA-256 of the recording's bytes: what a task pins.
    #[must_use]
    pub fn hash(json: &[u8]) -> String {
        use sha2::{Digest, Sha256};
        use std::fmt::Write as _;
        Sha256::digest(json).iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
    }

    /// Whether a step of it is the commit point; without one the flow is at-least-once.
    #[must_use]
    pub const fn has_commit(&self) -> bool {
        self.commit.is_some()
    }

    /// Turns one item's raw JSON inputs into values, filling in defaults. File inputs stay names
    /// ([`RawInput::File`]): whoever can look at the disk resolves them.
    ///
    /// # Errors
    /// Every wrong input: its name (or the unknown name) and what is allowed.
    pub fn take_inputs(
        &self,
        raw: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<BTreeMap<String, RawInput>, Vec<InputProblem>> {
        inputs::take(&self.inputs, raw)
    }
}
