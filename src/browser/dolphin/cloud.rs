//! Names and ids of profiles, from the vendor's cloud where there is a token, else from the configuration.
//!
//! The provider asks it for the list, and the start asks whether a profile exists at all. Invariants: the
//! token goes to the configured base and nowhere else; never more than [`CALLS_A_MINUTE`], and none while
//! the cloud asks for rest; one scan at a time, of a bounded number of pages and a bounded length.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::answer::{self, ListPage, Listed, Meaning, Refusal};
use super::exchange::{Answer, CONNECT_DEADLINE, Calls, Peer, Proves, in_words};
use super::local::Unmet;
use super::pace::Tries;
use super::{Deadlines, THE_APP, THE_CLOUD};
use crate::breaker::DOLPHIN_CLOUD;
use crate::breaker::board::Board;
use crate::browser::ListedProfile;
use crate::config::dolphin::{NamedProfile, Token, TokenSource};
use crate::model::{Clock, Failure, FailureCode, ProfileId};
use crate::outbound;

/// A fifth of what the vendor allows: the application itself lives on the same account.
const CALLS_A_MINUTE: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);
/// The limit of older versions of the cloud, which newer ones take, too.
const PAGE_ROWS: u32 = 50;
/// Twenty thousand profiles.
const MAX_PAGES: u32 = 400;

pub struct Cloud {
    peer: Peer,
    base: String,
    token: Option<Arc<TokenSource>>,
    named: Vec<NamedProfile>,
    /// Held during a scan.
    last: tokio::sync::Mutex<Option<(Instant, Vec<ListedProfile>)>>,
    turns: Mutex<Turns>,
    deadlines: Deadlines,
}

/// When calls were made, and until when none is.
#[derive(Default)]
struct Turns {
    made: VecDeque<Instant>,
    rest_until: Option<Instant>,
}

impl Turns {
    /// A call that may be made now is counted; else this is when to ask again.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.made.front().is_some_and(|made| now.saturating_duration_since(*made) >= MINUTE) {
            self.made.pop_front();
        }
        let full = self.made.front().filter(|_| self.made.len() >= CALLS_A_MINUTE).map(|first| *first + MINUTE);
        if let Some(at) = [full, self.rest_until].into_iter().flatten().max().filter(|at| *at > now) {
            return Err(at);
        }
        self.made.push_back(now);
        Ok(())
    }
}

impl Cloud {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(
        host: &str,
        token: Option<Arc<TokenSource>>,
        named: Vec<NamedProfile>,
        breakers: Board,
        clock: Arc<dyn Clock>,
        deadlines: Deadlines,
    ) -> reqwest::Result<Self> {
        Ok(Self {
            peer: Peer { http: client()?, calls: Calls::default(), breakers, breaker: DOLPHIN_CLOUD, clock },
            base: host.trim_end_matches('/').to_owned(),
            token,
            named,
            last: tokio::sync::Mutex::default(),
            turns: Mutex::default(),
            deadlines,
        })
    }

    /// A list that is at most so old.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn profiles(&self, max_age: Duration) -> Result<Vec<ListedProfile>, Failure> {
        let Some(source) = &self.token else { return Ok(self.named.iter().filter_map(by_name).collect()) };
        let mut last = self.last.lock().await;
        if let Some((at, list)) = &*last
            && at.elapsed() < max_age
        {
            return Ok(list.clone());
        }
        let within = self.deadlines.listing;
        let list = timeout(within, self.scan(source)).await.unwrap_or_else(|_| {
            let detail = format!("{THE_CLOUD}: the list of profiles took longer than {}", in_words(within));
            Err(Failure::new(FailureCode::ProviderDown, detail))
        })?;
        *last = Some((Instant::now(), list.clone()));
        Ok(list)
    }

    async fn scan(&self, source: &Arc<TokenSource>) -> Result<Vec<ListedProfile>, Failure> {
        let token = read(source).await?;
        let mut found: BTreeMap<u64, Listed> = BTreeMap::new();
        for page in 1..=MAX_PAGES {
            let ListPage { profiles, is_last } = self.page(&token, page).await?;
            let before = found.len();
            found.extend(profiles.into_iter().map(|listed| (listed.id, listed)));
            // A page with nothing new is the same page again.
            if is_last || found.len() == before {
                return Ok(self.chosen(found));
            }
        }
        tracing::warn!(pages = MAX_PAGES, "the list of profiles has no end: what comes behind is left out");
        Ok(self.chosen(found))
    }

    /// Those that may be used: all, or those of the configuration under its names.
    fn chosen(&self, mut found: BTreeMap<u64, Listed>) -> Vec<ListedProfile> {
        if self.named.is_empty() {
            return found.into_values().filter_map(|listed| profile(listed.id, listed.name)).collect();
        }
        let one = |named: &NamedProfile| {
            let Some(listed) = found.remove(&named.id) else {
                tracing::warn!(profile = named.id, "`[dolphin] profiles` names a profile that the token cannot see");
                return None;
            };
            profile(listed.id, named.name.clone().unwrap_or(listed.name))
        };
        self.named.iter().filter_map(one).collect()
    }

    async fn page(&self, token: &Token, page: u32) -> Result<ListPage, Failure> {
        let url = format!("{}/browser_profiles?limit={PAGE_ROWS}&page={page}", self.base);
        let read = |answer: &Answer| answer::list_page(answer.status, &answer.body_without(token), page);
        let mut tries = Tries::new(&self.deadlines, self.deadlines.cloud);
        loop {
            if self.wait_for_turn().await {
                tries = tries.again_within(self.deadlines.cloud);
            }
            let (unmet, rest) = match self.call(token, &url, tries.left(), read).await {
                Ok(page) => return Ok(page),
                Err(ended) => ended,
            };
            let busy = matches!(&unmet, Unmet::Refused(refusal) if refusal.meaning == Meaning::TooManyLaunches);
            match tries.pause().filter(|_| busy || unmet.may_pass()) {
                // How long to wait after too many calls, the turns know better.
                Some(_) if rest => {}
                Some(pause) => sleep(pause).await,
                None => return Err(failure(&unmet)),
            }
        }
    }

    /// Whether the cloud knows that there is no such profile for this account, as `refusal` may mean.
    pub async fn says_unknown(&self, id: u64, refusal: &Refusal) -> Option<Failure> {
        let token = read(self.token.as_ref()?).await.ok()?;
        self.turn().ok()?;
        let url = format!("{}/browser_profiles/{id}", self.base);
        let read = |answer: &Answer| answer::one_profile(answer.status, &answer.body_without(&token), id);
        match self.call(&token, &url, self.deadlines.cloud, read).await {
            Err((Unmet::Refused(said), _)) if said.meaning == Meaning::NoAccess => {
                let detail = format!("{THE_APP} has no profile {id} for this account ({refusal}; {THE_CLOUD}: {said})");
                Some(Failure::new(FailureCode::ProfileUnknown, detail))
            }
            _ => None,
        }
    }

    /// One call. With an error comes whether the cloud said how long it wants rest.
    async fn call<T>(
        &self,
        token: &Token,
        url: &str,
        within: Duration,
        read: impl Fn(&Answer) -> Result<T, Refusal>,
    ) -> Result<T, (Unmet, bool)> {
        let request = self.peer.http.get(url).bearer_auth(token.reveal());
        let objection = |answer: &Answer| {
            let refusal = read(answer).err()?;
            (!refusal.meaning.is_sound(refusal.status)).then(|| refusal.to_string())
        };
        let answer = self.peer.exchange(Proves::Everything("list"), request, within, objection).await;
        let answer = answer.map_err(|trouble| (Unmet::Trouble(trouble), false))?;
        let rest = self.rest(&answer);
        read(&answer).map_err(|refusal| (Unmet::Refused(refusal), rest))
    }

    /// Notes for how long the cloud wants no call.
    fn rest(&self, answer: &Answer) -> bool {
        let used_up = answer.minute_left == Some(0) || answer.status == 429;
        let rest = answer.retry_after.or_else(|| used_up.then_some(self.deadlines.cloud_rest));
        if let Some(rest) = rest {
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).rest_until = Some(Instant::now() + rest);
        }
        rest.is_some()
    }

    fn turn(&self) -> Result<(), Instant> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    /// Whether there was anything to wait for.
    async fn wait_for_turn(&self) -> bool {
        let mut waited = false;
        while let Err(at) = self.turn() {
            waited = true;
            sleep_until(at).await;
        }
        waited
    }
}

fn client() -> reqwest::Result<Client> {
    outbound::anywhere()
        .user_agent(concat!("cove/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .pool_max_idle_per_host(1)
        .build()
}

async fn read(source: &Arc<TokenSource>) -> Result<Token, Failure> {
    let source = source.clone();
    let token = tokio::task::spawn_blocking(move || source.read()).await;
    let token = token.unwrap_or_else(|error| Err(error.to_string()));
    token.map_err(|why| Failure::new(FailureCode::ProviderSignedOut, format!("{THE_CLOUD}: {why}")))
}

fn failure(unmet: &Unmet) -> Failure {
    let refusal = match unmet {
        Unmet::Trouble(trouble) => return trouble.failure(THE_CLOUD),
        Unmet::Refused(refusal) => refusal,
    };
    let (code, why) = match refusal.meaning {
        Meaning::SignedOut => {
            (FailureCode::ProviderSignedOut, "the token is not accepted; make a new one in Dolphin Anty")
        }
        Meaning::NoAccess => (FailureCode::ProviderRefused, "this account may not list profiles"),
        Meaning::TooManyLaunches => (FailureCode::ProviderRefused, "too many calls"),
        _ => (FailureCode::ProviderDown, "it does not work"),
    };
    Failure::new(code, format!("{THE_CLOUD}: {why} ({refusal})"))
}

fn by_name(named: &NamedProfile) -> Option<ListedProfile> {
    profile(named.id, named.name.clone().unwrap_or_else(|| named.id.to_string()))
}

fn profile(id: u64, name: String) -> Option<ListedProfile> {
    Some(ListedProfile { id: ProfileId::new(&id.to_string()).ok()?, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_calls_a_minute_and_none_while_the_cloud_rests() {
        let mut turns = Turns::default();
        let begin = Instant::now();
        for _ in 0..CALLS_A_MINUTE {
            assert_eq!(turns.take(begin), Ok(()));
        }
        assert_eq!(turns.take(begin), Err(begin + MINUTE));
        let later = begin + MINUTE;
        assert_eq!(turns.take(later), Ok(()));
        let rested = later + Duration::from_secs(5);
        turns.rest_until = Some(rested);
        assert_eq!(turns.take(later), Err(rested));
        assert_eq!(turns.take(rested), Ok(()));
        assert_eq!(turns.made.len(), 2, "only what was taken is counted");
    }
}
