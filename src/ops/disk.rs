//! The disk guard: how much is free where the state directory lies, and whether that is enough.
//!
//! The daemon looks once before anything is started and then runs [`Guard::run`]; the engine and, through its
//! view, the API read the word. Below the reserve nothing new is started or accepted, while what runs goes
//! on to its end; with an eighth more than the reserve free everything goes on by itself. The ballast
//! ([`crate::store::ballast`]) lies inside the reserve: it counts as free, is made when there is enough,
//! and a disk that took a part of it is short, whatever the file system says (a quota says nothing).
//!
//! Not here: giving the ballast up, which the files of the state do when a write finds no space.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::ballast::{BALLAST_BYTES, Ballast, is_full};

const LOOK_EVERY: Duration = Duration::from_secs(2);
const MIB: u64 = 1024 * 1024;
/// Of the reserve: how much more than it must be free until work goes on.
const MARGIN_PART: u64 = 8;

/// What an upload leaves free: with less the disk is short, the ballast included.
#[must_use]
pub const fn least_free_bytes(reserve_mb: u64) -> u64 {
    reserve_mb.saturating_mul(MIB).saturating_sub(BALLAST_BYTES)
}

/// One look at the disk.
#[derive(Debug)]
struct Look {
    /// Free for this process, the ballast included.
    free_bytes: u64,
    ballast_is_whole: bool,
}

pub struct Guard {
    state_dir: PathBuf,
    ballast: Ballast,
    reserve_mb: u64,
    /// The file system cannot keep space for a file: there is no ballast here.
    no_ballast: bool,
    word: watch::Sender<Option<String>>,
}

impl Guard {
    /// Looks for the first time. Blocking.
    #[must_use]
    pub fn new(state_dir: &Path, reserve_mb: u64) -> Self {
        let ballast = Ballast::of(state_dir);
        let (state_dir, word) = (state_dir.to_owned(), watch::Sender::new(None));
        let mut guard = Self { state_dir, ballast, reserve_mb, no_ballast: false, word };
        guard.look();
        guard
    }

    /// Why nothing new may be started; None: there is enough space.
    #[must_use]
    pub fn word(&self) -> watch::Receiver<Option<String>> {
        self.word.subscribe()
    }

    /// Never returns; dropped with the daemon.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            match looked.await {
                Ok(guard) => self = guard,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    fn look(&mut self) {
        let was_short = self.word.borrow().is_some();
        let ballast_bytes = self.ballast.bytes();
        let is = match rustix::fs::statvfs(&self.state_dir) {
            Ok(disk) => {
                let free = disk.f_bavail.saturating_mul(disk.f_frsize);
                let look = Look {
                    free_bytes: free.saturating_add(ballast_bytes),
                    ballast_is_whole: self.no_ballast || ballast_bytes >= BALLAST_BYTES,
                };
                shortage(&look, was_short, self.reserve_mb).or_else(|| self.fill_the_ballast())
            }
            Err(error) => Some(format!("The free space of {} cannot be told: {error}.", self.state_dir.display())),
        };
        match &is {
            Some(why) if !was_short => tracing::warn!("nothing new is started or accepted: {why}"),
            None if was_short => tracing::info!("there is enough disk space again: everything goes on"),
            _ => {}
        }
        self.word.send_if_modified(|word| {
            let changes = *word != is;
            *word = is;
            changes
        });
    }

    /// There is enough: the ballast is made, or made whole again.
    fn fill_the_ballast(&mut self) -> Option<String> {
        if self.no_ballast {
            return None;
        }
        match self.ballast.fill() {
            Ok(()) => None,
            Err(error) if is_full(&error) => Some(format!("There is no space for the ballast: {error}.")),
            Err(error) => {
                tracing::warn!(%error, "no ballast is kept here: a disk that fills to its end stops the daemon");
                self.no_ballast = true;
                None
            }
        }
    }
}

/// Why this is not enough, in the same words as long as it is so.
fn shortage(look: &Look, was_short: bool, reserve_mb: u64) -> Option<String> {
    let margin_mb = reserve_mb / MARGIN_PART;
    let wanted_mb = if was_short || !look.ballast_is_whole { reserve_mb + margin_mb } else { reserve_mb };
    (look.free_bytes < wanted_mb.saturating_mul(MIB)).then(|| {
        let enough_mb = reserve_mb + margin_mb;
        format!(
            "The disk of the state directory is short of space: {enough_mb} MiB have to be free \
             ([resources] disk_reserve_mb and an eighth of it)."
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Look, MIB, shortage};

    #[test]
    fn it_is_short_below_the_reserve_and_enough_an_eighth_above() {
        let look = |free_mb: u64, whole| Look { free_bytes: free_mb * MIB, ballast_is_whole: whole };
        let short = |free_mb, whole, was_short| shortage(&look(free_mb, whole), was_short, 256).is_some();
        assert!(!short(256, true, false) && short(255, true, false));
        assert!(short(287, true, true) && !short(288, true, true));
        assert!(short(256, false, false), "a part of the ballast is gone");
        assert_eq!(shortage(&look(1, true), false, 256), shortage(&look(2, true), true, 256), "the same words");
    }
}
