//! How the practice site is told to misbehave, and for whom and how often.
//!
//! A switch is set by start options, by `POST /admin/switches` (each named one replaces its old
//! setting) or by the query of one page, which then counts for that page alone. `times` counts clicks
//! for what happens after Share and page views for what a page shows: a request that Chrome repeats by
//! itself belongs to its click and meets the same fate.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What `slow: true` and `late_post: true` last.
const SLOW_MS: u64 = 5_000;
/// Longest time taken, of processing and of hiding a post.
pub const MAX_SLOW_MS: u64 = 600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Processing takes this many milliseconds.
    Slow,
    /// 500 after Share, and nothing is stored.
    ErrorAfterShare,
    /// The post is stored, then the connection is cut before an answer.
    CutAfterStore,
    /// The page asks for a login, until `/signin`.
    LoginWall,
    /// The page says "Confirm it's you", until `/confirm`.
    VerificationPage,
    /// The page says "You are doing this too much" and has status 429, as long as it is on.
    RateLimitPage,
    /// The post is stored, then the browser is sent to "Confirm it's you".
    VerificationAfterShare,
    /// The post is stored and published, and its feeds show it only after this many milliseconds.
    LatePost,
    /// A banner covers the page until it is accepted.
    CookieBanner,
    /// The Share button is called "Publish now".
    RenameShare,
}

impl Switch {
    const ALL: [Self; 10] = [
        Self::Slow,
        Self::ErrorAfterShare,
        Self::CutAfterStore,
        Self::LoginWall,
        Self::VerificationPage,
        Self::RateLimitPage,
        Self::VerificationAfterShare,
        Self::LatePost,
        Self::CookieBanner,
        Self::RenameShare,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::ErrorAfterShare => "error_after_share",
            Self::CutAfterStore => "cut_after_store",
            Self::LoginWall => "login_wall",
            Self::VerificationPage => "verification_page",
            Self::RateLimitPage => "rate_limit_page",
            Self::VerificationAfterShare => "verification_after_share",
            Self::LatePost => "late_post",
            Self::CookieBanner => "cookie_banner",
            Self::RenameShare => "rename_share",
        }
    }

    /// Whether it lasts, and takes milliseconds.
    const fn lasts(self) -> bool {
        matches!(self, Self::Slow | Self::LatePost)
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|switch| switch.name() == text)
    }
}

/// One way a switch is on: for whom, how often, and (for `slow` and `late_post`) how long.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rule {
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    times: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
}

/// A switch's value on the wire: `true`, `false`, milliseconds, a rule, or several rules.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a switch takes true, false, {\"times\":n,\"account\":\"name\"} or a list of these; slow and late_post also take milliseconds, or \"ms\" in a rule"
)]
enum Wire {
    Plain(bool),
    Milliseconds(u64),
    One(Rule),
    Several(Vec<Rule>),
}

/// What was set, by switch. A switch that is not named is off, and as a change is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Switch, Wire>")]
pub struct Switches(BTreeMap<Switch, Vec<Rule>>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    #[error(
        "{} takes true, false, or {{\"times\":n,\"account\":\"name\"}}; only slow and late_post take milliseconds",
        .0.name()
    )]
    NoMilliseconds(Switch),
    #[error("slow and late_post take at most {MAX_SLOW_MS} milliseconds")]
    TooSlow,
    #[error(
        "{} in a page's query takes 1, true, 0 or false (slow and late_post: also milliseconds), not {value:?}",
        .switch.name()
    )]
    Query { switch: Switch, value: String },
}

impl TryFrom<BTreeMap<Switch, Wire>> for Switches {
    type Error = SwitchError;

    fn try_from(wire: BTreeMap<Switch, Wire>) -> Result<Self, SwitchError> {
        let mut switches = Self::default();
        for (switch, value) in wire {
            let rules = match value {
                Wire::Plain(false) => Vec::new(),
                Wire::Plain(true) => vec![Rule::default()],
                Wire::Milliseconds(ms) => vec![Rule { ms: Some(ms), ..Rule::default() }],
                Wire::One(rule) => vec![rule],
                Wire::Several(rules) => rules,
            };
            for ms in rules.iter().filter_map(|rule| rule.ms) {
                checked(switch, ms)?;
            }
            switches.0.insert(switch, rules);
        }
        Ok(switches)
    }
}

fn checked(switch: Switch, ms: u64) -> Result<u64, SwitchError> {
    match switch {
        switch if switch.lasts() && ms <= MAX_SLOW_MS => Ok(ms),
        switch if switch.lasts() => Err(SwitchError::TooSlow),
        other => Err(SwitchError::NoMilliseconds(other)),
    }
}

/// That a switch is on, here and now; those that last say how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct On {
    pub ms: u64,
}

impl Switches {
    /// Takes over what `change` names. Answers the switches that it named.
    pub fn apply(&mut self, change: Self) -> Vec<Switch> {
        let named = change.0.keys().copied().collect();
        self.0.extend(change.0);
        named
    }

    /// Whether `switch` is on for this account now; one of its `times` is used up.
    fn take(&mut self, switch: Switch, account: Option<&str>) -> Option<On> {
        let rules = self.0.get_mut(&switch)?;
        let rule = rules.iter_mut().find(|rule| {
            rule.times != Some(0) && rule.account.as_deref().is_none_or(|wanted| Some(wanted) == account)
        })?;
        if let Some(left) = &mut rule.times {
            *left -= 1;
        }
        Some(On { ms: rule.ms.unwrap_or(SLOW_MS) })
    }

    /// The page's own query first, then what is set for the site.
    pub fn ask(&mut self, query: &Asked, switch: Switch, account: Option<&str>) -> Option<On> {
        match query.0.get(&switch) {
            Some(answer) => *answer,
            None => self.take(switch, account),
        }
    }
}

/// The switches that one page's query names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked(BTreeMap<Switch, Option<On>>);

impl Asked {
    pub fn names(&self, switch: Switch) -> bool {
        self.0.contains_key(&switch)
    }

    pub fn add(&mut self, switch: Switch, value: &str) -> Result<(), SwitchError> {
        let on = match value {
            "" | "1" | "true" => Some(On { ms: SLOW_MS }),
            "0" | "false" => None,
            digits => {
                let ms = digits.parse().map_err(|_| SwitchError::Query { switch, value: digits.to_owned() })?;
                Some(On { ms: checked(switch, ms)? })
            }
        };
        self.0.insert(switch, on);
        Ok(())
    }
}

/// As a query again, for the page to hand on with its upload.
impl fmt::Display for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (switch, on)) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "&" };
            match on {
                None => write!(out, "{separator}{}=0", switch.name())?,
                Some(On { ms }) if switch.lasts() => write!(out, "{separator}{}={ms}", switch.name())?,
                Some(_) => write!(out, "{separator}{}=1", switch.name())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, Switch, Switches};

    fn switches(json: &str) -> Result<Switches, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn names_in_json_and_in_queries_are_the_same() {
        for switch in Switch::ALL {
            assert_eq!(serde_json::to_value(switch).unwrap(), switch.name());
            assert_eq!(Switch::parse(switch.name()), Some(switch));
        }
    }

    #[test]
    fn times_and_accounts_are_counted_down() {
        let mut set =
            switches(r#"{"cut_after_store":[{"account":"anna","times":2},{"account":"boris"}],"login_wall":false}"#)
                .unwrap();
        let query = Asked::default();
        let mut cut = |account| set.ask(&query, Switch::CutAfterStore, Some(account)).is_some();
        assert_eq!([cut("anna"), cut("anna"), cut("anna")], [true, true, false]);
        assert_eq!([cut("boris"), cut("boris"), cut("carol")], [true, true, false]);
        assert_eq!(set.ask(&query, Switch::LoginWall, Some("anna")), None);
    }

    #[test]
    fn a_change_replaces_what_it_names_and_leaves_the_rest() {
        let mut set = switches(r#"{"slow":3000,"rename_share":true}"#).unwrap();
        assert_eq!(set.apply(switches(r#"{"slow":false}"#).unwrap()), [Switch::Slow]);
        let query = Asked::default();
        assert_eq!(set.ask(&query, Switch::Slow, None), None);
        assert!(set.ask(&query, Switch::RenameShare, None).is_some());
    }

    #[test]
    fn a_query_overrules_the_site_and_uses_up_nothing() {
        let mut set = switches(r#"{"error_after_share":{"times":1}}"#).unwrap();
        let mut query = Asked::default();
        query.add(Switch::ErrorAfterShare, "0").unwrap();
        query.add(Switch::Slow, "1500").unwrap();
        query.add(Switch::LatePost, "700").unwrap();
        assert_eq!(set.ask(&query, Switch::ErrorAfterShare, None), None);
        assert_eq!(set.ask(&query, Switch::Slow, None).unwrap().ms, 1500);
        assert_eq!(query.to_string(), "slow=1500&error_after_share=0&late_post=700");
        assert!(set.ask(&Asked::default(), Switch::ErrorAfterShare, None).is_some());
    }

    #[test]
    fn what_is_unknown_or_makes_no_sense_is_refused() {
        for (wrong, says) in [
            (r#"{"sloow":1}"#, "unknown variant"),
            (r#"{"login_wall":5}"#, "only slow and late_post take milliseconds"),
            (r#"{"slow":600001}"#, "at most"),
            (r#"{"late_post":600001}"#, "at most"),
            (r#"{"rate_limit_page":5}"#, "take milliseconds"),
            (r#"{"slow":{"time":3}}"#, "a switch takes"),
            (r#"{"slow":"1"}"#, "a switch takes"),
        ] {
            let error = switches(wrong).unwrap_err();
            assert!(error.contains(says), "{wrong}: {error}");
        }
        assert!(Asked::default().add(Switch::LoginWall, "yes").is_err());
        assert!(Asked::default().add(Switch::LoginWall, "7").is_err());
    }
}
