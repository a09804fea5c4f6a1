//! Looks at files that may lie on a dead network share, where one holds a thread for ever.
//!
//! The browser host and the `dolphin` provider ask through it. Each look has a deadline, and their number is
//! bounded: one that hangs goes on counting after whoever asked was answered. What a look is, its caller says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::model::{Failure, FailureCode};

/// Under way at a time.
const MAX_OPEN_LOOKS: usize = 8;

/// A clone shares its places.
#[derive(Clone, Debug)]
pub struct Looks {
    places: Arc<Semaphore>,
    within: Duration,
}

impl Looks {
    /// `within`: for a place, and then for the look.
    #[must_use]
    pub fn new(within: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_OPEN_LOOKS)), within }
    }

    /// # Errors
    /// `media_unreadable` where it takes too long.
    pub async fn look(
        &self,
        path: PathBuf,
        look: impl FnOnce(&Path) -> bool + Send + 'static,
    ) -> Result<bool, Failure> {
        let shown = path.display().to_string();
        let slow = || {
            let detail = format!("{shown} did not open in time; is it on a network share that is away?");
            Failure::new(FailureCode::MediaUnreadable, detail)
        };
        let Ok(Ok(place)) = timeout(self.within, self.places.clone().acquire_owned()).await else {
            return Err(slow());
        };
        let look = tokio::task::spawn_blocking(move || {
            let readable = look(&path);
            // Kept by the thread.
            drop(place);
            readable
        });
        match timeout(self.within, look).await {
            Ok(Ok(readable)) => Ok(readable),
            Ok(Err(error)) => Err(Failure::new(FailureCode::Internal, error.to_string())),
            Err(_) => Err(slow()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn looks_that_hang_are_told_and_go_on_counting() {
        let looks = Looks::new(Duration::from_millis(20));
        let (release, hung) = std::sync::mpsc::channel::<()>();
        let hung = Arc::new(std::sync::Mutex::new(hung));
        for _ in 0..MAX_OPEN_LOOKS {
            let hung = hung.clone();
            let looked = looks.look("/share/a.mp4".into(), move |_| hung.lock().unwrap().recv().is_ok()).await;
            assert_eq!(looked.unwrap_err().code, FailureCode::MediaUnreadable);
        }
        assert!(looks.look("/a.mp4".into(), |_| true).await.is_err(), "no place is left");
        drop(release);
        let patient = Looks { within: Duration::from_secs(20), ..looks };
        assert_eq!(patient.look("/a.mp4".into(), |path| path == Path::new("/a.mp4")).await, Ok(true));
    }
}
