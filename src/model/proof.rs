//! What was already so before the click: the ground on which a later proof stands (fence.md rules 12 and 15).
//!
//! The replay gathers it right before arming and hands it to its gate; the store keeps it beside `armed`; whoever
//! verifies or confirms later reads it. A proof that was true before the click proves nothing after it. Nothing
//! is decided here but that.

use serde::{Deserialize, Serialize};

/// What the flow's own verify said before the flow began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// It looked, signed in, and the thing was not there.
    Clear,
    /// It was there already.
    AlreadyTrue,
    /// It could not tell.
    Unknown,
    /// The flow has no verify, or one that matches `{{ armed_at }}` and cannot be true before arming.
    #[default]
    NotNeeded,
}

impl Baseline {
    /// Whether a verify that finds the thing after the click has found this click's.
    #[must_use]
    pub const fn lets_found_prove(self) -> bool {
        matches!(self, Self::Clear | Self::NotNeeded)
    }
}

/// What is kept with `armed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    pub baseline: Baseline,
    /// Numbers (in the recording) of the confirmation waits that were true before the click: none of them
    /// confirms a page that survived a restart.
    pub open_waits: Vec<usize>,
}

impl Proofs {
    /// Of an arming before which nobody looked: nothing that is found later proves anything.
    #[must_use]
    pub const fn unproven() -> Self {
        Self { baseline: Baseline::Unknown, open_waits: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{Baseline, Proofs};

    #[test]
    fn rule_12_what_was_true_or_not_known_before_lets_nothing_prove() {
        let lets = [Baseline::Clear, Baseline::NotNeeded, Baseline::AlreadyTrue, Baseline::Unknown];
        assert_eq!(lets.map(Baseline::lets_found_prove), [true, true, false, false]);
    }

    #[test]
    fn it_is_kept_as_it_was() {
        let proofs = Proofs { baseline: Baseline::AlreadyTrue, open_waits: vec![7, 9] };
        let json = serde_json::to_string(&proofs).unwrap();
        assert_eq!(json, r#"{"baseline":"already_true","open_waits":[7,9]}"#);
        assert_eq!(serde_json::from_str::<Proofs>(&json).unwrap(), proofs);
    }
}
