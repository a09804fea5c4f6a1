//! The profiles that a provider keeps, put into the store: at the start, every ten minutes, and when asked.
//!
//! Spawned by the daemon; ends with the token, or at once where profiles are made in cove. Whoever meets a
//! profile that nobody knows rings; the list is then read anew, at most once a minute. New profiles are added
//! and names follow the provider; nothing is ever removed, and what cove knows of a profile (parked, resting)
//! is not touched. That the list cannot be read is in the log and in [`RosterHandle::trouble`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::browser::Provider;
use crate::model::{Clock, Failure, ProfileId};
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(600);
/// Between two looks, whoever rings.
const LEAST: Duration = Duration::from_secs(60);
/// A list so old will do: shorter than any pause between two looks, so that each gets a new one.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Profiles put into the store at a time, so that the writer is not held for long.
const BATCH: usize = 500;

/// A clone rings the same bell.
#[derive(Clone, Default)]
pub struct RosterHandle {
    bell: Arc<Notify>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl RosterHandle {
    /// Asks for the list. Many rings are one; nobody waits for it.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Why the last look got no list.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

pub struct Roster {
    pub store: Store,
    pub provider: Arc<dyn Provider>,
    pub clock: Arc<dyn Clock>,
    pub handle: RosterHandle,
}

/// Runs until `stop`.
pub async fn run(roster: Roster, stop: CancellationToken) {
    loop {
        let began = Instant::now();
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look(&roster) => looked,
        };
        match looked {
            Ok(Some(Put { added, renamed })) => {
                roster.handle.set_trouble(None);
                if added + renamed > 0 {
                    tracing::info!(added, renamed, "profiles of the provider");
                }
            }
            Ok(None) => return,
            Err(why) => {
                tracing::warn!(why, "the profiles of the provider are not known: asking again later");
                roster.handle.set_trouble(Some(why));
            }
        }
        // What failed is asked again as soon as anything is.
        let next = if roster.handle.trouble().is_some() { LEAST } else { EVERY };
        let rung = async {
            roster.handle.bell.notified().await;
            sleep_until(began + LEAST).await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(began + next) => {}
            () = rung => {}
        }
    }
}

/// What a look changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Put {
    added: u32,
    renamed: u32,
}

/// None: this provider keeps no list.
async fn look(roster: &Roster) -> Result<Option<Put>, String> {
    let listed = roster.provider.profiles(MAX_AGE).await.map_err(|failure: Failure| failure.to_string())?;
    let Some(listed) = listed else { return Ok(None) };
    let named: Vec<(ProfileId, String)> = listed.into_iter().map(|profile| (profile.id, profile.name)).collect();
    let mut put = Put::default();
    for batch in named.chunks(BATCH) {
        let now = roster.clock.now();
        let done = roster.store.put_profiles(batch.to_vec(), now).await.map_err(|error| error.to_string())?;
        put.added += done.added;
        put.renamed += done.renamed;
    }
    Ok(Some(put))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use async_trait::async_trait;

    use super::*;
    use crate::browser::{ListedProfile, Session, SessionStats, StartGate, StartOptions};
    use crate::model::{FailureCode, SystemClock};

    type Listed = Result<Option<Vec<(&'static str, &'static str)>>, Failure>;

    /// Lists what the test says.
    struct Keeper(Mutex<Listed>);

    #[async_trait]
    impl Provider for Keeper {
        async fn start_through(&self, _: &ProfileId, _: StartOptions, _: &dyn StartGate) -> Result<Session, Failure> {
            unreachable!("nothing is started")
        }
        async fn stop(&self, _: &ProfileId) -> Result<(), Failure> {
            unreachable!("nothing is stopped")
        }
        async fn running(&self) -> Result<Vec<Session>, Failure> {
            unreachable!("nothing runs")
        }
        async fn can_read(&self, _: &Path) -> Result<bool, Failure> {
            unreachable!("nothing is read")
        }
        async fn stats(&self, _: &ProfileId) -> Result<Option<SessionStats>, Failure> {
            unreachable!("nothing is used")
        }
        async fn profiles(&self, _: Duration) -> Result<Option<Vec<ListedProfile>>, Failure> {
            let listed = self.0.lock().unwrap().clone()?;
            let one =
                |(id, name): (&str, &str)| ListedProfile { id: ProfileId::new(id).unwrap(), name: name.to_owned() };
            Ok(listed.map(|listed| listed.into_iter().map(one).collect()))
        }
    }

    fn roster(folder: &Path, keeper: &Arc<Keeper>) -> Roster {
        let (store, _writer, _) = Store::open(folder, SystemClock.moment()).unwrap();
        let provider: Arc<dyn Provider> = keeper.clone();
        Roster { store, provider, clock: Arc::new(SystemClock), handle: RosterHandle::default() }
    }

    #[tokio::test]
    async fn profiles_are_added_and_renamed_and_never_lost() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Arc::new(Keeper(Mutex::new(Ok(Some(vec![("7", "Anna"), ("8", "Ben")])))));
        let roster = roster(folder.path(), &keeper);
        let list = |listed: Listed| *keeper.0.lock().unwrap() = listed;
        assert_eq!(look(&roster).await, Ok(Some(Put { added: 2, renamed: 0 })));
        list(Ok(Some(vec![("8", "Benno"), ("9", "Ben")])));
        assert_eq!(look(&roster).await, Ok(Some(Put { added: 1, renamed: 1 })));
        assert_eq!(look(&roster).await, Ok(Some(Put::default())));
        list(Err(Failure::new(FailureCode::ProviderDown, "gone")));
        assert_eq!(look(&roster).await, Err("provider_down: gone".to_owned()));
        list(Ok(None));
        assert_eq!(look(&roster).await, Ok(None));
        let kept = roster.store.profiles().await.unwrap();
        let names: Vec<_> = kept.iter().map(|profile| (profile.id.as_str(), profile.name.as_str())).collect();
        assert_eq!(names, [("7", "Anna"), ("8", "Benno"), ("9", "Ben")]);
    }

    #[tokio::test]
    async fn trouble_is_shown_and_a_provider_without_a_list_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let down = Failure::new(FailureCode::ProviderDown, "gone");
        let keeper = Arc::new(Keeper(Mutex::new(Err(down))));
        let roster = roster(folder.path(), &keeper);
        let (handle, stop) = (roster.handle.clone(), CancellationToken::new());
        let shown = async {
            while handle.trouble().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.cancel();
        };
        tokio::join!(run(roster, stop.clone()), shown);
        assert_eq!(handle.trouble().as_deref(), Some("provider_down: gone"));
        *keeper.0.lock().unwrap() = Ok(None);
        let folder = tempfile::tempdir().unwrap();
        run(super::tests::roster(folder.path(), &keeper), CancellationToken::new()).await;
    }
}
