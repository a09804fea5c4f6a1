//! What can go wrong in an attempt, in one table.
//!
//! The engine decides by [`Blame`] and [`Retry`] alone, never by text. Each code has one line in the
//! table: who is to blame, whether a try again can help, and what a person should do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    Flow,
    Site,
    Profile,
    Provider,
    Host,
    Daemon,
}

/// Whether, and when, another attempt can help. Only asked of ends before the commit point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same attempt would end the same way.
    Never,
    /// By the item's back-off, and counted.
    Backoff,
    /// As soon as possible, and not counted: the attempt was taken back through no fault of its own.
    Uncounted,
}

macro_rules! codes {
    ($($code:ident $text:literal $blame:ident $retry:ident $help:literal;)+) => {
        /// A stable name for what happened; `snake_case` in JSON.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FailureCode {
            $($code,)+
        }

        impl FailureCode {
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$code => $text,)+ }
            }

            #[must_use]
            pub const fn blame(self) -> Blame {
                match self { $(Self::$code => Blame::$blame,)+ }
            }

            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$code => Retry::$retry,)+ }
            }

            /// What a person should do.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$code => $help,)+ }
            }
        }
    };
}

codes! {
    // What a step can meet.
    ElementNotFound "element_not_found" Site Backoff "Look at the failure screenshot; if the page changed, record the step again.";
    ElementNotActionable "element_not_actionable" Site Backoff "Something hid, covered or disabled the element; look at the failure screenshot.";
    NavigationFailed "navigation_failed" Site Backoff "Check that the site is up and that this machine reaches it.";
    WaitTimedOut "wait_timed_out" Site Backoff "The page never showed what the step waits for; look at the failure screenshot or give the step a longer timeout.";
    ExpressionFailed "expression_failed" Flow Backoff "The step's JavaScript threw; try it in the browser's console.";
    TextNotAccepted "text_not_accepted" Site Backoff "The field did not keep the text that was put in; look at the failure screenshot.";
    UploadRefused "upload_refused" Site Backoff "The file input did not take the file; check the accepted types on the site.";
    FlowInvalid "flow_invalid" Flow Never "Run `cove flows check` on the flow and store a corrected one.";
    OriginBlocked "origin_blocked" Flow Never "The page went to an origin outside the flow's list; add it to `cove.origins` if that is right.";
    // Media.
    MediaMissing "media_missing" Host Backoff "The file is gone or empty: put it back under the media root.";
    MediaChanged "media_changed" Host Backoff "What was accepted goes out, or nothing: put the accepted file back, or submit the new file as a new item.";
    MediaUnreadable "media_unreadable" Host Backoff "Let the browser's user read the file (group cove-media, mode 0640, folders 0750).";
    // Browser and provider.
    BrowserNotFound "browser_not_found" Provider Uncounted "Install chromium, or name the browser in `[browser] chromium`; the item waits and loses no attempt.";
    BrowserStartFailed "browser_start_failed" Provider Backoff "See the message, and start the profile by hand; `cove doctor --profile NAME` looks closer.";
    BrowserLost "browser_lost" Provider Backoff "The browser closed or crashed during the attempt; check memory and the browser's log.";
    MemoryLimit "memory_limit" Site Backoff "The page took more memory than one session may: see the message, and raise `[resources] session_limit_mb` if the site needs it.";
    AttachFailed "attach_failed" Provider Backoff "The browser started but its DevTools port did not answer; the first times in a row no attempt is lost.";
    ProviderDown "provider_down" Provider Uncounted "Start the browser host or Dolphin Anty; the item waits and loses no attempt.";
    ProviderSignedOut "provider_signed_out" Provider Uncounted "Sign in to Dolphin Anty on this machine, or give cove its token in `[dolphin] api_token_file`; the items wait and lose no attempt.";
    ProviderRefused "provider_refused" Provider Uncounted "Dolphin Anty's plan or version does not allow it: see the message; the items wait, are tried less and less often, and lose no attempt.";
    ProviderFull "provider_full" Provider Uncounted "Dolphin Anty runs no more profiles at a time: close one, or see the message; the items wait and lose no attempt.";
    BreakerOpen "breaker_open" Provider Uncounted "It failed too often in a row and is left alone for a while: see the message; the items wait and lose no attempt.";
    ProfileUnknown "profile_unknown" Profile Never "The provider has no such profile, or this account may not use it: check it in Dolphin Anty.";
    ProfileBroken "profile_broken" Profile Backoff "Dolphin Anty does not start this profile: see the message, and start it there by hand; the other profiles go on.";
    ProfileInUse "profile_in_use" Profile Uncounted "Close the profile's window; the item waits and loses no attempt.";
    // What the site said, told by a `stopIf` or by an outside worker.
    NeedsHuman "needs_human" Profile Uncounted "The site asks for a person (a login, a verification): open the profile with `cove profiles open`, do what it asks, then `cove profiles unpark`.";
    RateLimited "rate_limited" Profile Uncounted "The site says that this profile did too much: its items wait, and no attempt is lost.";
    Rejected "rejected" Site Never "The site refused what was to be published: see the message, change the item and submit it again.";
    // Outside workers.
    WorkerFailed "worker_failed" Flow Backoff "See the worker's own message and log.";
    WorkerLost "worker_lost" Host Backoff "The outside worker that had claimed the item was not heard of any more: see its log.";
    // The daemon's own ends.
    DeadlineExceeded "deadline_exceeded" Site Backoff "The attempt took longer than the flow allows; look at the trace for the slow step.";
    ArmRefused "arm_refused" Daemon Uncounted "The attempt was overtaken (canceled or outdated) before the commit point; nothing was published.";
    Canceled "canceled" Daemon Never "Canceled on request before the commit point; nothing was published.";
    DaemonStopped "daemon_stopped" Daemon Uncounted "The daemon stopped before the commit point; nothing was published and no attempt is lost.";
    LockTakenAway "lock_taken_away" Daemon Uncounted "A forced cleanup took the attempt's lock away before the commit point; nothing was published, no attempt is lost, and the item starts again. To keep it from starting, pause or cancel its task first.";
    EvidenceFailed "evidence_failed" Host Backoff "The picture before the commit point could not be kept: check free space of the state directory.";
    KeyTaken "key_taken" Daemon Never "Another item with this key went out, or may have, after the restored state was saved: look at that one first, and submit this one under another key if it is something else.";
    Overdue "overdue" Daemon Never "The item's `not_after` passed before it could start; submit it again with a later one.";
    // After the commit point: the outcome is not known.
    ConfirmationMissing "confirmation_missing" Site Never "The click was sent, the confirmation did not come. Look at the pictures and at the site: cove never tries it again by itself.";
    LostAfterCommit "lost_after_commit" Provider Never "The attempt was lost after the commit point. Look at the pictures and at the site: cove never tries it again by itself.";
    RestartedAfterCommit "restarted_after_commit" Daemon Never "The daemon stopped after the commit point. Look at the pictures and at the site: cove never tries it again by itself.";
    Internal "internal" Daemon Backoff "A defect of cove: see the daemon's log and report it.";
}

/// By name, in stored records too: a line put into the middle of the table changes nothing that is stored.
impl Serialize for FailureCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for FailureCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.name() == name)
            .ok_or_else(|| de::Error::custom(format!("unknown failure code {name}")))
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// Longest detail kept, in bytes: pages are hostile and their texts end up here.
pub const MAX_DETAIL_BYTES: usize = 2_000;

/// What an attempt met: a code from the table and what exactly happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: FailureCode,
    /// What failed and why, for a person.
    pub detail: String,
}

impl Failure {
    #[must_use]
    pub fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        let mut detail: String = detail.into();
        if detail.len() > MAX_DETAIL_BYTES {
            detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
            detail.push('…');
        }
        Self { code, detail }
    }

    /// The same once the click may have happened: under a code that says what a person has to do then. What
    /// was met, and its own help (which may say to submit again), is for the detail alone.
    #[must_use]
    pub fn after_commit(self) -> Self {
        use FailureCode::{
            ConfirmationMissing, Internal, LostAfterCommit, NeedsHuman, RateLimited, Rejected, RestartedAfterCommit,
        };
        match self.code {
            ConfirmationMissing | LostAfterCommit | RestartedAfterCommit | Internal => self,
            // The site answered, and it was no confirmation.
            NeedsHuman | RateLimited | Rejected => Self::new(ConfirmationMissing, self.to_string()),
            _ => Self::new(LostAfterCommit, self.to_string()),
        }
    }

    #[must_use]
    pub const fn blame(&self) -> Blame {
        self.code.blame()
    }

    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.code.retry()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::{Failure, FailureCode, MAX_DETAIL_BYTES};

    #[test]
    fn names_are_unique_and_what_json_says() {
        let mut seen = std::collections::HashSet::new();
        for code in FailureCode::ALL {
            assert!(seen.insert(code.name()), "{code} twice");
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }

    #[test]
    fn rule_8_after_the_commit_point_no_help_says_to_submit_again() {
        for code in FailureCode::ALL {
            let after = Failure::new(*code, "its words").after_commit();
            assert!(!after.code.help().contains("submit"), "{code}: {}", after.code.help());
            assert!(after.detail.contains("its words"), "{code}: {after}");
            assert!(after.code == *code || after.detail.contains(code.name()), "{code}: {after}");
            assert_eq!(after.clone().after_commit(), after, "twice is once");
        }
    }

    #[test]
    fn a_detail_is_bounded_at_a_character() {
        let failure = Failure::new(FailureCode::Internal, "п".repeat(MAX_DETAIL_BYTES));
        assert!(failure.detail.len() <= MAX_DETAIL_BYTES + '…'.len_utf8());
    }
}
