//! Reading tasks and items.
//!
//! Handlers of `/tasks` and `/items` that write nothing: they read the store and the engine's view. What is
//! asked of tasks and items stands in `intents`. Invariant: why an item waits is computed by the engine's own function,
//! so that the API and the engine never disagree.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hyper::{Response, StatusCode, Uri};
use serde_json::{Value, json};

use super::body::{self, Reply};
use super::error::{ApiError, Code, FieldError};
use super::form::Walk;
use super::front::Call;
use super::profiles::Directory;
use super::query::{Listing, Query};
use super::{Context, wire};
use crate::engine::{ProfileFacts, View, more_of_waiting, why_waiting};
use crate::model::flow::Flow;
use crate::model::{Intent, Item, ItemId, ItemState, ProfileId, Resolution, TaskId, TaskState, Timestamp};
use crate::store::{ItemQuery, TaskQuery, TaskRow};

/// What is needed to show items, read once a request.
pub struct Viewer<'a> {
    context: &'a Context,
    pub view: Arc<View>,
    /// What stands in the way of a profile; by its id.
    pub profiles: HashMap<ProfileId, ProfileFacts>,
    pub now: Timestamp,
    /// The tasks met so far.
    tasks: HashMap<TaskId, Met>,
}

/// What an item's task says of it.
#[derive(Default)]
struct Met {
    intent: Intent,
    rehearsal: bool,
    /// It says which inputs are secret.
    flow: Option<Arc<Flow>>,
}

impl<'a> Viewer<'a> {
    pub async fn new(context: &'a Context) -> Result<Self, ApiError> {
        let moment = context.clock.moment();
        let (profiles, held) = context.store.profiles_and_held(moment).await?;
        let mut profiles: HashMap<ProfileId, ProfileFacts> =
            profiles.iter().map(|profile| (profile.id.clone(), ProfileFacts::of(profile))).collect();
        for (profile, lock) in held {
            let facts = profiles.entry(profile).or_default();
            (facts.held, facts.held_until) = (true, lock.free_at(moment));
        }
        Ok(Self { context, view: context.engine.view(), profiles, now: moment.wall, tasks: HashMap::new() })
    }

    fn wait(&self, item: &Item, intent: &Intent) -> wire::Wait {
        let profile = self.profiles.get(&item.profile).copied().unwrap_or_default();
        why_waiting(item, intent, profile, &self.view, self.now)
    }

    pub fn task(&self, row: &TaskRow) -> Value {
        let mut reasons = BTreeMap::new();
        for alike in &row.waiting {
            if let Some((reason, _)) = self.wait(&alike.item, &row.intent) {
                *reasons.entry(reason.name()).or_insert(0) += alike.items;
            }
        }
        wire::task(row, &reasons)
    }

    pub async fn item(&mut self, item: &Item) -> Result<Value, ApiError> {
        self.items(std::slice::from_ref(item)).await.map(|mut shown| shown.pop().unwrap_or_default())
    }

    pub async fn items(&mut self, items: &[Item]) -> Result<Vec<Value>, ApiError> {
        let succeeded = items.iter().filter(|item| item.state == ItemState::Succeeded).map(|item| item.id);
        let settled = self.context.store.settled_published(succeeded.collect()).await?;
        let mut shown = Vec::with_capacity(items.len());
        for item in items {
            let mut json = self.show(item).await?;
            if settled.contains(&item.id) {
                json["resolution"] = json!(Resolution::Published.name());
            }
            shown.push(json);
        }
        Ok(shown)
    }

    async fn show(&mut self, item: &Item) -> Result<Value, ApiError> {
        if !self.tasks.contains_key(&item.task) {
            let known = match self.context.store.task_alone(item.task).await? {
                Some((task, intent)) => {
                    let flow = self.context.pinned_flow(&task.flow_hash).await?;
                    Met { intent, rehearsal: task.rehearsal, flow }
                }
                None => Met::default(),
            };
            self.tasks.insert(item.task, known);
        }
        let Met { intent, rehearsal, flow } = &self.tasks[&item.task];
        let is_secret = |name: &str| {
            let spec = flow.as_ref().and_then(|flow| flow.inputs.get(name));
            spec.is_none_or(|spec| spec.secret)
        };
        let wait = self.wait(item, intent);
        let more = wait.and_then(|(reason, _)| more_of_waiting(item, reason, &self.view));
        let mut json = wire::item(item, wait, more.as_deref(), is_secret);
        if *rehearsal {
            json["rehearsal"] = json!(true);
        }
        Ok(json)
    }
}

pub fn parse_task_id(text: &str) -> Result<TaskId, ApiError> {
    text.parse().map_err(|_| no_task())
}

pub fn no_task() -> ApiError {
    ApiError::not_found("There is no task with this id.")
}

pub async fn find_task(context: &Context, id: &str) -> Result<TaskRow, ApiError> {
    context.store.task(parse_task_id(id)?).await?.ok_or_else(no_task)
}

/// The id of a task that there is.
async fn known_task(context: &Context, id: &str) -> Result<TaskId, ApiError> {
    let id = parse_task_id(id)?;
    context.store.task_alone(id).await?.map(|_| id).ok_or_else(no_task)
}

pub async fn find_item(context: &Context, id: &str) -> Result<Item, ApiError> {
    let missing = || ApiError::not_found("There is no item with this id.");
    let id: ItemId = id.parse().map_err(|_| missing())?;
    context.store.item(id).await?.ok_or_else(missing)
}

/// The `profile` parameter: an id or an unambiguous name.
async fn profile_filter(context: &Context, query: &Query, walk: &mut Walk) -> Result<Option<ProfileId>, ApiError> {
    let Some(name) = query.get("profile") else { return Ok(None) };
    let directory = Directory::load(context).await?;
    match directory.find(name) {
        Ok(profile) => Ok(Some(profile.id.clone())),
        Err(unfit) => {
            walk.report(FieldError::new(unfit.code(), "profile", unfit.to_string()));
            Ok(None)
        }
    }
}

fn names<const N: usize>(all: [&'static str; N]) -> String {
    all.join(", ")
}

pub async fn list_tasks(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["state", "flow", "profile", "cursor", "limit"], &mut walk);
    let states = names(TaskState::ALL.map(TaskState::name));
    let asked = TaskQuery {
        state: query.parsed("state", &mut walk, &states, TaskState::parse),
        flow: query.get("flow").map(str::to_owned),
        profile: profile_filter(&context, &query, &mut walk).await?,
        before: query.cursor(Listing::Tasks, &mut walk),
        limit: query.limit(&mut walk),
    };
    walk.finish()?;
    let page = context.store.tasks(asked).await?;
    let viewer = Viewer::new(&context).await?;
    let tasks: Vec<Value> = page.rows.iter().map(|row| viewer.task(row)).collect();
    let json = json!({"tasks": tasks, "next_cursor": Listing::Tasks.cursor(page.next)});
    Ok(body::json(StatusCode::OK, &json))
}

pub async fn show_task(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let row = find_task(&context, call.params.get("id")).await?;
    Ok(body::json(StatusCode::OK, &Viewer::new(&context).await?.task(&row)))
}

pub async fn list_task_items(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let id = known_task(&context, call.params.get("id")).await?;
    items_page(&context, &call.head.uri, Some(id)).await
}

pub async fn list_items(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    items_page(&context, &call.head.uri, None).await
}

async fn items_page(context: &Context, uri: &Uri, task: Option<TaskId>) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    let known = ["state", "profile", "cursor", "limit", "task"];
    let known = if task.is_some() { &known[..4] } else { &known[..] };
    let query = Query::read(uri, known, &mut walk);
    let states = names(ItemState::ALL.map(ItemState::name));
    let asked = ItemQuery {
        state: query.parsed("state", &mut walk, &states, ItemState::parse),
        task: task.or_else(|| query.parsed("task", &mut walk, "the id of a task", |text| text.parse().ok())),
        profile: profile_filter(context, &query, &mut walk).await?,
        before: query.cursor(Listing::Items, &mut walk),
        limit: query.limit(&mut walk),
    };
    if let Some(id) = asked.task.filter(|id| task != Some(*id))
        && context.store.task_alone(id).await?.is_none()
    {
        walk.wrong(Code::InvalidField, "task", "There is no task with this id.");
    }
    walk.finish()?;
    let page = context.store.items(asked).await?;
    let items = Viewer::new(context).await?.items(&page.rows).await?;
    let json = json!({"items": items, "next_cursor": Listing::Items.cursor(page.next)});
    Ok(body::json(StatusCode::OK, &json))
}

pub async fn show_item(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let item = find_item(&context, call.params.get("id")).await?;
    Ok(body::json(StatusCode::OK, &Viewer::new(&context).await?.item(&item).await?))
}

pub async fn list_events(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let id = known_task(&context, call.params.get("id")).await?;
    let mut walk = Walk::default();
    let query = Query::read(&call.head.uri, &["cursor", "limit"], &mut walk);
    let after = query.cursor(Listing::Events, &mut walk);
    let limit = query.limit(&mut walk);
    walk.finish()?;
    // One more than shown says whether there is another page.
    let mut rows = context.store.events(id, after, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.number);
    let events: Vec<Value> = rows.iter().map(wire::event).collect();
    let json = json!({"events": events, "next_cursor": Listing::Events.cursor(next)});
    Ok(body::json(StatusCode::OK, &json))
}

#[cfg(test)]
mod tests {
    use super::{no_task, parse_task_id};
    use crate::api::error::Code;

    #[test]
    fn what_cannot_be_an_id_is_not_found() {
        assert_eq!(no_task().code(), Code::NotFound);
        for text in ["", "7", "i7", "t", "t-1", "t7/"] {
            assert_eq!(parse_task_id(text).unwrap_err().code(), Code::NotFound, "{text}");
        }
        assert!(parse_task_id("t7").is_ok());
    }
}
