//! The reference model: what was acknowledged, and what the site saw; and what must follow from both.
//!
//! It is told of every acknowledged request and of every click, and knows nothing about tables or the
//! engine's state. Starts are judged when they happen, items after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cove::model::{Item, ItemId, ItemState, ProfileId, Task, TaskId, Timestamp};

#[derive(Clone, Debug, Default)]
struct ModelTask {
    paused: bool,
    canceled: bool,
    spacing: Duration,
    max_attempts: u32,
}

/// What the site saw of one item.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub clicks: u32,
    pub posts: u32,
}

#[derive(Default)]
pub struct Judge {
    tasks: BTreeMap<TaskId, ModelTask>,
    /// The truth about the outside world; no crash and no restore changes it.
    pub seen: BTreeMap<ItemId, Seen>,
    /// Keys whose item was posted.
    spent_keys: BTreeSet<String>,
    pub paused: bool,
    pub parked: BTreeSet<ProfileId>,
    last_armed: BTreeMap<ProfileId, Timestamp>,
}

impl Judge {
    pub fn accepted(&mut self, task: &Task, keys: &BTreeSet<String>) {
        assert!(keys.is_disjoint(&self.spent_keys), "a key that was posted was accepted again");
        let spacing = Duration::from_secs(u64::from(task.spacing_seconds));
        let model = ModelTask { spacing, max_attempts: task.max_attempts, ..ModelTask::default() };
        self.tasks.insert(task.id, model);
    }

    pub fn tasks(&self) -> Vec<TaskId> {
        self.tasks.keys().copied().collect()
    }

    pub fn canceled(&mut self, task: TaskId) {
        self.tasks.get_mut(&task).unwrap().canceled = true;
    }

    pub fn set_paused(&mut self, task: TaskId, paused: bool) {
        self.tasks.get_mut(&task).unwrap().paused = paused;
    }

    pub fn retried(&mut self, task: TaskId) {
        self.tasks.get_mut(&task).unwrap().canceled = false;
    }

    pub fn forgotten(&mut self, task: TaskId) {
        self.tasks.remove(&task);
    }

    /// An older state is back: what was asked since is forgotten, what the site saw is not.
    pub fn restored(&mut self, tasks: impl Iterator<Item = (Task, bool, bool)>, parked: BTreeSet<ProfileId>) {
        self.tasks = tasks
            .map(|(task, paused, canceled)| {
                let spacing = Duration::from_secs(u64::from(task.spacing_seconds));
                (task.id, ModelTask { paused, canceled, spacing, max_attempts: task.max_attempts })
            })
            .collect();
        self.parked = parked;
        self.paused = true;
        self.last_armed.clear();
    }

    pub fn armed(&mut self, profile: &ProfileId, now: Timestamp) {
        self.last_armed.insert(profile.clone(), now);
    }

    pub fn clicked(&mut self, item: ItemId, posts: bool) {
        let seen = self.seen.entry(item).or_default();
        seen.clicks += 1;
        seen.posts += u32::from(posts);
    }

    /// An attempt starts: everything that forbids it must be absent. `skew`: how far the clock was set ahead.
    pub fn starts(&self, item: &Item, now: Timestamp, skew: Duration) {
        let id = item.id;
        let task = self.tasks.get(&item.task).unwrap_or_else(|| panic!("{id} starts and its task is not known"));
        assert!(!self.paused, "{id} starts while everything is paused");
        assert!(!task.paused, "{id} starts while its task is paused");
        assert!(!task.canceled, "{id} starts after its task was canceled");
        assert!(!self.parked.contains(&item.profile), "{id} starts in a parked profile");
        let early = |not_before: Timestamp| now < not_before.plus(skew);
        assert!(!item.not_before.is_some_and(early), "{id} starts before its time");
        assert!(item.not_after.is_none_or(|not_after| now <= not_after), "{id} starts after its time");
        assert!(item.attempts_spent() <= task.max_attempts, "{id} makes attempt {}", item.attempts_spent());
        if let Some(last) = self.last_armed.get(&item.profile) {
            assert!(now.since(*last) >= task.spacing, "{id} starts too soon after the last in its profile");
        }
        let seen = self.seen.get(&id).copied().unwrap_or_default();
        assert_eq!(seen.posts, 0, "{id} was posted and starts again");
        let spent = item.key.as_ref().filter(|key| self.spent_keys.contains(*key));
        assert_eq!(spent, None, "{id} starts and its key was posted");
    }

    pub fn item(&mut self, item: &Item) {
        let seen = self.seen.get(&item.id).copied().unwrap_or_default();
        assert!(seen.posts <= 1, "{} was posted {} times", item.id, seen.posts);
        if seen.posts > 0 {
            self.spent_keys.extend(item.key.clone());
            let fits = item.is_armed() || matches!(item.state, ItemState::Succeeded | ItemState::OutcomeUnknown);
            let given_up = item.state == ItemState::Failed && item.may_have_published();
            assert!(fits || given_up, "{} was posted and is {}", item.id, item.state);
        }
        if item.state == ItemState::Succeeded {
            assert_eq!(seen.posts, 1, "{} succeeded and was not posted", item.id);
        }
        if item.state == ItemState::Canceled {
            assert_eq!(seen.posts, 0, "{} was canceled and was posted", item.id);
        }
    }

    pub fn all_there(&self, found: &BTreeSet<TaskId>) {
        for task in self.tasks.keys() {
            assert!(found.contains(task), "{task} was acknowledged and is lost");
        }
    }
}
