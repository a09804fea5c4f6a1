//! The watch over memory and processors: of the machine, and of each session's process tree.
//!
//! Spawned by the daemon; ends with it. It measures and decides nothing: each report goes to the engine as an
//! event, the settings of the moment with it, and the engine's view shows it to the API. The machine costs a few
//! small files every [`LOOK_EVERY`]. Sessions cost the provider a walk over their processes, so they are asked for
//! one after the other, and the rest after it is [`REST_TIMES`] as long as that took: however many there are, it
//! stays a few percent of a processor. Without sessions nobody is asked. What does not answer is not measured.
//!
//! Not here: the free disk, which `disk` guards, and the daemon's own figures, which the API reads when asked.

mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::browser::Provider;
use crate::config::Resources;
use crate::engine::EngineHandle;
use crate::engine::pressure::{Bounds, Machine, Pressure};
use crate::model::ProfileId;
pub use machine::Browsers;
use machine::Gauge;

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at the sessions, at least and at most.
const WEIGH_EVERY: Duration = Duration::from_secs(5);
const WEIGH_LONGEST: Duration = Duration::from_secs(60);
const REST_TIMES: u32 = 20;

pub struct Watch {
    gauge: Gauge,
    settings: watch::Receiver<Resources>,
    word: watch::Sender<Pressure>,
}

impl Watch {
    /// Looks for the first time. Blocking.
    #[must_use]
    pub fn new(browsers: Browsers, settings: watch::Receiver<Resources>) -> Self {
        let mut gauge = Gauge::new(PathBuf::from("/"), browsers);
        let machine = gauge.look(Duration::ZERO);
        let pressure = Pressure { bounds: Bounds::from(&*settings.borrow()), machine, ..Pressure::default() };
        Self { gauge, settings, word: watch::Sender::new(pressure) }
    }

    /// What was measured last.
    #[must_use]
    pub fn word(&self) -> watch::Receiver<Pressure> {
        self.word.subscribe()
    }

    /// Never returns; dropped with the daemon.
    pub async fn run(self, engine: EngineHandle, provider: Arc<dyn Provider>) {
        let Self { gauge, settings, word } = self;
        tokio::join!(look(gauge, settings, &word), weigh(&engine, provider.as_ref(), &word));
    }
}

async fn look(mut gauge: Gauge, mut settings: watch::Receiver<Resources>, word: &watch::Sender<Pressure>) {
    let mut before = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            // Without anybody who could change them this waits for the next look.
            Ok(()) = settings.changed() => {}
        }
        let now = Instant::now();
        let elapsed = now.duration_since(std::mem::replace(&mut before, now));
        let looked = tokio::task::spawn_blocking(move || {
            let machine = gauge.look(elapsed);
            (gauge, machine)
        });
        let machine: Machine;
        match looked.await {
            Ok(done) => (gauge, machine) = done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
        let bounds = Bounds::from(&*settings.borrow());
        word.send_modify(|pressure| (pressure.bounds, pressure.machine) = (bounds, machine));
    }
}

async fn weigh(engine: &EngineHandle, provider: &dyn Provider, word: &watch::Sender<Pressure>) {
    let mut took = Duration::ZERO;
    loop {
        tokio::time::sleep(took.saturating_mul(REST_TIMES).clamp(WEIGH_EVERY, WEIGH_LONGEST)).await;
        let began = Instant::now();
        let view = engine.view();
        let lent = view.sessions.values().map(|session| &session.profile);
        let profiles: BTreeSet<ProfileId> =
            view.running.keys().chain(view.operators.keys()).chain(lent).cloned().collect();
        let mut bytes = BTreeMap::new();
        for profile in profiles {
            match provider.stats(&profile).await {
                Ok(Some(stats)) => drop(bytes.insert(profile, stats.pss_bytes)),
                Ok(None) => {}
                Err(failure) => tracing::debug!(%profile, %failure, "a session could not be measured"),
            }
        }
        took = began.elapsed();
        word.send_if_modified(|pressure| {
            let weights = &mut pressure.sessions;
            let changes = !(bytes.is_empty() && weights.bytes.is_empty());
            if changes {
                weights.look += 1;
                weights.peak_bytes = bytes.values().copied().fold(weights.peak_bytes, u64::max);
                weights.bytes = bytes;
            }
            changes
        });
    }
}
