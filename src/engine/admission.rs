//! Who may start now, when to try again, and why the others wait. Pure.
//!
//! [`why_waiting`] and its part [`why_ready_waits`] are the one place where a `wait_reason` is made: API, CLI,
//! metrics and page show what they say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::View;
use super::state::Limits;
use crate::breaker::Passage;
use crate::model::{
    Failure, FailureCode, HeldFor, Intent, Item, ItemState, Place, Profile, ProfileEffect, ProfileId, Retry, Timestamp,
    Verdict, WaitReason,
};
use crate::store::{Head, Pause};

/// Longest exponent of the back-off: beyond it the maximum holds anyway.
const MAX_DOUBLINGS: u32 = 20;

/// What there is room for.
pub struct Room<'a> {
    pub free: u32,
    /// Profiles left alone until a time.
    pub in_use: &'a BTreeMap<ProfileId, Timestamp>,
}

/// The heads to start: the highest priority first, the oldest within it, one a profile.
pub fn choose(mut heads: Vec<Head>, room: &Room<'_>, taken: impl Fn(&ProfileId) -> bool) -> Vec<Head> {
    heads.retain(|head| !taken(&head.profile) && !room.in_use.contains_key(&head.profile));
    heads.sort_by_key(|head| (std::cmp::Reverse(head.priority), head.item));
    heads.truncate(usize::try_from(room.free).unwrap_or(usize::MAX));
    heads
}

/// Full jitter: a time between zero and base × 2^(n − 1), at most the maximum. `roll` is in 0..1.
pub fn back_off(limits: &Limits, attempts: u32, roll: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(MAX_DOUBLINGS);
    let ceiling = limits.retry_base.saturating_mul(1 << doublings).min(limits.retry_max);
    ceiling.mul_f64(roll.clamp(0.0, 1.0))
}

/// What an attempt that ended unarmed leads to, by what it met alone.
#[must_use]
pub fn after_failure(
    limits: &Limits,
    attempts: u32,
    max_attempts: u32,
    failure: Failure,
    roll: f64,
    now: Timestamp,
) -> Verdict {
    match failure.retry() {
        Retry::Never => Verdict::Failed(failure),
        Retry::Uncounted => Verdict::TryAgain { failure, due_at: Timestamp::ZERO, counted: false },
        Retry::Backoff if attempts >= max_attempts => Verdict::Failed(failure),
        Retry::Backoff => {
            let due_at = now.plus(back_off(limits, attempts, roll));
            Verdict::TryAgain { failure, due_at, counted: true }
        }
    }
}

/// What a site said means for the profile, beyond the attempt that met it.
#[must_use]
pub fn effect(failure: &Failure, limits: &Limits, now: Timestamp) -> Option<ProfileEffect> {
    match failure.code {
        FailureCode::NeedsHuman => Some(ProfileEffect::Park(failure.detail.clone())),
        FailureCode::RateLimited => Some(ProfileEffect::Rest(now.plus(limits.rest))),
        _ => None,
    }
}

/// The same where the click may have happened: whatever the site said then, a person looks at the profile
/// before it goes on (fence.md rule 7).
#[must_use]
pub fn effect_after_commit(failure: &Failure) -> Option<ProfileEffect> {
    let said_by_the_site =
        matches!(failure.code, FailureCode::NeedsHuman | FailureCode::RateLimited | FailureCode::Rejected);
    said_by_the_site.then(|| ProfileEffect::Park(failure.detail.clone()))
}

/// What the store says of an item's profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileFacts {
    pub parked: bool,
    /// Its site said that it did too much.
    pub rests_until: Option<Timestamp>,
    /// An outside program or worker holds its lock.
    pub held: bool,
    /// Until then at the latest, where time ends it.
    pub held_until: Option<Timestamp>,
}

impl ProfileFacts {
    #[must_use]
    pub const fn of(profile: &Profile) -> Self {
        Self { parked: profile.parked.is_some(), rests_until: profile.rests_until, held: false, held_until: None }
    }

    /// When a verify that is due at this time can look. None: that is up to a person, or to what runs there
    /// now; a time that has passed tells nobody anything.
    #[must_use]
    pub fn next_look(&self, at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let at = at.max(self.rests_until.unwrap_or(at));
        Some(at).filter(|at| !self.parked && *at > now)
    }
}

/// Why an item waits, and until when where there is a time. None: it runs or is terminal.
#[must_use]
pub fn why_waiting(
    item: &Item,
    intent: &Intent,
    profile: ProfileFacts,
    view: &View,
    now: Timestamp,
) -> Option<(WaitReason, Option<Timestamp>)> {
    match item.state {
        ItemState::Running | ItemState::Succeeded | ItemState::Failed | ItemState::Canceled => return None,
        ItemState::OutcomeUnknown => {
            let next_look = item.verify.and_then(|plan| plan.next_at);
            return Some((WaitReason::OutcomeUnknown, next_look.and_then(|at| profile.next_look(at, now))));
        }
        ItemState::Held => {
            let clock = item.held_for == Some(HeldFor::Clock);
            let reason = if clock { WaitReason::ClockSuspect } else { WaitReason::HeldAfterRestore };
            return Some((reason, None));
        }
        ItemState::Queued | ItemState::RetryWait => {}
    }
    if item.place == Place::Paused || intent.paused_at.is_some() {
        return Some((WaitReason::Paused, None));
    }
    if item.due_at > now {
        let reason =
            if item.state == ItemState::RetryWait { WaitReason::RetryBackoff } else { WaitReason::ScheduledFor };
        return Some((reason, Some(item.due_at)));
    }
    // Also where its task is canceled: that ends it at its next turn, and is no reason to wait.
    Some(why_ready_waits(item.external.is_some(), &item.profile, profile, view, now))
}

/// What a reason does not say by itself, for a person. None: the reason says it all, or its time does.
#[must_use]
pub fn more_of_waiting(item: &Item, reason: WaitReason, view: &View) -> Option<String> {
    match (reason, &item.external) {
        (WaitReason::NoSlot, Some(kind)) => {
            Some(format!("an outside worker has to claim it (kind `{kind}`): it needs no slot"))
        }
        (WaitReason::ProviderDown, _) => {
            let refused = view.refused.get(&item.profile).map(|refused| refused.why.clone());
            refused.or_else(|| view.provider_down.clone())
        }
        (WaitReason::NoDisk, _) => view.no_disk.clone(),
        (WaitReason::NoMemory | WaitReason::NoCpu, _) => {
            view.strain.shortage.as_ref().map(|shortage| shortage.why.clone())
        }
        _ => None,
    }
}

/// Why what is ready in a profile does not run.
#[must_use]
pub fn why_ready_waits(
    external: bool,
    id: &ProfileId,
    profile: ProfileFacts,
    view: &View,
    now: Timestamp,
) -> (WaitReason, Option<Timestamp>) {
    match &view.pause {
        Some(Pause::Operator { .. }) => return (WaitReason::Paused, None),
        Some(_) => return (WaitReason::HeldAfterRestore, None),
        None if view.draining => return (WaitReason::Draining, None),
        None => {}
    }
    if profile.parked {
        return (WaitReason::ProfileNeedsHuman, None);
    }
    if view.no_disk.is_some() {
        return (WaitReason::NoDisk, None);
    }
    if let Some(until) = profile.rests_until.filter(|until| *until > now) {
        return (WaitReason::RateLimitedUntil, Some(until));
    }
    if view.operators.contains_key(id) {
        return (WaitReason::ProfileInUseByOperator, None);
    }
    if let Some(until) = view.in_use.get(id) {
        return (WaitReason::ProfileInUseByOperator, Some(*until));
    }
    if !external {
        let refused = view.refused.get(id).map(|refused| refused.until).filter(|until| *until > now);
        match view.breakers {
            Passage::Shut { until } if until > now => return (WaitReason::BreakerOpenUntil, Some(until)),
            _ if refused.is_some() => return (WaitReason::ProviderDown, refused),
            Passage::Trial | Passage::Shut { .. } if view.provider_until.is_some() => {
                return (WaitReason::ProviderDown, view.provider_until.filter(|until| *until > now));
            }
            // Half open, a few are tried and the others wait for what comes of them.
            Passage::Shut { .. } | Passage::Trial => return (WaitReason::BreakerOpenUntil, None),
            Passage::Free if view.provider_down.is_some() => {
                return (WaitReason::ProviderDown, view.provider_until.filter(|until| *until > now));
            }
            Passage::Free => {}
        }
    }
    if view.running.contains_key(id) {
        return (WaitReason::ProfileBusy, None);
    }
    if profile.held {
        return (WaitReason::ProfileBusy, profile.held_until);
    }
    if let Some(shortage) = view.strain.shortage.as_ref().filter(|_| !external && view.busy < view.slots) {
        return (shortage.of.reason(), None);
    }
    // Nothing else is missing: the slots (or the outside workers) are taken, or its turn comes within
    // this moment.
    (WaitReason::NoSlot, None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{ProfileFacts, Room, back_off, choose, more_of_waiting, why_ready_waits, why_waiting};
    use crate::breaker::Passage;
    use crate::engine::pressure::{Scarce, Shortage};
    use crate::engine::state::Limits;
    use crate::engine::{RefusedView, View};
    use crate::model::{Intent, Item, ItemId, ItemState, ProfileId, TaskId, Timestamp, VerifyPlan, WaitReason};
    use crate::store::Head;

    fn head(profile: &str, priority: i32, item: u64) -> Head {
        Head { profile: ProfileId::new(profile).unwrap(), priority, item: ItemId::new(item) }
    }

    #[test]
    fn priority_then_age_one_a_profile() {
        let heads = vec![head("a", 0, 5), head("b", 9, 7), head("c", 0, 2), head("d", 0, 1), head("e", 99, 9)];
        let in_use = BTreeMap::from([(ProfileId::new("e").unwrap(), Timestamp::ZERO)]);
        let room = Room { free: 3, in_use: &in_use };
        let chosen: Vec<u64> =
            choose(heads, &room, |profile| profile.as_str() == "d").iter().map(|head| head.item.raw()).collect();
        assert_eq!(chosen, [7, 2, 5]);
    }

    fn waiting() -> Item {
        Item::new(ItemId::new(1), TaskId::new(1), ProfileId::new("anna").unwrap(), Timestamp::ZERO)
    }

    #[test]
    fn a_profile_that_an_outside_program_holds_is_busy_until_its_lease_ends() {
        let until = Timestamp::from_millis(9_000);
        let (held, free) =
            (ProfileFacts { held: true, held_until: Some(until), ..ProfileFacts::default() }, ProfileFacts::default());
        let why = |facts, view: &View| why_waiting(&waiting(), &Intent::default(), facts, view, Timestamp::ZERO);
        let mut view = View::default();
        assert_eq!(why(held, &view), Some((WaitReason::ProfileBusy, Some(until))));
        let stopping = ProfileFacts { held_until: None, ..held };
        assert_eq!(why(stopping, &view), Some((WaitReason::ProfileBusy, None)), "no time ends it");
        assert_eq!(why(free, &view), Some((WaitReason::NoSlot, None)));
        let parked = ProfileFacts { parked: true, ..held };
        assert_eq!(why(parked, &view), Some((WaitReason::ProfileNeedsHuman, None)));
        view.running.insert(ProfileId::new("anna").unwrap(), None);
        assert_eq!(why(free, &view), Some((WaitReason::ProfileBusy, None)));
    }

    #[test]
    fn an_unknown_outcome_tells_of_a_look_that_is_to_come_and_of_no_other() {
        let at = |ms| Some(Timestamp::from_millis(ms));
        let plan = VerifyPlan { next_at: at(9_000), ..VerifyPlan::beginning(Timestamp::ZERO) };
        let unknown = Item { state: ItemState::OutcomeUnknown, verify: Some(plan), ..waiting() };
        let until = |facts, now| {
            let why = why_waiting(&unknown, &Intent::default(), facts, &View::default(), Timestamp::from_millis(now));
            let (reason, until) = why.unwrap();
            assert_eq!(reason, WaitReason::OutcomeUnknown);
            until
        };
        let free = ProfileFacts::default();
        assert_eq!(until(free, 8_999), at(9_000));
        assert_eq!(until(free, 9_000), None, "it is about to look");
        assert_eq!(until(ProfileFacts { parked: true, ..free }, 0), None, "a person comes first");
        assert_eq!(until(ProfileFacts { rests_until: at(20_000), ..free }, 0), at(20_000));
    }

    #[test]
    fn an_item_of_a_canceled_task_says_what_would_hold_without_the_cancel() {
        let intent = Intent { cancel_requested_at: Some(Timestamp::ZERO), ..Intent::default() };
        let why =
            |view: &View| why_waiting(&waiting(), &intent, ProfileFacts::default(), view, Timestamp::ZERO).unwrap().0;
        assert_eq!(why(&View::default()), WaitReason::NoSlot, "nothing drains");
        assert_eq!(why(&View { draining: true, ..View::default() }), WaitReason::Draining);
    }

    #[test]
    fn an_item_for_outside_workers_says_that_it_waits_for_one() {
        let outside = Item { external: Some("playwright".to_owned()), ..waiting() };
        let view = View { slots: 2, ..View::default() };
        let (reason, _) =
            why_waiting(&outside, &Intent::default(), ProfileFacts::default(), &view, Timestamp::ZERO).unwrap();
        let more = |item| more_of_waiting(item, reason, &view);
        assert_eq!(reason, WaitReason::NoSlot);
        assert!(more(&outside).unwrap().contains("`playwright`"));
        assert_eq!(more(&waiting()), None);
    }

    #[test]
    fn a_refused_profile_says_what_was_refused_and_when_it_is_tried_and_the_others_do_not() {
        let (anna, zoe) = (ProfileId::new("anna").unwrap(), ProfileId::new("zoe").unwrap());
        let until = Timestamp::from_millis(60_000);
        let refused = RefusedView { why: "402: on free plan".to_owned(), until };
        let mut view = View { refused: BTreeMap::from([(anna.clone(), refused)]), ..View::default() };
        let why = |id, view: &View, now| {
            why_ready_waits(false, id, ProfileFacts::default(), view, Timestamp::from_millis(now))
        };
        assert_eq!(why(&anna, &view, 0), (WaitReason::ProviderDown, Some(until)));
        assert_eq!(more_of_waiting(&waiting(), WaitReason::ProviderDown, &view).unwrap(), "402: on free plan");
        assert_eq!(why(&zoe, &view, 0), (WaitReason::NoSlot, None));
        assert_eq!(why(&anna, &view, 60_000), (WaitReason::NoSlot, None), "its turn comes");
        view.breakers = Passage::Trial;
        assert_eq!(why(&anna, &view, 0), (WaitReason::ProviderDown, Some(until)));
        assert_eq!(why(&zoe, &view, 0), (WaitReason::BreakerOpenUntil, None));
        let shut = Timestamp::from_millis(90_000);
        view.breakers = Passage::Shut { until: shut };
        assert_eq!(why(&anna, &view, 0), (WaitReason::BreakerOpenUntil, Some(shut)));
    }

    #[test]
    fn without_disk_space_an_item_says_so() {
        let view = View { no_disk: Some("full".to_owned()), provider_down: Some("gone".to_owned()), ..View::default() };
        let (free, parked) = (ProfileFacts::default(), ProfileFacts { parked: true, ..ProfileFacts::default() });
        let why = |facts, view: &View| why_waiting(&waiting(), &Intent::default(), facts, view, Timestamp::ZERO);
        assert_eq!(why(free, &view), Some((WaitReason::NoDisk, None)));
        assert_eq!(why(parked, &view), Some((WaitReason::ProfileNeedsHuman, None)));
        let enough = View { no_disk: None, ..view };
        assert_eq!(why(free, &enough), Some((WaitReason::ProviderDown, None)));
    }

    #[test]
    fn without_room_on_the_machine_an_item_says_so_unless_something_else_is_in_its_way_too() {
        let of = |of| Some(Shortage { of, why: "full".to_owned() });
        let mut view = View { slots: 2, busy: 1, ..View::default() };
        let anna = ProfileId::new("anna").unwrap();
        let why =
            |external, view: &View| why_ready_waits(external, &anna, ProfileFacts::default(), view, Timestamp::ZERO);
        for (scarce, reason) in [(Scarce::Memory, WaitReason::NoMemory), (Scarce::Cpu, WaitReason::NoCpu)] {
            view.strain.shortage = of(scarce);
            assert_eq!(why(false, &view), (reason, None));
            assert_eq!(why(true, &view), (WaitReason::NoSlot, None), "an outside worker needs no browser of cove's");
        }
        view.busy = 2;
        assert_eq!(why(false, &view), (WaitReason::NoSlot, None), "memory alone would not help");
        view.running.insert(anna.clone(), None);
        assert_eq!(why(false, &view), (WaitReason::ProfileBusy, None));
        let down = View { provider_down: Some("gone".to_owned()), ..View { busy: 0, ..view } };
        assert_eq!(why(false, &down), (WaitReason::ProviderDown, None));
    }

    #[test]
    fn the_back_off_doubles_up_to_its_maximum_and_is_spread() {
        let limits = Limits {
            slots: 1,
            retry_base: Duration::from_secs(30),
            retry_max: Duration::from_secs(1_800),
            rest: Duration::ZERO,
            catch_up_per_hour: 0,
            sessions: 0,
        };
        assert_eq!(back_off(&limits, 1, 1.0), Duration::from_secs(30));
        assert_eq!(back_off(&limits, 3, 1.0), Duration::from_secs(120));
        assert_eq!(back_off(&limits, 99, 1.0), Duration::from_secs(1_800));
        assert_eq!(back_off(&limits, 99, 0.5), Duration::from_secs(900));
        assert_eq!(back_off(&limits, 1, 0.0), Duration::ZERO);
    }
}
