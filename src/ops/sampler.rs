//! The sampler: once a minute it keeps what the gauges and counters are, in the state file.
//!
//! Spawned by the daemon; ends with the token. What the numbers are is told by [`Numbers`], which the room that
//! shows them implements, so that the history and the metrics can never disagree. Invariant: one sample in
//! memory, and none of a time that is not believed: it would stand in the way of true ones. How long samples are kept
//! is the store's ([`crate::store::history`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::engine::EngineHandle;
use crate::model::Clock;
use crate::store::Store;

const EVERY: Duration = Duration::from_secs(60);

/// Who knows the numbers of now.
#[async_trait]
pub trait Numbers: Send + Sync {
    /// By their names, as the metrics tell them.
    async fn now(&self) -> Result<Vec<(String, f64)>, String>;
}

pub struct Sampler {
    pub store: Store,
    pub engine: EngineHandle,
    pub clock: Arc<dyn Clock>,
    pub numbers: Arc<dyn Numbers>,
}

/// Runs until `stop`.
pub async fn run(sampler: Sampler, stop: CancellationToken) {
    sampler.engine.ready().await;
    let sampling = async {
        loop {
            if let Err(error) = sample(&sampler).await {
                tracing::warn!(error, "the metrics' history has a gap");
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sampling => {}
    }
}

async fn sample(sampler: &Sampler) -> Result<(), String> {
    if sampler.engine.view().clock_suspect {
        return Ok(());
    }
    let numbers = sampler.numbers.now().await?;
    let kept = sampler.store.put_sample(sampler.clock.now(), numbers).await;
    kept.map_err(|error| error.to_string())
}
