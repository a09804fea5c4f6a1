//! Profiles: list, create, show, and opening one for a person.
//!
//! A profile in a request is its id or an unambiguous name ([`Directory::find`]). Opening and closing are
//! handed to the engine, which owns the profile's lock; their progress is in its view. Invariant: an
//! ambiguous name never picks a profile, since posting from the wrong account cannot be taken back.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::body::{self, Reply};
use super::error::{ApiError, Code, FieldError};
use super::form::Walk;
use super::front::Call;
use super::keyring::Caller;
use super::{Context, devtools};
use crate::config::ProviderKind;
use crate::engine::{OperatorView, View};
use crate::model::profile::MAX_PROFILE_NAME_BYTES;
use crate::model::{Lock, Profile, ProfileId, ProfileState, Scope, Timestamp};
use crate::ops::roster::RosterHandle;
use crate::store::CreateProfileError;

/// The engine answers from its own state; a browser is not waited for.
const ENGINE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("There is no profile with this id or name.")]
    Unknown,
    #[error("{0} profiles have this name, which makes it ambiguous: use the id.")]
    Ambiguous(usize),
}

impl Unfit {
    pub const fn code(self) -> Code {
        match self {
            Self::Unknown => Code::UnknownProfile,
            Self::Ambiguous(_) => Code::AmbiguousProfile,
        }
    }
}

/// All profiles, to be found by id or name.
pub struct Directory {
    profiles: Vec<Profile>,
    /// Rung for one that is not here: the provider may have it since.
    roster: RosterHandle,
    by_id: HashMap<ProfileId, usize>,
    by_name: HashMap<String, Vec<usize>>,
}

impl Directory {
    pub async fn load(context: &Context) -> Result<Self, ApiError> {
        Ok(Self::of(context, context.store.profiles().await?))
    }

    /// `profiles` are all that there are.
    pub fn of(context: &Context, profiles: Vec<Profile>) -> Self {
        Self { roster: context.roster.clone(), ..Self::new(profiles) }
    }

    fn new(profiles: Vec<Profile>) -> Self {
        let by_id = profiles.iter().enumerate().map(|(number, profile)| (profile.id.clone(), number)).collect();
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (number, profile) in profiles.iter().enumerate() {
            by_name.entry(profile.name.clone()).or_default().push(number);
        }
        Self { profiles, roster: RosterHandle::default(), by_id, by_name }
    }

    pub fn find(&self, text: &str) -> Result<&Profile, Unfit> {
        if let Some(number) = ProfileId::new(text).ok().and_then(|id| self.by_id.get(&id)) {
            return Ok(&self.profiles[*number]);
        }
        match self.by_name.get(text).map(Vec::as_slice) {
            Some([number]) => Ok(&self.profiles[*number]),
            Some(several) => Err(Unfit::Ambiguous(several.len())),
            None => {
                self.roster.ring();
                Err(Unfit::Unknown)
            }
        }
    }

    /// An id for a new profile of this name. None: an id or name of another already is this name.
    fn id_for(&self, name: &str) -> Option<ProfileId> {
        if self.find(name) != Err(Unfit::Unknown) {
            return None;
        }
        let base = id_text(name);
        let taken: HashSet<&str> =
            self.profiles.iter().flat_map(|profile| [profile.id.as_str(), profile.name.as_str()]).collect();
        let mut candidates = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
        let free = candidates.find(|id| !taken.contains(id.as_str()))?;
        ProfileId::new(&free).ok()
    }
}

/// The name as the name of a folder; people see the name itself.
fn id_text(name: &str) -> String {
    // Room for `-` and a number behind it.
    const MAX_BYTES: usize = MAX_PROFILE_NAME_BYTES - 12;
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_alphanumeric() || (character == '_' && !text.is_empty()) {
            text.push(character);
        } else if !text.is_empty() && !text.ends_with('-') {
            text.push('-');
        }
    }
    text.truncate(MAX_BYTES);
    let text = text.trim_end_matches('-');
    if text.is_empty() { "profile".to_owned() } else { text.to_owned() }
}

fn state(profile: &Profile, view: &View, outside: Option<&Lock>) -> ProfileState {
    if view.operators.contains_key(&profile.id) {
        ProfileState::InUseByOperator
    } else if view.running.contains_key(&profile.id) || outside.is_some() {
        ProfileState::Running
    } else if view.in_use.contains_key(&profile.id) {
        // Its window was open where the provider is, when it was to be started.
        ProfileState::InUseByOperator
    } else if profile.parked.is_some() {
        ProfileState::NeedsHuman
    } else {
        ProfileState::Idle
    }
}

/// A rest that is over is not told. `outside`: the lock, while an outside program holds it. Whatever it does there, the profile runs. The
/// link that drives the browser is shown to those who may drive one.
fn profile_json(profile: &Profile, view: &View, outside: Option<&Lock>, caller: Caller, now: Timestamp) -> Value {
    let mut json = json!({
        "id": profile.id,
        "name": profile.name,
        "state": state(profile, view, outside),
        "needs_human": profile.parked.as_ref().map(|parked| &parked.message),
        "item": view.running.get(&profile.id),
        "created_at": profile.created_at,
        "last_armed_at": profile.last_armed_at,
    });
    if let Some(parked) = &profile.parked {
        json["parked_at"] = json!(parked.since);
        json["parked_by"] = json!(parked.item);
    }
    if let Some(until) = profile.rests_until.filter(|until| *until > now) {
        json["rate_limited_until"] = json!(until);
    }
    if let Some(lock) = outside {
        json["held_by"] = json!(lock.owner.to_string());
        json["held_until"] = json!(lock.expires_at());
    }
    let link = |operator: &OperatorView| devtools::url(&operator.token, operator.session.is_some());
    let may_drive = caller.scopes.allow(Scope::Sessions);
    if let Some(link) = view.operators.get(&profile.id).filter(|_| may_drive).and_then(link) {
        json["devtools_url"] = json!(link);
    }
    if let Some(operator) = view.operators.get(&profile.id) {
        json["opened"] = json!({"ready": operator.session.is_some()});
    } else if let Some(error) = view.open_errors.get(&profile.id) {
        json["open_error"] = json!(error);
    }
    if let Some(error) = view.close_errors.get(&profile.id) {
        json["close_error"] = json!(error);
    }
    json
}

pub async fn find(context: &Context, text: &str) -> Result<Profile, ApiError> {
    let directory = Directory::load(context).await?;
    directory.find(text).cloned().map_err(|unfit| ApiError::not_found(&unfit.to_string()))
}

/// One profile as it is now.
pub async fn current_json(context: &Context, caller: Caller, profile: &Profile) -> Result<Value, ApiError> {
    let moment = context.clock.moment();
    let outside = context.store.profiles_held_outside(moment).await?;
    Ok(profile_json(profile, &context.engine.view(), outside.get(&profile.id), caller, moment.wall))
}

pub async fn list(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let mut walk = Walk::default();
    super::query::Query::read(&call.head.uri, &[], &mut walk);
    walk.finish()?;
    context.roster.ring();
    let moment = context.clock.moment();
    let ((profiles, outside), view) = (context.store.profiles_and_held(moment).await?, context.engine.view());
    let json = |profile: &Profile| profile_json(profile, &view, outside.get(&profile.id), call.caller, moment.wall);
    let profiles: Vec<Value> = profiles.iter().map(json).collect();
    Ok(body::json(StatusCode::OK, &json!({"profiles": profiles, "next_cursor": null})))
}

pub async fn show(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let caller = call.caller;
    let profile = find(&context, call.params.get("id")).await?;
    Ok(body::json(StatusCode::OK, &current_json(&context, caller, &profile).await?))
}

/// The name that a body asks for.
pub fn read_name(body: &Value) -> Result<String, ApiError> {
    let mut walk = Walk::default();
    let name = walk.object(body, "", &["name"]).and_then(|fields| {
        let value = walk.required(fields, "", "name")?;
        walk.string(value, "/name")
    });
    let name = name.unwrap_or_default();
    let fits = (1..=MAX_PROFILE_NAME_BYTES).contains(&name.len());
    if walk.is_clean() && (!fits || name.trim() != name || name.chars().any(char::is_control)) {
        let detail =
            format!("A name has 1 to {MAX_PROFILE_NAME_BYTES} bytes, no space at its ends and no control characters.");
        walk.wrong(Code::InvalidField, "/name", detail);
    }
    walk.finish().map(|()| name.to_owned())
}

pub async fn create(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    context.needs_disk()?;
    let caller = call.caller;
    let body = call.json(&context).await?.ok_or_else(no_body)?;
    let name = read_name(&body)?;
    if context.config.browser.provider == ProviderKind::Dolphin {
        let detail = "Profiles of Dolphin Anty are made in Dolphin Anty.";
        return Err(ApiError::field(FieldError::new(Code::NotSupported, "", detail)));
    }
    let exists = || ApiError::new(Code::ProfileExists, format!("A profile has the id or name `{name}`."));
    let id = Directory::load(&context).await?.id_for(&name).ok_or_else(exists)?;
    let profile = match context.store.create_profile(id, name.clone(), context.clock.now()).await {
        Ok(profile) => profile,
        Err(CreateProfileError::Exists) => return Err(exists()),
        Err(CreateProfileError::Store(error)) => return Err(error.into()),
    };
    Ok(body::json(StatusCode::CREATED, &current_json(&context, caller, &profile).await?))
}

/// An empty body where JSON is needed.
pub fn no_body() -> ApiError {
    ApiError::new(Code::InvalidJson, "The body is empty; JSON is needed.")
}

/// Whether the person asks for a browser without a window.
pub fn read_headless(body: Option<&Value>, default: bool) -> Result<bool, ApiError> {
    let Some(body) = body else { return Ok(default) };
    let mut walk = Walk::default();
    let headless = walk.object(body, "", &["headless"]).and_then(|fields| walk.boolean(fields, "", "headless"));
    walk.finish().map(|()| headless.unwrap_or(default))
}

pub async fn open(context: Arc<Context>, mut call: Call) -> Result<Response<Reply>, ApiError> {
    let (caller, params) = (call.caller, std::mem::take(&mut call.params));
    let body = call.json(&context).await?;
    let headless = read_headless(body.as_ref(), context.config.browser.headless)?;
    let profile = find(&context, params.get("id")).await?;
    if context.engine.view().draining {
        return Err(ApiError::new(Code::Draining, "The daemon stops; open the profile when it runs again."));
    }
    context.needs_disk()?;
    let opened = timeout(ENGINE_DEADLINE, context.engine.open_profile(profile.id.clone(), headless)).await;
    if !opened.map_err(|_| engine_silent())? {
        let detail = "An item runs in the profile, a person has it open, or a program holds its lock; try again when it is idle.";
        return Err(ApiError::new(Code::ProfileBusy, detail));
    }
    Ok(body::json(StatusCode::ACCEPTED, &current_json(&context, caller, &profile).await?))
}

pub async fn close(context: Arc<Context>, call: Call) -> Result<Response<Reply>, ApiError> {
    let caller = call.caller;
    let profile = find(&context, call.params.get("id")).await?;
    let closed = timeout(ENGINE_DEADLINE, context.engine.close_profile(profile.id.clone())).await;
    if !closed.map_err(|_| engine_silent())? {
        return Err(ApiError::new(Code::ProfileNotOpen, "Nobody opened this profile through cove."));
    }
    Ok(body::json(StatusCode::ACCEPTED, &current_json(&context, caller, &profile).await?))
}

fn engine_silent() -> ApiError {
    ApiError::internal(Code::NotReady, "the engine did not answer in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fence, ItemId, LockKind, LockOwner, Parked, Timestamp};

    fn profile(id: &str, name: &str) -> Profile {
        let id = ProfileId::new(id).unwrap();
        let (created_at, name) = (Timestamp::ZERO, name.to_owned());
        Profile { id, name, created_at, parked: None, rests_until: None, last_armed_at: None }
    }

    fn directory() -> Directory {
        Directory::new(vec![profile("1", "Anna"), profile("2", "Ben"), profile("3", "Ben"), profile("4", "2")])
    }

    #[test]
    fn a_profile_is_its_id_or_an_unambiguous_name() {
        let directory = directory();
        let id = |text: &str| directory.find(text).map(|profile| profile.id.as_str());
        assert_eq!(id("1"), Ok("1"));
        assert_eq!(id("Anna"), Ok("1"));
        assert_eq!(id("2"), Ok("2"), "an id always means itself");
        assert_eq!(id("Ben"), Err(Unfit::Ambiguous(2)));
        assert_eq!(id("anna"), Err(Unfit::Unknown));
        assert!(Unfit::Ambiguous(2).to_string().contains("ambiguous"));
    }

    #[test]
    fn a_new_profile_gets_a_folder_name_of_its_own() {
        let directory = Directory::new(vec![profile("team-a", "Team A"), profile("profile", "Анна")]);
        let id = |name: &str| directory.id_for(name).map(|id| id.to_string());
        assert_eq!(id("anna").as_deref(), Some("anna"));
        assert_eq!(id("team a").as_deref(), Some("team-a-2"), "the folder of another");
        assert_eq!(id("Team B!").as_deref(), Some("Team-B"));
        assert_eq!(id("Team - A").as_deref(), Some("Team-A"));
        assert_eq!(id("team/a").as_deref(), Some("team-a-2"));
        assert_eq!(id("Борис").as_deref(), Some("profile-2"));
        assert_eq!(id("../../etc").as_deref(), Some("etc"));
        assert_eq!(id("Team A"), None, "the name is taken");
        assert_eq!(id("team-a"), None, "it would be another's id");
        assert!(id(&"x".repeat(64)).is_some());
    }

    #[test]
    fn the_state_is_the_first_that_applies() {
        let mut anna = profile("anna", "Anna");
        let mut view = View::default();
        let json = |anna: &Profile, view: &View| profile_json(anna, view, None, Caller::ADMIN, Timestamp::ZERO);
        assert_eq!(json(&anna, &view)["state"], "idle");
        let message = "asked to sign in".to_owned();
        anna.parked = Some(Parked { since: Timestamp::ZERO, message, item: Some(ItemId::new(7)) });
        let parked = json(&anna, &view);
        assert_eq!((&parked["state"], &parked["needs_human"]), (&json!("needs_human"), &json!("asked to sign in")));
        let lock = Lock {
            kind: LockKind::PROFILE,
            key: "anna".to_owned(),
            owner: LockOwner::Outside("worker-1".to_owned()),
            fence: Fence::new(3),
            acquired_at: Timestamp::ZERO,
            lease: None,
        };
        let outside = profile_json(&anna, &view, Some(&lock), Caller::ADMIN, Timestamp::ZERO);
        assert_eq!((&outside["state"], &outside["held_by"]), (&json!("running"), &json!("worker-1")));
        view.running.insert(anna.id.clone(), Some(ItemId::new(7)));
        let running = json(&anna, &view);
        assert_eq!((&running["state"], &running["item"]), (&json!("running"), &json!("i7")));
    }

    #[test]
    fn the_bodies_are_read_strictly() {
        assert_eq!(read_name(&json!({"name": "Anna"})).unwrap(), "Anna");
        for bad in [json!({}), json!({"name": ""}), json!({"name": " a"}), json!({"name": "a\n"}), json!({"name": 1})] {
            assert!(read_name(&bad).is_err(), "{bad}");
        }
        assert_eq!(read_name(&json!({"name": "a", "id": "x"})).unwrap_err().code(), Code::UnknownField);
        assert!(read_name(&json!({"name": "x".repeat(65)})).is_err());
        assert!(read_headless(None, true).unwrap());
        assert!(!read_headless(Some(&json!({"headless": false})), true).unwrap());
        assert!(read_headless(Some(&json!({"headless": "no"})), true).is_err());
    }
}
