//! Who may start now, when to try again, and why the others wait. Pure.
//!
//! [`why_waiting`] is the one place where a `wait_reason` is made: API, CLI and page show what it says.

use std::collections::BTreeMap;
use std::time::Duration;

use super::View;
use super::state::Limits;
use crate::model::{Intent, Item, ItemState, ProfileId, Timestamp, WaitReason};
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

/// Why an item waits, and until when where there is a time. None: it runs or is terminal.
#[must_use]
pub fn why_waiting(
    item: &Item,
    intent: &Intent,
    parked: bool,
    view: &View,
    now: Timestamp,
) -> Option<(WaitReason, Option<Timestamp>)> {
    match item.state {
        ItemState::Running | ItemState::Succeeded | ItemState::Failed | ItemState::Canceled => return None,
        ItemState::OutcomeUnknown => return Some((WaitReason::OutcomeUnknown, None)),
        ItemState::Held => return Some((WaitReason::HeldAfterRestore, None)),
        ItemState::Queued | ItemState::RetryWait => {}
    }
    if item.due_at > now {
        let reason =
            if item.state == ItemState::RetryWait { WaitReason::RetryBackoff } else { WaitReason::ScheduledFor };
        return Some((reason, Some(item.due_at)));
    }
    let reason = match &view.pause {
        Some(Pause::Operator { .. }) => WaitReason::Paused,
        Some(_) => WaitReason::HeldAfterRestore,
        None if intent.cancel_requested_at.is_some() || view.draining => WaitReason::Draining,
        None if parked => WaitReason::ProfileNeedsHuman,
        None if view.no_disk.is_some() => WaitReason::NoDisk,
        None => return Some(what_is_missing(item, view)),
    };
    Some((reason, None))
}

fn what_is_missing(item: &Item, view: &View) -> (WaitReason, Option<Timestamp>) {
    if view.operators.contains_key(&item.profile) {
        return (WaitReason::ProfileInUseByOperator, None);
    }
    if let Some(until) = view.in_use.get(&item.profile) {
        return (WaitReason::ProfileInUseByOperator, Some(*until));
    }
    if view.provider_down.is_some() {
        return (WaitReason::ProviderDown, None);
    }
    if view.running.contains_key(&item.profile) {
        return (WaitReason::ProfileBusy, None);
    }
    // Nothing else is missing: either the slots are taken, or its turn comes within this moment.
    (WaitReason::NoSlot, None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::{Room, back_off, choose, why_waiting};
    use crate::engine::View;
    use crate::engine::state::Limits;
    use crate::model::{Intent, Item, ItemId, ProfileId, Timestamp, WaitReason};
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

    #[test]
    fn without_disk_space_an_item_says_so() {
        let view = View { no_disk: Some("full".to_owned()), provider_down: Some("gone".to_owned()), ..View::default() };
        let item: Item = serde_json::from_value(serde_json::json!({
            "id": "i1", "task": "t1", "index": 0, "profile": "anna", "inputs": {}, "key": null, "priority": 0,
            "not_before": null, "not_after": null, "created_at": Timestamp::ZERO, "state": "queued",
            "due_at": Timestamp::ZERO, "ready": true, "attempts": 0, "fence": null, "armed_fence": null,
            "armed_at": null, "started_at": null, "finished_at": null, "url": null, "result": {}, "failure": null,
            "evidence": []
        }))
        .unwrap();
        let why = |parked, view: &View| why_waiting(&item, &Intent::default(), parked, view, Timestamp::ZERO);
        assert_eq!(why(false, &view), Some((WaitReason::NoDisk, None)));
        assert_eq!(why(true, &view), Some((WaitReason::ProfileNeedsHuman, None)));
        let enough = View { no_disk: None, ..view };
        assert_eq!(why(false, &enough), Some((WaitReason::ProviderDown, None)));
    }

    #[test]
    fn the_back_off_doubles_up_to_its_maximum_and_is_spread() {
        let limits = Limits { slots: 1, retry_base: Duration::from_secs(30), retry_max: Duration::from_secs(1_800) };
        assert_eq!(back_off(&limits, 1, 1.0), Duration::from_secs(30));
        assert_eq!(back_off(&limits, 3, 1.0), Duration::from_secs(120));
        assert_eq!(back_off(&limits, 99, 1.0), Duration::from_secs(1_800));
        assert_eq!(back_off(&limits, 99, 0.5), Duration::from_secs(900));
        assert_eq!(back_off(&limits, 1, 0.0), Duration::ZERO);
    }
}
