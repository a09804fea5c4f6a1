//! What the practice site received: clicks by nonce, and the posts that came of them.
//!
//! A click makes at most one post, however often its request is repeated; two clicks make two posts,
//! also of the same file. That is what makes a double publish visible. Kept in memory, bounded.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::switches::{Asked, Switch, Switches};
use crate::model::Timestamp;

/// Most clicks remembered; the site refuses more.
pub const MAX_CLICKS: usize = 100_000;

/// A row of `GET /posts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    pub id: String,
    pub url: String,
    pub profile: String,
    pub sha256: String,
    pub bytes: u64,
    pub caption: String,
    pub time: Timestamp,
    /// The click that made it.
    pub nonce: String,
    /// How often the click's request arrived; above 1 the browser repeated it by itself.
    pub requests: u32,
}

/// What happens to a click, decided when its first request arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    pub processing_ms: u64,
    pub error: bool,
    pub cut: bool,
    /// The browser is sent to the verification page.
    pub challenge: bool,
    /// Feeds hide the post for so long.
    pub late_ms: u64,
}

struct Click {
    requests: u32,
    fate: Fate,
    /// Place of its post in `posts`, and when processing is over.
    post: Option<(usize, Instant)>,
}

/// A file that is on disk, ready to become a post.
pub struct Received {
    pub profile: String,
    pub caption: String,
    pub sha256: String,
    pub bytes: u64,
}

pub enum Added {
    /// A new post of this id.
    New(String),
    /// An earlier request of this click made it.
    Already,
}

/// Where a click's post stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Progress {
    Processing,
    Published { url: String },
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the site keeps {MAX_CLICKS} clicks at most: start a new one")]
pub struct Full;

#[derive(Default)]
pub struct Board {
    posts: Vec<Post>,
    /// From when on feeds show each of them.
    shown_from: Vec<Instant>,
    clicks: HashMap<String, Click>,
}

impl Board {
    /// A request of this click arrived: the first one decides its fate.
    pub fn arrived(
        &mut self,
        nonce: &str,
        account: &str,
        switches: &mut Switches,
        query: &Asked,
        processing_ms: u64,
    ) -> Result<Fate, Full> {
        if let Some(click) = self.clicks.get_mut(nonce) {
            click.requests = click.requests.saturating_add(1);
            return Ok(click.fate);
        }
        if self.clicks.len() >= MAX_CLICKS {
            return Err(Full);
        }
        let mut ask = |switch| switches.ask(query, switch, Some(account));
        let fate = Fate {
            processing_ms: ask(Switch::Slow).map_or(processing_ms, |on| on.ms),
            error: ask(Switch::ErrorAfterShare).is_some(),
            cut: ask(Switch::CutAfterStore).is_some(),
            challenge: ask(Switch::VerificationAfterShare).is_some(),
            late_ms: ask(Switch::LatePost).map_or(0, |on| on.ms),
        };
        self.clicks.insert(nonce.to_owned(), Click { requests: 1, fate, post: None });
        Ok(fate)
    }

    /// Makes the click's post, unless an earlier request of it has.
    pub fn add(&mut self, nonce: &str, received: Received, base_url: &str, time: Timestamp) -> Added {
        let Some(click) = self.clicks.get_mut(nonce) else { return Added::Already };
        if click.post.is_some() {
            return Added::Already;
        }
        let id = (self.posts.len() + 1).to_string();
        let now = Instant::now();
        click.post = Some((self.posts.len(), now + Duration::from_millis(click.fate.processing_ms)));
        self.shown_from.push(now + Duration::from_millis(click.fate.late_ms));
        let Received { profile, caption, sha256, bytes } = received;
        self.posts.push(Post {
            url: format!("{base_url}/p/{id}"),
            id: id.clone(),
            profile,
            sha256,
            bytes,
            caption,
            time,
            nonce: nonce.to_owned(),
            requests: 1,
        });
        Added::New(id)
    }

    /// None: no post of such a click.
    pub fn progress(&self, nonce: &str) -> Option<Progress> {
        let (place, ready_at) = self.clicks.get(nonce)?.post?;
        if Instant::now() < ready_at {
            return Some(Progress::Processing);
        }
        Some(Progress::Published { url: self.posts.get(place)?.url.clone() })
    }

    /// Oldest first.
    pub fn posts(&self) -> Vec<Post> {
        self.posts.iter().map(|post| self.with_requests(post)).collect()
    }

    /// The newest ones that feeds show, newest first.
    pub fn newest(&self, limit: usize) -> Vec<Post> {
        self.shown(limit, |_| true)
    }

    /// The same of one account, from `since` on.
    pub fn newest_of(&self, account: &str, since: Timestamp, limit: usize) -> Vec<Post> {
        self.shown(limit, |post| post.profile == account && post.time >= since)
    }

    fn shown(&self, limit: usize, wanted: impl Fn(&Post) -> bool) -> Vec<Post> {
        let now = Instant::now();
        let shown = self.posts.iter().zip(&self.shown_from).rev().filter(|(post, from)| **from <= now && wanted(post));
        shown.take(limit).map(|(post, _)| self.with_requests(post)).collect()
    }

    pub fn post(&self, id: &str) -> Option<Post> {
        let place = id.parse::<usize>().ok()?.checked_sub(1)?;
        self.posts.get(place).filter(|post| post.id == id).map(|post| self.with_requests(post))
    }

    /// Distinct clicks, and requests of all of them.
    pub fn counts(&self) -> (usize, u64) {
        (self.clicks.len(), self.clicks.values().map(|click| u64::from(click.requests)).sum())
    }

    fn with_requests(&self, post: &Post) -> Post {
        let requests = self.clicks.get(&post.nonce).map_or(post.requests, |click| click.requests);
        Post { requests, ..post.clone() }
    }
}
